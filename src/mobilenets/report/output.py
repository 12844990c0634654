"""`write_report`: everything about a run that a person wants to look at, into its folder."""

from pathlib import Path

from mobilenets.files import write_bytes, write_text
from mobilenets.report import charts, tables
from mobilenets.report.card import model_card
from mobilenets.report.page import html
from mobilenets.report.record import RunRecord
from mobilenets.report.sheets import seen_sheet, seen_tiles, wrong_sheet, wrong_tiles
from mobilenets.report.style import encoded


def write_report(record: RunRecord, folder: Path) -> tuple[Path, ...]:
    """Write the charts, sheets, tables, model card and page of `record` into `folder`; returns the files.

    A picture that has gone since the scan becomes a grey tile. Charts that have nothing to show are
    left out: `curves.png` without a finished epoch, those of the test without test pictures.
    Raises `MissingExtra` without matplotlib or Jinja2, `WriteFailed` where the disk refuses.
    """
    evaluation, manifest = record.evaluation, record.manifest
    preprocessing, resolution = manifest.preprocessing, manifest.spec.resolution
    seen = seen_tiles(record.folder, preprocessing, resolution)
    wrong = wrong_tiles(evaluation, preprocessing, resolution)
    texts = {
        "report.html": html(record, folder, seen=seen, wrong=wrong),
        "model_card.md": model_card(record, folder),
        "classes.csv": tables.classes(evaluation, record.folder),
        "predictions.csv": tables.predictions(evaluation),
    }
    pictures = {
        "wrong.png": encoded(wrong_sheet(wrong), "PNG"),
        "sheet.png": encoded(seen_sheet(seen, resolution), "PNG"),
    }
    if record.history:
        pictures["curves.png"] = charts.Curves(record.history, record.best_epoch).together()
    if len(evaluation.truth):
        pictures["confusion.png"] = charts.confusion(evaluation)
        pictures["classes.png"] = charts.classes(evaluation)
        pictures["reliability.png"] = charts.reliability(evaluation)
    for name, data in pictures.items():
        write_bytes(folder / name, data)
    for name, text in texts.items():
        write_text(folder / name, text)
    return tuple(folder / name for name in (*texts, *pictures))
