"""How plain PyTorch repositories lay out a MobileNet, and where their networks leave the papers'.

Facts, from the repositories' code: gates are dense layers, with or without biases, or 1×1 convolutions,
and stand where they run or at an end of their block; heads and classifiers are either; V1 has ReLU
where TensorFlow has ReLU6 (marvis/pytorch-mobilenet and its many copies); in d-li14/mobilenetv3.pytorch
and kuan-wang/pytorch-mobilenet-v3 the gate comes before the activation; the latter's first block has
an expansion, its gates have no biases, its Small a head of 1280.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mobilenets import spec as specs
from mobilenets.errors import CheckpointError
from mobilenets.spec import Conv, Layer, Linear, Op, Spec, SqueezeExcite
from mobilenets.text import count, printable
from mobilenets.weights.hub_config import with_activation
from mobilenets.weights.source import Tensors

GatePosition = Literal["computed", "last", "first"]
GATE_POSITIONS: tuple[GatePosition, ...] = ("computed", "last", "first")
"""Where in its block a repository registers the gate, in the order in which they are tried."""

_NORM = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Unit:
    """The tensors of one module of a file: a convolution, a dense layer, a norm, or something else."""

    path: str
    parts: Mapping[str, str]
    """`weight`, `bias` … → the tensor's name."""
    form: str
    """`norm`, `3×3`, `depthwise 3×3`, `1×1` (also a dense layer), or what is there."""
    dense: bool = False
    """Whether the weight is a matrix."""

    def missing_from(self, form: str) -> str | None:
        """The name of the first tensor that a unit of that form has and this one has not."""
        wanted = _NORM if form == "norm" else ("weight",)
        absent = [role for role in wanted if role not in self.parts]
        present = set(wanted) & self.parts.keys()
        return f"{self.path}.{absent[0]}" if absent and present else None


def units_of(names: Sequence[str], tensors: Tensors) -> list[Unit]:
    """Neighbours with the same path, in order."""
    grouped: list[tuple[str, dict[str, str]]] = []
    for name in names:
        path, _, role = name.rpartition(".")
        if not grouped or grouped[-1][0] != path or role in grouped[-1][1]:
            grouped.append((path, {}))
        grouped[-1][1][role] = name
    return [_unit(path, parts, tensors, first=index == 0) for index, (path, parts) in enumerate(grouped)]


def _unit(path: str, parts: Mapping[str, str], tensors: Tensors, *, first: bool) -> Unit:
    shape = tensors[parts["weight"]].shape if "weight" in parts else ()
    return Unit(path, parts, _form(parts, shape, first=first), dense=len(shape) == 2)


def _form(parts: Mapping[str, str], shape: tuple[int, ...], *, first: bool) -> str:
    """A stem is never depthwise, also where the picture has one channel."""
    if parts.keys() == set(_NORM) and len(shape) == 1:
        return "norm"
    if "weight" in parts and parts.keys() <= {"weight", "bias"}:
        match shape:
            case (_, _):
                return "1×1"
            case (out, per_group, high, wide) if high == wide:
                return _kernel_form(high, depthwise=per_group == 1 and out > 1 and not first)
    return f"{' + '.join(parts)} of shape {shape}"


def _kernel_form(kernel: int, *, depthwise: bool) -> str:
    return f"{'depthwise ' if depthwise else ''}{kernel}×{kernel}"


@dataclass(frozen=True)
class Slot:
    """A place for a `Unit` in a network of ours."""

    form: str
    path: str
    """Our names are this and the role: `blocks.3.expand.conv` + `.weight`."""
    bias: bool = False
    """Whether a convolution or dense layer has a bias here."""
    mean: str = ""
    """Our name of the mean of the norm that follows: a superfluous bias is taken into it."""
    layer: str = ""
    """The path of the op that it belongs to."""

    @property
    def weight(self) -> str:
        """Our name of its weight."""
        return f"{self.path}.weight"


def has_places(spec: Spec) -> bool:
    """Whether `slots_of` knows every op of `spec`: not attention and layer scales."""
    return all(isinstance(op, Conv | SqueezeExcite) for block in spec.blocks for op in block.ops)


def slots_of(spec: Spec, position: GatePosition) -> tuple[Slot, ...]:
    """The places of `spec`, of which `has_places` holds, with each block's gate at `position`."""
    blocks: dict[int | None, list[Layer]] = {}
    for layer in specs.layers(spec):
        blocks.setdefault(layer.block, []).append(layer)
    ordered: list[Layer] = []
    for members in blocks.values():
        gates = [layer for layer in members if isinstance(layer.op, SqueezeExcite)]
        others = [layer for layer in members if not isinstance(layer.op, SqueezeExcite)]
        match position:
            case "computed":
                ordered += members
            case "last":
                ordered += others + gates
            case "first":
                ordered += gates + others
    return tuple(slot for layer in ordered for slot in _slots(layer))


def _slots(layer: Layer) -> Iterator[Slot]:
    op, path = layer.op, layer.path
    if isinstance(op, Conv):
        form = _kernel_form(op.kernel, depthwise=op.depthwise)
        mean = f"{path}.norm.running_mean" if op.norm else ""
        yield Slot(form, f"{path}.conv", bias=not op.norm, mean=mean, layer=path)
        if op.norm:
            yield Slot("norm", f"{path}.norm", layer=path)
    elif isinstance(op, SqueezeExcite):
        for part in ("reduce", "expand"):
            yield Slot("1×1", f"{path}.{part}", bias=True, layer=path)
    elif isinstance(op, Linear):
        yield Slot("1×1", path, bias=True, layer=path)


@dataclass(frozen=True)
class Layout:
    """A network's places beside a file's modules, one to one."""

    slots: tuple[Slot, ...]
    units: tuple[Unit, ...]
    notes: tuple[str, ...] = field(init=False)
    """What had to be added or taken in, in sentences."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "notes", tuple(self._notes()))

    def _notes(self) -> Iterator[str]:
        absent = [slot for slot, unit in self._pairs() if slot.bias and "bias" not in unit.parts]
        if absent:
            yield f"{count(len(absent), 'layer')} without a bias got one of zeros ({absent[0].layer} …)."
        superfluous = [slot for slot, unit in self._pairs() if slot.mean and "bias" in unit.parts]
        if superfluous:
            yield (
                f"{count(len(superfluous), 'convolution')} before a batch norm had a bias: it was taken "
                "into the norm's mean."
            )

    def _pairs(self) -> Iterator[tuple[Slot, Unit]]:
        yield from zip(self.slots, self.units, strict=True)

    @property
    def dense_head(self) -> bool:
        """Whether the file's head is a matrix."""
        return any(slot.path.startswith("head.") and unit.dense for slot, unit in self._pairs())

    def name_of(self, ours: str) -> str:
        """The file's tensor that is `ours`, or the weight whose missing bias it is."""
        path, _, role = ours.rpartition(".")
        unit = next(unit for slot, unit in self._pairs() if slot.path == path)
        return unit.parts.get(role, unit.parts["weight"])

    def arrays(self, tensors: Tensors) -> dict[str, NDArray[np.float32]]:
        """The file's tensors under our names, in their own shapes; biases added and taken in."""
        arrays: dict[str, NDArray[np.float32]] = {}
        taken_in: dict[str, NDArray[np.float32]] = {}
        for slot, unit in self._pairs():
            for role, name in unit.parts.items():
                if role == "bias" and slot.mean:
                    taken_in[slot.mean] = tensors[name]
                    if tensors[name].shape != tensors[unit.parts["weight"]].shape[:1]:
                        raise CheckpointError(
                            f"tensor '{printable(name)}' has shape {tensors[name].shape}; "
                            "a bias has one value per output channel."
                        )
                else:
                    arrays[f"{slot.path}.{role}"] = tensors[name]
            if slot.bias and "bias" not in unit.parts:
                arrays[f"{slot.path}.bias"] = np.zeros(len(arrays[slot.weight]), np.float32)
        for mean, bias in taken_in.items():
            arrays[mean] = arrays[mean] - bias
        return arrays

    def shapes(self, tensors: Tensors) -> dict[str, tuple[int, ...]]:
        """Shapes under our names; a matrix counts as a 1×1 convolution, but for the classifier."""
        shapes = {name: array.shape for name, array in self.arrays(tensors).items()}
        for slot, unit in self._pairs():
            shape = shapes[slot.weight]
            if slot.path == "classifier":
                shapes[slot.weight] = shape[:2]
            elif unit.dense:
                shapes[slot.weight] = (*shape, 1, 1)
        return shapes


def fitted(spec: Spec, arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """The tensors of `spec` in its order and shapes; those of `arrays` differ by sides of 1 alone."""
    return {
        name: np.ascontiguousarray(arrays[name]).reshape(shape)
        for name, shape in specs.tensor_shapes(spec).items()
    }


# --- what differs from the papers ---------------------------------------------------------------


def always_expanding(spec: Spec) -> Spec:
    """`spec` with an expansion of factor 1 also in its first block, which the papers leave out."""
    stem, first, *rest = spec.blocks
    depthwise = first.ops[0]
    assert isinstance(depthwise, Conv)
    expand = Conv("expand", 1, depthwise.out, 1, depthwise.activation)
    opened = dataclasses.replace(first, ops=(expand, *first.ops))
    return dataclasses.replace(spec, blocks=(stem, opened, *rest))


def gates_before_activation(layout: Layout) -> tuple[int, ...]:
    """The blocks whose names say that nothing stands between the depthwise norm and the gate.

    In a numbered sequence with the norm at `conv.4`, a gate at `conv.5` follows it directly; at
    `conv.6`, or under a name, an activation does.
    """
    early = []
    for (before, norm), (slot, gate) in itertools.pairwise(zip(layout.slots, layout.units, strict=True)):
        if slot.path.endswith(".squeeze_excite.reduce") and before.path.endswith(".depthwise.norm"):
            sequence, _, number = norm.path.rpartition(".")
            following = gate.path.removeprefix(f"{sequence}.").partition(".")[0]
            if number.isdecimal() and following.isdecimal() and int(following) == int(number) + 1:
                early.append(int(slot.path.split(".")[1]))
    return tuple(early)


def with_early_gates(
    spec: Spec, arrays: Mapping[str, NDArray[np.float32]], early: Sequence[int]
) -> tuple[Spec, dict[str, NDArray[np.float32]]]:
    """The blocks `early` with the gate before the activation.

    No op of ours is an activation alone. A depthwise 1×1 convolution with weights of 1 and biases of 0
    passes its input on unchanged, to the bit, and has one.
    """
    blocks, added = list(spec.blocks), dict(arrays)
    for index in early:
        ops: list[Op] = []
        for op in blocks[index].ops:
            if isinstance(op, Conv) and op.depthwise:
                late = Conv("activation", 1, op.out, 1, op.activation, depthwise=True, norm=False)
                ops.append(dataclasses.replace(op, activation="none"))
            else:
                ops += [op, late] if isinstance(op, SqueezeExcite) else [op]
        blocks[index] = dataclasses.replace(blocks[index], ops=tuple(ops))
        path = f"blocks.{index}.activation.conv"
        added[f"{path}.weight"] = np.ones((late.out, 1, 1, 1), np.float32)
        added[f"{path}.bias"] = np.zeros(late.out, np.float32)
    changed = dataclasses.replace(spec, blocks=tuple(blocks))
    return changed, {name: added[name] for name in specs.tensor_shapes(changed)}


def with_relu(spec: Spec) -> tuple[Spec, str]:
    """V1 with ReLU for ReLU6, as its plain repositories have it, and a sentence that says so."""
    if not spec.name.startswith("mobilenet_v1"):
        return spec, ""
    said = "Plain repositories of V1 use ReLU where TensorFlow and timm have ReLU6: ReLU was taken."
    return with_activation(spec, "relu6", "relu"), said
