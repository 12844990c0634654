"""Which channels have to go together, derived from two `Spec`s alone: the wide one and the narrow one.

`Walk` goes through both networks layer by layer. A `Group` is made where an op makes new channels; what
passes channels on (depthwise convolutions, gates, norms, scales) works on the group that enters, and a
shortcut ties two groups. Nothing here knows a family.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from mobilenets import spec as specs
from mobilenets.errors import SpecError
from mobilenets.spec import Conv, Layer, LayerScale, Linear, MultiQueryAttention, Pool, Spec, SqueezeExcite
from mobilenets.text import printable


@dataclass(eq=False)
class Group:
    """Channels that one op produces and others consume; one selection cuts them all."""

    path: str
    """The op that produces them."""
    wide: int
    narrow: int


@dataclass(frozen=True, slots=True)
class Nested:
    """An axis of whole runs: for every kept index of `outer`, the kept ones of `inner` (heads × channels)."""

    outer: Group
    inner: Group


Axis = Group | Nested | None
"""What an axis of a tensor counts; `None` for kernels and everything else that stays whole."""


@dataclass(frozen=True, slots=True)
class Tie:
    """Two groups of which the same `units` (equal runs of channels) are kept."""

    a: Group
    b: Group
    units: int


@dataclass(frozen=True, slots=True)
class Step:
    """A layer in both networks, and the groups that it reads and writes."""

    wide: Layer
    narrow: Layer
    source: Group
    out: Group
    axes: Mapping[str, tuple[Axis, ...]]
    """Tensor name → what its axes count. A grouped convolution's weight is meant dense, out × in."""
    inner: Mapping[str, Group]
    """Groups inside the op: `squeeze` of a gate; `heads`, `key` and `value` of an attention."""


class Walk:
    """Both networks side by side; `SpecError` where they are not the same but for narrower channels."""

    def __init__(self, wide: Spec, narrow: Spec):
        self.steps: list[Step] = []
        self.wide, self.narrow = wide, narrow
        self.groups: list[Group] = []
        self.ties: list[Tie] = []
        self.parts: list[tuple[Group, int]] = []
        """Groups that a grouped convolution reads or writes: each of so many parts keeps its share."""
        self._narrow_name, self._wide_name = printable(narrow.name), printable(wide.name)
        self.new_shortcuts = self._check_blocks(wide, narrow)
        current = entering = self._group("the picture", wide.channels, narrow.channels)
        block: int | None = 0
        for ours, theirs in zip(specs.layers(wide), specs.layers(narrow), strict=True):
            self._check_op(ours, theirs)
            if ours.block != block:
                self._close(wide, block, entering, current)
                entering, block = current, ours.block
            step = self._step(ours, theirs, current)
            self.steps.append(step)
            current = step.out

    def _check_blocks(self, wide: Spec, narrow: Spec) -> tuple[str, ...]:
        """Refuse another structure; returns the blocks with a shortcut that only the narrow one has.

        Rounding makes them: V3-Small's 40 and 48 channels are both 24 at width 0.5.
        """
        if (len(wide.blocks), len(wide.head)) != (len(narrow.blocks), len(narrow.head)):
            raise self.error(
                f"it has {len(narrow.blocks)} blocks and {len(narrow.head)} head convolutions, "
                f"the checkpoint's {self._wide_name} {len(wide.blocks)} and {len(wide.head)}"
            )
        new = []
        for index, (ours, theirs) in enumerate(zip(wide.blocks, narrow.blocks, strict=True)):
            if [op.name for op in ours.ops] != [op.name for op in theirs.ops]:
                found, there = (", ".join(printable(op.name) for op in b.ops) for b in (theirs, ours))
                raise self.error(
                    f"blocks.{index} is {found}; in the checkpoint's {self._wide_name} it is {there}"
                )
            if ours.residual and not theirs.residual:
                raise self.error(f"blocks.{index} has no shortcut, which {self._wide_name} has there")
            if theirs.residual and not ours.residual:
                new.append(f"blocks.{index}")
        return tuple(new)

    def error(self, what: str) -> SpecError:
        """Why the narrow network cannot be made of the wide one."""
        return SpecError(
            f"{self._narrow_name} cannot be sliced from {self._wide_name}: {what}.",
            remedy="Slicing takes the same network at a smaller width.",
        )

    def _check_op(self, ours: Layer, theirs: Layer) -> None:
        def kind(layer: Layer) -> object:
            match layer.op:
                case Conv() as op:
                    return dataclasses.replace(op, out=1, groups=1)
                case SqueezeExcite() as op:
                    return dataclasses.replace(op, squeeze=1)
                case MultiQueryAttention() as op:
                    return dataclasses.replace(op, out=1, heads=1, head_dim=1)
                case LayerScale() as op:
                    return op
                case Pool() | Linear():
                    return type(layer.op)
                case _:
                    assert_never(layer.op)

        if kind(ours) != kind(theirs):
            raise self.error(f"{ours.path} differs by more than its channels ({theirs.op} for {ours.op})")

    def _group(self, path: str, wide: int, narrow: int) -> Group:
        if narrow > wide:
            raise self.error(f"{path} has {narrow} channels, which is more than the {wide} there are")
        self.groups.append(Group(path, wide, narrow))
        return self.groups[-1]

    def _close(self, wide: Spec, block: int | None, entering: Group, leaving: Group) -> None:
        """The shortcut of the block that ends joins what enters and what leaves it."""
        if block is not None and wide.blocks[block].residual and entering is not leaving:
            self.ties.append(Tie(entering, leaving, leaving.wide))

    def _step(self, ours: Layer, theirs: Layer, source: Group) -> Step:
        out, path = source, ours.path
        inner: dict[str, Group] = {}
        axes: dict[str, tuple[Axis, ...]]
        match ours.op, theirs.op:
            case (Conv() as op, Conv() as narrow):
                if not op.depthwise:
                    out = self._group(path, op.out, narrow.out)
                axes = {"conv.weight": (out, None if op.depthwise else source)}
                axes |= _norm_axes("norm", out) if op.norm else {"conv.bias": (out,)}
                self._tie_parts(ours, theirs, source, out)
            case (SqueezeExcite() as op, SqueezeExcite() as narrow):
                squeeze = self._group(f"{path}.reduce", op.squeeze, narrow.squeeze)
                inner = {"squeeze": squeeze}
                axes = {
                    "reduce.weight": (squeeze, source),
                    "reduce.bias": (squeeze,),
                    "expand.weight": (source, squeeze),
                    "expand.bias": (source,),
                }
            case (MultiQueryAttention() as op, MultiQueryAttention() as narrow):
                out = self._group(path, op.out, narrow.out)
                inner = {
                    "heads": self._group(f"{path}.heads", op.heads, narrow.heads),
                    "key": self._group(f"{path}.key", op.head_dim, narrow.head_dim),
                    "value": self._group(f"{path}.value", op.head_dim, narrow.head_dim),
                }
                axes = _attention_axes(op, source, out, inner)
            case (LayerScale(), LayerScale()):
                axes = {"scale": (source,)}
            case (Linear() as op, Linear() as narrow):
                out = self._group(path, op.out, narrow.out)
                axes = {"weight": (out, source), "bias": (out,)}
            case _:
                axes = {}
        return Step(ours, theirs, source, out, {f"{path}.{name}": axis for name, axis in axes.items()}, inner)

    def _tie_parts(self, ours: Layer, theirs: Layer, source: Group, out: Group) -> None:
        """Where a convolution works in parts, cut every part alike, or keep whole parts."""
        assert isinstance(ours.op, Conv)
        assert isinstance(theirs.op, Conv)
        was, now = ours.op.groups, theirs.op.groups
        if was == 1 == now:
            return
        if was == now:
            self.parts += [(source, was), (out, was)]
        elif (ours.c_in // was, ours.c_out // was) == (theirs.c_in // now, theirs.c_out // now):
            self.ties.append(Tie(source, out, was))
        else:
            raise self.error(
                f"{ours.path} has {now} groups of {theirs.c_in // now} to {theirs.c_out // now} channels for "
                f"{was} of {ours.c_in // was} to {ours.c_out // was}; what can be cut is as many groups, "
                "or groups of that size"
            )


def _attention_axes(
    op: MultiQueryAttention, source: Group, out: Group, inner: Mapping[str, Group]
) -> dict[str, tuple[Axis, ...]]:
    """Whole heads; the channels of a query go with those of the one key, the values by themselves."""
    axes: dict[str, tuple[Axis, ...]] = _norm_axes("norm", source)
    axes["query.weight"] = (Nested(inner["heads"], inner["key"]), source)
    for part in ("key", "value"):
        if op.kv_stride > 1:
            axes[f"{part}_reduce.weight"] = (source, None)
            axes |= _norm_axes(f"{part}_norm", source)
        axes[f"{part}.weight"] = (inner[part], source)
    return axes | {"output.weight": (out, Nested(inner["heads"], inner["value"]))}


def _norm_axes(name: str, group: Group) -> dict[str, tuple[Axis, ...]]:
    return {f"{name}.{part}": (group,) for part in ("weight", "bias", "running_mean", "running_var")}


def choose(walk: Walk, scores: Mapping[int, NDArray[np.float64]]) -> dict[int, NDArray[np.int64]]:
    """For every group, by its `id`, the indices of the channels to keep: the best, in ascending order.

    `scores` has one number per channel of every group, by the group's `id`.
    """
    kept: dict[int, NDArray[np.int64]] = {}
    for groups, units in _components(walk):
        kept |= _choose_together(walk, groups, units, scores)
    return kept


def _components(walk: Walk) -> Iterator[tuple[list[Group], int | None]]:
    """Groups that ties join, directly or through others, and in how many units they are kept or cut."""
    component = {id(group): [group] for group in walk.groups}
    units: dict[int, int] = {}
    for tie in walk.ties:
        a, b = component[id(tie.a)], component[id(tie.b)]
        common = math.gcd(tie.units, *(units[id(g)] for g in (tie.a, tie.b) if id(g) in units))
        joined = a if a is b else a + b
        for group in joined:
            component[id(group)], units[id(group)] = joined, common
    for joined in {id(members): members for members in component.values()}.values():
        yield joined, units.get(id(joined[0]))


def _choose_together(
    walk: Walk, groups: list[Group], units: int | None, scores: Mapping[int, NDArray[np.float64]]
) -> dict[int, NDArray[np.int64]]:
    first = groups[0]
    count = first.wide if units is None else units
    wanted = {group.narrow * count / group.wide for group in groups}
    if len(wanted) > 1 or not min(wanted).is_integer():
        asked = ", ".join(f"{group.path} {group.narrow} of {group.wide}" for group in groups)
        raise walk.error(f"these are cut together, but keep different shares: {asked}")
    number = int(min(wanted))
    members = {id(group) for group in groups}
    parts = math.lcm(*(n for group, n in walk.parts if id(group) in members))
    if number % parts or count % parts:
        raise walk.error(f"{first.path} keeps {number} of {count}, which cannot be shared by {parts} groups")
    score = sum(scores[id(group)].reshape(count, -1).mean(axis=1) for group in groups)
    order = np.argsort(-np.asarray(score).reshape(parts, -1), axis=1, kind="stable")[:, : number // parts]
    best = np.sort((order + np.arange(parts)[:, None] * (count // parts)).ravel())
    return {id(g): (best[:, None] * (g.wide // count) + np.arange(g.wide // count)).ravel() for g in groups}
