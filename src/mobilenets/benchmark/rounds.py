"""Engines in turn, each in a process of its own that ends with its turn.

In one process the thread pools of several engines spin against each other, and an idle one still does.
Here nothing else is alive while an engine is timed, every turn is a cold start as well, and the luck
of a process, such as where its memory lies, is drawn anew in every round.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenets.benchmark.conditions import Glimpse, Noise, glimpse, noise
from mobilenets.benchmark.worker import Request, Turn
from mobilenets.benchmark.yardstick import Reading, calm, usual
from mobilenets.errors import EnvironmentFault
from mobilenets.progress import SILENT, Progress
from mobilenets.text import printable

_PATIENCE_SECONDS = 600
"""For one turn."""
_AGAIN_SECONDS = 120.0
"""For taking turns again in which nothing was calm, all of them together."""


@dataclass(frozen=True)
class Candidate:
    """An engine and the model file that it is to run."""

    engine: str
    model: Path
    """What `open_session` takes."""
    model_bytes: int
    """What has to be on the disk beside the runtime."""
    threads: int | None = None
    """Its own, where it is not the run's."""

    @property
    def name(self) -> str:
        """What tells it from the other candidates of a run."""
        if self.threads is None:
            return self.engine
        return f"{self.engine}, {self.threads} thread{'s' * (self.threads > 1)}"


@dataclass(frozen=True)
class LeftOut:
    """An engine that was not timed."""

    engine: str
    """Or the name of a candidate."""
    why: str


@dataclass(frozen=True)
class Timed:
    """What one candidate did, round by round."""

    turns: tuple[Turn, ...]
    times_ms: tuple[tuple[float, ...], ...]
    """Of every run in a calm window; of a round without one, of all runs."""
    disturbed: float
    """The share of the windows that were not calm."""
    cold_starts_ms: tuple[float, ...]
    """From the start of the process to its first logits, Python's own start included."""

    @property
    def round_medians_ms(self) -> tuple[float, ...]:
        """One for each round."""
        return tuple(map(statistics.median, self.times_ms))


@dataclass(frozen=True)
class Rounds:
    """All turns, and how the machine looked in between."""

    timed: dict[str, Timed]
    """By the name of the candidate: its engine, where it has no threads of its own."""
    left_out: tuple[LeftOut, ...]
    glimpses: tuple[Glimpse, ...]

    @property
    def noise(self) -> Noise:
        """What was seen of other work meanwhile, where anything was timed."""
        timed = self.timed.values()
        return noise(
            self.glimpses,
            [each.round_medians_ms for each in timed],
            disturbed=statistics.mean(each.disturbed for each in timed),
        )


def in_turn(
    candidates: Sequence[Candidate],
    *,
    threads: int,
    batch: int,
    rounds: int,
    seconds: float,
    precision: str = "fp32",
    progress: Progress = SILENT,
) -> Rounds:
    """Let every candidate run in every round, each round beginning with the next one.

    A turn in which nothing was calm is taken again while `_AGAIN_SECONDS` last. A candidate that fails is
    left out from then on, with its reason.
    """
    turns: dict[str, list[_Taken]] = {each.name: [] for each in candidates}
    failed: dict[str, str] = {}
    glimpses = []

    def take(candidate: Candidate) -> list[_Taken]:
        """One turn, or none where it fails or has failed."""
        if candidate.name in failed:
            return []
        glimpses.append(glimpse())
        try:
            return [_turn(_request(candidate, threads, batch, seconds, precision))]
        except EnvironmentFault as error:
            failed[candidate.name] = str(error)
            return []

    order = [
        candidates[(start + i) % len(candidates)] for start in range(rounds) for i in range(len(candidates))
    ]
    for candidate in progress.track(order, len(order), "timing"):
        turns[candidate.name] += take(candidate)
    end = time.monotonic() + _AGAIN_SECONDS
    while (again := _restless(candidates, turns, failed)) and time.monotonic() < end:
        for candidate, index in progress.track(again, len(again), "timing again"):
            turns[candidate.name][index : index + 1] = take(candidate)
    glimpses.append(glimpse())
    timed = {name: kept(taken) for name, taken in turns.items() if name not in failed}
    left_out = tuple(LeftOut(name, why) for name, why in failed.items())
    return Rounds(timed, left_out, tuple(glimpses))


_Taken = tuple[Turn, float]
"""A turn, and the seconds until its first logits."""


def _restless(
    candidates: Sequence[Candidate], turns: Mapping[str, Sequence[_Taken]], failed: Container[str]
) -> list[tuple[Candidate, int]]:
    """The turns in which nothing was calm: whose, and which."""
    return [
        (candidate, index)
        for candidate in candidates
        if candidate.name not in failed
        for index, uses in enumerate(_calm_windows(turns[candidate.name]))
        if not any(uses)
    ]


def _calm_windows(taken: Sequence[_Taken]) -> list[list[bool]]:
    """Of every turn of a candidate, which windows were calm. The usual reading is the candidate's own:
    threads that wait for its next run may slow the yardstick.
    """
    at_full_speed = usual([reading for turn, _ in taken for reading in turn.readings])
    return [calm(turn.readings, at_full_speed) for turn, _ in taken]


def kept(taken: Sequence[_Taken]) -> Timed:
    """What is left of a candidate's turns."""
    still = _calm_windows(taken)
    times = tuple(
        tuple(
            each
            for window, use in zip(turn.windows_ms, uses, strict=True)
            if use or not any(uses)
            for each in window
        )
        for (turn, _), uses in zip(taken, still, strict=True)
    )
    windows = [use for uses in still for use in uses]
    turns = tuple(turn for turn, _ in taken)
    return Timed(turns, times, 1 - sum(windows) / len(windows), tuple(1e3 * cold for _, cold in taken))


def logits_of(candidate: Candidate, *, threads: int, batch: int) -> NDArray[np.float32]:
    """What `candidate` answers in fp32, in a process of its own; `EnvironmentFault` where it fails."""
    turn, _ = _turn(_request(candidate, threads, batch, 0.0, "fp32"))
    return np.array(turn.logits, np.float32)


def _request(candidate: Candidate, threads: int, batch: int, seconds: float, precision: str) -> Request:
    threads = candidate.threads or threads
    return Request(str(candidate.model.resolve()), candidate.engine, threads, batch, seconds, precision)


def _turn(asked: Request) -> _Taken:
    """One turn, and the seconds until its first logits.

    numpy's products have one thread: the yardstick brings its own.
    """
    command = [sys.executable, "-m", "mobilenets.benchmark.worker", json.dumps(asdict(asked))]
    start = time.monotonic()
    try:
        done = subprocess.run(  # noqa: S603  # our own program, no shell
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            check=False,
            timeout=_PATIENCE_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise EnvironmentFault(f"{asked.engine} gave no answer in {_PATIENCE_SECONDS} seconds.") from error
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        last = next(reversed(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
        raise EnvironmentFault(f"its process failed: {printable(last)}") from error
    if "error" in answer:
        raise EnvironmentFault(answer["error"])
    readings = tuple(Reading(*each) for each in answer.pop("readings"))
    return Turn(**answer, readings=readings), answer["answered"] - start
