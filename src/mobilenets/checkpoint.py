"""One self-describing `.safetensors` file: tensors under our names, and a manifest that says what it is.

The manifest is JSON under the metadata key `mobilenets`. Nothing here executes what a file holds:
no pickle is opened. Format versions that were ever released keep loading; a newer one is refused.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mobilenets import spec as specs
from mobilenets.errors import CheckpointError, MobilenetsError
from mobilenets.files import write_bytes
from mobilenets.preprocessing import Preprocessing
from mobilenets.spec import Spec
from mobilenets.text import command_line, printable

FORMAT_VERSION = 1
METADATA_KEY = "mobilenets"
MODEL_FILE = "model.safetensors"
"""The checkpoint's name inside a run folder."""
_DIGEST_BYTES = 8


@dataclass(frozen=True)
class Manifest:
    """What a model file says it is; the same in a checkpoint and in a bundle."""

    spec: Spec
    labels: tuple[str, ...]
    """Class names in the order of the logits, all different."""
    preprocessing: Preprocessing
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Scores as JSON: name → {value, low, high, n}."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where it comes from: tool and version, date, command, recipe, data, parent model's hash."""
    licence: str = "unstated"
    """Licence of the weights, as an SPDX expression or in words."""

    def __post_init__(self) -> None:
        if len(self.labels) != self.spec.classes:
            raise CheckpointError(f"has {len(self.labels)} labels for {self.spec.classes} classes.")
        if len(set(self.labels)) != len(self.labels):
            twice = next(label for label in self.labels if self.labels.count(label) > 1)
            raise CheckpointError(f"names the class '{printable(twice)}' twice; labels must differ.")
        if self.preprocessing.channels != self.spec.channels:
            raise CheckpointError(
                f"its network takes {self.spec.channels} channels, "
                f"its preprocessing gives {self.preprocessing.channels} ({self.preprocessing.mode})."
            )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` gives back an equal manifest."""
        return {
            "format_version": FORMAT_VERSION,
            "spec": specs.to_json(self.spec),
            "labels": list(self.labels),
            "preprocessing": self.preprocessing.to_json(),
            "metrics": dict(self.metrics),
            "provenance": dict(self.provenance),
            "licence": self.licence,
        }

    @staticmethod
    def from_json(value: Any) -> "Manifest":
        """What `to_json` wrote, in any released format version; `CheckpointError` otherwise."""
        if not isinstance(value, dict) or not isinstance(value.get("format_version"), int):
            raise CheckpointError("its manifest has no format version.")
        version = value["format_version"]
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"was written in format version {version}; this program reads up to {FORMAT_VERSION}.",
                remedy="Upgrade with: pip install -U mobilenets",
            )
        for name, kind in (("labels", list), ("metrics", dict), ("provenance", dict), ("licence", str)):
            if not isinstance(value.get(name), kind):
                raise CheckpointError(f"its manifest is incomplete: no {kind.__name__} under '{name}'.")
        try:
            return Manifest(
                spec=specs.from_json(value["spec"]),
                labels=tuple(str(label) for label in value["labels"]),
                preprocessing=Preprocessing.from_json(value["preprocessing"]),
                metrics=value["metrics"],
                provenance=value["provenance"],
                licence=value["licence"],
            )
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"its manifest is incomplete ({error!r}).") from error
        except CheckpointError:
            raise
        except MobilenetsError as error:
            raise CheckpointError(f"its manifest is wrong: {error.what}") from error


@dataclass(frozen=True)
class Checkpoint:
    """A manifest and the fp32 tensors that `spec.tensor_shapes` names, in that order."""

    manifest: Manifest
    tensors: Mapping[str, NDArray[np.float32]]
    trained_on: frozenset[str] = frozenset()
    """The first 16 hexadecimal digits of the SHA-256 of every picture that was trained on."""

    def __post_init__(self) -> None:
        _check_tensors(self.manifest.spec, {name: array.shape for name, array in self.tensors.items()})

    @property
    def spec(self) -> Spec:
        """The network."""
        return self.manifest.spec

    def save(self, path: str | Path) -> Path:
        """Write to `path` (`.safetensors`), whole or not at all."""
        path = Path(path)
        manifest = self.manifest.to_json()
        if self.trained_on:
            manifest["trained_on"] = "".join(sorted(self.trained_on))
        # One key: safetensors writes several in random order, and equal runs give equal files.
        metadata = {METADATA_KEY: json.dumps(manifest)}
        ordered = {
            name: np.ascontiguousarray(self.tensors[name], dtype=np.float32)
            for name in specs.tensor_shapes(self.spec)
        }
        write_bytes(path, save(ordered, metadata))
        return path


def digest(sha256: str) -> str:
    """The part of a picture's SHA-256 that a checkpoint remembers it by."""
    return sha256[: 2 * _DIGEST_BYTES]


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint, or the one in a run folder.

    Raises `CheckpointError` naming the file for a missing, truncated, foreign or newer file, for a
    pickle, and where the tensors are not those that the manifest's network has.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / MODEL_FILE).exists() and (path / "manifest.json").exists():
            raise CheckpointError(
                "is a bundle: it can be run, but not trained, converted or exported again.",
                file=path,
                remedy="Use the checkpoint or the run folder that it was made from.",
            )
        path = path / MODEL_FILE
    try:
        return _read(path)
    except MobilenetsError as error:
        raise error.in_file(path) from error


def _read(path: Path) -> Checkpoint:
    _refuse_foreign(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if METADATA_KEY not in metadata:
                raise CheckpointError(
                    "is a safetensors file, but not one of ours: it has no manifest.",
                    remedy=f"To convert it: {command_line(['import', str(path), '-o', 'model.safetensors'])}",
                )
            value = _json(metadata[METADATA_KEY])
            manifest = Manifest.from_json(value)
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _check_tensors(manifest.spec, found)
            tensors = {name: file.get_tensor(name) for name in specs.tensor_shapes(manifest.spec)}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot be read: it is truncated or damaged ({error}).") from error
    for name, array in tensors.items():
        if array.dtype != np.float32:
            raise CheckpointError(f"tensor '{name}' is {array.dtype}; a checkpoint holds float32.")
        if not np.isfinite(array).all():
            raise CheckpointError(f"tensor '{name}' holds values that are no numbers (NaN or infinity).")
    remembered = value.get("trained_on", "")
    if not isinstance(remembered, str):
        raise CheckpointError("its manifest has no text under 'trained_on'.")
    size = 2 * _DIGEST_BYTES
    digests = frozenset(remembered[i : i + size] for i in range(0, len(remembered), size))
    return Checkpoint(manifest, tensors, digests)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"its manifest is not valid JSON ({error}).") from error


def _refuse_foreign(path: Path) -> None:
    """Name what the file is where it is something else; opening it comes after."""
    try:
        with path.open("rb") as stream:
            magic = stream.read(9)
    except FileNotFoundError as error:
        raise CheckpointError(
            "there is no such model file.", remedy="A model is a run folder, a .safetensors file or a bundle."
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror}).") from error
    if not magic:
        raise CheckpointError("is empty.")
    begins_json = magic[8:] == b"{"  # after the eight bytes of a safetensors header's length
    if magic.startswith((b"PK\x03\x04", b"\x80")) and not begins_json:
        raise CheckpointError(
            "is a PyTorch pickle; models are never loaded from pickles, which can run any code.",
            remedy=f"To convert it safely: {command_line(['import', str(path), '-o', 'model.safetensors'])}",
        )


def _check_tensors(spec: Spec, found: Mapping[str, Sequence[int]]) -> None:
    expected, network = specs.tensor_shapes(spec), printable(spec.name)
    for name, shape in expected.items():
        if name not in found:
            raise CheckpointError(f"tensor '{name}' is missing; {network} needs it with shape {shape}.")
        if tuple(found[name]) != shape:
            raise CheckpointError(
                f"tensor '{name}' has shape {tuple(found[name])}; "
                f"{network} with {spec.classes} classes needs {shape}."
            )
    extra = next((name for name in found if name not in expected), None)
    if extra is not None:
        raise CheckpointError(f"tensor '{printable(extra)}' does not belong to {network}.")
