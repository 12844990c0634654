"""Batch norms that were folded into their convolutions get real statistics again, for training.

A file without norms (TFLite, a folded export) comes in with norms that are the identity with a bias:
right for evaluation, but a training step would normalise by the batch's statistics and so compute
something else. Here the statistics are measured on pictures, and scale and shift changed so that the
network in evaluation mode stays the same function.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from mobilenets.checkpoint import Checkpoint
from mobilenets.errors import InputError
from mobilenets.layers import Norm
from mobilenets.network import MobileNet, from_checkpoint, to_tensors


def is_folded(checkpoint: Checkpoint) -> bool:
    """Whether the norms of `checkpoint` are the identity with a bias, as a file without norms leaves them."""
    tensors = checkpoint.tensors
    means = [name for name in tensors if name.endswith(".running_mean")]
    return bool(means) and not any(tensors[name].any() for name in means)


class _Moments:
    """Sums over the pixels that enter a norm, per channel and in double precision."""

    def __init__(self, channels: int):
        self.count = 0
        self.total = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Count the N×C×H×W `x`."""
        wide = x.detach().to("cpu", torch.float64)
        self.count += wide.numel() // wide.shape[1]
        self.total += wide.sum((0, 2, 3))
        self.squares += wide.square().sum((0, 2, 3))

    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        """The mean and the unbiased variance, as torch's running statistics have them."""
        mean = self.total / self.count
        spread = (self.squares / self.count - mean.square()).clamp(min=0)
        return mean, spread * (self.count / max(1, self.count - 1))


@torch.no_grad()
def unfold(network: MobileNet, batches: Iterable[Tensor]) -> MobileNet:
    """A copy of `network` whose norms hold the statistics of `batches`, the same function in evaluation.

    Each batch is N×C×H×W, normalised, on the network's device; some hundred pictures are enough.
    With measured mean m and variance v, a norm of scale w and shift b over the old mean m₀ and
    variance v₀ gets the scale w·√(v + ε)/√(v₀ + ε) and the shift b + w·(m − m₀)/√(v₀ + ε). Logits
    agree as far as fp32 rounds (`tolerances.FOLDED_RTOL`). Frozen norms stay as they are. Works on
    any network, also one whose norms are real. Raises `InputError` where there are no batches, or
    pictures too few to have a variance.
    """
    result = copy.deepcopy(network).eval()
    norms = [module for module in result.modules() if isinstance(module, Norm) and not module.frozen]
    moments = {norm: _Moments(norm.num_features) for norm in norms}
    hooks = [norm.register_forward_pre_hook(_recorder(moments[norm])) for norm in norms]
    pictures = 0
    try:
        for batch in batches:
            result(batch)
            pictures += len(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not pictures or any(seen.count < 2 for seen in moments.values()):
        raise InputError(
            f"there are {pictures} pictures to measure the batch norms' statistics on; give some hundred."
        )
    for norm in norms:
        _replace(norm, *moments[norm].mean_and_variance())
    return result.train(network.training)


def unfold_checkpoint(checkpoint: Checkpoint, batches: Iterable[Tensor]) -> Checkpoint:
    """`checkpoint` with measured norms: what `unfold` does to its network; its provenance says so."""
    network = unfold(from_checkpoint(checkpoint), batches)
    provenance = {**checkpoint.manifest.provenance, "norms": "statistics measured after import"}
    manifest = dataclasses.replace(checkpoint.manifest, provenance=provenance)
    return dataclasses.replace(checkpoint, manifest=manifest, tensors=to_tensors(network))


def _recorder(moments: _Moments) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def record(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        moments.add(inputs[0])

    return record


def _replace(norm: Norm, mean: Tensor, variance: Tensor) -> None:
    """New statistics, in place, for a norm that goes on computing the same."""
    assert norm.running_mean is not None and norm.running_var is not None
    old_mean = norm.running_mean.to("cpu", torch.float64)
    old_std = (norm.running_var.to("cpu", torch.float64) + norm.eps).sqrt()
    slope = norm.weight.to("cpu", torch.float64) / old_std
    # The stored variance is rounded to fp32, and what is computed uses that.
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    stored_mean = norm.running_mean.to("cpu", torch.float64)
    stored_std = (norm.running_var.to("cpu", torch.float64) + norm.eps).sqrt()
    norm.bias.add_((slope * (stored_mean - old_mean)).to(norm.bias))
    norm.weight.copy_(slope * stored_std)
