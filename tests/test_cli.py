"""The command line as a person meets it: what is printed where, exit codes, and no traceback."""

import csv
import io
import json
import os
import subprocess
import sys

import pytest

from mobilenets import checkpoint as checkpoints
from mobilenets.cli import run_command
from mobilenets.compiler import translate

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def run(shapes_folder, tmp_path_factory):
    """A run folder made by the command line."""
    out = tmp_path_factory.mktemp("cli") / "run"
    words = ["train", str(shapes_folder), "--model", "mobilenet_v3_small_035", "--resolution", "32"]
    settings = [
        "--set",
        "epochs=1",
        "--set",
        "precision=fp32",
        "--set",
        "layout=contiguous",
        "--device",
        "cpu",
    ]
    assert run_command([*words, *settings, "-o", str(out)]) == 0
    return out


def command(*words, cwd=None, env=None):
    """A command in a process of its own, as a shell would start it."""
    return subprocess.run(
        [sys.executable, "-c", "from mobilenets.cli import main; main()", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        check=False,
    )


def test_models_lists_every_network_with_its_accuracy(capsys):
    assert run_command(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["mobilenet_v1_100"] | {"top1_percent": 70.6, "macs": 568740352} == rows["mobilenet_v1_100"]
    assert rows["mobilenet_v4_conv_small"]["top1_source"].startswith("arXiv 2404.10518")
    assert run_command(["models"]) == 0
    assert "mobilenet_v3_large_minimalistic_100" in capsys.readouterr().out


def test_summary_adds_up(capsys):
    assert (
        run_command(["summary", "mobilenet_v2_100", "--json", "--classes", "7", "--resolution", "160"]) == 0
    )
    figures = json.loads(capsys.readouterr().out)
    assert figures["macs"] == sum(layer["macs"] for layer in figures["layers"])
    assert figures["layers"][-1]["output"] == [7, 1, 1]
    assert sum(layer["share"] for layer in figures["layers"]) == pytest.approx(1)


def test_summary_prints_the_layer_table(capsys):
    assert run_command(["summary", "mobilenet_v2_100"]) == 0
    out = capsys.readouterr().out
    assert "3,504,872" in out
    assert "300,774,272" in out
    assert "depthwise 3×3 /2" in out


@pytest.mark.slow
def test_summary_knows_the_memory_of_the_compiled_network(run, capsys):
    """The same from a name's shapes as from a model's weights; one number a line, and without it none."""
    words = ["summary", "mobilenet_v3_small_035", "--resolution", "32", "--classes", "3", "--json"]
    assert run_command([*words, "--target", "cortex-m4"]) == 0
    found = json.loads(capsys.readouterr().out)
    program = translate(checkpoints.load(run))
    assert f"#define MODEL_ARENA_BYTES {found['arena_bytes']} " in program.files["model.h"]
    assert f"#define MODEL_RING_BYTES {found['ring_bytes']} " in program.files["model.h"]
    assert found["weights_bytes"] == program.weights.nbytes
    assert (found["target"], found["threads"]) == ("cortex-m4", False)
    assert run_command(["summary", str(run), "--target", "native", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again | {"name": "", "layers": [], "target": "cortex-m4", "threads": False} == found | {
        "name": "",
        "layers": [],
    }
    assert run_command(["summary", str(run), "--target", "native"]) == 0
    assert f"{found['arena_bytes']:,} bytes" in capsys.readouterr().out
    assert run_command(words) == 0
    assert "arena_bytes" not in json.loads(capsys.readouterr().out)


def test_compare_states_the_papers_ratios(capsys):
    assert run_command(["compare", "mobilenet_v1_full_100", "mobilenet_v1_100"]) == 0
    out = capsys.readouterr().out
    assert "8.56" in out
    assert "6.92" in out


@pytest.mark.slow
def test_a_trained_model_is_summarised_compared_and_evaluated(run, shapes_folder, capsys):
    assert run_command(["summary", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == 3
    assert run_command(["compare", str(run), "mobilenet_v2_035"]) == 0
    capsys.readouterr()
    assert run_command(["evaluate", str(run), str(run / "split.csv"), "--json"]) == 0
    out, err = capsys.readouterr()
    figures = json.loads(out)
    assert (figures["split"], figures["accuracy"]["n"], figures["trained_on"]) == ("test", 18, 0)
    assert figures["accuracy"] == json.loads((run / "metrics.json").read_text())["accuracy"]
    assert "split 'test' · engine: " in err
    assert run_command(["evaluate", str(run), str(shapes_folder), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["trained_on"] == 84
    assert "was trained on 84 of these pictures" in err
    assert run_command(["evaluate", str(run), str(run / "split.csv")]) == 0
    assert "recall" in capsys.readouterr().out


def test_predict_prints_a_table_json_and_csv(run, shapes_folder, tmp_path, capsys):
    pictures = [str(shapes_folder / "disc" / "00.png"), str(shapes_folder / "square")]
    assert run_command(["predict", str(run), *pictures, "--top", "2", "--json"]) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert len(rows) == 41
    assert "41 pictures · engine: " in err
    assert len(rows[0]["labels"]) == 2
    assert rows[0]["labels"][0]["probability"] >= rows[0]["labels"][1]["probability"]
    file = tmp_path / "p.csv"
    assert run_command(["predict", str(run), pictures[0], "--csv", str(file)]) == 0
    assert "00.png" in capsys.readouterr().out
    assert [row["label"] for row in csv.DictReader(io.StringIO(file.read_text()))] == [
        rows[0]["labels"][0]["label"]
    ]


def test_predict_goes_on_after_a_broken_picture(run, shapes_folder, tmp_path, capsys):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"")
    good = str(shapes_folder / "disc" / "00.png")
    assert run_command(["predict", str(run), str(broken), good, "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["labels"] == []
    assert "empty" in first["error"] or "zero" in first["error"]
    assert second["labels"]
    assert run_command(["predict", str(run), str(broken)]) == 2


def test_print_recipe_is_a_recipe_file(tmp_path, capsys):
    assert run_command(["train", "nowhere", "--print-recipe", "--recipe", "digits", "--set", "rate=0.5"]) == 0
    recipe = json.loads(capsys.readouterr().out)
    assert recipe["rate"] == 0.5
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(recipe))
    assert run_command(["train", "nowhere", "--print-recipe", "--recipe", str(file)]) == 0
    assert json.loads(capsys.readouterr().out) == recipe


def test_a_folder_that_is_called_like_a_preset_is_no_recipe(tmp_path, monkeypatch, capsys):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run_command(["train", "digits", "--recipe", "digits", "--print-recipe"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "digits"


def test_nothing_is_written_over(run, shapes_folder, tmp_path, capsys):
    photo = tmp_path / "photo.png"
    photo.write_bytes((shapes_folder / "disc" / "00.png").read_bytes())
    assert run_command(["predict", str(run), str(photo), "--csv", str(photo)]) == 2
    assert run_command(["import", str(photo), "-o", str(photo)]) == 2
    assert run_command(["train", str(shapes_folder), "-o", str(run)]) == 2
    assert photo.read_bytes() == (shapes_folder / "disc" / "00.png").read_bytes()
    assert capsys.readouterr().err.count("exists already") == 3


@pytest.mark.slow
def test_a_console_that_knows_only_ascii_is_no_bug():
    done = command("compare", "mobilenet_v1_full_100", "mobilenet_v1_100", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert "8.56" in done.stdout


BAD = [
    (["summary", "mobilenet_v9_100"], "unknown network"),
    (["summary", "mobilenet_v2_000"], "width multiplier"),
    (["summary", "mobilenet_v2_100", "--resolution", "31"], "resolution is 31"),
    (["summary", "mobilenet_v2_100", "--classes", "0"], "classes is 0"),
    (["summary", "mobilenet_v2_100", "--resoluton", "32"], "--resolution"),
    (["summary", "mobilenet_v2_100", "--target", "cortex-m8"], "Did you mean 'cortex-m"),
    (["trian", "x"], "Did you mean 'train'"),
    (["compare", "mobilenet_v2_100"], "two or more"),
    (["summary", "missing.safetensors"], "no such model file"),
    (["train", "missing-folder"], "missing-folder"),
    (["train", ".", "--recipe", "finetun"], "Did you mean 'finetune'"),
    (["train", ".", "--set", "rate"], "KEY=VALUE"),
    (["train", ".", "--set", "augment.crop_ratio=[0.5, Infinity]"], "crop_ratio"),
    (["train", ".", "--resolution", "0"], "resolution is 0"),
    (["train", ".", "--seed", "-1"], "--seed"),
    (["train", ".", "--device", "tpu"], "device is 'tpu'"),
    (["train", ".", "--model", "mobilenet_v2_10"], "unknown network"),
    (["train", ".", "--resume", "nowhere"], "no such run folder"),
    (["export", ".", "--to", "tflite"], "tflite"),
    (["train", ".", "--set", "rat=1"], "Did you mean 'rate'"),
    (["train", ".", "--recipe", "missing.json"], "missing.json"),
    (["evaluate", "missing-run", "."], "missing-run"),
    (["predict", "missing-run", "x.png"], "missing-run"),
    (["export", "missing-run"], "missing-run"),
    (["import", "missing.pth"], "missing.pth"),
    (["import", "x.pth", "--mean", "a"], "--mean"),
]


@pytest.mark.parametrize(("words", "said"), BAD, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_bad_input_is_one_message_and_code_2(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_command(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert said in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_models_that_do_not_know_the_classes_say_so(run, shapes_folder, tmp_path, capsys):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "circle").symlink_to(shapes_folder / "disc")
    (tmp_path / "f" / "square").symlink_to(shapes_folder / "square")
    assert run_command(["evaluate", str(run), str(tmp_path / "f")]) == 2
    err = capsys.readouterr().err
    assert "circle" in err
    assert "disc" in err


def test_a_bug_is_told_as_a_bug(monkeypatch, capsys):
    monkeypatch.setattr("mobilenets.cli.networks.models", lambda as_json: 1 / 0)
    assert run_command(["models"]) == 3
    err = capsys.readouterr().err
    assert "this is a bug" in err
    assert "Traceback" not in err


def test_a_missing_package_names_its_extra(monkeypatch, run, shapes_folder, capsys):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    words = ["train", str(shapes_folder), "-o", str(run.parent / "other"), "--resolution", "32"]
    assert run_command(words) == 3
    assert "pip install 'mobilenets[train]'" in capsys.readouterr().err


def test_ctrl_c_while_scanning_ends_with_130(monkeypatch, shapes_folder, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("mobilenets.cli.verbs.scan", interrupted)
    assert run_command(["train", str(shapes_folder)]) == 130
    assert "Stopped" in capsys.readouterr().err


def test_names_cannot_move_the_cursor_or_speak_markup(run, shapes_folder, tmp_path, capsys):
    evil = tmp_path / "[red]x[red]\u202e\x1b[2J\n.png"
    evil.write_bytes((shapes_folder / "disc" / "00.png").read_bytes())
    assert run_command(["predict", str(run), str(evil)]) == 0
    out = capsys.readouterr().out
    assert "[red]x[red]" in out
    assert not {"\u202e", "\x1b"} & set(out)


@pytest.mark.slow
def test_results_are_on_stdout_and_prose_on_stderr_in_a_pipe(run, shapes_folder):
    done = command("predict", str(run), str(shapes_folder / "disc" / "00.png"), "--json")
    assert done.returncode == 0
    assert len(json.loads(done.stdout)) == 1
    assert "\x1b" not in done.stderr


@pytest.mark.slow
def test_help_of_every_verb_is_plain_words():
    from mobilenets.cli import _VERBS

    for verb in sorted(_VERBS):
        done = command(verb, "--help")
        assert done.returncode == 0
        assert done.stdout.startswith(f"Usage: mobilenets {verb}")


def test_a_checkpoint_is_not_touched_by_reading_it(run):
    before = (run / "model.safetensors").read_bytes()
    checkpoints.load(run)
    assert (run / "model.safetensors").read_bytes() == before
