"""MobileNetV4: universal inverted bottlenecks, and in the hybrids mobile multi-query attention."""

from typing import NamedTuple, assert_never

from mobilenets.spec import Activation, Block, Conv, LayerScale, MultiQueryAttention, Op, Spec
from mobilenets.zoo.mobilenet_v2 import fused_inverted_residual
from mobilenets.zoo.rounding import Rule, check_width, make_divisible, suffix


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


class AttentionRow(NamedTuple):
    """Mobile multi-query attention; `kv_stride` 2 asks a map of half the side."""

    stage: int
    heads: int
    head_dim: int
    kv_stride: int


V4Row = ConvRow | FusedRow | UibRow | AttentionRow

# arXiv 2404.10518, Tables 11–15, after the stem, in the order of the TF Model Garden's lists.
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

V4_HYBRID_MEDIUM: tuple[V4Row, ...] = (
    FusedRow(1, 3, 2, 48, 4.0),
    UibRow(2, 3, 5, 2, 80, 4.0),
    UibRow(2, 3, 3, 1, 80, 2.0),
    UibRow(3, 3, 5, 2, 160, 6.0),
    UibRow(3, 0, 0, 1, 160, 2.0),
    UibRow(3, 3, 3, 1, 160, 4.0),
    UibRow(3, 3, 5, 1, 160, 4.0),
    AttentionRow(3, 4, 64, 2),
    UibRow(3, 3, 3, 1, 160, 4.0),
    AttentionRow(3, 4, 64, 2),
    UibRow(3, 3, 0, 1, 160, 4.0),
    AttentionRow(3, 4, 64, 2),
    UibRow(3, 3, 3, 1, 160, 4.0),
    AttentionRow(3, 4, 64, 2),
    UibRow(3, 3, 0, 1, 160, 4.0),
    UibRow(4, 5, 5, 2, 256, 6.0),
    UibRow(4, 5, 5, 1, 256, 4.0),
    UibRow(4, 3, 5, 1, 256, 4.0),
    UibRow(4, 3, 5, 1, 256, 4.0),
    UibRow(4, 0, 0, 1, 256, 2.0),
    UibRow(4, 3, 5, 1, 256, 2.0),
    UibRow(4, 0, 0, 1, 256, 2.0),
    UibRow(4, 0, 0, 1, 256, 4.0),
    AttentionRow(4, 4, 64, 1),
    UibRow(4, 3, 0, 1, 256, 4.0),
    AttentionRow(4, 4, 64, 1),
    UibRow(4, 5, 5, 1, 256, 4.0),
    AttentionRow(4, 4, 64, 1),
    UibRow(4, 5, 0, 1, 256, 4.0),
    AttentionRow(4, 4, 64, 1),
    UibRow(4, 5, 0, 1, 256, 4.0),
    ConvRow(5, 1, 1, 960),
)
V4_HYBRID_LARGE: tuple[V4Row, ...] = (
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
    AttentionRow(3, 8, 48, 2),
    UibRow(3, 5, 3, 1, 192, 4.0),
    AttentionRow(3, 8, 48, 2),
    UibRow(3, 5, 3, 1, 192, 4.0),
    AttentionRow(3, 8, 48, 2),
    UibRow(3, 5, 3, 1, 192, 4.0),
    AttentionRow(3, 8, 48, 2),
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
    AttentionRow(4, 8, 64, 1),
    UibRow(4, 5, 0, 1, 512, 4.0),
    AttentionRow(4, 8, 64, 1),
    UibRow(4, 5, 0, 1, 512, 4.0),
    AttentionRow(4, 8, 64, 1),
    UibRow(4, 5, 0, 1, 512, 4.0),
    AttentionRow(4, 8, 64, 1),
    UibRow(4, 5, 0, 1, 512, 4.0),
    ConvRow(5, 1, 1, 960),
)
# The TF Model Garden's backbone for segmentation, with its own ReLU6; no classifier of it was published.
V4_CONV_MEDIUM_SEG: tuple[V4Row, ...] = (
    FusedRow(1, 3, 2, 48, 4.0),
    UibRow(2, 3, 5, 2, 80, 4.0),
    UibRow(2, 3, 3, 1, 80, 2.0),
    UibRow(3, 3, 5, 2, 160, 6.0),
    UibRow(3, 3, 3, 1, 160, 4.0),
    UibRow(3, 3, 3, 1, 160, 4.0),
    UibRow(3, 3, 5, 1, 160, 4.0),
    UibRow(3, 3, 3, 1, 160, 4.0),
    UibRow(3, 3, 0, 1, 160, 4.0),
    UibRow(3, 3, 0, 1, 160, 4.0),
    UibRow(4, 5, 5, 2, 256, 6.0),
    UibRow(4, 5, 5, 1, 128, 4.0),
    UibRow(4, 3, 5, 1, 128, 4.0),
    UibRow(4, 3, 5, 1, 128, 4.0),
    UibRow(4, 3, 0, 1, 128, 4.0),
    UibRow(4, 3, 5, 1, 128, 2.0),
    UibRow(4, 5, 5, 1, 128, 4.0),
    UibRow(4, 5, 0, 1, 128, 2.0),
    ConvRow(5, 1, 1, 448),
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


def v4_conv_medium_seg(
    width: float = 1.0, *, rule: Rule = "timm", classes: int = 1000, resolution: int = 256, channels: int = 3
) -> Spec:
    """The TF Model Garden's ConvMediumSeg: Conv-M with a smaller last stage, a backbone for segmentation."""
    return _v4(
        "conv_medium_seg", V4_CONV_MEDIUM_SEG, 32, 12, width, rule, classes, resolution, channels, "relu6"
    )


def v4_hybrid_medium(
    width: float = 1.0, *, rule: Rule = "timm", classes: int = 1000, resolution: int = 256, channels: int = 3
) -> Spec:
    """MobileNetV4-Hybrid-M (arXiv 2404.10518, Table 14): with mobile multi-query attention.

    Every universal inverted bottleneck and attention ends in a layer scale. A width other than 1.0
    (timm has 0.75) leaves heads and head dimension as they are.
    """
    return _v4("hybrid_medium", V4_HYBRID_MEDIUM, 32, 14, width, rule, classes, resolution, channels)


def v4_hybrid_large(
    width: float = 1.0, *, rule: Rule = "timm", classes: int = 1000, resolution: int = 384, channels: int = 3
) -> Spec:
    """MobileNetV4-Hybrid-L (arXiv 2404.10518, Table 15), with GELU. See `v4_hybrid_medium`."""
    return _v4("hybrid_large", V4_HYBRID_LARGE, 24, 15, width, rule, classes, resolution, channels, "gelu")


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
    activation: Activation = "relu",
) -> Spec:
    check_width(width, rule)
    c_in = make_divisible(stem * max(width, 1.0))
    blocks = [Block((Conv("conv", 3, c_in, 2, activation),), stage=0)]
    scaled = any(isinstance(row, AttentionRow) for row in table)
    for row in table:
        block = _v4_block(row, c_in, width, activation, scaled)
        blocks.append(block)
        c_in = block.out
    return Spec(
        name=f"mobilenet_v4_{size}" + ("" if width == 1.0 else f"_{suffix(width)}"),
        source=f"arXiv 2404.10518, Table {number}",
        blocks=tuple(blocks),
        head=(Conv("conv", 1, 1280, 1, activation),),
        classes=classes,
        resolution=resolution,
        channels=channels,
        initializer="variance_scaling",
    )


def _v4_block(row: V4Row, c_in: int, width: float, activation: Activation, scaled: bool) -> Block:
    match row:
        case ConvRow():
            out = make_divisible(row.out * width)
            return Block((Conv("conv", row.kernel, out, row.stride, activation),), row.stage)
        case FusedRow():
            out, hidden = make_divisible(row.out * width), make_divisible(c_in * row.expansion)
            return fused_inverted_residual(row.stage, row.kernel, hidden, c_in, out, row.stride, activation)
        case UibRow():
            out = make_divisible(row.out * width)
            return universal_inverted_bottleneck(row, c_in, out, activation=activation, scaled=scaled)
        case AttentionRow():
            attention = MultiQueryAttention(c_in, row.heads, row.head_dim, row.kv_stride)
            return Block((attention, LayerScale()), row.stage, residual=True)
        case _:
            assert_never(row)


def universal_inverted_bottleneck(
    row: UibRow, c_in: int, out: int, *, activation: Activation = "relu", scaled: bool = False
) -> Block:
    """V4's block. The stride sits on the middle depthwise convolution, or on the start without one.

    `scaled` appends the hybrids' layer scale.
    """
    hidden = make_divisible(c_in * row.expansion)
    ops: list[Op] = []
    if row.start:
        stride = 1 if row.middle else row.stride
        ops.append(Conv("start_depthwise", row.start, c_in, stride, depthwise=True))
    ops.append(Conv("expand", 1, hidden, 1, activation))
    if row.middle:
        ops.append(Conv("depthwise", row.middle, hidden, row.stride, activation, depthwise=True))
    ops.append(Conv("project", 1, out))
    if scaled:
        ops.append(LayerScale())
    return Block(tuple(ops), row.stage, residual=row.stride == 1 and c_in == out)
