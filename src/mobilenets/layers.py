"""The ops of a `Spec` as torch modules, named so that their tensors are those of `spec.tensor_shapes`.

The arithmetic is torch's own, operation for operation what timm runs on the same network, so the
logits agree to the bit. The two places where MobileNets need more than torch has are here:
TensorFlow's `same` padding, and batch norm that stays frozen whoever calls `train()`.
"""

from typing import assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional

from mobilenets import spec as specs
from mobilenets.errors import SpecError
from mobilenets.spec import (
    Activation,
    Conv,
    LayerScale,
    MultiQueryAttention,
    Op,
    Padding,
    Spec,
    SqueezeExcite,
    padding_amounts,
)


class Norm(nn.BatchNorm2d):
    """Batch norm over N×C×H×W that can be frozen.

    A frozen norm normalises with its stored statistics and never changes them: `train()` leaves it
    in evaluation mode, whichever module above it the call came through.
    """

    frozen: bool = False
    """Set through `network.MobileNet.freeze`, which also holds back the gradients."""

    def train(self, mode: bool = True) -> "Norm":
        """Switch to training mode, unless frozen."""
        return super().train(mode and not self.frozen)


class PaddedConv(nn.Conv2d):
    """A convolution with an odd square kernel that pads by either rule; input N×C×H×W of any size.

    TensorFlow's `same` depends on the size at stride 2 alone: there the amounts are computed from
    the input, and an own padding op is spent only where they are not symmetric.
    """

    def __init__(self, c_in: int, conv: Conv, padding: Padding):
        super().__init__(
            c_in,
            conv.out,
            conv.kernel,
            stride=conv.stride,
            padding=(conv.kernel - 1) // 2,
            groups=c_in if conv.depthwise else conv.groups,
            bias=not conv.norm,
        )
        self._sized = padding == "same" and conv.stride > 1
        self._kernel, self._step = conv.kernel, conv.stride

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W to N×out×⌈H/stride⌉×⌈W/stride⌉."""
        if not self._sized:
            return super().forward(x)
        top, bottom = padding_amounts(x.shape[2], self._kernel, self._step, "same")
        left, right = padding_amounts(x.shape[3], self._kernel, self._step, "same")
        own = (top, left)
        if (top, left) != (bottom, right):
            x, own = functional.pad(x, (left, right, top, bottom)), (0, 0)
        return functional.conv2d(x, self.weight, self.bias, self.stride, own, self.dilation, self.groups)


class DenseConv(PaddedConv):
    """A head's 1×1 convolution as a matrix product, N×C×1×1 to N×out×1×1; its tensors are the same."""

    def forward(self, x: Tensor) -> Tensor:
        """Equal to torchvision's dense layer to the bit, to a convolution but for rounding."""
        return functional.linear(x.flatten(1), self.weight.flatten(1), self.bias)[..., None, None]


class ConvNormAct(nn.Module):
    """A `spec.Conv`: convolution, batch norm where it has one, activation."""

    def __init__(self, c_in: int, conv: Conv, spec: Spec):
        super().__init__()
        self.conv = (DenseConv if conv.dense else PaddedConv)(c_in, conv, spec.padding)
        self.norm = _norm(conv.out, spec) if conv.norm else nn.Identity()
        self.activation = activation(conv.activation)

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W to N×out×⌈H/stride⌉×⌈W/stride⌉."""
        result: Tensor = self.activation(self.norm(self.conv(x)))
        return result


class ChannelGate(nn.Module):
    """A `spec.SqueezeExcite`: every channel times a gate in [0, 1] that the whole map decides."""

    def __init__(self, channels: int, op: SqueezeExcite):
        super().__init__()
        self.reduce = nn.Conv2d(channels, op.squeeze, 1)
        self.activation = activation(op.activation)
        self.expand = nn.Conv2d(op.squeeze, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W to the same shape."""
        pooled = x.mean((2, 3), keepdim=True)
        return x * functional.hardsigmoid(self.expand(self.activation(self.reduce(pooled))))


class SharedKeyAttention(nn.Module):
    """A `spec.MultiQueryAttention`: every head asks the same keys and reads the same values."""

    def __init__(self, channels: int, op: MultiQueryAttention, spec: Spec):
        super().__init__()
        self.heads, self.head_dim = op.heads, op.head_dim
        self.norm = _norm(channels, spec)
        self.query = nn.Conv2d(channels, op.heads * op.head_dim, 1, bias=False)
        shrinks = op.kv_stride > 1
        shrink = Conv("shrink", op.kernel, channels, op.kv_stride, depthwise=True)
        self.key_reduce = PaddedConv(channels, shrink, spec.padding) if shrinks else nn.Identity()
        self.key_norm = _norm(channels, spec) if shrinks else nn.Identity()
        self.key = nn.Conv2d(channels, op.head_dim, 1, bias=False)
        self.value_reduce = PaddedConv(channels, shrink, spec.padding) if shrinks else nn.Identity()
        self.value_norm = _norm(channels, spec) if shrinks else nn.Identity()
        self.value = nn.Conv2d(channels, op.head_dim, 1, bias=False)
        self.output = nn.Conv2d(op.heads * op.head_dim, op.out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W to the same shape."""
        n, _, height, width = x.shape
        x = self.norm(x)
        query = self.query(x).reshape(n, self.heads, self.head_dim, -1).transpose(-1, -2).contiguous()
        key = _as_one_head(self.key(self.key_norm(self.key_reduce(x))))
        value = _as_one_head(self.value(self.value_norm(self.value_reduce(x))))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        joined = mixed.transpose(1, 2).reshape(n, height, width, -1).permute(0, 3, 1, 2).contiguous()
        result: Tensor = self.output(joined)
        return result


def _as_one_head(x: Tensor) -> Tensor:
    """N×d×H×W to N×1×HW×d."""
    return x.flatten(2).transpose(1, 2).unsqueeze(1).contiguous()


class ChannelScale(nn.Module):
    """A `spec.LayerScale`: one learnt factor per channel."""

    def __init__(self, channels: int, op: LayerScale):
        super().__init__()
        self.initial = op.initial
        self.scale = nn.Parameter(torch.full((channels,), op.initial))

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W to the same shape."""
        return x * self.scale.view(1, -1, 1, 1)


class ResidualBlock(nn.Module):
    """A `spec.Block`: its ops as children under their own names, and the shortcut where there is one."""

    def __init__(self, c_in: int, block: specs.Block, spec: Spec):
        super().__init__()
        self.residual = block.residual
        for op in block.ops:
            try:
                self.add_module(op.name, _op(c_in, op, spec))
            except KeyError as error:
                raise SpecError(
                    f"an op cannot be named {op.name!r}: torch modules use that name themselves."
                ) from error
            c_in = op.out if isinstance(op, Conv) else c_in

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W to N×out×⌈H/stride⌉×⌈W/stride⌉."""
        shortcut = x
        for op in self.children():
            x = op(x)
        return x + shortcut if self.residual else x


def _op(c_in: int, op: Op, spec: Spec) -> nn.Module:
    match op:
        case Conv():
            return ConvNormAct(c_in, op, spec)
        case SqueezeExcite():
            return ChannelGate(c_in, op)
        case MultiQueryAttention():
            return SharedKeyAttention(c_in, op, spec)
        case LayerScale():
            return ChannelScale(c_in, op)
        case _:
            assert_never(op)


def _norm(channels: int, spec: Spec) -> Norm:
    return Norm(channels, eps=spec.norm_epsilon, momentum=spec.norm_momentum)


def activation(kind: Activation) -> nn.Module:
    """The activation's module; it overwrites its input, which is always a fresh convolution's output."""
    match kind:
        case "none":
            return nn.Identity()
        case "relu":
            return nn.ReLU(inplace=True)
        case "relu6":
            return nn.ReLU6(inplace=True)
        case "hard_swish":
            return nn.Hardswish(inplace=True)
        case "gelu":
            return nn.GELU()
        case _:
            assert_never(kind)


@torch.no_grad()
def draw_weight(weight: Tensor, kind: specs.Initializer, generator: torch.Generator) -> None:
    """Fill a convolution's or classifier's weight as the papers' code does.

    * `truncated_normal` (V1–V3): σ = 0.09, cut at 2σ, for every layer, depthwise ones included
      (TF-slim's arg scope, `nets/mobilenet/mobilenet.py`).
    * `variance_scaling` (V4): variance 1 / fan-in after the cut at 2σ (Keras's `VarianceScaling`, the
      TF Model Garden's default). Deviates for depthwise layers: the fan-in is the k² values that a
      filter sums, where Keras counts k² · channels and so starts them smaller by √channels.
    """
    match kind:
        case "truncated_normal":
            std = 0.09
        case "variance_scaling":
            std = weight[0].numel() ** -0.5 / _STD_OF_CUT_NORMAL
        case _:
            assert_never(kind)
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=generator)


_STD_OF_CUT_NORMAL = 0.8796256610342398
"""Standard deviation of a standard normal distribution that is cut at ±2."""
