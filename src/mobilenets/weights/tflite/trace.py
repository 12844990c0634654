"""From the operators of TFLite graphs to a chain of nodes: convolutions, gates, shortcuts.

The operators are walked in the order in which they are stored, which the format requires to be that
of the data. What converters make of one operation (hard-swish as x · relu6(x + 3) / 6, padding as an
operator of its own, an activation that is only the range of a quantised tensor) becomes one again.
"""

from collections.abc import Callable, Mapping, Sequence

from mobilenets.errors import CheckpointError, MobilenetsError
from mobilenets.text import printable
from mobilenets.weights.tflite import arithmetic, operators
from mobilenets.weights.tflite.file import Graph, Operator
from mobilenets.weights.tflite.nodes import Pool, Sum, Term, Trace, Value
from mobilenets.weights.tflite.walk import Walk, refuse

_HANDLERS: Mapping[str, Callable[[Walk, Operator], Value]] = {
    "CONV_2D": operators.convolution,
    "DEPTHWISE_CONV_2D": operators.convolution,
    "FULLY_CONNECTED": operators.dense,
    "AVERAGE_POOL_2D": operators.average_pool,
    "MEAN": operators.reduce,
    "SUM": operators.reduce,
    "ADD": arithmetic.add,
    "SUB": arithmetic.add,
    "MUL": arithmetic.multiply,
    "DIV": arithmetic.multiply,
    **dict.fromkeys(("RELU", "RELU6", "HARD_SWISH", "GELU"), arithmetic.activate),
    **dict.fromkeys(("SOFTMAX", "LOGISTIC", "L2_NORMALIZATION"), operators.final),
    **dict.fromkeys(("QUANTIZE", "DEQUANTIZE", "CAST"), operators.same),
    **dict.fromkeys(("PAD", "PADV2"), operators.pad),
    "TRANSPOSE": operators.transpose,
    **dict.fromkeys(("RESHAPE", "SQUEEZE", "EXPAND_DIMS"), operators.reshape),
    **dict.fromkeys(("SHAPE", "STRIDED_SLICE", "PACK", "CONCATENATION"), operators.shape),
}


def trace(graphs: Sequence[Graph]) -> Trace:
    """Follow the data through `graphs`, one after the other.

    Raises `CheckpointError` naming the file and the operator that no MobileNet has, or what is wrong.
    """
    if not graphs:
        raise CheckpointError("there is no graph to import.")
    graph, value = graphs[0], None
    try:
        walk = Walk(graph)
        for graph in graphs:
            value = _run(walk, graph, value)
        return _chain(walk, value)
    except MobilenetsError as error:
        raise error.in_file(graph.path) from error


def _run(walk: Walk, graph: Graph, value: Value | None) -> Value:
    """Walk one graph whose input is `value`, or the picture; returns what its output is."""
    walk.enter(graph, value)
    for operator in graph.operators:
        handler = _HANDLERS.get(operator.name)
        if handler is None:
            refuse(operator, "is nothing that the MobileNets which can be imported have")
        for index in operator.outputs:
            if index in walk.values:
                refuse(operator, f"computes tensor {index}, which was computed before: the file is damaged")
        result = handler(walk, operator)
        walk.values.update(dict.fromkeys(operator.outputs, result))
    outputs = [walk.value(index, "the graph's output") for index in graph.outputs]
    return max(outputs, key=lambda found: found.node if isinstance(found, Term) else -1)


def _chain(walk: Walk, value: Value | None) -> Trace:
    """The nodes on the way to `value`, which must be one after the other."""
    if not isinstance(value, Term):
        raise CheckpointError("its output is not computed from the picture by a network.")
    last = walk.consume(value, None)
    chain: list[int] = []
    node = last
    while node > 0:
        if not isinstance(walk.nodes[node], Pool):
            chain.append(node)
        node = walk.nodes[node].source
    chain.reverse()
    position = {node: place for place, node in enumerate(chain)} | {0: -1}
    nodes = [walk.nodes[index] for index in chain]
    starts: list[int | None] = []
    for found in nodes:
        if isinstance(found, Sum) and found.start not in position and found.operator is not None:
            refuse(found.operator, "adds a branch which does not lie on the way to the output")
        starts.append(position[found.start] if isinstance(found, Sum) else None)
    body = sum(not found.pooled for found in nodes)
    assert walk.affine is not None  # some first node has read the picture
    return Trace(
        body=tuple(nodes[:body]),
        head=tuple(nodes[body:]),
        activations=tuple(walk.used[index] for index in chain),
        starts=tuple(starts[:body]),
        pooled=walk.nodes[last].pooled,
        channels=walk.nodes[0].channels,
        resolution=walk.nodes[0].size,
        resolution_is_known=walk.resolution_is_known,
        padding="same" if "same" in walk.paddings else "symmetric",
        factor=walk.affine[0],
        offset=walk.affine[1],
        picture=walk.picture,
        left_out=tuple(dict.fromkeys(map(printable, walk.left_out))),
    )
