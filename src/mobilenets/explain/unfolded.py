"""An inverted residual op by op: the tensors of a real block, and its cost beside a classical bottleneck."""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilenets.cost import count
from mobilenets.explain.figure import Computed, Figure, Idea, Source, compute, drawn, picture_of, sketch, svg
from mobilenets.explain.subject import Sample, Subject, seen, tensor
from mobilenets.network import MobileNet
from mobilenets.report.style import LIGHT
from mobilenets.spec import MIN_RESOLUTION, Block, Conv, Spec

if TYPE_CHECKING:
    from markupsafe import Markup

COLUMNS = 12
CHANNELS_SHOWN = 48
_LARGEST, _SMALLEST = 56, 28
"""Pixels of a shown map: larger ones are averaged down, smaller ones enlarged."""


class Step(NamedTuple):
    """What stands after one op of the block."""

    name: str
    kind: str
    map: NDArray[np.float32]
    """C×S×S."""
    params: int
    macs: int

    @property
    def zeros(self) -> float:
        """Share of the values that are exactly 0."""
        return float((self.map == 0).mean())

    @property
    def negative(self) -> float:
        """Share of the values below 0."""
        return float((self.map < 0).mean())

    @property
    def shape(self) -> str:
        """Channels × side × side."""
        return "×".join(map(str, self.map.shape))


def inverted_residual(spec: Spec) -> int | None:
    """The first block that expands by 1×1, filters depthwise and projects, at best with a shortcut."""

    def fits(block: Block) -> bool:
        convs = [op for op in block.ops if isinstance(op, Conv)]
        expands = any(op.pointwise and op.name == "expand" for op in convs)
        return expands and any(op.depthwise for op in convs) and convs[-1].pointwise

    fitting = [index for index, block in enumerate(spec.blocks) if fits(block)]
    return next((index for index in fitting if spec.blocks[index].residual), next(iter(fitting), None))


_THEN = {
    "none": ", no activation",
    "relu": ", ReLU",
    "relu6": ", ReLU6",
    "hard_swish": ", h-swish",
    "gelu": ", GELU",
}


@torch.inference_mode()
def unfold(network: MobileNet, picture: Tensor, index: int) -> list[Step]:
    """Run the picture, 1×C×S×S, up to block `index` and through it op by op; the input comes first.

    Where the block has a shortcut, the last step is the sum.
    """
    rows = {row.path: row for row in count(network.spec).layers}
    x = picture
    for block in network.blocks[:index]:
        x = block(x)
    shortcut, by_name = x, {op.name: op for op in network.spec.blocks[index].ops}
    steps = [Step("input", "what the block before gives", x[0].numpy().copy(), 0, 0)]
    for name, op in network.blocks[index].named_children():
        x = op(x)
        row, then = rows[f"blocks.{index}.{name}"], _THEN.get(getattr(by_name[name], "activation", ""), "")
        steps.append(Step(name, row.kind + then, x[0].numpy().copy(), row.params, row.macs))
    if network.spec.blocks[index].residual:
        x = x + shortcut
        steps.append(Step("sum", "plus the shortcut", x[0].numpy().copy(), 0, 0))
    return steps


class Design(NamedTuple):
    """A block as its ops' channels, and its cost."""

    name: str
    channels: tuple[int, ...]
    """Before the first op and after each."""
    ops: tuple[str, ...]
    params: int
    macs: int
    shortcut_values: int
    """What has to be kept for the shortcut while the block runs."""


def designs(narrow: int, wide: int, side: int) -> list[Design]:
    """Blocks with `narrow` and `wide` channels at `side`² pixels: inverted, classical, and neither.

    The classical bottleneck is that of residual networks: the shortcut joins the wide ends, and the
    full 3×3 works on the narrow middle. The third is an inverted residual with a full 3×3.
    """
    depthwise = Conv("middle", 3, wide, activation="relu6", depthwise=True)
    return [
        _design(
            "inverted residual", narrow, side, (Conv("first", 1, wide), depthwise, Conv("last", 1, narrow))
        ),
        _design(
            "classical bottleneck",
            wide,
            side,
            (Conv("first", 1, narrow), Conv("middle", 3, narrow), Conv("last", 1, wide)),
        ),
        _design(
            "inverted, full 3×3",
            narrow,
            side,
            (Conv("first", 1, wide), Conv("middle", 3, wide), Conv("last", 1, narrow)),
        ),
    ]


def _design(name: str, c_in: int, side: int, ops: tuple[Conv, ...]) -> Design:
    """Cost of one block alone, behind stems that bring its input to `side`² pixels and are not counted."""
    halvings = max(0, math.ceil(math.log2(MIN_RESOLUTION / side)))
    stems = [Block((Conv("stem", 1, c_in, stride=2),), stage=0)] * halvings
    blocks = (*stems, Block((Conv("input", 1, c_in),), stage=0), Block(ops, stage=1, residual=True))
    spec = Spec(name, "V2 paper, Figure 3", blocks, resolution=side * 2**halvings)
    rows = [row for row in count(spec).layers if row.path.startswith(f"blocks.{len(blocks) - 1}.")]
    return Design(
        name,
        (c_in, *(op.out for op in ops)),
        tuple(row.kind for row in rows),
        sum(row.params for row in rows),
        sum(row.macs for row in rows),
        c_in * side * side,
    )


def grid(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """C×S×S as one picture of at most `CHANNELS_SHOWN` maps, evenly chosen, in [−1, 1]; gaps are NaN.

    One factor for all maps: the 99.5th percentile of the magnitude becomes 1.
    """
    chosen = maps[np.linspace(0, len(maps) - 1, min(len(maps), CHANNELS_SHOWN)).round().astype(int)]
    scaled = np.stack([_resized(one.astype(np.float64)) for one in chosen])
    scale = float(np.percentile(np.abs(maps), 99.5)) or 1.0
    side = scaled.shape[1]
    rows = math.ceil(len(scaled) / COLUMNS)
    columns = min(COLUMNS, len(scaled))
    canvas_ = np.full((rows * (side + 2) - 2, columns * (side + 2) - 2), np.nan)
    for at, one in enumerate(scaled):
        top, left = (at // COLUMNS) * (side + 2), (at % COLUMNS) * (side + 2)
        canvas_[top : top + side, left : left + side] = one / scale
    return canvas_


def _resized(one: NDArray[np.float64]) -> NDArray[np.float64]:
    side = one.shape[0]
    if side > _LARGEST:
        step = math.ceil(side / _LARGEST)
        cut = one[: side // step * step, : side // step * step]
        averaged: NDArray[np.float64] = cut.reshape(side // step, step, side // step, step).mean(axis=(1, 3))
        return averaged
    times = max(1, math.ceil(_SMALLEST / side))
    return one.repeat(times, axis=0).repeat(times, axis=1)


def draw_design(design: Design, widest: int, alt: str) -> "Markup":
    """Bars as wide as the tensors have channels, and the shortcut beside them."""
    with sketch(3.2, 2.7) as (figure, axes):
        middle, per_channel = 1.45, 1.25 / widest
        label: dict[str, Any] = {"ha": "center", "va": "center"}
        axes.text(middle, 2.56, design.name, fontsize=11, fontweight="bold", **label)
        levels = [2.22 - 0.56 * step for step in range(len(design.channels))]
        for level, channels in zip(levels, design.channels, strict=True):
            half = per_channel * channels
            axes.barh(level, 2 * half, 0.2, left=middle - half, color=LIGHT.right)
            axes.text(middle, level, str(channels), fontsize=8.5, color=LIGHT.surface, **label)
        for level, op in zip(levels, design.ops, strict=False):
            axes.text(middle, level - 0.28, op, fontsize=9, color=LIGHT.muted, **label)
        edge, side = middle + per_channel * design.channels[0] + 0.05, 2.98
        around = ([edge, side, side, edge], [levels[0], levels[0], levels[-1], levels[-1]])
        axes.plot(*around, color=LIGHT.wrong, linewidth=1.6)
        axes.text(middle, 0.14, f"{design.macs / 1e6:.1f} M MACs", fontsize=10, **label)
        return svg(figure, alt)


def make(subject: Subject, sample: Sample, note: str) -> Idea:
    """Section 4 of the page; `note` says where a model that was asked for could not be used."""
    index = inverted_residual(subject.spec)
    if index is None:
        raise ValueError(f"{subject.spec.name} has no inverted residual.")
    picture = tensor(seen(sample, subject)[None], subject.preprocessing)
    steps = compute(unfold, subject.network, picture, index)
    narrow, side = steps.value[0].map.shape[0], steps.value[0].map.shape[1]
    wide = max(step.map.shape[0] for step in steps.value)
    shown = compute(designs, narrow, wide, side)
    values = {
        "subject": subject,
        "note": note,
        "index": index,
        "steps": steps.value,
        "designs": shown.value,
        "residual": subject.spec.blocks[index].residual,
        "shown": CHANNELS_SHOWN,
        "expansion": wide / narrow,
    }
    figures = {"maps": _maps(steps, index), "designs": _designs(shown, narrow, wide, side)}
    return Idea("block", "An inverted residual unfolded", "Inverted residual", figures, values)


def _maps(steps: Computed[list[Step]], index: int) -> Figure:
    images = tuple(
        picture_of(
            grid(step.map),
            f"Maps after {step.name}, {step.shape}: {step.zeros:.0%} of the values are zero, "
            f"{step.negative:.0%} negative.",
        )
        for step in steps.value
    )
    return Figure(
        images=images,
        caption=(
            f"The tensors of block {index}, from top to bottom; of wide ones every so many channels. Blue "
            "is above zero, orange below, empty is zero; each op has its own scale. ReLU and ReLU6 leave "
            "nothing orange and about half empty. After the projection, which has no activation, orange is "
            "back: that is what linear means."
        ),
        source=Source("1801.04381", "section 3.3, Table 1, Figure 3"),
        code=steps.code,
        drawing=drawn(grid),
    )


def _designs(shown: Computed[list[Design]], narrow: int, wide: int, side: int) -> Figure:
    inverted, classical, full = shown.value
    widest = max(max(design.channels) for design in shown.value)
    return Figure(
        images=tuple(draw_design(design, widest, _said(design)) for design in shown.value),
        caption=(
            f"The same two widths, {narrow} and {wide}, at {side}×{side} pixels; the orange line is the "
            f"shortcut. The classical block keeps {classical.shortcut_values:,} values for it, the inverted "
            f"one {inverted.shortcut_values:,}. Only the depthwise convolution makes the wide middle "
            f"affordable: with a full 3×3 there it would take {full.macs / inverted.macs:.1f} times the "
            "MACs."
        ),
        source=Source("1801.04381", "section 3.3, Figure 3"),
        code=shown.code,
        drawing=drawn(draw_design),
        columns=3,
    )


def _said(design: Design) -> str:
    channels = ", ".join(map(str, design.channels))
    return (
        f"{design.name}: tensors of {channels} channels, {design.macs:,} MACs, {design.params:,} parameters."
    )
