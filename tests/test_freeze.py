"""Frozen means frozen: the same bits after training, whoever called `train()`."""

import copy

import pytest

from mobilenets import zoo
from mobilenets.errors import InputError, SpecError

torch = pytest.importorskip("torch")
from mobilenets.layers import Norm  # noqa: E402
from mobilenets.network import build, reestimate_norms, replace_classifier  # noqa: E402

SPECS = {
    "v2": zoo.v2(0.35, classes=4, resolution=32),
    "v3": zoo.v3_small(0.5, classes=4, resolution=32),
    "v4": zoo.v4_conv_small(0.35, classes=4, resolution=32),
}
each_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
SMALL = SPECS["v3"]


def pictures(n=6, seed=0):
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def body_of(network):
    return {name: value.clone() for name, value in network.state_dict().items() if "classifier" not in name}


def ready(spec):
    network = build(spec)
    reestimate_norms(network, [pictures(8, seed=9)])
    return network


def train_some(network, *, disturb=None):
    """Three steps of AdamW with weight decay over all parameters, frozen or not."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.1)
    for step in range(3):
        network.train()
        if disturb:
            disturb(network)
        loss = torch.nn.functional.cross_entropy(network(pictures(seed=step)), torch.arange(6) % 4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def changed_units(before, network):
    """`blocks.3`, `head.0`: the parts of which any tensor has other bits than before."""
    return {
        ".".join(name.split(".")[:2])
        for name, value in body_of(network).items()
        if value.numpy().tobytes() != before[name].numpy().tobytes()
    }


def all_units(network):
    return {f"blocks.{i}" for i in range(len(network.blocks))} | {
        f"head.{i}" for i in range(len(network.head))
    }


def train_every_module(network):
    for module in network.modules():
        module.train()


def train_the_blocks(network):
    network.blocks.train()
    network.blocks[0].conv.norm.train()


@pytest.mark.slow
@each_spec
@pytest.mark.parametrize("disturb", [None, train_every_module, train_the_blocks])
def test_a_frozen_body_keeps_its_bits(spec, disturb):
    network = ready(spec)
    network.freeze()
    before, classifier = body_of(network), network.classifier.weight.detach().clone()
    train_some(network, disturb=disturb)
    assert changed_units(before, network) == set()
    assert not torch.equal(network.classifier.weight, classifier)


def test_what_is_not_frozen_does_change():
    network = ready(SMALL)
    before = body_of(network)
    train_some(network)
    assert changed_units(before, network) == all_units(network)


@each_spec
def test_the_first_blocks_stay_and_the_others_learn(spec):
    network = ready(spec)
    network.freeze(5)
    before = body_of(network)
    train_some(network)
    assert changed_units(before, network) == all_units(network) - {f"blocks.{i}" for i in range(5)}


@pytest.mark.parametrize("last", [1, 3, 10**6])
def test_unfreezing_the_last_blocks(last):
    network = ready(SMALL)
    network.freeze()
    network.unfreeze_last(last)
    kept = max(0, len(network.blocks) - last)
    before = body_of(network)
    train_some(network)
    assert changed_units(before, network) == all_units(network) - {f"blocks.{i}" for i in range(kept)}


def test_unfreezing_none_leaves_the_body_frozen():
    network = ready(SMALL)
    network.unfreeze_last(0)
    before = body_of(network)
    train_some(network)
    assert changed_units(before, network) == set()


def test_freeing_everything_again():
    network = ready(SMALL)
    network.train()
    network.freeze()
    network.freeze(0)
    assert all(p.requires_grad for p in network.parameters())
    assert all(norm.training for norm in network.modules() if isinstance(norm, Norm))
    before = body_of(network)
    train_some(network)
    assert changed_units(before, network) == all_units(network)


def test_freezing_keeps_the_mode():
    network = ready(SMALL)
    for mode in (True, False):
        network.train(mode)
        network.freeze(2)
        assert network.training == mode and network.blocks[5].training == mode
        assert not any(norm.training for norm in network.blocks[:2].modules() if isinstance(norm, Norm))


def test_frozen_parameters_get_no_gradient_and_a_frozen_body_needs_no_graph():
    network = ready(SMALL)
    network.freeze()
    network.train()
    assert not network.forward_body(pictures()).requires_grad
    network(pictures()).sum().backward()
    assert {name for name, p in network.named_parameters() if p.grad is not None} == {
        "classifier.weight",
        "classifier.bias",
    }


@pytest.mark.parametrize(
    ("blocks", "text"),
    [
        (None, "batch norms: 34 frozen, 0 updated"),
        (0, "batch norms: 0 frozen, 34 updated"),
        (1, "batch norms: 1 frozen, 33 updated"),
    ],
)
def test_the_count_of_norms(blocks, text):
    network = build(zoo.v3_small(classes=4, resolution=32))
    network.freeze(blocks)
    assert str(network.norm_count()) == text
    assert sum(norm.training for norm in network.train().modules() if isinstance(norm, Norm)) == int(
        network.norm_count().updated
    )


@pytest.mark.parametrize("blocks", [-1, 14, 100])
def test_a_number_of_blocks_that_cannot_be(blocks):
    network = build(SMALL)
    with pytest.raises(InputError, match=f"{blocks} blocks"):
        network.freeze(blocks)
    if blocks < 0:
        with pytest.raises(InputError, match="-1 blocks"):
            network.unfreeze_last(blocks)


def test_copies_are_frozen_alike():
    """A deep copy, and torch's averaged model, which makes one."""
    network = ready(SMALL)
    network.freeze(4)
    again = copy.deepcopy(network)
    average = torch.optim.swa_utils.AveragedModel(network)
    for model in (again, average.module):
        assert model.norm_count() == network.norm_count()
        before = body_of(model)
        train_some(model)
        assert changed_units(before, model) == all_units(model) - {f"blocks.{i}" for i in range(4)}


def test_a_wrapper_cannot_thaw():
    network = ready(SMALL)
    network.freeze()
    before = body_of(network)
    train_some(torch.nn.Sequential(network))
    assert changed_units(before, network) == set()


@each_spec
def test_a_new_classifier_on_the_same_body(spec):
    network = ready(spec).eval()
    network.freeze(3)
    changed = replace_classifier(network, 9, seed=5)
    assert (changed.spec.classes, changed.spec.blocks) == (9, spec.blocks)
    assert network.spec == spec and network.classifier.out_features == 4
    assert changed_units(body_of(network), changed) == set()
    assert changed.norm_count() == network.norm_count()
    assert not changed.training and changed.classifier.weight.requires_grad
    assert changed(pictures()).shape == (6, 9)
    assert torch.equal(changed.classifier.weight, replace_classifier(network, 9, seed=5).classifier.weight)
    assert not torch.equal(
        changed.classifier.weight, replace_classifier(network, 9, seed=6).classifier.weight
    )
    assert not changed.classifier.bias.any()
    with torch.no_grad():
        changed.blocks[0].conv.conv.weight.zero_()
    assert network.blocks[0].conv.conv.weight.any()


@pytest.mark.parametrize("classes", [0, -1, 2.5, True])
def test_a_number_of_classes_that_cannot_be(classes):
    with pytest.raises(SpecError, match="classes"):
        replace_classifier(build(SMALL), classes)
