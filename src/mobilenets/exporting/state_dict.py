"""A checkpoint as a state dict of torchvision or timm, for `load_state_dict` there, strict.

What the other library would compute otherwise is refused, or brought into the weights where that is
exact: torchvision's epsilon is fixed, but (variance + epsilon) is all that a batch norm sees of both.
timm takes epsilon and padding as arguments, so its weights stay as they are.
"""

import dataclasses
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from mobilenets import files
from mobilenets import spec as specs
from mobilenets.checkpoint import Checkpoint
from mobilenets.errors import CheckpointError, GateFailed, InputError, SpecError, UnknownName
from mobilenets.exporting.written import Written
from mobilenets.network import MobileNet, from_checkpoint
from mobilenets.spec import Spec
from mobilenets.tolerances import agreement
from mobilenets.weights import pytorch_file
from mobilenets.weights.matching import Match, found_by_name, identify
from mobilenets.weights.source import Source, from_ours, shape_there
from mobilenets.weights.timm import TIMM
from mobilenets.weights.torchvision import TORCHVISION

TIMM_NAMES = {
    "mobilenet_v1_100": "mobilenetv1_100",
    "mobilenet_v1_125": "mobilenetv1_125",
    **{f"mobilenet_v2_{width}": f"mobilenetv2_{width}" for width in ("035", "050", "075", "100", "140")},
    **{f"mobilenet_v3_large_{width}": f"mobilenetv3_large_{width}" for width in ("075", "100")},
    **{f"mobilenet_v3_small_{width}": f"mobilenetv3_small_{width}" for width in ("050", "075", "100")},
    "mobilenet_v3_large_minimalistic_100": "tf_mobilenetv3_large_minimal_100",
    "mobilenet_v3_small_minimalistic_100": "tf_mobilenetv3_small_minimal_100",
    **{f"mobilenet_v4_conv_small{width}": f"mobilenetv4_conv_small{width}" for width in ("", "_035", "_050")},
    "mobilenet_v4_conv_medium": "mobilenetv4_conv_medium",
    "mobilenet_v4_conv_large": "mobilenetv4_conv_large",
    **{f"mobilenet_v4_hybrid_medium{width}": f"mobilenetv4_hybrid_medium{width}" for width in ("", "_075")},
    **{f"mobilenet_v4_hybrid_large{width}": f"mobilenetv4_hybrid_large{width}" for width in ("", "_075")},
    "mobilenet_edgetpu_100": "mobilenet_edgetpu_100",
    **{f"mobilenet_edgetpu_v2_{size}": f"mobilenet_edgetpu_v2_{size}" for size in ("xs", "s", "m", "l")},
}
"""Our name → what `timm.create_model` (1.0.31) builds by name; it takes no width."""


@dataclass(frozen=True)
class StateDict:
    """Tensors under another library's names, in its order, and how they get into its model."""

    tensors: Mapping[str, Tensor]
    """With `num_batches_tracked`, so that strict loading finds everything."""
    build: str
    """The expression that builds the other library's model."""
    notes: tuple[str, ...] = ()


def write(checkpoint: Checkpoint, to: str, out: str | Path) -> Written:
    """Write `out` for `to` (`torchvision`: `*.pth`, `timm`: `*.safetensors`), read it back and compare.

    Raises `SpecError` naming the reason where the other library cannot express the network,
    `InputError` for another ending of the name, `UnknownName` for another library, `GateFailed` where
    what was read back does not give the same logits; nothing is left behind then.
    """
    out = Path(out)
    if to not in TARGETS:
        raise UnknownName("library", to, TARGETS)
    target = TARGETS[to]
    if out.suffix != target.suffix:
        raise InputError(
            f"weights for {to} are written as '{target.suffix}' files.",
            file=out,
            remedy=f"Give -o NAME{target.suffix}",
        )
    state = target.convert(checkpoint)
    with files.replacing(out) as temporary:
        temporary.write_bytes(target.serialise(dict(state.tensors)))
        _compare(checkpoint, temporary, target.source)
    name = json.dumps(out.name, ensure_ascii=False)  # a file name can hold quotes; JSON's are Python's
    return Written(out, target.how_to_load.format(build=state.build, name=name), state.notes)


def to_torchvision(checkpoint: Checkpoint) -> StateDict:
    """The state dict of torchvision's `mobilenet_v2`, `mobilenet_v3_large` or `mobilenet_v3_small`.

    Another epsilon than torchvision's is folded into the running variances. Raises `SpecError` for
    another family or rounding rule, for `same` padding, for a changed block, for other channels than
    3, and where a variance is too small to take the difference of the epsilons.
    """
    spec = checkpoint.spec
    match = _match(spec, dataclasses.replace(TORCHVISION, rules=("torchvision",)))
    if spec.padding != "symmetric":
        raise SpecError(
            f"torchvision cannot express {spec.name}: it pads as TensorFlow does ('same'), and torchvision "
            "symmetrically, so it would see the picture one pixel shifted at every stride.",
            remedy="timm can: --to timm.",
        )
    if spec.channels != 3:
        raise SpecError(f"torchvision takes RGB pictures alone; {spec.name} has {spec.channels} channels.")
    theirs = TORCHVISION.conventions(match.spec).norm_epsilon
    arrays, notes = _with_epsilon(checkpoint, theirs)
    width = f", width_mult={match.width!r}" if match.width != 1.0 else ""
    build = f"torchvision.models.{match.prefix}(num_classes={spec.classes}{width})"
    return StateDict(_tensors(arrays, match), build, notes)


def to_timm(checkpoint: Checkpoint) -> StateDict:
    """The state dict of a model that `timm.create_model` builds; epsilon and padding are its arguments.

    Raises `SpecError` for a network whose width, rounding or blocks no model of timm has.
    """
    spec = checkpoint.spec
    match = _match(spec, dataclasses.replace(TIMM, rules=("timm",)))
    name = TIMM_NAMES.get(match.spec.name)
    if name is None:
        raise SpecError(
            f"timm has no model by name that is {spec.name}: it takes no width.",
            remedy=f"It has: {', '.join(TIMM_NAMES)}.",
        )
    arguments = [repr(name), f"num_classes={spec.classes}"]
    arguments += [f"in_chans={spec.channels}"] if spec.channels != 3 else []
    usual = match.spec
    if spec.padding != usual.padding:
        arguments.append(f"pad_type={'same' if spec.padding == 'same' else ''!r}")
    if spec.norm_epsilon != usual.norm_epsilon:
        arguments.append(f"bn_eps={spec.norm_epsilon!r}")
    notes = []
    if any(conv.dense for conv in spec.head):
        notes.append("timm runs the head as a convolution: logits differ in their last bits.")
    return StateDict(
        _tensors(checkpoint.tensors, match), f"timm.create_model({', '.join(arguments)})", tuple(notes)
    )


# --- what the other library can express -----------------------------------------------------------


def _match(spec: Spec, source: Source) -> Match:
    """The network of `source` that is this one, with its width; `SpecError` where there is none."""
    places = source.places(spec)
    ours = specs.tensor_shapes(spec)
    shapes = {place.name: shape_there(place.layout, ours[name]) for name, place in places.items()}
    try:
        match = identify(shapes, (source,))
    except CheckpointError as error:
        raise SpecError(
            f"{source.name} cannot express {spec.name}: {error.what}",
            remedy=f"{source.name} rounds channels by a rule of its own: the zoo's functions take it as "
            f"rule={source.rules[0]!r}.",
        ) from error
    for theirs, mine in zip(_forms(match.spec), _forms(spec), strict=True):
        if theirs != mine:
            raise SpecError(
                f"{source.name} cannot express {spec.name}: it has {mine} where {match.spec.name} there "
                f"has {theirs}."
            )
    return match


def _forms(spec: Spec) -> list[object]:
    """All that decides what is computed, but the tensors' shapes."""
    blocks: list[object] = [dataclasses.replace(block, stage=0) for block in spec.blocks]
    return [*blocks, *(dataclasses.replace(conv, dense=False) for conv in spec.head)]


def _with_epsilon(
    checkpoint: Checkpoint, epsilon: float
) -> tuple[Mapping[str, NDArray[np.float32]], tuple[str, ...]]:
    """The tensors for a norm with another `epsilon`: variance + epsilon stays what it is."""
    ours = checkpoint.spec.norm_epsilon
    if ours == epsilon:
        return checkpoint.tensors, ()
    changed = dict(checkpoint.tensors)
    for name, variance in checkpoint.tensors.items():
        if name.endswith("norm.running_var"):
            other = variance.astype(np.float64) + ours - epsilon
            if (other < 0).any():
                raise SpecError(
                    f"tensor '{name}' has a variance of {variance.min():.3g}; torchvision's epsilon of "
                    f"{epsilon:g} instead of {ours:g} cannot be made up for by a variance of 0 or more.",
                    remedy="timm can: --to timm, which takes the epsilon as an argument.",
                )
            changed[name] = other.astype(np.float32)
    return changed, (
        f"Batch norm epsilon is {epsilon:g} there and {ours:g} here: the difference went into the running "
        "variances, so evaluation is the same but for rounding.",
    )


def _tensors(arrays: Mapping[str, NDArray[np.float32]], match: Match) -> dict[str, Tensor]:
    """Tensors under their names, each norm's step counter after its variance."""
    state: dict[str, Tensor] = {}
    for ours, place in match.places.items():
        state[place.name] = torch.from_numpy(from_ours(place.layout, arrays[ours]).copy())
        if place.name.endswith("running_var"):
            counter = place.name.removesuffix("running_var") + pytorch_file.IGNORED
            state[counter] = torch.zeros((), dtype=torch.long)
    return state


# --- the files ----------------------------------------------------------------------------------


def _pickled(state: dict[str, Tensor]) -> bytes:
    """What `torch.save` writes: the form that torchvision publishes, tensors alone."""
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


@dataclass(frozen=True)
class Target:
    """A library that weights are written for."""

    source: Source
    suffix: str
    convert: Callable[[Checkpoint], StateDict]
    serialise: Callable[[dict[str, Tensor]], bytes]
    how_to_load: str
    """Lines of Python with `{build}` and `{name}`, the file's name as a literal."""


TARGETS: dict[str, Target] = {
    "torchvision": Target(
        TORCHVISION,
        ".pth",
        to_torchvision,
        _pickled,
        "import torch, torchvision\n"
        "model = {build}\n"
        "model.load_state_dict(torch.load({name}, weights_only=True))\n"
        "model.eval()",
    ),
    "timm": Target(
        TIMM,
        ".safetensors",
        to_timm,
        save,
        "import timm\n"
        "from safetensors.torch import load_file\n"
        "model = {build}\n"
        "model.load_state_dict(load_file({name}))\n"
        "model.eval()",
    ),
}


@torch.no_grad()
def _compare(checkpoint: Checkpoint, path: Path, source: Source) -> None:
    """Read the file as anybody's and compare its logits with the checkpoint's."""
    found = found_by_name(pytorch_file.read(path).tensors, (source,))
    spec = found.spec
    if source is TIMM:  # which takes both as arguments of `create_model`
        spec = dataclasses.replace(
            spec, padding=checkpoint.spec.padding, norm_epsilon=checkpoint.spec.norm_epsilon
        )
    manifest = dataclasses.replace(checkpoint.manifest, spec=spec)
    again, ours = from_checkpoint(Checkpoint(manifest, found.tensors)), from_checkpoint(checkpoint)
    result = agreement(_logits(ours), _logits(again))
    if not result.holds:
        raise GateFailed(
            f"what was written for {source.name} gives other logits than the checkpoint "
            f"({result.relative:.2g} standard deviations); nothing was left at the destination."
        )


def _logits(network: MobileNet) -> NDArray[np.float32]:
    """For two pictures of noise, small enough to take no time, odd so that padding shows."""
    noise = torch.randn(2, network.spec.channels, 97, 97, generator=torch.Generator().manual_seed(0))
    result: NDArray[np.float32] = network(noise).numpy()
    return result
