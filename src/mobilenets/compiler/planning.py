"""What the compiled program does, in order: steps over feature maps, their tiles, and where each map lies.

A `Step` is one call of a kernel on the whole of a map. `plan` chooses for each convolution how many
pixels and output channels a tile holds, by vector length, and which loop is the outer one; gives every map
the borders that its readers need; and lays maps that are never alive together over each other in one
arena of known size.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from mobilenets import spec as specs
from mobilenets.compiler import folding
from mobilenets.compiler.folding import Activation, Attention, Convolution, Gate, Network
from mobilenets.spec import Spec, output_size

BLOCK = 16
"""Channels of a block of a map: the longest vector, so that one packing serves all."""
ALIGNMENT = 16
"""Floats: a cache line."""


@dataclass
class Map:
    """A feature map in the arena; see `c/kernels.h` for its layout."""

    name: str
    channels: int
    rows: int
    columns: int
    block: int = BLOCK
    left: int = 0
    """Columns of zeros, as many as a reader's padding needs."""
    right: int = 0
    ring: int = 0
    """Rows that are held at a time, where it is not all of them."""

    @property
    def held(self) -> int:
        """Rows in memory."""
        return self.ring or self.rows

    @property
    def blocks(self) -> int:
        """Blocks of channels."""
        return -(-self.channels // self.block)

    @property
    def values(self) -> int:
        """Those that mean something."""
        return self.rows * self.columns * self.channels

    @property
    def floats(self) -> int:
        """Values that it takes, borders and fill included."""
        return self.held * self.blocks * (self.left + self.columns + self.right) * self.block


class Tile(NamedTuple):
    """Pixels of each of `tall` rows × vectors of output channels, whose sums are held in registers."""

    pixels: int
    vectors: int
    tall: int = 1


class Registers(NamedTuple):
    """What one kind of vector offers: its floats, and how many sums fit beside the operands."""

    lanes: int
    sums: int


REGISTERS = {
    "avx512": Registers(16, 28),
    "avx": Registers(8, 12),
    "neon": Registers(4, 24),
    "sse": Registers(4, 12),
    "scalar": Registers(1, 12),
}
"""By kind of vector, in the order of the arguments of the macro `PICK` of `c/vectors.h`."""


@dataclass(frozen=True)
class _Step:
    """One kernel over `reads`, writing `writes`."""

    title: str
    reads: tuple[Map, ...]
    writes: Map

    @property
    def units(self) -> int:
        """Into how many pieces the step can be cut for threads."""
        return self.writes.rows

    @property
    def macs(self) -> int:
        """Multiply-adds, where it has any worth counting."""
        return 0

    @property
    def bytes_moved(self) -> int:
        """What it reads and writes, once each, as fp32."""
        return 4 * (sum(at.values for at in self.reads) + self.writes.values)


@dataclass(frozen=True)
class Normalise(_Step):
    """The picture's bytes to numbers."""


@dataclass(frozen=True)
class Convolve(_Step):
    """A convolution, and the sum with the shortcut where `add`.

    Its weights are `convolution`'s, or where that is `None` the packed map `reads[1]`, the same for
    every group.
    """

    convolution: Convolution | None
    groups: int
    activation: Activation
    before: int
    tiles: tuple[Tile, ...]
    """One for each of `REGISTERS`."""
    panel: int
    panels_first: bool
    add: Map | None = None

    @property
    def kernel(self) -> int:
        """Side of the filter."""
        return self.convolution.kernel if self.convolution else 1

    @property
    def stride(self) -> int:
        """Stride of the filter."""
        return self.convolution.stride if self.convolution else 1

    @property
    def panels(self) -> int:
        """Panels of output channels, over all groups."""
        return self.groups * -(-self.writes.blocks // self.groups * BLOCK // self.panel)

    @property
    def macs(self) -> int:
        """Inputs of a sum times sums."""
        if self.convolution is not None:
            return int(self.convolution.weight[0].size) * self.writes.values
        width = self.writes.blocks // self.groups * BLOCK  # of the packed map, which every head reads
        return self.reads[1].channels // width * self.writes.values

    @property
    def bytes_moved(self) -> int:
        """Its maps, its weights, and the shortcut."""
        weights = 0 if self.convolution is None else self.convolution.weight.size
        added = 0 if self.add is None else self.add.values
        return super().bytes_moved + 4 * (weights + added)

    @property
    def units(self) -> int:
        """Panels, where they are the outer loop, else rows."""
        return self.panels if self.panels_first else self.writes.rows


@dataclass(frozen=True)
class Depthwise(_Step):
    """A depthwise convolution."""

    convolution: Convolution
    before: int
    pixels: tuple[int, ...]
    """One for each of `REGISTERS`."""

    @property
    def kernel(self) -> int:
        """Side of the filter."""
        return self.convolution.kernel

    @property
    def stride(self) -> int:
        """Stride of the filter."""
        return self.convolution.stride

    @property
    def macs(self) -> int:
        """Values of a filter times values of the map."""
        return self.kernel**2 * self.writes.values

    @property
    def bytes_moved(self) -> int:
        """Its maps and its weights."""
        return super().bytes_moved + 4 * self.convolution.weight.size


@dataclass(frozen=True)
class PoolMap(_Step):
    """Global average pooling."""

    @property
    def units(self) -> int:
        """Blocks of channels."""
        return self.writes.blocks


@dataclass(frozen=True)
class Scale(_Step):
    """A map times its gates, in place: `reads` is the map and the gates, `writes` the map again."""


@dataclass(frozen=True)
class Add(_Step):
    """The shortcut, where no convolution stands in front of it."""


@dataclass(frozen=True)
class Pack(_Step):
    """Attention's keys or values, as the weights of a convolution."""

    what: str
    """`keys` or `values`."""
    panel: int

    @property
    def units(self) -> int:
        """It is not cut."""
        return 1


@dataclass(frozen=True)
class Softmax(_Step):
    """Attention's softmax over the keys, in place."""

    keys: int
    heads: int


Stage = Normalise | Convolve | Depthwise


@dataclass(frozen=True)
class Strip(_Step):
    """Kernels in a chain, row by row: between them only the rows are held that the next one reads."""

    stages: tuple[Stage, ...]

    @property
    def rings(self) -> tuple[Map, ...]:
        """The maps between the stages, of which every thread has its own."""
        return tuple(stage.writes for stage in self.stages[:-1])

    @property
    def macs(self) -> int:
        """Those of its stages."""
        return sum(stage.macs for stage in self.stages)

    @property
    def bytes_moved(self) -> int:
        """Those of its stages without the maps between them, which stay in the cache."""
        return sum(stage.bytes_moved for stage in self.stages) - 8 * sum(ring.values for ring in self.rings)


Step = Normalise | Convolve | Depthwise | PoolMap | Scale | Add | Pack | Softmax | Strip


class Place(NamedTuple):
    """Where a map lies in the arena, in floats, and the steps during which it is alive."""

    offset: int
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """The whole program."""

    spec: Spec
    steps: tuple[Step, ...]
    places: dict[int, Place] = field(repr=False)
    """By `id` of a map that is held whole."""
    logits: Map
    arena_floats: int
    rings: dict[int, int] = field(repr=False)
    """By `id` of a map between the stages of a strip: its offset in a thread's own memory, in floats."""
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
        """The steps, and where they are strips their stages."""
        for step in self.steps:
            yield from step.stages if isinstance(step, Strip) else (step,)

    def offset(self, at: Map) -> int:
        """Where `at` lies in the arena, in floats."""
        return self.places[id(at)].offset


def plan(spec: Spec, network: Network) -> Plan:
    """The steps of `network`, which `fold` made of a checkpoint of `spec`."""
    builder = _Builder(spec)
    current = builder.picture()
    for index, block in enumerate(network.blocks):
        current = builder.block(f"blocks.{index}", block, current)
    current = builder.pool("pool", current)
    for convolution in network.head:
        current = builder.convolve(convolution, current)
    _share_borders(builder.steps)
    steps = _in_strips(builder.steps)
    places, size = _allocate(steps, current)
    rings, ring_size = _lay_rings(steps)
    return Plan(spec, steps, places, current, size, rings, ring_size)


class _Builder:
    """Collects steps; every method returns the map that its last step writes."""

    def __init__(self, spec: Spec):
        self.spec = spec
        self.steps: list[Step] = []

    def picture(self) -> Map:
        spec = self.spec
        seen = Map("picture", spec.channels, spec.resolution, spec.resolution, block=spec.channels)
        self.steps.append(Normalise("the picture, normalised", (), seen))
        return seen

    def block(self, name: str, block: folding.Block, entering: Map) -> Map:
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
        convolution = _with_whole_blocks(convolution)
        size = output_size(entering.rows, convolution.stride)
        out = Map(convolution.path, convolution.c_out, size, size)
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
                *_tiling(out, entering, convolution.groups, values, pointwise=convolution.pointwise),
                add=add,
            )
        )
        return out

    def depthwise(self, convolution: Convolution, entering: Map) -> Map:
        entering = self._in_blocks(entering)
        size = output_size(entering.rows, convolution.stride)
        out = Map(convolution.path, convolution.c_out, size, size)
        before = self._pad(entering, convolution, size)
        pixels = tuple(_even_pixels(size, min(14, kind.sums - 5)) for kind in REGISTERS.values())
        title = _title(convolution, entering, out)
        self.steps.append(Depthwise(title, (entering,), out, convolution, before, pixels))
        return out

    def _in_blocks(self, entering: Map) -> Map:
        """A picture's pixels, one channel block each, for the kernels that are not made for pictures."""
        if entering.block == BLOCK:
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
        means = Map(name, entering.channels, 1, 1)
        self.steps.append(PoolMap(f"{name}: the mean of each channel", (entering,), means))
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
        query = self.convolve(_heads_out(attention.query, heads, dim), entering)
        key = self._one_head(attention.key_reduce, attention.key, entering)
        value = self._one_head(attention.value_reduce, attention.value, entering)
        keys = key.rows * key.columns
        padded, wide = _whole_blocks(keys), _whole_blocks(dim)
        scores = Map(f"{attention.path}.scores", heads * padded, entering.rows, entering.columns)
        mixed = Map(f"{attention.path}.mixed", heads * wide, entering.rows, entering.columns)
        self._product(f"{attention.path}: queries times keys", query, key, "keys", heads, wide, scores)
        self.steps.append(Softmax(f"{attention.path}: softmax", (scores,), scores, keys, heads))
        self._product(f"{attention.path}: scores times values", scores, value, "values", heads, padded, mixed)
        return self.convolve(_heads_in(attention.output, heads, dim), mixed, add=add)

    def _one_head(self, reduce: Convolution | None, convolution: Convolution, entering: Map) -> Map:
        """The keys or the values, which all heads share."""
        return self.convolve(convolution, self.depthwise(reduce, entering) if reduce else entering)

    def _product(
        self, title: str, left: Map, right: Map, what: str, heads: int, values: int, out: Map
    ) -> None:
        """`left` times `right`, head by head, as a convolution whose weights are `right`."""
        tiles, panel, panels_first = _tiling(out, left, heads, values, pointwise=True)
        weights = Map(f"{right.name}.packed", values * out.blocks // heads * BLOCK, 1, 1)
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


def _whole_blocks(channels: int) -> int:
    return -(-channels // BLOCK) * BLOCK


def _with_whole_blocks(convolution: Convolution) -> Convolution:
    """Groups that do not fill whole blocks become one group, with zeros for weights between groups."""
    groups, (out, inputs, _, _) = convolution.groups, convolution.weight.shape
    if groups == 1 or (inputs % BLOCK == 0 and out // groups % BLOCK == 0):
        return convolution
    dense = np.zeros((out, inputs * groups, convolution.kernel, convolution.kernel))
    each = out // groups
    for group in range(groups):
        rows = slice(group * each, (group + 1) * each)
        dense[rows, group * inputs : (group + 1) * inputs] = convolution.weight[rows]
    return replace(convolution, weight=dense, groups=1)


def _heads_out(convolution: Convolution, heads: int, dim: int) -> Convolution:
    """Every head's output channels filled up to whole blocks."""
    weight = convolution.weight.reshape(heads, dim, -1)
    filled = np.pad(weight, ((0, 0), (0, _whole_blocks(dim) - dim), (0, 0)))
    rows = heads * _whole_blocks(dim)
    return replace(convolution, weight=filled.reshape(rows, -1, 1, 1), bias=np.zeros(rows))


def _heads_in(convolution: Convolution, heads: int, dim: int) -> Convolution:
    """The same for the input channels."""
    weight = convolution.weight.reshape(-1, heads, dim)
    filled = np.pad(weight, ((0, 0), (0, 0), (0, _whole_blocks(dim) - dim)))
    return replace(convolution, weight=filled.reshape(len(weight), -1, 1, 1))


def _even_pixels(columns: int, most: int) -> int:
    """Tiles of one width where possible: the fewest tiles of at most `most` pixels, as even as can be."""
    return -(-columns // -(-columns // most))


_NEAR = 24 * 1024
"""Bytes that stay in a first-level cache beside what else is touched."""


class _Tiling(NamedTuple):
    tiles: tuple[Tile, ...]
    panel: int
    panels_first: bool


def _tiling(out: Map, entering: Map, groups: int, values: int, *, pointwise: bool) -> _Tiling:
    """Tiles, the width of a panel of packed weights, and whether panels are the outer loop.

    `values` is how many inputs each sum has. Tiles of several rows need whole rows in the inner loop, and
    no filter between them.
    """
    tiling = _tiled(1, out, groups)
    width = out.blocks // groups * BLOCK
    weights, maps = 4 * values * width * groups, 4 * entering.floats
    rows_first = weights * (out.rows if weights > _NEAR else 1) + maps
    panels = groups * -(-width // tiling.panel)
    panels_first = maps * (panels if maps > _NEAR else 1) + weights
    if panels_first >= rows_first and out.rows > 1:
        return tiling
    return (_tiled(out.rows, out, groups) if pointwise else tiling)._replace(panels_first=True)


def _tiled(rows: int, out: Map, groups: int) -> _Tiling:
    """Tiles that may reach over `rows` rows."""
    width = out.blocks // groups * BLOCK
    tiles = tuple(_tile(rows, out.columns, width, kind) for kind in REGISTERS.values())
    return _Tiling(tiles, tiles[0].vectors * REGISTERS["avx512"].lanes, False)


def _tile(rows: int, columns: int, width: int, kind: Registers) -> Tile:
    """The tile with the fewest cycles for `rows` rows of `columns` pixels and `width` channels.

    A cycle does two multiply-adds or two loads; sums depend on each other four cycles apart; a tile's
    loop costs about a cycle of its own.
    """

    def cycles(tile: Tile) -> float:
        def one(pixels: int, vectors: int) -> float:
            sums = pixels * vectors
            return max(sums / 2, (pixels + vectors) / 2, 4) + 1 if sums else 0.0

        def lines(tall: int, vectors: int) -> float:
            if tall > 1:
                return one(tall * columns, vectors)
            whole, rest = divmod(columns, tile.pixels)
            return tall * (whole * one(tile.pixels, vectors) + one(rest, vectors))

        def panel(vectors: int) -> float:
            return rows // tile.tall * lines(tile.tall, vectors) + lines(rows % tile.tall, vectors)

        whole, rest = divmod(math.ceil(width / kind.lanes), tile.vectors)
        return whole * panel(tile.vectors) + panel(rest)

    tiles = []
    for vectors in (1, 2, 3, 4, 6, 8, 16):
        if _fits(vectors * kind.lanes, width):
            most = min(14, kind.sums // vectors)
            tiles += [Tile(_even_pixels(columns, pixels), vectors) for pixels in range(1, most + 1)]
            tiles += [Tile(columns, vectors, tall) for tall in range(2, min(rows, most // columns) + 1)]
    return min(tiles, key=cycles)


def _fits(channels: int, width: int) -> bool:
    """Whether tiles of `channels` start at blocks, or lie inside one."""
    return channels <= width and (channels % BLOCK == 0 or BLOCK % channels == 0)


FAR = 256 * 1024
"""Bytes of a map that is better consumed while it is written: it would not stay in a second-level cache."""
_WEIGHTS_OF_A_ROW = 128 * 1024
"""Bytes of weights that may be read again for every row."""


def _in_strips(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Chains of kernels that hand over large maps become strips."""
    readers = Counter(id(at) for step in steps for at in _read(step))
    chains: list[list[Step]] = []
    for step in steps:
        before = chains[-1] if chains else []
        if before and readers[id(before[-1].writes)] == 1 and _hands_over_rows(before, step):
            before.append(step)
        else:
            chains.append([step])
    return tuple(_strip(chain) if len(chain) > 1 else chain[0] for chain in chains)


def _hands_over_rows(chain: Sequence[Step], step: Step) -> bool:
    last = chain[-1]
    large = 4 * last.writes.floats > FAR or (len(chain) > 1 and isinstance(last, Depthwise))
    added = isinstance(last, Convolve) and last.add is not None
    return large and not added and _by_rows(last) and _by_rows(step) and step.reads[0] is last.writes


def _by_rows(step: Step) -> bool:
    match step:
        case Normalise() | Depthwise():
            return True
        case Convolve():
            return step.convolution is not None and 4 * step.convolution.weight.size <= _WEIGHTS_OF_A_ROW
    return False


def _strip(chain: Sequence[Step]) -> Strip:
    stages = [_as_stage(step) for step in chain]
    rows = 1
    for before, step in reversed(list(itertools.pairwise(stages))):
        assert isinstance(step, Convolve | Depthwise)
        rows = max((rows - 1) * step.stride + step.kernel, rows * step.stride)
        rows = before.writes.ring = min(rows, before.writes.rows)
    title = "; ".join(stage.title for stage in stages)
    inside = {id(stage.writes) for stage in stages}
    reads = tuple(at for stage in stages for at in _read(stage) if id(at) not in inside)
    return Strip(title, reads, stages[-1].writes, tuple(stages))


def _as_stage(step: Step) -> Stage:
    """`step` with rows as the outer loop."""
    assert isinstance(step, Normalise | Convolve | Depthwise)
    if not isinstance(step, Convolve) or not step.panels_first:
        return step
    tiling = _tiled(1, step.writes, step.groups)
    return replace(step, tiles=tiling.tiles, panel=tiling.panel, panels_first=False)


def _lay_rings(steps: Iterable[Step]) -> tuple[dict[int, int], int]:
    """Where each ring lies in a thread's memory; strips use it in turn."""
    offsets: dict[int, int] = {}
    most = 0
    for step in steps:
        end = 0
        for ring in step.rings if isinstance(step, Strip) else ():
            offsets[id(ring)] = end
            end += -(-ring.floats // ALIGNMENT) * ALIGNMENT
        most = max(most, end)
    return offsets, most


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
        for at in _touched(step):
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


def _touched(step: Step) -> Iterable[Map]:
    yield from _read(step)
    yield step.writes


def _read(step: Step) -> Iterable[Map]:
    yield from step.reads
    if isinstance(step, Convolve) and step.add is not None:
        yield step.add
