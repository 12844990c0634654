"""torchvision's tensor names (0.28, 0.29), derived from the structure of a `Spec`.

torchvision publishes V2 and V3. Its blocks are numbered sequences: `features.3.conv.1.0.weight` in V2,
`features.3.block.1.0.weight` in V3. V3's head is a dense layer there, a 1×1 convolution here.
"""

import dataclasses

from mobilenets import spec as specs
from mobilenets.errors import SpecError
from mobilenets.preprocessing import Preprocessing, for_channels
from mobilenets.spec import Block, Conv, Op, Spec, SqueezeExcite
from mobilenets.weights.source import IMAGENET_MEAN, IMAGENET_STD, Place, Source

_NORM = ("weight", "bias", "running_mean", "running_var")


def _places(spec: Spec) -> dict[str, Place]:
    """Raises `SpecError` for a network that torchvision's two MobileNet classes cannot express."""
    stem, *body = spec.blocks
    last = body.pop() if body else None
    if not _is_lone_conv(stem) or last is None or not _is_lone_conv(last) or len(spec.head) > 1:
        raise SpecError(
            f"torchvision cannot express {spec.name}: it has one stem, one last 1×1 convolution and "
            "at most one head convolution around its inverted residuals."
        )
    places = _conv_places(0, stem, "features.0")
    for index, block in enumerate(body, start=1):
        places |= _v3_block(spec, index, block) if spec.head else _v2_block(spec, index, block)
    places |= _conv_places(len(body) + 1, last, f"features.{len(body) + 1}")
    if spec.head:
        places |= _head(spec)
    dense = "classifier.3" if spec.head else "classifier.1"
    places |= {f"classifier.{part}": Place(f"{dense}.{part}") for part in ("weight", "bias")}
    return {ours: places[ours] for ours in specs.tensor_shapes(spec)}


def _is_lone_conv(block: Block) -> bool:
    op = block.ops[0]
    return len(block.ops) == 1 and isinstance(op, Conv) and op.norm and not op.depthwise


def _conv_places(index: int, block: Block, prefix: str) -> dict[str, Place]:
    """A block of one convolution: `prefix.0` and its norm `prefix.1`."""
    return _conv_and_norm(f"blocks.{index}.{block.ops[0].name}", f"{prefix}.0", f"{prefix}.1")


def _conv_and_norm(ours: str, conv: str, norm: str) -> dict[str, Place]:
    return {f"{ours}.conv.weight": Place(f"{conv}.weight")} | {
        f"{ours}.norm.{part}": Place(f"{norm}.{part}") for part in _NORM
    }


def _v2_block(spec: Spec, index: int, block: Block) -> dict[str, Place]:
    """(expand →) depthwise → project, the last one with its norm as two entries of the sequence."""
    _check_ops(spec, index, block, gates=False)
    prefix = f"features.{index}.conv"
    places: dict[str, Place] = {}
    *inner, project = block.ops
    for place, op in enumerate(inner):
        places |= _conv_and_norm(f"blocks.{index}.{op.name}", f"{prefix}.{place}.0", f"{prefix}.{place}.1")
    count = len(inner)
    return places | _conv_and_norm(
        f"blocks.{index}.{project.name}", f"{prefix}.{count}", f"{prefix}.{count + 1}"
    )


def _v3_block(spec: Spec, index: int, block: Block) -> dict[str, Place]:
    """(expand →) depthwise → (gate →) project, each one entry of the sequence."""
    _check_ops(spec, index, block, gates=True)
    places: dict[str, Place] = {}
    for place, op in enumerate(block.ops):
        ours, theirs = f"blocks.{index}.{op.name}", f"features.{index}.block.{place}"
        if isinstance(op, SqueezeExcite):
            places |= {
                f"{ours}.{layer}.{part}": Place(f"{theirs}.{dense}.{part}")
                for layer, dense in (("reduce", "fc1"), ("expand", "fc2"))
                for part in ("weight", "bias")
            }
        else:
            places |= _conv_and_norm(ours, f"{theirs}.0", f"{theirs}.1")
    return places


def _check_ops(spec: Spec, index: int, block: Block, *, gates: bool) -> None:
    """Raise `SpecError` unless the block is an inverted residual, in V3 perhaps with a gate."""
    signature = "".join(map(_letter, block.ops))
    if signature not in (("dp", "pdp", "dsp", "pdsp") if gates else ("dp", "pdp")):
        names = " → ".join(op.name for op in block.ops)
        raise SpecError(
            f"torchvision cannot express blocks.{index} of {spec.name}: {names}; "
            f"its {'V3' if gates else 'V2'} has inverted residuals{', gated or not,' if gates else ''} alone."
        )


def _letter(op: Op) -> str:
    if isinstance(op, SqueezeExcite):
        return "s"
    if not isinstance(op, Conv) or not op.norm or op.groups > 1:
        return "?"
    return "d" if op.depthwise else "p" if op.pointwise else "?"


def _head(spec: Spec) -> dict[str, Place]:
    if spec.head[0].norm:
        raise SpecError(f"torchvision cannot express {spec.name}: the head convolution has a batch norm.")
    return {
        "head.0.conv.weight": Place("classifier.0.weight", "oi"),
        "head.0.conv.bias": Place("classifier.0.bias"),
    }


def _conventions(spec: Spec) -> Spec:
    """V2 keeps torch's own batch norm, V3 has epsilon 1e-3 and momentum 0.01; both drop 0.2.

    V3's head runs as a dense layer, so that logits are torchvision's to the bit.
    """
    v3 = bool(spec.head)
    return dataclasses.replace(
        spec,
        head=tuple(dataclasses.replace(conv, dense=True) for conv in spec.head),
        padding="symmetric",
        norm_epsilon=1e-3 if v3 else 1e-5,
        norm_momentum=0.01 if v3 else 0.1,
        dropout=0.2,
    )


def _preprocessing(spec: Spec) -> Preprocessing:
    """Shorter side to 256 for 224 px (0.875), bilinear; `IMAGENET1K_V2` weights resize to 232 instead.

    The two cannot be told apart by their tensors. 256 is what all three networks have weights for.
    """
    usual = for_channels(spec.channels)
    if spec.channels != len(IMAGENET_MEAN):
        return usual
    return dataclasses.replace(usual, mean=IMAGENET_MEAN, std=IMAGENET_STD)


TORCHVISION = Source(
    name="torchvision",
    prefixes=("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"),
    rules=("torchvision", "timm", "paper", "keras"),
    places=_places,
    conventions=_conventions,
    preprocessing=_preprocessing,
)
"""torchvision 0.28 and 0.29. V3 away from width 1.0 follows its own rounding (`rule="torchvision"`)."""
