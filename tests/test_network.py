import copy
import dataclasses
import math
import shutil

import numpy as np
import pytest
from hypothesis import given, settings

from mobilenets import cost, zoo
from mobilenets.checkpoint import Checkpoint, Manifest
from mobilenets.errors import InputError, SpecError
from mobilenets.preprocessing import for_channels
from mobilenets.spec import Block, Conv, Spec, layers, padding_amounts, tensor_shapes
from spec_strategies import specs

torch = pytest.importorskip("torch")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from mobilenets.layers import Norm, PaddedConv  # noqa: E402
from mobilenets.network import (  # noqa: E402
    MobileNet,
    build,
    feature_maps,
    from_checkpoint,
    initialise,
    reestimate_norms,
    to_tensors,
)

SMALL = zoo.v3_small(0.5, classes=10, resolution=64)
SAME = zoo.v3_small(0.5, minimalistic=True, classes=10, resolution=64)
UNIVERSAL = zoo.v4_conv_small(0.35, classes=10, resolution=64)
SPECS = {"v2": zoo.v2(0.35, classes=10, resolution=64), "v3": SMALL, "same": SAME, "v4": UNIVERSAL}
each_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
a_spec_or_slowly_all = pytest.mark.parametrize(
    "spec",
    [
        pytest.param(spec, marks=() if key == "v3" else pytest.mark.full, id=key)
        for key, spec in SPECS.items()
    ],
)
"""For what takes torch seconds to trace: one network, and the others in the whole matrix."""


def pictures(n=2, side=64, channels=3, seed=0):
    return torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(seed))


def trained(spec):
    """A network whose norms have statistics, so that it computes something of ordinary size."""
    network = build(spec)
    reestimate_norms(network, [pictures(8, spec.resolution, spec.channels, seed=9)])
    return network.eval()


def stored_tensors(network):
    return {
        key: tuple(value.shape)
        for key, value in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.names())
def test_tensors_are_those_of_the_spec_in_order(name):
    spec = zoo.build(name, classes=7, channels=1)
    with torch.device("meta"):
        network = MobileNet(spec)
    assert list(stored_tensors(network).items()) == list(tensor_shapes(spec).items())


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(specs())
def test_any_legal_spec_builds_runs_and_agrees(spec):
    network = build(spec).eval()
    assert list(stored_tensors(network).items()) == list(tensor_shapes(spec).items())
    counted = cost.count(spec)
    assert sum(p.numel() for p in network.parameters()) == counted.params
    sides = {}
    for layer in layers(spec):
        if layer.path.startswith("blocks"):
            module = network.get_submodule(layer.path)
            module.register_forward_hook(lambda m, i, out, path=layer.path: sides.update({path: out.shape}))
    x = pictures(2, spec.resolution, spec.channels)
    with torch.no_grad():
        logits = network(x)
    assert logits.shape == (2, spec.classes) and bool(torch.isfinite(logits).all())
    for layer in layers(spec):
        if layer.path in sides:
            assert sides[layer.path] == (2, layer.c_out, layer.size_out, layer.size_out)


@pytest.mark.slow
@each_spec
@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 32), (75, 49), (40, 128)])
def test_features_come_at_every_stride_and_at_any_size(spec, height, width):
    network = trained(spec)
    x = torch.randn(2, 3, height, width)
    with torch.no_grad():
        maps = network.forward_features(x)
        body = network.forward_body(x)
        logits = network(x)
    listed = feature_maps(spec)
    assert [entry.stride for entry in listed] == [2, 4, 8, 16, 32]
    for entry, feature in zip(listed, maps, strict=True):
        expected = (2, entry.channels, math.ceil(height / entry.stride), math.ceil(width / entry.stride))
        assert feature.shape == expected
    assert torch.equal(maps[-1], body)
    assert torch.equal(network.forward_head(body), logits)


def test_feature_maps_of_v2_are_the_papers():
    assert [entry.channels for entry in feature_maps(zoo.v2())] == [16, 24, 32, 96, 1280]
    assert feature_maps(zoo.v2())[-1].block == 18


def test_maps_that_were_handed_out_are_not_overwritten():
    network, x = trained(SMALL), pictures()
    with torch.no_grad():
        together = network.forward_features(x)
        for entry, kept in zip(feature_maps(SMALL), together, strict=True):
            alone = x
            for block in network.blocks[: entry.block + 1]:
                alone = block(alone)
            assert torch.equal(alone, kept)


def test_features_before_the_classifier():
    network = trained(SMALL)
    with torch.no_grad():
        body = network.forward_body(pictures())
        features = network.forward_head(body, pre_logits=True)
        assert features.shape == (2, SMALL.features)
        assert torch.equal(network.classifier(features), network.forward_head(body))


def test_dropout_acts_before_the_classifier_in_training_alone():
    spec = dataclasses.replace(SMALL, dropout=0.5)
    network, plain = trained(spec), trained(SMALL)
    with torch.no_grad():
        assert torch.equal(network(pictures()), plain(pictures()))
        network.dropout.train()
        body = network.forward_body(pictures())
        assert not torch.equal(network.forward_head(body), network.forward_head(body))
        assert torch.equal(
            network.forward_head(body, pre_logits=True), plain.forward_head(body, pre_logits=True)
        )


@pytest.mark.parametrize(
    ("shape", "said"),
    [((2, 1, 64, 64), "(2, 1, 64, 64)"), ((3, 64, 64), "(3, 64, 64)"), ((1, 3, 31, 64), "31")],
)
def test_an_input_that_does_not_fit(shape, said):
    network = build(SMALL).eval()
    for forward in (network, network.forward_body, network.forward_features):
        with pytest.raises(InputError, match="takes N×3×H×W") as error:
            forward(torch.zeros(shape))
        assert said in str(error.value)


@pytest.mark.parametrize("name", ["forward", "training", "type"])
def test_an_op_with_a_name_that_torch_uses(name):
    spec = Spec("s", "", (Block((Conv(name, 3, 8, 2),), 0),))
    with pytest.raises(SpecError, match=f"cannot be named '{name}'"):
        build(spec)


def test_every_parameter_learns():
    network = build(SMALL)
    network(pictures(4)).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


# --- padding ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_padding_is_where_the_rule_says(kernel, stride, padding):
    """Every output pixel against a window cut by hand from a padded picture, also oblong ones."""
    conv = PaddedConv(2, Conv("c", kernel, 3, stride, norm=False), padding)
    weight = conv.weight.detach().numpy().astype(np.float64)
    bias = conv.bias.detach().numpy()
    for height, width in ((8, 9), (9, 8), (7, 7), (10, 10)):
        x = torch.randn(1, 2, height, width)
        amounts = [padding_amounts(side, kernel, stride, padding) for side in (height, width)]
        padded = np.pad(x[0].numpy().astype(np.float64), [(0, 0), *amounts])
        with torch.no_grad():
            result = conv(x)[0].numpy()
        assert result.shape == (3, -(-height // stride), -(-width // stride))
        for i in range(result.shape[1]):
            for j in range(result.shape[2]):
                window = padded[:, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
                expected = (weight * window).sum((1, 2, 3)) + bias
                np.testing.assert_allclose(result[:, i, j], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("side", "pads"), [(64, 5), (65, 0), (66, 1)])
def test_a_padding_op_is_spent_only_where_the_amounts_are_not_symmetric(side, pads):
    with torch.device("meta"):
        network, picture = MobileNet(SAME).eval(), torch.empty(1, 3, side, side)
    with OpNames() as ops, torch.no_grad():
        network(picture)
    assert sum("pad" in name for name in ops.names) == pads
    assert sum("convolution" in name for name in ops.names) == sum(
        isinstance(layer.op, Conv) for layer in layers(SAME)
    )


class OpNames(TorchDispatchMode):
    """Lists every operation that torch runs."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


# --- initial weights -------------------------------------------------------------------------


def test_initial_weights_of_tf_slim():
    network = build(zoo.v2(1.0))
    for name, parameter in network.named_parameters():
        weight = parameter.detach()
        if name.endswith(("conv.weight", "classifier.weight")):
            assert float(weight.abs().max()) <= 0.18
            if weight.numel() > 2000:
                assert float(weight.std()) == pytest.approx(0.09 * 0.87963, rel=0.05), name
        elif name.endswith("norm.weight"):
            assert bool((weight == 1).all())
        else:
            assert name.endswith("bias") and not bool(weight.any())
    for name, buffer in network.named_buffers():
        assert bool((buffer == (1 if name.endswith("running_var") else 0)).all())


def test_initial_weights_of_v4_keep_the_variance():
    network = build(zoo.v4_conv_medium())
    seen = set()
    for layer in layers(network.spec):
        if isinstance(layer.op, Conv):
            weight = network.get_submodule(layer.path).conv.weight.detach()
            fan_in = layer.op.kernel**2 * (1 if layer.op.depthwise else layer.c_in)
            std = fan_in**-0.5
            assert float(weight.abs().max()) <= 2 * std / 0.87962
            if weight.numel() > 4000:
                seen.add(layer.op.depthwise)
                assert float(weight.std()) == pytest.approx(std, rel=0.05), layer.path
    assert seen == {True, False}
    classifier = network.classifier.weight.detach()
    assert float(classifier.std()) == pytest.approx(1280**-0.5, rel=0.02)


def test_a_seed_decides_the_weights_and_nothing_else_does():
    state = torch.get_rng_state()
    first, again, other = build(SMALL, seed=3), build(SMALL, seed=3), build(SMALL, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    initialise(other, seed=3)
    assert torch.equal(first.classifier.weight, other.classifier.weight)


# --- tensors and checkpoints -----------------------------------------------------------------


def checkpoint_of(network):
    spec = network.spec
    return Checkpoint(
        Manifest(spec, tuple(map(str, range(spec.classes))), for_channels(spec.channels)), to_tensors(network)
    )


@pytest.mark.slow
@each_spec
def test_a_checkpoint_gives_the_same_network(spec):
    network = trained(spec).to(memory_format=torch.channels_last)
    tensors = to_tensors(network)
    assert {name: array.shape for name, array in tensors.items()} == tensor_shapes(spec)
    assert list(tensors) == list(tensor_shapes(spec))
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in tensors.values())
    again = from_checkpoint(checkpoint_of(network))
    assert not again.training
    assert not any(norm.training for norm in again.modules() if isinstance(norm, Norm))
    for key, value in network.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, again.state_dict()[key])
    with torch.no_grad():
        contiguous = network.to(memory_format=torch.contiguous_format)
        assert torch.equal(contiguous(pictures()), again(pictures()))


def test_tensors_are_copies():
    network = build(SMALL)
    tensors = to_tensors(network)
    again = from_checkpoint(checkpoint_of(network))
    with torch.no_grad():
        network.classifier.weight.fill_(1)
        again.classifier.bias.fill_(2)
    assert not np.any(tensors["classifier.weight"] == 1) and not tensors["classifier.bias"].any()
    again.train()
    again(pictures(4)).sum().backward()


# --- batch norm statistics -------------------------------------------------------------------


def test_reestimated_norms_hold_the_averages_over_the_batches():
    network = build(SMALL)
    batches = [pictures(4, seed=seed) for seed in range(3)]
    assert reestimate_norms(network, iter(batches)) == 3
    first = network.blocks[0].conv
    with torch.no_grad():
        maps = [first.conv(batch) for batch in batches]
    mean = torch.stack([x.mean((0, 2, 3)) for x in maps]).mean(0)
    variance = torch.stack([x.var((0, 2, 3)) for x in maps]).mean(0)
    torch.testing.assert_close(first.norm.running_mean, mean)
    torch.testing.assert_close(first.norm.running_var, variance)
    assert network.training and all(m.momentum == SMALL.norm_momentum for m in norms(network))


def norms(network):
    return [module for module in network.modules() if isinstance(module, Norm)]


def test_reestimated_norms_keep_mode_weights_and_frozen_statistics():
    network = trained(SMALL)
    network.freeze(3)
    before = copy.deepcopy(network.state_dict())
    reestimate_norms(network, [pictures(4, seed=5)])
    assert not network.training and not any(norm.training for norm in norms(network))
    changed = {
        name
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked") and not torch.equal(value, before[name])
    }
    expected = {
        name
        for name in before
        if name.endswith(("running_mean", "running_var")) and name.split(".")[1] not in ("0", "1", "2")
    }
    assert changed == expected


@pytest.mark.parametrize(
    "batches", [[], [pictures(4), pictures(1)], [pictures(4), torch.zeros(2, 1, 64, 64)]]
)
def test_norms_stay_as_they_were_where_they_cannot_be_measured(batches):
    network = trained(SMALL)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(InputError):
        reestimate_norms(network, batches)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.training and all(m.momentum == SMALL.norm_momentum for m in norms(network))


# --- with the rest of torch ------------------------------------------------------------------


@each_spec
def test_deep_copies_are_equal_and_independent(spec):
    network = trained(spec)
    again = copy.deepcopy(network)
    with torch.no_grad():
        assert torch.equal(network(pictures()), again(pictures()))
        again.classifier.weight.zero_()
        assert network.classifier.weight.any()


@pytest.mark.slow
@a_spec_or_slowly_all
def test_compiles_without_a_graph_break(spec):
    torch._dynamo.reset()
    network = trained(spec)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(pictures()), network(pictures()))


@pytest.mark.full
def test_a_compiled_network_trains_like_the_plain_one():
    torch._dynamo.reset()
    network = build(SMALL)
    network.freeze(4)
    again = copy.deepcopy(network)
    compiled = torch.compile(again, backend="aot_eager")
    for model in (network, compiled):
        model.train()
        model(pictures(4)).square().mean().backward()
    for (name, plain), other in zip(network.named_parameters(), again.parameters(), strict=True):
        assert (plain.grad is None) == (other.grad is None), name
        if plain.grad is not None:
            torch.testing.assert_close(plain.grad, other.grad, rtol=1e-3, atol=1e-4)
    for one, other in zip(network.buffers(), again.buffers(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler; there is no g++")
@each_spec
def test_compiles_with_inductor(spec):
    torch._dynamo.reset()
    network = trained(spec)
    with torch.no_grad():
        result = torch.compile(network)(pictures())
        torch.testing.assert_close(result, network(pictures()), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@a_spec_or_slowly_all
@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.full)])
def test_exports_with_a_dynamic_batch(spec, strict):
    network = trained(spec)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(network, (pictures(2),), dynamic_shapes={"x": {0: batch}}, strict=strict)
    with torch.no_grad():
        for n in (1, 2, 5):
            torch.testing.assert_close(program.module()(pictures(n)), network(pictures(n)))


@each_spec
def test_channels_last_is_kept_and_agrees(spec):
    network = trained(spec)
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    x = pictures().contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        maps = last.forward_features(x)
        torch.testing.assert_close(last(x), network(pictures()), rtol=1e-3, atol=1e-4)
    assert all(feature.is_contiguous(memory_format=torch.channels_last) for feature in maps)


@pytest.mark.slow
@each_spec
def test_trains_under_autocast_in_bf16(spec):
    network = trained(spec).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(pictures(4))
        assert logits.dtype == torch.bfloat16
        loss = torch.nn.functional.cross_entropy(logits.float(), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in network.parameters())
    assert all(norm.running_mean.dtype == torch.float32 for norm in norms(network))
    network = trained(spec)
    with torch.no_grad():
        plain = network(pictures(8))
        with torch.autocast("cpu", torch.bfloat16):
            half = network(pictures(8)).float()
    correlation = torch.corrcoef(torch.stack([plain.flatten(), half.flatten()]))[0, 1]
    assert float(correlation) > 0.95  # bf16 keeps 8 bits of 24, through fifty layers
