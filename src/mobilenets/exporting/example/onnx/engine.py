"""Run the model with ONNX Runtime."""

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray


class Engine:
    """The model file, opened."""

    def __init__(self, file: Path):
        self.session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def logits(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`uint8` N×height×width×channels to `float32` N×classes; normalisation is in the model."""
        result: NDArray[np.float32] = self.session.run(["logits"], {"pixels": batch})[0]
        return result
