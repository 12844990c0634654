"""Labels for pictures: files and folders in, a `Prediction` for each picture out."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilenets.errors import FolderError, InputError, PictureError
from mobilenets.evaluation import softmax
from mobilenets.formats import EXTENSIONS
from mobilenets.pictures import batches
from mobilenets.progress import SILENT, Progress
from mobilenets.runtime import Model, open_session, read_model
from mobilenets.text import printable, spreadsheet_cell


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one picture: its best labels with their probabilities, best first."""

    path: Path
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    error: str | None = None
    """Why the picture could not be read; then there are no labels."""

    @property
    def label(self) -> str | None:
        """The best label."""
        return self.labels[0] if self.labels else None

    @property
    def probability(self) -> float | None:
        """Its probability."""
        return self.probabilities[0] if self.probabilities else None

    def __str__(self) -> str:
        name = printable(str(self.path))
        if self.error is not None:
            return f"{name}: {self.error}"
        best = ", ".join(
            f"{printable(label)} {p:.1%}" for label, p in zip(self.labels, self.probabilities, strict=True)
        )
        return f"{name}: {best}"

    def to_json(self) -> dict[str, Any]:
        """`{"path", "labels": [{"label", "probability"}], "error"}`."""
        ranked = [
            {"label": label, "probability": p}
            for label, p in zip(self.labels, self.probabilities, strict=True)
        ]
        return {"path": str(self.path), "labels": ranked, "error": self.error}


def predict(
    model: Model,
    pictures: Iterable[str | Path],
    *,
    top: int = 3,
    engine: str | None = None,
    batch_size: int = 16,
    progress: Progress = SILENT,
) -> list[Prediction]:
    """The `top` labels of every picture; a folder stands for all pictures below it, in order of name.

    A picture that cannot be read gives a `Prediction` with an `error`, and the rest goes on. `engine` is
    as in `runtime.open_session`, and is opened when the pictures are there. Raises
    `FolderError` for a path that does not exist or a folder without pictures.
    """
    if top < 1:
        raise InputError(f"top is {top}; it must be 1 or more.")
    source = read_model(model)
    paths = list(expand(pictures))
    session = open_session(source, engine=engine, progress=progress)
    results: dict[int, Prediction] = {}

    def unreadable(index: int, error: PictureError) -> None:
        results[index] = Prediction(paths[index], (), (), error.what)

    manifest = session.manifest
    feed = batches(
        paths, manifest.preprocessing, manifest.spec.resolution, batch_size=batch_size, on_error=unreadable
    )
    for indices, pixels in progress.track(feed, len(paths), "predicting", size=lambda item: len(item[0])):
        probabilities = softmax(session.run(pixels))
        best = (-probabilities).argsort(axis=1, kind="stable")[:, :top]
        for row, index in enumerate(indices):
            results[index] = Prediction(
                paths[index],
                tuple(manifest.labels[i] for i in best[row]),
                tuple(float(probabilities[row, i]) for i in best[row]),
            )
    return [results[index] for index in range(len(paths))]


def expand(pictures: Iterable[str | Path]) -> Iterator[Path]:
    """Every file as it is, every folder as the pictures below it, hidden ones left out."""
    for item in pictures:
        path = Path(item)
        if path.is_dir():
            found = [
                file
                for file in sorted(path.rglob("*"))
                if file.suffix.lower() in EXTENSIONS
                and file.is_file()
                and not any(part.startswith(".") for part in file.relative_to(path).parts)
            ]
            if not found:
                raise FolderError("holds no pictures.", file=path)
            yield from found
        elif path.exists():
            yield path
        else:
            raise FolderError("there is no such picture or folder.", file=path)


def to_csv(predictions: Sequence[Prediction]) -> str:
    """`path,label,probability,…,error` lines, safe to open in a spreadsheet.

    Further labels have columns `label_2`, `probability_2` and so on.
    """
    ranks = max((len(p.labels) for p in predictions), default=1) or 1
    names = [f"{name}{'' if rank == 1 else f'_{rank}'}" for rank in range(1, ranks + 1) for name in _RANKED]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", *names, "error"])
    for p in predictions:
        ranked = [
            cell
            for label, probability in zip(p.labels, p.probabilities, strict=True)
            for cell in (spreadsheet_cell(label), f"{probability:.6f}")
        ]
        missing = [""] * (len(names) - len(ranked))
        writer.writerow([spreadsheet_cell(str(p.path)), *ranked, *missing, p.error or ""])
    return text.getvalue()


_RANKED = ("label", "probability")
