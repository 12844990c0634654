"""The family: every published table, row by row, and each family's rule for width.

Tables keep their paper's column order under its citation. One function per family turns a table
into a `Spec`. The defaults (padding, norm epsilon and momentum) are timm's; weights that are
imported bring their own. Where implementations disagree away from width 1.0, `rule` says whose
rounding is wanted (docs/family.md has the table of differences):

* `paper`: the authors' TF-slim code, with the last layers kept at full width as in the released
  checkpoints; * `timm`; * `keras`; * `torchvision`.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, get_args

from mobilenets.errors import SpecError, UnknownName
from mobilenets.spec import Activation, Block, Conv, Op, Spec, SqueezeExcite

Rule = Literal["timm", "paper", "keras", "torchvision"]
MAX_WIDTH = 10.0


def make_divisible(channels: float, divisor: int = 8) -> int:
    """`channels` to the nearest multiple of `divisor`, but never below 90 % of it, nor `divisor`.

    Source: TF-slim `nets/mobilenet/mobilenet.py`; the same in torchvision, Keras and timm.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def _check_width(width: float, rule: str) -> None:
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width <= MAX_WIDTH:
        raise SpecError(f"width multiplier is {width!r}; it must be above 0 and at most {MAX_WIDTH:g}.")
    if rule not in get_args(Rule):
        raise UnknownName("rule", str(rule), get_args(Rule))


def _suffix(width: float) -> str:
    """The width as names write it: 1.0 → `100`, 0.35 → `035`; other digits are kept."""
    hundredths = round(width * 100, 6)
    return f"{int(hundredths):03d}" if hundredths.is_integer() else f"{hundredths:g}".replace(".", "p")


# --- V1 -------------------------------------------------------------------------------------

# arXiv 1704.04861, Table 1, the depthwise separable rows: (output channels, stride).
# The paper prints stride 2 for the last depthwise convolution, whose input and output are both
# 7×7; it is 1 in all code.
V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *(((512, 1),) * 5), (1024, 2), (1024, 1))
V1_SHALLOW = tuple(row for row in V1 if row != (512, 1))
"""Table 5's *Shallow MobileNet*: without the five 14×14×512 layers."""


def v1(
    width: float = 1.0,
    *,
    shallow: bool = False,
    full: bool = False,
    rule: Rule = "timm",
    classes: int = 1000,
    resolution: int = 224,
    channels: int = 3,
) -> Spec:
    """MobileNetV1: depthwise separable convolutions (arXiv 1704.04861, Table 1).

    `shallow` leaves out five layers (Table 5); `full` is the baseline with full 3×3 convolutions
    (Table 4). Any `width` (α) in (0, 10]; channels are max(⌊α·c⌋, 8) in TF-slim (`paper`), ⌊α·c⌋ in
    Keras, a multiple of 8 in timm. torchvision publishes no V1; its `rule` rounds as timm does.
    Deviates from the paper as all published code does: ReLU6 instead of ReLU.
    """
    _check_width(width, rule)

    def scaled(base: int) -> int:
        match rule:
            case "paper":
                return max(int(base * width), 8)
            case "keras":
                return max(int(base * width), 1)
            case _:
                return make_divisible(base * width)

    blocks = [Block((Conv("conv", 3, scaled(32), 2, "relu6"),), stage=0)]
    c_in, stage = scaled(32), 0
    for base, stride in V1_SHALLOW if shallow else V1:
        stage += stage == 0 or stride == 2
        out = scaled(base)
        ops: tuple[Op, ...] = (
            (Conv("conv", 3, out, stride, "relu6"),)
            if full
            else (
                Conv("depthwise", 3, c_in, stride, "relu6", depthwise=True),
                Conv("pointwise", 1, out, 1, "relu6"),
            )
        )
        blocks.append(Block(ops, stage))
        c_in = out
    variant = ("full_" if full else "") + ("shallow_" if shallow else "")
    return Spec(
        name=f"mobilenet_v1_{variant}{_suffix(width)}",
        source="arXiv 1704.04861, Table 1",
        blocks=tuple(blocks),
        classes=classes,
        resolution=resolution,
        channels=channels,
    )


# --- V2 -------------------------------------------------------------------------------------

# arXiv 1801.04381, Table 2, the bottleneck rows: (t, c, n, s) = expansion, channels, repeats, stride.
V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def v2(
    width: float = 1.0,
    *,
    rule: Rule = "timm",
    classes: int = 1000,
    resolution: int = 224,
    channels: int = 3,
) -> Spec:
    """MobileNetV2: inverted residuals with linear bottlenecks (arXiv 1801.04381, Table 2).

    Published at α 0.35, 0.5, 0.75, 1.0, 1.3, 1.4; any `width` in (0, 10] follows the same rule:
    multiples of 8, the last 1×1 convolution 1280 up to α = 1 and scaled above. All implementations
    agree, so `rule` changes nothing here.
    """
    _check_width(width, rule)
    c_in = make_divisible(32 * width)
    blocks = [Block((Conv("conv", 3, c_in, 2, "relu6"),), stage=0)]
    for stage, (t, c, n, s) in enumerate(V2, start=1):
        out = make_divisible(c * width)
        for repeat in range(n):
            stride = s if repeat == 0 else 1
            blocks.append(
                inverted_residual(stage, 3, c_in * t, c_in, out, stride, activation="relu6", expand=t != 1)
            )
            c_in = out
    last = make_divisible(1280 * max(1.0, width))
    blocks.append(Block((Conv("conv", 1, last, 1, "relu6"),), stage=len(V2) + 1))
    return Spec(
        name=f"mobilenet_v2_{_suffix(width)}",
        source="arXiv 1801.04381, Table 2",
        blocks=tuple(blocks),
        classes=classes,
        resolution=resolution,
        channels=channels,
    )


def inverted_residual(
    stage: int,
    kernel: int,
    hidden: int,
    c_in: int,
    out: int,
    stride: int,
    *,
    activation: Activation,
    squeeze: int | None = None,
    expand: bool = True,
) -> Block:
    """V2's and V3's block: 1×1 expand → depthwise → (squeeze-and-excite) → linear 1×1 project.

    The shortcut is there where stride is 1 and the channels stay (V2 paper, Figure 4).
    """
    ops: list[Op] = [Conv("expand", 1, hidden, 1, activation)] if expand else []
    ops.append(Conv("depthwise", kernel, hidden, stride, activation, depthwise=True))
    if squeeze is not None:
        ops.append(SqueezeExcite(squeeze))
    ops.append(Conv("project", 1, out))
    return Block(tuple(ops), stage, residual=stride == 1 and c_in == out)


# --- V3 -------------------------------------------------------------------------------------


class V3Row(NamedTuple):
    """A row of Table 1 or 2 of the V3 paper; `stage` counts the groups between strides."""

    stage: int
    kernel: int
    exp_size: int
    out: int
    se: bool
    activation: Activation
    stride: int


_RE: Activation = "relu"
_HS: Activation = "hard_swish"

# arXiv 1905.02244, Table 1: kernel, exp size, #out, SE, NL, s.
V3_LARGE = (
    V3Row(1, 3, 16, 16, False, _RE, 1),
    V3Row(2, 3, 64, 24, False, _RE, 2),
    V3Row(2, 3, 72, 24, False, _RE, 1),
    V3Row(3, 5, 72, 40, True, _RE, 2),
    V3Row(3, 5, 120, 40, True, _RE, 1),
    V3Row(3, 5, 120, 40, True, _RE, 1),
    V3Row(4, 3, 240, 80, False, _HS, 2),
    V3Row(4, 3, 200, 80, False, _HS, 1),
    V3Row(4, 3, 184, 80, False, _HS, 1),
    V3Row(4, 3, 184, 80, False, _HS, 1),
    V3Row(5, 3, 480, 112, True, _HS, 1),
    V3Row(5, 3, 672, 112, True, _HS, 1),
    V3Row(6, 5, 672, 160, True, _HS, 2),
    V3Row(6, 5, 960, 160, True, _HS, 1),
    V3Row(6, 5, 960, 160, True, _HS, 1),
)
# arXiv 1905.02244, Table 2. The printed SE mark of the last 1×1 convolution is a slip: no code has it.
V3_SMALL = (
    V3Row(1, 3, 16, 16, True, _RE, 2),
    V3Row(2, 3, 72, 24, False, _RE, 2),
    V3Row(2, 3, 88, 24, False, _RE, 1),
    V3Row(3, 5, 96, 40, True, _HS, 2),
    V3Row(3, 5, 240, 40, True, _HS, 1),
    V3Row(3, 5, 240, 40, True, _HS, 1),
    V3Row(4, 5, 120, 48, True, _HS, 1),
    V3Row(4, 5, 144, 48, True, _HS, 1),
    V3Row(5, 5, 288, 96, True, _HS, 2),
    V3Row(5, 5, 576, 96, True, _HS, 1),
    V3Row(5, 5, 576, 96, True, _HS, 1),
)


def v3_large(
    width: float = 1.0,
    *,
    minimalistic: bool = False,
    head: int = 1280,
    rule: Rule = "timm",
    classes: int = 1000,
    resolution: int = 224,
    channels: int = 3,
) -> Spec:
    """MobileNetV3-Large (arXiv 1905.02244, Table 1). See `v3_small` for the arguments."""
    return _v3("large", V3_LARGE, width, minimalistic, head, rule, classes, resolution, channels)


def v3_small(
    width: float = 1.0,
    *,
    minimalistic: bool = False,
    head: int = 1024,
    rule: Rule = "timm",
    classes: int = 1000,
    resolution: int = 224,
    channels: int = 3,
) -> Spec:
    """MobileNetV3-Small (arXiv 1905.02244, Table 2; earlier versions of it print `head=1280`).

    `minimalistic` has no squeeze-and-excite, no hard-swish and no 5×5 kernels, and takes the
    padding and epsilon of timm's `tf_*_minimal` networks. Published at α 0.75 and 1.0 (timm 0.5);
    any `width` in (0, 10]. The rules differ away from 1.0: torchvision scales the printed expansion
    sizes and the head; the others scale the expansion *ratio* times the rounded input, and keep the
    head (Keras lets it grow above 1). The stem is 16 at every width in Keras, below 0.75 in timm.
    """
    return _v3("small", V3_SMALL, width, minimalistic, head, rule, classes, resolution, channels)


def _v3(
    size: str,
    table: tuple[V3Row, ...],
    width: float,
    minimalistic: bool,
    head: int,
    rule: Rule,
    classes: int,
    resolution: int,
    channels: int,
) -> Spec:
    _check_width(width, rule)
    stem_is_fixed = rule == "keras" or (rule == "timm" and width < 0.75)
    stem = 16 if stem_is_fixed else make_divisible(16 * width)
    stem_act: Activation = "relu" if minimalistic else "hard_swish"
    blocks = [Block((Conv("conv", 3, stem, 2, stem_act),), stage=0)]
    c_in, base_in = stem, 16
    for row in table:
        out = make_divisible(row.out * width)
        if rule == "torchvision":
            hidden = make_divisible(row.exp_size * width)
        else:
            hidden = make_divisible(c_in * _v3_ratio(row.exp_size, base_in))
        blocks.append(
            inverted_residual(
                row.stage,
                3 if minimalistic else row.kernel,
                hidden,
                c_in,
                out,
                row.stride,
                activation="relu" if minimalistic else row.activation,
                squeeze=make_divisible(hidden / 4) if row.se and not minimalistic else None,
                expand=row.exp_size != base_in,
            )
        )
        c_in, base_in = out, row.out
    last = make_divisible(6 * table[-1].out * width) if rule != "torchvision" else 6 * c_in
    blocks.append(Block((Conv("conv", 1, last, 1, stem_act),), stage=table[-1].stage + 1))
    head_scale = width if rule == "torchvision" or (rule == "keras" and width > 1) else 1.0
    return Spec(
        name=f"mobilenet_v3_{size}_{'minimalistic_' if minimalistic else ''}{_suffix(width)}",
        source=f"arXiv 1905.02244, Table {1 if size == 'large' else 2}",
        blocks=tuple(blocks),
        head=(Conv("conv", 1, make_divisible(head * head_scale), 1, stem_act, norm=False),),
        classes=classes,
        resolution=resolution,
        channels=channels,
        padding="same" if minimalistic else "symmetric",
        norm_epsilon=1e-3 if minimalistic else 1e-5,
    )


def _v3_ratio(exp_size: int, base_in: int) -> float:
    """The expansion ratio as the code writes it: the tables' 184 / 80 is 2.3, 88 / 24 is 3.67."""
    return round(exp_size / base_in, 2)


# --- V4 -------------------------------------------------------------------------------------


class ConvRow(NamedTuple):
    """A plain convolution with batch norm and ReLU."""

    stage: int
    kernel: int
    stride: int
    out: int


class FusedRow(NamedTuple):
    """A fused inverted residual: a full k×k convolution expands, a 1×1 projects."""

    stage: int
    kernel: int
    stride: int
    out: int
    expansion: float


class UibRow(NamedTuple):
    """A universal inverted bottleneck (arXiv 2404.10518, Figure 4): two optional depthwise convolutions.

    Kernel 0 leaves one out: both there is *ExtraDW*, the start alone *ConvNext*, the middle alone
    the inverted bottleneck of V2, none an *FFN*.
    """

    stage: int
    start: int
    middle: int
    stride: int
    out: int
    expansion: float


V4Row = ConvRow | FusedRow | UibRow

# arXiv 2404.10518, Tables 11–13, after the stem, in the order of the TF Model Garden's lists.
V4_CONV_SMALL: tuple[V4Row, ...] = (
    ConvRow(1, 3, 2, 32),
    ConvRow(1, 1, 1, 32),
    ConvRow(2, 3, 2, 96),
    ConvRow(2, 1, 1, 64),
    UibRow(3, 5, 5, 2, 96, 3.0),
    UibRow(3, 0, 3, 1, 96, 2.0),
    UibRow(3, 0, 3, 1, 96, 2.0),
    UibRow(3, 0, 3, 1, 96, 2.0),
    UibRow(3, 0, 3, 1, 96, 2.0),
    UibRow(3, 3, 0, 1, 96, 4.0),
    UibRow(4, 3, 3, 2, 128, 6.0),
    UibRow(4, 5, 5, 1, 128, 4.0),
    UibRow(4, 0, 5, 1, 128, 4.0),
    UibRow(4, 0, 5, 1, 128, 3.0),
    UibRow(4, 0, 3, 1, 128, 4.0),
    UibRow(4, 0, 3, 1, 128, 4.0),
    ConvRow(5, 1, 1, 960),
)
V4_CONV_MEDIUM: tuple[V4Row, ...] = (
    FusedRow(1, 3, 2, 48, 4.0),
    UibRow(2, 3, 5, 2, 80, 4.0),
    UibRow(2, 3, 3, 1, 80, 2.0),
    UibRow(3, 3, 5, 2, 160, 6.0),
    UibRow(3, 3, 3, 1, 160, 4.0),
    UibRow(3, 3, 3, 1, 160, 4.0),
    UibRow(3, 3, 5, 1, 160, 4.0),
    UibRow(3, 3, 3, 1, 160, 4.0),
    UibRow(3, 3, 0, 1, 160, 4.0),
    UibRow(3, 0, 0, 1, 160, 2.0),
    UibRow(3, 3, 0, 1, 160, 4.0),
    UibRow(4, 5, 5, 2, 256, 6.0),
    UibRow(4, 5, 5, 1, 256, 4.0),
    UibRow(4, 3, 5, 1, 256, 4.0),
    UibRow(4, 3, 5, 1, 256, 4.0),
    UibRow(4, 0, 0, 1, 256, 4.0),
    UibRow(4, 3, 0, 1, 256, 4.0),
    UibRow(4, 3, 5, 1, 256, 2.0),
    UibRow(4, 5, 5, 1, 256, 4.0),
    UibRow(4, 0, 0, 1, 256, 4.0),
    UibRow(4, 0, 0, 1, 256, 4.0),
    UibRow(4, 5, 0, 1, 256, 2.0),
    ConvRow(5, 1, 1, 960),
)
V4_CONV_LARGE: tuple[V4Row, ...] = (
    FusedRow(1, 3, 2, 48, 4.0),
    UibRow(2, 3, 5, 2, 96, 4.0),
    UibRow(2, 3, 3, 1, 96, 4.0),
    UibRow(3, 3, 5, 2, 192, 4.0),
    UibRow(3, 3, 3, 1, 192, 4.0),
    UibRow(3, 3, 3, 1, 192, 4.0),
    UibRow(3, 3, 3, 1, 192, 4.0),
    UibRow(3, 3, 5, 1, 192, 4.0),
    UibRow(3, 5, 3, 1, 192, 4.0),
    UibRow(3, 5, 3, 1, 192, 4.0),
    UibRow(3, 5, 3, 1, 192, 4.0),
    UibRow(3, 5, 3, 1, 192, 4.0),
    UibRow(3, 5, 3, 1, 192, 4.0),
    UibRow(3, 3, 0, 1, 192, 4.0),
    UibRow(4, 5, 5, 2, 512, 4.0),
    UibRow(4, 5, 5, 1, 512, 4.0),
    UibRow(4, 5, 5, 1, 512, 4.0),
    UibRow(4, 5, 5, 1, 512, 4.0),
    UibRow(4, 5, 0, 1, 512, 4.0),
    UibRow(4, 5, 3, 1, 512, 4.0),
    UibRow(4, 5, 0, 1, 512, 4.0),
    UibRow(4, 5, 0, 1, 512, 4.0),
    UibRow(4, 5, 3, 1, 512, 4.0),
    UibRow(4, 5, 5, 1, 512, 4.0),
    UibRow(4, 5, 0, 1, 512, 4.0),
    UibRow(4, 5, 0, 1, 512, 4.0),
    UibRow(4, 5, 0, 1, 512, 4.0),
    ConvRow(5, 1, 1, 960),
)


def v4_conv_small(
    width: float = 1.0, *, rule: Rule = "timm", classes: int = 1000, resolution: int = 224, channels: int = 3
) -> Spec:
    """MobileNetV4-Conv-S (arXiv 2404.10518, Table 11). See `v4_conv_medium` for the width."""
    return _v4("conv_small", V4_CONV_SMALL, 32, 11, width, rule, classes, resolution, channels)


def v4_conv_medium(
    width: float = 1.0, *, rule: Rule = "timm", classes: int = 1000, resolution: int = 256, channels: int = 3
) -> Spec:
    """MobileNetV4-Conv-M (arXiv 2404.10518, Table 12).

    The paper publishes width 1.0 alone, timm 0.35 and 0.5 of Conv-S; any `width` in (0, 10] follows
    timm: multiples of 8, the stem kept below 1.0, the 1280 channels of the head never scaled.
    """
    return _v4("conv_medium", V4_CONV_MEDIUM, 32, 12, width, rule, classes, resolution, channels)


def v4_conv_large(
    width: float = 1.0, *, rule: Rule = "timm", classes: int = 1000, resolution: int = 384, channels: int = 3
) -> Spec:
    """MobileNetV4-Conv-L (arXiv 2404.10518, Table 13). See `v4_conv_medium` for the width."""
    return _v4("conv_large", V4_CONV_LARGE, 24, 13, width, rule, classes, resolution, channels)


def _v4(
    size: str,
    table: tuple[V4Row, ...],
    stem: int,
    number: int,
    width: float,
    rule: Rule,
    classes: int,
    resolution: int,
    channels: int,
) -> Spec:
    _check_width(width, rule)
    c_in = make_divisible(stem * max(width, 1.0))
    blocks = [Block((Conv("conv", 3, c_in, 2, "relu"),), stage=0)]
    for row in table:
        out = make_divisible(row.out * width)
        blocks.append(_v4_block(row, c_in, out))
        c_in = out
    return Spec(
        name=f"mobilenet_v4_{size}" + ("" if width == 1.0 else f"_{_suffix(width)}"),
        source=f"arXiv 2404.10518, Table {number}",
        blocks=tuple(blocks),
        head=(Conv("conv", 1, 1280, 1, "relu"),),
        classes=classes,
        resolution=resolution,
        channels=channels,
        initializer="variance_scaling",
    )


def _v4_block(row: V4Row, c_in: int, out: int) -> Block:
    match row:
        case ConvRow():
            return Block((Conv("conv", row.kernel, out, row.stride, "relu"),), row.stage)
        case FusedRow():
            hidden = make_divisible(c_in * row.expansion)
            return Block(
                (Conv("expand", row.kernel, hidden, row.stride, "relu"), Conv("project", 1, out)),
                row.stage,
                residual=row.stride == 1 and c_in == out,
            )
        case UibRow():
            return universal_inverted_bottleneck(row, c_in, out)


def universal_inverted_bottleneck(row: UibRow, c_in: int, out: int) -> Block:
    """V4's block. The stride sits on the middle depthwise convolution, or on the start without one."""
    hidden = make_divisible(c_in * row.expansion)
    ops: list[Op] = []
    if row.start:
        stride = 1 if row.middle else row.stride
        ops.append(Conv("start_depthwise", row.start, c_in, stride, depthwise=True))
    ops.append(Conv("expand", 1, hidden, 1, "relu"))
    if row.middle:
        ops.append(Conv("depthwise", row.middle, hidden, row.stride, "relu", depthwise=True))
    ops.append(Conv("project", 1, out))
    return Block(tuple(ops), row.stage, residual=row.stride == 1 and c_in == out)


# --- names ----------------------------------------------------------------------------------


class Published(NamedTuple):
    """Top-1 accuracy on ImageNet's validation set in percent, at the default resolution, and who says so."""

    top1: float | None
    source: str


class Entry(NamedTuple):
    """What a name's prefix stands for."""

    build: Callable[..., Spec]
    """Takes `width` and the keywords `rule`, `classes`, `resolution`, `channels`."""
    published: dict[float, Published]
    """The widths that somebody published; any other that the rule allows works as well."""
    about: str
    plain_at_1: bool = False
    """Whether the name at width 1.0 carries no number, as V4's do."""

    @property
    def widths(self) -> tuple[float, ...]:
        """The published widths."""
        return tuple(self.published)


_V1_PAPER = "arXiv 1704.04861"
_SLIM = "TF-slim README"
_V3_TABLE_3 = "arXiv 1905.02244, Table 3"
_V4_TABLE_6 = "arXiv 2404.10518, Table 6"

ZOO: dict[str, Entry] = {
    "mobilenet_v1": Entry(
        v1,
        {
            0.25: Published(50.6, f"{_V1_PAPER}, Table 6"),
            0.5: Published(63.7, f"{_V1_PAPER}, Table 6"),
            0.75: Published(68.4, f"{_V1_PAPER}, Table 6"),
            1.0: Published(70.6, f"{_V1_PAPER}, Table 6"),
        },
        "depthwise separable convolutions",
    ),
    "mobilenet_v1_shallow": Entry(
        partial(v1, shallow=True),
        {1.0: Published(65.3, f"{_V1_PAPER}, Table 5")},
        "V1 without its five 14×14×512 layers",
    ),
    "mobilenet_v1_full": Entry(
        partial(v1, full=True),
        {1.0: Published(71.7, f"{_V1_PAPER}, Table 4")},
        "V1's baseline with full convolutions",
    ),
    "mobilenet_v2": Entry(
        v2,
        {
            0.35: Published(60.3, _SLIM),
            0.5: Published(65.4, _SLIM),
            0.75: Published(69.8, _SLIM),
            1.0: Published(72.0, "arXiv 1801.04381, Table 4"),
            1.3: Published(74.4, _SLIM),
            1.4: Published(74.7, "arXiv 1801.04381, Table 4"),
        },
        "inverted residuals, linear bottlenecks",
    ),
    "mobilenet_v3_large": Entry(
        v3_large,
        {0.75: Published(73.3, _V3_TABLE_3), 1.0: Published(75.2, _V3_TABLE_3)},
        "platform-aware search, hard-swish, squeeze-and-excite",
    ),
    "mobilenet_v3_small": Entry(
        v3_small,
        {
            0.5: Published(57.9, "timm 1.0.31, lamb_in1k"),
            0.75: Published(65.4, _V3_TABLE_3),
            1.0: Published(67.4, _V3_TABLE_3),
        },
        "as Large, for smaller budgets",
    ),
    "mobilenet_v3_large_minimalistic": Entry(
        partial(v3_large, minimalistic=True),
        {1.0: Published(72.3, _SLIM)},
        "V3 with plain ops: ReLU, 3×3, no gates",
    ),
    "mobilenet_v3_small_minimalistic": Entry(
        partial(v3_small, minimalistic=True),
        {1.0: Published(61.9, _SLIM)},
        "V3 with plain ops: ReLU, 3×3, no gates",
    ),
    "mobilenet_v4_conv_small": Entry(
        v4_conv_small,
        {
            0.35: Published(None, "timm 1.0.31, no weights"),
            0.5: Published(64.8, "timm 1.0.31, e3000_r224_in1k"),
            1.0: Published(73.8, _V4_TABLE_6),
        },
        "universal inverted bottlenecks",
        True,
    ),
    "mobilenet_v4_conv_medium": Entry(
        v4_conv_medium, {1.0: Published(79.9, _V4_TABLE_6)}, "universal inverted bottlenecks", True
    ),
    "mobilenet_v4_conv_large": Entry(
        v4_conv_large, {1.0: Published(82.9, _V4_TABLE_6)}, "universal inverted bottlenecks", True
    ),
}


def names() -> list[str]:
    """Every published network by name, in the order of `ZOO`."""
    return [_name(prefix, width) for prefix, entry in ZOO.items() for width in entry.widths]


def _name(prefix: str, width: float) -> str:
    return prefix if ZOO[prefix].plain_at_1 and width == 1.0 else f"{prefix}_{_suffix(width)}"


_NAME = re.compile(r"(?P<prefix>.*?)(?:_(?P<hundredths>\d{3}))?")


def parse(name: str) -> tuple[str, float]:
    """The prefix and the width of a network's name: `mobilenet_v2_060` → `mobilenet_v2`, 0.6.

    Raises `UnknownName` with the nearest name and the whole list.
    """
    match = _NAME.fullmatch(name)
    prefix = match["prefix"] if match else name
    entry = ZOO.get(prefix)
    if match is None or entry is None or (match["hundredths"] is None and not entry.plain_at_1):
        remedy = "Three digits give the width multiplier in hundredths; others work too (mobilenet_v2_060)."
        raise UnknownName("network", name, names(), remedy=remedy)
    return prefix, 1.0 if match["hundredths"] is None else int(match["hundredths"]) / 100


def build(
    name: str,
    *,
    rule: Rule = "timm",
    classes: int = 1000,
    resolution: int | None = None,
    channels: int = 3,
) -> Spec:
    """The `Spec` of a named network, at the paper's resolution unless one is given."""
    prefix, width = parse(name)
    entry = ZOO[prefix]
    if resolution is None:
        return entry.build(width, rule=rule, classes=classes, channels=channels)
    return entry.build(width, rule=rule, classes=classes, channels=channels, resolution=resolution)


def published(name: str) -> Published | None:
    """The published accuracy of a named network, or `None` where nobody published that width."""
    prefix, width = parse(name)
    return ZOO[prefix].published.get(width)
