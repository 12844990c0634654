"""Which network of the zoo a traced graph is: same steps, kernels, channels, shortcuts, activations."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import assert_never, get_args

from mobilenets import zoo
from mobilenets.errors import CheckpointError
from mobilenets.spec import Conv, LayerScale, MultiQueryAttention, Op, Spec, SqueezeExcite
from mobilenets.text import count
from mobilenets.weights.tflite.nodes import Activations, Convolution, Gate, Node, Trace
from mobilenets.zoo import MAX_WIDTH, Rule


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a network, in the file or in the zoo, as far as it has to be the same."""

    kind: str
    """`convolution`, `depthwise convolution`, `gate`, `shortcut`; or an op that cannot be read."""
    structure: tuple[int, ...]
    """What does not depend on the width."""
    channels: tuple[int, ...]
    activations: Activations

    def fits(self, there: "Step", *, any_width: bool = False) -> bool:
        """Whether this step of a file can be `there`, a step of the zoo."""
        return (
            self.kind == there.kind
            and self.structure == there.structure
            and there.activations[0] in self.activations
            and (any_width or self.channels == there.channels)
        )

    def __str__(self) -> str:
        activation = " or ".join(self.activations)
        match self.kind:
            case "gate":
                return f"a squeeze-and-excite of {self.channels[0]} channels through {self.channels[1]}"
            case "shortcut":
                return f"a shortcut from step {self.structure[0] + 1}"
            case "convolution" | "depthwise convolution":
                kernel, stride, groups = self.structure
                grouped = f", {groups} groups" if groups > 1 else ""
                return (
                    f"a {kernel}×{kernel} {self.kind} to {self.channels[0]} channels, stride {stride}"
                    f"{grouped}, activation {activation}"
                )
            case _:
                return self.kind


@dataclass(frozen=True, slots=True)
class Match:
    """The network of the zoo that a file holds."""

    spec: Spec
    rule: Rule
    width: float
    classifier: bool
    """Whether the file's last layer is a classifier; else the file ends with the features."""


@dataclass(frozen=True, slots=True)
class _Near:
    name: str
    equal: int
    here: Step | None
    there: Step | None


def identify(trace: Trace) -> Match:
    """The network of the zoo with these very steps: published widths first, then others in hundredths.

    Raises `CheckpointError` saying which network comes nearest and where it differs.
    """
    steps = [
        _step_of(node, trace.activations[index], trace.starts[index]) for index, node in enumerate(trace.body)
    ]
    head = [
        _step_of(node, trace.activations[len(trace.body) + index], None)
        for index, node in enumerate(trace.head)
    ]
    nearest = _Near("", -1, None, None)
    for candidate in _candidates(steps, trace.channels):
        there = _body(candidate.spec)
        near = _compare(candidate.spec.name, steps, there)
        if near.here is None and near.there is None:
            match = _with_head(candidate, head)
            if match is not None:
                return match
            near = _compare(candidate.spec.name, steps + head, there + _head(candidate.spec))
        nearest = max(nearest, near, key=lambda found: found.equal)
    raise CheckpointError(
        f"is no network that is known here. {nearest.name} comes nearest: "
        f"{count(nearest.equal, 'step')} of {len(steps) + len(head)} are the same, then the file has "
        f"{nearest.here or 'nothing'}, and {nearest.name} has {nearest.there or 'nothing'}.",
        remedy="A changed architecture cannot be imported. `mobilenets models` lists the known ones.",
    )


@lru_cache(maxsize=4)
def _published(channels: int) -> tuple[tuple[str, Match], ...]:
    """Every published network under every rule, with its prefix."""
    return tuple(
        (prefix, Match(entry.build(width, rule=rule, channels=channels), rule, width, True))
        for prefix, entry in zoo.ZOO.items()
        for width in entry.widths
        for rule in get_args(Rule)
    )


def _candidates(steps: list[Step], channels: int) -> Iterator[Match]:
    """Every published network, then the widths in hundredths whose channels sum up as the file's do."""
    alike: dict[tuple[str, Rule], None] = {}
    for prefix, match in _published(channels):
        yield match
        if _same_operators(steps, _body(match.spec)):
            alike[prefix, match.rule] = None
    for prefix, rule in alike:
        yield from _of_another_width(prefix, rule, steps, channels)


def _of_another_width(prefix: str, rule: Rule, steps: list[Step], channels: int) -> Iterator[Match]:
    """The networks in hundredths of width with as many channels in all, the roundest widths first."""

    def build(hundredths: int) -> Spec:
        return zoo.ZOO[prefix].build(hundredths / 100, rule=rule, channels=channels)

    def total(hundredths: int) -> int:
        return _total(_body(build(hundredths)))

    grid, wanted = range(1, round(100 * MAX_WIDTH) + 1), _total(steps)
    first, last = (bisect_left(grid, number, key=total) for number in (wanted, wanted + 1))
    for hundredths in sorted(grid[first:last], key=lambda number: (number % 5 > 0, number)):
        yield Match(build(hundredths), rule, hundredths / 100, True)


def _total(steps: list[Step]) -> int:
    return sum(sum(step.channels) for step in steps)


def _same_operators(steps: list[Step], there: list[Step]) -> bool:
    """Whether two sequences differ at most in widths, and in the shortcuts that depend on them."""
    ours, theirs = (
        [step for step in side if not step.kind.startswith("shortcut")] for side in (steps, there)
    )
    return len(ours) == len(theirs) and all(
        a.fits(b, any_width=True) for a, b in zip(ours, theirs, strict=True)
    )


def _compare(name: str, here: list[Step], there: list[Step]) -> _Near:
    """How far two sequences are the same, and what follows in each."""
    equal = 0
    while equal < min(len(here), len(there)) and here[equal].fits(there[equal]):
        equal += 1
    return _Near(
        name, equal, here[equal] if equal < len(here) else None, there[equal] if equal < len(there) else None
    )


def _with_head(candidate: Match, head: list[Step]) -> Match | None:
    """The candidate with the file's classes where what follows the pooling fits it too."""
    there = _head(candidate.spec)
    if len(head) - len(there) not in (0, 1):
        return None
    if not all(a.fits(b) for a, b in zip(head[: len(there)], there, strict=True)):
        return None
    if len(head) == len(there):
        return Match(candidate.spec, candidate.rule, candidate.width, False)
    last = head[-1]
    plain = last.kind == "convolution" and last.structure == (1, 1, 1) and "none" in last.activations
    return candidate if plain else None


def _step_of(node: Node, activations: Activations, start: int | None) -> Step:
    after = "" if "none" in activations else f" with {activations[0]} after it"
    match node:
        case Convolution():
            return _convolution(
                node.depthwise, node.kernel, node.stride, node.groups, node.channels, activations
            )
        case Gate():
            channels = (node.channels, node.reduce.channels)
            return Step(f"gate{after}", (), channels, node.reduce_activations)
        case _:
            return Step(f"shortcut{after}", (-1 if start is None else start,), (), ("none",))


def _convolution(
    depthwise: bool, kernel: int, stride: int, groups: int, out: int, activations: Activations
) -> Step:
    kind = "depthwise convolution" if depthwise else "convolution"
    return Step(kind, (kernel, stride, groups), (out,), activations)


def _body(spec: Spec) -> list[Step]:
    """The steps of a `Spec` before its pooling."""
    steps: list[Step] = []
    channels = spec.channels
    for block in spec.blocks:
        start = len(steps) - 1
        for op in block.ops:
            steps.append(_step_of_op(op, channels))
            channels = op.out if isinstance(op, Conv) else channels
        if block.residual:
            steps.append(Step("shortcut", (start,), (), ("none",)))
    return steps


def _head(spec: Spec) -> list[Step]:
    return [_step_of_op(conv, 0) for conv in spec.head]


def _step_of_op(op: Op, channels: int) -> Step:
    match op:
        case Conv():
            return _convolution(op.depthwise, op.kernel, op.stride, op.groups, op.out, (op.activation,))
        case SqueezeExcite():
            return Step("gate", (), (channels, op.squeeze), (op.activation,))
        case MultiQueryAttention():
            return Step("multi-query attention", (), (), ("none",))
        case LayerScale():
            return Step("a layer scale", (), (), ("none",))
        case _:
            assert_never(op)
