"""How far two computations of the same thing may lie apart, and why. Named here, used everywhere.

`LOGITS_RELATIVE` bounds max |Δlogit| by a multiple of the standard deviation of the reference's
logits, pooled over pictures and classes: another fp32 engine sums in another order and fuses
multiply-adds, so it differs in the last bits of each layer; 1e-4 of a standard deviation is far
below what moves a decision, and far above what rounding makes of fifty layers.

A bf16 number has 8 significant bits, so every weight is off by up to 2^-8 of itself, and where maps are in
bf16, so is every value of theirs. Over fifty layers that adds up to 0.16 of a standard deviation at most in
a trained V1 (500 pictures), and to 0.3 to 0.8 in random networks; other logits are off by 3 and more. So
the bound of bf16, 1, finds a fault, and top-1 accuracy says what bf16 costs.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LOGITS_RELATIVE = 1e-4
BF16_RELATIVE = 1.0
LOGITS = {"fp32": LOGITS_RELATIVE, "bf16": BF16_RELATIVE}
"""By precision."""
FOLDED_RTOL = 1e-5
"""Batch norm folded into a convolution: the same sums with scaled weights, one rounding apart."""


class Agreement(NamedTuple):
    """What a comparison of two sets of logits found."""

    max_difference: float
    reference_std: float
    top1_agreement: float
    """Share of pictures with the same best class, among those whose margin could not flip it."""
    n: int
    tolerance: float = LOGITS_RELATIVE
    """Of `relative`."""

    @property
    def relative(self) -> float:
        """max |Δlogit| / std of the reference's logits."""
        return self.max_difference / self.reference_std if self.reference_std else self.max_difference

    @property
    def holds(self) -> bool:
        """Whether another engine of this precision may differ by this much."""
        return self.relative <= self.tolerance and self.top1_agreement == 1.0


def agreement(
    reference: NDArray[np.float32], other: NDArray[np.float32], tolerance: float = LOGITS_RELATIVE
) -> Agreement:
    """Compare `other` with `reference`, both N×classes logits, in double precision.

    A picture whose two best logits lie closer than twice the tolerance, `relative`, may flip its best
    class by rounding alone, and is left out of `top1_agreement`. NaN anywhere makes the comparison fail.
    """
    a, b = reference.astype(np.float64), other.astype(np.float64)
    std = float(a.std())
    difference = float(np.abs(a - b).max()) if a.size else 0.0
    best_two = np.sort(a, axis=1)[:, -2:]
    decided = best_two[:, -1] - best_two[:, 0] > 2 * tolerance * std
    same = (a.argmax(axis=1) == b.argmax(axis=1))[decided]
    return Agreement(
        max_difference=difference if np.isfinite(b).all() else float("inf"),
        reference_std=std,
        top1_agreement=float(same.mean()) if same.size else 1.0,
        n=len(a),
        tolerance=tolerance,
    )
