"""Keras' containers without Keras: every layout is read, and everything broken is refused in words."""

import json
import os
import re
import sys
import zipfile

import numpy as np
import pytest

from mobilenets.errors import CheckpointError, InputError, MissingExtra
from mobilenets.spec import tensor_shapes
from mobilenets.weights import import_file, keras_config, keras_file
from mobilenets.weights.keras import KERAS, layer_kinds
from mobilenets.zoo import ZOO

h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install 'mobilenets[keras]'")
pytest.importorskip("torch", reason="torch is not installed: pip install 'mobilenets[train]'")
from keras_files import layers_of, random_tensors, slashed, write_keras_2, write_keras_3  # noqa: E402
from mobilenets.weights.keras_model import found  # noqa: E402


def spec_of(prefix="mobilenet_v2", width=0.35, **given):
    return KERAS.conventions(ZOO[prefix].build(width, rule="keras", **({"classes": 5} | given)))


SPEC = spec_of()
TENSORS = random_tensors(SPEC)
LAYERS, KINDS = layers_of(SPEC, TENSORS), layer_kinds(SPEC)


def copies(layers=LAYERS):
    return {name: dict(variables) for name, variables in layers.items()}


def assert_equal(result, spec, tensors):
    assert (result.spec.blocks, result.spec.head) == (spec.blocks, spec.head)
    assert (result.spec.classes, result.spec.channels) == (spec.classes, spec.channels)
    assert list(result.tensors) == list(tensor_shapes(spec))
    for name, array in tensors.items():
        np.testing.assert_array_equal(result.tensors[name], array, err_msg=name)


# --- every network in every layout --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("prefix", KERAS.prefixes)
@pytest.mark.parametrize("write", ["keras 2", "keras 3", "keras 3 without names", "tf.keras 2.12"])
def test_every_network_in_every_layout(tmp_path, prefix, write):
    spec = spec_of(prefix, 0.5, channels=1)
    tensors = random_tensors(spec)
    layers, kinds = layers_of(spec, tensors), layer_kinds(spec)
    path = tmp_path / "model.weights.h5"
    if write == "keras 2":
        write_keras_2(path, layers, kinds, rename=slashed if "v3" in prefix else lambda name: name)
    else:
        root = "_layer_checkpoint_dependencies" if "2.12" in write else "layers"
        write_keras_3(path, layers, kinds, root=root, names=write == "keras 3")
    assert keras_file.recognised(path)
    result = found(path)
    assert_equal(result, spec, tensors)
    assert result.source == "Keras" and result.spec.padding == "same" and result.spec.norm_epsilon == 1e-3
    assert any("carry no names" in note for note in result.notes) == (
        write in ("keras 3 without names", "tf.keras 2.12")
    )


def test_the_spelling_of_tf_keras():
    assert slashed("expanded_conv_1_squeeze_excite_conv_1") == "expanded_conv_1/squeeze_excite/Conv_1"
    assert slashed("expanded_conv_depthwise_bn") == "expanded_conv/depthwise/BatchNorm"
    assert slashed("conv_1_bn") == "Conv_1/BatchNorm"


def test_the_published_v2_names_its_classifier_otherwise_and_long_lists_are_cut(tmp_path):
    def rename(name):
        return "Logits" if name == "predictions" else name

    path = write_keras_2(tmp_path / "v2.h5", LAYERS, KINDS, rename=rename, chunks=3)
    assert_equal(found(path), SPEC, TENSORS)


def test_a_base_inside_a_model_under_the_users_dense_layer(tmp_path):
    layers = copies()
    top = layers.pop("predictions")
    path = write_keras_2(tmp_path / "model.h5", layers, KINDS, inside="mobilenetv2_0.35_224")
    with h5py.File(path, "a") as file:
        file.attrs["layer_names"] = np.array(["mobilenetv2_0.35_224", "dense_3"], dtype="S")
        group = file.create_group("dense_3")
        group.attrs["weight_names"] = np.array(["dense_3/kernel:0", "dense_3/bias:0"], dtype="S")
        group["dense_3/kernel:0"], group["dense_3/bias:0"] = top["kernel"], top["bias"]
    result = found(path)
    assert_equal(result, SPEC, TENSORS)
    assert any("'dense_3' is the classifier" in note for note in result.notes)


def test_a_dense_classifier_where_keras_has_a_convolution(tmp_path):
    spec = spec_of("mobilenet_v1", 0.25)
    tensors = random_tensors(spec)
    layers, kinds = layers_of(spec, tensors), layer_kinds(spec)
    top = layers.pop("conv_preds")
    layers["dense"] = {"kernel": top["kernel"][0, 0], "bias": top["bias"]}
    path = write_keras_3(tmp_path / "model.weights.h5", layers, kinds | {"dense": "dense"}, names=True)
    assert_equal(found(path), spec, tensors)


def test_v3_without_its_head(tmp_path):
    spec = spec_of("mobilenet_v3_small", 0.75)
    layers, kinds = layers_of(spec, random_tensors(spec)), layer_kinds(spec)
    del layers["conv_2"], layers["logits"]
    rng = np.random.default_rng(3)
    kernel = rng.standard_normal((spec.blocks[-1].out, 5)).astype(np.float32)
    layers["dense"] = {"kernel": kernel, "bias": np.arange(5, dtype=np.float32)}
    for names in (True, False):
        path = write_keras_3(tmp_path / "x.weights.h5", layers, kinds | {"dense": "dense"}, names=names)
        result = found(path)
        assert result.spec.head == () and result.spec.features == spec.blocks[-1].out
        np.testing.assert_array_equal(result.tensors["classifier.weight"], kernel.T)
        assert list(result.tensors) == list(tensor_shapes(result.spec))
        assert any("include_top=False" in note for note in result.notes)


def test_one_output_becomes_two_classes(tmp_path):
    spec = spec_of(classes=1)
    tensors = random_tensors(spec)
    result = found(write_keras_2(tmp_path / "x.h5", layers_of(spec, tensors), layer_kinds(spec)))
    assert result.spec.classes == 1
    imported = import_file(tmp_path / "x.h5")
    made = imported.checkpoint.tensors["classifier.weight"]
    assert made.shape[0] == 2 and not made[0].any()
    np.testing.assert_array_equal(made[1], tensors["classifier.weight"][0])
    assert any("one output became two classes" in decision for decision in imported.decisions)


def test_a_classifier_without_bias(tmp_path):
    layers = copies()
    top = layers.pop("predictions")
    layers["dense"] = {"kernel": top["kernel"]}
    result = found(write_keras_3(tmp_path / "x.weights.h5", layers, KINDS | {"dense": "dense"}, names=True))
    assert not result.tensors["classifier.bias"].any()
    assert any("no bias" in note for note in result.notes)


@pytest.mark.parametrize("kind", ["float16", "float64", "bfloat16"])
def test_other_floating_point_numbers_are_converted(tmp_path, kind):
    path = write_keras_3(tmp_path / "x.weights.h5", LAYERS, KINDS, names=True)
    with h5py.File(path, "a") as file:
        group = file["layers/dense/vars"]
        whole = np.full(group["1"].shape, 1.5, np.float32)
        del group["1"]
        if kind == "bfloat16":
            upper = (whole.view(np.uint32) >> 16).astype(np.uint16)
            group.create_dataset("1", data=upper.view("V2")).attrs["dtype"] = kind
        else:
            group["1"] = whole.astype(kind)
    result = found(path)
    np.testing.assert_array_equal(result.tensors["classifier.bias"], 1.5)
    assert any(f"stored as {kind}" in note for note in result.notes)


def test_states_of_generators_and_optimizers_are_passed_over(tmp_path):
    path = write_keras_3(tmp_path / "x.weights.h5", LAYERS, KINDS, names=True)
    with h5py.File(path, "a") as file:
        file["optimizer/vars/0"] = np.array(3, np.int64)
        file["layers/dropout/seed_generator/vars/0"] = np.zeros(2, np.uint32)
    assert_equal(found(path), SPEC, TENSORS)


# --- refused, in words that name the culprit ----------------------------------------------------


def refused(path):
    with pytest.raises(CheckpointError) as caught:
        found(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def without_a_layer(layers):
    del layers["block_3_expand"]


def without_a_tensor(layers):
    del layers["block_3_expand_BN"]["moving_variance"]


def transposed(layers):
    layers["block_3_expand"]["kernel"] = layers["block_3_expand"]["kernel"].transpose(0, 1, 3, 2)


def transposed_classifier(layers):
    layers["predictions"]["kernel"] = layers["predictions"]["kernel"].T


def not_a_number(layers):
    layers["Conv_1"]["kernel"] = layers["Conv_1"]["kernel"] * np.nan


def negative_variance(layers):
    layers["bn_Conv1"]["moving_variance"] = -layers["bn_Conv1"]["moving_variance"]


def integers(layers):
    layers["predictions"]["bias"] = np.arange(5)


def objects(layers):
    layers["predictions"]["bias"] = np.array([b"a"] * 5)


def flattened(layers):
    top = layers.pop("predictions")
    layers["dense"] = {"kernel": np.zeros((7 * 7 * 1280, 5), np.float32), "bias": top["bias"]}


def two_dense_layers(layers):
    layers["dense"] = {"kernel": np.zeros((1280, 8), np.float32), "bias": np.zeros(8, np.float32)}
    layers["dense_1"] = {"kernel": np.zeros((8, 5), np.float32), "bias": np.zeros(5, np.float32)}
    del layers["predictions"]


def no_top(layers):
    del layers["predictions"]


def five_dimensions(layers):
    layers["predictions"]["bias"] = np.zeros((1, 1, 1, 1, 5), np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_a_layer, "tensor 'block_3_expand/kernel' is missing; mobilenet_v2 of Keras"),
        (without_a_tensor, "tensor 'block_3_expand_BN/moving_variance' is missing; mobilenet_v2 of Keras"),
        (transposed, "tensor 'block_3_expand/kernel' has shape (1, 1, 48, 8); mobilenet_v2_035"),
        (transposed_classifier, "tensor 'predictions/kernel' has shape (5, 1280); mobilenet_v2_035"),
        (not_a_number, "tensor 'Conv_1/kernel' has NaN or infinity in it"),
        (negative_variance, "tensor 'bn_Conv1/moving_variance' has a negative variance in it"),
        (integers, "tensor 'predictions/bias' is int64; weights must be floating-point numbers"),
        (objects, "tensor 'predictions/bias' is |S1"),
        (flattened, "tensor 'dense/kernel' has shape (62720, 5), but pooling gives 1280 values"),
        (
            two_dense_layers,
            "has 2 layers with weights beside the mobilenet_v2 in it: 'dense' (dense), 'dense_1'",
        ),
        (
            no_top,
            "is mobilenet_v2 without a classifier (include_top=False): the layer 'predictions' is missing",
        ),
        (five_dimensions, "tensor 'predictions/bias' has shape (1, 1, 1, 1, 5); at most four dimensions"),
    ],
)
@pytest.mark.parametrize("write", [write_keras_2, write_keras_3])
def test_a_wrong_layer_is_named(tmp_path, write, change, said):
    layers = copies()
    change(layers)
    kinds = KINDS | {"dense": "dense", "dense_1": "dense"}
    named = {} if write is write_keras_2 else {"names": True}
    message = refused(write(tmp_path / "x.weights.h5", layers, kinds, **named))
    assert said in message


def test_another_kind_of_layer_is_named(tmp_path):
    path = write_keras_3(tmp_path / "x.weights.h5", LAYERS, KINDS, names=True)
    with h5py.File(path, "a") as file:
        file["layers/normalization/vars/0"] = np.zeros(3, np.float32)
    assert "layer 'normalization' (normalization) has weights; no MobileNet of Keras" in refused(path)


def test_another_network_of_keras(tmp_path):
    layers = {
        "block1_conv1": {"kernel": np.zeros((3, 3, 3, 64), np.float32), "bias": np.zeros(64, np.float32)}
    }
    path = write_keras_2(tmp_path / "vgg.h5", layers, {"block1_conv1": "conv2d"})
    assert (
        "is no MobileNet under the tensor names of Keras: its first tensor is 'block1_conv1/kernel'"
        in refused(path)
    )


def test_v3_without_its_head_layer_but_with_its_classifier(tmp_path):
    spec = spec_of("mobilenet_v3_small", 0.75)
    layers = layers_of(spec, random_tensors(spec))
    del layers["conv_2"]
    path = write_keras_3(tmp_path / "x.weights.h5", layers, layer_kinds(spec), names=True)
    assert "tensor 'conv_2/kernel' is missing; mobilenet_v3_small of Keras" in refused(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"momentum": 7.0}, "norm_momentum is"), ({"epsilon": 2.0}, "norm_epsilon is")],
)
def test_settings_that_cannot_be(tmp_path, changes, said):
    norms = {name: changes for name, kind in KINDS.items() if kind == "batch_normalization"}
    path = archive(tmp_path / "x.keras", config_of(**norms), weights_without_names(tmp_path))
    with pytest.raises(InputError, match=said) as caught:
        found(path)
    assert caught.value.file == str(path)


def test_links_are_not_followed(tmp_path):
    path = write_keras_3(tmp_path / "x.weights.h5", LAYERS, KINDS, names=True)
    other = tmp_path / "secret.h5"
    with h5py.File(other, "w") as file:
        file["0"] = np.zeros(5, np.float32)
    for link in (h5py.ExternalLink(str(other), "/0"), h5py.SoftLink("/layers/dense/vars/0")):
        with h5py.File(path, "a") as file:
            del file["layers/dense/vars/1"]
            file["layers/dense/vars/1"] = link
        assert f"is a link ({type(link).__name__}) to somewhere else" in refused(path)


def test_numbers_in_other_files_are_not_read(tmp_path):
    path = write_keras_3(tmp_path / "x.weights.h5", LAYERS, KINDS, names=True)
    (tmp_path / "raw").write_bytes(bytes(20))
    with h5py.File(path, "a") as file:
        group = file["layers/dense/vars"]
        del group["1"]
        group.create_dataset("1", (5,), "f4", external=[(str(tmp_path / "raw"), 0, 20)])
    assert "tensor 'predictions/bias' keeps its numbers in another file" in refused(path)


def test_a_virtual_dataset_is_not_read(tmp_path):
    path = write_keras_3(tmp_path / "x.weights.h5", LAYERS, KINDS, names=True)
    with h5py.File(path, "a") as file:
        group = file["layers/dense/vars"]
        del group["1"]
        group.create_virtual_dataset("1", h5py.VirtualLayout((5,), "f4"))
    assert "tensor 'predictions/bias' keeps its numbers in another file" in refused(path)


def test_a_huge_shape_is_refused_before_anything_is_read(tmp_path):
    path = write_keras_3(tmp_path / "x.weights.h5", LAYERS, KINDS, names=True)
    with h5py.File(path, "a") as file:
        group = file["layers/dense/vars"]
        del group["1"]
        group.create_dataset("1", (1 << 40,), "f4", chunks=(1 << 16,))
    assert path.stat().st_size < 1 << 24
    assert f"has shape ({1 << 40},); at most" in refused(path)


def test_a_group_that_contains_itself(tmp_path):
    path = write_keras_3(tmp_path / "x.weights.h5", LAYERS, KINDS, names=True)
    with h5py.File(path, "a") as file:
        file["layers/again"] = file["layers"]
    message = refused(path)
    assert "groups deep" in message or "two layers named" in message


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.99])
def test_a_truncated_file(tmp_path, share):
    path = write_keras_2(tmp_path / "x.h5", LAYERS, KINDS)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert re.search("truncated or damaged|is empty", refused(path))


def test_damaged_bytes_are_refused_or_change_nothing(tmp_path):
    """Bytes of the file's structure changed at random; whatever h5py trips over is one designed error."""
    path = write_keras_3(tmp_path / "x.weights.h5", LAYERS, KINDS, names=True)
    whole, rng = path.read_bytes(), np.random.default_rng(5)
    outcomes = set()
    for _ in range(40):
        damaged = bytearray(whole)
        for place in rng.integers(8, 60_000, 30):
            damaged[place] = int(rng.integers(256))
        path.write_bytes(damaged)
        try:
            found(path)
            outcomes.add("read")
        except CheckpointError:
            outcomes.add("refused")
    assert "refused" in outcomes


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"GIF89a", "is not a Keras file: it is neither HDF5 nor a .keras archive"),
        (b"PK\x03\x04 and nothing more", "truncated or damaged"),
    ],
)
def test_other_files(tmp_path, content, said):
    path = tmp_path / "x.h5"
    path.write_bytes(content)
    assert said in refused(path) and not keras_file.recognised(path)


def test_a_missing_file(tmp_path):
    assert "there is no such file" in refused(tmp_path / "x.h5")
    assert not keras_file.recognised(tmp_path / "x.h5")


def test_hdf5_of_somebody_else(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data"] = np.zeros(3)
    assert "is HDF5, but no Keras file" in refused(tmp_path / "x.h5")


def test_without_h5py_the_error_names_it(tmp_path, monkeypatch):
    path = write_keras_2(tmp_path / "x.h5", LAYERS, KINDS)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtra, match=r"(?s)needs the package 'h5py'.*mobilenets\[keras\]"):
        found(path)


# --- archives and configurations ----------------------------------------------------------------


def archive(path, config, weights=None):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", "{}")
        if config is not None:
            file.writestr("config.json", config if isinstance(config, str) else json.dumps(config))
        if weights is not None:
            file.writestr("model.weights.h5", weights)
    return path


def layer(kind, **config):
    return {"class_name": kind, "config": config, "name": config.get("name"), "inbound_nodes": []}


def model(*layers, kind="Functional"):
    return {"class_name": kind, "config": {"name": "m", "layers": list(layers)}}


def described(*layers):
    return keras_config.describe(model(*layers))


CLASS_NAMES = {
    "conv2d": "Conv2D",
    "depthwise_conv2d": "DepthwiseConv2D",
    "batch_normalization": "BatchNormalization",
    "dense": "Dense",
}


def config_of(**changes):
    """The configuration of `SPEC`, as Keras writes it, with `changes` by layer name."""
    layers = [layer("InputLayer", name="input", batch_shape=[None, 96, 96, 3])]
    strides = {"Conv1": 2, **{f"block_{i}_depthwise": 2 for i in (1, 3, 6, 13)}}
    for name, kind in KINDS.items():
        settings = {"name": name}
        if kind.endswith("conv2d"):
            settings["strides"] = [strides.get(name, 1)] * 2
        if kind == "batch_normalization":
            settings |= {"epsilon": 0.002, "momentum": 0.9}
        layers.append(layer(CLASS_NAMES[kind], **(settings | changes.get(name, {}))))
    return model(*layers)


def weights_without_names(tmp_path):
    return write_keras_3(tmp_path / "w.weights.h5", LAYERS, KINDS).read_bytes()


def test_an_archive_names_its_layers_by_its_configuration(tmp_path):
    path = archive(tmp_path / "x.keras", config_of(), weights_without_names(tmp_path))
    assert keras_file.recognised(path)
    result = found(path)
    assert_equal(result, SPEC, TENSORS)
    assert (result.spec.resolution, result.spec.norm_epsilon, result.spec.norm_momentum) == (96, 0.002, 0.1)
    assert not any("no names" in note for note in result.notes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"block_3_depthwise": {"strides": [1, 1]}},
            "layer 'block_3_depthwise' has stride 1; in mobilenet_v2 it has 2",
        ),
        ({"block_3_depthwise": {"strides": [2, 1]}}, "layer 'block_3_depthwise' has strides [2, 1]"),
        ({"block_14_depthwise": {"dilation_rate": [2, 2]}}, "dilation [2, 2]"),
        ({"bn_Conv1": {"epsilon": 0.5}}, "its batch norms have different values of epsilon (0.002, 0.5)"),
    ],
)
def test_another_network_of_the_same_shapes_is_refused(tmp_path, changes, said):
    path = archive(tmp_path / "x.keras", config_of(**changes), weights_without_names(tmp_path))
    assert said in refused(path)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "has no list of layers"),
        (model({"class_name": 3}), "a layer without class or settings"),
        (model("text"), "a layer without class or settings"),
        (None, "without config.json and model.weights.h5"),
    ],
)
def test_broken_configurations(tmp_path, config, said):
    assert said in refused(archive(tmp_path / "x.keras", config, weights_without_names(tmp_path)))


def test_models_inside_models_without_end():
    inner = model(layer("Dense", name="d"))
    for _ in range(20):
        inner = model(inner)
    with pytest.raises(CheckpointError, match="eight deep"):
        keras_config.describe(inner)


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "x.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model.weights.h5", b"")
        with file.open("config.json", "w", force_zip64=True) as stream:
            for _ in range(80):
                stream.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    assert "'config.json' in it claims 83,886,080 bytes" in refused(path)


CONV = layer("Conv2D", name="c", strides=[2, 2])


def arithmetic(kind, *numbers):
    nodes = [
        {"args": [{"class_name": "__keras_tensor__", "config": {"shape": [None, 3]}}, *numbers], "kwargs": {}}
    ]
    return {"class_name": kind, "config": {"name": kind}, "name": kind, "inbound_nodes": nodes}


def tf_op(function, number):
    nodes = [["input_2", 0, 0, {"y": number, "name": None}]]
    return {
        "class_name": "TFOpLambda",
        "config": {"name": f"tf.{function}", "function": function},
        "inbound_nodes": nodes,
    }


@pytest.mark.parametrize(
    ("layers", "affine"),
    [
        ((layer("Rescaling", name="r", scale=1 / 255, offset=0),), (1 / 255, 0)),
        ((arithmetic("TrueDivide", 127.5), arithmetic("Subtract", 1.0)), (1 / 127.5, -1)),
        ((tf_op("math.truediv", 127.5), tf_op("math.subtract", 1.0)), (1 / 127.5, -1)),
        ((layer("Rescaling", name="r", scale=2.0, offset=1.0), arithmetic("Multiply", 3)), (6, 3)),
        ((layer("RandomFlip", name="f"), layer("Dropout", name="d", rate=0.5)), None),
    ],
)
def test_what_a_model_does_to_its_pixels(layers, affine):
    said = described(*layers, CONV)
    assert said.notes == ()
    assert said.affine == (None if affine is None else pytest.approx(affine))


def test_what_cannot_be_read_is_told():
    said = described(layer("Lambda", name="mine\x1b", function="code"), layer("Resizing", name="r"), CONV)
    assert said.affine is None
    assert "'mine\\x1b' (Lambda)" in said.notes[0] and "nothing in a file is run" in said.notes[0]
    assert "'r' (Resizing) was left out" in said.notes[1]


@pytest.mark.parametrize("kind", ["Subtract", "TrueDivide"])
def test_a_number_that_comes_first_is_not_read_as_if_it_came_second(kind):
    """255 - x is not x - 255."""
    turned = arithmetic(kind, 255.0)
    turned["inbound_nodes"][0]["args"].reverse()
    said = described(turned, CONV)
    assert said.affine is None
    assert "nothing in a file is run" in said.notes[0]


def test_scales_for_each_channel_are_refused():
    with pytest.raises(CheckpointError, match="one number each can be read"):
        described(layer("Rescaling", name="r", scale=[1, 2, 3], offset=0), CONV)


def test_maximum_pooling_is_refused():
    with pytest.raises(CheckpointError, match="layer 'p' pools by the maximum"):
        described(CONV, layer("GlobalMaxPooling2D", name="p"))


@pytest.mark.parametrize(
    ("shape", "resolution"),
    [
        ([None, 96, 96, 3], 96),
        ([None, 3, 96, 96], 96),
        ([None, None, None, 3], None),
        ([None, 96, 64, 3], None),
    ],
)
def test_resolution(shape, resolution):
    for key in ("batch_shape", "batch_input_shape"):
        said = described(layer("InputLayer", name="i", **{key: shape}), CONV)
        assert said.resolution == resolution
        assert any("96×64" in note for note in said.notes) == (shape[2] == 64)


def test_dropout_activation_and_preprocessing_reach_the_network(tmp_path):
    config = config_of(predictions={"activation": "sigmoid"})
    config["config"]["layers"].insert(1, layer("Rescaling", name="r", scale=1 / 255, offset=0.0))
    config["config"]["layers"].insert(-1, layer("Dropout", name="drop", rate=0.35))
    result = found(archive(tmp_path / "x.keras", config, weights_without_names(tmp_path)))
    assert result.spec.dropout == 0.35 and result.preprocessing_is_known
    assert (result.preprocessing.mean, result.preprocessing.std) == ((0, 0, 0), (1, 1, 1))
    assert any("sigmoid" in note for note in result.notes)


def test_a_side_that_is_no_multiple_of_32_is_told(tmp_path):
    config = config_of()
    config["config"]["layers"][0] = layer("InputLayer", name="i", batch_shape=[None, 100, 100, 3])
    result = found(archive(tmp_path / "x.keras", config, weights_without_names(tmp_path)))
    assert any("100 px is no multiple of 32" in note for note in result.notes)


@pytest.mark.slow
def test_nothing_is_imported_but_h5py(tmp_path):
    """Reading needs neither Keras nor TensorFlow."""
    import subprocess

    path = write_keras_2(tmp_path / "x.h5", LAYERS, KINDS)
    program = (
        "import sys; from pathlib import Path; from mobilenets.weights.keras_model import found; "
        f"found(Path({str(path)!r})); print(sorted({{'keras', 'tensorflow', 'jax'}} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": ""},
    )
    assert done.stdout == "[]\n"
