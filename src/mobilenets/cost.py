"""What a network costs, from its `Spec` alone: parameters, MACs, bytes moved, activation memory.

Counting rules, the same as the reference implementations' (tests compare every published row):

* `macs` are multiply-adds of convolutions and the classifier, squeeze-and-excite's 1×1 layers and
  attention's two products (q·kᵀ and the weighing of v; `product_macs` is that part) included; batch
  norm counts as folded; activations, softmax, pooling, scaling and additions count nothing. FLOPs
  are twice the MACs.
* `params` are learnt values, batch norm's scale and shift included, its running statistics not.
* `bytes_moved` is the traffic of a layer that reads its weights and input once and writes its
  output once, with batch norm folded: the lower bound that explains why few MACs may still be slow.
* `live_bytes` is what must be in memory while the layer runs, unfused: its input, its output, and
  the shortcut's tensor where one is held; for attention what it holds inside where that is more. The
  largest is `activation_bytes`. The compiler's plan, which fuses, needs less and knows its exact arena.
"""

import math
from dataclasses import dataclass
from typing import assert_never

from mobilenets.spec import (
    STATISTICS,
    Conv,
    Layer,
    LayerScale,
    Linear,
    MultiQueryAttention,
    Pool,
    Spec,
    SqueezeExcite,
    layer_tensors,
    layers,
    output_size,
)


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One layer's row. `output` is channels × side × side."""

    path: str
    kind: str
    output: tuple[int, int, int]
    params: int
    statistics: int
    """Values of batch norm's running statistics."""
    macs: int
    product_macs: int
    """The part of `macs` that multiplies activations with each other: attention's two products."""
    bytes_moved: int
    live_bytes: int


@dataclass(frozen=True, slots=True)
class Cost:
    """A network's layers and their totals."""

    layers: tuple[LayerCost, ...]

    @property
    def params(self) -> int:
        """Learnt values."""
        return sum(layer.params for layer in self.layers)

    @property
    def statistics(self) -> int:
        """Running means and variances: stored with the parameters, never trained."""
        return sum(layer.statistics for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-adds of one picture."""
        return sum(layer.macs for layer in self.layers)

    @property
    def product_macs(self) -> int:
        """Those of them in attention's two products, which some publications leave out."""
        return sum(layer.product_macs for layer in self.layers)

    @property
    def bytes_moved(self) -> int:
        """Weights, inputs and outputs of every layer, once each."""
        return sum(layer.bytes_moved for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """Peak memory for activations when layers run one after the other, unfused."""
        return max(layer.live_bytes for layer in self.layers)


def count(spec: Spec, *, bytes_per_value: int = 4) -> Cost:
    """Count `spec` at batch 1. `bytes_per_value` is 4 for fp32, 2 for bf16, 1 for int8."""
    shortcut: dict[int, int] = {}
    rows = []
    for layer in layers(spec):
        values_in, values_out = layer.c_in * layer.size_in**2, layer.c_out * layer.size_out**2
        held = 0
        if layer.block is not None and spec.blocks[layer.block].residual:
            first = layer.block not in shortcut
            shortcut.setdefault(layer.block, values_in)
            held = 0 if first else shortcut[layer.block]
        shapes = layer_tensors(layer)
        statistics = sum(math.prod(s) for name, s in shapes.items() if name.endswith(STATISTICS))
        stored = sum(math.prod(s) for s in shapes.values())
        folded, inner = _folded_weights(layer), _inner_values(layer)
        rows.append(
            LayerCost(
                path=layer.path,
                kind=kind(layer),
                output=(layer.c_out, layer.size_out, layer.size_out),
                params=stored - statistics,
                statistics=statistics,
                macs=_weight_macs(layer) + _product_macs(layer),
                product_macs=_product_macs(layer),
                bytes_moved=(folded + values_in + values_out) * bytes_per_value,
                live_bytes=(max(values_in + values_out, inner) + held) * bytes_per_value,
            )
        )
    return Cost(tuple(rows))


def kind(layer: Layer) -> str:
    """The layer's type in the field's words: `depthwise 3×3 /2`, `pointwise` …"""
    op = layer.op
    match op:
        case Conv():
            size = f" {op.kernel}×{op.kernel}"
            name = "depthwise" + size if op.depthwise else "pointwise" if op.pointwise else "conv" + size
            groups = f" in {op.groups} groups" if op.groups > 1 else ""
            text = name + (f" /{op.stride}" if op.stride > 1 else "") + groups
        case SqueezeExcite():
            text = "squeeze-and-excite"
        case MultiQueryAttention():
            shrinking = f" kv /{op.kv_stride}" if op.kv_stride > 1 else ""
            text = f"attention {op.heads}×{op.head_dim}{shrinking}"
        case LayerScale():
            text = "layer scale"
        case Pool():
            text = "global average pool"
        case Linear():
            text = "linear"
        case _:
            assert_never(op)
    return text


def _weight_macs(layer: Layer) -> int:
    """Multiply-adds of activations with weights."""
    op = layer.op
    match op:
        case Conv():
            groups = layer.c_in if op.depthwise else op.groups
            return op.kernel**2 * (layer.c_in // groups) * layer.c_out * layer.size_out**2
        case SqueezeExcite():
            return 2 * layer.c_in * op.squeeze
        case MultiQueryAttention():
            pixels, shrunk = layer.size_in**2, output_size(layer.size_in, op.kv_stride) ** 2
            shrinking = op.kernel**2 if op.kv_stride > 1 else 0
            queries = op.heads * op.head_dim * (layer.c_in + layer.c_out) * pixels
            return queries + 2 * layer.c_in * (op.head_dim + shrinking) * shrunk
        case Pool() | LayerScale():
            return 0
        case Linear():
            return layer.c_in * layer.c_out
        case _:
            assert_never(op)


def _product_macs(layer: Layer) -> int:
    """Multiply-adds of activations with activations: q·kᵀ, and the softmax of it times v."""
    op = layer.op
    if not isinstance(op, MultiQueryAttention):
        return 0
    shrunk = output_size(layer.size_in, op.kv_stride) ** 2
    return 2 * op.heads * op.head_dim * layer.size_in**2 * shrunk


def _inner_values(layer: Layer) -> int:
    """The most values that a layer holds inside: queries, keys, values and scores of attention."""
    op = layer.op
    if not isinstance(op, MultiQueryAttention):
        return 0
    pixels, shrunk = layer.size_in**2, output_size(layer.size_in, op.kv_stride) ** 2
    return op.heads * pixels * (op.head_dim + shrunk) + 2 * op.head_dim * shrunk


def _folded_weights(layer: Layer) -> int:
    """Weights that a run reads once batch norm is folded into its convolution: one bias a channel."""
    op = layer.op
    match op:
        case Conv():
            groups = layer.c_in if op.depthwise else op.groups
            return op.kernel**2 * (layer.c_in // groups) * layer.c_out + layer.c_out
        case MultiQueryAttention():
            per_map = 2 * layer.c_in * (op.head_dim + (op.kernel**2 if op.kv_stride > 1 else 0))
            # Before a padded depthwise convolution the norm's shift cannot be folded: it stays.
            norm = 2 * layer.c_in if op.kv_stride > 1 else op.heads * op.head_dim
            return op.heads * op.head_dim * (layer.c_in + layer.c_out) + per_map + norm + 2 * op.head_dim
        case SqueezeExcite() | Linear() | Pool() | LayerScale():
            return sum(math.prod(shape) for shape in layer_tensors(layer).values())
        case _:
            assert_never(op)
