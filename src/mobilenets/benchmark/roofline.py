"""The roofline of a compiled network: how near each step is to what the processor can do.

Williams, Waterman, Patterson 2009. Across: multiply-adds per byte that a step has to move; up:
multiply-adds a second. A step under a sloping roof waits for bytes, one under the flat roof computes.
"""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilenets.benchmark.layers import Layers
from mobilenets.errors import InputError
from mobilenets.files import write_bytes
from mobilenets.report.style import LIGHT, drawing, png
from mobilenets.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE_TYPES = (".svg", ".png")
_KINDS = {"depthwise": ("s", LIGHT.wrong), "1 × 1": ("o", LIGHT.right), "": ("^", LIGHT.ink)}
"""What a step's title holds, the first that fits → marker and colour; the last is everything else."""
_NAMES = {"depthwise": "depthwise", "1 × 1": "pointwise", "": "other convolutions"}


def check_file(file: Path) -> None:
    """Refuse a picture that is neither of `FILE_TYPES`, before anything is measured."""
    if file.suffix.lower() not in FILE_TYPES:
        raise InputError(f"a roofline is written as {' or '.join(FILE_TYPES)}.", file=file)


def write_roofline(layers: Layers, file: Path) -> None:
    """Draw `layers` into `file`, an SVG or a PNG by its ending; a mark's area is its share of the time.

    Raises `MissingExtra` without matplotlib.
    """
    check_file(file)
    with drawing(LIGHT, 8, 5) as figure:
        axes = figure.subplots()
        _draw_steps(layers, axes)
        _draw_roofs(layers, axes)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("multiply-adds per byte of maps and weights")
        axes.set_ylabel("10⁹ multiply-adds a second, one thread")
        axes.set_title(f"{printable(layers.spec.name)} at {layers.spec.resolution} px, step by step")
        axes.legend(loc="lower right")
        if file.suffix.lower() == ".png":
            data = png(figure)
        else:
            stream = BytesIO()
            figure.savefig(stream, format="svg", metadata={"Date": None})
            data = stream.getvalue()
    write_bytes(file, data)


def _draw_steps(layers: Layers, axes: "Axes") -> None:
    steps = [step for step in layers.steps if step.macs]
    kinds = [next(kind for kind in _KINDS if kind in step.title) for step in steps]
    for kind, (marker, colour) in _KINDS.items():
        mine = [step for step, its in zip(steps, kinds, strict=True) if its == kind]
        if mine:
            axes.scatter(
                [step.macs / step.bytes_moved for step in mine],
                [step.gmacs for step in mine],
                s=[1500 * step.median_ms / layers.total_ms + 6 for step in mine],
                marker=marker,
                color=colour,
                alpha=0.6,
                linewidths=0,
                label=_NAMES[kind],
            )


def _draw_roofs(layers: Layers, axes: "Axes") -> None:
    """Under the flat roof and the two sloping ones nothing is impossible."""
    peaks = layers.peaks
    low, high = axes.get_xlim()
    across = np.geomspace(max(low, 0.02), max(high, 2 * peaks.gmacs / peaks.far_gbytes), 200)
    for gbytes, name, style in (
        (peaks.near_gbytes, f"a near cache: {peaks.near_gbytes:.0f} GB/s", "--"),
        (peaks.far_gbytes, f"memory: {peaks.far_gbytes:.0f} GB/s", ":"),
    ):
        roof = np.minimum(peaks.gmacs, across * gbytes)
        axes.plot(across, roof, style, color=LIGHT.muted, linewidth=1.2, label=name)
    axes.axhline(peaks.gmacs, color=LIGHT.ink, linewidth=1)
    place: dict[str, Any] = {"xytext": (0, 4), "textcoords": "offset points"}
    axes.annotate(f"peak: {peaks.gmacs:.0f}·10⁹", (across[0], peaks.gmacs), **place)
