"""Weights from elsewhere become checkpoints: one reader a format, one table of names a library.

`reading` opens a file by its bytes, `matching` and `by_order` say which network it is, `importing`
makes the checkpoint and tells what was decided; `catalogue` and `download` know the files that others
publish. `import_file` is imported when it is first used, so that the table needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobilenets.weights.importing import Imported, import_file

__all__ = ["Imported", "import_file"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("mobilenets.weights.importing"), name)
    raise AttributeError(f"module 'mobilenets.weights' has no attribute {name!r}")
