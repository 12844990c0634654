"""Strips: kernels in turn, some rows at a time, so that the maps between them never leave the cache."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from mobilenets.compiler.pairs import within_strip
from mobilenets.compiler.steps import (
    ALIGNMENT,
    Convolve,
    Depthwise,
    Normalise,
    Pair,
    Stage,
    Step,
    Strip,
    read_by,
    rings,
)
from mobilenets.compiler.tiling import tiled

FAR = 400 * 1024
"""Bytes of a map that is better consumed while it is written: it would not stay in a second-level cache."""
_WEIGHTS_OF_A_TURN = 128 * 1024
"""Bytes of weights that may be read again in every turn."""
_ROWS = 4
"""Of the last map in a turn, where a pair is among the kernels: a panel then has several rows to itself."""
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
    longer = [*chain, step]
    rows = zip((each.writes for each in chain), _heights(longer, _rows(longer)), strict=True)
    between = sum(within_strip(each).between.bytes for each in longer if isinstance(each, Pair))
    return sum(at.row_bytes * height for at, height in rows) + between <= _RINGS


def _rows(chain: Sequence[Step]) -> int:
    """How many rows of the last map are computed in one turn."""
    return min(_ROWS if any(isinstance(step, Pair) for step in chain) else 1, chain[-1].writes.rows)


def _heights(chain: Sequence[Step], rows: int) -> list[int]:
    """How many rows of each map between the steps of `chain` are held, for `rows` rows of the last map."""
    heights: list[int] = []
    for before, step in zip(reversed(chain[:-1]), reversed(chain[1:]), strict=True):
        rows = min(_rows_read(step, rows), before.writes.rows)
        heights.insert(0, rows)
    return heights


def _rows_read(step: Step, rows: int) -> int:
    """How many rows of its map `step` reads for `rows` of its own, those that it reads again included."""
    match step:
        case Convolve() | Depthwise():
            return max((rows - 1) * step.stride + step.kernel, rows * step.stride)
        case Pair():
            return _rows_read(step.convolve, _rows_read(step.depthwise, rows))
    raise AssertionError(f"{step.title} is not computed by rows")


def _by_rows(step: Step) -> bool:
    match step:
        case Normalise() | Depthwise():
            return True
        case Convolve():
            if step.convolution is None:
                return False
            each = step.reads[0].precision.size  # also of weights in bf16: the plan is fp32's
            return step.convolution.weight.size * each <= _WEIGHTS_OF_A_TURN
        case Pair():
            return _by_rows(step.convolve)
    return False


def _strip(chain: Sequence[Step]) -> Strip:
    stages, rows = [_as_stage(step) for step in chain], _rows(chain)
    for stage, height in zip(stages, _heights(chain, rows), strict=False):
        stage.writes.ring = height
    title = "; ".join(stage.title for stage in stages)
    inside = {id(stage.writes) for stage in stages}
    reads = tuple(at for stage in stages for at in read_by(stage) if id(at) not in inside)
    return Strip(title, reads, stages[-1].writes, tuple(stages), rows)


def _as_stage(step: Step) -> Stage:
    """`step` with rows as the outer loop."""
    match step:
        case Normalise() | Depthwise():
            return step
        case Pair():
            return within_strip(step)
        case Convolve() if step.panels_first:
            tiling = tiled(1, step.writes, step.groups, step.activation, half=step.half)
            return replace(step, tiles=tiling.tiles, panel=tiling.panel, panels_first=False)
        case Convolve():
            return step
    raise AssertionError(f"{step.title} is not computed by rows")


def lay_rings(steps: Iterable[Step]) -> tuple[dict[int, int], int]:
    """Where each ring lies in a thread's memory; steps use it in turn."""
    offsets: dict[int, int] = {}
    most = 0
    for step in steps:
        end = 0
        for ring in rings(step):
            offsets[id(ring)] = end
            end += -(-ring.floats // ALIGNMENT) * ALIGNMENT
        most = max(most, end)
    return offsets, most
