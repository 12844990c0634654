"""One checkpoint as every engine of a benchmark wants it: converted, but neither proven nor described.

ONNX, LiteRT and ncnn files are kept in the cache, since a conversion takes a minute.
"""

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch

from mobilenets import __version__
from mobilenets.benchmark.engines import ENGINES
from mobilenets.benchmark.rounds import Candidate, LeftOut
from mobilenets.checkpoint import MODEL_FILE, Checkpoint, Manifest
from mobilenets.compiler import translate
from mobilenets.compiler.targets import LIBRARY
from mobilenets.compiler.toolchain import cached_library, find_compiler, multiplies_bf16
from mobilenets.errors import EnvironmentFault, InputError, MissingExtra, MobilenetsError
from mobilenets.exporting.c import SOURCES
from mobilenets.exporting.contents import unproven
from mobilenets.exporting.litert import write_litert
from mobilenets.exporting.ncnn import write_ncnn
from mobilenets.exporting.onnx import OPSETS, write_onnx
from mobilenets.files import caches, replacing_folder, write_json
from mobilenets.network import build, reestimate_norms, to_tensors
from mobilenets.preprocessing import for_channels
from mobilenets.progress import SILENT, Progress
from mobilenets.runtime.bundle import MANIFEST_FILE, Bundle, bundle_json
from mobilenets.spec import Spec


def with_random_weights(spec: Spec) -> Checkpoint:
    """`spec` with the papers' random weights and numbered classes.

    Its norms are measured on noise: with norms that change nothing, a deep network's maps shrink to
    numbers that some engines are slow with.
    """
    labels = tuple(f"class {index}" for index in range(spec.classes))
    network = build(spec)
    noise = torch.Generator().manual_seed(0)
    pictures = torch.randn(2, spec.channels, spec.resolution, spec.resolution, generator=noise)
    reestimate_norms(network, [pictures])
    return Checkpoint(Manifest(spec, labels, for_channels(spec.channels)), to_tensors(network))


class Package(NamedTuple):
    """What an engine needs to be installed."""

    module: str
    name: str
    extra: str


PACKAGES = {
    "onnxruntime": Package("onnxruntime", "onnxruntime", "onnx"),
    "openvino": Package("openvino", "openvino", "openvino"),
    "litert": Package("ai_edge_litert", "ai-edge-litert", "litert"),
    "ncnn": Package("ncnn", "ncnn", "ncnn"),
}


class Conversion(NamedTuple):
    """How a checkpoint becomes a file that is kept."""

    model_file: str
    engine: str
    write: Callable[[Checkpoint, Path], None]
    converters: tuple[str, ...]
    """Distributions whose versions decide what comes out."""


CONVERSIONS = {
    "onnx": Conversion(
        "model.onnx",
        "onnxruntime",
        lambda checkpoint, path: write_onnx(checkpoint, path, OPSETS[0]),
        ("torch", "onnxscript"),
    ),
    "litert": Conversion("model.tflite", "litert", write_litert, ("torch", "litert-torch")),
    "ncnn": Conversion("model.param", "ncnn", write_ncnn, ("torch", "pnnx")),
}
FORMATS = {"onnxruntime": "onnx", "openvino": "onnx", "litert": "litert", "ncnn": "ncnn"}
"""Engine → the key of `CONVERSIONS` that it runs."""


def prepare(
    model: Checkpoint | Bundle,
    engines: Sequence[str],
    folder: Path,
    *,
    precision: str = "fp32",
    progress: Progress = SILENT,
) -> tuple[list[Candidate], list[LeftOut]]:
    """`model` for each of `engines`, and who cannot run it in `precision`; what is not kept goes into
    `folder`.
    """
    candidates, left_out = [], []
    for engine in engines:
        try:
            _check_precision(engine, precision)
            _check_installed(engine)
            if isinstance(model, Bundle):
                candidates.append(_as_it_is(model, engine, precision))
            else:
                candidates.append(_converted(model, engine, folder, precision, progress))
        except MobilenetsError as error:
            left_out.append(LeftOut(engine, str(error).replace("\n", " ")))
    return candidates, left_out


def reference(model: Checkpoint | Bundle, candidates: Sequence[Candidate], folder: Path) -> Candidate | None:
    """Whose fp32 logits are the measure of other precisions: torch's, or for a bundle the first engine's."""
    if isinstance(model, Bundle):
        return candidates[0] if candidates else None
    return _saved(model, "torch-channels-last", folder)


def _check_precision(engine: str, precision: str) -> None:
    if precision not in ENGINES[engine].precisions:
        raise InputError(f"it computes in {', '.join(ENGINES[engine].precisions)} alone here.")


def _check_installed(engine: str) -> None:
    if engine in PACKAGES:
        package = PACKAGES[engine]
        if importlib.util.find_spec(package.module) is None or not _distributed(package.name):
            raise MissingExtra("it", package.extra, package.name)


def _distributed(name: str) -> bool:
    """Whether pip knows the package `name`, of which a benchmark says version and size."""
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _as_it_is(bundle: Bundle, engine: str, precision: str) -> Candidate:
    if engine != bundle.engine and FORMATS.get(engine) != bundle.format:
        raise InputError(f"the bundle is for {bundle.engine} and holds no checkpoint to convert.")
    if bundle.engine == "compiled":
        compiled_in = bundle.certificate["candidate"].get("precision", "fp32")
        if precision != compiled_in:
            raise InputError(f"the bundle's library computes in {compiled_in}: --precision {compiled_in}.")
    return Candidate(engine, bundle.folder, bundle.model_file.stat().st_size)


def _converted(
    checkpoint: Checkpoint, engine: str, folder: Path, precision: str, progress: Progress
) -> Candidate:
    if engine in FORMATS:
        return _kept(checkpoint, engine, progress)
    if engine == "compiled":
        fp32_maps = not multiplies_bf16(find_compiler())
        program = translate(checkpoint, precision=precision, fp32_maps=fp32_maps)
        library = cached_library(program, progress=progress)
        model = folder / "compiled"
        model.mkdir()
        shutil.copyfile(library, model / LIBRARY)
        (model / SOURCES).mkdir()
        shutil.copyfile(library.with_name("model.h"), model / SOURCES / "model.h")
        _describe(checkpoint, model, "c", engine, LIBRARY)
        return Candidate(engine, model, library.stat().st_size)
    return _saved(checkpoint, engine, folder)


def _saved(checkpoint: Checkpoint, engine: str, folder: Path) -> Candidate:
    file = checkpoint.save(folder / MODEL_FILE)
    return Candidate(engine, file, file.stat().st_size)


def _kept(checkpoint: Checkpoint, engine: str, progress: Progress) -> Candidate:
    form = FORMATS[engine]
    conversion = CONVERSIONS[form]
    kept = caches() / "converted" / f"{_key(checkpoint, conversion)}-{form}"
    if not (kept / MANIFEST_FILE).is_file():
        progress.say(f"Converting {checkpoint.spec.name} for {engine}, which can take some minutes …")
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(kept) as building:
            conversion.write(checkpoint, building / conversion.model_file)
            _describe(checkpoint, building, form, conversion.engine, conversion.model_file)
    stem = Path(conversion.model_file).stem
    return Candidate(engine, kept, sum(file.stat().st_size for file in kept.glob(f"{stem}.*")))


def _describe(checkpoint: Checkpoint, folder: Path, form: str, engine: str, model_file: str) -> None:
    write_json(folder / MANIFEST_FILE, bundle_json(unproven(folder, checkpoint, form, engine, model_file)))


def _key(checkpoint: Checkpoint, conversion: Conversion) -> str:
    try:
        versions = [__version__, *map(metadata.version, conversion.converters)]
    except metadata.PackageNotFoundError as error:
        raise EnvironmentFault(
            f"the converter '{error.name}' is not installed.",
            remedy=f"Install it with: pip install 'mobilenets[train,{PACKAGES[conversion.engine].extra}]'",
        ) from error
    described = [versions, checkpoint.manifest.to_json(), sorted(checkpoint.trained_on)]
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for array in checkpoint.tensors.values():
        key.update(array.tobytes())
    return key.hexdigest()[:32]
