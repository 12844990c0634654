"""Weights written for Keras: loaded by the very lines that the export states, with the same logits."""

import dataclasses

import numpy as np
import pytest

from mobilenets import zoo
from mobilenets.checkpoint import Checkpoint, Manifest
from mobilenets.errors import GateFailed, InputError, MissingExtra, SpecError
from mobilenets.preprocessing import for_channels
from mobilenets.tolerances import LOGITS_RELATIVE

torch = pytest.importorskip("torch")
pytest.importorskip("h5py", reason="h5py is not installed: pip install 'mobilenets[keras]'")
import keras_reference as reference  # noqa: E402
from mobilenets.exporting import keras_weights  # noqa: E402
from mobilenets.exporting.keras_weights import write  # noqa: E402
from mobilenets.network import from_checkpoint, to_tensors  # noqa: E402
from mobilenets.weights import keras_model  # noqa: E402

FAST = [("mobilenet_v1", 0.25), ("mobilenet_v2", 0.35), ("mobilenet_v3_small", 0.75)]
each_network = pytest.mark.parametrize(
    ("prefix", "alpha"),
    [case if case in FAST else pytest.param(*case, marks=pytest.mark.full) for case in reference.NETWORKS],
)


@pytest.fixture(scope="session")
def keras():
    """The keras package, on its torch backend."""
    return reference.load_keras()


def checkpoint_of(spec, *, mean=0.5, std=0.5):
    labels = tuple(f"class {index}" for index in range(spec.classes))
    tensors = to_tensors(reference.randomised(spec))
    return Checkpoint(Manifest(spec, labels, for_channels(spec.channels, mean, std)), tensors)


def small(prefix="mobilenet_v2", alpha=0.35, **given):
    return reference.spec_of(prefix, alpha, **({"classes": 3, "resolution": 64} | given))


def loaded(written, pixels):
    """What the stated lines make of `pixels`, 0–255, N×H×W×C."""
    scope = {"pixels": pixels}
    with torch.inference_mode():
        exec(written.how_to_load, scope)
    return scope["logits"]


def assert_same(checkpoint, written):
    preprocessing, side = checkpoint.manifest.preprocessing, checkpoint.spec.resolution
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (2, side, side, checkpoint.spec.channels), generator=generator).float()
    normal = (pixels * preprocessing.scale - torch.tensor(preprocessing.mean)) / torch.tensor(
        preprocessing.std
    )
    with torch.inference_mode():
        ours = from_checkpoint(checkpoint)(normal.permute(0, 3, 1, 2).contiguous())
    theirs = loaded(written, pixels)
    assert float(ours.std()) > 1e-2
    assert float((ours - theirs).abs().max()) <= LOGITS_RELATIVE * float(ours.std())


@pytest.mark.slow
@each_network
def test_keras_gives_the_same_logits(keras, tmp_path, monkeypatch, prefix, alpha):
    monkeypatch.chdir(tmp_path)
    checkpoint = checkpoint_of(reference.spec_of(prefix, alpha))
    written = write(checkpoint, "out.weights.h5")
    assert (written.path.name, written.notes) == ("out.weights.h5", ())
    assert_same(checkpoint, written)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "mean", "std"),
    [
        (small(channels=1, classes=2), 0.5, 0.5),
        (small("mobilenet_v3_large_minimalistic", 0.5), 0.45, 0.23),
        (small("mobilenet_v1", 0.3, resolution=96), 0.4, 0.2),
        (dataclasses.replace(small("mobilenet_v2", 0.6, resolution=77)), 0.5, 0.5),
    ],
    ids=["grey", "other mean", "v1", "odd side"],
)
def test_other_channels_widths_sides_and_preprocessing(keras, tmp_path, monkeypatch, spec, mean, std):
    monkeypatch.chdir(tmp_path)
    checkpoint = checkpoint_of(spec, mean=mean, std=std)
    assert_same(checkpoint, write(checkpoint, "out.weights.h5"))


@pytest.mark.slow
def test_another_epsilon_is_folded_into_the_scales(keras, tmp_path, monkeypatch):
    """Also where the variance is smaller than the difference of the epsilons."""
    monkeypatch.chdir(tmp_path)
    checkpoint = checkpoint_of(dataclasses.replace(small(), norm_epsilon=1e-5))
    for name, array in checkpoint.tensors.items():
        if name.endswith("running_var"):
            array[::5] = 1e-4
        if name.endswith("norm.weight"):
            array[::5] *= 1e-2
    written = write(checkpoint, "out.weights.h5")
    assert "epsilon is 1e-05 here and 0.001 in Keras" in written.notes[0]
    assert_same(checkpoint, written)


@pytest.mark.slow
def test_symmetric_padding_is_the_same_where_every_map_is_odd(keras, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = checkpoint_of(dataclasses.replace(small(resolution=65), padding="symmetric"))
    assert_same(checkpoint, write(checkpoint, "out.weights.h5"))


@pytest.mark.slow
@pytest.mark.parametrize(("prefix", "alpha"), [*FAST, ("mobilenet_v3_large", 1.25)])
def test_what_is_written_is_read_again_to_the_bit(tmp_path, prefix, alpha):
    checkpoint = checkpoint_of(small(prefix, alpha))
    found = keras_model.found(write(checkpoint, tmp_path / "x.weights.h5").path)
    assert list(found.tensors) == list(checkpoint.tensors)
    for name, array in checkpoint.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], array, err_msg=name)
    again = write(checkpoint, tmp_path / "again.weights.h5").path
    assert again.read_bytes() == (tmp_path / "x.weights.h5").read_bytes()


def test_a_failed_comparison_leaves_nothing(tmp_path, monkeypatch):
    honest = keras_weights.from_ours

    def swapped(layout, array):
        return honest(layout, array[::-1] if layout == "hwcm" else array)

    monkeypatch.setattr(keras_weights, "from_ours", swapped)
    with pytest.raises(GateFailed, match="gives other logits than the checkpoint"):
        write(checkpoint_of(small()), tmp_path / "x.weights.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_differs_in_training_is_told(tmp_path):
    spec = dataclasses.replace(small(), norm_momentum=0.1, dropout=0.3)
    notes = write(checkpoint_of(spec), tmp_path / "x.weights.h5").notes
    assert "momentum 0.999, here it is 0.9" in notes[0] and "no dropout, here it is 0.3" in notes[1]
    spec = dataclasses.replace(small("mobilenet_v1", 0.25), dropout=0.3)
    written = write(checkpoint_of(spec), tmp_path / "x.weights.h5")
    assert written.notes == () and "    dropout=0.3,\n" in written.how_to_load


def gated_otherwise(spec):
    blocks = tuple(
        dataclasses.replace(block, ops=tuple(_relu(op) for op in block.ops)) for block in spec.blocks
    )
    return dataclasses.replace(spec, blocks=blocks)


def _relu(op):
    return dataclasses.replace(op, activation="relu") if getattr(op, "activation", "") == "relu6" else op


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (zoo.v2(0.35), "blocks.0.conv pads 1 before and 1 after ('symmetric'), Keras 0 and 1"),
        (
            small("mobilenet_v1", 0.25, resolution=200),
            "blocks.6.depthwise pads 1 before and 1 after ('same'), Keras 0",
        ),
        (gated_otherwise(small()), "it has Block"),
        (zoo.v3_large(0.75, rule="torchvision"), "has shape"),
        (zoo.v3_small(head=1280), "tensor 'conv_2/kernel' has shape (1, 1, 576, 1280)"),
        (zoo.v1(shallow=True), "tensor 'conv_dw_9/kernel' is missing"),
        (zoo.v4_conv_small(), "keras.applications has MobileNet V1, V2 and V3"),
        (zoo.v4_hybrid_medium(), "keras.applications has MobileNet V1, V2 and V3"),
        (zoo.edgetpu(), "keras.applications has MobileNet V1, V2 and V3"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_network_that_keras_cannot_express(tmp_path, spec, said):
    spec = dataclasses.replace(spec, classes=2)
    with pytest.raises(SpecError) as caught:
        write(checkpoint_of(spec), tmp_path / "x.weights.h5")
    assert f"Keras cannot express {spec.name}" in str(caught.value) and said in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_name_must_be_one_that_keras_reads(tmp_path):
    with pytest.raises(InputError, match=r"end in '\.weights\.h5'"):
        write(checkpoint_of(small()), tmp_path / "x.h5")


def test_without_h5py_the_error_names_it(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtra, match=r"(?s)Writing a Keras file needs the package 'h5py'"):
        write(checkpoint_of(small()), tmp_path / "x.weights.h5")
    assert not list(tmp_path.iterdir())
