"""The tables of a run as CSV: every prediction, and every class with its figures."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO

from mobilenets.evaluation import Evaluation
from mobilenets.folder import Folder, Split
from mobilenets.text import spreadsheet_cell


def predictions(evaluation: Evaluation) -> str:
    """One row per test picture, in the order of the test; `probability` is that of the prediction."""
    rows = (
        (name, evaluation.labels[truth], evaluation.labels[said], f"{row[said]:.6f}", _yes(truth == said))
        for name, truth, said, row in zip(
            evaluation.names, evaluation.truth, evaluation.predicted, evaluation.probabilities, strict=True
        )
    )
    return _csv(("path", "truth", "predicted", "probability", "correct"), rows)


def classes(evaluation: Evaluation, folder: Folder) -> str:
    """One row per class; recall with its 95 % interval, all shares in [0, 1]."""
    counts = folder.counts()
    header = ("number", "class", "test", "right", "recall", "low", "high", "precision", "train", "val")
    rows = []
    for number, row in enumerate(evaluation.per_class, start=1):
        split: Mapping[Split, int] = counts.get(row.label, {})
        figures = (row.recall.value, row.recall.low, row.recall.high, row.precision)
        rows.append(
            (
                str(number),
                row.label,
                str(row.n),
                str(round(row.recall.value * row.n)),
                *(f"{figure:.4f}" for figure in figures),
                str(split.get("train", 0)),
                str(split.get("val", 0)),
            )
        )
    return _csv(header, rows)


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([spreadsheet_cell(cell) for cell in row] for row in rows)
    return stream.getvalue()
