"""A `Spec` as a torch module: build it, initialise it, freeze it, and turn it into tensors and back.

Tensors carry the names and the order of `spec.tensor_shapes`; torch adds `num_batches_tracked`,
which no checkpoint holds.
"""

import copy
import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mobilenets import spec as specs
from mobilenets.checkpoint import Checkpoint
from mobilenets.errors import InputError
from mobilenets.layers import ChannelScale, ConvNormAct, Norm, ResidualBlock, draw_weight
from mobilenets.spec import MIN_RESOLUTION, Spec


class FeatureMap(NamedTuple):
    """One of the maps that `MobileNet.forward_features` returns."""

    block: int
    """The block whose output it is."""
    channels: int
    stride: int
    """Pixels of the picture per pixel of the map: 2, 4, 8, 16, 32."""


def feature_maps(spec: Spec) -> tuple[FeatureMap, ...]:
    """The last map before each drop of resolution, and the last of all, in order of stride."""
    maps, stride = [], 1
    for index, block in enumerate(spec.blocks):
        stride *= block.stride
        if index + 1 == len(spec.blocks) or spec.blocks[index + 1].stride > 1:
            maps.append(FeatureMap(index, block.out, stride))
    return tuple(maps)


class NormCount(NamedTuple):
    """How many batch norms are frozen and how many a training step updates."""

    frozen: int
    updated: int

    def __str__(self) -> str:
        return f"batch norms: {self.frozen} frozen, {self.updated} updated"


class MobileNet(nn.Module):
    """The network of a `Spec`, for pictures N×C×H×W with H, W ≥ 32: also others than `spec.resolution`.

    The constructor leaves torch's own initial weights; `build` draws those of the papers.
    """

    def __init__(self, spec: Spec):
        super().__init__()
        self.spec = spec
        self.blocks = nn.ModuleList()
        channels = spec.channels
        for block in spec.blocks:
            self.blocks.append(ResidualBlock(channels, block, spec))
            channels = block.out
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.ModuleList()
        for conv in spec.head:
            self.head.append(ConvNormAct(channels, conv, spec))
            channels = conv.out
        self.dropout = nn.Dropout(spec.dropout)
        self.classifier = nn.Linear(channels, spec.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits N×classes of pictures N×C×H×W."""
        return self.forward_head(self.forward_body(x))

    def forward_body(self, x: Tensor) -> Tensor:
        """The last feature map, N×C×⌈H/32⌉×⌈W/32⌉ in a MobileNet: what `forward_head` takes."""
        self._check_input(x)
        for block in self.blocks:
            x = block(x)
        return x

    def forward_features(self, x: Tensor) -> tuple[Tensor, ...]:
        """The maps that `feature_maps(spec)` lists, for a detector's or segmenter's head.

        In a MobileNet they have strides 2, 4, 8, 16 and 32; the last one is `forward_body`'s.
        """
        self._check_input(x)
        wanted = [entry.block for entry in feature_maps(self.spec)]
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in wanted:
                maps.append(x)
        return tuple(maps)

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Logits N×classes of the last map, or with `pre_logits` the N×features before the classifier."""
        x = self.pool(x)
        for conv in self.head:
            x = conv(x)
        x = x.flatten(1)
        if pre_logits:
            return x
        logits: Tensor = self.classifier(self.dropout(x))
        return logits

    def _check_input(self, x: Tensor) -> None:
        if (
            x.ndim != 4
            or x.shape[1] != self.spec.channels
            or x.shape[2] < MIN_RESOLUTION
            or x.shape[3] < MIN_RESOLUTION
        ):
            raise InputError(
                f"the network's input has shape {tuple(x.shape)}; {self.spec.name} takes "
                f"N×{self.spec.channels}×H×W with H and W of at least {MIN_RESOLUTION} pixels."
            )

    def freeze(self, blocks: int | None = None) -> None:
        """Freeze the first `blocks` blocks and free everything else; `None` freezes the whole body.

        The body is all blocks and the head, so that the classifier alone learns. Frozen parameters
        get no gradient, and frozen batch norms keep their statistics to the bit, also after
        `train()`. Copies are frozen alike. Raises `InputError` for a count outside 0 … all blocks.
        """
        frozen = len(self.blocks) if blocks is None else blocks
        if not 0 <= frozen <= len(self.blocks):
            raise InputError(
                f"cannot freeze {frozen} blocks; {self.spec.name} has {len(self.blocks)} (0 frees all)."
            )
        for index, block in enumerate(self.blocks):
            _set_frozen(block, index < frozen)
        _set_frozen(self.head, blocks is None)
        _set_frozen(self.classifier, False)
        self.train(self.training)

    def unfreeze_last(self, blocks: int) -> None:
        """Free the last `blocks` blocks, the head and the classifier; freeze the blocks before them.

        More blocks than there are free all of them; 0 blocks leave the whole body frozen.
        """
        if blocks < 0:
            raise InputError(f"cannot unfreeze {blocks} blocks; the number must be 0 or more.")
        self.freeze(max(0, len(self.blocks) - blocks) if blocks else None)

    def norm_count(self) -> NormCount:
        """Batch norms by whether a training step changes their statistics; prints as one sentence."""
        frozen = [module.frozen for module in self.modules() if isinstance(module, Norm)]
        return NormCount(sum(frozen), len(frozen) - sum(frozen))


def _set_frozen(module: nn.Module, frozen: bool) -> None:
    module.requires_grad_(not frozen)
    for norm in module.modules():
        if isinstance(norm, Norm):
            norm.frozen = frozen


def build(spec: Spec, *, seed: int = 0) -> MobileNet:
    """A network with fresh weights, the same for the same `seed`; torch's global generator is left alone."""
    with torch.device("meta"):
        network = MobileNet(spec)
    network.to_empty(device="cpu")
    initialise(network, seed=seed)
    return network


@torch.no_grad()
def initialise(network: MobileNet, *, seed: int = 0) -> None:
    """Draw all weights afresh, in place, as `spec.initializer` says (see `layers.draw_weight`).

    Biases are 0; batch norms start as the identity (scale 1, shift 0, mean 0, variance 1), layer
    scales at the value in the `Spec`.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            _initialise_layer(module, network.spec, generator)
        elif isinstance(module, ChannelScale):
            module.scale.fill_(module.initial)


@torch.no_grad()
def _initialise_layer(layer: nn.Conv2d | nn.Linear, spec: Spec, generator: torch.Generator) -> None:
    drawn = torch.empty(layer.weight.shape)
    draw_weight(drawn, spec.initializer, generator)
    layer.weight.copy_(drawn)
    if layer.bias is not None:
        layer.bias.zero_()


def from_checkpoint(checkpoint: Checkpoint) -> MobileNet:
    """The network of a checkpoint with its weights, in evaluation mode."""
    with torch.device("meta"):
        network = MobileNet(checkpoint.spec)
    state = {
        name: torch.from_numpy(np.array(array, dtype=np.float32))
        for name, array in checkpoint.tensors.items()
    }
    never_trained = {
        name: torch.zeros((), dtype=torch.long) for name in network.state_dict() if name not in state
    }
    network.load_state_dict(state | never_trained, assign=True)
    return network.eval()


def to_tensors(network: MobileNet) -> dict[str, NDArray[np.float32]]:
    """The tensors of a checkpoint, in its order: contiguous `float32` copies on the CPU."""
    state = network.state_dict()
    return {
        name: np.array(state[name].detach().to("cpu", torch.float32).contiguous().numpy())
        for name in specs.tensor_shapes(network.spec)
    }


def replace_classifier(network: MobileNet, classes: int, *, seed: int = 0) -> MobileNet:
    """A copy of `network` with a new classifier for `classes` classes: normal, σ = 0.01, bias 0.

    Body, frozen parts, mode and device are those of `network`, which stays as it is. Deviates from
    `initialise`: at σ = 0.09 over a thousand features the first logits have a standard deviation of
    2 and more, which a run of hours forgets and one of minutes does not.
    """
    result = copy.deepcopy(network)
    result.spec = dataclasses.replace(network.spec, classes=classes)
    old = network.classifier
    fresh = nn.Linear(old.in_features, classes, device="meta", dtype=old.weight.dtype)
    fresh.to_empty(device=old.weight.device)
    drawn = torch.empty(fresh.weight.shape)
    nn.init.normal_(drawn, std=0.01, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        fresh.weight.copy_(drawn)
        fresh.bias.zero_()
    result.classifier = fresh.train(network.training)
    return result


@torch.no_grad()
def reestimate_norms(network: MobileNet, batches: Iterable[Tensor]) -> int:
    """Measure the statistics of all batch norms that are not frozen anew, in place, on `batches`.

    Each batch is N×C×H×W, N ≥ 2, normalised, on the network's device. Every batch counts the same
    (cumulative averages of its mean and variance), so give batches of one size. Nothing is learnt,
    and the network's mode afterwards is the one before. Returns the number of batches. Raises
    `InputError`, with the statistics as they were, where there is none or one holds one picture.
    """
    was_training = network.training
    norms = [module for module in network.modules() if isinstance(module, Norm) and not module.frozen]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    done = 0
    try:
        network.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        for batch in batches:
            if len(batch) < 2:
                raise InputError(f"batch norms need batches of 2 pictures or more; one has {len(batch)}.")
            network(batch)
            done += 1
        if not done:
            raise InputError("there are no batches to measure the batch norms' statistics on.")
    except BaseException:
        for norm, buffers in zip(norms, before, strict=True):
            norm.load_state_dict(buffers, strict=False)
        raise
    finally:
        for norm in norms:
            norm.momentum = network.spec.norm_momentum
        network.train(was_training)
    return done
