"""`mobilenets.proof`: imported weights beside the library that they come from, in its own process."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'mobilenets[train]'")

import keras_reference  # noqa: E402
import tflite_writer  # noqa: E402
from mobilenets import cli, zoo  # noqa: E402
from mobilenets.checkpoint import Checkpoint, Manifest  # noqa: E402
from mobilenets.errors import GateFailed  # noqa: E402
from mobilenets.exporting import keras_weights, state_dict  # noqa: E402
from mobilenets.network import to_tensors  # noqa: E402
from mobilenets.preprocessing import for_channels  # noqa: E402
from mobilenets.proof import prove  # noqa: E402
from mobilenets.weights import import_file  # noqa: E402

DECLARES = f"""import sys
sys.path.append({str(Path(__file__).parent)!r})
import conftest
kept = conftest.declare_missing_torchvision_operators()
"""
"""Run before everything else by the program's Python, for a torch without torchvision's operators."""

LIAR = """import torch
class Model(torch.nn.Module):
    def load_state_dict(self, state, strict): return [], []
    def forward(self, x): {forward}
def create_model(name, **given): return Model()
"""


@pytest.fixture
def python_path(tmp_path, monkeypatch):
    """A folder that comes first where the other process looks for modules."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


@pytest.fixture
def declared(python_path):
    for package in ("torchvision", "timm"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'mobilenets[parity]'")
    (python_path / "sitecustomize.py").write_text(DECLARES)


def small(spec):
    labels = tuple(f"class {index}" for index in range(spec.classes))
    tensors = to_tensors(keras_reference.randomised(spec))
    return Checkpoint(Manifest(spec, labels, for_channels(spec.channels)), tensors)


def timm_file(folder):
    """Weights in timm's own form."""
    path = folder / "theirs.safetensors"
    state_dict.write(small(zoo.v2(0.35, classes=5, resolution=64)), "timm", path)
    return path


@pytest.mark.slow
def test_timm_gives_the_same_to_the_bit(declared, tmp_path):
    said = prove(import_file(timm_file(tmp_path), resolution=64))
    assert (
        said.startswith("Proven: timm 1.") and "the same logits, to the bit, for 3 generated pictures" in said
    )


@pytest.mark.full
def test_torchvision_gives_the_same_to_the_bit(declared, tmp_path):
    spec = zoo.v3_small(0.75, rule="torchvision", classes=5, resolution=64)
    path = tmp_path / "model.pth"
    state_dict.write(small(spec), "torchvision", path)
    said = prove(import_file(path, resolution=64))
    assert "torchvision 0." in said and "to the bit" in said


@pytest.mark.full
def test_keras_gives_the_same_logits(python_path, tmp_path):
    keras_reference.load_keras()
    spec = keras_reference.spec_of("mobilenet_v1", 0.25, classes=5, resolution=64)
    keras_weights.write(small(spec), tmp_path / "model.weights.h5")
    said = prove(import_file(tmp_path / "model.weights.h5", resolution=64))
    assert said.startswith("Proven: keras 3.") and "the same logits for 3 generated pictures" in said


@pytest.mark.slow
def test_litert_gives_the_same(python_path, tmp_path):
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'mobilenets[parity]'")
    # So many classes that probabilities differ less among each other than rounding allows logits to.
    spec = zoo.v1(0.25, classes=1000, resolution=64)
    checkpoint = small(dataclasses.replace(spec, padding="same", norm_epsilon=1e-3))
    path = tmp_path / "model.tflite"
    path.write_bytes(tflite_writer.write(checkpoint.spec, checkpoint.tensors))
    said = prove(import_file(path))
    assert said.startswith("Proven: ai-edge-litert ") and "for 3 generated pictures" in said


@pytest.mark.slow
def test_without_the_library_it_says_so(python_path, tmp_path):
    (python_path / "timm.py").write_text("raise ModuleNotFoundError('none', name='timm')")
    said = prove(import_file(timm_file(tmp_path)))
    assert said == "Not compared with timm: timm is not installed."


@pytest.mark.slow
def test_a_library_that_dies_is_no_error_of_ours(python_path, tmp_path):
    (python_path / "timm.py").write_text("import os; os._exit(3)")
    said = prove(import_file(timm_file(tmp_path)))
    assert said == "Not compared with timm: it ended in silence."


@pytest.mark.slow
def test_a_library_that_fails_is_quoted(python_path, tmp_path):
    (python_path / "timm.py").write_text("raise RuntimeError('operator nms does not exist')")
    said = prove(import_file(timm_file(tmp_path)))
    assert said == "Not compared with timm: RuntimeError: operator nms does not exist."


@pytest.mark.slow
@pytest.mark.parametrize(
    ("forward", "said"),
    [
        ("return torch.randn(len(x), 5)", "gives other logits for the same weights"),
        pytest.param(
            "return torch.randn(len(x), 7)",
            "gives 7 values a picture, this network 5",
            marks=pytest.mark.full,
        ),
    ],
)
def test_a_difference_stops_the_import_and_nothing_is_written(python_path, tmp_path, capsys, forward, said):
    path = timm_file(tmp_path)
    (python_path / "timm.py").write_text(LIAR.format(forward=forward))
    metadata = python_path / "timm-9.9.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: timm\nVersion: 9.9\n")
    with pytest.raises(GateFailed, match=said):
        prove(import_file(path))
    out = tmp_path / "ours.safetensors"
    assert cli.run_command(["import", str(path), "-o", str(out)]) != 0
    error = capsys.readouterr().err
    assert "timm 9.9" in error and said in error and "Traceback" not in error
    assert not out.exists() and not list(tmp_path.glob("*.tmp"))


@pytest.mark.slow
def test_the_import_prints_the_proof(python_path, tmp_path, capsys):
    (python_path / "timm.py").write_text("raise ModuleNotFoundError('none', name='timm')")
    out = tmp_path / "ours.safetensors"
    assert cli.run_command(["import", str(timm_file(tmp_path)), "-o", str(out)]) == 0
    printed = capsys.readouterr()
    assert "Not compared with timm: timm is not installed." in printed.out + printed.err
    assert out.exists()
