"""The formats of a bundle: how a checkpoint becomes a model file, and what opens it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mobilenets.checkpoint import Checkpoint
from mobilenets.compiler.targets import TARGETS
from mobilenets.exporting import c
from mobilenets.exporting.onnx import OPSETS, write_onnx
from mobilenets.progress import SILENT, Progress


@dataclass(frozen=True)
class Options:
    """What can be asked of a format."""

    opset: int = OPSETS[0]
    """ONNX: the operator set."""
    target: str = "native"
    """C: a key of `compiler.targets.TARGETS`."""
    threads: bool = True
    """C: without it, there is no code for threads."""
    precision: str = "fp32"
    """C: a key of `compiler.steps.PRECISIONS`."""
    progress: Progress = SILENT


@dataclass(frozen=True)
class Format:
    """How a checkpoint becomes one kind of model file, and what opens it."""

    title: str
    engine: str
    """A key of `runtime.ENGINES`."""
    model_file: Callable[[Options], str]
    """The model file's name."""
    write: Callable[[Checkpoint, Path, Options], None]
    """Checkpoint, the bundle's folder, what else was asked for."""
    needs: tuple[str, ...]
    """What its example program needs, as pip's requirements."""
    program: str
    """The folder of `example/` with the module `engine` of its example program."""
    support: tuple[str, ...] = ()
    """Modules of ours that this module uses, beside those that every bundle has."""
    parts: Callable[[Options], tuple[tuple[str, str], ...]] = lambda asked: ()
    """Files that it has beside every bundle's: name, what it is."""
    runs_here: Callable[[Options], bool] = lambda asked: True
    """Whether this machine can open the model file."""
    has_python: Callable[[Options], bool] = lambda asked: True
    """Whether the machine that it is for can run the bundle's programs."""


FORMATS: dict[str, Format] = {
    "onnx": Format(
        title="ONNX",
        engine="onnxruntime",
        model_file=lambda asked: "model.onnx",
        write=lambda checkpoint, folder, asked: write_onnx(checkpoint, folder / "model.onnx", asked.opset),
        needs=("numpy>=2.0", "pillow>=11.0", "onnxruntime>=1.22"),
        program="onnx",
    ),
    "c": Format(
        title="C",
        engine="compiled",
        model_file=lambda asked: TARGETS[asked.target].product,
        write=lambda checkpoint, folder, asked: c.write_c(
            checkpoint,
            folder,
            target=asked.target,
            precision=asked.precision,
            threads=asked.threads,
            progress=asked.progress,
        ),
        needs=("numpy>=2.0", "pillow>=11.0"),
        program="c",
        support=("runtime.shared_library",),
        parts=lambda asked: c.parts(asked.target),
        runs_here=lambda asked: TARGETS[asked.target].runs_here,
        has_python=lambda asked: TARGETS[asked.target].shared,
    ),
}
