"""Batches for training: which pictures in which order, and their augmented views, decoded ahead.

The order is a function of (seed, epoch) and a view of (seed, epoch, index): any step can be made
again on its own, which is what resuming to the bit and sharing among machines need.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilenets.augment import view
from mobilenets.folder import Picture
from mobilenets.pictures import batches, load
from mobilenets.preprocessing import Preprocessing, affine
from mobilenets.recipe import Augment
from mobilenets.threads import in_threads


@dataclass(frozen=True)
class TrainingLoader:
    """Endless supply of epochs over the training pictures."""

    pictures: Sequence[Picture]
    preprocessing: Preprocessing
    resolution: int
    augment: Augment
    batch_size: int
    seed: int
    rank: int = 0
    """Which process this is, of `world`; each takes its part of every batch."""
    world: int = 1
    overlap: bool = False
    """Whether batches are decoded while the last one is computed on: right where that happens on a GPU.
    On a CPU the two would fight for the cores, and the threads of a network wait for their slowest."""

    @property
    def steps(self) -> int:
        """Batches per epoch: as many as leave each of `world` processes two pictures in every batch."""
        n = len(self.pictures)
        return max(1, min(-(-n // self.batch_size), n // (2 * self.world)))

    def plan(self, epoch: int) -> list[NDArray[np.int64]]:
        """The epoch's batches as indices into `pictures`: shuffled, of nearly equal size.

        Equal sizes mean that no batch holds a single picture, whose batch norm would have nothing to
        average over on a 1×1 map.
        """
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.pictures))
        return [np.asarray(part, dtype=np.int64) for part in np.array_split(order, self.steps)]

    def shares(self, epoch: int) -> list[NDArray[np.int64]]:
        """This process's part of each batch."""
        return [batch[self.rank :: self.world] for batch in self.plan(epoch)]

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        """Batches from `first_step` on: `uint8` N×S×S×C and labels N, this process's part of each."""
        parts = self.shares(epoch)[first_step:]
        if self.overlap:
            views = in_threads(
                lambda index: self._view(epoch, index),
                (int(index) for part in parts for index in part),
                ahead=3 * self.batch_size,
            )
            stacks = ([next(views) for _ in part] for part in parts)
        else:
            stacks = (list(in_threads(lambda index: self._view(epoch, int(index)), part)) for part in parts)
        for part, pixels in zip(parts, stacks, strict=True):
            yield np.stack(pixels), np.array([self.pictures[i].label for i in part], dtype=np.int64)

    def _view(self, epoch: int, index: int) -> NDArray[np.uint8]:
        """The view of picture `index` in `epoch`, decoded at no more scale than a crop can use."""
        image = load(self.pictures[index].path, exif=self.preprocessing.exif, at_least=2 * self.resolution)
        rng = np.random.default_rng([self.seed, epoch, index])
        return view(image, self.preprocessing, self.resolution, self.augment, rng)


def plain_batches(
    pictures: Sequence[Picture],
    preprocessing: Preprocessing,
    resolution: int,
    device: torch.device,
    *,
    batch_size: int = 64,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The pictures as they are evaluated, in order: normalised N×C×H×W and labels N, on `device`."""
    paths = [picture.path for picture in pictures]
    for indices, pixels in batches(paths, preprocessing, resolution, batch_size=batch_size):
        labels = torch.tensor([pictures[i].label for i in indices], device=device)
        yield to_input(pixels, preprocessing, device), labels


def to_input(pixels: NDArray[np.uint8], preprocessing: Preprocessing, device: torch.device) -> Tensor:
    """`uint8` N×H×W×C to the normalised float N×C×H×W on `device`, channels last in memory."""
    factor, offset = (torch.from_numpy(v).to(device) for v in affine(preprocessing))
    batch = torch.from_numpy(pixels).to(device).to(torch.float32) * factor + offset
    return batch.permute(0, 3, 1, 2)
