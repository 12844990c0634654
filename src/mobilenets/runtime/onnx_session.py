"""The ONNX Runtime engine: runs a bundle on the CPU, without torch."""

import numpy as np
from numpy.typing import NDArray

from mobilenets.errors import EnvironmentFault, MissingExtra
from mobilenets.runtime.bundle import Bundle
from mobilenets.runtime.session import check_pixels

INPUT, OUTPUT = "pixels", "logits"
"""Names of the graph's input and output."""
_ERRORS_ONLY = 3


class OnnxSession:
    """ONNX Runtime in fp32 on the CPU; normalisation is part of the graph."""

    engine = "onnxruntime"

    def __init__(self, source: Bundle, *, threads: int | None = None):
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtra("Running an ONNX model", "onnx", "onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        if threads is not None:
            options.intra_op_num_threads = threads
        self.manifest = source.manifest
        self.trained_on = source.trained_on
        try:
            self._session = onnxruntime.InferenceSession(
                str(source.model_file), options, providers=["CPUExecutionProvider"]
            )
        # ONNX Runtime's exceptions have no common base but Exception.
        except Exception as error:
            raise EnvironmentFault(
                f"ONNX Runtime {onnxruntime.__version__} cannot open this model ({error}).",
                file=source.model_file,
                remedy="It may be older than the model's operators. Upgrade with: pip install -U onnxruntime",
            ) from error

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Session.run`."""
        check_pixels(pixels, self.manifest.spec)
        logits: NDArray[np.float32] = self._session.run([OUTPUT], {INPUT: np.ascontiguousarray(pixels)})[0]
        return logits
