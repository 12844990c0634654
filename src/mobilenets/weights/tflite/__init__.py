"""TFLite files become checkpoints: float and quantised ones whose graph is a MobileNet.

`read` gives the graph of a file, `find` the network in it. No TensorFlow is needed, and nothing of
the file is executed.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mobilenets import spec as specs
from mobilenets.errors import CheckpointError, MobilenetsError
from mobilenets.spec import MIN_RESOLUTION, Conv, Layer, Linear, Spec, SqueezeExcite
from mobilenets.text import count, first_few, printable
from mobilenets.weights.source import IMAGENET_CLASSES, Found, without_background
from mobilenets.weights.tflite.file import Graph, is_tflite, parse, read
from mobilenets.weights.tflite.identify import Match, identify
from mobilenets.weights.tflite.nodes import Convolution, Gate, Node, Trace
from mobilenets.weights.tflite.normalisation import normalisation
from mobilenets.weights.tflite.tensor import Tensor
from mobilenets.weights.tflite.trace import trace

__all__ = ["Graph", "find", "is_tflite", "parse", "read"]

SOURCE = "TFLite"
TENSORFLOW_EPSILON = 1e-3
"""TensorFlow's batch norms, as TF-slim and Keras write them for these networks."""
_ROUNDING = 1e-6
BACKGROUND = ("background", "???")
"""What label files call TensorFlow's class 0."""

Array = NDArray[np.float32]


def find(graphs: Sequence[Graph]) -> Found:
    """The network in `graphs`, walked one after the other where it was divided into several files.

    The result has the name, blocks and op names of the zoo's network with the same structure; its
    padding, resolution, channels and classes are the file's, its weights are float, and its norms,
    which TFLite folds into the convolutions, are the identity with the folded bias. A final softmax
    is left out. A body without a classifier gets the identity as one: its logits are its features.

    Raises `CheckpointError` naming the file for a graph that is damaged or no network of the zoo.
    """
    traced = trace(graphs)
    last = graphs[-1]
    try:
        return _found(graphs, traced)
    except MobilenetsError as error:
        raise error.in_file(last.path) from error


def _found(graphs: Sequence[Graph], traced: Trace) -> Found:
    match = identify(traced)
    spec = _spec(match, traced)
    tensors = dict(_tensors(spec, traced, classifier=match.classifier))
    decision = normalisation(traced, graphs[0].metadata.normalization)
    notes = [
        *_structure_notes(graphs, traced, match, spec),
        *_form_notes(traced, match, spec),
        decision.note,
    ]
    labels = graphs[-1].metadata.labels if match.classifier else None
    if spec.classes == IMAGENET_CLASSES + 1 and match.classifier and _has_background(labels):
        spec, kept = without_background(spec, tensors)
        tensors, labels = dict(kept), labels[1:] if labels else None
        notes.append("The first of 1,001 outputs is TensorFlow's background class: it was dropped.")
    labels, label_notes = _labels(labels, spec.classes)
    return Found(
        source=SOURCE,
        spec=spec,
        tensors=tensors,
        preprocessing=decision.preprocessing,
        notes=(*notes, *label_notes),
        labels=labels,
        preprocessing_is_known=decision.known,
        licence=_licence(graphs),
    )


def _spec(match: Match, traced: Trace) -> Spec:
    """The zoo's network with what the file decides."""
    if traced.resolution < MIN_RESOLUTION:
        raise CheckpointError(
            f"takes pictures of {traced.resolution} px; the networks here take {MIN_RESOLUTION} px and more."
        )
    same = traced.padding == "same"
    return dataclasses.replace(
        match.spec,
        classes=traced.head[-1].channels if match.classifier else match.spec.features,
        resolution=traced.resolution,
        padding=traced.padding,
        norm_epsilon=TENSORFLOW_EPSILON if same else match.spec.norm_epsilon,
    )


def _has_background(labels: tuple[str, ...] | None) -> bool:
    return not labels or labels[0].lower() in BACKGROUND


# --- tensors ------------------------------------------------------------------------------------


def _tensors(spec: Spec, traced: Trace, *, classifier: bool) -> Iterator[tuple[str, Array]]:
    """Our names and the file's weights, in our order; both walk the network from the picture on."""
    nodes = iter(_with_weights(traced))
    gain = 1.0  # by how much the gate before made the map too large
    for layer in specs.layers(spec):
        match layer.op:
            case Linear() if not classifier:
                found = identity_classifier(spec.features)
            case Conv() | SqueezeExcite() | Linear():
                node = next(nodes)
                found = _layer_tensors(layer, node, spec.norm_epsilon, gain)
                gain = _gain(node)
            case _:
                found = {}
        for name, shape in specs.layer_tensors(layer).items():
            array = found[name.removeprefix(f"{layer.path}.")].reshape(shape)
            yield name, np.ascontiguousarray(array)


def _with_weights(traced: Trace) -> list[Convolution | Gate]:
    return [node for node in (*traced.body, *traced.head) if isinstance(node, Convolution | Gate)]


def _gain(node: Node) -> float:
    """A gate's factor beside 1/6. It goes into the convolution that follows, as every gate here has one."""
    gain = 6 * node.factor if isinstance(node, Gate) else 1.0
    return gain if abs(gain - 1) > _ROUNDING else 1.0


def identity_classifier(features: int) -> dict[str, Array]:
    """A classifier whose logits are the features."""
    return {"weight": np.eye(features, dtype=np.float32), "bias": np.zeros(features, np.float32)}


def _layer_tensors(layer: Layer, node: Node, epsilon: float, gain: float) -> dict[str, Array]:
    match layer.op, node:
        case SqueezeExcite(), Gate():
            expand = _bias(node.expand)
            return {
                "reduce.weight": _weight(node.reduce),
                "reduce.bias": _bias(node.reduce),
                "expand.weight": _weight(node.expand),
                "expand.bias": expand - np.float32(3) if node.folded else expand,
            }
        case Conv(norm=True), Convolution():
            return {"conv.weight": _weight(node, gain), **identity_norm(_bias(node), epsilon)}
        case Conv(), Convolution():
            return {"conv.weight": _weight(node, gain), "conv.bias": _bias(node)}
        case Linear(), Convolution():
            return {"weight": _weight(node, gain), "bias": _bias(node)}
        case _:
            raise AssertionError(f"{layer.path} was matched with another kind of layer")


def identity_norm(bias: Array, epsilon: float) -> dict[str, Array]:
    """A batch norm that only adds `bias`: mean 0, weight 1, and variance + epsilon = 1 in fp32."""
    one, eps = np.float32(1), np.float32(epsilon)
    variance = one - eps
    while variance + eps < one:
        variance = np.nextafter(variance, one)
    while variance + eps > one:
        variance = np.nextafter(variance, np.float32(0))
    return {
        "norm.weight": np.ones_like(bias),
        "norm.bias": bias,
        "norm.running_mean": np.zeros_like(bias),
        "norm.running_var": np.full_like(bias, variance),
    }


def _weight(node: Convolution, gain: float = 1.0) -> Array:
    """O×H×W×I, a depthwise 1×H×W×C, or a dense O×I, in our order: O×I×H×W; times `gain`."""
    values = node.weight.values() * np.float32(gain)
    if values.ndim == 4:
        is_1hwc = node.operator is not None and node.operator.name == "DEPTHWISE_CONV_2D"
        values = values.transpose(3, 0, 1, 2) if is_1hwc else values.transpose(0, 3, 1, 2)
    return values


def _bias(node: Convolution) -> Array:
    if node.bias is None:
        return np.zeros(node.channels, np.float32)
    return _with_size(node.bias, node.channels)


def _with_size(tensor: Tensor, size: int) -> Array:
    values = tensor.values()
    if values.size != size:
        raise CheckpointError(
            f"{tensor.label} has shape {tensor.shape}; a bias of {size} channels is needed there."
        )
    return values.ravel()


# --- notes --------------------------------------------------------------------------------------


def _structure_notes(graphs: Sequence[Graph], traced: Trace, match: Match, spec: Spec) -> Iterator[str]:
    """What was recognised, and by what."""
    together = f", divided into {len(graphs)} files" if len(graphs) > 1 else ""
    rounding = f", channels rounded by the rule '{match.rule}'" if match.rule != "timm" else ""
    outputs = count(spec.classes, "class", "classes") if match.classifier else count(spec.features, "feature")
    yield (
        f"The graph has the operators, kernels, channels, shortcuts and activations of {spec.name}"
        f"{together}{rounding}: {outputs}, {count(spec.channels, 'channel')}, {spec.resolution} px, "
        f"padding '{spec.padding}'."
    )
    if not traced.resolution_is_known:
        yield f"The file leaves the size of the picture open: {spec.resolution} px were assumed."
    for graph in graphs:
        if graph.subgraphs > 1:
            yield f"{printable(graph.path.name)} holds {graph.subgraphs} graphs; the first was read."


def _form_notes(traced: Trace, match: Match, spec: Spec) -> Iterator[str]:
    """What was changed on the way to float, and what the file does not say."""
    nodes = _with_weights(traced)
    weights = [node.weight if isinstance(node, Convolution) else node.expand.weight for node in nodes]
    kinds = {weight.kind for weight in weights} - {"float32"}
    if kinds:
        per_channel = any(w.quantization is not None and w.quantization.scale.size > 1 for w in weights)
        how = ", one scale per channel" if per_channel else ""
        yield f"Weights stored as {', '.join(sorted(kinds))}{how} were read as float32."
    ranged = sum(len(found) > 1 for found in traced.activations)
    if ranged:
        yield (
            f"{count(ranged, 'quantised activation')} stood in the file as the range of an output alone; "
            f"they were taken from {spec.name}, which fits every range."
        )
    folded = sum(isinstance(node, Gate) and node.folded for node in nodes)
    if folded:
        yield f"The + 3 of {count(folded, 'hard sigmoid')} was inside a bias: 3 was subtracted there."
    gains = [node for node in nodes if isinstance(node, Gate) and _gain(node) != 1]
    if gains:
        yield (
            f"{count(len(gains), 'hard sigmoid')} {'multiplies' if len(gains) == 1 else 'multiply'} by "
            f"{gains[0].factor:.5g} instead of 1/6: the difference went into the next convolutions."
        )
    yield (
        "Batch norms were folded into the convolutions: each is the identity with the folded bias and "
        f"epsilon {spec.norm_epsilon:g}. Before training, `unfold` gives them measured statistics."
    )
    if traced.left_out:
        yield f"{first_few(traced.left_out)} at the end left out: logits and features come without it."
    if not match.classifier:
        pooled = "" if traced.pooled else " after a global average pooling, which was added"
        yield (
            f"There is no classifier in the file: the identity stands for it, so the {spec.features:,} "
            f"'logits' are the features{pooled}."
        )


def _labels(labels: tuple[str, ...] | None, classes: int) -> tuple[tuple[str, ...] | None, list[str]]:
    """The file's labels where there is one for each class; equal ones get their number."""
    if labels is None:
        return None, []
    if len(labels) != classes or "" in labels:
        return None, [f"The file's {count(len(labels), 'label')} are not one for each of {classes} classes."]
    again = {label for label, times in Counter(labels).items() if times > 1}
    if not again:
        return labels, ["Labels: those in the file."]
    unique = tuple(f"{label} ({index})" if label in again else label for index, label in enumerate(labels))
    if len(set(unique)) != classes:
        return None, ["The file's labels are not all different, so they were left aside."]
    listed = first_few([f"'{printable(label)}'" for label in sorted(again)])
    return unique, [f"Labels: those in the file. It has {listed} more than once; the class number was added."]


def _licence(graphs: Sequence[Graph]) -> str | None:
    """What the metadata of the files say, each text once; Apache's title in the short form of SPDX."""
    said = [" ".join(printable(graph.metadata.licence).split())[:120] for graph in graphs]
    short = ["Apache-2.0" if re.match(r"Apache License\W+Version 2\.0", text) else text for text in said]
    return "; ".join(dict.fromkeys(text for text in short if text)) or None
