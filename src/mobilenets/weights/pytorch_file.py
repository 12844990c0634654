"""Reading the tensors of somebody else's file: a PyTorch state dict, or safetensors.

This is the one place where a pickle is opened, and only through torch's restricted loader
(`weights_only=True`), which builds tensors and plain containers and calls nothing else.
"""

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mobilenets.checkpoint import METADATA_KEY
from mobilenets.errors import CheckpointError
from mobilenets.text import printable

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys under which training scripts put the state dict; the first one present is taken."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What wrappers (DataParallel, torch.compile, Lightning) put before every tensor's name."""
_AVERAGED = "n_averaged"
"""The counter of torch's `AveragedModel`, which stands beside the tensors of a `model_ema`."""
_MAX_WRAPPERS = 8
"""A dict can hold itself."""
MAX_VALUES = 1 << 27
"""Numbers in a file; the largest network here has 37 million."""
IGNORED = "num_batches_tracked"
"""torch's step counter of a batch norm; nothing that a network computes depends on it."""


@dataclass(frozen=True)
class StateDict:
    """The tensors of a file under the names that it gives them, in its order."""

    tensors: Mapping[str, NDArray[np.float32]]
    notes: tuple[str, ...]
    """What had to be decided to get at them, in sentences."""


def read(path: Path) -> StateDict:
    """Read a `.pt`, `.pth`, `.bin` or `.safetensors` file, whatever its name's ending.

    Raises `CheckpointError` for a file that is missing, truncated, holds anything but tensors,
    or has a tensor that is not of floating-point numbers or has NaN or infinity in it.
    """
    try:
        with path.open("rb") as stream:
            magic = stream.read(9)
    except FileNotFoundError as error:
        raise CheckpointError("there is no such file.", file=path) from error
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror}).", file=path) from error
    try:
        if magic[8:] == b"{":  # after the eight bytes of a safetensors header's length
            return _checked(_load_safetensors(path), [])
        if magic.startswith((b"PK\x03\x04", b"\x80")):
            return _checked(*_unwrap(_load_pickle(path)))
    except CheckpointError as error:
        raise error.in_file(path) from error
    raise CheckpointError(
        "is neither a PyTorch state dict nor a safetensors file." if magic else "is empty.",
        file=path,
        remedy="Accepted: what torch.save(model.state_dict(), FILE) or safetensors writes.",
    )


def _load_pickle(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "is a pickle with more than tensors in it, or a damaged one; it was not loaded, "
            "because that could run any code.",
            remedy="If you trust its author, load it yourself and save the tensors alone: "
            "torch.save(model.state_dict(), FILE)",
        ) from error
    except Exception as error:  # the bytes can be anything: whatever the reader trips over means the same
        raise CheckpointError(
            f"cannot be read: it is truncated or damaged ({_first_line(error)})."
        ) from error
    return loaded


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            if METADATA_KEY in (file.metadata() or {}):
                raise CheckpointError("is one of our checkpoints already; use it as it is.")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"cannot be read: it is truncated or damaged ({_first_line(error)})."
        ) from error


def _first_line(error: Exception) -> str:
    return printable((str(error) or type(error).__name__).splitlines()[0][:200])


def _unwrap(loaded: object) -> tuple[dict[str, Any], list[str]]:
    """The innermost dict of tensors, without the prefixes that wrappers add."""
    notes = []
    for _ in range(_MAX_WRAPPERS):
        if not isinstance(loaded, Mapping):
            break
        inside = next((key for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if inside is None:
            break
        others = [key for key in WRAPPERS if key != inside and isinstance(loaded.get(key), Mapping)]
        left = f"; {', '.join(map(repr, others))} left aside" if others else ""
        notes.append(f"The tensors are those under {inside!r}{left}.")
        loaded = loaded[inside]
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(key, str) for key in loaded):
        kind = type(loaded).__name__ if not isinstance(loaded, Mapping) else "dict without named tensors"
        raise CheckpointError(
            f"holds a {kind}, not a state dict.",
            remedy="Save one with: torch.save(model.state_dict(), FILE)",
        )
    tensors: dict[str, Any] = {name: value for name, value in loaded.items() if name != _AVERAGED}
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
        notes.append(f"The prefix {prefix!r} was taken off every name.")
    return tensors, notes


def _checked(tensors: Mapping[str, Any], notes: list[str]) -> StateDict:
    """The tensors as float32, every one finite."""
    result: dict[str, NDArray[np.float32]] = {}
    converted: set[str] = set()
    values_read = 0
    for name, tensor in tensors.items():
        if name.endswith(IGNORED):
            continue
        label = f"'{printable(name)}'"
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{label} is a {type(tensor).__name__}, not a tensor.")
        kind = str(tensor.dtype).removeprefix("torch.")
        if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
            raise CheckpointError(
                f"tensor {label} is {kind} ({str(tensor.layout).removeprefix('torch.')}); "
                "weights must be dense floating-point numbers."
            )
        values_read += tensor.numel()  # of a view that repeats one number, the file holds one
        if values_read > MAX_VALUES:
            raise CheckpointError(f"has more than {MAX_VALUES:,} numbers; no network here has so many.")
        if tensor.dtype != torch.float32:
            converted.add(kind)
        values = tensor.detach().to(torch.float32)
        if not bool(torch.isfinite(values).all()):
            raise CheckpointError(f"tensor {label} has NaN or infinity in it.")
        if name.endswith("running_var") and bool((values < 0).any()):
            raise CheckpointError(f"tensor {label} has a negative variance in it.")
        result[name] = np.array(values.numpy())
    if converted:
        notes.append(f"Tensors stored as {', '.join(sorted(converted))} were converted to float32.")
    return StateDict(result, tuple(notes))
