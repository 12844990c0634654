import csv
import io
from pathlib import Path

import pytest

from mobilenets.errors import FolderError, InputError
from mobilenets.prediction import Prediction, expand, predict, to_csv

TWO = Prediction(Path("a.png"), ("=cat", "dog\n"), (0.75, 0.25))
BROKEN = Prediction(Path("b, c.png"), (), (), "is empty (0 bytes).")


def test_a_csv_has_a_column_for_every_rank_and_no_formulas():
    rows = list(csv.reader(io.StringIO(to_csv([TWO, BROKEN]))))
    assert rows == [
        ["path", "label", "probability", "label_2", "probability_2", "error"],
        ["a.png", "'=cat", "0.750000", "dog\n", "0.250000", ""],
        ["b, c.png", "", "", "", "", "is empty (0 bytes)."],
    ]
    assert to_csv([]) == "path,label,probability,error\n"


def test_a_prediction_reads_as_a_line():
    assert str(TWO) == r"a.png: =cat 75.0%, dog\n 25.0%"
    assert str(BROKEN) == "b, c.png: is empty (0 bytes)."
    assert (TWO.label, TWO.probability, BROKEN.label) == ("=cat", 0.75, None)


def test_a_folder_stands_for_its_pictures_in_order(shapes_folder, tmp_path):
    found = list(expand([shapes_folder / "square", shapes_folder / "disc" / "03.png"]))
    assert [path.name for path in found] == [f"{i:02d}.png" for i in range(40)] + ["03.png"]
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.png").write_bytes((shapes_folder / "disc" / "03.png").read_bytes())
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(FolderError, match="no pictures"):
        list(expand([tmp_path]))
    with pytest.raises(FolderError, match="no such"):
        list(expand([tmp_path / "missing.png"]))


def test_at_least_one_label_is_asked_for():
    with pytest.raises(InputError, match="top is 0"):
        predict("model", ["a.png"], top=0)
