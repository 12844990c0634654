"""TFLite's operators, one function each: convolutions, pooling, and what only changes the form.

A handler takes the walk and the operator, adds the node that it finds, and returns what the
operator's output is. What multiplies, adds and activates stands in `arithmetic`.
"""

from dataclasses import replace
from typing import get_args

from mobilenets.spec import Padding, output_size, padding_amounts
from mobilenets.weights.tflite.file import (
    Operator,
    ReduceOptions,
    ReshapeOptions,
    WindowOptions,
)
from mobilenets.weights.tflite.nodes import Convolution, Picture, Pool, Shape, Term, Value
from mobilenets.weights.tflite.tensor import Tensor
from mobilenets.weights.tflite.walk import Walk, refuse


def convolution(walk: Walk, operator: Operator) -> Value:
    """CONV_2D and DEPTHWISE_CONV_2D, of maps with channels last."""
    value, weight, options = walk.input(operator, 0), walk.constant(operator, 1), operator.options
    assert isinstance(options, WindowOptions)
    source = walk.consume(value, operator, padded=True)
    assert isinstance(value, Picture | Term)
    node, shape = walk.nodes[source], weight.shape
    if len(shape) != 4 or min(shape) < 1 or value.axes != "NHWC":
        refuse(operator, f"has a weight of shape {shape} for a map {value.axes}; accepted: O×k×k×I for NHWC")
    out, c_in = (shape[3], 1) if operator.name == "DEPTHWISE_CONV_2D" else (shape[0], shape[3])
    groups = node.channels // c_in
    if node.channels % c_in or out % groups or (operator.name == "DEPTHWISE_CONV_2D" and out != groups):
        refuse(operator, f"has a weight of shape {shape}, which does not fit {node.channels} input channels")
    kernel, stride = shape[1], options.stride[0]
    if kernel != shape[2] or kernel % 2 == 0 or options.stride not in ((1, 1), (2, 2)):
        refuse(operator, f"has kernel {shape[1]}×{shape[2]} and stride {options.stride}; no MobileNet does")
    if options.dilation != (1, 1):
        refuse(operator, f"has dilation {options.dilation}, which no MobileNet classifier has")
    _agree_on_padding(walk, operator, node.size, kernel, stride, value.pad)
    depthwise = groups == out > 1
    found = Convolution(
        source=source,
        channels=out,
        size=output_size(node.size, stride),
        pooled=node.pooled,
        operator=operator,
        kernel=kernel,
        stride=stride,
        groups=1 if depthwise else groups,
        depthwise=depthwise,
        weight=weight,
        bias=_bias(walk, operator),
    )
    return Term(walk.add(found), walk.activations(operator))


def _bias(walk: Walk, operator: Operator) -> Tensor | None:
    absent = len(operator.inputs) < 3 or operator.inputs[2] < 0
    return None if absent else walk.constant(operator, 2)


def _agree_on_padding(
    walk: Walk, operator: Operator, size: int, kernel: int, stride: int, pad: tuple[int, int]
) -> None:
    """Keep the rules that pad as this convolution does; refuse it where none is left."""
    assert isinstance(operator.options, WindowOptions)
    if operator.options.padding == "same":
        own = padding_amounts(size, kernel, stride, "same")
        pad = (own[0] + pad[0], own[1] + pad[1])
    amounts = {rule: padding_amounts(size, kernel, stride, rule) for rule in get_args(Padding)}
    allowed = {rule for rule in walk.paddings if amounts[rule] == pad}
    if not allowed:
        accepted = " or ".join(f"{amounts[rule]} ({rule})" for rule in sorted(walk.paddings))
        refuse(
            operator,
            f"pads a map of {size} px by {pad} before and after; like the others it should by {accepted}",
        )
    walk.paddings = allowed


def dense(walk: Walk, operator: Operator) -> Value:
    """FULLY_CONNECTED: a 1×1 convolution of a 1×1 map."""
    weight = walk.constant(operator, 1)
    source = walk.consume(walk.input(operator, 0), operator)
    node, shape = walk.nodes[source], weight.shape
    if len(shape) != 2 or min(shape) < 1 or shape[1] != node.channels or node.size != 1:
        refuse(operator, f"has a weight of shape {shape} for {node.channels} channels of {node.size} px")
    found = Convolution(
        source=source,
        channels=shape[0],
        size=1,
        pooled=node.pooled,
        operator=operator,
        kernel=1,
        stride=1,
        groups=1,
        depthwise=False,
        weight=weight,
        bias=_bias(walk, operator),
    )
    return Term(walk.add(found), walk.activations(operator), axes="NC")


def average_pool(walk: Walk, operator: Operator) -> Value:
    """AVERAGE_POOL_2D over the whole map."""
    value, options = walk.input(operator, 0), operator.options
    assert isinstance(options, WindowOptions)
    term = _map(operator, value)
    size = walk.nodes[term.node].size
    whole = options.window == (size, size) or (options.padding == "same" and min(options.window) >= size)
    if not whole or term.axes != "NHWC":
        refuse(operator, f"averages {options.window} px of a map of {size} px; MobileNets pool the whole map")
    return _pooled(walk, operator, term)


def reduce(walk: Walk, operator: Operator) -> Value:
    """MEAN (or SUM, whose division follows) over height and width."""
    term, axes = _map(operator, walk.input(operator, 0)), walk.constant(operator, 1).integers()
    assert isinstance(operator.options, ReduceOptions)
    over = {term.axes[axis] for axis in axes if -4 <= axis < 4}
    if over != {"H", "W"}:
        refuse(operator, f"goes over the axes {axes} of {term.axes}; accepted: height and width")
    size = walk.nodes[term.node].size
    result = _pooled(walk, operator, term)
    if operator.name == "SUM":
        result = replace(result, factor=result.factor * size * size)
    return result if operator.options.keep_dims else replace(result, axes="NC")


def _map(operator: Operator, value: Value) -> Term:
    if not isinstance(value, Term) or len(value.axes) != 4:
        refuse(operator, "pools something else than a map of features")
    return value


def _pooled(walk: Walk, operator: Operator, term: Term) -> Term:
    """The mean of the map: a node, or nothing new where the map is that of a pooling already."""
    if walk.nodes[term.node].pooled:
        return term
    source = walk.consume(term, operator)
    channels = walk.nodes[source].channels
    return Term(walk.add(Pool(source, channels, 1, True, operator)), axes=term.axes)


def final(walk: Walk, operator: Operator) -> Value:
    """SOFTMAX, LOGISTIC, L2_NORMALIZATION at the end: left out, we deal in logits and features."""
    value = walk.input(operator, 0)
    if not isinstance(value, Term) or value.form not in ("plain", "final"):
        refuse(operator, "takes something else than logits or features")
    walk.left_out.append(operator.name)
    return replace(value, form="final")


def same(walk: Walk, operator: Operator) -> Value:
    """QUANTIZE, DEQUANTIZE, CAST: read as float, they change nothing."""
    return walk.input(operator, 0)


def pad(walk: Walk, operator: Operator) -> Value:
    """PAD and PADV2 by zeros: remembered until the convolution that follows."""
    value, amounts = walk.input(operator, 0), walk.constant(operator, 1).integers()
    if not isinstance(value, Picture | Term) or len(amounts) != 2 * len(value.axes):
        refuse(operator, f"pads by {amounts}; accepted: height and width of a map")
    if operator.name == "PADV2" and walk.constant(operator, 2).values().any():
        refuse(operator, "pads with another value than 0")
    by_axis = {axis: amounts[2 * i : 2 * i + 2] for i, axis in enumerate(value.axes)}
    sides, rest = by_axis.pop("H", ()), [by_axis[axis] for axis in by_axis if axis != "W"]
    if len(sides) != 2 or by_axis["W"] != sides or any(map(any, rest)) or min(sides) < 0:
        refuse(operator, f"pads {value.axes} by {amounts}; accepted: height and width alike")
    return replace(value, pad=(value.pad[0] + sides[0], value.pad[1] + sides[1]))


def transpose(walk: Walk, operator: Operator) -> Value:
    """TRANSPOSE between channels first and channels last."""
    value, order = walk.input(operator, 0), walk.constant(operator, 1).integers()
    axes = ""
    if isinstance(value, Picture | Term) and sorted(order) == list(range(len(value.axes))):
        axes = "".join(value.axes[position] for position in order)
    if not isinstance(value, Picture | Term) or axes not in ("NHWC", "NCHW", "NC"):
        refuse(operator, f"permutes by {order}; accepted: N×H×W×C to N×C×H×W and back")
    return replace(value, axes=axes)


def reshape(walk: Walk, operator: Operator) -> Value:
    """RESHAPE, SQUEEZE, EXPAND_DIMS: a 1×1 map becomes a vector or the other way round."""
    value = walk.input(operator, 0)
    if isinstance(value, Picture):
        if walk.output(operator).shape != walk.picture.shape:
            refuse(operator, "changes the shape of the picture")
        return value
    if not isinstance(value, Term):
        return Shape()
    node = walk.nodes[value.node]
    if node.size != 1 or value.pad != (0, 0):
        refuse(operator, f"reshapes a map of {node.size}×{node.size} px; accepted: 1×1")
    shape = _target(walk, operator)
    if len(shape) != 4:
        return replace(value, axes="NC")
    return replace(value, axes="NCHW" if shape[1] == node.channels != 1 else "NHWC")


def _target(walk: Walk, operator: Operator) -> tuple[int, ...]:
    """The shape that a reshape asks for, as far as the file says it."""
    if isinstance(operator.options, ReshapeOptions):
        asked = walk.input(operator, 1) if len(operator.inputs) > 1 else None
        if isinstance(asked, Tensor):
            return asked.integers()
        if operator.options.shape:
            return operator.options.shape
    return walk.output(operator).shape


def shape(walk: Walk, operator: Operator) -> Value:
    """SHAPE, and what converters compute from it to write a RESHAPE for any batch."""
    values = [walk.input(operator, position) for position in range(len(operator.inputs))]
    if operator.name != "SHAPE" and not all(isinstance(value, Tensor | Shape) for value in values):
        refuse(operator, "takes something else than shapes")
    return Shape()
