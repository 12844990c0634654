"""A short measurement before a run: the precision, layout and threads that train fastest here."""

import copy
import time
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional

from mobilenets.recipe import Layout, Precision, Recipe
from mobilenets.spec import Spec

_ENOUGH_S = 3.0
"""Seconds after which a candidate is not timed again."""
_CANDIDATES: tuple[tuple[Precision, Layout], ...] = (
    ("fp32", "contiguous"),
    ("fp32", "channels_last"),
    ("bf16", "channels_last"),
    ("bf16", "contiguous"),
)
_WARM, _TIMED, _BATCH = 1, 3, 16
_HANDICAP = {"fp32": 1.0, "bf16": 1.25, "contiguous": 1.0, "channels_last": 1.1}
"""By which factor a choice must win: close calls go to plain fp32, so that runs repeat."""

_ALL_THREADS_MUST_WIN_BY = 1.15


@dataclass(frozen=True, slots=True)
class Speed:
    """The choice, and what a picture costs with it in forward and backward pass."""

    precision: Precision
    layout: Layout
    threads: int
    """Of the CPU's cores; on a GPU what torch has."""
    seconds_per_picture: float
    measured: tuple[tuple[str, float], ...] = ()
    """Every candidate that was tried: name → pictures per second."""


def choose(network: nn.Module, spec: Spec, recipe: Recipe, device: torch.device) -> Speed:
    """Time a few training steps of each candidate that the recipe leaves open; weights stay as they are.

    One thread is tried against all with the best precision and layout. It wins where the layers are
    so small that starting threads costs what they save, and where other programs keep the cores busy:
    every layer then waits for the thread that is not running.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(recipe.threads or before)
    try:
        timed = {
            (precision, layout): _seconds_per_picture(
                network, spec, precision, layout, device, recipe.batch_size
            )
            for precision, layout in _CANDIDATES
            if recipe.precision in ("auto", precision) and recipe.layout in ("auto", layout)
        }
        best = min(timed, key=lambda choice: timed[choice] * _HANDICAP[choice[0]] * _HANDICAP[choice[1]])
        speed = Speed(*best, torch.get_num_threads(), timed[best])
        rows = [(f"{precision}, {layout}", 1 / s) for (precision, layout), s in timed.items()]
        if device.type == "cpu" and recipe.threads is None and before > 1:
            torch.set_num_threads(1)
            alone = _seconds_per_picture(network, spec, *best, device, recipe.batch_size)
            rows.append((f"{', '.join(best)}, one thread", 1 / alone))
            if alone < _ALL_THREADS_MUST_WIN_BY * speed.seconds_per_picture:
                speed = replace(speed, threads=1, seconds_per_picture=alone)
    finally:
        torch.set_num_threads(before)
    return replace(speed, measured=tuple(rows))


def memory_format(layout: Layout) -> torch.memory_format:
    """PyTorch's name for a layout."""
    return torch.channels_last if layout == "channels_last" else torch.contiguous_format


def _seconds_per_picture(
    network: nn.Module,
    spec: Spec,
    precision: Precision,
    layout: Layout,
    device: torch.device,
    batch_size: int,
) -> float:
    n = min(_BATCH, batch_size)
    trial = copy.deepcopy(network).to(device, memory_format=memory_format(layout)).train()  # type: ignore[call-overload]
    pixels = torch.zeros(n, spec.channels, spec.resolution, spec.resolution, device=device)
    pixels = pixels.contiguous(memory_format=memory_format(layout))
    labels = torch.zeros(n, dtype=torch.long, device=device)
    times = []
    for _ in range(_WARM + _TIMED):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = trial(pixels)
        functional.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        if device.type != "cpu":
            torch.accelerator.synchronize()
        times.append(time.perf_counter() - start)
        if sum(times) > _ENOUGH_S and len(times) > _WARM:
            break
    return min(times[_WARM:]) / n
