"""Running a model: one small protocol, one file per engine, imported when opened.

`open_session` takes a checkpoint, a run folder or a bundle, chooses an engine and names it.
"""

from collections.abc import Callable
from pathlib import Path

from mobilenets import checkpoint as checkpoints
from mobilenets.checkpoint import Checkpoint
from mobilenets.errors import EnvironmentFault, InputError, MissingExtra, UnknownName
from mobilenets.progress import SILENT, Progress
from mobilenets.runtime.bundle import Bundle, is_bundle, read_bundle
from mobilenets.runtime.session import Session

__all__ = ["ENGINES", "Model", "Session", "check_engine", "open_session", "read_model"]

Model = Session | Checkpoint | Bundle | str | Path
"""What can be run; a path leads to a checkpoint, a run folder or a bundle."""


def _torch(source: Checkpoint | Bundle, threads: int | None, _progress: Progress) -> Session:
    if isinstance(source, Bundle):
        raise InputError("this bundle holds no checkpoint, so torch cannot run it.", file=source.folder)
    try:
        from mobilenets.runtime.torch_session import TorchSession
    except ImportError as error:
        raise MissingExtra("Running a checkpoint in torch", "train", "torch") from error
    return TorchSession(source, threads=threads)


def _onnxruntime(source: Checkpoint | Bundle, threads: int | None, _progress: Progress) -> Session:
    bundle = _onnx_bundle(source, "ONNX Runtime")
    from mobilenets.runtime.onnx_session import OnnxSession

    return OnnxSession(bundle, threads=threads)


def _openvino(source: Checkpoint | Bundle, threads: int | None, _progress: Progress) -> Session:
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


def _litert(source: Checkpoint | Bundle, threads: int | None, _progress: Progress) -> Session:
    if isinstance(source, Checkpoint) or source.format != "litert":
        raise InputError(
            "LiteRT runs a model that was converted for it; this is none.",
            file=source.folder if isinstance(source, Bundle) else None,
            remedy="To convert one and time it: mobilenets bench MODEL --engines litert",
        )
    from mobilenets.runtime.litert_session import LitertSession

    return LitertSession(source, threads=threads)


def _ncnn(source: Checkpoint | Bundle, threads: int | None, _progress: Progress) -> Session:
    if isinstance(source, Checkpoint) or source.format != "ncnn":
        raise InputError(
            "ncnn runs a model that was converted for it; this is none.",
            file=source.folder if isinstance(source, Bundle) else None,
            remedy="To convert one and time it: mobilenets bench MODEL --engines ncnn",
        )
    from mobilenets.runtime.ncnn_session import NcnnSession

    return NcnnSession(source, threads=threads)


def _compiled(source: Checkpoint | Bundle, threads: int | None, progress: Progress) -> Session:
    if isinstance(source, Bundle) and source.format != "c":
        raise InputError("this bundle holds no compiled model.", file=source.folder)
    from mobilenets.runtime.compiled_session import CompiledSession

    return CompiledSession(source, threads=threads, progress=progress)


ENGINES: dict[str, Callable[[Checkpoint | Bundle, int | None, Progress], Session]] = {
    "compiled": _compiled,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "litert": _litert,
    "ncnn": _ncnn,
    "torch": _torch,
}
"""Each takes a model, a bound for its threads, and whom to tell of long work."""


def read_model(model: Model) -> Session | Checkpoint | Bundle:
    """What is at the path `model`, not opened yet; anything but a path as it is.

    Raises `CheckpointError` naming the file where there is no model, or a broken one.
    """
    if not isinstance(model, str | Path):
        return model
    return read_bundle(model) if is_bundle(model) else checkpoints.load(model)


def check_engine(name: str | None) -> None:
    """Raises `UnknownName` for an engine that there is none of."""
    if name is not None and name not in ENGINES:
        raise UnknownName("engine", name, ENGINES)


def open_session(
    model: Model, *, engine: str | None = None, threads: int | None = None, progress: Progress = SILENT
) -> Session:
    """A `Session` for `model`: a checkpoint (or its path), a run folder, or a bundle (or its folder).

    Without `engine`, a bundle runs in the runtime that it was made for. A checkpoint runs compiled: from
    a library that is kept from the last time, or that is compiled now, once, which takes some seconds;
    where that fails, `progress` is told why, and it runs in torch. (ONNX Runtime would need a conversion,
    which only torch can do.) `threads` bounds the engine's own threads; `None` leaves its default.

    Raises `EnvironmentFault` where no engine is here that can run it.
    """
    source = read_model(model)
    if isinstance(source, Session):
        return source
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; it must be 1 or more.")
    if engine is None and isinstance(source, Checkpoint):
        return _compiled_or_torch(source, threads, progress)
    chosen = engine or (source.engine if isinstance(source, Bundle) else "")
    check_engine(chosen)
    return ENGINES[chosen](source, threads, progress)


def _compiled_or_torch(checkpoint: Checkpoint, threads: int | None, progress: Progress) -> Session:
    try:
        return _compiled(checkpoint, threads, progress)
    except EnvironmentFault as error:
        fault = error
    reason = str(fault).partition("\n")[0]
    try:
        session = _torch(checkpoint, threads, progress)
    except MissingExtra as error:
        raise EnvironmentFault(
            f"no engine here can run a checkpoint. Compiled: {reason} And torch is not installed.",
            remedy=f"{fault.remedy or ''}\nOr install torch: pip install 'mobilenets[train]'".lstrip(),
        ) from error
    progress.say(f"It does not run compiled: {reason} It runs in torch.")
    return session
