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

_SPREAD_LIMIT = 0.05
_OTHERS_LIMIT = 0.2
_LOOPS, _TURNS = 8, 40_000


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
    others: int
    """Threads of other programs that wanted a core at that moment; 0 where the system does not say."""


def glimpse() -> Glimpse:
    """Run a fixed loop a few times, about 20 ms in all."""
    times = []
    for _ in range(_LOOPS):
        start = time.perf_counter()
        for _ in range(_TURNS):
            pass
        times.append(1e3 * (time.perf_counter() - start))
    return Glimpse(tuple(times), _others())


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
    """Of the fixed loop: its 90 % quantile over its 10 % quantile, less 1."""
    others: float
    """Threads of other programs that wanted a core, on average."""
    load: float
    """The load average of the last minute, this program's own work included."""

    @property
    def quiet(self) -> bool:
        """Whether the numbers can be quoted."""
        return self.spread <= _SPREAD_LIMIT and self.others <= _OTHERS_LIMIT

    def __str__(self) -> str:
        seen = (
            f"a fixed loop spread by {self.spread:.0%}, {self.others:.1f} other threads wanted a core, "
            f"load {self.load:.1f}"
        )
        if self.quiet:
            return f"The machine was quiet: {seen}."
        return f"The machine was NOT quiet, so do not quote these numbers: {seen}."

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"quiet": self.quiet, "spread": self.spread, "others": self.others, "load": self.load}


def noise(glimpses: Sequence[Glimpse]) -> Noise:
    """What the `glimpses` between turns say together."""
    loops = [each for one in glimpses for each in one.loops_ms]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    spread = quantile(loops, 0.9) / quantile(loops, 0.1) - 1
    return Noise(spread, statistics.mean(one.others for one in glimpses), load)
