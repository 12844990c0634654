"""The LiteRT engine (once TensorFlow Lite, with XNNPACK inside): runs a converted model, without torch."""

import numpy as np
from numpy.typing import NDArray

from mobilenets.errors import EnvironmentFault, MissingExtra
from mobilenets.runtime.bundle import Bundle
from mobilenets.runtime.session import check_pixels


class LitertSession:
    """LiteRT in fp32 on the CPU. Its file takes one picture, so a batch runs picture by picture."""

    engine = "litert"

    def __init__(self, source: Bundle, *, threads: int | None = None):
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise MissingExtra("Running a model in LiteRT", "litert", "ai-edge-litert") from error
        self.manifest = source.manifest
        self.trained_on = source.trained_on
        try:
            self._interpreter = Interpreter(str(source.model_file), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise EnvironmentFault(
                f"LiteRT cannot open this model ({next(iter(str(error).splitlines()), 'no reason given')}).",
                file=source.model_file,
                remedy="It may be older than the model's operators. Upgrade with: "
                "pip install -U ai-edge-litert",
            ) from error
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Session.run`."""
        check_pixels(pixels, self.manifest.spec)
        logits = np.empty((len(pixels), self.manifest.spec.classes), np.float32)
        for picture, row in zip(pixels, logits, strict=True):
            self._interpreter.set_tensor(self._input, picture[None])
            self._interpreter.invoke()
            row[:] = self._interpreter.get_tensor(self._output)[0]
        return logits
