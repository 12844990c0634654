"""The compiler against torch in float64: what it makes of a network computes what the network computes."""

import dataclasses
import platform
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="torch is not installed: pip install 'mobilenets[train]'")

import torch

import numpy_reference
from calibrated import TINY, calibrated, with_manifest
from heard import Heard
from mobilenets import zoo
from mobilenets.checkpoint import Checkpoint, Manifest
from mobilenets.compiler import fetching, pairs, plan_of, planning, strips, targets, toolchain, translate
from mobilenets.compiler.emission import comment, text
from mobilenets.compiler.fetching import fetches
from mobilenets.compiler.folding import Convolution
from mobilenets.compiler.packing import (
    bits_of,
    pack_linear,
    pack_linear_upper,
    packed_floats,
    to_bf16,
    upper_halves,
    weights_bytes,
)
from mobilenets.compiler.steps import (
    REGISTERS,
    Convolve,
    Linear,
    Pair,
    PoolMap,
    Scale,
    ScaleWeights,
    Strip,
    kernels,
)
from mobilenets.compiler.targets import LIBRARY
from mobilenets.compiler.tiling import depthwise_pixels
from mobilenets.errors import CheckpointError, EnvironmentFault, InputError, UnknownName
from mobilenets.exporting import export
from mobilenets.network import from_checkpoint
from mobilenets.prediction import predict
from mobilenets.preprocessing import MODE_OF_CHANNELS, affine, for_channels
from mobilenets.runtime import open_session
from mobilenets.runtime.shared_library import Library
from mobilenets.spec import Block, Conv, Padding, SqueezeExcite, tensor_shapes
from mobilenets.tolerances import BF16_RELATIVE, LOGITS_RELATIVE, agreement
from spec_strategies import specs

if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
    pytest.skip("there is no C compiler here", allow_module_level=True)

HERE = {
    "avx512": "avx512f",
    "avx2": "avx2",
    "sse2": "sse2",
    "avx512_bf16": "avx512_bf16",
    "amx_bf16": "amx_bf16",
}
"""Code paths for x86, and the flag by which /proc/cpuinfo says that this processor has them."""


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module", autouse=True)
def _strips_of_small_maps():
    """The networks here have no map that would leave a cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "FAR", 0)
        yield


@pytest.fixture(scope="module")
def checkpoint():
    return calibrated()


@pytest.fixture(scope="module")
def library_here(checkpoint) -> Path:
    """The library of `checkpoint` for this machine."""
    return toolchain.cached_library(translate(checkpoint))


def processor_flags():
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return []


def pictures(spec, n=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, spec.resolution, spec.resolution, spec.channels), dtype=np.uint8)


def in_float64(checkpoint, pixels):
    factor, offset = affine(checkpoint.manifest.preprocessing)
    seen = torch.from_numpy(pixels.astype(np.float32) * factor + offset).double()
    with torch.inference_mode():
        return from_checkpoint(checkpoint).double()(seen.permute(0, 3, 1, 2)).numpy()


def run(*command, **how):
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False, **how)


def need(path):
    if path.name in HERE and HERE[path.name] not in processor_flags():
        pytest.skip(f"this processor has no {path.name}")


def built(checkpoint, folder, path, *flags, precision="fp32"):
    """A library of `checkpoint` with one code path, with the compiler's further `flags`."""
    compiler = toolchain.find_compiler()
    program = translate(checkpoint, precision=precision, fp32_maps=path not in BF16)
    toolchain.write_sources(program, [path], folder)
    return toolchain.compile_library(folder, [path], compiler, flags=flags)


def small(spec):
    """At the smallest odd resolution, where there is no even tile."""
    return dataclasses.replace(spec, resolution=65, classes=11)


NETWORKS = ["mobilenet_v3_small_100", "mobilenet_v4_conv_small_035"]
ALL = [
    "mobilenet_v1_025",
    "mobilenet_v2_035",
    "mobilenet_v3_large_minimalistic_100",
    "mobilenet_v1_100",
    "mobilenet_v2_140",
    "mobilenet_v3_large_100",
    "mobilenet_v4_conv_medium",
    "mobilenet_v4_hybrid_medium",
    "mobilenet_v4_hybrid_large",
    "mobilenet_edgetpu_100",
]


def close(checkpoint, pixels, logits):
    """Within 1e-4 of a standard deviation of the logits, and the same best class."""
    return agreement(in_float64(checkpoint, pixels).astype(np.float32), logits)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NETWORKS, *(pytest.param(name, marks=pytest.mark.full) for name in ALL)])
def test_networks_of_the_zoo_compute_the_same(name):
    checkpoint = calibrated(small(zoo.build(name)))
    pixels = pictures(checkpoint.spec, 4)
    found = close(checkpoint, pixels, open_session(checkpoint, engine="compiled", threads=1).run(pixels))
    assert found.holds, found


@pytest.mark.slow
@pytest.mark.parametrize("far", [0, 8 * 1024, 1 << 30])
def test_every_kind_of_op_computes_the_same(checkpoint, monkeypatch, far):
    monkeypatch.setattr(strips, "FAR", far)
    assert any(isinstance(step, Strip) for step in plan_of(checkpoint).steps) == (far < 1 << 30)
    pixels = pictures(checkpoint.spec, 16)
    found = close(checkpoint, pixels, Library(toolchain.cached_library(translate(checkpoint))).run(pixels))
    assert found.holds, found


@pytest.mark.parametrize("padding", get_args(Padding))
def test_the_numpy_reference_agrees_with_torch(checkpoint, padding):
    checkpoint = with_manifest(checkpoint, spec=dataclasses.replace(checkpoint.spec, padding=padding))
    pixels = pictures(checkpoint.spec, 4)
    expected = in_float64(checkpoint, pixels)
    apart = expected - expected.mean(axis=0)  # what the picture decides; the rest is the last bias
    found = numpy_reference.logits(checkpoint, pixels)
    assert np.abs(found - expected).max() <= 1e-9 * apart.std()


def with_telling_weights(spec):
    """A checkpoint in which every layer has a say in the logits, however `spec` came about.

    Weights keep the size of what passes through them (He et al. 2015); norms and layer scales are near 1.
    """
    rng = np.random.default_rng(0)

    def values(name, shape):
        if len(shape) > 1:
            return rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        if name.endswith((".bias", ".running_mean")):
            return rng.normal(0, 0.2, shape)
        return rng.uniform(0.5, 1.5, shape)

    tensors = {name: values(name, shape).astype(np.float32) for name, shape in tensor_shapes(spec).items()}
    labels = tuple(f"class {index}" for index in range(spec.classes))
    return Checkpoint(Manifest(spec, labels, for_channels(spec.channels, mean=0.45, std=0.25)), tensors)


def check_against_numpy(spec, far, precision, fp32_maps):
    checkpoint = with_telling_weights(spec)
    levels = np.array([0, 85, 170], np.uint8)  # a dark, a middling and a bright picture
    pixels = pictures(spec, 3) // np.uint8(3) + levels[:, None, None, None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "FAR", far)
        patch.setattr(planning, "FEW", 0)
        program = translate(checkpoint, precision=precision, fp32_maps=fp32_maps)
        library = Library(toolchain.cached_library(program), threads=2)
    expected = numpy_reference.logits(checkpoint, pixels)
    # Beside the project's bound there is what rounding alone leaves where logits are nearly all the same, in
    # multiples of the last sum's terms, which are about 1 or as large as the largest logit: attention adds up
    # thousands of values of a map, and where a ReLU made them equal, each addition rounds the same way. In
    # bf16 every value is off by up to 2^-8. The worst of 400 networks came to a third of the bound.
    rounding = 2e-5 if precision == "fp32" else 0.03
    bound = LOGITS_RELATIVE * expected.std() + rounding * max(1.0, np.abs(expected).max())
    assert np.abs(library.run(pixels) - expected).max() <= bound


ANY_NETWORK = given(
    spec=specs(wide=True).filter(lambda spec: spec.channels in MODE_OF_CHANNELS),
    far=st.sampled_from([0, 2048, 1 << 30]),
    precision=st.sampled_from(["fp32", "bf16"]),
    fp32_maps=st.sampled_from([True, HERE["avx512_bf16"] not in processor_flags()]),
)
UNHURRIED = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.mark.slow
@settings(max_examples=4, suppress_health_check=UNHURRIED)
@ANY_NETWORK
def test_any_legal_network_computes_the_same(**case):
    check_against_numpy(**case)


@pytest.mark.slow
@pytest.mark.full
@settings(max_examples=40, suppress_health_check=UNHURRIED)
@ANY_NETWORK
def test_many_legal_networks_compute_the_same(**case):
    check_against_numpy(**case)


@pytest.mark.slow
@pytest.mark.parametrize("last", [(), (SqueezeExcite(4),)], ids=["convolution", "gate"])
def test_a_shortcut_may_start_at_the_picture(last):
    """The picture lies in memory without the gaps that a map of few channels has."""
    first = Block((Conv("mix", 1, 3), *last), stage=0, residual=True)
    checkpoint = calibrated(dataclasses.replace(TINY, blocks=(first, *TINY.blocks), resolution=33))
    pixels = pictures(checkpoint.spec, 4)
    found = close(checkpoint, pixels, open_session(checkpoint, engine="compiled").run(pixels))
    assert found.holds, found


@pytest.mark.parametrize(
    "tensor, value",
    [
        ("blocks.0.conv.norm.running_var", -1.0),
        ("blocks.0.conv.norm.running_var", -1e-3),
        ("classifier.bias", np.nan),
    ],
)
def test_weights_that_are_no_numbers_when_folded_are_refused(checkpoint, tensor, value):
    """The larger of NaN and 0 is 0: the logits would be plausible."""
    tensors = {name: array.copy() for name, array in checkpoint.tensors.items()}
    tensors[tensor][0] = value
    broken = dataclasses.replace(checkpoint, tensors=tensors)
    with pytest.raises(CheckpointError, match=tensor.removesuffix(".norm.running_var").removesuffix(".bias")):
        translate(broken)


# --- every path ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library_of(checkpoint, tmp_path_factory):
    """Libraries with one path each, built when first asked for."""
    known = {}

    def library(path):
        if path.name not in known:
            known[path.name] = built(checkpoint, tmp_path_factory.mktemp(path.name), path)
        return known[path.name]

    return library


ONE_EACH = [targets.AVX512, targets.AVX2, targets.SSE2, targets.SCALAR]


@pytest.mark.slow
@pytest.mark.parametrize("path", ONE_EACH, ids=lambda path: path.name)
def test_every_path_computes_the_same(checkpoint, library_of, path):
    need(path)
    library = Library(library_of(path), threads=1)
    assert library.path == path.name
    pixels = pictures(checkpoint.spec, 4)
    found = close(checkpoint, pixels, library.run(pixels))
    assert found.holds, found


def inverted(expansion, kernel, out, stride=1, *between, residual=False):
    ops = (
        Conv("expand", 1, expansion, 1, "hard_swish"),
        Conv("depthwise", kernel, expansion, stride, "relu6", depthwise=True),
        *between,
        Conv("project", 1, out),
    )
    return Block(ops, stage=1, residual=residual)


def check_that_threads_share_each_picture(library, pixels, logits):
    """And that the bits are those of one thread."""
    for threads in (2, 5):
        for each, expected in zip(pixels, logits, strict=True):
            np.testing.assert_array_equal(Library(library, threads=threads).run(each[None])[0], expected)


UNEVEN = dataclasses.replace(
    TINY,
    blocks=(
        Block((Conv("conv", 3, 16, 2, "relu"),), stage=0),
        inverted(72, 3, 24),
        inverted(120, 5, 24, residual=True),
        inverted(88, 3, 40, 2, SqueezeExcite(24)),
        inverted(200, 5, 40, residual=True),
        Block((Conv("start", 3, 40, 1, depthwise=True), *inverted(136, 3, 56, 2).ops), stage=2),
        inverted(64, 1, 24, 2),  # of 4 rows and columns it reads every second
        inverted(64, 3, 24),
    ),
    resolution=32,
)
"""Pairs, and widths that end in half a block of channels."""


@pytest.mark.slow
@pytest.mark.parametrize("path", ONE_EACH, ids=lambda path: path.name)
def test_half_blocks_compute_the_same_on_every_path(tmp_path, path):
    need(path)
    checkpoint = calibrated(UNEVEN)
    pixels = pictures(UNEVEN, 4)
    logits = Library(built(checkpoint, tmp_path, path), threads=1).run(pixels)
    assert close(checkpoint, pixels, logits).holds


MIXED = dataclasses.replace(
    TINY,
    blocks=(*TINY.blocks, Block((Conv("mix", 21, 1, activation="hard_swish"), SqueezeExcite(7)), stage=9)),
    classes=37,
)
"""Linear layers whose outputs fill no block, or not all of the blocks that share words."""

GATED = dataclasses.replace(
    TINY,
    blocks=(
        Block((Conv("conv", 3, 16, 2, "relu"),), stage=0),
        inverted(72, 3, 24, 1, SqueezeExcite(24)),  # half a block of outputs
        inverted(23, 5, 32, 1, SqueezeExcite(8)),  # an odd number of inputs
        inverted(120, 3, 100, 1, SqueezeExcite(32)),  # a last panel that is narrower
        inverted(48, 5, 64, 2, SqueezeExcite(16)),  # no fewer weights than values
    ),
    resolution=32,
)
"""Gates over maps with more values than the weights behind them, and one with as many."""


@pytest.mark.slow
@pytest.mark.parametrize("path", ONE_EACH, ids=lambda path: path.name)
def test_gates_may_multiply_weights(tmp_path, monkeypatch, path):
    need(path)
    monkeypatch.setattr(strips, "FAR", 1 << 30)
    checkpoint = calibrated(GATED)
    kinds = [type(step) for step in plan_of(checkpoint).steps if isinstance(step, Scale | ScaleWeights)]
    assert kinds == [ScaleWeights, ScaleWeights, ScaleWeights, Scale]
    pixels = pictures(GATED, 4)
    library = built(checkpoint, tmp_path, path)
    logits = Library(library, threads=1).run(pixels)
    assert close(checkpoint, pixels, logits).holds
    check_that_threads_share_each_picture(library, pixels, logits)


def test_a_depthwise_convolution_adds_up_what_is_pooled():
    """Its map is not read again for the means."""
    steps = plan_of(GATED).steps
    pools = [step for step in steps if isinstance(step, PoolMap)]
    assert [pool.reads[0].columns for pool in pools] == [1, 1, 1, 1, 8]
    assert [pool.pixels for pool in pools] == [256, 256, 256, 64, 64]


@pytest.mark.slow
@pytest.mark.parametrize("far", [0, 1 << 30])
@pytest.mark.parametrize("near", [0, 8 * 1024, 64 * 1024])
def test_pairs_compute_the_same(monkeypatch, near, far):
    """However much of the map between them is held, within a strip and alone, by any number of threads."""
    monkeypatch.setattr(strips, "FAR", far)
    monkeypatch.setattr(pairs, "NEAR", near)
    checkpoint = calibrated(UNEVEN)
    found = [step for step in plan_of(checkpoint).steps if isinstance(step, Pair)]
    assert (len(found) == 7) == (far > 0)
    assert far == 0 or any(pair.whole for pair in found) == (near > 0)
    pixels = pictures(UNEVEN, 3)
    library = toolchain.cached_library(translate(checkpoint))
    logits = Library(library, threads=1).run(pixels)
    assert close(checkpoint, pixels, logits).holds
    check_that_threads_share_each_picture(library, pixels, logits)


def test_a_pair_holds_one_panel_of_the_map_between():
    plan = plan_of(zoo.build("mobilenet_v2_100"))
    late = [step for step in plan.steps if isinstance(step, Pair) and step.writes.rows == 7]
    assert late
    for pair in late:
        assert pair.between.channels == pair.convolve.panel < pair.convolve.writes.channels
        assert id(pair.convolve.writes) not in plan.places


@pytest.mark.slow
def test_a_portable_library_has_all_paths_and_takes_the_best(checkpoint, tmp_path):
    compiler = toolchain.find_compiler("x86-64")
    paths = toolchain.code_paths(compiler)
    toolchain.write_sources(translate(checkpoint), paths, tmp_path)
    library = Library(toolchain.compile_library(tmp_path, paths, compiler), threads=1)
    assert library.path == next(name for name, flag in HERE.items() if flag in processor_flags())


@pytest.mark.slow
def test_a_library_for_another_processor_says_so(checkpoint, tmp_path):
    foreign = targets.CodePath("never", ("-O0", "-DVECTOR=1"), "0")
    with pytest.raises(EnvironmentFault, match="instructions that this processor does not have"):
        Library(built(checkpoint, tmp_path, foreign))


def test_multiply_adds_are_fused(library_of):
    """gcc's plain -std=c11 splits them, at half the speed."""
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not here")
    listing = run("objdump", "-d", str(library_of(targets.AVX2))).stdout
    assert listing.count("vfmadd") > listing.count("vaddps")


# --- bf16 ------------------------------------------------------------------------------------------

BF16 = [targets.AMX_BF16, targets.AVX512_BF16]
"""Those that multiply it; elsewhere maps are fp32, and weights alone bf16."""


@pytest.mark.slow
@pytest.mark.parametrize("path", BF16, ids=lambda path: path.name)
@pytest.mark.parametrize("far", [0, 1 << 30])
def test_every_kind_of_op_in_bf16(checkpoint, tmp_path, monkeypatch, path, far):
    """Sums are fp32, so what differs is rounding: 2⁻⁹ in each layer, where a wrong channel is far more."""
    need(path)
    monkeypatch.setattr(strips, "FAR", far)
    library = Library(built(checkpoint, tmp_path, path, precision="bf16"), threads=1)
    assert library.path == path.name
    pixels = pictures(checkpoint.spec, 16)
    expected = in_float64(checkpoint, pixels)
    apart = expected - expected.mean(axis=0)  # what the picture decides; the rest is the last bias
    logits = library.run(pixels)
    assert np.abs(logits - expected).max() <= 0.05 * apart.std()
    np.testing.assert_array_equal(Library(tmp_path / LIBRARY, threads=3).run(pixels), logits)


WIDE = dataclasses.replace(
    TINY,
    blocks=(
        Block((Conv("stem", 3, 64, 2, "relu"),), stage=0),
        Block((Conv("grouped", 3, 128, 2, "relu6", groups=2), Conv("project", 1, 80)), stage=1),
        Block((Conv("full", 3, 80, 1, "hard_swish"), Conv("mix", 1, 80)), stage=1, residual=True),
        Block((Conv("depthwise", 5, 80, 2, "relu", depthwise=True), SqueezeExcite(40)), stage=2),
    ),
    resolution=75,
)
"""Several blocks of channels in and out, groups of whole blocks, rows that tiles do not divide."""


@pytest.mark.slow
@pytest.mark.parametrize("path", BF16, ids=lambda path: path.name)
def test_wide_maps_in_bf16(tmp_path, path):
    need(path)
    checkpoint = calibrated(WIDE)
    brightness = np.linspace(0.1, 1.0, 16)[:, None, None, None]  # else pictures of noise answer alike
    pixels = (pictures(WIDE, 16) * brightness).astype(np.uint8)
    expected = in_float64(checkpoint, pixels)
    logits = Library(built(checkpoint, tmp_path, path, precision="bf16"), threads=1).run(pixels)
    assert np.abs(logits - expected).max() <= 0.15 * (expected - expected.mean(axis=0)).std()
    np.testing.assert_array_equal(Library(tmp_path / LIBRARY, threads=3).run(pixels), logits)


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec", [TINY, WIDE, UNEVEN, GATED, MIXED], ids=["tiny", "wide", "uneven", "gated", "mixed"]
)
@pytest.mark.parametrize("far", [0, 1 << 30])
def test_weights_in_bf16_are_the_same_on_every_path(tmp_path, monkeypatch, spec, far):
    """Maps are fp32: paths compute the same, and what differs from float64 is that weights are rounded."""
    monkeypatch.setattr(strips, "FAR", far)
    monkeypatch.setattr(planning, "FEW", 0)
    checkpoint = calibrated(spec)
    steps = plan_of(checkpoint, precision="bf16", fp32_maps=True).steps
    if spec is GATED and far:
        assert sum(isinstance(step, ScaleWeights) for step in steps) == 3
    brightness = np.linspace(0.1, 1.0, 16)[:, None, None, None]
    pixels = (pictures(spec, 16) * brightness).astype(np.uint8)
    expected, logits = in_float64(checkpoint, pixels), {}
    for path in ONE_EACH:
        if path.name in HERE and HERE[path.name] not in processor_flags():
            continue
        file = built(checkpoint, tmp_path / path.name, path, precision="bf16")
        logits[path.name] = Library(file, threads=1).run(pixels)
        np.testing.assert_array_equal(Library(file, threads=3).run(pixels), logits[path.name])
    apart = (expected - expected.mean(axis=0)).std()  # what the picture decides; the rest is the last bias
    assert 1e-5 * apart < np.abs(logits["scalar"] - expected).max() <= 0.15 * apart
    for name, each in logits.items():
        assert np.abs(each - logits["scalar"]).max() <= 1e-4 * apart, name


@pytest.mark.full
@pytest.mark.parametrize("fp32_maps", [False, True])
def test_a_network_in_bf16(fp32_maps):
    """Attention with several heads and blocks."""
    need(targets.SSE2 if fp32_maps else targets.AVX512_BF16)
    checkpoint = calibrated(small(zoo.build("mobilenet_v4_hybrid_medium")))
    pixels = pictures(checkpoint.spec, 8)
    program = translate(checkpoint, precision="bf16", fp32_maps=fp32_maps)
    library = Library(toolchain.cached_library(program), threads=2)
    expected, logits = in_float64(checkpoint, pixels), library.run(pixels)
    assert np.corrcoef(expected.ravel(), logits.ravel())[0, 1] > 0.99
    assert agreement(expected.astype(np.float32), logits, BF16_RELATIVE).holds


@pytest.mark.slow
@pytest.mark.parametrize("multiplies", [False, True])
def test_a_bundle_in_bf16_says_so(checkpoint, tmp_path, monkeypatch, multiplies):
    """And where products of it are no faster, that weights alone are."""
    need(targets.AVX512_BF16 if multiplies else targets.SSE2)
    monkeypatch.setattr("mobilenets.exporting.c.multiplies_bf16", lambda compiler: multiplies)
    monkeypatch.setattr(planning, "FEW", 0)
    heard = Heard()
    bundle = export(checkpoint, "c", out=tmp_path / "bundle", precision="bf16", progress=heard)
    assert any("this processor has no faster products of bf16" in line for line in heard.lines) != multiplies
    assert bundle.certificate["candidate"]["precision"] == "bf16"
    assert bundle.certificate["comparison"]["tolerance"] == BF16_RELATIVE
    assert bundle.certificate["comparison"]["relative"] > 1e-5
    assert (bundle.folder / "c" / "kernels_bf16.h").exists() == multiplies


@pytest.mark.parametrize(
    "target, defined, vendor, has",
    [
        ("native", {"__AVX512F__"}, "AuthenticAMD", False),
        ("native", {"__AVX512BF16__"}, "AuthenticAMD", True),
        ("native", {"__AVX512BF16__"}, "GenuineIntel", False),
        ("native", {"__AVX512BF16__", "__AMX_BF16__"}, "GenuineIntel", sys.platform == "linux"),
        ("x86-64", set(), "", False),
        ("x86-64-v4", set(), "", True),  # for servers
        ("x86-64-v3", set(), "", False),
        ("scalar", set(), "", False),
        ("aarch64-linux", set(), "", False),
    ],
)
def test_which_libraries_multiply_bf16(monkeypatch, target, defined, vendor, has):
    if targets.TARGETS["native"].paths_bf16 == () and target == "native":
        pytest.skip("here bf16 is not for this kind of processor")
    monkeypatch.setattr(toolchain.Compiler, "macros", lambda self, flags: frozenset(defined))
    monkeypatch.setattr(toolchain, "instructions", lambda: f"vendor_id: {vendor}")
    compiler = toolchain.Compiler(("cc",), "", targets.find_target(target))
    assert toolchain.multiplies_bf16(compiler) == has


def test_a_convolution_of_few_weights_keeps_them_in_fp32():
    """Beside maps in fp32: they are few, and count as much as any other's."""
    steps = plan_of(zoo.build("mobilenet_v2_100"), precision="bf16", fp32_maps=True).kernels
    convolutions = [step for step in steps if isinstance(step, Convolve)]
    fp32 = [step.own.weight.size for step in convolutions if step.in_twos == 1]
    bf16 = [step.own.weight.size for step in convolutions if step.in_twos == 2]
    assert max(fp32) <= planning.FEW < min(bf16)
    assert sum(fp32) < 0.04 * sum(bf16)


def test_precisions_that_there_are_not(checkpoint, tmp_path):
    with pytest.raises(InputError, match="fp32 alone"):
        export(checkpoint, "onnx", out=tmp_path / "bundle", precision="bf16")
    with pytest.raises(UnknownName, match="fp16"):
        export(checkpoint, "c", out=tmp_path / "bundle", precision="fp16")
    assert not list(tmp_path.iterdir())


def test_values_are_rounded_to_the_nearest_bf16():
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-7, 1 + 2**-8 + 2**-20, 0.1, -3e38, 1e-39, 0.0])
    rounded = torch.from_numpy(values.astype(np.float32)).to(torch.bfloat16).float().numpy()
    rounded[7] = 0.0  # the processor's products take such for 0 as well
    np.testing.assert_array_equal((to_bf16(values).astype(np.uint32) << 16).view(np.float32), rounded)


@given(
    st.lists(st.integers(-(2**31) + 2**17, 2**31 - 2**17), min_size=1, max_size=40),
    st.integers(0, 2**16 - 1),
)
def test_numbers_are_rounded_with_their_neighbours_for_lower_halves(words, before):
    halves = upper_halves(np.array(words), before)
    below = np.array([before, *halves[:-1].astype(int)])
    read = (halves.astype(np.int16).astype(int) << 16) + below
    assert np.abs(read - words).max() <= 2**15


def test_a_run_of_zeros_is_rounded_in_a_moment():
    """Each one follows from the one before it: here none can be known before that is."""
    halves = upper_halves(np.zeros(20_000, np.int64), 0x8001).astype(np.int16)
    assert set(halves) == {-1}


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=40), st.integers(0, 2**16 - 1))
def test_weights_in_bf16_are_the_nearest_with_their_neighbours_below(values, before):
    halves = upper_halves(bits_of(np.array(values)), before).astype(np.uint32)
    read = (halves << 16 | np.array([before, *halves[:-1]], np.uint32)).view(np.float32)
    assert (np.abs(read - values) <= np.maximum(np.abs(values) * 2.0**-8, 2.0**-99)).all()
    assert (np.abs(read) >= 2.0**-126).all()  # none slows products


def of_three_blocks(inputs):
    """Weights of a linear layer with outputs of many sizes in each block."""
    rng = np.random.default_rng(inputs)
    sizes = np.resize([0.1, 1e-3, 30.0, 0.0, 1e-42], 37)[:, None]
    weight = rng.normal(0, sizes, (37, inputs))
    weight[::4, 0] = -abs(weight[::4]).max(axis=1)  # its most negative number is also its largest
    return weight


@pytest.mark.parametrize("inputs", [1, 4, 23])
def test_weights_of_a_linear_layer_keep_24_bits(inputs):
    weight = of_three_blocks(inputs)
    words, units = pack_linear(Convolution("", weight[:, :, None, None], np.zeros(37)), 3)
    three = words.reshape(inputs, 3, 16)
    lowest = three & 255
    fourth = (lowest[:, 0] << 24 | lowest[:, 1] << 16 | lowest[:, 2] << 8).astype(np.int32)[:, None]
    read = (
        np.concatenate([three, fourth], axis=1).reshape(inputs, 64).astype(np.float32)
    )  # as the kernel does
    assert not read[:, 48:].any()
    found = (read[:, :48] * units).T[:37]
    largest = abs(weight).max(axis=1, keepdims=True)
    assert (abs(found - weight) <= np.maximum(largest * 2.0**-23.5, 2.0**-117)).all()


def test_a_weight_that_is_far_larger_than_the_others_has_24_bits():
    wide = Block((Conv("wide", 3, 400, 2, "relu6"),), stage=0)
    spec = dataclasses.replace(TINY, blocks=(wide,), head=())
    checkpoint = calibrated(spec)
    outlier = checkpoint.tensors["classifier.weight"].copy()
    outlier[3, 7] = 40 * abs(outlier[3]).max()
    larger = dataclasses.replace(checkpoint, tensors={**checkpoint.tensors, "classifier.weight": outlier})
    last = [plan_of(each).steps[-1] for each in (checkpoint, larger)]
    assert [step.words for step in last] == [2, 3]
    pixels = pictures(spec, 4)
    for each in (checkpoint, larger):
        assert close(each, pixels, Library(toolchain.cached_library(translate(each))).run(pixels)).holds


@pytest.mark.parametrize("inputs", [1, 4, 23])
def test_weights_of_a_linear_layer_keep_21_bits(inputs):
    weight = of_three_blocks(inputs)
    words, units = pack_linear(Convolution("", weight[:, :, None, None], np.zeros(37)), 2)
    first, second = words.reshape(inputs, 2, 16).swapaxes(0, 1)
    third = (first << 21 | (second << 11 & 0x1FF800)).astype(np.int32)
    read = (
        np.stack([first, second, third], axis=1).reshape(inputs, 48).astype(np.float32)
    )  # as the kernel does
    found = (read * units).T[:37]
    largest = abs(weight).max(axis=1, keepdims=True)
    assert (abs(found - weight) <= np.maximum(largest * 2.0**-20.9, 2.0**-115)).all()


@pytest.mark.parametrize("inputs", [1, 4, 23])
def test_weights_of_a_linear_layer_keep_16_bits(inputs):
    weight = of_three_blocks(inputs)
    words, units = pack_linear_upper(Convolution("", weight[:, :, None, None], np.zeros(37)))
    halves = upper_halves(words, 0)
    read = halves.astype(np.int16).astype(float) * 65536 + [0, *halves[:-1]]  # as the kernel does
    blocks = read.reshape(2, inputs, 16, 2).transpose(1, 0, 3, 2).reshape(inputs, 64)
    found = (blocks[:, :48] * units).T[:37]
    largest = abs(weight).max(axis=1, keepdims=True)
    assert (abs(found - weight) <= np.maximum(largest * 2.0**-15.9, 2.0**-109)).all()


@pytest.mark.slow
@pytest.mark.parametrize("path", ONE_EACH, ids=lambda path: path.name)
def test_linear_layers_of_any_width(tmp_path, path):
    need(path)
    checkpoint, spec = calibrated(MIXED), MIXED
    layers = [step for step in plan_of(checkpoint).steps if isinstance(step, Linear)]
    assert {step.places is None for step in layers} == {True, False}
    pixels = pictures(spec, 4)
    found = close(checkpoint, pixels, Library(built(checkpoint, tmp_path, path)).run(pixels))
    assert found.holds, found


# --- the same, always ------------------------------------------------------------------------------


@pytest.mark.slow
def test_networks_on_several_threads_give_the_same_bits(monkeypatch):
    """Of a real size: shares by width, of rows, and of panels' rows; `tests/test_shares.py` says which."""
    monkeypatch.setattr(strips, "FAR", 400 * 1024)
    checkpoint = calibrated(zoo.build("mobilenet_v3_large_100"))
    pixels = pictures(checkpoint.spec, 1)
    library = toolchain.cached_library(translate(checkpoint))
    once = Library(library, threads=1).run(pixels)
    for threads in (2, 3, 4, 7, 32):
        np.testing.assert_array_equal(Library(library, threads=threads).run(pixels), once)


def test_threads_and_runs_give_the_same_bits(checkpoint):
    pixels = pictures(checkpoint.spec, 6)
    once = open_session(checkpoint, engine="compiled", threads=1).run(pixels)
    for threads in (1, 2, 3, 7, 40):  # at most 32 share a picture
        session = open_session(checkpoint, engine="compiled", threads=threads)
        for _ in range(3):
            np.testing.assert_array_equal(session.run(pixels), once)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_batches_shared_by_picture_give_the_same_bits(checkpoint, library_here, threads):
    """Fewer pictures than threads, as many, more, with and without a rest."""
    library, alone = Library(library_here, threads), Library(library_here, 1)
    for n in (1, 2, 3, 5, 8, 1):
        pixels = pictures(checkpoint.spec, n, seed=n)
        np.testing.assert_array_equal(library.run(pixels), alone.run(pixels))


def test_memory_for_batches_is_taken_when_one_comes(checkpoint, library_here):
    before, library = set(threading.enumerate()), Library(library_here, 3)
    library.run(pictures(checkpoint.spec, 2))
    assert set(threading.enumerate()) == before
    library.run(pictures(checkpoint.spec, 3))
    assert 1 <= len(set(threading.enumerate()) - before) <= 2  # one may have done the work of two
    library.close()
    assert set(threading.enumerate()) == before


def test_a_closed_library_runs_no_more(checkpoint, library_here):
    for n in (1, 4):
        library = Library(library_here, 2)
        library.run(pictures(checkpoint.spec, n))
        library.close()
        library.close()
        with pytest.raises(ValueError, match="closed"):
            library.run(pictures(checkpoint.spec, n))


def test_a_stopped_batch_leaves_nobody_at_work(checkpoint, library_here, monkeypatch):
    """Ctrl-C reaches the first thread alone; the next batch is right."""
    library, pixels = Library(library_here, 2), pictures(checkpoint.spec, 8)
    expected = library.run(pixels)
    run = library._functions.model_run

    def stopped(memory, *rest):
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return run(memory, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(library._functions, "model_run", stopped)
        with pytest.raises(KeyboardInterrupt):
            library.run(pixels)
    np.testing.assert_array_equal(library.run(pixels), expected)


def test_sessions_run_side_by_side(checkpoint):
    pixels = pictures(checkpoint.spec, 8)
    expected = open_session(checkpoint, engine="compiled", threads=1).run(pixels)
    results = {}

    def work(index):
        session = open_session(checkpoint, engine="compiled", threads=2)
        results[index] = [session.run(pixels) for _ in range(5)]

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == len(workers)
    for result in results.values():
        for logits in result:
            np.testing.assert_array_equal(logits, expected)


def test_threads_may_share_a_session(checkpoint):
    """Their calls take turns: batches of one picture, of some, and of as many as there are threads."""
    session = open_session(checkpoint, engine="compiled", threads=2)
    batches = [pictures(checkpoint.spec, n, seed=n) for n in (1, 2, 3, 5)]
    expected = [session.run(batch) for batch in batches]

    def work(index):
        return [session.run(batches[index]) for _ in range(40)]

    with ThreadPoolExecutor(len(batches)) as pool:
        for found, logits in zip(pool.map(work, range(len(batches))), expected, strict=True):
            for each in found:
                np.testing.assert_array_equal(each, logits)


# --- nothing outside its memory --------------------------------------------------------------------

GUARDED = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "model.h"

int main(void) {
    enum { GUARD = 4096 };
    for (int shift = 0; shift < 3; shift++) {
        const size_t bytes = MODEL_BYTES(1 + shift);
        unsigned char *memory = malloc(bytes + shift);      /* exactly: the sanitizer guards its ends */
        uint8_t *pixels = malloc(MODEL_PIXELS);
        float *logits = malloc(MODEL_CLASSES * sizeof(float));
        memset(memory, 0xff, bytes + shift);                  /* NaN everywhere */
        for (int i = 0; i < MODEL_PIXELS; i++)
            pixels[i] = (uint8_t)rand();
        if (model_run(memory + shift, pixels, logits) != MODEL_NOT_OPEN) return 1;
        if (model_open(memory + shift, bytes - 1, 1 + shift) != MODEL_TOO_SMALL) return 2;
        if (model_open(memory + shift, bytes, 0) != MODEL_WRONG_THREADS) return 3;
        if (model_open(memory + shift, bytes, 1 + shift) != MODEL_OK) return 4;
        for (int run = 0; run < 3; run++)
            if (model_run(memory + shift, pixels, logits) != MODEL_OK) return 5;
        for (int i = 0; i < MODEL_CLASSES; i++)
            if (!(logits[i] - logits[i] == 0)) return 6;
        model_close(memory + shift);
        for (int i = 1; i <= GUARD; i++)                      /* room behind the rings, not used */
            if (memory[bytes + shift - i] != 0xff) return 8;
        if (model_run(memory + shift, pixels, logits) != MODEL_NOT_OPEN) return 7;
        free(memory), free(pixels), free(logits);
    }
    printf("%s\\n", model_labels[0]);
    return 0;
}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "path, precision, spec, far",
    [
        (targets.AVX2, "fp32", "TINY", 0),
        (targets.SCALAR, "fp32", "TINY", 0),
        (targets.AVX2, "bf16", "TINY", 0),
        (targets.SCALAR, "bf16", "TINY", 0),
        (targets.AVX512_BF16, "bf16", "TINY", 0),
        (targets.AVX512, "fp32", "TINY", 0),
        (targets.AVX512, "fp32", "UNEVEN", 0),
        (targets.AVX512, "fp32", "UNEVEN", 1 << 30),
        (targets.AVX512, "bf16", "UNEVEN", 1 << 30),
        (targets.AVX512, "fp32", "GATED", 1 << 30),
        (targets.AVX512, "bf16", "GATED", 1 << 30),
        (targets.AVX2, "fp32", "UNEVEN", 1 << 30),
    ],
    ids=lambda each: str(getattr(each, "name", each)),
)
def test_sanitizers_find_nothing(tmp_path, monkeypatch, path, precision, spec, far):
    """AddressSanitizer and UndefinedBehaviorSanitizer, memory of exactly the size asked for, odd shapes."""
    need(path)
    monkeypatch.setattr(planning, "FEW", 0)
    monkeypatch.setattr(fetching, "_LEAST", 0)
    monkeypatch.setattr(strips, "FAR", far)
    spec = {"TINY": dataclasses.replace(TINY, resolution=37), "UNEVEN": UNEVEN, "GATED": GATED}[spec]
    odd = '"\\n??/é*/'
    checkpoint = calibrated(spec, labels=(odd, *"bcde"))
    compiler = toolchain.find_compiler()
    program = translate(checkpoint, precision=precision, fp32_maps=path not in BF16)
    tiny_maps = spec.name == TINY.name and path in BF16
    assert ("later_of(run" in program.files["network.c"]) != tiny_maps
    toolchain.write_sources(program, [path], tmp_path)
    (tmp_path / "guarded.c").write_text(GUARDED)
    sources = ["network.c", "model.c", "labels.c", "weights.c", "guarded.c"]
    flags = ["-std=gnu11", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = [*compiler.command, *flags, *path.flags, f"-DNETWORK=network_{path.name}", *sources]
    made = run(*command, "-lm", "-pthread", "-o", "guarded", cwd=tmp_path)
    if "asan" in made.stderr and made.returncode:
        pytest.skip("the compiler has no sanitizers here")
    assert made.returncode == 0, made.stderr
    done = run(str(tmp_path / "guarded"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{odd}\n"


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize(
    "path, precision, far",
    [
        (targets.SCALAR, "fp32", 0),
        (targets.SSE2, "fp32", 0),
        (targets.AVX2, "bf16", 0),
        (targets.AVX2, "bf16", 1 << 30),
        (targets.AVX512, "fp32", 0),
        (targets.AVX512, "fp32", 1 << 30),
        (targets.AVX512, "bf16", 0),
        (targets.AMX_BF16, "bf16", 0),
        (targets.AMX_BF16, "bf16", 1 << 30),
    ],
    ids=lambda each: str(getattr(each, "name", each)),
)
def test_it_compiles_without_a_warning(checkpoint, tmp_path, monkeypatch, compiler, path, precision, far):
    """Also where everything is in strips, and where convolutions fetch weights."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not here")
    if path is not targets.SCALAR and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("this machine's compilers are for another processor")
    monkeypatch.setattr(planning, "FEW", 0)
    monkeypatch.setattr(fetching, "_LEAST", 0)
    monkeypatch.setattr(strips, "FAR", far)
    checkpoint = calibrated(UNEVEN) if far else checkpoint
    program = translate(checkpoint, precision=precision, fp32_maps=path not in BF16)
    assert ("later_of(run" in program.files["network.c"]) == (far > 0 or path not in BF16)
    toolchain.write_sources(program, [path], tmp_path)
    shutil.copy(Path(toolchain.__file__).parent / "c" / "main.c", tmp_path)
    flags = (*toolchain.FLAGS, *toolchain.WARNINGS, "-Werror", *path.flags, f"-DNETWORK=network_{path.name}")
    for source in ("network.c", "model.c", "labels.c", "weights.c", "main.c"):
        done = run(compiler, *flags, "-c", source, "-o", "unit.o", cwd=tmp_path)
        assert done.returncode == 0, done.stderr


# --- the plan --------------------------------------------------------------------------------------


def test_maps_that_are_alive_together_do_not_overlap(checkpoint):
    plan = plan_of(checkpoint)
    maps = {id(at): at for step in plan.steps for at in (*step.reads, step.writes)}
    places = [(place, maps[key].floats) for key, place in plan.places.items()]
    for i, (one, size) in enumerate(places):
        assert one.offset % 16 == 0
        assert one.offset + size <= plan.arena_floats
        for other, other_size in places[:i]:
            together = one.first <= other.last and other.first <= one.last
            apart = one.offset + size <= other.offset or other.offset + other_size <= one.offset
            assert apart or not together


def test_shapes_are_enough_to_know_the_memory(checkpoint, monkeypatch):
    plan, same = plan_of(checkpoint), plan_of(checkpoint.spec)
    assert (same.arena_bytes, same.ring_bytes) == (plan.arena_bytes, plan.ring_bytes)
    assert [step.title for step in same.steps] == [step.title for step in plan.steps]
    assert weights_bytes(same) == translate(checkpoint).weights.nbytes
    monkeypatch.setattr(planning, "FEW", 0)
    for how in ({}, {"fp32_maps": True}):
        in_bf16 = plan_of(checkpoint.spec, precision="bf16", **how)
        assert weights_bytes(in_bf16) == translate(checkpoint, precision="bf16", **how).weights.nbytes


@pytest.mark.parametrize("name", ["mobilenet_v1_100", "mobilenet_v3_large_100", "mobilenet_v4_conv_medium"])
def test_what_is_fetched_is_wanted_later_and_fetched_once(name):
    plan = plan_of(zoo.build(name))
    found, total = fetches(plan), sum(packed_floats(step) for step in plan.kernels)
    begin = before = fetched = 0
    for step in plan.steps:
        after = begin + sum(packed_floats(kernel) for kernel in kernels(step))
        convolve = step.convolve if isinstance(step, Pair) else step
        if id(convolve) in found:
            fetch = found[id(convolve)]
            end = fetch.first + 16 * fetch.lines * convolve.panels
            slack = 16 * convolve.panels  # every panel fetches whole lines
            assert max(begin, before) <= fetch.first < end <= total + slack, step.title
            assert end - slack <= after + 2**18  # more would not stay in the cache
            before = end - slack
            fetched += end - fetch.first
        begin = after
    heads = sum(packed_floats(step) for step in plan.steps[-2:])
    assert fetched >= 0.9 * (total - heads)  # which are too large for it


@pytest.mark.parametrize(
    "columns, kernel, stride, pixels",
    [(56, 3, 1, 8), (56, 3, 2, 8), (28, 5, 2, 7), (28, 5, 1, 14), (15, 3, 1, 8), (7, 3, 1, 7), (7, 5, 1, 7)],
)
def test_depthwise_tiles_leave_room_for_their_line(columns, kernel, stride, pixels):
    """With AVX-512, as `depthwise_tile` in c/kernels.h wants it, but for a 5 × 5 kernel of stride 1."""
    found = depthwise_pixels(columns, kernel, stride)[0]
    assert found == pixels
    line = (found - 1) * stride + kernel
    held = found + line < REGISTERS["avx512"].registers
    assert held == ((kernel, stride) != (5, 1) or found < 14)


@pytest.mark.parametrize("name", ["mobilenet_v2_100", "mobilenet_v3_large_100", "mobilenet_v4_hybrid_medium"])
def test_tiles_fit_the_registers(name):
    plan = plan_of(zoo.build(name))
    for step in plan.kernels:
        if isinstance(step, Convolve):
            for tile, kind in zip(step.tiles, REGISTERS.values(), strict=True):
                sums = tile.pixels * tile.tall * tile.vectors
                assert sums <= kind.sums
                if tile.pixels > 1:  # the weights of a channel, a pixel, and what a curve needs
                    assert sums + tile.vectors + 1 <= kind.registers
                    assert step.activation != "hard_swish" or sums + 6 <= kind.registers
                assert step.panel % 16 == 0


# --- the bundle ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory):
    return export(checkpoint, "c", out=tmp_path_factory.mktemp("compiled") / "bundle")


@pytest.mark.slow
def test_a_bundle_runs_its_own_library(bundle, checkpoint):
    assert bundle.certificate["comparison"]["relative"] <= 1e-4
    assert bundle.certificate["versions"]["cc"]
    session = open_session(bundle.folder)
    assert session.engine == "compiled"
    pixels = pictures(checkpoint.spec)
    assert close(checkpoint, pixels, session.run(pixels)).holds


@pytest.mark.slow
def test_a_bundle_predicts_without_torch_and_without_a_compiler(bundle):
    program = (
        "import sys, mobilenets; "
        "found = mobilenets.predict(sys.argv[1], [sys.argv[2]]); "
        "assert 'torch' not in sys.modules; print(found[0].label)"
    )
    picture = next((bundle.folder / "golden").glob("*.png"))
    done = run(sys.executable, "-c", program, str(bundle.folder), str(picture), env={"PATH": ""})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == predict(bundle.folder, [picture])[0].label


@pytest.mark.slow
def test_its_source_builds_with_cmake_and_classifies_a_picture(bundle, checkpoint, tmp_path):
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not here")
    for command in (
        ["cmake", str(bundle.folder / "c"), "-DCMAKE_BUILD_TYPE=Release"],
        ["cmake", "--build", "."],
    ):
        done = run(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    pixels = pictures(checkpoint.spec, 1)
    side = checkpoint.spec.resolution
    (tmp_path / "picture.ppm").write_bytes(b"P6 %d %d 255\n" % (side, side) + pixels.tobytes())
    done = run("./main", "picture.ppm", cwd=tmp_path)
    best = int(in_float64(checkpoint, pixels)[0].argmax())
    assert done.stdout.startswith(f"class {best} (class {best}, logit ")
    wrong = run("./main", "CMakeCache.txt", cwd=tmp_path)
    assert wrong.returncode == 2
    assert f"{side} x {side}" in wrong.stderr


# --- what can go wrong -----------------------------------------------------------------------------


def test_without_a_compiler_it_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match="no C compiler") as caught:
        toolchain.find_compiler(environment={})
    assert "apt install gcc" in str(caught.value)
    assert "mobilenets[compile]" in str(caught.value)
    for named in ("nothing-such", "'gcc"):
        with pytest.raises(EnvironmentFault, match=rf"{named}.*\$CC names, does not run"):
            toolchain.find_compiler(environment={"CC": named})


def test_a_failing_compiler_is_quoted(checkpoint, tmp_path):
    compiler = toolchain.find_compiler()
    path = targets.SSE2
    toolchain.write_sources(translate(checkpoint), [path], tmp_path)
    (tmp_path / "kernels.h").write_text("#error it is broken\n")
    with pytest.raises(EnvironmentFault, match="it is broken"):
        toolchain.compile_library(tmp_path, [path], compiler)


def test_a_file_that_is_no_library_is_refused(tmp_path):
    (tmp_path / "libmodel.so").write_bytes(b"not a library")
    with pytest.raises(CheckpointError, match=r"libmodel\.so"):
        Library(tmp_path / "libmodel.so")
    (tmp_path / "empty.c").write_text("int nothing;\n")
    command = [*toolchain.find_compiler().command, "-shared", "-fPIC", "empty.c", "-o", "empty.so"]
    subprocess.run(command, cwd=tmp_path, check=True)
    with pytest.raises(CheckpointError, match="no compiled model"):
        Library(tmp_path / "empty.so")


@pytest.mark.parametrize("value", ['"', "\\", "??/", "é", "\n", "*/", "a" * 300, "\x00"])
def test_names_cannot_leave_their_place(value):
    assert "*/" not in comment(value)
    assert "\n" not in comment(value)
    literal = text(value)
    assert literal.isascii()
    assert eval(f"b{literal}").decode() == value  # octal escapes are Python's as well as C's
