"""Charts of a run, each as the bytes of a PNG in a light or a dark theme."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobilenets.evaluation import Evaluation
from mobilenets.report.findings import calibration, confused_pairs, weakest_first
from mobilenets.report.record import Epoch
from mobilenets.report.style import LIGHT, Theme, drawing, png, shortened
from mobilenets.text import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUMBERED_CLASSES = 30
"""Up to so many classes the confusion matrix shows a number in every cell."""
LISTED_CLASSES = 40
"""So many classes the chart of recalls shows at most: the weakest."""
_SHARED_CLASSES = 12
"""Up to so many classes the cells have room for a share and a count."""
_LISTED_PAIRS = 18


@dataclass(frozen=True)
class Curves:
    """The training log as charts: all below each other, or one by one for a page that reflows."""

    history: Sequence[Epoch]
    best_epoch: int

    def together(self, theme: Theme = LIGHT) -> bytes:
        """Loss, scores and rate over the same epochs."""
        draws = [self._loss, self._scores, self._rate] if self._validated else [self._loss, self._rate]
        heights = [3] * (len(draws) - 1) + [1.6]
        with drawing(theme, 8, 1.1 * sum(heights)) as figure:
            panels = figure.subplots(len(draws), 1, sharex=True, height_ratios=heights)
            for draw, axes in zip(draws, panels, strict=True):
                draw(axes, theme)
            for axes in panels[:-1]:
                axes.set_xlabel("")
                axes.tick_params(labelbottom=False)
            return png(figure)

    def panels(self, theme: Theme) -> dict[str, bytes]:
        """What is drawn → its own chart; without validation pictures there are no scores."""
        drawers: dict[str, Callable[[Axes, Theme], None]] = {"loss": self._loss, "rate": self._rate}
        if self._validated:
            drawers = {"scores": self._scores, **drawers}
        return {name: self._alone(draw, theme) for name, draw in drawers.items()}

    @property
    def _validated(self) -> bool:
        return any(math.isfinite(row.accuracy) for row in self.history)

    def _alone(self, draw: "Callable[[Axes, Theme], None]", theme: Theme) -> bytes:
        with drawing(theme, 4.6, 3.3) as figure:
            draw(figure.subplots(), theme)
            return png(figure)

    def _loss(self, axes: "Axes", theme: Theme) -> None:
        self._frame(axes, theme)
        self._line(axes, [row.loss for row in self.history], "training loss", theme.muted, "--", joined=False)
        self._line(axes, [row.val_loss for row in self.history], "validation loss", theme.right)
        values = [value for row in self.history for value in (row.loss, row.val_loss) if math.isfinite(value)]
        axes.set_ylim(0, 1.08 * max(values, default=0) or 1)
        _legend_above(axes)

    def _scores(self, axes: "Axes", theme: Theme) -> None:
        self._frame(axes, theme)
        self._line(axes, [row.accuracy for row in self.history], "accuracy", theme.right)
        balanced = [row.balanced_accuracy for row in self.history]
        self._line(axes, balanced, "balanced accuracy", theme.wrong, "--", selected=True)
        axes.yaxis.set_major_formatter(_percent)
        axes.margins(y=0.08)
        _legend_above(axes)

    def _rate(self, axes: "Axes", theme: Theme) -> None:
        self._frame(axes, theme)
        self._line(axes, [row.rate for row in self.history], "learning rate", theme.ink, joined=False)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylim(bottom=0)
        _legend_above(axes)

    def _frame(self, axes: "Axes", theme: Theme) -> None:
        """Axis of epochs, a band for every other phase with its name, a line at the selected epoch."""
        from matplotlib.ticker import MaxNLocator

        numbers = [row.number for row in self.history]
        axes.set_xlim(min(numbers) - 0.5, max(numbers) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=8))
        axes.set_xlabel("epoch")
        axes.grid(axis="x", visible=False)
        phases = [(phase, list(rows)) for phase, rows in groupby(self.history, lambda row: row.phase)]
        for index, (phase, rows) in enumerate(phases):
            if len(phases) > 1:
                first, last = rows[0].number - 0.5, rows[-1].number + 0.5
                if index % 2 == 0:
                    axes.axvspan(first, last, color=theme.shade, linewidth=0, zorder=0)
                wide = (last - first) / (max(numbers) - min(numbers) + 1)
                if wide * 60 > len(phase):
                    style: dict[str, Any] = {"fontsize": 8, "color": theme.muted, "va": "bottom"}
                    place = axes.get_xaxis_transform()
                    axes.text(first, 0.01, f" {phase}", transform=place, **style)
        axes.axvline(self.best_epoch, color=theme.ink, linewidth=1, linestyle=":")

    def _line(
        self,
        axes: "Axes",
        values: Sequence[float],
        name: str,
        colour: str,
        style: str = "-",
        *,
        joined: bool = True,
        selected: bool = False,
    ) -> None:
        """One series. What is not `joined` breaks where the phase changes, since another thing is measured.

        Values that are not finite leave a gap; short runs and single epochs are drawn as points.
        """
        shown = np.where(np.isfinite(values), values, np.nan)
        if np.isnan(shown).all():
            return
        numbers = [row.number for row in self.history]
        groups = groupby(range(len(numbers)), lambda i: "" if joined else self.history[i].phase)
        for index, (_, members) in enumerate(groups):
            at = list(members)
            marker = "o" if len(numbers) <= 15 or len(at) == 1 else ""
            axes.plot(
                [numbers[i] for i in at],
                shown[at],
                style,
                marker=marker,
                markersize=4,
                color=colour,
                label=name if index == 0 else None,
            )
        chosen = [i for i, number in enumerate(numbers) if number == self.best_epoch]
        if selected and chosen:
            label = f"selected: epoch {self.best_epoch}"
            ring: dict[str, Any] = {"markersize": 9, "mfc": "none", "mec": colour, "mew": 2}
            axes.plot(numbers[chosen[0]], shown[chosen[0]], "o", label=label, **ring)


def confusion(evaluation: Evaluation, theme: Theme = LIGHT) -> bytes:
    """The confusion matrix: rows are the truth, shaded by their shares; blue is right, orange wrong.

    Only classes with pictures or predictions are shown. Up to `NUMBERED_CLASSES` every cell has its
    numbers; above, the matrix stands without, and beside it the pairs that are confused most.
    """
    shown = [i for i, row in enumerate(evaluation.confusion) if row.any() or evaluation.confusion[:, i].any()]
    counts = evaluation.confusion[np.ix_(shown, shown)]
    many = len(shown) > NUMBERED_CLASSES
    width, height = (11.5, 7.2) if many else (_matrix_inches(len(shown)),) * 2
    with drawing(theme, width, height) as figure:
        if many:
            axes, listed = figure.subplots(1, 2, width_ratios=(2.3, 1))
            _field(axes, counts, theme)
            _pair_list(listed, evaluation, theme)
        else:
            axes = figure.subplots()
            _cells(axes, counts, theme)
            _name_cells(axes, [shortened(evaluation.labels[i], 22) for i in shown])
        numbered = f" (of {len(shown)}, numbered as in classes.csv)" if many else ""
        axes.set_xlabel(f"predicted class{numbered}", loc="left", labelpad=8)
        axes.set_ylabel(f"true class{numbered}", loc="top", labelpad=8)
        axes.xaxis.set_label_position("top")
        axes.tick_params(top=False, left=False, labeltop=True, labelbottom=False, length=0)
        axes.tick_params(labelcolor=theme.ink)
        return png(figure, dpi=200 if many else None, tight=True)


def _cell_inches(k: int) -> float:
    return 0.78 if k <= 6 else 0.56 if k <= _SHARED_CLASSES else 0.42


def _matrix_inches(k: int) -> float:
    return max(2.2, k * _cell_inches(k)) + 1.6


def _name_cells(axes: "Axes", labels: Sequence[str]) -> None:
    """Names of rows and columns, the latter slanted where they are wider than a cell."""
    inches_per_letter = 0.075
    steep = inches_per_letter * max(map(len, labels), default=0) > _cell_inches(len(labels))
    turned: dict[str, Any] = {"rotation": 45, "rotation_mode": "anchor", "ha": "left"} if steep else {}
    axes.set_xticks(range(len(labels)), labels, **turned)
    axes.set_yticks(range(len(labels)), labels)


def _cells(axes: "Axes", counts: NDArray[np.int64], theme: Theme) -> None:
    """Every cell in its shade with its numbers, apart from its neighbours."""
    k = len(counts)
    strength = _strength(counts)
    right = np.eye(k, dtype=bool)
    _shade(axes, np.where(right, strength, 0), np.maximum(np.where(right, 0, strength), 0.04), theme)
    axes.spines[:].set_visible(False)
    edges, gap = np.arange(1, k) - 0.5, 2 if k <= _SHARED_CLASSES else 1
    axes.hlines(edges, -0.5, k - 0.5, color=theme.surface, linewidth=gap)
    axes.vlines(edges, -0.5, k - 0.5, color=theme.surface, linewidth=gap)
    _cell_numbers(axes, counts, theme)


def _field(axes: "Axes", counts: NDArray[np.int64], theme: Theme) -> None:
    """Cells too small for names; where there are hundreds, marks are as large as it takes to see one."""
    strength = np.where(counts > 0, 0.45 + 0.55 * _strength(counts), 0)
    right = np.eye(len(counts), dtype=bool)
    reach = len(counts) // 400
    _shade(axes, np.where(right, strength, 0), _widened(np.where(right, 0, strength), reach), theme)
    axes.spines[:].set_visible(True)
    step = 10 ** max(1, math.floor(math.log10(len(counts) / 3)))
    ticks = [0, *range(step - 1, len(counts), step)]
    axes.set_xticks(ticks, [f"{tick + 1}" for tick in ticks])
    axes.set_yticks(ticks, [f"{tick + 1}" for tick in ticks])


def _widened(marks: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Each value is the largest within `reach` cells to all sides."""
    for axis in (0, 1):
        padded = np.pad(marks, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)])
        marks = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=axis).max(axis=-1)
    return marks


def _shade(axes: "Axes", right: NDArray[np.float64], wrong: NDArray[np.float64], theme: Theme) -> None:
    """Draw the matrix: blue over orange over the surface, each as opaque as its strength in [0, 1]."""
    from matplotlib.colors import to_rgb

    surface, blue, orange = (np.array(to_rgb(c)) for c in (theme.surface, theme.right, theme.wrong))
    under = surface + (orange - surface) * wrong[..., None]
    opaque = (right > 0)[..., None]
    axes.imshow(
        np.where(opaque, surface + (blue - surface) * right[..., None], under), interpolation="nearest"
    )
    axes.grid(visible=False)


def _strength(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Shares of the rows in [0, 0.96], on a scale where a few per cent can be seen."""
    strength: NDArray[np.float64] = 0.96 * np.sqrt(counts / np.maximum(1, counts.sum(axis=1, keepdims=True)))
    return strength


def _cell_numbers(axes: "Axes", counts: NDArray[np.int64], theme: Theme) -> None:
    """Share and count in every cell with pictures and on the diagonal; the count alone in small cells."""
    n = counts.sum(axis=1)
    strength = _strength(counts)
    roomy = len(counts) <= _SHARED_CLASSES
    said = (counts > 0) | (np.eye(len(n), dtype=bool) & (n > 0))
    for i, j in zip(*np.nonzero(said), strict=True):
        colour = theme.surface if strength[i, j] > (0.62 if i == j else 0.72) else theme.ink
        style: dict[str, Any] = {"ha": "center", "color": colour, "in_layout": False}
        if roomy:
            axes.text(j, i - 0.03, f"{counts[i, j] / n[i]:.0%}", fontsize=10, va="bottom", **style)
            axes.text(j, i + 0.07, f"{counts[i, j]:,}", fontsize=8, va="top", **style)
        else:
            axes.text(j, i, f"{counts[i, j]:,}", fontsize=8, va="center", **style)


def _pair_list(axes: "Axes", evaluation: Evaluation, theme: Theme) -> None:
    axes.axis("off")
    pairs = confused_pairs(evaluation, _LISTED_PAIRS)
    axes.set_title("Most confused" if pairs else "No two classes were\nconfused more than once")
    for row, pair in enumerate(pairs):
        y = 1 - row / _LISTED_PAIRS
        names = f"{shortened(pair.truth, 20)} → {shortened(pair.predicted, 20)}"
        place: dict[str, Any] = {"transform": axes.transAxes, "va": "top"}
        axes.text(0, y, names, fontsize=9, **place)
        share = f"{pair.count} of {count(pair.n, 'picture')}"
        axes.text(0, y - 0.021, share, fontsize=8, color=theme.muted, **place)


def classes(evaluation: Evaluation, theme: Theme = LIGHT) -> bytes:
    """Recall per class with its 95% interval, the weakest first; of many classes the weakest."""
    ordered = weakest_first(evaluation)
    rows = ordered[:LISTED_CLASSES]
    with drawing(theme, 8, 1.4 + 0.3 * max(1, len(rows))) as figure:
        axes = figure.subplots()
        y = np.arange(len(rows))
        low, high = (np.array([getattr(r.recall, end) for r in rows]) for end in ("low", "high"))
        axes.hlines(y, low, high, color=theme.right, alpha=0.35, linewidth=6)
        axes.plot([row.recall.value for row in rows], y, "o", color=theme.right, markersize=7)
        axes.axvline(evaluation.balanced_accuracy.value, color=theme.muted, linewidth=1, linestyle=":")
        axes.set_yticks(y, [shortened(row.label, 28) for row in rows], color=theme.ink)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(-0.01, 1.01)
        axes.xaxis.set_major_formatter(_percent)
        axes.grid(axis="y", visible=False)
        axes.tick_params(length=0)
        for at, row in enumerate(rows):
            text = f"{round(row.recall.value * row.n):,} of {row.n:,}"
            axes.text(1.025, at, text, fontsize=8.5, va="center", color=theme.muted)
        which = f" · the {len(rows)} weakest of {len(ordered)} classes" if len(rows) < len(ordered) else ""
        axes.set_title(f"Share of each class's test pictures that were named rightly{which}")
        axes.set_xlabel("bars: 95% intervals · dotted: mean of all classes", loc="left")
        return png(figure)


def reliability(evaluation: Evaluation, theme: Theme = LIGHT) -> bytes:
    """Share right against stated probability in ten bins, with intervals and numbers of pictures."""
    found = calibration(evaluation)
    with drawing(theme, 5, 5) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        top.plot([0, 1], [0, 1], "--", color=theme.muted, linewidth=1.2, label="kept its word")
        x = [b.confidence for b in found.bins]
        y = [b.right.value for b in found.bins]
        off = [
            [b.right.value - b.right.low for b in found.bins],
            [b.right.high - b.right.value for b in found.bins],
        ]
        said = f"this model: calibration error {found.error:.1%}"
        top.errorbar(x, y, yerr=np.maximum(0, off), fmt="o-", color=theme.right, elinewidth=1.2, label=said)
        top.set_ylabel("share that was right")
        top.set_ylim(-0.02, 1.02)
        top.yaxis.set_major_formatter(_percent)
        _legend_above(top)
        middle = [(b.low + b.high) / 2 for b in found.bins]
        bottom.bar(middle, [b.right.n for b in found.bins], width=0.088, color=theme.right, alpha=0.45)
        bottom.set_ylabel("pictures")
        bottom.set_xlim(-0.01, 1.01)
        bottom.set_xlabel("probability that the model stated")
        bottom.xaxis.set_major_formatter(_percent)
        return png(figure)


def _legend_above(axes: "Axes") -> None:
    """The legend in one line above the axes, in place of a title."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=3, handlelength=1.6, columnspacing=1.2)
    else:
        axes.set_title("not measured")


def _percent(value: float, _position: float | None = None) -> str:
    return f"{round(100 * value, 4):g}%"
