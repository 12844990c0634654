"""What a compiled program is made of: maps, and steps over them.

A `Step` is one call of a kernel on the whole of a map, or a strip: several kernels in turn, row by row.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from mobilenets.compiler.folding import Activation, Convolution

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


def read_by(step: Step) -> Iterable[Map]:
    """The maps that `step` reads."""
    yield from step.reads
    if isinstance(step, Convolve) and step.add is not None:
        yield step.add
