"""Other people's weight files: recognised by their tensors, refused in words."""

import ast
import dataclasses
import json
import pickle
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import mobilenets
from mobilenets import checkpoint as checkpoints
from mobilenets import zoo
from mobilenets.errors import CheckpointError, InputError, LabelsError
from mobilenets.preprocessing import Preprocessing
from mobilenets.spec import tensor_shapes
from mobilenets.zoo import ZOO, Rule

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402

from mobilenets.network import build, to_tensors  # noqa: E402
from mobilenets.weights import import_file  # noqa: E402
from mobilenets.weights.matching import identify as identify_among  # noqa: E402
from mobilenets.weights.timm import TIMM, timm_names  # noqa: E402

SPEC = zoo.v2(0.35, classes=4)


@cache
def random_tensors(spec):
    return to_tensors(build(spec))


def timm_state(spec=SPEC):
    """Random weights of `spec` as timm saves them, step counters included."""
    names, state = timm_names(spec), {}
    for ours, array in random_tensors(spec).items():
        state[names[ours]] = torch.from_numpy(array.copy())
        if ours.endswith("running_var"):
            state[names[ours].replace("running_var", "num_batches_tracked")] = torch.tensor(7)
    return state


def saved(tmp_path, value, name="model.pth"):
    torch.save(value, tmp_path / name)
    return tmp_path / name


def identify(shapes):
    return identify_among(shapes, (TIMM,))


def shapes_of(spec):
    names = timm_names(spec)
    return {names[ours]: shape for ours, shape in tensor_shapes(spec).items()}


# --- what a file is --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ZOO)
@pytest.mark.parametrize("width", ["published", 0.6, 1.23, 3.14159])
def test_any_network_of_the_zoo_is_recognised(prefix, width):
    for w in ZOO[prefix].widths if width == "published" else (width,):
        for rule in get_args(Rule):
            spec = ZOO[prefix].build(w, rule=rule, classes=11, channels=1)
            match = identify(shapes_of(spec))
            assert tensor_shapes(match.spec) == tensor_shapes(spec)
            assert match.rule == rule or match.spec.blocks == spec.blocks or "edgetpu" in prefix
            assert (match.spec.classes, match.spec.channels) == (11, 1)
            if width == "published":
                assert (match.width, match.spec.name) == (w, spec.name)


def test_the_roundest_width_is_named():
    assert identify(shapes_of(zoo.v2(0.6))).width == 0.6
    assert identify(shapes_of(zoo.v3_large(1.1))).width == 1.1
    assert identify(shapes_of(zoo.v1(0.333, rule="paper"))).width == 0.333


def test_the_tensors_arrive_unchanged(tmp_path):
    state = timm_state()
    imported = import_file(saved(tmp_path, state))
    names = timm_names(SPEC)
    assert list(imported.checkpoint.tensors) == list(tensor_shapes(SPEC))
    for ours, array in imported.checkpoint.tensors.items():
        assert array.tobytes() == state[names[ours]].numpy().tobytes()
    path = imported.checkpoint.save(tmp_path / "model.safetensors")
    assert checkpoints.load(path).manifest == imported.checkpoint.manifest
    text = " ".join(imported.decisions)
    assert "mobilenet_v2_035" in text and "4 classes" in text and "3 channels" in text
    provenance = imported.checkpoint.manifest.provenance
    assert provenance["imported_from"] == "model.pth" and len(provenance["sha256"]) == 64
    assert list(imported.decisions) == provenance["decisions"]


@pytest.mark.slow
@pytest.mark.parametrize("wrap", ["state_dict", "model", "state_dict_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_wrappers_and_prefixes_are_taken_off(tmp_path, wrap, prefix):
    state = {prefix + name: tensor for name, tensor in timm_state().items()}
    imported = import_file(saved(tmp_path, {wrap: state, "epoch": 3, "arch": "mobilenetv2_035"}))
    assert imported.checkpoint.spec.name == "mobilenet_v2_035"
    assert any(repr(wrap) in sentence for sentence in imported.decisions)


def test_averaged_weights_come_before_the_raw_ones(tmp_path):
    averaged = timm_state()
    raw = {name: tensor * 0 for name, tensor in averaged.items()}
    imported = import_file(saved(tmp_path, {"state_dict": raw, "state_dict_ema": averaged}))
    assert imported.checkpoint.tensors["classifier.weight"].any()
    assert any("'state_dict_ema'" in s and "'state_dict' left aside" in s for s in imported.decisions)


def test_torchs_averaged_model_comes_in(tmp_path):
    averaged = {f"module.{name}": tensor for name, tensor in timm_state().items()}
    stored = {"model": timm_state(), "model_ema": {"n_averaged": torch.tensor(7), **averaged}}
    imported = import_file(saved(tmp_path, stored))
    assert any("'model_ema'" in sentence for sentence in imported.decisions)


def test_one_logit_becomes_two_classes(tmp_path):
    """Their softmax is its sigmoid; for the proof it stays one."""
    spec = dataclasses.replace(SPEC, classes=1)
    imported = import_file(saved(tmp_path, timm_state(spec)))
    bias = imported.checkpoint.tensors["classifier.bias"]
    assert imported.checkpoint.manifest.labels == ("class_0", "class_1")
    assert bias[0] == 0 and bias[1] == imported.found.tensors["classifier.bias"][0]
    assert imported.found.spec.classes == 1
    assert any("its sigmoid" in sentence for sentence in imported.decisions)


def test_a_config_of_another_model_is_no_help(tmp_path):
    path = saved(tmp_path, timm_state())
    config = tmp_path / "config.json"
    for wrong in (
        {"architecture": "tf_efficientnet_b0"},
        {"architecture": "mobilenetv2_035", "num_classes": 9},
    ):
        config.write_text(json.dumps({"pretrained_cfg": {"input_size": [3, 600, 600]}, **wrong}))
        with pytest.raises(CheckpointError, match=r"config\.json.*tensors"):
            import_file(path)


def test_safetensors_and_old_pickles_come_in_too(tmp_path):
    state = timm_state()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.bin", _use_new_zipfile_serialization=False)
    expected = state["classifier.weight"].numpy()
    for name in ("a.safetensors", "b.bin"):
        tensors = import_file(tmp_path / name).checkpoint.tensors
        assert np.array_equal(tensors["classifier.weight"], expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path, dtype):
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in timm_state().items()}
    imported = import_file(saved(tmp_path, state))
    array = imported.checkpoint.tensors["classifier.weight"]
    assert array.dtype == np.float32
    assert np.array_equal(array, state["classifier.weight"].float().numpy())
    assert any("converted to float32" in sentence for sentence in imported.decisions)


# --- what a file cannot say ------------------------------------------------------------------


def test_defaults_are_the_zoos_and_are_told(tmp_path):
    imported = import_file(saved(tmp_path, timm_state()))
    spec, manifest = imported.checkpoint.spec, imported.checkpoint.manifest
    assert (spec.padding, spec.norm_epsilon, spec.resolution) == ("symmetric", 1e-5, 224)
    assert manifest.preprocessing.mean == (0.485, 0.456, 0.406)
    assert manifest.preprocessing.std == (0.229, 0.224, 0.225)
    assert manifest.labels == ("class_0", "class_1", "class_2", "class_3")
    assert manifest.licence == "unstated"
    text = "\n".join(imported.decisions)
    for said in ("--padding", "--eps", "--resolution", "0.485/0.456/0.406", "class_0", "--licence"):
        assert said in text


def test_minimalistic_brings_its_own_defaults(tmp_path):
    spec = zoo.v3_small(minimalistic=True, classes=2)
    imported = import_file(saved(tmp_path, timm_state(spec)))
    assert imported.checkpoint.spec == dataclasses.replace(spec)


def test_what_is_given_is_taken(tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("tulip\nrose\n déjà vu \n<b>\n\n", encoding="utf-8")
    imported = import_file(
        saved(tmp_path, timm_state()),
        padding="same",
        epsilon=1e-3,
        mean=0.5,
        std=(0.5, 0.25, 1.0),
        labels=labels,
        resolution=192,
        licence="Apache-2.0",
    )
    spec, manifest = imported.checkpoint.spec, imported.checkpoint.manifest
    assert (spec.padding, spec.norm_epsilon, spec.resolution) == ("same", 1e-3, 192)
    assert manifest.preprocessing == Preprocessing(mean=(0.5,) * 3, std=(0.5, 0.25, 1.0))
    assert manifest.labels == ("tulip", "rose", "déjà vu", "<b>")
    assert manifest.licence == "Apache-2.0"
    assert not any("default" in sentence or "--" in sentence for sentence in imported.decisions)


def test_a_thousand_classes_are_not_taken_for_imagenets_unasked(tmp_path):
    state = timm_state(zoo.v2(0.35))
    imported = import_file(saved(tmp_path, state))
    assert imported.checkpoint.manifest.labels[::999] == ("class_000", "class_999")
    assert any("--labels imagenet" in sentence for sentence in imported.decisions)
    named = import_file(tmp_path / "model.pth", labels="imagenet").checkpoint.manifest
    assert len(set(named.labels)) == 1000 and named.labels[1].startswith("goldfish")


def test_grey_and_alpha_pictures(tmp_path):
    for channels, mode in ((1, "L"), (4, "RGBA")):
        spec = zoo.v2(0.35, classes=2, channels=channels)
        preprocessing = import_file(saved(tmp_path, timm_state(spec))).checkpoint.manifest.preprocessing
        assert (preprocessing.mode, preprocessing.mean) == (mode, (0.5,) * channels)


@pytest.mark.parametrize(
    ("flags", "error", "said"),
    [
        ({"labels": "imagenet"}, LabelsError, "4 classes, the labels are 1000"),
        ({"labels": "no such file"}, LabelsError, "cannot be read"),
        ({"mean": (0.5, 0.5)}, InputError, "mean has 2 values; give one, or one for each of 3 channels"),
        ({"mean": float("nan")}, InputError, "finite"),
        ({"std": 0}, InputError, "std"),
        ({"std": float("inf")}, InputError, "finite"),
        ({"padding": "valid"}, InputError, "padding is 'valid'; accepted: symmetric, same"),
        ({"epsilon": 0}, InputError, "norm_epsilon is 0"),
        ({"resolution": 31}, InputError, "resolution is 31"),
    ],
    ids=str,
)
def test_flags_that_do_not_fit(tmp_path, flags, error, said):
    path = saved(tmp_path, timm_state())
    with pytest.raises(error) as caught:
        import_file(path, **flags)
    assert said in str(caught.value)
    assert caught.value.file is not None


@pytest.mark.parametrize("text", ["a\nb\nc\n", "a\n\nc\nd\n", "a\na\nc\nd\n", b"\xff\xfe\xfa"])
def test_a_label_file_that_does_not_fit(tmp_path, text):
    labels = tmp_path / "labels.txt"
    labels.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError):
        import_file(saved(tmp_path, timm_state()), labels=labels)


# --- files that are refused ------------------------------------------------------------------


def test_a_label_file_with_a_mark_and_one_with_a_double(tmp_path):
    path = saved(tmp_path, timm_state())
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\ncow\nhen\n", encoding="utf-8-sig")
    assert import_file(path, labels=labels).checkpoint.manifest.labels[0] == "cat"
    labels.write_text("cat\ncrane\ncow\ncrane\n")
    with pytest.raises(LabelsError, match=r"labels\.txt: lines 2 and 4 are both 'crane'"):
        import_file(path, labels=labels)


def refused(path, said, error=CheckpointError):
    with pytest.raises(error) as caught:
        import_file(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and said in message, message
    assert caught.value.exit_code == 2
    return message


class Exploit:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return exec, (self.command,)


@pytest.mark.parametrize("writer", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_that_would_run_code_does_not(tmp_path, writer):
    trap, path = tmp_path / "owned", tmp_path / "model.pth"
    state = timm_state()
    writer({**state, "classifier.weight": Exploit(f"open({str(trap)!r}, 'w').close()")}, path)
    refused(path, "it was not loaded")
    assert not trap.exists()


def test_a_whole_pickled_model(tmp_path):
    message = refused(saved(tmp_path, torch.nn.Linear(2, 2)), "more than tensors")
    assert "torch.save(model.state_dict(), FILE)" in message


def test_safetensors_whose_first_byte_is_a_pickles(tmp_path):
    """The header's length comes first; 0x80 in its lowest byte is also how a pickle begins."""
    path = tmp_path / "model.bin"
    for padding in range(300):
        save_file({"a": torch.zeros(2)}, path, {"note": "x" * padding})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    refused(path, "its first tensor is 'a'")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_anywhere(tmp_path, suffix):
    whole = tmp_path / f"whole{suffix}"
    state = timm_state()
    if suffix == ".pth":
        torch.save(state, whole)
    else:
        save_file(state, whole)
    data = whole.read_bytes()
    path = tmp_path / f"cut{suffix}"
    for keep in (1, 5, 8, 9, 64, 1000, len(data) // 2, len(data) - 100, len(data) - 1):
        path.write_bytes(data[:keep])
        with pytest.raises(CheckpointError) as error:
            import_file(path)
        assert str(error.value).startswith(str(path))


def test_damaged_pickles_end_in_words(tmp_path):
    """Bytes of the pickle inside the archive changed at random: a designed error, or an equal network."""
    data = pickle.dumps({"a": [1, 2, {"b": (3.0, "x")}]}, protocol=2)
    generator = np.random.default_rng(0)
    for _ in range(200):
        broken = bytearray(data)
        for position in generator.integers(2, len(data), 3):
            broken[position] = generator.integers(256)
        path = tmp_path / "x.pt"
        path.write_bytes(bytes(broken))
        with pytest.raises(CheckpointError):
            import_file(path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([torch.zeros(2)], "holds a list, not a state dict"),
        (torch.zeros(2), "holds a Tensor, not a state dict"),
        ({}, "not a state dict"),
        ({1: torch.zeros(2)}, "not a state dict"),
        ({"state_dict": {}}, "not a state dict"),
        ({"a": "text"}, "'a' is a str, not a tensor"),
        ({"a": torch.zeros(2, dtype=torch.int64)}, "tensor 'a' is int64"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "tensor 'a' is complex64"),
        ({"a": torch.eye(2).to_sparse()}, "must be dense"),
        ({"a": torch.zeros(2, device="meta")}, "must be dense"),
        ({"a\n\x1b[31m": torch.tensor(float("nan"))}, r"'a\n\x1b[31m' has NaN"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_files_that_hold_something_else(tmp_path, value, said):
    refused(saved(tmp_path, value), said)


def test_a_dict_in_itself_and_a_number_repeated_for_ever(tmp_path):
    """Files of a few bytes that would take all time, or all memory."""
    endless = {}
    endless["model"] = endless
    refused(saved(tmp_path, endless), "is a dict, not a tensor")
    refused(saved(tmp_path, {"a": torch.zeros(1).expand(1 << 14, 1 << 14)}), "more than 134,217,728 numbers")


@pytest.mark.parametrize(
    ("content", "said"), [(None, "there is no such file"), (b"", "is empty"), (b"hello world", "is neither")]
)
def test_files_that_are_something_else(tmp_path, content, said):
    path = tmp_path / "model.pth"
    if content is not None:
        path.write_bytes(content)
    refused(path, said)


def test_a_folder_without_weights(tmp_path):
    refused(tmp_path, "is a folder without model.safetensors")


def test_one_of_our_own_checkpoints(tmp_path):
    imported = import_file(saved(tmp_path, timm_state()))
    refused(imported.checkpoint.save(tmp_path / "ours.safetensors"), "is one of our checkpoints already")


NAME = "blocks.2.1.conv_dw.weight"


def without(state):
    del state[NAME]


def transposed(state):
    state["blocks.2.1.conv_pw.weight"] = state["blocks.2.1.conv_pw.weight"].transpose(0, 1).contiguous()


def with_nan(state):
    state[NAME][0, 0, 1, 1] = float("nan")


def with_infinity(state):
    state["blocks.2.1.bn1.bias"][3] = float("inf")


def with_negative_variance(state):
    state["bn1.running_var"][0] = -0.5


def with_another(state):
    state["blocks.2.1.extra.weight"] = torch.zeros(3)


def flat_stem(state):
    state["conv_stem.weight"] = state["conv_stem.weight"].flatten()


def transposed_classifier(state):
    state["classifier.weight"] = state["classifier.weight"].T.contiguous()


def without_classes(state):
    state["classifier.weight"], state["classifier.bias"] = torch.zeros(0, 1280), torch.zeros(0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without, f"tensor '{NAME}' is missing; mobilenet_v2 of timm, the nearest network, has it"),
        (transposed, "tensor 'blocks.2.1.conv_pw.weight' has shape (16, 96, 1, 1); mobilenet_v2_035"),
        (with_nan, f"tensor '{NAME}' has NaN or infinity"),
        (with_infinity, "tensor 'blocks.2.1.bn1.bias' has NaN or infinity"),
        (with_negative_variance, "tensor 'bn1.running_var' has a negative variance"),
        (with_another, "tensor 'blocks.2.1.extra.weight' does not belong to mobilenet_v2"),
        (flat_stem, "tensor 'conv_stem.weight' has shape (432,)"),
        (transposed_classifier, "tensor 'classifier.weight' has shape (1280, 4); mobilenet_v2_035"),
        (without_classes, "tensor 'classifier.bias' has shape (0,)"),
    ],
)
def test_one_wrong_tensor_is_named(tmp_path, change, said):
    state = timm_state()
    change(state)
    message = refused(saved(tmp_path, state), said, InputError)
    assert "Traceback" not in message


def test_another_architecture(tmp_path):
    state = {
        "conv1.weight": torch.zeros(64, 3, 7, 7),
        "bn1.weight": torch.zeros(64),
        "layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3),
        "fc.weight": torch.zeros(1000, 512),
    }
    message = refused(saved(tmp_path, state), "is no MobileNet: neither the names nor the order")
    assert "'conv1.weight' with shape (64, 3, 7, 7)" in message and "mobilenet_v2" in message


@pytest.mark.slow
def test_torch_load_is_called_in_one_place_and_restricted():
    calls, loaders = [], ("torch.load", "pickle.load", "pickle.loads")
    for path in Path(mobilenets.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in loaders:
                calls.append((path.name, {k.arg: ast.unparse(k.value) for k in node.keywords}))
    assert [name for name, _ in calls] == ["pytorch_file.py"]
    assert calls[0][1]["weights_only"] == "True"


# --- real weights ----------------------------------------------------------------------------
