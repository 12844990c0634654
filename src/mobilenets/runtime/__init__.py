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
    bundle = _onnx_bundle(source, "ONNX Runtime")
    from mobilenets.runtime.onnx_session import OnnxSession

    return OnnxSession(bundle, threads=threads)


def _openvino(source: Checkpoint | Bundle, threads: int | None) -> Session:
    bundle = _onnx_bundle(source, "OpenVINO")
    from mobilenets.runtime.openvino_session import OpenVinoSession

    return OpenVinoSession(bundle, threads=threads)


def _onnx_bundle(source: Checkpoint | Bundle, engine: str) -> Bundle:
    if isinstance(source, Checkpoint):
        raise InputError(
            f"{engine} runs a bundle, not a checkpoint.",
            remedy="Make one with: mobilenets export MODEL --to onnx",
        )
    if source.format != "onnx":
        raise InputError(f"this bundle holds no ONNX file, so {engine} cannot run it.", file=source.folder)
    return source


def _litert(source: Checkpoint | Bundle, threads: int | None) -> Session:
    if isinstance(source, Checkpoint) or source.format != "litert":
        raise InputError(
            "LiteRT runs a model that was converted for it; this is none.",
            file=source.folder if isinstance(source, Bundle) else None,
            remedy="To convert one and time it: mobilenets bench MODEL --engines litert",
        )
    from mobilenets.runtime.litert_session import LitertSession

    return LitertSession(source, threads=threads)


def _ncnn(source: Checkpoint | Bundle, threads: int | None) -> Session:
    if isinstance(source, Checkpoint) or source.format != "ncnn":
        raise InputError(
            "ncnn runs a model that was converted for it; this is none.",
            file=source.folder if isinstance(source, Bundle) else None,
            remedy="To convert one and time it: mobilenets bench MODEL --engines ncnn",
        )
    from mobilenets.runtime.ncnn_session import NcnnSession

    return NcnnSession(source, threads=threads)


def _compiled(source: Checkpoint | Bundle, threads: int | None) -> Session:
    if isinstance(source, Bundle) and source.format != "c":
        raise InputError("this bundle holds no compiled model.", file=source.folder)
    from mobilenets.runtime.compiled_session import CompiledSession

    return CompiledSession(source, threads=threads)


ENGINES: dict[str, Callable[[Checkpoint | Bundle, int | None], Session]] = {
    "compiled": _compiled,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "litert": _litert,
    "ncnn": _ncnn,
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
