"""What a run will do, decided before it starts and stored with it: enough to do it again, or go on."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mobilenets import checkpoint as checkpoints
from mobilenets import recipe as recipes
from mobilenets import spec as specs
from mobilenets import zoo
from mobilenets.checkpoint import Checkpoint
from mobilenets.errors import CheckpointError, InputError, MobilenetsError, SpecError
from mobilenets.files import read_json, sha256
from mobilenets.folder import Folder, Picture
from mobilenets.loader import plain_batches
from mobilenets.network import MobileNet, build, from_checkpoint, reestimate_norms, replace_classifier
from mobilenets.preprocessing import Preprocessing, for_channels
from mobilenets.progress import Progress
from mobilenets.recipe import Recipe
from mobilenets.slicing import narrow_spec, slice_width
from mobilenets.spec import Spec
from mobilenets.text import printable
from mobilenets.weights.unfolding import is_folded, unfold_checkpoint

DEFAULT_MODEL = "mobilenet_v3_small_100"
DEFAULT_RESOLUTION = 160
_NORM_PICTURES, _NORM_BATCH = 256, 32
"""On how many training pictures, and in what batches, norms of sliced or folded networks are measured."""


@dataclass(frozen=True)
class Inherited:
    """What the result owes to the checkpoint that it started from."""

    licence: str = "unstated"
    parent: Mapping[str, Any] = field(default_factory=dict)
    """The checkpoint's network, file hash and provenance; empty from scratch."""
    trained_on: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Plan:
    """Everything that decides the result, given the folder. Equal plans give equal weights on one CPU."""

    spec: Spec
    preprocessing: Preprocessing
    recipe: Recipe
    """With its number of epochs decided, and after `speed.choose` its precision and layout as well."""
    seed: int
    inherited: Inherited = Inherited()
    command: str = ""
    """What the user typed; not part of what decides the result."""

    @property
    def epochs(self) -> int:
        """Passes over the training pictures in the main phase."""
        return self.recipe.epochs or 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `read_plan` gives back an equal plan."""
        return {
            "spec": specs.to_json(self.spec),
            "preprocessing": self.preprocessing.to_json(),
            "recipe": self.recipe.to_json(),
            "seed": self.seed,
            "command": self.command,
            "inherited": {
                "licence": self.inherited.licence,
                "parent": dict(self.inherited.parent),
                "trained_on": sorted(self.inherited.trained_on),
            },
        }


def read_plan(file: Path) -> Plan:
    """The plan that a run folder stores; `CheckpointError` where it is damaged."""
    value = read_json(file)
    try:
        inherited = value["inherited"]
        return Plan(
            spec=specs.from_json(value["spec"]),
            preprocessing=Preprocessing.from_json(value["preprocessing"]),
            recipe=recipes.from_json(value["recipe"]),
            seed=value["seed"],
            inherited=Inherited(
                inherited["licence"], inherited["parent"], frozenset(inherited["trained_on"])
            ),
            command=value["command"],
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"is not a run's plan ({error!r}).", file=file) from error
    except MobilenetsError as error:
        raise error.in_file(file) from error


def make_plan(
    folder: Folder,
    *,
    model: str | Spec | None,
    init: Checkpoint | None,
    init_file: Path | None,
    recipe: Recipe | str | None,
    resolution: int | None,
    seed: int,
    command: str,
) -> Plan:
    """Resolve the user's choices. Without any: V3-Small at 160 px, `scratch`; with `init`, `finetune`."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InputError(f"seed is {seed!r}; it must be a whole number from 0 to 2⁶³ − 1.")
    if not isinstance(recipe, Recipe):
        recipe = recipes.preset(recipe or ("finetune" if init else "scratch"))
    recipe = dataclasses.replace(recipe, epochs=recipe.epochs_for(len(folder.split("train"))))
    spec = choose_network(model, init, resolution)
    spec = dataclasses.replace(
        spec,
        classes=len(folder.classes),
        resolution=spec.resolution if resolution is None else resolution,
        dropout=spec.dropout if recipe.dropout is None else recipe.dropout,
    )
    preprocessing = init.manifest.preprocessing if init else for_channels(spec.channels)
    return Plan(
        spec=spec,
        preprocessing=dataclasses.replace(
            preprocessing,
            fit=recipe.fit or preprocessing.fit,
            crop_fraction=recipe.crop_fraction or preprocessing.crop_fraction,
        ),
        recipe=recipe,
        seed=seed,
        inherited=_inherited(init, init_file, spec),
        command=command,
    )


def load_init(init: Checkpoint | str | Path | None) -> tuple[Checkpoint | None, Path | None]:
    """The checkpoint to start from, and its file where it came from one."""
    if init is None or isinstance(init, Checkpoint):
        return init, None
    file = Path(init)
    return checkpoints.load(file), file / checkpoints.MODEL_FILE if file.is_dir() else file


def _inherited(init: Checkpoint | None, file: Path | None, spec: Spec) -> Inherited:
    if init is None:
        return Inherited()
    parent: dict[str, Any] = {
        "network": init.spec.name,
        "sha256": sha256(file) if file else None,
        "provenance": dict(init.manifest.provenance),
    }
    if spec.blocks != init.spec.blocks:
        parent["sliced_to"] = spec.name
    return Inherited(init.manifest.licence, parent, init.trained_on)


def choose_network(model: str | Spec | None, init: Checkpoint | None, resolution: int | None) -> Spec:
    """The network that `train`'s arguments ask for; its classes are still its own.

    A checkpoint and the name of the same network at a smaller width give the latter: it is sliced.
    """
    named = model if isinstance(model, Spec) or model is None else zoo.build(model, resolution=resolution)
    if init is None:
        return named or zoo.build(
            DEFAULT_MODEL, resolution=DEFAULT_RESOLUTION if resolution is None else resolution
        )
    if named is None or named.blocks == init.spec.blocks:
        return init.spec
    try:
        narrow = narrow_spec(init.spec, named)
    except SpecError as error:
        raise InputError(
            f"--model asks for {named.name}, but the checkpoint given by --init holds {init.spec.name}, "
            f"and {error.what}",
            remedy="Leave --model out, and the network follows from the checkpoint; "
            "or name the same network at a smaller width, and it is sliced.",
        ) from error
    return dataclasses.replace(narrow, resolution=init.spec.resolution, dropout=init.spec.dropout)


def start_network(plan: Plan, init: Checkpoint | None, folder: Folder, progress: Progress) -> MobileNet:
    """`make_network`, whose batch norms fit what they will see: measured on training pictures where needed.

    Norms that were folded away (TFLite) get statistics, and the network stays the same function; those
    of a sliced network get new ones.
    """
    train = folder.split("train")
    sliced = init is not None and _is_sliced(plan, init)
    norms_move = plan.epochs > 0 and not plan.recipe.freeze.norms
    if init is not None and is_folded(init) and (sliced or norms_move):
        progress.say(f"The batch norms of {printable(init.spec.name)} were folded away: they get statistics.")
        init = unfold_checkpoint(init, _norm_batches(plan, train, progress))
    network = make_network(plan, init, folder.classes)
    if init is not None and sliced:
        progress.say(
            f"Sliced {printable(init.spec.name)} to {printable(plan.spec.name)}: it starts with the most "
            "important channels."
        )
        reestimate_norms(network, _norm_batches(plan, train, progress))
    return network


def _is_sliced(plan: Plan, init: Checkpoint) -> bool:
    return plan.spec.blocks != init.spec.blocks


def _norm_batches(plan: Plan, train: tuple[Picture, ...], progress: Progress) -> Iterator[Tensor]:
    """Some of the pictures of all classes, in batches of one size."""
    size = min(_NORM_BATCH, len(train))
    order = np.random.default_rng([plan.seed, 2_000_003]).permutation(len(train))
    chosen = [train[i] for i in order[: min(_NORM_PICTURES, len(train) // size * size)]]
    feed = plain_batches(
        chosen, plan.preprocessing, plan.spec.resolution, torch.device("cpu"), batch_size=size
    )
    tracked = progress.track(feed, len(chosen), "measuring batch norms", size=lambda item: len(item[1]))
    return (pixels for pixels, _ in tracked)


def make_network(plan: Plan, init: Checkpoint | None, labels: tuple[str, ...]) -> MobileNet:
    """The network to start from: fresh, or the checkpoint's, sliced where it is wider, with a new classifier.

    The classifier is kept where the checkpoint has the very same labels in the same order, as when a
    run is continued on more pictures.
    """
    if init is not None and _is_sliced(plan, init):
        init = slice_width(init, plan.spec)
    network = from_checkpoint(init) if init else build(plan.spec, seed=plan.seed)
    if init is None or init.manifest.labels != labels:
        network = replace_classifier(network, len(labels), seed=plan.seed)
    network.spec = plan.spec
    network.dropout.p = plan.spec.dropout
    return network
