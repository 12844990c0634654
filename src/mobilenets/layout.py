"""What the arrangement of a folder says: which file belongs to which class, and to which split.

Nothing is opened here. Class folders are read as `root/class/…/file`, split trees as
`root/train/class/…/file`; lists of pictures in a CSV have their own module, `listing`.
"""

import os
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mobilenets.errors import FolderError
from mobilenets.formats import EXTENSIONS
from mobilenets.text import printable

Split = Literal["train", "val", "test"]
Layout = Literal["class folders", "split folders", "csv"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")
SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Names of folders and CSV values, in lower case, that mean a split."""

_SYSTEM_NAMES = frozenset(
    ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "__pycache__", "@eadir", "$recycle.bin")
)

HIDDEN = "hidden"
"""The kind of problem that `--strict` does not stop at: files that no person put there."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that should be a picture of a class."""

    path: Path
    name: str
    """How people know it: relative to the root, with forward slashes."""
    label: str
    split: Split | None = None
    """None where the folder does not say."""
    sha256: str | None = None
    """What a list says that the file's hash was."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about one file or folder that a person should know."""

    name: str
    kind: str
    detail: str
    used: bool
    """Whether the picture takes part all the same, rightly read."""


@dataclass(frozen=True, slots=True)
class Found:
    """Everything that the arrangement says."""

    layout: Layout
    classes: tuple[str, ...]
    """In the order of the labels."""
    candidates: tuple[Candidate, ...]
    problems: tuple[Problem, ...]


def read_folders(root: Path) -> Found:
    """The pictures in class folders or a split tree below `root`, an existing folder.

    It is a split tree when all its folders are named like splits and hold folders in turn, or when
    a training folder and another split stand among other folders, which are then left out.
    """
    problems: list[Problem] = []
    folders, loose = _entries(root, "", problems)
    splits = {name: SPLIT_NAMES[name.casefold()] for name in folders if name.casefold() in SPLIT_NAMES}
    if _is_split_tree(root, folders, splits):
        candidates, empty = _split_tree(root, folders, splits, problems)
        layout: Layout = "split folders"
    else:
        candidates, empty = _class_folders(root, "", folders, None, problems)
        layout = "class folders"
    problems += _outside(loose)
    classes = {candidate.label for candidate in candidates}
    problems += [
        Problem(name, "empty folder", "no file in it, so it is not a class", used=False) for name in empty
    ]
    return Found(layout, tuple(sorted(classes)), tuple(candidates), tuple(problems))


def look(root: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in `root`, hidden ones aside; `FolderError` if unreadable."""
    return _entries(root, "", [])


def is_picture_name(name: str) -> bool:
    """Whether a file is named like a picture."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def label_of(text: str) -> str:
    """A class name in one spelling: macOS stores `é` as two characters, everybody else as one."""
    return unicodedata.normalize("NFC", text)


def _is_split_tree(root: Path, folders: list[str], splits: Mapping[str, Split]) -> bool:
    if not splits or not all(_entries(root / name, name, [])[0] for name in splits):
        return False
    return len(splits) == len(folders) or {"train"} < set(splits.values())


def _split_tree(
    root: Path, folders: list[str], splits: Mapping[str, Split], problems: list[Problem]
) -> tuple[list[Candidate], list[str]]:
    by_split: dict[Split, str] = {}
    candidates: list[Candidate] = []
    empty: list[str] = []
    for name in folders:
        split = splits.get(name)
        if split is None:
            problems.append(
                Problem(name, "outside the splits", "stands beside train, val and test", used=False)
            )
            continue
        if split in by_split:
            raise FolderError(
                f"has two folders for the {split} split: '{printable(by_split[split])}' "
                f"and '{printable(name)}'.",
                file=root,
                remedy="Merge them into one.",
            )
        by_split[split] = name
        classes, loose = _entries(root / name, name, problems)
        inside, without_files = _class_folders(root, name, classes, split, problems)
        candidates += inside
        empty += without_files
        problems += _outside(loose, f"{name}/")
    return candidates, empty


def _class_folders(
    root: Path, parent: str, folders: list[str], split: Split | None, problems: list[Problem]
) -> tuple[list[Candidate], list[str]]:
    """The candidates in `root/parent/<class>/…`, and the names of class folders without any file."""
    candidates: list[Candidate] = []
    empty: list[str] = []
    for folder in folders:
        name = f"{parent}/{folder}" if parent else folder
        files = list(_walk(root, name, problems))
        candidates += [Candidate(root / file, file, label_of(folder), split) for file in files]
        if not files:
            empty.append(name)
    return candidates, empty


def _walk(root: Path, top: str, problems: list[Problem]) -> Iterator[str]:
    """Every file below `root/top`, as a name relative to `root`; links are followed, but not in circles."""
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [(top, frozenset())]
    while waiting:
        name, above = waiting.pop()
        try:
            status = (root / name).stat()
        except OSError as error:
            problems.append(_unreadable(name, error))
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            problems.append(Problem(name, "link in a circle", "leads back to a folder above it", used=False))
            continue
        folders, files = _entries(root / name, name, problems)
        yield from (f"{name}/{file}" for file in files)
        waiting += [(f"{name}/{folder}", above | {identity}) for folder in reversed(folders)]


def _entries(folder: Path, name: str, problems: list[Problem]) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in `folder`, each sorted; what is hidden becomes a problem.

    `name` is how the problem calls `folder`; the root's is empty, and it alone must be readable.
    """
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.casefold() in _SYSTEM_NAMES:
                    hidden = f"{name}/{entry.name}" if name else entry.name
                    problems.append(Problem(hidden, HIDDEN, "skipped", used=False))
                elif _is_folder(entry):
                    folders.append(entry.name)
                else:
                    files.append(entry.name)
    except OSError as error:
        if not name:
            raise FolderError(
                f"cannot be read ({error.strerror}).", file=folder, remedy="Check its permissions."
            ) from error
        problems.append(_unreadable(name, error))
    return sorted(folders), sorted(files)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: opening it as a file says so
        return False


def _unreadable(name: str, error: OSError) -> Problem:
    return Problem(name, "unreadable", f"folder cannot be read ({error.strerror})", used=False)


def _outside(names: list[str], parent: str = "") -> list[Problem]:
    """Pictures that stand beside the class folders; notes and check lists may stand there."""
    return [
        Problem(f"{parent}{name}", "outside the classes", "stands in no class folder", used=False)
        for name in names
        if is_picture_name(name)
    ]
