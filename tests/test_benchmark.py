"""Benchmarks: what is claimed follows from the samples, engines run apart, and what cannot run is named.

No latency is asserted.
"""

import dataclasses
import importlib.util
import json
import math
import random
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'mobilenets[train]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'mobilenets[onnx]'")

from calibrated import TINY, calibrated
from mobilenets import zoo
from mobilenets.benchmark import comparison as comparisons
from mobilenets.benchmark import conditions, engines, layers, results, roofline, rounds
from mobilenets.benchmark.comparison import Comparison, Row, compare
from mobilenets.benchmark.conditions import Glimpse, Ticks, noise
from mobilenets.benchmark.peaks import Peaks, measure_peaks
from mobilenets.benchmark.rounds import Candidate, LeftOut, kept
from mobilenets.benchmark.samples import Interval, median_interval, quantile, ratio
from mobilenets.benchmark.worker import Turn, pictures, timed_between, warm_up
from mobilenets.benchmark.yardstick import Reading, Yardstick, calm, usual
from mobilenets.cli import benching, run_command
from mobilenets.compiler import plan_of, planning
from mobilenets.compiler.targets import LIBRARY
from mobilenets.cost import count
from mobilenets.errors import EnvironmentFault, InputError
from mobilenets.exporting import export, peers
from mobilenets.exporting.peers import prepare, with_random_weights
from mobilenets.files import caches
from mobilenets.runtime import ENGINES as RUNTIMES
from mobilenets.runtime.shared_library import Library
from mobilenets.runtime.torch_session import TorchSession
from mobilenets.tolerances import BF16_RELATIVE, LOGITS_RELATIVE, agreement

QUICK = {"rounds": 6, "seconds": 0.01}


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def checkpoint():
    return calibrated()


@pytest.fixture(scope="module")
def file(checkpoint, tmp_path_factory) -> Path:
    return checkpoint.save(tmp_path_factory.mktemp("models") / "tiny.safetensors")


@pytest.fixture(scope="module")
def found(checkpoint, tmp_path_factory) -> Comparison:
    """Ours against ONNX Runtime, on the tiny network."""
    candidates, left_out = prepare(
        checkpoint, ["compiled", "onnxruntime"], tmp_path_factory.mktemp("candidates")
    )
    assert not left_out
    return compare(TINY, candidates, **QUICK)


# --- samples ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "rank"), [(6, 1), (8, 1), (9, 2), (10, 2), (20, 6)])
def test_the_interval_of_a_median(n, rank):
    """The ranks are those of the tables, such as Conover's."""
    samples = [float(value) for value in random.Random(0).sample(range(n), n)]
    assert median_interval(samples) == Interval((n - 1) / 2, rank - 1, n - rank)


def test_the_interval_holds_the_median_as_often_as_it_says():
    draw = random.Random(0)
    hits = 0
    for _ in range(2000):
        found = median_interval([draw.expovariate(1.0) for _ in range(10)])
        hits += found.low <= math.log(2) <= found.high
    assert 0.95 <= hits / 2000 <= 0.995


def test_too_few_rounds_have_no_interval():
    with pytest.raises(ValueError, match="6 or more"):
        median_interval([1.0] * 5)
    with pytest.raises(InputError, match="rounds is 5"):
        comparisons.check(threads=1, batch=1, rounds=5)


def test_a_ratio_is_taken_within_a_round():
    """A machine that is twice as slow in some rounds moves no ratio."""
    slow = [1.0, 2.0, 1.0, 2.0, 2.0, 1.0]
    assert ratio([3 * value for value in slow], slow) == Interval(3, 3, 3)


def test_a_quantile():
    assert quantile([3.0, 1.0, 2.0], 0.95) == 3
    assert quantile([float(value) for value in range(100)], 0.95) == 94


def test_warming_up_ends_where_it_brings_nothing(monkeypatch):
    """Windows of 5, 3, 1, 1, 1 … milliseconds: it stops after two that are no faster."""
    windows = iter([5.0, 3.0, 1.0, 1.0, 1.0])
    monkeypatch.setattr("mobilenets.benchmark.worker.timed", lambda _run, _seconds: [next(windows)])
    assert warm_up(lambda: None, 0.1) == 5


# --- calm windows ----------------------------------------------------------------------------------

FULL, SLOWED, FAR_AWAY = Reading(1.0, 2.0), Reading(1.2, 2.0), Reading(1.0, 3.0)


def test_a_window_is_calm_between_two_good_readings():
    readings = [FULL, FULL, SLOWED, FULL, FULL, FAR_AWAY]
    assert calm(readings, FULL) == [True, False, False, True, False]


def test_the_usual_reading_is_not_the_luckiest():
    lucky = Reading(0.5, 1.0)
    assert usual([*[FULL] * 9, lucky]) == lucky
    assert usual([*[FULL] * 20, lucky]) == FULL


def turn(windows, readings):
    return Turn(0.0, 1, tuple(windows), tuple(readings), 1, ((0.0,),))


def test_what_a_neighbour_slowed_is_left_out():
    """Of a round in which nothing was calm, everything counts: nobody can say what is missing."""
    first = turn([(1.0, 1.1), (5.0,), (1.2,)], [FULL, FULL, SLOWED, FULL])
    second = turn([(4.0,), (5.0,)], [SLOWED, FULL, SLOWED])
    found = kept([(first, 0.2), (second, 0.3)])
    assert found.times_ms == ((1.0, 1.1), (4.0, 5.0))
    assert found.disturbed == pytest.approx(4 / 5)
    assert found.cold_starts_ms == (200, 300)


def test_a_turn_without_a_calm_window_is_taken_again(monkeypatch, tmp_path):
    """In its place, and not for ever."""
    restless = turn([(9.0,), (9.0,)], [SLOWED, FULL, SLOWED])
    still = [turn([(1.0 + 0.1 * i,)], [FULL, FULL]) for i in range(4)]
    answers = iter([(each, 0.1) for each in [*still[:2], restless, *still[2:3], restless, still[3]]])
    monkeypatch.setattr(rounds, "_turn", lambda _asked: next(answers))
    one = Candidate("compiled", tmp_path, 1)
    found = rounds.in_turn([one], threads=1, batch=1, rounds=4, seconds=0.1)
    assert found.timed["compiled"].times_ms == ((1.0,), (1.1,), (1.3,), (1.2,))
    assert next(answers, None) is None
    monkeypatch.setattr(rounds, "_turn", lambda _asked: next(answers))
    monkeypatch.setattr(rounds, "_AGAIN_SECONDS", 0.0)
    answers = iter([(each, 0.1) for each in [*still[:2], restless]])
    found = rounds.in_turn([one], threads=1, batch=1, rounds=3, seconds=0.1)
    assert found.timed["compiled"].times_ms[-1] == (9.0, 9.0)


def test_one_thread_and_two_take_turns_in_one_run(monkeypatch, tmp_path):
    """An engine twice, each with its own threads and a name of its own; one without has the run's."""
    one, two = (Candidate("compiled", tmp_path, 1, threads) for threads in (1, 2))
    other = Candidate("litert", tmp_path, 1)
    assert [each.name for each in (one, two, other)] == [
        "compiled, 1 thread",
        "compiled, 2 threads",
        "litert",
    ]
    asked = []

    def take(request):
        asked.append((request.engine, request.threads))
        if request.engine == "compiled" and request.threads == 2 and len(asked) > 6:
            raise EnvironmentFault("there is no second thread.")
        return turn([(10.0 * len(asked) + request.threads,)], [FULL, FULL]), 0.1

    monkeypatch.setattr(rounds, "_turn", take)
    found = rounds.in_turn([one, two, other], threads=3, batch=1, rounds=2, seconds=0.1)
    assert asked == [
        *(("compiled", 1), ("compiled", 2), ("litert", 3)),
        *(("compiled", 2), ("litert", 3), ("compiled", 1)),
    ]
    assert {name: timed.round_medians_ms for name, timed in found.timed.items()} == {
        "compiled, 1 thread": (11.0, 61.0),
        "compiled, 2 threads": (22.0, 42.0),
        "litert": (33.0, 53.0),
    }
    found = rounds.in_turn([one, two, other], threads=3, batch=1, rounds=2, seconds=0.1)
    assert found.left_out == (LeftOut("compiled, 2 threads", "there is no second thread."),)
    assert list(found.timed) == ["compiled, 1 thread", "litert"]


def test_the_noise_of_rounds_is_of_what_was_timed():
    steady, restless = (
        kept([(turn([(each,)], [FULL, FULL]), 0.1) for each in medians])
        for medians in (EVEN, (1.0, 1.3, 1.0, 1.3, 1.0, 1.3))
    )
    slowed = kept([(turn([(1.0,), (5.0,)], [FULL, FULL, SLOWED]), 0.1)] * 6)
    seen = (Glimpse((1.0, 1.0), 0),)
    found = rounds.Rounds({"compiled": steady, "litert": slowed}, (), seen).noise
    assert found.quiet and found.disturbed == pytest.approx(1 / 4)
    assert not rounds.Rounds({"compiled": restless}, (), seen).noise.quiet


class Readings:
    """A yardstick that answers what it was told to."""

    def __init__(self, *answers):
        self.answers = iter(answers)

    def reading(self):
        return next(self.answers)


def test_a_turn_goes_on_until_enough_of_it_was_calm(monkeypatch):
    monkeypatch.setattr("mobilenets.benchmark.worker.timed", lambda _run, seconds: [1e3 * seconds])
    told = [FULL, SLOWED, FULL, FULL, FULL]
    windows, readings = timed_between(lambda: None, 0.1, Readings(*told))
    assert windows == [(50.0,)] * 4 and readings == told


def test_a_turn_ends_on_a_machine_that_is_never_calm():
    answers = (FULL if i % 2 else SLOWED for i in range(10_000))
    windows, readings = timed_between(lambda: None, 0.001, Readings(*answers))
    assert len(readings) == len(windows) + 1
    assert not any(calm(readings, usual(readings)))


def test_the_yardstick_takes_some_milliseconds():
    for threads in (1, 2):
        found = Yardstick(threads).reading()
        assert 0 < found.multiplied < 1000 and 0 < found.read < 1000


# --- the machine -----------------------------------------------------------------------------------


def test_a_quiet_machine_and_another():
    still = noise([Glimpse((1.0, 1.01, 1.0), 0)] * 5)
    assert still.quiet
    assert "was quiet" in str(still)
    slower = noise([Glimpse((1.0, 1.01, 1.0), 0), Glimpse((1.5, 1.5, 1.6), 0)])
    assert slower.quiet and slower.spread > 0.3, "a clock moves without anybody's work"
    before = Glimpse((1.0, 1.0), 0, Ticks(elapsed=10, busy=100, ours=50, stolen=3))
    crowded = noise([before, Glimpse((1.0, 1.0), 0, Ticks(20, 113, 60, 3))])
    assert crowded.others == 0.3
    robbed = noise([before, Glimpse((1.0, 1.0), 0, Ticks(20, 107, 57, 6))])
    assert robbed.stolen == 0.3
    pushed_aside = noise([Glimpse((1.0, 1.0), 0.1)])
    assert not crowded.quiet and not robbed.quiet and not pushed_aside.quiet
    medians = [(1.0, 1.01, 1.04, 1.0, 1.0, 2.0), (5.0, 5.1, 5.0, 5.1, 5.0, 5.0)]
    assert noise([before], medians).quiet, "one round may be lost"
    restless = noise([before], [(1.0, 1.3, 1.0, 1.3, 1.0, 1.3)] * 2)
    assert restless.unsteady == pytest.approx(0.3) and not restless.quiet
    assert "do not quote" in str(crowded)
    partly = noise([before], disturbed=0.25)
    assert partly.quiet and "for 25% of the time the processor was slowed" in str(partly)
    assert conditions.glimpse().loops_ms


@pytest.mark.slow
def test_the_peaks_are_possible():
    one, two = measure_peaks(1), measure_peaks(2)
    for peaks in (one, two):
        assert 0 < peaks.gmacs < 2000
        assert 0 < peaks.far_gbytes < 5000 and 0 < peaks.near_gbytes < 20000


def test_the_machine_is_described():
    machine = conditions.described()
    assert {"processor", "cores", "instructions", "compiler"} <= machine.keys()


# --- engines in turn -------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_engine_has_its_row(found):
    assert [row.engine for row in found.rows] == ["compiled", "onnxruntime"]
    for row in found.rows:
        assert len(row.round_medians_ms) == 6
        assert row.runs >= 18
        assert row.median_ms > 0 and row.p95_ms > 0
        assert row.cold_start_ms.value > row.median_ms
        assert row.peak_bytes > 1_000_000 and row.model_bytes > 1000
        assert row.same
    ours, theirs = found.rows
    assert ours.runtime_bytes == 0 and theirs.runtime_bytes > 1_000_000
    assert ours.relative_difference == 0 < theirs.relative_difference
    assert found.base is ours
    assert found.times(ours, ours) == Interval(1, 1, 1)
    plan = plan_of(calibrated())
    assert found.arena_bytes == plan.arena_bytes + plan.ring_bytes
    assert found.program_ms is not None and found.program_ms.value > 0
    assert found.peaks is not None
    assert found.macs == count(TINY).macs
    assert "onnxruntime" in found.versions and "numpy" in found.versions


@pytest.mark.slow
def test_a_line_of_data_says_everything(found, tmp_path):
    file = tmp_path / "results.jsonl"
    results.append_line(found.to_json(), file)
    results.append_line(found.to_json(), file)
    results.check_results(file)
    first, second = (json.loads(line) for line in file.read_text().splitlines())
    assert first == second == found.to_json()
    assert first["machine"]["processor"] and first["date"] and first["noise"]
    assert first["compiler_source"] == results.compiler_source()
    file.write_text("not JSON")
    with pytest.raises(InputError, match="one line of JSON"):
        results.check_results(file)


def row(engine, *medians):
    return Row(
        engine=engine,
        round_medians_ms=medians,
        median_ms=sorted(medians)[len(medians) // 2],
        p95_ms=max(medians),
        runs=100,
        cold_start_ms=Interval(50, 40, 60),
        first_start_ms=50,
        peak_bytes=1,
        model_bytes=1,
        runtime_bytes=0,
        relative_difference=0,
        same=True,
    )


def comparison(*rows, precision="fp32"):
    return Comparison(
        spec=TINY,
        threads=1,
        batch=1,
        precision=precision,
        rows=rows,
        left_out=(LeftOut("torch", "no"),),
        noise=noise([Glimpse((1.0, 1.0), 0)]),
        peaks=Peaks(100, 100, 10),
        arena_bytes=None,
        program_ms=None,
        machine={"processor": "a processor", "cores": "2"},
        versions={},
        date="2026-01-01T00:00:00+00:00",
    )


EVEN, FASTER = (1.0, 1.02, 0.98, 1.0, 1.02, 0.98), (0.5, 0.51, 0.49, 0.5, 0.51, 0.49)


def test_a_winner_is_named_only_where_the_interval_allows_it():
    won = comparison(row("compiled", *FASTER), row("litert", *EVEN))
    assert won.verdict.startswith("compiled is the fastest: it takes 0.5")
    lost = comparison(row("compiled", *EVEN), row("litert", *FASTER))
    assert lost.verdict.startswith("litert is the fastest")
    open_ = comparison(row("compiled", *EVEN), row("litert", *reversed(EVEN)))
    assert open_.verdict.startswith("No winner") and "includes 1" in open_.verdict
    assert "nothing to compare" in comparison(row("compiled", *EVEN)).verdict


def test_one_of_many_is_too_close():
    """Clearly faster than one, not than the other: nobody has won."""
    verdict = comparison(
        row("compiled", *FASTER), row("openvino", *EVEN), row("litert", *reversed(FASTER))
    ).verdict
    assert verdict.startswith("No winner") and "openvino" not in verdict


@pytest.mark.slow
def test_an_engine_that_fails_is_left_out_with_its_reason(checkpoint, tmp_path):
    candidates, _ = prepare(checkpoint, ["compiled"], tmp_path)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no model")
    found = compare(TINY, [*candidates, Candidate("torch", broken, 8)], **QUICK)
    assert [each.engine for each in found.rows] == ["compiled"]
    (left,) = found.left_out
    assert left.engine == "torch" and "broken.safetensors" in left.why
    with pytest.raises(EnvironmentFault, match="no engine could be timed"):
        compare(TINY, [], left_out=[left], **QUICK)


@pytest.mark.full
def test_another_network_is_noticed(checkpoint, tmp_path):
    """Engines that do not compute the same are not two measurements of one thing."""
    (one,), _ = prepare(checkpoint, ["compiled"], tmp_path)
    other = calibrated(seed=5)
    (two,), _ = prepare(other, ["onnxruntime"], tmp_path)
    found = compare(TINY, [one, two], **QUICK)
    assert [each.same for each in found.rows] == [True, False]
    assert found.fastest.engine == "compiled" and "nothing to compare" in found.verdict


# --- what runs where -------------------------------------------------------------------------------


def test_an_engine_that_is_not_installed_names_its_extra(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    candidates, left_out = prepare(checkpoint, ["openvino", "litert", "onnxruntime"], tmp_path)
    assert not candidates
    assert [each.engine for each in left_out] == ["openvino", "litert", "onnxruntime"]
    for each, extra in zip(left_out, ("openvino", "litert", "onnx"), strict=True):
        assert f"pip install 'mobilenets[{extra}]'" in each.why


def test_a_conversion_is_kept(checkpoint, tmp_path, monkeypatch):
    (first,), _ = prepare(checkpoint, ["onnxruntime"], tmp_path)
    monkeypatch.setattr("mobilenets.exporting.peers.replacing_folder", pytest.fail)
    (second,), _ = prepare(checkpoint, ["onnxruntime"], tmp_path)
    assert first == second


@pytest.mark.full
def test_a_bundle_runs_in_its_own_engine(checkpoint, tmp_path):
    bundle = export(checkpoint, "c", out=tmp_path / "bundle")
    (ours,), left_out = prepare(bundle, ["compiled", "onnxruntime", "torch"], tmp_path)
    assert ours == Candidate("compiled", bundle.folder, bundle.model_file.stat().st_size)
    assert [each.engine for each in left_out] == ["onnxruntime", "torch"]
    _, (other,) = prepare(bundle, ["compiled"], tmp_path, precision="bf16")
    assert "computes in fp32: --precision fp32" in other.why
    assert compare(TINY, [ours], **QUICK).program_ms is not None


# --- step by step ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["mobilenet_v1_025", "mobilenet_v2_035", "mobilenet_v3_small_050", "mobilenet_v4_conv_small_035"],
)
def test_steps_have_the_macs_of_the_network(name):
    """Two independent counts: the plan's and `cost.count`'s."""
    spec = dataclasses.replace(zoo.build(name), resolution=64, classes=10)
    steps = plan_of(with_random_weights(spec)).steps
    assert sum(step.macs for step in steps) == count(spec).macs
    assert all(step.bytes_moved > 0 for step in steps)


@pytest.mark.slow
def test_layers_are_timed_and_drawn(checkpoint, tmp_path):
    found = layers.time_layers(checkpoint, seconds=0.01)
    assert [step.title for step in found.steps] == [step.title for step in plan_of(checkpoint).steps]
    assert all(step.median_ms > 0 for step in found.steps)
    assert found.total_ms > 0
    for name, begins in (("roofline.svg", b"<?xml"), ("roofline.png", b"\x89PNG")):
        roofline.write_roofline(found, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(begins)
    with pytest.raises(InputError, match=r"\.svg or \.png"):
        roofline.check_file(tmp_path / "roofline.jpg")


# --- the verb --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_verb(file, tmp_path, capsys):
    lines = tmp_path / "results.jsonl"
    words = ["bench", str(file), "--engines", "compiled,onnxruntime", "--rounds", "6", "--seconds", "0.01"]
    assert run_command([*words, "--json", str(lines)]) == 0
    printed = capsys.readouterr()
    for said in ("tiny · 32 px", "compiled", "onnxruntime", "of FMA peak", "The emitted C program"):
        assert said in printed.out
    assert "No winner" in printed.out or "is the fastest" in printed.out
    assert "The machine was" in printed.out
    assert "--layers" in printed.err
    assert len(lines.read_text().splitlines()) == 1


@pytest.mark.full
def test_the_verb_by_name_and_batch(capsys):
    words = ["mobilenet_v3_small_050", "--resolution", "32", "--engines", "compiled", "--batch", "3"]
    assert run_command(["bench", *words, "--rounds", "6", "--seconds", "0.01"]) == 0
    assert "pictures/s" in capsys.readouterr().out


@pytest.mark.slow
def test_the_verb_step_by_step(checkpoint, file, tmp_path, capsys):
    lines = tmp_path / "results.jsonl"
    words = ["--roofline", str(tmp_path / "roof.svg"), "--json", str(lines)]
    assert run_command(["bench", str(file), *words]) == 0
    out = capsys.readouterr().out
    assert "of FMA peak" in out and "blocks.0" in out
    line = json.loads(lines.read_text())
    assert results.kind(line) == ("profile", "tiny", 32, 1, 1, "fp32")
    planned = [step.macs for step in plan_of(checkpoint).steps]
    assert [macs for _title, _ms, macs, _bytes in line["steps"]] == planned
    assert (tmp_path / "roof.svg").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--engines", "litrt"], "Did you mean 'litert'"),
        (["--rounds", "3"], "rounds is 3"),
        (["--threads", "0"], "threads is 0"),
        (["--batch", "0"], "batch is 0"),
        (["--seconds", "0"], "seconds is 0"),
        (["--precision", "bf61"], "Did you mean 'bf16'"),
        (["--layers", "--precision", "bf16"], "in fp32"),
        (["--resolution", "64"], "a model has its own"),
        (["--layers", "--threads", "2"], "one picture on one thread"),
        (["--roofline", "roof.jpg"], ".svg or .png"),
        (["--json", "."], "one line of JSON"),
    ],
)
def test_wrong_words(file, words, says, capsys):
    assert run_command(["bench", str(file), *words]) == 2
    assert says in capsys.readouterr().err


def test_an_unknown_network(capsys):
    assert run_command(["bench", "mobilenet_v2_1000000"]) == 2
    assert "Error" in capsys.readouterr().err


# --- precision, and ways of torch ------------------------------------------------------------------


def test_an_engine_without_bf16_is_left_out(checkpoint, tmp_path):
    names = ["onnxruntime", "litert", "ncnn", "torch-channels-last"]
    candidates, left_out = prepare(checkpoint, names, tmp_path, precision="bf16")
    assert [each.engine for each in candidates] == ["torch-channels-last"]
    assert all("fp32 alone" in each.why for each in left_out)


@pytest.mark.slow
def test_ours_has_bf16_everywhere(checkpoint, tmp_path, monkeypatch):
    """In its weights, where products of it are no faster; and it is not fp32 that is timed."""
    monkeypatch.setattr(peers, "multiplies_bf16", lambda compiler: False)
    monkeypatch.setattr(planning, "FEW", 0)
    answers = []
    for precision in engines.PRECISIONS:
        (tmp_path / precision).mkdir()
        (ours,), left_out = prepare(checkpoint, ["compiled"], tmp_path / precision, precision=precision)
        assert left_out == []
        with closing(Library(ours.model / LIBRARY, threads=1)) as library:
            answers.append(library.run(pictures(TINY, 2)))
    found = agreement(*answers, BF16_RELATIVE)
    assert found.holds and found.relative > 1e-4


@pytest.mark.slow
def test_bf16_is_compared_with_fp32(checkpoint, tmp_path):
    """With what the reference gives in fp32, not with the first engine, and as far as bf16 allows."""
    (ours,), _ = prepare(checkpoint, ["compiled"], tmp_path)
    (right,), _ = prepare(checkpoint, ["onnxruntime"], tmp_path)
    (wrong,), _ = prepare(calibrated(seed=5), ["onnxruntime"], tmp_path)
    found = compare(TINY, [ours], precision="bf16", reference=right, **QUICK)
    assert found.rows[0].same and found.rows[0].relative_difference > 0
    assert found.to_json()["precision"] == "bf16"
    found = compare(TINY, [ours], precision="bf16", reference=wrong, **QUICK)
    assert not found.rows[0].same and found.verdict.startswith("No winner")
    assert peers.reference(checkpoint, [ours], tmp_path).engine == "torch-channels-last"


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # inductor's own
@pytest.mark.parametrize("precision", engines.PRECISIONS)
@pytest.mark.parametrize(
    "name", ["torch", "torch-channels-last", pytest.param("torch-compile", marks=pytest.mark.full)]
)
def test_every_way_of_torch_computes_the_same(checkpoint, file, name, precision, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    pixels = pictures(TINY, 3)
    expected = TorchSession(checkpoint).run(pixels)
    session = engines.open_engine(name, file, threads=1, precision=precision)
    bound = {"fp32": LOGITS_RELATIVE, "bf16": BF16_RELATIVE}[precision]
    assert agreement(expected, session.run(pixels), bound).relative <= bound


@pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="openvino is not installed")
def test_openvino_computes_in_what_it_is_told(checkpoint, tmp_path):
    (theirs,), _ = prepare(checkpoint, ["openvino"], tmp_path)
    pixels = pictures(TINY, 3)
    expected = TorchSession(checkpoint).run(pixels)
    for precision, bound in (("fp32", LOGITS_RELATIVE), ("bf16", BF16_RELATIVE)):
        session = engines.open_engine("openvino", theirs.model, threads=1, precision=precision)
        assert agreement(expected, session.run(pixels)).relative <= bound


def test_slow_ways_of_torch_are_timed_when_they_are_asked_for():
    assert set(benching._chosen("all")) - set(benching._chosen(None)) == {"torch", "torch-compile"}
    assert benching._chosen(" openvino,torch,openvino") == ["openvino", "torch"]


def test_every_engine_of_a_benchmark_is_one_of_the_runtimes():
    assert {each.session for each in engines.ENGINES.values()} == set(RUNTIMES)


def test_a_first_start_that_compiles_is_said(capsys):
    slow = dataclasses.replace(row("compiled", *EVEN), first_start_ms=40_000)
    benching._show(comparison(slow))
    assert "40.0 s to its very first logits" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("pnnx"), reason="pnnx is not installed")
def test_a_conversion_for_ncnn_is_two_files(checkpoint, tmp_path):
    (theirs,), left_out = prepare(checkpoint, ["ncnn"], tmp_path)
    assert not left_out
    files = [theirs.model / "model.param", theirs.model / "model.bin"]
    assert theirs.model_bytes == sum(file.stat().st_size for file in files)


# --- the programs ----------------------------------------------------------------------------------

PROGRAMS = Path(__file__).parents[1] / "benchmarks"
in_the_repository = pytest.mark.skipif(
    not PROGRAMS.is_dir(), reason="the programs lie beside the tests in the repository alone"
)


def program(name):
    found = importlib.util.spec_from_file_location(name, PROGRAMS / f"{name}.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@in_the_repository
def test_every_job_is_a_command(tmp_path):
    """Of its own kind, and the kind of the line that its command would write."""
    networks = program("networks")
    jobs = list(networks.jobs())
    kinds = [(job.what, *job[1:]) for job in jobs]
    assert len(set(kinds)) == len(jobs)
    assert {job.part for job in jobs} == set(networks.PARTS)
    for job in (job for job in jobs if job.part not in ("compile", "scaling")):
        words = networks.command(job, tmp_path / "results.jsonl", networks.QUICK)
        assert words[:2] == ["bench", job.network] and ("--layers" in words) == (job.part == "profile")


@in_the_repository
def test_the_measurements_go_on_where_they_were(tmp_path, monkeypatch, capsys):
    """What is of another compiler or a noisy machine is measured again, and what has too few engines."""
    networks = program("networks")
    file = tmp_path / "results.jsonl"
    here = {"resolution": 224, "machine": conditions.described()}
    (first, second, third, fourth, *_) = networks.jobs()
    all_engines = comparison(*(row(name, *EVEN) for name in networks.QUICK.engines)).to_json() | here
    for other in (
        {"network": first.network},
        {"network": second.network, "compiler_source": "0123456789ab"},
        {"network": third.network, "noise": all_engines["noise"] | {"quiet": False}},
    ):
        results.append_line(all_engines | other, file)
    ours_and_one = comparison(row("compiled", *FASTER), row("litert", *EVEN)).to_json() | here
    results.append_line(ours_and_one | {"network": fourth.network}, file)
    ran = []

    def run(words):
        ran.append(words[1])
        if len(ran) == 4:
            raise KeyboardInterrupt
        return 0

    monkeypatch.setattr(networks, "run", run)
    monkeypatch.setattr("sys.argv", ["networks.py", "--results", str(file), "--only", "one", "--quick"])
    assert networks.main() == 130
    assert ran == list(networks.NETWORKS[1:5])
    said = capsys.readouterr().out
    assert "5 of 6 to measure" in said and "min left" in said and "goes on from here" in said


@in_the_repository
def test_a_whole_run_measures_again_what_a_quick_one_did(tmp_path):
    networks = program("networks")
    file = tmp_path / "results.jsonl"
    quick = comparison(*(row(name, *EVEN) for name in networks.QUICK.engines)).to_json()
    results.append_line(quick | {"machine": conditions.described()}, file)
    assert len(networks.measured(file, networks.QUICK)) == 1
    assert not networks.measured(file, networks.WHOLE)


@in_the_repository
def test_noisy_measurements_are_said(tmp_path, monkeypatch, capsys):
    networks = program("networks")
    file = tmp_path / "results.jsonl"
    noisy = comparison(*(row(name, *EVEN) for name in networks.QUICK.engines)).to_json()
    noisy |= {"machine": conditions.described(), "noise": noisy["noise"] | {"quiet": False}}
    job = next(networks.jobs())

    def run(words):
        results.append_line(noisy | {"network": job.network, "resolution": 224}, file)
        return 0

    monkeypatch.setattr(networks, "run", run)
    monkeypatch.setattr(networks, "jobs", lambda: iter([job]))
    monkeypatch.setattr("sys.argv", ["networks.py", "--results", str(file), "--quick"])
    assert networks.main() == 0
    assert "1 were measured while the machine was not quiet" in capsys.readouterr().out


@in_the_repository
def test_a_measurement_waits_for_a_quiet_machine(monkeypatch, capsys):
    networks = program("networks")
    still, disturbed = Glimpse((1.0,) * 8, 0), Glimpse((1.0,) * 8, 0.5)
    half = networks.LOOKS // 2
    seen = iter([still] * half + [disturbed] * half + [still] * networks.LOOKS)
    monkeypatch.setattr(networks, "glimpse", lambda: next(seen))
    monkeypatch.setattr(networks.time, "sleep", lambda seconds: None)
    networks.wait_until_quiet(1.0)
    assert next(seen, None) is None
    assert capsys.readouterr().out.count("waiting") == 1


@in_the_repository
def test_a_compile_begins_with_nothing_kept(tmp_path, monkeypatch, capsys):
    """Each network alone in its cache, and one that was compiled is not compiled again."""
    networks = program("networks")
    file, cache, ran = tmp_path / "results.jsonl", caches(), []

    def compile_it(checkpoint):
        ran.append(checkpoint.spec.name)
        assert caches() != cache and not list(caches().iterdir())
        (caches() / "a library").touch()
        if len(ran) == 3:
            raise EnvironmentFault("there is no C compiler here.")

    monkeypatch.setattr(
        networks.zoo,
        "build",
        lambda name, *, resolution: dataclasses.replace(TINY, name=name, resolution=resolution),
    )
    monkeypatch.setattr(networks, "find_or_compile", compile_it)
    monkeypatch.setattr(networks, "noise", lambda glimpses: noise([Glimpse((1.0, 1.0), 0)]))
    monkeypatch.setattr("sys.argv", ["networks.py", "--results", str(file), "--only", "compile"])
    assert networks.main() == 1 and caches() == cache
    assert "no C compiler" in capsys.readouterr().err
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    others = [name for name in networks.NETWORKS if name != networks.NETWORKS[2]]
    assert [results.kind(line) for line in lines] == [("compile", name, 224, 1, 1, "fp32") for name in others]
    assert all(line["compile_seconds"] > 0 and line["machine"] for line in lines)
    assert networks.main() == 0
    assert ran == [*networks.NETWORKS, networks.NETWORKS[2]]


@pytest.mark.slow
@in_the_repository
def test_a_compile_is_timed(tmp_path, monkeypatch):
    """Of the whole library: a C compiler takes longer than reading one that is kept."""
    networks = program("networks")
    monkeypatch.setattr(networks.zoo, "build", lambda name, *, resolution: TINY)
    job = networks.Job("compile", "tiny")
    assert networks.compile_anew(job, tmp_path / "results.jsonl") == 0
    line = json.loads((tmp_path / "results.jsonl").read_text())
    assert line["compile_seconds"] > 0.1 and line["compiler_source"] == results.compiler_source()


@in_the_repository
def test_one_thread_and_two_are_measured_once(tmp_path, monkeypatch, capsys):
    """A line with our engine in it is there, also where LiteRT cannot be timed."""
    networks = program("networks")
    file, ran = tmp_path / "results.jsonl", []
    monkeypatch.setattr(
        networks.zoo,
        "build",
        lambda name, *, resolution: dataclasses.replace(TINY, name=name, resolution=resolution),
    )

    def prepared(checkpoint, engines, folder, *, progress):
        ran.append(checkpoint.spec.name)
        assert list(engines) == ["compiled", "litert"] and folder.is_dir()
        usable = {2: ["litert"], 3: ["compiled"]}.get(len(ran), engines)
        left_out = [LeftOut(name, "it is not here.") for name in engines if name not in usable]
        return [Candidate(name, folder, 1) for name in usable], left_out

    def take(request):
        if len(ran) == 4 and (request.engine, request.threads) == ("litert", 2):
            raise EnvironmentFault("it has one thread.")
        return turn([(3.0 / request.threads,)], [FULL, FULL]), 0.1

    monkeypatch.setattr(networks, "versions", lambda engines: dict.fromkeys(engines, "1.0"))
    monkeypatch.setattr(peers, "prepare", prepared)
    monkeypatch.setattr(rounds, "_turn", take)
    monkeypatch.setattr(rounds, "glimpse", lambda: Glimpse((1.0, 1.0), 0))
    monkeypatch.setattr("sys.argv", ["networks.py", "--results", str(file), "--only", "scaling", "--quick"])
    assert networks.main() == 1
    said = capsys.readouterr()
    assert "left out: compiled: it is not here." in said.err
    assert "compiled: 2.00 (2.00 – 2.00) times as fast with two threads" in said.out
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    others = [name for name in networks.NETWORKS if name != networks.NETWORKS[1]]
    assert [results.kind(line) for line in lines] == [("scaling", name, 224, 2, 1, "fp32") for name in others]
    whole, without, with_one, *_ = lines
    assert whole["scaling"] == [
        {"engine": name, "one_round_medians_ms": [3.0] * 6, "two_round_medians_ms": [1.5] * 6}
        for name in ("compiled", "litert")
    ]
    assert whole["left_out"] == {} and whole["compiler_source"] == results.compiler_source()
    assert whole["versions"] == {"compiled": "1.0", "litert": "1.0"}
    assert whole["noise"]["disturbed"] == 0 and whole["machine"] == conditions.described()
    for line, left_out in (
        (without, {"litert": "it is not here."}),
        (with_one, {"litert, 2 threads": "it has one thread."}),
    ):
        assert [each["engine"] for each in line["scaling"]] == ["compiled"] and line["left_out"] == left_out
    assert networks.main() == 0 and ran[6:] == [networks.NETWORKS[1]]


@in_the_repository
def test_a_line_of_scaling_counts_with_enough_rounds(tmp_path):
    networks = program("networks")

    def there(effort, **changes):
        file = tmp_path / "results.jsonl"
        line = scaling(STEADY, STEADY, machine=conditions.described()) | changes
        file.write_text(json.dumps(line))
        return networks.measured(file, effort)

    assert there(networks.QUICK) == {("scaling", "tiny", 32, 2, 1, "fp32")}
    assert there(networks.QUICK, **scaling(STEADY, machine=conditions.described()))
    assert not there(networks.WHOLE), "ten rounds are a whole run"
    assert not there(networks.QUICK, compiler_source="0123456789ab")
    noise_there = scaling(STEADY)["noise"]
    assert not there(networks.QUICK, noise=noise_there | {"quiet": False})
    assert not there(networks.QUICK, scaling=scaling(STEADY, STEADY)["scaling"][1:])


@pytest.mark.slow
@in_the_repository
def test_a_stopped_command_stops_the_program():
    networks = program("networks")
    assert networks.run(["models"]) == 0
    with pytest.raises(KeyboardInterrupt):
        networks.STOPPED = (2,)
        networks.run(["bench", "no such network"])


# --- the page --------------------------------------------------------------------------------------


@in_the_repository
def test_the_page_is_made_of_the_data_alone(found):
    render = program("render")
    lines = [
        found.to_json() | {"network": "mobilenet_v1_100"},
        comparison(row("compiled", *FASTER), row("litert", *EVEN)).to_json(),
        comparison(row("compiled", *EVEN), row("litert", *FASTER)).to_json() | {"threads": 2},
        comparison(row("compiled", *EVEN), row("litert", *reversed(EVEN))).to_json() | {"batch": 32},
        comparison(row("compiled", *EVEN)).to_json()
        | {"network": "mobilenet_v2_100", "resolution": 224, "left_out": {}},
    ]
    page = render.document(render.newest(lines * 2))
    noisy = lines[1] | {"noise": lines[1]["noise"] | {"quiet": False}}
    unsteady = comparison(row("compiled", *FASTER), row("litert", 1, 1, 1, 2, 2, 2)).to_json()
    assert results.quiet(lines[1]) and not results.quiet(unsteady) and not results.quiet(noisy)
    assert render.newest([lines[1], noisy]) == [lines[1]] and render.newest([noisy, lines[1]]) == [lines[1]]
    assert page.count("| ahead |") >= 1
    assert page.count("**behind**") >= 1
    assert page.count("no winner") >= 1
    assert render.drawn(render.curves(lines)).startswith(b"<?xml")
    assert "How the cost grows" in page and "`mobilenet_v1_100`" in page


@pytest.mark.slow
@in_the_repository
def test_a_lost_row_comes_with_its_profile(checkpoint):
    render = program("render")
    line = comparison(row("compiled", *EVEN), row("litert", *FASTER)).to_json()
    page = render.document([line])
    assert "`tiny` has no profile yet" in page
    steps = layers.time_layers(checkpoint, seconds=0.01)
    page = render.document([line, steps.to_json()])
    longest = max(steps.steps, key=lambda step: step.median_ms)
    assert f"| {longest.title} |" in page and "of FMA peak" in page and "no profile" not in page
    won = comparison(row("compiled", *FASTER), row("litert", *EVEN)).to_json()
    assert "times none: we are ahead" in render.document([won])


@in_the_repository
def test_a_target_can_be_missed_by_who_is_ahead():
    """0.95 of the peer's time is ahead, and not the 0.60 that V3-Small is to take."""
    render = program("render")
    nearly = tuple(0.95 * value for value in EVEN)
    line = comparison(row("compiled", *nearly), row("litert", *EVEN)).to_json()
    small = line | {"network": "mobilenet_v3_small_100"}
    assert not render.lost(line) and render.lost(small)
    assert "≤ 0.60 | ahead, target missed" in render.document([small])


@in_the_repository
def test_bf16_is_measured_against_openvino():
    """Its target names it, also where another engine is faster."""
    render = program("render")
    rows = (row("compiled", *FASTER), row("openvino", *EVEN), row("torch", *FASTER))
    line = comparison(*rows, precision="bf16").to_json()
    peer, against = render.against_the_fastest(line)
    assert peer == "openvino" and against.value < 0.8 and render.target(line) == 0.8
    assert "1 thread, bf16" in render.document([line])


def scaling(ours, theirs=None, **changes):
    """A line of `scaling`; `ours` and `theirs` are the rounds' medians with one thread and with two."""
    known = comparison(row("compiled", *EVEN)).to_json()
    engines = {"compiled": ours} | ({} if theirs is None else {"litert": theirs})
    rows = [
        {"engine": name, "one_round_medians_ms": list(one), "two_round_medians_ms": list(two)}
        for name, (one, two) in engines.items()
    ]
    left_out = {"litert": "it is not installed."} if theirs is None else {}
    line = {key: value for key, value in known.items() if key not in ("engines", "verdict", "versions")}
    return line | {"threads": 2, "scaling": rows, "left_out": left_out} | changes


def twice(*spans):
    """Six rounds with one thread and with two; the `spans` are how many times as fast two are in each."""
    return [3.0] * 6, [3.0 / times for times in spans]


STEADY = twice(1.90, 1.92, 1.90, 1.92, 1.90, 1.92)
SECTION = "## What a second thread brings"


def test_a_line_of_scaling_is_a_kind_of_its_own():
    line = scaling(STEADY, STEADY)
    assert results.kind(line) == ("scaling", "tiny", 32, 2, 1, "fp32")
    assert results.kind(scaling(STEADY)) == results.kind(line)
    two = comparison(row("compiled", *FASTER), row("litert", *EVEN)).to_json() | {"threads": 2}
    assert results.kind(two) == ("engines", "tiny", 32, 2, 1, "fp32")


def test_a_line_of_scaling_is_quiet_where_all_its_rounds_are():
    """Those with one thread and those with two, of both engines."""
    line = scaling(STEADY, STEADY)
    assert results.quiet(line)
    assert not results.quiet(line | {"noise": line["noise"] | {"quiet": False}})
    restless = [1.0, 1.3, 1.0, 1.3, 1.0, 1.3]
    assert not results.quiet(scaling((restless, restless)))
    assert not results.quiet(scaling((STEADY[0], restless), (STEADY[0], restless)))
    assert not results.quiet(scaling((restless, STEADY[1]), (restless, STEADY[1])))
    assert results.quiet(scaling((STEADY[0], restless), STEADY)), "the typical one counts"


@in_the_repository
def test_what_a_second_thread_brings():
    """Less than it brings LiteRT, with an interval wholly below LiteRT's, is a row that is lost."""
    render = program("render")
    ours, less = twice(1.80, 1.82, 1.78, 1.80, 1.82, 1.78), twice(1.60, 1.62, 1.58, 1.60, 1.62, 1.58)
    page = render.document([scaling(ours, less, compiler_source="0123456789ab")])
    section = page.partition(SECTION)[2].partition("\n## ")[0]
    assert (
        "| `tiny` | 1.80 (1.78 – 1.82) | 1.60 (1.58 – 1.62) | as well as LiteRT "
        "| 3.00 → 1.67 | 3.00 → 1.88 | yes | 012345 |"
    ) in section
    assert "--only scaling" not in page and "brings us less" not in page
    page = render.document([scaling(less, ours)])
    assert "| 1.60 (1.58 – 1.62) | 1.80 (1.78 – 1.82) | **less than LiteRT** |" in page
    lost = page.partition("## Rows that are lost")[2]
    assert "brings us less than LiteRT" in lost and "*Beyond half*" in lost
    assert "| `tiny` | 1.60 (1.58 – 1.62) | 1.80 (1.78 – 1.82) | 0.38 | 0.17 |" in lost


@in_the_repository
def test_nobody_can_say_where_the_intervals_overlap():
    """Where ours is lower: 1.80 is not surely less than 1.83. What is no less is as well in any case."""
    render = program("render")
    ours, theirs = twice(1.78, 1.79, 1.80, 1.80, 1.81, 1.84), twice(1.79, 1.82, 1.83, 1.83, 1.84, 1.85)
    page = render.document([scaling(ours, theirs)])
    assert "| 1.80 (1.78 – 1.84) | 1.83 (1.79 – 1.85) | nobody can say |" in page
    assert "brings us less" not in page
    assert "| 1.83 (1.79 – 1.85) | 1.80 (1.78 – 1.84) | as well as LiteRT |" in render.document(
        [scaling(theirs, ours)]
    )
    assert "| as well as LiteRT |" in render.document([scaling(ours, ours)])
    apart = twice(1.841, 1.85, 1.86, 1.86, 1.87, 1.88)
    assert render.scales(render.gains(scaling(ours, apart))) == render.LESS
    touching = ([3.0] * 6, [ours[1][-1], *apart[1][1:]])
    assert render.scales(render.gains(scaling(ours, touching))) == "nobody can say"


@in_the_repository
def test_the_gain_of_a_second_thread_is_taken_within_a_round():
    """A machine that is slow in some rounds moves neither ratio nor interval; a quiet line goes first."""
    render = program("render")
    slow = [1.0, 2.0, 1.0, 2.0, 2.0, 1.0]
    gain = render.gains(scaling(([3.6 * each for each in slow], [2 * each for each in slow])))["compiled"]
    assert gain.times == pytest.approx((1.8, 1.8, 1.8))
    assert (gain.one, gain.two, gain.beyond_half) == pytest.approx((5.4, 3.0, 0.3))
    line = scaling(STEADY, STEADY)
    noisy = line | {"noise": line["noise"] | {"quiet": False}}
    newer = line | {"date": "2026-01-02T00:00:00+00:00"}
    assert render.newest([line, newer, noisy]) == [newer]
    assert "| **no** |" in render.document([noisy]).partition(SECTION)[2]


@in_the_repository
def test_a_second_thread_without_litert_has_no_verdict():
    page = program("render").document([scaling(STEADY)])
    assert "| `tiny` | 1.91 (1.90 – 1.92) | – | – | 3.00 → 1.57 | – | yes |" in page
    assert "brings us less" not in page


@in_the_repository
def test_where_no_second_thread_was_timed_the_page_says_how():
    """Two lines of separate runs, one with one thread and one with two, say nothing of it."""
    line = comparison(row("compiled", *FASTER), row("litert", *EVEN)).to_json()
    page = program("render").document([line, line | {"threads": 2}])
    section = page.partition(SECTION)[2].partition("\n## ")[0]
    assert "`python benchmarks/networks.py --only scaling`" in section and "tiny" not in section


@in_the_repository
def test_a_program_that_starts_late_is_lost():
    render = program("render")
    line = comparison(row("compiled", *FASTER), row("litert", *EVEN)).to_json()
    warm = scaling(([2.0] * 6, [1.0] * 6))
    in_time = line | {"program_ms": Interval(9.9, 9.5, 10.5)._asdict()}
    late = line | {"program_ms": Interval(11.2, 10.9, 11.6)._asdict()}
    page = render.document([in_time, warm])
    assert "9.9 ms after its start." in page and "beyond their bounds" not in page
    page = render.document([late, warm])
    assert "11.2 ms after its start, **lost**: it is to be at most 10 ms." in page
    assert "| `tiny` | first logits of the emitted C program, ms | 11.20 (10.90 – 11.60) | ≤ 10 |" in page
    assert "takes 2.00 ms with one thread and 1.00 with\ntwo" in page
    assert "Once it is warm" not in render.document([late])


@in_the_repository
def test_sizes_and_compiles_stand_beside_one_another():
    """Those of V2 1.0 have bounds; what lies beyond is lost."""
    render = program("render")

    def lines(network, whole, half, seconds):
        found = []
        for precision, size in (("fp32", whole), ("bf16", half)):
            rows = (dataclasses.replace(row("compiled", *FASTER), model_bytes=size), row("openvino", *EVEN))
            found.append(comparison(*rows, precision=precision).to_json() | {"network": network})
        timed = {key: value for key, value in found[0].items() if key not in ("engines", "left_out")}
        return [*found, timed | {"compile_seconds": seconds}]

    small = lines("mobilenet_v2_100", 12_400_000, 7_500_000, 6.04)
    page = render.document(small)
    assert "| `mobilenet_v2_100` | 12.4 | 7.5 | 6.0 | yes |" in page
    assert "beyond their bounds" not in page and "No compile has been timed" not in page
    assert "No compile has been timed" in render.document(small[:2])
    assert "| `mobilenet_v2_100` | 12.4 | 7.5 | – | – |" in render.document(small[:2])
    large = lines("mobilenet_v2_100", 15_100_000, 8_100_000, 20.1)
    page = render.document([*large, *lines("mobilenet_v1_100", 16_000_000, 9_000_000, 21)])
    assert "| `mobilenet_v2_100` | 15.1, **lost** | 8.1, **lost** | 20.1, **lost** | yes |" in page
    assert "| `mobilenet_v1_100` | 16.0 | 9.0 | 21.0 | yes |" in page
    for what in ("fp32, MB | 15.1 | ≤ 15", "bf16, MB | 8.1 | ≤ 8", "compiled in, s | 20.1 | ≤ 20"):
        assert f"| `mobilenet_v2_100` | library, {what} |" in page
    noisy = large[2] | {"noise": large[2]["noise"] | {"quiet": False}}
    assert "20.1, **lost** | **no** |" in render.document([*large[:2], noisy])
