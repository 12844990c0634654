"""`weights`: the checkpoints that others publish, as a table. No torch, no network."""

import dataclasses
import math
import shutil
import sys
from typing import Any

from mobilenets import zoo
from mobilenets.cli.terminal import show, show_json, show_table
from mobilenets.errors import UnknownName
from mobilenets.spec import tensor_shapes
from mobilenets.weights import cache
from mobilenets.weights.catalogue import (
    LICENCE_SOURCES,
    PREPROCESSING_SOURCES,
    WEIGHTS,
    Published,
    search,
)

PERMISSIVE = "permissive"

_COLUMNS: dict[str, tuple[str, str]] = {
    "cached": ("", "left"),
    "name": ("name", "left"),
    "network": ("network", "left"),
    "top1": ("top-1", "right"),
    "resolution": ("px", "right"),
    "licence": ("licence", "left"),
    "size": ("size", "right"),
    "trained_on": ("trained on", "left"),
    "source": ("source", "left"),
}
_FIRST_TO_GO = ("network", "trained_on", "resolution", "source")
"""Columns that a narrow terminal goes without: the name has them, or `--json`."""


def weights(text: str | None, licence: str | None, as_json: bool) -> None:
    """The published checkpoints with `text` in their names, of a licence or of every one."""
    chosen = _of_licence(_named(text), licence)
    if as_json:
        show_json([_json(one) for one in chosen])
        return
    rows = [_row(one) for one in chosen]
    columns = _fitting(rows, _width())
    show_table([_COLUMNS[key] for key in columns], [[row[key] for key in columns] for row in rows])
    for line in _notes(chosen):
        show(line)


def _named(text: str | None) -> list[Published]:
    if text is None:
        return list(WEIGHTS.values())
    found = search(text)
    if not found:
        networks = list(dict.fromkeys(one.network for one in WEIGHTS.values()))
        remedy = "Any part of a name or a publisher will do: v3_small, ra_in1k, keras."
        raise UnknownName("part of a name", text, networks, remedy=remedy)
    return found


def _of_licence(chosen: list[Published], licence: str | None) -> list[Published]:
    if licence is None:
        return chosen
    if licence.casefold() == PERMISSIVE:
        return [one for one in chosen if one.permissive]
    known = sorted({one.licence for one in WEIGHTS.values()})
    if licence.casefold() not in {name.casefold() for name in known}:
        raise UnknownName("licence", licence, [PERMISSIVE, *known])
    return [one for one in chosen if one.licence.casefold() == licence.casefold()]


def _row(one: Published) -> dict[str, str]:
    return {
        "cached": "✓" if cache.place(one).exists() else "",
        "name": one.name,
        "network": one.network,
        "top1": "–" if one.top1 is None else f"{one.top1:.1f}",
        "resolution": str(one.resolution),
        "licence": one.licence,
        "size": f"{_megabytes(one):.0f} MB",
        "trained_on": one.trained_on,
        "source": one.source,
    }


def _megabytes(one: Published) -> float:
    """As its publisher states it, else what the tensors alone take: fp32, without names and header."""
    limits = one.size_bytes()
    if limits is not None:
        return sum(limits) / 2 / 1e6
    spec = zoo.build(one.network, classes=one.classes)
    return sum(4 * math.prod(shape) for shape in tensor_shapes(spec).values()) / 1e6


def _width() -> int | None:
    """Columns of the terminal; `None` where the table goes to a file or another program."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _fitting(rows: list[dict[str, str]], width: int | None) -> list[str]:
    """The columns for which there is room, two spaces between each."""
    columns = list(_COLUMNS)
    for less in (None, *_FIRST_TO_GO):
        columns = [key for key in columns if key != less]
        wide = sum(max(len(_COLUMNS[key][0]), *(len(row[key]) for row in rows), 0) for key in columns)
        if width is None or wide + 2 * (len(columns) - 1) <= width:
            break
    return columns


def _notes(chosen: list[Published]) -> list[str]:
    """What one has to know to read the table, and what to type next."""
    here = sum(cache.place(one).exists() for one in chosen)
    lines = [
        "",
        f"{len(chosen)} of {len(WEIGHTS)} checkpoints, {here} of them here (✓): {cache.folder()}",
        "Top-1 (percent, ImageNet's validation set), licence and size are the publishers' words; a size that "
        "none states is computed. None is downloaded by our tests.",
    ]
    if any(one.permissive for one in chosen):
        lines.append(
            "A licence covers what its publisher could license: ImageNet's pictures are for non-commercial "
            "research, and what that means for weights is not settled."
        )
    if chosen:
        example = max(chosen, key=lambda one: (one.permissive, one.source == "timm", -_megabytes(one)))
        lines.append(f"\nUse one:  mobilenets import {example.name} -o model.safetensors")
    return lines


def _json(one: Published) -> dict[str, Any]:
    limits, path = one.size_bytes(), cache.place(one)
    return {
        **dataclasses.asdict(one),
        "network": one.network,
        "file": one.file,
        "permissive": one.permissive,
        "licence_source": LICENCE_SOURCES[one.source],
        "preprocessing": one.preprocessing.to_json(),
        "preprocessing_source": PREPROCESSING_SOURCES[one.source],
        "size_bytes": None if limits is None else {"low": limits[0], "high": limits[1]},
        "computed_size_bytes": round(_megabytes(one) * 1e6) if limits is None else None,
        "cached": str(path) if path.exists() else None,
    }
