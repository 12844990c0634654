"""The 1000 classes of ILSVRC 2012: the labels of most published weights.

The order is the challenge's: WordNet ids ascending, as in the label files that come with Google's
MobileNet checkpoints (there shifted by one for *background*) and with timm 1.0.31. A name is the
first lemma of WordNet 3.0's synset. Six names say in brackets which of two things of one name is
meant (crane, maillot, cardigan), so that labels differ, also where capitals do not count.
"""

import csv
from functools import cache
from importlib.resources import files


def labels() -> tuple[str, ...]:
    """The 1000 names in the order of the logits, all different."""
    return tuple(name for _, name in _table())


def wnids() -> tuple[str, ...]:
    """The 1000 WordNet ids (`n01440764`) in the order of the logits."""
    return tuple(wnid for wnid, _ in _table())


@cache
def _table() -> tuple[tuple[str, str], ...]:
    text = (files("mobilenets") / "data" / "imagenet.csv").read_text(encoding="utf-8")
    return tuple((row["wnid"], row["name"]) for row in csv.DictReader(text.splitlines()))
