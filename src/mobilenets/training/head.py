"""The first phase of transfer learning: a new classifier on the features of a frozen body.

The body does not change, so its features are computed once per picture, and the classifier's epochs
over them take seconds. The frozen body runs in evaluation mode: its norm statistics cannot move.
"""

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mobilenets.errors import Interrupted, TrainingDiverged
from mobilenets.evaluation import balanced
from mobilenets.folder import Picture
from mobilenets.loader import plain_batches
from mobilenets.network import MobileNet
from mobilenets.progress import Progress
from mobilenets.report.record import Epoch
from mobilenets.training.interrupt import StopRequest
from mobilenets.training.optimization import rate_at
from mobilenets.training.plan import Plan

_BATCH = 64
Runner = Callable[[Tensor], Tensor]


def train_head(
    network: MobileNet,
    plan: Plan,
    train: tuple[Picture, ...],
    val: tuple[Picture, ...],
    run: Runner,
    weights: Tensor | None,
    stop: StopRequest,
    progress: Progress,
) -> Epoch:
    """Fit `network.classifier` in place; returns the line of the log, scored on *val*.

    Nothing is lost by a stop here but its seconds: `Interrupted` is raised, and a resume begins the
    phase again. `run` maps a normalised batch N×C×H×W on the device to the features N×features, under
    the run's precision. The pictures are seen as in evaluation, not augmented.
    """
    start = time.perf_counter()
    recipe = plan.recipe
    features, labels = _features(network, plan, train, run, stop, progress)
    val_features, val_labels = _features(network, plan, val, run, stop, progress)
    classifier = network.classifier
    optimizer = torch.optim.AdamW(
        classifier.parameters(), lr=recipe.freeze.head_rate, weight_decay=recipe.weight_decay
    )
    epochs, steps = recipe.freeze.head_epochs, -(-len(features) // _BATCH)
    rate, loss_sum = 0.0, 0.0
    for epoch in range(epochs):
        _stop_if_asked(stop)
        loss_sum = 0.0
        order = np.random.default_rng([plan.seed, 1_000_003, epoch]).permutation(len(features))
        for step, part in enumerate(np.array_split(order, steps)):
            share = (
                rate_at(epoch * steps + step, epochs * steps, recipe) / recipe.rate if recipe.rate else 1.0
            )
            rate = optimizer.param_groups[0]["lr"] = recipe.freeze.head_rate * share
            index = torch.from_numpy(part).to(features.device)
            loss = functional.cross_entropy(
                classifier(features[index]),
                labels[index],
                weight=weights,
                label_smoothing=recipe.label_smoothing,
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss_sum += float(loss.detach()) * len(part)
    with torch.no_grad():
        logits = classifier(val_features)
    val_loss, accuracy, balanced_accuracy = scores(logits, val_labels, plan.spec.classes)
    return Epoch(
        number=0,
        phase="head",
        loss=loss_sum / len(features),
        val_loss=val_loss,
        accuracy=accuracy,
        balanced_accuracy=balanced_accuracy,
        rate=rate,
        seconds=time.perf_counter() - start,
    )


def scores(logits: Tensor, labels: Tensor, classes: int) -> tuple[float, float, float]:
    """Plain cross-entropy, accuracy and balanced accuracy of logits N×classes.

    Raises `TrainingDiverged` where a logit is not a number.
    """
    loss = float(functional.cross_entropy(logits.float(), labels))
    if not math.isfinite(loss):
        raise TrainingDiverged(
            f"the loss on val became {loss}.", remedy="Try a lower rate: --set rate=… and freeze.head_rate=…"
        )
    predicted, truth = logits.argmax(1).cpu().numpy(), labels.cpu().numpy()
    n = np.bincount(truth, minlength=classes)
    hits = np.bincount(truth[predicted == truth], minlength=classes)
    return loss, float(hits.sum() / n.sum()), balanced(hits, n).value


def _features(
    network: MobileNet,
    plan: Plan,
    pictures: tuple[Picture, ...],
    run: Runner,
    stop: StopRequest,
    progress: Progress,
) -> tuple[Tensor, Tensor]:
    device = next(network.parameters()).device
    feed = plain_batches(pictures, plan.preprocessing, plan.spec.resolution, device)
    features, labels = [], []
    network.eval()
    for pixels, truth in progress.track(feed, len(pictures), "features", size=lambda item: len(item[1])):
        with torch.no_grad():
            features.append(run(pixels).float())
        labels.append(truth)
        _stop_if_asked(stop)
    return torch.cat(features), torch.cat(labels)


def _stop_if_asked(stop: StopRequest) -> None:
    if stop.signal is not None:
        raise Interrupted("stopped in the first phase, which trains the classifier on the frozen body.")
