"""Training end to end on a tiny folder: scores, freezing, repeating, resuming, failing."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from mobilenets import checkpoint as checkpoints
from mobilenets.errors import CheckpointError, InputError, Interrupted, TrainingDiverged, WriteFailed
from mobilenets.files import write_failed
from mobilenets.folder import scan
from mobilenets.loader import TrainingLoader
from mobilenets.progress import Silent
from mobilenets.recipe import Augment, Freeze, Recipe, preset
from mobilenets.spec import Block, Conv, Spec, SqueezeExcite
from mobilenets.training import optimization, state, stored_plan, train

SPEC = Spec(
    name="short",
    source="tests",
    blocks=(
        Block((Conv("conv", 3, 8, 2, "hard_swish"),), stage=0),
        Block((Conv("depthwise", 3, 8, 2, "relu", depthwise=True), Conv("pointwise", 1, 16)), stage=1),
        Block(
            (
                Conv("expand", 1, 32, 1, "hard_swish"),
                Conv("depthwise", 5, 32, 1, "hard_swish", depthwise=True),
                SqueezeExcite(8),
                Conv("project", 1, 16),
            ),
            stage=1,
            residual=True,
        ),
        Block((Conv("depthwise", 3, 16, 2, "relu", depthwise=True), Conv("pointwise", 1, 24)), stage=2),
        Block((Conv("expand", 3, 48, 1, "relu6"), Conv("project", 1, 24)), stage=2, residual=True),
        Block((Conv("pointwise", 1, 48, 1, "hard_swish"),), stage=3),
    ),
    head=(Conv("hidden", 1, 64, 1, "hard_swish", norm=False),),
    classes=3,
    resolution=32,
    dropout=0.1,
)
"""A step's time is its number of ops at this size, and here are a quarter of V3-Small's."""
QUICK = Recipe(
    epochs=2,
    batch_size=8,
    rate=2e-3,
    precision="fp32",
    layout="contiguous",
    ema_decay=0.9,
    augment=Augment(crop_area=(0.8, 1.0)),
)


def tensors(path):
    return checkpoints.load(path).tensors


def same(a, b):
    return all((a[name] == b[name]).all() for name in a) and a.keys() == b.keys()


@pytest.fixture(scope="module")
def folder(shapes_folder):
    return scan(shapes_folder)


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """The report has its own tests; here the module's first run writes one, and the others need none."""
    monkeypatch.setattr("mobilenets.training.run.write_report", lambda record, path: ())


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "first"
    recipe = dataclasses.replace(QUICK, epochs=14, rate=5e-3)
    return train(folder, model=SPEC, recipe=recipe, out=out, device="cpu")


@pytest.mark.slow
def test_a_run_learns_and_writes_what_it_promises(trained, folder):
    assert trained.evaluation.accuracy.value >= 0.8
    written = {path.name for path in trained.path.iterdir()}
    assert {
        "model.safetensors",
        "metrics.json",
        "split.csv",
        "scan.json",
        "recipe.json",
        "report.html",
    } <= written
    assert "resume" not in written
    metrics = json.loads((trained.path / "metrics.json").read_text())
    assert metrics["accuracy"]["n"] == len(folder.split("test"))
    assert len(metrics["history"]) == 14


def test_the_checkpoint_describes_itself(trained, folder):
    manifest = checkpoints.load(trained.path).manifest
    assert manifest.labels == folder.classes
    assert manifest.metrics["test"]["accuracy"]["value"] == trained.evaluation.accuracy.value
    assert manifest.provenance["recipe"]["epochs"] == 14
    assert manifest.spec.classes == 3
    assert len(checkpoints.load(trained.path).trained_on) == len(folder.split("train"))


@pytest.mark.slow
def test_one_seed_gives_the_same_bits_twice(folder, tmp_path):
    runs = [train(folder, model=SPEC, recipe=QUICK, out=tmp_path / str(i), device="cpu") for i in range(2)]
    assert same(runs[0].checkpoint.tensors, runs[1].checkpoint.tensors)
    assert [r.loss for r in runs[0].record.history] == [r.loss for r in runs[1].record.history]


@pytest.mark.slow
def test_another_seed_gives_other_bits(folder, tmp_path):
    runs = [
        train(folder, model=SPEC, recipe=QUICK, seed=i, out=tmp_path / str(i), device="cpu") for i in range(2)
    ]
    assert not same(runs[0].checkpoint.tensors, runs[1].checkpoint.tensors)


class StopAt(Silent):
    """Sends this process a signal once `steps` items of the work called `what` have been taken."""

    def __init__(self, what, steps, number=signal.SIGINT):
        self.what, self.steps, self.number = what, steps, number

    def track(self, items, total, what, *, size=None):
        for done, item in enumerate(items):
            if what.startswith(self.what) and done == self.steps:
                self.what = "never again"
                os.kill(os.getpid(), self.number)
                time.sleep(0.01)
            yield item


STEPS = 11
"""Per epoch: 84 pictures in batches of 8."""
slowly, in_full = pytest.mark.slow, pytest.mark.full


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "steps", "changes"),
    [
        ("epoch 2/", 3, {"optimizer": "rmsprop", "layout": "channels_last"}),
        ("epoch 1/", STEPS - 1, {}),
        ("features", 0, {"freeze": Freeze(head_epochs=3, unfreeze_blocks=4)}),
        pytest.param("epoch 1/", 0, {}, marks=in_full),
        pytest.param("epoch 3/", 1, {"layout": "channels_last"}, marks=in_full),
        pytest.param("validating", 0, {}, marks=in_full),
        pytest.param("epoch 2/", 1, {"freeze": Freeze(head_epochs=3)}, marks=in_full),
    ],
)
def test_a_stopped_run_goes_on_to_the_same_bits(folder, trained, tmp_path, what, steps, changes):
    recipe = dataclasses.replace(QUICK, epochs=3, rate=5e-4, **changes)
    start = {"init": trained.path} if "freeze" in changes else {"model": SPEC}
    through = train(folder, **start, recipe=recipe, out=tmp_path / "through", device="cpu")
    with pytest.raises(Interrupted) as stop:
        cut = StopAt(what, steps)
        train(folder, **start, recipe=recipe, out=tmp_path / "cut", device="cpu", progress=cut)
    assert "--resume" in str(stop.value)
    assert stop.value.exit_code == 130
    resumed = train(folder, resume=tmp_path / "cut", device="cpu")
    assert same(through.checkpoint.tensors, resumed.checkpoint.tensors)
    assert [r.loss for r in through.record.history] == [r.loss for r in resumed.record.history]
    assert not state.exists(tmp_path / "cut")
    assert resumed.record.command == through.record.command


def test_a_run_stopped_while_it_is_scored_goes_on_with_the_score(folder, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="--resume"):
        patch.setattr("mobilenets.training.run.evaluate", interrupted)
        train(
            folder, model=SPEC, recipe=dataclasses.replace(QUICK, epochs=1), out=tmp_path / "r", device="cpu"
        )
    assert train(folder, resume=tmp_path / "r", device="cpu").evaluation.accuracy.n == len(
        folder.split("test")
    )


def test_a_damaged_state_is_told(folder, tmp_path):
    with pytest.raises(Interrupted):
        train(
            folder, model=SPEC, recipe=QUICK, out=tmp_path / "r", device="cpu", progress=StopAt("epoch 1/", 1)
        )
    file = tmp_path / "r" / "resume" / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be resumed"):
        train(folder, resume=tmp_path / "r", device="cpu")


def test_sigterm_ends_with_143_and_leaves_the_handlers_as_they_were(folder, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted) as stop:
        train(
            folder,
            model=SPEC,
            recipe=QUICK,
            out=tmp_path / "r",
            device="cpu",
            progress=StopAt("epoch 1/", 1, signal.SIGTERM),
        )
    assert stop.value.exit_code == 143
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_training_works_in_another_thread(folder, tmp_path):
    done = []
    recipe = dataclasses.replace(QUICK, epochs=1)
    thread = threading.Thread(
        target=lambda: done.append(train(folder, model=SPEC, recipe=recipe, out=tmp_path / "r", device="cpu"))
    )
    thread.start()
    thread.join()
    assert done


@pytest.mark.slow
@pytest.mark.parametrize("unfreeze", [0, 4])
def test_frozen_batch_norms_are_bit_identical_after_training(trained, folder, tmp_path, unfreeze):
    recipe = dataclasses.replace(QUICK, freeze=Freeze(unfreeze_blocks=unfreeze))
    run = train(folder, init=trained.checkpoint, recipe=recipe, out=tmp_path / "r", device="cpu")
    before, after = trained.checkpoint.tensors, run.checkpoint.tensors
    first_free = len(SPEC.blocks) - unfreeze
    frozen = [name for name in before if name.startswith("blocks.") and int(name.split(".")[1]) < first_free]
    assert any(name.endswith("running_mean") for name in frozen)
    assert all((before[name] == after[name]).all() for name in frozen)
    if unfreeze:
        moved = [n for n in before if n.endswith("running_mean") and n not in frozen]
        assert any((before[n] != after[n]).any() for n in moved)


def test_head_only_changes_nothing_but_the_classifier(trained, folder, tmp_path):
    recipe = dataclasses.replace(preset("head-only"), precision="fp32", layout="contiguous")
    start = dataclasses.replace(
        trained.checkpoint,
        manifest=dataclasses.replace(trained.checkpoint.manifest, labels=("x", "y", "z")),
    )
    run = train(folder, init=start, recipe=recipe, out=tmp_path / "r", device="cpu")
    before, after = trained.checkpoint.tensors, run.checkpoint.tensors
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert changed == {"classifier.weight", "classifier.bias"}
    assert run.evaluation.accuracy.value > 0.6
    assert run.record.history[0].phase == "head"


@pytest.mark.slow
def test_finetuning_inherits_licence_parent_and_pictures(trained, folder, tmp_path):
    licensed = dataclasses.replace(
        trained.checkpoint, manifest=dataclasses.replace(trained.checkpoint.manifest, licence="CC-BY-4.0")
    )
    run = train(folder, init=licensed, recipe=QUICK, seed=3, out=tmp_path / "r", device="cpu")
    assert run.checkpoint.manifest.licence == "CC-BY-4.0"
    assert run.checkpoint.manifest.provenance["parent"]["network"] == SPEC.name
    assert trained.checkpoint.trained_on <= run.checkpoint.trained_on


def test_a_diverging_loss_stops_and_keeps_the_best(folder, tmp_path, monkeypatch):
    real = optimization.rate_at
    steps = TrainingLoader(folder.split("train"), None, 32, QUICK.augment, 8, 0).steps

    def exploding(step, total, recipe):
        return float("inf") if step >= steps else real(step, total, recipe)

    monkeypatch.setattr("mobilenets.training.loop.rate_at", exploding)
    with pytest.raises(TrainingDiverged, match="loss became") as error:
        train(folder, model=SPEC, recipe=QUICK, out=tmp_path / "r", device="cpu")
    assert "--set rate=" in str(error.value)
    assert all(np.isfinite(t).all() for t in tensors(tmp_path / "r").values())


@pytest.mark.slow
def test_a_full_disk_keeps_the_best_model_so_far(folder, tmp_path, monkeypatch):
    saves = []
    real = checkpoints.write_bytes

    def full(path, data):
        saves.append(path)
        if len(saves) > 1:
            raise write_failed(path, OSError(errno.ENOSPC, "No space left on device"))
        real(path, data)

    monkeypatch.setattr(checkpoints, "write_bytes", full)
    with pytest.raises(WriteFailed, match="disk is full"):
        train(
            folder, model=SPEC, recipe=dataclasses.replace(QUICK, epochs=6), out=tmp_path / "r", device="cpu"
        )
    assert tensors(tmp_path / "r")
    assert not list((tmp_path / "r").glob("*.tmp"))


@pytest.mark.slow
def test_a_file_size_limit_is_a_full_disk(folder, tmp_path):
    """The real limit of the system, in a process of its own: a signal would end this one."""
    program = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "from mobilenets.cli import main; main(sys.argv[1:])"
    )
    words = [
        "train",
        str(folder.root),
        "--model",
        "mobilenet_v1_025",
        "--resolution",
        "32",
        "--device",
        "cpu",
    ]
    done = subprocess.run(
        [sys.executable, "-c", program, *words, "-o", str(tmp_path / "r")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.tmp"))


def test_weights_that_are_no_numbers_are_refused_or_told(trained, folder, tmp_path):
    poisoned = dict(trained.checkpoint.tensors)
    poisoned["blocks.0.conv.conv.weight"] = np.full_like(poisoned["blocks.0.conv.conv.weight"], np.nan)
    broken = dataclasses.replace(trained.checkpoint, tensors=poisoned)
    recipe = dataclasses.replace(QUICK, freeze=Freeze(head_epochs=1))
    with pytest.raises(TrainingDiverged):
        train(folder, init=broken, recipe=recipe, out=tmp_path / "r", device="cpu")
    assert not (tmp_path / "r" / "model.safetensors").exists()
    broken.save(tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match=r"blocks\.0\.conv\.conv\.weight"):
        checkpoints.load(tmp_path / "nan.safetensors")


def test_a_run_is_not_written_over(trained, folder):
    with pytest.raises(InputError, match="not empty"):
        train(folder, model=SPEC, recipe=QUICK, out=trained.path, device="cpu")


def test_a_finished_or_foreign_run_cannot_be_resumed(trained, folder, tmp_path):
    with pytest.raises(InputError, match="finished run"):
        train(folder, resume=trained.path)
    with pytest.raises(InputError, match="not a run that was stopped"):
        stored_plan(tmp_path)


def test_model_and_init_must_agree(trained, folder, tmp_path):
    with pytest.raises(InputError, match="--init holds short"):
        train(folder, init=trained.checkpoint, model="mobilenet_v1_025", out=tmp_path / "r")


def test_the_learning_rate_climbs_and_falls():
    recipe = Recipe(rate=1.0, warmup=0.1, final_rate=0.01)
    rates = [optimization.rate_at(step, 100, recipe) for step in range(100)]
    assert rates[9] == pytest.approx(1.0)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.01, abs=0.002)


@pytest.mark.parametrize("batch_size", [2, 8])
@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("n", [7, 8, 9, 17, 33, 64, 65])
def test_no_batch_has_one_picture_and_every_picture_is_seen_once(n, batch_size, world):
    loader = TrainingLoader([None] * n, None, 32, Augment(), batch_size, seed=1, world=world)
    parts = loader.plan(0)
    shares = [dataclasses.replace(loader, rank=rank).shares(0) for rank in range(world)]
    assert min(len(part) for share in shares for part in share) >= 2
    assert [sorted(np.concatenate(step)) for step in zip(*shares, strict=True)] == [sorted(p) for p in parts]
    assert sorted(np.concatenate(parts)) == list(range(n))
    assert len(parts) == loader.steps
    assert n < 17 or (np.concatenate(parts) != np.concatenate(loader.plan(1))).any()


def test_class_weights_balance_and_keep_the_scale():
    weights = optimization.class_weights([100, 10], Recipe(balance="auto"))
    assert weights is not None
    assert weights[1] > weights[0]
    assert float((weights * torch.tensor([100, 10])).sum()) == pytest.approx(110, rel=1e-5)
    assert optimization.class_weights([100, 50], Recipe(balance="auto")) is None
    assert optimization.class_weights([100, 50], Recipe(balance="weighted")) is not None


@pytest.mark.parametrize(
    "augment",
    [Augment(mixup_alpha=0.4), Augment(cutmix_alpha=1.0), Augment(mixup_alpha=0.2, cutmix_alpha=1.0)],
)
def test_mixing_keeps_targets_a_distribution(augment):
    pixels, labels = torch.rand(6, 3, 16, 16), torch.tensor([0, 1, 2, 0, 1, 2])
    for seed in range(20):
        mixed, targets = optimization.mix(pixels, labels, 3, augment, np.random.default_rng(seed))
        assert mixed.shape == pixels.shape
        assert torch.allclose(targets.sum(1), torch.ones(6))
        share = targets[0, 0].item()
        if augment.cutmix_alpha == 0:
            assert torch.allclose(mixed[0], share * pixels[0] + (1 - share) * pixels[5], atol=1e-5)


def test_depthwise_kernels_norms_and_biases_are_not_decayed():
    from mobilenets.network import build

    network = build(SPEC)
    optimizer = optimization.make_optimizer(network, Recipe(weight_decay=0.1))
    decayed = {id(p) for p in optimizer.param_groups[0]["params"]}
    for name, parameter in network.named_parameters():
        dense = parameter.ndim > 1 and not name.endswith("depthwise.conv.weight")
        assert (id(parameter) in decayed) == dense, name
