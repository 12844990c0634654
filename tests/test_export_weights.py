"""Weights for other libraries: loaded there by the lines that the export prints, strict; equal logits."""

import dataclasses

import numpy as np
import pytest

from calibrated import calibrated
from mobilenets import zoo
from mobilenets.checkpoint import Checkpoint
from mobilenets.errors import GateFailed, InputError, SpecError, UnknownName
from mobilenets.spec import Spec
from mobilenets.tolerances import LOGITS_RELATIVE

torch = pytest.importorskip("torch")
from mobilenets.exporting import state_dict  # noqa: E402
from mobilenets.network import from_checkpoint  # noqa: E402
from mobilenets.weights import import_file  # noqa: E402

V3 = dataclasses.replace(zoo.v3_small(classes=5), resolution=64)
TORCHVISION = {
    "V2 0.35": zoo.v2(0.35, classes=5),
    "V2 0.6": zoo.v2(0.6, classes=5),
    "V2, another epsilon": dataclasses.replace(zoo.v2(0.35, classes=5), norm_epsilon=1e-3),
    "V3, another epsilon": V3,
    "V3, its own": dataclasses.replace(V3, norm_epsilon=1e-3),
    "V3 0.75": zoo.v3_small(0.75, classes=5, rule="torchvision"),
}
TIMM = {
    "V1": zoo.v1(classes=5, channels=1),
    "V2, same": dataclasses.replace(zoo.v2(0.35, classes=5), padding="same", norm_epsilon=1e-3),
    "V3, dense": dataclasses.replace(V3, head=(dataclasses.replace(V3.head[0], dense=True),)),
    "V3 minimalistic": zoo.v3_small(minimalistic=True, classes=5),
    "V3 minimalistic, symmetric": dataclasses.replace(
        zoo.v3_small(minimalistic=True, classes=5), padding="symmetric", norm_epsilon=1e-5
    ),
    "V4": zoo.v4_conv_small(0.35, classes=5),
}


def made(spec: Spec) -> Checkpoint:
    checkpoint = calibrated(dataclasses.replace(spec, resolution=64))
    tensors = {
        name: array + np.float32(0.01) if name.endswith("running_var") else array
        for name, array in checkpoint.tensors.items()
    }
    return dataclasses.replace(checkpoint, tensors=tensors)


def loaded(written, monkeypatch):
    """What a user gets who types the printed lines beside the file."""
    monkeypatch.chdir(written.path.parent)
    names = {}
    exec(written.how_to_load, names)
    return names["model"]


def assert_same(checkpoint, model, exactly):
    for side in (64, 75):
        x = torch.randn(2, checkpoint.spec.channels, side, side)
        with torch.inference_mode():
            ours, theirs = from_checkpoint(checkpoint)(x), model(x)
        if exactly:
            assert torch.equal(ours, theirs)
        else:
            assert float((ours - theirs).abs().max()) <= LOGITS_RELATIVE * float(theirs.std())


@pytest.mark.slow
@pytest.mark.parametrize("case", TORCHVISION)
def test_torchvision_loads_it_and_computes_the_same(torchvision, tmp_path, monkeypatch, case):
    checkpoint = made(TORCHVISION[case])
    written = state_dict.write(checkpoint, "torchvision", tmp_path / 'with "quotes" \\.pth')
    epsilon = 1e-5 if case.startswith("V2") else 1e-3
    exactly = checkpoint.spec.norm_epsilon == epsilon and not checkpoint.spec.head
    assert_same(checkpoint, loaded(written, monkeypatch), exactly)
    moved = any("went into the running variances" in note for note in written.notes)
    assert moved == (checkpoint.spec.norm_epsilon != epsilon)


@pytest.mark.slow
@pytest.mark.parametrize("case", TIMM)
def test_timm_loads_it_and_computes_the_same(timm, tmp_path, monkeypatch, case):
    checkpoint = made(TIMM[case])
    written = state_dict.write(checkpoint, "timm", tmp_path / "model.safetensors")
    dense = any(conv.dense for conv in checkpoint.spec.head)
    assert_same(checkpoint, loaded(written, monkeypatch), exactly=not dense)
    assert dense == any("last bits" in note for note in written.notes)


@pytest.mark.full
def test_every_name_that_timm_is_told_builds_there(timm):
    """And has the tensors of our network of that name."""
    for ours, theirs in state_dict.TIMM_NAMES.items():
        with torch.device("meta"):
            model = timm.create_model(theirs)
        prefix, width = zoo.parse(ours) if ours in zoo.names() else ("mobilenet_v1", 1.25)
        spec = zoo.ZOO[prefix].build(width)
        places = state_dict.TIMM.places(spec)
        stored = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
        assert [place.name for place in places.values()] == stored, theirs


def test_what_went_out_comes_back(tmp_path):
    checkpoint = made(zoo.v2(0.35, classes=5))
    for to, name in (("torchvision", "a.pth"), ("timm", "b.safetensors")):
        state_dict.write(checkpoint, to, tmp_path / name)
        back = import_file(tmp_path / name).checkpoint.tensors
        assert all(np.array_equal(back[name], array) for name, array in checkpoint.tensors.items())


SAME = dataclasses.replace(zoo.v2(0.35, classes=5), padding="same")


def with_stem(activation):
    stem, *rest = zoo.v2(0.35, classes=5).blocks
    changed = dataclasses.replace(stem, ops=(dataclasses.replace(stem.ops[0], activation=activation),))
    return dataclasses.replace(zoo.v2(0.35, classes=5), blocks=(changed, *rest))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "spec", "said"),
    [
        ("torchvision", SAME, "pads as TensorFlow does ('same')"),
        ("torchvision", zoo.v2(0.35, channels=1, classes=5), "takes RGB pictures alone"),
        ("torchvision", zoo.v3_small(0.75, classes=5), "rule='torchvision'"),
        ("torchvision", zoo.v1(0.25, classes=5), "torchvision cannot express mobilenet_v1_025"),
        ("torchvision", with_stem("relu"), "activation='relu'"),
        ("timm", with_stem("relu"), "activation='relu'"),
        ("timm", zoo.v1(0.25, classes=5), "timm has no model by name that is mobilenet_v1_025"),
        ("timm", zoo.v3_small(0.75, classes=5, rule="torchvision"), "rule='timm'"),
    ],
    ids=lambda value: value.name if isinstance(value, Spec) else str(value),
)
def test_what_the_other_library_cannot_express(tmp_path, to, spec, said):
    path = tmp_path / f"model{state_dict.TARGETS[to].suffix}"
    with pytest.raises(SpecError) as caught:
        state_dict.write(calibrated(dataclasses.replace(spec, resolution=32)), to, path)
    assert said in str(caught.value) and not list(tmp_path.iterdir())


def test_a_variance_that_is_smaller_than_the_difference():
    """V3 with epsilon 1e-5 and a variance of 1e-6 has no counterpart with epsilon 1e-3."""
    checkpoint = calibrated(dataclasses.replace(V3, resolution=32))
    tensors = dict(checkpoint.tensors)
    name = "blocks.1.project.norm.running_var"
    tensors[name] = np.full_like(tensors[name], 1e-6)
    with pytest.raises(SpecError, match=f"tensor '{name}' has a variance of 1e-06"):
        state_dict.to_torchvision(dataclasses.replace(checkpoint, tensors=tensors))


def test_names_and_endings(tmp_path):
    checkpoint = calibrated(dataclasses.replace(zoo.v2(0.35, classes=5), resolution=32))
    with pytest.raises(InputError, match=r"written as '\.pth' files"):
        state_dict.write(checkpoint, "torchvision", tmp_path / "model.safetensors")
    with pytest.raises(UnknownName, match=r"'torchvison'\. Did you mean 'torchvision'"):
        state_dict.write(checkpoint, "torchvison", tmp_path / "model.pth")


def test_a_file_that_reads_back_otherwise_leaves_nothing(tmp_path, monkeypatch):
    checkpoint = made(zoo.v2(0.35, classes=5))
    target = state_dict.TARGETS["torchvision"]

    def broken(state):
        return target.serialise(state | {"classifier.1.bias": state["classifier.1.bias"] + 1})

    monkeypatch.setitem(state_dict.TARGETS, "torchvision", dataclasses.replace(target, serialise=broken))
    (tmp_path / "model.pth").write_text("before")
    with pytest.raises(GateFailed, match="gives other logits"):
        state_dict.write(checkpoint, "torchvision", tmp_path / "model.pth")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
