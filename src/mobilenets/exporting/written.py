"""What every export of weights for another library hands back."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Written:
    """A file for another library."""

    path: Path
    how_to_load: str
    """The lines of Python that build the other library's model with these weights."""
    notes: tuple[str, ...]
    """What is different there, in sentences."""
