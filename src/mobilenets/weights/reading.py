"""From somebody else's files to the network in them: the bytes decide which reader opens them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mobilenets.errors import CheckpointError, InputError
from mobilenets.weights import by_order, hub_config, keras_file, keras_model, matching, pytorch_file, tflite
from mobilenets.weights.source import Found, Source
from mobilenets.weights.tflite import file as tflite_file
from mobilenets.weights.timm import TIMM
from mobilenets.weights.torchvision import TORCHVISION
from mobilenets.weights.transformers import TRANSFORMERS

SOURCES: tuple[Source, ...] = (TIMM, TORCHVISION, TRANSFORMERS)
"""Whose tensor names in PyTorch files are known, in the order in which they are tried."""


def located(path: Path) -> Path:
    """The file to read: `path`, or the weights in it where it is a folder as the hub has them."""
    return hub_config.weights_in(path) if path.is_dir() else path


def read(files: Sequence[Path]) -> Found:
    """The network in `files`: one of any kind, or several TFLite files, each fed by the one before.

    Raises `CheckpointError` naming file and tensor for what is missing, damaged, foreign or none of ours.
    """
    heads = [_head(file) for file in files]
    if all(tflite_file.is_tflite(head) for head in heads):
        return tflite.find([tflite_file.read(file) for file in files])
    if len(files) > 1:
        raise InputError(
            f"{len(files)} files were given; only a network that was cut into several TFLite files is "
            "more than one.",
            remedy="Name one file.",
        )
    (file,) = files
    if keras_file.recognised(file):
        return keras_model.found(file)
    return hub_config.beside(file, _from_pytorch(file))


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(16)
    except FileNotFoundError as error:
        raise CheckpointError("there is no such file.", file=file) from error
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror}).", file=file) from error


def _from_pytorch(file: Path) -> Found:
    state = pytorch_file.read(file)
    try:
        if matching.names_are_known(state.tensors, SOURCES):
            found = matching.found_by_name(state.tensors, SOURCES)
        else:
            found = by_order.found_by_order(state.tensors)
    except CheckpointError as error:
        raise error.in_file(file) from error
    return dataclasses.replace(found, notes=(*state.notes, *found.notes))
