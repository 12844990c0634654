"""What a `.tflite` file says about itself: TFLite Metadata (`metadata_schema.fbs`, identifier `M001`).

A second flatbuffer inside the first has the licence and how the input is normalised; the label
files that it names lie in a zip that is appended to the file.
"""

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilenets.errors import CheckpointError
from mobilenets.text import printable
from mobilenets.weights.tflite.flatbuffer import Flatbuffer, Table

IDENTIFIER = b"M001"
_NORMALIZATION = 1
"""NormalizationOptions in the union ProcessUnitOptions."""
_AXIS_LABELS = 2
"""AssociatedFileType TENSOR_AXIS_LABELS: one line for each index of the output."""
_MOST_LABEL_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Normalization:
    """x = (pixel − mean) / std, per channel or one number for all; pixels as the author counts them."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Metadata:
    """The parts that an importer can use; all empty where a file has no metadata."""

    name: str = ""
    author: str = ""
    licence: str = ""
    normalization: Normalization | None = None
    """Of the first input."""
    label_file: str = ""
    labels: tuple[str, ...] | None = None
    """Lines of the label file of the first output."""


def read_metadata(file: bytes, buffer: memoryview | None) -> Metadata:
    """The metadata in `buffer`, with the labels out of the zip behind `file`.

    Raises `CheckpointError` where it is damaged, and where a label file that it names cannot be read.
    """
    if buffer is None:
        return Metadata()
    root = Flatbuffer(buffer, "its metadata").root(IDENTIFIER, "the metadata")
    graphs = root.tables(3, "metadata of graph")
    inputs = graphs[0].tables(2, "metadata of input") if graphs else []
    outputs = graphs[0].tables(3, "metadata of output") if graphs else []
    label_file = _label_file(outputs[0]) if outputs else ""
    return Metadata(
        name=root.text(0, "the name in its metadata"),
        author=root.text(4, "the author in its metadata"),
        licence=root.text(5, "the licence in its metadata"),
        normalization=_normalization(inputs[0]) if inputs else None,
        label_file=label_file,
        labels=_labels(file, label_file) if label_file else None,
    )


def _normalization(tensor: Table) -> Normalization | None:
    for unit in tensor.tables(4, "processing unit"):
        options = unit.table(1, "normalisation") if unit.number(0, "B") == _NORMALIZATION else None
        if options is not None:
            mean = options.numbers(0, "<f4", "the mean in its metadata")
            std = options.numbers(1, "<f4", "the std in its metadata")
            if not mean.size or not std.size or not _usable(mean, std):
                raise CheckpointError(
                    f"its metadata has mean {_few(mean)} and std {_few(std)}; a std must be above 0."
                )
            return Normalization(tuple(mean.tolist()), tuple(std.tolist()))
    return None


def _usable(mean: NDArray[np.generic], std: NDArray[np.generic]) -> bool:
    numbers = np.concatenate([mean, std]).astype(np.float64)
    return bool(np.isfinite(numbers).all()) and bool((std.astype(np.float64) > 0).all())


def _few(numbers: NDArray[np.generic]) -> str:
    return str(numbers[:4].tolist())


def _label_file(tensor: Table) -> str:
    for file in tensor.tables(6, "label file"):
        name = file.text(0, "the name of a label file")
        if file.number(2, "b") == _AXIS_LABELS and name:
            return name
    return ""


def _labels(data: bytes, name: str) -> tuple[str, ...]:
    """The lines of `name` in the zip that follows the flatbuffer; trailing empty ones are left out."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if archive.getinfo(name).file_size > _MOST_LABEL_BYTES:
                raise CheckpointError(
                    f"its label file '{printable(name)}' is larger than any list of labels."
                )
            with archive.open(name) as stream:
                text = stream.read(_MOST_LABEL_BYTES + 1).decode("utf-8-sig")
    # What zipfile raises for damaged, encrypted and unknown archives.
    except (
        zipfile.BadZipFile, KeyError, UnicodeDecodeError, zlib.error, RuntimeError,
        NotImplementedError, EOFError, OSError, ValueError, struct.error,
    ) as error:  # fmt: skip
        raise CheckpointError(
            f"its metadata names the label file '{printable(name)}', which cannot be read from the zip "
            f"at its end ({printable(str(error))[:100]}): the file is truncated or damaged.",
            remedy="Download it again.",
        ) from error
    return tuple(line.strip() for line in text.rstrip().splitlines())
