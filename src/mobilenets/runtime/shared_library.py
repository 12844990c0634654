"""A compiled model's shared library, called from Python; `c/model.h` is what it offers.

A bundle carries this file to run itself, so it needs ctypes and numpy alone.
"""

import ctypes
import os
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenets.errors import CheckpointError, EnvironmentFault

_MAX_THREADS = 32
"""`MODEL_MAX_THREADS`: those that share one picture."""
_NO_THREADS = 4
"""`MODEL_NO_THREADS`."""

_Memory = ctypes.Array[ctypes.c_char]
"""An opened model's."""


class Library:
    """The library `file`, opened with at most `threads` threads; without a number, one for each core.

    One picture is shared by all threads, by 32 at most. Of a batch with at least as many pictures as
    threads, each thread computes whole pictures, in memory of its own, which is taken when the first such
    batch comes: from then on the library holds what the shared one takes and `threads` × `model_bytes(1)`.
    The logits are the same to the bit, whoever computed them.

    It runs one batch at a time; calls from several threads take turns. Raises `CheckpointError` where
    `file` is no such library, and `EnvironmentFault` where it was compiled for another processor.
    """

    def __init__(self, file: Path, threads: int | None = None):
        self._turn = threading.Lock()
        self._shared: _Memory | None = None
        self._alone: list[_Memory] = []
        """One for each thread, with one thread each."""
        self._pool: ThreadPoolExecutor | None = None
        self._file = file
        self._functions = open_library(file)
        number = ctypes.c_int
        self.side, self.channels, self.classes = (
            number.in_dll(self._functions, f"model_{name}").value for name in ("side", "channels", "classes")
        )
        self.path = self._functions.model_path().decode()
        self.threads = threads or _cores()
        """How many it has; 1 where the library has none, or the system gives no more."""
        code, self._shared = self._open(min(self.threads, _MAX_THREADS))
        if code == _NO_THREADS:
            self.threads = 1
            code, self._shared = self._open(1)
        self._check(code)

    def _open(self, threads: int) -> tuple[int, _Memory]:
        size = int(self._functions.model_bytes(threads))
        memory = ctypes.create_string_buffer(size)
        return self._functions.model_open(memory, size, threads), memory

    def _check(self, code: int) -> None:
        if code:
            raise EnvironmentFault(
                f"{self._functions.model_error(code).decode()}.",
                file=self._file,
                remedy="Export the model again on this machine, or for its kind: --target.",
            )

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`uint8` N×side×side×channels to `float32` logits N×classes.

        Raises `ValueError` for another array, and where the library is closed.
        """
        expected = (self.side, self.side, self.channels)
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != expected:
            raise ValueError(
                f"the model takes uint8 N×{'×'.join(map(str, expected))}, not {batch.dtype} {batch.shape}"
            )
        pictures = np.ascontiguousarray(batch)
        logits = np.empty((len(pictures), self.classes), np.float32)
        with self._turn:
            if self._shared is None:
                raise ValueError("the library is closed")
            self._run(pictures, logits)
        return logits

    def _run(self, pictures: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
        apart = len(pictures) - len(pictures) % self.threads if self.threads > 1 else 0
        if apart:
            self._run_apart(pictures[:apart], logits[:apart])
        pixels, rows = _address(pictures), _address(logits)
        for i in range(apart, len(pictures)):
            self._functions.model_run(
                self._shared, pixels + i * pictures.strides[0], rows + i * logits.strides[0]
            )

    def _run_apart(self, pictures: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
        """Every thread takes the next picture that nobody has; ctypes lets the others run meanwhile."""
        pool = self._pool or self._open_apart()
        waiting = deque(zip(pictures, logits, strict=True))

        def work(memory: _Memory) -> None:
            while True:
                try:
                    picture, row = waiting.popleft()
                except IndexError:
                    return
                self._functions.model_run(memory, _address(picture), _address(row))

        others = [pool.submit(work, memory) for memory in self._alone[1:]]
        try:
            work(self._alone[0])
        finally:  # also after Ctrl-C nobody writes into these arrays any more
            waiting.clear()
            wait(others)
        for other in others:
            other.result()

    def _open_apart(self) -> ThreadPoolExecutor:
        while len(self._alone) < self.threads:
            code, memory = self._open(1)
            self._check(code)
            self._alone.append(memory)
        self._pool = ThreadPoolExecutor(self.threads - 1, "mobilenets")
        return self._pool

    def close(self) -> None:
        """Stop its threads; it cannot run any more."""
        with self._turn:
            if self._pool is not None:
                self._pool.shutdown()
            for memory in (self._shared, *self._alone):
                if memory is not None:
                    self._functions.model_close(memory)
            self._shared, self._alone, self._pool = None, [], None

    def __del__(self) -> None:
        self.close()


def _address(array: NDArray[np.uint8] | NDArray[np.float32]) -> int:
    """Where it lies; `array.ctypes.data` runs Python code for it, which weights push out of the cache."""
    return int(array.__array_interface__["data"][0])


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
