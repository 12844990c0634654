"""A checkpoint without batch norms: every norm and layer scale folded into the convolution beside it.

The arithmetic is done in float64 and rounded once to fp32. What comes out is what the kernels run:
convolutions with a bias and an activation, squeeze-and-excite as two such convolutions, and
attention as five. A norm that stands in front of a padded convolution (attention's first, Qin et al.
2024, section 3.2) cannot be folded into it: padding comes after the norm, so it stays, as a depthwise
convolution of one pixel; so does a layer scale that follows no convolution.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from mobilenets import spec as specs
from mobilenets.errors import CheckpointError
from mobilenets.spec import Conv, LayerScale, Linear, MultiQueryAttention, Pool, Spec, SqueezeExcite

Activation = specs.Activation | Literal["hard_sigmoid"]
_Wide = NDArray[np.float64]
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Convolution:
    """A convolution with a bias; `weight` is out × in / groups × kernel × kernel."""

    path: str
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    stride: int = 1
    groups: int = 1
    depthwise: bool = False
    activation: Activation = "none"

    def __post_init__(self) -> None:
        for values in (self.weight, self.bias):
            if not (np.abs(values) <= _LARGEST).all():
                raise CheckpointError(
                    f"the weights of '{self.path}', with its batch norm in them, are no numbers of 32 bits "
                    "(NaN, infinity): a running variance is negative, or a weight far too large."
                )

    @property
    def kernel(self) -> int:
        """Side of the filter."""
        return int(self.weight.shape[2])

    @property
    def pointwise(self) -> bool:
        """One pixel to one pixel."""
        return self.kernel == 1 and self.stride == 1

    @property
    def c_out(self) -> int:
        """Output channels."""
        return int(self.weight.shape[0])

    @property
    def c_in(self) -> int:
        """Input channels."""
        return self.c_out if self.depthwise else int(self.weight.shape[1]) * self.groups


@dataclass(frozen=True)
class Gate:
    """Squeeze-and-excite: the map's means through two convolutions become a factor per channel."""

    path: str
    reduce: Convolution
    expand: Convolution


@dataclass(frozen=True)
class Attention:
    """Multi-query attention behind its norm; the scale 1 / √head_dim is in `query`."""

    path: str
    norm: Convolution
    query: Convolution
    key_reduce: Convolution | None
    key: Convolution
    value_reduce: Convolution | None
    value: Convolution
    output: Convolution
    heads: int


Operation = Convolution | Gate | Attention


@dataclass(frozen=True)
class Block:
    """Operations in sequence, and a shortcut around them where `residual`."""

    operations: tuple[Operation, ...]
    residual: bool


@dataclass(frozen=True)
class Network:
    """The blocks on maps, and after global average pooling the convolutions on one pixel."""

    blocks: tuple[Block, ...]
    head: tuple[Convolution, ...]


def fold(spec: Spec, tensors: Mapping[str, NDArray[np.float32]]) -> Network:
    """The network with a checkpoint's `tensors`, folded; values are float64 until they are packed.

    Raises `CheckpointError` where they are not finite in fp32: kernels would make plausible logits of some.
    """
    found: list[list[Operation]] = [[] for _ in spec.blocks]
    head = []
    for layer in specs.layers(spec):
        if layer.block is None:
            if not isinstance(layer.op, Pool):
                head.append(_head(layer, tensors, spec.norm_epsilon))
        else:
            _append(found[layer.block], layer, tensors, spec.norm_epsilon)
    pairs = zip(found, spec.blocks, strict=True)
    return Network(tuple(Block(tuple(each), block.residual) for each, block in pairs), tuple(head))


def _append(
    before: list[Operation], layer: specs.Layer, tensors: Mapping[str, NDArray[np.float32]], epsilon: float
) -> None:
    """Add `layer` to the operations `before` it, or fold it into the last of them."""
    op = layer.op
    match op:
        case Conv():
            before.append(_convolution(layer.path, op, tensors, epsilon))
        case SqueezeExcite():
            before.append(_gate(layer.path, op, tensors))
        case MultiQueryAttention():
            before.append(_attention(layer.path, op, tensors, epsilon))
        case LayerScale():
            factor = _wide(tensors[f"{layer.path}.scale"])
            last = before[-1] if before else None
            if isinstance(last, Convolution) and last.activation == "none":
                before[-1] = _scaled(last, factor)
            elif isinstance(last, Attention):
                before[-1] = replace(last, output=_scaled(last.output, factor))
            else:
                before.append(_diagonal(layer.path, factor, np.zeros_like(factor)))
        case Pool() | Linear():
            raise AssertionError(f"{layer.path} stands in no block")
        case _:
            assert_never(op)


def _wide(values: NDArray[np.float32]) -> _Wide:
    return values.astype(np.float64)


def _norm(prefix: str, tensors: Mapping[str, NDArray[np.float32]], epsilon: float) -> tuple[_Wide, _Wide]:
    """A batch norm as factor and shift per channel (Ioffe and Szegedy 2015, with stored statistics)."""
    weight, bias, mean, variance = (
        _wide(tensors[f"{prefix}.{part}"]) for part in ("weight", "bias", "running_mean", "running_var")
    )
    with np.errstate(divide="ignore", invalid="ignore"):  # `Convolution` says so
        factor = weight / np.sqrt(variance + epsilon)
        return factor, bias - mean * factor


def _scaled(convolution: Convolution, factor: _Wide) -> Convolution:
    weight = convolution.weight * factor[:, None, None, None]
    return replace(convolution, weight=weight, bias=convolution.bias * factor)


def _diagonal(path: str, factor: _Wide, shift: _Wide) -> Convolution:
    """x · factor + shift, channel by channel."""
    return Convolution(path, factor[:, None, None, None], shift, groups=len(factor), depthwise=True)


def _convolution(
    path: str, op: Conv, tensors: Mapping[str, NDArray[np.float32]], epsilon: float
) -> Convolution:
    weight = _wide(tensors[f"{path}.conv.weight"])
    if op.norm:
        factor, shift = _norm(f"{path}.norm", tensors, epsilon)
        weight = weight * factor[:, None, None, None]
    else:
        shift = _wide(tensors[f"{path}.conv.bias"])
    groups = op.out if op.depthwise else op.groups
    return Convolution(path, weight, shift, op.stride, groups, op.depthwise, op.activation)


def _head(layer: specs.Layer, tensors: Mapping[str, NDArray[np.float32]], epsilon: float) -> Convolution:
    if isinstance(layer.op, Conv):
        return _convolution(layer.path, layer.op, tensors, epsilon)
    weight = _wide(tensors[f"{layer.path}.weight"])[:, :, None, None]
    return Convolution(layer.path, weight, _wide(tensors[f"{layer.path}.bias"]))


def _gate(path: str, op: SqueezeExcite, tensors: Mapping[str, NDArray[np.float32]]) -> Gate:
    def part(name: str, activation: Activation) -> Convolution:
        weight, bias = (_wide(tensors[f"{path}.{name}.{kind}"]) for kind in ("weight", "bias"))
        return Convolution(f"{path}.{name}", weight, bias, activation=activation)

    return Gate(path, part("reduce", op.activation), part("expand", "hard_sigmoid"))


def _attention(
    path: str, op: MultiQueryAttention, tensors: Mapping[str, NDArray[np.float32]], epsilon: float
) -> Attention:
    def plain(name: str) -> Convolution:
        weight = _wide(tensors[f"{path}.{name}.weight"])
        return Convolution(f"{path}.{name}", weight, np.zeros(len(weight)))

    def reduced(name: str) -> tuple[Convolution | None, Convolution]:
        if op.kv_stride == 1:
            return None, plain(name)
        factor, shift = _norm(f"{path}.{name}_norm", tensors, epsilon)
        weight = _wide(tensors[f"{path}.{name}_reduce.weight"]) * factor[:, None, None, None]
        reduce = Convolution(f"{path}.{name}_reduce", weight, shift, op.kv_stride, len(weight), True)
        return reduce, plain(name)

    key_reduce, key = reduced("key")
    value_reduce, value = reduced("value")
    query = plain("query")
    return Attention(
        path=path,
        norm=_diagonal(f"{path}.norm", *_norm(f"{path}.norm", tensors, epsilon)),
        query=replace(query, weight=query.weight * op.head_dim**-0.5),
        key_reduce=key_reduce,
        key=key,
        value_reduce=value_reduce,
        value=value,
        output=plain("output"),
        heads=op.heads,
    )
