"""The OpenVINO engine: runs an ONNX bundle's model file on the CPU, without torch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenets.errors import EnvironmentFault, MissingExtra
from mobilenets.runtime.bundle import Bundle
from mobilenets.runtime.onnx_session import INPUT, OUTPUT
from mobilenets.runtime.session import check_pixels

_HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoSession:
    """OpenVINO, one stream; compiled anew for every number of pictures that it has not met yet.

    It computes in fp32 where nothing else is said. That has to be asked for: by default this engine
    takes bf16 where the processor has it.
    """

    engine = "openvino"

    def __init__(self, source: Bundle, *, threads: int | None = None, precision: str = "fp32"):
        try:
            import openvino
        except ImportError as error:
            raise MissingExtra("Running a model in OpenVINO", "openvino", "openvino") from error
        self.manifest = source.manifest
        self.trained_on = source.trained_on
        self._options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
        }
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = threads
        self._core = openvino.Core()
        self._requests: dict[int, Any] = {}
        try:
            self._model = self._core.read_model(str(source.model_file))
        except RuntimeError as error:
            raise EnvironmentFault(
                f"OpenVINO {openvino.__version__} cannot open this model "
                f"({next(iter(str(error).splitlines()), 'no reason given')}).",
                file=source.model_file,
                remedy="It may be older than the model's operators. Upgrade with: pip install -U openvino",
            ) from error

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Session.run`."""
        check_pixels(pixels, self.manifest.spec)
        request = self._request(pixels.shape)
        # Shared inputs would let a later run write over the caller's array (OpenVINO 2026.4).
        result = request.infer({INPUT: np.ascontiguousarray(pixels)}, share_inputs=False, share_outputs=False)
        logits: NDArray[np.float32] = result[OUTPUT]
        return logits

    def _request(self, shape: tuple[int, ...]) -> Any:
        """What runs batches of `shape`: with every size known, OpenVINO is faster than with an open batch."""
        if shape[0] not in self._requests:
            model = self._model.clone()
            model.reshape({INPUT: list(shape)})
            compiled = self._core.compile_model(model, "CPU", self._options)
            wanted = self._options["INFERENCE_PRECISION_HINT"]
            found = getattr(compiled.get_property("INFERENCE_PRECISION_HINT"), "get_type_name", str)()
            if found != wanted:
                raise EnvironmentFault(f"OpenVINO computes in {found} on this processor, not in {wanted}.")
            self._requests[shape[0]] = compiled.create_infer_request()
        return self._requests[shape[0]]
