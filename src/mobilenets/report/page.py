"""`report.html`: one page that explains a run to whoever paid for it, and can be mailed.

Everything is inside the file: no script, no address that a browser could ask. A Content-Security-
Policy in the page forbids both, should anything ever slip through. Jinja2 escapes every value, and
before that `printable` takes out what would move the reading order.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilenets.errors import MissingExtra
from mobilenets.folder import SPLITS
from mobilenets.report import charts, counsel, words
from mobilenets.report.findings import (
    Finding,
    accepted,
    always_the_same,
    confused_pairs,
    scan_findings,
    weakest_first,
)
from mobilenets.report.record import RunRecord
from mobilenets.report.sheets import Tile, by_class, columns, thumbnail
from mobilenets.report.style import DARK, LIGHT, shortened
from mobilenets.text import count, printable

if TYPE_CHECKING:
    from jinja2 import Environment

_CLASSES = 300
"""Rows of a table of classes; the rest stands in classes.csv."""
_OPEN_CLASSES = 15
"""Rows that are shown without unfolding the rest."""
_FILES = 60
"""Files listed of one kind of finding; the rest stands in scan.json."""
_NAME = 60
"""Characters of a file's name."""
_THUMBNAIL = 224
_DENSITY = 1.6
"""Pixels of a chart per CSS pixel: its letters are then as large as the page's small print."""
_WIDE = 800
"""CSS pixels; wider charts get the page's whole width."""


@dataclass(frozen=True, slots=True)
class Chart:
    """The same chart for a light and a dark page, as data URIs, and in words for those who cannot see it."""

    light: str
    dark: str
    alt: str
    width: int
    height: int
    """CSS pixels."""
    least: int
    """CSS pixels below which it is scrolled rather than shrunk; 0 where it may shrink."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture of the data with its caption; `src` is empty where the file can no longer be read."""

    src: str
    caption: tuple[str, ...]


def html(record: RunRecord, run: Path, *, seen: Sequence[Tile], wrong: Sequence[Tile]) -> str:
    """The page for the run in the folder `run`; the tiles are `sheets.seen_tiles` and `wrong_tiles`.

    Raises `MissingExtra` where Jinja2 or matplotlib is not installed.
    """
    return environment("report").get_template("report.html.j2").render(_values(record, run, seen, wrong))


def environment(*folders: str) -> "Environment":
    """Jinja2 for the templates in `folders` of this package: every value is escaped and made harmless.

    Raises `MissingExtra` where Jinja2 is not installed.
    """
    try:
        from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtra("Writing a report", "train", "jinja2") from error
    made = Environment(
        loader=ChoiceLoader([PackageLoader("mobilenets", folder) for folder in folders]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "percent": lambda share: f"{share:.1%}",
        "points": lambda share: f"{100 * share:.2f}".rstrip("0").rstrip("."),
        "integer": lambda n: f"{n:,}",
        "plural": count,
        "short": shortened,
    }
    return made


def _harmless(value: Any) -> Any:
    """Every value on its way into the page; what is marked as safe (our own data URIs) passes."""
    return printable(value) if type(value) is str else value


def _values(record: RunRecord, run: Path, seen: Sequence[Tile], wrong: Sequence[Tile]) -> Mapping[str, Any]:
    evaluation, manifest = record.evaluation, record.manifest
    ordered = weakest_first(evaluation)
    drawn = _charts(record)
    counts = record.folder.counts()
    steps = words.preprocessing(manifest.preprocessing, manifest.spec.resolution)
    return {
        "record": record,
        "evaluation": evaluation,
        "manifest": manifest,
        "score": evaluation.accuracy,
        "baseline": always_the_same(evaluation),
        "mistakes": int((evaluation.predicted != evaluation.truth).sum()),
        "words": words,
        "counsel": counsel,
        "facts": words.facts(record),
        "classes": ordered[:_CLASSES],
        "open_classes": len(ordered) if len(ordered) <= _OPEN_CLASSES + 5 else _OPEN_CLASSES,
        "classes_in_all": len(ordered),
        "pairs": confused_pairs(evaluation, 8),
        "charts": drawn,
        "matrix_wide": "confusion" in drawn and drawn["confusion"].width > _WIDE,
        "accepted": accepted(evaluation),
        "calibrated": words.calibrated(evaluation),
        "wrong": [_figure(tile) for tile in wrong],
        "seen": [(label, [_figure(tile) for tile in group]) for label, group in by_class(seen)],
        "seen_columns": columns(seen),
        "pixelated": manifest.spec.resolution <= _THUMBNAIL // 2,
        "counts": list(counts.items())[:_CLASSES],
        "largest": max(sum(row.values()) for row in counts.values()),
        "classes_of_folder": len(record.folder.classes),
        "splits": SPLITS,
        "totals": {name: len(record.folder.split(name)) for name in SPLITS},
        "findings": [_shown(finding) for finding in scan_findings(record.folder)],
        "preprocessing": steps,
        "details": {
            "Preparation of a picture": [(str(i), step) for i, step in enumerate(steps, start=1)],
            "Recipe": words.flattened(record.recipe),
            "Environment": words.flattened(record.environment),
            "Provenance": words.flattened({k: v for k, v in manifest.provenance.items() if k != "recipe"}),
        },
        "commands": words.commands(run),
    }


def _charts(record: RunRecord) -> dict[str, Chart]:
    evaluation = record.evaluation
    drawn: dict[str, tuple[bytes, bytes, str]] = {}
    if len(evaluation.truth):
        pairs = "; ".join(
            f"{p.truth} for {p.predicted}, {p.count} of {p.n}" for p in confused_pairs(evaluation, 3)
        )
        drawn["confusion"] = (
            charts.confusion(evaluation, LIGHT),
            charts.confusion(evaluation, DARK),
            f"Confusion matrix. Most often mistaken: {pairs or 'nothing more than once'}.",
        )
        drawn["reliability"] = (
            charts.reliability(evaluation, LIGHT),
            charts.reliability(evaluation, DARK),
            f"Reliability diagram. {words.calibrated(evaluation)}",
        )
    if record.history:
        curves = charts.Curves(record.history, record.best_epoch)
        light, dark = curves.panels(LIGHT), curves.panels(DARK)
        last = record.history[-1]
        said = {
            "loss": f"Loss in {count(len(record.history), 'epoch')}; in training at last {last.loss:.3f}.",
            "scores": f"Scores on the validation pictures; accuracy at last {last.accuracy:.1%}.",
            "rate": "Learning rate over the epochs.",
        }
        drawn |= {name: (light[name], dark[name], said[name]) for name in light}
    return {name: chart(*parts) for name, parts in drawn.items()}


def chart(light: bytes, dark: bytes, alt: str) -> Chart:
    """Two PNGs of one chart as what the page's templates show; `alt` says it in words."""
    width, height = (round(int.from_bytes(light[at : at + 4]) / _DENSITY) for at in (16, 20))  # PNG, 11.2.1
    least = round(0.6 * width) if width > _WIDE else 0
    return Chart(data_uri(light, "image/png"), data_uri(dark, "image/png"), alt, width, height, least)


def _figure(tile: Tile) -> Figure:
    src = "" if tile.image is None else data_uri(*thumbnail(tile.image, _THUMBNAIL))
    return Figure(src, tile.caption)


def _shown(finding: Finding) -> dict[str, Any]:
    files = [
        (shortened(name, _NAME), shortened(detail, 2 * _NAME)) for name, detail in finding.files[:_FILES]
    ]
    return {
        "kind": finding.kind,
        "used": finding.used,
        "n": len(finding.files),
        "files": files,
        "more": len(finding.files) - len(files),
    }


def data_uri(data: bytes, media_type: str) -> str:
    """`data` as an address that holds it; marked as safe, since base64 needs no escaping."""
    from markupsafe import Markup

    return Markup(f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}")  # noqa: S704 — base64 is plain
