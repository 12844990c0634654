"""Gates that multiply the weights of the projection behind them, where those are fewer than its map's values.

What a projection computes of a map times its gates is what its weights times the gates compute of the map.
"""

from collections.abc import Sequence
from dataclasses import replace

from mobilenets.compiler.steps import FP32, Convolve, Map, Scale, ScaleWeights, Step, read_by

_FEWER = 0.75
"""The most weights for each of the map's values."""


def gate_weights(steps: Sequence[Step]) -> list[Step]:
    """`steps` with `ScaleWeights` in the place of a `Scale` whose map only a projection reads."""
    found: list[Step] = []
    for index, step in enumerate(steps):
        before = found[-1] if found else None
        if isinstance(before, Scale) and isinstance(step, Convolve) and _can_be_gated(step, before):
            later = (at for other in steps[index + 1 :] for at in read_by(other))
            if all(at is not before.writes for at in later):
                found[-1:] = _gated(step, before)
                continue
        found.append(step)
    return found


def _can_be_gated(convolve: Convolve, scale: Scale) -> bool:
    at = scale.writes
    return (
        convolve.reads == (at,)
        and convolve.kernel == convolve.stride == convolve.groups == 1
        and at.precision == FP32
        and convolve.own is not None
        and convolve.own.weight.size <= _FEWER * at.values
    )


def _gated(convolve: Convolve, scale: Scale) -> list[Step]:
    """The two steps."""
    (source,), (_, gates) = convolve.reads, scale.reads
    width = (convolve.writes.blocks - convolve.half) * FP32.block + convolve.half * FP32.block // 2
    weights = Map(f"{convolve.writes.name}.gated", width * source.channels, 1, 1)
    title = f"{scale.title.partition(':')[0]}: every weight times its input's gate"
    return [
        ScaleWeights(title, (gates,), weights, convolve),
        replace(convolve, reads=(source, weights)),
    ]
