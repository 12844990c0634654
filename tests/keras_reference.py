"""Keras on its torch backend: its MobileNets with random weights, and the files that it saves."""

import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mobilenets.checkpoint import Checkpoint, Manifest
from mobilenets.spec import Spec, tensor_shapes
from mobilenets.weights.keras import KERAS
from mobilenets.weights.source import Found, from_ours
from mobilenets.zoo import ZOO

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'mobilenets[train]'")

import parity_rows  # noqa: E402
from mobilenets.network import MobileNet, build, from_checkpoint, to_tensors  # noqa: E402

FORMS = ("model.weights.h5", "model.keras", "model.h5")
"""What Keras 3 writes: weights, archive, whole model in Keras 2's form."""

NETWORKS: dict[tuple[str, float], tuple[str, dict[str, object]]] = {
    **{("mobilenet_v1", alpha): ("MobileNet", {}) for alpha in (0.25, 0.5, 0.75, 1.0)},
    **{("mobilenet_v2", alpha): ("MobileNetV2", {}) for alpha in (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)},
    **{("mobilenet_v3_large", alpha): ("MobileNetV3Large", {}) for alpha in (0.75, 1.0)},
    **{("mobilenet_v3_small", alpha): ("MobileNetV3Small", {}) for alpha in (0.75, 1.0)},
    ("mobilenet_v3_large_minimalistic", 1.0): ("MobileNetV3Large", {"minimalistic": True}),
    ("mobilenet_v3_small_minimalistic", 1.0): ("MobileNetV3Small", {"minimalistic": True}),
}
"""Everything that Keras publishes: our prefix and width → its function and what it takes."""


def load_keras():
    """The keras package, on torch; skips where it is not installed."""
    for package in ("keras", "h5py"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'mobilenets[keras]'")
    os.environ["KERAS_BACKEND"] = "torch"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = importlib.import_module("keras")
    assert keras.backend.backend() == "torch"
    return keras


def model(keras, prefix: str, alpha: float, *, side: int | None = 224, channels: int = 3, **given):
    """`prefix` as Keras builds it: for logits, on pictures that are normalised already."""
    name, own = NETWORKS.get((prefix, alpha), NETWORKS[prefix, 1.0])
    if name.startswith("MobileNetV3"):
        own = {"include_preprocessing": False, **own}
    settings = {"weights": None, "classifier_activation": None, "input_shape": (side, side, channels)}
    with warnings.catch_warnings():  # that pictures of 4 channels are not Keras' own
        warnings.simplefilter("ignore")
        return getattr(keras.applications, name)(alpha=alpha, **(settings | own | given))


def spec_of(prefix: str, alpha: float, **given) -> Spec:
    return KERAS.conventions(ZOO[prefix].build(alpha, rule="keras", **given))


def randomised(spec: Spec) -> MobileNet:
    network = build(spec, seed=1)
    parity_rows.randomise(network, channels=spec.channels)
    return network.eval()


def fill(theirs, network: MobileNet) -> None:
    """Give Keras' layers the weights of `network`, each by its name: Keras' own way to set them."""
    tensors = to_tensors(network)
    for ours, place in KERAS.places(network.spec).items():
        layer, _, variable = place.name.rpartition("/")
        getattr(theirs.get_layer(layer), variable).assign(from_ours(place.layout, tensors[ours]))


def save(theirs, path: Path) -> Path:
    with warnings.catch_warnings():  # that .h5 is a legacy format
        warnings.simplefilter("ignore")
        if path.name.endswith(".weights.h5"):
            theirs.save_weights(path)
        else:
            theirs.save(path)
    return path


def run(theirs, pictures) -> torch.Tensor:
    """Keras' logits for pictures N×C×H×W."""
    with torch.inference_mode():
        return theirs(pictures.permute(0, 2, 3, 1).contiguous(), training=False)


def runner(by_side: dict[int, object]) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function of pictures; Keras' padding is built for one side, so there is a model for each."""
    return lambda pictures: run(by_side[pictures.shape[-1]], pictures)


def network_of(found: Found) -> MobileNet:
    """Our network with what was found in a file."""
    labels = tuple(f"class_{index}" for index in range(found.spec.classes))
    assert {name: array.shape for name, array in found.tensors.items()} == tensor_shapes(found.spec)
    assert all(array.dtype == np.float32 for array in found.tensors.values())
    return from_checkpoint(Checkpoint(Manifest(found.spec, labels, found.preprocessing), found.tensors))
