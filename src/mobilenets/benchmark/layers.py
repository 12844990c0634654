"""The compiled network step by step: where its time goes, and how near each step is to what can be done."""

import ctypes
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenets import __version__
from mobilenets.benchmark.conditions import Noise, described, glimpse, noise
from mobilenets.benchmark.peaks import Peaks, measure_peaks
from mobilenets.benchmark.results import compiler_source
from mobilenets.benchmark.worker import pictures
from mobilenets.checkpoint import Checkpoint
from mobilenets.compiler import plan_of
from mobilenets.compiler.emission import emit, with_clock
from mobilenets.compiler.toolchain import cached_library
from mobilenets.progress import SILENT, Progress
from mobilenets.runtime.shared_library import open_library
from mobilenets.spec import Spec

_SECONDS = 2.0
_FEWEST_RUNS = 20
_WARM_UP_SHARE = 4
"""The first quarter of the runs is not counted."""


@dataclass(frozen=True)
class StepTime:
    """One step of the compiled network."""

    title: str
    median_ms: float
    macs: int
    bytes_moved: int

    @property
    def gmacs(self) -> float:
        """Multiply-adds, in 10⁹ a second."""
        return self.macs / self.median_ms * 1e-6

    @property
    def gbytes(self) -> float:
        """Bytes moved, in 10⁹ a second."""
        return self.bytes_moved / self.median_ms * 1e-6


@dataclass(frozen=True)
class Layers:
    """All steps of a run on one thread."""

    spec: Spec
    steps: tuple[StepTime, ...]
    peaks: Peaks
    noise: Noise
    machine: Mapping[str, str]
    date: str
    """UTC, ISO 8601."""

    @property
    def total_ms(self) -> float:
        """The sum of the medians."""
        return sum(step.median_ms for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a step is its title, median in ms, multiply-adds and bytes moved."""
        return {
            "date": self.date,
            "mobilenets": __version__,
            "compiler_source": compiler_source(),
            "network": self.spec.name,
            "resolution": self.spec.resolution,
            "threads": 1,
            "batch": 1,
            "precision": "fp32",
            "machine": dict(self.machine),
            "noise": self.noise.to_json(),
            "peaks": self.peaks._asdict(),
            "steps": [[step.title, step.median_ms, step.macs, step.bytes_moved] for step in self.steps],
        }


def time_layers(checkpoint: Checkpoint, *, seconds: float = _SECONDS, progress: Progress = SILENT) -> Layers:
    """Time every step of the compiled `checkpoint` on one thread.

    The network is compiled a second time, with a clock between its steps. Raises `EnvironmentFault`
    where there is no C compiler.
    """
    plan = plan_of(checkpoint)
    program = with_clock(emit(plan, checkpoint.manifest))
    clocked = _Clocked(cached_library(program, interface="layers", progress=progress))
    peaks = measure_peaks(1)
    glimpses = [glimpse()]
    pixels = pictures(checkpoint.spec, 1)
    runs: list[NDArray[np.int64]] = []
    end = time.perf_counter() + seconds
    while len(runs) < _FEWEST_RUNS or time.perf_counter() < end:
        runs.append(clocked.times_ns(pixels, len(plan.steps)))
    glimpses.append(glimpse())
    medians = np.median(runs[len(runs) // _WARM_UP_SHARE :], axis=0)
    steps = tuple(
        StepTime(step.title, max(1e-6 * float(ns), 1e-6), step.macs, step.bytes_moved)
        for step, ns in zip(plan.steps, medians, strict=True)
    )
    return Layers(
        spec=checkpoint.spec,
        steps=steps,
        peaks=peaks,
        noise=noise(glimpses),
        machine=described(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


class _Clocked:
    """The library with `layers.c` in it, opened on one thread."""

    def __init__(self, file: Path):
        self._functions = open_library(file)
        size = int(self._functions.model_bytes(1))
        self._memory = ctypes.create_string_buffer(size)
        self._functions.model_open(self._memory, size, 1)
        self._functions.layers_run.argtypes = [ctypes.c_void_p] * 3

    def times_ns(self, pixels: NDArray[np.uint8], steps: int) -> NDArray[np.int64]:
        """What every step took for one picture."""
        result = np.empty(steps, np.int64)
        self._functions.layers_run(self._memory, pixels.ctypes.data, result.ctypes.data)
        return result
