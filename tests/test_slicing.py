"""Width slicing: what has to be cut together is, what is kept computes what it did, and nothing else fits."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from heard import Heard
from mobilenets import spec as specs
from mobilenets import zoo
from mobilenets.checkpoint import Checkpoint, Manifest
from mobilenets.errors import InputError, SpecError, UnknownName
from mobilenets.preprocessing import for_channels
from mobilenets.slicing import _in_parts, _indices, narrow_spec, slice_width
from mobilenets.slicing.groups import Walk, choose
from mobilenets.slicing.moments import in_full
from mobilenets.spec import Block, Conv, LayerScale, MultiQueryAttention, Spec, SqueezeExcite
from mobilenets.weights.tflite import identity_norm
from spec_strategies import specs as any_spec

FAMILY = {
    "v1": zoo.v1(0.5, classes=5, resolution=32),
    "v2": zoo.v2(0.5, classes=5, resolution=32),
    "v3": zoo.v3_small(0.75, classes=5, resolution=32),
    "v4": zoo.v4_conv_small(0.5, classes=5, resolution=32),
    "v4-hybrid": zoo.v4_hybrid_medium(0.25, classes=5, resolution=32),
    "edgetpu": zoo.edgetpu(0.5, classes=5, resolution=32),
}
NARROWER = {
    "v1": zoo.v1(0.25),
    "v2": zoo.v2(0.35),
    "v3": zoo.v3_small(0.6),
    "v4": zoo.v4_conv_small(0.25),
    "v4-hybrid": zoo.v4_hybrid_medium(0.2),
    "edgetpu": zoo.edgetpu(0.35),
}
each_family = pytest.mark.parametrize("family", FAMILY)


def manifest_of(spec, **changes):
    labels = tuple(f"class {i}" for i in range(spec.classes))
    return Manifest(spec, labels, for_channels(spec.channels), **changes)


def drawn(name, shape, rng):
    """Values that keep a signal alive through any network."""
    last = name.rsplit(".", 1)[-1]
    if last in ("running_var", "scale"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if "norm" in name:
        centre = 1.0 if last == "weight" else 0.0
        return rng.normal(centre, 0.2, shape).astype(np.float32)
    fan_in = math.prod(shape[1:]) or 1
    return rng.normal(0, fan_in**-0.5, shape).astype(np.float32)


def random_checkpoint(spec, seed=0):
    rng = np.random.default_rng(seed)
    manifest = manifest_of(spec)
    shapes = specs.tensor_shapes(manifest.spec)
    return Checkpoint(manifest, {name: drawn(name, shape, rng) for name, shape in shapes.items()})


def same_bits(a, b):
    return list(a) == list(b) and all(a[name].tobytes() == b[name].tobytes() for name in a)


def logits(checkpoint, side=32):
    torch = pytest.importorskip("torch")
    from mobilenets.network import from_checkpoint

    pictures = torch.randn(
        2, checkpoint.spec.channels, side, side, generator=torch.Generator().manual_seed(0)
    )
    with torch.inference_mode():
        return from_checkpoint(checkpoint)(pictures).numpy()


def embedded(narrow, wide_spec, seed=0):
    """`narrow` at random places in `wide_spec`; the other channels are drawn, and nobody reads them."""
    rng = np.random.default_rng(seed)
    walk = Walk(wide_spec, narrow.spec)
    kept = choose(walk, {id(group): rng.random(group.wide) for group in walk.groups})
    tensors = {}
    for step in walk.steps:
        groups = (step.wide.op.groups, step.narrow.op.groups) if isinstance(step.wide.op, Conv) else (1, 1)
        for name, shape in specs.layer_tensors(step.wide).items():
            grouped = len(shape) == 4 and groups[0] > 1
            full, small = drawn(name, shape, rng), narrow.tensors[name]
            if grouped:
                full = in_full(full, step.wide.c_in, groups[0])
                small = in_full(small, step.narrow.c_in, groups[1])
            places = [
                np.arange(n) if axis is None else _indices(axis, kept)
                for n, axis in zip(full.shape, (*step.axes[name], None, None), strict=False)
            ]
            for axis, counted in list(enumerate(step.axes[name]))[1:]:
                if counted is not None:
                    unread = np.setdiff1d(np.arange(full.shape[axis]), places[axis])
                    full[(slice(None),) * axis + (unread,)] = 0
            full[np.ix_(*places)] = small
            tensors[name] = _in_parts(full, groups[0]) if grouped else full
    return Checkpoint(manifest_of(wide_spec), tensors)


@st.composite
def wide_and_narrow(draw):
    """Any network and one that differs by fewer channels."""
    wide = draw(any_spec().filter(lambda spec: spec.channels in (1, 3, 4)))
    channels, body = wide.channels, []

    def fewer(n, multiple=1):
        return multiple * draw(st.one_of(st.just(n // multiple), st.integers(1, n // multiple)))

    for block in wide.blocks:
        entering, ops = channels, []
        last = max(i for i, op in enumerate(block.ops) if not isinstance(op, SqueezeExcite | LayerScale))
        for index, op in enumerate(block.ops):
            if isinstance(op, Conv) and op.depthwise:
                new = dataclasses.replace(op, out=channels)
            elif isinstance(op, Conv):
                assume(channels % op.groups == 0)
                ends = index == last and block.residual
                new = dataclasses.replace(op, out=entering if ends else fewer(op.out, op.groups))
                assume(new.out <= op.out and new.out % op.groups == 0)
            elif isinstance(op, MultiQueryAttention):
                new = dataclasses.replace(op, out=channels, heads=fewer(op.heads))
            elif isinstance(op, SqueezeExcite):
                new = dataclasses.replace(op, squeeze=fewer(op.squeeze))
            else:
                new = op
            channels = new.out if isinstance(new, Conv) else channels
            ops.append(new)
        assume(not block.residual or channels == entering)
        body.append(dataclasses.replace(block, ops=tuple(ops)))
    head = tuple(dataclasses.replace(conv, out=fewer(conv.out)) for conv in wide.head)
    return wide, dataclasses.replace(wide, blocks=tuple(body), head=head)


@pytest.mark.slow
@given(wide_and_narrow(), st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_a_network_hidden_in_a_wider_one_is_found_again(pair, seed):
    wide_spec, narrow_spec = pair
    narrow = random_checkpoint(narrow_spec, seed)
    wide = embedded(narrow, wide_spec, seed)
    np.testing.assert_allclose(logits(wide), logits(narrow), rtol=1e-3, atol=1e-3)
    assert logits(slice_width(wide, narrow_spec)).shape == (2, narrow_spec.classes)


@pytest.mark.slow
@each_family
def test_the_narrow_network_computes_what_it_did_inside_the_wide_one(family):
    wide_spec = FAMILY[family]
    narrow_spec = dataclasses.replace(
        NARROWER[family],
        classes=5,
        resolution=32,
        padding=wide_spec.padding,
        norm_epsilon=wide_spec.norm_epsilon,
    )
    narrow = random_checkpoint(narrow_spec)
    wide = embedded(narrow, wide_spec)
    np.testing.assert_allclose(logits(wide), logits(narrow), rtol=1e-3, atol=1e-3)
    found = slice_width(wide, NARROWER[family])
    assert found.spec == dataclasses.replace(narrow_spec, resolution=NARROWER[family].resolution)
    assert same_bits(found.tensors, narrow.tensors)


@pytest.mark.slow
@each_family
def test_the_same_width_gives_the_same_bits(family):
    checkpoint = random_checkpoint(FAMILY[family])
    for criterion in ("contribution", "filter_norm", "norm_scale"):
        found = slice_width(checkpoint, FAMILY[family], criterion=criterion)
        assert same_bits(found.tensors, checkpoint.tensors)


def small(*blocks, head=(), classes=2, name="small"):
    body = tuple(Block(tuple(ops), i, residual) for i, (ops, residual) in enumerate(blocks))
    return Spec(name, "tests", body, head=head, classes=classes, resolution=32)


def stem(out, **changes):
    return ((Conv("conv", 3, out, 2, "relu", **changes),), False)


def test_the_least_important_channel_goes():
    wide, narrow = small(stem(3)), small(stem(2))
    for criterion, name in (
        ("contribution", "classifier.weight"),
        ("filter_norm", "blocks.0.conv.conv.weight"),
        ("norm_scale", "blocks.0.conv.norm.weight"),
    ):
        checkpoint = random_checkpoint(wide)
        weight = checkpoint.tensors[name]
        weight[(slice(None),) * (name == "classifier.weight") + (1,)] *= 1e-3
        cut = slice_width(checkpoint, narrow, criterion=criterion).tensors
        for path in ("conv.weight", "norm.weight", "norm.running_var"):
            full = checkpoint.tensors[f"blocks.0.conv.{path}"]
            assert (cut[f"blocks.0.conv.{path}"] == full[[0, 2]]).all()
        assert (cut["classifier.weight"] == checkpoint.tensors["classifier.weight"][:, [0, 2]]).all()


def test_kept_channels_stay_in_their_order():
    wide = random_checkpoint(small(stem(12)))
    stems = wide.tensors["blocks.0.conv.conv.weight"]
    stems[:] = np.arange(12, dtype=np.float32)[:, None, None, None]
    kept = slice_width(wide, small(stem(7))).tensors["blocks.0.conv.conv.weight"][:, 0, 0, 0]
    assert (np.diff(kept) > 0).all()


def test_statistics_make_up_for_the_lost_channels():
    def network(width):
        return small(((Conv("conv", 3, width, 2),), False), ((Conv("pointwise", 1, 2),), False))

    wide = random_checkpoint(network(3))
    weight = wide.tensors["blocks.1.pointwise.conv.weight"]
    weight[:, 2] *= 1e-2
    shift, scale = (wide.tensors[f"blocks.0.conv.norm.{part}"] for part in ("bias", "weight"))
    cut = slice_width(wide, network(2)).tensors
    before = {
        part: wide.tensors[f"blocks.1.pointwise.norm.{part}"] for part in ("running_mean", "running_var")
    }
    mean = before["running_mean"] - weight[:, 2, 0, 0] * shift[2]
    brought = (weight[:, :, 0, 0] * scale) ** 2
    var = before["running_var"] * brought[:, :2].sum(axis=1) / brought.sum(axis=1)
    np.testing.assert_allclose(cut["blocks.1.pointwise.norm.running_mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(cut["blocks.1.pointwise.norm.running_var"], var, rtol=1e-5)


def test_a_bias_makes_up_for_the_lost_mean():
    wide = random_checkpoint(small(((Conv("conv", 3, 3, 2),), False)))
    wide.tensors["classifier.weight"][:, 0] *= 1e-2
    cut = slice_width(wide, small(((Conv("conv", 3, 2, 2),), False)))
    lost = wide.tensors["classifier.weight"][:, 0] * wide.tensors["blocks.0.conv.norm.bias"][0]
    np.testing.assert_allclose(
        cut.tensors["classifier.bias"], wide.tensors["classifier.bias"] + lost, rtol=1e-5
    )


def test_attention_keeps_whole_heads_and_its_sharpness():
    def network(heads, head_dim):
        attention = MultiQueryAttention(out=4, heads=heads, head_dim=head_dim)
        return small(stem(4), ((attention, LayerScale()), True))

    wide = random_checkpoint(network(3, 4))
    query, output = (wide.tensors[f"blocks.1.attention.{part}.weight"] for part in ("query", "output"))
    output[:, 4:8] = 0  # nobody listens to the second head
    query.reshape(3, 4, 4)[:, 2] = 0  # the third channel of every query says nothing
    cut = slice_width(wide, network(2, 3)).tensors["blocks.1.attention.query.weight"]
    kept = query.reshape(3, 4, 4)[np.ix_([0, 2], [0, 1, 3])].reshape(6, 4, 1, 1)
    np.testing.assert_allclose(cut, kept * (3 / 4) ** 0.5, rtol=1e-6)
    full = np.einsum("qi,ki->qk", query[:4, :, 0, 0], query[:4, :, 0, 0]) / 4**0.5
    less = np.einsum("qi,ki->qk", cut[:3, :, 0, 0], query[[0, 1, 3], :, 0, 0]) / 3**0.5
    np.testing.assert_allclose(less, full[np.ix_([0, 1, 3], [0, 1, 3])], rtol=1e-5, atol=1e-7)


def test_a_grouped_convolution_keeps_its_share_of_every_group_or_whole_groups():
    def network(c_in, out, groups):
        return small(stem(c_in), ((Conv("expand", 3, out, 1, groups=groups),), False))

    wide = random_checkpoint(network(8, 16, 4))
    shares = slice_width(wide, network(4, 8, 4)).tensors["blocks.1.expand.conv.weight"]
    assert shares.shape == (8, 1, 3, 3)
    whole = slice_width(wide, network(6, 12, 3)).tensors["blocks.1.expand.conv.weight"]
    parts = wide.tensors["blocks.1.expand.conv.weight"].reshape(4, 4, 2, 3, 3)
    found = [[(part == kept).all() for part in parts] for kept in whole.reshape(3, 4, 2, 3, 3)]
    assert np.array(found).sum() == 3
    with pytest.raises(SpecError, match="as many groups, or groups of that size"):
        slice_width(wide, network(6, 12, 2))


def test_a_shortcut_that_rounding_makes_is_named():
    wide = random_checkpoint(zoo.v3_small(1.0, classes=2, resolution=32))
    narrow = slice_width(wide, 0.5)
    assert narrow.spec.blocks[7].residual and not wide.spec.blocks[7].residual
    assert narrow.manifest.provenance["sliced"]["new_shortcuts"] == ["blocks.7"]


def test_the_result_says_where_it_comes_from():
    wide = random_checkpoint(FAMILY["v2"])
    manifest = dataclasses.replace(
        wide.manifest, licence="CC0-1.0", metrics={"test": {}}, provenance={"tool": "a test"}
    )
    wide = dataclasses.replace(wide, manifest=manifest, trained_on=frozenset({"0123456789abcdef"}))
    narrow = slice_width(wide, 0.35)
    assert narrow.spec.name == "mobilenet_v2_035"
    assert narrow.spec.resolution == 32
    assert narrow.manifest.provenance == {
        "sliced": {
            "from": "mobilenet_v2_050",
            "to": "mobilenet_v2_035",
            "criterion": "contribution",
            "new_shortcuts": [],
        },
        "parent": {"network": "mobilenet_v2_050", "provenance": {"tool": "a test"}},
    }
    assert narrow.manifest.metrics == {}
    assert (narrow.manifest.labels, narrow.manifest.licence) == (wide.manifest.labels, "CC0-1.0")
    assert narrow.trained_on == wide.trained_on


def test_a_width_follows_the_rule_that_made_the_network():
    wide = random_checkpoint(zoo.v3_small(0.75, rule="torchvision", classes=2, resolution=32))
    assert slice_width(wide, 0.5).spec.head == zoo.v3_small(0.5, rule="torchvision").head


def test_a_head_that_is_run_as_a_dense_layer_stays_one():
    """As torchvision's imports are."""
    spec = zoo.v3_small(0.75, rule="torchvision", classes=2, resolution=32)
    dense = tuple(dataclasses.replace(conv, dense=True) for conv in spec.head)
    wide = random_checkpoint(dataclasses.replace(spec, head=dense))
    for narrow in (slice_width(wide, 0.5), slice_width(wide, zoo.v3_small(0.5, rule="torchvision"))):
        assert [conv.dense for conv in narrow.spec.head] == [True]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (zoo.v2(0.75), r"blocks\.0\.conv has 24 channels, which is more than the 16"),
        (zoo.v1(0.25), "it has 14 blocks and 0 head convolutions"),
        (zoo.v1(0.25, shallow=True), "it has 9 blocks"),
        (
            dataclasses.replace(zoo.v2(0.35), blocks=(zoo.v2(0.35).blocks[0],) * 19),
            r"blocks\.1 is conv; in the checkpoint's mobilenet_v2_050 it is depthwise, project",
        ),
    ],
)
def test_what_cannot_be_sliced_is_named(network, message):
    wide = random_checkpoint(FAMILY["v2"])
    with pytest.raises(SpecError, match=message):
        slice_width(wide, network)
    with pytest.raises(SpecError, match=message):
        narrow_spec(wide.spec, network)


def test_another_kernel_or_a_missing_shortcut_is_another_network():
    wide = random_checkpoint(small(stem(4), ((Conv("conv", 3, 4),), True)))
    with pytest.raises(SpecError, match=r"blocks\.1\.conv differs by more than its channels"):
        slice_width(wide, small(stem(4), ((Conv("conv", 5, 4),), True)))
    with pytest.raises(SpecError, match=r"blocks\.1 has no shortcut"):
        slice_width(wide, small(stem(4), ((Conv("conv", 3, 2),), False)))


def test_a_width_needs_a_network_of_the_zoo_and_a_criterion_that_exists():
    foreign = random_checkpoint(small(stem(4)))
    with pytest.raises(InputError, match="'small' is none of the zoo's"):
        slice_width(foreign, 0.5)
    renamed = random_checkpoint(small(stem(4), name="mobilenet_v2_100"))
    with pytest.raises(InputError, match="does not have the channels"):
        slice_width(renamed, 0.5)
    with pytest.raises(UnknownName, match="criterion"):
        slice_width(foreign, small(stem(2)), criterion="magnitude")


@pytest.mark.slow
def test_a_sliced_imagenet_network_knows_more_than_one_of_random_channels(data, monkeypatch):
    """The criterion against others on real weights, V2 1.0 → 0.75, before any training."""
    torch = pytest.importorskip("torch")
    from mobilenets import slicing
    from mobilenets.evaluation import match_labels
    from mobilenets.folder import scan
    from mobilenets.loader import plain_batches
    from mobilenets.network import from_checkpoint, reestimate_norms
    from mobilenets.weights import import_file

    file = data / "weights-float" / "mobilenetv2_100.pt"
    wide = import_file(
        file, padding="same", epsilon=1e-5, mean=0.5, std=0.5, labels="imagenet", resolution=128
    ).checkpoint
    folder = scan(data / "imagenet-500", purpose="evaluate")
    place = torch.tensor(match_labels(wide.manifest.labels, folder))
    feed = plain_batches(
        folder.pictures[::4], wide.manifest.preprocessing, 128, torch.device("cpu"), batch_size=25
    )
    pictures = [(x.contiguous(memory_format=torch.channels_last), place[y]) for x, y in feed]

    def loss(checkpoint):
        network = from_checkpoint(checkpoint)
        reestimate_norms(network, [x for x, _ in pictures[::2]])
        with torch.inference_mode():
            rows = [torch.nn.functional.cross_entropy(network(x), y).item() for x, y in pictures[1::2]]
        return float(np.mean(rows))

    rng, rate = np.random.default_rng(0), slicing.rate
    found = {name: loss(slice_width(wide, 0.75, criterion=name)) for name in ("contribution", "norm_scale")}

    def at_random(*arguments):
        return {key: rng.random(score.shape) for key, score in rate(*arguments).items()}

    monkeypatch.setattr(slicing, "rate", at_random)
    assert found["contribution"] + 1.0 < found["norm_scale"]
    assert found["contribution"] + 1.0 < loss(slice_width(wide, 0.75))


def test_training_from_a_wider_checkpoint_slices_it(shapes_folder):
    pytest.importorskip("torch")
    from mobilenets.folder import scan
    from mobilenets.network import to_tensors
    from mobilenets.training.plan import make_plan, start_network

    folder, wide = scan(shapes_folder), random_checkpoint(FAMILY["v2"])
    plan = make_plan(
        folder,
        model="mobilenet_v2_035",
        init=wide,
        init_file=None,
        recipe=None,
        resolution=None,
        seed=0,
        command="",
    )
    assert (plan.spec.name, plan.spec.resolution, plan.spec.classes) == ("mobilenet_v2_035", 32, 3)
    assert plan.inherited.parent["network"] == "mobilenet_v2_050"
    assert plan.inherited.parent["sliced_to"] == "mobilenet_v2_035"
    heard = Heard()
    started = to_tensors(start_network(plan, wide, folder, heard))
    assert any("Sliced mobilenet_v2_050 to mobilenet_v2_035" in line for line in heard.lines)
    sliced = slice_width(wide, 0.35).tensors
    body = [name for name in sliced if "classifier" not in name]
    for name in body:
        measured = name.endswith(("running_mean", "running_var"))
        assert (started[name] == sliced[name]).all() != measured


def folded(checkpoint):
    """`checkpoint` as a file without norms leaves it: the identity with a bias."""
    tensors = dict(checkpoint.tensors)
    for name, value in checkpoint.tensors.items():
        if name.endswith(".norm.running_mean"):
            path = name.removesuffix("norm.running_mean")
            tensors |= {path + part: array for part, array in identity_norm(value * 0.1, 1e-3).items()}
    return dataclasses.replace(checkpoint, tensors=tensors)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param("mobilenet_v2_050", marks=pytest.mark.full), "mobilenet_v2_035"]
)
def test_training_gives_statistics_to_folded_norms(shapes_folder, tmp_path, name):
    """By `train` itself, with and without slicing, and it says so."""
    pytest.importorskip("torch")
    from mobilenets import recipe, train

    start = folded(random_checkpoint(FAMILY["v2"]))
    assert not any(start.tensors[key].any() for key in start.tensors if key.endswith("running_mean"))
    heard = Heard()
    short = dataclasses.replace(recipe.preset("finetune"), epochs=1)
    run = train(shapes_folder, model=name, init=start, recipe=short, out=tmp_path / "run", progress=heard)
    assert any("folded away: they get statistics" in line for line in heard.lines)
    assert any("Sliced" in line for line in heard.lines) == (name == "mobilenet_v2_035")
    assert run.checkpoint.spec.name == name
    means = [key for key in run.checkpoint.tensors if key.endswith("running_mean")]
    assert all(run.checkpoint.tensors[key].any() for key in means)


def test_training_says_why_a_checkpoint_cannot_be_sliced():
    pytest.importorskip("torch")
    from mobilenets.training.plan import choose_network

    wide = random_checkpoint(FAMILY["v2"])
    with pytest.raises(InputError, match=r"holds mobilenet_v2_050, and .* more than the 16") as error:
        choose_network("mobilenet_v2_100", wide, None)
    assert "at a smaller width" in str(error.value)
    assert choose_network(None, wide, None) is wide.spec
