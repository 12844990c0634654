"""What the channels of a network look like on average, told by its weights alone, without a picture.

Batch norm fixes the mean and the variance of what leaves it: its shift β and its scale² γ². With a
normal distribution assumed, the activation's output has known moments as well. Elsewhere channels are
taken for independent. It is an estimate: good enough to compare channels and to correct for lost ones.
"""

import math
from collections.abc import Iterator, Mapping
from statistics import NormalDist
from typing import NamedTuple, TypeVar, assert_never

import numpy as np
from numpy.typing import NDArray

from mobilenets.slicing.groups import Step, Walk
from mobilenets.spec import Activation, Conv, LayerScale, Linear, MultiQueryAttention, Pool, SqueezeExcite

Floats = NDArray[np.float64]
Number = TypeVar("Number", np.float32, np.float64)
Tensors = Mapping[str, NDArray[np.float32]]

_QUANTILES = np.array([NormalDist().inv_cdf((i + 0.5) / 128) for i in range(128)])
"""A standard normal distribution in 128 equally likely values."""


_LEAST_GATE = 0.1


class Moments(NamedTuple):
    """Mean and variance of each channel of a tensor, over pictures and pixels."""

    mean: Floats
    var: Floats


def moments(walk: Walk, tensors: Tensors) -> Iterator[tuple[Step, Moments]]:
    """Every step of the wide network with the moments of what enters it; the picture has 0 and 1."""
    channels = walk.wide.channels
    now = entering = Moments(np.zeros(channels), np.ones(channels))
    for index, step in enumerate(walk.steps):
        block = step.wide.block
        if block is not None and (index == 0 or walk.steps[index - 1].wide.block != block):
            entering = now
        yield step, now
        now = _after(step, now, tensors)
        last = index + 1 == len(walk.steps) or walk.steps[index + 1].wide.block != block
        if block is not None and last and walk.wide.blocks[block].residual:
            now = Moments(now.mean + entering.mean, now.var + entering.var)


def dense(step: Step, tensors: Tensors) -> Floats:
    """The weight of a convolution or classifier as out × in × taps, with zeros between its parts."""
    if isinstance(step.wide.op, Linear):
        return tensors[f"{step.wide.path}.weight"].astype(np.float64)[:, :, None]
    assert isinstance(step.wide.op, Conv)
    weight = tensors[f"{step.wide.path}.conv.weight"].astype(np.float64)
    return in_full(weight.reshape(*weight.shape[:2], -1), step.wide.c_in, step.wide.op.groups)


def in_full(weight: NDArray[Number], c_in: int, groups: int) -> NDArray[Number]:
    """A grouped weight out × in/groups × … as out × in × …, zero where an output does not look."""
    if groups == 1:
        return weight
    out, part = weight.shape[:2]
    full = np.zeros((out, c_in, *weight.shape[2:]), weight.dtype)
    for index, rows in enumerate(np.array_split(np.arange(out), groups)):
        full[rows, index * part : (index + 1) * part] = weight[rows]
    return full


def _after(step: Step, now: Moments, tensors: Tensors) -> Moments:
    op, path = step.wide.op, step.wide.path
    match op:
        case Conv():
            if op.norm:
                summed = _normed(tensors, f"{path}.norm")
            elif op.depthwise:
                taps = tensors[f"{path}.conv.weight"].astype(np.float64).reshape(op.out, -1)
                bias = tensors[f"{path}.conv.bias"]
                summed = Moments(taps.sum(1) * now.mean + bias, (taps**2).sum(1) * now.var)
            else:
                weight, bias = dense(step, tensors), tensors[f"{path}.conv.bias"]
                summed = Moments(weight.sum(2) @ now.mean + bias, (weight**2).sum(2) @ now.var)
            return _activated(summed, op.activation)
        case SqueezeExcite():
            gate = _gate(path, op, now.mean, tensors)
            return Moments(now.mean * gate, now.var * gate**2)
        case MultiQueryAttention():
            return _attended(path, op, tensors)
        case LayerScale():
            scale = tensors[f"{path}.scale"].astype(np.float64)
            return Moments(now.mean * scale, now.var * scale**2)
        case Pool() | Linear():
            return now
        case _:
            assert_never(op)


def _normed(tensors: Tensors, norm: str) -> Moments:
    return Moments(
        tensors[f"{norm}.bias"].astype(np.float64), tensors[f"{norm}.weight"].astype(np.float64) ** 2
    )


def _gate(path: str, op: SqueezeExcite, pooled: Floats, tensors: Tensors) -> Floats:
    """The gates of a picture whose pooled channels have the mean value.

    A gate that is shut for it opens for others, so that none counts less than `_LEAST_GATE`.
    """
    reduce, expand = (tensors[f"{path}.{part}.weight"][:, :, 0, 0] for part in ("reduce", "expand"))
    inner = activate(reduce @ pooled + tensors[f"{path}.reduce.bias"], op.activation)
    result: Floats = np.clip((expand @ inner + tensors[f"{path}.expand.bias"] + 3) / 6, _LEAST_GATE, 1)
    return result


def _attended(path: str, op: MultiQueryAttention, tensors: Tensors) -> Moments:
    """As if every pixel attended to one pixel: the mean is right, the variance an upper bound."""
    norm = f"{path}.value_norm" if op.kv_stride > 1 else f"{path}.norm"
    mean, var = _normed(tensors, norm)
    value = tensors[f"{path}.value.weight"][:, :, 0, 0].astype(np.float64)
    output = tensors[f"{path}.output.weight"][:, :, 0, 0].astype(np.float64)
    mixed = Moments(np.tile(value @ mean, op.heads), np.tile(value**2 @ var, op.heads))
    return Moments(output @ mixed.mean, output**2 @ mixed.var)


def _activated(before: Moments, activation: Activation) -> Moments:
    if activation == "none":
        return before
    values = activate(before.mean[:, None] + np.sqrt(before.var)[:, None] * _QUANTILES, activation)
    return Moments(values.mean(axis=1), values.var(axis=1))


def activate(x: Floats, activation: Activation) -> Floats:
    """The activation in numpy."""
    match activation:
        case "none":
            return x
        case "relu":
            return np.maximum(x, 0)
        case "relu6":
            return np.clip(x, 0, 6)
        case "hard_swish":
            result: Floats = x * np.clip(x + 3, 0, 6) / 6
            return result
        case "gelu":
            smooth: Floats = 0.5 * x * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2)))
            return smooth
        case _:
            assert_never(activation)
