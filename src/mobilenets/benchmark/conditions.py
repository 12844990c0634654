"""What the numbers were taken on, and whether it was quiet."""

import os
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mobilenets.benchmark.samples import quantile, unsteadiness
from mobilenets.compiler.toolchain import code_paths, find_compiler
from mobilenets.errors import EnvironmentFault
from mobilenets.machine import describe

_WAITED_LIMIT, _OTHERS_LIMIT, _STOLEN_LIMIT = 0.02, 0.1, 0.01
UNSTEADY_LIMIT = 0.05
"""What a host does to a virtual machine's memory and clock shows in nothing but the engines' own times."""
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


class Ticks(NamedTuple):
    """What a Linux system counts since its start, in seconds of all cores together; elsewhere zeros."""

    elapsed: float = 0.0
    """Seconds by the clock; of one core."""
    busy: float = 0.0
    """In which a core did something for a program or the system."""
    ours: float = 0.0
    """What of that was this process, and those of its children that have ended."""
    stolen: float = 0.0
    """In which a core was ready and a virtual machine's host gave it to somebody else."""


_NO_TICKS = Ticks()


@dataclass(frozen=True)
class Glimpse:
    """A short look at a machine that should be doing nothing else."""

    loops_ms: tuple[float, ...]
    """How long the same loop took, time after time."""
    waited: float
    """The share of that time in which the loop did not run, although it could have."""
    ticks: Ticks = _NO_TICKS


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
    fine = time.get_clock_info("thread_time").resolution < 1e-4
    return Glimpse(tuple(times), max(0.0, 1 - 1e3 * ran / sum(times)) if fine else 0.0, _ticks())


def _ticks() -> Ticks:
    """By the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal."""
    try:
        first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
        user, nice, system, _, _, irq, softirq, steal = (int(word) for word in first.split()[1:9])
        second = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return _NO_TICKS
    busy = user + nice + system + irq + softirq
    return Ticks(time.monotonic(), busy / second, sum(os.times()[:4]), steal / second)


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
    """Cores that other programs and the system kept busy, on average; 0 where the system does not say."""
    load: float
    """The load average of the last minute, this program's own work included."""
    stolen: float = 0.0
    """The share of the time in which a core was wanted that a virtual machine's host gave to others."""
    unsteady: float = 0.0
    """How far the rounds of an engine lay apart: `samples.unsteadiness`; 0 where there were no rounds."""
    disturbed: float = 0.0
    """The share of the windows of runs next to which `yardstick` was slow, and which are not counted."""

    @property
    def quiet(self) -> bool:
        """Whether the numbers can be quoted."""
        return (
            self.waited <= _WAITED_LIMIT
            and self.others <= _OTHERS_LIMIT
            and self.stolen <= _STOLEN_LIMIT
            and self.unsteady <= UNSTEADY_LIMIT
        )

    def __str__(self) -> str:
        seen = (
            f"a loop waited for {self.waited:.1%} of its time, "
            f"{self.others:.2f} cores worked for others, "
            f"{self.stolen:.1%} of the time went to the host's other guests, "
            f"load {self.load:.1f}; the engines' rounds lay {self.unsteady:.0%} apart, "
            f"the clock moved by {self.spread:.0%}; for {self.disturbed:.0%} of the time the processor was "
            f"slowed, and that is left out"
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
            "unsteady": self.unsteady,
            "disturbed": self.disturbed,
        }


def noise(
    glimpses: Sequence[Glimpse], rounds: Iterable[Sequence[float]] = (), *, disturbed: float = 0.0
) -> Noise:
    """What the `glimpses` between turns say together, the system of the time from first to last, the `rounds`
    of each engine, in milliseconds, and the share of the time that was `disturbed`.
    """
    loops = [min(one.loops_ms) for one in glimpses]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    spread = quantile(loops, 0.9) / quantile(loops, 0.1) - 1
    waited = statistics.mean(one.waited for one in glimpses)
    pairs = zip(glimpses[0].ticks, glimpses[-1].ticks, strict=True)
    elapsed, busy, ours, stolen = (last - first for first, last in pairs)
    others = max(0.0, busy - ours) / elapsed if elapsed else 0.0
    wanted = busy + stolen
    share = stolen / wanted if wanted else 0.0
    return Noise(spread, waited, others, load, share, unsteadiness(rounds), disturbed)
