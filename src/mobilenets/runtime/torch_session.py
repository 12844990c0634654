"""The torch engine: a checkpoint as it was trained. The one engine file that imports torch."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mobilenets.checkpoint import Checkpoint
from mobilenets.network import from_checkpoint
from mobilenets.preprocessing import affine
from mobilenets.runtime.session import check_pixels

WAYS = ("channels-last", "eager", "compile")
"""How torch runs a network: with channels last (`predict`), as it comes, or by `torch.compile`."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TorchSession:
    """PyTorch, normalisation included; in fp32 with channels last where nothing else is said.

    With `way="compile"` the first run of every number of pictures takes a minute or more, and needs a
    C++ compiler.
    """

    engine = "torch"

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        threads: int | None = None,
        device: str = "cpu",
        way: str = "channels-last",
        precision: str = "fp32",
    ):
        if threads is not None:
            torch.set_num_threads(threads)
        self.manifest = checkpoint.manifest
        self.trained_on = checkpoint.trained_on
        layout = torch.contiguous_format if way == "eager" else torch.channels_last
        whole = _FromPixels(checkpoint, _DTYPES[precision], layout).to(device)
        whole.to(memory_format=layout)  # type: ignore[call-overload]
        self._whole: Callable[[Tensor], Tensor] = _compiled(whole) if way == "compile" else whole
        self._device = device

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Session.run`."""
        check_pixels(pixels, self.manifest.spec)
        with torch.inference_mode():
            batch = torch.from_numpy(np.array(pixels, order="C")).to(self._device)
            logits: NDArray[np.float32] = self._whole(batch).cpu().numpy()
        return logits


class _FromPixels(nn.Module):
    """A network behind its normalisation, which is computed in fp32."""

    factor: Tensor
    offset: Tensor

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype, layout: torch.memory_format):
        super().__init__()
        factor, offset = affine(checkpoint.manifest.preprocessing)
        self.register_buffer("factor", torch.from_numpy(factor))
        self.register_buffer("offset", torch.from_numpy(offset))
        self.network = from_checkpoint(checkpoint).to(dtype)
        self.dtype, self.layout = dtype, layout
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """`uint8` N×S×S×C to `float32` N×classes."""
        normalised = pixels.to(torch.float32) * self.factor + self.offset
        planes = normalised.to(self.dtype).permute(0, 3, 1, 2).contiguous(memory_format=self.layout)
        logits: Tensor = self.network(planes)
        return logits.to(torch.float32)


def _compiled(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """`module` by inductor, with its weights frozen: without that it takes half as long again."""
    from torch._inductor import config

    config.freezing = True  # read at the first run
    compiled: Callable[[Tensor], Tensor] = torch.compile(module, dynamic=False)
    return compiled
