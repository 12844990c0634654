"""Named weights: the checkpoints of the family that others publish, as one table.

The table is `data/published_weights.csv`, one row a file; this module gives it types. It repeats
what the publishers state in their own tables and code (timm 1.0.31, torchvision 0.28.0, Keras
3.15.1, the Hugging Face hub's pages), and an empty cell means that they state nothing. None of the
files was downloaded to make it, nor is one by our tests.

A name is the network's name in our zoo, a dot, and a tag:

* timm's own tag: `mobilenet_v3_large_100.ra_in1k`. The weights that timm converted from TensorFlow
  (`tf_mobilenetv3_*`) have `tf_` before theirs: `mobilenet_v3_large_100.tf_in1k`;
* `torchvision_` and the name of the weights: `mobilenet_v2_100.torchvision_imagenet1k_v2`;
* `keras_` and the resolution: `mobilenet_v1_050.keras_160`;
* `google_` and the resolution, for Google's repositories on the hub: `mobilenet_v2_140.google_224`.

Left out: timm's variants that are not in the zoo (anti-aliased, blur-pool, depth-scaled, `_rw`,
`100h`), Keras's files without a classifier, and torchvision's quantised files.
"""

import csv
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Literal, cast, get_args

from mobilenets.errors import UnknownName
from mobilenets.preprocessing import Preprocessing, Resize

Publisher = Literal["timm", "torchvision", "keras", "google"]
Algorithm = Literal["sha256", "md5"]

PERMISSIVE = ("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "ISC", "0BSD", "CC0-1.0")
"""Licences (SPDX) that allow use, change and redistribution, also in closed products."""
UNSTATED = "unstated"

LICENCE_SOURCES: Mapping[Publisher, str] = {
    "timm": "the licence in timm's configuration and on the model card; timm's README adds that ImageNet's "
    "pictures are for non-commercial research, and that what follows for weights is not clear",
    "torchvision": "the code is BSD-3-Clause; its README says that weights may have terms of their own, "
    "derived from the data, and names none",
    "keras": "V1 and V2: Apache-2.0 in the documentation of Keras 2; V3: no statement found",
    "google": "the model card says 'other' and no more",
}
"""What `licence` repeats, publisher by publisher."""

PREPROCESSING_SOURCES: Mapping[Publisher, str] = {
    "timm": "timm's configuration of these weights",
    "torchvision": "the transforms of torchvision's weights",
    "keras": "Keras's preprocess_input; Keras names no resize, so it is TF-slim's central 87.5 %",
    "google": "the repository's preprocessor_config.json",
}

_UNITS = {"MB": 10**6, "MiB": 2**20}


@dataclass(frozen=True, slots=True)
class Published:
    """One published file and what its publisher says of it."""

    name: str
    source: Publisher
    published_as: str
    """The publisher's own name; `find` knows it too."""
    url: str
    hash: str
    """`sha256:` and 8 to 64 hexadecimal digits (the beginning, or all), `md5:` and 32, or empty."""
    size: str
    """The file's size with unit, rounded as its publisher prints it, such as `22.1 MB`; or empty."""
    licence: str
    """SPDX where it has such a name; `unstated` where the publisher states none for the weights."""
    trained_on: str
    classes: int
    """Outputs of the file; 1001 has a background class first, which the import leaves out."""
    top1: float | None
    top5: float | None
    """Percent on ImageNet's validation set at `resolution`; `None` where there is no such figure."""
    accuracy_source: str
    resolution: int
    """Side of the input, in pixels."""
    resize: int
    """The shorter side in pixels before the central square of `resolution` is cut out."""
    interpolation: Resize
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Per channel, for pixels in [0, 1]."""
    verified: bool = False
    """Whether a test of ours downloads the file: no."""

    @property
    def network(self) -> str:
        """The name in our zoo."""
        return self.name.partition(".")[0]

    @property
    def file(self) -> str:
        """The name in our cache: the checkpoint's, with the ending that the publisher's file has."""
        return self.name + PurePosixPath(self.url).suffix

    @property
    def algorithm(self) -> Algorithm | None:
        """What the stated hash is computed with."""
        return cast("Algorithm", self.hash.partition(":")[0]) if self.hash else None

    @property
    def digits(self) -> str:
        """The stated hexadecimal digits; empty where there are none."""
        return self.hash.partition(":")[2]

    @property
    def permissive(self) -> bool:
        """Whether the publisher names a licence of `PERMISSIVE`; unstated is not permissive."""
        return self.licence in PERMISSIVE

    @property
    def preprocessing(self) -> Preprocessing:
        """The contract that these weights want, resize and crop to the publisher's own pixels."""
        return Preprocessing(
            fit="crop",
            crop_fraction=self.resolution / self.resize,
            resize=self.interpolation,
            antialias=True,
            mean=self.mean,
            std=self.std,
        )

    def size_bytes(self) -> tuple[int, int] | None:
        """The fewest and most bytes that `size` can mean: one unit of its last digit either way."""
        if not self.size:
            return None
        number, unit = self.size.split()
        step = 10.0 ** -len(number.partition(".")[2]) * _UNITS[unit]
        middle = float(number) * _UNITS[unit]
        return round(middle - step), round(middle + step)


def _row(row: Mapping[str, str]) -> Published:
    source, interpolation = row["source"], row["interpolation"]
    assert source in get_args(Publisher) and interpolation in get_args(Resize)
    return Published(
        name=row["name"],
        source=cast("Publisher", source),
        published_as=row["published_as"],
        url=row["url"],
        hash=row["hash"],
        size=row["size"],
        licence=row["licence"],
        trained_on=row["trained_on"],
        classes=int(row["classes"]),
        top1=float(row["top1"]) if row["top1"] else None,
        top5=float(row["top5"]) if row["top5"] else None,
        accuracy_source=row["accuracy_source"],
        resolution=int(row["resolution"]),
        resize=int(row["resize"]),
        interpolation=cast("Resize", interpolation),
        mean=tuple(map(float, row["mean"].split())),
        std=tuple(map(float, row["std"].split())),
    )


def _read() -> dict[str, Published]:
    text = (files("mobilenets") / "data" / "published_weights.csv").read_text(encoding="utf-8")
    return {row["name"]: _row(row) for row in csv.DictReader(text.splitlines())}


WEIGHTS: Mapping[str, Published] = _read()
"""Every published checkpoint by name: V1 to V4, EdgeTPU; within a network by publisher."""

_ALIASES = {
    alias: published
    for published in WEIGHTS.values()
    for alias in (published.published_as, published.published_as.rpartition("/")[2])
}
_SHOWN = 12
"""How many names an error lists; the whole table is a command away."""


def is_known(name: str) -> bool:
    """Whether `find` has an answer for `name`."""
    return name in WEIGHTS or name in _ALIASES


def find(name: str) -> Published:
    """The checkpoint of that name, ours (`mobilenet_v2_100.ra_in1k`) or its publisher's own
    (`timm/mobilenetv2_100.ra_in1k`, `MobileNet_V2_Weights.IMAGENET1K_V2`).

    Raises `UnknownName` with the nearest names; for a network without a tag, all of its tags.
    """
    found = WEIGHTS.get(name) or _ALIASES.get(name)
    if found is not None:
        return found
    raise UnknownName(
        "published checkpoint", name, _near(name), remedy=f"All {len(WEIGHTS)}: mobilenets weights"
    )


def _near(name: str) -> list[str]:
    """Names to choose from: those of the same network first, then those that look alike."""
    network, _, tag = name.partition(".")
    same = [known for known in WEIGHTS if WEIGHTS[known].network == network]
    if same and not tag:
        return same
    alike = difflib.get_close_matches(name, [*WEIGHTS, *_ALIASES], n=_SHOWN, cutoff=0.5)
    ours = [known if known in WEIGHTS else _ALIASES[known].name for known in alike]
    same.sort(key=lambda known: -difflib.SequenceMatcher(None, known, name).ratio())
    near = list(dict.fromkeys([*same, *ours]))[:_SHOWN]
    return near or list(WEIGHTS)[:_SHOWN]


def search(text: str) -> list[Published]:
    """Every checkpoint whose name, publisher's name or publisher has `text` in it, in any case."""
    wanted = text.casefold()
    return [
        published
        for published in WEIGHTS.values()
        if any(
            wanted in word.casefold() for word in (published.name, published.published_as, published.source)
        )
    ]


HASH_SYNTAX = re.compile(r"sha256:[0-9a-f]{8,64}|md5:[0-9a-f]{32}")
"""What `hash` looks like where it is not empty."""
