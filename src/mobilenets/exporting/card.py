"""The texts of a bundle: a short model card, the licences, and what to install."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mobilenets import cost
from mobilenets.checkpoint import Manifest
from mobilenets.report import words
from mobilenets.report.card import escaped
from mobilenets.text import count, printable

_LISTED = 20
"""How many labels the card names; labels.txt has them all."""

_ZERO_BSD = """\
BSD Zero Clause License (0BSD)

Copyright (C) {year} by the mobilenets authors

Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee
is hereby granted.

THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS SOFTWARE
INCLUDING ALL IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE
FOR ANY SPECIAL, DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM
LOSS OF USE, DATA OR PROFITS, WHETHER IN AN ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION,
ARISING OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE OF THIS SOFTWARE.
"""


def readme(
    manifest: Manifest,
    certificate: Mapping[str, Any],
    parts: Sequence[tuple[str, str]],
    *,
    python: bool = True,
) -> str:
    """`README.md` of a bundle: what the model is, how good, how to run it, what to beware of.

    `parts` are the format's own files: name, what it is. Without `python`, there are no programs in it.
    """
    spec, found, candidate = manifest.spec, certificate["comparison"], certificate["candidate"]
    compared = "" if candidate["ran"] else "the same source, compiled where this was made, "
    total = cost.count(spec)
    steps = words.preprocessing(manifest.preprocessing, spec.resolution)
    labels = ", ".join(escaped(label) for label in manifest.labels[:_LISTED])
    more = f" … and {len(manifest.labels) - _LISTED:,} more in `labels.txt`" if spec.classes > _LISTED else ""
    rows = {
        "Network": f"{escaped(spec.name)} ({escaped(spec.source)})",
        "Size": f"{count(total.params, 'parameter')}, {total.macs / 1e6:,.1f} million MACs a picture",
        "Sees": f"{spec.resolution}×{spec.resolution} pixels, {manifest.preprocessing.mode}",
        "Answers": f"{count(spec.classes, 'class', 'classes')}: {labels}{more}",
        **dict(_scores(manifest.metrics)),
        "Licence of the weights": escaped(manifest.licence),
        "Compared": (
            f"{compared}with the model it was exported from, on {count(found['pictures'], 'picture')}: "
            f"logits at most {found['relative']:.1e} of their spread apart "
            f"(allowed {found['tolerance']:.0e}), same best class on {found['top1_agreement']:.0%}; "
            "see `certificate.json`"
        ),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return _README.format(
        name=escaped(spec.name),
        table=table,
        preparation="\n".join(f"{i}. {escaped(step)}" for i, step in enumerate(steps, start=1)),
        side=spec.resolution,
        channels=spec.channels,
        classes=spec.classes,
        parts="".join(f"| `{name}` | {what} |\n" for name, what in parts),
        run=_RUN if python else _RUN_ELSEWHERE.format(target=candidate["target"]),
        way=_WAY if python else "",
        programs=_PROGRAMS if python else "| `LICENSES.txt` | the terms |\n",
        model_file=candidate["model_file"],
        reliable=_caveat(manifest),
    )


def licences(manifest: Manifest, *, taken: int, year: int) -> str:
    """`LICENSES.txt` of a bundle: the weights' terms, and that our own code has no conditions.

    `taken` is the number of golden pictures that are the user's own.
    """
    stated = (
        "unstated. Whoever trained them can say; until then take them as not licensed to you."
        if manifest.licence == "unstated"
        else printable(manifest.licence)
    )
    pictures = (
        "The pictures golden/taken-*.png\n\nThey were given by whoever made this folder; ask there before "
        "you pass them on.\n\n\n"
    )
    return (
        f"The weights (the model file)\n\n{stated}\n\n\n{pictures if taken else ''}"
        "Everything else in this folder (programs, generated pictures, texts)\n\n"
        f"{_ZERO_BSD.format(year=year)}"
    )


def requirements(needed: tuple[str, ...], versions: Mapping[str, str]) -> str:
    """`requirements.txt`: the oldest versions that will do, and those that this bundle was made with."""
    tested = ", ".join(f"{name} {version}" for name, version in versions.items())
    return "\n".join((f"# made and checked with {tested}", *needed)) + "\n"


def _scores(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """One row for every score with an interval: those of the held-out pictures."""
    for split, scores in metrics.items():
        for name, score in scores.items() if isinstance(scores, Mapping) else ():
            if isinstance(score, Mapping) and {"value", "low", "high", "n"} <= score.keys():
                title = f"{name.replace('_', ' ')} on {split}".capitalize()
                yield (
                    escaped(title),
                    f"{score['value']:.1%} (95% interval {score['low']:.1%} – {score['high']:.1%}, "
                    f"{count(score['n'], 'picture')})",
                )


def _caveat(manifest: Manifest) -> str:
    if dict(_scores(manifest.metrics)):
        return (
            "The scores above hold for pictures like those that it was tested on. Try it on your own before\n"
            "  you rely on it."
        )
    return (
        "No score on held-out pictures came with this model. Evaluate it on your own before you rely on it."
    )


_README = """\
# {name}

An image classifier that runs from this folder, without the program that trained it.

| | |
|---|---|
{table}

## Run it

{run}
## Use it in your own program

`{model_file}` takes `pixels`, `uint8`, N×{side}×{side}×{channels} (any N, 0–255), and gives
`logits`, `float32`, N×{classes}, in the order of `labels.json`. A picture becomes pixels like this:

{preparation}

The last step is inside the model. {way}An implementation in another language is right if it reproduces
`golden.json`.

## What is here

| file | |
|---|---|
| `{model_file}` | network and weights |
{parts}| `manifest.json` | network, labels, preprocessing, scores, origin, and the hashes of all files |
| `certificate.json` | what the model was compared with, when, on what machine, and how far apart it was |
| `labels.json`, `labels.txt` | the classes in order; in the `.txt` one a line, odd characters escaped |
| `golden/`, `golden.json` | small pictures, and the logits that the source model gives for them |
{programs}
## Beware

* It always answers one of its classes, also for a picture that shows none of them.
* {reliable}
"""

_RUN = """\
With Python 3.11 or newer, in this folder:

    pip install -r requirements.txt
    python predict.py photo.jpg
    python selftest.py

`selftest.py` checks that the folder is whole and that the model computes on this machine what it computed
where it was made. Run it once on every new device; its exit code is not 0 where anything differs.
"""

_RUN_ELSEWHERE = """\
It is for {target}; the first lines of `c/model.h` show how a program calls it. Before you rely on it, run it
on the device with the pictures in `golden/`, and compare with the logits in `golden.json`.
"""

_WAY = """\
`support/preprocessing.py` does the others exactly, with numpy and Pillow
alone; `predict.py` shows the whole way. """

_PROGRAMS = """\
| `predict.py`, `selftest.py`, `engine.py`, `support/` | the example program, the check, and what both need |
| `requirements.txt`, `LICENSES.txt` | what to install, and the terms |
"""
