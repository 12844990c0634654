"""What a checkpoint computes, in plain numpy and float64: the definition that the compiler is held against.

It shares no arithmetic with torch or with the compiler. Nothing is folded, fused or reordered: every op of
the `Spec` is done as its paper writes it, one after the other, on maps N×C×H×W.
"""

import math
from itertools import product
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from mobilenets.checkpoint import Checkpoint
from mobilenets.preprocessing import affine
from mobilenets.slicing.moments import activate
from mobilenets.spec import (
    Conv,
    LayerScale,
    MultiQueryAttention,
    Op,
    Spec,
    SqueezeExcite,
    padding_amounts,
)

Wide = NDArray[np.float64]
Tensors = dict[str, Wide]


def logits(checkpoint: Checkpoint, pixels: NDArray[np.uint8]) -> Wide:
    """The logits N×classes of pictures N×H×W×C, as float64."""
    spec = checkpoint.manifest.spec
    tensors = {name: array.astype(np.float64) for name, array in checkpoint.tensors.items()}
    factor, offset = affine(checkpoint.manifest.preprocessing)
    seen = pixels.astype(np.float32) * factor + offset  # in fp32, for so the network's input is defined
    x = seen.astype(np.float64).transpose(0, 3, 1, 2)
    for index, block in enumerate(spec.blocks):
        shortcut = x
        for op in block.ops:
            x = computed(spec, tensors, f"blocks.{index}.{op.name}", op, x)
        if block.residual:
            x = x + shortcut
    x = x.mean((2, 3), keepdims=True)
    for index, conv in enumerate(spec.head):
        x = computed(spec, tensors, f"head.{index}", conv, x)
    return x[:, :, 0, 0] @ tensors["classifier.weight"].T + tensors["classifier.bias"]


def computed(spec: Spec, tensors: Tensors, path: str, op: Op, x: Wide) -> Wide:
    """What the op at `path` makes of the map `x`."""
    match op:
        case Conv():
            x = convolution(spec, x, tensors[f"{path}.conv.weight"], op.stride)
            if op.norm:
                x = batch_norm(spec, tensors, f"{path}.norm", x)
            else:
                x = x + per_channel(tensors[f"{path}.conv.bias"])
            return activate(x, op.activation)
        case SqueezeExcite():
            return squeeze_excite(tensors, path, op, x)
        case MultiQueryAttention():
            return attention(spec, tensors, path, op, x)
        case LayerScale():
            return x * per_channel(tensors[f"{path}.scale"])
        case _:
            assert_never(op)


def per_channel(values: Wide) -> Wide:
    """A vector in the shape in which numpy spreads it over a map."""
    return values[:, None, None]


def convolution(spec: Spec, x: Wide, weight: Wide, stride: int = 1) -> Wide:
    """`x` with `weight` out × in/groups × kernel × kernel; one group per channel is a depthwise one.

    Each of the kernel's places is a matrix product, over the pixels that lie under that place.
    """
    n, c_in, height, width = x.shape
    c_out, depth, kernel, _ = weight.shape
    groups = c_in // depth
    x = np.pad(
        x, ((0, 0), (0, 0), *(padding_amounts(s, kernel, stride, spec.padding) for s in (height, width)))
    )
    rows, columns = -(-height // stride), -(-width // stride)
    result = np.zeros((n, groups, c_out // groups, rows * columns))
    for i, j in product(range(kernel), repeat=2):
        under = x[:, :, i::stride, j::stride][:, :, :rows, :columns]
        factors = weight[:, :, i, j].reshape(groups, c_out // groups, depth)
        result += factors @ under.reshape(n, groups, depth, rows * columns)
    return result.reshape(n, c_out, rows, columns)


def batch_norm(spec: Spec, tensors: Tensors, path: str, x: Wide) -> Wide:
    """`x` with the stored mean and variance taken out, then scaled and shifted (Ioffe and Szegedy 2015)."""
    weight, bias, mean, variance = (
        per_channel(tensors[f"{path}.{name}"]) for name in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(variance + spec.norm_epsilon) * weight + bias


def hard_sigmoid(x: Wide) -> Wide:
    """relu6(x + 3) / 6 (Howard et al. 2019, section 5.2)."""
    return np.clip(x + 3, 0, 6) / 6


def squeeze_excite(tensors: Tensors, path: str, op: SqueezeExcite, x: Wide) -> Wide:
    """Every channel times its gate: the channels' means through two dense layers (Hu et al. 2018)."""
    reduce, expand = (tensors[f"{path}.{name}.weight"][:, :, 0, 0] for name in ("reduce", "expand"))
    hidden = x.mean((2, 3)) @ reduce.T + tensors[f"{path}.reduce.bias"]
    gates = activate(hidden, op.activation) @ expand.T + tensors[f"{path}.expand.bias"]
    return x * hard_sigmoid(gates)[:, :, None, None]


def attention(spec: Spec, tensors: Tensors, path: str, op: MultiQueryAttention, x: Wide) -> Wide:
    """Heads of queries over one head of keys and values (Qin et al. 2024, section 3.2)."""
    n, _, height, width = x.shape
    x = batch_norm(spec, tensors, f"{path}.norm", x)
    queries = convolution(spec, x, tensors[f"{path}.query.weight"])
    keys, values = (one_head(spec, tensors, f"{path}.{part}", op, x) for part in ("key", "value"))
    queries = queries.reshape(n, op.heads, op.head_dim, height * width)
    mixed = [
        [answers(query, key, value) for query in heads]
        for heads, key, value in zip(queries, keys, values, strict=True)
    ]
    joined = np.array(mixed).reshape(n, op.heads * op.head_dim, height, width)
    return convolution(spec, joined, tensors[f"{path}.output.weight"])


def one_head(spec: Spec, tensors: Tensors, path: str, op: MultiQueryAttention, x: Wide) -> Wide:
    """The keys or values N × head_dim × pixels, of a map that is shrunk before where `kv_stride` is 2."""
    if op.kv_stride > 1:
        x = convolution(spec, x, tensors[f"{path}_reduce.weight"], op.kv_stride)
        x = batch_norm(spec, tensors, f"{path}_norm", x)
    x = convolution(spec, x, tensors[f"{path}.weight"])
    return x.reshape(*x.shape[:2], -1)


def answers(query: Wide, key: Wide, value: Wide) -> Wide:
    """softmax(qᵀ·k / √head_dim) weighs the values; all are head_dim × pixels, and so is the result."""
    scores = query.T @ key / math.sqrt(len(key))
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    return value @ (shares / shares.sum(axis=1, keepdims=True)).T
