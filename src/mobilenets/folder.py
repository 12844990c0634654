"""A folder of pictures, scanned: every file opened once, every problem named, every picture in a split.

The pictures may lie in class folders, in a split tree, or be listed in a CSV (`layout`, `listing`).
What can be used is used; what cannot is left out and reported, never passed over in silence.
"""

import difflib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from mobilenets import layout, listing, pictures
from mobilenets.errors import FolderError, PictureError
from mobilenets.layout import HIDDEN, SPLITS, Candidate, Found, Layout, Problem, Split
from mobilenets.progress import SILENT, Progress
from mobilenets.split import HELD_OUT_PERCENT, make_splits
from mobilenets.text import count, first_few, printable
from mobilenets.threads import in_threads

__all__ = ["SPLITS", "Folder", "Layout", "Picture", "Problem", "Purpose", "Split", "scan"]

Purpose = Literal["train", "evaluate"]


@dataclass(frozen=True, slots=True)
class Picture:
    """One usable picture."""

    path: Path
    """Absolute."""
    name: str
    """How people know it: relative to the scanned folder, with forward slashes. Not escaped."""
    label: int
    """Index into `Folder.classes`."""
    split: Split
    sha256: str
    width: int
    height: int
    """Pixels of the upright picture."""


@dataclass(frozen=True, slots=True)
class Folder:
    """Everything that a scan found. `pictures` are sorted by name, `problems` as well."""

    root: Path
    """The folder or the CSV that was scanned."""
    layout: Layout
    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    problems: tuple[Problem, ...]
    seed: int
    given_splits: tuple[Split, ...]
    """The splits that the folder itself states; the others were made here, from `seed`."""

    def split(self, name: Split) -> tuple[Picture, ...]:
        """The pictures of one split."""
        return tuple(picture for picture in self.pictures if picture.split == name)

    def counts(self) -> dict[str, dict[Split, int]]:
        """Class → split → number of pictures; every class and every split is there."""
        tally = Counter((picture.label, picture.split) for picture in self.pictures)
        return {
            label: {split: tally[index, split] for split in SPLITS}
            for index, label in enumerate(self.classes)
        }

    def problem_counts(self) -> dict[str, int]:
        """Kind of problem → how often, the most frequent first."""
        return dict(Counter(problem.kind for problem in self.problems).most_common())

    @property
    def split_source(self) -> str:
        """Who decided the splits, in words: `given by the folder`, or how they were made."""
        made = [split for split in SPLITS if split not in self.given_splits]
        if not made:
            return "given by the folder"
        if not self.given_splits:
            present = {picture.split for picture in self.pictures}
            train = 100 - 2 * HELD_OUT_PERCENT
            return (
                f"{train}/{HELD_OUT_PERCENT}/{HELD_OUT_PERCENT} per class, seed {self.seed}"
                if "train" in present
                else "none: every picture is in test"
            )
        taken = " and ".join(split for split in made if split != "train")
        given = f"{', '.join(self.given_splits)} given by the folder"
        return f"{given}; {taken}: {HELD_OUT_PERCENT} % of train, seed {self.seed}" if taken else given

    def to_json(self) -> dict[str, Any]:
        """What `scan.json` holds. The pictures one by one are in `split.csv`."""
        sides = sorted(min(picture.width, picture.height) for picture in self.pictures)
        return {
            "root": str(self.root),
            "layout": self.layout,
            "pictures": len(self.pictures),
            "classes": list(self.classes),
            "counts": self.counts(),
            "split_source": self.split_source,
            "given_splits": list(self.given_splits),
            "seed": self.seed,
            "shorter_side_px": {"least": sides[0], "median": median(sides), "greatest": sides[-1]},
            "problem_counts": self.problem_counts(),
            "problems": [
                {"name": p.name, "kind": p.kind, "detail": p.detail, "used": p.used} for p in self.problems
            ],
        }

    def split_csv(self, directory: Path) -> str:
        """The pictures as a CSV that `scan` reads again, with paths relative to `directory`."""
        return listing.render(self._candidates(), directory)

    def write_split_csv(self, path: Path) -> None:
        """Write `split_csv` to `path`, relative to its place."""
        listing.write(path, self._candidates())

    def _candidates(self) -> Iterator[Candidate]:
        for p in self.pictures:
            yield Candidate(p.path, p.name, self.classes[p.label], p.split, p.sha256)


@dataclass(frozen=True, slots=True)
class _Usable:
    """A candidate that is a picture, and what it is."""

    candidate: Candidate
    examined: pictures.Examined


def scan(
    path: str | Path,
    *,
    seed: int = 0,
    strict: bool = False,
    purpose: Purpose = "train",
    progress: Progress = SILENT,
    threads: int | None = None,
) -> Folder:
    """Open every picture in the folder or CSV `path` once and put it into a split.

    For `purpose="train"` splits that the folder does not state are made, stratified, from `seed`;
    each class must have enough different pictures. For `"evaluate"` nothing is made: without
    splits every picture is `test`, and any number of classes and pictures will do. Raises
    `FolderError` for what nothing can be learnt from, with `strict` also for any file left out.
    """
    root = Path(path)
    found = _find(root)
    usable, problems = _examine(found.candidates, progress, threads)
    problems = [*found.problems, *problems]
    usable = _without_contradictions(usable, problems)
    usable = _without_leaks(usable, problems)
    if strict:
        _refuse_left_out(root, problems)
    if not usable:
        raise _nothing_usable(root, problems)
    classes = _classes(root, found, usable, problems, purpose)
    given = tuple(s for s in SPLITS if any(candidate.split == s for candidate in found.candidates))
    splits: Mapping[str, Split] = {}
    if purpose == "train":
        by_class: dict[str, dict[Split, set[str]]] = {label: {s: set() for s in SPLITS} for label in classes}
        for one in usable:
            by_class[one.candidate.label][one.candidate.split or "train"].add(one.examined.sha256)
        splits = make_splits(by_class, given, seed, problems, root)
    index = {label: position for position, label in enumerate(classes)}
    return Folder(
        root=root,
        layout=found.layout,
        classes=classes,
        pictures=tuple(
            Picture(
                path=u.candidate.path,
                name=u.candidate.name,
                label=index[u.candidate.label],
                split=splits.get(u.examined.sha256) or u.candidate.split or "test",
                sha256=u.examined.sha256,
                width=u.examined.width,
                height=u.examined.height,
            )
            for u in usable
        ),
        problems=tuple(sorted(problems, key=lambda p: (p.name, p.kind))),
        seed=seed,
        given_splits=given,
    )


def _find(root: Path) -> Found:
    """What `root` holds, whichever way it is arranged."""
    if os.path.isdir(root):
        folders, files = layout.look(root)
        lists = [name for name in listing.FILE_NAMES if name in files]
        found = (
            listing.read(root / lists[0])
            if lists and len(folders) < 2
            else layout.read_folders(root.absolute())
        )
        if not found.candidates:
            loose = sum(map(layout.is_picture_name, files))
            raise FolderError(
                f"holds no pictures in class folders; found {count(len(folders), 'folder')}"
                f"{_listed(folders)} and {count(loose, 'picture')} directly in it.",
                file=root,
                remedy="Give every class a folder: FOLDER/cat/1.jpg, FOLDER/dog/1.jpg; or list the pictures "
                "in a CSV with the columns path,label.",
            )
        return found
    if os.path.isfile(root):
        if root.suffix.lower() in (".csv", ".tsv"):
            found = listing.read(root)
            if not found.candidates:
                raise FolderError("lists no picture.", file=root, remedy="Add lines with path and label.")
            return found
        archive = root.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
        raise FolderError(
            "is a file, not a folder of pictures.",
            file=root,
            remedy="Unpack it and give the folder." if archive else "Give a folder, or a CSV of path,label.",
        )
    raise FolderError("there is no such folder.", file=root, remedy=_nearest(root))


def _nearest(root: Path) -> str:
    try:
        siblings = os.listdir(root.absolute().parent)
    except OSError:
        return "The folder above it does not exist or cannot be read either."
    near = difflib.get_close_matches(root.name, siblings, n=1)
    return f"Did you mean '{printable(str(root.parent / near[0]))}'?" if near else "Check the spelling."


def _examine(
    candidates: Sequence[Candidate], progress: Progress, threads: int | None
) -> tuple[list[_Usable], list[Problem]]:
    """Open every candidate. The usable ones sorted by name, and what there is to say about all."""

    def look(candidate: Candidate) -> _Usable | Problem:
        try:
            return _Usable(candidate, pictures.examine(candidate.path))
        except PictureError as error:
            return Problem(candidate.name, error.kind, error.what.rstrip("."), used=False)

    ordered = sorted(candidates, key=lambda candidate: candidate.name)
    looked_at = progress.track(in_threads(look, ordered, threads=threads), len(ordered), "Opening pictures")
    usable: list[_Usable] = []
    problems: list[Problem] = []
    for result in looked_at:
        if isinstance(result, Problem):
            problems.append(result)
            continue
        usable.append(result)
        candidate, examined = result.candidate, result.examined
        problems += [Problem(candidate.name, kind, detail, used=True) for kind, detail in examined.oddities]
        if candidate.sha256 not in (None, examined.sha256):
            problems.append(
                Problem(candidate.name, "changed", "its bytes are not those the list was made of", used=True)
            )
    return usable, problems


def _groups(usable: Iterable[_Usable]) -> list[list[_Usable]]:
    """The pictures that have others with the same bytes."""
    by_hash: defaultdict[str, list[_Usable]] = defaultdict(list)
    for one in usable:
        by_hash[one.examined.sha256].append(one)
    return [group for group in by_hash.values() if len(group) > 1]


def _without_contradictions(usable: list[_Usable], problems: list[Problem]) -> list[_Usable]:
    """Without the pictures that lie in two classes: whichever is right, the other teaches nonsense."""
    dropped: set[str] = set()
    for group in _groups(usable):
        if len({one.candidate.label for one in group}) == 1:
            continue
        dropped.add(group[0].examined.sha256)
        for one in group:
            other = next(x for x in group if x.candidate.label != one.candidate.label).candidate
            detail = f"the same bytes are '{other.name}' of class '{other.label}'"
            problems.append(Problem(one.candidate.name, "same picture in two classes", detail, used=False))
    return [one for one in usable if one.examined.sha256 not in dropped]


def _without_leaks(usable: list[_Usable], problems: list[Problem]) -> list[_Usable]:
    """Without copies, in train or val, of pictures that the folder also has in a later split."""
    dropped: set[str] = set()
    for group in _groups(usable):
        splits = [SPLITS.index(one.candidate.split or "train") for one in group]
        first = group[splits.index(max(splits))].candidate
        for one, split in zip(group, splits, strict=True):
            if split < max(splits):
                dropped.add(one.candidate.name)
                detail = f"the same bytes are '{first.name}' in {first.split}"
                problems.append(Problem(one.candidate.name, "duplicate across splits", detail, used=False))
            elif one.candidate is not first:
                detail = f"the same bytes as '{first.name}'; kept in the same split"
                problems.append(Problem(one.candidate.name, "duplicate", detail, used=True))
    return [one for one in usable if one.candidate.name not in dropped]


def _classes(
    root: Path, found: Found, usable: Sequence[_Usable], problems: list[Problem], purpose: Purpose
) -> tuple[str, ...]:
    """The classes that have pictures. For training, none may be lost to damage, and two must remain."""
    present = {one.candidate.label for one in usable}
    kinds_by_name = {problem.name: problem.kind for problem in problems if not problem.used}
    lost = []
    for label in sorted(set(found.classes) - present):
        kinds = {kinds_by_name.get(c.name, "") for c in found.candidates if c.label == label}
        if kinds == {"not a picture"}:
            problems.append(Problem(label, "folder without pictures", "so it is not a class", used=False))
        else:
            lost.append(f"'{printable(label)}' ({', '.join(sorted(kinds))})")
    classes = tuple(label for label in found.classes if label in present)
    if purpose == "evaluate":
        return classes
    if lost:
        raise FolderError(
            f"no picture can be used of {count(len(lost), 'class', 'classes')}: {first_few(lost)}.",
            file=root,
            remedy="Replace these pictures, or remove the class.",
        )
    if len(classes) == 1:
        inside = layout.look(root)[0] if os.path.isdir(root) else []
        raise FolderError(
            f"has only one class, '{printable(classes[0])}'; a classifier needs at least two.",
            file=root,
            remedy=f"If the classes are the folders inside '{printable(inside[0])}', give that folder."
            if len(inside) == 1 and len(layout.look(root / inside[0])[0]) > 1
            else "Give every class a folder of its own: FOLDER/cat/1.jpg, FOLDER/dog/1.jpg.",
        )
    return classes


def _refuse_left_out(root: Path, problems: Sequence[Problem]) -> None:
    n = len(_left_out(problems))
    if n:
        raise FolderError(
            f"{count(n, 'file')} cannot be used. {_named(problems)}.",
            file=root,
            remedy="Repair or remove them; without --strict they are left out.",
        )


def _nothing_usable(root: Path, problems: Sequence[Problem]) -> FolderError:
    return FolderError(
        f"holds no picture that can be used. {_named(problems)}.",
        file=root,
        remedy="JPEG, PNG, WebP, TIFF, BMP, GIF and AVIF are read, HEIC with mobilenets[heif].",
    )


def _left_out(problems: Iterable[Problem]) -> list[Problem]:
    """What is not used although a person put it there, sorted by name."""
    return sorted((p for p in problems if not p.used and p.kind != HIDDEN), key=lambda p: p.name)


def _named(problems: Iterable[Problem]) -> str:
    """`7 truncated, 1 empty file: a.jpg (truncated), …`: every kind counted, the first few named."""
    left_out = _left_out(problems)
    kinds = Counter(p.kind for p in left_out).most_common()
    names = [f"{printable(p.name)} ({p.kind})" for p in left_out]
    return f"{', '.join(f'{n:,} {kind}' for kind, n in kinds)}: {first_few(names)}"


def _listed(names: Sequence[str]) -> str:
    return f" ({first_few([printable(name) for name in names])})" if names else ""
