"""A MobileNet as plain C, specialised to the very network.

    folding    norms and layer scales into the convolutions beside them
    planning   steps over maps, and one arena; `steps`, `tiling` and `strips` are parts of it
    packing    weights in the order in which the kernels read them
    emission   C: a function for every kind of convolution, one for each step
    targets    the machines that there can be libraries for
    toolchain  the C compiler, and a cache of libraries
    kept       a checkpoint's library in that cache, found without compiling anything

The kernels are written by hand, in `c/kernels.h` and `c/kernels_bf16.h`; docs/compiler.md explains them.
"""

import numpy as np

from mobilenets import spec as specs
from mobilenets.checkpoint import Checkpoint
from mobilenets.compiler.emission import Program, emit
from mobilenets.compiler.folding import fold
from mobilenets.compiler.planning import Plan, plan
from mobilenets.compiler.steps import FP32, PRECISIONS
from mobilenets.errors import UnknownName
from mobilenets.spec import Spec

__all__ = ["Plan", "Program", "plan_of", "translate"]


def plan_of(model: Checkpoint | Spec, *, precision: str = "fp32", fp32_maps: bool = False) -> Plan:
    """The steps, tiles and arena of the compiled network; they follow from shapes, so a `Spec` will do.

    Of the weights' size so much does not: a linear layer with outliers has 24 bits for 21, a `Spec` has none.

    `precision` is that of weights and, but for `fp32_maps`, of maps: with those, what has its weights in bf16
    runs on every processor (`toolchain.multiplies_bf16`). Raises `UnknownName` for a precision that there is
    not.
    """
    if precision not in PRECISIONS:
        raise UnknownName("precision", precision, PRECISIONS)
    maps = FP32 if fp32_maps else PRECISIONS[precision]
    if isinstance(model, Checkpoint):
        return plan(model.spec, fold(model.spec, model.tensors), maps, PRECISIONS[precision])
    zeros = {name: np.zeros(shape, np.float32) for name, shape in specs.tensor_shapes(model).items()}
    return plan(model, fold(model, zeros), maps, PRECISIONS[precision])


def translate(checkpoint: Checkpoint, *, precision: str = "fp32", fp32_maps: bool = False) -> Program:
    """`checkpoint` as C source and packed weights; arguments and errors as for `plan_of`."""
    return emit(plan_of(checkpoint, precision=precision, fp32_maps=fp32_maps), checkpoint.manifest)
