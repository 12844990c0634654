"""Models of Hugging Face transformers with random weights, saved as they save, imported: equal to the bit."""

import dataclasses
import json

import pytest

from mobilenets import spec as specs
from mobilenets import zoo
from mobilenets.errors import CheckpointError, SpecError
from mobilenets.spec import Spec

torch = pytest.importorskip("torch")
import parity_rows  # noqa: E402
from mobilenets.weights import import_file, pytorch_file  # noqa: E402
from mobilenets.weights.hub_config import CONFIG, PREPROCESSOR, beside, weights_in  # noqa: E402
from mobilenets.weights.matching import found_by_name  # noqa: E402
from mobilenets.weights.timm import TIMM  # noqa: E402
from mobilenets.weights.transformers import TRANSFORMERS  # noqa: E402

V1, V2 = TRANSFORMERS.prefixes
PUBLISHED = [
    *((V1, width) for width in (0.25, 0.5, 0.75, 1.0)),
    *((V2, width) for width in (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)),
]
FAST = [(V1, 0.25), (V2, 0.35), (V2, 1.0)]
each_network = pytest.mark.parametrize(
    ("variant", "width"),
    [case if case in FAST else pytest.param(*case, marks=pytest.mark.full) for case in PUBLISHED],
)
CLASSES = 11


def model(transformers, variant, width, **given):
    kind = "V1" if variant == V1 else "V2"
    config = getattr(transformers, f"MobileNet{kind}Config")(depth_multiplier=width, **given)
    return getattr(transformers, f"MobileNet{kind}ForImageClassification")(config)


def saved(theirs, folder):
    theirs.save_pretrained(folder)
    return folder / "model.safetensors"


def runner(theirs):
    return lambda x: theirs(x).logits


def row(transformers, folder, variant, width):
    theirs = parity_rows.randomise(model(transformers, variant, width, num_labels=1000))
    return parity_rows.measure(
        "transformers",
        transformers.__version__,
        variant,
        width,
        ours=parity_rows.imported(saved(theirs, folder)),
        theirs=runner(theirs),
        counts=parity_rows.torch_counts(theirs, 224),
        pixels=224,
        odd=97,
    )


@pytest.mark.slow
@each_network
def test_logits_equal_theirs_to_the_bit(transformers, tmp_path, variant, width):
    measured = row(transformers, tmp_path, variant, width)
    assert measured.bit_equal, measured


@each_network
def test_names_are_theirs(transformers, variant, width):
    build = zoo.v1 if variant == V1 else zoo.v2
    with torch.device("meta"):
        theirs = model(transformers, variant, width).state_dict()
    names = [name for name in theirs if not name.endswith("num_batches_tracked")]
    assert [place.name for place in TRANSFORMERS.places(build(width, rule="paper")).values()] == names


def found_in(theirs, folder):
    path = saved(theirs, folder)
    return beside(path, found_by_name(pytorch_file.read(path).tensors, (TRANSFORMERS,)))


def test_conventions(transformers, tmp_path):
    """Those of the library where it computes; those of TF-slim where it slips (momentum, dropout)."""
    for variant, momentum, dropout in ((V1, 0.0003, 0.001), (V2, 0.003, 0.2)):
        theirs = model(transformers, variant, 0.5, num_labels=3)
        spec = found_in(theirs, tmp_path).spec
        norm = next(module for module in theirs.modules() if isinstance(module, torch.nn.BatchNorm2d))
        assert (spec.padding, spec.norm_epsilon) == ("same", norm.eps) == ("same", 1e-3)
        assert spec.norm_momentum == pytest.approx(1 - norm.momentum) == momentum
        drop = next(module for module in theirs.modules() if isinstance(module, torch.nn.Dropout))
        assert spec.dropout == pytest.approx(1 - drop.p) == dropout


def test_the_background_goes_with_its_label(transformers, tmp_path):
    """1001 classes are ImageNet's behind a background; two labels that are equal get their index."""
    labels = {0: "background"} | {index: f"name {index % 999}" for index in range(1, 1001)}
    theirs = parity_rows.randomise(
        model(transformers, V1, 0.25, num_labels=1001, id2label=labels, label2id={})
    )
    found = found_in(theirs, tmp_path)
    assert found.spec.classes == 1000 and found.labels is not None
    assert found.labels[0] == "name 1 (0)" and found.labels[1] == "name 2" and len(set(found.labels)) == 1000
    network = parity_rows.imported(tmp_path / "model.safetensors")
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(network(x), theirs(x).logits[:, 1:], rtol=1e-5, atol=1e-4)
    assert any("background" in note for note in found.notes)


def test_what_the_files_beside_say_wins(transformers, tmp_path):
    theirs = model(
        transformers,
        V2,
        0.35,
        num_labels=2,
        tf_padding=False,
        layer_norm_eps=1e-5,
        image_size=96,
        hidden_act="relu",
        classifier_dropout_prob=0.2,
        id2label={0: "cat", 1: "dog"},
    )
    parity_rows.randomise(theirs)
    processor = {
        "do_resize": True, "size": {"shortest_edge": 128}, "resample": 3, "do_center_crop": True,
        "crop_size": {"height": 96, "width": 96}, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6],
    }  # fmt: skip
    (tmp_path / PREPROCESSOR).write_text(json.dumps(processor))
    found = found_in(theirs, tmp_path)
    spec, preprocessing = found.spec, found.preprocessing
    assert (spec.padding, spec.norm_epsilon, spec.resolution, spec.dropout) == ("symmetric", 1e-5, 96, 0.2)
    assert found.labels == ("cat", "dog") and found.preprocessing_is_known
    assert (preprocessing.mean, preprocessing.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (preprocessing.crop_fraction, preprocessing.resize) == (0.75, "bicubic")
    assert any("tf_padding False" in note and CONFIG in note for note in found.notes)
    assert any(PREPROCESSOR in note for note in found.notes)
    labels = ("cat", "dog")
    network = parity_rows.from_checkpoint(
        parity_rows.Checkpoint(parity_rows.Manifest(spec, labels, preprocessing), found.tensors)
    )
    for side in (96, 75):
        x = torch.randn(2, 3, side, side)
        with torch.inference_mode():
            assert torch.equal(network(x), theirs(x).logits)


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({"do_center_crop": False, "size": {"height": 224, "width": 224}}, {"fit": "stretch"}),
        ({"do_normalize": False, "size": 256, "crop_size": 224}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
        ({"do_rescale": False}, {"scale": 1.0}),
        ({}, {"mean": (0.5,) * 3, "scale": 1 / 255}),
    ],
)
def test_other_preprocessings(transformers, tmp_path, processor, expected):
    (tmp_path / PREPROCESSOR).write_text(json.dumps(processor))
    found = found_in(model(transformers, V1, 0.25, num_labels=2), tmp_path)
    assert {key: getattr(found.preprocessing, key) for key in expected} == expected


def changed(folder, file, **values):
    path = folder / file
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | values))


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        (CONFIG, {"model_type": "resnet"}, "says model_type 'resnet'; the tensors are those of mobilenet_v1"),
        (CONFIG, {"depth_multiplier": 0.5}, "says depth_multiplier 0.5; the tensors are those of"),
        (CONFIG, {"output_stride": 16}, "output_stride 16"),
        (CONFIG, {"hidden_act": "swish"}, "hidden_act 'swish'; accepted: relu, relu6, gelu"),
        (CONFIG, {"image_size": [224, 192]}, "only square pictures"),
        (CONFIG, {"image_size": 16}, "resolution is 16"),
        (CONFIG, {"layer_norm_eps": "small"}, "is not the description of a model"),
        (
            PREPROCESSOR,
            {"size": {"shortest_edge": 128}, "crop_size": 224},
            "crops 224×224 from a shorter side",
        ),
        (PREPROCESSOR, {"resample": 17}, "resample 17"),
        (PREPROCESSOR, {"size": {"longest_edge": 128}}, "a size that nobody here knows"),
        (PREPROCESSOR, {"image_std": [0, 0, 0]}, "std"),
        (PREPROCESSOR, {"image_mean": 3}, "is not a preprocessing"),
    ],
)
def test_files_beside_that_contradict(transformers, tmp_path, file, values, said):
    theirs = model(transformers, V1, 0.25, num_labels=2)
    path = saved(theirs, tmp_path)
    changed(tmp_path, file, **values)
    with pytest.raises(Exception) as caught:
        beside(path, found_by_name(pytorch_file.read(path).tensors, (TRANSFORMERS,)))
    assert caught.value.exit_code == 2
    assert said in str(caught.value) and str(caught.value).startswith(str(tmp_path / file))


@pytest.mark.parametrize("text", ["{", "[1]", "\udcff"])
def test_a_config_that_is_no_json_object(transformers, tmp_path, text):
    path = saved(model(transformers, V1, 0.25, num_labels=2), tmp_path)
    (tmp_path / CONFIG).write_text(text, errors="surrogateescape")
    found = found_by_name(pytorch_file.read(path).tensors, (TRANSFORMERS,))
    with pytest.raises(Exception) as caught:
        beside(path, found)
    assert caught.value.exit_code == 2 and CONFIG in str(caught.value)


def test_a_folder_of_the_hub(tmp_path):
    with pytest.raises(CheckpointError, match=r"without model.safetensors or pytorch_model.bin"):
        weights_in(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    assert weights_in(tmp_path).name == "pytorch_model.bin"
    (tmp_path / "model.safetensors").touch()
    assert weights_in(tmp_path).name == "model.safetensors"


def test_timms_config_says_the_preprocessing(tmp_path):
    spec = zoo.v3_small(classes=3)
    found = found_by_name(
        {place.name: torch.zeros(specs.tensor_shapes(spec)[ours]).numpy()
         for ours, place in TIMM.places(spec).items()},
        (TIMM,),
    )  # fmt: skip
    config = {
        "architecture": "tf_mobilenetv3_small_100",
        "label_names": ["a", "b", "c"],
        "pretrained_cfg": {
            "input_size": [3, 160, 160], "interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25],
        },
    }  # fmt: skip
    path = tmp_path / "model.safetensors"
    assert beside(path, found) is found
    (tmp_path / CONFIG).write_text(json.dumps(config))
    better = beside(path, found)
    assert (better.spec.padding, better.spec.norm_epsilon, better.spec.resolution) == ("same", 1e-3, 160)
    assert (better.preprocessing.crop_fraction, better.preprocessing.std) == (0.95, (0.25,) * 3)
    assert better.labels == ("a", "b", "c") and better.preprocessing_is_known
    config["pretrained_cfg"]["crop_mode"] = "border"
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="crop_mode 'border'"):
        beside(path, found)


def test_one_wrong_tensor_is_named(transformers, tmp_path):
    state = dict(model(transformers, V2, 0.35, num_labels=2).state_dict())
    name = "mobilenet_v2.layer.3.conv_3x3.convolution.weight"
    for change, said in (
        (lambda s: s.pop(name), f"tensor '{name}' is missing; mobilenet_v2 of transformers"),
        (lambda s: s.update({name: s[name].transpose(0, 1)}), f"tensor '{name}' has shape (1, 96, 3, 3)"),
    ):
        broken = dict(state)
        change(broken)
        torch.save(broken, tmp_path / "model.pth")
        with pytest.raises(CheckpointError) as caught:
            import_file(tmp_path / "model.pth")
        assert said in str(caught.value)


def test_a_base_model_has_no_classifier(transformers, tmp_path):
    """Saved from `MobileNetV2Model`: other names, and the error says what is missing."""
    config = transformers.MobileNetV2Config(depth_multiplier=0.35)
    torch.save(transformers.MobileNetV2Model(config).state_dict(), tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="has no classifier"):
        import_file(tmp_path / "model.pth")


@pytest.mark.parametrize(
    "spec",
    [
        zoo.v3_small(),
        zoo.v4_conv_small(),
        zoo.v1(full=True),
        dataclasses.replace(zoo.v1(), head=zoo.v3_small().head),
    ],
    ids=lambda spec: spec.name,
)
def test_a_network_that_transformers_cannot_express(spec: Spec):
    with pytest.raises(SpecError, match="transformers cannot express"):
        TRANSFORMERS.places(spec)
