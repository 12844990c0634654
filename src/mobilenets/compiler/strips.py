"""Strips: kernels that run in turn, row by row, so that the maps between them never leave the cache."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from mobilenets.compiler.steps import (
    ALIGNMENT,
    Convolve,
    Depthwise,
    Normalise,
    Stage,
    Step,
    Strip,
    read_by,
)
from mobilenets.compiler.tiling import tiled

FAR = 256 * 1024
"""Bytes of a map that is better consumed while it is written: it would not stay in a second-level cache."""
_WEIGHTS_OF_A_ROW = 128 * 1024
"""Bytes of weights that may be read again for every row."""
_RINGS = 512 * 1024
"""Bytes that the rings of a strip may take, beside which its weights still fit a second-level cache."""


def in_strips(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Chains of kernels that hand over large maps become strips."""
    readers = Counter(id(at) for step in steps for at in read_by(step))
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
    large = last.writes.bytes > FAR or (len(chain) > 1 and isinstance(last, Depthwise))
    added = isinstance(last, Convolve) and last.add is not None
    if not large or added or not _by_rows(last) or not _by_rows(step) or step.reads[0] is not last.writes:
        return False
    heights = _heights([*chain, step])
    rows = zip((each.writes for each in chain), heights, strict=True)
    return sum(at.row_bytes * height for at, height in rows) <= _RINGS


def _heights(chain: Sequence[Step]) -> list[int]:
    """How many rows of each map between the steps of `chain` are held, for one row of the last map."""
    heights: list[int] = []
    rows = 1
    for before, step in reversed(list(itertools.pairwise(chain))):
        assert isinstance(step, Convolve | Depthwise)
        rows = min(max((rows - 1) * step.stride + step.kernel, rows * step.stride), before.writes.rows)
        heights.insert(0, rows)
    return heights


def _by_rows(step: Step) -> bool:
    match step:
        case Normalise() | Depthwise():
            return True
        case Convolve():
            return step.convolution is not None and step.weight_bytes <= _WEIGHTS_OF_A_ROW
    return False


def _strip(chain: Sequence[Step]) -> Strip:
    stages = [_as_stage(step) for step in chain]
    for stage, height in zip(stages, _heights(stages), strict=False):
        stage.writes.ring = height
    title = "; ".join(stage.title for stage in stages)
    inside = {id(stage.writes) for stage in stages}
    reads = tuple(at for stage in stages for at in read_by(stage) if id(at) not in inside)
    return Strip(title, reads, stages[-1].writes, tuple(stages))


def _as_stage(step: Step) -> Stage:
    """`step` with rows as the outer loop."""
    assert isinstance(step, Normalise | Convolve | Depthwise)
    if not isinstance(step, Convolve) or not step.panels_first:
        return step
    tiling = tiled(1, step.writes, step.groups, step.activation)
    return replace(step, tiles=tiling.tiles, panel=tiling.panel, panels_first=False)


def lay_rings(steps: Iterable[Step]) -> tuple[dict[int, int], int]:
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
