"""The torch engine: a checkpoint as it was trained. The one engine file that imports torch."""

import numpy as np
import torch
from numpy.typing import NDArray

from mobilenets.checkpoint import Checkpoint
from mobilenets.network import from_checkpoint
from mobilenets.preprocessing import affine
from mobilenets.runtime.session import check_pixels


class TorchSession:
    """PyTorch in fp32, channels last, normalisation included."""

    engine = "torch"

    def __init__(self, checkpoint: Checkpoint, *, threads: int | None = None, device: str = "cpu"):
        if threads is not None:
            torch.set_num_threads(threads)
        self.manifest = checkpoint.manifest
        self.trained_on = checkpoint.trained_on
        self._network = from_checkpoint(checkpoint).to(device)
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        factor, offset = affine(self.manifest.preprocessing)
        self._factor, self._offset = torch.from_numpy(factor).to(device), torch.from_numpy(offset).to(device)
        self._device = device

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Session.run`."""
        check_pixels(pixels, self.manifest.spec)
        with torch.inference_mode():
            batch = torch.from_numpy(np.array(pixels, order="C")).to(self._device)
            normalised = batch.to(torch.float32) * self._factor + self._offset
            logits: NDArray[np.float32] = self._network(normalised.permute(0, 3, 1, 2)).cpu().numpy()
        return logits
