"""The one way from a decoded picture to the tensor that a network sees.

A `Preprocessing` is stored in every checkpoint and bundle. Training, evaluation, prediction and
export all call `prepare` and `normalise`; there is no second implementation. The side of the
result comes from the `Spec` alone.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, assert_never, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilenets.errors import InputError

Mode = Literal["L", "RGB", "RGBA"]
Resize = Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]
Fit = Literal["crop", "pad", "stretch"]

MODE_OF_CHANNELS: dict[int, Mode] = {1: "L", 3: "RGB", 4: "RGBA"}
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What happens to a decoded picture before the first convolution, in this order."""

    exif: bool = True
    """Turn the picture upright as its EXIF orientation says."""
    mode: Mode = "RGB"
    """Channels, in this order: grey, RGB or RGBA."""
    background: tuple[int, int, int] = (255, 255, 255)
    """What lies under transparent pixels, where `mode` has no alpha: RGB, 0–255."""
    fit: Fit = "crop"
    """`crop`: shorter side to side / crop_fraction, centre square. `pad`: longer side to the side,
    the rest `pad_value`. `stretch`: both sides to the side, whatever the shape."""
    crop_fraction: float = 0.875
    """The share of the shorter side that a centre crop keeps, in (0, 1]."""
    pad_value: int = 128
    resize: Resize = "bilinear"
    antialias: bool = True
    """Widen the kernel when shrinking (Pillow's and TF2's way); without it, pixels are skipped."""
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    """The network sees (pixel · scale − mean) / std, per channel; 0.5 and 0.5 give [−1, 1]."""

    def __post_init__(self) -> None:
        for field, choices in (("mode", Mode), ("fit", Fit), ("resize", Resize)):
            if getattr(self, field) not in get_args(choices):
                accepted = ", ".join(get_args(choices))
                raise InputError(f"preprocessing: {field} is {getattr(self, field)!r}; accepted: {accepted}.")
        for field in ("exif", "antialias"):
            if not isinstance(getattr(self, field), bool):
                raise InputError(
                    f"preprocessing: {field} is {getattr(self, field)!r}; accepted: true, false."
                )
        numbers = (self.crop_fraction, self.scale, *self.mean, *self.std)
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            raise InputError("preprocessing: crop_fraction, scale, mean and std take finite numbers.")
        if not 0 < self.crop_fraction <= 1:
            raise InputError(f"preprocessing: crop_fraction is {self.crop_fraction!r}; it must be in (0, 1].")
        if not self.scale > 0:
            raise InputError(f"preprocessing: scale is {self.scale!r}; it must be above 0.")
        colours = (*self.background, self.pad_value)
        if len(colours) != 4 or not all(isinstance(v, int) and 0 <= v <= 255 for v in colours):
            raise InputError(
                "preprocessing: background takes three whole numbers from 0 to 255, pad_value one of them."
            )
        for field in ("mean", "std"):
            if len(getattr(self, field)) != self.channels:
                raise InputError(
                    f"preprocessing: {field} has {len(getattr(self, field))} values; "
                    f"mode {self.mode} takes {self.channels}."
                )
        if not all(s > 0 for s in self.std):
            raise InputError(f"preprocessing: std is {self.std}; every value must be above 0.")

    @property
    def channels(self) -> int:
        """Channels of the prepared picture."""
        return len(self.mode)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` gives back an equal object."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Preprocessing":
        """What `to_json` wrote; `InputError` for anything else."""
        try:
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
            return Preprocessing(**fields)
        except (TypeError, AttributeError) as error:
            raise InputError(f"not a preprocessing description ({error}).") from error


def for_channels(channels: int, mean: float = 0.5, std: float = 0.5) -> Preprocessing:
    """A `Preprocessing` for pictures of 1, 3 or 4 channels with one mean and std for all of them."""
    if channels not in MODE_OF_CHANNELS:
        raise InputError(
            f"pictures have 1, 3 or 4 channels; this network takes {channels}.",
            remedy="Feed such a network with your own tensors, from Python.",
        )
    return Preprocessing(mode=MODE_OF_CHANNELS[channels], mean=(mean,) * channels, std=(std,) * channels)


def to_mode(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """`image` with the contract's channels, 8 bits each.

    16-bit grey keeps its upper 8 bits; CMYK, palettes and the rest go through Pillow's conversion;
    transparency is composed on the background unless the network wants the alpha channel.
    """
    mode = preprocessing.mode
    if image.mode == mode and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64)
        image = Image.fromarray(np.clip(wide >> 8, 0, 255).astype(np.uint8))
    if mode == "RGBA":
        return image.convert("RGBA")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        over = image.convert("RGBA")
        under = Image.new("RGBA", over.size, (*preprocessing.background, 255))
        image = Image.alpha_composite(under, over).convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def resample(
    image: Image.Image,
    size: tuple[int, int],
    preprocessing: Preprocessing,
    box: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """`image` (or the `box` of it: left, top, right, bottom) at `size` = (width, height)."""
    left, top, right, bottom = box or (0.0, 0.0, float(image.width), float(image.height))
    if size == image.size and box is None:
        return image
    if preprocessing.antialias:
        return image.resize(size, _FILTERS[preprocessing.resize], box=(left, top, right, bottom))
    x, y = (right - left) / size[0], (bottom - top) / size[1]
    kernel = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}.get(
        preprocessing.resize, Image.Resampling.NEAREST
    )
    return image.transform(size, Image.Transform.AFFINE, (x, 0, left, 0, y, top), resample=kernel)


def prepare(image: Image.Image, preprocessing: Preprocessing, resolution: int) -> NDArray[np.uint8]:
    """An upright decoded picture as the network's pixels: `uint8`, resolution×resolution×channels.

    Sizes round to the nearest pixel and crops to the upper left, so equal pictures give equal bytes.
    """
    image = to_mode(image, preprocessing)
    width, height = image.size
    match preprocessing.fit:
        case "stretch":
            fitted = resample(image, (resolution, resolution), preprocessing)
        case "crop":
            short = max(resolution, round(resolution / preprocessing.crop_fraction))
            ratio = short / min(width, height)
            size = (max(short, round(width * ratio)), max(short, round(height * ratio)))
            left, top = (size[0] - resolution) // 2, (size[1] - resolution) // 2
            fitted = resample(image, size, preprocessing).crop(
                (left, top, left + resolution, top + resolution)
            )
        case "pad":
            ratio = resolution / max(width, height)
            size = (
                min(resolution, max(1, round(width * ratio))),
                min(resolution, max(1, round(height * ratio))),
            )
            value = preprocessing.pad_value
            fitted = Image.new(image.mode, (resolution, resolution), (value,) * preprocessing.channels)
            fitted.paste(
                resample(image, size, preprocessing),
                ((resolution - size[0]) // 2, (resolution - size[1]) // 2),
            )
        case _:
            assert_never(preprocessing.fit)
    return as_array(fitted)


def as_array(image: Image.Image) -> NDArray[np.uint8]:
    """A picture's pixels as height×width×channels, also where there is one channel."""
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def normalise(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """`uint8` …×H×W×C to the `float32` …×H×W×C that the first convolution sees.

    One multiply and one add per value, with both constants rounded once to fp32 (`affine`).
    """
    factor, offset = affine(preprocessing)
    result: NDArray[np.float32] = pixels.astype(np.float32) * factor + offset
    return result


def affine(preprocessing: Preprocessing) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """`factor` and `offset` per channel, such that normalised = pixel · factor + offset."""
    std = np.asarray(preprocessing.std, np.float64)
    factor = np.float64(preprocessing.scale) / std
    offset = -np.asarray(preprocessing.mean, np.float64) / std
    return factor.astype(np.float32), offset.astype(np.float32)
