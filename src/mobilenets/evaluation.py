"""How good a classifier is, said with an interval: accuracy, balanced accuracy, per class, confusion.

`metrics` turns logits and truth into an `Evaluation`; `evaluate` runs a model over a folder first.
Classes are matched by name, never by position.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenets.checkpoint import digest
from mobilenets.errors import FolderError, LabelsError, PictureError
from mobilenets.folder import Folder, Picture, Split
from mobilenets.pictures import batches
from mobilenets.progress import SILENT, Progress
from mobilenets.runtime import Model, Session, open_session, read_model
from mobilenets.text import count, printable

CONFIDENCE = 0.95
_DRAWS = 4000


@dataclass(frozen=True, slots=True)
class Score:
    """A share in [0, 1] with its 95 % interval, from `n` pictures."""

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, Any]:
        """`{"value": …, "low": …, "high": …, "n": …}`."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%} – {self.high:.1%}, n = {self.n:,})"


def proportion(hits: int, n: int) -> Score:
    """`hits` of `n` with Wilson's score interval (JASA 1927), which holds at 0, at 1 and for small n."""
    if n == 0:
        return Score(0.0, 0.0, 1.0, 0)
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    p = hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Score(p, max(0.0, min(p, float(centre - half))), min(1.0, max(p, float(centre + half))), n)


def balanced(hits: NDArray[np.int64], n: NDArray[np.int64]) -> Score:
    """Mean of the per-class accuracies over the classes with pictures.

    The interval has the spread of the mean of independent Beta(hits + ½, misses + ½) draws per class
    (Jeffreys), 4,000 of them from a fixed seed, about the value: unlike a bootstrap's it does not
    collapse to a point for classes without a miss, and small classes do not pull it towards one half.
    For two or three classes of a few pictures it is too narrow: 82 % at 2 classes of 3 pictures, 92 %
    at 2 of 30 in simulation, 95 % from some ten pictures a class and more classes on.
    """
    hits, n = hits[n > 0], n[n > 0]
    if not n.size:
        return Score(0.0, 0.0, 1.0, 0)
    if n.size == 1:
        return proportion(int(hits[0]), int(n[0]))
    value = float((hits / n).mean())
    draws = np.random.default_rng(0).beta(hits + 0.5, n - hits + 0.5, size=(_DRAWS, len(n))).mean(axis=1)
    low, high = value + np.quantile(draws, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2]) - draws.mean()
    return Score(value, max(0.0, float(low)), min(1.0, float(high)), int(n.sum()))


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class: recall with its interval, precision, and how many pictures it has."""

    label: str
    recall: Score
    precision: float
    n: int


@dataclass(frozen=True)
class Evaluation:
    """Every prediction of one evaluation; all figures are computed from it."""

    labels: tuple[str, ...]
    """The model's labels, in the order of its logits."""
    paths: tuple[Path, ...]
    names: tuple[str, ...]
    """The pictures' names as shown to people."""
    truth: NDArray[np.int64]
    """Index into `labels` per picture."""
    probabilities: NDArray[np.float32]
    """Pictures × labels, rows sum to 1."""
    engine: str = "torch"
    seen: int = 0
    """How many of the pictures the model was trained on, by their bytes."""
    unreadable: tuple[str, ...] = ()
    """Names of pictures that could not be decoded and are not counted."""

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """Index of the best label per picture."""
        best: NDArray[np.int64] = self.probabilities.argmax(axis=1).astype(np.int64)
        return best

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Counts: rows are the truth, columns the prediction, labels × labels."""
        k = len(self.labels)
        return np.bincount(self.truth * k + self.predicted, minlength=k * k).reshape(k, k).astype(np.int64)

    @property
    def accuracy(self) -> Score:
        """Share of pictures whose best label is right."""
        return proportion(int((self.predicted == self.truth).sum()), len(self.truth))

    def top(self, k: int) -> Score:
        """Share of pictures whose label is among the `k` best."""
        kth = np.sort(self.probabilities, axis=1)[:, -min(k, len(self.labels))]
        own = self.probabilities[np.arange(len(self.truth)), self.truth]
        return proportion(int((own >= kth).sum()), len(self.truth))

    @property
    def balanced_accuracy(self) -> Score:
        """Mean recall over the classes that have pictures: every class counts the same."""
        return balanced(np.diag(self.confusion), self.confusion.sum(axis=1))

    @property
    def per_class(self) -> tuple[ClassScore, ...]:
        """One row per label that has pictures or was predicted."""
        hits, n, said = np.diag(self.confusion), self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        return tuple(
            ClassScore(
                label,
                proportion(int(hits[i]), int(n[i])),
                float(hits[i] / said[i]) if said[i] else 0.0,
                int(n[i]),
            )
            for i, label in enumerate(self.labels)
            if n[i] or said[i]
        )

    def most_confidently_wrong(self, limit: int) -> list[int]:
        """Indices of wrongly labelled pictures, the most confident mistake first."""
        wrong = np.flatnonzero(self.predicted != self.truth)
        order = np.argsort(-self.probabilities[wrong, self.predicted[wrong]], kind="stable")
        return [int(i) for i in wrong[order][:limit]]

    def to_json(self) -> dict[str, Any]:
        """The figures; what `evaluate --json` prints and `metrics.json` holds."""
        top5 = {"top5_accuracy": self.top(5).to_json()} if len(self.labels) > 10 else {}
        return {
            "accuracy": self.accuracy.to_json(),
            "balanced_accuracy": self.balanced_accuracy.to_json(),
            **top5,
            "n": len(self.truth),
            "engine": self.engine,
            "trained_on": self.seen,
            "unreadable": list(self.unreadable),
            "per_class": [
                {"label": row.label, "recall": row.recall.to_json(), "precision": row.precision, "n": row.n}
                for row in self.per_class
            ],
            "confusion": {"labels": list(self.labels), "counts": self.confusion.tolist()}
            if len(self.labels) <= 100
            else None,
        }


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities per row, computed in double precision."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float32] = (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)
    return result


def match_labels(labels: Sequence[str], folder: Folder) -> list[int]:
    """For each class of `folder` its index in the model's `labels`, by name.

    A folder may lack some of the model's classes; a class that the model does not know is an error.
    """
    position = {label: i for i, label in enumerate(labels)}
    unknown = [name for name in folder.classes if name not in position]
    if unknown:
        raise LabelsError(
            f"has {count(len(unknown), 'class', 'classes')} that the model does not know: "
            f"{', '.join(printable(name) for name in unknown[:8])}{' …' if len(unknown) > 8 else ''}.",
            file=folder.root,
            remedy=f"The model knows: {', '.join(printable(label) for label in labels[:12])}"
            f"{' …' if len(labels) > 12 else ''}. Rename the folders to match, or leave the others out.",
        )
    return [position[name] for name in folder.classes]


def evaluate(
    model: Model,
    folder: Folder,
    *,
    split: Split | None = "test",
    engine: str | None = None,
    batch_size: int = 32,
    progress: Progress = SILENT,
) -> Evaluation:
    """Run `model` over one split of `folder` (`None`: over all its pictures) and score it.

    `engine` is as in `runtime.open_session`, and is opened when everything else is known to be right.
    Raises `LabelsError` where class names do not match, `FolderError` where the split is empty.
    """
    source = read_model(model)
    position = match_labels(source.manifest.labels, folder)
    pictures = folder.pictures if split is None else folder.split(split)
    if not pictures:
        raise FolderError(f"has no pictures in the split '{split}'.", file=folder.root)
    session = open_session(source, engine=engine, progress=progress)
    logits, kept, unreadable = run_pictures(session, pictures, batch_size=batch_size, progress=progress)
    return Evaluation(
        labels=session.manifest.labels,
        paths=tuple(p.path for p in kept),
        names=tuple(p.name for p in kept),
        truth=np.array([position[p.label] for p in kept], dtype=np.int64),
        probabilities=softmax(logits),
        engine=session.engine,
        seen=sum(digest(p.sha256) in session.trained_on for p in kept),
        unreadable=unreadable,
    )


def run_pictures(
    session: Session, pictures: Sequence[Picture], *, batch_size: int = 32, progress: Progress = SILENT
) -> tuple[NDArray[np.float32], list[Picture], tuple[str, ...]]:
    """Logits of the pictures that can be decoded, those pictures, and the names of the others."""
    unreadable: list[str] = []

    def note(index: int, _error: PictureError) -> None:
        unreadable.append(pictures[index].name)

    spec, kept, logits = session.manifest.spec, [], []
    feed = batches(
        [p.path for p in pictures],
        session.manifest.preprocessing,
        spec.resolution,
        batch_size=batch_size,
        on_error=note,
    )
    for indices, pixels in progress.track(feed, len(pictures), "evaluating", size=lambda item: len(item[0])):
        logits.append(session.run(pixels))
        kept += [pictures[i] for i in indices]
    if not kept:
        raise FolderError("has no picture that can be decoded.", file=pictures[0].path.parent)
    return np.concatenate(logits), kept, tuple(unreadable)
