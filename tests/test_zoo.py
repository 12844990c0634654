import dataclasses
import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenets import cost, zoo
from mobilenets.errors import InputError, SpecError, UnknownName
from mobilenets.spec import Conv, SqueezeExcite, layers
from mobilenets.zoo import ZOO, Rule, make_divisible

RULES = get_args(Rule)
FAMILIES = (
    zoo.v1,
    zoo.v2,
    zoo.v3_large,
    zoo.v3_small,
    zoo.v4_conv_small,
    zoo.v4_conv_medium,
    zoo.v4_conv_large,
)


def test_every_published_name():
    assert zoo.names() == [
        *(f"mobilenet_v1_{width}" for width in ("025", "050", "075", "100")),
        "mobilenet_v1_shallow_100",
        "mobilenet_v1_full_100",
        *(f"mobilenet_v2_{width}" for width in ("035", "050", "075", "100", "130", "140")),
        *(f"mobilenet_v3_large_{width}" for width in ("075", "100")),
        *(f"mobilenet_v3_small_{width}" for width in ("050", "075", "100")),
        "mobilenet_v3_large_minimalistic_100",
        "mobilenet_v3_small_minimalistic_100",
        *(f"mobilenet_v4_conv_small{width}" for width in ("_035", "_050", "")),
        "mobilenet_v4_conv_medium",
        "mobilenet_v4_conv_large",
        "mobilenet_v4_conv_medium_seg",
        *("mobilenet_v4_hybrid_medium_075", "mobilenet_v4_hybrid_medium"),
        *("mobilenet_v4_hybrid_large_075", "mobilenet_v4_hybrid_large"),
        *("mobilenet_edgetpu_075", "mobilenet_edgetpu_100"),
        *(f"mobilenet_edgetpu_v2_{size}" for size in ("xs", "s", "m", "l")),
    ]


@pytest.mark.parametrize("name", zoo.names())
def test_a_network_is_called_what_it_was_asked_for_by(name):
    spec = zoo.build(name, classes=7, channels=1, resolution=64)
    assert spec.name == name
    assert (spec.classes, spec.channels, spec.resolution) == (7, 1, 64)
    assert layers_of_stride_two(spec) == 5
    assert spec.source.startswith("TF" if "edgetpu" in name else "arXiv ")


def layers_of_stride_two(spec):
    return sum(isinstance(layer.op, Conv) and layer.op.stride == 2 for layer in layers(spec))


@pytest.mark.parametrize(
    ("name", "resolution"),
    [("mobilenet_v2_100", 224), ("mobilenet_v4_conv_medium", 256), ("mobilenet_v4_conv_large", 384)],
)
def test_the_papers_resolution_unless_one_is_given(name, resolution):
    assert zoo.build(name).resolution == resolution
    assert zoo.build(name, resolution=96).resolution == 96


@pytest.mark.parametrize(
    ("name", "prefix", "width"),
    [
        ("mobilenet_v2_060", "mobilenet_v2", 0.6),
        ("mobilenet_v4_conv_small", "mobilenet_v4_conv_small", 1.0),
        ("mobilenet_v4_conv_small_075", "mobilenet_v4_conv_small", 0.75),
        ("mobilenet_v3_large_minimalistic_100", "mobilenet_v3_large_minimalistic", 1.0),
        ("mobilenet_v1_shallow_050", "mobilenet_v1_shallow", 0.5),
    ],
)
def test_a_name_is_a_prefix_and_a_width(name, prefix, width):
    assert zoo.parse(name) == (prefix, width)
    assert zoo.build(name) == ZOO[prefix].build(width)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("mobilnet_v2_100", "mobilenet_v2_100"),
        ("mobilenetv3_small_100", "mobilenet_v3_small_100"),
        ("mobilenet_v2", "mobilenet_v2_"),
        ("mobilenet_v2_1", "mobilenet_v2_"),
        ("MOBILENET_V1_100", None),
        ("resnet50", None),
        ("", None),
        ("mobilenet_v2_100\n\x1b[31m", "mobilenet_v2_100"),
    ],
)
def test_an_unknown_name_lists_all_and_suggests_the_nearest(name, suggestion):
    with pytest.raises(UnknownName) as error:
        zoo.build(name)
    text = str(error.value)
    assert all(known in text for known in zoo.names())
    if suggestion:
        assert f"Did you mean '{suggestion}" in text
    assert "\x1b" not in text
    assert error.value.exit_code == 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("width", [0, 0.0, -1.0, 10.001, math.nan, math.inf, True, "1.0", None])
def test_a_width_that_cannot_be(family, width):
    with pytest.raises(SpecError, match="width multiplier is"):
        family(width)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unknown_rule(family):
    with pytest.raises(UnknownName, match="unknown rule: 'keras3'"):
        family(rule="keras3")


@pytest.mark.parametrize("changes", [{"resolution": 31}, {"resolution": 0}, {"classes": 0}, {"channels": 0}])
@pytest.mark.parametrize("name", ["mobilenet_v2_100", "mobilenet_v4_conv_small"])
def test_sizes_that_cannot_be(name, changes):
    with pytest.raises(InputError):
        zoo.build(name, **changes)


def test_width_zero_by_name():
    with pytest.raises(SpecError, match="width multiplier is 0"):
        zoo.build("mobilenet_v2_000")


@given(st.sampled_from(list(ZOO)), st.floats(0.001, 10.0), st.sampled_from(RULES))
def test_any_width_gives_a_legal_network(prefix, width, rule):
    """Building is the check: a `Spec` refuses shapes that do not fit."""
    spec = ZOO[prefix].build(width, rule=rule, classes=3, channels=3, resolution=32)
    assert cost.count(spec).params > 0


@given(st.floats(0.5, 1e5), st.sampled_from((1, 4, 8, 16)))
def test_make_divisible(channels, divisor):
    rounded = make_divisible(channels, divisor)
    assert rounded % divisor == 0 and rounded >= divisor
    assert rounded >= 0.9 * channels
    assert rounded <= max(divisor, channels + divisor)


@pytest.mark.parametrize(
    ("channels", "rounded"), [(16 * 0.75, 16), (24 * 0.75, 24), (32 * 0.35, 16), (11, 16), (3, 8)]
)
def test_make_divisible_never_takes_more_than_a_tenth(channels, rounded):
    assert make_divisible(channels) == rounded


@pytest.mark.parametrize(
    ("spec", "params"),
    [
        (zoo.v3_large(0.75, rule="timm"), 3_993_528),
        (zoo.v3_large(0.75, rule="keras"), 3_993_528),
        (zoo.v3_large(0.75, rule="torchvision"), 3_377_576),
    ],
)
def test_rules_differ_away_from_width_one(spec, params):
    assert cost.count(spec).params == params


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("prefix", ZOO)
def test_rules_agree_at_width_one(prefix, rule):
    ours, timms = ZOO[prefix].build(1.0, rule=rule), ZOO[prefix].build(1.0, rule="timm")
    if "edgetpu" in prefix and rule == "paper":  # TF-slim's second layer is linear
        assert ours.blocks[1].ops[0].activation == "none"
        ours = dataclasses.replace(ours, blocks=(ours.blocks[0], timms.blocks[1], *ours.blocks[2:]))
    assert ours == timms


def test_minimalistic_has_plain_ops_only():
    for family in (zoo.v3_large, zoo.v3_small):
        spec = family(minimalistic=True)
        ops = [op for block in spec.blocks for op in block.ops]
        assert not any(isinstance(op, SqueezeExcite) for op in ops)
        assert {op.activation for op in ops} == {"none", "relu"} and {op.kernel for op in ops} == {1, 3}
        assert (spec.padding, spec.norm_epsilon) == ("same", 1e-3)


def test_v1_variants():
    full = zoo.v1(full=True)
    assert not any(op.depthwise for block in full.blocks for op in block.ops)
    assert len(zoo.v1().blocks) - len(zoo.v1(shallow=True).blocks) == 5
    ratio = cost.count(full).macs / cost.count(zoo.v1()).macs
    assert round(ratio, 2) == 8.56
    assert round(cost.count(full).params / cost.count(zoo.v1()).params, 2) == 6.92
