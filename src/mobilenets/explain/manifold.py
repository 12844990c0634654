"""What ReLU does to a flat curve that was put into n dimensions: Figure 1 of the V2 paper, recomputed."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mobilenets.explain.figure import Figure, Idea, Source, canvas, compute, drawn, svg
from mobilenets.report.style import LIGHT

if TYPE_CHECKING:
    from markupsafe import Markup

SHOWN = (2, 3, 5, 15, 30)
"""Dimensions of the paper's figure."""
DIMENSIONS = (*range(2, 11), 12, 15, 20, 25, 30)
SEEDS = 200
POINTS = 360


def spiral(points: int = POINTS) -> NDArray[np.float64]:
    """A spiral of two and a half turns around the origin, 2×`points`, radius up to 1."""
    t = np.linspace(0.1, 1, points)
    angle = 5 * np.pi * t
    return np.stack([t * np.cos(angle), t * np.sin(angle)])


class There(NamedTuple):
    """A spiral on its way into `n` dimensions, through ReLU, and back."""

    n: int
    back: NDArray[np.float64]
    """2×points: T⁺·relu(T·x), times the one factor that fits x best."""
    error: float
    """‖back − x‖ / ‖x‖ over the whole curve: 0 is perfect, 1 is as good as nothing."""
    collapsed: NDArray[np.bool_]
    """Points with fewer than two positive coordinates: from them x cannot be computed again."""


def there_and_back(n: int, seed: int) -> There:
    """Embed the spiral with a random n×2 matrix T, apply ReLU, come back with the pseudo-inverse of T."""
    x = spiral()
    matrix = np.random.default_rng([n, seed]).standard_normal((n, 2))
    inside = np.maximum(matrix @ x, 0)
    back = np.linalg.pinv(matrix) @ inside
    factor = (back * x).sum() / max((back * back).sum(), 1e-12)
    error = float(np.linalg.norm(factor * back - x) / np.linalg.norm(x))
    return There(n, factor * back, error, (inside > 0).sum(axis=0) < 2)


class Loss(NamedTuple):
    """What is lost in `n` dimensions, over many random matrices."""

    n: int
    error: float
    """Median."""
    error_low: float
    error_high: float
    """10th and 90th percentile."""
    collapsed: float
    """Median share of points from which there is no way back."""
    collapsed_mean: float
    expected: float
    """What the mean share must be: (n + 1) / 2ⁿ, if each coordinate is positive for half of all matrices."""
    without_relu: float
    """The largest error of the same way without ReLU."""
    typical: int
    """The seed whose error is nearest to the median."""


def losses() -> list[Loss]:
    """The loss in every number of dimensions."""
    return [_loss(n) for n in DIMENSIONS]


def _loss(n: int) -> Loss:
    runs = [there_and_back(n, seed) for seed in range(SEEDS)]
    errors = np.array([run.error for run in runs])
    shares = np.array([run.collapsed.mean() for run in runs])
    low, median, high = np.percentile(errors, (10, 50, 90))
    return Loss(
        n=n,
        error=float(median),
        error_low=float(low),
        error_high=float(high),
        collapsed=float(np.median(shares)),
        collapsed_mean=float(shares.mean()),
        expected=(n + 1) / 2**n,
        without_relu=max(_linear_error(n, seed) for seed in range(SEEDS)),
        typical=int(np.abs(errors - median).argmin()),
    )


def _linear_error(n: int, seed: int) -> float:
    x = spiral()
    matrix = np.random.default_rng([n, seed]).standard_normal((n, 2))
    return float(np.linalg.norm(np.linalg.pinv(matrix) @ (matrix @ x) - x) / np.linalg.norm(x))


def draw_spiral(points: NDArray[np.float64], lost: NDArray[np.bool_], title: str, alt: str) -> "Markup":
    """A curve in the plane; its lost points are orange."""
    with canvas(2.3, 2.5) as figure:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0.02, 0.02, 0.96, 0.85))
        axes.plot(*points, color=LIGHT.line, linewidth=1, zorder=1)
        axes.plot(*points[:, ~lost], "o", color=LIGHT.right, markersize=2.4, markeredgewidth=0)
        axes.plot(*points[:, lost], "o", color=LIGHT.wrong, markersize=2.4, markeredgewidth=0)
        reach = 1.12 * max(1.0, float(np.abs(points).max()))
        axes.set_xlim(-reach, reach)
        axes.set_ylim(-reach, reach)
        axes.set_aspect("equal")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(title, pad=5)
        for spine in axes.spines.values():
            spine.set_visible(True)
        return svg(figure, alt)


def draw_losses(rows: list[Loss], alt: str) -> "Markup":
    """Error and share of lost points over the number of dimensions."""
    with canvas(5.2, 3.2) as figure:
        axes = figure.subplots()
        n = [row.n for row in rows]
        axes.fill_between(
            n,
            [row.error_low for row in rows],
            [row.error_high for row in rows],
            color=LIGHT.right,
            alpha=0.18,
            linewidth=0,
        )
        axes.plot(
            n, [row.error for row in rows], "o-", color=LIGHT.right, markersize=4, label="relative error"
        )
        lost = [row.collapsed for row in rows]
        axes.plot(n, lost, "s--", color=LIGHT.wrong, markersize=4, label="share of points lost")
        axes.set_xscale("log")
        axes.set_xticks((*SHOWN, 10), [str(ticked) for ticked in (*SHOWN, 10)])
        axes.minorticks_off()
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("dimensions n")
        axes.legend(loc="upper right")
        return svg(figure, alt)


def make() -> Idea:
    """Section 3 of the page."""
    rows = compute(losses)
    by_n = {row.n: row for row in rows.value}
    none = np.zeros(POINTS, bool)
    images = [draw_spiral(spiral(), none, "the curve", "A spiral of two and a half turns around the origin.")]
    for n in SHOWN:
        run = there_and_back(n, by_n[n].typical)
        said = (
            f"After ReLU in {n} dimensions: error {run.error:.2f}, {run.collapsed.mean():.0%} of points lost."
        )
        images.append(draw_spiral(run.back, run.collapsed, f"n = {n}", said))
    spirals = Figure(
        images=tuple(images),
        caption=(
            "A spiral in the plane is put into n dimensions by a random matrix T, passes ReLU, and comes "
            "back by the pseudo-inverse of T. Orange points have fewer than two positive coordinates left: "
            "nothing can bring them back. In 2 and 3 dimensions the curve is folded onto rays and edges; "
            "in 15 and 30 it is bent, but whole. Of each n we show the matrix whose error is the median "
            "one."
        ),
        source=Source("1801.04381", "section 3.2, Figure 1"),
        code=rows.code,
        drawing=drawn(draw_spiral),
        columns=3,
    )
    first, last = by_n[SHOWN[0]], by_n[SHOWN[-1]]
    loss = Figure(
        images=(
            draw_losses(
                rows.value,
                f"Relative error falls from {first.error:.2f} in 2 dimensions to {last.error:.2f} in 30; "
                f"the share of lost points from {first.collapsed:.0%} to {last.collapsed:.0%}.",
            ),
        ),
        caption=(
            f"Medians over {SEEDS} random matrices; the band holds 80% of the errors. Without ReLU the "
            f"error is at most {max(row.without_relu for row in rows.value):.0e}: it is the non-linearity "
            "in few dimensions that loses the curve, not the way there and back."
        ),
        source=Source("1801.04381", "section 3.2 and Appendix A"),
        code=rows.code,
        drawing=drawn(draw_losses),
        columns=0,
    )
    values = {"rows": [by_n[n] for n in SHOWN], "seeds": SEEDS}
    return Idea(
        "manifold",
        "Why the bottleneck is linear",
        "Linear bottleneck",
        {"spirals": spirals, "loss": loss},
        values,
    )
