"""A checkpoint as one ONNX file: `uint8` pictures in, logits out, normalisation inside.

Normalisation stays an op of its own in front of the stem: folded into the stem's weights it would be
wrong where the stem pads, since the padding is zero *after* normalising. Batch norms are folded into
their convolutions by the converter.
"""

import contextlib
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mobilenets import __version__
from mobilenets.checkpoint import METADATA_KEY, Checkpoint, Manifest
from mobilenets.errors import EnvironmentFault, InputError, MissingExtra
from mobilenets.files import write_bytes
from mobilenets.network import from_checkpoint
from mobilenets.preprocessing import affine
from mobilenets.runtime.onnx_session import INPUT, OUTPUT

if TYPE_CHECKING:
    import onnx

OPSETS = (18, 20, 21)
"""What torch's converter writes and ONNX Runtime reads; it cannot write 17."""


class FromPixels(nn.Module):
    """A network behind its normalisation, as a graph that starts from a picture file's pixels."""

    factor: Tensor
    offset: Tensor

    def __init__(self, checkpoint: Checkpoint):
        super().__init__()
        factor, offset = affine(checkpoint.manifest.preprocessing)
        self.register_buffer("factor", torch.from_numpy(factor))
        self.register_buffer("offset", torch.from_numpy(offset))
        self.network = from_checkpoint(checkpoint)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """`uint8` N×S×S×C to `float32` N×classes."""
        normalised = pixels.to(torch.float32) * self.factor + self.offset
        # Left as a view, the pooling at the end imitates its strides with a gather of every feature.
        logits: Tensor = self.network(normalised.permute(0, 3, 1, 2).contiguous())
        return logits


def write_onnx(checkpoint: Checkpoint, path: Path, opset: int) -> None:
    """Write the network of `checkpoint` to `path`, with its manifest in the file's metadata.

    The batch is dynamic, the weights are fp32 in the same file. Raises `InputError` for an opset that
    is not offered, `MissingExtra` without the `onnx` packages, `EnvironmentFault` where torch and
    onnxscript cannot convert the network together.
    """
    if opset not in OPSETS:
        raise InputError(f"opset is {opset!r}; accepted: {', '.join(map(str, OPSETS))}.")
    try:
        import onnx
        import onnxruntime  # noqa: F401  # without it there would be no comparison in the end
        import onnxscript  # noqa: F401  # torch's converter needs it
    except ImportError as error:
        raise MissingExtra("Exporting to ONNX", "onnx", str(error.name or "onnx").split(".")[0]) from error
    model = _convert(checkpoint, opset)
    _describe(model, checkpoint.manifest)
    onnx.checker.check_model(model, full_check=True)
    write_bytes(path, model.SerializeToString(deterministic=True))


def _convert(checkpoint: Checkpoint, opset: int) -> "onnx.ModelProto":
    spec = checkpoint.spec
    pixels = torch.zeros((2, spec.resolution, spec.resolution, spec.channels), dtype=torch.uint8)
    try:
        with quiet():
            program = torch.onnx.export(
                FromPixels(checkpoint),
                (pixels,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        raise EnvironmentFault(
            f"torch {torch.__version__} could not convert {spec.name} to ONNX ({first_line(error)}).",
            remedy="Upgrade the converter with: pip install -U 'mobilenets[train,onnx]'",
        ) from error
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


def first_line(error: Exception) -> str:
    """What a library's exception says, without its story."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing that a converter says reaches the terminal; what it raises still does."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(disabled)


@contextlib.contextmanager
def mute() -> Iterator[None]:
    """`quiet`, and what a converter's C++ writes past Python goes nowhere either."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {number: os.dup(number) for number in (1, 2)}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in kept:
            os.dup2(nowhere, number)
        with quiet():
            yield
    finally:
        for number, before in kept.items():
            os.dup2(before, number)
            os.close(before)
        os.close(nowhere)


def _describe(model: "onnx.ModelProto", manifest: Manifest) -> None:
    """Say in the file what it is, and drop the converter's notes: they hold paths of this machine."""
    import onnx

    commented: list[Any] = [
        model.graph,
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
        *model.graph.initializer,
    ]
    for part in commented:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    model.producer_name, model.producer_version = "mobilenets", __version__
    model.graph.name = manifest.spec.name
    onnx.helper.set_model_props(
        model,
        {
            METADATA_KEY: json.dumps(manifest.to_json()),
            "labels": json.dumps(list(manifest.labels)),
            "preprocessing": json.dumps(manifest.preprocessing.to_json()),
        },
    )
