"""timm's key names, and which network a dict of tensors under them is.

`timm_names` derives every name from the structure of a `Spec`. `identify` goes the other way: the
names decide the family, the shapes the width, the rounding rule, the classes and the channels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import assert_never, get_args

from mobilenets import spec as specs
from mobilenets import zoo
from mobilenets.errors import CheckpointError, SpecError
from mobilenets.spec import Block, Conv, Op, Spec, SqueezeExcite
from mobilenets.text import count, printable
from mobilenets.zoo import Rule

Shapes = Mapping[str, tuple[int, ...]]

Role = tuple[str, str]
"""timm's names of an op's convolution and of its norm, below the block's own prefix."""

_GATE: Role = ("se.conv_reduce", "se.conv_expand")
_START: Role = ("dw_start.conv", "dw_start.bn")
_EXPAND: Role = ("pw_exp.conv", "pw_exp.bn")
_MIDDLE: Role = ("dw_mid.conv", "dw_mid.bn")
_PROJECT: Role = ("pw_proj.conv", "pw_proj.bn")

# A block's signature has one letter per op: d depthwise, p pointwise, f full convolution, s gate.
PLAIN: dict[str, tuple[Role, ...]] = {
    "p": (("conv", "bn1"),),
    "f": (("conv", "bn1"),),
    "dp": (("conv_dw", "bn1"), ("conv_pw", "bn2")),
    "dsp": (("conv_dw", "bn1"), _GATE, ("conv_pw", "bn2")),
    "fp": (("conv_exp", "bn1"), ("conv_pwl", "bn2")),
    "pdp": (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
    "pdsp": (("conv_pw", "bn1"), ("conv_dw", "bn2"), _GATE, ("conv_pwl", "bn3")),
}
UNIVERSAL: dict[str, tuple[Role, ...]] = {
    "dpdp": (_START, _EXPAND, _MIDDLE, _PROJECT),
    "dpp": (_START, _EXPAND, _PROJECT),
    "pdp": (_EXPAND, _MIDDLE, _PROJECT),
    "pp": (_EXPAND, _PROJECT),
}
"""Universal inverted bottlenecks. A network that needs one writes its plain `pdp` in this form too."""


def timm_names(spec: Spec) -> dict[str, str]:
    """Our tensor name → timm's, for every tensor of `spec` and in the order of both state dicts.

    Raises `SpecError` for a network that timm's MobileNet classes cannot express.
    """
    roles = _block_roles(spec)
    names: dict[str, str] = {}
    for layer in specs.layers(spec):
        for ours in specs.layer_tensors(layer):
            part = ours.removeprefix(f"{layer.path}.")
            names[ours] = _tensor_name(part, roles[layer.path])
    return names


def _tensor_name(part: str, role: Role) -> str:
    """timm's name for a tensor of an op: `conv.weight`, `norm.bias`, `reduce.weight`, `weight` …"""
    first, second = role
    match part.split("."):
        case ["conv" | "reduce", value]:
            return f"{first}.{value}"
        case ["norm" | "expand", value]:
            return f"{second}.{value}"
        case _:
            return f"{first}.{part}"


def _block_roles(spec: Spec) -> dict[str, Role]:
    """The role of every convolution and gate of `spec`, by the op's path."""
    stem, *body = spec.blocks
    if _signature(stem) != "f" or len(spec.head) > 1:
        raise SpecError(f"timm cannot express {spec.name}: it has one stem and at most one head convolution.")
    roles = {f"blocks.0.{stem.ops[0].name}": ("conv_stem", "bn1"), "classifier": ("classifier", "")}
    roles |= {f"head.{index}": ("conv_head", "norm_head") for index in range(len(spec.head))}
    universal = any(_signature(block) in UNIVERSAL.keys() - PLAIN.keys() for block in body)
    tables = PLAIN | UNIVERSAL if universal else PLAIN
    stages = list(dict.fromkeys(block.stage for block in body))
    depth = dict.fromkeys(stages, 0)
    for index, block in enumerate(body, start=1):
        prefix = f"blocks.{stages.index(block.stage)}.{depth[block.stage]}."
        depth[block.stage] += 1
        found = tables.get(_signature(block))
        if found is None:
            raise SpecError(f"timm cannot express blocks.{index} of {spec.name}: {_ops(block)}.")
        if index == len(body) and not spec.head and _signature(block) == "p":
            prefix, found = "", (("conv_head", "bn2"),)
        for op, (first, second) in zip(block.ops, found, strict=True):
            roles[f"blocks.{index}.{op.name}"] = (prefix + first, prefix + second)
    return roles


def _signature(block: Block) -> str:
    def letter(op: Op) -> str:
        match op:
            case Conv():
                return "d" if op.depthwise else "p" if op.pointwise else "f"
            case SqueezeExcite():
                return "s"
            case _:
                assert_never(op)

    return "".join(letter(op) for op in block.ops)


def _ops(block: Block) -> str:
    return " → ".join(op.name for op in block.ops)


@dataclass(frozen=True)
class Match:
    """A network of the zoo beside the tensors of a file."""

    spec: Spec
    rule: Rule
    width: float
    names: Mapping[str, str]
    """Our tensor name → timm's."""
    wrong: tuple[str, ...]
    """timm's names of the tensors whose shapes differ; empty where the network fits."""
    excess: int
    """How many of those are larger in the network than in the file, less how many are smaller."""


def identify(shapes: Shapes) -> Match:
    """The network whose tensors, under timm's names, have exactly these names and shapes.

    Published widths come first, then the roundest number that gives the shapes; timm's rounding
    rule before the others. Raises `CheckpointError` naming the first tensor that fits nothing.
    """
    prefix = _family(shapes)
    candidates = [_fit_width(prefix, rule, shapes) for rule in get_args(Rule)]
    best = min(candidates, key=lambda match: len(match.wrong))
    if not best.wrong:
        return best
    first = best.wrong[0]
    ours = next(name for name, theirs in best.names.items() if theirs == first)
    raise CheckpointError(
        f"tensor '{first}' has shape {shapes[first]}; {best.spec.name}, the nearest network, "
        f"has {specs.tensor_shapes(best.spec)[ours]} there "
        f"({len(best.names) - len(best.wrong)} of {count(len(best.names), 'tensor')} fit it).",
        remedy="A changed architecture cannot be imported.",
    )


def _family(shapes: Shapes) -> str:
    """The zoo's prefix with exactly these tensor names."""
    known = _names_of_zoo()

    def likeness(prefix: str) -> float:
        expected, found = set(known[prefix].values()), set(shapes)
        return len(expected & found) / len(expected | found)

    prefix = max(known, key=likeness)
    if likeness(prefix) < 0.5:
        name, shape = next(iter(shapes.items()), ("", ()))
        raise CheckpointError(
            "is no MobileNet under timm's tensor names"
            + (
                f": its first tensor is '{printable(name)}' with shape {shape}." if name else ": it is empty."
            ),
            remedy=f"Known there: {', '.join(known)}, at any width.",
        )
    missing = next((name for name in known[prefix].values() if name not in shapes), None)
    if missing is not None:
        raise CheckpointError(f"tensor '{missing}' is missing; {prefix}, the nearest network, has it.")
    extra = next((name for name in shapes if name not in known[prefix].values()), None)
    if extra is not None:
        raise CheckpointError(
            f"tensor '{printable(extra)}' does not belong to {prefix}, the nearest network."
        )
    return prefix


@cache
def _names_of_zoo() -> dict[str, dict[str, str]]:
    """Every prefix of the zoo with its tensors, ours → timm's; they are the same at every width."""
    return {prefix: timm_names(entry.build(1.0)) for prefix, entry in zoo.ZOO.items()}


def _fit_width(prefix: str, rule: Rule, shapes: Shapes) -> Match:
    """The width whose shapes are these, or else the one with the fewest that differ.

    Every channel count grows with the width, so the rest after the published widths is bisection;
    the majority of tensors decides the direction, so that one wrong tensor cannot mislead it.
    """
    best = _probe(prefix, rule, zoo.ZOO[prefix].widths[-1], shapes)
    for width in zoo.ZOO[prefix].widths:
        best = min(_probe(prefix, rule, width, shapes), best, key=lambda match: len(match.wrong))
    low, high = 0.0, zoo.MAX_WIDTH
    while best.wrong and high - low > 1e-6:
        middle = (low + high) / 2
        match = _probe(prefix, rule, middle, shapes)
        if not match.wrong:
            return _roundest(match, prefix, shapes)
        best = min(best, match, key=lambda match: len(match.wrong))
        if match.excess == 0:
            break
        low, high = (low, middle) if match.excess > 0 else (middle, high)
    return best


def _roundest(match: Match, prefix: str, shapes: Shapes) -> Match:
    """The roundest width with the same shapes. Those widths are an interval around the match's."""
    for step in (20, 100, 1000):
        for steps in (math.floor(match.width * step), math.ceil(match.width * step)):
            if steps > 0 and not (rounder := _probe(prefix, match.rule, steps / step, shapes)).wrong:
                return rounder
    return match


def _probe(prefix: str, rule: Rule, width: float, shapes: Shapes) -> Match:
    stem, bias = shapes["conv_stem.weight"], shapes["classifier.bias"]
    if len(stem) != 4 or len(bias) != 1:
        name, shape = ("conv_stem.weight", stem) if len(stem) != 4 else ("classifier.bias", bias)
        raise CheckpointError(f"tensor '{name}' has shape {shape}, which no network here has.")
    spec = zoo.ZOO[prefix].build(width, rule=rule, classes=bias[0], channels=stem[1])
    names = _names_of_zoo()[prefix]
    wrong, excess = [], 0
    for ours, expected in specs.tensor_shapes(spec).items():
        found = shapes[names[ours]]
        if found != expected:
            wrong.append(names[ours])
            larger, smaller = math.prod(expected) > math.prod(found), math.prod(expected) < math.prod(found)
            excess += larger - smaller
    return Match(spec, rule, width, names, tuple(wrong), excess)
