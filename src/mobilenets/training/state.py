"""What a resume needs, kept beside the model and not in it: weights, averages, optimiser, place in the run.

One file under `resume/`, so that its parts always belong together: tensors, and the place as JSON in
its metadata. No random state is kept, since every draw is a function of (seed, epoch, step).
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from mobilenets.errors import CheckpointError
from mobilenets.files import write_bytes
from mobilenets.report.record import Epoch

_FILE = Path("resume") / "state.safetensors"
_PLACE_KEY = "place"


@dataclass
class Place:
    """Where in the run we are."""

    head_done: bool = False
    """Whether the first phase, the classifier on the frozen body, is over; else the state is its start."""
    epoch: int = 0
    """Epochs finished in the main phase."""
    step: int = 0
    """Steps finished in the epoch under way."""
    loss_sum: float = 0.0
    loss_count: int = 0
    """Sum of the losses of the epoch under way, and of how many pictures."""
    seconds: float = 0.0
    """Spent in the epoch under way."""
    best_epoch: int = 0
    best: tuple[float, float] = (-1.0, float("-inf"))
    """Balanced accuracy and minus the loss on *val* of the selected model."""
    history: tuple[Epoch, ...] = ()


def save(
    run: Path, place: Place, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write the state under `run`, whole or not at all."""
    tensors = {
        **{f"network.{k}": v for k, v in network.state_dict().items()},
        **{f"average.{k}": v for k, v in average.state_dict().items()},
        **_optimizer_tensors(optimizer),
    }
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    write_bytes(run / _FILE, serialise(plain, {_PLACE_KEY: json.dumps(_place_json(place))}))


def load(run: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> Place:
    """Put the saved state into the three objects and return the place. `CheckpointError` if it is damaged."""
    try:
        with safe_open(run / _FILE, framework="pt") as file:
            raw = json.loads(file.metadata()[_PLACE_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        network.load_state_dict(_part(tensors, "network."))
        average.load_state_dict(_part(tensors, "average."))
        _restore_optimizer(optimizer, _part(tensors, "optimizer."))
        raw["history"] = tuple(Epoch(**row) for row in raw["history"])
        raw["best"] = (raw["best"][0], float("-inf") if raw["best"][1] is None else raw["best"][1])
        return Place(**raw)
    except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"cannot be resumed: its state is damaged ({first}).",
            file=run / _FILE,
            remedy="A model.safetensors beside it is still good: give it to --init. Or start again.",
        ) from error


def exists(run: Path) -> bool:
    """Whether `run` can be resumed."""
    return (run / _FILE).is_file()


def remove(run: Path) -> None:
    """A finished run needs no state."""
    shutil.rmtree((run / _FILE).parent, ignore_errors=True)


def _place_json(place: Place) -> dict[str, Any]:
    row = asdict(place)
    row["best"] = [place.best[0], None if place.best[1] == float("-inf") else place.best[1]]
    return row


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{name}": torch.as_tensor(value)
        for index, values in state.items()
        for name, value in values.items()
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load the moments, each with the memory layout of its parameter.

    The fused AdamW walks a parameter and its moments in the order of memory: with channels last, moments
    that are contiguous, as a file holds them, would belong to other weights.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if torch.is_tensor(value) and value.ndim and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
