"""`train`: one folder of pictures in, one run folder out."""

import dataclasses
import importlib.util
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mobilenets import __version__
from mobilenets import checkpoint as checkpoints
from mobilenets.checkpoint import MODEL_FILE, Checkpoint, Manifest, digest
from mobilenets.errors import Interrupted, MissingExtra, MobilenetsError
from mobilenets.evaluation import Evaluation, evaluate, proportion
from mobilenets.files import write_json
from mobilenets.folder import Folder, scan
from mobilenets.loader import TrainingLoader
from mobilenets.machine import describe as describe_machine
from mobilenets.network import MobileNet, to_tensors
from mobilenets.progress import SILENT, Progress
from mobilenets.recipe import Recipe
from mobilenets.report import write_report
from mobilenets.report.record import Epoch, RunRecord
from mobilenets.spec import Spec
from mobilenets.text import count, duration, printable
from mobilenets.training import state
from mobilenets.training.device import check_device, device_name, open_device, precision_name, threads
from mobilenets.training.head import train_head
from mobilenets.training.interrupt import StopRequest, stop_request
from mobilenets.training.loop import Loop, describe
from mobilenets.training.optimization import class_weights
from mobilenets.training.plan import Plan, choose_network, load_init, make_network, make_plan, start_network
from mobilenets.training.run_folder import (
    METRICS_FILE,
    PLAN_FILE,
    SPLIT_FILE,
    check_out,
    check_same_pictures,
    claim,
    stored_plan,
    with_way_on,
)
from mobilenets.training.speed import Speed

if TYPE_CHECKING:
    from accelerate import Accelerator

_FOR_THE_REPORT = ("matplotlib", "jinja2")


@dataclass(frozen=True)
class Run:
    """What `train` returns: the selected model, its score on *test*, and everything that was written."""

    path: Path
    checkpoint: Checkpoint
    evaluation: Evaluation
    record: RunRecord
    files: tuple[Path, ...]


def train(
    folder: Folder | str | Path,
    *,
    model: str | Spec | None = None,
    init: Checkpoint | str | Path | None = None,
    recipe: Recipe | str | None = None,
    resolution: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    device: str | None = None,
    command: str = "mobilenets.train(…)",
    progress: Progress = SILENT,
) -> Run:
    """Train a classifier on a folder of pictures and write a run folder.

    `model` is a network's name or a `Spec` (default: V3-Small at 160 px), `init` a checkpoint to start
    from, `recipe` a preset's name or a `Recipe` (default: `finetune` with `init`, else `scratch`).
    The model is selected on *val* by balanced accuracy; the returned score is on *test*.
    `resume` goes on with a stopped run, to the same bits on one CPU, with the choices stored there.
    `device` is `cpu`, or `None` for what Accelerate finds. `command` is what the report says to type
    to repeat the run.

    Raises `Interrupted` after Ctrl-C with the best model and the state for a resume written, and
    `TrainingDiverged` where the loss is no longer a number.
    """
    stored = None if resume is None else stored_plan(resume)
    if not isinstance(folder, Folder):
        folder = scan(folder, seed=stored.seed if stored else seed, progress=progress)
    start, file = load_init(init)
    if stored and resume:
        path, plan = Path(resume), stored
        check_same_pictures(path, folder)
    else:
        plan = make_plan(
            folder,
            model=model,
            init=start,
            init_file=file,
            recipe=recipe,
            resolution=resolution,
            seed=seed,
            command=command,
        )
        check_out(out)
    if stored:  # the weights are those of the stored state
        network = make_network(plan, start, folder.classes)
    else:
        network = start_network(plan, start, folder, progress)
    progress.say("Measuring which precision, layout and threads train fastest here …")
    accelerator, speed = open_device(network, plan, device)
    if not stored:
        path = _agreed(accelerator, claim(folder, out) if accelerator.is_main_process else None)
    plan = dataclasses.replace(
        plan,
        recipe=dataclasses.replace(
            plan.recipe, precision=speed.precision, layout=speed.layout, threads=speed.threads
        ),
    )
    work = _Work(path, plan, folder, accelerator, speed, progress if accelerator.is_main_process else SILENT)
    with stop_request() as stop, threads(speed.threads):
        try:
            history, best_epoch = work.train(network, stop, resumed=stored is not None)
        except MobilenetsError as error:
            raise with_way_on(error, path, folder, stop) from error
    try:
        return work.finish(history, best_epoch)
    except KeyboardInterrupt as error:
        stopped = Interrupted("stopped while scoring the model and writing the report.")
        raise with_way_on(stopped, path, folder, stop) from error


def check_choices(
    *,
    model: str | Spec | None,
    init: Checkpoint | str | Path | None,
    resolution: int | None,
    out: str | Path | None,
    device: str | None,
) -> None:
    """Find what is wrong with the arguments of `train` before any picture is opened."""
    for package in _FOR_THE_REPORT:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra("the report of a run", "train", package)
    start, _ = load_init(init)
    choose_network(model, start, resolution)
    check_out(out)
    check_device(device)


def _agreed(accelerator: "Accelerator", path: Path | None) -> Path:
    """The main process's `path`, in every process."""
    if accelerator.num_processes == 1:
        assert path is not None
        return path
    from accelerate.utils import broadcast_object_list

    return Path(broadcast_object_list([None if path is None else str(path)])[0])


@dataclass(frozen=True)
class _Work:
    """The parts of a run that everything in it needs."""

    path: Path
    plan: Plan
    folder: Folder
    accelerator: "Accelerator"
    speed: Speed
    progress: Progress

    @cached_property
    def loader(self) -> TrainingLoader:
        """This process's batches."""
        return TrainingLoader(
            self.folder.split("train"),
            self.plan.preprocessing,
            self.plan.spec.resolution,
            self.plan.recipe.augment,
            self.plan.recipe.batch_size,
            self.plan.seed,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            overlap=self.accelerator.device.type != "cpu",
        )

    def announce(self, epochs_done: int) -> None:
        """Device, precision, pictures, classes, split, seed; then network, recipe, time, place."""
        n = _split_counts(self.folder)
        self.progress.say(
            f"{device_name(self.accelerator.device, self.speed)} · {precision_name(self.speed)} · "
            f"{count(sum(n.values()), 'picture')} · {count(len(self.folder.classes), 'class', 'classes')} · "
            f"{n['train']:,} train / {n['val']:,} val / {n['test']:,} test · seed {self.plan.seed}"
        )
        epochs = self.plan.epochs - epochs_done
        self.progress.say(
            f"{self.plan.spec.name} at {self.plan.spec.resolution} px · "
            f"recipe {self.plan.recipe.name}, {count(epochs, 'epoch')} · "
            f"about {duration(self._estimate(epochs, head=not epochs_done))} · "
            f"into {printable(str(self.path))} (Ctrl-C is safe)"
        )

    def _estimate(self, epochs: int, *, head: bool) -> float:
        """Seconds until the end: a measured step and a measured view; a forward pass is a third of a step."""
        n = _split_counts(self.folder)
        began = time.perf_counter()
        pixels, _ = next(self.loader.epoch(0))
        view = (time.perf_counter() - began) / len(pixels)
        step = self.speed.seconds_per_picture / self.accelerator.num_processes
        look = view + step / 3
        seconds: float = epochs * (n["train"] * (view + step) + n["val"] * look) + n["test"] * look
        if head and self.plan.recipe.freeze.head_epochs:
            seconds += (n["train"] + n["val"]) * look
        return seconds

    def train(self, network: MobileNet, stop: StopRequest, *, resumed: bool) -> tuple[tuple[Epoch, ...], int]:
        """Both phases; returns the history and the selected epoch."""
        train, val = self.folder.split("train"), self.folder.split("val")
        weights = class_weights(_train_counts(self.folder), self.plan.recipe)
        if weights is not None:
            weights = weights.to(self.accelerator.device)
        loop = Loop(
            self.plan,
            network,
            self.loader,
            val,
            accelerator=self.accelerator,
            speed=self.speed,
            class_weights=weights,
            run=self.path,
            keep=self._keep,
            stop=stop,
            progress=self.progress,
        )
        if resumed:
            loop.resume()
        else:
            self._write_start()
            loop.save()
        self.announce(loop.place.epoch)
        if self.plan.recipe.freeze.head_epochs and not loop.place.head_done:
            if not self.plan.inherited.parent:
                self.progress.say(
                    "This recipe first fits a classifier to a body of random weights: see --init."
                )
            features = self._features_of(network)
            head = train_head(network, self.plan, train, val, features, weights, stop, self.progress)
            loop.begin_after(head)
            self.progress.say(f"head on the frozen body  {describe(head)}")
        if self.plan.epochs:
            fixed = "batch norms: all frozen"
            self.progress.say(fixed if self.plan.recipe.freeze.norms else str(network.norm_count()))
        loop.go()
        return loop.place.history, loop.place.best_epoch

    def finish(self, history: tuple[Epoch, ...], best_epoch: int) -> Run:
        """Score the selected model on *test*, and write everything that a person wants to see."""
        self.accelerator.wait_for_everyone()
        selected = checkpoints.load(self.path)
        evaluation = evaluate(selected, self.folder, split="test", engine="torch", progress=self.progress)
        metrics = {"test": _headline(evaluation), **selected.manifest.metrics}
        checkpoint = dataclasses.replace(
            selected, manifest=dataclasses.replace(selected.manifest, metrics=metrics)
        )
        record = RunRecord(
            name=self.path.name,
            manifest=checkpoint.manifest,
            folder=self.folder,
            history=history,
            best_epoch=best_epoch,
            evaluation=evaluation,
            recipe=self.plan.recipe.to_json(),
            environment=self._environment(sum(row.seconds for row in history)),
            command=self.plan.command,
        )
        files: tuple[Path, ...] = ()
        if self.accelerator.is_main_process:
            checkpoint.save(self.path / MODEL_FILE)
            write_json(
                self.path / METRICS_FILE,
                {**evaluation.to_json(), "history": [dataclasses.asdict(row) for row in history]},
            )
            files = write_report(record, self.path)
            state.remove(self.path)
        return Run(self.path, checkpoint, evaluation, record, files)

    def _write_start(self) -> None:
        """What is known before the first step."""
        if self.accelerator.is_main_process:
            self.folder.write_split_csv(self.path / SPLIT_FILE)
            write_json(self.path / "scan.json", self.folder.to_json())
            write_json(self.path / "recipe.json", self.plan.recipe.to_json())
            write_json(self.path / PLAN_FILE, self.plan.to_json())

    def _features_of(self, network: MobileNet) -> Any:
        def run(pixels: Tensor) -> Tensor:
            with self.accelerator.autocast():
                return network.forward_head(network.forward_body(pixels), pre_logits=True)

        return run

    def _keep(self, network: MobileNet, row: Epoch) -> None:
        """Write the best model so far, with its score on *val*."""
        inherited, n_val = self.plan.inherited, len(self.folder.split("val"))
        manifest = Manifest(
            spec=self.plan.spec,
            labels=self.folder.classes,
            preprocessing=self.plan.preprocessing,
            metrics={"val": {"accuracy": proportion(round(row.accuracy * n_val), n_val).to_json()}},
            provenance={
                "tool": f"mobilenets {__version__}",
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "command": self.plan.command,
                "pictures": {"folder": self.folder.root.name, **_split_counts(self.folder)},
                "epoch": row.number,
                "recipe": self.plan.recipe.to_json(),
                "seed": self.plan.seed,
                "parent": dict(inherited.parent) or None,
            },
            licence=inherited.licence,
        )
        seen = frozenset(digest(picture.sha256) for picture in self.folder.split("train"))
        Checkpoint(manifest, to_tensors(network), seen | inherited.trained_on).save(self.path / MODEL_FILE)

    def _environment(self, seconds: float) -> dict[str, str]:
        return {
            "device": device_name(self.accelerator.device, self.speed),
            "precision": precision_name(self.speed),
            "measured": "; ".join(f"{name}: {rate:.0f} pictures/s" for name, rate in self.speed.measured),
            "time": duration(seconds),
            "mobilenets": __version__,
            "torch": torch.__version__,
            **describe_machine(),
        }


def _headline(evaluation: Evaluation) -> dict[str, Any]:
    figures = evaluation.to_json()
    return {name: figures[name] for name in ("accuracy", "balanced_accuracy")}


def _split_counts(folder: Folder) -> dict[str, int]:
    return {split: len(folder.split(split)) for split in ("train", "val", "test")}


def _train_counts(folder: Folder) -> list[int]:
    labels = [picture.label for picture in folder.split("train")]
    return [int(n) for n in np.bincount(labels, minlength=len(folder.classes))]
