"""What the compiled program does, in order, and where each map lies.

`plan` makes a list of steps of a folded network; gives every map the borders that its readers need;
puts kernels together in pairs and strips; and lays maps that are never alive together over each other in one
arena of known size.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from mobilenets import spec as specs
from mobilenets.compiler import folding
from mobilenets.compiler.folding import Attention, Convolution, Gate, Network
from mobilenets.compiler.gating import gate_weights
from mobilenets.compiler.pairs import in_pairs
from mobilenets.compiler.steps import (
    ALIGNMENT,
    BF16,
    FP32,
    Add,
    Convolve,
    Depthwise,
    Map,
    Normalise,
    Pack,
    PoolMap,
    Precision,
    Scale,
    Softmax,
    Step,
    behind_relu,
    ends_in_half,
    kernels,
    linear,
    read_by,
    written_by,
)
from mobilenets.compiler.strips import in_strips, lay_rings
from mobilenets.compiler.tiling import depthwise_pixels, even_pixels, tiling
from mobilenets.spec import Spec, output_size


class Place(NamedTuple):
    """Where a map lies in the arena, in floats, and the steps during which it is alive."""

    offset: int
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """The whole program."""

    spec: Spec
    precision: Precision
    """Of maps."""
    steps: tuple[Step, ...]
    places: dict[int, Place] = field(repr=False)
    """By `id` of a map that is held whole."""
    logits: Map
    arena_floats: int
    rings: dict[int, int] = field(repr=False)
    """By `id` of a map within a pair or a strip: its offset in a thread's own memory, in floats."""
    ring_floats: int

    @property
    def arena_bytes(self) -> int:
        """Memory for all maps that threads share: the exact peak."""
        return 4 * self.arena_floats

    @property
    def ring_bytes(self) -> int:
        """Memory that every thread has for itself."""
        return 4 * self.ring_floats

    @property
    def kernels(self) -> Iterable[Step]:
        """The steps, and of pairs and strips what they are made of."""
        for step in self.steps:
            yield from kernels(step)

    def offset(self, at: Map) -> int:
        """Where `at` lies in the arena, in floats."""
        return self.places[id(at)].offset


def plan(spec: Spec, network: Network, maps: Precision = FP32, weights: Precision = FP32) -> Plan:
    """The steps of `network`, which `fold` made of a checkpoint of `spec`.

    `weights` is the precision of those of convolutions: that of `maps`, or bf16 where maps are fp32.
    """
    builder = _Builder(spec, maps, weights)
    current = builder.picture()
    for index, block in enumerate(network.blocks):
        current = builder.block(f"blocks.{index}", block, current)
    current = builder.pool("pool", current)
    for convolution in network.head:
        current = builder.convolve(convolution, current)
    current.precision = FP32  # the logits, which nothing reads but the caller
    _share_borders(builder.steps)
    single = [linear(step) for step in builder.steps]
    single = [behind_relu(step, before) for before, step in zip([None, *single], single, strict=False)]
    steps = tuple(gate_weights(in_strips(in_pairs(single))))
    places, size = _allocate(steps, current)
    rings, ring_size = lay_rings(steps)
    return Plan(spec, maps, steps, places, current, size, rings, ring_size)


FEW = 16 * 1024
"""Weights of a convolution that stay fp32 beside maps in fp32: such convolutions have a thirtieth of a
network's weights, and rounding those may do two thirds of what rounding does to its logits (LOG.md)."""
_PIXELS_BF16 = 8
"""Of a tile of a depthwise convolution in bf16: two vectors of sums each, beside a row of its weights."""


class _Builder:
    """Collects steps; every method returns the map that its last step writes."""

    def __init__(self, spec: Spec, precision: Precision, weights_in: Precision):
        self.spec, self.precision, self.weights_in = spec, precision, weights_in
        self.steps: list[Step] = []

    def picture(self) -> Map:
        spec = self.spec
        seen = Map("picture", spec.channels, spec.resolution, spec.resolution, block=spec.channels)
        self.steps.append(Normalise("the picture, normalised", (), seen))
        return seen

    def map(self, name: str, channels: int, rows: int, columns: int) -> Map:
        return Map(name, channels, rows, columns, self.precision)

    def block(self, name: str, block: folding.Block, entering: Map) -> Map:
        if block.residual:  # the sum is of two maps that lie alike
            entering = self._in_blocks(entering)
        current = entering
        for index, operation in enumerate(block.operations):
            shortcut = entering if block.residual and index == len(block.operations) - 1 else None
            match operation:
                case Convolution() if operation.depthwise:
                    current = self.depthwise(operation, current)
                case Convolution():
                    current, shortcut = self.convolve(operation, current, add=shortcut), None
                case Gate():
                    current = self.gate(operation, current)
                case Attention():
                    current, shortcut = self.attention(operation, current, add=shortcut), None
            if shortcut is not None:
                total = replace(current, name=f"{name}.sum", left=0, right=0)
                self.steps.append(Add(f"{name}: the shortcut", (current, shortcut), total))
                current = total
        return current

    def convolve(self, convolution: Convolution, entering: Map, *, add: Map | None = None) -> Map:
        convolution = _with_whole_blocks(convolution, self.precision.block)
        size = output_size(entering.rows, convolution.stride)
        out = self.map(convolution.path, convolution.c_out, size, size)
        before = self._pad(entering, convolution, size)
        values = convolution.kernel**2 * convolution.c_in // convolution.groups
        self.steps.append(
            Convolve(
                _title(convolution, entering, out),
                (entering,),
                out,
                convolution,
                convolution.groups,
                convolution.activation,
                before,
                *tiling(
                    out,
                    entering,
                    convolution.groups,
                    values,
                    convolution.activation,
                    pointwise=convolution.pointwise,
                    half=ends_in_half(entering, out, convolution.groups, convolution.kernel),
                ),
                add=add,
                weights_in=self._weights_in(convolution, entering),
            )
        )
        return out

    def _weights_in(self, convolution: Convolution, entering: Map) -> Precision:
        few = self.precision == FP32 and convolution.weight.size <= FEW
        return FP32 if few or entering is self.steps[0].writes else self.weights_in

    def depthwise(self, convolution: Convolution, entering: Map) -> Map:
        entering = self._in_blocks(entering)
        size = output_size(entering.rows, convolution.stride)
        out = self.map(convolution.path, convolution.c_out, size, size)
        before = self._pad(entering, convolution, size)
        if self.precision == BF16:
            pixels: tuple[int, ...] = (even_pixels(size, _PIXELS_BF16),)
        else:
            pixels = depthwise_pixels(size, convolution.kernel, convolution.stride)
        title = _title(convolution, entering, out)
        self.steps.append(Depthwise(title, (entering,), out, convolution, before, pixels))
        return out

    def _in_blocks(self, entering: Map) -> Map:
        """A picture's pixels, one channel block each, for the kernels that are not made for pictures."""
        if entering.block == self.precision.block and entering.precision == self.precision:
            return entering
        weight = np.eye(entering.channels)[:, :, None, None]
        return self.convolve(Convolution("picture.blocks", weight, np.zeros(entering.channels)), entering)

    def _pad(self, entering: Map, convolution: Convolution, size: int) -> int:
        """Padding before the map; its borders grow to what this reader needs."""
        kernel, stride = convolution.kernel, convolution.stride
        before, _ = specs.padding_amounts(entering.rows, kernel, stride, self.spec.padding)
        entering.left = max(entering.left, before)
        entering.right = max(entering.right, (size - 1) * stride + kernel - before - entering.columns)
        return before

    def pool(self, name: str, entering: Map) -> Map:
        entering = self._in_blocks(entering)
        means = self.map(name, entering.channels, 1, 1)
        pixels, last = entering.rows * entering.columns, self.steps[-1]
        if isinstance(last, Depthwise) and last.writes is entering and entering.precision == FP32:
            sums = self.map(f"{name}.rows", entering.channels, entering.rows, 1)
            self.steps[-1] = replace(last, sums=sums)
            entering = sums
        self.steps.append(PoolMap(f"{name}: the mean of each channel", (entering,), means, pixels))
        return means

    def gate(self, gate: Gate, entering: Map) -> Map:
        entering = self._in_blocks(entering)
        means = self.pool(f"{gate.path}.pool", entering)
        gates = self.convolve(gate.expand, self.convolve(gate.reduce, means))
        self.steps.append(Scale(f"{gate.path}: every channel times its gate", (entering, gates), entering))
        return entering

    def attention(self, attention: Attention, entering: Map, *, add: Map | None) -> Map:
        heads, dim = attention.heads, attention.key.c_out
        entering = self.depthwise(attention.norm, entering)
        wide = self._filled(dim)
        query = self.convolve(_heads_out(attention.query, heads, dim, wide), entering)
        key = self._one_head(attention.key_reduce, attention.key, entering)
        value = self._one_head(attention.value_reduce, attention.value, entering)
        keys = key.rows * key.columns
        padded = self._filled(keys)
        scores = self.map(f"{attention.path}.scores", heads * padded, entering.rows, entering.columns)
        mixed = self.map(f"{attention.path}.mixed", heads * wide, entering.rows, entering.columns)
        self._product(f"{attention.path}: queries times keys", query, key, "keys", heads, wide, scores)
        self.steps.append(Softmax(f"{attention.path}: softmax", (scores,), scores, keys, heads))
        self._product(f"{attention.path}: scores times values", scores, value, "values", heads, padded, mixed)
        return self.convolve(_heads_in(attention.output, heads, dim, wide), mixed, add=add)

    def _filled(self, channels: int) -> int:
        """`channels` filled up to whole blocks."""
        return -(-channels // self.precision.block) * self.precision.block

    def _one_head(self, reduce: Convolution | None, convolution: Convolution, entering: Map) -> Map:
        """The keys or the values, which all heads share."""
        return self.convolve(convolution, self.depthwise(reduce, entering) if reduce else entering)

    def _product(
        self, title: str, left: Map, right: Map, what: str, heads: int, values: int, out: Map
    ) -> None:
        """`left` times `right`, head by head, as a convolution whose weights are `right`."""
        tiles, panel, panels_first = tiling(out, left, heads, values, "none", pointwise=True)
        weights = self.map(f"{right.name}.packed", values * out.blocks // heads * out.block, 1, 1)
        self.steps.append(Pack(f"{right.name} as weights", (right,), weights, what, panel))
        self.steps.append(
            Convolve(title, (left, weights), out, None, heads, "none", 0, tiles, panel, panels_first)
        )


def _title(convolution: Convolution, entering: Map, out: Map) -> str:
    kind = "depthwise " if convolution.depthwise else ""
    side = f"{kind}{convolution.kernel} × {convolution.kernel}"
    stride = f", stride {convolution.stride}" if convolution.stride > 1 else ""
    active = "" if convolution.activation == "none" else f", {convolution.activation}"
    maps = f"{entering.channels} × {entering.rows} × {entering.columns} → "
    return f"{convolution.path}: {side}{stride}, {maps}{out.channels} × {out.rows} × {out.columns}{active}"


def _with_whole_blocks(convolution: Convolution, block: int) -> Convolution:
    """Groups that do not fill whole blocks become one group, with zeros for weights between groups."""
    groups, (out, inputs, _, _) = convolution.groups, convolution.weight.shape
    if groups == 1 or (inputs % block == 0 and out // groups % block == 0):
        return convolution
    dense = np.zeros((out, inputs * groups, convolution.kernel, convolution.kernel))
    each = out // groups
    for group in range(groups):
        rows = slice(group * each, (group + 1) * each)
        dense[rows, group * inputs : (group + 1) * inputs] = convolution.weight[rows]
    return replace(convolution, weight=dense, groups=1)


def _heads_out(convolution: Convolution, heads: int, dim: int, wide: int) -> Convolution:
    """Every head's output channels, `dim`, filled up to `wide`."""
    weight = convolution.weight.reshape(heads, dim, -1)
    filled = np.pad(weight, ((0, 0), (0, wide - dim), (0, 0)))
    rows = heads * wide
    return replace(convolution, weight=filled.reshape(rows, -1, 1, 1), bias=np.zeros(rows))


def _heads_in(convolution: Convolution, heads: int, dim: int, wide: int) -> Convolution:
    """The same for the input channels."""
    weight = convolution.weight.reshape(-1, heads, dim)
    filled = np.pad(weight, ((0, 0), (0, 0), (0, wide - dim)))
    return replace(convolution, weight=filled.reshape(len(weight), -1, 1, 1))


def _share_borders(steps: Sequence[Step]) -> None:
    """A shortcut lies like the map that it is added to: one address does for both."""
    pairs = [(step.writes, step.add) for step in steps if isinstance(step, Convolve) and step.add is not None]
    for _ in pairs:  # a border travels along a chain of shortcuts, whose length this bounds
        for out, add in pairs:
            out.left = add.left = max(out.left, add.left)
            out.right = add.right = max(out.right, add.right)


def _allocate(steps: Sequence[Step], logits: Map) -> tuple[dict[int, Place], int]:
    """Places for all maps: the largest first, each as low as those alive at the same time allow."""
    spans: dict[int, tuple[Map, int, int]] = {}
    for index, step in enumerate(steps):
        for at in (*read_by(step), *written_by(step)):
            _, first, _ = spans.get(id(at), (at, index, index))
            spans[id(at)] = (at, first, index)
    at, first, _ = spans[id(logits)]
    spans[id(logits)] = (at, first, len(steps))
    places: dict[int, Place] = {}
    sizes: dict[int, int] = {}
    for at, first, last in sorted(spans.values(), key=lambda span: (-span[0].floats, span[1])):
        size = -(-at.floats // ALIGNMENT) * ALIGNMENT
        taken = sorted(
            (place.offset, place.offset + sizes[key])
            for key, place in places.items()
            if place.first <= last and first <= place.last
        )
        offset = 0
        for start, end in taken:
            if offset + size <= start:
                break
            offset = max(offset, end)
        places[id(at)], sizes[id(at)] = Place(offset, first, last), size
    return places, max(place.offset + sizes[key] for key, place in places.items())
