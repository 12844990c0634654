"""MobileNet-EdgeTPU and EdgeTPU-V2: for accelerators that like full convolutions on large maps."""

import dataclasses
from typing import NamedTuple

from mobilenets.spec import Activation, Block, Conv, Spec
from mobilenets.zoo.mobilenet_v2 import fused_inverted_residual, inverted_residual
from mobilenets.zoo.rounding import Rule, check_width, make_divisible, suffix


class EdgeRow(NamedTuple):
    """A group of equal blocks; the first has the stride, and its own expansion."""

    kernel: int
    stride: int
    out: int
    repeats: int
    fused: bool
    """A full k×k convolution expands, instead of 1×1 and depthwise."""
    shortcut: bool = True
    """Whether the group's first block may have one."""


# TF-slim nets/mobilenet/mobilenet_v3.py, V3_EDGETPU, after the 16-channel 1×1: the first block of a
# group expands by 8, the others by 4. The fourth group's first block has its shortcut disabled.
EDGETPU = (
    EdgeRow(3, 2, 32, 4, fused=True),
    EdgeRow(3, 2, 48, 4, fused=True),
    EdgeRow(3, 2, 96, 4, fused=False),
    EdgeRow(3, 1, 96, 4, fused=False, shortcut=False),
    EdgeRow(5, 2, 160, 4, fused=False),
    EdgeRow(3, 1, 192, 1, fused=False),
)


class EdgeSize(NamedTuple):
    """A size of EdgeTPU-V2."""

    stem: int
    stem_kernel: int
    channels: tuple[int, ...]
    group: int
    """Channels of a group in the grouped expansions."""
    last: int


# TF Model Garden official/projects/edgetpu/vision, by way of timm 1.0.31 (`_gen_mobilenet_edgetpu`).
EDGETPU_V2 = {
    "xs": EdgeSize(32, 3, (16, 32, 48, 96, 144, 160, 192), 64, 1280),
    "s": EdgeSize(64, 5, (24, 48, 64, 128, 160, 192, 256), 64, 1280),
    "m": EdgeSize(64, 5, (32, 64, 80, 160, 192, 240, 320), 64, 1344),
    "l": EdgeSize(64, 7, (32, 64, 96, 192, 240, 256, 384), 128, 1408),
}


def edgetpu(
    width: float = 1.0,
    *,
    rule: Rule = "timm",
    classes: int = 1000,
    resolution: int = 224,
    channels: int = 3,
) -> Spec:
    """MobileNet-EdgeTPU (TF-slim, `V3_EDGETPU`; announced with V3, in no paper's table).

    Published at α 0.75 and 1.0, with the last 1280 channels kept. The second layer, a 1×1 convolution
    to 16 channels, is linear in TF-slim (`rule="paper"`) and has a ReLU in timm.
    """
    check_width(width, rule)
    stem, c_in = make_divisible(32 * width), make_divisible(16 * width)
    second: Activation = "none" if rule == "paper" else "relu"
    blocks = [
        Block((Conv("conv", 3, stem, 2, "relu"),), stage=0),
        Block((Conv("conv", 1, c_in, 1, second),), stage=1),
    ]
    for stage, row in enumerate(EDGETPU, start=2):
        out = make_divisible(row.out * width)
        for repeat in range(row.repeats):
            stride = row.stride if repeat == 0 else 1
            hidden = make_divisible(c_in * (4 if repeat else 8))
            block = (
                fused_inverted_residual(stage, row.kernel, hidden, c_in, out, stride, "relu")
                if row.fused
                else inverted_residual(stage, row.kernel, hidden, c_in, out, stride, activation="relu")
            )
            blocks.append(
                dataclasses.replace(block, residual=block.residual and (row.shortcut or repeat > 0))
            )
            c_in = out
    last = make_divisible(1280 * max(1.0, width))
    blocks.append(Block((Conv("conv", 1, last, 1, "relu"),), stage=len(EDGETPU) + 2))
    return Spec(
        name=f"mobilenet_edgetpu_{suffix(width)}",
        source="TF-slim nets/mobilenet/mobilenet_v3.py, V3_EDGETPU",
        blocks=tuple(blocks),
        classes=classes,
        resolution=resolution,
        channels=channels,
    )


def edgetpu_v2(
    width: float = 1.0,
    *,
    size: str = "s",
    rule: Rule = "timm",
    classes: int = 1000,
    resolution: int = 224,
    channels: int = 3,
) -> Spec:
    """MobileNet-EdgeTPU-V2 in `size` xs, s, m or l (TF Model Garden, `official/projects/edgetpu/vision`).

    The sizes are published at width 1.0 alone. Another width rounds all channels but the last to
    multiples of 8 and keeps a group's channels where they still divide, else one group is left.
    The second layer is linear for `rule="paper"`, as in `edgetpu`.
    """
    check_width(width, rule)
    of = EDGETPU_V2[size]
    stem, c_in = make_divisible(of.stem * width), make_divisible(of.channels[0] * width)
    second: Activation = "none" if rule == "paper" else "relu"
    blocks = [
        Block((Conv("conv", of.stem_kernel, stem, 2, "relu"),), stage=0),
        Block((Conv("conv", 1, c_in, 1, second),), stage=1),
    ]
    # (stride, blocks, which of them are grouped) of the fused groups, then of the others.
    fused = ((2, 2, (1,)), (2, 4, (1, 3)), (2, 1, ()))
    for stage, (stride, repeats, grouped) in enumerate(fused, start=2):
        out = make_divisible(of.channels[stage - 1] * width)
        for repeat in range(repeats):
            hidden = make_divisible(c_in * (4 if repeat else 8))
            groups = _groups(hidden, c_in, of.group) if repeat in grouped else 1
            step = 1 if repeat else stride
            blocks.append(fused_inverted_residual(stage, 3, hidden, c_in, out, step, "relu", groups))
            c_in = out
    for stage, stride, repeats in ((4, 2, 4), (5, 1, 4), (6, 2, 4), (7, 1, 1)):
        out = make_divisible(of.channels[stage - 1] * width)
        for repeat in range(1 if stage == 4 else 0, repeats):
            hidden, step = make_divisible(c_in * (4 if repeat else 8)), 1 if repeat else stride
            blocks.append(inverted_residual(stage, 3, hidden, c_in, out, step, activation="relu"))
            c_in = out
    blocks.append(Block((Conv("conv", 1, of.last, 1, "relu"),), stage=8))
    return Spec(
        name=f"mobilenet_edgetpu_v2_{size}" + ("" if width == 1.0 else f"_{suffix(width)}"),
        source="TF Model Garden official/projects/edgetpu/vision",
        blocks=tuple(blocks),
        classes=classes,
        resolution=resolution,
        channels=channels,
    )


def _groups(hidden: int, c_in: int, group: int) -> int:
    groups = max(1, hidden // group)
    return groups if hidden % groups == 0 and c_in % groups == 0 else 1
