"""BENCHMARKS.md from benchmarks/results.jsonl: tables of data alone, losing rows too.

    python benchmarks/render.py [--results FILE] [-o FILE]

The newest line of each network, resolution, batch, number of threads, precision and set of engines
counts, and one of a quiet machine before any other. A ratio is the median, over the rounds, of our time
over the peer's in the same round, with its 95 % interval; the peer is the fastest of those that were timed.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from mobilenets.benchmark.engines import OURS
from mobilenets.benchmark.results import kind, quiet
from mobilenets.benchmark.samples import Interval, ratio
from mobilenets.files import write_bytes, write_text
from mobilenets.report.style import LIGHT, drawing

HERE = Path(__file__).parent
GROWING = "mobilenet_v2_"
PICTURE = "benchmarks/growth.svg"
"""Beside the page."""

Line = dict[str, Any]


def newest(lines: Iterable[Line]) -> list[Line]:
    """One line of each kind, a quiet one if there is any, in the order in which the kinds first came."""
    found: dict[tuple[str | int, ...], Line] = {}
    for line in lines:
        if kind(line) not in found or quiet(line) or not quiet(found[kind(line)]):
            found[kind(line)] = line
    return list(found.values())


def precision(line: Line) -> str:
    found: str = line.get("precision", "fp32")
    return found


def how(line: Line) -> tuple[str, int, int]:
    """What the lines of one table have in common: fp32 first, then few threads and small batches."""
    return "" if precision(line) == "fp32" else precision(line), line["threads"], line["batch"]


ONE_THREAD = {
    "mobilenet_v1_100": 0.90,
    "mobilenet_v2_100": 0.78,
    "mobilenet_v3_large_100": 0.66,
    "mobilenet_v3_small_100": 0.60,
    "mobilenet_v4_conv_small": 0.75,
    "mobilenet_v4_conv_medium": 0.82,
}
TARGETS = {("", 2, 1): 0.90, ("", 2, 32): 1.0, ("bf16", 1, 1): 0.80}
"""What our time may be of the peer's, by `how`; with one thread it is another for each network."""


def target(line: Line) -> float | None:
    if how(line) == ("", 1, 1):
        return ONE_THREAD.get(line["network"])
    return TARGETS.get(how(line))


def engines(line: Line) -> dict[str, Line]:
    return {row["engine"]: row for row in line["engines"]}


def against_the_fastest(line: Line) -> tuple[str, Interval] | None:
    """The fastest peer, in bf16 OpenVINO where it was timed, and our time over its time."""
    rows = engines(line)
    ours = rows.pop(OURS, None)
    peers = [row for row in rows.values() if row["same_logits"]]
    if ours is None or not peers:
        return None
    named = [row for row in peers if precision(line) == "bf16" and row["engine"] == "openvino"]
    peer = min(named or peers, key=lambda row: row["median_ms"])
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


def lost(line: Line) -> bool:
    """Whether we are not surely ahead, or further from ahead than the target."""
    found, bound = against_the_fastest(line), target(line)
    if found is None:
        return False
    _, against = found
    return against.high >= 1 or (bound is not None and against.value > bound)


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
                *(marked(line, timed[name], cell) if name in timed else "–" for name in names),
                peer,
                "–" if against is None else str(against),
                target_of(line),
                "–" if against is None else verdict(against) + missed(line, against),
                "–" if share is None else f"{share:.0%}",
                "yes" if quiet(line) else "**no**",
                line.get("compiler_source", "older")[:6],
            ]
        )
    heading = ["network", *names, "peer", "ours ÷ it (95 %)", "target", "so we are", "of FMA peak", "quiet"]
    yield from markdown([*heading, "compiler"], rows)


def target_of(line: Line) -> str:
    bound = target(line)
    return "–" if bound is None else f"{'<' if bound == 1 else '≤'} {bound:.2f}"


def missed(line: Line, against: Interval) -> str:
    bound = target(line)
    return ", target missed" if bound is not None and against.value > bound else ""


def marked(line: Line, row: Line, cell: Callable[[Line, Line], str]) -> str:
    return cell(line, row) + ("" if row["same_logits"] else " (other logits)")


SHOWN = 8
"""Steps of a profile; the others are one row."""


def profile(line: Line) -> Iterator[str]:
    """The steps that take longest, and how near the processor's peaks they come."""
    steps = sorted(line["steps"], key=lambda step: -step[1])
    peaks, whole = line["peaks"], sum(step[1] for step in steps)
    shown, rest = steps[:SHOWN], steps[SHOWN:]
    if rest:
        title = f"the other {len(rest)}"
        shown = [*shown, [title, *(sum(step[place] for step in rest) for place in (1, 2, 3))]]
    rows = [
        [
            title,
            f"{ms:.3f}",
            f"{ms / whole:.1%}",
            f"{macs / ms / 1e6 / peaks['gmacs']:.0%}",
            f"{moved / ms / 1e6 / peaks['far_gbytes']:.0%}",
            "memory" if macs / moved < peaks["gmacs"] / peaks["far_gbytes"] else "arithmetic",
        ]
        for title, ms, macs, moved in shown
    ]
    heading = ["step", "ms", "share", "of FMA peak", "of memory's bytes", "bound by, were nothing in a cache"]
    share = sum(step[2] for step in steps) / whole / 1e6 / peaks["gmacs"]
    yield (
        f"`{line['network']}` at {line['resolution']} px, one thread, fp32: {whole:.2f} ms in all, "
        f"{share:.0%} of the FMA peak."
    )
    yield "More than 100 % of memory's bytes came from a cache."
    yield ""
    yield from markdown(heading, rows)


def losses(table: list[Line], profiles: dict[str, Line]) -> Iterator[str]:
    """Every row that is lost, and the profiles of its networks."""
    rows = []
    gone = [line for line in table if lost(line)]
    for line in gone:
        found = against_the_fastest(line)
        assert found is not None
        peer, against = found
        rows.append(
            [
                f"`{line['network']}`",
                precision(line),
                str(line["threads"]),
                str(line["batch"]),
                peer,
                str(against),
                target_of(line),
                verdict(against) + missed(line, against),
            ]
        )
    yield "## Rows that are lost, and why"
    yield ""
    if not any(against_the_fastest(line) for line in table):
        yield "There is no row with a peer to compare with."
        yield ""
        return
    if not rows:
        yield "None: we are ahead in every row, and within its target where it has one."
        yield ""
        return
    heading = ["network", "precision", "threads", "batch", "peer", "ours ÷ it (95 %)", "target", "so we are"]
    yield from markdown(heading, rows)
    for name in dict.fromkeys(line["network"] for line in gone):
        if name in profiles:
            yield from profile(profiles[name])
        else:
            yield f"`{name}` has no profile yet: `python benchmarks/networks.py --only profile`"
            yield ""


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
            f"{row.get('first_start_ms', row['cold_start_ms']['value']):,.0f}",
            f"{row['peak_bytes'] / 1e6:,.0f}",
            f"{row['model_bytes'] / 1e6:.1f}",
            f"{row['runtime_bytes'] / 1e6:,.1f}",
        ]
        for name, row in engines(line).items()
    ]
    yield from markdown(
        ["engine", "first logits, ms", "the very first, ms", "memory, MB", "model, MB", "runtime, MB"], rows
    )
    if line["program_ms"] is not None:
        took = line["program_ms"]["value"]
        yield f"The emitted C program has answered {took:.1f} ms after its start."
        yield ""


Curve = list[tuple[float, Line]]
"""What was varied, and what came out; the smallest first."""


def curves(lines: list[Line]) -> dict[str, Curve]:
    """Our engine alone, over one thing at a time."""
    alone = [line for line in lines if kind(line)[0] == "ours" and line["network"].startswith(GROWING)]
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


def ticks(across: list[float]) -> list[str]:
    """A label for each value, none where the next one would lie upon it."""
    pairs = zip(across, [*across[1:], math.inf], strict=True)
    return [f"{value:g}" if following > 1.18 * value else "" for value, following in pairs]


def powers_of_two(top: float) -> list[float]:
    """From 1 on, the last not below `top`."""
    return [2.0**power for power in range(math.ceil(math.log2(max(top, 2))) + 1)]


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
            axes.set_xticks(across, ticks(across))
            up = powers_of_two(max(macs[-1] / macs[0], max(times) / times[0]))
            axes.set_yticks(up, [f"{value:g} ×" for value in up])
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
                "yes" if quiet(line) else "**no**",
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
distribution. Where it includes 1, nobody is faster. All engines of a table were asked for the precision that
its title names, and take `uint8` pictures, normalisation included. In bf16 each does it in its way: ours has
its weights in bf16, and maps and products too where the processor is faster with them (AMX; AVX512-BF16 but
on Intel's); where it is not, as on the machine below, it computes in fp32. An engine is timed in windows of
50 ms with a small fixed work in between; windows next to which that was slow are left out for every engine
alike, since a virtual machine's neighbours slow its core for tens of milliseconds at a time. *Quiet* says
whether a check found the machine idle between the turns, and the rounds of a typical engine within 5 %; a
row that says no is not to be quoted. *Compiler* is the beginning of the hash of our compiler's sources. The
FMA peak is measured as well, by a small C program, and is that of fp32.

The targets are this project's own: with one thread, a share of the fastest peer's time, another for each
network; with two threads 0.90 of it; with 32 pictures less than it; in bf16 0.80 of OpenVINO's.
"""


def document(lines: list[Line]) -> str:
    table = [line for line in lines if kind(line)[0] == "engines"]
    profiles = {line["network"]: line for line in lines if kind(line)[0] == "profile"}
    timed = [line for line in lines if "engines" in line]
    parts: list[str] = [INTRODUCTION]
    for where in dict.fromkeys(map(machine, timed)):
        parts += [f"* {where}"]
    parts.append("")
    for each in sorted(set(map(how, table))):
        some = [line for line in table if how(line) == each]
        _, threads, pictures = each
        words = f"batch {pictures}, {threads} thread{'s' * (threads > 1)}, {precision(some[0])}"
        title = f"Latency, {words}, ms" if pictures == 1 else f"Pictures a second, {words}"
        parts += [f"## {title}", "", *compared(some, milliseconds if pictures == 1 else pictures_per_second)]
    parts += losses(table, profiles)
    alone = [line for line in table if how(line) == ("", 1, 1)]
    if alone:
        parts += ["## Cold start, memory and disk, one thread", ""]
        parts += [
            "From the start of Python's process to the first logits: the median, and the very first time, in",
            "which torch.compile compiles; of the runtime its own package.",
            "",
        ]
        for line in alone:
            parts += [f"### `{line['network']}`", "", *costs(line)]
    if curves(lines):
        parts += ["## How the cost grows", ""]
        for with_what, curve in curves(lines).items():
            parts += growth(with_what, curve)
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
