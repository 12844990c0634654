"""Which engine runs a model where nobody says: the order, what is told, and that torch is not needed."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'mobilenets[train]'")

from calibrated import TINY, calibrated, with_manifest
from heard import Heard
from mobilenets.compiler import kept
from mobilenets.compiler.targets import LIBRARY
from mobilenets.errors import EnvironmentFault, LabelsError, UnknownName, WriteFailed
from mobilenets.evaluation import evaluate
from mobilenets.exporting import export
from mobilenets.folder import scan
from mobilenets.runtime import open_session
from mobilenets.tolerances import agreement

if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
    pytest.skip("there is no C compiler here", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("own_cache")

SHAPES = ("disc", "square", "stripes", "line", "nothing")


@pytest.fixture(scope="module")
def checkpoint():
    return calibrated(labels=SHAPES)


@pytest.fixture(scope="module")
def file(checkpoint, tmp_path_factory):
    return checkpoint.save(tmp_path_factory.mktemp("engines") / "model.safetensors")


def pictures(n=3):
    shape = (n, TINY.resolution, TINY.resolution, TINY.channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def unavailable(*_arguments, **_named):
    raise EnvironmentFault("there is no C compiler here.", remedy="Install one.")


@pytest.fixture
def other(checkpoint):
    """A checkpoint that nobody has compiled."""
    tensors = {name: values + np.float32(1e-3) for name, values in checkpoint.tensors.items()}
    return dataclasses.replace(checkpoint, tensors=tensors)


@pytest.fixture
def no_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "mobilenets.runtime.torch_session", raising=False)


# --- the order -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_checkpoint_is_compiled_once_and_found_again_without_a_compiler(checkpoint, file, monkeypatch):
    first, second = Heard(), Heard()
    logits = open_session(checkpoint, progress=first).run(pictures())
    assert [line.startswith("Compiling tiny for this processor, once") for line in first.lines] == [True]
    assert "--engine torch" in first.lines[0]
    for name in ("find_compiler", "translate", "cached_library"):
        monkeypatch.setattr(kept, name, unavailable)
    for model in (file, file.parent / "model.safetensors", checkpoint):
        session = open_session(model, progress=second)
        assert session.engine == "compiled"
        np.testing.assert_array_equal(session.run(pictures()), logits)
    assert second.lines == []
    assert agreement(open_session(file, engine="torch").run(pictures()), logits).holds


def test_what_decides_the_library_decides_where_it_is_found(checkpoint, monkeypatch):
    key = kept._key(checkpoint, "fp32")
    same = with_manifest(checkpoint, metrics={"test": {}}, provenance={"tool": "x"})
    assert kept._key(same, "fp32") == key
    labels = tuple(reversed(checkpoint.manifest.labels))
    scaled = dataclasses.replace(checkpoint.manifest.preprocessing, mean=(0.1,) * 3)
    name = next(iter(checkpoint.tensors))
    values = {**checkpoint.tensors, name: checkpoint.tensors[name] * 2}
    others = [
        with_manifest(checkpoint, labels=labels),
        with_manifest(checkpoint, preprocessing=scaled),
        dataclasses.replace(checkpoint, tensors=values),
    ]
    keys = {key, kept._key(checkpoint, "bf16"), *(kept._key(other, "fp32") for other in others)}
    assert len(keys) == 5
    monkeypatch.setenv("CC", "another")
    assert kept._key(checkpoint, "fp32") != key
    monkeypatch.delenv("CC")
    monkeypatch.setattr(kept, "instructions", lambda: "another processor")
    assert kept._key(checkpoint, "fp32") != key


def test_a_library_that_went_is_compiled_again(checkpoint, monkeypatch, tmp_path):
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path))
    library = tmp_path / "compiled" / "abc" / LIBRARY
    library.parent.mkdir(parents=True)
    compiled = []
    monkeypatch.setattr(kept, "cached_library", lambda *_, **__: compiled.append(library) or library)
    assert kept.find_or_compile(checkpoint) == library
    assert kept.find_or_compile(checkpoint) == library
    assert len(compiled) == 2
    library.write_bytes(b"")
    assert kept.find_or_compile(checkpoint) == library
    assert len(compiled) == 2


@pytest.mark.parametrize("broken", ["find_compiler", "cached_library"])
def test_without_a_compiler_or_with_one_that_fails_it_is_torch(other, monkeypatch, broken):
    monkeypatch.setattr(kept, broken, unavailable)
    heard = Heard()
    session = open_session(other, progress=heard)
    assert session.engine == "torch"
    assert heard.lines[-1] == "It does not run compiled: there is no C compiler here. It runs in torch."
    assert len(heard.lines) == (1 if broken == "find_compiler" else 2)


def test_a_library_that_does_not_open_is_named(checkpoint, monkeypatch, tmp_path):
    broken = tmp_path / "libmodel.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr("mobilenets.runtime.compiled_session.find_or_compile", lambda *_, **__: broken)
    heard = Heard()
    assert open_session(checkpoint, progress=heard).engine == "torch"
    (line,) = heard.lines
    assert line.startswith(f"It does not run compiled: {broken}: is no compiled model")
    with pytest.raises(EnvironmentFault, match="compiled anew"):
        open_session(checkpoint, engine="compiled")


def test_a_cache_that_cannot_be_written(other, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(WriteFailed, match="MOBILENETS_CACHE=FOLDER"):
        open_session(other, engine="compiled")
    heard = Heard()
    assert open_session(other, progress=heard).engine == "torch"
    assert "could not be written" in heard.lines[-1]


@pytest.mark.usefixtures("no_torch")
def test_with_neither_it_says_how_to_get_one(other, monkeypatch):
    monkeypatch.setattr(kept, "find_compiler", unavailable)
    with pytest.raises(EnvironmentFault, match="no engine here can run a checkpoint") as error:
        open_session(other)
    assert error.value.exit_code == 3
    assert "there is no C compiler here." in error.value.what
    assert error.value.remedy == "Install one.\nOr install torch: pip install 'mobilenets[train]'"
    with pytest.raises(EnvironmentFault, match=r"pip install 'mobilenets\[train\]'"):
        open_session(other, engine="torch")


def test_what_is_wrong_is_said_before_anything_is_compiled(other, shapes_folder, monkeypatch):
    monkeypatch.setattr(kept, "find_or_compile", unavailable)
    unknown = with_manifest(other, labels=("a", "b", "c", "d", "e"))
    with pytest.raises(LabelsError):
        evaluate(unknown, scan(shapes_folder, purpose="evaluate"))
    with pytest.raises(UnknownName, match="Did you mean 'compiled'"):
        open_session(other, engine="compile")


# --- without torch -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(checkpoint, file, tmp_path_factory):
    """Engine and place of everything that can be predicted with."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "a checkpoint": ("compiled", file),
        "a run folder": ("compiled", file.parent),
        "an ONNX bundle": ("onnxruntime", export(checkpoint, "onnx", out=folder / "onnx").folder),
        "a C bundle": ("compiled", export(checkpoint, "c", out=folder / "c").folder),
    }


def command(*words, first):
    """`mobilenets` in a process of its own, which finds the modules of the folder `first` before others."""
    path = os.pathsep.join(filter(None, [str(first), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "from mobilenets.cli import main; main()", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["a checkpoint", "a run folder", "an ONNX bundle", "a C bundle"])
def test_predict_and_evaluate_run_without_torch(models, shapes_folder, tmp_path, kind):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text('raise ImportError("there is no torch here")\n')
    engine, model = models[kind]
    picture = shapes_folder / "disc" / "00.png"
    done = command("predict", str(model), str(picture), "--json", first=tmp_path)
    (found,) = json.loads(done.stdout)
    assert found["labels"][0]["label"] in SHAPES
    assert f"1 picture · engine: {engine}" in done.stderr
    done = command("evaluate", str(model), str(shapes_folder), "--split", "all", "--json", first=tmp_path)
    assert json.loads(done.stdout)["engine"] == engine
    assert f"engine: {engine}" in done.stderr
