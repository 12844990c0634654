"""What lies in a bundle beside the model: manifest, certificate, labels, golden logits, programs, texts."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenets import __version__, machine
from mobilenets.checkpoint import Checkpoint
from mobilenets.compiler.toolchain import find_compiler
from mobilenets.exporting import card
from mobilenets.exporting.formats import Format, Options
from mobilenets.files import sha256, write_bytes, write_json, write_text
from mobilenets.runtime.bundle import CERTIFICATE_FILE, MANIFEST_FILE, TRAINED_ON_FILE, Bundle, bundle_json
from mobilenets.text import printable
from mobilenets.tolerances import Agreement

SUPPORT = "support"
SUPPORTING = ("errors", "preprocessing", "text", "tolerances")
"""Modules of ours that a bundle's programs use: the very same source, in a package of another name."""
_PROGRAMS = ("predict.py", "selftest.py")
_ENGINE = "engine.py"
"""What opens the model file for both: there is one for each format."""


@dataclass(frozen=True)
class Proof:
    """The golden pictures and what was found on them."""

    files: Sequence[Path]
    pixels: NDArray[np.uint8]
    """What the network sees of them: N×S×S×C."""
    logits: NDArray[np.float32]
    """What the source model gives for them: N×classes."""
    found: Agreement
    taken: int
    """How many of them come from the user's folder."""


def versions(format: str, target: str = "native") -> dict[str, str]:
    """Versions of what a conversion to `format` goes through."""
    converters = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "c": ()}[format]
    found = {name: metadata.version(name) for name in ("torch", *converters, "numpy", "pillow")}
    return found | ({"cc": find_compiler(target).version} if format == "c" else {})


def standalone(module: str) -> str:
    """The source of one of our own modules, importing its neighbours from the bundle's package."""
    path = f"{module.replace('.', '/')}.py"
    source = resources.files("mobilenets").joinpath(path).read_text(encoding="utf-8")
    return source.replace("from mobilenets.", f"from {SUPPORT}.")


def unproven(folder: Path, checkpoint: Checkpoint, format: str, engine: str, model_file: str) -> Bundle:
    """The bundle in the making, with nothing but its model file and what it was trained on."""
    files = [model_file]
    if checkpoint.trained_on:
        files.append(TRAINED_ON_FILE)
        digests = sorted(checkpoint.trained_on)
        write_text(folder / TRAINED_ON_FILE, "".join(f"{digest}\n" for digest in digests))
    return Bundle(
        folder=folder,
        manifest=checkpoint.manifest,
        format=format,
        engine=engine,
        model_file=folder / model_file,
        hashes={name: sha256(folder / name) for name in files},
        trained_on=checkpoint.trained_on,
    )


def write(
    bundle: Bundle,
    checkpoint: Checkpoint,
    proof: Proof,
    format: Format,
    asked: Options,
    *,
    source_file: Path | None,
) -> None:
    """Everything but the model and the pictures, the manifest with all hashes last."""
    folder, manifest = bundle.folder, bundle.manifest
    now = datetime.now(UTC)
    certificate = _certificate(bundle, checkpoint, proof, source_file, now)
    certificate["versions"] = {"mobilenets": __version__, **versions(bundle.format, asked.target)}
    if bundle.format == "c":
        certificate["candidate"] |= {"target": asked.target, "precision": asked.precision}
    certificate["candidate"]["ran"] = format.runs_here(asked)
    write_json(folder / CERTIFICATE_FILE, certificate)
    write_json(folder / "golden.json", _golden_json(folder, proof))
    write_json(folder / "labels.json", list(manifest.labels))
    write_text(folder / "labels.txt", "".join(f"{printable(label)}\n" for label in manifest.labels))
    if format.has_python(asked):
        _write_programs(folder, format, certificate["versions"])
    write_text(
        folder / "README.md",
        card.readme(manifest, certificate, format.parts(asked), python=format.has_python(asked)),
    )
    write_text(folder / "LICENSES.txt", card.licences(manifest, taken=proof.taken, year=now.year))
    hashes = {
        path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*") if path.is_file()
    }
    write_json(folder / MANIFEST_FILE, bundle_json(dataclasses.replace(bundle, hashes=hashes)))


def _write_programs(folder: Path, format: Format, versions: Mapping[str, str]) -> None:
    """The example program, the self-test, and what both need."""
    examples = resources.files("mobilenets.exporting").joinpath("example")
    for source in (
        *(examples.joinpath(name) for name in _PROGRAMS),
        examples.joinpath(format.program, _ENGINE),
    ):
        write_bytes(folder / source.name, source.read_bytes())
    for module in (*SUPPORTING, *format.support):
        write_text(folder / SUPPORT / f"{module.rpartition('.')[2]}.py", standalone(module))
    used = {
        name: version
        for name, version in versions.items()
        if any(need.startswith(f"{name}>") for need in format.needs)
    }
    write_text(folder / "requirements.txt", card.requirements(format.needs, used))


def _golden_json(folder: Path, proof: Proof) -> dict[str, Any]:
    pictures = [
        {
            "file": file.relative_to(folder).as_posix(),
            "sha256": sha256(file),
            "pixels_sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
            # The shortest decimals that give the same fp32 back, a third of what a double's need.
            "logits": [float(str(value)) for value in row],
        }
        for file, pixels, row in zip(proof.files, proof.pixels, proof.logits, strict=True)
    ]
    return {
        "what": "logits of the fp32 source model in torch, and the SHA-256 of the uint8 pixels it saw",
        "pictures": pictures,
    }


def _certificate(
    bundle: Bundle, checkpoint: Checkpoint, proof: Proof, source_file: Path | None, now: datetime
) -> dict[str, Any]:
    found, model_file = proof.found, bundle.model_file.name
    return {
        "verdict": "passed" if found.holds else "failed",
        "comparison": {
            "max_difference": found.max_difference,
            "reference_std": found.reference_std,
            "relative": found.relative,
            "tolerance": found.tolerance,
            "rule": "max |logit - reference logit| <= tolerance * standard deviation of the reference "
            "logits, and the same best class on every picture where rounding cannot decide it",
            "top1_agreement": found.top1_agreement,
            "pictures": found.n,
            "pictures_taken": proof.taken,
            "batches": [1, found.n],
        },
        "reference": {
            "engine": "torch",
            "checkpoint_sha256": None if source_file is None else sha256(source_file),
            "weights_sha256": _weights_sha256(checkpoint),
        },
        "candidate": {
            "engine": bundle.engine,
            "model_file": model_file,
            "sha256": bundle.hashes[model_file],
        },
        "machine": machine.describe(),
        "date": now.isoformat(timespec="seconds"),
    }


def _weights_sha256(checkpoint: Checkpoint) -> str:
    """A hash of the tensors themselves, which a checkpoint in memory has as well."""
    running = hashlib.sha256()
    for name, array in checkpoint.tensors.items():
        running.update(name.encode())
        running.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
    return running.hexdigest()
