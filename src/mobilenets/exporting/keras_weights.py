"""A checkpoint as a weights file of Keras 3, for `load_weights` of a `keras.applications` model.

The file is what `model.save_weights("x.weights.h5")` writes: a group per layer, by class and count.
What Keras would compute otherwise is refused, or brought into the weights where that is exact.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mobilenets import files
from mobilenets import spec as specs
from mobilenets.checkpoint import Checkpoint
from mobilenets.errors import CheckpointError, GateFailed, InputError, MissingExtra, SpecError
from mobilenets.exporting.written import Written
from mobilenets.network import from_checkpoint
from mobilenets.preprocessing import Preprocessing, for_channels
from mobilenets.spec import Conv, Layer, Spec, padding_amounts
from mobilenets.tolerances import agreement
from mobilenets.weights import keras_model
from mobilenets.weights.keras import EPSILON, KERAS, layer_kinds
from mobilenets.weights.matching import Match, identify
from mobilenets.weights.source import from_ours, shape_there

SUFFIX = ".weights.h5"
"""How the name must end: Keras decides by it how a file is read."""
_ORDER = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
"""Keras 3 numbers a layer's variables in this order."""
BUILDERS = {
    "mobilenet_v1": "MobileNet",
    "mobilenet_v2": "MobileNetV2",
    "mobilenet_v3_large": "MobileNetV3Large",
    "mobilenet_v3_small": "MobileNetV3Small",
    "mobilenet_v3_large_minimalistic": "MobileNetV3Large",
    "mobilenet_v3_small_minimalistic": "MobileNetV3Small",
}
"""Our prefix → the function of `keras.applications`."""


def write(checkpoint: Checkpoint, out: str | Path) -> Written:
    """Write `out` (`*.weights.h5`), and say how Keras loads it. Logits are equal there, up to rounding.

    Another epsilon than Keras' is folded into the norms' scales. Raises `SpecError` for a network that
    `keras.applications` cannot build, naming the layer (symmetric padding, another rounding of channels,
    V4, a changed block), `InputError` for another ending of the name, `GateFailed` where what was read
    back does not give the same logits; nothing is left behind then.
    """
    out = Path(out)
    if not out.name.endswith(SUFFIX):
        raise InputError(
            f"Keras reads weights from names that end in '{SUFFIX}' alone.",
            file=out,
            remedy=f"Give -o NAME{SUFFIX}",
        )
    match = _match(checkpoint.spec)
    tensors, notes = _with_keras_epsilon(checkpoint)
    arrays = {place.name: from_ours(place.layout, tensors[ours]) for ours, place in match.places.items()}
    with files.replacing(out) as temporary:
        _write(temporary, checkpoint.spec, arrays)
        _compare(checkpoint, temporary)
    notes += _differences(checkpoint.spec, match)
    return Written(out, how_to_load(checkpoint, match, out.name), tuple(notes))


# --- what Keras can express ---------------------------------------------------------------------


def _match(spec: Spec) -> Match:
    """The network of `keras.applications` that is this one, with its width multiplier."""
    places = KERAS.places(spec)
    shapes = {
        place.name: shape_there(place.layout, specs.tensor_shapes(spec)[ours])
        for ours, place in places.items()
    }
    try:
        match = identify(shapes, (KERAS,))
    except CheckpointError as error:
        raise SpecError(
            f"Keras cannot express {spec.name}: {error.what}",
            remedy="Keras rounds channels by a rule of its own: zoo functions take it as rule='keras'.",
        ) from error
    for theirs, ours in zip(_forms(match.spec), _forms(spec), strict=True):
        if theirs != ours:
            raise SpecError(
                f"Keras cannot express {spec.name}: it has {ours} where {match.spec.name} has {theirs}."
            )
    _check_padding(spec, match.prefix)
    return match


def _forms(spec: Spec) -> list[object]:
    """All that decides what is computed, but the tensors' shapes."""
    blocks: list[object] = [dataclasses.replace(block, stage=0) for block in spec.blocks]
    return [*blocks, *(dataclasses.replace(conv, dense=False) for conv in spec.head)]


def _check_padding(spec: Spec, prefix: str) -> None:
    for layer in specs.layers(spec):
        if isinstance(layer.op, Conv):
            ours = padding_amounts(layer.size_in, layer.op.kernel, layer.op.stride, spec.padding)
            theirs = _keras_padding(layer, layer.op, prefix)
            if ours != theirs:
                raise SpecError(
                    f"Keras cannot express {spec.name} at {spec.resolution} px: {layer.path} pads {ours[0]} "
                    f"before and {ours[1]} after ('{spec.padding}'), Keras {theirs[0]} and {theirs[1]}.",
                    remedy="Networks with padding 'same' can be written, V1 at multiples of 32 px.",
                )


def _keras_padding(layer: Layer, op: Conv, prefix: str) -> tuple[int, int]:
    """V1 pads its strided depthwise layers after the map whatever its side; the rest is `same`."""
    if prefix == "mobilenet_v1" and op.depthwise and op.stride == 2:
        return 0, 1
    return padding_amounts(layer.size_in, op.kernel, op.stride, "same")


def _with_keras_epsilon(checkpoint: Checkpoint) -> tuple[dict[str, NDArray[np.float32]], list[str]]:
    """The tensors for a norm with Keras' epsilon: scale · √((variance + 1e-3) / (variance + ours)).

    Exact in running, and the statistics stay those that were measured.
    """
    tensors, epsilon = dict(checkpoint.tensors), checkpoint.spec.norm_epsilon
    if epsilon == EPSILON:
        return tensors, []
    for name in checkpoint.tensors:
        if name.endswith("norm.weight"):
            variance = tensors[f"{name.removesuffix('weight')}running_var"].astype(np.float64)
            factor = np.sqrt((variance + EPSILON) / (variance + epsilon))
            tensors[name] = (tensors[name] * factor).astype(np.float32)
    note = f"Batch norm's epsilon is {epsilon:g} here and {EPSILON:g} in Keras: the scales make up for it."
    return tensors, [note]


def _differences(spec: Spec, match: Match) -> list[str]:
    """What Keras' own model does otherwise while it trains."""
    theirs = KERAS.conventions(match.spec)
    notes = []
    if spec.norm_momentum != theirs.norm_momentum:
        notes.append(
            f"For training on: Keras' norms have momentum {1 - theirs.norm_momentum:g}, "
            f"here it is {1 - spec.norm_momentum:g} in that sense."
        )
    if spec.dropout and match.prefix == "mobilenet_v2":
        notes.append(f"For training on: Keras' V2 has no dropout, here it is {spec.dropout:g}.")
    return notes


# --- the file -----------------------------------------------------------------------------------


def _write(path: Path, spec: Spec, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtra("Writing a Keras file", "keras", "h5py") from error
    by_layer: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name, array in arrays.items():
        layer, _, variable = name.rpartition("/")
        by_layer.setdefault(layer, {})[variable] = array
    counted: Counter[str] = Counter()
    with h5py.File(path, "w") as file:
        for layer, kind in layer_kinds(spec).items():
            index = counted[kind]
            counted[kind] += 1
            group = file.create_group(f"layers/{kind}" + (f"_{index}" if index else "") + "/vars")
            group.attrs["name"] = layer
            for number, variable in enumerate(sorted(by_layer[layer], key=_ORDER.index)):
                group[str(number)] = by_layer[layer][variable]


@torch.no_grad()
def _compare(checkpoint: Checkpoint, path: Path) -> None:
    """Read the file as anybody's, and compare its logits with the checkpoint's on two pictures of noise."""
    found = keras_model.found(path)
    side = checkpoint.spec.resolution
    manifest = dataclasses.replace(checkpoint.manifest, spec=dataclasses.replace(found.spec, resolution=side))
    again, ours = from_checkpoint(Checkpoint(manifest, found.tensors)), from_checkpoint(checkpoint)
    noise = torch.randn(2, checkpoint.spec.channels, side, side, generator=torch.Generator().manual_seed(0))
    result = agreement(ours(noise).numpy(), again(noise).numpy())
    if not result.holds:
        raise GateFailed(
            f"what was written for Keras gives other logits than the checkpoint ({result.relative:.2g} "
            "standard deviations); nothing was left at the destination."
        )


# --- how it is loaded ---------------------------------------------------------------------------


def how_to_load(checkpoint: Checkpoint, match: Match, name: str) -> str:
    """The lines that build Keras' model and load `name`. Pixels are 0–255, N×H×W×C; it gives logits."""
    spec, side = checkpoint.spec, checkpoint.spec.resolution
    builder = BUILDERS[match.prefix]
    v3 = builder.startswith("MobileNetV3")
    arguments = [f"input_shape=({side}, {side}, {spec.channels})", f"alpha={match.width!r}"]
    if match.prefix.endswith("minimalistic"):
        arguments.append("minimalistic=True")
    if v3:
        inside = _is_keras_own(checkpoint.manifest.preprocessing)
        arguments += [f"dropout_rate={spec.dropout:g}", f"include_preprocessing={inside}"]
    elif builder == "MobileNet":
        arguments.append(f"dropout={spec.dropout:g}")
    arguments += ["weights=None", f"classes={spec.classes}", "classifier_activation=None"]
    lines = [
        "import keras",
        "",
        f"model = keras.applications.{builder}(",
        *(f"    {argument}," for argument in arguments),
        ")",
        f"model.load_weights({json.dumps(name, ensure_ascii=False)})",
        *_prepared(checkpoint.manifest.preprocessing, v3),
        "logits = model(pixels)  # keras.ops.softmax(logits) gives probabilities",
    ]
    return "\n".join(lines) + "\n"


def _is_keras_own(preprocessing: Preprocessing) -> bool:
    """Whether pixels become x / 127.5 − 1."""
    usual = for_channels(preprocessing.channels)
    return (preprocessing.scale, preprocessing.mean, preprocessing.std) == (
        usual.scale,
        usual.mean,
        usual.std,
    )


def _prepared(preprocessing: Preprocessing, v3: bool) -> list[str]:
    if _is_keras_own(preprocessing):
        return [] if v3 else ["pixels = pixels / 127.5 - 1"]
    mean, std = (list(values) for values in (preprocessing.mean, preprocessing.std))
    return [f"pixels = (pixels * {preprocessing.scale!r} - keras.ops.array({mean})) / keras.ops.array({std})"]
