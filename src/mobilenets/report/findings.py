"""What an evaluation and a folder amount to: confused pairs, calibration, counts, weak classes.

Numbers only; `words` says them in sentences, and charts, card and page show both.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mobilenets.evaluation import ClassScore, Evaluation, Score, proportion
from mobilenets.folder import Folder, Split

BINS = 10
THRESHOLDS = (0.0, 0.5, 0.7, 0.9, 0.99)
ENOUGH = 5
"""Below so many test pictures a class's recall is not worth a sentence of its own."""


@dataclass(frozen=True, slots=True)
class Confused:
    """`count` of the `n` test pictures of the class `truth` were taken for `predicted`."""

    truth: str
    predicted: str
    count: int
    n: int


@dataclass(frozen=True, slots=True)
class Bin:
    """Test pictures whose best probability lies in one tenth of [0, 1]."""

    low: float
    high: float
    confidence: float
    """Their mean best probability."""
    right: Score


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far probabilities can be taken at their word."""

    bins: tuple[Bin, ...]
    """Those that hold pictures."""
    error: float
    """Expected calibration error (Guo et al. 2017, arXiv 1706.04599, equation 3): the mean over pictures
    of |confidence − share right| of their bin, in [0, 1]. Biased upwards where bins hold few pictures."""
    confidence: float
    """Mean best probability over all pictures."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What is left when only answers with at least the probability `threshold` are accepted."""

    threshold: float
    answered: Score
    """The share of pictures with an accepted answer."""
    right: Score
    """The share of these that is right."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Everything of one kind that the scan noticed."""

    kind: str
    used: bool
    """Whether the files were used all the same, rightly converted."""
    files: tuple[tuple[str, str], ...]
    """(name, detail) of each."""


def confused_pairs(evaluation: Evaluation, limit: int) -> tuple[Confused, ...]:
    """The mistakes made more than once, as (truth, prediction) pairs of labels; the most frequent first."""
    errors = evaluation.confusion.copy()
    n = errors.sum(axis=1)
    np.fill_diagonal(errors, 0)
    order = np.argsort(-errors, axis=None, kind="stable")[:limit]
    rows, columns = np.unravel_index(order, errors.shape)
    return tuple(
        Confused(evaluation.labels[i], evaluation.labels[j], int(errors[i, j]), int(n[i]))
        for i, j in zip(rows, columns, strict=True)
        if errors[i, j] > 1
    )


def calibration(evaluation: Evaluation) -> Calibration:
    """Confidence against share right, in ten bins of equal width."""
    confidence = evaluation.probabilities.max(axis=1).astype(np.float64)
    right = evaluation.predicted == evaluation.truth
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    bins = tuple(
        Bin(
            low=b / BINS,
            high=(b + 1) / BINS,
            confidence=float(confidence[place == b].mean()),
            right=proportion(int(right[place == b].sum()), int((place == b).sum())),
        )
        for b in range(BINS)
        if (place == b).any()
    )
    n = max(1, len(confidence))
    return Calibration(
        bins=bins,
        error=sum(b.right.n * abs(b.confidence - b.right.value) for b in bins) / n,
        confidence=float(confidence.mean()) if confidence.size else 0.0,
    )


def weakest_first(evaluation: Evaluation) -> tuple[ClassScore, ...]:
    """The classes that have test pictures, by recall; of equal ones the better proven weakness first."""
    tested = [row for row in evaluation.per_class if row.n]
    return tuple(sorted(tested, key=lambda row: (row.recall.value, row.recall.high)))


def weakest(evaluation: Evaluation) -> ClassScore | None:
    """The class with the lowest recall, among those with `ENOUGH` test pictures."""
    return next((row for row in weakest_first(evaluation) if row.n >= ENOUGH), None)


def always_the_same(evaluation: Evaluation) -> float:
    """The accuracy of a "model" that always names the most common class of the test pictures, in [0, 1]."""
    n = evaluation.confusion.sum(axis=1)
    return float(n.max() / n.sum()) if n.sum() else 0.0


def accepted(evaluation: Evaluation) -> tuple[Accepted, ...]:
    """The bargain between answering always and being right, at each of `THRESHOLDS`."""
    confidence = evaluation.probabilities.max(axis=1, initial=0.0)
    right = evaluation.predicted == evaluation.truth
    rows = []
    for threshold in THRESHOLDS:
        taken = confidence >= threshold
        answered = proportion(int(taken.sum()), len(right))
        rows.append(Accepted(threshold, answered, proportion(int(right[taken].sum()), int(taken.sum()))))
    return tuple(rows)


def smallest_class(folder: Folder) -> tuple[str, Mapping[Split, int]]:
    """The class with the fewest pictures to learn from, and its pictures per split."""
    return min(folder.counts().items(), key=lambda item: item[1]["train"])


def scan_findings(folder: Folder) -> tuple[Finding, ...]:
    """What the scan noticed, by kind: first what was left out, then what was used; most files first."""
    kinds: dict[tuple[str, bool], list[tuple[str, str]]] = {}
    for problem in folder.problems:
        kinds.setdefault((problem.kind, problem.used), []).append((problem.name, problem.detail))
    found = [Finding(kind, used, tuple(files)) for (kind, used), files in kinds.items()]
    return tuple(sorted(found, key=lambda finding: (finding.used, -len(finding.files), finding.kind)))
