"""Hugging Face transformers' tensor names (5.23), and what the files beside its weights say.

`MobileNetV1ForImageClassification` and `MobileNetV2ForImageClassification` compute as TensorFlow does.
A repository of the hub is a folder: the weights, `config.json`, and `preprocessor_config.json`. What
those two say wins over the conventions here (`beside`).
"""

import dataclasses

from mobilenets import spec as specs
from mobilenets.errors import SpecError
from mobilenets.preprocessing import Preprocessing, for_channels
from mobilenets.spec import Block, Spec
from mobilenets.weights.source import Place, Source

_NORM = ("weight", "bias", "running_mean", "running_var")

# A block's op names here → the layers' names there.
_INVERTED = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}
_SEPARABLE = ("depthwise", "pointwise")


def _places(spec: Spec) -> dict[str, Place]:
    """Raises `SpecError` for a network that is neither of the two."""
    names = [tuple(op.name for op in block.ops) for block in spec.blocks[1:]]
    if not spec.head and names and all(ops == _SEPARABLE for ops in names):
        layers = _v1_layers(spec)
    elif not spec.head and len(names) > 2 and _is_v2(names):
        layers = _v2_layers(spec)
    else:
        raise SpecError(f"transformers cannot express {spec.name}: it has V1 and V2 alone.")
    places = {}
    for ours, theirs in layers.items():
        places[f"{ours}.conv.weight"] = Place(f"{theirs}.convolution.weight")
        places |= {f"{ours}.norm.{part}": Place(f"{theirs}.normalization.{part}") for part in _NORM}
    places |= {name: Place(name) for name in ("classifier.weight", "classifier.bias")}
    return {ours: places[ours] for ours in specs.tensor_shapes(spec)}


def _is_v2(names: list[tuple[str, ...]]) -> bool:
    first, *middle, last = names
    return (
        first == ("depthwise", "project")
        and all(ops == ("expand", "depthwise", "project") for ops in middle)
        and last == ("conv",)
    )


def _v1_layers(spec: Spec) -> dict[str, str]:
    """Our path of a convolution → theirs: depthwise and pointwise layers take turns in one list."""
    paths = [f"blocks.{index}.{name}" for index in range(1, len(spec.blocks)) for name in _SEPARABLE]
    layers = {_stem_path(spec.blocks[0]): "mobilenet_v1.conv_stem"}
    return layers | {path: f"mobilenet_v1.layer.{number}" for number, path in enumerate(paths)}


def _v2_layers(spec: Spec) -> dict[str, str]:
    """The first block, which does not expand, belongs to their stem."""
    layers = {_stem_path(spec.blocks[0]): "mobilenet_v2.conv_stem.first_conv"}
    for index, block in enumerate(spec.blocks[1:-1], start=1):
        prefix = "mobilenet_v2.conv_stem" if index == 1 else f"mobilenet_v2.layer.{index - 2}"
        layers |= {f"blocks.{index}.{op.name}": f"{prefix}.{_INVERTED[op.name]}" for op in block.ops}
    return layers | {f"blocks.{len(spec.blocks) - 1}.conv": "mobilenet_v2.conv_1x1"}


def _stem_path(stem: Block) -> str:
    return f"blocks.0.{stem.ops[0].name}"


def _is_v1(spec: Spec) -> bool:
    return all(block.ops[0].name == "depthwise" for block in spec.blocks[1:])


def _conventions(spec: Spec) -> Spec:
    """TensorFlow's padding and epsilon, and its momentum and dropout as they were meant.

    The library gives torch TF-slim's decays of the running statistics (0.9997 in V1, 0.997 in V2) as
    momentum, and the shares of features to keep (0.999, 0.8) as dropout. In evaluation neither
    counts; for fine-tuning we take what TF-slim trained with: momentum 1 − decay, dropout 1 − share.
    """
    v1 = _is_v1(spec)
    return dataclasses.replace(
        spec,
        padding="same",
        norm_epsilon=1e-3,
        norm_momentum=0.0003 if v1 else 0.003,
        dropout=0.001 if v1 else 0.2,
    )


def _preprocessing(spec: Spec) -> Preprocessing:
    """Pixels from −1 to 1; the shorter side is resized to 32 px more than the crop (256 for 224)."""
    usual = for_channels(spec.channels)
    return dataclasses.replace(usual, crop_fraction=spec.resolution / (spec.resolution + 32))


TRANSFORMERS = Source(
    name="transformers",
    prefixes=("mobilenet_v1", "mobilenet_v2"),
    rules=("paper", "keras", "timm", "torchvision"),
    places=_places,
    conventions=_conventions,
    preprocessing=_preprocessing,
    background=True,
)
"""transformers 5.23. Google's checkpoints have 1001 classes, the first of them a background."""
