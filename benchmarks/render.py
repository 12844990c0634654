"""BENCHMARKS.md from benchmarks/results.jsonl: tables of data alone, losing rows too.

    python benchmarks/render.py [--results FILE] [-o FILE]

The newest line of each network, resolution, batch, number of threads and set of engines counts. A
ratio is the median, over the rounds, of our time over the peer's in the same round, with its 95 %
interval; the peer is the fastest of those that were timed.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from mobilenets.benchmark.samples import Interval, ratio
from mobilenets.files import write_bytes, write_text
from mobilenets.report.style import LIGHT, drawing

HERE = Path(__file__).parent
OURS = "compiled"
GROWING = "mobilenet_v2_"
PICTURE = "benchmarks/growth.svg"
"""Beside the page."""

Line = dict[str, Any]


def newest(lines: Iterable[Line]) -> list[Line]:
    """One line of each kind, in the order in which the kinds first came."""
    kinds: dict[tuple[object, ...], Line] = {}
    for line in lines:
        engines = len(line["engines"]) > 1
        kinds[(line["network"], line["resolution"], line["threads"], line["batch"], engines)] = line
    return list(kinds.values())


def engines(line: Line) -> dict[str, Line]:
    return {row["engine"]: row for row in line["engines"]}


def against_the_fastest(line: Line) -> tuple[str, Interval] | None:
    """The fastest peer, and our time over its time."""
    rows = engines(line)
    ours = rows.pop(OURS, None)
    peers = [row for row in rows.values() if row["same_logits"]]
    if ours is None or not peers:
        return None
    peer = min(peers, key=lambda row: row["median_ms"])
    return peer["engine"], ratio(ours["round_medians_ms"], peer["round_medians_ms"])


def markdown(heading: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heading)} |"
    yield f"| --- |{' --: |' * (len(heading) - 1)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def verdict(against: Interval) -> str:
    if against.low <= 1 <= against.high:
        return "no winner"
    return "ahead" if against.high < 1 else "**behind**"


def compared(lines: list[Line], cell: Callable[[Line, Line], str]) -> Iterator[str]:
    """One row for each network, one column for each engine."""
    names = list(dict.fromkeys(name for line in lines for name in engines(line)))
    rows = []
    for line in lines:
        found, timed = against_the_fastest(line), engines(line)
        peer, against = ("–", None) if found is None else found
        share = timed.get(OURS, {}).get("share_of_peak")
        rows.append(
            [
                f"`{line['network']}`",
                *(cell(line, timed[name]) if name in timed else "–" for name in names),
                peer,
                "–" if against is None else str(against),
                "–" if against is None else verdict(against),
                "–" if share is None else f"{share:.0%}",
                "yes" if line["noise"]["quiet"] else "**no**",
            ]
        )
    heading = ["network", *names, "fastest peer", "ours ÷ it (95 %)", "so we are", "of FMA peak", "quiet"]
    yield from markdown(heading, rows)


def milliseconds(_line: Line, row: Line) -> str:
    return f"{row['median_ms']:.2f}"


def pictures_per_second(_line: Line, row: Line) -> str:
    return f"{row['pictures_per_second']:,.0f}"


def costs(line: Line) -> Iterator[str]:
    """Cold start, memory and disk of one network in every engine."""
    rows = [
        [
            name,
            f"{row['cold_start_ms']['value']:,.0f}",
            f"{row['peak_bytes'] / 1e6:,.0f}",
            f"{row['model_bytes'] / 1e6:.1f}",
            f"{row['runtime_bytes'] / 1e6:,.1f}",
        ]
        for name, row in engines(line).items()
    ]
    yield from markdown(["engine", "first logits, ms", "memory, MB", "model, MB", "runtime, MB"], rows)
    if line["program_ms"] is not None:
        took = line["program_ms"]["value"]
        yield f"The emitted C program has answered and ended {took:.1f} ms after its start."
        yield ""


Curve = list[tuple[float, Line]]
"""What was varied, and what came out; the smallest first."""


def curves(lines: list[Line]) -> dict[str, Curve]:
    """Our engine alone, over one thing at a time."""
    alone = [line for line in lines if len(line["engines"]) == 1 and line["network"].startswith(GROWING)]
    wide = [line for line in alone if line["network"] == f"{GROWING}100"]
    found = {
        "the width multiplier α": [
            (int(line["network"].removeprefix(GROWING)) / 100, line)
            for line in alone
            if (line["resolution"], line["batch"]) == (224, 1)
        ],
        "the side in pixels": [(line["resolution"], line) for line in wide if line["batch"] == 1],
        "the batch": [(line["batch"], line) for line in wide if line["resolution"] == 224],
    }
    return {name: sorted(curve, key=lambda point: point[0]) for name, curve in found.items() if curve}


def drawn(found: dict[str, Curve]) -> bytes:
    """Time and MACs, as multiples of the smallest, as an SVG."""
    with drawing(LIGHT, 3.2 * len(found), 3.2) as figure:
        panels = figure.subplots(1, len(found), squeeze=False)[0]
        for axes, (name, curve) in zip(panels, found.items(), strict=True):
            across = [value for value, _ in curve]
            macs = [line["macs"] for _, line in curve]
            times = [engines(line)[OURS]["median_ms"] for _, line in curve]
            axes.plot(across, [each / macs[0] for each in macs], "--", color=LIGHT.muted, label="MACs")
            axes.plot(across, [each / times[0] for each in times], "o-", color=LIGHT.right, label="time")
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xticks(across, [f"{value:g}" for value in across])
            axes.minorticks_off()
            axes.set_xlabel(name)
            axes.legend(loc="upper left")
        stream = BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def growth(with_what: str, curve: Curve) -> Iterator[str]:
    """Time beside the MACs, each relative to the smallest row's."""
    lines = [line for _, line in curve]
    base, rows = lines[0], []
    for line in lines:
        ours, before = engines(line)[OURS], engines(base)[OURS]
        rows.append(
            [
                f"`{line['network']}`",
                str(line["resolution"]),
                str(line["batch"]),
                f"{line['macs'] / 1e6:,.0f}",
                f"{ours['median_ms']:.2f}",
                f"{line['macs'] / base['macs']:.2f}",
                f"{ours['median_ms'] / before['median_ms']:.2f}",
                "yes" if line["noise"]["quiet"] else "**no**",
            ]
        )
    yield f"With {with_what}:"
    yield ""
    heading = ["network", "px", "batch", "MMACs", "ms", "× MACs", "× time", "quiet"]
    yield from markdown(heading, rows)


def machine(line: Line) -> str:
    known, versions = line["machine"], line["versions"]
    return (
        f"{known['processor']}, {known['cores']} cores, {known.get('instructions', 'no C compiler')}, "
        f"{known.get('compiler', '')}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f"; mobilenets {line['mobilenets']}, {line['date'][:10]}"
    )


INTRODUCTION = """\
# Benchmarks

Written by `python benchmarks/render.py` from benchmarks/results.jsonl, which `make bench` extends; do not
edit.

**Before you quote a number**: it is of the machine below and of no other. Every engine has a process of its
own, and the processes run in turn, never two at once, after a warm-up. A time is the median over the rounds
of each round's median; a ratio is taken within a round, and its interval holds for 95 % whatever the
distribution. Where it includes 1, nobody is faster. All engines compute in fp32 and take `uint8` pictures,
normalisation included. *Quiet* says whether a check found the machine idle between the turns; a row that
says no is not to be quoted. The FMA peak is measured as well, by a small C program.
"""


def document(lines: list[Line]) -> str:
    table = [line for line in lines if len(line["engines"]) > 1]
    parts: list[str] = [INTRODUCTION]
    for where in dict.fromkeys(map(machine, lines)):
        parts += [f"* {where}"]
    parts.append("")
    for threads, pictures in sorted({(line["threads"], line["batch"]) for line in table}):
        some = [line for line in table if (line["threads"], line["batch"]) == (threads, pictures)]
        how = f"batch {pictures}, {threads} thread{'s' * (threads > 1)}"
        title = f"Latency, {how}, ms" if pictures == 1 else f"Pictures a second, {how}"
        parts += [f"## {title}", "", *compared(some, milliseconds if pictures == 1 else pictures_per_second)]
    alone = [line for line in table if line["batch"] == 1 and line["threads"] == 1]
    if alone:
        parts += ["## Cold start, memory and disk, one thread", ""]
        parts += [
            "From the start of Python's process to the first logits; of the runtime its own package.",
            "",
        ]
        for line in alone:
            parts += [f"### `{line['network']}`", "", *costs(line)]
    if curves(lines):
        parts += ["## How the cost grows", ""]
        for with_what, some in curves(lines).items():
            parts += growth(with_what, some)
        parts += [f"![Time and MACs over width, resolution and batch]({PICTURE})"]
    return "\n".join(parts).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("-o", "--output", type=Path, default=HERE.parent / "BENCHMARKS.md")
    options = parser.parse_args()
    if not options.results.is_file():
        parser.error(f"there is no {options.results}; make it with: python benchmarks/networks.py")
    lines = [json.loads(line) for line in options.results.read_text(encoding="utf-8").splitlines() if line]
    lines = newest(lines)
    write_text(options.output, document(lines))
    if curves(lines):
        write_bytes(options.output.parent / PICTURE, drawn(curves(lines)))
    print(f"Written: {options.output}")


if __name__ == "__main__":
    main()
