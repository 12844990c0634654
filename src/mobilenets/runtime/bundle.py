"""A bundle: a folder that runs by itself. This module reads what `exporting` writes, without torch.

`manifest.json` is the checkpoint's manifest with one more key, `bundle`: the bundle's own version, the
format, the engine it was made for, the model file, and the SHA-256 of every other file. A model file
that is not the one that was compared with its source is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilenets.checkpoint import Manifest
from mobilenets.errors import CheckpointError, InputError, MobilenetsError
from mobilenets.files import read_json, sha256
from mobilenets.text import printable

BUNDLE_VERSION = 1
MANIFEST_FILE = "manifest.json"
CERTIFICATE_FILE = "certificate.json"
BUNDLE_KEY = "bundle"
"""The manifest's entry that makes it a bundle's."""
TRAINED_ON_FILE = "trained_on.txt"
"""What `Checkpoint.trained_on` holds, one a line; only where it holds anything."""
_EXPORT_AGAIN = "Export the model again: mobilenets export MODEL"


@dataclass(frozen=True)
class Bundle:
    """An exported model, with everything that is known about it."""

    folder: Path
    manifest: Manifest
    format: str
    """A key of `exporting.FORMATS`."""
    engine: str
    """The runtime that it was made for and compared in; a key of `runtime.ENGINES`."""
    model_file: Path
    hashes: Mapping[str, str]
    """SHA-256 of every file but the manifest, by its path in the folder with `/`."""
    trained_on: frozenset[str] = frozenset()
    """`checkpoint.digest` of the pictures that the model was trained on."""

    @property
    def certificate(self) -> dict[str, Any]:
        """What was compared with what, and how far apart it was."""
        value = read_json(self.folder / CERTIFICATE_FILE)
        if not isinstance(value, dict):
            raise InputError("is not a certificate.", file=self.folder / CERTIFICATE_FILE)
        return value


def bundle_json(bundle: Bundle) -> dict[str, Any]:
    """What the manifest of `bundle` holds; `read_bundle` gives it back."""
    own = {
        "version": BUNDLE_VERSION,
        "format": bundle.format,
        "engine": bundle.engine,
        "model_file": bundle.model_file.name,
        "sha256": dict(sorted(bundle.hashes.items())),
    }
    return {BUNDLE_KEY: own, **bundle.manifest.to_json()}


def is_bundle(path: str | Path) -> bool:
    """Whether `path` is a folder with a bundle's manifest, or a model file beside one."""
    return (_folder(Path(path)) / MANIFEST_FILE).is_file()


def read_bundle(path: str | Path) -> Bundle:
    """The bundle in the folder `path` (or around the model file `path`), its model file checked.

    Raises `CheckpointError` naming the file for a manifest that is missing, broken or newer, and for
    a model file that is missing or not the one that the manifest describes.
    """
    folder = _folder(Path(path))
    file = folder / MANIFEST_FILE
    try:
        bundle = _parse(folder, read_json(file))
    except CheckpointError as error:
        raise error.in_file(file) from error
    except MobilenetsError as error:
        raise CheckpointError(error.what, file=file, remedy=_EXPORT_AGAIN) from error
    _check_model(bundle)
    return bundle


def _folder(path: Path) -> Path:
    return path.parent if path.is_file() and path.suffix != ".safetensors" else path


def _parse(folder: Path, value: Any) -> Bundle:
    own = value.get(BUNDLE_KEY) if isinstance(value, dict) else None
    if not isinstance(own, dict) or not isinstance(own.get("version"), int):
        raise CheckpointError(
            f"is not a bundle's manifest: it has no '{BUNDLE_KEY}' entry with a version.",
            remedy=_EXPORT_AGAIN,
        )
    if own["version"] > BUNDLE_VERSION:
        raise CheckpointError(
            f"was written in bundle version {own['version']}; this program reads up to {BUNDLE_VERSION}.",
            remedy="Upgrade with: pip install -U mobilenets",
        )
    texts = {key: own.get(key) for key in ("format", "engine", "model_file")}
    for key, text in texts.items():
        if not isinstance(text, str) or not text:
            raise CheckpointError(f"its '{BUNDLE_KEY}' entry has no {key}.", remedy=_EXPORT_AGAIN)
    hashes, name = own.get("sha256"), str(texts["model_file"])
    if not isinstance(hashes, dict) or not isinstance(hashes.get(name), str):
        raise CheckpointError(f"it has no hash of '{printable(name)}'.", remedy=_EXPORT_AGAIN)
    if name in (".", "..") or "/" in name or "\\" in name:
        raise CheckpointError(f"its model file '{printable(name)}' is not a file name.", remedy=_EXPORT_AGAIN)
    return Bundle(
        folder=folder,
        manifest=Manifest.from_json(value),
        format=str(texts["format"]),
        engine=str(texts["engine"]),
        model_file=folder / name,
        hashes=hashes,
        trained_on=_trained_on(folder, hashes),
    )


def _trained_on(folder: Path, hashes: Mapping[str, str]) -> frozenset[str]:
    if TRAINED_ON_FILE not in hashes:
        return frozenset()
    file = folder / TRAINED_ON_FILE
    try:
        return frozenset(file.read_text(encoding="ascii").split())
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot be read ({error}).", file=file, remedy=_EXPORT_AGAIN) from error


def _check_model(bundle: Bundle) -> None:
    file = bundle.model_file
    try:
        found = sha256(file)
    except FileNotFoundError as error:
        raise CheckpointError(
            "the bundle's model file is missing.", file=file, remedy=_EXPORT_AGAIN
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror or error}).", file=file) from error
    if found != bundle.hashes[file.name]:
        raise CheckpointError(
            "is not the model that this bundle was checked with: its SHA-256 is "
            f"{found[:16]}…, the manifest says {bundle.hashes[file.name][:16]}….",
            file=file,
            remedy=f"The file was changed or damaged after the export. {_EXPORT_AGAIN}",
        )
