"""`train`: one folder of pictures in, one run folder out."""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mobilenets import __version__
from mobilenets import checkpoint as checkpoints
from mobilenets.checkpoint import MODEL_FILE, Checkpoint, Manifest, digest
from mobilenets.errors import InputError, Interrupted, MissingExtra, MobilenetsError
from mobilenets.evaluation import Evaluation, evaluate
from mobilenets.files import write_json
from mobilenets.folder import Folder, scan
from mobilenets.loader import TrainingLoader
from mobilenets.machine import cpu_name
from mobilenets.machine import describe as describe_machine
from mobilenets.network import MobileNet, to_tensors
from mobilenets.progress import SILENT, Progress
from mobilenets.recipe import Recipe
from mobilenets.report import write_report
from mobilenets.report.record import Epoch, RunRecord
from mobilenets.spec import Spec
from mobilenets.text import count, duration, printable
from mobilenets.training import state
from mobilenets.training.head import train_head
from mobilenets.training.interrupt import StopRequest, stop_request
from mobilenets.training.loop import Loop, describe
from mobilenets.training.optimization import class_weights
from mobilenets.training.plan import Plan, load_init, make_network, make_plan, read_plan
from mobilenets.training.speed import Speed, choose, memory_format

if TYPE_CHECKING:
    from accelerate import Accelerator

PLAN_FILE = "plan.json"
SPLIT_FILE = "split.csv"


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
    began = time.monotonic()
    start, file = load_init(init)
    if stored and resume:
        path, plan = Path(resume), stored
        _check_same_pictures(path, folder)
    else:
        plan = make_plan(
            folder, model=model, init=start, init_file=file, recipe=recipe, resolution=resolution, seed=seed
        )
        path = _new_run_folder(folder, out)
    network = make_network(plan, start, folder.classes)
    accelerator, network, speed = _open_device(network, plan, device)
    plan = dataclasses.replace(
        plan,
        recipe=dataclasses.replace(
            plan.recipe, precision=speed.precision, layout=speed.layout, threads=speed.threads
        ),
    )
    work = _Work(path, plan, folder, accelerator, speed, command, progress)
    with stop_request() as stop, _threads(speed.threads):
        work.announce()
        try:
            history, best_epoch = work.train(network, stop, resumed=resume is not None)
        except MobilenetsError as error:
            raise _with_way_on(error, path, folder, stop) from error
    return work.finish(history, best_epoch, time.monotonic() - began)


@contextmanager
def _threads(wanted: int) -> Iterator[None]:
    """Torch with `wanted` threads, and afterwards with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class _Work:
    """The parts of a run that everything in it needs."""

    path: Path
    plan: Plan
    folder: Folder
    accelerator: "Accelerator"
    speed: Speed
    command: str
    progress: Progress

    def announce(self) -> None:
        """Device, precision, pictures, classes, split, seed; then network, recipe, time, place."""
        n = {split: len(self.folder.split(split)) for split in ("train", "val", "test")}
        self.progress.say(
            f"{_device_name(self.accelerator)} · {_precision_name(self.speed)} · "
            f"{count(sum(n.values()), 'picture')} · {count(len(self.folder.classes), 'class', 'classes')} · "
            f"{n['train']:,} train / {n['val']:,} val / {n['test']:,} test · seed {self.plan.seed}"
        )
        views = self.plan.epochs * (n["train"] + n["val"] / 3) + n["test"] / 3
        views += (n["train"] + n["val"]) / 3 if self.plan.recipe.freeze.head_epochs else 0
        self.progress.say(
            f"{self.plan.spec.name} at {self.plan.spec.resolution} px · "
            f"recipe {self.plan.recipe.name}, {count(self.plan.epochs, 'epoch')} · "
            f"about {duration(views * self.speed.seconds_per_picture)} · "
            f"into {printable(str(self.path))} (Ctrl-C is safe)"
        )

    def train(self, network: MobileNet, stop: StopRequest, *, resumed: bool) -> tuple[tuple[Epoch, ...], int]:
        """Both phases; returns the history and the selected epoch."""
        weights = class_weights(_train_counts(self.folder), self.plan.recipe)
        train, val = self.folder.split("train"), self.folder.split("val")
        head = None
        if not resumed:
            self._write_start()
            if self.plan.recipe.freeze.head_epochs:
                head = train_head(
                    network, self.plan, train, val, self._features_of(network), weights, self.progress
                )
                self.progress.say(f"head on the frozen body  {describe(head)}")
        loop = Loop(
            self.plan,
            network,
            TrainingLoader(
                train,
                self.plan.preprocessing,
                self.plan.spec.resolution,
                self.plan.recipe.augment,
                self.plan.recipe.batch_size,
                self.plan.seed,
                rank=self.accelerator.process_index,
                world=self.accelerator.num_processes,
                overlap=self.accelerator.device.type != "cpu",
            ),
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
        elif head:
            loop.judge(head)
        if self.plan.epochs:
            self.progress.say(str(loop.network.norm_count()))
        loop.go()
        return loop.place.history, loop.place.best_epoch

    def finish(self, history: tuple[Epoch, ...], best_epoch: int, seconds: float) -> Run:
        """Score the selected model on *test*, and write everything that a person wants to see."""
        selected = checkpoints.load(self.path)
        evaluation = evaluate(selected, self.folder, split="test", progress=self.progress)
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
            environment=self._environment(seconds),
            command=self.command,
        )
        files: tuple[Path, ...] = ()
        if self.accelerator.is_main_process:
            checkpoint.save(self.path / MODEL_FILE)
            write_json(
                self.path / "metrics.json",
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
        inherited = self.plan.inherited
        manifest = Manifest(
            spec=self.plan.spec,
            labels=self.folder.classes,
            preprocessing=self.plan.preprocessing,
            metrics={"val": {"accuracy": row.accuracy, "balanced_accuracy": row.balanced_accuracy}},
            provenance={
                "tool": f"mobilenets {__version__}",
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "command": self.command,
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
            "device": _device_name(self.accelerator),
            "precision": _precision_name(self.speed),
            "measured": "; ".join(f"{name}: {rate:.0f} pictures/s" for name, rate in self.speed.measured),
            "time": duration(seconds),
            "mobilenets": __version__,
            "torch": torch.__version__,
            **describe_machine(),
        }


def _open_device(
    network: MobileNet, plan: Plan, device: str | None
) -> "tuple[Accelerator, MobileNet, Speed]":
    """The accelerator, the network on it in its memory layout, and the measured choice of precision."""
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, PartialState
    except ImportError as error:
        raise MissingExtra("training", "train", "accelerate") from error
    if device not in (None, "cpu"):
        raise InputError(
            f"device is {device!r}; accepted: cpu, or nothing for what Accelerate finds.",
            remedy="Choose among several GPUs with CUDA_VISIBLE_DEVICES or `accelerate launch`.",
        )
    speed = choose(network, plan.spec, plan.recipe, PartialState(cpu=device == "cpu").device)
    AcceleratorState._reset_state()  # a second run in one process may choose another precision
    accelerator = Accelerator(
        cpu=device == "cpu", mixed_precision="bf16" if speed.precision == "bf16" else "no"
    )
    network.to(accelerator.device, memory_format=memory_format(speed.layout))  # type: ignore[call-overload]
    return accelerator, network, speed


def _headline(evaluation: Evaluation) -> dict[str, Any]:
    figures = evaluation.to_json()
    return {name: figures[name] for name in ("accuracy", "balanced_accuracy")}


def _split_counts(folder: Folder) -> dict[str, int]:
    return {split: len(folder.split(split)) for split in ("train", "val", "test")}


def _train_counts(folder: Folder) -> list[int]:
    labels = [picture.label for picture in folder.split("train")]
    return [labels.count(index) for index in range(len(folder.classes))]


def _device_name(accelerator: "Accelerator") -> str:
    device = accelerator.device
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type == "cpu":
        return f"cpu ({cpu_name()}, {count(torch.get_num_threads(), 'thread')})"
    return str(device.type)


def _precision_name(speed: Speed) -> str:
    return f"{speed.precision}{', channels last' if speed.layout == 'channels_last' else ''}"


def _new_run_folder(folder: Folder, out: str | Path | None) -> Path:
    """`out`, or the next free `runs/<folder>-<n>`. A folder that holds something is never written into."""
    if out is not None:
        path = Path(out)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(
                "exists already and is not empty.",
                file=path,
                remedy="Choose another with -o, or go on with a stopped run there with --resume.",
            )
        return path
    stem = folder.root.stem if folder.root.suffix == ".csv" else folder.root.resolve().name
    n = 1
    while (path := Path("runs") / f"{stem}-{n}").exists():
        n += 1
    return path


def stored_plan(run: str | Path) -> Plan:
    """The plan of a run that was stopped and can be resumed; `InputError` for any other."""
    run = Path(run)
    if state.exists(run):
        return read_plan(run / PLAN_FILE)
    if (run / "metrics.json").exists():
        raise InputError(
            "is a finished run: there is nothing to go on with.",
            file=run,
            remedy=f"Start from its model with: --init {printable(str(run))}",
        )
    raise InputError("is not a run that was stopped.", file=run)


def _check_same_pictures(run: Path, folder: Folder) -> None:
    """Refuse to resume on other pictures than the run began with."""
    file = run / SPLIT_FILE
    if not file.exists() or file.read_bytes() != folder.split_csv(run).encode("utf-8", "surrogateescape"):
        raise InputError(
            f"its pictures are not those that the run in {printable(str(run))} began with.",
            file=folder.root,
            remedy="Go on with the unchanged folder, or start a new run with --init.",
        )


def _with_way_on(error: MobilenetsError, path: Path, folder: Folder, stop: StopRequest) -> MobilenetsError:
    """Say what was kept and how to go on."""
    if isinstance(error, Interrupted):
        if stop.signal == 15:
            error.exit_code = 143  # type: ignore[misc]
        kept = (
            f"The best model so far: {printable(str(path / MODEL_FILE))}\n"
            if (path / MODEL_FILE).exists()
            else ""
        )
        way_on = f"mobilenets train {printable(str(folder.root))} --resume {printable(str(path))}"
        error.remedy = f"{kept}Go on with: {way_on}"
    return error
