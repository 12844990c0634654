"""What a Keras model says of itself: its configuration, read as plain JSON.

Nothing is deserialised into objects and nothing in it is run: a `Lambda` is a name here. Keras 3
(`config.json` in a `.keras` archive) and Keras 2 (`model_config` in a whole-model `.h5`) write nearly
the same tree; models may lie inside models.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from mobilenets.errors import CheckpointError
from mobilenets.text import printable

CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D")
_AUGMENTATION = re.compile(r"Random\w+|GaussianNoise|Dropout|Activity\w+")
"""Layers that do nothing when a model is only run."""
_PASSING = ("InputLayer", "ZeroPadding2D", "Cast")
_FACTORS = {"TrueDivide": "divide", "truediv": "divide", "Divide": "divide", "Multiply": "multiply"}
_FACTORS |= {
    "multiply": "multiply",
    "Subtract": "subtract",
    "subtract": "subtract",
    "Add": "add",
    "add": "add",
}


@dataclass(frozen=True)
class KerasLayer:
    """One layer of a model, as its configuration has it."""

    name: str
    kind: str
    """Keras' class name: `Conv2D`, `BatchNormalization` …"""
    config: Mapping[str, Any]
    constant: float | None = None
    """The number that an arithmetic op takes beside its tensor."""


@dataclass(frozen=True)
class Description:
    """What a configuration says beyond the tensors. `None` where it says nothing."""

    resolution: int | None = None
    affine: tuple[float, float] | None = None
    """`factor` and `offset` of what the model itself does to pixels 0–255 before its first convolution."""
    norm_epsilon: float | None = None
    norm_momentum: float | None = None
    """Keras' sense: running = momentum · running + (1 − momentum) · batch."""
    dropout: float | None = None
    activation: str | None = None
    """The last activation: `softmax`, `sigmoid`, `linear` …"""
    strides: Mapping[str, int] = field(default_factory=dict)
    """Of every convolution, by its layer's name."""
    notes: tuple[str, ...] = ()


def parse(text: str | bytes) -> Mapping[str, Any]:
    """The configuration in `text`; `CheckpointError` for anything that is not a Keras model's."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"its model configuration is not valid JSON ({error}).") from error
    if not isinstance(value, dict) or _inner(value) is None:
        raise CheckpointError(
            "its model configuration has no list of layers; it is no Sequential or Functional model."
        )
    return value


def _inner(layer: Mapping[str, Any]) -> list[Any] | None:
    """The layers inside a model, `None` for a plain layer. Early Keras wrote a Sequential as a bare list."""
    config = layer.get("config")
    layers = config.get("layers") if isinstance(config, dict) else config
    return layers if isinstance(layers, list) else None


def _layers(model: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every layer inside `model`, with its name, in the order in which Keras keeps them."""
    if depth > 8:
        raise CheckpointError("its model configuration has models inside models, more than eight deep.")
    for layer in _inner(model) or []:
        config = layer.get("config") if isinstance(layer, dict) else None
        if not isinstance(config, dict | list) or not isinstance(layer.get("class_name"), str):
            raise CheckpointError("its model configuration has a layer without class or settings.")
        name = layer.get("name") or (config.get("name") if isinstance(config, dict) else None)
        yield str(name or layer["class_name"]), layer


def flat(model: Mapping[str, Any], depth: int = 0) -> list[KerasLayer]:
    """Every plain layer of `model`, those of models inside it in their place."""
    found = []
    for name, layer in _layers(model, depth):
        if _inner(layer) is not None:
            found += flat(layer, depth + 1)
        else:
            found.append(KerasLayer(name, _kind(layer), layer["config"], _constant(layer)))
    return found


def names_by_path(model: Mapping[str, Any], path: str = "", depth: int = 0) -> dict[str, str]:
    """Where Keras 3 stores each layer → the layer's name: `layers/conv2d_3` → `block_1_project`.

    A path counts the layers of a class within their model.
    """
    names: dict[str, str] = {}
    seen: dict[str, int] = {}
    for name, layer in _layers(model, depth):
        kind = snake_case(layer["class_name"])
        index = seen[kind] = seen.get(kind, -1) + 1
        here = f"{path}layers/{kind}" + (f"_{index}" if index else "")
        names[here] = name
        if _inner(layer) is not None:
            names |= names_by_path(layer, f"{here}/", depth + 1)
    return names


def snake_case(name: str) -> str:
    """Keras' own spelling of a class in a path: `DepthwiseConv2D` → `depthwise_conv2d`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<!^)(?=[A-Z][a-z])", "_", name).lower()


def _kind(layer: Mapping[str, Any]) -> str:
    """The class; of Keras 2's wrapped TensorFlow ops, the op: `math.truediv` → `truediv`."""
    kind = str(layer["class_name"])
    function = layer["config"].get("function")
    return str(function).rpartition(".")[2] if kind == "TFOpLambda" else kind


def _constant(layer: Mapping[str, Any]) -> float | None:
    """The number among the arguments of a layer's first call, if there is exactly one.

    And if it comes after the tensor, where the order matters: 255 - x is not x - 255.
    """
    numbers: list[float] = []
    tensor_first = False

    def collect(value: object, depth: int = 0) -> None:
        nonlocal tensor_first
        if isinstance(value, dict) and "class_name" in value:
            tensor_first = tensor_first or not numbers
        elif isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list) and depth < 4:
            # Keras 2 begins a node with the incoming layer's name and two indices, which are no arguments.
            start = 3 if value and isinstance(value[0], str) else 0
            tensor_first = tensor_first or (start > 0 and not numbers)
            for inner in value[start:]:
                collect(inner, depth + 1)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            with suppress(OverflowError):
                numbers.append(float(value))

    nodes = layer.get("inbound_nodes")
    if isinstance(nodes, list) and nodes and _FACTORS.get(_kind(layer)):
        collect(nodes[0])
    if not tensor_first and _FACTORS.get(_kind(layer)) in ("subtract", "divide"):
        return None
    return numbers[0] if len(numbers) == 1 and math.isfinite(numbers[0]) else None


def describe(model: Mapping[str, Any]) -> Description:
    """What `model` says of resolution, preprocessing, norms, dropout and its last activation.

    Raises `CheckpointError` where its norms differ among themselves, or where it pools by the maximum:
    no network here does either.
    """
    layers = flat(model)
    first = next((i for i, layer in enumerate(layers) if layer.kind in CONVOLUTIONS), len(layers))
    before, notes = layers[:first], []
    resolution, note = _resolution(before)
    notes += note
    affine, note = _affine(before)
    notes += note
    pool = next((layer for layer in layers if layer.kind == "GlobalMaxPooling2D"), None)
    if pool is not None:
        raise CheckpointError(
            f"layer '{printable(pool.name)}' pools by the maximum; MobileNets here pool by the mean."
        )
    norms = [layer.config for layer in layers if layer.kind == "BatchNormalization"]
    rates = [_number(layer.config, "rate") for layer in layers if layer.kind == "Dropout"]
    return Description(
        resolution=resolution,
        affine=affine,
        norm_epsilon=_common(norms, "epsilon"),
        norm_momentum=_common(norms, "momentum"),
        dropout=rates[-1] if rates else 0.0,
        activation=_last_activation(layers),
        strides={layer.name: _stride(layer) for layer in layers if layer.kind in CONVOLUTIONS},
        notes=tuple(notes),
    )


def _stride(layer: KerasLayer) -> int:
    """A convolution's stride; `CheckpointError` where it differs by direction, or is dilated."""
    strides, dilation = layer.config.get("strides", [1, 1]), layer.config.get("dilation_rate", [1, 1])
    if strides not in ([1, 1], [2, 2]) or dilation != [1, 1]:
        raise CheckpointError(
            f"layer '{printable(layer.name)}' has strides {printable(str(strides))[:40]} and dilation "
            f"{printable(str(dilation))[:40]}; no MobileNet of Keras has those."
        )
    return int(strides[0])


def _number(config: Mapping[str, Any], key: str) -> float | None:
    value = config.get(key)
    plain = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if plain and value is not None else None


def _common(norms: list[Mapping[str, Any]], key: str) -> float | None:
    values = {_number(norm, key) for norm in norms}
    if len(values) > 1:
        shown = ", ".join(sorted(map(str, values)))
        raise CheckpointError(
            f"its batch norms have different values of {key} ({shown}); networks here have one."
        )
    return values.pop() if values else None


def _last_activation(layers: list[KerasLayer]) -> str | None:
    for layer in reversed(layers):
        if layer.kind == "Softmax":
            return "softmax"
        if layer.kind in ("Activation", "Dense", "Conv2D"):
            name = layer.config.get("activation")
            return printable(name)[:40] if isinstance(name, str) else "linear"
    return None


def _resolution(before: list[KerasLayer]) -> tuple[int | None, list[str]]:
    """The side of the input, from the input layer that is nearest to the first convolution and says it."""
    for layer in reversed(before):
        shape = layer.config.get("batch_shape", layer.config.get("batch_input_shape"))
        if layer.kind == "InputLayer" and isinstance(shape, list) and len(shape) == 4:
            sides = [side for side in shape[1:] if isinstance(side, int)]
            if len(sides) == 3:
                high, wide = sides[1:] if sides[1] == sides[2] else sides[:2]
                if high == wide:
                    return high, []
                return None, [f"Its input is {high}×{wide}; pictures are square here."]
    return None, []


def _affine(before: list[KerasLayer]) -> tuple[tuple[float, float] | None, list[str]]:
    """The product of all scalings in front of the first convolution, and what could not be read."""
    factor, offset, scaled = 1.0, 0.0, False
    notes = []
    for layer in before:
        name, number = printable(layer.name), layer.constant
        operation = _FACTORS.get(layer.kind)
        if layer.kind == "Rescaling":
            scale, shift = _number(layer.config, "scale"), _number(layer.config, "offset")
            if scale is None or shift is None:
                raise CheckpointError(
                    f"layer '{name}' rescales by {printable(str(layer.config.get('scale')))[:60]} and "
                    f"{printable(str(layer.config.get('offset')))[:60]}; one number each can be read."
                )
            factor, offset, scaled = factor * scale, offset * scale + shift, True
        elif operation is not None and number is not None and not (operation == "divide" and not number):
            scaled = True
            match operation:
                case "divide":
                    factor, offset = factor / number, offset / number
                case "multiply":
                    factor, offset = factor * number, offset * number
                case "subtract":
                    offset -= number
                case _:
                    offset += number
        elif layer.kind in ("Resizing", "CenterCrop"):
            notes.append(
                f"Its layer '{name}' ({layer.kind}) was left out: pictures are resized before the network."
            )
        elif not _AUGMENTATION.fullmatch(layer.kind) and layer.kind not in _PASSING:
            notes.append(
                f"Its layer '{name}' ({printable(layer.kind)[:40]}) before the first convolution was left "
                "out, because nothing in a file is run: if it changes the pixels, say how (--mean, --std)."
            )
    return ((factor, offset) if scaled else None), notes
