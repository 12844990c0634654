"""The library of a checkpoint for this machine: found again in milliseconds, or compiled once.

`toolchain.cached_library` keeps a library under the source that it was made of, which takes seconds to
write for a large network. Here the place is noted under all that decides the source: the network, its
values, labels and preprocessing, our own code, this processor and `$CC`. So a library that was compiled
before is found without a C compiler; another version of the same compiler makes no new one.
"""

import hashlib
import json
import os
import platform
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np

from mobilenets import __version__
from mobilenets import spec as specs
from mobilenets.checkpoint import Checkpoint
from mobilenets.compiler import translate
from mobilenets.compiler.targets import LIBRARY
from mobilenets.compiler.toolchain import cached_library, find_compiler, instructions
from mobilenets.errors import WriteFailed
from mobilenets.files import caches, write_text
from mobilenets.progress import SILENT, Progress
from mobilenets.text import printable


def find_or_compile(checkpoint: Checkpoint, *, precision: str = "fp32", progress: Progress = SILENT) -> Path:
    """The library of `checkpoint` for here: the kept one, else compiled now, which `progress` is told.

    `precision` is that of its weights; maps are fp32. Raises `EnvironmentFault` where there is none and it
    cannot be compiled or kept.
    """
    folder = caches() / "compiled"
    note = folder / "checkpoints" / _key(checkpoint, precision)
    kept = _noted(note, folder)
    if kept is not None:
        return kept
    find_compiler()  # or its error, before anything is promised
    progress.say(
        f"Compiling {printable(checkpoint.spec.name)} for this processor, once; it is kept. It takes some "
        "seconds. With torch installed, --engine torch begins at once."
    )
    try:
        program = translate(checkpoint, precision=precision, fp32_maps=True)
        library = cached_library(program, progress=progress)
        write_text(note, library.parent.name)
    except WriteFailed as error:
        error.remedy = "Name another folder for what is kept, in the environment: MOBILENETS_CACHE=FOLDER"
        raise
    return library


def _noted(note: Path, folder: Path) -> Path | None:
    try:
        library = folder / note.read_text(encoding="utf-8") / LIBRARY
    except (OSError, ValueError):
        return None
    return library if library.is_file() else None


def _key(checkpoint: Checkpoint, precision: str) -> str:
    spec, manifest = checkpoint.spec, checkpoint.manifest
    parts = {
        "precision": precision,
        "spec": specs.to_json(spec),
        "labels": manifest.labels,
        "preprocessing": manifest.preprocessing.to_json(),
        "code": own_code(),
        "instructions": instructions(),
        "compiler": os.environ.get("CC", ""),
        "system": [platform.system(), platform.machine(), *platform.libc_ver()],
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for name in specs.tensor_shapes(spec):
        key.update(np.ascontiguousarray(checkpoint.tensors[name], dtype=np.float32).data)
    return key.hexdigest()[:32]


@cache
def own_code() -> str:
    """A hash of the version and of the files that the source comes from: between two versions they change."""
    key = hashlib.sha256(__version__.encode())
    package = resources.files("mobilenets")
    folders = (package / "compiler", package / "compiler" / "c")
    files = [file for folder in folders for file in folder.iterdir() if file.is_file()]
    files += [package / name for name in ("preprocessing.py", "spec.py")]
    for file in sorted(files, key=lambda file: file.name):
        key.update(file.read_bytes())
    return key.hexdigest()
