"""Depthwise separable against standard convolution: what each reads, multiplies, and saves."""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mobilenets import zoo
from mobilenets.cost import count
from mobilenets.explain.figure import Figure, Idea, Source, canvas, compute, drawn, sketch, svg
from mobilenets.report.style import LIGHT

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes


class Example(NamedTuple):
    """A convolution without padding, stride 1: side_in² × c_in to side_out² × filters."""

    side_in: int
    c_in: int
    kernel: int
    filters: int

    @property
    def side_out(self) -> int:
        """Side of the output."""
        return self.side_in - self.kernel + 1


class Multiplications(NamedTuple):
    """How many products each form takes."""

    standard: int
    depthwise: int
    pointwise: int

    @property
    def separable(self) -> int:
        """Depthwise, then pointwise."""
        return self.depthwise + self.pointwise

    @property
    def ratio(self) -> float:
        """Standard ÷ separable."""
        return self.standard / self.separable


EXAMPLES = (Example(7, 3, 3, 128), Example(12, 3, 5, 256))
"""The two examples that lectures and tutorials use."""


def by_formula(example: Example) -> Multiplications:
    """Equations 2 to 5 of the V1 paper: k²·M·N·D², k²·M·D² and M·N·D²."""
    pixels, taps = example.side_out**2, example.kernel**2
    return Multiplications(
        standard=taps * example.c_in * example.filters * pixels,
        depthwise=taps * example.c_in * pixels,
        pointwise=example.c_in * example.filters * pixels,
    )


def by_running(example: Example) -> Multiplications:
    """The same, measured: with ones for input and weights, every output value is the products it sums."""

    def products(maps: Tensor, filters: int, kernel: int, groups: int) -> tuple[int, Tensor]:
        c_in = maps.shape[1] // groups
        result = functional.conv2d(
            torch.ones_like(maps), maps.new_ones(filters, c_in, kernel, kernel), groups=groups
        )
        return int(result.sum()), result

    maps = torch.ones(1, example.c_in, example.side_in, example.side_in, dtype=torch.float64)
    standard, _ = products(maps, example.filters, example.kernel, 1)
    depthwise, between = products(maps, example.c_in, example.kernel, example.c_in)
    pointwise, _ = products(between, example.filters, 1, 1)
    return Multiplications(standard, depthwise, pointwise)


class Worked(NamedTuple):
    """An example with both counts."""

    example: Example
    formula: Multiplications
    measured: Multiplications


def worked_examples() -> list[Worked]:
    """Both examples, by formula and by running the convolutions."""
    return [Worked(example, by_formula(example), by_running(example)) for example in EXAMPLES]


class LayerPair(NamedTuple):
    """A layer of V1 in both forms; MACs."""

    path: str
    filters: int
    standard: int
    separable: int


class Networks(NamedTuple):
    """V1 with full convolutions and with separable ones, whole and layer by layer."""

    pairs: list[LayerPair]
    standard_macs: int
    separable_macs: int
    standard_params: int
    separable_params: int


def v1_in_both_forms() -> Networks:
    """What `cost.count` says of V1 and of the paper's baseline with full convolutions."""
    full, separable = count(zoo.v1(full=True)), count(zoo.v1())
    macs: dict[str, int] = {}
    for layer in separable.layers:
        block = layer.path.rpartition(".")[0]
        macs[block] = macs.get(block, 0) + layer.macs
    pairs = [
        LayerPair(layer.path, layer.output[0], layer.macs, macs[layer.path.rpartition(".")[0]])
        for layer in full.layers
        if layer.kind.startswith("conv") and layer.path != "blocks.0.conv"
    ]
    return Networks(pairs, full.macs, separable.macs, full.params, separable.params)


_READ = {"standard": (3, (0, 1, 2)), "depthwise": (3, (0,)), "pointwise": (1, (0, 1, 2))}
"""Side of the window that one output value reads, and in which of the three drawn channels."""
_PRODUCTS = {"standard": "k · k · M products", "depthwise": "k · k products", "pointwise": "M products"}


def draw_reading(form: str, alt: str) -> "Markup":
    """What one output value of a `standard`, `depthwise` or `pointwise` convolution reads."""
    kernel, channels = _READ[form]
    with sketch(3.2, 2.2) as (figure, axes):
        for channel in (2, 1, 0):
            x, y = 0.26 * channel, 0.2 * channel
            _sheet(axes, 0.12 + x, 0.4 + y, side=6, lit=kernel if channel in channels else 0, depth=channel)
            _sheet(axes, 1.94 + x, 0.55 + y, side=4, lit=int(channel == 0), depth=channel)
        arrow = {"arrowstyle": "->", "color": LIGHT.muted, "lw": 1.4}
        axes.annotate("", (1.9, 1.06), (1.62, 1.06), arrowprops=arrow)
        line: dict[str, Any] = {"va": "center", "fontsize": 9, "color": LIGHT.muted}
        axes.text(0.12, 2.06, form, fontsize=11, fontweight="bold", va="center")
        axes.text(3.14, 2.06, _PRODUCTS[form], fontsize=10, color=LIGHT.right, ha="right", va="center")
        axes.text(0.12, 0.16, "input: M channels", **line)
        axes.text(3.14, 0.16, f"output: {'M' if form == 'depthwise' else 'N'} channels", ha="right", **line)
        return svg(figure, alt)


def _sheet(axes: "Axes", x: float, y: float, *, side: int, lit: int, depth: int) -> None:
    """One channel as `side`² pixels, of which `lit`² are read or written; the deepest lies below."""
    from matplotlib.patches import Rectangle

    pixel, order = 0.155, 10 * (3 - depth)
    size = side * pixel
    paper: dict[str, Any] = {"facecolor": LIGHT.surface, "edgecolor": "none", "zorder": order}
    axes.add_patch(Rectangle((x, y), size, size, **paper))
    for step in range(1, side):
        at = step * pixel
        axes.plot([x + at, x + at], [y, y + size], color=LIGHT.line, linewidth=0.7, zorder=order + 1)
        axes.plot([x, x + size], [y + at, y + at], color=LIGHT.line, linewidth=0.7, zorder=order + 1)
    start = pixel if side > 4 else 0
    corner = (x + start, y + size - start - lit * pixel)
    axes.add_patch(Rectangle(corner, lit * pixel, lit * pixel, facecolor=LIGHT.right, zorder=order + 2))
    frame: dict[str, Any] = {"facecolor": "none", "edgecolor": LIGHT.muted, "linewidth": 1}
    axes.add_patch(Rectangle((x, y), size, size, zorder=order + 3, **frame))


def draw_saving(networks: Networks, alt: str) -> "Markup":
    """The factor saved against the number of filters for three kernels, and V1's own layers on it."""
    with canvas(5.0, 3.2) as figure:
        axes = figure.subplots()
        filters = [2**exponent for exponent in range(3, 12)]
        for kernel, style in ((3, "-"), (5, "--"), (7, ":")):
            factor = [1 / (1 / n + 1 / kernel**2) for n in filters]
            axes.plot(filters, factor, style, color=LIGHT.muted, linewidth=1.5)
            axes.text(
                filters[-1] * 1.08, factor[-1], f"k = {kernel}", color=LIGHT.muted, va="center", fontsize=9
            )
        axes.plot(
            [pair.filters for pair in networks.pairs],
            [pair.standard / pair.separable for pair in networks.pairs],
            "o",
            color=LIGHT.right,
            label="the 13 layers of V1, counted",
        )
        axes.set_xscale("log", base=2)
        axes.set_xlim(7, 3800)
        axes.set_ylim(0, 52)
        axes.set_xticks([8, 32, 128, 512, 2048], ["8", "32", "128", "512", "2048"])
        axes.minorticks_off()
        axes.set_xlabel("filters N")
        axes.set_ylabel("times fewer MACs")
        axes.legend(loc="upper left")
        return svg(figure, alt)


def make() -> Idea:
    """Section 1 of the page."""
    worked, networks = compute(worked_examples), compute(v1_in_both_forms)
    first, second = worked.value
    reading = Figure(
        images=tuple(
            draw_reading(form, f"A {form} convolution: one output value reads {what}.")
            for form, what in (
                ("standard", "a k by k window of all M input channels"),
                ("depthwise", "a k by k window of its own channel alone"),
                ("pointwise", "one pixel of all M input channels"),
            )
        ),
        caption=(
            "Blue on the left: what one output value (blue on the right) reads. A standard convolution looks "
            "at a window of all channels at once. The separable form splits that into looking around within "
            f"one channel and mixing channels at one pixel. In the first example below "
            f"{first.formula.standard:,} products become {first.formula.depthwise:,} + "
            f"{first.formula.pointwise:,} = {first.formula.separable:,}; in the second "
            f"{second.formula.standard:,} become {second.formula.separable:,}."
        ),
        source=Source("1704.04861", "Figure 2, equations 1 to 5"),
        code=worked.code,
        drawing=drawn(draw_reading),
        columns=3,
    )
    total = networks.value.standard_macs / networks.value.separable_macs
    saving = Figure(
        images=(
            draw_saving(
                networks.value,
                "Curves of the saving 1/(1/N + 1/k²) against the number of filters N for k = 3, 5 and 7; "
                "they level off at 9, 25 and 49. The layers of V1 lie on the lowest curve.",
            ),
        ),
        caption=(
            "The saving 1 / (1/N + 1/k²) approaches k² as the filters become many: with 3×3 kernels it can "
            "never pass 9. The points are V1's layers, counted in both forms; the whole network, stem and "
            f"classifier included, saves {total:.2f} times the MACs and "
            f"{networks.value.standard_params / networks.value.separable_params:.2f} times the parameters."
        ),
        source=Source("1704.04861", "section 3.1, Table 4"),
        code=networks.code,
        drawing=drawn(draw_saving),
        columns=0,
    )
    values = {"worked": worked.value, "networks": networks.value}
    return Idea(
        "separable",
        "Depthwise separable convolution",
        "Separable",
        {"reading": reading, "saving": saving},
        values,
    )
