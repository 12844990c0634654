"""torchvision's own models with random weights, saved, imported: logits equal to the bit."""

import pytest

from mobilenets import spec as specs
from mobilenets import zoo
from mobilenets.errors import CheckpointError, SpecError
from mobilenets.spec import Block, Conv, Spec, SqueezeExcite

torch = pytest.importorskip("torch")
import parity_rows  # noqa: E402
from mobilenets.weights import import_file  # noqa: E402
from mobilenets.weights.torchvision import TORCHVISION  # noqa: E402

V2, LARGE, SMALL = TORCHVISION.prefixes
FAMILY = {V2: zoo.v2, LARGE: zoo.v3_large, SMALL: zoo.v3_small}
PUBLISHED = [(V2, 1.0), (LARGE, 1.0), (SMALL, 1.0)]
"""What torchvision has weights for; the other widths are its users'."""
OTHERS = [(V2, width) for width in (0.35, 0.5, 0.75, 1.3, 1.4)] + [
    (prefix, width) for prefix in (LARGE, SMALL) for width in (0.5, 0.75, 1.25)
]
each_network = pytest.mark.parametrize(
    ("variant", "width"), [*PUBLISHED, *(pytest.param(*case, marks=pytest.mark.full) for case in OTHERS)]
)


def model(torchvision, variant, width, **given):
    """`variant` as torchvision builds it."""
    return getattr(torchvision.models, variant)(width_mult=width, **given)


def row(torchvision, folder, variant, width):
    theirs = parity_rows.randomise(model(torchvision, variant, width))
    ours = parity_rows.imported(parity_rows.saved_state(theirs, folder))
    return parity_rows.measure(
        "torchvision",
        torchvision.__version__,
        variant,
        width,
        ours=ours,
        theirs=theirs,
        counts=parity_rows.torch_counts(theirs, 224),
        pixels=224,
        odd=97,
    )


@pytest.mark.slow
@each_network
def test_logits_equal_torchvisions_to_the_bit(torchvision, tmp_path, variant, width):
    measured = row(torchvision, tmp_path, variant, width)
    assert measured.bit_equal, measured


@each_network
def test_names_are_torchvisions_in_torchvisions_order(torchvision, variant, width):
    spec = FAMILY[variant](width, rule="torchvision")
    with torch.device("meta"):
        theirs = model(torchvision, variant, width).state_dict()
    names = [name for name in theirs if not name.endswith("num_batches_tracked")]
    assert [place.name for place in TORCHVISION.places(spec).values()] == names


@pytest.mark.parametrize(("variant", "epsilon", "momentum"), [(V2, 1e-5, 0.1), (SMALL, 1e-3, 0.01)])
def test_conventions_are_those_of_the_model(torchvision, tmp_path, variant, epsilon, momentum):
    theirs = model(torchvision, variant, 1.0, num_classes=5)
    found = import_file(parity_rows.saved_state(theirs, tmp_path))
    spec, preprocessing = found.checkpoint.spec, found.checkpoint.manifest.preprocessing
    norm = next(module for module in theirs.modules() if isinstance(module, torch.nn.BatchNorm2d))
    assert (spec.norm_epsilon, spec.norm_momentum) == (norm.eps, norm.momentum) == (epsilon, momentum)
    drop = next(module for module in theirs.modules() if isinstance(module, torch.nn.Dropout))
    assert (spec.dropout, spec.padding, spec.classes) == (drop.p, "symmetric", 5)
    weights = torchvision.models.get_model_weights(variant).IMAGENET1K_V1.transforms()
    assert preprocessing.mean == tuple(weights.mean) and preprocessing.std == tuple(weights.std)
    assert preprocessing.crop_fraction == weights.crop_size[0] / weights.resize_size[0]
    assert preprocessing.resize == weights.interpolation.value
    assert any("torchvision" in sentence for sentence in found.decisions)


def test_a_width_by_another_rule_is_named(torchvision, tmp_path):
    """Somebody's torchvision-like class with timm's rounding: the shapes say so."""
    spec = zoo.v3_small(0.75, classes=3)
    places, shapes = TORCHVISION.places(spec), specs.tensor_shapes(spec)
    state = {
        place.name: torch.zeros(shapes[ours][:2] if place.layout == "oi" else shapes[ours])
        for ours, place in places.items()
    }
    torch.save(state, tmp_path / "model.pth")
    found = import_file(tmp_path / "model.pth")
    assert found.checkpoint.spec.blocks == spec.blocks
    assert any("rule 'timm'" in sentence for sentence in found.decisions)


def missing(state):
    del state["features.4.block.2.fc1.bias"]


def transposed(state):
    state["features.4.block.0.0.weight"] = state["features.4.block.0.0.weight"].transpose(0, 1).contiguous()


def transposed_head(state):
    state["classifier.0.weight"] = state["classifier.0.weight"].T.contiguous()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (missing, "tensor 'features.4.block.2.fc1.bias' is missing; mobilenet_v3_small of torchvision"),
        (transposed, "tensor 'features.4.block.0.0.weight' has shape (24, 96, 1, 1); mobilenet_v3_small_100"),
        (transposed_head, "tensor 'classifier.0.weight' has shape (576, 1024); mobilenet_v3_small_100"),
    ],
)
def test_one_wrong_tensor_is_named(torchvision, tmp_path, change, said):
    state = dict(model(torchvision, SMALL, 1.0, num_classes=2).state_dict())
    change(state)
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(CheckpointError) as caught:
        import_file(tmp_path / "model.pth")
    assert said in str(caught.value)


STEM, LAST = Block((Conv("conv", 3, 8, 2),), 0), Block((Conv("conv", 1, 8),), 9)
DEPTHWISE = Conv("depthwise", 3, 8, depthwise=True)


@pytest.mark.parametrize(
    "spec",
    [
        Spec("s", "", (STEM,)),
        Spec("s", "", (STEM, Block((Conv("a", 3, 8),), 1), LAST)),
        Spec("s", "", (STEM, Block((DEPTHWISE, SqueezeExcite(4), Conv("project", 1, 8)), 1), LAST)),
        Spec("s", "", (STEM, LAST), head=(Conv("hidden", 1, 8),)),
        Spec("s", "", (STEM, LAST), head=(Conv("a", 1, 8, norm=False), Conv("b", 1, 8, norm=False))),
        zoo.v1(),
        zoo.v4_conv_small(),
        zoo.v4_hybrid_medium(),
        zoo.edgetpu(),
    ],
    ids=lambda spec: spec.name,
)
def test_a_network_that_torchvision_cannot_express(spec):
    with pytest.raises(SpecError, match="torchvision cannot express"):
        TORCHVISION.places(spec)
