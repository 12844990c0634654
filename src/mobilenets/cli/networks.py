"""`models`, `summary`, `compare`: networks as tables, from their `Spec` alone. No torch."""

import dataclasses
from pathlib import Path
from typing import Any

from mobilenets import checkpoint as checkpoints
from mobilenets import zoo
from mobilenets.cli.terminal import show, show_json, show_table
from mobilenets.compiler import plan_of
from mobilenets.compiler.packing import weights_bytes
from mobilenets.compiler.targets import find_target
from mobilenets.cost import Cost, LayerCost, count
from mobilenets.errors import UnknownName
from mobilenets.runtime.bundle import is_bundle, read_bundle
from mobilenets.spec import Spec
from mobilenets.text import printable


def find_spec(model: str, *, resolution: int | None, classes: int | None) -> Spec:
    """The `Spec` of a NAME, or of a run folder, checkpoint or bundle at that path."""
    path = Path(model)
    if model not in zoo.names() and (path.exists() or path.suffix == ".safetensors"):
        manifest = read_bundle(path).manifest if is_bundle(path) else checkpoints.load(path).manifest
        spec = manifest.spec
    else:
        try:
            spec = zoo.build(model)
        except UnknownName as error:
            error.remedy = f"{error.remedy}\nOr give the path of a run folder, a checkpoint or a bundle."
            raise
    return dataclasses.replace(
        spec,
        resolution=spec.resolution if resolution is None else resolution,
        classes=spec.classes if classes is None else classes,
    )


def models(as_json: bool) -> None:
    """Every published network with its cost and the accuracy that its authors state."""
    rows = [_model_row(name) for name in zoo.names()]
    if as_json:
        show_json(rows)
        return
    show_table(
        [
            ("name", "left"),
            ("size", "right"),
            ("parameters", "right"),
            ("MACs", "right"),
            ("activations", "right"),
            ("top-1", "right"),
            ("source of the accuracy", "left"),
        ],
        [
            (
                r["name"],
                f"{r['resolution']} px",
                f"{r['params'] / 1e6:.2f} M",
                f"{r['macs'] / 1e6:,.0f} M",
                megabytes(r["activation_bytes"]),
                "–" if r["top1_percent"] is None else f"{r['top1_percent']:.1f} %",
                r["top1_source"],
            )
            for r in rows
        ],
    )
    show("\nOther widths by number: mobilenet_v2_060. One in detail: mobilenets summary mobilenet_v2_100")


def _model_row(name: str) -> dict[str, Any]:
    spec = zoo.build(name)
    cost = count(spec)
    published = zoo.published(name)
    return {
        "name": name,
        "resolution": spec.resolution,
        "params": cost.params,
        "macs": cost.macs,
        "activation_bytes": cost.activation_bytes,
        "top1_percent": published.top1 if published else None,
        "top1_source": published.source if published else None,
        "source": spec.source,
    }


def summary(
    model: str, resolution: int | None, classes: int | None, target: str | None, as_json: bool
) -> None:
    """The layer table of one network, and with a `target` the memory that it takes when compiled."""
    if target is not None:
        find_target(target)
    spec = find_spec(model, resolution=resolution, classes=classes)
    cost = count(spec)
    memory = {} if target is None else _memory(spec, target)
    if as_json:
        show_json(
            {**_totals(spec, cost), **memory, "layers": [_layer_row(layer, cost) for layer in cost.layers]}
        )
        return
    show_table(
        [
            ("layer", "left"),
            ("kind", "left"),
            ("output", "right"),
            ("parameters", "right"),
            ("MACs", "right"),
            ("share", "right"),
            ("moved", "right"),
        ],
        [
            (
                layer.path,
                layer.kind,
                "×".join(map(str, layer.output)),
                f"{layer.params:,}",
                f"{layer.macs:,}",
                f"{layer.macs / cost.macs:.1%}",
                megabytes(layer.bytes_moved),
            )
            for layer in cost.layers
        ],
        title=f"{printable(spec.name)} · {spec.channels}×{spec.resolution}×{spec.resolution} · "
        f"{spec.classes:,} classes · {spec.source}",
    )
    show(
        f"\nparameters      {cost.params:,} (and {cost.statistics:,} running statistics)\n"
        f"MACs            {cost.macs:,} (FLOPs are twice that)\n"
        f"fp32 file       {megabytes((cost.params + cost.statistics) * 4)}\n"
        f"activations     {megabytes(cost.activation_bytes)} at most at once, unfused fp32\n"
        f"memory traffic  {megabytes(cost.bytes_moved)} per picture, "
        f"{cost.macs / cost.bytes_moved:.1f} MACs per byte"
    )
    if target is not None:
        _show_memory(memory, cost)


def _show_memory(memory: dict[str, Any], cost: Cost) -> None:
    together = memory["arena_bytes"] + memory["ring_bytes"]
    show(
        f"\ncompiled        for {memory['target']}, exactly\n"
        f"maps            {memory['arena_bytes']:,} bytes\n"
        f"rows            {memory['ring_bytes']:,} bytes for "
        f"{'each thread' if memory['threads'] else 'its one thread'}\n"
        f"together        {together:,} bytes with one thread, "
        f"{together / cost.activation_bytes:.0%} of the activations unfused\n"
        f"weights         {memory['weights_bytes']:,} bytes, which are only read"
    )


def _memory(spec: Spec, target: str) -> dict[str, Any]:
    """What the compiled network takes, beside its code and 8 KiB of its own."""
    plan = plan_of(spec)
    return {
        "target": target,
        "threads": find_target(target).threads,
        "arena_bytes": plan.arena_bytes,
        "ring_bytes": plan.ring_bytes,
        "weights_bytes": weights_bytes(plan),
    }


def _totals(spec: Spec, cost: Cost) -> dict[str, Any]:
    return {
        "name": spec.name,
        "source": spec.source,
        "resolution": spec.resolution,
        "channels": spec.channels,
        "classes": spec.classes,
        "params": cost.params,
        "statistics": cost.statistics,
        "macs": cost.macs,
        "bytes_moved": cost.bytes_moved,
        "activation_bytes": cost.activation_bytes,
    }


def _layer_row(layer: LayerCost, cost: Cost) -> dict[str, Any]:
    return {
        "path": layer.path,
        "kind": layer.kind,
        "output": list(layer.output),
        "params": layer.params,
        "macs": layer.macs,
        "share": layer.macs / cost.macs,
        "bytes_moved": layer.bytes_moved,
        "live_bytes": layer.live_bytes,
    }


_COMPARED = (
    ("params", "parameters"),
    ("macs", "MACs"),
    ("bytes_moved", "memory traffic"),
    ("activation_bytes", "activations"),
)


def compare(names: list[str], resolution: int | None, classes: int | None, as_json: bool) -> None:
    """Networks side by side, and how many times the least cost each one has."""
    specs = [find_spec(name, resolution=resolution, classes=classes) for name in names]
    rows = [_totals(spec, count(spec)) for spec in specs]
    for row, spec in zip(rows, specs, strict=True):
        row["ratios_to_least"] = {key: row[key] / min(r[key] for r in rows) for key, _ in _COMPARED}
        row["macs_by_kind"] = _macs_by_kind(spec)
    if as_json:
        show_json(rows)
        return
    lines: list[list[str]] = [
        ["input", *(f"{r['channels']}×{r['resolution']}×{r['resolution']}" for r in rows)]
    ]
    for key, heading in _COMPARED:
        lines.append([heading, *(megabytes(r[key]) if "bytes" in key else f"{r[key]:,}" for r in rows)])
        lines.append(["  × the least", *(f"{r['ratios_to_least'][key]:.2f}" for r in rows)])
    for kind in sorted({kind for r in rows for kind in r["macs_by_kind"]}):
        lines.append(
            [f"MACs in {kind}", *(f"{r['macs_by_kind'].get(kind, 0) / r['macs']:.1%}" for r in rows)]
        )
    show_table([("", "left"), *((r["name"], "right") for r in rows)], lines)


def _macs_by_kind(spec: Spec) -> dict[str, int]:
    totals: dict[str, int] = {}
    for layer in count(spec).layers:
        if layer.macs:
            kind = layer.kind.removesuffix(" /2")
            totals[kind] = totals.get(kind, 0) + layer.macs
    return totals


def megabytes(size_bytes: int) -> str:
    """Bytes in units of 10⁶, as disks and app stores count."""
    return f"{size_bytes / 1e6:.2f} MB"
