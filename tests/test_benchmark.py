"""Benchmarks: what is claimed follows from the samples, engines run apart, and what cannot run is named.

No latency is asserted.
"""

import dataclasses
import functools
import importlib.util
import json
import math
import random
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'mobilenets[train]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'mobilenets[onnx]'")

from calibrated import TINY, calibrated
from mobilenets import zoo
from mobilenets.benchmark import comparison as comparisons
from mobilenets.benchmark import conditions, layers, roofline
from mobilenets.benchmark.comparison import Comparison, Row, compare
from mobilenets.benchmark.conditions import Glimpse, noise
from mobilenets.benchmark.peaks import Peaks, measure_peaks
from mobilenets.benchmark.rounds import Candidate, LeftOut
from mobilenets.benchmark.samples import Interval, median_interval, quantile, ratio
from mobilenets.benchmark.worker import warm_up
from mobilenets.cli import run_command
from mobilenets.compiler import plan_of
from mobilenets.cost import count
from mobilenets.errors import EnvironmentFault, InputError
from mobilenets.exporting import export
from mobilenets.exporting.peers import prepare, with_random_weights

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


# --- the machine -----------------------------------------------------------------------------------


def test_a_quiet_machine_and_another():
    still = noise([Glimpse((1.0, 1.01, 1.0), 0)] * 5)
    assert still.quiet
    assert "was quiet" in str(still)
    uneven = noise([Glimpse((1.0, 1.01, 1.0), 0), Glimpse((1.0, 1.3, 1.4), 0)])
    crowded = noise([Glimpse((1.0, 1.0, 1.0), 1)])
    assert not uneven.quiet and not crowded.quiet
    assert "do not quote" in str(crowded)
    assert conditions.glimpse().loops_ms


def test_the_peaks_are_possible():
    one, two = measure_peaks(1), measure_peaks(2)
    for peaks in (one, two):
        assert 0 < peaks.gmacs < 2000
        assert 0 < peaks.far_gbytes < 5000 and 0 < peaks.near_gbytes < 20000


def test_the_machine_is_described():
    machine = conditions.described()
    assert {"processor", "cores", "instructions", "compiler"} <= machine.keys()


# --- engines in turn -------------------------------------------------------------------------------


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
    assert found.arena_bytes == plan_of(calibrated()).arena_bytes
    assert found.program_ms is not None and found.program_ms.value > 0
    assert found.peaks is not None
    assert found.macs == count(TINY).macs
    assert "onnxruntime" in found.versions and "numpy" in found.versions


def test_a_line_of_data_says_everything(found, tmp_path):
    file = tmp_path / "results.jsonl"
    comparisons.append(found, file)
    comparisons.append(found, file)
    comparisons.check_file(file)
    first, second = (json.loads(line) for line in file.read_text().splitlines())
    assert first == second == found.to_json()
    assert first["machine"]["processor"] and first["date"] and first["noise"]
    file.write_text("not JSON")
    with pytest.raises(InputError, match="one line of JSON"):
        comparisons.check_file(file)


def row(engine, *medians):
    return Row(
        engine=engine,
        round_medians_ms=medians,
        median_ms=sorted(medians)[len(medians) // 2],
        p95_ms=max(medians),
        runs=100,
        cold_start_ms=Interval(50, 40, 60),
        peak_bytes=1,
        model_bytes=1,
        runtime_bytes=0,
        relative_difference=0,
        same=True,
    )


def comparison(*rows):
    return Comparison(
        spec=TINY,
        threads=1,
        batch=1,
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


EVEN, FASTER = (1.0, 1.1, 0.9, 1.0, 1.1, 0.9), (0.5, 0.6, 0.4, 0.5, 0.6, 0.4)


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


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(comparisons, "compare", functools.partial(compare, seconds=0.01))


def test_the_verb(file, tmp_path, capsys, quick):
    results = tmp_path / "results.jsonl"
    words = ["bench", str(file), "--engines", "compiled,onnxruntime", "--rounds", "6"]
    assert run_command([*words, "--json", str(results)]) == 0
    printed = capsys.readouterr()
    for said in ("tiny · 32 px", "compiled", "onnxruntime", "of FMA peak", "The emitted C program"):
        assert said in printed.out
    assert "No winner" in printed.out or "is the fastest" in printed.out
    assert "The machine was" in printed.out
    assert "--layers" in printed.err
    assert len(results.read_text().splitlines()) == 1


@pytest.mark.full
def test_the_verb_by_name_and_batch(capsys, quick):
    words = ["mobilenet_v3_small_050", "--resolution", "32", "--engines", "compiled", "--batch", "3"]
    assert run_command(["bench", *words, "--rounds", "6"]) == 0
    assert "pictures/s" in capsys.readouterr().out


def test_the_verb_step_by_step(file, tmp_path, capsys):
    assert run_command(["bench", str(file), "--roofline", str(tmp_path / "roof.svg")]) == 0
    out = capsys.readouterr().out
    assert "of FMA peak" in out and "blocks.0" in out
    assert (tmp_path / "roof.svg").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--engines", "litrt"], "Did you mean 'litert'"),
        (["--rounds", "3"], "rounds is 3"),
        (["--threads", "0"], "threads is 0"),
        (["--batch", "0"], "batch is 0"),
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


# --- the page --------------------------------------------------------------------------------------

RENDER = Path(__file__).parents[1] / "benchmarks" / "render.py"


@pytest.mark.skipif(not RENDER.is_file(), reason="the programs lie beside the tests in the repository alone")
def test_the_page_is_made_of_the_data_alone(found):
    module = importlib.util.spec_from_file_location("render", RENDER)
    render = importlib.util.module_from_spec(module)
    module.loader.exec_module(render)
    lines = [
        found.to_json() | {"network": "mobilenet_v1_100"},
        comparison(row("compiled", *FASTER), row("litert", *EVEN)).to_json(),
        comparison(row("compiled", *EVEN), row("litert", *FASTER)).to_json() | {"threads": 2},
        comparison(row("compiled", *EVEN), row("litert", *reversed(EVEN))).to_json() | {"batch": 32},
        comparison(row("compiled", *EVEN)).to_json() | {"network": "mobilenet_v2_100", "resolution": 224},
    ]
    page = render.document(render.newest(lines * 2))
    assert page.count("| ahead |") >= 1
    assert page.count("**behind**") >= 1
    assert page.count("no winner") >= 1
    assert render.drawn(render.curves(lines)).startswith(b"<?xml")
    assert "How the cost grows" in page and "`mobilenet_v1_100`" in page
