"""What the width multiplier α and the resolution multiplier ρ do to the cost of the whole family."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

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
from mobilenets.spec import Spec

if TYPE_CHECKING:
    from markupsafe import Markup

NETWORKS: dict[str, Callable[..., Spec]] = {
    "V1": zoo.v1,
    "V2": zoo.v2,
    "V3-Large": zoo.v3_large,
    "V3-Small": zoo.v3_small,
    "V4-Conv-M": zoo.v4_conv_medium,
    "V4-Conv-S": zoo.v4_conv_small,
}
PREFIXES = {
    "V1": "mobilenet_v1",
    "V2": "mobilenet_v2",
    "V3-Large": "mobilenet_v3_large",
    "V3-Small": "mobilenet_v3_small",
    "V4-Conv-M": "mobilenet_v4_conv_medium",
    "V4-Conv-S": "mobilenet_v4_conv_small",
}
"""Under which name the zoo lists the widths that somebody published."""
WIDTHS = tuple(round(0.25 + 0.05 * step, 2) for step in range(26))
RESOLUTIONS = tuple(range(96, 385, 32))
RESOLUTION = 224
"""At which all widths are compared, also those that their paper trains larger."""


class Curve(NamedTuple):
    """How one network's cost goes with α or ρ."""

    name: str
    x: tuple[float, ...]
    macs: tuple[int, ...]
    params: tuple[int, ...]
    published: tuple[float, ...]
    """Those x that somebody published."""

    @property
    def exponents(self) -> tuple[float, float]:
        """p in cost ∝ xᵖ for MACs and for parameters: the slope of a straight line in log-log."""
        return exponent(self.x, self.macs), exponent(self.x, self.params)


def exponent(x: Iterable[float], cost: Iterable[float]) -> float:
    """The least-squares slope of log cost over log x."""
    return float(np.polyfit(np.log(list(x)), np.log(list(cost)), 1)[0])


def over_width() -> list[Curve]:
    """Every network from α = 0.25 to 1.5 at 224 pixels."""
    curves = []
    for name, build in NETWORKS.items():
        costs = [count(build(width, resolution=RESOLUTION)) for width in WIDTHS]
        macs, params = tuple(c.macs for c in costs), tuple(c.params for c in costs)
        curves.append(Curve(name, WIDTHS, macs, params, zoo.ZOO[PREFIXES[name]].widths))
    return curves


def over_resolution() -> list[Curve]:
    """Every network at α = 1 from 96 to 384 pixels."""
    curves = []
    for name, build in NETWORKS.items():
        costs = [count(build(resolution=side)) for side in RESOLUTIONS]
        macs, params = tuple(c.macs for c in costs), tuple(c.params for c in costs)
        own = build().resolution
        published = {"V1": (128, 160, 192, 224), "V2": (96, 128, 160, 192, 224)}.get(name, (own,))
        curves.append(Curve(name, tuple(map(float, RESOLUTIONS)), macs, params, published))
    return curves


def parts_of_v1() -> dict[str, float]:
    """The exponent in α of the MACs of V1's depthwise, pointwise and other layers by themselves."""
    costs = [count(zoo.v1(width, resolution=RESOLUTION)) for width in WIDTHS]

    def part(wanted: Callable[[str], bool]) -> float:
        return exponent(WIDTHS, [sum(row.macs for row in cost.layers if wanted(row.kind)) for cost in costs])

    return {
        "pointwise": part(lambda kind: kind == "pointwise"),
        "depthwise": part(lambda kind: kind.startswith("depthwise")),
        "first and last": part(lambda kind: not kind.startswith(("pointwise", "depthwise"))),
    }


def draw_curves(curves: list[Curve], quantity: str, axis: str, alt: str) -> "Markup":
    """`macs` or `params` of all networks over `axis`, both logarithmic, published networks as points."""
    from matplotlib.ticker import LogLocator, NullLocator

    with canvas(4.6, 4.4) as figure:
        axes = figure.subplots()
        for curve in curves:
            family, dashed = curve.name[:2], curve.name in _SMALLER
            cost = np.array(getattr(curve, quantity)) / 1e6
            style: dict[str, Any] = {"color": FAMILY_COLOURS[family], "marker": MARKERS[family]}
            axes.plot(curve.x, cost, "--" if dashed else "-", color=style["color"], linewidth=1.6)
            at = np.exp(np.interp(np.log(curve.published), np.log(curve.x), np.log(cost)))
            axes.plot(curve.published, at, linestyle="", markersize=5.5, **style)
            axes.plot([], [], "--" if dashed else "-", markersize=5.5, label=curve.name, **style)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(_TICKS[axis], [f"{tick:g}" for tick in _TICKS[axis]])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel(axis)
        axes.set_ylabel("MACs, millions" if quantity == "macs" else "parameters, millions")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=3, handlelength=1.8, columnspacing=1.2)
        return svg(figure, alt)


_SMALLER = {"V3-Small", "V4-Conv-S"}
_TICKS = {
    "width multiplier α": (0.25, 0.35, 0.5, 0.75, 1.0, 1.4),
    "input side in pixels": (96, 128, 160, 224, 288, 384),
}


class Row(NamedTuple):
    """A line of the table of exponents."""

    name: str
    macs_width: float
    params_width: float
    macs_resolution: float
    params_resolution: float


def make() -> Idea:
    """Section 2 of the page."""
    width, resolution, parts = compute(over_width), compute(over_resolution), compute(parts_of_v1)
    rows = [
        Row(a.name, *a.exponents, *b.exponents) for a, b in zip(width.value, resolution.value, strict=True)
    ]
    low, high = min(r.macs_width for r in rows), max(r.macs_width for r in rows)
    by_width = Figure(
        images=(
            draw_curves(width.value, "macs", "width multiplier α", _alt("MACs", "α", width.value, 0)),
            draw_curves(width.value, "params", "width multiplier α", _alt("Parameters", "α", width.value, 1)),
        ),
        caption=(
            "Points are networks that somebody published, lines every width between, all at 224 pixels. On "
            "two logarithmic axes a power of α is a straight line; the slopes fitted here lie between "
            f"{low:.2f} and {high:.2f} for MACs. Steps in the lines come from rounding channels to "
            "multiples of 8."
        ),
        source=Source("1704.04861", "section 3.3, equation 6, Table 6"),
        code=width.code,
        drawing=drawn(draw_curves),
        columns=2,
    )
    slopes = [r.macs_resolution for r in rows]
    by_resolution = Figure(
        images=(
            draw_curves(
                resolution.value,
                "macs",
                "input side in pixels",
                _alt("MACs", "the side", resolution.value, 0),
            ),
        ),
        caption=(
            "The same at α = 1 over the side of the picture: slopes from "
            f"{min(slopes):.2f} to {max(slopes):.2f}. The parameters do not change at all: a convolution's "
            "weights do not know how large the picture is."
        ),
        source=Source("1704.04861", "section 3.4, equation 7, Table 7"),
        code=resolution.code,
        drawing=drawn(draw_curves),
        columns=0,
    )
    values = {"rows": rows, "parts": parts.value, "parts_code": parts.code, "curves": width.value}
    figures = {"width": by_width, "resolution": by_resolution}
    return Idea("multipliers", "Width α and resolution ρ", "Width and resolution", figures, values)


def _alt(what: str, of: str, curves: list[Curve], which: int) -> str:
    said = ", ".join(f"{curve.name} {curve.exponents[which]:.2f}" for curve in curves)
    return f"{what} over {of} on logarithmic axes, nearly straight lines with these slopes: {said}."
