"""Which weights a convolution fetches into the second-level cache while it computes.

The weights of a network do not fit that cache, and at batch 1 each is used in one layer only, so they come
from far: as fast as a convolution of many pixels wants them, and far slower than one of few pixels does. So
each fetches, beside its multiply-adds, what is wanted after it; no sooner than it must, for maps need the
cache as well.
"""

from typing import NamedTuple

from mobilenets.compiler.packing import packed_floats
from mobilenets.compiler.planning import Plan
from mobilenets.compiler.steps import ALIGNMENT, Convolve, Depthwise, Pair, Step, kernels

_A_CYCLE = 1.5
"""Floats that are fetched in a cycle: half of what the memory gives."""
_LEAST, _MOST = 96 * 1024, 256 * 1024
"""Floats fetched and not used yet: enough to have arrived, and half of a server's second-level cache."""
_MACS, _MACS_DEPTHWISE = 32, 20
"""Multiply-adds of a cycle."""


class Fetch(NamedTuple):
    """What a convolution fetches."""

    first: int
    """Offset in the packed weights, in floats."""
    lines: int
    """Cache lines for each of its panels."""


def fetches(plan: Plan) -> dict[int, Fetch]:
    """By `id` of a convolution; those of few multiply-adds, or within strips, fetch nothing."""
    found: dict[int, Fetch] = {}
    first: tuple[int, Convolve] | None = None  # where the weights of the first that fetches begin
    end = sum(packed_floats(step) for step in plan.kernels)  # of this step's weights
    ahead = 0  # floats behind that end that should be there when the step is done
    for step in reversed(plan.steps):
        own = sum(packed_floats(kernel) for kernel in kernels(step))
        convolve = _fetching(step)
        possible = 0 if convolve is None else int(_A_CYCLE * _cycles(step))
        before = min(_MOST, ahead + own, max(_LEAST, ahead + own - possible))
        fetched = min(possible, ahead + own - before)
        if convolve is not None and fetched:
            lines = -(-fetched // (ALIGNMENT * convolve.panels))
            found[id(convolve)] = Fetch(end + ahead - fetched, lines)
            first = end - own, convolve
        ahead = before
        end -= own
    if first is not None:  # it fetches its own as well, as nobody has
        begin, convolve = first
        fetch = found[id(convolve)]
        missing = -(-(fetch.first - begin) // (ALIGNMENT * convolve.panels))
        found[id(convolve)] = Fetch(begin, fetch.lines + missing)
    return found


def begins(plan: Plan) -> list[int]:
    """Where the weights of each step begin that has any, in floats, and where the last ones end."""
    found = [0]
    for step in plan.steps:
        if own := sum(packed_floats(kernel) for kernel in kernels(step)):
            found.append(found[-1] + own)
    return found


def _fetching(step: Step) -> Convolve | None:
    """The convolution that may fetch: a pointwise one, whose panels are the outer loop."""
    convolve = step.convolve if isinstance(step, Pair) else step
    if (
        isinstance(convolve, Convolve)
        and convolve.convolution is not None
        and convolve.panels_first
        and convolve.kernel == 1
        and convolve.writes.rows > 1
    ):
        return convolve
    return None


def _cycles(step: Step) -> float:
    parts = kernels(step)
    return sum(each.macs / (_MACS_DEPTHWISE if isinstance(each, Depthwise) else _MACS) for each in parts)
