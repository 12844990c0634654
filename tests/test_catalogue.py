"""The table of published checkpoints: its form, its publishers' own words, and its command."""

import ast
import csv
import importlib.util
import json
import math
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import get_args

import pytest

from mobilenets import zoo
from mobilenets.cli import published as listing
from mobilenets.cli import run_command
from mobilenets.errors import UnknownName
from mobilenets.weights import cache, catalogue
from mobilenets.weights.catalogue import WEIGHTS, Publisher, find

ROWS = list(WEIGHTS.values())
EVERY = pytest.mark.parametrize("one", ROWS, ids=lambda one: one.name)


def of(source: Publisher) -> dict[str, catalogue.Published]:
    """A publisher's rows by its own names."""
    return {one.published_as: one for one in ROWS if one.source == source}


# --- the table ----------------------------------------------------------------------------------


def test_names_are_unique():
    text = (files("mobilenets") / "data" / "published_weights.csv").read_text(encoding="utf-8")
    names = [row["name"] for row in csv.DictReader(text.splitlines())]
    assert len(names) == len(set(names)) == len(WEIGHTS)
    assert len({one.published_as for one in ROWS}) == len({one.url for one in ROWS}) == len(ROWS)
    assert len({one.file for one in ROWS}) == len(ROWS)
    assert {one.source for one in ROWS} == set(get_args(Publisher))


@EVERY
def test_rows_are_well_formed(one: catalogue.Published):
    assert re.fullmatch(r"[a-z0-9_]+\.[a-z0-9_]+", one.name)
    assert re.fullmatch(r"https://[a-z.]+/\S+\.(safetensors|bin|pth|h5)", one.url)
    assert not one.hash or catalogue.HASH_SYNTAX.fullmatch(one.hash)
    assert not one.size or re.fullmatch(r"[\d.]+ (MB|MiB)", one.size)
    assert one.licence and one.trained_on and one.published_as
    assert (one.top1 is None) == (one.accuracy_source == "")
    assert one.top1 is None or 40 < one.top1 < 90
    assert one.top5 is None or (one.top1 is not None and one.top1 < one.top5 < 100)
    assert one.verified is False
    assert one.classes in (1000, 1001, 11221, 11821)
    assert (one.top1 is None) == (one.classes > 1001)
    assert one.source in catalogue.LICENCE_SOURCES and one.source in catalogue.PREPROCESSING_SOURCES


@EVERY
def test_networks_are_in_the_zoo(one: catalogue.Published):
    """Also: the size that a publisher prints is that of our network with so many classes."""
    spec = zoo.build(one.network, classes=one.classes)
    assert spec.name == one.network
    if limits := one.size_bytes():
        low, high = limits
        tensors = listing._megabytes(replace(one, size="")) * 1e6
        names_and_header = 0.012 * tensors + 150_000  # a name, a shape and a place for each of 300 tensors
        assert tensors < high and low < tensors + names_and_header, (tensors, limits)


@EVERY
def test_preprocessing_resizes_to_the_publishers_pixels(one: catalogue.Published):
    preprocessing = one.preprocessing
    assert round(one.resolution / preprocessing.crop_fraction) == one.resize >= one.resolution
    assert (preprocessing.mean, preprocessing.std) == (one.mean, one.std)
    assert preprocessing.mode == "RGB" and preprocessing.fit == "crop"


def test_sizes_mean_one_unit_of_their_last_digit():
    one = replace(ROWS[0], size="22.1 MB")
    assert one.size_bytes() == (22_000_000, 22_200_000)
    assert replace(one, size="13.555 MiB").size_bytes() == (round(13.554 * 2**20), round(13.556 * 2**20))
    assert replace(one, size="").size_bytes() is None


def test_unstated_is_not_permissive():
    assert {one.licence for one in ROWS if one.permissive} == {"Apache-2.0"}
    assert {one.licence for one in ROWS if not one.permissive} == {"unstated", "other"}


# --- publishers' own words ----------------------------------------------------------------------

OUT_OF_SCOPE = re.compile(r"_aa_|_blur_|\d\d\dd\.|_rw\.|100h\.|mobilenetv5")


@pytest.mark.slow
def test_every_checkpoint_of_timm_is_there_as_timm_describes_it(timm):
    from timm.models import get_pretrained_cfg

    theirs = {
        name for name in timm.list_models("*mobilenet*", pretrained=True) if not OUT_OF_SCOPE.search(name)
    }
    ours = of("timm")
    assert {f"timm/{name}" for name in theirs} == set(ours)
    for name in theirs:
        config, row = get_pretrained_cfg(name, allow_unregistered=False), ours[f"timm/{name}"]
        assert row.url == f"https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors"
        assert (row.mean, row.std, row.interpolation) == (config.mean, config.std, config.interpolation)
        assert (3, row.resolution, row.resolution) == config.input_size and config.crop_mode == "center"
        assert row.resize == math.floor(row.resolution / config.crop_pct)
        assert row.classes == config.num_classes
        assert row.licence.casefold() == config.license
        tag = name.partition(".")[2]
        assert row.name.endswith(f".tf_{tag}" if name.startswith("tf_") else f".{tag}")


def test_every_float_checkpoint_of_torchvision_is_there_as_it_describes_it(timm):
    del timm  # it brings torchvision, with the operators that a torch for the CPU lacks
    from torchvision.models import mobilenetv2, mobilenetv3

    theirs = {
        f"{enum.__name__}.{member.name}": member
        for enum in (
            mobilenetv2.MobileNet_V2_Weights,
            mobilenetv3.MobileNet_V3_Large_Weights,
            mobilenetv3.MobileNet_V3_Small_Weights,
        )
        for member in enum
    }
    ours = of("torchvision")
    assert set(ours) == set(theirs)
    for name, member in theirs.items():
        row, transform, scores = ours[name], member.transforms(), member.meta["_metrics"]["ImageNet-1K"]
        assert row.url == member.url and row.digits == Path(row.url).stem.rpartition("-")[2]
        assert (row.top1, row.top5) == (scores["acc@1"], scores["acc@5"])
        assert row.size == f"{member.meta['_file_size']} MiB"
        assert (transform.resize_size, transform.crop_size) == ([row.resize], [row.resolution])
        assert (tuple(transform.mean), tuple(transform.std)) == (row.mean, row.std)
        assert transform.interpolation.value == row.interpolation
        assert row.name.endswith(f".torchvision_{member.name.casefold()}")


def keras_source(name: str) -> str:
    found = importlib.util.find_spec("keras")
    if found is None or found.origin is None:
        pytest.skip("keras is not installed")
    return (Path(found.origin).parent / "src" / "applications" / name).read_text(encoding="utf-8")


def test_keras_v3_has_the_hashes_of_keras():
    text = keras_source("mobilenet_v3.py")
    hashes = ast.literal_eval(re.search(r"WEIGHTS_HASHES = (\{.*?^\})", text, re.DOTALL | re.MULTILINE)[1])
    ours = {key: row for key, row in of("keras").items() if "_v3_" in key}
    assert {key: row.hash for key, row in ours.items()} == {
        f"weights_mobilenet_v3_{key}.h5": f"md5:{with_top}" for key, (with_top, _) in hashes.items()
    }
    for key, row in ours.items():
        size, width = re.fullmatch(r"weights_mobilenet_v3_(\w+)_224_([\d.]+)_float.h5", key).groups()
        stated = re.search(rf"mobilenet_v3_{size}_{width}_224 +\|[^|]+\|[^|]+\| +([\d.]+) ", text)
        assert float(stated[1]) == row.top1


@pytest.mark.parametrize(
    ("file", "version", "widths"),
    [
        ("mobilenet.py", "v1", {0.25, 0.5, 0.75, 1.0}),
        ("mobilenet_v2.py", "v2", {0.35, 0.5, 0.75, 1.0, 1.3, 1.4}),
    ],
)
def test_keras_v1_and_v2_have_every_width_and_resolution(file: str, version: str, widths: set[float]):
    text = keras_source(file)
    resolutions = set(ast.literal_eval(re.search(r"rows not in (\[[\d, ]+\])", text)[1]))
    folder = re.search(r'BASE_WEIGHT_PATH = \(\s*"([^"]+)"', text)[1]
    rows = [row for row in of("keras").values() if row.network.startswith(f"mobilenet_{version}_")]
    assert all(row.url == folder + row.published_as for row in rows)
    found = {(zoo.parse(row.network)[1], row.resolution) for row in rows}
    assert found == {(width, side) for width in widths for side in resolutions if width <= 1 or side == 224}


# --- finding ------------------------------------------------------------------------------------


@EVERY
def test_a_checkpoint_is_found_by_our_name_and_by_its_publishers(one: catalogue.Published):
    assert find(one.name) is one and find(one.published_as) is one
    assert find(one.published_as.rpartition("/")[2]) is one
    assert catalogue.is_known(one.name) and one in catalogue.search(one.name.upper())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mobilenet_v3_large_100.ra_in1", "mobilenet_v3_large_100.ra_in1k"),
        ("mobilenetv3_large_100.ra", "mobilenet_v3_large_100.ra_in1k"),
        ("mobilenet_v1_100.keras_225", "mobilenet_v1_100.keras_224"),
        ("MobileNet_V2_Weights.IMAGENET1K_V3", "mobilenet_v2_100.torchvision_imagenet1k_v2"),
    ],
)
def test_a_wrong_name_brings_the_nearest(name: str, expected: str):
    with pytest.raises(UnknownName) as caught:
        find(name)
    assert expected in str(caught.value) and "mobilenets weights" in str(caught.value)
    assert caught.value.exit_code == 2 and not catalogue.is_known(name)


def test_a_network_without_a_tag_brings_all_of_its_tags():
    with pytest.raises(UnknownName) as caught:
        find("mobilenet_v3_small_100")
    tags = [one.name for one in ROWS if one.network == "mobilenet_v3_small_100"]
    assert len(tags) == 4 and all(name in str(caught.value) for name in tags)
    assert "v3_large" not in str(caught.value)


# --- mobilenets weights -------------------------------------------------------------------------


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path))
    return tmp_path


def printed(capsys: pytest.CaptureFixture, *words: str) -> str:
    assert run_command(["weights", *words]) == 0
    return capsys.readouterr().out


def test_weights_lists_everything(capsys: pytest.CaptureFixture, empty_cache: Path):
    out = printed(capsys)
    assert all(name in out for name in WEIGHTS)
    assert f"{len(WEIGHTS)} of {len(WEIGHTS)} checkpoints, 0 of them here" in out and str(empty_cache) in out


def test_weights_shows_what_is_in_the_cache(capsys: pytest.CaptureFixture, empty_cache: Path):
    one = find("mobilenet_v2_100.ra_in1k")
    cache.place(one).parent.mkdir(parents=True)
    cache.place(one).write_bytes(b"")
    lines = printed(capsys, "ra_in1k").splitlines()
    assert [line.split()[1] for line in lines if line.startswith("✓")] == [one.name]
    (row,) = (row for row in json.loads(printed(capsys, "ra_in1k", "--json")) if row["cached"])
    assert row["name"] == one.name and row["cached"] == str(cache.place(one))


@pytest.mark.usefixtures("empty_cache")
def test_weights_as_json(capsys: pytest.CaptureFixture):
    rows = {row["name"]: row for row in json.loads(printed(capsys, "--json"))}
    assert set(rows) == set(WEIGHTS)
    row = rows["mobilenet_v2_100.torchvision_imagenet1k_v2"]
    assert row["network"] == "mobilenet_v2_100" and row["top1"] == 72.154 and row["verified"] is False
    assert row["hash"] == "sha256:7ebf99e0" and row["licence"] == "unstated" and not row["permissive"]
    assert row["size_bytes"]["low"] < 13.598 * 2**20 < row["size_bytes"]["high"]
    assert row["preprocessing"]["crop_fraction"] == pytest.approx(224 / 232)


@pytest.mark.usefixtures("empty_cache")
def test_weights_by_licence(capsys: pytest.CaptureFixture):
    def names(*words: str) -> set[str]:
        return {row["name"] for row in json.loads(printed(capsys, *words, "--json"))}

    assert names("--licence", "permissive") == {one.name for one in ROWS if one.permissive}
    assert names("--licence", "APACHE-2.0") == names("--licence", "permissive")
    assert names("torchvision", "--licence", "permissive") == set()
    assert run_command(["weights", "--licence", "gpl"]) == 2
    assert "permissive, Apache-2.0" in capsys.readouterr().err


@pytest.mark.usefixtures("empty_cache")
def test_weights_of_nobody(capsys: pytest.CaptureFixture):
    assert run_command(["weights", "resnet"]) == 2
    assert "'resnet'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, 100, 120, 140, 200])
def test_weights_fit_the_terminal(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, empty_cache: Path, width: int
):
    del empty_cache
    monkeypatch.setattr(listing, "_width", lambda: width)
    table = printed(capsys).split("\n\n")[0].splitlines()
    assert max(map(len, table)) <= width
    heading = table[0].split()
    assert heading[0] == "name" and {"top-1", "licence", "size"} <= set(heading)
    assert ("source" in heading) == (width >= 100)
