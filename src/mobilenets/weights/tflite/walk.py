"""The walk through TFLite graphs: which nodes were found, and what is known of every tensor."""

import math
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from mobilenets.errors import CheckpointError
from mobilenets.spec import Padding
from mobilenets.weights.tflite.file import FusedOptions, Graph, Operator, WindowOptions
from mobilenets.weights.tflite.nodes import (
    CLOSE,
    Activations,
    Node,
    Picture,
    Term,
    Value,
    possible_activations,
)
from mobilenets.weights.tflite.tensor import Tensor

ASSUMED_RESOLUTION = 224
"""Where a file leaves height and width open."""
REMEDY = "Only classifiers (and bodies) of the MobileNet families can be imported from TFLite."


def refuse(operator: Operator, why: str) -> NoReturn:
    """Raise the error about an operator: `operator 7 (PAD) <why>.`"""
    raise CheckpointError(f"{operator.label} {why}.", remedy=REMEDY)


class Walk:
    """Grows while the operators are walked; `nodes[0]` is the picture."""

    def __init__(self, first: Graph):
        self.nodes: list[Node] = []
        self.used: dict[int, Activations] = {}
        """The activation with which a node is read; every reader must see the same."""
        self.paddings: set[Padding] = {"symmetric", "same"}
        """The rules that give the padding of every convolution so far."""
        self.left_out: list[str] = []
        self.affine: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        """Factor and offset with which the picture is read."""
        self.values: dict[int, Value] = {}
        self.graph = first
        self.picture = _picture_tensor(first)
        shape = self.picture.shape
        self.axes = "NCHW" if shape[3] not in (1, 3, 4) and shape[1] in (1, 3, 4) else "NHWC"
        sides = dict(zip(self.axes, shape, strict=True))
        self.resolution_is_known = sides["H"] > 1 and sides["W"] > 1
        _check_picture(first, sides, self.resolution_is_known)
        size = sides["H"] if self.resolution_is_known else ASSUMED_RESOLUTION
        self.nodes.append(Node(-1, sides["C"], size, False, None))

    def enter(self, graph: Graph, value: Value | None) -> None:
        """Begin with `graph`, whose input is `value`, or the picture where there is none yet."""
        if len(graph.inputs) != 1 or graph.inputs[0] < 0 or not graph.outputs or -1 in graph.outputs:
            raise CheckpointError(
                f"has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; a network has one of each."
            )
        one = np.ones(1)
        self.graph = graph
        self.values = {graph.inputs[0]: Picture(one, 0 * one, self.axes) if value is None else value}

    def value(self, index: int, whose: str) -> Value:
        """What tensor `index` is: computed before, or a constant."""
        if index in self.values:
            return self.values[index]
        tensor = self.graph.tensors[index]
        if tensor.data is None:
            raise CheckpointError(
                f"{whose} is {tensor.label}, which nothing before it computes: it is damaged."
            )
        return tensor

    def input(self, operator: Operator, position: int) -> Value:
        """An input that must be there."""
        if position >= len(operator.inputs) or operator.inputs[position] < 0:
            refuse(operator, f"has no input {position}: the file is damaged")
        return self.value(operator.inputs[position], f"input {position} of {operator.label}")

    def output(self, operator: Operator) -> Tensor:
        """The tensor that an operator computes."""
        if not operator.outputs:
            refuse(operator, "has no output: the file is damaged")
        return self.graph.tensors[operator.outputs[0]]

    def constant(self, operator: Operator, position: int) -> Tensor:
        """An input that must be a constant."""
        value = self.input(operator, position)
        if not isinstance(value, Tensor):
            refuse(operator, f"has a computed input {position}; in a MobileNet it is a constant")
        return value

    def activations(self, operator: Operator) -> Activations:
        """What the output of `operator` may have been activated with."""
        match operator.options:
            case WindowOptions(activation=fused) | FusedOptions(activation=fused):
                return possible_activations(fused, self.output(operator), operator)
            case _:
                return ("none",)

    def consume(self, value: Value, operator: Operator | None, *, padded: bool = False) -> int:
        """The node that `value` is, once activated, for `operator` or the end of the network to read.

        Padding is only for those to take who ask for it by `padded`.
        """
        label = operator.label if operator else "the output"
        if isinstance(value, Picture | Term) and value.pad != (0, 0) and not padded:
            raise CheckpointError(f"{label} takes a padded map; only convolutions do in a MobileNet.")
        match value:
            case Picture():
                self._read_picture(value, label)
                return 0
            case Term(form="plain") | Term(form="final") if operator is None or value.form == "plain":
                return self._read_node(value, label)
            case Term(node=node):
                what = "logits' softmax or norm" if value.form == "final" else "hard-swish or hard sigmoid"
                raise CheckpointError(
                    f"{label} takes a part of the {what} of {self.made_by(node)}, as no MobileNet does.",
                    remedy=REMEDY,
                )
            case _:
                raise CheckpointError(f"{label} takes a constant or a shape where a map must be.")

    def _read_picture(self, value: Picture, label: str) -> None:
        if self.affine is None:
            self.affine = (value.factor, value.offset)
        elif not all(map(np.array_equal, self.affine, (value.factor, value.offset))):
            raise CheckpointError(f"{label} takes the picture normalised in a second way.", remedy=REMEDY)

    def _read_node(self, value: Term, label: str) -> int:
        if not math.isclose(value.factor, 1, rel_tol=CLOSE):
            raise CheckpointError(
                f"{label} takes a map that is scaled by {value.factor:.4g}, as no MobileNet does.",
                remedy=REMEDY,
            )
        if self.used.setdefault(value.node, value.activations) != value.activations:
            raise CheckpointError(
                f"{label} takes the output of {self.made_by(value.node)} activated otherwise than another.",
                remedy=REMEDY,
            )
        return value.node

    def made_by(self, node: int) -> str:
        """The operator behind a node, for messages."""
        operator = self.nodes[node].operator
        return operator.label if operator else "the picture"

    def add(self, node: Node) -> int:
        """Keep a new node; returns its index."""
        self.nodes.append(node)
        return len(self.nodes) - 1


def _picture_tensor(graph: Graph) -> Tensor:
    if len(graph.inputs) != 1 or graph.inputs[0] < 0:
        raise CheckpointError(f"has {len(graph.inputs)} inputs; a MobileNet has one, the picture.")
    tensor = graph.tensors[graph.inputs[0]]
    if len(tensor.shape) != 4:
        raise CheckpointError(
            f"its input has shape {tensor.shape}; a picture has four: 1, height, width, channels."
        )
    return tensor


def _check_picture(graph: Graph, sides: dict[str, int], known: bool) -> None:
    shape = graph.tensors[graph.inputs[0]].shape
    if sides["C"] > 4 and not known:
        raise CheckpointError(
            f"its input has shape {shape}, which is no picture: it is the second part of a network.",
            remedy="Give the files of a divided network in order, the one that takes the picture first.",
        )
    if sides["C"] < 1 or (known and sides["H"] != sides["W"]):
        raise CheckpointError(f"its input has shape {shape}; the networks here take square pictures.")
