"""How many pixels and output channels a tile holds, by kind of vector, and which loop is the outer one."""

import math
from typing import NamedTuple

from mobilenets.compiler.folding import Activation
from mobilenets.compiler.steps import BF16, FP32, MATRIX_ROWS, REGISTERS, Map, Registers, Tile


def even_pixels(columns: int, most: int) -> int:
    """Tiles of one width where possible: the fewest tiles of at most `most` pixels, as even as can be."""
    return -(-columns // -(-columns // most))


NEAR = 24 * 1024
"""Bytes that stay in a first-level cache beside what else is touched."""


class Tiling(NamedTuple):
    """How a convolution is cut."""

    tiles: tuple[Tile, ...]
    panel: int
    panels_first: bool


def tiling(
    out: Map,
    entering: Map,
    groups: int,
    values: int,
    activation: Activation,
    *,
    pointwise: bool,
    half: bool = False,
) -> Tiling:
    """Tiles, the width of a panel of packed weights, and whether panels are the outer loop.

    `values` is how many inputs each sum has. Tiles of several rows need whole rows in the inner loop, and
    no filter between them. Where there is `half` a block of output channels, it is not in the tiles.
    """
    chosen = tiled(1, out, groups, activation, half=half)
    if out.block == BF16.block and entering.precision == FP32:  # a picture: products of fp32 alone
        return chosen._replace(tiles=(chosen.tiles[0],) * len(chosen.tiles))
    width = out.blocks // groups * out.block
    weights, maps = entering.precision.size * values * width * groups, entering.bytes
    rows_first = weights * (out.rows if weights > NEAR else 1) + maps
    panels = groups * -(-width // chosen.panel)
    panels_first = maps * (panels if maps > NEAR else 1) + weights
    if panels_first >= rows_first and out.rows > 1:
        return chosen
    tall = tiled(out.rows, out, groups, activation, half=half) if pointwise else chosen
    return tall._replace(panels_first=True)


_DOT = REGISTERS["avx512"].sums // 2
"""Pixels whose sums, two vectors each, are held in registers."""


def tiled(
    rows: int,
    out: Map,
    groups: int,
    activation: Activation,
    *,
    half: bool = False,
    widest: int | None = None,
) -> Tiling:
    """Tiles that may reach over `rows` rows, panels of at most `widest` channels; `half` a block is apart."""
    if out.block == BF16.block:  # one block of channels, two vectors
        return Tiling(
            tuple(Tile(even_pixels(out.columns, most), 2) for most in (_DOT, MATRIX_ROWS)), out.block, False
        )
    width = (out.blocks - half) // groups * out.block
    most = width if widest is None else min(width, widest)
    tiles = tuple(_tile(rows, out.columns, width, most, activation, kind) for kind in REGISTERS.values())
    return Tiling(tiles, tiles[0].vectors * REGISTERS["avx512"].lanes, False)


def _tile(rows: int, columns: int, width: int, widest: int, activation: Activation, kind: Registers) -> Tile:
    """The tile with the fewest cycles for `rows` × `columns` pixels and `width` channels, `widest` at most.

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
        if _fits(vectors * kind.lanes, widest):
            possible = (p for p in range(1, 15) if _in_registers(p, vectors, activation, kind))
            most = max(possible, default=0)
            tiles += [
                Tile(even_pixels(columns, pixels), vectors) for pixels in range(min(2, columns), most + 1)
            ]
            tiles += [Tile(columns, vectors, tall) for tall in range(2, min(rows, most // columns) + 1)]
    return min(tiles, key=cycles)


def half_pixels(columns: int) -> tuple[int, ...]:
    """Pixels of a tile of half a block of channels, for each of `REGISTERS`.

    A pixel takes as many vectors as a whole block, each with sums over even and over odd inputs.
    """
    most = (kind.sums * kind.lanes // FP32.block for kind in REGISTERS.values())
    return tuple(even_pixels(columns, max(1, min(14, pixels))) for pixels in most)


def depthwise_pixels(columns: int, kernel: int, stride: int) -> tuple[int, ...]:
    """Pixels of a tile of a depthwise convolution, one vector of channels, for each of `REGISTERS`.

    AVX-512's registers hold the line that a small tile reads, as well. A 5 × 5 kernel of stride 1 does so
    much with each of its weights that a wide tile without the line is faster.
    """
    most = [min(14, kind.sums - 5) for kind in REGISTERS.values()]
    if kernel == 3 or stride == 2:
        most[0] = 8
    return tuple(even_pixels(columns, pixels) for pixels in most)


_OPERANDS = {"hard_swish": 6, "hard_sigmoid": 6, "gelu": 6}
"""Registers that an activation wants beside the sums, where it is more than one instruction of constants."""


def _in_registers(pixels: int, vectors: int, activation: Activation, kind: Registers) -> bool:
    """Whether a tile's sums stay in registers beside the weights and a pixel, then beside the activation's.

    The weights of a map of one pixel are used once, from memory.
    """
    sums = pixels * vectors
    beside = max(vectors + 1, _OPERANDS.get(activation, 0)) if pixels > 1 else 0
    return sums <= kind.sums and sums + beside <= kind.registers


def _fits(channels: int, width: int) -> bool:
    """Whether tiles of `channels` start at blocks, or lie inside one."""
    return channels <= width and (channels % FP32.block == 0 or FP32.block % channels == 0)
