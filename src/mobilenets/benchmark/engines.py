"""The engines of a benchmark: which session runs each of them, how it is set, and in which precisions."""

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from mobilenets import checkpoint as checkpoints
from mobilenets.runtime import Session, open_session
from mobilenets.runtime.bundle import read_bundle
from mobilenets.tolerances import LOGITS

OURS = "compiled"
LITERT = "litert"
"""What a second thread brings us is measured against what it brings this one."""
PRECISIONS = tuple(LOGITS)
"""In what an engine may compute; `uint8` pictures and `float32` logits are the same for both."""


@dataclass(frozen=True)
class Engine:
    """One row of a benchmark."""

    session: str
    """A key of `runtime.ENGINES`."""
    distribution: str | None
    """What pip calls its runtime; the compiled library needs none."""
    precisions: tuple[str, ...] = ("fp32",)
    way: str = ""
    """For torch: a key of `runtime.torch_session.WAYS`."""


ENGINES = {
    "compiled": Engine("compiled", None, PRECISIONS),
    "onnxruntime": Engine("onnxruntime", "onnxruntime"),
    "openvino": Engine("openvino", "openvino", PRECISIONS),
    "litert": Engine("litert", "ai-edge-litert"),
    "ncnn": Engine("ncnn", "ncnn"),
    "torch": Engine("torch", "torch", PRECISIONS, "eager"),
    "torch-channels-last": Engine("torch", "torch", PRECISIONS, "channels-last"),
    "torch-compile": Engine("torch", "torch", PRECISIONS, "compile"),
}
"""Engine → how it runs. `torch` is torch as it comes; `predict` runs it with channels last."""
SLOW = ("torch", "torch-compile")
"""Ways of torch that are timed only when they are asked for: they take as long as all others together."""


def open_engine(name: str, model: Path, *, threads: int, precision: str) -> Session:
    """The session of the engine `name` for the checkpoint or bundle `model`."""
    engine = ENGINES[name]
    if engine.session == "torch":
        # What torch.compile makes is kept for the next turn, and no longer than the benchmark's files.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(model.parent / "inductor"))
        from mobilenets.runtime.torch_session import TorchSession

        return TorchSession(checkpoints.load(model), threads=threads, way=engine.way, precision=precision)
    if engine.session == "openvino" and precision != "fp32":
        from mobilenets.runtime.openvino_session import OpenVinoSession

        return OpenVinoSession(read_bundle(model), threads=threads, precision=precision)
    return open_session(model, engine=engine.session, threads=threads)


def versions(engines: Iterable[str]) -> dict[str, str]:
    """Of Python, numpy, and what runs `engines`."""
    wanted = (ENGINES[engine].distribution for engine in engines)
    found = {name: metadata.version(name) for name in ("numpy", *wanted) if name is not None}
    return {"python": platform.python_version(), **found}
