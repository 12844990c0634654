import csv
import dataclasses
import html
import re
import sys
from html.parser import HTMLParser
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image

from mobilenets import zoo
from mobilenets.checkpoint import Manifest
from mobilenets.errors import MissingExtra
from mobilenets.evaluation import Evaluation
from mobilenets.folder import Folder, Picture, Problem, scan
from mobilenets.pictures import load
from mobilenets.preprocessing import Preprocessing, prepare
from mobilenets.report import (
    card,
    charts,
    counsel,
    findings,
    sheet,
    sheets,
    tables,
    words,
    write_report,
    write_sheet,
)
from mobilenets.report.record import Epoch, RunRecord
from mobilenets.text import printable

FILES = {
    "curves.png",
    "confusion.png",
    "classes.png",
    "reliability.png",
    "wrong.png",
    "sheet.png",
    "classes.csv",
    "predictions.csv",
    "model_card.md",
    "report.html",
}
MAX_PAGE_BYTES = 3_000_000
EVIL = (
    "<script>alert(1)</script>",
    "a\"b'c & d </style>",
    "$x^2$ $\\frac{$",
    "line\nbreak",
    "\u202eright to left\u202c",
    "🌻 sun",
    "日本語",
    "שלום",
    "=cmd|calc",
    "{{ 7 * 7 }} {% raw %}",
    "-- | x",
    "# `x` *b* _c_ [l](//x.y) ![i](//x.y)",
    "broken \udcff",
    "very " * 40 + "long",
)


def evaluation_of(truth, predicted, labels, *, confidence=0.9, paths=None, names=None, **fields):
    """Every picture gets `predicted` with `confidence`, the rest shared by the other labels."""
    truth, predicted = np.asarray(truth, np.int64), np.asarray(predicted, np.int64)
    k = len(labels)
    probabilities = np.full((len(truth), k), (1 - confidence) / max(1, k - 1), np.float32)
    probabilities[np.arange(len(truth)), predicted] = confidence
    return Evaluation(
        labels=tuple(labels),
        paths=tuple(paths or (Path(f"/nowhere/{i}.png") for i in range(len(truth)))),
        names=tuple(names or (f"{i}.png" for i in range(len(truth)))),
        truth=truth,
        probabilities=probabilities,
        **fields,
    )


def evaluation_on(folder, *, mistakes, **fields):
    """The folder's test pictures, of which the first `mistakes` are taken for the next class."""
    test = folder.split("test")
    truth = np.array([p.label for p in test], np.int64)
    predicted = np.where(np.arange(len(test)) < mistakes, (truth + 1) % len(folder.classes), truth)
    names, paths = [p.name for p in test], [p.path for p in test]
    return evaluation_of(truth, predicted, folder.classes, paths=paths, names=names, **fields)


def history(epochs, *, validated=True):
    rows = []
    for number in range(epochs + 1):
        score = 0.5 + 0.4 * number / max(1, epochs) if validated else float("nan")
        loss = 1.2 - 0.8 * number / max(1, epochs)
        val_loss = loss - 0.1 if validated else float("nan")
        rows.append(
            Epoch(
                number,
                "head" if number == 0 else "all",
                loss,
                val_loss,
                score,
                score,
                1e-3 / (1 + number),
                2.0,
            )
        )
    return tuple(rows)


def record_of(folder, evaluation, rows, *, name="shapes-1", preprocessing=None, **fields):
    spec = zoo.build("mobilenet_v2_035", classes=len(evaluation.labels), resolution=32)
    return RunRecord(
        name=name,
        manifest=Manifest(
            spec,
            evaluation.labels,
            preprocessing or Preprocessing(),
            provenance={"tool": "mobilenets", "created": "2026-01-02T03:04:05+00:00", "seed": 0},
            licence="CC-BY-4.0",
        ),
        folder=folder,
        history=rows,
        best_epoch=rows[-1].number if rows else 0,
        evaluation=evaluation,
        recipe={"name": "scratch", "rate": 1e-3, "augment": {"flip": True}},
        environment={"device": "cpu (some processor, 2 threads)", "precision": "fp32", "time": "3 min 20 s"},
        command="mobilenets train shapes",
        **fields,
    )


def made_up_folder(root, classes, *, each=("train", "train", "val", "test", "test"), problems=()):
    """Plain pictures of one colour each, their files made here; names are the classes' own."""
    root.mkdir(parents=True, exist_ok=True)
    pictures = []
    for label, name in enumerate(classes):
        for index, split in enumerate(each):
            path = root / f"{label}-{index}.png"
            Image.new("RGB", (40, 36), (label * 40 % 256, 60 * index % 256, 120)).save(path)
            pictures.append(Picture(path, f"{name}/{name}{index}.png", label, split, "0" * 64, 40, 36))
    return Folder(
        root=root,
        layout="class folders",
        classes=tuple(classes),
        pictures=tuple(pictures),
        problems=tuple(problems),
        seed=0,
        given_splits=(),
    )


class Page(HTMLParser):
    """What a browser would find, and whether every element is closed where it should be."""

    VOID = frozenset(("meta", "img", "source"))

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    def values(self, attribute):
        return [attrs[attribute] or "" for _, attrs in self.elements if attribute in attrs]


def check_pictures(folder):
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"
            assert 150 <= image.width <= 4000 and 100 <= image.height <= 6000, path.name


def check_stands_alone(page):
    assert not {tag for tag, _ in page.elements} & {
        "script",
        "link",
        "iframe",
        "object",
        "base",
        "form",
        "svg",
    }
    for attribute in ("src", "srcset"):
        assert all(value.startswith("data:image/") for value in page.values(attribute))
    assert "http://" not in page.source and "https://" not in page.source
    assert "url(" not in page.source and "@import" not in page.source
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    ids = set(page.values("id"))
    assert all(target.startswith("#") and target[1:] in ids for target in page.values("href"))
    assert all(attrs.get("alt") for tag, attrs in page.elements if tag == "img")
    assert len(page.source.encode()) < MAX_PAGE_BYTES


# --- an ordinary run ---


@pytest.fixture(scope="module")
def plain(shapes_folder, tmp_path_factory):
    folder = scan(shapes_folder)
    record = record_of(folder, evaluation_on(folder, mistakes=3), history(5))
    run = tmp_path_factory.mktemp("runs") / "shapes-1"
    return record, run, write_report(record, run)


@pytest.mark.slow
def test_every_file_is_written_and_named(plain):
    _, run, files = plain
    assert {path.name for path in files} == FILES
    assert {path.name for path in run.iterdir()} == FILES
    check_pictures(run)


def test_the_page_stands_alone(plain):
    page = Page(plain[1] / "report.html")
    check_stands_alone(page)
    policy = next(attrs["content"] for _, attrs in page.elements if attrs.get("http-equiv"))
    assert "default-src 'none'" in policy


def test_the_page_says_what_matters(plain):
    record, run, _ = plain
    text = Page(run / "report.html").text
    score = record.evaluation.accuracy
    assert f"{100 * score.value:.1f}" in text
    assert f"95% interval {score.low:.1%} to {score.high:.1%}, from {score.n} pictures" in text
    for said in (
        words.verdict(record.evaluation),
        "mobilenet_v2_035",
        "3 min 20 s",
        "cpu (some processor, 2 threads)",
        "mobilenets train shapes",
        f"mobilenets predict {run.as_posix()} PICTURE.jpg",
        "CC-BY-4.0",
        record.folder.split_source,
        "augment.flip",
        *record.folder.classes,
        *counsel.limits(record),
    ):
        assert said in text


def test_charts_come_for_light_and_dark_pages(plain):
    elements = Page(plain[1] / "report.html").elements
    dark = [attrs for tag, attrs in elements if tag == "source"]
    assert len(dark) == 5  # confusion, reliability, scores, loss, rate
    assert all("prefers-color-scheme: dark" in attrs["media"] for attrs in dark)


def test_nothing_of_matplotlib_is_left_changed(plain):
    import matplotlib

    def settings():
        return {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}

    before = settings()
    charts.reliability(plain[0].evaluation)
    assert settings() == before


@pytest.mark.slow
def test_pictures_repeat_to_the_byte(plain):
    record, run, _ = plain
    assert charts.Curves(record.history, record.best_epoch).together() == (run / "curves.png").read_bytes()
    again = write_sheet(run.parent / "again.png", record.folder, record.manifest.preprocessing, 32)
    assert again.read_bytes() == (run / "sheet.png").read_bytes()


# --- names that would do harm ---


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    problems = [
        Problem(name, f"<i>kind</i> {index % 2}", name, used=index % 2 == 0)
        for index, name in enumerate(EVIL)
    ]
    folder = made_up_folder(tmp_path_factory.mktemp("pictures") / "evil", EVIL, problems=problems)
    gone = folder.split("train")[0], folder.split("test")[0]
    for picture in gone:
        picture.path.unlink()
    record = dataclasses.replace(
        record_of(folder, evaluation_on(folder, mistakes=14), history(1), name="<b>run</b> $1$"),
        command="mobilenets train '```' <b>\nrm",
    )
    run = tmp_path_factory.mktemp("runs") / "evil"
    write_report(record, run)
    return record, run


@pytest.mark.slow
def test_names_stay_text_in_the_page(evil, plain):
    page = Page(evil[1] / "report.html")
    check_stands_alone(page)
    usual = {tag for tag, _ in Page(plain[1] / "report.html").elements} | {
        "p",
        "ul",
        "li",
        "details",
        "summary",
    }
    assert {tag for tag, _ in page.elements} <= usual
    text = page.text
    for name in EVIL[:-1]:
        assert re.sub(r"\s+", " ", printable(name)) in text
    assert "very very" in text and "very " * 30 not in text.split("What it is for")[0]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page.source)
    assert "7 * 7" in text and "49" not in text.split("7 * 7")[0][-20:]


def test_charts_bear_any_name(evil):
    """Missing glyphs warn and `$` would start a formula: in tests, either is an error."""
    check_pictures(evil[1])


def test_names_stay_text_in_a_spreadsheet(evil):
    record, run = evil
    for file, rows in (("predictions.csv", len(record.evaluation.truth)), ("classes.csv", len(EVIL))):
        with (run / file).open(encoding="utf-8", newline="") as stream:
            table = list(csv.reader(stream))
        assert len(table) == rows + 1
        assert len({len(row) for row in table}) == 1
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for row in table for cell in row)


def test_names_stay_text_in_the_model_card(evil):
    source = (evil[1] / "model_card.md").read_text(encoding="utf-8")
    rendered = MarkdownIt("commonmark").enable("table").render(source)
    tags = set(re.findall(r"<(\w+)", rendered))
    assert tags <= {
        *("h1", "h2", "p", "ul", "li", "strong", "pre", "code", "blockquote"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    assert rendered.count("<h1>") == 1
    for name in EVIL[:-2]:
        assert html.escape(printable(name).strip(), quote=False) in html.unescape(rendered).replace(
            "&", "&amp;"
        ).replace("<", "&lt;").replace(">", "&gt;")


@given(st.text(max_size=40))
def test_escaped_markdown_renders_as_the_text_itself(text):
    rendered = (
        MarkdownIt("commonmark").enable("table").enable("strikethrough").render(f"* x {card.escaped(text)}")
    )
    shown = html.unescape(re.sub("<[^>]*>", "", rendered)).strip()
    assert re.sub(r"\s+", " ", shown) == re.sub(r"\s+", " ", f"x {printable(text).strip()}").strip()
    assert re.findall(r"<(\w+)", rendered) == ["ul", "li"]


@given(st.text(max_size=20))
def test_escaped_markdown_is_text_at_the_start_of_a_line_too(text):
    rendered = MarkdownIt("commonmark").render(card.escaped(text))
    assert set(re.findall(r"<(\w+)", rendered)) <= {"p"}


def test_a_picture_that_has_gone_becomes_a_grey_tile(evil):
    record, run = evil
    assert Page(run / "report.html").text.count("no longer readable") == 2
    with Image.open(run / "wrong.png") as wrong:
        first_tile = wrong.convert("RGB").getpixel((30, 70))
    assert first_tile == (0xD5, 0xD9, 0xDE)
    assert record.evaluation.most_confidently_wrong(1) == [0]


# --- the ends of the scale ---


@pytest.mark.slow
def test_two_classes_one_epoch_no_validation_and_no_mistake(tmp_path):
    folder = made_up_folder(tmp_path / "two", ("no", "yes"), each=("train", "test", "test"))
    rows = history(1, validated=False)[1:]
    files = write_report(record_of(folder, evaluation_on(folder, mistakes=0), rows), tmp_path / "run")
    assert {path.name for path in files} == FILES
    check_pictures(tmp_path / "run")
    page = Page(tmp_path / "run" / "report.html")
    check_stands_alone(page)
    assert "All 4 test pictures right." in page.text
    assert "It made no mistake on 4 test pictures." in page.text
    assert "There were no validation pictures" in page.text
    assert not re.search(r"\bnan\b", page.text)


def test_without_test_pictures_or_epochs(tmp_path):
    folder = made_up_folder(tmp_path / "two", ("no", "yes"), each=("train", "val"))
    files = write_report(record_of(folder, evaluation_on(folder, mistakes=0), ()), tmp_path / "run")
    charts_of_a_test = {"curves.png", "confusion.png", "classes.png", "reliability.png"}
    assert {path.name for path in files} == FILES - charts_of_a_test
    page = Page(tmp_path / "run" / "report.html")
    check_stands_alone(page)
    assert "Not measured: there was no test picture." in page.text
    assert "No epoch was finished." in page.text
    assert "0 test pictures" not in page.text


@pytest.mark.full
def test_five_hundred_classes(tmp_path):
    names = [f"species {i}" for i in range(500)]
    problems = [Problem(f"{'x' * 200}{i}.jpg", f"kind {i % 20}", "y" * 300, used=False) for i in range(5000)]
    folder = made_up_folder(tmp_path / "many", names, each=("train", "test"), problems=problems)
    record = record_of(folder, evaluation_on(folder, mistakes=300), history(40))
    write_report(record, tmp_path / "run")
    check_pictures(tmp_path / "run")
    page = Page(tmp_path / "run" / "report.html")
    check_stands_alone(page)
    assert "285 stronger classes" in page.text


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 13, 31, 400])
def test_a_confusion_matrix_of_any_size(k):
    truth = np.repeat(np.arange(k), 3)
    predicted = np.where(np.arange(3 * k) % 3 == 0, (truth + 1) % k, truth)
    image = Image.open(
        BytesIO(charts.confusion(evaluation_of(truth, predicted, [f"c{i}" for i in range(k)])))
    )
    image.load()
    assert 300 < image.width < 3000 and 300 < image.height < 3000
    assert len(set(image.convert("RGB").get_flattened_data())) > 5


def test_marks_of_a_large_matrix_grow():
    marks = np.zeros((7, 7))
    marks[3, 5] = 1
    assert charts._widened(marks, 0).sum() == 1
    assert charts._widened(marks, 1)[2:5, 4:7].all() and charts._widened(marks, 1).sum() == 9


# --- findings ---


def test_confused_pairs_count_what_happened_more_than_once():
    e = evaluation_of([0, 0, 0, 1, 1, 2], [1, 1, 0, 0, 1, 0], ("a", "b", "c"))
    assert findings.confused_pairs(e, 5) == (findings.Confused("a", "b", 2, 3),)


def test_calibration_of_a_case_worked_out_by_hand():
    # Four pictures at 0.9, three of them right; two at 0.6, one right: (4·|0.9 − 0.75| + 2·|0.6 − 0.5|) / 6.
    sure = evaluation_of([0, 0, 0, 1], [0, 0, 0, 0], ("a", "b"), confidence=0.9)
    unsure = evaluation_of([0, 1], [0, 0], ("a", "b"), confidence=0.6)
    both = dataclasses.replace(
        sure,
        paths=sure.paths + unsure.paths,
        names=sure.names + unsure.names,
        truth=np.concatenate([sure.truth, unsure.truth]),
        probabilities=np.concatenate([sure.probabilities, unsure.probabilities]),
    )
    found = findings.calibration(both)
    assert found.error == pytest.approx((4 * 0.15 + 2 * 0.1) / 6, abs=1e-6)
    assert found.confidence == pytest.approx(0.8, abs=1e-6)
    assert [b.right.n for b in found.bins] == [2, 4]
    answers = {row.threshold: (row.answered.value, row.right.value) for row in findings.accepted(both)}
    assert answers[0.7] == pytest.approx((4 / 6, 0.75))
    assert answers[0.0] == pytest.approx((1.0, 4 / 6))


def test_the_weakest_class_has_enough_pictures_to_say_so():
    e = evaluation_of([0] * 5 + [1] * 6 + [2], [0] * 4 + [1] + [1] * 6 + [0], ("a", "b", "c"))
    assert [row.label for row in findings.weakest_first(e)] == ["c", "a", "b"]
    weak = findings.weakest(e)
    assert weak is not None and weak.label == "a"
    assert findings.always_the_same(e) == pytest.approx(6 / 12)


def test_scan_findings_begin_with_what_was_left_out(tmp_path):
    problems = [
        Problem("a.png", "palette", "", used=True),
        Problem("b.png", "palette", "", used=True),
        Problem("c.png", "truncated", "ends early", used=False),
    ]
    folder = made_up_folder(tmp_path, ("a", "b"), problems=problems)
    found = findings.scan_findings(folder)
    assert [(f.kind, f.used, len(f.files)) for f in found] == [("truncated", False, 1), ("palette", True, 2)]


# --- words ---


@pytest.mark.parametrize(
    ("right", "n", "said"),
    [
        (12, 12, "All 12 test pictures right."),
        (1, 1, "All 1 test picture right."),
        (9, 12, "9 of 12 test pictures right"),
        (90, 100, "About 9 of 10 test pictures right"),
        (934, 1000, "93 of 100 test pictures right"),
        (995, 1000, "All but 5 of 1,000 test pictures right"),
        (3, 1000, "3 of 1,000 test pictures right"),
    ],
)
def test_the_verdict_in_plain_words(right, n, said):
    e = evaluation_of([0] * n, [0] * right + [1] * (n - right), ("glass", "paper"))
    weakest = "" if right == n else f"; weakest class: glass ({right / n:.0%})."
    assert words.verdict(e) == said + weakest


@pytest.mark.parametrize(
    ("n", "said"), [(7, "7"), (950, "950"), (1500, "1.5 k"), (28_828_096, "28.8 M"), (999_700, "1,000 k")]
)
def test_large_counts_are_rounded(n, said):
    assert words.rounded(n) == said


@pytest.mark.parametrize(
    ("contract", "said"),
    [
        (Preprocessing(), "shorter side to 183 px (bilinear, antialiased), then the central 160 × 160 px"),
        (
            Preprocessing(fit="pad", pad_value=7),
            "longer side to 160 px (bilinear, antialiased), padded to a square with 7",
        ),
        (
            Preprocessing(fit="stretch", antialias=False),
            "stretched to 160 × 160 px (bilinear, without antialiasing)",
        ),
        (Preprocessing(exif=False), "EXIF orientation ignored"),
        (
            Preprocessing(mode="L", mean=(0.5,), std=(0.5,)),
            "converted to grey, transparent parts over (255, 255, 255)",
        ),
    ],
)
def test_preparation_in_words(contract, said):
    assert said in words.preprocessing(contract, 160)


def test_nested_values_become_rows():
    nested = {"a": {"b": 1, "c": {"d": [1, 2]}}, "none": None, "text": "x", "yes": True}
    assert words.flattened(nested) == [("a.b", "1"), ("a.c.d", "[1, 2]"), ("text", "x"), ("yes", "true")]


def test_a_run_folder_with_a_space_is_quoted():
    assert all("'my runs/a'" in command for _, command in words.commands(Path("my runs/a")))


# --- counsel ---


def test_warnings_name_what_weakens_the_score(tmp_path):
    folder = made_up_folder(tmp_path, ("a", "b"))
    e = evaluation_on(folder, mistakes=1, seen=2, unreadable=("x.png",))
    said = " ".join(counsel.warnings(record_of(folder, e, history(2))))
    for part in (
        "2 of the 4 test pictures had been trained on",
        "1 test picture could not be read and is",
    ):
        assert part in said
    assert "may be anything from" in said


def test_a_model_that_only_guesses_is_named_so(tmp_path):
    folder = made_up_folder(tmp_path, ("a", "b"))
    record = record_of(folder, evaluation_of([0] * 60 + [1] * 40, [0] * 100, ("a", "b")), history(2))
    assert "not been shown to be better than always naming the most common class (60.0%)" in " ".join(
        counsel.warnings(record)
    )
    assert "Train longer" in counsel.advice(record)[0]


def test_an_ordinary_run_has_no_warnings(tmp_path):
    folder = made_up_folder(tmp_path, ("a", "b"))
    e = evaluation_of([0, 1] * 300, [0, 1] * 280 + [1, 0] * 20, ("a", "b"))
    assert counsel.warnings(record_of(folder, e, history(2))) == ()


def test_limits_and_advice_follow_from_the_figures(tmp_path):
    folder = made_up_folder(tmp_path, ("a", "b", "c"))
    e = evaluation_of([0] * 20 + [1] * 10, [0] * 12 + [1] * 8 + [1] * 10, ("a", "b", "c"), confidence=0.95)
    record = record_of(folder, e, history(2))
    said = " ".join(counsel.limits(record))
    assert "none of these 3 classes" in said
    assert "smallest class, a, had 2 pictures to learn from and 2 pictures in the test" in said
    assert "weakest class, a, was recognised in 12 of 20 pictures" in said
    assert "1 class was not tested, for want of pictures: c." in said
    advice = " ".join(counsel.advice(record))
    assert "8 mistakes made with 90% certainty" in advice
    assert "a is taken for b most often (8 of 20)" in advice
    assert "a (2), b (2), c (2)" in advice


# --- sheets and tables ---


def test_tiles_show_what_the_network_sees(shapes_folder):
    folder, contract = scan(shapes_folder), Preprocessing()
    tiles = sheets.seen_tiles(folder, contract, 32)
    sample = sheets.stratified(folder)
    assert {p.split for p in sample} == {"train"}
    assert [tile.caption[0] for tile in tiles] == [folder.classes[p.label] for p in sample]
    for tile, picture in zip(tiles, sample, strict=True):
        assert (np.asarray(tile.image) == prepare(load(picture.path), contract, 32)).all()


def test_a_sample_holds_equally_many_of_each_class(shapes_folder):
    folder = scan(shapes_folder)
    labels = [p.label for p in sheets.stratified(folder, 9)]
    assert [labels.count(label) for label in range(3)] == [3, 3, 3]
    assert sheets.stratified(folder, 9) == sheets.stratified(folder, 9)
    assert [p.label for p in sheets.stratified(folder, 2)] == [0, 2]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_sheet_before_training(shapes_folder, tmp_path, mode):
    contract = Preprocessing(mode=mode, mean=(0.5,) * len(mode), std=(0.5,) * len(mode))
    folder = scan(shapes_folder)
    path = write_sheet(tmp_path / "sheet.png", folder, contract, 32)
    with Image.open(path) as image:
        assert image.mode == "RGB"
        assert image.size == sheet(folder, contract, 32).size


def test_captions_are_no_wider_than_their_tile(tmp_path):
    folder = made_up_folder(tmp_path, ("W" * 200, "b"), each=("train",))
    image = sheet(folder, Preprocessing(), 32)
    tile = np.asarray(image)[:, 26 + 168 : 26 + 168 + 14]  # the gap between the first two tiles
    assert (tile[64 + 168 :] == 255).all()


def test_predictions_say_which_were_right():
    e = evaluation_of([0, 1], [0, 0], ("a", "b"), names=("x/1.png", "@2.png"))
    rows = list(csv.DictReader(StringIO(tables.predictions(e))))
    assert [(row["path"], row["truth"], row["predicted"], row["correct"]) for row in rows] == [
        ("x/1.png", "a", "a", "yes"),
        ("'@2.png", "b", "a", "no"),
    ]
    assert [float(row["probability"]) for row in rows] == pytest.approx([0.9, 0.9])


def test_the_table_of_classes_has_every_split(shapes_folder):
    folder = scan(shapes_folder)
    rows = list(csv.DictReader(StringIO(tables.classes(evaluation_on(folder, mistakes=1), folder))))
    counts = folder.counts()
    assert [row["class"] for row in rows] == list(folder.classes)
    for row in rows:
        expected = counts[row["class"]]
        assert {split: int(row[split]) for split in ("train", "val", "test")} == expected
        assert float(row["low"]) <= float(row["recall"]) <= float(row["high"])
    assert sum(int(row["right"]) for row in rows) == len(folder.split("test")) - 1


@pytest.mark.parametrize(
    ("package", "work"),
    [
        ("matplotlib", lambda record, run: charts.reliability(record.evaluation)),
        ("jinja2", write_report),
    ],
)
def test_a_missing_package_is_named_with_its_install_line(plain, tmp_path, monkeypatch, package, work):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"'{package}'(.|\n)*pip install 'mobilenets\[train\]'"):
        work(plain[0], tmp_path / "run")
    assert not (tmp_path / "run").exists()
