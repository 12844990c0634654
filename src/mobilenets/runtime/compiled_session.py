"""The compiled engine: our own C, in a shared library that needs nothing but libc."""

import numpy as np
from numpy.typing import NDArray

from mobilenets.checkpoint import Checkpoint
from mobilenets.compiler.kept import find_or_compile
from mobilenets.errors import CheckpointError, EnvironmentFault
from mobilenets.progress import SILENT, Progress
from mobilenets.runtime.bundle import Bundle
from mobilenets.runtime.session import check_pixels
from mobilenets.runtime.shared_library import Library


class CompiledSession:
    """A bundle's own library, or one that is compiled now and kept in the cache.

    One session runs one batch at a time; calls from several threads take turns. Of a checkpoint, `precision`
    is that of its weights, with maps in fp32; a bundle's was chosen when it was made. Raises
    `EnvironmentFault` where there is no C compiler, where the library was compiled for another processor, and
    where one that was compiled here does not open.
    """

    engine = "compiled"

    def __init__(
        self,
        source: Checkpoint | Bundle,
        *,
        threads: int | None = None,
        precision: str = "fp32",
        progress: Progress = SILENT,
    ):
        self.manifest = source.manifest
        self.trained_on = source.trained_on
        if isinstance(source, Bundle):
            self._library = Library(source.model_file, threads)
            return
        file = find_or_compile(source, precision=precision, progress=progress)
        try:
            self._library = Library(file, threads)
        except CheckpointError as error:
            remedy = "Remove its folder, and it is compiled anew. Programs must be allowed to run from there."
            raise EnvironmentFault(error.what, file=file, remedy=remedy) from error

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Session.run`."""
        check_pixels(pixels, self.manifest.spec)
        return self._library.run(pixels)
