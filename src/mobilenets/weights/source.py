"""What an importer hands on, and what it must know of an implementation whose weights people have.

A `Source` says where an implementation keeps each tensor and in which layout, which rounding of
channels it uses, and how it computes (padding, epsilon, preprocessing). `matching.identify` finds,
over all sources, the network whose names and shapes are those of a file.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from mobilenets.preprocessing import Preprocessing
from mobilenets.spec import Spec
from mobilenets.zoo import Rule

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""What PyTorch's recipes normalise RGB with, for pixels scaled to [0, 1]."""
IMAGENET_CLASSES = 1000

Tensors = Mapping[str, NDArray[np.float32]]

Layout = Literal["ours", "hwio", "hwcm", "io", "oi", "hwio_matrix"]
"""How a tensor lies there, beside our PyTorch order (convolution out×in×k×k, classifier out×in):

* `ours`: the same;
* `hwio`: TensorFlow's convolution, k×k×in×out;
* `hwcm`: TensorFlow's depthwise convolution, k×k×channels×1;
* `io`: TensorFlow's dense layer in×out, for a matrix of ours;
* `oi`: a matrix out×in where we have a 1×1 convolution;
* `hwio_matrix`: a 1×1 convolution 1×1×in×out where we have a matrix.
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an implementation keeps one of our tensors."""

    name: str
    layout: Layout = "ours"


def shape_there(layout: Layout, ours: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a tensor of shape `ours` has in `layout`."""
    match layout:
        case "ours":
            return ours
        case "hwio":
            out, c_in, high, wide = ours
            return high, wide, c_in, out
        case "hwcm":
            channels, multiplier, high, wide = ours
            return high, wide, channels, multiplier
        case "io":
            out, c_in = ours
            return c_in, out
        case "oi":
            return ours[:2]
        case "hwio_matrix":
            out, c_in = ours
            return 1, 1, c_in, out
        case _:
            assert_never(layout)


def to_ours(layout: Layout, array: NDArray[np.float32], ours: tuple[int, ...]) -> NDArray[np.float32]:
    """`array`, which lies in `layout`, in our order and shape: contiguous `float32`."""
    match layout:
        case "ours" | "oi":
            turned = array
        case "hwio":
            turned = array.transpose(3, 2, 0, 1)
        case "hwcm":
            turned = array.transpose(2, 3, 0, 1)
        case "io":
            turned = array.T
        case "hwio_matrix":
            turned = array[0, 0].T
        case _:
            assert_never(layout)
    return np.ascontiguousarray(turned, dtype=np.float32).reshape(ours)


def from_ours(layout: Layout, array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Our `array` in `layout`: the inverse of `to_ours`, contiguous."""
    match layout:
        case "ours":
            turned = array
        case "hwio":
            turned = array.transpose(2, 3, 1, 0)
        case "hwcm":
            turned = array.transpose(2, 3, 0, 1)
        case "io":
            turned = array.T
        case "oi":
            turned = array[:, :, 0, 0]
        case "hwio_matrix":
            turned = array.T[None, None]
        case _:
            assert_never(layout)
    return np.ascontiguousarray(turned)


@dataclass(frozen=True)
class Source:
    """An implementation of the family, as far as its weights are concerned."""

    name: str
    """Its name in messages: `timm`, `torchvision` …"""
    prefixes: tuple[str, ...]
    """The networks that it publishes, by their prefix in `zoo.ZOO`."""
    rules: tuple[Rule, ...]
    """The rounding rules that its networks may follow, the most likely first."""
    places: Callable[[Spec], dict[str, Place]]
    """Our tensor name → its place, in our order; `SpecError` for a network that it cannot express."""
    conventions: Callable[[Spec], Spec]
    """The network with the padding, epsilon, momentum and dropout with which this source computes."""
    preprocessing: Callable[[Spec], Preprocessing]
    """What its published weights of this network expect; the commonest, where they differ."""
    background: bool = False
    """Whether a row more than ImageNet's classes is a background class in front of them."""


@dataclass(frozen=True)
class Found:
    """What an importer found in a file: a network, its tensors under our names, and what it expects."""

    source: str
    """Whose names or graph it was: `timm`, `Keras`, `TFLite` …"""
    spec: Spec
    tensors: Tensors
    """Our names, order and shapes: exactly those of `spec.tensor_shapes(spec)`."""
    preprocessing: Preprocessing
    notes: tuple[str, ...] = ()
    """What was found or assumed, and why, in sentences."""
    labels: tuple[str, ...] | None = None
    """Labels that the file itself carries, one per class."""
    preprocessing_is_known: bool = False
    """Whether the file itself says the preprocessing, so that nothing of it was assumed."""
    licence: str | None = None
    """What the file itself says of its licence, on one line."""


def without_background(spec: Spec, tensors: Tensors) -> tuple[Spec, Tensors]:
    """The network without its first class, TensorFlow's background, in front of ImageNet's 1,000."""
    kept = {name: array[1:] if name.startswith("classifier.") else array for name, array in tensors.items()}
    return dataclasses.replace(spec, classes=spec.classes - 1), kept
