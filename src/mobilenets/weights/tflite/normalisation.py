"""How pictures must be normalised for a `.tflite` file: from its metadata, its graph, its quantisation.

A converter keeps no preprocessing as such, but leaves traces: metadata with mean and std, operators
before the first convolution, or the range of the quantised input, which is that of the conventions.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilenets.errors import CheckpointError
from mobilenets.preprocessing import MODE_OF_CHANNELS, Preprocessing, for_channels
from mobilenets.weights.source import IMAGENET_MEAN, IMAGENET_STD
from mobilenets.weights.tflite.metadata import Normalization
from mobilenets.weights.tflite.nodes import Trace

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Decision:
    """A `Preprocessing`, the sentence that says why, and whether the file itself says it."""

    preprocessing: Preprocessing
    note: str
    known: bool


# The range of normalised pixels, as quantised inputs keep it, and the mean and std that make it.
_IMAGENET_LOW = -max(m / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))
_IMAGENET_HIGH = max((1 - m) / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))
_RANGES = {
    "TensorFlow's (-1 to 1)": (-1.0, 1.0, (0.5,), (0.5,)),
    "ImageNet's mean and std": (_IMAGENET_LOW, _IMAGENET_HIGH, IMAGENET_MEAN, IMAGENET_STD),
    "0 to 1": (0.0, 1.0, (0.0,), (1.0,)),
}
_RANGE_TOLERANCE = 0.02
"""As a share of the range: 1/128, 1/127.5 and 1/127 are all written for TensorFlow's."""
_PIXELS_BELOW = 0.1
"""Operators that multiply the input by less than this take pixels from 0 to 255, else from 0 to 1."""


def normalisation(trace: Trace, said: Normalization | None) -> Decision:
    """What the network of `trace` expects; `said` is what the file's metadata says of its input."""
    channels = trace.channels
    if channels not in MODE_OF_CHANNELS:
        for_channels(channels)
    changed = bool((trace.factor != 1).any() or trace.offset.any())
    limits = trace.picture.limits
    if said is not None and _matches(said, channels):
        # input = (pixel − mean) / std, seen as input · factor + offset
        std, mean = np.asarray(said.std), np.asarray(said.mean)
        factor, offset = trace.factor / std, trace.offset - trace.factor * mean / std
        why = "from the metadata of the file" + (" and its first operators" if changed else "")
        return _decided(factor, offset, channels, why, known=True)
    if limits is not None:
        return _from_range(trace, limits)
    if changed:
        in_pixels = bool((np.abs(trace.factor) < _PIXELS_BELOW).all())
        factor = trace.factor if in_pixels else trace.factor / 255
        span = "255" if in_pixels else "1"
        why = f"the file's first operators; that they take pixels from 0 to {span} follows from their factor"
        return _decided(factor, trace.offset, channels, why, known=True)
    return _conventional(trace)


def _matches(said: Normalization, channels: int) -> bool:
    return {len(said.mean), len(said.std)} <= {1, channels}


def _from_range(trace: Trace, limits: tuple[float, float]) -> Decision:
    """The convention whose range the quantised input has, else what the quantisation does to a pixel."""
    low = float(np.min(limits[0] * trace.factor + trace.offset))
    high = float(np.max(limits[1] * trace.factor + trace.offset))
    channels = trace.channels
    for name, (least, most, mean, std) in _RANGES.items():
        near = _RANGE_TOLERANCE * (most - least)
        fits = abs(low - least) <= near and abs(high - most) <= near
        if fits and len(mean) in (1, channels):
            preprocessing = dataclasses.replace(
                for_channels(channels), mean=_per_channel(mean, channels), std=_per_channel(std, channels)
            )
            return Decision(
                preprocessing,
                f"{_listed(preprocessing)}: the quantised input holds {low:.3g} to {high:.3g}, "
                f"the range of {name}.",
                known=True,
            )
    per_pixel = (limits[1] - limits[0]) / 255
    factor, offset = trace.factor * per_pixel, trace.factor * limits[0] + trace.offset
    why = f"the quantised input holds {low:.3g} to {high:.3g} for pixels from 0 to 255"
    return _decided(factor, offset, channels, why, known=True)


def _decided(factor: Numbers, offset: Numbers, channels: int, why: str, *, known: bool) -> Decision:
    """The preprocessing that makes pixel · factor + offset of a pixel from 0 to 255."""
    if not (factor > 0).all() or not np.isfinite(1 / factor).all():
        raise CheckpointError(
            f"its input is multiplied by {factor[:4].tolist()} before the first convolution; "
            "a preprocessing multiplies by more than 0."
        )
    std, mean = 1 / (255 * factor), -offset / (255 * factor)
    preprocessing = dataclasses.replace(
        for_channels(channels), mean=_per_channel(mean, channels), std=_per_channel(std, channels)
    )
    return Decision(preprocessing, f"{_listed(preprocessing)}: {why}.", known)


def _per_channel(numbers: Numbers | tuple[float, ...], channels: int) -> tuple[float, ...]:
    """One number per channel, without the noise of the last bits of single precision."""
    rounded = tuple(float(f"{number:.6g}") for number in numbers)
    return rounded if len(rounded) == channels else rounded[:1] * channels


def _conventional(trace: Trace) -> Decision:
    """The file says nothing: TensorFlow's normalisation with its padding, else ImageNet's of PyTorch."""
    channels = trace.channels
    if trace.padding == "same" or channels != len(IMAGENET_MEAN):
        chosen, whose = for_channels(channels), "TensorFlow's convention"
    else:
        chosen = dataclasses.replace(for_channels(channels), mean=IMAGENET_MEAN, std=IMAGENET_STD)
        whose = "ImageNet's, PyTorch's convention"
    return Decision(
        chosen,
        f"{_listed(chosen)}: {whose}, assumed from the padding '{trace.padding}'; the file does not say it.",
        known=False,
    )


def _listed(preprocessing: Preprocessing) -> str:
    def text(numbers: tuple[float, ...]) -> str:
        return "/".join(f"{number:.4g}" for number in dict.fromkeys(numbers))

    return f"Mean {text(preprocessing.mean)}, std {text(preprocessing.std)} of pixels from 0 to 1"
