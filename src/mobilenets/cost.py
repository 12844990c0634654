"""What a network costs, from its `Spec` alone: parameters, MACs, bytes moved, activation memory.

Counting rules, the same as the reference implementations' (tests compare every published row):

* `macs` are multiply-adds of convolutions and the classifier, squeeze-and-excite's 1×1 layers
  included; batch norm counts as folded; activations, pooling, gating and additions count nothing.
  FLOPs are twice the MACs.
* `params` are learnt values, batch norm's scale and shift included, its running statistics not.
* `bytes_moved` is the traffic of a layer that reads its weights and input once and writes its
  output once, with batch norm folded: the lower bound that explains why few MACs may still be slow.
* `live_bytes` is what must be in memory while the layer runs, unfused: its input, its output, and
  the shortcut's tensor where one is held. The largest is `activation_bytes`. The compiler's plan,
  which fuses, needs less and knows its exact arena.
"""

import math
from dataclasses import dataclass
from typing import assert_never

from mobilenets.spec import STATISTICS, Conv, Layer, Linear, Pool, Spec, SqueezeExcite, layer_tensors, layers


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
        folded = _folded_weights(layer)
        rows.append(
            LayerCost(
                path=layer.path,
                kind=kind(layer),
                output=(layer.c_out, layer.size_out, layer.size_out),
                params=stored - statistics,
                statistics=statistics,
                macs=_macs(layer),
                bytes_moved=(folded + values_in + values_out) * bytes_per_value,
                live_bytes=(values_in + values_out + held) * bytes_per_value,
            )
        )
    return Cost(tuple(rows))


def kind(layer: Layer) -> str:
    """The layer's type in the field's words: `depthwise 3×3 /2`, `pointwise` …"""
    op = layer.op
    match op:
        case Conv():
            stride = f" /{op.stride}" if op.stride > 1 else ""
            if op.pointwise:
                return f"pointwise{stride}"
            return f"{'depthwise' if op.depthwise else 'conv'} {op.kernel}×{op.kernel}{stride}"
        case SqueezeExcite():
            return "squeeze-and-excite"
        case Pool():
            return "global average pool"
        case Linear():
            return "linear"
        case _:
            assert_never(op)


def _macs(layer: Layer) -> int:
    op = layer.op
    match op:
        case Conv():
            c_in = 1 if op.depthwise else layer.c_in
            return op.kernel**2 * c_in * layer.c_out * layer.size_out**2
        case SqueezeExcite():
            return 2 * layer.c_in * op.squeeze
        case Pool():
            return 0
        case Linear():
            return layer.c_in * layer.c_out
        case _:
            assert_never(op)


def _folded_weights(layer: Layer) -> int:
    """Weights that a run reads once batch norm is folded into its convolution: one bias a channel."""
    op = layer.op
    match op:
        case Conv():
            return op.kernel**2 * (1 if op.depthwise else layer.c_in) * layer.c_out + layer.c_out
        case SqueezeExcite() | Linear() | Pool():
            return sum(math.prod(shape) for shape in layer_tensors(layer).values())
        case _:
            assert_never(op)
