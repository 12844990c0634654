"""ADD, SUB, MUL, DIV and activations: from them, shortcuts, gates, hard-swishes and normalisation.

Hard-swish is x · relu6(x + 3) / 6 in any order of the factors, a hard sigmoid relu6(x + 3) / 6; the
gate's + 3 may be inside the bias before it, where the file has relu6(x) / 6.
"""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mobilenets.errors import CheckpointError
from mobilenets.spec import Activation
from mobilenets.weights.tflite.file import Operator
from mobilenets.weights.tflite.nodes import CLOSE, Convolution, Gate, Picture, Pool, Sum, Term, Value
from mobilenets.weights.tflite.tensor import Tensor
from mobilenets.weights.tflite.walk import Walk, refuse

_MOST_NUMBERS = 64


def add(walk: Walk, operator: Operator) -> Value:
    """ADD and SUB: a shortcut, the + 3 of a hard sigmoid, or a part of the normalisation."""
    a, b = walk.input(operator, 0), walk.input(operator, 1)
    sign = -1.0 if operator.name == "SUB" else 1.0
    if isinstance(a, Tensor) and sign > 0:
        a, b = b, a
    result: Value
    match a, b:
        case Picture(offset=offset), Tensor():
            result = _normalised(walk, operator, a, a.factor, offset + sign * _numbers(b))
        case Term(form="plain", factor=1.0, pad=(0, 0)), Tensor() if "none" in a.activations:
            form = "clipped" if "relu6" in walk.activations(operator) else "shifted"
            shift = sign * _number(operator, b)
            result = replace(a, activations=("none",), form=form, shift=shift)  # type: ignore[arg-type]
        case Term(), Term() if sign > 0:
            result = _shortcut(walk, operator, a, b)
        case _:
            refuse(operator, "is neither a shortcut nor a part of a hard sigmoid")
    return result


def _shortcut(walk: Walk, operator: Operator, a: Term, b: Term) -> Term:
    start, source = sorted((walk.consume(a, operator), walk.consume(b, operator)))
    node, other = walk.nodes[source], walk.nodes[start]
    if (node.channels, node.size) != (other.channels, other.size) or start == source:
        refuse(operator, "adds maps of different shapes, or a map to itself")
    if "none" not in walk.activations(operator):
        refuse(operator, "has an activation after a shortcut")
    found = Sum(source, node.channels, node.size, node.pooled, operator, start)
    return Term(walk.add(found), axes=a.axes)


def multiply(walk: Walk, operator: Operator) -> Value:
    """MUL and DIV: a part of a hard-swish or hard sigmoid, a gate, or a part of the normalisation."""
    a, b = walk.input(operator, 0), walk.input(operator, 1)
    if isinstance(a, Tensor) and operator.name == "MUL":
        a, b = b, a
    if isinstance(b, Tensor) and isinstance(a, Picture):
        factors = _factors(operator, b)
        return _normalised(walk, operator, a, a.factor * factors, a.offset * factors)
    if isinstance(b, Tensor):
        return _scaled(operator, a, float(_factors(operator, b)[0]) if _number(operator, b) else 0.0)
    if operator.name == "DIV" or not isinstance(a, Term) or not isinstance(b, Term):
        refuse(operator, "is neither a gate nor a part of a hard-swish")
    if a.form == "clipped":
        a, b = b, a
    if a.form != "plain" or b.form != "clipped" or a.pad != (0, 0):
        refuse(operator, "multiplies two maps, but is neither a hard-swish nor a gate with a hard sigmoid")
    if a.node != b.node:
        return _gate(walk, operator, a, b)
    if not math.isclose(b.shift, 3, rel_tol=CLOSE) or "none" not in a.activations:
        refuse(operator, f"multiplies x by relu6(x + {b.shift:.4g}); a hard-swish adds 3")
    return _hard_swish(replace(a, form="product", factor=a.factor * b.factor))


def _factors(operator: Operator, tensor: Tensor) -> NDArray[np.float64]:
    """What a constant multiplies by: itself, or its inverse for DIV."""
    factors = _numbers(tensor)
    if operator.name == "MUL":
        return factors
    if not factors.all():
        refuse(operator, "divides by zero")
    return 1 / factors


def _scaled(operator: Operator, value: Value, number: float) -> Value:
    result: Value
    match value:
        case Term(form="clipped"):
            result = replace(value, factor=value.factor * number)
        case Term(form="product"):
            result = _hard_swish(replace(value, factor=value.factor * number))
        case Term(form="plain") if value.factor != 1:  # the sum before a mean
            result = replace(value, factor=value.factor * number)
        case Term(form="plain", pad=(0, 0)) if "relu6" in value.activations:
            result = replace(value, activations=("none",), form="clipped", shift=0.0, factor=number)
        case _:
            refuse(operator, f"multiplies by {number:.4g} what is no part of a hard-swish or hard sigmoid")
    return result


def _hard_swish(term: Term) -> Term:
    """A product with its factor, which is a hard-swish once that is 1/6."""
    if not math.isclose(term.factor, 1 / 6, rel_tol=CLOSE):
        return term
    return replace(term, form="plain", activations=("hard_swish",), factor=1.0)


def _gate(walk: Walk, operator: Operator, a: Term, b: Term) -> Term:
    """a · relu6(b + 3) / 6, where b comes from a's mean through two convolutions."""
    expand = walk.nodes[b.node]
    reduce = walk.nodes[max(expand.source, 0)]
    pool = walk.nodes[max(reduce.source, 0)]
    source = walk.consume(a, operator)
    node = walk.nodes[source]
    shaped = (
        isinstance(expand, Convolution)
        and isinstance(reduce, Convolution)
        and isinstance(pool, Pool)
        and pool.source == source
        and expand.kernel == reduce.kernel == 1
        and expand.groups == reduce.groups == 1
        and expand.channels == node.channels
    )
    if not shaped or not isinstance(expand, Convolution) or not isinstance(reduce, Convolution):
        refuse(
            operator, "weighs a map by what is no gate of its own mean (mean, 1×1, ReLU, 1×1, hard sigmoid)"
        )
    folded = abs(b.shift) < CLOSE
    three = math.isclose(b.shift, 3, rel_tol=CLOSE)
    if not math.isclose(b.factor, 1 / 6, rel_tol=CLOSE) or not (folded or three):
        refuse(
            operator, f"has the gate relu6(x + {b.shift:.4g}) · {b.factor:.4g}; accepted: relu6(x + 3) / 6"
        )
    found = Gate(
        source=source,
        channels=node.channels,
        size=node.size,
        pooled=node.pooled,
        operator=operator,
        reduce=reduce,
        expand=expand,
        reduce_activations=walk.used[expand.source],
        folded=folded,
        factor=b.factor,
    )
    return Term(walk.add(found), axes=a.axes)


def _normalised(
    walk: Walk, operator: Operator, value: Picture, factor: NDArray[np.float64], offset: NDArray[np.float64]
) -> Picture:
    channels = walk.nodes[0].channels
    if value.pad != (0, 0) or {factor.size, offset.size} - {1, channels}:
        refuse(operator, "normalises the picture otherwise than by one number per channel, before padding")
    return replace(value, factor=factor, offset=offset)


def _number(operator: Operator, tensor: Tensor) -> float:
    values = _numbers(tensor)
    if values.size != 1:
        refuse(operator, f"has a constant of shape {tensor.shape}; accepted: a single number")
    return float(values[0])


def _numbers(tensor: Tensor) -> NDArray[np.float64]:
    if math.prod(tensor.shape) > _MOST_NUMBERS:
        raise CheckpointError(
            f"{tensor.label} has shape {tensor.shape} where a number, or one per colour, is expected: "
            "norms must be folded into the convolutions."
        )
    return tensor.values().astype(np.float64).ravel()


_KINDS: dict[str, Activation] = {
    "RELU": "relu",
    "RELU6": "relu6",
    "HARD_SWISH": "hard_swish",
    "GELU": "gelu",
}


def activate(walk: Walk, operator: Operator) -> Value:
    """RELU, RELU6, HARD_SWISH and GELU as operators of their own."""
    value, wanted = walk.input(operator, 0), _KINDS[operator.name]
    result: Value
    match value:
        case Term(form="shifted") if wanted == "relu6":
            result = replace(value, form="clipped")
        case Term(form="plain", factor=1.0, pad=(0, 0)) if "none" in value.activations:
            result = replace(value, activations=(wanted,))
        case _:
            refuse(operator, "activates something else than the output of a convolution")
    return result
