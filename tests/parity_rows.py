"""What one network of another library and ours have in common, measured: a row of docs/parity.md.

The other library builds its model; `randomise` gives it weights worth comparing; it saves them by its
own means; `import_file` reads them; `measure` runs both on the same pictures.
"""

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mobilenets import cost
from mobilenets.cost import Cost

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'mobilenets[train]'")

from torch import Tensor, nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from mobilenets.checkpoint import Checkpoint, Manifest  # noqa: E402, F401
from mobilenets.network import MobileNet, from_checkpoint  # noqa: E402
from mobilenets.weights import import_file  # noqa: E402


@dataclass(frozen=True)
class Counts:
    """What the other library's model costs, counted on that model."""

    params: int
    macs: int


@dataclass(frozen=True)
class Row:
    """One network. Everything but the last three is the same on every machine."""

    package: str
    version: str
    variant: str
    width: float
    pixels: int
    """Side of the square pictures of `macs`."""
    params: int
    macs: int
    bit_equal: bool
    max_diff: float
    """Largest |Δlogit| at that side and at an odd one."""
    logit_std: float


def measure(
    package: str,
    version: str,
    variant: str,
    width: float,
    *,
    ours: MobileNet,
    theirs: Callable[[Tensor], Tensor],
    counts: Counts,
    pixels: int,
    odd: int,
) -> Row:
    """Compare logits at `pixels` and at `odd`, where `same` padding takes its other path.

    `theirs` maps normalised pictures N×C×H×W to logits N×classes. Fails where parameters or MACs
    differ: the row could not say so.
    """
    counted = cost.count(dataclasses.replace(ours.spec, resolution=pixels))
    assert (counts.params, counts.macs) == (counted.params, counted.macs), (variant, counts, _totals(counted))
    differences, spreads, equal = [], [], True
    for side in (pixels, odd):
        x = torch.randn(2, ours.spec.channels, side, side, generator=torch.Generator().manual_seed(side))
        with torch.inference_mode():
            mine, other = ours(x), theirs(x)
        assert mine.shape == other.shape and bool(torch.isfinite(other).all())
        equal = equal and torch.equal(mine, other)
        differences.append(float((mine - other).abs().max()))
        spreads.append(float(other.std()))
    assert min(spreads) > 1e-3, f"{variant}: the logits hardly differ, so they compare nothing"
    return Row(
        package,
        version,
        variant,
        width,
        pixels,
        counted.params,
        counted.macs,
        equal,
        max(differences),
        spreads[0],
    )


def _totals(counted: Cost) -> Counts:
    return Counts(counted.params, counted.macs)


def torch_counts(model: nn.Module, pixels: int, channels: int = 3) -> Counts:
    """Parameters by `numel`, MACs by torch's own counter, which sees every product; nothing is computed."""
    shapes_alone = copy.deepcopy(model).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shapes_alone(torch.zeros(1, channels, pixels, pixels, device="meta"))
    return Counts(sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2)


@torch.no_grad()
def randomise(model: nn.Module, *, channels: int = 3, seed: int = 0) -> nn.Module:
    """Draw every parameter afresh, in place, and statistics near those that the model then sees.

    A fresh model answers nearly the same for every picture, and its batch norms hide a wrong epsilon.
    """
    generator = torch.Generator().manual_seed(seed)

    def around(centre: float, spread: float, like: Tensor) -> Tensor:
        return centre + spread * (2 * torch.rand(like.shape, generator=generator) - 1)

    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            scale = module.weight[0].numel() ** -0.5
            module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * scale)
            if module.bias is not None:
                module.bias.copy_(around(0.0, 0.5, module.bias))
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):  # a layer scale
            parameter.copy_(around(0.5, 0.4, parameter))
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.weight.copy_(around(1.0, 0.5, norm.weight))
        norm.bias.copy_(around(0.0, 0.5, norm.bias))
        norm.reset_running_stats()
        norm.momentum = None
    model.eval()
    for norm in norms:
        norm.train()
    model(torch.randn(2, channels, 128, 128, generator=generator))
    model.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.running_mean.add_(around(0.0, 0.1, norm.running_mean))
        norm.running_var.mul_(around(1.0, 0.2, norm.running_var))
    return model


def saved_state(model: nn.Module, folder: Path) -> Path:
    """The model's state dict, as its user would save it."""
    path = folder / "model.pth"
    torch.save(model.state_dict(), path)
    return path


def imported(path: Path, **given) -> MobileNet:
    """Our network with the weights in `path`, by `import_file`."""
    return from_checkpoint(import_file(path, **given).checkpoint)
