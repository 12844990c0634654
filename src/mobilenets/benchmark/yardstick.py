"""Whether the processor has its full speed at this moment.

On a virtual machine a neighbour shares the core and its caches for some tens of milliseconds, again and
again, and no counter of the system says so: a network then takes up to three times as long. So a small fixed
work is timed between windows of runs. A window is calm if it was not slow on either side.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from mobilenets.benchmark.samples import quantile

_SIDE = 320
"""About 0.4 ms of multiply-adds."""
_FLOATS = 4 * 1024 * 1024
"""16 MiB: about 1 ms of reading from behind the core's own caches."""


class Reading(NamedTuple):
    """Milliseconds of the two works."""

    multiplied: float
    read: float


LIMITS = Reading(1.1, 1.2)
"""How many times its usual time a work may take next to a calm window."""


class _Works:
    """The two works of one thread, in numpy, which lets other threads run meanwhile."""

    def __init__(self) -> None:
        self._factor = np.ones((_SIDE, _SIDE), np.float32)
        self._product = np.empty_like(self._factor)
        self._far = np.ones(_FLOATS, np.float32)

    def timed(self) -> Reading:
        start = time.perf_counter()
        np.matmul(self._factor, self._factor, out=self._product)
        between = time.perf_counter()
        self._far.max()
        return Reading(1e3 * (between - start), 1e3 * (time.perf_counter() - between))


class Yardstick:
    """The two works on as many threads as an engine has."""

    def __init__(self, threads: int) -> None:
        self._works = [_Works() for _ in range(threads)]
        self._threads = ThreadPoolExecutor(threads)
        self.reading()

    def reading(self) -> Reading:
        """How long they take now on the slowest thread."""
        found = list(self._threads.map(_Works.timed, self._works))
        return Reading(*map(max, zip(*found, strict=True)))


def usual(readings: Sequence[Reading]) -> Reading:
    """What each work takes while the processor has its full speed: the 10 % quantile."""
    return Reading(*(quantile(times, 0.1) for times in zip(*readings, strict=True)))


def calm(readings: Sequence[Reading], at_full_speed: Reading) -> list[bool]:
    """Of each window between two of the `readings`, whether both were near `at_full_speed`."""
    near = [
        all(took <= limit * least for took, limit, least in zip(each, LIMITS, at_full_speed, strict=True))
        for each in readings
    ]
    return [before and after for before, after in pairwise(near)]
