"""What a run amounts to, in sentences that its figures bear out; said once for the page and the card.

Every function returns plain text with names in it as they are: whoever shows it escapes it.
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

from mobilenets import cost
from mobilenets.evaluation import Evaluation, Score
from mobilenets.folder import SPLITS
from mobilenets.preprocessing import Preprocessing
from mobilenets.report.findings import (
    always_the_same,
    calibration,
    smallest_class,
    weakest,
)
from mobilenets.report.record import RunRecord
from mobilenets.text import count, duration


@dataclass(frozen=True, slots=True)
class Fact:
    """A card of the page, a row of the model card."""

    name: str
    value: str
    note: str = ""


def verdict(evaluation: Evaluation) -> str:
    """One sentence for somebody who reads no other."""
    n = len(evaluation.truth)
    right = int((evaluation.predicted == evaluation.truth).sum())
    if n == 0:
        return "Not measured: there was no test picture."
    sentence = _share_in_words(right, n)
    weak = weakest(evaluation)
    if weak is not None and weak.recall.value < 1:
        sentence += f"; weakest class: {weak.label} ({weak.recall.value:.0%})"
    return f"{sentence}."


def _share_in_words(right: int, n: int) -> str:
    if right == n:
        return f"All {count(n, 'test picture')} right"
    share = right / n
    if n < 20 or share < 0.05:
        return f"{right:,} of {count(n, 'test picture')} right"
    if share >= 0.98:
        return f"All but {n - right:,} of {n:,} test pictures right"
    tenths = round(share * 10)
    if 0 < tenths < 10 and abs(share - tenths / 10) < 0.015:
        return f"About {tenths} of 10 test pictures right"
    return f"{round(share * 100)} of 100 test pictures right"


def chance(evaluation: Evaluation) -> str:
    """What the score has to be compared with, and how often the truth is among the best five."""
    among = (
        f" Its best five guesses hold the truth for {evaluation.top(5).value:.1%}."
        if many_classes(evaluation)
        else ""
    )
    return (
        f"Always naming the most common class would be right for {always_the_same(evaluation):.1%} "
        f"of these pictures.{among}"
    )


def many_classes(evaluation: Evaluation) -> bool:
    """Whether it says something that the truth is among the best five."""
    return len(evaluation.labels) > 10


def span(score: Score) -> str:
    """The interval of a score in words."""
    return f"95% interval {score.low:.1%} to {score.high:.1%}, from {count(score.n, 'picture')}"


def facts(record: RunRecord) -> tuple[Fact, ...]:
    """The run in a few figures."""
    spec, folder = record.manifest.spec, record.folder
    network = cost.count(spec)
    splits = (f"{len(folder.split(name)):,} {name}" for name in SPLITS)
    smallest, of_it = smallest_class(folder)
    numbers = 4 * (network.params + network.statistics)
    found = [
        Fact("Pictures", f"{len(folder.pictures):,}", " · ".join(splits)),
        Fact(
            "Classes",
            f"{len(record.manifest.labels):,}",
            f"smallest: {smallest}, {of_it['train']:,} to learn from",
        ),
        Fact(
            "Network",
            spec.name,
            f"{spec.resolution} × {spec.resolution} px, {record.manifest.preprocessing.mode}",
        ),
        Fact("Size", f"{numbers / 1e6:.1f} MB", f"{rounded(network.params)} parameters, 32-bit floats"),
        Fact("Work per picture", rounded(network.macs), "multiply-adds (MACs)"),
    ]
    balanced = record.evaluation.balanced_accuracy
    found.append(
        Fact(
            "Balanced accuracy",
            f"{balanced.value:.1%}",
            f"every class counts the same; {balanced.low:.1%} to {balanced.high:.1%}",
        )
    )
    spent = record.environment.get("time") or duration(sum(row.seconds for row in record.history))
    epochs = count(len([row for row in record.history if row.number]), "epoch")
    found.append(Fact("Training time", spent, f"{epochs}; selected: {epoch_name(record.best_epoch)}"))
    if "device" in record.environment:
        found.append(Fact("Device", record.environment["device"], record.environment.get("precision", "")))
    return tuple(found)


def epoch_name(number: int) -> str:
    """How an epoch is called: number 0 is the classifier that was trained on the frozen body."""
    return f"epoch {number}" if number else "the head on the frozen body"


def rounded(n: int) -> str:
    """A large count to three digits: `28.8 M`, `1.52 M`, `950 k`."""
    for unit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if n >= unit:
            return f"{n / unit:.3g} {letter}" if n < 999.5 * unit else f"{n / unit:,.0f} {letter}"
    return str(n)


def calibrated(evaluation: Evaluation) -> str:
    """Whether stated probabilities can be believed."""
    n = len(evaluation.truth)
    if not n:
        return "Not measured."
    found = calibration(evaluation)
    gap = found.confidence - evaluation.accuracy.value
    if abs(gap) < 0.02:
        tendency = "on the whole it is as sure as it should be"
    else:
        tendency = f"on the whole it is {'too sure' if gap > 0 else 'less sure than it could be'}"
    rough = " With so few pictures this figure is itself rough." if n < 200 else ""
    return (
        f"It states {found.confidence:.1%} on average and is right for {evaluation.accuracy.value:.1%}: "
        f"{tendency}. The expected calibration error is {found.error:.1%}.{rough}"
    )


def preprocessing(contract: Preprocessing, resolution: int) -> tuple[str, ...]:
    """What happens to a picture before the network sees it, step by step."""
    steps = ["turned upright as its EXIF orientation says"] if contract.exif else ["EXIF orientation ignored"]
    match contract.mode:
        case "L":
            colour = "converted to grey"
        case "RGB":
            colour = "converted to RGB"
        case "RGBA":
            colour = "converted to RGBA, transparency kept"
        case _:
            assert_never(contract.mode)
    under = ", ".join(map(str, contract.background))
    steps.append(colour if contract.mode == "RGBA" else f"{colour}, transparent parts over ({under})")
    kernel = f"{contract.resize}{', antialiased' if contract.antialias else ', without antialiasing'}"
    match contract.fit:
        case "crop":
            short = max(resolution, round(resolution / contract.crop_fraction))
            steps.append(
                f"shorter side to {short} px ({kernel}), then the central {resolution} × {resolution} px"
            )
        case "pad":
            steps.append(
                f"longer side to {resolution} px ({kernel}), padded to a square with {contract.pad_value}"
            )
        case "stretch":
            steps.append(f"stretched to {resolution} × {resolution} px ({kernel})")
        case _:
            assert_never(contract.fit)
    mean, std = (", ".join(f"{v:g}" for v in values) for values in (contract.mean, contract.std))
    steps.append(f"(pixel · {contract.scale:.6g} − mean) ÷ std, with mean {mean} and std {std}")
    return tuple(steps)


def commands(run: Path) -> tuple[tuple[str, str], ...]:
    """(what for, what to type), for the model in the run folder `run`."""
    model = shlex.quote(run.as_posix())
    return (
        ("Name the class of new pictures", f"mobilenets predict {model} PICTURE.jpg"),
        ("Test it on pictures from elsewhere", f"mobilenets evaluate {model} FOLDER"),
        ("Take it to another program or device", f"mobilenets export {model} --to onnx"),
    )


def flattened(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON values as (`outer.inner`, text) rows; what is empty is left out."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += flattened(value, f"{prefix}{key}.")
        elif value is not None and value != "":
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            rows.append((f"{prefix}{key}", text))
    return rows
