"""`explain`: the family's ideas as pictures and numbers made by running code, in one HTML page."""

from pathlib import Path

from mobilenets.errors import InputError
from mobilenets.explain.page import html, ideas
from mobilenets.explain.subject import open_sample
from mobilenets.files import write_text
from mobilenets.progress import SILENT, Progress

__all__ = ["explain"]


def explain(
    out: str | Path,
    *,
    model: str | Path | None = None,
    picture: str | Path | None = None,
    progress: Progress = SILENT,
) -> Path:
    """Write the page to `out` and return its path; equal input gives equal bytes.

    `model` is a network's name, a run folder or a checkpoint, for the sections that look into a
    network; without it they use fresh weights and say so. `picture` is the picture that is shown to
    it, by default a photograph that comes with scikit-learn.

    Raises `InputError` where `out` exists already, `PictureError` and `CheckpointError` naming their file,
    `UnknownName` for a name that is none, `MissingExtra`, and `WriteFailed` where the disk refuses.
    """
    out = Path(out)
    if out.is_dir():
        raise InputError("is a folder; the page is one file.", file=out, remedy="Name a file with -o.")
    if out.exists():
        raise InputError("exists already.", file=out, remedy="Choose another name with -o, or remove it.")
    sample = open_sample(picture)
    write_text(out, html(ideas(None if model is None else str(model), sample, progress), sample))
    return out
