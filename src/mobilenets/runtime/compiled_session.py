"""The compiled engine: our own C, in a shared library that needs nothing but libc."""

import numpy as np
from numpy.typing import NDArray

from mobilenets.checkpoint import Checkpoint
from mobilenets.compiler import translate
from mobilenets.compiler.toolchain import cached_library
from mobilenets.progress import SILENT, Progress
from mobilenets.runtime.bundle import Bundle
from mobilenets.runtime.session import check_pixels
from mobilenets.runtime.shared_library import Library


class CompiledSession:
    """A bundle's own library, or one that is compiled now and kept in the cache.

    One session runs one batch at a time. Raises `EnvironmentFault` where there is no C compiler, or
    where the library was compiled for another processor.
    """

    engine = "compiled"

    def __init__(
        self, source: Checkpoint | Bundle, *, threads: int | None = None, progress: Progress = SILENT
    ):
        self.manifest = source.manifest
        self.trained_on = source.trained_on
        if isinstance(source, Bundle):
            file = source.model_file
        else:
            file = cached_library(translate(source), progress=progress)
        self._library = Library(file, threads)

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Session.run`."""
        check_pixels(pixels, self.manifest.spec)
        return self._library.run(pixels)
