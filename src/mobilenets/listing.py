"""A CSV that lists pictures, their classes and, where it says so, their splits. Read and written here.

Columns: `path` (relative to the CSV), then `label` or `index` (0–999 of ImageNet's table), then, if
present, `split` and `sha256`. What `write` writes, `read` reads back exactly, whatever a label or
a file name holds; and no cell is a formula to a spreadsheet: a path gets a leading `./`, a label
a leading apostrophe, which `read` takes off again.
"""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePath

from mobilenets import imagenet
from mobilenets.errors import FolderError
from mobilenets.files import write_bytes
from mobilenets.layout import SPLIT_NAMES, Candidate, Found, Problem, Split, label_of
from mobilenets.text import printable, spreadsheet_cell

FILE_NAMES = ("labels.csv", "split.csv")
"""What such a list is called where a folder holds one instead of class folders."""
COLUMNS = ("path", "label", "split", "sha256")
_REMEDY = (
    "A list of pictures begins with a line of column names: 'path' and 'label' "
    "(or 'index', 0–999 of ImageNet), and 'split' (train, val or test) if it says so."
)


def read(file: Path) -> Found:
    """The pictures that the CSV `file` lists, existing or not. Raises `FolderError` with the line.

    Commas, semicolons and tabs are understood, and the mark that spreadsheets put in front.
    """
    lines = _lines(file)
    header = [cell.strip().casefold() for cell in lines[0][1]] if lines else []
    if "path" not in header or not {"label", "index"} & set(header):
        found = ", ".join(f"'{printable(cell)}'" for cell in header) or "no line at all"
        raise FolderError(f"has no columns 'path' and 'label'; found: {found}.", file=file, remedy=_REMEDY)
    candidates: dict[tuple[str, str], Candidate] = {}
    problems: list[Problem] = []
    for line, cells in lines[1:]:
        try:
            candidate = _candidate(file.parent.absolute(), _row(header, cells))
        except FolderError as error:
            raise FolderError(f"line {line}: {error.what}", file=file, remedy=error.remedy) from None
        key = (candidate.name, candidate.label)
        if key in candidates:
            problems.append(Problem(candidate.name, "listed twice", f"again in line {line}", used=False))
        candidates.setdefault(key, candidate)
    listed = tuple(candidates.values())
    _check_splits(file, listed)
    labels = {candidate.label for candidate in listed}
    classes = sorted(labels) if "label" in header else [x for x in imagenet.labels() if x in labels]
    return Found("csv", tuple(classes), listed, tuple(problems))


def write(file: Path, pictures: Iterable[Candidate]) -> None:
    """Write `pictures` to the CSV `file`, for `read`; whole or not at all."""
    write_bytes(file, render(pictures, file.parent).encode("utf-8", errors="surrogateescape"))


def render(pictures: Iterable[Candidate], directory: Path) -> str:
    """The CSV's text, with paths relative to `directory`. Undecodable bytes of names stay surrogates."""
    real = cache(os.path.realpath)
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(COLUMNS)
    for picture in pictures:
        place = os.path.join(real(picture.path.parent), picture.path.name)
        path = _relative(place, real(directory))
        if spreadsheet_cell(path) != path:
            path = f"./{path}"
        writer.writerow((path, _guarded(picture.label), picture.split or "", picture.sha256 or ""))
    return stream.getvalue()


def _lines(file: Path) -> list[tuple[int, list[str]]]:
    """The CSV's rows with the number of the line where each ends, empty ones left out."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise FolderError(f"cannot be read ({error.strerror}).", file=file) from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise FolderError(
            "is UTF-16, not UTF-8.", file=file, remedy="Save it as 'CSV UTF-8' in the spreadsheet."
        )
    text = data.decode("utf-8-sig", errors="surrogateescape")
    first = text.split("\n", 1)[0]
    delimiter = next((d for d in ",;\t" if "path" in _names(first.split(d))), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if any(cells)]
    except csv.Error as error:
        raise FolderError(
            f"line {reader.line_num} is not CSV ({error}).", file=file, remedy=_REMEDY
        ) from error


def _names(cells: Iterable[str]) -> list[str]:
    return [cell.strip(' \t\r"').casefold() for cell in cells]


def _row(header: Sequence[str], cells: Sequence[str]) -> Mapping[str, str]:
    if len(cells) != len(header):
        raise FolderError(
            f"has {len(cells)} cells, the first line has {len(header)}.",
            remedy='Put labels that hold the delimiter into quotes: "great white, shark".',
        )
    return dict(zip(header, cells, strict=True))


def _candidate(directory: Path, row: Mapping[str, str]) -> Candidate:
    cell = row["path"]
    if not cell.strip():
        raise FolderError("the path is empty.")
    path = directory / cell
    if "\\" in cell and not os.path.lexists(path):
        path = directory / (cell := cell.replace("\\", "/"))  # the list was written on Windows
    return Candidate(
        path=path,
        name=PurePath(cell).as_posix(),
        label=_label(row),
        split=_split(row.get("split", "")),
        sha256=row.get("sha256") or None,
    )


def _label(row: Mapping[str, str]) -> str:
    if "label" in row:
        label = label_of(_unguarded(row["label"]))
        if not label.strip():
            raise FolderError("the label is empty.", remedy="Give every picture a class, or remove its line.")
        return label
    index = row["index"].strip()
    if not (index.isascii() and index.isdigit() and int(index) < len(imagenet.labels())):
        raise FolderError(
            f"the index is '{printable(index)}'.",
            remedy="'index' counts ImageNet's classes from 0 to 999; for other classes use a column 'label'.",
        )
    return imagenet.labels()[int(index)]


def _split(text: str) -> Split | None:
    name = text.strip().casefold()
    if name and name not in SPLIT_NAMES:
        raise FolderError(f"the split is '{printable(text)}'.", remedy="Accepted: train, val, test.")
    return SPLIT_NAMES[name] if name else None


def _check_splits(file: Path, candidates: Sequence[Candidate]) -> None:
    unsaid = [candidate for candidate in candidates if candidate.split is None]
    if unsaid and len(unsaid) < len(candidates):
        raise FolderError(
            f"names a split for some pictures, but none for '{printable(unsaid[0].name)}'.",
            file=file,
            remedy="Fill the column 'split' (train, val or test) for all pictures, or for none.",
        )


def _relative(path: str, directory: str) -> str:
    try:
        return PurePath(os.path.relpath(path, directory)).as_posix()
    except ValueError:  # another drive, on Windows
        return PurePath(path).as_posix()


def _guarded(label: str) -> str:
    """`label` such that no spreadsheet takes it for a formula; one that looks guarded gets one more."""
    bare = label.lstrip("'")
    return f"'{label}" if spreadsheet_cell(bare) != bare else label


def _unguarded(cell: str) -> str:
    bare = cell.lstrip("'")
    return cell[1:] if bare != cell and spreadsheet_cell(bare) != bare else cell
