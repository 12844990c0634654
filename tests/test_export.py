import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="torch is not installed: pip install 'mobilenets[train]'")
pytest.importorskip("onnx", reason="onnx is not installed: pip install 'mobilenets[onnx]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'mobilenets[onnx]'")

import onnx

import mobilenets
from calibrated import TINY, calibrated, with_manifest
from heard import Heard
from mobilenets import exporting, zoo
from mobilenets.errors import (
    CheckpointError,
    FolderError,
    GateFailed,
    InputError,
    MissingExtra,
    UnknownName,
    WriteFailed,
)
from mobilenets.exporting import FORMATS, contents, export, golden
from mobilenets.exporting.destination import check_destination
from mobilenets.exporting.onnx import OPSETS, write_onnx
from mobilenets.files import replacing_folder, sha256
from mobilenets.pictures import load
from mobilenets.prediction import predict
from mobilenets.preprocessing import for_channels, prepare
from mobilenets.runtime import ENGINES, open_session
from mobilenets.runtime.bundle import read_bundle
from mobilenets.tolerances import LOGITS_RELATIVE, agreement

LABELS = ("daisy", "<script>alert('x')</script>", "two\nlines", "\u202egnp.exe | *b* `c`", "🌹 'rose' \"q\"")
SEEN = frozenset({"0123456789abcdef", "fedcba9876543210"})


@pytest.fixture(scope="module")
def checkpoint():
    score = {"value": 0.934, "low": 0.921, "high": 0.945, "n": 812}
    described = with_manifest(
        calibrated(labels=LABELS),
        metrics={"test": {"accuracy": score}, "val": {"accuracy": 0.9}},
        licence="CC-BY-4.0",
        provenance={"tool": "tests"},
    )
    return dataclasses.replace(described, trained_on=SEEN)


@pytest.fixture(scope="module")
def source(checkpoint, tmp_path_factory) -> Path:
    return checkpoint.save(tmp_path_factory.mktemp("run") / "flowers.safetensors")


@pytest.fixture(scope="module")
def bundle(source):
    return export(source)


@pytest.fixture
def copy(bundle, tmp_path) -> Path:
    return Path(shutil.copytree(bundle.folder, tmp_path / "copy"))


@pytest.fixture
def converted_before(bundle, monkeypatch):
    """Exports of the same checkpoint take the model file from the first one, which saves seconds."""

    def write(_checkpoint, folder, _asked):
        shutil.copy(bundle.model_file, folder)

    monkeypatch.setitem(FORMATS, "onnx", dataclasses.replace(FORMATS["onnx"], write=write))


def run(folder: Path, program: str, *arguments: str, cwd: Path | None = None):
    """One of a bundle's programs in a process that has neither torch nor this package."""
    code = (
        "import sys, runpy\n"
        "sys.modules.update(torch=None, mobilenets=None, onnx=None)\n"
        "sys.path[0] = sys.argv[1].rsplit('/', 1)[0]\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, "-B", "-W", "error", "-c", code, str(folder / program), *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False, cwd=cwd)


# --- what a bundle holds -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_bundle_lies_beside_its_checkpoint_and_is_whole(bundle, source):
    assert bundle.folder == source.with_name("flowers-onnx")
    assert sorted(path.name for path in source.parent.iterdir()) == ["flowers-onnx", "flowers.safetensors"]
    assert {path.name for path in bundle.folder.iterdir()} == {
        *("model.onnx", "manifest.json", "certificate.json", "labels.txt", "labels.json", "golden"),
        *("golden.json", "predict.py", "selftest.py", "engine.py", "support", "requirements.txt"),
        *("README.md", "LICENSES.txt", "trained_on.txt"),
    }
    for name, expected in bundle.hashes.items():
        assert sha256(bundle.folder / name) == expected
    files = {
        path.relative_to(bundle.folder).as_posix() for path in bundle.folder.rglob("*") if path.is_file()
    }
    assert files == {*bundle.hashes, "manifest.json"}


def test_a_bundle_says_what_the_checkpoint_said(bundle, checkpoint):
    assert bundle.manifest == checkpoint.manifest
    assert bundle.trained_on == SEEN
    assert bundle.format == "onnx"
    assert bundle.engine == "onnxruntime"


def test_labels_survive(bundle):
    assert tuple(json.loads((bundle.folder / "labels.json").read_text())) == LABELS
    lines = (bundle.folder / "labels.txt").read_text("utf-8").splitlines()
    assert len(lines) == len(LABELS)
    assert lines[2] == r"two\nlines"
    assert lines[3].startswith(r"\u202e")


@pytest.mark.slow
def test_the_readme_escapes_labels_and_gives_the_score(bundle):
    text = (bundle.folder / "README.md").read_text("utf-8")
    assert "<script>" not in text
    assert "\u202e" not in text
    assert "two\nlines" not in text
    assert "93.4% (95% interval 92.1% – 94.5%, 812 pictures)" in text
    assert "CC-BY-4.0" in text
    assert "{" not in text


@pytest.mark.slow
def test_a_model_without_scores_and_licence_says_so(checkpoint, converted_before, tmp_path):
    bare = export(with_manifest(checkpoint, metrics={}, licence="unstated"), out=tmp_path / "bundle")
    assert "No score on held-out pictures" in (bare.folder / "README.md").read_text("utf-8")
    assert "not licensed to you" in (bare.folder / "LICENSES.txt").read_text("utf-8")


def test_a_table_names_twenty_labels_at_most():
    many = calibrated(dataclasses.replace(TINY, classes=300)).manifest
    certificate = {
        "comparison": {"pictures": 8, "relative": 1e-6, "tolerance": 1e-4, "top1_agreement": 1.0},
        "candidate": {"model_file": "model.onnx", "ran": True},
    }
    text = exporting.contents.card.readme(many, certificate, ())
    assert "class 19 … and 280 more" in text
    assert "class 20" not in text


@pytest.mark.slow
def test_the_certificate_is_true(bundle, source):
    certificate = bundle.certificate
    assert certificate["verdict"] == "passed"
    assert certificate["reference"]["checkpoint_sha256"] == sha256(source)
    assert certificate["candidate"]["sha256"] == sha256(bundle.model_file)
    comparison = certificate["comparison"]
    assert comparison["pictures"] == 8
    assert comparison["tolerance"] == LOGITS_RELATIVE
    contract, side = bundle.manifest.preprocessing, bundle.manifest.spec.resolution
    files = [bundle.folder / row["file"] for row in read_golden(bundle)]
    pixels = np.stack([prepare(load(file), contract, side) for file in files])
    found = agreement(
        open_session(source, engine="torch").run(pixels), open_session(bundle.folder).run(pixels)
    )
    assert found.holds
    assert comparison["reference_std"] == pytest.approx(found.reference_std)
    assert 0 < comparison["relative"] < LOGITS_RELATIVE
    assert comparison["top1_agreement"] == 1.0


def read_golden(bundle) -> list[dict]:
    return json.loads((bundle.folder / "golden.json").read_text())["pictures"]


def test_golden_logits_are_the_source_models(bundle, source):
    session = open_session(source, engine="torch")
    for row in read_golden(bundle):
        file = bundle.folder / row["file"]
        pixels = prepare(load(file), bundle.manifest.preprocessing, TINY.resolution)
        assert sha256(file) == row["sha256"]
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == row["pixels_sha256"]
        expected = np.array(row["logits"], dtype=np.float32)
        assert agreement(session.run(pixels[None]), expected[None]).relative < 1e-6


def test_golden_pictures_try_what_goes_wrong(bundle):
    images = {row["file"]: Image.open(bundle.folder / row["file"]) for row in read_golden(bundle)}
    sizes = {image.size for image in images.values()}
    side = TINY.resolution
    assert (side, side) in sizes
    assert any(min(size) < side for size in sizes)
    assert any(width > height for width, height in sizes) and any(width < height for width, height in sizes)
    assert any(width % 2 and height % 2 for width, height in sizes)
    assert {image.mode for image in images.values()} == {"RGB", "L", "RGBA"}
    assert sorted(image.getexif().get(0x0112, 1) for image in images.values())[-1] == 6
    for image in images.values():
        image.close()


# --- the ONNX file -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(bundle):
    loaded = onnx.load(bundle.model_file)
    onnx.checker.check_model(loaded, full_check=True)
    return loaded


@pytest.mark.slow
def test_the_graph_takes_pixels_and_gives_logits(model):
    (pixels,), (logits,) = model.graph.input, model.graph.output

    def shape(value):
        return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]

    assert (pixels.name, logits.name) == ("pixels", "logits")
    assert shape(pixels) == ["batch", 32, 32, 3]
    assert shape(logits) == ["batch", 5]
    assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert logits.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]


def test_the_graph_is_lean(model):
    """Norms are folded into their convolutions; the attention's first norm has none in front of it."""
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["BatchNormalization"] == 1
    assert "Gather" not in kinds
    assert "Transpose" in kinds
    floats = [each for each in model.graph.initializer if each.data_type == onnx.TensorProto.FLOAT]
    assert floats
    assert {each.data_type for each in model.graph.initializer} <= {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.INT64,
    }


def test_the_file_describes_itself(model, checkpoint):
    properties = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert properties["mobilenets"] == json.loads(json.dumps(checkpoint.manifest.to_json()))
    assert tuple(properties["labels"]) == LABELS
    assert properties["preprocessing"]["mean"] == [0.45] * 3
    assert (model.producer_name, model.producer_version) == ("mobilenets", mobilenets.__version__)


def test_the_file_holds_no_path_of_this_machine(bundle):
    data = bundle.model_file.read_bytes()
    for trace in (str(Path(mobilenets.__file__).parent), str(Path.cwd()), "stack_trace", "site-packages"):
        assert trace.encode() not in data


@pytest.mark.slow
def test_converting_is_silent_changes_nothing_and_gives_the_same_file(bundle, checkpoint, tmp_path, capfd):
    before = (logging.root.manager.disable, list(warnings.filters))
    write_onnx(checkpoint, tmp_path / "model.onnx", 18)
    assert (logging.root.manager.disable, list(warnings.filters)) == before
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "model.onnx").read_bytes() == bundle.model_file.read_bytes()


SMALL_FAMILY = [
    pytest.param(lambda: zoo.v3_small(classes=10, resolution=64), 18, id="v3-small"),
]
LARGE_FAMILY = [
    pytest.param(lambda: zoo.v2(width=0.35, classes=3, channels=1, resolution=32), 18, id="v2-grey"),
    pytest.param(lambda: zoo.v1(width=0.25, classes=10, resolution=96), 18, id="v1"),
    pytest.param(lambda: zoo.v1(width=0.25, full=True, classes=10, resolution=64), 18, id="v1-full"),
    pytest.param(
        lambda: dataclasses.replace(
            zoo.v3_large(width=0.75, minimalistic=True, classes=10, resolution=70), padding="same"
        ),
        20,
        id="v3-large-minimalistic-same",
    ),
    pytest.param(lambda: zoo.v4_conv_small(classes=10, resolution=64), 21, id="v4-small"),
    pytest.param(lambda: zoo.v4_conv_medium(classes=10, resolution=33), 18, id="v4-medium"),
    pytest.param(lambda: zoo.v2(channels=4, classes=1000, resolution=64), 21, id="v2-rgba"),
]


def check_family(build, opset, folder):
    network = build()
    result = export(calibrated(network), out=folder / "bundle", opset=opset)
    loaded = onnx.load(result.model_file)
    assert loaded.opset_import[0].version == opset
    assert not {"BatchNormalization", "Gather", "Pad"} & {node.op_type for node in loaded.graph.node}
    assert result.certificate["comparison"]["relative"] < LOGITS_RELATIVE


@pytest.mark.slow
@pytest.mark.parametrize(("build", "opset"), SMALL_FAMILY)
def test_a_small_network_exports_and_agrees(build, opset, tmp_path):
    check_family(build, opset, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize(("build", "opset"), LARGE_FAMILY)
def test_every_family_exports_and_agrees(build, opset, tmp_path):
    check_family(build, opset, tmp_path)


@pytest.mark.full
def test_real_weights_export_and_agree_on_real_pictures(data, tmp_path):
    from mobilenets.weights import import_file

    file = data / "weights-float" / "tf_mobilenetv3_small_100.pt"
    imported = import_file(file, padding="same", epsilon=1e-3, mean=0.5, std=0.5, labels="imagenet")
    result = export(imported.checkpoint, out=tmp_path / "bundle", pictures=data / "imagenet-500")
    assert result.certificate["comparison"]["pictures"] == 8 + golden.MAX_TAKEN
    assert run(result.folder, "selftest.py").returncode == 0


# --- the programs in a bundle ------------------------------------------------------------------------


@pytest.mark.parametrize("module", contents.SUPPORTING)
def test_the_preprocessing_is_our_own_to_the_byte(bundle, module):
    ours = (Path(mobilenets.__file__).parent / f"{module}.py").read_bytes()
    theirs = (bundle.folder / "support" / f"{module}.py").read_bytes()
    assert theirs.replace(b"from support.", b"from mobilenets.") == ours
    assert b"mobilenets." not in theirs.replace(b"`mobilenets.", b"")
    imported = re.findall(r"^(?:from|import) support\.(\w+)", theirs.decode(), flags=re.MULTILINE)
    assert set(imported) <= set(contents.SUPPORTING)


def test_predict_says_what_our_own_predict_says(bundle, tmp_path):
    picture = bundle.folder / "golden" / "turned.png"
    done = run(bundle.folder, "predict.py", str(picture), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (ours,) = predict(bundle.folder, [picture], top=5)
    shown = re.findall(r"^ +([\d.]+)%  (.*)$", done.stdout, flags=re.MULTILINE)
    assert [label for _, label in shown] == [mobilenets.text.printable(label) for label in ours.labels]
    assert [float(share) for share, _ in shown] == [round(100 * p, 1) for p in ours.probabilities]


@pytest.mark.slow
def test_predict_names_what_it_cannot_read(bundle, tmp_path):
    (tmp_path / "no\npicture.png").write_text("text")
    done = run(
        bundle.folder, "predict.py", str(tmp_path / "no\npicture.png"), str(bundle.folder / "golden/grey.png")
    )
    assert done.returncode == 2
    assert r"no\npicture.png: cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
    assert "grey.png" in done.stdout
    done = run(bundle.folder, "predict.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage" in done.stderr


def test_the_selftest_passes_anywhere(copy, tmp_path):
    (copy / "README.md").write_text("my own words")
    done = run(copy, "selftest.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout
    assert done.stdout.count("pixels equal") == 8


def spoil_picture(folder):
    shutil.copy(folder / "golden" / "grey.png", folder / "golden" / "noise.png")


def spoil_preprocessing(folder):
    file = folder / "support" / "preprocessing.py"
    file.write_text(file.read_text().replace("Image.Resampling.BILINEAR", "Image.Resampling.NEAREST"))


def spoil_logits(folder):
    value = json.loads((folder / "golden.json").read_text())
    value["pictures"][3]["logits"][0] += 0.01
    (folder / "golden.json").write_text(json.dumps(value))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "golden" / "noise.png").unlink(), "noise.png is missing"),
        (lambda folder: (folder / "labels.json").write_text("[]"), "labels.json was changed"),
        (spoil_picture, "noise.png: Pillow prepares other pixels"),
        (spoil_preprocessing, "prepares other pixels"),
        (spoil_logits, "computes something else here"),
    ],
    ids=["missing", "labels", "picture", "preprocessing", "logits"],
)
def test_the_selftest_fails(copy, spoil, says):
    spoil(copy)
    done = run(copy, "selftest.py")
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert "passed" not in done.stdout


def test_requirements_are_those_of_the_project(bundle):
    lines = (bundle.folder / "requirements.txt").read_text().splitlines()
    wanted = {line.split(";")[0].strip() for line in importlib.metadata.requires("mobilenets") or ()}
    assert lines[0].startswith("# made and checked with")
    assert len(lines) == 4
    assert set(lines[1:]) <= wanted


# --- nothing counts that was not proven ----------------------------------------------------------------


def another(checkpoint):
    """The same network with one weight of the classifier moved a little."""
    tensors = {name: array.copy() for name, array in checkpoint.tensors.items()}
    tensors["classifier.weight"][0, 0] += 0.01
    return dataclasses.replace(checkpoint, tensors=tensors)


@pytest.mark.slow
def test_a_failed_comparison_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def write(source, folder, asked):
        write_onnx(another(source), folder / "model.onnx", asked.opset)

    monkeypatch.setitem(FORMATS, "onnx", dataclasses.replace(FORMATS["onnx"], write=write))
    with pytest.raises(GateFailed, match=r"(?s)not the model it came from.*torch \d") as error:
        export(checkpoint, out=tmp_path / "bundle")
    assert error.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_a_failed_selftest_leaves_the_old_bundle(checkpoint, copy, converted_before, monkeypatch):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    monkeypatch.setattr(contents, "standalone", lambda _module: "raise SystemExit('broken support')\n")
    with pytest.raises(GateFailed, match="self-test failed: broken support"):
        export(checkpoint, out=copy)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_a_network_that_gives_nan(checkpoint, converted_before, tmp_path):
    tensors = {name: array.copy() for name, array in checkpoint.tensors.items()}
    tensors["classifier.bias"][0] = np.nan
    with pytest.raises(CheckpointError, match="NaN"):
        export(dataclasses.replace(checkpoint, tensors=tensors), out=tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(checkpoint, tmp_path, monkeypatch):
    def full(_pictures, _folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(
        FORMATS,
        "onnx",
        dataclasses.replace(
            FORMATS["onnx"], write=lambda _c, folder, _o: (folder / "model.onnx").write_bytes(b"")
        ),
    )
    monkeypatch.setattr(golden, "save", full)
    with pytest.raises(WriteFailed, match="the disk is full"):
        export(checkpoint, out=tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


# --- where it goes -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_default_places(checkpoint, converted_before, tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "run" / "model.safetensors")
    assert export(tmp_path / "run").folder == tmp_path / "run" / "tiny-onnx"
    monkeypatch.chdir(tmp_path)
    assert export(checkpoint).folder == Path("tiny-onnx")
    odd = with_manifest(checkpoint, spec=dataclasses.replace(TINY, name="../a b"))
    assert export(odd).folder == Path(".._a_b-onnx")


@pytest.mark.slow
def test_a_bundle_is_replaced_and_an_empty_folder_filled(checkpoint, copy, converted_before):
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "predict.pyc").write_bytes(b"")
    (copy / "model.onnx").write_bytes(b"damaged")
    old = json.loads((copy / "certificate.json").read_text())["date"]
    result = export(checkpoint, out=copy)
    assert result == read_bundle(copy)
    assert result.certificate["date"] >= old
    assert not (copy / "__pycache__").exists()
    empty = copy.parent / "empty"
    empty.mkdir()
    assert export(checkpoint, out=empty).folder == empty
    assert sorted(path.name for path in copy.parent.iterdir()) == ["copy", "empty"]


def test_a_link_is_followed(checkpoint, copy, converted_before):
    link = copy.parent / "link"
    link.symlink_to(copy)
    assert export(checkpoint, out=link).folder == copy
    assert link.is_symlink()


def test_other_things_are_not_replaced(copy, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="other things in it"):
        check_destination(tmp_path)
    with pytest.raises(InputError, match=r"(?s)is a file.*-o"):
        check_destination(tmp_path / "notes.txt")
    check_destination(copy)
    check_destination(tmp_path / "new")
    (copy / "notes\n.txt").write_text("mine")
    (copy / "README.md").write_text("my own words")
    with pytest.raises(InputError, match=r"2 files added or changed .*README.md, notes\\n.txt"):
        check_destination(copy)
    for broken in ("{", "[]", '{"bundle": 1}', '{"bundle": {"sha256": 1, "model_file": "m"}}'):
        (copy / "manifest.json").write_text(broken)
        with pytest.raises(InputError, match="other things in it"):
            check_destination(copy)


def test_export_looks_before_it_works(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "onnx", dataclasses.replace(FORMATS["onnx"], write=pytest.fail))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="other things in it"):
        export(checkpoint, out=tmp_path)


def test_a_folder_that_cannot_be_renamed_stays(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")
    real = os.replace

    def refuse(source, target):
        if str(source).endswith(".tmp"):
            raise PermissionError(13, "Permission denied")
        real(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(WriteFailed, match="no permission"), replacing_folder(out) as new:
        (new / "new").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "old").read_text() == "old"


def test_an_interruption_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), replacing_folder(tmp_path / "out") as new:
        (new / "half").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


# --- wrong input -------------------------------------------------------------------------------------


def test_an_unknown_format(source):
    with pytest.raises(UnknownName, match=r"unknown format: 'onx'\. Did you mean 'onnx'"):
        export(source, "onx")


@pytest.mark.parametrize("opset", [17, 19, 22, 0, "18"])
def test_an_opset_that_is_not_offered(checkpoint, tmp_path, opset):
    with pytest.raises(InputError, match="accepted: 18, 20, 21"):
        export(checkpoint, out=tmp_path / "bundle", opset=opset)
    assert list(tmp_path.iterdir()) == []
    assert OPSETS == (18, 20, 21)


def test_a_bundle_is_no_source(bundle):
    for path in (bundle.folder, bundle.model_file):
        with pytest.raises(InputError, match="is a bundle already"):
            export(path)


def test_no_model(tmp_path):
    with pytest.raises(CheckpointError, match="no such model file"):
        export(tmp_path / "missing.safetensors")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package(checkpoint, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"'{package}'.*\n.*mobilenets\[onnx\]"):
        export(checkpoint, out=tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


# --- golden pictures of the user's own -----------------------------------------------------------------


@pytest.fixture
def album(tmp_path) -> Path:
    """Twenty photographs with metadata, one of them lying on its side, and one broken file."""
    folder = tmp_path / "album of Ann"
    (folder / "below").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(20):
        exif = Image.Exif()
        exif[0x010E] = "a secret"
        exif[0x0112] = 6
        image = Image.fromarray(rng.integers(0, 256, (60, 1000, 3), dtype=np.uint8))
        image.save(folder / "below" / f"Ann {index}.jpg", exif=exif, comment=b"a secret")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    return folder


@pytest.mark.slow
def test_pictures_of_the_users_own(checkpoint, album, converted_before, tmp_path):
    heard = Heard()
    result = export(checkpoint, out=tmp_path / "bundle", pictures=album, progress=heard)
    taken = sorted(path.name for path in (result.folder / "golden").glob("taken-*"))
    assert taken == [f"taken-{index:02d}.png" for index in range(1, golden.MAX_TAKEN + 1)]
    assert result.certificate["comparison"]["pictures"] == 8 + golden.MAX_TAKEN
    assert result.certificate["comparison"]["pictures_taken"] == golden.MAX_TAKEN
    for name in taken:
        data = (result.folder / "golden" / name).read_bytes()
        assert b"secret" not in data
        with Image.open(result.folder / "golden" / name) as image:
            assert (image.width, image.height) == (31, golden.MAX_SIDE)
            assert not image.getexif()
    everything = b"".join(path.read_bytes() for path in result.folder.rglob("*") if path.is_file())
    assert b"Ann" not in everything
    assert "golden/taken-*.png" in (result.folder / "LICENSES.txt").read_text("utf-8")
    assert "24 pictures" in heard.lines[-1]
    assert run(result.folder, "selftest.py").returncode == 0


def test_pictures_that_cannot_be_read_are_counted(album):
    contract = for_channels(1)
    images, refused = golden.taken(album, contract, at_most=30)
    assert (len(images), refused) == (20, 1)
    assert {image.mode for image in images.values()} == {"L"}
    shutil.rmtree(album / "below")
    with pytest.raises(FolderError, match="no picture that can be decoded, of 1 file"):
        golden.taken(album, contract)


def test_no_pictures(checkpoint, tmp_path):
    with pytest.raises(FolderError, match="no such picture or folder"):
        export(checkpoint, out=tmp_path / "bundle", pictures=tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FolderError, match="holds no pictures"):
        export(checkpoint, out=tmp_path / "bundle", pictures=tmp_path / "empty")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.slow
def test_it_says_what_it_found(checkpoint, converted_before, tmp_path):
    heard = Heard()
    export(checkpoint, out=tmp_path / "bundle", progress=heard)
    assert heard.lines[0] == "Converting tiny to ONNX …"
    assert re.fullmatch(
        r"Compared with torch on 8 pictures, alone and together: logits at most \d\.\de-\d\d of their spread "
        r"apart \(allowed 1e-04\), same best class on 100%\.",
        heard.lines[1],
    )


def test_formats_name_engines_that_exist():
    assert {each.engine for each in FORMATS.values()} <= ENGINES.keys()
