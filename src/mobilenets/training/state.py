"""What a resume needs, kept beside the model and not in it: weights, averages, optimiser, place in the run.

Two files under `resume/`: tensors as safetensors, the rest as JSON. No random state is kept, since
every draw is a function of (seed, epoch, step).
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mobilenets.errors import CheckpointError
from mobilenets.files import read_json, replacing, write_json
from mobilenets.report.record import Epoch

_FOLDER, _TENSORS, _PLACE = "resume", "state.safetensors", "state.json"


@dataclass
class Place:
    """Where in the run we are."""

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
    """Write the state under `run`; the JSON last, since it names the tensors' fingerprint."""
    tensors = {
        **{f"network.{k}": v for k, v in network.state_dict().items()},
        **{f"average.{k}": v for k, v in average.state_dict().items()},
        **_optimizer_tensors(optimizer),
    }
    folder = run / _FOLDER
    stamp = f"{place.epoch}.{place.step}"
    with replacing(folder / _TENSORS) as temporary:
        save_file(
            {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()},
            temporary,
            {"stamp": stamp},
        )
    write_json(folder / _PLACE, {"stamp": stamp, **_place_json(place)})


def load(run: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> Place:
    """Put the saved state into the three objects and return the place. `CheckpointError` if it is damaged."""
    folder = run / _FOLDER
    raw = read_json(folder / _PLACE)
    try:
        tensors = load_file(folder / _TENSORS)
        network.load_state_dict(_part(tensors, "network."))
        average.load_state_dict(_part(tensors, "average."))
        _restore_optimizer(optimizer, _part(tensors, "optimizer."))
        raw.pop("stamp")
        raw["history"] = tuple(Epoch(**row) for row in raw["history"])
        raw["best"] = (raw["best"][0], float("-inf") if raw["best"][1] is None else raw["best"][1])
        return Place(**raw)
    except (SafetensorError, OSError, RuntimeError, KeyError, TypeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"cannot be resumed: its state is damaged ({first}).",
            file=folder,
            remedy="The best model so far is still good. Start again without --resume.",
        ) from error


def exists(run: Path) -> bool:
    """Whether `run` can be resumed."""
    return (run / _FOLDER / _PLACE).is_file()


def remove(run: Path) -> None:
    """A finished run needs no state."""
    shutil.rmtree(run / _FOLDER, ignore_errors=True)


def _place_json(place: Place) -> dict[str, Any]:
    row = asdict(place)
    row["best"] = [place.best[0], None if place.best[1] == float("-inf") else place.best[1]]
    parsed: dict[str, Any] = json.loads(json.dumps(row))
    return parsed


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
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
