"""Medians of noisy samples, with intervals that assume nothing about their distribution."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

MIN_ROUNDS = 6
"""With fewer samples there is no 95 % interval of a median."""


class Interval(NamedTuple):
    """A median and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} – {self.high:.2f})"


def median_interval(samples: Sequence[float]) -> Interval:
    """The median of at least `MIN_ROUNDS` independent samples, and its interval by order statistics.

    The true median lies between the k-th smallest and the k-th largest sample unless fewer than k of
    n samples fall on one side of it: a binomial probability, whatever the distribution.
    """
    n = len(samples)
    if n < MIN_ROUNDS:
        raise ValueError(f"{n} samples; {MIN_ROUNDS} or more give a 95 % interval.")
    k, tail = 0, 0
    while 2 * (tail + math.comb(n, k)) <= 0.05 * 2**n:
        tail += math.comb(n, k)
        k += 1
    ordered = sorted(samples)
    return Interval(statistics.median(ordered), ordered[k - 1], ordered[n - k])


def ratio(times: Sequence[float], others: Sequence[float]) -> Interval:
    """`times` over `others`, round by round: what slows the machine for a while slows both."""
    return median_interval([time / other for time, other in zip(times, others, strict=True)])


def quantile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least `share` of all do not exceed."""
    return sorted(samples)[max(0, math.ceil(share * len(samples)) - 1)]


def unsteadiness(engines: Iterable[Sequence[float]]) -> float:
    """How far the rounds of an engine lie apart, the median of all engines; 0 where there is none.

    Of one engine: its second largest time over its second smallest, less 1, so that one round may be lost.
    """
    apart = []
    for times in engines:
        ordered = sorted(times)
        apart.append(ordered[-2] / ordered[1] - 1)
    return statistics.median(apart) if apart else 0.0
