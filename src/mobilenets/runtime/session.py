"""What every engine offers: pixels in, logits out."""

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mobilenets.checkpoint import Manifest
from mobilenets.errors import InputError
from mobilenets.spec import Spec


@runtime_checkable
class Session(Protocol):
    """An opened model. Normalisation happens inside; preparing the pixels is `preprocessing.prepare`."""

    engine: str
    """The engine's name, as `ENGINES` lists it."""
    manifest: Manifest
    trained_on: frozenset[str]
    """`checkpoint.digest` of the pictures it was trained on, where the file remembers them."""

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`uint8` N×S×S×C, N ≥ 1, to `float32` logits N×classes. `InputError` for other inputs."""
        ...


def check_pixels(pixels: NDArray[np.uint8], spec: Spec) -> None:
    """Refuse anything but `uint8` N×S×S×C of the network's size, with N ≥ 1."""
    expected = (spec.resolution, spec.resolution, spec.channels)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        kind = pixels.dtype if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise InputError(f"the pixels are {kind}; a session takes uint8 (0–255), unnormalised.")
    if pixels.ndim != 4 or pixels.shape[1:] != expected or not len(pixels):
        raise InputError(
            f"the pixels have shape {pixels.shape}; {spec.name} takes "
            f"N×{'×'.join(map(str, expected))} with N ≥ 1."
        )
