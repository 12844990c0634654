"""Training views: one picture seen differently each time, by the recipe's `Augment`.

Every random choice comes from the generator that is passed in, so a view is a function of
(picture, seed, epoch, index) and a run can be repeated, resumed and spread over threads or machines
without changing a pixel. Pixels are `uint8` throughout; the resize is `preprocessing.resample`.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from mobilenets.preprocessing import Preprocessing, as_array, prepare, resample, to_mode
from mobilenets.recipe import Augment

_CROP_ATTEMPTS = 10


def view(
    image: Image.Image,
    preprocessing: Preprocessing,
    resolution: int,
    augment: Augment,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """A random view of an upright decoded picture: `uint8`, resolution×resolution×channels."""
    image = to_mode(image, preprocessing)
    if preprocessing.fit == "pad":
        squared = prepare(image, preprocessing, resolution)
        image = Image.fromarray(squared.squeeze(-1) if preprocessing.channels == 1 else squared)
    box = random_box(image.width, image.height, preprocessing.fit == "stretch", augment, rng)
    image = resample(image, (resolution, resolution), preprocessing, box)
    if augment.flip and rng.random() < 0.5:
        image = ImageOps.mirror(image)
    if augment.rotate_degrees or augment.shift:
        image = _move(
            image,
            degrees=rng.uniform(-1, 1) * augment.rotate_degrees,
            right=rng.uniform(-1, 1) * augment.shift * resolution,
            down=rng.uniform(-1, 1) * augment.shift * resolution,
        )
    for enhance, strength in (
        (ImageEnhance.Brightness, augment.brightness),
        (ImageEnhance.Contrast, augment.contrast),
        (ImageEnhance.Color, augment.saturation if preprocessing.channels > 1 else 0.0),
    ):
        if strength:
            image = enhance(image).enhance(1 + rng.uniform(-1, 1) * strength)
    if augment.randaugment_ops:
        image = randaugment(image, augment.randaugment_ops, augment.randaugment_magnitude, rng)
    return as_array(image)


def random_box(
    width: int, height: int, stretched: bool, augment: Augment, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """A random crop (left, top, right, bottom) of a width×height picture.

    Its area is a share of the picture's drawn from `crop_area`, its width / height drawn
    log-uniformly from `crop_ratio`; where the whole picture is stretched to a square, the ratio is
    taken relative to the picture's own. A box that does not fit is drawn again, ten times, and then
    becomes the largest centred one of an allowed ratio.
    """
    own = width / height if stretched else 1.0
    low, high = np.log(augment.crop_ratio)
    for _ in range(_CROP_ATTEMPTS):
        area = rng.uniform(*augment.crop_area) * width * height
        ratio = math.exp(rng.uniform(low, high)) * own
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    ratio = min(max(width / height, augment.crop_ratio[0] * own), augment.crop_ratio[1] * own)
    w, h = min(width, height * ratio), min(height, width / ratio)
    left, top = (width - w) / 2, (height - h) / 2
    return left, top, left + w, top + h


def _move(
    image: Image.Image, *, degrees: float = 0.0, right: float = 0.0, down: float = 0.0, shear: float = 0.0
) -> Image.Image:
    """Turn about the centre, then move, then shear; what comes in is the mean of the border."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    cx, cy = (image.width - 1) / 2, (image.height - 1) / 2
    a, b, d, e = cos, sin + shear, -sin, cos
    matrix = (a, b, cx - a * (cx + right) - b * (cy + down), d, e, cy - d * (cx + right) - e * (cy + down))
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=_border(image)
    )


def _border(image: Image.Image) -> int | tuple[int, ...]:
    pixels = as_array(image)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    mean = tuple(int(v) for v in edge.mean(axis=0).round())
    return mean if len(mean) > 1 else mean[0]


# RandAugment's operations (arXiv 1909.13719, section 3): each takes the picture and a strength in
# [0, 1], with its sign drawn at random where the operation has two directions.
_OPERATIONS: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    lambda image, _: image,
    lambda image, s: _move(image, degrees=30 * s),
    lambda image, s: _move(image, right=0.33 * s * image.width),
    lambda image, s: _move(image, down=0.33 * s * image.height),
    lambda image, s: _move(image, shear=0.3 * s),
    lambda image, s: ImageEnhance.Brightness(image).enhance(1 + 0.9 * s),
    lambda image, s: ImageEnhance.Contrast(image).enhance(1 + 0.9 * s),
    lambda image, s: ImageEnhance.Color(image).enhance(1 + 0.9 * s),
    lambda image, s: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * s),
    lambda image, s: _on_colours(image, lambda c: ImageOps.posterize(c, 8 - round(4 * abs(s)))),
    lambda image, s: _on_colours(image, lambda c: ImageOps.solarize(c, 256 - round(256 * abs(s)))),
    lambda image, _: _on_colours(image, ImageOps.autocontrast),
    lambda image, _: _on_colours(image, ImageOps.equalize),
)


def _on_colours(image: Image.Image, operation: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Apply an operation that knows no alpha channel to the colours alone."""
    if image.mode != "RGBA":
        return operation(image)
    coloured = operation(image.convert("RGB"))
    coloured.putalpha(image.getchannel("A"))
    return coloured


def randaugment(image: Image.Image, ops: int, magnitude: int, rng: np.random.Generator) -> Image.Image:
    """`ops` random operations of strength `magnitude` / 30, either direction."""
    for _ in range(ops):
        operation = _OPERATIONS[int(rng.integers(len(_OPERATIONS)))]
        image = operation(image, magnitude / 30 * (1 if rng.random() < 0.5 else -1))
    return image
