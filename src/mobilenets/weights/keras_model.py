"""Which MobileNet a Keras file holds, and what the file says of it.

Files under other names than Keras 3's are brought to them: tf.keras wrote V3 as
`expanded_conv_1/expand/BatchNorm`, and early Keras 3 counts the layers of each class, as Keras itself
then loads them. A base without its top is completed by the dense layer that its user put on it.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from mobilenets import spec as specs
from mobilenets import zoo
from mobilenets.errors import CheckpointError, MobilenetsError
from mobilenets.spec import Conv
from mobilenets.text import count, first_few, printable
from mobilenets.weights import keras_config, keras_file
from mobilenets.weights.keras import HEAD, KERAS, Kind, classifier_place, layer_kinds
from mobilenets.weights.keras_config import Description
from mobilenets.weights.keras_file import StoredLayer
from mobilenets.weights.matching import found_by_name
from mobilenets.weights.source import Found, Place, Tensors

_KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class _Plan:
    """A network's layers by name, trunk and top apart."""

    prefix: str
    trunk: Mapping[Kind, tuple[str, ...]]
    """Kind of layer → names in order, up to the last convolution before the pooling."""
    top: Mapping[Kind, tuple[str, ...]]
    classifier: Place
    strides: Mapping[str, int]
    """Of every convolution in the trunk, by name."""

    def names(self) -> set[str]:
        """Of the trunk."""
        return {name for names in self.trunk.values() for name in names}


@cache
def _plan(prefix: str) -> _Plan:
    spec = zoo.ZOO[prefix].build(1.0)
    classifier = classifier_place(spec)
    kinds, places = layer_kinds(spec), KERAS.places(spec)
    strides = {
        places[f"{layer.path}.conv.weight"].name.removesuffix("/kernel"): layer.op.stride
        for layer in specs.layers(spec)
        if isinstance(layer.op, Conv) and layer.block is not None
    }

    def of(kind: Kind, top: bool) -> tuple[str, ...]:
        ends = (HEAD, classifier.name)
        return tuple(name for name, its in kinds.items() if its == kind and (name in ends) == top)

    return _Plan(
        prefix,
        trunk={kind: of(kind, False) for kind in _KINDS},
        top={kind: of(kind, True) for kind in _KINDS},
        classifier=classifier,
        strides=strides,
    )


def found(path: Path) -> Found:
    """The MobileNet in a Keras file, with what its configuration says of it.

    A base without its top is completed by the one dense layer that its user put on it. Raises
    `CheckpointError` naming the layer or tensor for anything that is not a MobileNet and one
    classifier.
    """
    file = keras_file.read(path)
    try:
        said = Description() if file.config is None else keras_config.describe(file.config)
        spelling = _keras_3_spelling({layer.name for layer in file.layers})
        layers = _renamed(file.layers, spelling)
        plan, named = _identified(layers)
        notes = [f"The file is {file.form}.", *file.notes, *said.notes]
        if plan is None:
            result = found_by_name(_tensors(named), (KERAS,))  # which says what is wrong
        else:
            if {layer.name for layer in named} != {layer.name for layer in layers}:
                notes.append(
                    "Its layers carry no names of Keras' MobileNets: those of each class were taken in order."
                )
            _check_strides(plan, {spelling.get(name, name): by for name, by in said.strides.items()})
            result, more = _with_top(plan, named)
            notes += more
        result = _as_described(result, said)
        remarks = _remarks(result, said)
        _check_one_output(result, said)
        return dataclasses.replace(result, notes=(*notes, *result.notes, *remarks))
    except MobilenetsError as error:
        raise error.in_file(path) from error


def _keras_3_spelling(names: set[str]) -> dict[str, str]:
    """What Keras 3 calls the layers of tf.keras' V3 and of the published V2."""
    if "Conv/BatchNorm" in names:
        return {name: name.lower().replace("/batchnorm", "_bn").replace("/", "_") for name in names}
    if "bn_Conv1" in names and "predictions" not in names:
        return {"Logits": "predictions"}
    return {}


def _renamed(layers: Sequence[StoredLayer], spelling: Mapping[str, str]) -> list[StoredLayer]:
    """The layers under Keras 3's names; `CheckpointError` where one is no MobileNet's."""
    result = [dataclasses.replace(layer, name=spelling.get(layer.name, layer.name)) for layer in layers]
    names = Counter(layer.name for layer in result)
    twice = next((name for name, times in names.items() if times > 1), "")
    if twice:
        raise CheckpointError(f"has two layers named '{printable(twice)}'; which is which cannot be told.")
    for layer in result:
        if layer.kind not in _KINDS:
            raise CheckpointError(
                f"layer '{printable(layer.name)}' ({printable(layer.kind)[:40]}) has weights; "
                "no MobileNet of Keras has such a layer.",
                remedy="Save the model without it, if it stands before or after the network.",
            )
    return result


def _identified(layers: list[StoredLayer]) -> tuple[_Plan | None, list[StoredLayer]]:
    """The network whose trunk these layers hold, by name or else by order, and the layers under its names."""
    plans = [_plan(prefix) for prefix in KERAS.prefixes]
    names = {layer.name for layer in layers}
    by_name = [plan for plan in plans if plan.names() <= names]
    if by_name:  # the names of some networks are a part of others'
        return max(by_name, key=lambda plan: len(plan.names())), layers
    for plan in plans:
        if (named := _by_order(plan, layers)) is not None:
            return plan, named
    return None, layers


def _by_order(plan: _Plan, layers: list[StoredLayer]) -> list[StoredLayer] | None:
    """The layers under the plan's names, if there are as many of each kind as it needs."""
    named: list[StoredLayer] = []
    surplus = {}
    for kind in _KINDS:
        here = [layer for layer in layers if layer.kind == kind]
        names = plan.trunk[kind]
        surplus[kind] = len(here) - len(names)
        names += plan.top[kind][: surplus[kind]] if surplus[kind] > 0 else ()
        names += tuple(layer.name for layer in here[len(names) :])
        named += [dataclasses.replace(layer, name=name) for layer, name in zip(here, names, strict=False)]
    exact = surplus["depthwise_conv2d"] == 0 == surplus["batch_normalization"]
    fits = exact and 0 <= surplus["conv2d"] <= len(plan.top["conv2d"]) and surplus["dense"] >= 0
    return named if fits else None


def _check_strides(plan: _Plan, said: Mapping[str, int]) -> None:
    """Raise where the file's own configuration has another stride than the network."""
    for name, stride in plan.strides.items():
        if said.get(name, stride) != stride:
            raise CheckpointError(
                f"layer '{name}' has stride {said[name]}; in {plan.prefix} it has {stride}.",
                remedy="A changed architecture cannot be imported.",
            )


def _tensors(layers: Sequence[StoredLayer]) -> dict[str, NDArray[np.float32]]:
    return {f"{layer.name}/{name}": array for layer in layers for name, array in layer.tensors.items()}


# --- the classifier, which may be the user's own ------------------------------------------------


def _with_top(plan: _Plan, layers: list[StoredLayer]) -> tuple[Found, list[str]]:
    """The network of `plan`, whose trunk is among `layers`, with the classifier that is there."""
    inner = plan.names() | {HEAD}
    body = [layer for layer in layers if layer.name in inner]
    top = _only_classifier(plan, body, [layer for layer in layers if layer.name not in inner])
    tensors = _tensors(body)
    kernel = top.tensors["kernel"]
    matrix: NDArray[np.float32] = kernel.reshape(*kernel.shape[-2:])
    headless = _lacks_head(plan, body) and len(matrix) == _features(body)
    name = plan.classifier.name
    notes: list[str] = []
    if top.name == name and not headless:
        return found_by_name(tensors | _tensors([top]), (KERAS,)), notes
    if top.name != name:
        notes.append(f"Its layer '{printable(top.name)}' is the classifier, on the pooled features.")
    bias = top.tensors.get("bias")
    if bias is None:
        bias = np.zeros(matrix.shape[1], np.float32)
        notes.append("The classifier has no bias; it got one of zeros.")
    if headless:
        notes.append(
            f"The layer '{HEAD}' between pooling and classifier is not there: the network was built "
            "with include_top=False."
        )
        return _without_head(plan, tensors, matrix, bias), notes
    tensors[f"{name}/kernel"] = matrix if plan.classifier.layout == "io" else matrix[None, None]
    tensors[f"{name}/bias"] = bias
    return found_by_name(tensors, (KERAS,)), notes


def _lacks_head(plan: _Plan, body: list[StoredLayer]) -> bool:
    return HEAD in plan.top["conv2d"] and all(layer.name != HEAD for layer in body)


def _only_classifier(plan: _Plan, body: list[StoredLayer], rest: list[StoredLayer]) -> StoredLayer:
    """The one layer after the pooling; `CheckpointError` where there is none, or more."""
    if not rest:
        raise CheckpointError(
            f"is {plan.prefix} without a classifier (include_top=False): the layer "
            f"'{plan.classifier.name}' is missing.",
            remedy="Save the whole model with the dense layer that you put on it, or take one with the top.",
        )
    if len(rest) > 1:
        names = [f"'{printable(layer.name)}' ({layer.kind})" for layer in rest]
        raise CheckpointError(
            f"has {count(len(rest), 'layer')} with weights beside the {plan.prefix} in it: "
            f"{first_few(names)}. A network here has one classifier on the pooled features.",
            remedy="A changed architecture cannot be imported.",
        )
    layer = rest[0]
    kernel = layer.tensors.get("kernel")
    if kernel is None:
        raise CheckpointError(f"tensor '{printable(layer.name)}/kernel' is missing.")
    flat = kernel.ndim == 2 or (kernel.ndim == 4 and kernel.shape[:2] == (1, 1))
    if layer.kind not in ("dense", "conv2d") or not flat:
        raise CheckpointError(
            f"tensor '{printable(layer.name)}/kernel' has shape {kernel.shape}; the classifier that should "
            "be there has a matrix."
        )
    features = _features(body)
    if layer.name != plan.classifier.name and kernel.shape[-2] != features:
        raise CheckpointError(
            f"tensor '{printable(layer.name)}/kernel' has shape {kernel.shape}, but pooling gives "
            f"{features} values: they were flattened instead, or come from elsewhere.",
            remedy="Only global average pooling can be expressed.",
        )
    return layer


def _features(body: list[StoredLayer]) -> int:
    """How many values enter the classifier."""
    tensors = _tensors(body)
    for name in (f"{HEAD}/bias", "conv_1_bn/gamma", "Conv_1_bn/gamma", "conv_pw_13_bn/gamma"):
        if name in tensors:
            return tensors[name].size
    return 0


def _without_head(
    plan: _Plan, tensors: Tensors, matrix: NDArray[np.float32], bias: NDArray[np.float32]
) -> Found:
    """V3 with its classifier right on the pooled features, as `include_top=False` leaves it.

    The zoo's networks have a head, so the trunk is recognised with one of zeros, which then goes.
    """
    full = zoo.ZOO[plan.prefix].build(1.0, rule="keras")
    channels, head = matrix.shape[0], full.head[0].out
    if channels > full.blocks[-1].out:
        raise CheckpointError(
            f"is {plan.prefix} without its top at a width above 1, whose head cannot be inferred.",
            remedy="Import a file of the whole network.",
        )
    stand_in = {
        f"{HEAD}/kernel": np.zeros((1, 1, channels, head), np.float32),
        f"{HEAD}/bias": np.zeros(head, np.float32),
        f"{plan.classifier.name}/kernel": np.zeros((1, 1, head, bias.size), np.float32),
        f"{plan.classifier.name}/bias": bias,
    }
    found = found_by_name({**tensors, **stand_in}, (KERAS,))
    spec = dataclasses.replace(found.spec, name=f"{found.spec.name}_no_head", head=())
    kept = {name: array for name, array in found.tensors.items() if not name.startswith("head.")}
    kept["classifier.weight"] = np.ascontiguousarray(matrix.T)
    return dataclasses.replace(found, spec=spec, tensors=kept)


# --- what the configuration says ----------------------------------------------------------------


def _as_described(found: Found, said: Description) -> Found:
    """`found` with the resolution, norms, dropout and preprocessing of the file's own configuration."""
    spec = found.spec
    momentum = None if said.norm_momentum is None else round(1 - said.norm_momentum, 12)
    spec = dataclasses.replace(
        spec,
        resolution=said.resolution or spec.resolution,
        norm_epsilon=spec.norm_epsilon if said.norm_epsilon is None else said.norm_epsilon,
        norm_momentum=spec.norm_momentum if momentum is None else momentum,
        dropout=spec.dropout if said.dropout is None else said.dropout,
    )
    if said.affine is None:
        return dataclasses.replace(found, spec=spec)
    factor, offset = said.affine
    if not factor > 0:
        raise CheckpointError(
            f"multiplies its pixels by {factor:g} before the first convolution; that must be above 0."
        )
    std = round(1 / (255 * factor), 9)
    theirs = dataclasses.replace(
        found.preprocessing,
        mean=(round(-offset * std, 9),) * spec.channels,
        std=(std,) * spec.channels,
    )
    return dataclasses.replace(found, spec=spec, preprocessing=theirs, preprocessing_is_known=True)


def _check_one_output(found: Found, said: Description) -> None:
    """A single output is a logit, of which `importing` makes two classes."""
    if found.spec.classes == 1 and said.activation not in (None, "sigmoid", "linear"):
        raise CheckpointError(
            f"has one output under the activation '{said.activation}', which is no classifier."
        )


def _remarks(found: Found, said: Description) -> list[str]:
    remarks = []
    if said.activation == "sigmoid" and found.spec.classes > 1:
        remarks.append(
            "It ends in a sigmoid for each class, so its classes may hold together; here they exclude "
            "each other (softmax). The logits are the same."
        )
    remarks.append(
        "Keras builds no resizing into a network: how pictures were brought to its side is not in the file."
    )
    if found.spec.resolution % 32:
        remarks.append(
            f"{found.spec.resolution} px is no multiple of 32. There Keras pads V1, and networks built "
            "without a fixed side, on one side alone, so that logits may differ from it."
        )
    return remarks
