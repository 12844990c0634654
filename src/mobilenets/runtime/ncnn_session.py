"""The ncnn engine: runs a model that pnnx converted, without torch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenets.errors import EnvironmentFault, InputError, MissingExtra
from mobilenets.preprocessing import affine
from mobilenets.runtime.bundle import Bundle
from mobilenets.runtime.session import check_pixels

WEIGHTS_SUFFIX = ".bin"
"""Of the file beside the model file, which holds its weights."""
_PIXELS = {1: "PIXEL_GRAY", 3: "PIXEL_RGB", 4: "PIXEL_RGBA"}
_INPUT, _OUTPUT = "in0", "out0"


class NcnnSession:
    """ncnn in fp32 on the CPU, normalisation by its own functions. A batch runs picture by picture."""

    engine = "ncnn"

    def __init__(self, source: Bundle, *, threads: int | None = None):
        try:
            import ncnn
        except ImportError as error:
            raise MissingExtra("Running a model in ncnn", "ncnn", "ncnn") from error
        self.manifest = source.manifest
        self.trained_on = source.trained_on
        spec = source.manifest.spec
        if spec.channels not in _PIXELS:
            raise InputError(
                f"ncnn takes pictures of {', '.join(map(str, _PIXELS))} channels, not of {spec.channels}."
            )
        self._ncnn: Any = ncnn
        self._kind = getattr(ncnn.Mat.PixelType, _PIXELS[spec.channels])
        factor, offset = affine(source.manifest.preprocessing)
        self._mean, self._scale = (-offset / factor).tolist(), factor.tolist()
        self._net = ncnn.Net()
        # By default it stores maps as fp16 or bf16, and computes in fp16 where the processor can.
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
            setattr(self._net.opt, name, False)
        if threads is not None:
            self._net.opt.num_threads = threads
        file = source.model_file
        if self._net.load_param(str(file)) or self._net.load_model(str(file.with_suffix(WEIGHTS_SUFFIX))):
            raise EnvironmentFault(
                f"ncnn {ncnn.__version__} cannot open this model.",
                file=file,
                remedy="It may be older than the model's operators. Upgrade with: pip install -U ncnn pnnx",
            )

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Session.run`."""
        check_pixels(pixels, self.manifest.spec)
        side = self.manifest.spec.resolution
        logits = np.empty((len(pixels), self.manifest.spec.classes), np.float32)
        for picture, row in zip(np.ascontiguousarray(pixels), logits, strict=True):
            mat = self._ncnn.Mat.from_pixels(picture, self._kind, side, side)
            mat.substract_mean_normalize(self._mean, self._scale)
            with self._net.create_extractor() as extractor:
                extractor.input(_INPUT, mat)
                code, result = extractor.extract(_OUTPUT)
                if code:
                    raise EnvironmentFault(f"ncnn could not compute this network (code {code}).")
                row[:] = np.array(result).reshape(-1)
        return logits
