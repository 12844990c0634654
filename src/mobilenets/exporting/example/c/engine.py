"""Run the model's own library; `c/` has its source, and the same in C."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from support.shared_library import Library


class Engine:
    """The model file, opened."""

    def __init__(self, file: Path):
        self.opened = Library(file)

    def logits(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`uint8` N×height×width×channels to `float32` N×classes; normalisation is in the model."""
        logits: NDArray[np.float32] = self.opened.run(batch)
        return logits
