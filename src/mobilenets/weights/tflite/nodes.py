"""What becomes of TFLite's tensors and operators: expressions on the way, nodes of the network in the end."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mobilenets.errors import CheckpointError
from mobilenets.spec import Activation, Padding
from mobilenets.weights.tflite.file import Operator
from mobilenets.weights.tflite.tensor import Tensor

Activations = tuple[Activation, ...]
"""What an output may have been activated with, the likeliest first; one where the file says it."""
CLOSE = 5e-3
"""How far a constant may be from 3, 6 or 1/6: TF-slim writes 0.16667, and constants are quantised too."""


# --- what a tensor is, on the way -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Picture:
    """The input times `factor` plus `offset`, one number or one per channel."""

    factor: NDArray[np.float64]
    offset: NDArray[np.float64]
    axes: str
    pad: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Term:
    """An expression over the output x of a node.

    `plain`: activation(x); `shifted`: x + shift; `clipped`: relu6(x + shift); `product`:
    x · relu6(x + 3); each times `factor`. `final` is what only the graph's output may be.
    """

    node: int
    activations: Activations = ("none",)
    form: Literal["plain", "shifted", "clipped", "product", "final"] = "plain"
    shift: float = 0.0
    factor: float = 1.0
    axes: str = "NHWC"
    pad: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Shape:
    """A tensor that only says a shape, computed by SHAPE and the like."""


Value = Picture | Term | Tensor | Shape
"""A `Tensor` is a constant."""


# --- nodes --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Node:
    """Something computed, C×S×S. `source` is the node before it."""

    source: int
    channels: int
    size: int
    pooled: bool
    """Whether the global average pooling lies before it or in it."""
    operator: Operator | None


@dataclass(frozen=True, slots=True)
class Convolution(Node):
    """A convolution or a dense layer, with its weights as the file has them."""

    kernel: int
    stride: int
    groups: int
    depthwise: bool
    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, slots=True)
class Gate(Node):
    """Squeeze-and-excite: the source times a hard sigmoid of what its mean becomes."""

    reduce: Convolution
    expand: Convolution
    reduce_activations: Activations
    folded: bool
    """Whether the hard sigmoid's + 3 is inside the bias of `expand`."""
    factor: float
    """What the hard sigmoid multiplies by: 1/6, or TF-slim's 0.16667."""


@dataclass(frozen=True, slots=True)
class Sum(Node):
    """The source plus the output of an earlier node."""

    start: int


@dataclass(frozen=True, slots=True)
class Pool(Node):
    """Global average pooling."""


@dataclass(frozen=True)
class Trace:
    """A chain of nodes from the picture to the output; pooling and the picture itself left out."""

    body: tuple[Node, ...]
    head: tuple[Node, ...]
    """What follows the global average pooling."""
    activations: tuple[Activations, ...]
    """Of every node of `body` and `head`."""
    starts: tuple[int | None, ...]
    """For a `Sum` of `body`, the index of the node whose output it adds (−1: the picture); else `None`."""
    pooled: bool
    channels: int
    resolution: int
    resolution_is_known: bool
    padding: Padding
    factor: NDArray[np.float64]
    offset: NDArray[np.float64]
    """The first convolution sees picture · factor + offset."""
    picture: Tensor
    left_out: tuple[str, ...]
    """Operators at the end that only change the logits' form: SOFTMAX …"""


def possible_activations(fused: str, output: Tensor, operator: Operator) -> Activations:
    """What an operator's output was activated with: what is fused, or what its range allows.

    Quantised files leave ReLU and ReLU6 out where the range of the output begins at 0: clipping to
    it does the same. Such a range may also be that of numbers that were never negative.
    """
    if fused in get_args(Activation) and fused != "none":
        return (fused,)  # type: ignore[return-value]
    if fused != "none":
        raise CheckpointError(f"{operator.label} has the activation {fused}, which no MobileNet has.")
    limits = output.limits
    if limits is None or limits[0] != 0:
        return ("none",)
    if math.isclose(limits[1], 6, rel_tol=CLOSE):
        return ("relu6", "relu", "none")
    return ("relu", "relu6", "none") if limits[1] < 6 else ("relu", "none")
