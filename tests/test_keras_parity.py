"""Keras' own models with random weights, saved by Keras, read here: the same logits, up to rounding."""

import dataclasses

import numpy as np
import pytest

from mobilenets import zoo
from mobilenets.errors import CheckpointError, SpecError
from mobilenets.spec import tensor_shapes
from mobilenets.tolerances import LOGITS_RELATIVE

torch = pytest.importorskip("torch")
import keras_reference as reference  # noqa: E402
import parity_rows  # noqa: E402
from mobilenets.network import from_checkpoint, to_tensors  # noqa: E402
from mobilenets.weights import import_file, keras_model  # noqa: E402
from mobilenets.weights.keras import KERAS, layer_kinds  # noqa: E402
from mobilenets.weights.source import from_ours, shape_there  # noqa: E402

FAST = [("mobilenet_v1", 0.25), ("mobilenet_v2", 0.35), ("mobilenet_v3_small", 0.75)]
each_network = pytest.mark.parametrize(
    ("prefix", "alpha"),
    [case if case in FAST else pytest.param(*case, marks=pytest.mark.full) for case in reference.NETWORKS],
)


@pytest.fixture(scope="session")
def keras():
    """The keras package, on its torch backend."""
    return reference.load_keras()


def row(keras, folder, prefix, alpha, form=reference.FORMS[0]):
    """A row of the table: Keras' model at 224 px and at another side, and ours out of its file."""
    # V1 pads otherwise where a strided layer meets an odd map; V2 and V3 take their other path there.
    other = 160 if prefix == "mobilenet_v1" else 97
    network = reference.randomised(reference.spec_of(prefix, alpha))
    theirs = {side: reference.model(keras, prefix, alpha, side=side) for side in (224, other)}
    for built in theirs.values():
        reference.fill(built, network)
    path = reference.save(theirs[224], folder / form)
    return parity_rows.measure(
        "keras",
        keras.__version__,
        prefix,
        alpha,
        ours=reference.network_of(keras_model.found(path)),
        theirs=reference.runner(theirs),
        counts=counts(theirs[224]),
        pixels=224,
        odd=other,
    )


def counts(theirs):
    """Parameters as Keras counts them; MACs by torch's counter, while Keras' model runs."""
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter, torch.no_grad():
        theirs(torch.zeros(1, 224, 224, 3), training=False)
    trainable = sum(int(np.prod(variable.shape)) for variable in theirs.trainable_variables)
    return parity_rows.Counts(trainable, counter.get_total_flops() // 2)


@pytest.mark.slow
@each_network
def test_logits_are_keras_own(keras, tmp_path, prefix, alpha):
    measured = row(keras, tmp_path, prefix, alpha)
    assert measured.max_diff <= LOGITS_RELATIVE * measured.logit_std, measured


SMALL = [("mobilenet_v1", 0.25), ("mobilenet_v2", 0.35), ("mobilenet_v3_small_minimalistic", 0.75)]
each_family = pytest.mark.parametrize(("prefix", "alpha"), SMALL)


@pytest.mark.slow
@each_family
def test_every_form_of_file_and_the_conventions(keras, tmp_path, prefix, alpha):
    """Keras' model of 4 channels at 64 px, its three kinds of file, what its layers say of themselves."""
    spec = reference.spec_of(prefix, alpha, classes=3, channels=4, resolution=64)
    network = reference.randomised(spec)
    theirs = reference.model(keras, prefix, alpha, side=64, channels=4, classes=3)
    reference.fill(theirs, network)
    for form in reference.FORMS:
        found = keras_model.found(reference.save(theirs, tmp_path / form))
        for name, array in to_tensors(network).items():
            np.testing.assert_array_equal(found.tensors[name], array, err_msg=f"{form}: {name}")
        described = not form.endswith(".weights.h5")
        assert found.spec.resolution == (64 if described else 224)
        assert found.spec == zoo_named(spec, found.spec)
    norms = [layer for layer in theirs.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {(norm.epsilon, round(1 - norm.momentum, 12)) for norm in norms} == {
        (spec.norm_epsilon, spec.norm_momentum)
    }
    rates = [layer.rate for layer in theirs.layers if isinstance(layer, keras.layers.Dropout)]
    assert rates == ([spec.dropout] if spec.dropout else [])
    assert theirs.count_params() == sum(int(np.prod(shape)) for shape in tensor_shapes(spec).values())
    weighted = [layer.name for layer in theirs.layers if layer.weights]
    assert weighted == list(layer_kinds(spec))


def zoo_named(spec, like):
    """`spec` with what a file of weights alone cannot say."""
    return dataclasses.replace(spec, resolution=like.resolution)


def transfer_models(keras, base, preprocessed):
    """The ways in which Keras' guides put a classifier on a base."""
    layers = keras.layers
    yield keras.Sequential(
        [
            keras.Input(base.input_shape[1:]),
            *([] if preprocessed else [layers.Rescaling(1 / 127.5, offset=-1)]),
            base,
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.4),
            layers.Dense(3),
        ]
    )
    features = layers.GlobalAveragePooling2D()(base.output)
    yield keras.Model(base.input, layers.Dense(3, activation="softmax", name="mine")(features))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prefix", "alpha"),
    [("mobilenet_v1", 0.25), pytest.param("mobilenet_v3_small", 0.75, marks=pytest.mark.full)],
)
@pytest.mark.parametrize("form", [*reference.FORMS, "without names"])
def test_a_base_under_the_users_own_classifier(keras, tmp_path, prefix, alpha, form):
    network = reference.randomised(reference.spec_of(prefix, alpha, resolution=64))
    v3 = "v3" in prefix
    given = {"include_preprocessing": True} if v3 else {}
    base = reference.model(keras, prefix, alpha, side=64, include_top=False, **given)
    for ours, place in KERAS.places(network.spec).items():
        layer, _, variable = place.name.rpartition("/")
        if layer not in ("conv_2", "logits", "conv_preds"):
            getattr(base.get_layer(layer), variable).assign(
                from_ours(place.layout, to_tensors(network)[ours])
            )
    pixels = torch.randint(0, 256, (2, 64, 64, 3)).float()
    for theirs, scaled in zip(transfer_models(keras, base, v3), (True, v3), strict=True):
        path = tmp_path / (reference.FORMS[0] if form == "without names" else form)
        reference.save(theirs, path)
        if form == "without names":
            without_names(path)
        found = keras_model.found(path)
        with torch.inference_mode():
            pictures = pixels / 127.5 - 1
            expected = theirs(pixels if scaled else pictures, training=False)
            logits = reference.network_of(found)(pictures.permute(0, 3, 1, 2))
            if theirs.layers[-1].name == "mine":
                logits = logits.softmax(1)
        assert float((logits - expected).abs().max()) <= LOGITS_RELATIVE * float(expected.std())
        described = not path.name.endswith(".weights.h5")
        assert found.preprocessing_is_known == (described and scaled)
        assert any("is the classifier" in note for note in found.notes)
        assert any("include_top=False" in note for note in found.notes) == v3


def without_names(path):
    """As Keras 3 wrote before it stored names."""
    import h5py

    with h5py.File(path, "a") as file:
        file.visititems(lambda _, item: item.attrs.clear())


@pytest.mark.slow
def test_one_output_gives_keras_own_probability(keras, tmp_path):
    network = reference.randomised(reference.spec_of("mobilenet_v2", 0.35, classes=1, resolution=64))
    theirs = reference.model(keras, "mobilenet_v2", 0.35, side=64, classes=1, classifier_activation="sigmoid")
    reference.fill(theirs, network)
    imported = import_file(reference.save(theirs, tmp_path / "model.keras"))
    pictures = torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        ours = from_checkpoint(imported.checkpoint)(pictures).softmax(1)
    torch.testing.assert_close(ours[:, 1:], reference.run(theirs, pictures))


@pytest.mark.slow
def test_a_base_alone_says_what_is_missing(keras, tmp_path):
    base = reference.model(keras, "mobilenet_v3_small", 0.75, side=64, include_top=False, pooling="avg")
    with pytest.raises(
        CheckpointError, match=r"without a classifier \(include_top=False\): the layer 'logits'"
    ):
        keras_model.found(reference.save(base, tmp_path / "base.weights.h5"))


def test_keras_keeps_its_weights_wide_of_1(keras):
    """A width that nobody publishes: names and shapes of ours are those of Keras' model."""
    for prefix, alpha in (("mobilenet_v1", 0.31), ("mobilenet_v3_large", 1.3)):
        spec = reference.spec_of(prefix, alpha)
        theirs = reference.model(keras, prefix, alpha)
        places, shapes = KERAS.places(spec), tensor_shapes(spec)
        expected = {place.name: shape_there(place.layout, shapes[ours]) for ours, place in places.items()}
        assert {variable.path: tuple(variable.shape) for variable in theirs.weights} == expected


@pytest.mark.parametrize(
    "spec",
    [zoo.v1(full=True), zoo.v4_conv_small(), zoo.v4_hybrid_medium(), zoo.edgetpu()],
    ids=lambda spec: spec.name,
)
def test_a_network_that_keras_cannot_express(spec):
    with pytest.raises(SpecError, match=f"Keras cannot express {spec.name}"):
        KERAS.places(spec)
