"""The model card: one Markdown file that goes wherever the model goes (Mitchell et al. 2019)."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from mobilenets.evaluation import Score
from mobilenets.folder import SPLITS
from mobilenets.report import counsel, words
from mobilenets.report.findings import confused_pairs, scan_findings, weakest_first
from mobilenets.report.record import RunRecord
from mobilenets.text import count, printable

_HTML = {"<": "&lt;", "&": "&amp;"}
_CLASSES = 200
"""Rows of the table of classes; the rest stands in classes.csv."""
_MARKUP = re.compile(
    r"[\\`*\[\]<&|~$@]"  # emphasis, code, links, HTML, tables, formulas, mentions
    r"|(?<![^\W_])_|_(?![^\W_])"  # an underscore that is not inside a word
    r"|:(?=[/\w])"  # addresses and :emoji:
    r"|^[#+\-=>]"  # headings and lists, where they begin a line
)
_NUMBERED = re.compile(r"^(\d+)([.)])(?=\s|$)")


def escaped(text: str) -> str:
    """`text` on one line of Markdown, every character standing for itself, HTML's included."""
    text = _MARKUP.sub(lambda found: _HTML.get(found[0], f"\\{found[0]}"), printable(text).strip())
    return _NUMBERED.sub(r"\1\\\2", text)


def model_card(record: RunRecord, run: Path) -> str:
    """The card of the model in the run folder `run`."""
    manifest, evaluation = record.manifest, record.evaluation
    parts = [
        f"# {escaped(record.name)}",
        f"**{escaped(words.verdict(evaluation))}** {escaped(words.chance(evaluation))}"
        if len(evaluation.truth)
        else f"**{escaped(words.verdict(evaluation))}**",
        *(f"> {escaped(warning)}" for warning in counsel.warnings(record)),
        "## What it is",
        _table(("what", "", ""), [(fact.name, fact.value, fact.note) for fact in words.facts(record)]),
        f"Architecture: {escaped(manifest.spec.source)}.",
        "## What it is for",
        _list(counsel.uses(record)),
        "## Limits",
        _list(counsel.limits(record)),
        "## Scores",
        _scores(record),
        "## Data",
        _data(record),
        "## What happens to a picture first",
        _list(words.preprocessing(manifest.preprocessing, manifest.spec.resolution)),
        "## How it was trained",
        f"Selected on the validation pictures: {words.epoch_name(record.best_epoch)}. "
        "The test pictures took no part in any choice.",
        _code(record.command),
        _table(("setting", "value"), words.flattened(record.recipe)),
        _table(("environment", ""), words.flattened(record.environment)),
        "## Licence and provenance",
        f"Licence of the weights: {escaped(manifest.licence)}.",
        _table(("provenance", ""), _provenance(record)),
        "## How to use it",
        *(f"{what}:\n\n{_code(command)}" for what, command in words.commands(run)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _provenance(record: RunRecord) -> list[tuple[str, str]]:
    """The recipe and the command stand in sections of their own."""
    rest = {k: v for k, v in record.manifest.provenance.items() if k not in ("recipe", "command")}
    return words.flattened(rest)


def _scores(record: RunRecord) -> str:
    evaluation = record.evaluation
    rows = [("accuracy", evaluation.accuracy), ("balanced accuracy", evaluation.balanced_accuracy)]
    if words.many_classes(evaluation):
        rows.append(("right among the best 5", evaluation.top(5)))
    totals = _table(
        ("on the test pictures", "value", "95% interval", "n"),
        [(name, f"{score.value:.1%}", _interval(score), f"{score.n:,}") for name, score in rows],
    )
    ordered = weakest_first(evaluation)
    per_class = _table(
        ("class, weakest first", "recall", "95% interval", "precision", "n"),
        [
            (
                row.label,
                f"{row.recall.value:.1%}",
                _interval(row.recall),
                f"{row.precision:.1%}",
                f"{row.n:,}",
            )
            for row in ordered[:_CLASSES]
        ],
    )
    more = "The other classes are in classes.csv." if len(ordered) > _CLASSES else ""
    pairs = [
        f"{pair.truth} taken for {pair.predicted}: {pair.count:,} of {pair.n:,}"
        for pair in confused_pairs(evaluation, 5)
    ]
    confused = (
        f"Most confused:\n\n{_list(pairs)}" if pairs else "No two classes were confused more than once."
    )
    parts = (totals, per_class, more, confused, escaped(words.calibrated(evaluation)))
    return "\n\n".join(part for part in parts if part)


def _data(record: RunRecord) -> str:
    folder = record.folder
    table = _table(
        ("class", *SPLITS),
        [(label, *(f"{n[s]:,}" for s in SPLITS)) for label, n in list(folder.counts().items())[:_CLASSES]],
    )
    found = [
        f"{finding.kind}: {count(len(finding.files), 'file')}, {'used' if finding.used else 'left out'}"
        for finding in scan_findings(folder)
    ]
    intro = (
        f"{count(len(folder.pictures), 'picture')} from the folder {escaped(folder.root.name)} "
        f"({folder.layout}). Split: {escaped(folder.split_source)}."
    )
    noticed = f"Noticed by the scan:\n\n{_list(found)}" if found else "The scan found nothing unusual."
    return "\n\n".join((intro, table, noticed))


def _interval(score: Score) -> str:
    return f"{score.low:.1%} – {score.high:.1%}"


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"* {escaped(item)}" for item in items)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, or nothing where there are no rows."""
    if not rows:
        return ""
    lines = [header, ["---"] * len(header)]
    lines += [[escaped(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(command: str) -> str:
    """A code block whose fence is longer than any row of backticks inside."""
    text = printable(command)
    longest = max((len(row) for row in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{text}\n{fence}"
