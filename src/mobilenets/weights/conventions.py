"""The usual ways to feed a network: what the preprocessing detective tries.

Scalings: [-1, 1] is TensorFlow's for MobileNets, ImageNet's mean and standard deviation timm's and
torchvision's, [0, 1] and 0 to 255 those of networks that scale inside, 0 to 255 less the mean Caffe's,
which takes BGR. Mean and deviation always belong to their colour, whatever the order.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mobilenets import spec as specs
from mobilenets.checkpoint import Checkpoint
from mobilenets.preprocessing import Preprocessing, affine
from mobilenets.spec import Conv, Padding

Order = Literal["RGB", "BGR"]


@dataclass(frozen=True, slots=True)
class Convention:
    """One way to feed a network and to compute it."""

    preprocessing: Preprocessing
    padding: Padding
    epsilon: float
    order: Order = "RGB"
    """The order in which the network takes colours; `mean` and `std` are those of red, green, blue."""


Candidates = list[tuple[str, Convention]]
"""Named conventions, in the order in which one is preferred where the pictures do not decide."""

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CAFFE_MEAN = (123.68, 116.779, 103.939)


def scalings(own: Convention, checkpoint: Checkpoint) -> Candidates:
    """Scalings in the order of their use, in RGB and then in BGR; the checkpoint's own first."""
    channels = checkpoint.spec.channels

    def scaled(scale: float, mean: Sequence[float], std: Sequence[float]) -> Preprocessing:
        return dataclasses.replace(own.preprocessing, scale=scale, mean=tuple(mean), std=tuple(std))

    def flat(scale: float, mean: float, std: float) -> Preprocessing:
        return scaled(scale, (mean,) * channels, (std,) * channels)

    usual = [("[-1, 1]", flat(1 / 255, 0.5, 0.5)), ("[0, 1]", flat(1 / 255, 0.0, 1.0))]
    usual.append(("0 to 255", flat(1.0, 0.0, 1.0)))
    if channels == 3:
        usual.insert(1, ("ImageNet mean and std", scaled(1 / 255, *_IMAGENET)))
        usual.append(("0 to 255 less the mean (Caffe)", scaled(1.0, _CAFFE_MEAN, (1.0,) * 3)))
    known = [name for name, found in usual if _same_values(found, own.preprocessing)]
    first = (known[0] if known else "as imported", own.preprocessing)
    ordered = [first, *(entry for entry in usual if entry[0] != first[0])]
    orders: tuple[Order, ...] = (
        ("RGB", "BGR") if channels == 3 and _takes_either_order(checkpoint) else ("RGB",)
    )
    return [
        (
            f"{name}, {order}" if channels == 3 else name,
            dataclasses.replace(own, preprocessing=found, order=order),
        )
        for order in orders
        for name, found in ordered
    ]


def _same_values(a: Preprocessing, b: Preprocessing) -> bool:
    return all(np.allclose(x, y, rtol=1e-6, atol=1e-7) for x, y in zip(affine(a), affine(b), strict=True))


def paddings(own: Convention, _checkpoint: Checkpoint) -> Candidates:
    """Both padding rules with the usual epsilons; the checkpoint's own first."""
    other: Padding = "symmetric" if own.padding == "same" else "same"
    epsilons = dict.fromkeys((own.epsilon, 1e-5, 1e-3))
    return [
        (f"{padding}, {epsilon:g}", dataclasses.replace(own, padding=padding, epsilon=epsilon))
        for padding in (own.padding, other)
        for epsilon in epsilons
    ]


def crops(own: Convention, _checkpoint: Checkpoint) -> Candidates:
    """The usual fits with the usual kernels; the checkpoint's own first."""
    before = own.preprocessing
    tried = [before]
    for kernel in dict.fromkeys((before.resize, "bilinear", "bicubic")):
        sized = dataclasses.replace(before, resize=kernel)
        tried += [dataclasses.replace(sized, fit="crop", crop_fraction=f) for f in (0.875, 0.95, 1.0)]
        tried.append(dataclasses.replace(sized, fit="stretch"))
    named: dict[str, Preprocessing] = {}
    for found in tried:
        fit = f"crop {found.crop_fraction:g}" if found.fit == "crop" else found.fit
        named.setdefault(f"{fit}, {found.resize}", found)
    return [(name, dataclasses.replace(own, preprocessing=found)) for name, found in named.items()]


def stem(checkpoint: Checkpoint) -> specs.Layer:
    """The layer that sees the picture."""
    return next(specs.layers(checkpoint.spec))


def _takes_either_order(checkpoint: Checkpoint) -> bool:
    """Whether the stem sums over the colours, so that their order is in its weights alone."""
    op = stem(checkpoint).op
    return (
        isinstance(op, Conv)
        and not op.depthwise
        and op.groups == 1
        and not checkpoint.spec.blocks[0].residual
    )
