"""Keras' layer names (`keras.applications`, 3.15.1), derived from the structure of a `Spec`.

A tensor is named by its layer and variable as Keras 3 spells them: `block_1_expand/kernel`,
`conv_dw_1_bn/moving_mean`.
"""

import dataclasses
from typing import Literal, NamedTuple, assert_never

from mobilenets import spec as specs
from mobilenets.errors import SpecError
from mobilenets.preprocessing import Preprocessing, for_channels
from mobilenets.spec import Block, Conv, LayerScale, Linear, MultiQueryAttention, Pool, Spec, SqueezeExcite
from mobilenets.weights.source import Layout, Place, Source

EPSILON = 1e-3
"""Batch norm's, in every MobileNet of Keras."""
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}

Kind = Literal["conv2d", "depthwise_conv2d", "dense", "batch_normalization"]
"""Keras 3's class of a layer, as a path in a file has it."""


class _Family(NamedTuple):
    """How one of Keras' three modules names its layers, and what it does beside the tables."""

    stem: tuple[str, str]
    """The convolution and its norm."""
    block: str
    """What the names in block `{0}` begin with; the blocks after the stem are counted from 0."""
    norm: str
    """What the norm's name adds to its convolution's."""
    last: tuple[str, str] | None
    """The last 1×1 convolution before the pooling and its norm, where it is a block of its own."""
    classifier: Place
    momentum: float
    """PyTorch's sense: 1 − Keras'."""
    dropout: float


# keras 3.15.1, keras/src/applications: mobilenet.py, mobilenet_v2.py, mobilenet_v3.py
_V1 = _Family(("conv1", "conv1_bn"), "conv_", "_bn", None, Place("conv_preds", "hwio_matrix"), 0.01, 1e-3)
_V2 = _Family(
    ("Conv1", "bn_Conv1"),
    "block_{0}_",
    "_BN",
    ("Conv_1", "Conv_1_bn"),
    Place("predictions", "io"),
    0.001,
    0.0,
)
_V3 = _Family(
    ("conv", "conv_bn"),
    "expanded_conv_{0}_",
    "_bn",
    ("conv_1", "conv_1_bn"),
    Place("logits", "hwio_matrix"),
    0.001,
    0.2,
)
HEAD = "conv_2"
"""V3's 1×1 convolution between the pooling and the classifier."""
_FIRST = "expanded_conv_"
"""What the names in V2's and V3's first block begin with."""


def _family(spec: Spec) -> _Family:
    """The module of Keras that builds networks of this form; `SpecError` where none does."""
    _, *body = spec.blocks
    separable = [tuple(op.name for op in block.ops) == ("depthwise", "pointwise") for block in body]
    if body and all(separable) and not spec.head:
        return _V1
    inverted = all(_is_inverted_residual(block, gates=bool(spec.head)) for block in body[:-1])
    if len(body) > 1 and inverted and _is_lone(body[-1]) and len(spec.head) <= 1:
        return _V3 if spec.head else _V2
    raise SpecError(f"Keras cannot express {spec.name}: keras.applications has MobileNet V1, V2 and V3.")


def _is_lone(block: Block) -> bool:
    return len(block.ops) == 1 and isinstance(block.ops[0], Conv) and block.ops[0].norm


def _is_inverted_residual(block: Block, *, gates: bool) -> bool:
    names = [op.name for op in block.ops if not (gates and isinstance(op, SqueezeExcite))]
    return names in (["expand", "depthwise", "project"], ["depthwise", "project"])


def _places(spec: Spec) -> dict[str, Place]:
    """Raises `SpecError` for a network that none of Keras' three modules can express."""
    family = _family(spec)
    places: dict[str, Place] = {}
    for layer in specs.layers(spec):
        first, second = _layer_names(spec, family, layer)
        match layer.op:
            case Conv():
                layout: Layout = "hwcm" if layer.op.depthwise else "hwio"
                found = {"conv.weight": Place(f"{first}/kernel", layout)}
                if layer.op.norm:
                    found |= {f"norm.{ours}": Place(f"{second}/{theirs}") for ours, theirs in _NORM.items()}
                else:
                    found["conv.bias"] = Place(f"{first}/bias")
            case SqueezeExcite():
                found = {}
                for ours, name in (("reduce", first), ("expand", second)):
                    found[f"{ours}.weight"] = Place(f"{name}/kernel", "hwio")
                    found[f"{ours}.bias"] = Place(f"{name}/bias")
            case Linear():
                found = {"weight": Place(f"{first}/kernel", family.classifier.layout)}
                found["bias"] = Place(f"{first}/bias")
            case Pool():
                found = {}
            case MultiQueryAttention() | LayerScale():
                raise SpecError(f"Keras cannot express {layer.path} of {spec.name}.")
            case _:
                assert_never(layer.op)
        places |= {f"{layer.path}.{part}": place for part, place in found.items()}
    return places


def _layer_names(spec: Spec, family: _Family, layer: specs.Layer) -> tuple[str, str]:
    """Keras' names of a layer's convolution and norm, or of a gate's two convolutions."""
    if layer.block is None:
        return (family.classifier.name if isinstance(layer.op, Linear) else HEAD), ""
    if layer.block == 0:
        return family.stem
    if family.last is not None and layer.block == len(spec.blocks) - 1:
        return family.last
    if family is _V1:
        name = f"conv_{'dw' if layer.op.name == 'depthwise' else 'pw'}_{layer.block}"
        return name, name + family.norm
    prefix = _FIRST if layer.block == 1 else family.block.format(layer.block - 1)
    if isinstance(layer.op, SqueezeExcite):
        return f"{prefix}squeeze_excite_conv", f"{prefix}squeeze_excite_conv_1"
    return prefix + layer.op.name, prefix + layer.op.name + family.norm


def _conventions(spec: Spec) -> Spec:
    family = _family(spec)
    return dataclasses.replace(
        spec,
        padding="same",
        norm_epsilon=EPSILON,
        norm_momentum=family.momentum,
        dropout=family.dropout,
    )


def _preprocessing(spec: Spec) -> Preprocessing:
    """x / 127.5 − 1: `preprocess_input` of V1 and V2, the first layer of V3."""
    return for_channels(spec.channels)


KERAS = Source(
    name="Keras",
    prefixes=(
        "mobilenet_v1",
        "mobilenet_v2",
        "mobilenet_v3_large",
        "mobilenet_v3_small",
        "mobilenet_v3_large_minimalistic",
        "mobilenet_v3_small_minimalistic",
    ),
    rules=("keras",),
    places=_places,
    conventions=_conventions,
    preprocessing=_preprocessing,
)
"""keras.applications 3.15. The places name a layer and its variable as Keras 3 does."""


def layer_kinds(spec: Spec) -> dict[str, Kind]:
    """Keras' name of every layer with weights → its kind, in the order in which Keras keeps them.

    Raises `SpecError` as `KERAS.places` does.
    """
    kinds: dict[str, Kind] = {}
    by_layout: dict[Layout, Kind] = {"hwcm": "depthwise_conv2d", "io": "dense"}
    for place in _places(spec).values():
        layer, _, variable = place.name.rpartition("/")
        if variable == "kernel":
            kinds[layer] = by_layout.get(place.layout, "conv2d")
        elif variable == "gamma":
            kinds[layer] = "batch_normalization"
    return kinds


def classifier_place(spec: Spec) -> Place:
    """The classifier's layer, and the layout of its kernel."""
    return _family(spec).classifier
