"""Writes `.tflite` files for tests: a small flatbuffer writer, and networks of ours as converters write them.

By hand, so that the reader is tested without a TensorFlow package; `test_tflite` also opens what is
written here with LiteRT, where that is installed.
"""

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mobilenets import spec as specs
from mobilenets.spec import Conv, Linear, Pool, Spec, SqueezeExcite, padding_amounts

CODES = {
    "ADD": 0, "AVERAGE_POOL_2D": 1, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 4, "DEQUANTIZE": 6,
    "FULLY_CONNECTED": 9, "L2_NORMALIZATION": 11, "LOGISTIC": 14, "MAX_POOL_2D": 17, "MUL": 18, "RELU": 19,
    "RELU6": 21, "RESHAPE": 22, "SOFTMAX": 25, "PAD": 34, "TRANSPOSE": 39, "MEAN": 40, "SUB": 41, "DIV": 42,
    "SQUEEZE": 43, "SUM": 74, "QUANTIZE": 114, "HARD_SWISH": 117, "GELU": 150,
}  # fmt: skip
KINDS = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int8": 9}
FUSED = {"none": 0, "relu": 1, "relu6": 3}


# --- flatbuffers --------------------------------------------------------------------------------


@dataclass
class Table:
    """Slot → value: ("i", 3) a number, bytes, str, numpy array, `Table`, or a list of tables."""

    fields: dict[int, Any] = field(default_factory=dict)


def flatbuffer(root: Table, identifier: bytes) -> bytes:
    out = bytearray(b"\0\0\0\0" + identifier)
    at = _table(out, root)
    struct.pack_into("<I", out, 0, at)
    return bytes(out)


def _align(out: bytearray, size: int, extra: int = 0) -> None:
    while (len(out) + extra) % size:
        out.append(0)


def _table(out: bytearray, table: Table) -> int:
    """Append a table and all that it points to; returns where it lies."""
    slots = {slot: value for slot, value in table.fields.items() if value is not None}
    count = max(slots, default=-1) + 1
    vtable_bytes = 4 + 2 * count
    _align(out, 8, vtable_bytes)
    vtable, at = len(out), len(out) + vtable_bytes
    out += struct.pack("<HH", vtable_bytes, 4 + 8 * len(slots)) + bytes(2 * count)
    out += struct.pack("<i", at - vtable) + bytes(4 + 8 * len(slots))
    pointers = []
    for place, (slot, value) in enumerate(sorted(slots.items(), key=lambda item: item[0])):
        offset = 8 + 8 * place
        struct.pack_into("<H", out, vtable + 4 + 2 * slot, offset)
        if isinstance(value, tuple):
            struct.pack_into(f"<{value[0]}", out, at + offset, value[1])
        else:
            pointers.append((at + offset, value))
    struct.pack_into("<H", out, vtable + 2, 8 + 8 * len(slots))
    for pointer, value in pointers:
        target = _pointed(out, value)
        struct.pack_into("<I", out, pointer, target - pointer)
    return at


def _pointed(out: bytearray, value: Any) -> int:
    match value:
        case Table():
            return _table(out, value)
        case list():
            _align(out, 4)
            at = len(out)
            out += struct.pack("<I", len(value)) + bytes(4 * len(value))
            for index, item in enumerate(value):
                place = at + 4 + 4 * index
                struct.pack_into("<I", out, place, _table(out, item) - place)
            return at
        case str():
            raw = value.encode()
            _align(out, 4)
            at = len(out)
            out += struct.pack("<I", len(raw)) + raw + b"\0"
            return at
        case _:
            raw, size = (value, 16) if isinstance(value, bytes) else (value.tobytes(), value.itemsize)
            items = len(raw) if isinstance(value, bytes) else value.size
            _align(out, max(size, 4), 4)
            at = len(out)
            out += struct.pack("<I", items) + raw
            return at


# --- graphs -------------------------------------------------------------------------------------


class Writer:
    """Tensors, buffers and operators of one graph."""

    def __init__(self) -> None:
        self.tensors: list[Table] = []
        self.shapes: list[tuple[int, ...]] = []
        self.buffers: list[Table] = [Table()]
        self.operators: list[Table] = []
        self.codes: list[str] = []
        self.metadata: list[Table] = []

    def tensor(self, shape, kind="float32", data=None, scale=None, zero=None, axis=0) -> int:
        buffer = 0
        if data is not None:
            buffer = len(self.buffers)
            self.buffers.append(Table({0: data}))
        quantization = None
        if scale is not None:
            scale = np.atleast_1d(np.asarray(scale, "<f4"))
            zero = np.broadcast_to(np.asarray(zero, "<i8"), scale.shape).copy()
            quantization = Table({2: scale, 3: zero, 6: ("i", axis)})
        self.tensors.append(
            Table(
                {
                    0: np.array(shape, "<i4"),
                    1: ("b", KINDS[kind]),
                    2: ("I", buffer),
                    3: f"tensor/{len(self.tensors)}",
                    4: quantization,
                }
            )
        )
        self.shapes.append(tuple(shape))
        return len(self.tensors) - 1

    def constant(self, values, kind="float32", **quantization) -> int:
        array = np.asarray(values)
        return self.tensor(array.shape, kind, array.tobytes(), **quantization)

    def operator(
        self, name: str, inputs, outputs, union: int = 0, options: dict[int, Any] | None = None
    ) -> None:
        if name not in self.codes:
            self.codes.append(name)
        fields = {
            0: ("I", self.codes.index(name)),
            1: np.array(inputs, "<i4"),
            2: np.array(outputs, "<i4"),
        }
        if union:
            fields |= {3: ("B", union), 4: Table(options or {})}
        self.operators.append(Table(fields))

    def add_metadata(self, root: Table) -> None:
        self.buffers.append(Table({0: flatbuffer(root, b"M001")}))
        self.metadata.append(Table({0: "TFLITE_METADATA", 1: ("I", len(self.buffers) - 1)}))

    def model(self, inputs, outputs) -> bytes:
        codes = [
            Table({0: ("b", min(CODES.get(name, 0), 127)), 2: ("i", 1), 3: ("i", CODES.get(name, 0))})
            if name in CODES
            else Table({0: ("b", 32), 1: name, 3: ("i", 32)})
            for name in self.codes
        ]
        graph = Table(
            {
                0: self.tensors,
                1: np.array(inputs, "<i4"),
                2: np.array(outputs, "<i4"),
                3: self.operators,
                4: "main",
            }
        )
        return flatbuffer(
            Table(
                {0: ("I", 3), 1: codes, 2: [graph], 3: "written by a test", 4: self.buffers, 6: self.metadata}
            ),
            b"TFL3",
        )


@dataclass(frozen=True)
class Style:
    """How a converter may write a network."""

    weights: str = "float32"
    """`float32`, `float16` behind DEQUANTIZE, `uint8` per tensor, `int8` per channel."""
    fused: bool = True
    """Activations inside the convolutions, else operators; quantised: else ranges alone."""
    hard_swish: str = "operator"
    """`operator`, `after` (x·relu6(x + 3))·1/6, `before` x·(relu6(x + 3)·1/6)."""
    folded_gate: bool = False
    """The gate's + 3 inside the bias."""
    pool: str = "mean"
    """`mean`, `average`, `sum`."""
    channels_first: bool = False
    dense: bool = False
    """The classifier as FULLY_CONNECTED, else as a convolution."""
    end: tuple[str, ...] = ("SOFTMAX",)
    head: bool = True
    """Whether the classifier is there."""
    sixth: float = 1 / 6
    """What hard sigmoids multiply by; TF-slim writes 0.16667."""
    rescale: bool = False
    """Pixels from 0 to 255 are normalised to -1 … 1 in the graph."""
    input_range: tuple[float, float] = (-1.0, 1.0)


def folded(spec: Spec, tensors) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Path of a layer → its weight and bias, the norm folded in."""
    result = {}
    for layer in specs.layers(spec):
        at = {
            name.removeprefix(f"{layer.path}."): tensors[name].astype(np.float64)
            for name in specs.layer_tensors(layer)
        }
        match layer.op:
            case Conv(norm=True):
                slope = at["norm.weight"] / np.sqrt(at["norm.running_var"] + spec.norm_epsilon)
                bias = at["norm.bias"] - slope * at["norm.running_mean"]
                result[layer.path] = (at["conv.weight"] * slope[:, None, None, None], bias)
            case Conv():
                result[layer.path] = (at["conv.weight"], at["conv.bias"])
            case SqueezeExcite():
                for part in ("reduce", "expand"):
                    result[f"{layer.path}.{part}"] = (at[f"{part}.weight"], at[f"{part}.bias"])
            case Linear():
                result[layer.path] = (at["weight"][:, :, None, None], at["bias"])
            case _:
                pass
    return result


class NetworkWriter(Writer):
    """Writes the network of a `Spec` into one graph."""

    def __init__(self, spec: Spec, tensors, style: Style):
        super().__init__()
        self.spec, self.style, self.layers = spec, style, folded(spec, tensors)
        self.quantised = style.weights in ("uint8", "int8")
        self.kind = style.weights if self.quantised else "float32"
        self.stored: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        """Path → weight and bias as the quantised file holds them."""
        self.scales: dict[int, float] = {}

    def write(self) -> bytes:
        side, c = self.spec.resolution, self.spec.channels
        first = (1, c, side, side) if self.style.channels_first else (1, side, side, c)
        start = x = self._map(first, *self.style.input_range)
        if self.style.channels_first:
            x = self._unary("TRANSPOSE", x, (1, side, side, c), np.array([0, 2, 3, 1], "<i4"))
        if self.style.rescale:
            x = self._binary("MUL", x, self._number(1 / 127.5), 21, -100, 100)
            x = self._binary("SUB", x, self._number(1.0), 28, -100, 100)
        rows = list(specs.layers(self.spec))
        for position, layer in enumerate(rows):
            if layer.block is not None and (position == 0 or rows[position - 1].block != layer.block):
                shortcut = x
            x = self._layer(layer, x)
            last = position + 1 == len(rows) or rows[position + 1].block != layer.block
            if layer.block is not None and last and self.spec.blocks[layer.block].residual:
                x = self._binary("ADD", x, shortcut, 11, -30, 30)
        shape = self.shapes[x]
        if len(shape) == 4:
            x = self._unary("RESHAPE", x, (1, shape[-1]), np.array([1, shape[-1]], "<i4"))
        for name in self.style.end:
            y = self._map(self.shapes[x], 0.0, 1.0)
            self.operator(name, [x], [y], 9 if name == "SOFTMAX" else 0, {0: ("f", 1.0)})
            x = y
        return self.model([start], [x])

    def _map(self, shape, low: float = -10.0, high: float = 10.0) -> int:
        """A computed tensor; quantised ones hold `low` to `high`."""
        if not self.quantised:
            return self.tensor(shape)
        scale = (high - low) / 255
        least = 0 if self.kind == "uint8" else -128
        index = self.tensor(shape, self.kind, scale=scale, zero=round(least - low / scale))
        self.scales[index] = float(np.float32(scale))
        return index

    def _number(self, value: float) -> int:
        if not self.quantised:
            return self.constant(np.float32(value))
        most = 255 if self.kind == "uint8" else 127
        dtype = "u1" if self.kind == "uint8" else "i1"
        return self.constant(np.array(most, dtype), self.kind, scale=value / most, zero=0)

    def _unary(self, name: str, x: int, shape, constant) -> int:
        y = self._like(x, shape)
        inputs = [x] if constant is None else [x, self.constant(constant, "int32")]
        self.operator(name, inputs, [y])
        return y

    def _like(self, x: int, shape) -> int:
        """A tensor of another shape that is quantised as `x`."""
        if not self.quantised:
            return self.tensor(shape)
        self.tensors.append(Table({**self.tensors[x].fields, 0: np.array(shape, "<i4")}))
        self.shapes.append(tuple(shape))
        self.scales[len(self.tensors) - 1] = self.scales[x]
        return len(self.tensors) - 1

    def _binary(self, name: str, a: int, b: int, union: int, low: float, high: float, fused="none") -> int:
        y = self._map(self.shapes[a], low, high)
        self.operator(name, [a, b], [y], union, {0: ("b", FUSED[fused])})
        return y

    def _layer(self, layer, x: int) -> int:
        match layer.op:
            case Conv():
                return self._convolution(layer.path, x, layer)
            case SqueezeExcite():
                return self._gate(layer, x)
            case Pool():
                return self._pool(x)
            case Linear():
                return self._classifier(layer, x) if self.style.head else x
            case _:
                raise AssertionError(layer)

    def _weight(self, path: str, x: int, depthwise: bool, shift: float = 0.0) -> tuple[int, int]:
        """The tensors of weight and bias, and what a quantised file holds of them."""
        weight, bias = self.layers[path]
        bias = bias + shift
        laid = weight.transpose(1, 2, 3, 0) if depthwise else weight.transpose(0, 2, 3, 1)
        laid = laid.astype("<f4")
        if path == "classifier" and self.style.dense:
            laid = laid[:, 0, 0]
        if not self.quantised:
            b = self.constant(bias.astype("<f4"))
            if self.style.weights == "float32":
                return self.constant(laid), b
            half = self.constant(laid.astype("<f2"), "float16")
            w = self.tensor(laid.shape)
            self.operator("DEQUANTIZE", [half], [w])
            self.stored[path] = (laid.astype("<f2"), bias - shift)
            return w, b
        axis = 3 if depthwise else 0
        if self.kind == "uint8":
            low, high = min(0.0, float(laid.min())), max(0.0, float(laid.max()))
            scale, zero = np.float32((high - low) / 255 or 1.0), round(-low / ((high - low) / 255 or 1.0))
            q = np.clip(np.round(laid / scale) + zero, 0, 255).astype("u1")
            w = self.constant(q, "uint8", scale=scale, zero=zero)
            scales = np.full(len(bias), scale, "f4")
        else:
            shape = [1] * laid.ndim
            shape[axis] = len(bias)
            largest = np.abs(laid).max(axis=tuple(i for i in range(laid.ndim) if i != axis))
            scales = (np.maximum(largest, 1e-6) / 127).astype("f4")
            q, zero = np.round(laid / scales.reshape(shape)).astype("i1"), 0
            w = self.constant(q, "int8", scale=scales, zero=0, axis=axis)
        bias_scales = scales.astype(np.float64) * self.scales[x]
        whole = np.round(bias / bias_scales).astype("<i4")
        per_tensor = self.kind == "uint8"
        b = self.constant(whole, "int32", scale=bias_scales[:1] if per_tensor else bias_scales, zero=0)
        shape = [1] * laid.ndim
        shape[axis] = len(bias)
        values = (q.astype(np.float64) - zero) * scales.reshape(shape)
        self.stored[path] = (values, whole * bias_scales.astype("f4") - shift)
        return w, b

    def _convolution(self, path: str, x: int, layer) -> int:
        conv = layer.op
        side = layer.size_out
        padding = 0
        pads = padding_amounts(layer.size_in, conv.kernel, conv.stride, self.spec.padding)
        if self.spec.padding == "symmetric" and layer.block is not None:
            padding = 1
            if any(pads):
                wide = layer.size_in + sum(pads)
                x = self._unary(
                    "PAD", x, (1, wide, wide, layer.c_in), np.array([[0, 0], pads, pads, [0, 0]], "<i4")
                )
        weight, bias = self._weight(path, x, conv.depthwise)
        shape = (1, side, side, layer.c_out)
        low, high = {"relu6": (0.0, 6.0), "relu": (0.0, 20.0)}.get(conv.activation, (-10.0, 12.0))
        inside = conv.activation if conv.activation in FUSED and self.style.fused else "none"
        apart = conv.activation if inside == "none" and conv.activation != "none" else None
        if apart in FUSED and self.quantised:
            apart = None
        if apart is not None:
            low, high = -10.0, 12.0
        y = self._map(shape, low, high)
        name = "DEPTHWISE_CONV_2D" if conv.depthwise else "CONV_2D"
        options = {0: ("b", padding), 1: ("i", conv.stride), 2: ("i", conv.stride)}
        options |= {3: ("i", 1), 4: ("b", FUSED[inside])} if conv.depthwise else {3: ("b", FUSED[inside])}
        self.operator(name, [x, weight, bias], [y], 2 if conv.depthwise else 1, options)
        return y if apart is None else self._activation(apart, y)

    def _activation(self, kind: str, x: int) -> int:
        shape = self.shapes[x]
        if kind != "hard_swish" or self.style.hard_swish == "operator":
            y = self._map(shape, -0.375, 12.0) if kind == "hard_swish" else self._map(shape, 0.0, 6.0)
            self.operator({"hard_swish": "HARD_SWISH", "relu": "RELU", "relu6": "RELU6"}[kind], [x], [y])
            return y
        sigmoid = self._binary(
            "ADD", x, self._number(3.0), 11, 0.0, 6.0, "none" if self.quantised else "relu6"
        )
        if self.style.hard_swish == "after":
            product = self._binary("MUL", x, sigmoid, 21, -3, 60)
            return self._binary("MUL", product, self._number(1 / 6), 21, -0.375, 12)
        sigmoid = self._binary("MUL", sigmoid, self._number(1 / 6), 21, 0, 1)
        return self._binary("MUL", sigmoid, x, 21, -0.375, 12)

    def _gate(self, layer, x: int) -> int:
        pooled = self._pool(x)
        squeeze, channels = layer.op.squeeze, layer.c_in
        options = {1: ("i", 1), 2: ("i", 1), 3: ("b", 0 if self.quantised else 1)}
        inner = self._map((1, 1, 1, squeeze), 0.0, 8.0)
        self.operator(
            "CONV_2D", [pooled, *self._weight(f"{layer.path}.reduce", pooled, False)], [inner], 1, options
        )
        fused = self.style.folded_gate
        outer = self._map((1, 1, 1, channels), *((0.0, 6.0) if fused else (-10.0, 10.0)))
        options = {1: ("i", 1), 2: ("i", 1), 3: ("b", 3 if fused else 0)}
        weights = self._weight(f"{layer.path}.expand", inner, False, 3.0 if fused else 0.0)
        self.operator("CONV_2D", [inner, *weights], [outer], 1, options)
        if not fused:
            act = "none" if self.quantised else "relu6"
            outer = self._binary("ADD", outer, self._number(3.0), 11, 0.0, 6.0, act)
        gate = self._binary("MUL", outer, self._number(self.style.sixth), 21, 0.0, 1.0)
        return self._binary("MUL", x, gate, 21, -0.375, 12.0)

    def _pool(self, x: int) -> int:
        _, side, _, channels = self.shapes[x]
        y = self._like(x, (1, 1, 1, channels))
        if self.style.pool == "average":
            options = {0: ("b", 1), 1: ("i", 1), 2: ("i", 1), 3: ("i", side), 4: ("i", side)}
            self.operator("AVERAGE_POOL_2D", [x], [y], 5, options)
            return y
        axes = self.constant(np.array([1, 2], "<i4"), "int32")
        name = "SUM" if self.style.pool == "sum" else "MEAN"
        self.operator(name, [x, axes], [y], 27, {0: ("B", 1)})
        return self._binary("MUL", y, self._number(1 / side**2), 21, 0, 1) if name == "SUM" else y

    def _classifier(self, layer, x: int) -> int:
        if self.style.dense:
            x = self._unary("RESHAPE", x, (1, layer.c_in), np.array([1, layer.c_in], "<i4"))
        weight, bias = self._weight(layer.path, x, False)
        if not self.style.dense:
            y = self._map((1, 1, 1, layer.c_out), -20.0, 20.0)
            self.operator("CONV_2D", [x, weight, bias], [y], 1, {1: ("i", 1), 2: ("i", 1)})
            return y
        y = self._map((1, layer.c_out), -20.0, 20.0)
        self.operator("FULLY_CONNECTED", [x, weight, bias], [y], 8, {})
        return y


def write(spec: Spec, tensors, style: Style | None = None) -> bytes:
    """The network of `spec` with `tensors` (a checkpoint's) as a `.tflite` file."""
    return NetworkWriter(spec, tensors, style or Style()).write()
