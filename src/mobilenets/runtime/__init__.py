"""Running a model: one small protocol, one file per engine, imported when opened.

`open_session` takes a checkpoint, a run folder or a bundle, chooses an engine and names it.
"""

from collections.abc import Callable
from pathlib import Path

from mobilenets import checkpoint as checkpoints
from mobilenets.checkpoint import Checkpoint
from mobilenets.errors import InputError, UnknownName
from mobilenets.runtime.bundle import Bundle, is_bundle, read_bundle
from mobilenets.runtime.session import Session

__all__ = ["ENGINES", "Session", "open_session"]


def _torch(source: Checkpoint | Bundle, threads: int | None) -> Session:
    if isinstance(source, Bundle):
        raise InputError("this bundle holds no checkpoint, so torch cannot run it.", file=source.folder)
    from mobilenets.runtime.torch_session import TorchSession

    return TorchSession(source, threads=threads)


def _onnxruntime(source: Checkpoint | Bundle, threads: int | None) -> Session:
    if isinstance(source, Checkpoint):
        raise InputError(
            "ONNX Runtime runs a bundle, not a checkpoint.",
            remedy="Make one with: mobilenets export MODEL --to onnx",
        )
    from mobilenets.runtime.onnx_session import OnnxSession

    return OnnxSession(source, threads=threads)


def _compiled(source: Checkpoint | Bundle, threads: int | None) -> Session:
    if isinstance(source, Bundle) and source.format != "c":
        raise InputError("this bundle holds no compiled model.", file=source.folder)
    from mobilenets.runtime.compiled_session import CompiledSession

    return CompiledSession(source, threads=threads)


ENGINES: dict[str, Callable[[Checkpoint | Bundle, int | None], Session]] = {
    "compiled": _compiled,
    "onnxruntime": _onnxruntime,
    "torch": _torch,
}


def open_session(
    model: Session | Checkpoint | str | Path, *, engine: str | None = None, threads: int | None = None
) -> Session:
    """A `Session` for `model`: a checkpoint (or its path), a run folder, or a bundle folder.

    Without `engine`, a bundle runs in the runtime it was made for and a checkpoint in torch.
    `threads` bounds the engine's own threads; `None` leaves its default.
    """
    if isinstance(model, Session):
        return model
    source: Checkpoint | Bundle
    if isinstance(model, Checkpoint):
        source = model
    else:
        path = Path(model)
        source = read_bundle(path) if is_bundle(path) else checkpoints.load(path)
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; it must be 1 or more.")
    chosen = engine or (source.engine if isinstance(source, Bundle) else "torch")
    if chosen not in ENGINES:
        raise UnknownName("engine", chosen, ENGINES)
    return ENGINES[chosen](source, threads)
