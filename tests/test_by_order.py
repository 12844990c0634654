"""State dicts under names that nobody knows: recognised by the order and shapes of their tensors."""

import dataclasses
from collections import OrderedDict

import numpy as np
import pytest

from mobilenets import spec as specs
from mobilenets import zoo
from mobilenets.checkpoint import Checkpoint, Manifest
from mobilenets.errors import CheckpointError
from mobilenets.spec import Conv, SqueezeExcite
from mobilenets.tolerances import LOGITS_RELATIVE

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import parity_rows  # noqa: E402
from mobilenets.layers import activation  # noqa: E402
from mobilenets.network import from_checkpoint  # noqa: E402
from mobilenets.weights.by_order import found_by_order  # noqa: E402

# --- a repository as people write them: numbered sequences, in the order in which they run -----------


class Gate(nn.Module):
    """Dense layers as in d-li14/mobilenetv3.pytorch, or 1×1 convolutions."""

    def __init__(self, channels, squeeze, dense, bias):
        super().__init__()
        self.dense = dense
        layer = nn.Linear if dense else lambda a, b, bias: nn.Conv2d(a, b, 1, bias=bias)
        first, second = layer(channels, squeeze, bias=bias), layer(squeeze, channels, bias=bias)
        self.fc = nn.Sequential(first, nn.ReLU(), second, nn.Hardsigmoid())

    def forward(self, x):
        pooled = x.mean((2, 3), keepdim=not self.dense)
        return x * self.fc(pooled).reshape(*x.shape[:2], 1, 1)


class PlainBlock(nn.Module):
    def __init__(self, c_in, block, style):
        super().__init__()
        layers, gates, self.residual = [], [], block.residual
        for op in block.ops:
            if isinstance(op, SqueezeExcite):
                gate = Gate(c_in, op.squeeze, style["dense_gates"], style["gate_bias"])
                if style["early_gates"]:
                    layers.insert(-1, gate)
                elif style["gate_place"] == "computed":
                    layers.append(gate)
                else:
                    gates.append((gate, len(layers)))
                continue
            groups = c_in if op.depthwise else op.groups
            layers.append(
                nn.Conv2d(
                    c_in,
                    op.out,
                    op.kernel,
                    op.stride,
                    op.kernel // 2,
                    groups=groups,
                    bias=style["conv_bias"],
                )
            )
            layers.append(nn.BatchNorm2d(op.out))
            c_in = op.out
            if op.activation != "none":
                layers.append(activation(op.activation))
        self.gate_after = gates[0][1] if gates else None
        if gates and style["gate_place"] == "first":
            self.se = gates[0][0]
        self.conv = nn.Sequential(*layers)
        if gates and style["gate_place"] == "last":
            self.se = gates[0][0]

    def forward(self, x):
        shortcut = x
        for index, layer in enumerate(self.conv):
            if index == self.gate_after:
                x = self.se(x)
            x = layer(x)
        return x + shortcut if self.residual else x


class Plain(nn.Module):
    def __init__(self, spec, **style):
        super().__init__()
        style = STYLE | style
        blocks, c_in = [], spec.channels
        for block in spec.blocks:
            blocks.append(PlainBlock(c_in, block, style))
            c_in = block.out
        self.features = nn.Sequential(*blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        head = []
        for conv in spec.head:
            head += [nn.Linear(c_in, conv.out) if style["dense_head"] else nn.Conv2d(c_in, conv.out, 1)]
            head += [activation(conv.activation)]
            c_in = conv.out
        self.flat = style["dense_head"]
        last = nn.Linear if style["dense_head"] else lambda a, b: nn.Conv2d(a, b, 1)
        self.classifier = nn.Sequential(*head, nn.Dropout(0.2), last(c_in, spec.classes))

    def forward(self, x):
        x = self.avgpool(self.features(x))
        return self.classifier(x.flatten(1) if self.flat else x).flatten(1)


STYLE = {
    "dense_gates": True,
    "gate_bias": True,
    "early_gates": False,
    "gate_place": "computed",
    "dense_head": True,
    "conv_bias": False,
}


def state_of(model):
    """What the importer hands on: arrays, without step counters."""
    return OrderedDict(
        (name, value.numpy().copy())
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    )


def network_of(found):
    labels = tuple(map(str, range(found.spec.classes)))
    return from_checkpoint(Checkpoint(Manifest(found.spec, labels, found.preprocessing), found.tensors))


def relative_difference(found, model, side=65):
    x = torch.randn(2, found.spec.channels, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours, theirs = network_of(found)(x), model(x)
    assert float(theirs.std()) > 1e-3
    return float((ours - theirs).abs().max() / theirs.std())


V3 = zoo.v3_small(classes=7)
RELU_V1 = dataclasses.replace(
    zoo.v1(0.5, classes=7),
    blocks=tuple(
        dataclasses.replace(b, ops=tuple(dataclasses.replace(op, activation="relu") for op in b.ops))
        for b in zoo.v1(0.5).blocks
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "style", "name"),
    [
        (RELU_V1, {}, "mobilenet_v1_050"),
        (zoo.v2(0.35, classes=7, channels=1), {}, "mobilenet_v2_035"),
        (zoo.v2(0.6, classes=7), {"dense_head": False}, "mobilenet_v2_060"),
        (zoo.v2(0.35, classes=7), {"conv_bias": True}, "mobilenet_v2_035"),
        (V3, {}, "mobilenet_v3_small_100"),
        (V3, {"dense_gates": False, "dense_head": False}, "mobilenet_v3_small_100"),
        (V3, {"gate_bias": False}, "mobilenet_v3_small_100"),
        (V3, {"early_gates": True}, "mobilenet_v3_small_100"),
        (V3, {"gate_place": "first", "dense_gates": False}, "mobilenet_v3_small_100"),
        (V3, {"gate_place": "last"}, "mobilenet_v3_small_100"),
        (zoo.v3_small(0.75, classes=7, rule="torchvision"), {}, "mobilenet_v3_small_075"),
        pytest.param(zoo.v3_large(0.75, classes=7), {}, "mobilenet_v3_large_075", marks=pytest.mark.slow),
        pytest.param(
            dataclasses.replace(zoo.v4_conv_small(0.35, classes=7), head=()),
            {},
            None,
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda value: value.name if isinstance(value, specs.Spec) else str(value),
)
def test_a_plain_repository_computes_the_same(spec, style, name):
    model = parity_rows.randomise(Plain(spec, **style), channels=spec.channels)
    if name is None:
        with pytest.raises(CheckpointError, match="nearest network"):
            found_by_order(state_of(model))
        return
    found = found_by_order(state_of(model))
    assert (found.spec.name, found.spec.classes, found.spec.channels) == (name, 7, spec.channels)
    assert relative_difference(found, model) <= LOGITS_RELATIVE / 10
    assert any(sentence.startswith("Shapes do not say") for sentence in found.notes)


def test_a_repository_with_its_own_small(tmp_path):
    """kuan-wang/pytorch-mobilenet-v3: early gates without biases, one more expansion, a head of 1280."""
    paper = zoo.v3_small(head=1280, classes=7)
    stem, first, *rest = paper.blocks
    expand = Conv("expand", 1, 16, 1, "relu")
    spec = dataclasses.replace(
        paper, blocks=(stem, dataclasses.replace(first, ops=(expand, *first.ops)), *rest)
    )
    model = parity_rows.randomise(Plain(spec, early_gates=True, gate_bias=False))
    found = found_by_order(state_of(model))
    assert relative_difference(found, model) <= LOGITS_RELATIVE / 10
    said = " ".join(found.notes)
    assert "first block expands as well, and its head has 1,280 channels" in said
    assert "got one of zeros" in said and "gate comes before the activation" in said


def test_what_was_done_is_told():
    notes = {}
    for key, spec, style in (
        ("bias", zoo.v2(0.35, classes=7), {"conv_bias": True}),
        ("v1", RELU_V1, {}),
        ("early", V3, {"early_gates": True}),
    ):
        notes[key] = " ".join(found_by_order(state_of(Plain(spec, **style))).notes)
    assert "52 convolutions before a batch norm had a bias" in notes["bias"]
    assert "ReLU was taken" in notes["v1"] and "ReLU was taken" not in notes["bias"]
    assert "In 9 blocks" in notes["early"] and "In 9 blocks" not in notes["v1"]
    assert all("nobody's whom we know" in said and "--detect" in said for said in notes.values())


def test_a_v3_whose_gate_follows_the_activation_by_number_is_the_papers():
    found = found_by_order(state_of(Plain(V3)))
    assert found.spec.blocks == V3.blocks and found.spec.head[0].dense
    assert all(place.shape == specs.tensor_shapes(V3)[name] for name, place in found.tensors.items())


def test_alphabetical_order_is_undone_by_the_numbers():
    """safetensors sorts names: `features.10` before `features.2`, `classifier` before `features`."""
    model = parity_rows.randomise(Plain(V3))
    state = state_of(model)
    found = found_by_order({name: state[name] for name in sorted(state)})
    assert relative_difference(found, model) <= LOGITS_RELATIVE / 10
    assert any("groups in the order features, classifier" in sentence for sentence in found.notes)


def test_alphabetical_order_that_cannot_be_undone():
    """Layers that are called conv1, bn1, conv2, bn2: no number says that they take turns."""
    kinds = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3"}
    state = {}
    for name, array in state_of(Plain(zoo.v2(0.35, classes=3))).items():
        match name.split("."):
            case ["features", block, _, number, role]:
                state[f"layers.{block}.{kinds[number]}.{role}"] = array
            case _:
                state[name] = array
    assert found_by_order(state).spec.name == "mobilenet_v2_035"
    with pytest.raises(CheckpointError, match="in alphabetical order") as caught:
        found_by_order({name: state[name] for name in sorted(state)})
    assert "torch.save" in str(caught.value)


NAME = "features.3.conv.3"


def missing(state):
    del state[f"{NAME}.weight"]


def missing_shift(state):
    del state["features.3.conv.4.bias"]


def transposed(state):
    state["features.3.conv.0.weight"] = state["features.3.conv.0.weight"].transpose(1, 0, 2, 3)


def narrower(state):
    state["features.3.conv.4.running_mean"] = state["features.3.conv.4.running_mean"][:-1]


def one_more(state):
    state["aux.weight"], state["aux.bias"] = np.zeros((3, 1280, 1, 1)), np.zeros(3)


def without_classifier(state):
    del state["classifier.1.weight"], state["classifier.1.bias"]


def without_classes(state):
    state["classifier.1.weight"], state["classifier.1.bias"] = np.zeros((0, 1280)), np.zeros(0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (missing, "after 'features.3.conv.1' there is a depthwise 3×3 layer missing, which mobilenet_v2"),
        (missing_shift, "tensor 'features.3.conv.4.bias' is missing; mobilenet_v2, the nearest network"),
        (
            transposed,
            "tensor 'features.3.conv.0.weight' has shape (8, 48, 1, 1); by the order of its tensors",
        ),
        (narrower, "tensor 'features.3.conv.4.running_mean' has shape (47,); by the order of its tensors"),
        (one_more, "tensor 'aux.weight' has shape (3, 1280, 1, 1); mobilenet_v2"),
        (without_classifier, "has no classifier: its last tensor is 'features.18.conv.1.running_var'"),
        (without_classes, "has shape (0,), which no network here has"),
    ],
)
def test_one_wrong_tensor_is_named(change, said):
    state = state_of(Plain(zoo.v2(0.35, classes=3)))
    change(state)
    with pytest.raises(CheckpointError) as caught:
        found_by_order(state)
    assert said in str(caught.value)


def test_another_architecture():
    state = {
        "conv1.weight": np.zeros((64, 3, 7, 7)),
        "layer1.0.conv1.weight": np.zeros((64, 64, 3, 3)),
        "fc.weight": np.zeros((1000, 512)),
    }
    with pytest.raises(CheckpointError, match="is no MobileNet") as caught:
        found_by_order(state)
    assert "'conv1.weight' with shape (64, 3, 7, 7)" in str(caught.value)
    with pytest.raises(CheckpointError, match="it is empty"):
        found_by_order({})
