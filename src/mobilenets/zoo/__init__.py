"""The family: every published table, row by row, and each family's rule for width.

Tables keep their paper's column order under its citation, one module a family. One function per
family turns a table into a `Spec`. The defaults (padding, norm epsilon and momentum) are timm's;
weights that are imported bring their own. Where implementations disagree away from width 1.0,
`rule` says whose rounding is wanted (docs/family.md has the table of differences):

* `paper`: the authors' TF-slim code, with the last layers kept at full width as in the released
  checkpoints; * `timm`; * `keras`; * `torchvision`.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from mobilenets.errors import UnknownName
from mobilenets.spec import Spec
from mobilenets.zoo.edgetpu import EDGETPU_V2, edgetpu, edgetpu_v2
from mobilenets.zoo.mobilenet_v1 import v1
from mobilenets.zoo.mobilenet_v2 import v2
from mobilenets.zoo.mobilenet_v3 import v3_large, v3_small
from mobilenets.zoo.mobilenet_v4 import (
    v4_conv_large,
    v4_conv_medium,
    v4_conv_medium_seg,
    v4_conv_small,
    v4_hybrid_large,
    v4_hybrid_medium,
)
from mobilenets.zoo.rounding import MAX_WIDTH, Rule, make_divisible, suffix

__all__ = [
    "MAX_WIDTH",
    "ZOO",
    "Entry",
    "Published",
    "Rule",
    "build",
    "edgetpu",
    "edgetpu_v2",
    "make_divisible",
    "names",
    "parse",
    "published",
    "v1",
    "v2",
    "v3_large",
    "v3_small",
    "v4_conv_large",
    "v4_conv_medium",
    "v4_conv_medium_seg",
    "v4_conv_small",
    "v4_hybrid_large",
    "v4_hybrid_medium",
]


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
    "mobilenet_v4_conv_medium_seg": Entry(
        v4_conv_medium_seg,
        {1.0: Published(None, "TF Model Garden, a backbone without classifier")},
        "Conv-M as a backbone for segmentation",
        True,
    ),
    "mobilenet_v4_hybrid_medium": Entry(
        v4_hybrid_medium,
        {0.75: Published(None, "timm 1.0.31, no weights"), 1.0: Published(80.7, _V4_TABLE_6)},
        "Conv-M with mobile multi-query attention",
        True,
    ),
    "mobilenet_v4_hybrid_large": Entry(
        v4_hybrid_large,
        {0.75: Published(None, "timm 1.0.31, no weights"), 1.0: Published(83.4, _V4_TABLE_6)},
        "Conv-L with mobile multi-query attention",
        True,
    ),
    "mobilenet_edgetpu": Entry(
        edgetpu,
        {0.75: Published(73.5, f"{_SLIM}, int8"), 1.0: Published(75.6, f"{_SLIM}, int8")},
        "fused blocks for the EdgeTPU, no gates",
    ),
    **{
        f"mobilenet_edgetpu_v2_{size}": Entry(
            partial(edgetpu_v2, size=size),
            {
                1.0: Published(80.1, "timm 1.0.31, ra4_e3600_r224_in1k")
                if size == "m"
                else Published(None, "timm 1.0.31, no weights")
            },
            "larger, with grouped fused blocks",
            True,
        )
        for size in EDGETPU_V2
    },
}


def names() -> list[str]:
    """Every published network by name, in the order of `ZOO`."""
    return [_name(prefix, width) for prefix, entry in ZOO.items() for width in entry.widths]


def _name(prefix: str, width: float) -> str:
    return prefix if ZOO[prefix].plain_at_1 and width == 1.0 else f"{prefix}_{suffix(width)}"


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
