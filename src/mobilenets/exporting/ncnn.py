"""A checkpoint as ncnn's two files, by pnnx: normalised planes in, logits out."""

import tempfile
from pathlib import Path

import torch

from mobilenets.checkpoint import Checkpoint
from mobilenets.errors import EnvironmentFault, MissingExtra
from mobilenets.exporting.onnx import first_line, mute
from mobilenets.files import write_bytes
from mobilenets.network import from_checkpoint
from mobilenets.runtime.ncnn_session import WEIGHTS_SUFFIX


def write_ncnn(checkpoint: Checkpoint, path: Path) -> None:
    """Write the network of `checkpoint` to `path`, for one picture at a time, its fp32 weights beside it.

    Normalisation is not in the file: ncnn has functions of its own for pixels. Raises `MissingExtra`
    without `pnnx`, `EnvironmentFault` where it cannot convert the network.
    """
    try:
        import pnnx
    except ImportError as error:
        raise MissingExtra("Converting a model for ncnn", "ncnn", "pnnx") from error
    spec = checkpoint.spec
    planes = torch.zeros((1, spec.channels, spec.resolution, spec.resolution))
    with tempfile.TemporaryDirectory() as name:
        made = Path(name) / "model.pt"
        try:
            with mute():
                pnnx.export(from_checkpoint(checkpoint), str(made), inputs=(planes,), fp16=False)
            structure, weights = (made.with_suffix(f".ncnn.{end}").read_bytes() for end in ("param", "bin"))
        # The converter's exceptions have no common base but Exception.
        except Exception as error:
            raise EnvironmentFault(
                f"pnnx could not convert {spec.name} ({first_line(error)}).",
                remedy="Upgrade the converter with: pip install -U 'mobilenets[train,ncnn]'",
            ) from error
    write_bytes(path, structure)
    write_bytes(path.with_suffix(WEIGHTS_SUFFIX), weights)
