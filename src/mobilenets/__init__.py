"""From a folder of pictures to a small, fast, proven classifier that runs anywhere.

The functions below are the whole way; each is imported when it is first used, so that
`import mobilenets` is quick and brings no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mobilenets import zoo
    from mobilenets.checkpoint import load
    from mobilenets.cost import count
    from mobilenets.evaluation import evaluate
    from mobilenets.exporting import export
    from mobilenets.folder import scan
    from mobilenets.prediction import predict
    from mobilenets.training import train
    from mobilenets.weights import import_file

__all__ = [
    "__version__",
    "count",
    "evaluate",
    "export",
    "import_file",
    "load",
    "predict",
    "scan",
    "train",
    "zoo",
]

_HOME = {
    "count": "cost",
    "evaluate": "evaluation",
    "export": "exporting",
    "import_file": "weights",
    "load": "checkpoint",
    "predict": "prediction",
    "scan": "folder",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name == "zoo":
        return import_module("mobilenets.zoo")
    if name in _HOME:
        return getattr(import_module(f"mobilenets.{_HOME[name]}"), name)
    raise AttributeError(f"module 'mobilenets' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
