"""MobileNetV3: found by platform-aware search, with hard-swish and squeeze-and-excite."""

from typing import NamedTuple

from mobilenets.spec import Activation, Block, Conv, Spec
from mobilenets.zoo.mobilenet_v2 import inverted_residual
from mobilenets.zoo.rounding import Rule, check_width, make_divisible, suffix


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
    check_width(width, rule)
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
        name=f"mobilenet_v3_{size}_{'minimalistic_' if minimalistic else ''}{suffix(width)}",
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
