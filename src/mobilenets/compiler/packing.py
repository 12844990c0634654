"""Weights in the order in which the kernels read them, in one array with an offset for each."""

import math

import numpy as np
from numpy.typing import NDArray

from mobilenets.compiler.folding import Convolution
from mobilenets.compiler.planning import Plan
from mobilenets.compiler.steps import ALIGNMENT, BLOCK, Convolve, Depthwise, Normalise


class Weights:
    """Collects packed fp32 arrays; every one starts at a cache line."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.float32]] = []
        self._size = 0

    def add(self, values: NDArray[np.float64]) -> int:
        """Append `values`, rounded to fp32; the offset in floats where they begin."""
        flat = values.astype(np.float32).reshape(-1)
        filled = np.zeros(-(-flat.size // ALIGNMENT) * ALIGNMENT, np.float32)
        filled[: flat.size] = flat
        self._parts.append(filled)
        self._size += filled.size
        return self._size - filled.size

    def array(self) -> NDArray[np.float32]:
        """All of them."""
        return np.concatenate(self._parts)


def _fill(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first axis filled up with zeros to whole blocks."""
    missing = -len(values) % BLOCK
    return np.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1))


def pack_bias(convolution: Convolution) -> NDArray[np.float64]:
    """One value per output channel, to whole blocks."""
    return _fill(convolution.bias)


def pack_convolution(convolution: Convolution, panel: int) -> NDArray[np.float64]:
    """[group][panel][ky][kx][input channel][channel of the panel]; the last panel of a group is narrower."""
    parts = []
    for group in np.split(convolution.weight, convolution.groups):
        weight = _fill(group).transpose(2, 3, 1, 0)
        for start in range(0, weight.shape[-1], panel):
            parts.append(weight[..., start : start + panel].reshape(-1))
    return np.concatenate(parts)


def pack_depthwise(convolution: Convolution) -> NDArray[np.float64]:
    """[block][ky][kx][channel of the block]."""
    filled = _fill(convolution.weight[:, 0])
    kernel = convolution.kernel
    return filled.reshape(-1, BLOCK, kernel, kernel).transpose(0, 2, 3, 1)


def weights_bytes(plan: Plan) -> int:
    """What all of them take packed, fill included, without packing them."""
    floats = 0
    for step in plan.kernels:
        if isinstance(step, Normalise):  # a factor and an offset for every value of a row
            floats += 2 * _whole(step.writes.channels * step.writes.columns, ALIGNMENT)
        elif isinstance(step, Convolve | Depthwise) and step.convolution is not None:
            floats += _packed_floats(step.convolution)
    return 4 * floats


def _packed_floats(convolution: Convolution) -> int:
    """Its weights and its bias."""
    groups = 1 if convolution.depthwise else convolution.groups
    filled = groups * _whole(convolution.c_out // groups, BLOCK)
    return filled * math.prod(convolution.weight.shape[1:]) + _whole(convolution.c_out, BLOCK)


def _whole(values: int, unit: int) -> int:
    return -(-values // unit) * unit
