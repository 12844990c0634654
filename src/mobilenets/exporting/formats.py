"""The formats of a bundle: how a checkpoint becomes a model file, and what opens it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mobilenets.checkpoint import Checkpoint
from mobilenets.compiler.toolchain import LIBRARY
from mobilenets.exporting.c import SOURCES, write_c
from mobilenets.exporting.onnx import OPSETS, write_onnx
from mobilenets.progress import SILENT, Progress


@dataclass(frozen=True)
class Options:
    """What can be asked of a format."""

    opset: int = OPSETS[0]
    """ONNX: the operator set."""
    target: str = "native"
    """C: a key of `compiler.toolchain.TARGETS`."""
    progress: Progress = SILENT


@dataclass(frozen=True)
class Format:
    """How a checkpoint becomes one kind of model file, and what opens it."""

    title: str
    model_file: str
    engine: str
    """A key of `runtime.ENGINES`."""
    write: Callable[[Checkpoint, Path, Options], None]
    """Checkpoint, the bundle's folder, what else was asked for."""
    needs: tuple[str, ...]
    """What its example program needs, as pip's requirements."""
    program: str
    """The folder of `example/` with the module `engine` of its example program."""
    support: tuple[str, ...] = ()
    """Modules of ours that this module uses, beside those that every bundle has."""
    parts: tuple[tuple[str, str], ...] = ()
    """Files that it has beside every bundle's: name, what it is."""


FORMATS: dict[str, Format] = {
    "onnx": Format(
        title="ONNX",
        model_file="model.onnx",
        engine="onnxruntime",
        write=lambda checkpoint, folder, asked: write_onnx(checkpoint, folder / "model.onnx", asked.opset),
        needs=("numpy>=2.0", "pillow>=11.0", "onnxruntime>=1.22"),
        program="onnx",
    ),
    "c": Format(
        title="C",
        model_file=LIBRARY,
        engine="compiled",
        write=lambda checkpoint, folder, asked: write_c(checkpoint, folder, asked.target, asked.progress),
        needs=("numpy>=2.0", "pillow>=11.0"),
        program="c",
        support=("runtime.shared_library",),
        parts=((f"{SOURCES}/", "the same as C source, which needs no more than libc; see its `model.h`"),),
    ),
}
