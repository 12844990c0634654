"""What a compiled program is made of: maps, and steps over them.

A `Step` is one call of a kernel on the whole of a map, or several kernels in turn: a pair, panel by panel, or
a strip, some rows at a time.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from mobilenets.compiler.folding import Activation, Convolution

LINE = 64
"""Bytes of a cache line, and of the longest vector: a map's blocks of channels are so long."""
ALIGNMENT = 16
"""Floats: a cache line."""
INPUTS_AHEAD = 16
"""Of a linear layer behind a ReLU: how far ahead their weights are fetched."""


class Precision(NamedTuple):
    """In what numbers maps or weights lie in memory; sums are always fp32."""

    name: str
    size: int
    """Bytes of a value."""

    @property
    def block(self) -> int:
        """Channels of a block of a map: the longest vector, so that one packing serves all."""
        return LINE // self.size


FP32 = Precision("fp32", 4)
BF16 = Precision("bf16", 2)
"""Of maps on x86-64 alone, by AMX or AVX512-BF16's products of pairs; of weights everywhere."""
PRECISIONS = {precision.name: precision for precision in (FP32, BF16)}


@dataclass
class Map:
    """A feature map in the arena; see `c/maps.h` for its layout."""

    name: str
    channels: int
    rows: int
    columns: int
    precision: Precision = FP32
    block: int = 0
    """Channels of a block; if none are named, as many as a cache line holds."""
    left: int = 0
    """Columns of zeros, as many as a reader's padding needs."""
    right: int = 0
    ring: int = 0
    """Rows that are held at a time, where it is not all of them."""

    def __post_init__(self) -> None:
        self.block = self.block or self.precision.block

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
    def row_bytes(self) -> int:
        """What a row takes, borders and fill included."""
        return self.blocks * (self.left + self.columns + self.right) * self.block * self.precision.size

    @property
    def bytes(self) -> int:
        """What the rows that are held take."""
        return self.held * self.row_bytes

    @property
    def floats(self) -> int:
        """The same as a number of floats."""
        return -(-self.bytes // FP32.size)


class Tile(NamedTuple):
    """Pixels of each of `tall` rows × vectors of output channels, whose sums are held in registers."""

    pixels: int
    vectors: int
    tall: int = 1


class Registers(NamedTuple):
    """What one kind of vector offers: its floats, how many there are, and how many of them sums may take."""

    lanes: int
    registers: int
    sums: int


REGISTERS = {
    "avx512": Registers(16, 32, 28),
    "avx": Registers(8, 16, 12),
    "neon": Registers(4, 32, 24),
    "sse": Registers(4, 16, 12),
    "scalar": Registers(1, 16, 12),
}
"""By kind of vector, in the order of the arguments of the macro `PICK` of `c/vectors.h`."""
MATRIX_ROWS = 16
"""Pixels of a tile of AMX's matrix unit."""


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
        """What it reads and writes, once each."""
        return sum(at.values * at.precision.size for at in (*self.reads, self.writes))


@dataclass(frozen=True)
class Normalise(_Step):
    """The picture's bytes to numbers."""


def linear(step: "Step") -> "Step":
    """`step`, or where it is a convolution of one pixel without borders, a linear layer."""
    if (
        not isinstance(step, Convolve)
        or step.convolution is None
        or step.add is not None
        or step.kernel != 1
        or step.groups != 1
        or any(at.rows * at.columns != 1 or at.left or at.right for at in (*step.reads, step.writes))
        or any(at.precision != FP32 or at.block != FP32.block for at in (*step.reads, step.writes))
    ):
        return step
    words = 1 if step.weights_in == BF16 else 3 if _has_outliers(step.convolution) else 2
    return Linear(step.title, step.reads, step.writes, step.convolution, words)


_OUTLIER = 16
"""Times the root mean square of its output's weights: what is larger leaves few of 21 bits to the others."""


def _has_outliers(convolution: Convolution) -> bool:
    """Whether an output has a weight that is far larger than its others."""
    weight = convolution.weight[:, :, 0, 0]
    return bool((np.abs(weight).max(axis=1) > _OUTLIER * np.sqrt((weight**2).mean(axis=1))).any())


def ends_in_half(entering: Map, out: Map, groups: int, kernel: int) -> bool:
    """Whether half of the last block of output channels is fill, and it can be computed as half a block.

    Its vectors hold sums over even inputs and sums over odd inputs, so that the other half is not idle.
    """
    return (
        groups == kernel == 1
        and out.columns > 1
        and 0 < out.channels % FP32.block <= FP32.block // 2 < out.channels
        and entering.channels % 2 == 0
        and all(at.precision == FP32 and at.block == FP32.block for at in (entering, out))
    )


class Widths(NamedTuple):
    """Panels by the time they take, a block 8: `whole` ones of `wide`, what is `left`, and half a block."""

    whole: int
    wide: int
    left: int
    half: int


_ROWS_TO_SHARE = 14
"""Fewer come out too uneven."""


@dataclass(frozen=True)
class Convolve(_Step):
    """A convolution, and the sum with the shortcut where `add`.

    Its weights are `convolution`'s, or a packed map, `reads[1]`: those times gates, or where it is `None`
    the same for every group.
    """

    convolution: Convolution | None
    groups: int
    activation: Activation
    before: int
    tiles: tuple[Tile, ...]
    """One for each of `REGISTERS`; in bf16, for dot products and for AMX."""
    panel: int
    panels_first: bool
    add: Map | None = None
    weights_in: Precision = FP32
    """Of its own weights."""

    @property
    def own(self) -> Convolution | None:
        """The convolution whose weights it reads as they are packed; `None` where they are a map."""
        return None if len(self.reads) > 1 else self.convolution

    @property
    def kernel(self) -> int:
        """Side of the filter."""
        return self.convolution.kernel if self.convolution else 1

    @property
    def stride(self) -> int:
        """Stride of the filter."""
        return self.convolution.stride if self.convolution else 1

    @property
    def half(self) -> bool:
        """Whether the last panel is half a block."""
        return self.convolution is not None and ends_in_half(
            self.reads[0], self.writes, self.groups, self.kernel
        )

    @property
    def panels(self) -> int:
        """Panels of output channels, over all groups."""
        blocks = (self.writes.blocks - self.half) // self.groups
        return self.groups * -(-blocks * self.writes.block // self.panel) + self.half

    @property
    def shares_rows(self) -> bool:
        """Whether threads share rows although panels are the outer loop.

        Each then reads all weights, and its own rows of the map in the place of all, half of which (of two
        threads) another one has written: worth it where the weights are fewer. On many threads rows come out
        less even than rows of panels: 14 on 8 threads take as long as 16.
        """
        return (
            self.panels_first
            and self.convolution is not None
            and self.kernel == self.groups == 1
            and self.writes.rows >= _ROWS_TO_SHARE
            and all(tile.tall == 1 for tile in self.tiles)
            and 2 * self.convolution.weight.size <= self.reads[0].values
        )

    @property
    def widths(self) -> Widths | None:
        """Of its panels, where the last ones are narrower than the others."""
        return self.widths_beside(0)

    def widths_beside(self, values: int) -> Widths | None:
        """The same where a depthwise convolution is behind it, whose sums have `values` for each of its own.

        Half a block has half the products of a block, and as many sums, of two halves each. Behind it a
        depthwise convolution computes a whole block.
        """
        each = self.panel // self.writes.block
        whole, left = divmod(self.writes.blocks - self.half, each)
        if self.groups > 1 or not (left or self.half):
            return None
        inputs = self.reads[0].channels
        half = (inputs / 2 + 8 + values) / (inputs + 4 + values)
        return Widths(whole, 8 * each, 8 * left, round(8 * half) if self.half else 0)

    @property
    def weight_bytes(self) -> int:
        """What its own weights take, without fill."""
        return 0 if self.own is None else self.own.weight.size * self.weights_in.size

    @property
    def in_twos(self) -> int:
        """2 where maps are fp32 and weights bf16, of which those of two inputs share a word; else 1."""
        beside_fp32 = self.weights_in == BF16 and self.reads[0].precision == FP32
        return 2 if self.own is not None and beside_fp32 else 1

    @property
    def macs(self) -> int:
        """Inputs of a sum times sums."""
        if self.convolution is not None:
            return int(self.convolution.weight[0].size) * self.writes.values
        width = self.writes.blocks // self.groups * self.writes.block  # of the map that every head reads
        return self.reads[1].channels // width * self.writes.values

    @property
    def bytes_moved(self) -> int:
        """Its maps, its weights, and the shortcut."""
        added = 0 if self.add is None else self.add.values * self.add.precision.size
        return super().bytes_moved + self.weight_bytes + added

    @property
    def units(self) -> int:
        """Rows, of every panel where panels are the outer loop, unless threads share rows."""
        by_panels = self.panels_first and not self.shares_rows
        return self.writes.rows * (self.panels if by_panels else 1)


@dataclass(frozen=True)
class Linear(_Step):
    """A pointwise convolution of one pixel: every weight is used once, and packed in few bits."""

    convolution: Convolution
    words: int
    """That one weight more share: three of 21 bits 2, four of 24 bits 3, two of 16 bits 1."""
    places: Map | None = None
    """Behind a ReLU, a thread's memory for the numbers of the inputs that are not zero, of two bytes each."""

    @property
    def activation(self) -> Activation:
        """What its sums go through."""
        return self.convolution.activation

    @property
    def macs(self) -> int:
        """One for each weight."""
        return self.convolution.weight.size

    @property
    def bytes_moved(self) -> int:
        """Its maps and its weights."""
        return super().bytes_moved + FP32.size * self.words * self.convolution.weight.size // self.together

    @property
    def units(self) -> int:
        """Blocks of channels that share words."""
        return -(-self.writes.blocks // self.together)

    @property
    def together(self) -> int:
        """How many blocks of channels share words."""
        return self.words + 1


def behind_relu(step: "Step", before: "Step | None") -> "Step":
    """`step`, which follows `before`, or where it is a linear layer behind a ReLU, one that skips zeros."""
    if (
        not isinstance(step, Linear)
        or not isinstance(before, Convolve | Linear)
        or before.writes is not step.reads[0]
        or before.activation not in ("relu", "relu6")
    ):
        return step
    inputs = step.reads[0].channels
    return replace(
        step, places=Map(f"{step.convolution.path}.places", -(-(inputs + INPUTS_AHEAD) // 2), 1, 1)
    )


@dataclass(frozen=True)
class Depthwise(_Step):
    """A depthwise convolution."""

    convolution: Convolution
    before: int
    pixels: tuple[int, ...]
    """One for each of `REGISTERS`; in bf16 one."""
    sums: Map | None = None
    """Where each channel's sum over every row goes as well, for the pooling behind it."""

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
        return super().bytes_moved + FP32.size * self.convolution.weight.size


@dataclass(frozen=True)
class PoolMap(_Step):
    """Global average pooling of a map, or of its rows' sums."""

    pixels: int
    """Of the map."""

    @property
    def units(self) -> int:
        """Blocks of channels."""
        return self.writes.blocks


@dataclass(frozen=True)
class Scale(_Step):
    """A map times its gates, in place: `reads` is the map and the gates, `writes` the map again."""


@dataclass(frozen=True)
class ScaleWeights(_Step):
    """The weights of `convolve` times the gates of its inputs, in the place of the map times its gates."""

    convolve: Convolve

    @property
    def units(self) -> int:
        """Panels."""
        return self.convolve.panels

    @property
    def bytes_moved(self) -> int:
        """The gates, the weights as they are packed and as they are scaled."""
        return super().bytes_moved + self.convolve.weight_bytes


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


@dataclass(frozen=True)
class Pair(_Step):
    """A convolution and the depthwise convolution over it, in turn, panel by panel.

    So the map between them never leaves the first-level cache.
    """

    convolve: Convolve
    depthwise: Depthwise
    between: Map
    """What is held of the map between them: some rows, of one panel or of all."""
    whole: bool
    """Whether a turn computes all rows of a panel; else one row of the depthwise convolution."""

    @property
    def units(self) -> int:
        """Panels, or where a turn is a row, the rows of every panel.

        So a thread computes what another one does for at most one panel, whose rows they share.
        """
        return self.convolve.panels * (1 if self.whole else self.writes.rows)

    @property
    def widths(self) -> Widths | None:
        """Of its panels, where the last ones are narrower than the others."""
        return self.convolve.widths_beside(round(self.depthwise.kernel**2 / self.depthwise.stride**2))

    @property
    def macs(self) -> int:
        """Those of both."""
        return self.convolve.macs + self.depthwise.macs

    @property
    def bytes_moved(self) -> int:
        """Those of both without the map between them."""
        between = self.convolve.writes
        within = between.values * between.precision.size
        return self.convolve.bytes_moved + self.depthwise.bytes_moved - 2 * within


Stage = Normalise | Convolve | Depthwise | Pair


@dataclass(frozen=True)
class Strip(_Step):
    """Kernels in a chain, some rows at a time: between them only those are held that the next one reads."""

    stages: tuple[Stage, ...]
    rows: int
    """Of the last map that are computed in one turn."""

    @property
    def macs(self) -> int:
        """Those of its stages."""
        return sum(stage.macs for stage in self.stages)

    @property
    def bytes_moved(self) -> int:
        """Those of its stages without the maps between them, which stay in the cache."""
        within = sum(stage.writes.values * stage.writes.precision.size for stage in self.stages[:-1])
        return sum(stage.bytes_moved for stage in self.stages) - 2 * within


Step = (
    Normalise
    | Convolve
    | Linear
    | Depthwise
    | PoolMap
    | Scale
    | ScaleWeights
    | Add
    | Pack
    | Softmax
    | Pair
    | Strip
)


def kernels(step: Step) -> Iterable[Step]:
    """The kernels that `step` calls: itself, or what it is made of."""
    match step:
        case Strip():
            for stage in step.stages:
                yield from kernels(stage)
        case Pair():
            yield step.convolve
            yield step.depthwise
        case _:
            yield step


def rings(step: Step) -> Iterable[Map]:
    """The maps of which every thread has its own, some rows at a time."""
    match step:
        case Strip():
            for stage in step.stages:
                yield from rings(stage)
            yield from (stage.writes for stage in step.stages[:-1])
        case Pair():
            yield step.between
        case Linear() if step.places is not None:
            yield step.places


def read_by(step: Step) -> Iterable[Map]:
    """The maps that `step` reads."""
    yield from step.reads
    if isinstance(step, Convolve) and step.add is not None:
        yield step.add


def written_by(step: Step) -> Iterable[Map]:
    """The maps that `step` writes."""
    yield step.writes
    for kernel in kernels(step):
        if isinstance(kernel, Depthwise) and kernel.sums is not None:
            yield kernel.sums
