import dataclasses
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'mobilenets[train]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'mobilenets[onnx]'")

from calibrated import TINY, calibrated
from mobilenets.checkpoint import FORMAT_VERSION
from mobilenets.errors import CheckpointError, EnvironmentFault, InputError, MissingExtra, UnknownName
from mobilenets.exporting import export
from mobilenets.exporting.peers import prepare
from mobilenets.files import sha256
from mobilenets.progress import SILENT
from mobilenets.runtime import ENGINES, Session, open_session
from mobilenets.runtime.bundle import (
    BUNDLE_VERSION,
    MANIFEST_FILE,
    Bundle,
    bundle_json,
    is_bundle,
    read_bundle,
)
from mobilenets.runtime.litert_session import LitertSession
from mobilenets.runtime.ncnn_session import NcnnSession
from mobilenets.runtime.onnx_session import OnnxSession
from mobilenets.runtime.openvino_session import OpenVinoSession
from mobilenets.tolerances import agreement

SEEN = frozenset({"0123456789abcdef", "fedcba9876543210"})


@pytest.fixture(scope="module")
def checkpoint():
    return dataclasses.replace(calibrated(), trained_on=SEEN)


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory) -> Bundle:
    return export(checkpoint, out=tmp_path_factory.mktemp("runtime") / "bundle")


NEEDED = {
    "openvino": ("openvino",),
    "litert": ("ai_edge_litert", "litert_torch"),
    "ncnn": ("ncnn", "pnnx"),
}
"""Modules that the tests can do without: their engine is skipped then."""


def missing(engine) -> str | None:
    return next((name for name in NEEDED.get(engine, ()) if importlib.util.find_spec(name) is None), None)


SLOWLY_CONVERTED = ("litert", "ncnn")

HERE = [
    pytest.param(
        engine,
        marks=[
            pytest.mark.skipif(
                missing(engine) is not None,
                reason=f"{missing(engine)} is not installed: pip install 'mobilenets[{engine}]'",
            ),
            *([pytest.mark.slow] if engine in SLOWLY_CONVERTED else []),
        ],
    )
    for engine in ENGINES
]


class Opened(dict[str, Session]):
    """Sessions by engine, each converted and opened when it is first asked for."""

    def __init__(self, checkpoint, bundle, folder):
        self.checkpoint, self.bundle, self.folder = checkpoint, bundle, folder

    def __missing__(self, engine):
        self[engine] = open_session(self.model(engine), engine=engine)
        return self[engine]

    def model(self, engine):
        if engine in ("torch", "compiled"):
            return self.checkpoint
        if engine in ("onnxruntime", "openvino"):
            return self.bundle.folder
        (converted,), _ = prepare(self.checkpoint, [engine], self.folder)
        return converted.model


@pytest.fixture(scope="module")
def sessions(checkpoint, bundle, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOBILENETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield Opened(checkpoint, bundle, tmp_path_factory.mktemp("converted"))


def pictures(n=5, *, spec=TINY, seed=0):
    shape = (n, spec.resolution, spec.resolution, spec.channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# --- the contract: every engine, the same promises -----------------------------------------------


@pytest.mark.parametrize("engine", HERE)
class TestEveryEngine:
    @pytest.mark.slow
    def test_is_a_session_that_knows_its_model(self, sessions, checkpoint, engine):
        session = sessions[engine]
        assert isinstance(session, Session)
        assert session.engine == engine
        assert session.manifest == checkpoint.manifest
        assert session.trained_on == SEEN

    @pytest.mark.parametrize("n", [1, 2, 5])
    def test_gives_float32_logits_per_picture(self, sessions, engine, n):
        logits = sessions[engine].run(pictures(n))
        assert logits.shape == (n, TINY.classes)
        assert logits.dtype == np.float32
        assert np.isfinite(logits).all()

    def test_pictures_do_not_depend_on_their_neighbours(self, sessions, engine):
        batch = pictures(5)
        alone = np.concatenate([sessions[engine].run(one[None]) for one in batch])
        assert agreement(alone, sessions[engine].run(batch)).holds

    def test_sees_every_channel_and_the_picture_the_right_way_up(self, sessions, engine):
        batch = pictures(3)
        logits = sessions[engine].run(batch)
        for changed in (batch[..., ::-1], batch[:, ::-1], batch[:, :, ::-1], batch.transpose(0, 2, 1, 3)):
            assert not agreement(logits, sessions[engine].run(changed)).holds

    def test_is_deterministic(self, sessions, engine):
        first, second = (sessions[engine].run(pictures(5)) for _ in range(2))
        assert first.tobytes() == second.tobytes()

    @pytest.mark.parametrize(
        "view",
        [lambda x: x[::2], lambda x: x[:, ::-1], lambda x: x.transpose(0, 2, 1, 3)],
        ids=["every other", "upside down", "transposed"],
    )
    def test_takes_views(self, sessions, engine, view):
        batch = view(pictures(5))
        assert not batch.flags.c_contiguous
        assert sessions[engine].run(batch).tobytes() == sessions[engine].run(batch.copy()).tobytes()

    def test_takes_read_only_pixels_and_leaves_them_alone(self, sessions, engine):
        batch = pictures(2)
        before = batch.copy()
        batch.flags.writeable = False
        logits = sessions[engine].run(batch)
        np.testing.assert_array_equal(batch, before)
        logits[:] = 0
        assert sessions[engine].run(batch).any()

    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            (pictures(2).astype(np.float32), "float32"),
            (pictures(2).astype(np.int64), "int64"),
            ([[1, 2, 3]], "list"),
            (pictures(2)[0], r"\(32, 32, 3\)"),
            (pictures(0), r"\(0, 32, 32, 3\)"),
            (pictures(2).transpose(0, 3, 1, 2), r"\(2, 3, 32, 32\)"),
            (pictures(2)[..., :1], r"\(2, 32, 32, 1\)"),
            (pictures(2)[:, :31], r"\(2, 31, 32, 3\)"),
        ],
        ids=["float", "int", "list", "one picture", "none", "channels first", "grey", "size"],
    )
    def test_refuses_anything_else(self, sessions, engine, wrong, says):
        with pytest.raises(InputError, match=says):
            sessions[engine].run(wrong)

    def test_agrees_with_torch(self, sessions, engine):
        batch = pictures(16, seed=1)
        found = agreement(sessions["torch"].run(batch), sessions[engine].run(batch))
        assert found.holds, found


def test_one_thread_computes_the_same(bundle, sessions):
    batch = pictures(4)
    one = open_session(bundle.folder, threads=1).run(batch)
    assert agreement(sessions["onnxruntime"].run(batch), one).holds


# --- choosing an engine ----------------------------------------------------------------------------


def test_a_bundle_opens_in_its_own_engine(bundle):
    assert open_session(bundle).engine == "onnxruntime"
    assert open_session(bundle.folder).engine == "onnxruntime"
    assert open_session(str(bundle.model_file)).engine == "onnxruntime"


def test_a_session_is_passed_through(sessions):
    assert open_session(sessions["torch"]) is sessions["torch"]


def test_unknown_engine(checkpoint):
    with pytest.raises(UnknownName, match="Did you mean 'onnxruntime'"):
        open_session(checkpoint, engine="onnx-runtime")


def test_an_engine_refuses_the_other_kind_of_model(checkpoint, bundle):
    with pytest.raises(InputError, match="holds no checkpoint"):
        open_session(bundle.folder, engine="torch")
    for engine in ("onnxruntime", "openvino"):
        with pytest.raises(InputError, match="mobilenets export"):
            open_session(checkpoint, engine=engine)
        with pytest.raises(InputError, match="holds no ONNX file"):
            ENGINES[engine](dataclasses.replace(bundle, format="c"), None, SILENT)
    for model in (checkpoint, bundle.folder):
        for engine in ("litert", "ncnn"):
            with pytest.raises(InputError, match="mobilenets bench"):
                open_session(model, engine=engine)


def test_without_onnxruntime(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mobilenets\[onnx\]'") as error:
        OnnxSession(bundle)
    assert error.value.exit_code == 3


@pytest.mark.parametrize(
    ("module", "session", "extra"),
    [
        ("openvino", OpenVinoSession, "openvino"),
        ("ai_edge_litert.interpreter", LitertSession, "litert"),
        ("ncnn", NcnnSession, "ncnn"),
    ],
)
def test_without_a_peers_runtime(bundle, monkeypatch, module, session, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'mobilenets\[{extra}\]'"):
        session(bundle)


@pytest.mark.slow
def test_a_bundle_runs_without_torch(bundle):
    program = f"""
import sys
import mobilenets.cost, mobilenets.evaluation, mobilenets.prediction, mobilenets.zoo
found = mobilenets.prediction.predict({str(bundle.folder)!r}, [{str(bundle.folder / "golden")!r}])
assert len(found) == 8 and all(len(each.labels) == 3 for each in found), found
loaded = sorted(name for name in sys.modules if name.split(".")[0] in ("torch", "onnx", "onnxscript"))
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- reading a bundle ------------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path) -> Bundle:
    """A bundle whose model file is no model: enough for everything that happens before it is opened."""
    model_file = tmp_path / "model.onnx"
    model_file.write_bytes(b"not a model")
    bundle = Bundle(
        folder=tmp_path,
        manifest=calibrated().manifest,
        format="onnx",
        engine="onnxruntime",
        model_file=model_file,
        hashes={"model.onnx": sha256(model_file)},
    )
    rewrite(bundle)
    return bundle


def rewrite(bundle, *, drop=(), **changes):
    """Write the manifest of `bundle` with other values under `bundle`, or without some."""
    value = bundle_json(bundle)
    value["bundle"].update(changes)
    for key in drop:
        value["bundle"].pop(key)
    (bundle.folder / MANIFEST_FILE).write_text(json.dumps(value))


def test_a_bundle_comes_back_as_it_was_written(fake):
    assert read_bundle(fake.folder) == fake
    assert read_bundle(fake.model_file) == fake


def test_what_is_a_bundle(fake, tmp_path_factory):
    assert is_bundle(fake.folder)
    assert is_bundle(str(fake.model_file))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert not is_bundle(elsewhere)
    assert not is_bundle(elsewhere / "missing")
    (fake.folder / "model.safetensors").write_bytes(b"")
    assert not is_bundle(fake.folder / "model.safetensors")


def refused(folder, match):
    with pytest.raises(CheckpointError, match=match) as error:
        read_bundle(folder)
    assert error.value.file is not None
    assert str(folder) in error.value.file
    return error.value


def test_no_manifest(tmp_path):
    refused(tmp_path, "cannot be read")


@pytest.mark.parametrize(
    "text", ["", "{", "\x00", "[1]", "null", '{"bundle": 1}', '{"bundle": {"version": "1"}}']
)
def test_a_broken_manifest(fake, text):
    (fake.folder / MANIFEST_FILE).write_text(text)
    assert "mobilenets export" in str(refused(fake.folder, "valid JSON|not a bundle's manifest"))


def test_a_checkpoints_manifest_is_no_bundle(fake):
    (fake.folder / MANIFEST_FILE).write_text(json.dumps(fake.manifest.to_json()))
    refused(fake.folder, "not a bundle's manifest")


def test_newer_versions(fake):
    rewrite(fake, version=BUNDLE_VERSION + 1)
    assert "pip install -U mobilenets" in str(refused(fake.folder, f"version {BUNDLE_VERSION + 1}"))
    value = bundle_json(fake) | {"format_version": FORMAT_VERSION + 1}
    (fake.folder / MANIFEST_FILE).write_text(json.dumps(value))
    assert "pip install -U mobilenets" in str(refused(fake.folder, f"version {FORMAT_VERSION + 1}"))


@pytest.mark.parametrize("key", ["format", "engine", "model_file", "sha256"])
def test_an_incomplete_manifest(fake, key):
    rewrite(fake, drop=[key])
    refused(fake.folder, "hash" if key == "sha256" else key)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "..", "a\\b"])
def test_a_model_file_outside_the_folder(fake, name):
    rewrite(fake, model_file=name, sha256={name: "0" * 64})
    refused(fake.folder, "not a file name")


def test_a_wrong_network(fake):
    value = bundle_json(fake)
    value["labels"] = ["only one"]
    (fake.folder / MANIFEST_FILE).write_text(json.dumps(value))
    refused(fake.folder, "1 labels for 5 classes")


def test_a_missing_model_file(fake):
    fake.model_file.unlink()
    error = refused(fake.folder, "missing")
    assert error.file == str(fake.model_file)
    assert "mobilenets export" in str(error)


def test_a_changed_model_file(fake):
    fake.model_file.write_bytes(b"another model")
    error = refused(fake.folder, "not the model that this bundle was checked with")
    assert error.file == str(fake.model_file)


def test_an_unreadable_model_file(fake, monkeypatch):
    def forbidden(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("mobilenets.runtime.bundle.sha256", forbidden)
    refused(fake.folder, "Permission denied")


def test_missing_memory_of_what_it_was_trained_on(fake):
    rewrite(fake, sha256={**fake.hashes, "trained_on.txt": "0" * 64})
    refused(fake.folder, "cannot be read")


def test_a_file_that_the_runtime_cannot_open(fake):
    with pytest.raises(
        EnvironmentFault, match=r"(?s)cannot open this model.*pip install -U onnxruntime"
    ) as error:
        OnnxSession(read_bundle(fake.folder))
    assert error.value.file == str(fake.model_file)


def test_a_certificate_that_is_none(fake):
    with pytest.raises(InputError, match=r"certificate\.json"):
        _ = fake.certificate
    (fake.folder / "certificate.json").write_text("[]")
    with pytest.raises(InputError, match="not a certificate"):
        _ = fake.certificate
