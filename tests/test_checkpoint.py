"""The file that everything else passes around: what goes in comes out, and nothing else comes out."""

import dataclasses
import errno
import json
import os
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mobilenets import checkpoint as checkpoints
from mobilenets.checkpoint import FORMAT_VERSION, METADATA_KEY, MODEL_FILE, Checkpoint, Manifest, load
from mobilenets.errors import CheckpointError, WriteFailed
from mobilenets.preprocessing import MODE_OF_CHANNELS, Preprocessing, for_channels
from mobilenets.spec import Block, Conv, Spec, tensor_shapes
from spec_strategies import specs

SPEC = Spec(
    name="tiny",
    source="here",
    blocks=(Block((Conv("conv", 3, 4, 2, "relu"),), 0),),
    head=(Conv("conv", 1, 5, norm=False),),
    classes=3,
    resolution=32,
)
LABELS = ("tulip", "'=1+1\n<b>\u202e🌷", "déjà vu")


def tensors_of(spec, seed=0):
    generator = np.random.default_rng(seed)
    return {
        name: generator.standard_normal(shape).astype(np.float32)
        for name, shape in tensor_shapes(spec).items()
    }


def tiny(**changes):
    fields = {
        "spec": SPEC,
        "labels": LABELS,
        "preprocessing": Preprocessing(fit="pad", mean=(0.1, 0.2, 0.3)),
        "metrics": {"accuracy": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 70}},
        "provenance": {"tool": "mobilenets", "parents": ["a", "b"]},
        "licence": "CC0-1.0",
    }
    return Checkpoint(
        Manifest(**(fields | changes)), tensors_of(SPEC), frozenset({"0123456789abcdef", "f" * 16})
    )


def assert_same(one, other):
    assert one.manifest == other.manifest and one.trained_on == other.trained_on
    assert list(one.tensors) == list(other.tensors)
    for name, array in one.tensors.items():
        assert other.tensors[name].tobytes() == array.tobytes() and other.tensors[name].dtype == np.float32


def test_what_is_saved_is_loaded(tmp_path):
    checkpoint = tiny()
    assert_same(load(checkpoint.save(tmp_path / "deep" / "er" / "m.safetensors")), checkpoint)


def test_a_run_folder_stands_for_its_model(tmp_path):
    tiny().save(tmp_path / MODEL_FILE)
    assert_same(load(tmp_path), tiny())


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(specs().filter(lambda spec: spec.channels in MODE_OF_CHANNELS), st.data())
def test_any_network_and_any_labels_come_back(tmp_path, spec, data):
    labels = data.draw(
        st.lists(st.text(max_size=5), min_size=spec.classes, max_size=spec.classes, unique=True)
    )
    checkpoint = Checkpoint(Manifest(spec, tuple(labels), for_channels(spec.channels)), tensors_of(spec))
    assert_same(load(checkpoint.save(tmp_path / "m.safetensors")), checkpoint)


def test_saving_does_not_depend_on_order_or_layout_of_the_arrays(tmp_path):
    checkpoint = tiny()
    shuffled = {name: np.asfortranarray(array) for name, array in reversed(list(checkpoint.tensors.items()))}
    other = Checkpoint(checkpoint.manifest, shuffled, checkpoint.trained_on)
    one = checkpoint.save(tmp_path / "one.safetensors").read_bytes()
    assert other.save(tmp_path / "other.safetensors").read_bytes() == one


def test_the_file_holds_no_pickle_and_can_be_read_by_hand(tmp_path):
    """The safetensors format by its definition: header length, JSON header, raw little-endian values."""
    checkpoint = tiny()
    data = checkpoint.save(tmp_path / "m.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    manifest = json.loads(header.pop("__metadata__")[METADATA_KEY])
    assert manifest["format_version"] == FORMAT_VERSION and manifest["labels"] == list(LABELS)
    begin, end = header["classifier.weight"]["data_offsets"]
    values = np.frombuffer(data[8 + length :][begin:end], "<f4").reshape(3, 5)
    assert np.array_equal(values, checkpoint.tensors["classifier.weight"])
    assert header.keys() == tensor_shapes(SPEC).keys()


# --- broken files ----------------------------------------------------------------------------


def refused(path, said=""):
    with pytest.raises(CheckpointError) as error:
        load(path)
    message = str(error.value)
    assert message.startswith(str(path)) and said in message, message
    assert error.value.exit_code == 2
    return message


def test_truncated_at_any_byte(tmp_path):
    data = tiny().save(tmp_path / "whole.safetensors").read_bytes()
    path = tmp_path / "cut.safetensors"
    for keep in (*range(64), *range(64, len(data), 97), len(data) - 1):
        path.write_bytes(data[:keep])
        refused(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.data())
def test_any_byte_changed(tmp_path, data):
    """A designed error, or a checkpoint that is consistent in itself: never another exception."""
    whole = bytearray((tmp_path / "m").read_bytes() if (tmp_path / "m").exists() else b"")
    if not whole:
        whole = bytearray(tiny().save(tmp_path / "m").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "changed.safetensors"
    path.write_bytes(bytes(whole))
    try:
        checkpoint = load(path)
    except CheckpointError as error:
        assert str(path) in str(error)
    else:
        assert {name: a.shape for name, a in checkpoint.tensors.items()} == tensor_shapes(checkpoint.spec)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such model file"),
        (b"", "is empty"),
        (pickle.dumps({"a": 1}), "is a PyTorch pickle"),
        (b"PK\x03\x04" + bytes(100), "is a PyTorch pickle"),
        (b"not a model at all", "truncated or damaged"),
        (b"\xff" * 64, "truncated or damaged"),
    ],
)
def test_what_is_no_checkpoint(tmp_path, content, said):
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    refused(path, said)


def test_a_pickle_is_not_opened_and_the_remedy_is_named(tmp_path):
    class Exploit:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    path = tmp_path / "model.pth"
    path.write_bytes(pickle.dumps(Exploit()))
    assert "mobilenets import" in refused(path)
    assert not (tmp_path / "owned").exists()


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such model file"):
        load(tmp_path)


def test_somebody_elses_safetensors(tmp_path):
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "x.safetensors")
    assert "mobilenets import" in refused(tmp_path / "x.safetensors", "has no manifest")


def written(path, manifest, tensors=None):
    """A file with any manifest over any tensors."""
    text = manifest if isinstance(manifest, str) else json.dumps(manifest)
    save_file(tensors_of(SPEC) if tensors is None else tensors, path, {METADATA_KEY: text})
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format_version": FORMAT_VERSION + 1}, f"format version {FORMAT_VERSION + 1}"),
        ({"format_version": "1"}, "no format version"),
        ({"format_version": None}, "no format version"),
        ({"labels": ["a", "b"]}, "2 labels for 3 classes"),
        ({"labels": ["a", "b", "a"]}, "names the class 'a' twice"),
        ({"labels": None}, "incomplete"),
        ({"labels": 3}, "incomplete"),
        ({"spec": None}, "manifest is wrong"),
        ({"spec": {}}, "manifest is wrong"),
        ({"preprocessing": {"mode": "CMYK"}}, "manifest is wrong"),
        ({"preprocessing": {"mean": [0.5]}}, "manifest is wrong"),
        ({"preprocessing": for_channels(1).to_json()}, "takes 3 channels, its preprocessing gives 1"),
    ],
    ids=str,
)
def test_a_manifest_that_cannot_be(tmp_path, changes, said):
    manifest = tiny().manifest.to_json() | changes
    message = refused(written(tmp_path / "m.safetensors", manifest), said)
    if "format version 2" in said:
        assert "pip install -U mobilenets" in message


@pytest.mark.parametrize("field", ["spec", "labels", "preprocessing", "metrics", "provenance", "licence"])
def test_a_manifest_that_lacks_a_field(tmp_path, field):
    manifest = tiny().manifest.to_json()
    del manifest[field]
    refused(written(tmp_path / "m.safetensors", manifest), field)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"', "[" * 100_000, "1e999"])
def test_a_manifest_that_is_no_object(tmp_path, text):
    refused(written(tmp_path / "m.safetensors", text))


@pytest.mark.slow
def test_every_node_of_the_manifest_replaced(tmp_path):
    """Whatever stands in a field: an error in words, or a manifest that survives another round."""
    whole = json.dumps(tiny().manifest.to_json() | {"trained_on": "f" * 16})
    path = tmp_path / "m.safetensors"
    for place in list(_paths(json.loads(whole))):
        for value in (None, -1, 1.5, "x", [], {}, [[]], True):
            manifest = json.loads(whole)
            node = manifest
            for key in place[:-1]:
                node = node[key]
            node[place[-1]] = value
            written(path, manifest)
            try:
                checkpoint = load(path)
            except CheckpointError:
                continue
            assert_same(load(checkpoint.save(tmp_path / "again.safetensors")), checkpoint)


def _paths(value, prefix=()):
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        yield (*prefix, key)
        yield from _paths(child, (*prefix, key))


def without(tensors):
    del tensors["head.0.conv.bias"]


def transposed(tensors):
    tensors["classifier.weight"] = np.ascontiguousarray(tensors["classifier.weight"].T)


def with_another(tensors):
    tensors["extra\n"] = np.zeros(1, np.float32)


def in_double(tensors):
    tensors["classifier.bias"] = tensors["classifier.bias"].astype(np.float64)


def in_integers(tensors):
    tensors["classifier.bias"] = tensors["classifier.bias"].astype(np.int8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without, "tensor 'head.0.conv.bias' is missing; tiny needs it with shape (5,)"),
        (transposed, "tensor 'classifier.weight' has shape (5, 3); tiny with 3 classes needs (3, 5)"),
        (with_another, r"tensor 'extra\n' does not belong to tiny"),
        (in_double, "tensor 'classifier.bias' is float64"),
        (in_integers, "tensor 'classifier.bias' is int8"),
    ],
)
def test_tensors_that_contradict_the_manifest(tmp_path, change, said):
    tensors = tensors_of(SPEC)
    change(tensors)
    refused(written(tmp_path / "m.safetensors", tiny().manifest.to_json(), tensors), said)
    if change in (without, transposed, with_another):
        with pytest.raises(CheckpointError):
            Checkpoint(tiny().manifest, tensors)


def test_a_networks_name_cannot_draw_in_the_terminal(tmp_path):
    spec = dataclasses.replace(SPEC, name="\x1b[2Jtiny\u202e")
    manifest = dataclasses.replace(tiny().manifest, spec=spec).to_json()
    message = refused(written(tmp_path / "m.safetensors", manifest, {"a": np.zeros(1, np.float32)}))
    assert r"\x1b[2Jtiny\u202e needs it" in message


def test_labels_are_checked_when_a_manifest_is_made():
    for labels in (("a", "b"), ("a", "b", "b"), ()):
        with pytest.raises(CheckpointError):
            dataclasses.replace(tiny().manifest, labels=labels)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tiny().save(tmp_path / "m.safetensors")

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    refused(path, "Permission denied")


# --- writing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, number):
    path = tiny().save(tmp_path / "m.safetensors")
    before = path.read_bytes()

    def fail(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(WriteFailed) as error:
        tiny(licence="other").save(path)
    assert str(path) in str(error.value) and error.value.exit_code == 3
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """The real thing: the process may not write files of more than 4 kB."""
    path = tiny().save(tmp_path / "m.safetensors")
    before = path.read_bytes()
    program = f"""
import resource, signal, sys
import numpy as np
from mobilenets import zoo
from mobilenets.checkpoint import Checkpoint, Manifest
from mobilenets.errors import WriteFailed
from mobilenets.preprocessing import for_channels
from mobilenets.spec import tensor_shapes
spec = zoo.v2(0.35, classes=2)
tensors = {{name: np.zeros(shape, np.float32) for name, shape in tensor_shapes(spec).items()}}
checkpoint = Checkpoint(Manifest(spec, ("a", "b"), for_channels(3)), tensors)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    checkpoint.save({str(path)!r})
except WriteFailed as error:
    print(error)
    sys.exit(error.exit_code)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert str(path) in done.stdout and "untouched" in done.stdout
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_digests():
    assert checkpoints.digest("0123456789abcdef" * 4) == "0123456789abcdef"
