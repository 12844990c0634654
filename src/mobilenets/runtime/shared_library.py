"""A compiled model's shared library, called from Python; `c/model.h` is what it offers.

A bundle carries this file to run itself, so it needs ctypes and numpy alone.
"""

import ctypes
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenets.errors import CheckpointError, EnvironmentFault

_MAX_THREADS = 64
"""`MODEL_MAX_THREADS`."""
_NO_THREADS = 4
"""`MODEL_NO_THREADS`."""


class Library:
    """The library `file`, opened with at most `threads` threads; without a number, one for each core.

    It runs one batch at a time. Raises `CheckpointError` where `file` is no such library, and
    `EnvironmentFault` where it was compiled for another processor.
    """

    def __init__(self, file: Path, threads: int | None = None):
        self._opened = False
        self._functions = open_library(file)
        number = ctypes.c_int
        self.side, self.channels, self.classes = (
            number.in_dll(self._functions, f"model_{name}").value for name in ("side", "channels", "classes")
        )
        self.path = self._functions.model_path().decode()
        threads = min(threads or _cores(), _MAX_THREADS)
        size = int(self._functions.model_bytes(threads))
        self._memory = ctypes.create_string_buffer(size)
        code = self._functions.model_open(self._memory, size, threads)
        if code == _NO_THREADS:  # the library has none, or the system gives no more
            code = self._functions.model_open(self._memory, size, 1)
        if code:
            raise EnvironmentFault(
                f"{self._functions.model_error(code).decode()}.",
                file=file,
                remedy="Export the model again on this machine, or with --target x86-64.",
            )
        self._opened = True

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`uint8` N×side×side×channels to `float32` logits N×classes; `ValueError` for another array."""
        expected = (self.side, self.side, self.channels)
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != expected:
            raise ValueError(
                f"the model takes uint8 N×{'×'.join(map(str, expected))}, not {batch.dtype} {batch.shape}"
            )
        pictures = np.ascontiguousarray(batch)
        logits = np.empty((len(pictures), self.classes), np.float32)
        for picture, row in zip(pictures, logits, strict=True):
            self._functions.model_run(self._memory, picture.ctypes.data, row.ctypes.data)
        return logits

    def close(self) -> None:
        """Stop its threads; it cannot run any more."""
        if self._opened:
            self._functions.model_close(self._memory)
        self._opened = False

    def __del__(self) -> None:
        self.close()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_library(file: Path) -> ctypes.CDLL:
    """The functions of `file`, with the types of their arguments."""
    try:
        functions = ctypes.CDLL(str(Path(file).resolve()))
        for name in ("model_bytes", "model_open", "model_run", "model_close", "model_error", "model_path"):
            getattr(functions, name)
    except (OSError, AttributeError) as error:
        raise CheckpointError(
            f"is no compiled model that this system can open ({error}).", file=file
        ) from error
    pointer, number = ctypes.c_void_p, ctypes.c_int
    functions.model_bytes.argtypes = [number]
    functions.model_bytes.restype = ctypes.c_size_t
    functions.model_open.argtypes = [pointer, ctypes.c_size_t, number]
    functions.model_run.argtypes = [pointer, pointer, pointer]
    functions.model_close.argtypes = [pointer]
    functions.model_close.restype = None
    functions.model_error.argtypes = [number]
    functions.model_error.restype = functions.model_path.restype = ctypes.c_char_p
    return functions
