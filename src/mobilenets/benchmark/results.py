"""A file of results: one line of JSON for each, only ever added to."""

import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from mobilenets.benchmark.conditions import UNSTEADY_LIMIT
from mobilenets.benchmark.engines import OURS
from mobilenets.benchmark.samples import unsteadiness
from mobilenets.compiler.kept import own_code
from mobilenets.errors import InputError
from mobilenets.files import write_text


def compiler_source() -> str:
    """What tells one state of our compiler from another."""
    return own_code()[:12]


def check_results(file: Path) -> None:
    """Refuse a file of results that is no such file, before anything is measured."""
    try:
        for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
            json.loads(line)
    except (OSError, ValueError) as error:
        raise InputError(
            "is no file of results, one line of JSON each, to add to.", file=file, remedy="Name another."
        ) from error


def append_line(value: Mapping[str, Any], file: Path) -> None:
    """Add `value` as one line of JSON to `file`."""
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    before += "\n" if before and not before.endswith("\n") else ""
    write_text(file, before + json.dumps(value, allow_nan=False) + "\n")


def kind(line: Mapping[str, Any]) -> tuple[str | int, ...]:
    """What a line is the newest of: `engines`, `ours` alone, `profile`, `compile`, `scaling`, and where."""
    what = next((name for key, name in _MARKS.items() if key in line), "engines")
    if what == "engines" and [row["engine"] for row in line["engines"]] == [OURS] and not line["left_out"]:
        what = "ours"
    return (
        what,
        line["network"],
        line["resolution"],
        line["threads"],
        line["batch"],
        line.get("precision", "fp32"),
    )


_MARKS = {"steps": "profile", "compile_seconds": "compile", "scaling": "scaling"}
"""What only a line of one kind has → that kind."""


def quiet(line: Mapping[str, Any]) -> bool:
    """Whether a line may be quoted. Older lines did not ask for steady rounds, so these are counted here."""
    rounds = chain.from_iterable(rounds_of(line).values())
    return bool(line["noise"]["quiet"]) and unsteadiness(rounds) <= UNSTEADY_LIMIT


def rounds_of(line: Mapping[str, Any]) -> dict[str, list[list[float]]]:
    """Engine → the medians of its rounds; in a line of `scaling` those with one thread, then with two."""
    rows = [*line.get("engines", ()), *line.get("scaling", ())]
    return {row["engine"]: [row[key] for key in _MEDIANS if key in row] for row in rows}


_MEDIANS = ("round_medians_ms", "one_round_medians_ms", "two_round_medians_ms")
