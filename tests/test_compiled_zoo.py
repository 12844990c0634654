"""The compiled family against torch in float64 on photographs: how far it lies apart, in the documents.

Norms of random networks are measured first. `make test` takes a sample, `make test-all` all networks; with
MOBILENETS_REWRITE_DOCUMENTS=1 it writes the tables of docs/compiled.md row by row, when a row's bounds hold.
"""

import dataclasses
import os
import re
import shutil
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'mobilenets[train]'")

import torch

from mobilenets import zoo
from mobilenets.checkpoint import Checkpoint, Manifest
from mobilenets.compiler import translate
from mobilenets.compiler.toolchain import cached_library
from mobilenets.network import build, from_checkpoint, reestimate_norms, to_tensors
from mobilenets.pictures import load
from mobilenets.preprocessing import affine, for_channels, prepare
from mobilenets.runtime.shared_library import Library
from mobilenets.tolerances import agreement
from mobilenets.weights import import_file
from test_real_weights import REAL, file_name

if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
    pytest.skip("there is no C compiler here", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("own_cache")

DOCUMENT = Path(__file__).parent.parent / "docs" / "compiled.md"
CROPS = 8
SAMPLE = ("mobilenet_v3_small_050",)
FLOAT = [real for real in REAL if real.files[0].endswith(".pt")]


def variants():
    """Every network once, at odd resolutions, with odd numbers of classes, both paddings, 1, 3 or 4 channels.

    No picture has two channels; test_compiler.py has networks with two.
    """
    ways = zip(
        cycle((97, 65, 129, 225, 193)),
        cycle((11, 1001, 37)),
        cycle((3, 1, 4, 3, 1, 4, 3)),
        cycle(("symmetric", "same")),
    )
    for name, (resolution, classes, channels, padding) in zip(zoo.names(), ways, strict=False):
        spec = zoo.build(name, resolution=resolution, classes=classes, channels=channels)
        yield dataclasses.replace(spec, padding=padding)


def photographs(spec, n=CROPS):
    """Crops of scikit-learn's two sample photographs; channels beside three are mixtures of theirs."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    images = datasets.load_sample_images().images
    rng, side = np.random.default_rng(0), spec.resolution
    crops = []
    for index in range(n):
        image = images[index % len(images)]
        top, left = (int(rng.integers(0, size - side + 1)) for size in image.shape[:2])
        crop = image[top : top + side, left : left + side].astype(np.float64)
        mixture = rng.dirichlet(np.ones(3), spec.channels)
        crops.append(crop if spec.channels == 3 else crop @ mixture.T)
    return np.stack(crops).round().astype(np.uint8)


def planes(pixels, preprocessing):
    factor, offset = affine(preprocessing)
    return torch.from_numpy(pixels * factor.astype(np.float64) + offset).permute(0, 3, 1, 2)


def random_checkpoint(spec):
    """Random weights, with norms that were measured on other crops than those of the comparison."""
    network, preprocessing = build(spec, seed=1), for_channels(spec.channels, mean=0.45, std=0.25)
    reestimate_norms(network, [planes(photographs(spec, 24)[CROPS:], preprocessing).float()])
    labels = tuple(f"class {index}" for index in range(spec.classes))
    return Checkpoint(Manifest(spec, labels, preprocessing), to_tensors(network))


def in_float64(checkpoint, pixels):
    network = from_checkpoint(checkpoint).double()
    with torch.inference_mode():
        seen = planes(pixels, checkpoint.manifest.preprocessing)
        return np.concatenate([network(each[None]).numpy() for each in seen])


def compiled(checkpoint, pixels, precision="fp32"):
    program = translate(checkpoint, precision=precision, fp32_maps=True)
    library = Library(cached_library(program), threads=1)
    try:
        return library.run(pixels)
    finally:
        library.close()


def rows(name):
    """The rows of the table `name`, by their first cell."""
    match = pattern(name).search(DOCUMENT.read_text(encoding="utf-8"))
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in match[3].splitlines()]
    return {line[0]: line for line in lines}


def pattern(name):
    return re.compile(rf"(<!-- table: {name} -->\n)(\|[^\n]*\n\|[^\n]*\n)(.*?)(<!-- end -->)", re.DOTALL)


def hold(name, row, order, *, named):
    """`row`, whose first `named` cells are no figures, stands in the document, or is written there."""
    there = rows(name)
    if os.environ.get("MOBILENETS_REWRITE_DOCUMENTS"):
        there[row[0]] = row
        made = "".join(f"| {' | '.join(there[key])} |\n" for key in order if key in there)
        text = DOCUMENT.read_text(encoding="utf-8")
        text = pattern(name).sub(lambda match: match[1] + match[2] + made + match[4], text)
        DOCUMENT.write_text(text, encoding="utf-8")
    else:
        assert row[0] in there, "not in the documents yet: MOBILENETS_REWRITE_DOCUMENTS=1 measures it"
        assert there[row[0]][:named] == row[:named]


VARIANTS = list(variants())


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(spec, id=spec.name, marks=pytest.mark.slow if spec.name in SAMPLE else pytest.mark.full)
        for spec in VARIANTS
    ],
)
def test_a_network_computes_the_same(spec):
    checkpoint, pixels = random_checkpoint(spec), photographs(spec)
    found = agreement(in_float64(checkpoint, pixels).astype(np.float32), compiled(checkpoint, pixels))
    row = [
        f"`{spec.name}`",
        f"{spec.resolution} px, {spec.channels}, {spec.padding}, {spec.classes}",
        f"{found.relative:.1e} σ",
        f"{found.top1_agreement:.0%}",
    ]
    assert found.holds, found
    hold("random", row, [f"`{each.name}`" for each in VARIANTS], named=2)


@pytest.mark.full
@pytest.mark.parametrize("real", FLOAT, ids=file_name)
def test_real_weights_on_real_pictures(real, data):
    """fp32 against float64, and weights in bf16 against fp32: top-1 agrees on 99 of 100 pictures at least."""
    options = dict(zip(real.arguments[::2], real.arguments[1::2], strict=True))
    checkpoint = import_file(
        [data / file for file in real.files],
        padding=options["--padding"],
        mean=float(options["--mean"]),
        std=float(options["--std"]),
        epsilon=float(options["--eps"]),
        labels="imagenet",
    ).checkpoint
    contract, side = checkpoint.manifest.preprocessing, checkpoint.spec.resolution
    files = sorted((data / "imagenet-500").rglob("*.JPEG"))
    pixels = np.stack([prepare(load(file, exif=contract.exif), contract, side) for file in files])
    logits = compiled(checkpoint, pixels)
    exact = in_float64(checkpoint, pixels[::5])
    found = agreement(exact.astype(np.float32), logits[::5])
    assert found.holds, found
    rounded = compiled(checkpoint, pixels, "bf16")
    apart = rounded.argmax(axis=1) != logits.argmax(axis=1)
    best = np.sort(logits, axis=1)[apart]
    same = 1 - float(apart.mean())
    off = float(np.abs(rounded - logits).max() / logits.std())
    row = [f"`{real.name}`", f"{found.relative:.1e} σ", f"{same:.1%} of {len(pixels)}", f"{off:.2f} σ"]
    assert np.all(best[:, -1] - best[:, -2] <= 0.1 * logits.std()), (
        "but where two classes are as good as equal"
    )
    hold("real", row, [f"`{each.name}`" for each in FLOAT], named=1)
    assert same >= 0.99
