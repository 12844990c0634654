"""Width slicing: a narrower network of the same family, made of the wide one's most important channels.

The result is a start for fine-tuning or distillation, not a finished model. Numpy alone. `groups` says
which channels have to go together, `importance` which of them matter, `moments` what is lost with them.
"""

import dataclasses
from collections.abc import Mapping
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from mobilenets import spec as specs
from mobilenets import zoo
from mobilenets.checkpoint import Checkpoint, Manifest
from mobilenets.errors import InputError, UnknownName
from mobilenets.slicing.groups import Group, Nested, Step, Walk, choose
from mobilenets.slicing.importance import Criterion, rate
from mobilenets.slicing.moments import Moments, Tensors, dense, in_full, moments
from mobilenets.spec import Conv, Linear, MultiQueryAttention, Spec, SqueezeExcite
from mobilenets.text import printable

__all__ = ["Criterion", "narrow_spec", "slice_width"]

Kept = Mapping[int, NDArray[np.int64]]
_LEAST_SHARE = 0.01
"""A norm's variance shrinks to no less than this, so that an estimate cannot make a channel explode."""


def slice_width(
    checkpoint: Checkpoint, network: Spec | float, *, criterion: Criterion = "contribution"
) -> Checkpoint:
    """The checkpoint of a narrower `network`, with the most important channels of `checkpoint`.

    `network` is a `Spec`, or a width multiplier where the checkpoint's own network is one of the
    zoo's. Of a `Spec` the structure, name, resolution and dropout count; channels, classes, padding
    and epsilon stay those of the weights. Channels that a shortcut joins are cut together, kept ones
    stay in their order, and at the same width every tensor comes back to the bit. Labels,
    preprocessing and licence are kept, scores are dropped, and the provenance says what was done.

    The statistics of batch norms that lost inputs are corrected by an estimate; measure them anew on
    a few hundred pictures before use: `network.reestimate_norms`.

    Raises `SpecError` where the network is wider anywhere or built differently, naming the op, and
    `InputError` for a width where the checkpoint's network has no rule for one.
    """
    if criterion not in get_args(Criterion):
        raise UnknownName("criterion", str(criterion), get_args(Criterion))
    wide = checkpoint.spec
    narrow = narrow_spec(wide, network if isinstance(network, Spec) else _at_width(wide, network))
    walk = Walk(wide, narrow)
    kept = choose(walk, rate(walk, checkpoint.tensors, criterion))
    manifest = Manifest(
        narrow,
        checkpoint.manifest.labels,
        checkpoint.manifest.preprocessing,
        provenance={
            "sliced": {
                "from": wide.name,
                "to": narrow.name,
                "criterion": criterion,
                "new_shortcuts": list(walk.new_shortcuts),
            },
            "parent": {"network": wide.name, "provenance": dict(checkpoint.manifest.provenance)},
        },
        licence=checkpoint.manifest.licence,
    )
    return Checkpoint(manifest, _cut(walk, checkpoint.tensors, kept), checkpoint.trained_on)


def narrow_spec(wide: Spec, network: Spec) -> Spec:
    """`network` as `slice_width` makes it of weights of `wide`: their channels, classes, padding, epsilon.

    A head is run as `wide`'s is, as a convolution or as a dense layer.

    Raises `SpecError`, naming the op, where it is wider anywhere or built differently.
    """
    alike = len(network.head) == len(wide.head)
    narrow = dataclasses.replace(
        network,
        head=tuple(
            dataclasses.replace(ours, dense=theirs.dense)
            for ours, theirs in zip(network.head, wide.head, strict=True)
        )
        if alike
        else network.head,
        classes=wide.classes,
        channels=wide.channels,
        padding=wide.padding,
        norm_epsilon=wide.norm_epsilon,
    )
    Walk(wide, narrow)
    return narrow


def _at_width(wide: Spec, width: float) -> Spec:
    """The zoo's network of the checkpoint's family at `width`, rounded by the rule that made it."""
    try:
        prefix, own = zoo.parse(wide.name)
    except UnknownName as error:
        raise InputError(
            f"the network '{printable(wide.name)}' is none of the zoo's, so no rule gives it another width.",
            remedy="Give the narrower network as a Spec.",
        ) from error
    build = zoo.ZOO[prefix].build
    for rule in get_args(zoo.Rule):
        made = build(own, rule=rule)
        heads = tuple(dataclasses.replace(conv, dense=False) for conv in wide.head)
        if (made.blocks, made.head) == (wide.blocks, heads):
            return dataclasses.replace(
                build(width, rule=rule), resolution=wide.resolution, dropout=wide.dropout
            )
    raise InputError(
        f"the network '{printable(wide.name)}' does not have the channels that any rule gives that name.",
        remedy="Give the narrower network as a Spec.",
    )


def _cut(walk: Walk, tensors: Tensors, kept: Kept) -> dict[str, NDArray[np.float32]]:
    """The narrow network's tensors, in its order."""
    result: dict[str, NDArray[np.float32]] = {}
    for step, before in moments(walk, tensors):
        cut = {name: _pick(step, name, tensors[name], kept) for name in specs.layer_tensors(step.wide)}
        source = kept[id(step.source)]
        if len(source) < step.source.wide:
            _correct(step, before, tensors, cut, kept)
        _keep_sharpness(step, cut)
        result |= cut
    return {name: result[name] for name in specs.tensor_shapes(walk.narrow)}


def _pick(step: Step, name: str, tensor: NDArray[np.float32], kept: Kept) -> NDArray[np.float32]:
    axes = step.axes[name]
    op = step.wide.op
    grouped = isinstance(op, Conv) and op.groups > 1 and tensor.ndim == 4
    full = in_full(tensor, step.wide.c_in, op.groups) if isinstance(op, Conv) and grouped else tensor
    for axis, counted in enumerate(axes):
        if counted is not None:
            full = full.take(_indices(counted, kept), axis=axis)
    if grouped and isinstance(step.narrow.op, Conv):
        full = _in_parts(full, step.narrow.op.groups)
    return np.array(full, dtype=np.float32)


def _indices(axis: Group | Nested, kept: Kept) -> NDArray[np.int64]:
    match axis:
        case Group():
            return kept[id(axis)]
        case Nested(outer, inner):
            run: NDArray[np.int64] = kept[id(outer)][:, None] * inner.wide + kept[id(inner)]
            return run.ravel()


def _in_parts(full: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    """The inverse of `moments.in_full`: out × in × … to out × in/groups × …."""
    rows, columns = (np.array_split(np.arange(n), groups) for n in full.shape[:2])
    return np.concatenate([full[r][:, c] for r, c in zip(rows, columns, strict=True)])


def _keep_sharpness(step: Step, cut: dict[str, NDArray[np.float32]]) -> None:
    """Attention divides by √head_dim: queries that lost channels grow or shrink to make up for it."""
    wide, narrow = step.wide.op, step.narrow.op
    if isinstance(wide, MultiQueryAttention) and isinstance(narrow, MultiQueryAttention):
        sharpness = np.float32((narrow.head_dim / wide.head_dim) ** 0.5)
        cut[f"{step.wide.path}.query.weight"] *= sharpness


def _correct(
    step: Step, before: Moments, tensors: Tensors, cut: dict[str, NDArray[np.float32]], kept: Kept
) -> None:
    """Make up, in place, for the mean and the variance that the lost inputs brought to a sum.

    A batch norm's statistics move by them; where there is none, the bias takes over their mean.
    Depthwise filters and attention sum up no channels of which some were lost before a norm.
    """
    op, path = step.wide.op, step.wide.path
    stays = np.zeros(step.source.wide, bool)
    stays[kept[id(step.source)]] = True
    match op:
        case Conv() if op.depthwise:
            return
        case Conv() | Linear():
            weight, rows = dense(step, tensors), kept[id(step.out)]
            bias = f"{path}.conv.bias"
            if isinstance(op, Linear):
                bias = f"{path}.bias"
        case SqueezeExcite():
            weight = tensors[f"{path}.reduce.weight"].astype(np.float64)[:, :, 0]
            rows = kept[id(step.inner["squeeze"])]
            bias = f"{path}.reduce.bias"
        case _:
            return
    lost_mean = (weight.sum(axis=2)[:, ~stays] @ before.mean[~stays])[rows].astype(np.float32)
    if bias in cut:
        cut[bias] += lost_mean
        return
    varying = (weight**2).sum(axis=2) * before.var
    total = varying.sum(axis=1)
    share = np.divide(varying[:, stays].sum(axis=1), total, out=np.ones_like(total), where=total > 0)
    share = np.maximum(share, _LEAST_SHARE)
    cut[f"{path}.norm.running_mean"] -= lost_mean
    cut[f"{path}.norm.running_var"] *= share[rows].astype(np.float32)
