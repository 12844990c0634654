"""What a benchmark found: one row for each engine, and what may be said of their order."""

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenets import __version__
from mobilenets.benchmark.conditions import Noise, described
from mobilenets.benchmark.engines import ENGINES, OURS, PRECISIONS, versions
from mobilenets.benchmark.peaks import Peaks, measure_peaks
from mobilenets.benchmark.program import program_cold_start_ms
from mobilenets.benchmark.results import compiler_source
from mobilenets.benchmark.rounds import Candidate, LeftOut, Timed, in_turn, logits_of
from mobilenets.benchmark.samples import MIN_ROUNDS, Interval, median_interval, quantile, ratio
from mobilenets.compiler.targets import LIBRARY
from mobilenets.cost import count
from mobilenets.errors import EnvironmentFault, InputError, UnknownName
from mobilenets.progress import SILENT, Progress
from mobilenets.spec import Spec
from mobilenets.tolerances import BF16_RELATIVE, agreement


@dataclass(frozen=True)
class Row:
    """One engine."""

    engine: str
    round_medians_ms: tuple[float, ...]
    median_ms: float
    """Of the rounds' medians; a run takes a whole batch."""
    p95_ms: float
    runs: int
    cold_start_ms: Interval
    first_start_ms: float
    """The first of them: an engine that compiles when it first sees a network finds that later."""
    peak_bytes: int
    """Of the engine's process, with Python's and numpy's own memory; 0 where the system does not say."""
    model_bytes: int
    runtime_bytes: int
    """Of the runtime's package on the disk, without what it depends on; 0 for the compiled library."""
    relative_difference: float
    """max |Δlogit| to the reference, in standard deviations of its logits."""
    same: bool
    """Whether its logits are those of the reference, as far as the precision allows."""


@dataclass(frozen=True)
class Comparison:
    """All engines on one network."""

    spec: Spec
    threads: int
    batch: int
    precision: str
    """What all of them were asked for: one of `engines.PRECISIONS`."""
    rows: tuple[Row, ...]
    left_out: tuple[LeftOut, ...]
    noise: Noise
    peaks: Peaks | None
    """`None` where there is no C compiler to measure them."""
    arena_bytes: int | None
    """Of the compiled network's maps."""
    program_ms: Interval | None
    """From the start of the emitted C program, which has two threads, to its answer."""
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    date: str
    """UTC, ISO 8601."""

    @property
    def macs(self) -> int:
        """Multiply-adds of one run."""
        return count(self.spec).macs * self.batch

    @property
    def fastest(self) -> Row:
        """The row with the smallest median, of those that compute the same, where any do."""
        return min(self._same or self.rows, key=lambda row: row.median_ms)

    @property
    def _same(self) -> list[Row]:
        return [row for row in self.rows if row.same]

    @property
    def base(self) -> Row:
        """What the others are compared with: our own engine, else the fastest."""
        return next((row for row in self.rows if row.engine == OURS), self.fastest)

    def times(self, row: Row, other: Row) -> Interval:
        """How many times as long as `other` the engine of `row` takes."""
        return ratio(row.round_medians_ms, other.round_medians_ms)

    def share_of_peak(self, row: Row) -> float | None:
        """Multiply-adds a second, as a share of the processor's measured peak."""
        return None if self.peaks is None else self.macs / row.median_ms * 1e-6 / self.peaks.gmacs

    @property
    def verdict(self) -> str:
        """Which engine is the fastest, or that nobody can say."""
        if not self._same:
            return "No winner: no engine's logits are those of the network in fp32."
        best = self.fastest
        others = [row for row in self._same if row is not best]
        if not others:
            return f"Only {best.engine} was timed, so there is nothing to compare it with."
        close = [row.engine for row in others if self.times(row, best).low <= 1]
        if close:
            return f"No winner: the interval of the ratio of {', '.join(close)} to {best.engine} includes 1."
        second = min(others, key=lambda row: row.median_ms)
        share = self.times(best, second)
        return f"{best.engine} is the fastest: it takes {share} of the time of {second.engine}."

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with every median of every round."""
        return {
            "date": self.date,
            "mobilenets": __version__,
            "compiler_source": compiler_source(),
            "network": self.spec.name,
            "resolution": self.spec.resolution,
            "channels": self.spec.channels,
            "classes": self.spec.classes,
            "macs": self.macs,
            "threads": self.threads,
            "batch": self.batch,
            "precision": self.precision,
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "noise": self.noise.to_json(),
            "peaks": None if self.peaks is None else self.peaks._asdict(),
            "arena_bytes": self.arena_bytes,
            "program_ms": None if self.program_ms is None else self.program_ms._asdict(),
            "engines": [self._row_json(row) for row in self.rows],
            "left_out": {each.engine: each.why for each in self.left_out},
            "verdict": self.verdict,
        }

    def _row_json(self, row: Row) -> dict[str, Any]:
        return {
            "engine": row.engine,
            "median_ms": row.median_ms,
            "p95_ms": row.p95_ms,
            "runs": row.runs,
            "pictures_per_second": 1e3 * self.batch / row.median_ms,
            "round_medians_ms": list(row.round_medians_ms),
            f"times_{self.base.engine}": self.times(row, self.base)._asdict(),
            "times_fastest": self.times(row, self.fastest)._asdict(),
            "share_of_peak": self.share_of_peak(row),
            "cold_start_ms": row.cold_start_ms._asdict(),
            "first_start_ms": row.first_start_ms,
            "peak_bytes": row.peak_bytes,
            "model_bytes": row.model_bytes,
            "runtime_bytes": row.runtime_bytes,
            "relative_difference": row.relative_difference,
            "same_logits": row.same,
        }


def compare(
    spec: Spec,
    candidates: Sequence[Candidate],
    *,
    left_out: Sequence[LeftOut] = (),
    threads: int = 1,
    batch: int = 1,
    rounds: int = 10,
    seconds: float = 1.0,
    precision: str = "fp32",
    reference: Candidate | None = None,
    progress: Progress = SILENT,
) -> Comparison:
    """Time `candidates`, which run the same network of `spec`, in turn, for `seconds` each.

    Their logits are compared with those of the first of them or, where there is a `reference`, with
    what that one gives in fp32. Raises `InputError` for fewer than `MIN_ROUNDS` rounds,
    `EnvironmentFault` where no engine is left.
    """
    check(threads=threads, batch=batch, rounds=rounds, seconds=seconds)
    peaks = _peaks(threads)
    expected = None if reference is None else logits_of(reference, threads=threads, batch=batch)
    found = in_turn(
        candidates,
        threads=threads,
        batch=batch,
        rounds=rounds,
        seconds=seconds,
        precision=precision,
        progress=progress,
    )
    missing = (*left_out, *found.left_out)
    if not found.timed:
        whys = "; ".join(f"{each.engine}: {each.why}" for each in missing)
        raise EnvironmentFault(f"no engine could be timed. {whys}")
    again = _peaks(threads)
    best = None if peaks is None or again is None else Peaks(*map(max, zip(peaks, again, strict=True)))
    files = {each.engine: each.model_bytes for each in candidates}
    if expected is None:
        expected = np.array(next(iter(found.timed.values())).turns[0].logits, np.float32)
    rows = tuple(
        _row(engine, each, expected, files[engine], _TOLERANCES[precision])
        for engine, each in found.timed.items()
    )
    return Comparison(
        spec=spec,
        threads=threads,
        batch=batch,
        precision=precision,
        rows=rows,
        left_out=missing,
        noise=found.noise,
        peaks=best,
        arena_bytes=_arena_bytes(candidates, threads),
        program_ms=_program_ms(spec, candidates),
        machine=described(),
        versions=versions(found.timed),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def check(*, threads: int, batch: int, rounds: int, seconds: float = 1.0, precision: str = "fp32") -> None:
    """Refuse numbers that cannot be meant, and a precision that there is not."""
    if precision not in PRECISIONS:
        raise UnknownName("precision", precision, PRECISIONS)
    if not 0 < seconds <= 60:
        raise InputError(f"seconds is {seconds:g}; it must be more than 0 and at most 60.")
    for name, value, least in (("threads", threads, 1), ("batch", batch, 1), ("rounds", rounds, MIN_ROUNDS)):
        if value < least:
            why = ": fewer give no 95 % interval" if name == "rounds" else ""
            raise InputError(f"{name} is {value}; it must be {least} or more{why}.")


def _peaks(threads: int) -> Peaks | None:
    try:
        return measure_peaks(threads)
    except EnvironmentFault:
        return None


def _arena_bytes(candidates: Sequence[Candidate], threads: int) -> int | None:
    header = _header(candidates)
    found = [] if header is None else _ARENA.findall(header.read_text(encoding="utf-8"))
    return int(found[0]) + threads * int(found[1]) if found else None


_ARENA = re.compile(r"#define MODEL_(?:ARENA|RING)_BYTES (\d+)")


def _program_ms(spec: Spec, candidates: Sequence[Candidate]) -> Interval | None:
    header = _header(candidates)
    if header is None:
        return None
    try:
        return program_cold_start_ms(spec, header.parents[1] / LIBRARY, header)
    except EnvironmentFault:
        return None


def _header(candidates: Sequence[Candidate]) -> Path | None:
    """`model.h` of the compiled candidate: a bundle's sources lie beside its library."""
    files = (each.model / "c" / "model.h" for each in candidates if each.engine == OURS)
    return next((file for file in files if file.is_file()), None)


def _row(engine: str, timed: Timed, expected: NDArray[np.float32], model_bytes: int, tolerance: float) -> Row:
    medians = timed.round_medians_ms
    everything = [each for times in timed.times_ms for each in times]
    logits = np.array(timed.turns[0].logits, np.float32)
    found = agreement(expected, logits, tolerance)
    return Row(
        engine=engine,
        round_medians_ms=medians,
        median_ms=statistics.median(medians),
        p95_ms=quantile(everything, 0.95),
        runs=len(everything),
        cold_start_ms=median_interval(timed.cold_starts_ms),
        first_start_ms=timed.cold_starts_ms[0],
        peak_bytes=max(turn.peak_bytes for turn in timed.turns),
        model_bytes=model_bytes,
        runtime_bytes=_installed_bytes(engine),
        relative_difference=found.relative,
        same=found.relative <= tolerance and found.top1_agreement == 1.0,
    )


_TOLERANCES = {"fp32": 1e-3, "bf16": BF16_RELATIVE}
"""Standard deviations of the logits: the first engine is not exact itself, and weights may be random."""


def _installed_bytes(engine: str) -> int:
    name = ENGINES[engine].distribution
    files = [] if name is None else metadata.distribution(name).files or []
    sizes = {
        path: path.stat().st_size for path in (Path(str(file.locate())) for file in files) if path.is_file()
    }
    return sum(sizes.values())
