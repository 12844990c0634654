"""Hypothesis strategies for legal `Spec`s, small enough to build and run in milliseconds."""

from typing import get_args

from hypothesis import strategies as st

from mobilenets.spec import (
    Activation,
    Block,
    Conv,
    Initializer,
    LayerScale,
    MultiQueryAttention,
    Op,
    Padding,
    Spec,
    SqueezeExcite,
)

_FEW = st.integers(1, 12)
_MANY = st.sampled_from((16, 24, 40, 72, 120))
"""Widths of several vectors and blocks of channels; some end in half a block."""
_ACTIVATIONS = st.sampled_from(get_args(Activation))


def _widths(few: st.SearchStrategy[int], wide: bool) -> st.SearchStrategy[int]:
    return few | _MANY if wide else few


@st.composite
def convs(draw: st.DrawFn, name: str, c_in: int, stride: int, wide: bool) -> Conv:
    depthwise = draw(st.booleans())
    out = c_in if depthwise else draw(_widths(_FEW, wide))
    counts = (1, 2, 3, 4, 8) if wide else (1, 2, 3)
    groups = [count for count in counts if c_in % count == 0 and out % count == 0]
    return Conv(
        name=name,
        kernel=draw(st.sampled_from((1, 3, 5, 7))),
        out=out,
        groups=1 if depthwise else draw(st.sampled_from(groups)),
        stride=stride,
        activation=draw(_ACTIVATIONS),
        depthwise=depthwise,
        norm=draw(st.booleans()),
    )


@st.composite
def attentions(draw: st.DrawFn, name: str, channels: int, wide: bool) -> MultiQueryAttention:
    return MultiQueryAttention(
        out=channels,
        heads=draw(st.integers(1, 3)),
        head_dim=draw(_widths(st.integers(1, 4), wide)),
        kv_stride=draw(st.sampled_from((1, 2))),
        kernel=draw(st.sampled_from((3, 5))),
        name=name,
    )


@st.composite
def blocks(draw: st.DrawFn, c_in: int, stage: int, wide: bool) -> Block:
    ops: list[Op] = []
    channels = c_in
    for index in range(draw(st.integers(1, 3))):
        conv = draw(convs(f"conv_{index}", channels, draw(st.sampled_from((1, 1, 2))), wide))
        ops.append(conv)
        channels = conv.out
        if draw(st.integers(0, 3)) == 0:
            squeeze = draw(_widths(st.integers(1, 6), wide))
            ops.append(SqueezeExcite(squeeze, f"gate_{index}", draw(_ACTIVATIONS)))
        if draw(st.integers(0, 5)) == 0:
            ops.append(draw(attentions(f"attention_{index}", channels, wide)))
        if draw(st.integers(0, 5)) == 0:
            ops.append(LayerScale(draw(st.floats(0.0, 1.0)), f"scale_{index}"))
    block = Block(tuple(ops), stage)
    keeps_shape = block.stride == 1 and block.out == c_in
    return Block(block.ops, stage, residual=keeps_shape and draw(st.booleans()))


@st.composite
def specs(draw: st.DrawFn, *, wide: bool = False) -> Spec:
    """Any legal `Spec` with few channels; names and source hold any text.

    With `wide`, half of the widths are those of real networks, up to 120: it takes seconds to run.
    """
    channels = draw(st.sampled_from((1, 2, 3, 4, 5)))
    body, c_in = [], channels
    for stage in range(draw(st.integers(1, 4))):
        body.append(draw(blocks(c_in, stage, wide)))
        c_in = body[-1].out
    head = tuple(
        Conv("conv", 1, draw(_widths(_FEW, wide)), 1, draw(_ACTIVATIONS), norm=draw(st.booleans()))
        for _ in range(draw(st.integers(0, 2)))
    )
    return Spec(
        name=draw(st.text(max_size=8)),
        source=draw(st.text(max_size=8)),
        blocks=tuple(body),
        head=head,
        classes=draw(_widths(st.integers(1, 7), wide)),
        channels=channels,
        resolution=draw(st.integers(32, 70)),
        padding=draw(st.sampled_from(get_args(Padding))),
        norm_epsilon=draw(st.floats(1e-12, 1.0)),
        norm_momentum=draw(st.floats(0.0, 1.0)),
        dropout=draw(st.floats(0.0, 0.999)),
        initializer=draw(st.sampled_from(get_args(Initializer))),
    )
