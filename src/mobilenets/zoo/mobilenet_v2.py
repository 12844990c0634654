"""MobileNetV2: inverted residuals with linear bottlenecks."""

from mobilenets.spec import Activation, Block, Conv, Op, Spec, SqueezeExcite
from mobilenets.zoo.rounding import Rule, check_width, make_divisible, suffix

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
    check_width(width, rule)
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
        name=f"mobilenet_v2_{suffix(width)}",
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


def fused_inverted_residual(
    stage: int,
    kernel: int,
    hidden: int,
    c_in: int,
    out: int,
    stride: int,
    activation: Activation,
    groups: int = 1,
) -> Block:
    """An inverted residual whose expansion and depthwise convolution are one full k×k convolution.

    EdgeTPU's and V4's block for early, large maps; EdgeTPU-V2 cuts some of the k×k into `groups`.
    """
    ops = (Conv("expand", kernel, hidden, stride, activation, groups=groups), Conv("project", 1, out))
    return Block(ops, stage, residual=stride == 1 and c_in == out)
