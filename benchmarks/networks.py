"""The family's speed in every engine that is installed here, appended to benchmarks/results.jsonl.

    python benchmarks/networks.py [--only one|two|batch|bf16|profile|growth|compile|scaling]
                                  [--quick] [--again] [--patience MINUTES]

`one`, `two`: six networks at 224 px, batch 1, with one thread and with two. `batch`: 32 pictures on two
threads. `bf16`: one thread, the engines that have it. `profile`: our six networks step by step. `growth`:
V2 over the width multiplier α, the resolution multiplier ρ and the batch, in our engine alone. `compile`:
how many seconds our compiler takes for each of the six, with nothing kept from before. `scaling`: ours and
LiteRT with one thread and with two, all four in turn, for each of the six.

Every line has machine, versions, date and how quiet the machine was; `python benchmarks/render.py` makes
BENCHMARKS.md of all lines. What our compiler as it is has on this machine already, measured while it was
quiet, is left out, so that a run that was stopped goes on where it was; `--again` measures everything anew.
`--quick` takes fewer rounds and shorter turns, and leaves out the slow ways of torch; a whole run measures
those again. `--patience` waits up to so many minutes before each measurement until the machine is quiet.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from mobilenets import __version__, zoo
from mobilenets.benchmark.conditions import Noise, described, glimpse, noise
from mobilenets.benchmark.engines import ENGINES, LITERT, OURS, SLOW, versions
from mobilenets.benchmark.results import append_line, compiler_source, kind, quiet, rounds_of
from mobilenets.benchmark.rounds import in_turn
from mobilenets.benchmark.samples import MIN_ROUNDS, ratio
from mobilenets.cli.terminal import TerminalProgress
from mobilenets.compiler.kept import find_or_compile
from mobilenets.errors import MobilenetsError
from mobilenets.spec import Spec

RESULTS = Path(__file__).with_name("results.jsonl")
NETWORKS = (
    "mobilenet_v1_100",
    "mobilenet_v2_100",
    "mobilenet_v3_large_100",
    "mobilenet_v3_small_100",
    "mobilenet_v4_conv_small",
    "mobilenet_v4_conv_medium",
)
GROWING = "mobilenet_v2"
WIDTHS = ("035", "050", "075", "100", "130", "140")
RESOLUTIONS = (96, 128, 160, 192)
BATCHES = (2, 4, 8, 16, 32)
"""The largest resolution and the smallest batch are those of the widths."""
STOPPED = (130, 143)
"""Exit codes of a command that was stopped."""
PARTS = ("one", "two", "batch", "bf16", "profile", "growth", "compile", "scaling")


class Job(NamedTuple):
    """One line of results."""

    part: str
    network: str
    resolution: int = 224
    threads: int = 1
    batch: int = 1
    precision: str = "fp32"

    @property
    def what(self) -> str:
        """Everything but the numbers, as in `results.kind`."""
        if self.part in ("profile", "compile", "scaling"):
            return self.part
        return "ours" if self.part == "growth" else "engines"


def jobs() -> Iterator[Job]:
    for name in NETWORKS:
        yield Job("one", name)
    for name in NETWORKS:
        yield Job("two", name, threads=2)
    for name in NETWORKS:
        yield Job("batch", name, threads=2, batch=32)
    for name in NETWORKS:
        yield Job("bf16", name, precision="bf16")
    for name in NETWORKS:
        yield Job("profile", name)
    for width in WIDTHS:
        yield Job("growth", f"{GROWING}_{width}")
    for resolution in RESOLUTIONS:
        yield Job("growth", f"{GROWING}_100", resolution)
    for pictures in BATCHES:
        yield Job("growth", f"{GROWING}_100", batch=pictures)
    for name in NETWORKS:
        yield Job("compile", name)
    for name in NETWORKS:
        yield Job("scaling", name, threads=2)


class Effort(NamedTuple):
    """How much is measured of each engine, and of which."""

    rounds: int
    seconds: float
    engines: tuple[str, ...]


QUICK = Effort(6, 0.3, tuple(name for name in ENGINES if name not in SLOW))
WHOLE = Effort(10, 1.0, tuple(ENGINES))


def measured(results: Path, effort: Effort) -> set[tuple[object, ...]]:
    """The kinds that `results` has of this machine and this compiler, quiet, with no less `effort`."""
    if not results.exists():
        return set()
    here = {key: value for key, value in described().items() if key in ("processor", "cores", "instructions")}
    source = compiler_source()
    lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines() if line]
    return {
        kind(line)
        for line in lines
        if line.get("compiler_source") == source
        and here.items() <= line["machine"].items()
        and quiet(line)
        and enough(line, effort)
    }


def enough(line: Mapping[str, Any], effort: Effort) -> bool:
    """Whether our engine and the others were measured as asked, or cannot be."""
    what, found = kind(line)[0], rounds_of(line)
    if what in ("profile", "compile"):
        return True
    if OURS not in found or min(map(len, found[OURS])) < effort.rounds:
        return False
    return what != "engines" or {*effort.engines} <= {*found, *line["left_out"]}


def command(job: Job, results: Path, effort: Effort) -> list[str]:
    """The words of `mobilenets` for `job`, which is not of the parts `compile` and `scaling`."""
    words = ["bench", job.network, "--resolution", str(job.resolution), "--json", str(results)]
    if job.what == "profile":
        return [*words, "--layers"]
    words += ["--threads", str(job.threads), "--batch", str(job.batch), "--precision", job.precision]
    engines = (OURS,) if job.what == "ours" else effort.engines
    words += ["--rounds", str(effort.rounds), "--seconds", str(effort.seconds)]
    return [*words, "--engines", ",".join(engines)]


LOOKS, BETWEEN_TRIES = 60, 20.0
"""How often the machine is looked at, with no pause in which its clock falls; seconds between tries."""


def wait_until_quiet(minutes: float) -> None:
    """Return when the machine is quiet, or after `minutes`."""
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        seen = noise([glimpse() for _ in range(LOOKS)])
        if seen.quiet:
            return
        print(f"waiting, {(end - time.monotonic()) / 60:.0f} min at most. {seen}", flush=True)
        time.sleep(BETWEEN_TRIES)


def run(words: Sequence[str]) -> int:
    """The exit code of `mobilenets` with `words`; Ctrl-C stops it, and this program when it has ended."""
    process = subprocess.Popen([sys.executable, "-m", "mobilenets", *words])
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
    if code in STOPPED:
        raise KeyboardInterrupt
    return code


CACHE = "MOBILENETS_CACHE"


@contextmanager
def empty_cache() -> Iterator[None]:
    """Nothing is kept from before, and nothing that is made meanwhile."""
    before = os.environ.get(CACHE)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE] = folder
        try:
            yield
        finally:
            del os.environ[CACHE]
            if before is not None:
                os.environ[CACHE] = before


def head(spec: Spec, threads: int, seen: Noise) -> dict[str, Any]:
    """What a line of ours begins with."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "mobilenets": __version__,
        "compiler_source": compiler_source(),
        "network": spec.name,
        "resolution": spec.resolution,
        "threads": threads,
        "batch": 1,
        "precision": "fp32",
        "machine": described(),
        "noise": seen.to_json(),
    }


def compile_anew(job: Job, results: Path) -> int:
    """Add to `results` how long our compiler takes for the network of `job`; the exit code.

    It is the time from a checkpoint in memory to the library on the disk: the plan, the C code and what the
    C compiler makes of it.
    """
    from mobilenets.exporting.peers import with_random_weights  # and torch, which nothing else here needs

    spec = zoo.build(job.network, resolution=job.resolution)
    checkpoint = with_random_weights(spec)
    try:
        with empty_cache():
            glimpses = [glimpse()]
            start = time.perf_counter()
            find_or_compile(checkpoint)
            seconds = time.perf_counter() - start
            glimpses.append(glimpse())
    except MobilenetsError as error:
        print(error, file=sys.stderr)
        return 1
    append_line(head(spec, 1, noise(glimpses)) | {"compile_seconds": seconds}, results)
    print(f"compiled in {seconds:.1f} s")
    return 0


def time_scaling(job: Job, results: Path, effort: Effort) -> int:
    """Add to `results` what a second thread brings us and LiteRT on the network of `job`; the exit code.

    Both engines with one thread and with two are four candidates of one run, so that a round has them all.
    """
    from mobilenets.exporting.peers import prepare, with_random_weights  # and torch, as above

    spec, progress = zoo.build(job.network, resolution=job.resolution), TerminalProgress()
    with tempfile.TemporaryDirectory() as folder:
        engines, missing = prepare(with_random_weights(spec), (OURS, LITERT), Path(folder), progress=progress)
        pairs = {each.engine: (replace(each, threads=1), replace(each, threads=2)) for each in engines}
        found = in_turn(
            [each for pair in pairs.values() for each in pair],
            threads=2,
            batch=1,
            rounds=max(effort.rounds, MIN_ROUNDS),
            seconds=effort.seconds,
            progress=progress,
        )
    medians = {name: timed.round_medians_ms for name, timed in found.timed.items()}
    rows = {
        engine: (medians[one.name], medians[two.name])
        for engine, (one, two) in pairs.items()
        if one.name in medians and two.name in medians
    }
    left_out = {each.engine: each.why for each in (*missing, *found.left_out)}
    for name, why in left_out.items():
        print(f"left out: {name}: {why}", file=sys.stderr)
    if OURS not in rows:
        return 1
    scaling = [
        {"engine": engine, "one_round_medians_ms": list(one), "two_round_medians_ms": list(two)}
        for engine, (one, two) in rows.items()
    ]
    rest = {"versions": versions(rows), "scaling": scaling, "left_out": left_out}
    append_line(head(spec, 2, found.noise) | rest, results)
    for engine, (one, two) in rows.items():
        print(f"{engine}: {ratio(one, two)} times as fast with two threads as with one")
    print(found.noise)
    return 0


def measure(job: Job, results: Path, effort: Effort) -> int:
    """The exit code of `job`, whose line is then in `results`."""
    if job.part == "compile":
        return compile_anew(job, results)
    if job.part == "scaling":
        return time_scaling(job, results, effort)
    return run(command(job, results, effort))


def title(job: Job, results: Path, effort: Effort) -> str:
    """What is done for `job`."""
    if job.part == "compile":
        return f"compiling {job.network}, with nothing kept"
    if job.part == "scaling":
        return f"timing {job.network} with one thread and with two, in turn"
    return f"mobilenets {' '.join(command(job, results, effort))}"


GUESSES, OTHERWISE = {"profile": 20.0, "growth": 25.0, "compile": 15.0, "scaling": 90.0}, 150.0
"""Seconds of a job before one of its part was done."""


class Clock:
    """How long the jobs that are left will take, by those that were done; seconds."""

    def __init__(self) -> None:
        self.took: dict[str, list[float]] = {}

    def left(self, rest: Sequence[Job]) -> float:
        return sum(self.expected(job.part) for job in rest)

    def expected(self, part: str) -> float:
        known = self.took.get(part)
        return sum(known) / len(known) if known else GUESSES.get(part, OTHERWISE)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--patience", type=float, default=0.0, metavar="MINUTES")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    effort = QUICK if options.quick else WHOLE
    there = set() if options.again else measured(options.results, effort)
    wanted = [job for job in jobs() if options.only in (None, job.part)]
    todo = [job for job in wanted if (job.what, *job[1:]) not in there]
    print(f"{len(todo)} of {len(wanted)} to measure; the others are in {options.results}", flush=True)
    clock, failed = Clock(), 0
    try:
        for index, job in enumerate(todo):
            left, what = clock.left(todo[index:]) / 60, title(job, options.results, effort)
            print(f"\n[{index + 1} of {len(todo)}, about {left:.0f} min left] {what}")
            sys.stdout.flush()
            wait_until_quiet(options.patience)
            start = time.monotonic()
            failed += measure(job, options.results, effort) != 0
            clock.took.setdefault(job.part, []).append(time.monotonic() - start)
    except KeyboardInterrupt:
        print("\nStopped. What was measured is kept; the same command goes on from here.")
        return 130
    there = measured(options.results, effort)
    if noisy := sum((job.what, *job[1:]) not in there for job in todo) - failed:
        print(
            f"\n{noisy} were measured while the machine was not quiet. The same command measures them again."
        )
    if failed:
        print(
            f"\n{failed} of {len(todo)} could not be measured; see above. The same command tries them again."
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
