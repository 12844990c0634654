"""What the numbers were taken on, and whether it was quiet."""

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilenets.benchmark.samples import quantile
from mobilenets.compiler.toolchain import code_paths, find_compiler
from mobilenets.errors import EnvironmentFault
from mobilenets.machine import describe

_WAITED_LIMIT = 0.02
_OTHERS_LIMIT = 0.5
"""The system's own threads are seen now and then; what they take is in the share that was waited for."""
_STOLEN_LIMIT = 0.01
_LOOPS, _TURNS = 8, 40_000
_AWAKE_SECONDS = 0.03
"""A core that was idle wants some milliseconds to its full clock."""


def described() -> dict[str, str]:
    """Processor, cores, system, Python, and where there is a C compiler: it and its instructions."""
    machine = describe()
    try:
        compiler = find_compiler()
    except EnvironmentFault:
        return machine
    return machine | {
        "instructions": code_paths(compiler)[0].name,
        "compiler": compiler.version,
    }


@dataclass(frozen=True)
class Glimpse:
    """A short look at a machine that should be doing nothing else."""

    loops_ms: tuple[float, ...]
    """How long the same loop took, time after time."""
    waited: float
    """The share of that time in which the loop did not run, although it could have."""
    others: int
    """Threads of other programs that wanted a core at that moment; 0 where the system does not say."""
    stolen: int = 0
    """Moments since the system's start in which a core was ready and its host gave it to somebody else."""
    ticks: int = 0
    """Moments since then of all cores; the unit is the system's."""


def glimpse() -> Glimpse:
    """Run a fixed loop a few times, about 40 ms in all."""
    awake = time.perf_counter() + _AWAKE_SECONDS
    while time.perf_counter() < awake:
        pass
    times = []
    ran = time.thread_time()
    for _ in range(_LOOPS):
        start = time.perf_counter()
        for _ in range(_TURNS):
            pass
        times.append(1e3 * (time.perf_counter() - start))
    ran = time.thread_time() - ran
    return Glimpse(tuple(times), max(0.0, 1 - 1e3 * ran / sum(times)), _others(), *_stolen())


def _stolen() -> tuple[int, int]:
    """`steal`, the eighth number of the first line of /proc/stat, and the sum of the first eight."""
    try:
        first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
        numbers = [int(word) for word in first.split()[1:9]]
        return numbers[7], sum(numbers)
    except (OSError, ValueError, IndexError):
        return 0, 0


def _others() -> int:
    try:
        running = Path("/proc/loadavg").read_text(encoding="ascii").split()[3]
        return max(0, int(running.partition("/")[0]) - 1)
    except (OSError, ValueError, IndexError):
        return 0


@dataclass(frozen=True)
class Noise:
    """What was seen of other work on the machine while the engines were timed."""

    spread: float
    """Of the fixed loop, the fastest of each look: the 90 % quantile over the 10 % quantile, less 1.

    No sign of other work: a clock is lower for a while after vectors of 512 bits and after idleness.
    """
    waited: float
    """The share of the loop's time in which it did not run, on average."""
    others: float
    """Threads of other programs that wanted a core, on average."""
    load: float
    """The load average of the last minute, this program's own work included."""
    stolen: float = 0.0
    """The share of the cores' time that a virtual machine's host gave to others between the looks."""

    @property
    def quiet(self) -> bool:
        """Whether the numbers can be quoted."""
        return self.waited <= _WAITED_LIMIT and self.others <= _OTHERS_LIMIT and self.stolen <= _STOLEN_LIMIT

    def __str__(self) -> str:
        seen = (
            f"a loop waited for {self.waited:.1%} of its time, "
            f"{self.others:.1f} other threads wanted a core, "
            f"{self.stolen:.1%} of the time went to the host's other guests, "
            f"load {self.load:.1f}; the clock moved by {self.spread:.0%}"
        )
        if self.quiet:
            return f"The machine was quiet: {seen}."
        return f"The machine was NOT quiet, so do not quote these numbers: {seen}."

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "quiet": self.quiet,
            "spread": self.spread,
            "waited": self.waited,
            "others": self.others,
            "load": self.load,
            "stolen": self.stolen,
        }


def noise(glimpses: Sequence[Glimpse]) -> Noise:
    """What the `glimpses` between turns say together."""
    loops = [min(one.loops_ms) for one in glimpses]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    spread = quantile(loops, 0.9) / quantile(loops, 0.1) - 1
    ticks = glimpses[-1].ticks - glimpses[0].ticks
    stolen = (glimpses[-1].stolen - glimpses[0].stolen) / ticks if ticks else 0.0
    waited = statistics.mean(one.waited for one in glimpses)
    return Noise(spread, waited, statistics.mean(one.others for one in glimpses), load, stolen)
