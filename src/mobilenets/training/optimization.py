"""What moves the weights: parameter groups, the rate at every step, averaging, loss and mixing."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from mobilenets.recipe import Augment, Recipe

_EFFECTIVE_NUMBER_BETA = 0.999
_UNBALANCED = 3.0


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over the parameters that are not frozen.

    Weight decay acts on dense weights alone: not on norms and biases, and not on depthwise kernels
    (arXiv 1704.04861, section 3.2: "very little or no weight decay on the depthwise filters").
    `rmsprop` has the papers' decay and momentum 0.9; PyTorch adds ε outside the root, so ε = 0.002
    (the V3 recipe) is not the same number as TensorFlow's.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for module in network.modules():
        depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                dense = name == "weight" and parameter.ndim > 1 and not depthwise
                (decayed if dense else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    match recipe.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, lr=recipe.rate, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=recipe.rate, alpha=0.9, momentum=0.9, eps=0.002)


def rate_at(step: int, total: int, recipe: Recipe) -> float:
    """Learning rate of `step` (from 0) of `total`: linear warm-up, then half a cosine."""
    warmup = max(1, round(recipe.warmup * total))
    if step < warmup:
        return recipe.rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    share = recipe.final_rate + (1 - recipe.final_rate) * (1 + math.cos(math.pi * min(1.0, done))) / 2
    return recipe.rate * share


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of weights and norm statistics, quick at first.

    The decay of step t is min(`decay`, (1 + t) / (10 + t)), as TensorFlow's
    `ExponentialMovingAverage` does with `num_updates`.
    """

    def average(mine: Sequence[Tensor], theirs: Sequence[Tensor], updates: Tensor | int) -> None:
        if mine[0].is_floating_point():
            now = min(decay, (1 + int(updates)) / (10 + int(updates)))
            torch._foreach_lerp_(list(mine), list(theirs), 1 - now)
        else:
            torch._foreach_copy_(list(mine), list(theirs))

    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)


def class_weights(counts: Sequence[int], recipe: Recipe) -> Tensor | None:
    """Weights of the classes in the loss, mean 1 over the pictures, or `None` for none.

    The effective number of n pictures is (1 − βⁿ) / (1 − β) (arXiv 1901.05555, β = 0.999).
    """
    wanted = recipe.balance == "weighted" or (
        recipe.balance == "auto" and max(counts) > _UNBALANCED * min(counts)
    )
    if not wanted:
        return None
    n = np.asarray(counts, dtype=np.float64)
    weights = (1 - _EFFECTIVE_NUMBER_BETA) / (1 - _EFFECTIVE_NUMBER_BETA**n)
    return torch.tensor(weights / (weights * n).sum() * n.sum(), dtype=torch.float32)


def mix(
    pixels: Tensor, labels: Tensor, classes: int, augment: Augment, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mixup or CutMix of a batch with itself in reverse order, as the recipe says.

    Returns float pictures N×C×H×W and targets: class indices N where nothing was mixed, else shares
    N×classes. Where both are switched on, a coin decides.
    """
    mixup, cutmix = augment.mixup_alpha > 0, augment.cutmix_alpha > 0
    if not (mixup or cutmix):
        return pixels, labels
    use_cutmix = cutmix and (not mixup or rng.random() < 0.5)
    share = rng.beta(*(2 * (augment.cutmix_alpha if use_cutmix else augment.mixup_alpha,)))
    other = pixels.flip(0)
    if use_cutmix:
        height, width = pixels.shape[2:]
        h, w = round(height * math.sqrt(1 - share)), round(width * math.sqrt(1 - share))
        top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
        pixels = pixels.clone()
        pixels[:, :, top : top + h, left : left + w] = other[:, :, top : top + h, left : left + w]
        share = 1 - h * w / (height * width)
    else:
        pixels = pixels * share + other * (1 - share)
    one_hot = functional.one_hot(labels, classes).to(torch.float32)
    return pixels, one_hot * share + one_hot.flip(0) * (1 - share)
