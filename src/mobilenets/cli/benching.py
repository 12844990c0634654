"""The verb `bench`: engines against each other, or the compiled network step by step."""

import tempfile
from pathlib import Path

from mobilenets import checkpoint as checkpoints
from mobilenets import zoo
from mobilenets.benchmark import comparison as comparisons
from mobilenets.benchmark.comparison import Comparison, Row
from mobilenets.benchmark.engines import ENGINES, OURS, SLOW
from mobilenets.benchmark.layers import Layers, time_layers
from mobilenets.benchmark.results import append_line, check_results
from mobilenets.benchmark.roofline import check_file, write_roofline
from mobilenets.checkpoint import Checkpoint
from mobilenets.cli.networks import find_spec, megabytes
from mobilenets.cli.terminal import TerminalProgress, say, show, show_table
from mobilenets.errors import InputError, UnknownName
from mobilenets.runtime.bundle import Bundle, is_bundle, read_bundle
from mobilenets.text import command_line, printable

ALL = "all"
"""Instead of names: every engine there is, the slow ones too."""


def bench(
    model: str,
    *,
    engines: str | None,
    threads: int,
    batch: int,
    rounds: int,
    seconds: float,
    precision: str,
    resolution: int | None,
    json: Path | None,
) -> None:
    """`mobilenets bench`."""
    chosen = _chosen(engines)
    comparisons.check(threads=threads, batch=batch, rounds=rounds, seconds=seconds, precision=precision)
    if json is not None:
        check_results(json)
    source = _source(model, resolution)
    from mobilenets.exporting.peers import prepare, reference

    progress = TerminalProgress()
    with tempfile.TemporaryDirectory() as folder:
        candidates, left_out = prepare(source, chosen, Path(folder), precision=precision, progress=progress)
        found = comparisons.compare(
            source.manifest.spec,
            candidates,
            left_out=left_out,
            threads=threads,
            batch=batch,
            rounds=rounds,
            seconds=seconds,
            precision=precision,
            reference=None if precision == "fp32" else reference(source, candidates, Path(folder)),
            progress=progress,
        )
    if json is not None:
        append_line(found.to_json(), json)
    _show(found)
    if json is not None:
        say(f"Added to {printable(str(json))}")
    if any(row.engine == OURS for row in found.rows) and isinstance(source, Checkpoint):
        say(f"Next     {_again(model, resolution, '--layers')}")


def _chosen(engines: str | None) -> list[str]:
    """The names in `engines`, `all`, or those that are timed without being asked for."""
    if engines is None:
        return [name for name in ENGINES if name not in SLOW]
    if engines == ALL:
        return list(ENGINES)
    chosen = list(dict.fromkeys(name.strip() for name in engines.split(",")))
    for name in chosen:
        if name not in ENGINES:
            raise UnknownName("engine", name, [*ENGINES, ALL])
    return chosen


def _again(model: str, resolution: int | None, *words: str) -> str:
    """The command for the same network with other words."""
    size = [] if resolution is None else ["--resolution", str(resolution)]
    return command_line(["bench", model, *size, *words])


def _source(model: str, resolution: int | None) -> Checkpoint | Bundle:
    """What the file `model` holds, or the network of that NAME with random weights."""
    path = Path(model)
    if model not in zoo.names() and (path.exists() or path.suffix == ".safetensors"):
        if resolution is not None:
            raise InputError("--resolution is for networks by name; a model has its own.", file=path)
        return read_bundle(path) if is_bundle(path) else checkpoints.load(path)
    spec = find_spec(model, resolution=resolution, classes=None)
    from mobilenets.exporting.peers import with_random_weights

    return with_random_weights(spec)


def _show(found: Comparison) -> None:
    spec, per_picture = found.spec, found.batch == 1
    machine = found.machine
    show(
        f"{printable(spec.name)} · {spec.resolution} px · batch {found.batch} · threads {found.threads} · "
        f"{found.precision} · {found.macs:,} MACs a run\n"
        f"{machine['processor']}, {machine['cores']} cores · "
        f"{machine.get('instructions', 'no C compiler')} · {machine.get('compiler', '')}\n"
        + " · ".join(f"{name} {version}" for name, version in found.versions.items())
        + "\n"
    )
    show_table(
        [
            ("engine", "left"),
            ("median" if per_picture else "pictures/s", "right"),
            ("p95", "right"),
            (f"× {found.base.engine} (95 %)", "right"),
            ("of FMA peak", "right"),
            ("cold start", "right"),
            ("memory", "right"),
            ("model", "right"),
            ("runtime", "right"),
        ],
        [_cells(row, found) for row in sorted(found.rows, key=lambda row: row.median_ms)],
    )
    show("")
    for row in found.rows:
        if not row.same:
            show(
                f"{row.engine} computes something else: its logits are {row.relative_difference:.1e} of "
                f"their spread away from {_MEASURE[found.precision]}."
            )
        if row.first_start_ms > 3 * row.cold_start_ms.value:
            show(
                f"{row.engine} took {row.first_start_ms / 1e3:,.1f} s to its very first logits; what it "
                "made then was there for the other starts."
            )
    show(found.verdict)
    if found.program_ms is not None:
        show(f"The emitted C program answers {found.program_ms.value:.1f} ms after its start.")
    if found.arena_bytes is not None:
        show(f"The compiled network's maps take {megabytes(found.arena_bytes)}.")
    show(str(found.noise))
    for each in found.left_out:
        say(f"left out: {each.engine}: {each.why}")


_MEASURE = {"fp32": "those of the first engine", "bf16": "the fp32 ones"}


def _cells(row: Row, found: Comparison) -> list[str]:
    share = found.share_of_peak(row)
    speed = 1e3 * found.batch / row.median_ms
    return [
        row.engine,
        f"{row.median_ms:.2f} ms" if found.batch == 1 else f"{speed:,.1f}",
        f"{row.p95_ms:.2f} ms",
        "1" if row is found.base else str(found.times(row, found.base)),
        "–" if share is None else f"{share:.0%}",
        f"{row.cold_start_ms.value:,.0f} ms",
        megabytes(row.peak_bytes) if row.peak_bytes else "–",
        megabytes(row.model_bytes),
        megabytes(row.runtime_bytes) if row.runtime_bytes else "none",
    ]


def layers(
    model: str,
    *,
    engines: str | None,
    threads: int,
    batch: int,
    precision: str,
    resolution: int | None,
    json: Path | None,
    roofline: Path | None,
) -> None:
    """`mobilenets bench --layers`."""
    if (threads, batch, engines, precision) != (1, 1, None, "fp32"):
        raise InputError(
            "--layers times the compiled network, one picture on one thread in fp32; it takes no "
            "--engines, --threads, --batch and --precision."
        )
    if json is not None:
        check_results(json)
    if roofline is not None:
        check_file(roofline)
    source = _source(model, resolution)
    if isinstance(source, Bundle):
        raise InputError(
            "--layers compiles the network anew, which a bundle does not allow.",
            file=source.folder,
            remedy="Name the checkpoint or the run folder that it was made from.",
        )
    found = time_layers(source, progress=TerminalProgress())
    if json is not None:
        append_line(found.to_json(), json)
    _show_layers(found)
    if json is not None:
        say(f"Added to {printable(str(json))}")
    if roofline is not None:
        write_roofline(found, roofline)
        say(f"Written: {printable(str(roofline))}")
    else:
        say(f"Next     {_again(model, resolution, '--roofline', 'roofline.svg')}")


def _show_layers(found: Layers) -> None:
    machine, peaks = found.machine, found.peaks
    show(
        f"{printable(found.spec.name)} · {found.spec.resolution} px · one thread · {machine['processor']} · "
        f"{machine['instructions']}\n"
        f"peaks: {peaks.gmacs:.0f}·10⁹ multiply-adds a second; {peaks.near_gbytes:.0f} GB/s from a near "
        f"cache, {peaks.far_gbytes:.0f} GB/s from memory\n"
    )
    show_table(
        [
            ("step", "left"),
            ("ms", "right"),
            ("share", "right"),
            ("MMACs", "right"),
            ("GMAC/s", "right"),
            ("of FMA peak", "right"),
            ("MB", "right"),
            ("GB/s", "right"),
            ("of memory's", "right"),
        ],
        [
            (
                step.title,
                f"{step.median_ms:.3f}",
                f"{step.median_ms / found.total_ms:.1%}",
                f"{step.macs / 1e6:.2f}",
                f"{step.gmacs:.1f}",
                f"{step.gmacs / peaks.gmacs:.0%}",
                f"{step.bytes_moved / 1e6:.2f}",
                f"{step.gbytes:.1f}",
                f"{step.gbytes / peaks.far_gbytes:.0%}",
            )
            for step in found.steps
        ],
    )
    macs = sum(step.macs for step in found.steps)
    show(
        f"\nin all: {found.total_ms:.2f} ms, {macs / found.total_ms / 1e6 / peaks.gmacs:.0%} of the peak. "
        "More than 100 % of memory's bytes came from caches."
    )
    show(str(found.noise))
