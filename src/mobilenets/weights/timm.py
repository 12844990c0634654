"""timm's key names, derived from the structure of a `Spec`."""

import dataclasses
from typing import assert_never, get_args

from mobilenets import spec as specs
from mobilenets import zoo
from mobilenets.errors import SpecError
from mobilenets.preprocessing import Preprocessing, for_channels
from mobilenets.spec import Block, Conv, LayerScale, MultiQueryAttention, Op, Spec, SqueezeExcite
from mobilenets.weights.source import IMAGENET_MEAN, IMAGENET_STD, Place, Source
from mobilenets.zoo import Rule

Role = tuple[str, str]
"""timm's names of an op's convolution and of its norm, below the block's own prefix."""

_GATE: Role = ("se.conv_reduce", "se.conv_expand")
_START: Role = ("dw_start.conv", "dw_start.bn")
_EXPAND: Role = ("pw_exp.conv", "pw_exp.bn")
_MIDDLE: Role = ("dw_mid.conv", "dw_mid.bn")
_PROJECT: Role = ("pw_proj.conv", "pw_proj.bn")

_ATTENTION: Role = ("attn", "norm")
_SCALE: Role = ("layer_scale", "")

# A block's signature has one letter per op: d depthwise, p pointwise, f full convolution, s gate,
# a attention, l layer scale.
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
    "al": (_ATTENTION, _SCALE),
}
UNIVERSAL |= {f"{ops}l": (*roles, _SCALE) for ops, roles in UNIVERSAL.items() if "p" in ops}
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
            names[ours] = _tensor_name(part, roles[layer.path], layer.op)
    return names


def _places(spec: Spec) -> dict[str, Place]:
    return {ours: Place(theirs) for ours, theirs in timm_names(spec).items()}


def _conventions(spec: Spec) -> Spec:
    """The zoo's own defaults, which are timm's, with its dropout of 0."""
    return dataclasses.replace(spec, norm_momentum=0.1, dropout=0.0)


def _preprocessing(spec: Spec) -> Preprocessing:
    usual = for_channels(spec.channels)
    if spec.channels != len(IMAGENET_MEAN):
        return usual
    return dataclasses.replace(usual, mean=IMAGENET_MEAN, std=IMAGENET_STD)


TIMM = Source(
    name="timm",
    prefixes=tuple(zoo.ZOO),
    rules=get_args(Rule),
    places=_places,
    conventions=_conventions,
    preprocessing=_preprocessing,
)
"""timm 1.0.31. Its weights differ in preprocessing; ImageNet's mean and std are the commonest."""


_IN_ATTENTION = {
    "query": "query.proj",
    "key_reduce": "key.down_conv",
    "key_norm": "key.norm",
    "key": "key.proj",
    "value_reduce": "value.down_conv",
    "value_norm": "value.norm",
    "value": "value.proj",
    "output": "output.proj",
}


def _tensor_name(part: str, role: Role, op: Op | specs.Pool | specs.Linear) -> str:
    """timm's name for a tensor of an op: `conv.weight`, `norm.bias`, `reduce.weight`, `weight` …"""
    first, second = role
    if isinstance(op, LayerScale):
        return f"{first}.gamma"
    if isinstance(op, MultiQueryAttention) and not part.startswith("norm."):
        inner, value = part.split(".")
        return f"{first}.{_IN_ATTENTION[inner]}.{value}"
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
            case MultiQueryAttention():
                return "a"
            case LayerScale():
                return "l"
            case _:
                assert_never(op)

    return "".join(letter(op) for op in block.ops)


def _ops(block: Block) -> str:
    return " → ".join(op.name for op in block.ops)
