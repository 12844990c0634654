"""The demo, whole: what a newcomer sees first must work and must be good."""

import dataclasses
import json

import pytest

from mobilenets import recipe
from mobilenets.cli import run_command
from mobilenets.demo import NAMES, write_digits

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.slow
def test_the_digits_are_a_folder_that_can_be_scanned(tmp_path):
    from mobilenets.folder import scan

    write_digits(tmp_path / "digits")
    folder = scan(tmp_path / "digits")
    assert set(folder.classes) == set(NAMES)
    assert len(folder.pictures) == 1797
    assert folder.problems == ()


@pytest.mark.slow
def test_the_demo_does_the_whole_way(tmp_path, monkeypatch, capsys):
    """With one of its 25 epochs: what it learns is the next test's."""
    monkeypatch.setitem(recipe.PRESETS, "digits", dataclasses.replace(recipe.preset("digits"), epochs=1))
    assert run_command(["demo", "-o", str(tmp_path / "demo")]) == 0
    shown = capsys.readouterr().err
    for verb in ("train", "evaluate", "predict", "export"):
        assert f"$ mobilenets {verb} " in shown
    assert (tmp_path / "demo" / "run" / "report.html").exists()
    assert json.loads((tmp_path / "demo" / "onnx" / "certificate.json").read_text())


@pytest.mark.full
def test_the_demo_reaches_95_percent_and_is_quick_the_second_time(tmp_path, capsys):
    assert run_command(["demo", "-o", str(tmp_path / "demo")]) == 0
    capsys.readouterr()
    metrics = json.loads((tmp_path / "demo" / "run" / "metrics.json").read_text())
    assert metrics["accuracy"]["value"] >= 0.95
    before = (tmp_path / "demo" / "run" / "model.safetensors").stat().st_mtime_ns
    assert run_command(["demo", "-o", str(tmp_path / "demo")]) == 0
    assert (tmp_path / "demo" / "run" / "model.safetensors").stat().st_mtime_ns == before
    assert "trained already" in capsys.readouterr().err
