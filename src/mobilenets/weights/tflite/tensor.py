"""A tensor of a TFLite graph, and how its bytes become float."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilenets.errors import CheckpointError
from mobilenets.text import count, printable

# TensorType: its name, and numpy's type where the values can be read.
KINDS = {
    0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 9: "int8",
    10: "float64", 17: "int4", 18: "bfloat16",
}  # fmt: skip
_DTYPES = {
    "float32": "<f4", "float16": "<f2", "int32": "<i4", "uint8": "u1", "int64": "<i8", "int16": "<i2",
    "int8": "i1",
}  # fmt: skip


@dataclass(frozen=True)
class Quantization:
    """value = (q − zero_point) · scale; one number each, or one for every index of `axis`."""

    scale: NDArray[np.float64]
    zero_point: NDArray[np.float64]
    axis: int


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph: a constant where it has data, else something that is computed."""

    index: int
    name: str
    kind: str
    """`float32`, `uint8` …, or `type N` for one that the schema had not when this was written."""
    shape: tuple[int, ...]
    """Sizes as written; empty for a scalar, and in files that leave activations without a shape."""
    data: memoryview | None
    quantization: Quantization | None
    sparse: bool = False

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"tensor {self.index} '{printable(self.name[:80])}'"

    @property
    def limits(self) -> tuple[float, float] | None:
        """The least and the largest value that its quantised form can hold, or `None` for a float."""
        if (
            self.quantization is None
            or self.kind not in ("uint8", "int8")
            or self.quantization.scale.size != 1
        ):
            return None
        least, most = (0, 255) if self.kind == "uint8" else (-128, 127)
        zero, scale = float(self.quantization.zero_point[0]), float(self.quantization.scale[0])
        return (least - zero) * scale, (most - zero) * scale

    def _raw(self) -> NDArray[np.generic]:
        if self.data is None:
            raise CheckpointError(f"{self.label} holds no data; weights must be stored in the file itself.")
        if self.kind not in _DTYPES or self.sparse:
            kind = f"sparse {self.kind}" if self.sparse else self.kind
            raise CheckpointError(f"{self.label} is {kind}; accepted: dense {', '.join(_DTYPES)}.")
        if any(side < 1 for side in self.shape):
            raise CheckpointError(f"{self.label} has shape {self.shape}: the file is damaged.")
        dtype = np.dtype(_DTYPES[self.kind])
        expected = math.prod(self.shape) * dtype.itemsize
        if expected != len(self.data):
            raise CheckpointError(
                f"{self.label} has shape {self.shape} of {self.kind}, which is {expected} bytes; "
                f"{len(self.data)} are stored: the file is damaged."
            )
        return np.frombuffer(self.data, dtype).reshape(self.shape)

    def integers(self) -> tuple[int, ...]:
        """The values of a small constant of whole numbers (axes, shapes, paddings), flattened."""
        raw = self._raw()
        if raw.dtype.kind not in "iu" or raw.size > 64:
            raise CheckpointError(
                f"{self.label} must be a few whole numbers; it is {self.kind} {self.shape}."
            )
        return tuple(int(value) for value in raw.ravel())

    def values(self) -> NDArray[np.float32]:
        """The values as float: (q − zero point) · scale where quantised. All finite."""
        raw = self._raw()
        wide = raw.astype(np.float64)
        if raw.dtype.kind in "iu":
            if self.quantization is None:
                raise CheckpointError(f"{self.label} is {self.kind} without a scale; weights need one.")
            zero, scale = self._along_axis(self.quantization)
            with np.errstate(over="ignore"):
                wide = (wide - zero) * scale
        if not bool((np.abs(wide) <= np.finfo(np.float32).max).all()):  # false for NaN as well
            raise CheckpointError(f"{self.label} has NaN or infinity in it.")
        return wide.astype(np.float32)

    def _along_axis(self, q: Quantization) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if q.scale.size == 1:
            return q.zero_point[:1], q.scale
        if not 0 <= q.axis < len(self.shape) or self.shape[q.axis] != q.scale.size:
            raise CheckpointError(
                f"{self.label} has {count(q.scale.size, 'scale')} along dimension {q.axis} "
                f"of shape {self.shape}: the file is damaged."
            )
        shape = [1] * len(self.shape)
        shape[q.axis] = q.scale.size
        zero = q.zero_point if q.zero_point.size == q.scale.size else np.resize(q.zero_point, q.scale.size)
        return zero.reshape(shape), q.scale.reshape(shape)
