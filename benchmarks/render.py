"""BENCHMARKS.md from benchmarks/results.jsonl: tables of data alone, losing rows too.

    python benchmarks/render.py [--results FILE] [-o FILE]

The newest line of each network, resolution, batch, number of threads, precision and set of engines
counts, and one of a quiet machine before any other. A ratio is the median, over the rounds, of our time
over the peer's in the same round, with its 95 % interval; the peer is the fastest of those that were timed.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from mobilenets.benchmark.engines import LITERT, OURS
from mobilenets.benchmark.results import kind, quiet, rounds_of
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
PROGRAM_MS = 10.0
"""Within which the emitted C program is to answer."""
LIBRARY = ("fp32, MB", "bf16, MB", "compiled in, s")
"""What there is to say of our libraries, beside one another."""
LIBRARY_TARGETS = {"mobilenet_v2_100": dict(zip(LIBRARY, (15.0, 8.0, 20.0), strict=True))}


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


def waits(macs: int, moved: int, peaks: Line) -> bool:
    """Whether a step is bound by memory, were nothing in a cache."""
    found: bool = macs / moved < peaks["gmacs"] / peaks["far_gbytes"]
    return found


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
            "memory" if waits(macs, moved, peaks) else "arithmetic",
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


class Gain(NamedTuple):
    """What a second thread brings an engine."""

    one: float
    """Milliseconds with one thread: the median of the rounds."""
    two: float
    times: Interval
    """How many times as fast two threads are."""

    @property
    def beyond_half(self) -> float:
        """Milliseconds."""
        return self.two - self.one / 2


def gains(line: Line) -> dict[str, Gain]:
    return {
        engine: Gain(statistics.median(one), statistics.median(two), ratio(one, two))
        for engine, (one, two) in rounds_of(line).items()
    }


LESS = "**less than LiteRT**"


def scales(found: dict[str, Gain]) -> str:
    """Whether a second thread brings us as much as LiteRT."""
    if LITERT not in found:
        return "–"
    ours, theirs = found[OURS].times, found[LITERT].times
    if ours.value >= theirs.value:
        return "as well as LiteRT"
    return LESS if ours.high < theirs.low else "nobody can say"


OF_A_SECOND_THREAD = """\
## What a second thread brings

How many times as fast two threads are as one, with its 95 % interval, batch 1, fp32. Both engines are timed
with one thread and with two, all four in turn; the two times of a ratio are of one round. Ours is to be
no less than LiteRT's; where it is less and the intervals overlap, nobody can say.
"""


def scaled(lines: list[Line]) -> Iterator[str]:
    """How many times as fast two threads are, one row for each network."""
    yield OF_A_SECOND_THREAD
    if not lines:
        yield "No second thread has been timed yet: `python benchmarks/networks.py --only scaling`"
        yield ""
        return
    rows = []
    for line in lines:
        found = gains(line)
        both = [found.get(name) for name in (OURS, LITERT)]
        rows.append(
            [
                f"`{line['network']}`",
                *("–" if gain is None else str(gain.times) for gain in both),
                scales(found),
                *("–" if gain is None else f"{gain.one:.2f} → {gain.two:.2f}" for gain in both),
                "yes" if quiet(line) else "**no**",
                line["compiler_source"][:6],
            ]
        )
    heading = ["network", "ours, × (95 %)", "LiteRT, × (95 %)", "so we scale", "ours, ms", "LiteRT, ms"]
    yield from markdown([*heading, "quiet", "compiler"], rows)


def built(lines: list[Line]) -> dict[str, dict[str, float]]:
    """Of each network, what is known of `LIBRARY`."""
    found: dict[str, dict[str, float]] = {}
    for line in lines:
        what, threads, pictures = kind(line)[0], line["threads"], line["batch"]
        if what == "engines" and (threads, pictures) == (1, 1) and OURS in engines(line):
            column, value = f"{precision(line)}, MB", engines(line)[OURS]["model_bytes"] / 1e6
        elif what == "compile":
            column, value = LIBRARY[2], line["compile_seconds"]
        else:
            continue
        found.setdefault(line["network"], {})[column] = value
    return found


def too_much(network: str, column: str, value: float) -> bool:
    return value > LIBRARY_TARGETS.get(network, {}).get(column, math.inf)


OF_LIBRARIES = """\
## Our library: its size, and the time to compile it

The library has the weights in it and needs nothing else; 1 MB is 10⁶ bytes. That of V2-1.0 is to take at most
15 MB, with its weights in bf16 at most 8 MB, and to be compiled in at most 20 s on two cores. *Compiled in*
is of fp32, from a checkpoint in memory to the library on the disk, with nothing kept from before; *quiet* is
of that alone.
"""


def libraries(lines: list[Line]) -> Iterator[str]:
    """Sizes and the time of compiling, one row for each network."""
    found = built(lines)
    calm = {line["network"]: quiet(line) for line in lines if kind(line)[0] == "compile"}
    rows = [
        [
            f"`{network}`",
            *(
                f"{known[column]:.1f}{', **lost**' * too_much(network, column, known[column])}"
                if column in known
                else "–"
                for column in LIBRARY
            ),
            {True: "yes", False: "**no**", None: "–"}[calm.get(network)],
        ]
        for network, known in found.items()
    ]
    yield OF_LIBRARIES
    if not calm:
        yield "No compile has been timed yet: `python benchmarks/networks.py --only compile`"
        yield ""
    yield from markdown(["network", *LIBRARY, "quiet"], rows)


def lost_scalings(lines: list[Line]) -> Iterator[str]:
    """Where a second thread brings us less than LiteRT."""
    known = {line["network"]: gains(line) for line in lines}
    rows = [
        [
            f"`{network}`",
            *(str(found[name].times) for name in (OURS, LITERT)),
            *(f"{found[name].beyond_half:.2f}" for name in (OURS, LITERT)),
        ]
        for network, found in known.items()
        if scales(found) == LESS
    ]
    if not rows:
        return
    yield "A second thread brings us less than LiteRT:"
    yield ""
    heading = ["network", "ours, × (95 %)", "LiteRT, × (95 %)", "ours beyond half, ms"]
    yield from markdown([*heading, "LiteRT beyond half, ms"], rows)
    yield BEYOND_HALF


BEYOND_HALF = """\
*Beyond half* is what a second thread does not take away: the time on two threads less half of that on one,
below 0 where two are more than twice as fast. As many milliseconds weigh more in a shorter time.
"""


def starts_late(line: Line) -> bool:
    return line["program_ms"] is not None and line["program_ms"]["value"] > PROGRAM_MS


def lost_costs(lines: list[Line]) -> Iterator[str]:
    """Starts, sizes and compiles beyond their bounds."""
    alone = [line for line in lines if kind(line)[0] == "engines" and how(line) == ("", 1, 1)]
    late = [line for line in alone if starts_late(line)]
    rows = [
        [
            f"`{line['network']}`",
            "first logits of the emitted C program, ms",
            str(Interval(**line["program_ms"])),
            f"≤ {PROGRAM_MS:g}",
        ]
        for line in late
    ]
    rows += [
        [f"`{network}`", f"library, {column}", f"{value:.1f}", f"≤ {LIBRARY_TARGETS[network][column]:g}"]
        for network, known in built(lines).items()
        for column, value in known.items()
        if too_much(network, column, value)
    ]
    if not rows:
        return
    yield "Starts, sizes and compiles beyond their bounds:"
    yield ""
    yield from markdown(["network", "what", "it is", "target"], rows)
    warm = {line["network"]: gains(line)[OURS] for line in lines if kind(line)[0] == "scaling"}
    for name in (line["network"] for line in late):
        if name in warm:
            one, two, _ = warm[name]
            yield f"Once it is warm, a run of `{name}` takes {one:.2f} ms with one thread and {two:.2f} with"
            yield "two, which the program has. The rest is its start, and what a first run waits for."
            yield ""


def losses(table: list[Line]) -> Iterator[str]:
    """Every row with a peer that is lost."""
    rows = []
    for line in filter(lost, table):
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
    if not any(against_the_fastest(line) for line in table):
        yield "There is no row with a peer to compare with."
        yield ""
        return
    if not rows:
        yield "Of the engines' times none: we are ahead in every row, and within its target where it has one."
        yield ""
        return
    heading = ["network", "precision", "threads", "batch", "peer", "ours ÷ it (95 %)", "target", "so we are"]
    yield from markdown(heading, rows)


def explained(table: list[Line], profiles: dict[str, Line]) -> Iterator[str]:
    """The profiles of the networks of lost rows."""
    for name in dict.fromkeys(line["network"] for line in table if lost(line)):
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
        beyond = f", **lost**: it is to be at most {PROGRAM_MS:g} ms" if starts_late(line) else ""
        yield f"The emitted C program has answered {took:.1f} ms after its start{beyond}."
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
    """Time and MACs, as multiples of the smallest, as an SVG, the same one for the same numbers."""
    with drawing(LIGHT, 3.2 * len(found), 3.2) as figure:
        import matplotlib  # which `drawing` has found to be installed, and whose settings it puts back

        matplotlib.rcParams["svg.hashsalt"] = PICTURE
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
network; with two threads 0.90 of it; with 32 pictures less than it; in bf16 0.80 of OpenVINO's. Others stand
where they are measured: what a second thread brings, the C program's start, the library's size and compile.
"""


def document(lines: list[Line]) -> str:
    table = [line for line in lines if kind(line)[0] == "engines"]
    profiles = {line["network"]: line for line in lines if kind(line)[0] == "profile"}
    timed = [line for line in lines if "versions" in line]
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
    scaling = [line for line in lines if kind(line)[0] == "scaling"]
    parts += scaled(scaling)
    if built(lines):
        parts += libraries(lines)
    parts += ["## Rows that are lost, and why", "", *losses(table)]
    parts += [*lost_scalings(scaling), *lost_costs(lines), *explained(table, profiles)]
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
