"""How important every channel is, from the weights alone."""

from collections.abc import Iterator
from typing import Literal, assert_never

import numpy as np

from mobilenets.slicing.groups import Group, Step, Walk
from mobilenets.slicing.moments import Floats, Moments, Tensors, dense, moments
from mobilenets.spec import Conv, LayerScale, Linear, MultiQueryAttention, Pool, SqueezeExcite

Criterion = Literal["contribution", "filter_norm", "norm_scale"]


def rate(walk: Walk, tensors: Tensors, criterion: Criterion) -> dict[int, Floats]:
    """One score per channel of every group, by the group's `id`; each op's say has the mean 1."""
    total = {id(group): np.zeros(group.wide) for group in walk.groups}
    for step, before in moments(walk, tensors):
        for group, score in _rated(step, before, walk.wide.norm_epsilon, tensors, criterion):
            total[id(group)] += score / max(float(score.mean()), np.finfo(np.float64).tiny)
    return total


def _rated(
    step: Step, before: Moments, epsilon: float, tensors: Tensors, criterion: Criterion
) -> Iterator[tuple[Group, Floats]]:
    """What `step` says about the channels that it consumes or produces, and about those inside it."""
    op, path = step.wide.op, step.wide.path
    match op:
        case Conv() | Linear():
            if criterion != "contribution":
                yield step.out, _produced(step, tensors, by_norm=criterion == "norm_scale")
            elif isinstance(op, Linear) or not op.depthwise:
                yield step.source, _consumed(step, tensors, epsilon) * before.var
        case SqueezeExcite():
            reduce, expand = (tensors[f"{path}.{part}.weight"] for part in ("reduce", "expand"))
            yield step.inner["squeeze"], _energy(reduce, 0) * _energy(expand, 1)
        case MultiQueryAttention():
            yield from _rated_attention(step, op, tensors)
        case LayerScale() | Pool():
            pass
        case _:
            assert_never(op)


def _consumed(step: Step, tensors: Tensors, epsilon: float) -> Floats:
    """Σ over outputs and taps of the folded weight², per input channel."""
    weight, op, path = dense(step, tensors), step.wide.op, step.wide.path
    energy = (weight**2).sum(axis=2)
    if isinstance(op, Conv) and op.norm:
        gamma, var = (tensors[f"{path}.norm.{part}"].astype(np.float64) for part in ("weight", "running_var"))
        energy *= (gamma**2 / (var + epsilon))[:, None]
    result: Floats = energy.sum(axis=0)
    return result


def _produced(step: Step, tensors: Tensors, *, by_norm: bool) -> Floats:
    """|γ| of the norm that makes a channel, or the ℓ1 norm of its filter."""
    op, path = step.wide.op, step.wide.path
    if by_norm and isinstance(op, Conv) and op.norm:
        return np.abs(tensors[f"{path}.norm.weight"].astype(np.float64))
    weight = tensors[f"{path}.weight" if isinstance(op, Linear) else f"{path}.conv.weight"]
    result: Floats = np.abs(weight.astype(np.float64)).reshape(len(weight), -1).sum(axis=1)
    return result


def _rated_attention(step: Step, op: MultiQueryAttention, tensors: Tensors) -> Iterator[tuple[Group, Floats]]:
    """Heads and values by what the output makes of them, query channels by query · key."""
    path = step.wide.path
    weights = {name: tensors[f"{path}.{name}.weight"] for name in ("query", "key", "value", "output")}
    gamma = tensors[f"{path}.norm.weight"].astype(np.float64)
    yield step.source, sum((_energy(weights[n], 1) for n in ("query", "key", "value")), 0.0) * gamma**2
    yield step.out, _energy(weights["output"], 0)
    by_head = (op.heads, op.head_dim)
    values = _energy(weights["value"], 0) * _energy(weights["output"], 1).reshape(by_head)
    query = _energy(weights["query"], 0).reshape(by_head).sum(axis=0)
    for name, score in (
        ("heads", values.sum(axis=1)),
        ("key", query * _energy(weights["key"], 0)),
        ("value", values.sum(axis=0)),
    ):
        yield step.inner[name], score


def _energy(weight: np.ndarray, axis: int) -> Floats:
    """Σ w² over every axis but `axis`."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    result: Floats = (weight.astype(np.float64) ** 2).sum(axis=others)
    return result
