"""A network is data: the `Spec` says what a MobileNet is, and everything else reads it.

A `Spec` is a stem, blocks and a head; a block is a sequence of ops with an optional shortcut
around it. Convolutions and squeeze-and-excite state V1, V2, V3, EdgeTPU and V4-conv; multi-query
attention and a layer scale add V4-hybrid. `layers` unrolls a `Spec` into every layer with
its shapes, and `tensor_shapes` names every tensor: cost, the torch network, importers, exporters
and the compiler all walk that one sequence, so they cannot disagree.

Standard library only. All classes are frozen; `dataclasses.replace` makes a changed copy.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, assert_never, get_args

from mobilenets.errors import SpecError

Activation = Literal["none", "relu", "relu6", "hard_swish", "gelu"]
Padding = Literal["symmetric", "same"]
Initializer = Literal["truncated_normal", "variance_scaling"]

MIN_RESOLUTION = 32
"""Every MobileNet halves the picture five times; below 32 px nothing is left to pool."""


def _check_count(owner: str, field: str, value: object, *, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SpecError(f"{owner}: {field} is {value!r}; it must be a whole number ≥ {least}.")


def _check_choice(owner: str, field: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SpecError(f"{owner}: {field} is {value!r}; accepted: {', '.join(choices)}.")


def _check_number(owner: str, field: str, value: object, *, low: float, high: float) -> None:
    """`low < value ≤ high` for `low` 0, else `low ≤ value ≤ high`; NaN fails."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise SpecError(f"{owner}: {field} is {value!r}; it must lie between {low} and {high}.")


@dataclass(frozen=True, slots=True)
class Conv:
    """A square convolution, then batch norm (or a bias where there is none), then an activation."""

    name: str
    """The op's role in its block: `expand`, `depthwise`, `project` …; unique in the block."""
    kernel: int
    """Side of the kernel: 1, 3, 5 … (odd)."""
    out: int
    """Output channels; for a depthwise op the same as its input channels."""
    stride: int = 1
    activation: Activation = "none"
    depthwise: bool = False
    """One filter per channel (groups = channels) instead of a full sum over the channels."""
    norm: bool = True
    """Batch norm after the convolution; the convolution has a bias exactly where this is false."""
    groups: int = 1
    """Into how many parts the channels are cut, each convolved by itself (EdgeTPU-V2's fused blocks)."""
    dense: bool = False
    """In a head alone: torch runs it as a dense layer, as torchvision's V3 does. It is the same
    function; sums are rounded in another order, so logits differ in their last bits."""

    def __post_init__(self) -> None:
        owner = f"op {self.name!r}"
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise SpecError(f"op name is {self.name!r}; it must be a plain identifier.")
        for field in ("kernel", "out", "stride", "groups"):
            _check_count(owner, field, getattr(self, field))
        if self.out % self.groups or (self.depthwise and self.groups > 1):
            raise SpecError(
                f"{owner}: groups is {self.groups}; it must divide the output channels ({self.out}), "
                "and be 1 where depthwise is true, which is one group per channel already."
            )
        if self.kernel % 2 == 0:
            raise SpecError(f"{owner}: kernel is {self.kernel}; it must be odd (1, 3, 5 …).")
        if self.stride not in (1, 2):
            raise SpecError(f"{owner}: stride is {self.stride}; accepted: 1, 2.")
        _check_choice(owner, "activation", self.activation, get_args(Activation))
        for field in ("depthwise", "norm", "dense"):
            if not isinstance(getattr(self, field), bool):
                raise SpecError(f"{owner}: {field} is {getattr(self, field)!r}; it must be true or false.")

    @property
    def pointwise(self) -> bool:
        """A 1×1 convolution over all channels."""
        return self.kernel == 1 and not self.depthwise


@dataclass(frozen=True, slots=True)
class SqueezeExcite:
    """Channel gates from the pooled tensor (Hu et al. 2018): pool → 1×1 → ReLU → 1×1 → gate.

    The gate is the hard sigmoid relu6(x + 3) / 6 of MobileNetV3 (arXiv 1905.02244, section 5.3).
    """

    squeeze: int
    """Channels of the inner layer."""
    name: str = "squeeze_excite"
    activation: Activation = "relu"
    """The inner activation."""

    def __post_init__(self) -> None:
        _check_count("squeeze_excite", "squeeze", self.squeeze)
        _check_choice("squeeze_excite", "activation", self.activation, get_args(Activation))
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise SpecError(f"op name is {self.name!r}; it must be a plain identifier.")


@dataclass(frozen=True, slots=True)
class MultiQueryAttention:
    """V4's mobile attention: batch norm, then heads of queries that share one key and one value head.

    Every pixel asks with `heads` queries; softmax(q·kᵀ / √head_dim) weighs the values; a 1×1
    convolution joins the heads (arXiv 2404.10518, section 3.2; no biases, no position encoding).
    With `kv_stride` 2, keys and values come from a map that a depthwise convolution and a batch norm
    shrank. The shortcut and the layer scale belong to the block.
    """

    out: int
    """Output channels; the same as the input channels."""
    heads: int
    head_dim: int
    """Channels of a query, and of the one key and value head."""
    kv_stride: int = 1
    kernel: int = 3
    """Side of the depthwise kernel that shrinks keys and values; unused where `kv_stride` is 1."""
    name: str = "attention"

    def __post_init__(self) -> None:
        owner = f"op {self.name!r}"
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise SpecError(f"op name is {self.name!r}; it must be a plain identifier.")
        for field in ("out", "heads", "head_dim", "kv_stride", "kernel"):
            _check_count(owner, field, getattr(self, field))
        if self.kernel % 2 == 0 or self.kv_stride not in (1, 2):
            raise SpecError(
                f"{owner}: kernel is {self.kernel} and kv_stride {self.kv_stride}; "
                "the kernel must be odd, the stride 1 or 2."
            )


@dataclass(frozen=True, slots=True)
class LayerScale:
    """One learnt factor per channel (Touvron et al. 2021, arXiv 2103.17239), as in V4's hybrids."""

    initial: float = 1e-5
    name: str = "layer_scale"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise SpecError(f"op name is {self.name!r}; it must be a plain identifier.")
        _check_number(f"op {self.name!r}", "initial", self.initial, low=0.0, high=1.0)


Op = Conv | SqueezeExcite | MultiQueryAttention | LayerScale


@dataclass(frozen=True, slots=True)
class Block:
    """Ops in sequence, and a shortcut around them where `residual`; one row of a paper's table."""

    ops: tuple[Op, ...]
    stage: int
    """Which group of the paper's table the block belongs to; blocks of a stage are neighbours."""
    residual: bool = False

    def __post_init__(self) -> None:
        _check_count("block", "stage", self.stage, least=0)
        if not isinstance(self.residual, bool):
            raise SpecError(f"block: residual is {self.residual!r}; it must be true or false.")
        if not self.ops:
            raise SpecError("a block has no ops; it needs at least one.")
        names = [op.name for op in self.ops]
        if len(set(names)) != len(names):
            raise SpecError(f"a block names an op twice: {names}.")
        if not any(isinstance(op, Conv | MultiQueryAttention) for op in self.ops):
            raise SpecError("a block needs at least one convolution or attention.")

    @property
    def stride(self) -> int:
        """By how much the block shrinks the picture."""
        return math.prod(op.stride for op in self.ops if isinstance(op, Conv))

    @property
    def out(self) -> int:
        """Output channels: those of the block's last convolution or attention."""
        return next(op.out for op in reversed(self.ops) if isinstance(op, Conv | MultiQueryAttention))


@dataclass(frozen=True, slots=True)
class Spec:
    """A whole classifier. `blocks[0]` is the stem; the head acts after global average pooling."""

    name: str
    source: str
    """Paper and table, or how a search arrived here."""
    blocks: tuple[Block, ...]
    head: tuple[Conv, ...] = ()
    """1×1 convolutions between the pooling and the classifier (V3, V4)."""
    classes: int = 1000
    channels: int = 3
    """Channels of the picture: 1 grey, 3 RGB, 4 RGBA; any other count for tensors from elsewhere."""
    resolution: int = 224
    """Side of the square input, in pixels."""
    padding: Padding = "symmetric"
    """`symmetric` pads (kernel − 1) / 2 on every side (PyTorch); `same` is TensorFlow's rule."""
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.1
    """PyTorch's sense: running = (1 − momentum) · running + momentum · batch."""
    dropout: float = 0.0
    """Probability of dropping a feature before the classifier."""
    initializer: Initializer = "truncated_normal"
    """How the papers' code draws the weights; see `network.initialise`."""

    def __post_init__(self) -> None:
        owner = f"spec {self.name!r}"
        for field in ("name", "source"):
            if not isinstance(getattr(self, field), str):
                raise SpecError(f"{owner}: {field} is {getattr(self, field)!r}; it must be text.")
        _check_count(owner, "classes", self.classes)
        _check_count(owner, "channels", self.channels)
        _check_count(owner, "resolution", self.resolution, least=MIN_RESOLUTION)
        _check_choice(owner, "padding", self.padding, get_args(Padding))
        _check_choice(owner, "initializer", self.initializer, get_args(Initializer))
        _check_number(owner, "norm_epsilon", self.norm_epsilon, low=1e-12, high=1.0)
        _check_number(owner, "norm_momentum", self.norm_momentum, low=0.0, high=1.0)
        _check_number(owner, "dropout", self.dropout, low=0.0, high=0.999)
        if not self.blocks:
            raise SpecError(f"{owner}: there are no blocks; it needs at least the stem.")
        if any(not conv.pointwise or conv.stride != 1 or conv.groups != 1 for conv in self.head):
            raise SpecError(
                f"{owner}: the head acts on 1×1 maps and takes only 1×1 convolutions of stride 1."
            )
        channels = self.channels
        for index, block in enumerate(self.blocks):
            entering = channels
            for op in block.ops:
                _check_channels(f"{owner}: blocks.{index}.{op.name}", op, channels)
                if isinstance(op, Conv) and op.dense:
                    raise SpecError(f"{owner}: blocks.{index}.{op.name} is dense; only a head's may be.")
                channels = op.out if isinstance(op, Conv) else channels
            if block.residual and (block.stride != 1 or channels != entering):
                raise SpecError(
                    f"{owner}: blocks.{index} has a shortcut but changes the shape "
                    f"({entering} → {channels} channels, stride {block.stride})."
                )

    @property
    def features(self) -> int:
        """Channels that enter the classifier."""
        return self.head[-1].out if self.head else self.blocks[-1].out


def _check_channels(owner: str, op: Op, c_in: int) -> None:
    match op:
        case Conv():
            if op.depthwise and op.out != c_in:
                raise SpecError(
                    f"{owner} is depthwise, so its output channels "
                    f"({op.out}) must equal its input channels ({c_in})."
                )
            if c_in % op.groups:
                raise SpecError(f"{owner}: {op.groups} groups do not divide its {c_in} input channels.")
        case MultiQueryAttention():
            if op.out != c_in:
                raise SpecError(
                    f"{owner}: its output channels ({op.out}) must equal its input channels ({c_in})."
                )
        case SqueezeExcite() | LayerScale():
            pass
        case _:
            assert_never(op)


@dataclass(frozen=True, slots=True)
class Pool:
    """Global average pooling."""

    name: str = "pool"


@dataclass(frozen=True, slots=True)
class Linear:
    """The classifier: one logit per class, with a bias."""

    out: int
    name: str = "classifier"


@dataclass(frozen=True, slots=True)
class Layer:
    """One op of a `Spec` in its place, with every shape resolved. Tensors are C×S×S."""

    path: str
    """The name of its module and the prefix of its tensors: `blocks.3.expand`, `head.0` …"""
    op: Op | Pool | Linear
    block: int | None
    """Index into `Spec.blocks`, or `None` in the head."""
    c_in: int
    c_out: int
    size_in: int
    size_out: int


def output_size(size: int, stride: int) -> int:
    """Side of the map after an odd kernel at `stride`: ⌈size / stride⌉ under both padding rules."""
    return -(-size // stride)


def padding_amounts(size: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Pixels of padding before (left, top) and after (right, bottom) a map of side `size`.

    `same` is TensorFlow's: total = max((⌈size/stride⌉ − 1)·stride + kernel − size, 0), the odd
    pixel after. It depends on the size, and differs from `symmetric` at stride 2 on even sizes.
    """
    match padding:
        case "symmetric":
            return (kernel - 1) // 2, (kernel - 1) // 2
        case "same":
            total = max((output_size(size, stride) - 1) * stride + kernel - size, 0)
            return total // 2, total - total // 2
        case _:
            assert_never(padding)


def layers(spec: Spec) -> Iterator[Layer]:
    """Every layer of `spec` in the order in which data passes through it."""
    channels, size = spec.channels, spec.resolution
    for index, block in enumerate(spec.blocks):
        for op in block.ops:
            match op:
                case Conv():
                    out, after = op.out, output_size(size, op.stride)
                case SqueezeExcite() | MultiQueryAttention() | LayerScale():
                    out, after = channels, size
                case _:
                    assert_never(op)
            yield Layer(f"blocks.{index}.{op.name}", op, index, channels, out, size, after)
            channels, size = out, after
    yield Layer("pool", Pool(), None, channels, channels, size, 1)
    for index, conv in enumerate(spec.head):
        yield Layer(f"head.{index}", conv, None, channels, conv.out, 1, 1)
        channels = conv.out
    yield Layer("classifier", Linear(spec.classes), None, channels, spec.classes, 1, 1)


STATISTICS = ("norm.running_mean", "norm.running_var")
"""Endings of tensors that are measured, not learnt: they are not counted as parameters."""


def layer_tensors(layer: Layer) -> dict[str, tuple[int, ...]]:
    """Names (with the layer's path) and shapes of a layer's tensors, in checkpoint order."""
    c_in, c_out, op = layer.c_in, layer.c_out, layer.op
    shapes: dict[str, tuple[int, ...]]
    match op:
        case Conv():
            groups = c_in if op.depthwise else op.groups
            shapes = {"conv.weight": (c_out, c_in // groups, op.kernel, op.kernel)}
            shapes |= _norm_tensors("norm", c_out) if op.norm else {"conv.bias": (c_out,)}
        case SqueezeExcite():
            shapes = {
                "reduce.weight": (op.squeeze, c_in, 1, 1),
                "reduce.bias": (op.squeeze,),
                "expand.weight": (c_out, op.squeeze, 1, 1),
                "expand.bias": (c_out,),
            }
        case MultiQueryAttention():
            shapes = _norm_tensors("norm", c_in) | {"query.weight": (op.heads * op.head_dim, c_in, 1, 1)}
            for part in ("key", "value"):
                if op.kv_stride > 1:
                    shapes[f"{part}_reduce.weight"] = (c_in, 1, op.kernel, op.kernel)
                    shapes |= _norm_tensors(f"{part}_norm", c_in)
                shapes[f"{part}.weight"] = (op.head_dim, c_in, 1, 1)
            shapes["output.weight"] = (c_out, op.heads * op.head_dim, 1, 1)
        case LayerScale():
            shapes = {"scale": (c_out,)}
        case Pool():
            shapes = {}
        case Linear():
            shapes = {"weight": (c_out, c_in), "bias": (c_out,)}
        case _:
            assert_never(op)
    return {f"{layer.path}.{name}": shape for name, shape in shapes.items()}


def _norm_tensors(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}


def tensor_shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Every tensor that a checkpoint of `spec` holds, in order: name → shape."""
    return {name: shape for layer in layers(spec) for name, shape in layer_tensors(layer).items()}


_OPS: dict[str, type[Op]] = {
    "conv": Conv,
    "squeeze_excite": SqueezeExcite,
    "multi_query_attention": MultiQueryAttention,
    "layer_scale": LayerScale,
}


def to_json(spec: Spec) -> dict[str, Any]:
    """`spec` as plain JSON values; `from_json` gives back an equal `Spec`."""
    kinds = {cls: kind for kind, cls in _OPS.items()}

    def op_json(op: Op) -> dict[str, Any]:
        return {"op": kinds[type(op)], **dataclasses.asdict(op)}

    return {
        **{f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)},
        "blocks": [
            {"stage": block.stage, "residual": block.residual, "ops": [op_json(op) for op in block.ops]}
            for block in spec.blocks
        ],
        "head": [op_json(conv) for conv in spec.head],
    }


def from_json(value: Mapping[str, Any]) -> Spec:
    """The `Spec` that `to_json` wrote; `SpecError` for anything else, unknown fields included."""

    def build_op(row: Mapping[str, Any]) -> Op:
        fields = dict(row)
        kind = fields.pop("op", None)
        if kind not in _OPS:
            raise SpecError(f"unknown op {kind!r}; accepted: {', '.join(_OPS)}.")
        op: Op = _OPS[kind](**fields)
        return op

    try:
        fields = dict(value)
        fields["blocks"] = tuple(
            Block(
                ops=tuple(build_op(op) for op in block["ops"]),
                stage=block["stage"],
                residual=block["residual"],
            )
            for block in fields["blocks"]
        )
        fields["head"] = tuple(build_op(op) for op in fields["head"])
        return Spec(**fields)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise SpecError(f"not a network description ({error}).") from error
