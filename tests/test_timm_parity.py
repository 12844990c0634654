"""The same torch operations as timm 1.0.31, on the same weights: logits equal to the bit."""

import dataclasses
from functools import partial

import pytest

from mobilenets import zoo
from mobilenets.checkpoint import Checkpoint, Manifest
from mobilenets.errors import SpecError
from mobilenets.preprocessing import for_channels
from mobilenets.spec import Block, Conv, Spec

torch = pytest.importorskip("torch")
from mobilenets.layers import Norm  # noqa: E402
from mobilenets.network import build, from_checkpoint, reestimate_norms, to_tensors  # noqa: E402
from mobilenets.weights import import_file  # noqa: E402
from mobilenets.weights.timm import timm_names  # noqa: E402

slow, full = pytest.mark.slow, pytest.mark.full
# timm's name → the family function, and the width it takes.
FAST = {
    "mobilenetv1_100": (zoo.v1, 1.0),
    "mobilenetv2_050": (zoo.v2, 0.5),
    "mobilenetv2_100": (zoo.v2, 1.0),
    "mobilenetv2_140": (zoo.v2, 1.4),
    "mobilenetv3_large_075": (zoo.v3_large, 0.75),
    "mobilenetv3_large_100": (zoo.v3_large, 1.0),
    "mobilenetv3_small_075": (zoo.v3_small, 0.75),
    "mobilenetv3_small_100": (zoo.v3_small, 1.0),
    "tf_mobilenetv3_large_minimal_100": (partial(zoo.v3_large, minimalistic=True), 1.0),
    "tf_mobilenetv3_small_minimal_100": (partial(zoo.v3_small, minimalistic=True), 1.0),
    "mobilenetv4_conv_small": (zoo.v4_conv_small, 1.0),
    "mobilenetv4_hybrid_medium": (zoo.v4_hybrid_medium, 1.0),
    "mobilenet_edgetpu_100": (zoo.edgetpu, 1.0),
    "mobilenet_edgetpu_v2_xs": (partial(zoo.edgetpu_v2, size="xs"), 1.0),
}
SLOW = {
    "mobilenetv4_conv_medium": (zoo.v4_conv_medium, 1.0),
    "mobilenetv4_conv_large": (zoo.v4_conv_large, 1.0),
    "mobilenetv1_125": (zoo.v1, 1.25),
    "mobilenetv2_035": (zoo.v2, 0.35),
    "mobilenetv2_075": (zoo.v2, 0.75),
    "mobilenetv3_small_050": (zoo.v3_small, 0.5),
    "mobilenetv4_conv_small_035": (zoo.v4_conv_small, 0.35),
    "mobilenetv4_conv_small_050": (zoo.v4_conv_small, 0.5),
    **{f"mobilenet_edgetpu_v2_{size}": (partial(zoo.edgetpu_v2, size=size), 1.0) for size in ("s", "m", "l")},
    "mobilenetv4_hybrid_medium_075": (zoo.v4_hybrid_medium, 0.75),
    "mobilenetv4_hybrid_large": (zoo.v4_hybrid_large, 1.0),
    "mobilenetv4_hybrid_large_075": (zoo.v4_hybrid_large, 0.75),
}
NETWORKS = FAST | SLOW
each_network = pytest.mark.parametrize(
    "name",
    [
        *FAST,
        *(pytest.param(name, marks=full if "large" in name or "_v2_l" in name else slow) for name in SLOW),
    ],
)


def randomised(spec):
    """Random weights, norm scales and shifts, and statistics near those that the network sees."""
    network = build(spec, seed=1)
    generator = torch.Generator().manual_seed(2)

    def around(centre, spread, like):
        return centre + spread * (2 * torch.rand(like.shape, generator=generator) - 1)

    norms = [module for module in network.modules() if isinstance(module, Norm)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.copy_(around(1.0, 0.5, norm.weight))
            norm.bias.copy_(around(0.0, 0.5, norm.bias))
        for conv in network.modules():
            if isinstance(conv, torch.nn.Conv2d | torch.nn.Linear) and conv.bias is not None:
                conv.bias.copy_(around(0.0, 0.5, conv.bias))
        reestimate_norms(network, [torch.randn(4, spec.channels, 64, 64, generator=generator)])
        for norm in norms:
            norm.running_mean.add_(around(0.0, 0.1, norm.running_mean))
            norm.running_var.mul_(around(1.0, 0.2, norm.running_var))
    return network.eval()


def stored(module):
    return {
        name: value for name, value in module.state_dict().items() if not name.endswith("num_batches_tracked")
    }


def with_our_weights(theirs, network):
    """timm's model with our tensors, matched by their order alone."""
    names, values = list(stored(theirs)), list(stored(network).values())
    state = dict(zip(names, values, strict=True))
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
    return theirs.eval()


def assert_equal_to_the_bit(network, theirs, sides, channels=3):
    for side in sides:
        x = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(side))
        with torch.inference_mode():
            ours, expected = network(x), theirs(x)
        assert float(expected.std()) > 1e-3 and bool(torch.isfinite(expected).all())
        assert torch.equal(ours, expected), f"at {side} px they differ by {(ours - expected).abs().max()}"


@pytest.mark.slow
@each_network
def test_logits_equal_timms_to_the_bit(timm, name):
    """Also at an odd side, where `same` padding takes its other path."""
    family, width = NETWORKS[name]
    spec = family(width)
    network = randomised(spec)
    theirs = with_our_weights(timm.create_model(name), network)
    assert_equal_to_the_bit(network, theirs, (min(spec.resolution, 224), 97))


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("mobilenetv2_050", zoo.v2(0.5, classes=7, channels=1)),
        ("mobilenetv1_100", zoo.v1(classes=2, channels=4)),
    ],
)
def test_other_padding_epsilon_classes_and_channels(timm, name, spec):
    spec = dataclasses.replace(spec, padding="same", norm_epsilon=1e-3)
    network = randomised(spec)
    theirs = timm.create_model(
        name, num_classes=spec.classes, in_chans=spec.channels, pad_type="same", bn_eps=spec.norm_epsilon
    )
    assert_equal_to_the_bit(network, with_our_weights(theirs, network), (64, 75), spec.channels)


@pytest.mark.slow
@each_network
def test_names_are_timms_in_timms_order(timm, name):
    family, width = NETWORKS[name]
    spec = family(width)
    with torch.device("meta"):
        theirs = stored(timm.create_model(name))
    assert list(timm_names(spec).values()) == list(theirs)


@pytest.mark.parametrize("name", ["mobilenetv2_050", "mobilenetv3_small_075", "mobilenetv4_conv_small_050"])
def test_a_state_dict_saved_from_timm_comes_in(timm, name, tmp_path):
    """The way round: timm's own initial weights, saved by timm's user, imported, equal to the bit."""
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=5).eval()
    torch.save(theirs.state_dict(), tmp_path / "model.pth")
    imported = import_file(tmp_path / "model.pth").checkpoint
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(from_checkpoint(imported)(x), theirs(x))


@pytest.mark.slow
def test_our_weights_go_out_under_timms_names(timm, tmp_path):
    spec = zoo.v3_small(classes=3)
    network = randomised(spec)
    checkpoint = Checkpoint(Manifest(spec, ("a", "b", "c"), for_channels(3)), to_tensors(network))
    names = timm_names(spec)
    state = {names[ours]: torch.from_numpy(array) for ours, array in checkpoint.tensors.items()}
    theirs = timm.create_model("mobilenetv3_small_100", num_classes=3)
    theirs.load_state_dict(state, strict=False)
    assert_equal_to_the_bit(network, theirs.eval(), (64,))


@pytest.mark.parametrize(
    "blocks",
    [
        (Block((Conv("a", 3, 8, 2), Conv("b", 3, 8)), 0),),
        (Block((Conv("a", 3, 8, 2),), 0), Block((Conv("a", 3, 8), Conv("b", 3, 8)), 1)),
    ],
)
def test_a_network_that_timm_cannot_express(blocks):
    with pytest.raises(SpecError, match="timm cannot express"):
        timm_names(Spec("s", "", blocks))
