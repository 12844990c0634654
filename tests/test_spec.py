import copy
import dataclasses
import itertools
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilenets import cost, zoo
from mobilenets.errors import InputError, SpecError
from mobilenets.spec import (
    Block,
    Conv,
    Linear,
    Pool,
    Spec,
    SqueezeExcite,
    from_json,
    layers,
    output_size,
    padding_amounts,
    tensor_shapes,
    to_json,
)
from spec_strategies import specs

STEM = Block((Conv("conv", 3, 8, 2, "relu"),), stage=0)
TINY = Spec(name="tiny", source="here", blocks=(STEM,), classes=2)


@pytest.mark.slow
@given(specs())
def test_json_gives_back_an_equal_spec(spec):
    assert from_json(json.loads(json.dumps(to_json(spec)))) == spec


@pytest.mark.slow
@given(specs())
def test_layers_hand_their_shapes_on(spec):
    rows = list(layers(spec))
    assert (rows[0].c_in, rows[0].size_in) == (spec.channels, spec.resolution)
    for before, after in itertools.pairwise(rows):
        assert (after.c_in, after.size_in) == (before.c_out, before.size_out)
    assert [type(row.op) for row in rows].count(Pool) == 1
    assert isinstance(rows[-1].op, Linear) and rows[-1].c_in == spec.features
    assert rows[-1].c_out == spec.classes


@given(specs())
def test_cost_counts_every_tensor_once(spec):
    counted = cost.count(spec)
    stored = sum(math.prod(shape) for shape in tensor_shapes(spec).values())
    assert counted.params + counted.statistics == stored
    assert counted.activation_bytes >= 4 * spec.channels * spec.resolution**2


@pytest.mark.slow
@settings(max_examples=200)
@given(st.data())
def test_a_damaged_description_is_a_spec_or_a_spec_error(data):
    """Replace or drop any node of the JSON: what still loads must be a consistent network."""
    value = to_json(data.draw(specs()))
    paths = list(_paths(value))
    path = data.draw(st.sampled_from(paths))
    node = value
    for key in path[:-1]:
        node = node[key]
    if data.draw(st.booleans()):
        del node[path[-1]]
    else:
        node[path[-1]] = data.draw(
            st.sampled_from((None, -1, 0, 2, 1.5, math.nan, math.inf, True, "x", "", [], {}, [1], 10**30))
        )
    try:
        spec = from_json(value)
    except SpecError:
        return
    assert from_json(json.loads(json.dumps(to_json(spec)))) == spec


def _paths(value, prefix=()):
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        yield (*prefix, key)
        yield from _paths(child, (*prefix, key))


@pytest.mark.parametrize(
    "value", [None, 3, "text", [], {}, {"blocks": "abc"}, {"blocks": [{}]}, {"blocks": [3]}]
)
def test_what_is_no_description_at_all(value):
    with pytest.raises(SpecError):
        from_json(value)


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": 0},
        {"classes": True},
        {"classes": 2.0},
        {"channels": 0},
        {"channels": "3"},
        {"resolution": 31},
        {"resolution": 224.0},
        {"resolution": math.nan},
        {"padding": "valid"},
        {"padding": None},
        {"initializer": "he"},
        {"norm_epsilon": 0.0},
        {"norm_epsilon": math.nan},
        {"norm_epsilon": -1e-5},
        {"norm_epsilon": True},
        {"norm_momentum": 1.1},
        {"norm_momentum": "0.1"},
        {"dropout": 1.0},
        {"dropout": math.nan},
        {"dropout": -0.1},
        {"blocks": ()},
        {"name": 3},
        {"source": None},
        {"head": (Conv("conv", 3, 8),)},
        {"head": (Conv("conv", 1, 8, 2),)},
        {"head": (Conv("conv", 1, 8, depthwise=True),)},
    ],
    ids=str,
)
def test_a_spec_with_an_illegal_field(changes):
    with pytest.raises(SpecError) as error:
        dataclasses.replace(TINY, **changes)
    field, value = next(iter(changes.items()))
    if not isinstance(value, tuple):
        assert field in str(error.value) and repr(value) in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "a.b"},
        {"name": ""},
        {"name": 3},
        {"kernel": 2},
        {"kernel": 0},
        {"kernel": 3.0},
        {"out": 0},
        {"out": True},
        {"stride": 3},
        {"stride": 0},
        {"activation": "selu"},
        {"activation": None},
        {"depthwise": 1},
        {"norm": "yes"},
    ],
    ids=str,
)
def test_a_convolution_with_an_illegal_field(changes):
    with pytest.raises(SpecError, match=r"op "):
        dataclasses.replace(Conv("conv", 3, 8), **changes)


@pytest.mark.parametrize("changes", [{"squeeze": 0}, {"squeeze": 1.5}, {"activation": "selu"}, {"name": "1"}])
def test_a_gate_with_an_illegal_field(changes):
    with pytest.raises(SpecError):
        dataclasses.replace(SqueezeExcite(4), **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"ops": ()},
        {"ops": (SqueezeExcite(2),)},
        {"ops": (Conv("a", 1, 4), Conv("a", 1, 4))},
        {"stage": -1},
        {"stage": 0.5},
        {"residual": "yes"},
    ],
    ids=str,
)
def test_a_block_with_an_illegal_field(changes):
    with pytest.raises(SpecError):
        dataclasses.replace(STEM, **changes)


def test_a_depthwise_convolution_keeps_its_channels():
    with pytest.raises(SpecError, match=r"blocks\.1\.depthwise is depthwise.*\(16\).*\(8\)"):
        Spec("s", "", (STEM, Block((Conv("depthwise", 3, 16, depthwise=True),), 1)))


@pytest.mark.parametrize("conv", [Conv("a", 3, 16), Conv("a", 3, 8, 2)])
def test_a_shortcut_keeps_the_shape(conv):
    with pytest.raises(SpecError, match=r"blocks\.1 has a shortcut but changes the shape"):
        Spec("s", "", (STEM, Block((conv,), 1, residual=True)))


def test_a_spec_cannot_be_changed_but_copied():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TINY.classes = 3
    assert copy.deepcopy(TINY) == TINY
    assert dataclasses.replace(TINY, classes=3).classes == 3
    assert isinstance(SpecError("x"), InputError)


@given(st.integers(1, 300), st.sampled_from((1, 3, 5, 7)), st.sampled_from((1, 2)))
def test_same_padding_covers_the_map_exactly(size, kernel, stride):
    """TensorFlow's definition, from the outside: ⌈size/stride⌉ windows, the odd pixel after."""
    before, after = padding_amounts(size, kernel, stride, "same")
    windows = output_size(size, stride)
    assert windows == math.ceil(size / stride)
    assert 0 <= after - before <= 1
    reach = (windows - 1) * stride + kernel
    assert size + before + after == max(reach, size)


def test_same_padding_of_the_stem():
    assert padding_amounts(224, 3, 2, "same") == (0, 1)
    assert padding_amounts(225, 3, 2, "same") == (1, 1)
    assert padding_amounts(112, 5, 2, "same") == (1, 2)
    assert padding_amounts(224, 3, 2, "symmetric") == (1, 1)


def test_tensor_names_of_v3_small():
    names = list(tensor_shapes(zoo.v3_small()))
    assert names[:5] == ["blocks.0.conv.conv.weight"] + [
        f"blocks.0.conv.norm.{part}" for part in ("weight", "bias", "running_mean", "running_var")
    ]
    assert "blocks.1.squeeze_excite.reduce.bias" in names
    assert names[-4:] == ["head.0.conv.weight", "head.0.conv.bias", "classifier.weight", "classifier.bias"]
