"""The second phase: the epochs that train the network, step by step, so that any step can be the last.

Everything random is a function of (seed, epoch, step). The loop writes its place after every epoch,
every ten minutes, and when it is asked to stop, and goes on from there to the same bits.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel

from mobilenets.errors import Interrupted, TrainingDiverged
from mobilenets.folder import Picture
from mobilenets.layers import Norm
from mobilenets.loader import TrainingLoader, plain_batches, to_input
from mobilenets.network import MobileNet
from mobilenets.progress import Progress
from mobilenets.report.record import Epoch
from mobilenets.text import duration
from mobilenets.training import state
from mobilenets.training.head import scores
from mobilenets.training.interrupt import StopRequest
from mobilenets.training.optimization import averaged, make_optimizer, mix, rate_at
from mobilenets.training.plan import Plan
from mobilenets.training.speed import Speed, memory_format
from mobilenets.training.state import Place

if TYPE_CHECKING:
    from accelerate import Accelerator

_SAVE_EVERY_S = 600.0
Keep = Callable[[MobileNet, Epoch], None]


class Loop:
    """One run's main phase. `keep` is called with the averaged network whenever it is the best so far."""

    def __init__(
        self,
        plan: Plan,
        network: MobileNet,
        loader: TrainingLoader,
        val: tuple[Picture, ...],
        *,
        accelerator: "Accelerator",
        speed: Speed,
        class_weights: Tensor | None,
        run: Path,
        keep: Keep,
        stop: StopRequest,
        progress: Progress,
    ):
        self.plan, self.loader, self.val = plan, loader, val
        self.accelerator, self.speed = accelerator, speed
        self.run, self.keep, self.stop, self.progress = run, keep, stop, progress
        self.network = network
        freeze = plan.recipe.freeze
        if freeze.unfreeze_blocks is not None:
            self.network.unfreeze_last(freeze.unfreeze_blocks)
        self.average: AveragedModel = averaged(self.network, plan.recipe.ema_decay)
        self.class_weights = class_weights
        self.place = Place()
        optimizer = make_optimizer(self.network, plan.recipe)
        self.model: Any
        self.optimizer: Any
        self.model, self.optimizer = accelerator.prepare(self.network, optimizer)

    def resume(self) -> None:
        """Go to where the saved state under the run folder says."""
        self.place = state.load(self.run, self.network, self.average, self._plain_optimizer)

    def save(self) -> None:
        """Write the state from which `resume` goes on."""
        if self.accelerator.is_main_process:
            state.save(self.run, self.place, self.network, self.average, self._plain_optimizer)

    def begin_after(self, head: Epoch) -> None:
        """Go on from a network whose classifier has been trained on the frozen body."""
        self.average = averaged(self.network, self.plan.recipe.ema_decay)
        self.place.head_done = True
        self.judge(head)
        self.save()

    @property
    def _plain_optimizer(self) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = self.optimizer.optimizer
        return optimizer

    @property
    def phase(self) -> str:
        """What is being trained, in words."""
        blocks = self.plan.recipe.freeze.unfreeze_blocks
        return "all" if blocks is None else f"last {blocks} blocks"

    def go(self) -> None:
        """Train until the last epoch. Raises `Interrupted` with the state saved, and `TrainingDiverged`."""
        while self.place.epoch < self.plan.epochs:
            self._epoch()

    def judge(self, row: Epoch) -> None:
        """Add a line to the history, and keep the averaged network where it is the best on *val*."""
        self.place.history += (row,)
        key = (row.balanced_accuracy, -row.val_loss)
        if key > self.place.best:
            self.place.best, self.place.best_epoch = key, row.number
            if self.accelerator.is_main_process:
                self.keep(cast("MobileNet", self.average.module), row)

    def _epoch(self) -> None:
        place, steps = self.place, self.loader.steps
        number, total = place.epoch + 1, steps * self.plan.epochs
        self._train_mode()
        saved = began = time.monotonic()
        before = place.seconds
        batches = self.loader.epoch(place.epoch, place.step)
        left = sum(len(part) for part in self.loader.shares(place.epoch)[place.step :])
        what = f"epoch {number}/{self.plan.epochs}"
        for pixels, labels in self.progress.track(batches, left, what, size=lambda item: len(item[1])):
            self._step(pixels, labels, place.epoch * steps + place.step, total)
            place.step += 1
            place.seconds = before + time.monotonic() - began
            self._stop_if_asked(
                f"in epoch {number} of {self.plan.epochs}, after step {place.step} of {steps}"
            )
            if time.monotonic() - saved > _SAVE_EVERY_S:
                self.save()
                saved = time.monotonic()
        val_loss, accuracy, balanced_accuracy = self._validate()
        row = Epoch(
            number=number,
            phase=self.phase,
            loss=place.loss_sum / max(1, place.loss_count),
            val_loss=val_loss,
            accuracy=accuracy,
            balanced_accuracy=balanced_accuracy,
            rate=rate_at(number * steps - 1, total, self.plan.recipe),
            seconds=before + time.monotonic() - began,
        )
        self.judge(row)
        place.epoch, place.step = number, 0
        place.loss_sum, place.loss_count, place.seconds = 0.0, 0, 0.0
        self.save()
        best = "  ← best so far" if place.best_epoch == number else ""
        self.progress.say(f"epoch {number}/{self.plan.epochs}  {describe(row)}{best}")
        self._stop_if_asked(f"after epoch {number} of {self.plan.epochs}")

    def _stop_if_asked(self, where: str) -> None:
        """Save and raise `Interrupted` where a signal asked for it, in whichever process it came."""
        asked = self.stop.signal is not None
        if self.accelerator.num_processes > 1:
            flag = torch.tensor(float(asked), device=self.accelerator.device)
            asked = float(self.accelerator.reduce(flag, "sum")) > 0
        if asked:
            self.save()
            raise Interrupted(f"stopped {where}.")

    def _step(
        self,
        pixels: "np.ndarray[Any, np.dtype[np.uint8]]",
        truth: "np.ndarray[Any, np.dtype[np.int64]]",
        step: int,
        total: int,
    ) -> None:
        recipe, device = self.plan.recipe, self.accelerator.device
        rate = rate_at(step, total, recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        draws = np.random.default_rng([self.plan.seed, 7, step, self.loader.rank])
        torch.manual_seed(int(draws.integers(2**62)))
        inputs = to_input(pixels, self.plan.preprocessing, device)
        inputs = inputs.contiguous(memory_format=memory_format(self.speed.layout))
        labels = torch.from_numpy(truth).to(device)
        inputs, targets = mix(inputs, labels, self.plan.spec.classes, recipe.augment, draws)
        logits = self.model(inputs).float()
        loss = functional.cross_entropy(
            logits, targets, weight=self.class_weights, label_smoothing=recipe.label_smoothing
        )
        value = float(loss.detach())
        if not np.isfinite(value):
            raise TrainingDiverged(
                f"the loss became {value} at step {step + 1} of {total} (learning rate {rate:.2g}).",
                remedy=f"Try a lower rate: --set rate={recipe.rate / 3:.1g}",
            )
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        if recipe.clip_norm:
            clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
        self.optimizer.step()
        self.average.update_parameters(self.network)
        self.place.loss_sum += value * len(truth)
        self.place.loss_count += len(truth)

    def _train_mode(self) -> None:
        self.model.train()
        if self.plan.recipe.freeze.norms:
            for module in self.network.modules():
                if isinstance(module, Norm):
                    module.eval()

    def _validate(self) -> tuple[float, float, float]:
        average = self.average.module.eval()
        logits, labels = [], []
        feed = plain_batches(
            self.val, self.plan.preprocessing, self.plan.spec.resolution, self.accelerator.device
        )
        with torch.no_grad(), self.accelerator.autocast():
            for pixels, truth in self.progress.track(
                feed, len(self.val), "validating", size=lambda item: len(item[1])
            ):
                logits.append(average(pixels).float())
                labels.append(truth)
                self._stop_if_asked(f"while validating epoch {self.place.epoch + 1} of {self.plan.epochs}")
        return scores(torch.cat(logits), torch.cat(labels), self.plan.spec.classes)


def describe(row: Epoch) -> str:
    """An epoch in one calm line."""
    return (
        f"loss {row.loss:.3f}  val {row.accuracy:.1%}  balanced {row.balanced_accuracy:.1%}  "
        f"rate {row.rate:.1e}  {duration(row.seconds)}"
    )
