"""A `.tflite` file as tensors and operators: what is in it, before anybody asks which network it is.

The schema is TensorFlow Lite's version 3 (`schema.fbs`, identifier `TFL3`); the slots below are its
field numbers. Nothing is executed, no TensorFlow is needed, and a damaged file ends in
`CheckpointError`. Weights are read as float: (q − zero point) · scale, per tensor or per channel.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from mobilenets.errors import CheckpointError, MobilenetsError
from mobilenets.text import printable
from mobilenets.weights.tflite.flatbuffer import Flatbuffer, Table
from mobilenets.weights.tflite.metadata import Metadata, read_metadata
from mobilenets.weights.tflite.tensor import KINDS, Quantization, Tensor

_T = TypeVar("_T", bound=str)

IDENTIFIER = b"TFL3"
_MOST_BYTES = (1 << 31) - 1
"""A flatbuffer's offsets have 31 bits."""
_MOST_OPERATORS = 10_000
"""The largest network here has some 200."""

Fused = Literal["none", "relu", "relu_n1_to_1", "relu6", "tanh", "sign_bit"]
_FUSED: tuple[Fused, ...] = ("none", "relu", "relu_n1_to_1", "relu6", "tanh", "sign_bit")
WindowPadding = Literal["same", "valid"]
_PADDINGS: tuple[WindowPadding, ...] = ("same", "valid")

# BuiltinOperator: the ones that MobileNets are made of, or that a message had better name.
_OPERATORS = {
    0: "ADD", 1: "AVERAGE_POOL_2D", 2: "CONCATENATION", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D",
    6: "DEQUANTIZE", 9: "FULLY_CONNECTED", 11: "L2_NORMALIZATION", 14: "LOGISTIC", 17: "MAX_POOL_2D",
    18: "MUL", 19: "RELU", 20: "RELU_N1_TO_1", 21: "RELU6", 22: "RESHAPE", 23: "RESIZE_BILINEAR",
    25: "SOFTMAX", 28: "TANH", 34: "PAD", 36: "GATHER", 39: "TRANSPOSE", 40: "MEAN", 41: "SUB", 42: "DIV",
    43: "SQUEEZE", 45: "STRIDED_SLICE", 47: "EXP", 49: "SPLIT", 50: "LOG_SOFTMAX", 53: "CAST", 54: "PRELU",
    55: "MAXIMUM", 56: "ARG_MAX", 57: "MINIMUM", 60: "PADV2", 65: "SLICE", 67: "TRANSPOSE_CONV",
    70: "EXPAND_DIMS", 74: "SUM", 76: "RSQRT", 77: "SHAPE", 82: "REDUCE_MAX", 83: "PACK", 92: "SQUARE",
    97: "RESIZE_NEAREST_NEIGHBOR", 98: "LEAKY_RELU", 99: "SQUARED_DIFFERENCE", 100: "MIRROR_PAD",
    114: "QUANTIZE", 117: "HARD_SWISH", 126: "BATCH_MATMUL", 130: "BROADCAST_TO", 150: "GELU",
    152: "RELU_0_TO_1",
}  # fmt: skip
_CUSTOM = 32


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """Options of a convolution (full or depthwise) or a pooling; sizes are (height, width)."""

    padding: WindowPadding
    stride: tuple[int, int]
    activation: Fused
    dilation: tuple[int, int] = (1, 1)
    window: tuple[int, int] = (0, 0)
    """The pooling window; a convolution's is its weight's, and so is a depthwise one's multiplier."""


@dataclass(frozen=True, slots=True)
class FusedOptions:
    """Options of an operator that has only a fused activation."""

    activation: Fused


@dataclass(frozen=True, slots=True)
class ReduceOptions:
    """Options of MEAN and SUM."""

    keep_dims: bool


@dataclass(frozen=True, slots=True)
class ReshapeOptions:
    """The shape that RESHAPE asks for where no input says it."""

    shape: tuple[int, ...]


Options = WindowOptions | FusedOptions | ReduceOptions | ReshapeOptions | None


@dataclass(frozen=True, slots=True)
class Operator:
    """One step of the graph. Inputs and outputs index `Graph.tensors`; −1 is an input left out."""

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Options

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"operator {self.index} ({printable(self.name[:60])})"


@dataclass(frozen=True)
class Graph:
    """The first subgraph of a file, and what its metadata says."""

    path: Path
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    description: str
    metadata: Metadata
    subgraphs: int = 1


def is_tflite(head: bytes) -> bool:
    """Whether a file whose first bytes (8 or more) are `head` says that it is TensorFlow Lite's."""
    return head[4:8] == IDENTIFIER


def read(path: str | Path) -> Graph:
    """Read a `.tflite` file.

    Raises `CheckpointError`, naming the file and what in it, for one that is missing, truncated,
    damaged or something else. Weights stay where they are until `Tensor.values` is asked for them.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise CheckpointError(
                f"has {path.stat().st_size:,} bytes; a TFLite file has at most {_MOST_BYTES:,}."
            )
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError("there is no such file.", file=path) from error
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror}).", file=path) from error
    try:
        return parse(data, path)
    except MobilenetsError as error:
        raise error.in_file(path) from error


def parse(data: bytes, path: Path) -> Graph:
    """The graph in `data`, which came from `path`; see `read`."""
    if not is_tflite(data):
        raise CheckpointError(
            "is not a TFLite file: bytes 4 to 8 are not TFL3." if data else "is empty.",
            remedy="Accepted: a .tflite file of a MobileNet, float or quantised.",
        )
    model = Flatbuffer(memoryview(data)).root(IDENTIFIER, "the model")
    version = model.number(0, "I")
    if version != 3:
        raise CheckpointError(f"has schema version {version}; accepted: 3.")
    buffers = [_buffer(table) for table in model.tables(4, "buffer")]
    codes = [_operator_name(table) for table in model.tables(1, "operator code")]
    subgraphs = model.tables(2, "subgraph")
    if not subgraphs:
        raise CheckpointError("has no graph in it.")
    graph = subgraphs[0]
    tensors = tuple(_tensor(index, table, buffers) for index, table in enumerate(graph.tables(0, "tensor")))
    rows = graph.tables(3, "operator")
    if len(rows) > _MOST_OPERATORS:
        raise CheckpointError(f"has {len(rows):,} operators; a MobileNet has at most {_MOST_OPERATORS:,}.")
    return Graph(
        path=path,
        tensors=tensors,
        operators=tuple(_operator(index, row, codes, len(tensors)) for index, row in enumerate(rows)),
        inputs=_indices(graph, 1, "the graph's inputs", len(tensors)),
        outputs=_indices(graph, 2, "the graph's outputs", len(tensors)),
        description=model.text(3, "the description"),
        metadata=read_metadata(data, _metadata_buffer(model, buffers)),
        subgraphs=len(subgraphs),
    )


def _buffer(table: Table) -> memoryview | None:
    """A buffer's bytes: a vector, or for a large one (`offset`, `size`) a place behind the tables."""
    offset, size = table.number(1, "Q"), table.number(2, "Q")
    if offset > 1 and size:
        table.buffer.check(offset, size, table.what)
        return table.buffer.data[offset : offset + size]
    data = table.bytes(0, table.what)
    return data if len(data) else None


def _metadata_buffer(model: Table, buffers: list[memoryview | None]) -> memoryview | None:
    for entry in model.tables(6, "metadata entry"):
        if entry.text(0, entry.what) == "TFLITE_METADATA":
            index = entry.number(1, "I")
            if index >= len(buffers):
                raise CheckpointError(f"its metadata is in buffer {index}; there are {len(buffers)}.")
            return buffers[index]
    return None


def _operator_name(table: Table) -> str:
    """The operator's name. Codes up to 127 stand in the old byte, later ones in the new field."""
    code = max(table.number(0, "b"), table.number(3, "i"))
    if code == _CUSTOM:
        return f"custom operator {table.text(1, table.what)}"
    return _OPERATORS.get(code, f"operator code {code}")


def _tensor(index: int, table: Table, buffers: list[memoryview | None]) -> Tensor:
    what = table.what
    shape = tuple(int(side) for side in table.numbers(0, "<i4", f"the shape of {what}"))
    if len(shape) > 8 or any(side < -1 for side in shape):
        raise CheckpointError(f"{what} has shape {shape[:9]}: the file is damaged.")
    kind, buffer = table.number(1, "b"), table.number(2, "I")
    if buffer >= max(1, len(buffers)):
        raise CheckpointError(f"{what} is in buffer {buffer}; there are {len(buffers)}: the file is damaged.")
    return Tensor(
        index=index,
        name=table.text(3, f"the name of {what}"),
        kind=KINDS.get(kind, f"type {kind}"),
        shape=shape,
        data=buffers[buffer] if buffers else None,
        quantization=_quantization(table.table(4, f"the quantisation of {what}"), what),
        sparse=table.has(6),
    )


def _quantization(table: Table | None, what: str) -> Quantization | None:
    if table is None:
        return None
    scale = table.numbers(2, "<f4", table.what).astype(np.float64)
    zero = table.numbers(3, "<i8", table.what).astype(np.float64)
    if not scale.size:
        return None
    if not bool((np.isfinite(scale) & (scale >= 0)).all()):
        raise CheckpointError(f"{what} has a scale that is no positive number: the file is damaged.")
    if zero.size not in (0, 1, scale.size):
        raise CheckpointError(
            f"{what} has {scale.size} scales and {zero.size} zero points: the file is damaged."
        )
    return Quantization(scale, zero if zero.size else np.zeros(1), table.number(6, "i"))


def _indices(table: Table, slot: int, what: str, tensors: int) -> tuple[int, ...]:
    found = tuple(int(index) for index in table.numbers(slot, "<i4", what))
    if any(not -1 <= index < tensors for index in found):
        raise CheckpointError(f"{what} name tensors that do not exist (there are {tensors}): it is damaged.")
    return found


def _operator(index: int, table: Table, codes: list[str], tensors: int) -> Operator:
    code, what = table.number(0, "I"), table.what
    if code >= len(codes):
        raise CheckpointError(f"{what} has code number {code}; there are {len(codes)}: the file is damaged.")
    outputs = _indices(table, 2, f"the outputs of {what}", tensors)
    if -1 in outputs:
        raise CheckpointError(f"{what} leaves an output out: the file is damaged.")
    return Operator(
        index=index,
        name=codes[code],
        inputs=_indices(table, 1, f"the inputs of {what}", tensors),
        outputs=outputs,
        options=_options(codes[code], table),
    )


# Operator → (its number in the union BuiltinOptions, the slot of its fused activation).
_FUSED_ONLY: Mapping[str, tuple[int, int]] = {
    "FULLY_CONNECTED": (8, 0), "ADD": (11, 0), "MUL": (21, 0), "SUB": (28, 0), "DIV": (29, 0),
}  # fmt: skip
_UNION = {
    "CONV_2D": 1, "DEPTHWISE_CONV_2D": 2, "AVERAGE_POOL_2D": 5, "MEAN": 27, "SUM": 27, "RESHAPE": 17,
    **{name: union for name, (union, _) in _FUSED_ONLY.items()},
}  # fmt: skip


def _options(name: str, operator: Table) -> Options:
    """What the schema says beside the inputs; absent tables and fields have the schema's defaults."""
    if name not in _UNION:
        return None
    what = f"the options of {operator.what} ({name})"
    union = operator.number(3, "B")
    if union not in (0, _UNION[name]):
        raise CheckpointError(f"{what} are those of another operator (kind {union}): the file is damaged.")
    table = operator.table(4, what) if union else None
    options: Options
    match name:
        case "CONV_2D":
            options = _window(table, what, activation=3, dilation=4)
        case "DEPTHWISE_CONV_2D":
            options = _window(table, what, activation=4, dilation=5)
        case "AVERAGE_POOL_2D":
            options = _window(table, what, activation=5, window=3)
        case "MEAN" | "SUM":
            options = ReduceOptions(table is not None and bool(table.number(0, "B")))
        case "RESHAPE":
            shape = () if table is None else table.numbers(0, "<i4", what).tolist()
            options = ReshapeOptions(tuple(shape))
        case _:
            options = FusedOptions(_choice(_FUSED, table, _FUSED_ONLY[name][1], what))
    return options


def _window(
    table: Table | None,
    what: str,
    *,
    activation: int,
    dilation: int | None = None,
    window: int | None = None,
) -> WindowOptions:
    """Options with their slots; widths come before heights in the schema."""

    def pair(slot: int | None, default: int) -> tuple[int, int]:
        if table is None or slot is None:
            return default, default
        return table.number(slot + 1, "i", default), table.number(slot, "i", default)

    return WindowOptions(
        padding=_choice(_PADDINGS, table, 0, what),
        stride=pair(1, 0),
        activation=_choice(_FUSED, table, activation, what),
        dilation=pair(dilation, 1),
        window=pair(window, 0),
    )


def _choice(choices: tuple[_T, ...], table: Table | None, slot: int, what: str) -> _T:
    number = 0 if table is None else table.number(slot, "b")
    if not 0 <= number < len(choices):
        raise CheckpointError(f"{what} have the unknown value {number}: the file is damaged.")
    return choices[number]
