"""Everything that a report shows of a training run, gathered in one value."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mobilenets.checkpoint import Manifest
from mobilenets.evaluation import Evaluation
from mobilenets.folder import Folder


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of the training log; scores are shares in [0, 1] on the validation split."""

    number: int
    """From 1; 0 is the first phase, the classifier on the frozen body."""
    phase: str
    """`head` while the body is frozen, `all` or `last N blocks` after that."""
    loss: float
    """Mean training loss (with label smoothing, mixing and augmentation as the recipe says)."""
    val_loss: float
    """Plain cross-entropy on *val*."""
    accuracy: float
    balanced_accuracy: float
    rate: float
    """Learning rate at the end of the epoch."""
    seconds: float


@dataclass(frozen=True)
class RunRecord:
    """A finished (or stopped) run."""

    name: str
    """The run folder's name."""
    manifest: Manifest
    """Of the selected model."""
    folder: Folder
    history: tuple[Epoch, ...]
    best_epoch: int
    """The epoch whose model was selected on *val*."""
    evaluation: Evaluation
    """Of the selected model on *test*."""
    recipe: Mapping[str, Any]
    environment: Mapping[str, str]
    """Device, precision, versions, machine, time taken: label → text."""
    command: str
    """What the user typed, to run it again."""
