"""Weights in the order in which the kernels read them, in one array with an offset for each."""

from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from mobilenets.compiler.folding import Convolution
from mobilenets.compiler.planning import Plan
from mobilenets.compiler.steps import (
    ALIGNMENT,
    BF16,
    FP32,
    Add,
    Convolve,
    Depthwise,
    Linear,
    Normalise,
    Pack,
    Pair,
    PoolMap,
    Scale,
    ScaleWeights,
    Softmax,
    Step,
    Strip,
    kernels,
)


class Weights:
    """Collects packed arrays in one of fp32; every one starts at a cache line."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.float32]] = []
        self._size = 0

    def add(self, values: NDArray[np.float64]) -> int:
        """Append `values`, rounded to fp32; the offset in floats where they begin."""
        return self._append(values.astype(np.float32).reshape(-1))

    def add_bf16(self, values: NDArray[np.float64]) -> int:
        """Append `values` rounded to bf16, two in the place of a float; the offset in floats."""
        return self._append(to_bf16(values).reshape(-1).view(np.float32))

    def add_upper(self, words: NDArray[np.int64]) -> int:
        """Append the upper halves of `words`, as `upper_halves` makes them; the offset in floats."""
        before = int(self._parts[-1].view(np.uint16)[-1]) if self._parts else 0
        return self._append(upper_halves(words, before).view(np.float32))

    def add_words(self, values: NDArray[np.int32]) -> int:
        """Append `values`, each in the place of a float; the offset in floats."""
        return self._append(values.view(np.float32))

    def _append(self, flat: NDArray[np.float32]) -> int:
        filled = np.zeros(-(-flat.size // ALIGNMENT) * ALIGNMENT, np.float32)
        filled[: flat.size] = flat
        self._parts.append(filled)
        self._size += filled.size
        return self._size - filled.size

    def array(self) -> NDArray[np.float32]:
        """All of them."""
        return np.concatenate(self._parts)


def to_bf16(values: NDArray[np.float64]) -> NDArray[np.uint16]:
    """The bits of the nearest bf16 of finite `values`, ties to even; values below 2⁻¹²⁶ become 0."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.abs(values) < 2.0**-126, 0, rounded).astype(np.uint16)


_LEAST = 2.0**-100
"""What stands for smaller bf16: 0 with another one below it would be a number that slows products."""


def bits_of(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bits of finite `values` in fp32, of which `upper_halves` makes bf16."""
    sizes = np.maximum(np.abs(values), _LEAST).astype(np.float32).view(np.int32).astype(np.int64)
    return np.where(values < 0, sizes - 2**31, sizes).reshape(-1)


def upper_halves(words: NDArray[np.int64], before: int) -> NDArray[np.uint16]:
    """16 bits that stand for each word of 32: with those before them for a lower half, the nearest to it.

    So a kernel reads one in each half of a word without taking them apart (`load_upper` in `c/vectors.h`):
    the upper one as the word, the lower one as the word that begins two bytes before. `before` is what lies
    there for the first one.
    """
    halves = np.round(words / 65536).astype(np.int64)
    moved = np.arange(len(words))  # those whose lower half is another one than was thought
    while moved.size:
        below = np.where(moved > 0, halves[moved - 1] & 0xFFFF, before)
        nearer = np.round((words[moved] - below) / 65536).astype(np.int64)
        changed = moved[nearer != halves[moved]]
        halves[moved] = nearer
        moved = changed[changed + 1 < len(words)] + 1
    return halves.astype(np.uint16)


def _fill(values: NDArray[np.float64], block: int) -> NDArray[np.float64]:
    """The first axis filled up with zeros to whole blocks."""
    missing = -len(values) % block
    return np.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1))


def pack_bias(convolution: Convolution, block: int) -> NDArray[np.float64]:
    """One value per output channel, to whole blocks."""
    return _fill(convolution.bias, block)


def pack_convolution(
    convolution: Convolution, panel: int, block: int, *, half: bool = False, in_twos: int = 1
) -> NDArray[np.float64]:
    """[group][panel][ky][kx][input channel][channel of the panel]; the last panel of a group is narrower.

    Where there is a `half` of a block, it lies behind the others: [pair of inputs][channel][of the pair].
    For weights of 16 bits, rows of either are `in_twos`: [two inputs or pairs][place in the row][of the two].
    """
    parts, last = [], []
    weights = convolution.weight
    if half:
        whole = len(weights) // block * block
        rest = _fill(weights[whole:, :, 0, 0], block // 2)
        rows = rest.reshape(block // 2, -1, 2).transpose(1, 0, 2).reshape(-1, block)
        last = [_together(rows, in_twos).reshape(-1)]
        weights = weights[:whole]
    for group in np.split(weights, convolution.groups):
        weight = _fill(group, block).transpose(2, 3, 1, 0)
        for start in range(0, weight.shape[-1], panel):
            parts.append(_together(weight[..., start : start + panel], in_twos).reshape(-1))
    return np.concatenate(parts + last)


def _together(rows: NDArray[np.float64], together: int) -> NDArray[np.float64]:
    """[…][row][place] as […][rows together][place][row of those], filled up with zeros."""
    missing = -rows.shape[-2] % together
    filled = np.pad(rows, [(0, 0)] * (rows.ndim - 2) + [(0, missing), (0, 0)])
    return filled.reshape(*filled.shape[:-2], -1, together, filled.shape[-1]).swapaxes(-1, -2)


def pack_pairs(convolution: Convolution) -> NDArray[np.float64]:
    """For products of pairs, in blocks and halves of blocks of outputs.

    [group][block of outputs][ky][kx][block of inputs][half][pair of inputs][output][of the pair]
    """
    block, kernel = BF16.block, convolution.kernel
    parts = []
    for group in np.split(convolution.weight, convolution.groups):
        whole = _fill(_fill(group, block).transpose(1, 0, 2, 3), block)
        inputs, outputs = len(whole) // block, whole.shape[1] // block
        apart = whole.reshape(inputs, block // 2, 2, outputs, 2, block // 2, kernel, kernel)
        parts.append(apart.transpose(3, 6, 7, 0, 4, 1, 5, 2).reshape(-1))
    return np.concatenate(parts)


def pack_depthwise(convolution: Convolution, block: int) -> NDArray[np.float64]:
    """[block][ky][kx][channel of the block]."""
    filled = _fill(convolution.weight[:, 0], block)
    kernel = convolution.kernel
    return filled.reshape(-1, block, kernel, kernel).transpose(0, 2, 3, 1)


def pack_linear(convolution: Convolution, words: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Weights of 21 bits, three in two `words`, or of 24, four in three, and the unit of each channel.

    [blocks together][input][words][channel of a block]. The largest weight of a channel is nearly 2³¹ units
    of a word's lowest bit. The last weight's bits are the lowest of the words; what they add to the others
    is taken off before those are rounded. So every weight is as near as 1.1 · 2⁻²¹ or 2⁻²⁴ of the channel's
    largest.
    """
    below = {2: (11, 10), 3: (8, 8, 8)}[words]  # bits of the last weight in each word
    free = 32 - sum(below)  # of every word, for the last weight
    values, units = _side_by_side(convolution, words + 1, 2**31 - 2 ** (free + 1))
    last = np.round(values[..., words, :] / 2**free).astype(np.int64)
    after = [sum(below[place + 1 :]) for place in range(words)]
    lowest = np.stack(
        [last >> shift & 2**bits - 1 for shift, bits in zip(after, below, strict=True)], axis=-2
    )
    packed = 2**free * np.round((values[..., :words, :] - lowest) / 2**free).astype(np.int64) + lowest
    return packed.astype(np.int32).reshape(-1), units


def pack_linear_upper(convolution: Convolution) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The same for `Weights.add_upper`, which keeps 16 bits: [two blocks][input][channel][of two]."""
    twos, units = _side_by_side(convolution, 2, 2**31 - 2**17)
    return np.round(twos.swapaxes(-1, -2)).astype(np.int64).reshape(-1), units


def _side_by_side(
    convolution: Convolution, together: int, most: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[blocks together][input][block of those][channel], the largest of a channel `most` units; the units."""
    block = FP32.block
    weight = _fill(convolution.weight[:, :, 0, 0], block)
    largest = np.abs(weight).max(axis=1, keepdims=True)
    units = np.maximum(largest / most, 2.0**-126).astype(np.float32).astype(np.float64)
    values = _fill(weight / units, together * block)
    return values.reshape(-1, together, block, values.shape[1]).transpose(0, 3, 1, 2), units[:, 0]


def evens_first(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every block of bf16's as its even and then its odd channels, the order in which they are read."""
    return values.reshape(-1, BF16.block // 2, 2).swapaxes(1, 2)


def weights_bytes(plan: Plan) -> int:
    """What all of them take packed, fill included, without packing them."""
    return FP32.size * sum(packed_floats(step) for step in plan.kernels)


def packed_floats(step: Step) -> int:
    """What one kernel's weights take, fill and bias included, in floats."""
    floats = 0
    match step:
        case Normalise():  # a factor and an offset for every value of a row
            floats = 2 * _whole(step.writes.channels * step.writes.columns, ALIGNMENT)
        case Linear():
            outputs, inputs = step.writes.blocks * step.writes.block, step.reads[0].channels
            floats = step.units * inputs * step.words * FP32.block + 2 * outputs
        case Depthwise():
            floats = (step.kernel**2 + 1) * step.writes.blocks * step.writes.block
        case ScaleWeights() if step.convolve.convolution is not None:
            floats = _packed_convolution(step.convolve, step.convolve.convolution)
        case Convolve() if step.convolution is not None:
            weights = 0 if step.own is None else _packed_convolution(step, step.own)
            floats = weights + step.writes.blocks * step.writes.block
        case Convolve() | ScaleWeights() | PoolMap() | Scale() | Add() | Pack() | Softmax():
            pass  # of attention, a convolution's weights are a map
        case Pair() | Strip():
            floats = sum(map(packed_floats, kernels(step)))
        case _:
            assert_never(step)
    return floats


def _packed_convolution(step: Convolve, convolution: Convolution) -> int:
    """Its weights, in floats."""
    block, each = step.writes.block, convolution.c_out // convolution.groups
    inputs, outputs = convolution.weight.shape[1], convolution.groups * _whole(each, block)
    rows = -(-inputs // step.in_twos)
    if step.reads[0].precision == BF16:
        rows = _whole(inputs, block) * BF16.size // FP32.size
    floats = outputs * rows * step.kernel**2
    if step.half:  # a row of the last block is a pair of inputs
        floats += block * (-(-inputs // 2 // step.in_twos) - rows)
    return _whole(floats, ALIGNMENT)


def _whole(values: int, unit: int) -> int:
    return -(-values // unit) * unit
