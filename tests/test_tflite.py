"""TFLite files: what is written in every way that converters write it comes back as the same network."""

import csv
import dataclasses
import io
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mobilenets import spec as specs
from mobilenets import zoo
from mobilenets.errors import CheckpointError, InputError
from mobilenets.preprocessing import normalise, prepare
from mobilenets.tolerances import FOLDED_RTOL, LOGITS_RELATIVE
from tflite_writer import NetworkWriter, Style, Table, Writer, folded, write

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'mobilenets[train]'")

from calibrated import calibrated  # noqa: E402
from mobilenets.checkpoint import Checkpoint, Manifest  # noqa: E402
from mobilenets.network import from_checkpoint  # noqa: E402
from mobilenets.weights import tflite  # noqa: E402
from mobilenets.weights.source import IMAGENET_MEAN, IMAGENET_STD  # noqa: E402
from mobilenets.weights.tflite import flatbuffer as flatbuffers  # noqa: E402
from mobilenets.weights.unfolding import unfold, unfold_checkpoint  # noqa: E402

SIDE = 64


@cache
def network(prefix="mobilenet_v2", width=0.35, rule="timm", classes=5, padding="same", channels=3):
    """A calibrated checkpoint of a small network of the zoo."""
    spec = zoo.ZOO[prefix].build(width, rule=rule, classes=classes, channels=channels, resolution=SIDE)
    return calibrated(dataclasses.replace(spec, padding=padding, norm_epsilon=1e-3))


def found_in(data, path="model.tflite"):
    return tflite.find([tflite.parse(data, Path(path))])


def checkpoint_of(found):
    labels = tuple(f"class {index}" for index in range(found.spec.classes))
    return Checkpoint(Manifest(found.spec, labels, found.preprocessing), found.tensors)


def pictures(spec, n=4):
    generator = torch.Generator().manual_seed(7)
    return torch.rand(n, spec.channels, spec.resolution, spec.resolution, generator=generator) * 2 - 1


@torch.inference_mode()
def logits(checkpoint):
    return from_checkpoint(checkpoint)(pictures(checkpoint.spec)).numpy()


def assert_same_function(found, checkpoint):
    ours, theirs = logits(checkpoint_of(found)), logits(checkpoint)
    assert np.abs(ours - theirs).max() <= LOGITS_RELATIVE * theirs.std()


# --- every way of writing -----------------------------------------------------------------------

V3 = "mobilenet_v3_small"
STYLES = [
    ("mobilenet_v1", 0.25, Style()),
    ("mobilenet_v1", 0.25, Style(fused=False, pool="average", end=())),
    ("mobilenet_v2", 0.35, Style(dense=True, pool="sum")),
    ("mobilenet_v2", 0.35, Style(hard_swish="before")),
    (V3, 0.5, Style()),
    (V3, 0.5, Style(hard_swish="after", pool="average")),
    (V3, 0.5, Style(hard_swish="before", folded_gate=True, dense=True)),
    (V3, 0.5, Style(fused=False, channels_first=True)),
    ("mobilenet_v4_conv_small", 0.35, Style(dense=True)),
    ("mobilenet_edgetpu", 0.75, Style()),
]


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize(("prefix", "width", "style"), STYLES)
def test_a_network_comes_back_whatever_the_converter_made_of_it(prefix, width, style, padding):
    original = network(prefix, width, padding=padding)
    found = found_in(write(original.spec, original.tensors, style))
    assert found.spec.blocks == original.spec.blocks and found.spec.head == original.spec.head
    assert found.spec.name == original.spec.name
    assert (found.spec.padding, found.spec.resolution) == (padding, SIDE)
    assert list(found.tensors) == list(specs.tensor_shapes(found.spec))
    assert_same_function(found, original)


def test_tf_slims_sixth_goes_into_the_next_convolution():
    """0.16667 instead of 1/6 in every gate: 2e-5 each, 2e-3 after nine of them."""
    original = network(V3, 0.5)
    for sixth in (1 / 6, 0.16667):
        found = found_in(write(original.spec, original.tensors, Style(sixth=sixth)))
        scale = found.tensors["blocks.1.project.conv.weight"] / folded_weight(original, "blocks.1.project")
        assert np.allclose(scale, 6 * sixth, rtol=1e-6)
        assert any("0.16667" in note for note in found.notes) == (sixth != 1 / 6)


def folded_weight(checkpoint, path):
    return folded(checkpoint.spec, checkpoint.tensors)[path][0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["uint8", "int8", "float16"])
@pytest.mark.parametrize(
    ("prefix", "width", "style"),
    [
        ("mobilenet_v1", 0.25, Style(fused=False)),
        ("mobilenet_v2", 0.35, Style(pool="average", dense=True)),
        ("mobilenet_v3_large_minimalistic", 0.5, Style(fused=False)),
        (V3, 0.5, Style(fused=False)),
        (V3, 0.5, Style(fused=False, folded_gate=True, hard_swish="before")),
    ],
)
def test_stored_weights_become_the_float_that_they_stand_for(prefix, width, style, kind):
    original = network(prefix, width)
    writer = NetworkWriter(original.spec, original.tensors, dataclasses.replace(style, weights=kind))
    found = found_in(writer.write())
    assert found.spec.blocks == original.spec.blocks
    ours = folded(found.spec, found.tensors)
    for path, (stored, bias) in writer.stored.items():
        depthwise = stored.shape[0] == 1 and path.endswith("depthwise")
        weight = np.float64(stored[:, None, None] if stored.ndim == 2 else stored)
        expected = weight.transpose(3, 0, 1, 2) if depthwise else weight.transpose(0, 3, 1, 2)
        assert np.allclose(ours[path][0], expected, rtol=1e-6, atol=1e-30), path
        assert np.allclose(ours[path][1], bias, rtol=1e-5, atol=1e-5), path


def test_the_range_says_what_is_activated_only_as_far_as_it_can():
    original = network("mobilenet_v3_large_minimalistic", 0.5)
    found = found_in(write(original.spec, original.tensors, Style(weights="uint8", fused=False)))
    assert any("stood in the file as the range" in note for note in found.notes)
    fused = found_in(write(original.spec, original.tensors, Style(weights="int8")))
    assert not any("as the range" in note for note in fused.notes)


@pytest.mark.parametrize(
    ("prefix", "width", "rule"),
    [
        ("mobilenet_v1", 0.33, "paper"),
        ("mobilenet_v2", 0.6, "timm"),
        (V3, 0.75, "torchvision"),
        ("mobilenet_edgetpu", 1.0, "paper"),
        ("mobilenet_v4_conv_small", 0.4, "timm"),
    ],
)
def test_any_width_and_rule_is_recognised(prefix, width, rule):
    spec = zoo.ZOO[prefix].build(width, rule=rule, classes=3, channels=1, resolution=SIDE)
    tensors = {name: np.zeros(shape, np.float32) for name, shape in specs.tensor_shapes(spec).items()}
    found = found_in(write(dataclasses.replace(spec, padding="same"), tensors))
    assert (found.spec.name, found.spec.blocks, found.spec.head) == (spec.name, spec.blocks, spec.head)
    assert (found.spec.classes, found.spec.channels) == (3, 1)


def test_the_background_class_goes():
    original = network("mobilenet_v1", 0.25, classes=1001)
    found = found_in(write(original.spec, original.tensors))
    assert found.spec.classes == 1000
    assert np.array_equal(found.tensors["classifier.bias"], original.tensors["classifier.bias"][1:])
    assert np.array_equal(found.tensors["classifier.weight"], original.tensors["classifier.weight"][1:])
    assert any("background" in note for note in found.notes)


def test_a_thousand_and_one_other_classes_stay():
    original = network("mobilenet_v1", 0.25, classes=1001)
    labels = [f"thing {index}" for index in range(1001)]
    found = found_in(described(write_with_metadata(original, labels_in="labels.txt"), labels))
    assert found.spec.classes == 1001 and found.labels == tuple(labels)


def test_a_body_gets_the_identity_as_classifier():
    original = network(V3, 0.5)
    found = found_in(write(original.spec, original.tensors, Style(head=False, end=("L2_NORMALIZATION",))))
    assert found.spec.classes == found.spec.features == 1024
    with torch.inference_mode():
        batch = pictures(original.spec)
        theirs = from_checkpoint(original)
        features = theirs.forward_head(theirs.forward_body(batch), pre_logits=True).numpy()
    ours = logits(checkpoint_of(found))
    assert np.abs(ours - features).max() <= LOGITS_RELATIVE * features.std()
    assert any("no classifier" in note for note in found.notes)
    assert any("L2_NORMALIZATION" in note for note in found.notes)


def test_a_network_in_two_files_is_put_together():
    original = network("mobilenet_v1", 0.25)
    body = tflite.parse(
        write(original.spec, original.tensors, Style(head=False, end=())), Path("body.tflite")
    )
    writer = Writer()
    weight, bias = original.tensors["classifier.weight"], original.tensors["classifier.bias"]
    x, y = writer.tensor((1, weight.shape[1])), writer.tensor((1, weight.shape[0]))
    writer.operator("FULLY_CONNECTED", [x, writer.constant(weight), writer.constant(bias)], [y], 8)
    head = tflite.parse(writer.model([x], [y]), Path("head.tflite"))
    found = tflite.find([body, head])
    assert found.spec.classes == 5
    assert_same_function(found, original)
    with pytest.raises(CheckpointError, match=r"head\.tflite: its input has shape \(1, 256\)"):
        tflite.find([head, body])


def test_norms_are_the_identity_to_the_last_bit():
    for epsilon in (1e-3, 1e-5, 1e-6, 0.0173):
        bias = np.linspace(-3, 3, 7).astype(np.float32)
        at = tflite.identity_norm(bias, epsilon)
        norm = torch.nn.BatchNorm2d(7, eps=epsilon).eval()
        norm.load_state_dict(
            {name.removeprefix("norm."): torch.from_numpy(array) for name, array in at.items()}, strict=False
        )
        x = torch.randn(2, 7, 3, 3, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            assert torch.equal(norm(x), x + torch.from_numpy(bias)[None, :, None, None])


# --- normalisation ------------------------------------------------------------------------------


def normalised(style, channels=3, padding="same", **metadata):
    original = network("mobilenet_v1", 0.25, channels=channels, padding=padding)
    if metadata:
        found = found_in(write_with_metadata(original, style=style, **metadata))
    else:
        found = found_in(write(original.spec, original.tensors, style))
    return found.preprocessing, found.preprocessing_is_known


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_range_of_a_quantised_input_says_the_convention(channels):
    for kind in ("uint8", "int8"):
        for low, high in ((-1.0, 1.0), (-1.0, 127 / 128), (-128 / 127, 1.0)):
            preprocessing, known = normalised(Style(weights=kind, input_range=(low, high)), channels)
            assert known
            assert preprocessing.mean == preprocessing.std == (0.5,) * channels
    preprocessing, known = normalised(Style(weights="uint8", input_range=(0.0, 1.0)), channels)
    assert (preprocessing.mean, preprocessing.std) == ((0.0,) * channels, (1.0,) * channels)


def test_imagenets_normalisation_is_seen_in_the_range():
    style = Style(weights="int8", input_range=(-2.1248, 2.6257))
    preprocessing, known = normalised(style)
    assert known and preprocessing.mean == IMAGENET_MEAN and preprocessing.std == IMAGENET_STD


def test_another_range_is_taken_as_it_is():
    preprocessing, known = normalised(Style(weights="uint8", input_range=(-3.0, 5.0)))
    assert known
    pixels = np.array([0, 255], np.uint8)[:, None].repeat(3, 1)
    assert np.allclose(normalise(pixels, preprocessing), [[-3] * 3, [5] * 3], atol=0.02)


def test_operators_that_normalise_are_read():
    preprocessing, known = normalised(Style(rescale=True))
    assert known
    assert np.allclose(preprocessing.mean, 0.5) and np.allclose(preprocessing.std, 0.5)


def test_metadata_says_the_normalisation():
    preprocessing, known = normalised(Style(), mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
    assert known
    assert np.allclose(preprocessing.mean, IMAGENET_MEAN) and np.allclose(preprocessing.std, IMAGENET_STD)
    with pytest.raises(CheckpointError, match="a std must be above 0"):
        normalised(Style(), mean=(0.0,), std=(0.0,))


def test_a_file_that_says_nothing_gets_the_convention_of_its_padding():
    preprocessing, known = normalised(Style())
    assert not known and preprocessing.mean == (0.5, 0.5, 0.5)
    preprocessing, known = normalised(Style(), padding="symmetric")
    assert not known and preprocessing.mean == IMAGENET_MEAN


# --- metadata -----------------------------------------------------------------------------------


def write_with_metadata(original, *, style=None, mean=None, std=None, labels_in=None, licence="Apache-2.0"):
    """A file with metadata; the zip with the labels is appended by `described`."""
    units = None
    if mean is not None:
        options = Table({0: np.array(mean, "<f4"), 1: np.array(std, "<f4")})
        units = [Table({0: ("B", 1), 1: options})]
    files = [Table({0: labels_in, 2: ("b", 2)})] if labels_in else None
    graph = Table({2: [Table({4: units})], 3: [Table({6: files})]})
    root = Table({0: "a network", 3: [graph], 4: "somebody", 5: licence})

    class Described(NetworkWriter):
        def model(self, inputs, outputs):
            self.add_metadata(root)
            return super().model(inputs, outputs)

    return Described(original.spec, original.tensors, style or Style()).write()


def described(data, labels, name="labels.txt"):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name, "\n".join(labels) + "\n")
    return data + archive.getvalue()


LABELS = ("daisy", "rose", "crane", "tulip", "crane")


def test_labels_and_licence_come_along():
    data = described(write_with_metadata(network(), labels_in="labels.txt"), LABELS)
    found = found_in(data)
    assert found.labels == ("daisy", "rose", "crane (2)", "tulip", "crane (4)")
    assert found.licence == "Apache-2.0"
    assert any("'crane' more than once" in note for note in found.notes)


def test_labels_that_do_not_fit_are_told():
    found = found_in(described(write_with_metadata(network(), labels_in="labels.txt"), LABELS[:3]))
    assert found.labels is None
    assert any("3 labels are not one for each of 5 classes" in note for note in found.notes)


def test_a_label_file_that_is_cut_off_is_an_error():
    data = described(write_with_metadata(network(), labels_in="labels.txt"), LABELS)
    for cut in (data[:-30], described(data, LABELS, "other.txt")):
        with pytest.raises(CheckpointError, match=r"names the label file 'labels\.txt'"):
            tflite.parse(cut, Path("model.tflite"))


def test_metadata_that_is_none_is_an_error():
    writer = Writer()
    writer.buffers.append(Table({0: b"no flatbuffer at all"}))
    writer.metadata.append(Table({0: "TFLITE_METADATA", 1: ("I", 1)}))
    with pytest.raises(CheckpointError, match="its metadata"):
        tflite.parse(writer.model([], []), Path("model.tflite"))


# --- refusals -----------------------------------------------------------------------------------


def test_what_is_no_tflite_file_is_named(tmp_path):
    for name, data, message in (
        ("a.tflite", b"", "is empty"),
        ("b.tflite", b"PK\x03\x04 something", "is not a TFLite file"),
        ("c.tflite", b"\x08\0\0\0TFL3", "truncated or damaged"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=message) as error:
            tflite.read(tmp_path / name)
        assert name in str(error.value)
    with pytest.raises(CheckpointError, match="no such file"):
        tflite.read(tmp_path / "none.tflite")
    with pytest.raises(CheckpointError, match="cannot be read"):
        tflite.read(tmp_path)


def test_another_architecture_is_told_apart_from_the_nearest():
    original = network("mobilenet_v2", 0.35)
    spec = original.spec
    blocks = list(spec.blocks)
    kernel = dataclasses.replace(blocks[3].ops[1], kernel=5)
    ops = (blocks[3].ops[0], kernel, *blocks[3].ops[2:])
    changed = dataclasses.replace(
        spec, blocks=(*blocks[:3], dataclasses.replace(blocks[3], ops=ops), *blocks[4:])
    )
    tensors = {name: np.zeros(shape, np.float32) for name, shape in specs.tensor_shapes(changed).items()}
    with pytest.raises(CheckpointError) as error:
        found_in(write(changed, tensors))
    text = str(error.value)
    assert "mobilenet_v2_035 comes nearest: 7 steps of 63 are the same" in text
    assert "the file has a 5×5 depthwise convolution to 48 channels, stride 1, activation relu6" in text
    assert "mobilenet_v2_035 has a 3×3 depthwise convolution to 48 channels" in text


def test_a_missing_shortcut_is_seen():
    spec = network("mobilenet_v2", 0.35).spec
    blocks = tuple(dataclasses.replace(block, residual=False) for block in spec.blocks)
    with pytest.raises(CheckpointError, match="mobilenet_v2_035 has a shortcut from step"):
        found_in(write(dataclasses.replace(spec, blocks=blocks), network("mobilenet_v2", 0.35).tensors))


def small(build):
    """A graph of one convolution and what `build` adds to it, refused by `find`; its message."""
    writer = Writer()
    x = writer.tensor((1, 64, 64, 3))
    y = writer.tensor((1, 32, 32, 8))
    weight, bias = writer.constant(np.zeros((8, 3, 3, 3), "<f4")), writer.constant(np.zeros(8, "<f4"))
    writer.operator("CONV_2D", [x, weight, bias], [y], 1, {1: ("i", 2), 2: ("i", 2)})
    last = build(writer, x, y)
    with pytest.raises(CheckpointError) as error:
        found_in(writer.model([x], [last]))
    return str(error.value)


def unary(name, **fields):
    def build(writer, _x, y):
        z = writer.tensor((1, 32, 32, 8))
        writer.operator(name, [y], [z], **fields)
        return z

    return build


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (unary("MAX_POOL_2D"), "operator 1 (MAX_POOL_2D) is nothing that"),
        (unary("LOGISTIC"), "is no network that is known here"),
        (unary("TFLite_Detection_PostProcess"), "custom operator TFLite_Detection_PostProcess"),
        (lambda w, x, y: x, "output is not computed from the picture"),
        (lambda w, x, y: w.tensor((1, 5)), "which nothing before it computes"),
        (lambda w, x, y: w.constant(np.zeros((1, 5), "<f4")), "output is not computed from the picture"),
    ],
)
def test_an_operator_that_no_mobilenet_has_is_named(build, message):
    assert message in small(build)


def test_the_order_of_operators_must_be_that_of_the_data():
    def loop(writer, _x, y):
        writer.operator("ADD", [y, y + 5], [y + 5], 11)
        writer.tensor((1, 32, 32, 8)), writer.tensor((1, 32, 32, 8)), writer.tensor((1, 32, 32, 8))
        return y

    assert "nothing before it computes" in small(loop)

    def again(writer, x, y):
        writer.operator("ADD", [y, x], [y], 11)
        return y

    assert "computed before" in small(again)


def test_a_convolution_that_pads_by_no_rule_is_refused():
    def build(writer, _x, y):
        z = writer.tensor((1, 30, 30, 8))
        weight = writer.constant(np.zeros((8, 3, 3, 8), "<f4"))
        writer.operator("CONV_2D", [y, weight, -1], [z], 1, {0: ("b", 1), 1: ("i", 1), 2: ("i", 1)})
        return z

    assert "operator 1 (CONV_2D) pads a map of 32 px by (0, 0)" in small(build)


def test_a_softmax_in_the_middle_is_refused():
    def build(writer, x, y):
        z = unary("SOFTMAX")(writer, x, y)
        out = writer.tensor((1, 32, 32, 8))
        writer.operator("CONV_2D", [z, writer.constant(np.zeros((8, 1, 1, 8), "<f4"))], [out], 1, {})
        return out

    assert "softmax or norm" in small(build)


def test_weights_must_be_there_and_finite():
    original = network()
    for value in (np.nan, np.inf):
        tensors = dict(original.tensors)
        tensors["classifier.weight"] = tensors["classifier.weight"].copy()
        tensors["classifier.weight"][0, 0] = value
        with pytest.raises(CheckpointError, match=r"tensor \d+ 'tensor/\d+' has NaN or infinity"):
            found_in(write(original.spec, tensors))


def test_overlapping_vectors_do_not_blow_up():
    """Many tensors whose shapes are one and the same long vector: few kB of file, gigabytes of numbers."""
    buffer = flatbuffers.Flatbuffer(memoryview(bytes(1000)))
    with pytest.raises(CheckpointError, match="overlap"):
        for _ in range(10_000):
            buffer.spend(1000, "the shape of tensor 3")


# --- any bytes ----------------------------------------------------------------------------------


@cache
def tiny_file():
    """The smallest complete file there is here: every kind of table, metadata and labels."""
    original = network("mobilenet_v1", 0.25)
    few = {name: np.zeros_like(array) for name, array in original.tensors.items()}
    data = write_with_metadata(
        dataclasses.replace(original, tensors=few),
        style=Style(weights="int8"),
        mean=(0.0,),
        std=(255.0,),
        labels_in="l",
    )
    return described(data, LABELS, "l")


def opened(data):
    """Read and recognise: either a network, or the designed error."""
    try:
        found = found_in(data)
    except CheckpointError as error:
        assert str(error).startswith("model.tflite: ") or "TFL3" in str(error) or error.file is None
        return None
    except InputError:  # a network that a `Spec` refuses, in words
        return None
    return found


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damaged_files_end_in_the_designed_error(data):
    whole = tiny_file()
    damaged = bytearray(whole)
    if data.draw(st.booleans(), label="truncate"):
        del damaged[data.draw(st.integers(0, len(whole)), label="length") :]
    # Tables lie between the weights: offsets are where four bytes are small.
    for _ in range(data.draw(st.integers(0, 4), label="changes")):
        if damaged:
            at = data.draw(st.integers(0, len(damaged) - 1), label="at")
            new = data.draw(st.binary(min_size=1, max_size=4), label="bytes")
            damaged[at : at + len(new)] = new
    opened(bytes(damaged))


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 2, 3, 4, 8, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF]))
def test_damaged_tables_end_in_the_designed_error(seed, value):
    """Changes where no weight lies: the file without the runs of zeros that the weights are."""
    whole = tiny_file()
    raw = np.frombuffer(whole, np.uint8)
    places = table_bytes(raw)
    rng = np.random.default_rng(seed)
    damaged = bytearray(whole)
    for at in rng.choice(places, rng.integers(1, 4)):
        size = int(rng.choice([1, 2, 4]))
        damaged[at : at + size] = (value & (256**size - 1)).to_bytes(size, "little")
    opened(bytes(damaged[: len(whole)]))


@cache
def _places():
    raw = np.frombuffer(tiny_file(), np.uint8)
    near = np.convolve(raw != 0, np.ones(9, int), "same") > 0
    return np.flatnonzero(near)


def table_bytes(raw):
    assert raw.size
    return _places()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_end_in_the_designed_error(data):
    assert opened(data) is None
    assert opened(data[:4] + b"TFL3" + data[4:]) is None


# --- LiteRT opens what we write -----------------------------------------------------------------


def litert(data_or_path):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")
    given_as = (
        {"model_content": data_or_path}
        if isinstance(data_or_path, bytes)
        else {"model_path": str(data_or_path)}
    )
    opened = interpreter.Interpreter(**given_as, num_threads=1)
    opened.allocate_tensors()
    return opened


def run(interpreter, x):
    (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(entry["index"], np.ascontiguousarray(x.astype(entry["dtype"])))
    interpreter.invoke()
    scale, zero = exit_["quantization"]
    y = interpreter.get_tensor(exit_["index"]).astype(np.float64).ravel()
    return (y - zero) * scale if scale else y


@pytest.mark.parametrize(
    ("prefix", "width", "style"), [STYLES[0], STYLES[2], STYLES[5], STYLES[6], STYLES[8]]
)
def test_litert_computes_the_same_from_what_is_written_here(prefix, width, style):
    style = dataclasses.replace(style, end=())
    for padding in ("same", "symmetric"):
        original = network(prefix, width, padding=padding)
        interpreter = litert(write(original.spec, original.tensors, style))
        batch = pictures(original.spec).permute(0, 2, 3, 1).numpy()
        theirs, ours = np.array([run(interpreter, x[None]) for x in batch]), logits(original)
        assert np.abs(theirs - ours).max() <= LOGITS_RELATIVE * ours.std()


# --- real files ---------------------------------------------------------------------------------

CORAL = (
    "coral_mobilenet_v1_1.0_224_quant_embedding_extractor",
    "coral_mobilenet_v1_1.0_224_quant_head_layers",
)
REAL = {
    ("mobilenet_v1_0.25_224_float",): "mobilenet_v1_025",
    CORAL: "mobilenet_v1_100",
    ("gw_mobilenet_v1_0_5_224_quant",): "mobilenet_v1_050",
    ("gw_mobilenet_v1_0_25_224_quant",): "mobilenet_v1_025",
    ("gw_mobilenet_v2_1_0_224_quant",): "mobilenet_v2_100",
    ("coral_tf2_mobilenet_v2_1.0_224_ptq",): "mobilenet_v2_100",
    ("gw_mobilenet_v2_0_5_224_quant",): "mobilenet_v2_050",
    ("mobilenet_v3_small_1.0_224_uint8",): "mobilenet_v3_small_100",
    ("gw_mobilenet_v3_large_minimalistic_1_0_224_quant",): "mobilenet_v3_large_minimalistic_100",
    ("mobilenet_edgetpu_1.0_224_uint8",): "mobilenet_edgetpu_100",
    ("tflm_mobilenet_v2_quantized_1x3x224x224",): "mobilenet_v2_100",
    ("mediapipe_mobilenet_v3_small_embedder_f32",): "mobilenet_v3_small_075",
}
"""Files → the network. What they reach on pictures is in `test_real_weights`."""


def real(data, names):
    return tflite.find([tflite.read(data / "weights-tflite" / f"{name}.tflite") for name in names])


@pytest.mark.slow
@pytest.mark.parametrize("names", REAL, ids=lambda names: names[0])
def test_real_files_are_recognised(data, names):
    found = real(data, names)
    assert found.spec.name == REAL[names]
    assert found.spec.resolution == 224
    from_torchvision = names[0].startswith("tflm")
    assert found.spec.padding == ("symmetric" if from_torchvision else "same")
    assert found.spec.classes == (1024 if "embedder" in names[0] else 1000)
    assert found.preprocessing.mean == (IMAGENET_MEAN if from_torchvision else (0.5, 0.5, 0.5))
    assert found.preprocessing.std == (IMAGENET_STD if from_torchvision else (0.5, 0.5, 0.5))
    assert found.preprocessing_is_known == (names[0] != "mobilenet_v1_0.25_224_float")
    assert found.labels is None or found.labels[0] == "tench, Tinca tinca"


def photographs(data, found, n):
    with (data / "imagenet-500" / "labels.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))[:n]
    pixels = []
    for row in rows:
        with Image.open(data / "imagenet-500" / row["path"]) as image:
            pixels.append(prepare(image.convert("RGB"), found.preprocessing, found.spec.resolution))
    return np.stack(pixels)


@torch.inference_mode()
def answers(found, pixels):
    net = from_checkpoint(checkpoint_of(found))
    x = torch.from_numpy(normalise(pixels, found.preprocessing)).permute(0, 3, 1, 2).contiguous()
    return np.concatenate([net(part).numpy() for part in x.split(25)])


@pytest.mark.slow
def test_a_real_float_file_computes_what_litert_does(data):
    found = real(data, ("mobilenet_v1_0.25_224_float",))
    pixels = photographs(data, found, 4)
    interpreter = litert(data / "weights-tflite" / "mobilenet_v1_0.25_224_float.tflite")
    # The file ends in a softmax: logits are known up to a constant, here that of the background class.
    theirs = np.log(np.array([run(interpreter, x[None]) for x in normalise(pixels, found.preprocessing)]))[
        :, 1:
    ]
    ours = answers(found, pixels)
    theirs, ours = (a - a.max(1, keepdims=True) for a in (theirs, ours))
    assert np.abs(theirs - ours).max() <= LOGITS_RELATIVE * ours.std()


@pytest.mark.slow
def test_the_real_embedder_computes_what_litert_does(data):
    found = real(data, ("mediapipe_mobilenet_v3_small_embedder_f32",))
    pixels = photographs(data, found, 4)
    interpreter = litert(data / "weights-tflite" / "mediapipe_mobilenet_v3_small_embedder_f32.tflite")
    theirs = np.array([run(interpreter, x[None] / 255) for x in pixels])
    assert np.abs(theirs - answers(found, pixels)).max() <= LOGITS_RELATIVE * theirs.std()


# --- unfolding ----------------------------------------------------------------------------------


def test_unfolded_norms_hold_statistics_and_change_nothing():
    original = network(V3, 0.5)
    found = checkpoint_of(found_in(write(original.spec, original.tensors)))
    batches = [pictures(found.spec, 16)]
    result = unfold_checkpoint(found, batches)
    before, after = logits(found), logits(result)
    assert np.abs(before - after).max() <= LOGITS_RELATIVE * before.std()
    assert "measured" in result.manifest.provenance["norms"]
    with torch.inference_mode():
        measured = from_checkpoint(result)
        training = measured.train()(batches[0]).numpy()
        folded_network = from_checkpoint(found).train()(batches[0]).numpy()
    whole = from_checkpoint(found)
    with torch.inference_mode():
        wanted = whole(batches[0]).numpy()
    # In training mode, over the same pictures, measured norms compute what evaluation does.
    assert np.abs(training - wanted).max() < 0.1 * wanted.std()
    assert np.abs(folded_network - wanted).max() > wanted.std()


def test_unfolding_leaves_frozen_norms_and_the_network_that_was_given():
    network_ = from_checkpoint(network())
    network_.freeze(3)
    before = {name: value.clone() for name, value in network_.state_dict().items()}
    result = unfold(network_, [pictures(network_.spec, 8)])
    assert all(torch.equal(value, before[name]) for name, value in network_.state_dict().items())
    after = result.state_dict()
    assert torch.equal(after["blocks.0.conv.norm.running_mean"], before["blocks.0.conv.norm.running_mean"])
    assert not torch.equal(
        after["blocks.9.expand.norm.running_mean"], before["blocks.9.expand.norm.running_mean"]
    )
    x = pictures(network_.spec)
    with torch.inference_mode():
        a, b = network_.eval()(x), result.eval()(x)
    assert torch.allclose(a, b, rtol=FOLDED_RTOL, atol=float(LOGITS_RELATIVE * a.std()))


def test_unfolding_needs_pictures():
    with pytest.raises(InputError, match="there are 0 pictures"):
        unfold(from_checkpoint(network()), [])
