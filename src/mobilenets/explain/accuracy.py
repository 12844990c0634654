"""The generations on one plot: published accuracy against counted cost."""

import csv
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

from mobilenets import zoo
from mobilenets.cost import count
from mobilenets.explain.figure import (
    FAMILY_COLOURS,
    MARKERS,
    Figure,
    Idea,
    Source,
    canvas,
    compute,
    drawn,
    svg,
)
from mobilenets.report.style import LIGHT

if TYPE_CHECKING:
    from markupsafe import Markup


class Result(NamedTuple):
    """A published accuracy; a row of `paper_results.csv`."""

    family: str
    label: str
    network: str
    """Our name."""
    resolution: int
    top1: float
    """Top-1 on ImageNet's validation set, percent, as printed."""
    series: str
    """`published`, `retrained` (by the V4 paper's authors, with their recipe) or `ablation`."""
    printed_macs_m: float | None
    printed_params_m: float | None
    source: str


def results() -> list[Result]:
    """The published results that come with this package."""
    text = files("mobilenets.explain").joinpath("paper_results.csv").read_text(encoding="utf-8")

    def number(cell: str) -> float | None:
        return float(cell) if cell else None

    return [
        Result(
            row["family"],
            row["label"],
            row["network"],
            int(row["resolution"]),
            float(row["top1"]),
            row["series"],
            number(row["printed_macs_m"]),
            number(row["printed_params_m"]),
            row["source"],
        )
        for row in csv.DictReader(text.splitlines())
    ]


class Point(NamedTuple):
    """A published accuracy with the cost that we count."""

    result: Result
    macs: int
    params: int

    @property
    def macs_off(self) -> float | None:
        """By which share the printed MACs differ from the counted ones."""
        printed = self.result.printed_macs_m
        return None if printed is None else printed * 1e6 / self.macs - 1


def points() -> list[Point]:
    """Every result but the ablations, with `cost.count` of its network at its resolution."""
    found = []
    for row in results():
        if row.series != "ablation":
            cost = count(zoo.build(row.network, resolution=row.resolution))
            found.append(Point(row, cost.macs, cost.params))
    return found


def dense_shares() -> dict[str, float]:
    """Which share of its MACs each published network spends in full convolutions larger than 1×1."""
    shares = {}
    for row in results():
        if row.series == "published":
            cost = count(zoo.build(row.network, resolution=row.resolution))
            shares[row.label] = sum(c.macs for c in cost.layers if c.kind.startswith("conv")) / cost.macs
    return shares


_RIGHT, _LEFT, _ABOVE, _BELOW = (7, -3, "left"), (-7, -3, "right"), (0, 7, "center"), (0, -14, "center")
"""Where a name stands: points to the right and up of its marker, and how it is aligned."""
NAMED = {
    "V1 full": (_BELOW, _BELOW),
    "V1 1.0": (_RIGHT, _RIGHT),
    "V1 0.5": (_BELOW, _RIGHT),
    "V1 0.25": (_RIGHT, _RIGHT),
    "V2 1.4": (_RIGHT, _RIGHT),
    "V2 1.0": (_RIGHT, _LEFT),
    "V2 0.35": (_BELOW, _RIGHT),
    "V3-Large 1.0": (_LEFT, _ABOVE),
    "V3-Small 1.0": (_LEFT, _LEFT),
    "V4-Conv-S": ((8, -14, "center"), (-7, 7, "right")),
    "V4-Conv-M": (_RIGHT, _LEFT),
    "V4-Conv-L": (_BELOW, _BELOW),
    "V4-Hybrid-M": (_ABOVE, _ABOVE),
    "V4-Hybrid-L": (_ABOVE, _ABOVE),
}
"""Points that get their name beside them, over MACs and over parameters."""


def draw_accuracy(found: list[Point], quantity: str, alt: str) -> "Markup":
    """Top-1 over `macs` or `params`; filled: as published, hollow: retrained with V4's recipe."""
    with canvas(8.4, 4.8) as figure:
        axes = figure.subplots()
        shown = {(p.result.network, p.result.resolution): p for p in found if p.result.series == "published"}
        for family, colour in FAMILY_COLOURS.items():
            own = [p for p in found if p.result.family == family]
            published = [p for p in own if p.result.series == "published"]
            again = [p for p in own if p.result.series == "retrained"]
            for point in again:
                before = shown[point.result.network, point.result.resolution]
                x = getattr(point, quantity) / 1e6
                axes.plot([x, x], [before.result.top1, point.result.top1], ":", color=colour, linewidth=1.2)
            for group, face in ((published, colour), (again, LIGHT.surface)):
                axes.plot(
                    [getattr(p, quantity) / 1e6 for p in group],
                    [p.result.top1 for p in group],
                    MARKERS[family],
                    color=colour,
                    markerfacecolor=face,
                    markersize=6,
                    label=family if face == colour else None,
                )
        hollow: dict[str, Any] = {"color": LIGHT.muted, "markerfacecolor": LIGHT.surface}
        axes.plot([], [], "o", markersize=6, label="trained again", **hollow)
        for point in shown.values():
            if point.result.label in NAMED:
                x, y, side = NAMED[point.result.label][quantity == "params"]
                at = (getattr(point, quantity) / 1e6, point.result.top1)
                style: dict[str, Any] = {"fontsize": 8.5, "color": LIGHT.muted, "ha": side}
                axes.annotate(point.result.label, at, xytext=(x, y), textcoords="offset points", **style)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("MACs, millions" if quantity == "macs" else "parameters, millions")
        axes.set_title("top-1 accuracy on ImageNet, percent")
        axes.set_ylim(48, 86)
        axes.legend(loc="lower right", ncols=5)
        return svg(figure, alt)


def make() -> Idea:
    """Section 7 of the page."""
    found = compute(points)
    images = tuple(
        draw_accuracy(
            found.value,
            quantity,
            f"Top-1 accuracy over {said} of {len(found.value)} published results, a marker for each "
            "generation. The table below has the numbers.",
        )
        for quantity, said in (("macs", "MACs"), ("params", "parameters"))
    )
    figure = Figure(
        images=images,
        caption=(
            "Accuracy is what the authors print; MACs and parameters are counted from the networks by one "
            "rule. Filled: with the recipe of its time. Hollow: the same network trained again by the "
            "authors of V4 with theirs (dotted line: what the recipe alone is worth)."
        ),
        source=Source("2404.10518", "Table 6, and the tables named below"),
        code=found.code,
        drawing=drawn(draw_accuracy),
    )
    gained = {
        p.result.label.removesuffix(" again"): p.result.top1 - _before(found.value, p).result.top1
        for p in found.value
        if p.result.series == "retrained"
    }
    values = {"points": found.value, "gained": gained, "dense": dense_shares()}
    return Idea("accuracy", "Four generations on one plot", "Accuracy and cost", {"plot": figure}, values)


def _before(found: list[Point], again: Point) -> Point:
    return next(
        p
        for p in found
        if p.result.series == "published"
        and (p.result.network, p.result.resolution) == (again.result.network, again.result.resolution)
    )
