"""Which pictures train, which choose the model, and which give the score: 70 / 15 / 15 per class.

A picture's place follows from the seed and its own bytes, not from its name or from the order in
which a file system lists it. Byte-identical pictures always fall together.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mobilenets.errors import FolderError
from mobilenets.layout import SPLITS, Problem, Split
from mobilenets.text import count, first_few, printable

HELD_OUT_PERCENT = 15
"""Share of each class that goes to val, and again to test; never less than one picture."""


def make_splits(
    by_class: Mapping[str, Mapping[Split, Collection[str]]],
    given: Sequence[Split],
    seed: int,
    problems: list[Problem],
    root: Path,
) -> Mapping[str, Split]:
    """SHA-256 → split for every picture that is not held out already.

    `by_class` has the different hashes per class, those without a split under train. What is not
    in `given`, the splits that the folder states, is carved from train. Raises `FolderError` where
    a class cannot be trained on or held out; adds to `problems` where a given split lacks a class.
    """
    for split in given:
        if not any(hashes[split] for hashes in by_class.values()):
            raise FolderError(f"has a {split} split without a usable picture.", file=root)
    untrained = [f"'{printable(label)}'" for label, hashes in by_class.items() if not hashes["train"]]
    if untrained:
        raise FolderError(
            f"holds out pictures of {count(len(untrained), 'class', 'classes')} without any "
            f"to train on: {first_few(untrained)}.",
            file=root,
            remedy="Add a folder of that name to train, or remove it from val and test.",
        )
    parts = [split for split in SPLITS if split != "train" and split not in given]
    need = 1 + len(parts)
    few = [
        f"'{printable(label)}' ({len(hashes['train'])})"
        for label, hashes in by_class.items()
        if len(hashes["train"]) < need
    ]
    if few:
        raise FolderError(
            f"{count(len(few), 'class has', 'classes have')} too few different pictures to be split into "
            f"{', '.join(['train', *parts])}: {first_few(few)}; every class needs at least {need}.",
            file=root,
            remedy="Add pictures to them, merge them into other classes, or remove them.",
        )
    problems += [
        Problem(label, "class missing in a split", f"no picture in {split}", used=True)
        for label, hashes in by_class.items()
        for split in given
        if not hashes[split]
    ]
    return {
        sha256: split
        for hashes in by_class.values()
        for sha256, split in carve(hashes["train"], parts, seed).items()
    }


def carve(hashes: Collection[str], parts: Sequence[Split], seed: int) -> Mapping[str, Split]:
    """The split of every different hash of one class: 15 % to each of `parts`, the rest to train.

    There must be more different hashes than parts. Every hash has its place in a queue that other
    pictures do not change, so adding pictures moves few others.
    """
    queue = sorted(set(hashes), key=lambda sha256: _draw(sha256, seed))
    held_out = max(1, (len(queue) * HELD_OUT_PERCENT + 50) // 100)
    result: dict[str, Split] = dict.fromkeys(queue, "train")
    for position, part in enumerate(parts):
        result.update(dict.fromkeys(queue[position * held_out : (position + 1) * held_out], part))
    return result


def _draw(sha256: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{sha256}".encode("ascii")).digest()
