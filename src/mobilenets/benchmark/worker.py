"""The program that runs one engine: `python -m mobilenets.benchmark.worker REQUEST`.

It opens the model, answers a first time, warms up until that makes it no faster, and is timed, in windows
with a yardstick in between, until enough of them were calm. The request is JSON; the answer is the last line
on standard output, JSON as well.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenets.benchmark.engines import open_engine
from mobilenets.benchmark.yardstick import Reading, Yardstick, calm, usual
from mobilenets.errors import MobilenetsError
from mobilenets.spec import Spec

_WINDOW_SECONDS = 0.1
_SETTLED = 0.98
"""A window is no faster than an earlier one if it takes more than this share of its time."""
_WARM_UP_SECONDS = 3.0
_FEWEST_RUNS = 3
_TIMED_SECONDS = 0.05
"""Of a window between two looks at the yardstick."""
_PATIENCE = 10
"""How many times as long as asked a turn may last where the machine is not calm."""


@dataclass(frozen=True)
class Request:
    """What is to be timed, and for how long."""

    model: str
    """Path of a checkpoint or a bundle."""
    engine: str
    """A key of `engines.ENGINES`."""
    threads: int
    batch: int
    seconds: float
    """Of calm windows."""
    precision: str = "fp32"
    """One of `engines.PRECISIONS`."""


@dataclass(frozen=True)
class Turn:
    """What one engine did in one round."""

    answered: float
    """`time.monotonic()` at its first logits."""
    warm_up_runs: int
    windows_ms: tuple[tuple[float, ...], ...]
    """Of every run after the warm-up, window by window."""
    readings: tuple[Reading, ...]
    """Of the yardstick: before the first window, between two, and after the last."""
    peak_bytes: int
    """The most memory that the process had at once; 0 where the system does not say."""
    logits: tuple[tuple[float, ...], ...]
    """Of the first run."""


def take_turn(asked: Request) -> Turn:
    """Open, answer, warm up, measure."""
    session = open_engine(asked.engine, Path(asked.model), threads=asked.threads, precision=asked.precision)
    pixels = pictures(session.manifest.spec, asked.batch)
    logits = session.run(pixels)
    answered = time.monotonic()

    def run() -> object:
        return session.run(pixels)

    warm_up_runs = warm_up(run, min(asked.seconds, _WINDOW_SECONDS))
    memory = peak_bytes()
    windows, readings = timed_between(run, asked.seconds, Yardstick(asked.threads))
    rows = tuple(tuple(float(value) for value in row) for row in logits)
    return Turn(answered, warm_up_runs, tuple(windows), tuple(readings), memory, rows)


def pictures(spec: Spec, n: int) -> NDArray[np.uint8]:
    """`n` pictures of what looks like noise, the same everywhere."""
    shape = (n, spec.resolution, spec.resolution, spec.channels)
    places = np.arange(np.prod(shape), dtype=np.uint32)
    return (places * np.uint32(2654435761) >> np.uint32(24)).astype(np.uint8).reshape(shape)


def warm_up(run: Callable[[], object], window_seconds: float) -> int:
    """Run until two windows in a row are no faster than the best before; how many runs that took."""
    runs, best, settled = 0, float("inf"), 0
    end = time.perf_counter() + _WARM_UP_SECONDS
    while settled < 2 and time.perf_counter() < end:
        times = timed(run, window_seconds)
        median = statistics.median(times)
        settled = settled + 1 if median > _SETTLED * best else 0
        best = min(best, median)
        runs += len(times)
    return runs


def timed(run: Callable[[], object], seconds: float) -> list[float]:
    """Milliseconds of every run in `seconds`, of a few at least."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < _FEWEST_RUNS or time.perf_counter() < end:
        start = time.perf_counter_ns()
        run()
        times.append(1e-6 * (time.perf_counter_ns() - start))
    return times


def timed_between(
    run: Callable[[], object], seconds: float, yardstick: Yardstick
) -> tuple[list[tuple[float, ...]], list[Reading]]:
    """Milliseconds of the runs in windows of which `seconds` are calm, and the readings around them.

    The run after a reading is not counted: it finds its weights further away. Every reading comes after a
    run, for the same reason.
    """
    windows: list[tuple[float, ...]] = []
    run()
    readings = [yardstick.reading()]
    end = time.perf_counter() + _PATIENCE * seconds
    while True:
        run()
        windows.append(tuple(timed(run, min(seconds, _TIMED_SECONDS))))
        readings.append(yardstick.reading())
        kept = zip(windows, calm(readings, usual(readings)), strict=True)
        counted = sum(sum(times) for times, still in kept if still)
        if 1e-3 * counted >= seconds or time.perf_counter() >= end:
            return windows, readings


def peak_bytes() -> int:
    """The most memory that this process had at once.

    On Linux `ru_maxrss` would count the parent as well, whose pages a child has until it becomes
    another program.
    """
    status = Path("/proc/self/status")
    for line in status.read_text(encoding="ascii").splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Take the turn that the first argument asks for."""
    answer: dict[str, Any]
    try:
        answer = asdict(take_turn(Request(**json.loads(sys.argv[1]))))
    except MobilenetsError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
