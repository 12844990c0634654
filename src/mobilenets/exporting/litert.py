"""A checkpoint as one LiteRT file (`.tflite`): `uint8` pictures in, logits out, normalisation inside."""

from pathlib import Path

import torch

from mobilenets.checkpoint import Checkpoint
from mobilenets.errors import EnvironmentFault, MissingExtra
from mobilenets.exporting.onnx import FromPixels, first_line, mute
from mobilenets.files import replacing


def write_litert(checkpoint: Checkpoint, path: Path) -> None:
    """Write the network of `checkpoint` to `path`, for one picture at a time, with fp32 weights.

    Raises `MissingExtra` without `litert-torch`, `EnvironmentFault` where it cannot convert the network.
    """
    try:
        with mute():
            import litert_torch
    except ImportError as error:
        raise MissingExtra("Converting a model for LiteRT", "litert", "litert-torch") from error
    spec = checkpoint.spec
    pixels = torch.zeros((1, spec.resolution, spec.resolution, spec.channels), dtype=torch.uint8)
    try:
        with mute(), replacing(path) as temporary:
            litert_torch.convert(FromPixels(checkpoint), (pixels,)).export(str(temporary))
    # The converter's exceptions have no common base but Exception.
    except Exception as error:
        raise EnvironmentFault(
            f"litert-torch could not convert {spec.name} ({first_line(error)}).",
            remedy="Upgrade the converter with: pip install -U 'mobilenets[train,litert]'",
        ) from error
