"""The preprocessing detective: a network built to want one convention is found to want it."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="torch is not installed: pip install 'mobilenets[train]'")

from mobilenets import zoo
from mobilenets.checkpoint import Checkpoint, Manifest
from mobilenets.cli.detection import show_detection
from mobilenets.errors import FolderError, InputError, LabelsError
from mobilenets.evaluation import evaluate
from mobilenets.folder import scan
from mobilenets.preprocessing import Preprocessing, affine, for_channels
from mobilenets.spec import Block, Conv, Spec
from mobilenets.weights.conventions import Convention, scalings
from mobilenets.weights.detective import detect, sign_test

SIDE = 32
COLOURS = {
    "red": (205, 75, 75),
    "blue": (75, 75, 205),
    **{f"grey{level}": (level,) * 3 for level in (26, 77, 128, 179, 230)},
}
PER_CLASS = 6
IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""What an import says without options."""


def flat(mean, std, scale=1 / 255):
    return Preprocessing(mean=(mean,) * 3, std=(std,) * 3, scale=scale)


SCALINGS = {
    "[-1, 1]": flat(0.5, 0.5),
    "ImageNet mean and std": IMAGENET,
    "[0, 1]": flat(0.0, 1.0),
    "0 to 255": flat(0.0, 1.0, 1.0),
    "0 to 255 less the mean (Caffe)": Preprocessing(
        mean=(123.68, 116.779, 103.939), std=(1.0,) * 3, scale=1.0
    ),
}


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """Noisy pictures of one colour each; the class is the colour."""
    root, rng = tmp_path_factory.mktemp("coloured"), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for index in range(PER_CLASS):
            pixels = np.array(colour) + rng.normal(0, 8, (SIDE, SIDE, 3))
            image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            image.save(root / name / f"{index}.png")
    return scan(root, purpose="evaluate")


def nearest_colour(preprocessing, *, order="RGB", colours=None, said=IMAGENET):
    """A network that names the nearest colour, as `preprocessing` and `order` show colours to it."""
    colours = COLOURS if colours is None else colours
    spec = Spec(
        "nearest",
        "tests",
        (Block((Conv("conv", 3, 3, 2, norm=False),), stage=0),),
        classes=len(colours),
        resolution=SIDE,
    )
    factor, offset = affine(preprocessing)
    centres = np.array(list(colours.values())) * factor + offset
    if order == "BGR":
        centres = centres[:, ::-1]
    spread = np.ptp(centres) / 40
    stem = np.zeros((3, 3, 3, 3), np.float32)
    stem[range(3), range(3), 1, 1] = 1
    tensors = {
        "blocks.0.conv.conv.weight": stem,
        "blocks.0.conv.conv.bias": np.zeros(3, np.float32),
        "classifier.weight": (centres / spread**2).astype(np.float32),
        "classifier.bias": (-(centres**2).sum(axis=1) / (2 * spread**2)).astype(np.float32),
    }
    return Checkpoint(Manifest(spec, tuple(colours), said), tensors)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("name", SCALINGS)
def test_scaling_and_order_are_found_and_written_down(coloured, name, order):
    checkpoint = nearest_colour(SCALINGS[name], order=order)
    found = detect(checkpoint, coloured)
    assert found.aspects[0].chosen.name == f"{name}, {order}"
    assert found.decided
    assert found.accuracy.value == 1.0
    assert found.best.order == order
    mended = found.with_preprocessing(checkpoint)
    assert evaluate(mended, coloured, engine="torch").accuracy.value == 1.0
    before = evaluate(checkpoint, coloured, engine="torch")
    assert before.accuracy.value < 1.0 or (name, order) == (
        "ImageNet mean and std",
        "RGB",
    )
    assert mended.manifest.provenance["detected"]["order"] == order


def test_a_wrong_convention_leaves_the_race_early(coloured):
    rows = {row.name: row for row in detect(nearest_colour(SCALINGS["0 to 255"]), coloured).aspects[0].rows}
    assert rows["0 to 255, RGB"].accuracy.n == len(coloured.pictures)
    assert rows["[0, 1], RGB"].accuracy.n < len(coloured.pictures)


def test_what_the_pictures_do_not_tell_is_a_tie_and_the_commoner_is_taken(tmp_path):
    greys = {name: colour for name, colour in COLOURS.items() if name.startswith("grey")}
    for name, colour in greys.items():
        (tmp_path / name).mkdir()
        for index in range(PER_CLASS):
            pixels = np.full((SIDE, SIDE, 3), colour[0] + index % 3, np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    folder = scan(tmp_path, purpose="evaluate")
    found = detect(nearest_colour(SCALINGS["[-1, 1]"], order="BGR", colours=greys), folder)
    assert {row.name for row in found.aspects[0].tied} == {"[-1, 1], RGB", "[-1, 1], BGR"}
    assert found.aspects[0].chosen.name == "[-1, 1], RGB"
    assert found.better_than_chance
    assert not found.decided
    assert "do not tell it from: [-1, 1], BGR" in " ".join(found.findings)


def test_a_tie_keeps_what_the_checkpoint_says(coloured):
    own = dataclasses.replace(flat(0.5, 0.5), crop_fraction=0.9, resize="lanczos")
    found = detect(nearest_colour(own, said=own), coloured)
    assert found.best == Convention(own, "symmetric", 1e-5)
    assert not found.aspects[1].decided
    assert not found.aspects[2].decided
    assert found.aspects[2].chosen.name == "crop 0.9, lanczos"


CHEQUERED = {**COLOURS, "even": (0, 205, 0), "odd": (0, 0, 0)}


def chequered(root):
    """Pictures of one colour, and two classes more: even pixels green and odd ones black, and reversed."""
    for name, colour in CHEQUERED.items():
        (root / name).mkdir()
        for index in range(8):
            pixels = np.full((SIDE, SIDE, 3), colour, np.uint8)
            if name in ("even", "odd"):
                pixels[:] = 0
                pixels[name == "odd" :: 2, name == "odd" :: 2, 1] = 205
            pixels[:, :, 2] += np.uint8(index)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return scan(root, purpose="evaluate")


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_padding_and_crop_are_found(tmp_path, padding):
    """The stem's centre falls on even pixels under one rule and on odd ones under the other."""
    own = dataclasses.replace(flat(0.5, 0.5), crop_fraction=1.0)
    checkpoint = nearest_colour(own, colours=CHEQUERED, said=own)
    if padding == "same":  # its windows begin at the first pixel, and their centres on the second
        for name in ("classifier.weight", "classifier.bias"):
            checkpoint.tensors[name][-2:] = checkpoint.tensors[name][-2:][::-1].copy()
    folder = chequered(tmp_path)
    for said in ("same", "symmetric"):
        spec = dataclasses.replace(checkpoint.spec, padding=said)
        manifest = dataclasses.replace(checkpoint.manifest, spec=spec)
        found = detect(dataclasses.replace(checkpoint, manifest=manifest), folder)
        assert found.accuracy.value == 1.0
        assert {row.convention.padding for row in found.aspects[1].tied} == {padding}
        assert {row.name for row in found.aspects[2].tied} == {
            f"{fit}, {kernel}" for fit in ("crop 1", "stretch") for kernel in ("bilinear", "bicubic")
        }
        assert found.with_preprocessing(checkpoint).spec.padding == padding


@pytest.mark.parametrize("epsilon", [1e-3, 1e-5])
def test_epsilon_is_found(coloured, epsilon):
    plain = nearest_colour(flat(0.5, 0.5), said=flat(0.5, 0.5))
    spec = dataclasses.replace(plain.spec, blocks=(Block((Conv("conv", 3, 3, 2),), stage=0),))
    var = np.full(3, 1e-4, np.float32)
    norm = {"weight": np.sqrt(var + epsilon), "bias": var * 0, "running_mean": var * 0, "running_var": var}
    tensors = {name: plain.tensors[name] for name in plain.tensors if not name.endswith("conv.bias")}
    tensors |= {f"blocks.0.conv.norm.{part}": value.astype(np.float32) for part, value in norm.items()}
    manifest = dataclasses.replace(plain.manifest, spec=spec)
    found = detect(Checkpoint(manifest, tensors), coloured)
    assert found.best.epsilon == epsilon
    assert {row.convention.epsilon for row in found.aspects[1].tied} == {epsilon}


def test_a_model_that_knows_nothing_decides_nothing(coloured, capsys):
    checkpoint = nearest_colour(IMAGENET)
    silent = {name: array * 0 for name, array in checkpoint.tensors.items()}
    found = detect(dataclasses.replace(checkpoint, tensors=silent), coloured)
    assert not found.better_than_chance
    assert not found.decided
    assert found.best.preprocessing == IMAGENET
    show_detection(found)
    assert "Under no convention does the model do better than chance (14%)" in capsys.readouterr().err


def test_what_was_not_found_out_is_not_written(coloured):
    """Labels in another order do so: the best convention is then the one with the flattest guesses."""
    checkpoint = nearest_colour(SCALINGS["[-1, 1]"], order="BGR")
    found = dataclasses.replace(detect(checkpoint, coloured), chance=1.0)
    assert not found.better_than_chance
    kept = found.with_preprocessing(checkpoint)
    assert kept.manifest.preprocessing == IMAGENET
    assert kept.spec == checkpoint.spec
    assert kept.tensors is checkpoint.tensors
    assert kept.manifest.provenance["detected"]


def test_the_tables_have_every_row_and_the_verdict(coloured, capsys):
    found = detect(nearest_colour(SCALINGS["[-1, 1]"], order="BGR"), coloured)
    show_detection(found)
    printed = capsys.readouterr()
    assert all(row.name in printed.out for row in found.rows)
    assert "chosen" in printed.out
    assert "It wants BGR" in printed.err
    assert found.to_json()["aspects"][0]["rows"][0]["name"] == "[-1, 1], BGR"


def test_pictures_are_spread_over_the_classes_and_limited(coloured):
    found = detect(nearest_colour(IMAGENET), coloured, pictures=14)
    assert found.pictures == 14
    assert found.chance == pytest.approx(2 / 14)


def test_a_picture_that_went_away_after_the_scan_is_left_out(tmp_path):
    for name, colour in COLOURS.items():
        (tmp_path / name).mkdir()
        for index in range(2):
            pixels = np.full((SIDE, SIDE, 3), colour, np.uint8) + np.uint8(index)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    folder = scan(tmp_path, purpose="evaluate")
    (tmp_path / "red" / "0.png").unlink()
    assert detect(nearest_colour(IMAGENET), folder).pictures == len(folder.pictures) - 1
    for file in tmp_path.glob("*/*.png"):
        file.unlink()
    with pytest.raises(FolderError, match="no picture that can be decoded"):
        detect(nearest_colour(IMAGENET), folder)


def test_labels_and_numbers_are_checked(coloured):
    known = {name: colour for name, colour in COLOURS.items() if name != "red"}
    with pytest.raises(LabelsError, match="red"):
        detect(nearest_colour(IMAGENET, colours=known), coloured)
    with pytest.raises(InputError, match="number of pictures is 0"):
        detect(nearest_colour(IMAGENET), coloured, pictures=0)


def test_not_all_of_the_models_classes_need_be_there(coloured):
    more = {**COLOURS, "green": (75, 205, 75)}
    assert detect(nearest_colour(flat(0.5, 0.5), colours=more), coloured).decided


def test_only_rgb_has_an_order():
    def tried(channels):
        spec = zoo.v1(0.25, classes=2, channels=channels, resolution=SIDE)
        own = for_channels(channels)
        checkpoint = Checkpoint.__new__(Checkpoint)
        object.__setattr__(checkpoint, "manifest", Manifest(spec, ("a", "b"), own))
        return [name for name, _ in scalings(Convention(own, "same", 1e-3), checkpoint)]

    assert tried(1) == ["[-1, 1]", "[0, 1]", "0 to 255"]
    assert len(tried(3)) == 10


def test_the_sign_test_is_exact():
    assert sign_test(0, 0) == 1.0
    assert sign_test(5, 0) == sign_test(0, 5) == 2 / 32
    assert sign_test(8, 2) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert sign_test(3, 3) == 1.0


@pytest.mark.full
def test_googles_weights_want_what_their_source_says(data):
    """Scaled to [-1, 1], RGB; imported as if they were timm's. `test_real_weights` tries every file."""
    from mobilenets.weights import import_file

    imported = import_file(
        data / "weights-float" / "tf_mobilenetv3_small_100.pt",
        padding="same",
        epsilon=1e-3,
        labels="imagenet",
        resolution=224,
    )
    folder = scan(data / "imagenet-500", purpose="evaluate")
    found = detect(imported.checkpoint, folder, pictures=100)
    assert found.decided
    assert found.aspects[0].chosen.name == "[-1, 1], RGB"
    assert found.best.padding == "same"
