"""Pairs: a convolution and the depthwise convolution over it, in turn, panel by panel.

A panel of the map between them, or the few rows of it that the second kernel reads, lies in the first-level
cache; the whole map would be written to the second-level cache, and read from there.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from mobilenets.compiler.steps import FP32, Convolve, Depthwise, Map, Pair, Step, read_by
from mobilenets.compiler.tiling import NEAR, Tiling, tiled


def in_pairs(steps: Sequence[Step]) -> list[Step]:
    """`steps` with pairs in the place of convolutions that only a depthwise convolution reads."""
    readers = Counter(id(at) for step in steps for at in read_by(step))
    found: list[Step] = []
    for step in steps:
        before = found[-1] if found else None
        if (
            isinstance(before, Convolve)
            and isinstance(step, Depthwise)
            and step.reads[0] is before.writes
            and readers[id(before.writes)] == 1
            and before.convolution is not None
            and before.groups == 1
            and before.add is None
            and before.writes.precision == before.reads[0].precision == FP32
        ):
            found[-1] = _pair(before, step)
        else:
            found.append(step)
    return found


def _pair(convolve: Convolve, depthwise: Depthwise) -> Pair:
    """All rows of a panel in one turn where that is little enough, else a row."""
    at = convolve.writes
    whole = _tiling(convolve, at.rows) if convolve.kernel == convolve.stride == 1 else None
    if whole is not None and _bytes(at, at.rows, whole.panel) <= NEAR:
        between = replace(at, channels=min(at.channels, whole.panel))
        return _made(convolve, depthwise, whole, between, panels_first=True, whole=True)
    tiling = _tiling_by_rows(convolve, depthwise)
    between = replace(at, channels=min(at.channels, tiling.panel), ring=_rows_between(depthwise))
    return _made(convolve, depthwise, tiling, between, panels_first=True)


def within_strip(pair: Pair) -> Pair:
    """`pair` for a strip, where a turn ends before the last row: rows of all panels are kept for the next."""
    tiling = _tiling_by_rows(pair.convolve, pair.depthwise)
    between = replace(pair.convolve.writes, ring=_rows_between(pair.depthwise))
    return _made(pair.convolve, pair.depthwise, tiling, between, panels_first=False)


def _made(
    convolve: Convolve,
    depthwise: Depthwise,
    tiling: Tiling,
    between: Map,
    *,
    panels_first: bool,
    whole: bool = False,
) -> Pair:
    cut = replace(convolve, tiles=tiling.tiles, panel=tiling.panel, panels_first=panels_first)
    title = f"{convolve.title}; {depthwise.title}"
    return Pair(title, convolve.reads, depthwise.writes, cut, depthwise, between, whole)


def _rows_between(depthwise: Depthwise) -> int:
    """Rows of the map between that are held, where a turn computes a row."""
    return min(max(depthwise.kernel, depthwise.stride), depthwise.reads[0].rows)


def _tiling_by_rows(convolve: Convolve, depthwise: Depthwise) -> Tiling:
    """Panels as wide as the cache allows for the rows of one turn."""
    at = convolve.writes
    block = _bytes(at, _rows_between(depthwise), at.block)
    return _tiling(convolve, 1, at.block * max(1, NEAR // block))


def _tiling(convolve: Convolve, rows: int, widest: int | None = None) -> Tiling:
    out, groups, activation = convolve.writes, convolve.groups, convolve.activation
    return tiled(rows, out, groups, activation, half=convolve.half, widest=widest)


def _bytes(at: Map, rows: int, channels: int) -> int:
    """What `rows` of `channels` of a map take, borders included."""
    return rows * (at.left + at.columns + at.right) * channels * at.precision.size
