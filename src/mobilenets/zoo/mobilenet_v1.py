"""MobileNetV1: depthwise separable convolutions."""

from mobilenets.spec import Block, Conv, Op, Spec
from mobilenets.zoo.rounding import Rule, check_width, make_divisible, suffix

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
    check_width(width, rule)

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
        name=f"mobilenet_v1_{variant}{suffix(width)}",
        source="arXiv 1704.04861, Table 1",
        blocks=tuple(blocks),
        classes=classes,
        resolution=resolution,
        channels=channels,
    )
