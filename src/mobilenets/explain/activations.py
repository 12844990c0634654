"""ReLU6, hard sigmoid and h-swish beside what they approximate."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mobilenets.explain.accuracy import Result, results
from mobilenets.explain.figure import Figure, Idea, Source, canvas, compute, drawn, svg
from mobilenets.report.style import LIGHT

if TYPE_CHECKING:
    from markupsafe import Markup

Values = NDArray[np.float64]


def relu6(x: Values) -> Values:
    """min(max(x, 0), 6)."""
    return np.minimum(np.maximum(x, 0), 6)


def hard_sigmoid(x: Values) -> Values:
    """relu6(x + 3) / 6."""
    return relu6(x + 3) / 6


def hard_swish(x: Values) -> Values:
    """x · relu6(x + 3) / 6."""
    return x * hard_sigmoid(x)


def relu(x: Values) -> Values:
    """max(x, 0)."""
    return np.maximum(x, 0)


def sigmoid(x: Values) -> Values:
    """1 / (1 + e⁻ˣ)."""
    return 1 / (1 + np.exp(-x))


def swish(x: Values) -> Values:
    """x · sigmoid(x), also called SiLU."""
    return x * sigmoid(x)


class Pair(NamedTuple):
    """A cheap function and the one that it stands for."""

    name: str
    of: str
    cheap: Callable[[Values], Values]
    exact: Callable[[Values], Values]
    reach: int
    """How far to both sides the chart goes."""
    top: float
    """Of its axis."""


PAIRS = (
    Pair("ReLU6", "ReLU", relu6, relu, 8, 9.0),
    Pair("hard sigmoid", "sigmoid", hard_sigmoid, sigmoid, 8, 1.1),
    Pair("h-swish", "swish", hard_swish, swish, 6, 6.2),
)
REACH = 20.0
STEP = 1e-4


class Error(NamedTuple):
    """How far a pair is apart."""

    name: str
    of: str
    largest: float
    at: float
    """The x with the largest difference, the first of them."""
    inside: float
    """The largest difference for |x| ≤ 6."""


def errors() -> list[Error]:
    """The largest absolute difference of every pair for |x| ≤ 20, in steps of 0.0001."""
    n = round(REACH / STEP)
    x = np.arange(-n, n + 1, dtype=np.float64) * STEP
    found = []
    for pair in PAIRS:
        difference = np.abs(pair.cheap(x) - pair.exact(x))
        worst = int(difference.argmax())
        inside = float(difference[np.abs(x) <= 6].max())
        found.append(Error(pair.name, pair.of, float(difference[worst]), float(x[worst]), inside))
    return found


def draw_pair(pair: Pair, alt: str) -> "Markup":
    """Both functions, up to the pair's reach."""
    with canvas(3.4, 3.0) as figure:
        axes = figure.subplots()
        x = np.linspace(-pair.reach, pair.reach, 481)
        axes.plot(x, pair.exact(x), "--", color=LIGHT.muted, linewidth=1.6, label=pair.of)
        axes.plot(x, pair.cheap(x), color=LIGHT.right, label=pair.name)
        axes.set_ylim(-0.08 * pair.top, pair.top)
        axes.set_xticks(range(-pair.reach, pair.reach + 1, pair.reach // 2))
        axes.legend(loc="upper left")
        return svg(figure, alt)


def draw_differences(alt: str) -> "Markup":
    """Cheap minus exact for the two smooth functions."""
    with canvas(5.0, 2.9) as figure:
        axes = figure.subplots()
        x = np.linspace(-8, 8, 641)
        for pair, style, colour in ((PAIRS[1], "--", LIGHT.wrong), (PAIRS[2], "-", LIGHT.right)):
            axes.plot(x, pair.cheap(x) - pair.exact(x), style, color=colour, label=f"{pair.name} − {pair.of}")
        axes.axhline(0, color=LIGHT.muted, linewidth=0.8)
        axes.set_xlim(-8.3, 8.3)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=2)
        return svg(figure, alt)


def ablation() -> list[Result]:
    """What the V3 paper measured with and without h-swish, from the table of published results."""
    return [row for row in results() if row.series == "ablation"]


def make() -> Idea:
    """Section 5 of the page."""
    found = compute(errors)
    by_name = {row.name: row for row in found.value}
    pairs = Figure(
        images=tuple(draw_pair(pair, f"{pair.name} beside {pair.of}.") for pair in PAIRS),
        caption=(
            "Solid: what the networks use. Dashed: what it stands for. ReLU6 is ReLU up to 6; the hard "
            "sigmoid and h-swish are built from ReLU6, with no exponential in them."
        ),
        source=Source("1905.02244", "section 5.2, Figure 6"),
        code=found.code,
        drawing=drawn(draw_pair),
        columns=3,
    )
    sigmoid_, swish_ = by_name["hard sigmoid"], by_name["h-swish"]
    differences = Figure(
        images=(
            draw_differences(
                f"The differences; hard sigmoid is at most {sigmoid_.largest:.4f} away, h-swish "
                f"{swish_.largest:.4f}."
            ),
        ),
        caption=(
            f"The hard sigmoid is at most {sigmoid_.largest:.4f} from the sigmoid, at x = "
            f"±{abs(sigmoid_.at):.2f}; h-swish at most {swish_.largest:.4f} from swish, at x = "
            f"±{abs(swish_.at):.2f}, where its straight parts begin."
        ),
        source=Source("1905.02244", "section 5.2"),
        code=found.code,
        drawing=drawn(draw_differences),
        columns=0,
    )
    values = {"rows": found.value, "ablation": ablation(), "step": 6 / 255}
    figures = {"pairs": pairs, "differences": differences}
    return Idea("activations", "ReLU6 and h-swish", "Activations", figures, values)
