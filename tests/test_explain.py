import html as entities
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mobilenets import zoo
from mobilenets.checkpoint import Checkpoint, Manifest
from mobilenets.cost import count
from mobilenets.errors import CheckpointError, InputError, PictureError, UnknownName
from mobilenets.explain import (
    accuracy,
    activations,
    explain,
    gates,
    manifold,
    multipliers,
    page,
    separable,
    unfolded,
)
from mobilenets.explain.figure import compute, picture_of
from mobilenets.explain.program import program
from mobilenets.explain.subject import CREDIT, Sample, fresh, open_sample, open_subject, seen, tensor
from mobilenets.layers import ChannelGate
from mobilenets.network import build, to_tensors
from mobilenets.preprocessing import for_channels

SECTIONS = ["separable", "multipliers", "manifold", "block", "activations", "gates", "accuracy"]
EVIL = '<script>alert(1)</script> & "x" \'\u202e {{ 7 * 7 }}.png'
MAX_PAGE_BYTES = 3_000_000


class Page(HTMLParser):
    """Tags with their attributes, the text of every `code`, identifiers."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.codes, self.inside, self.titles = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside.append(tag)
        if tag == "code":
            self.codes.append("")

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if "code" in self.inside:
            self.codes[-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def small(name="mobilenet_v3_small_050", **fields):
    return zoo.build(name, classes=2, resolution=64, **fields)


def plain_sample(name="plain.png", mode="RGB"):
    rng = np.random.default_rng(0)
    return Sample(Image.fromarray(rng.integers(0, 256, (80, 100, 3), dtype=np.uint8)).convert(mode), name)


def saved(path, spec):
    manifest = Manifest(spec, tuple(map(str, range(spec.classes))), for_channels(spec.channels))
    return Checkpoint(manifest, to_tensors(build(spec, seed=3))).save(path)


TOLD = []


class Told:
    """A progress that keeps what it is told."""

    def track(self, items, total, what, *, size=None):
        TOLD.append((total, what))
        yield from items

    def say(self, line):
        TOLD.append(line)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    pytest.importorskip("sklearn")
    out = tmp_path_factory.mktemp("page") / "explain.html"
    return explain(out, progress=Told()).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(text):
    return Page(text)


# --- the page -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_section_is_there_and_linked(parsed):
    sections = [attributes["id"] for attributes in parsed.all("section")]
    assert sections == SECTIONS
    links = [a["href"] for a in parsed.all("a") if a["href"].startswith("#")]
    assert links == [f"#{name}" for name in SECTIONS]
    assert [a["aria-labelledby"] for a in parsed.all("section")] == [f"{name}-title" for name in SECTIONS]


def test_it_opens_without_a_network(text, parsed):
    policy = [m for m in parsed.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0]["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    forbidden = {
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "audio",
        "video",
        "foreignobject",
    }
    assert not forbidden & {tag for tag, _ in parsed.tags}
    for tag, attributes in parsed.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "srcset"):
                assert value.startswith("data:image/"), (tag, name)
            elif name in ("href", "xlink:href"):
                assert value.startswith(("#", "https://")) and (tag == "a" or value[0] == "#")
    styles = re.findall(r"url\(([^)]*)\)", text)
    assert all(target.startswith("#") for target in styles)
    assert "@import" not in text
    assert len(text.encode()) < MAX_PAGE_BYTES


def test_links_go_to_the_papers_and_the_licence(parsed):
    outside = {a["href"] for a in parsed.all("a") if a["href"].startswith("http")}
    papers = {"1704.04861", "1801.04381", "1905.02244", "2404.10518"}
    licence = "https://creativecommons.org/licenses/by/2.0/"
    assert outside == {f"https://arxiv.org/abs/{paper}" for paper in papers} | {licence}


def test_identifiers_are_unique_and_references_lead_somewhere(text, parsed):
    found = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    within = set(re.findall(r'(?:href="|url\()#([\w-]+)', text))
    assert within <= set(found)
    own = [name for name in found if not re.fullmatch(r"[mp][0-9a-f]{10}", name)]
    assert len(own) == len(set(own))
    shapes = re.findall(r'<(?:path|clipPath|g) id="([mp][0-9a-f]{10})"', text)
    assert len(shapes) == len(set(shapes))


def test_who_cannot_see_it_is_told(parsed):
    assert parsed.all("html")[0]["lang"] == "en"
    assert all(image["alt"].strip() for image in parsed.all("img"))
    charts = parsed.all("svg")
    assert len(charts) >= 15
    assert all(chart["role"] == "img" and chart["aria-label"].strip() for chart in charts)
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_every_figure_states_its_source_and_its_code(text):
    figures = re.findall(r'<figure class="plate.*?</figure>', text, flags=re.DOTALL)
    assert len(figures) == 12
    for figure in figures:
        assert figure.count("<figcaption>") == 1
        assert re.search(r'In the literature: <a href="https://arxiv.org/abs/\d{4}\.\d{5}">', figure)
        assert "The code that computed this" in figure and "The code that drew it" in figure


SHOWN = [
    (separable.worked_examples, ()),
    (separable.v1_in_both_forms, ()),
    (multipliers.over_width, ()),
    (multipliers.over_resolution, ()),
    (multipliers.parts_of_v1, ()),
    (manifold.losses, ()),
    (unfolded.designs, (24, 144, 56)),
    (activations.errors, ()),
    (accuracy.points, ()),
]


@pytest.mark.parametrize(("function", "arguments"), SHOWN, ids=lambda value: getattr(value, "__name__", ""))
def test_the_code_on_the_page_gives_the_numbers_on_the_page(parsed, function, arguments, monkeypatch):
    """The text as a reader would copy it, run by itself."""
    if function is manifold.losses:  # the same code on fewer matrices
        monkeypatch.setattr(manifold, "SEEDS", 5)
    shown = [code for code in parsed.codes if f"\ndef {function.__name__}(" in code]
    assert shown and set(shown) == {program(function)}
    source = shown[0].replace("SEEDS = 200", "SEEDS = 5")
    alone = {"__name__": "copied"}
    exec(compile(source, "copied", "exec"), alone)
    assert alone[function.__name__](*arguments) == function(*arguments)


def test_the_code_that_drew_it_draws_it(text, parsed):
    (source,) = (code for code in parsed.codes if "\ndef draw_differences(" in code)
    alone = {"__name__": "copied"}
    exec(compile(source, "copied", "exec"), alone)
    alt = re.search(r'aria-label="(The differences; [^"]+)"', text)[1]
    drawn = alone["draw_differences"](entities.unescape(alt))
    assert str(drawn) in text


def test_code_is_escaped(text):
    assert "&lt;" in text and "-&gt; list[Loss]" in text
    assert "-> list[Loss]" not in text


def test_the_numbers_of_the_examples_stand_on_it(text):
    for number in (
        "86,400",
        "10,275",
        "675",
        "9,600",
        "1,228,800",
        "53,952",
        "52,952",
        "4,867,293,184",
        "568,740,352",
    ):
        assert number in text


@pytest.mark.full
def test_the_same_bytes_from_another_process(text, tmp_path):
    """And by the command line; an existing page is not written over."""
    run = [sys.executable, "-m", "mobilenets", "explain", "-o", "page.html"]
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "page.html" in done.stderr
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == text
    again = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "exists already" in again.stderr and "-o" in again.stderr


def test_names_are_escaped():
    sample, subject = plain_sample(EVIL), fresh(small(), plain_sample())
    hostile = type(subject)(subject.network, subject.preprocessing, True, EVIL)
    note = page._note(hostile, False, "squeeze-and-excite", subject)
    made = page.html([gates.make(hostile, sample, note), unfolded.make(hostile, sample, "")], sample)
    assert "<script" not in made and "\u202e" not in made
    assert made.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 5
    assert "{{ 7 * 7 }}" in made and "\\u202e" in made


# --- the ideas ----------------------------------------------------------------------------------


def test_the_worked_examples():
    first, second = separable.worked_examples()
    assert first.formula == first.measured == (86_400, 675, 9_600)
    assert second.formula == second.measured == (1_228_800, 4_800, 49_152)
    assert (first.measured.separable, second.measured.separable) == (10_275, 53_952)


@given(
    side=st.integers(1, 9),
    c_in=st.integers(1, 5),
    kernel=st.integers(1, 5),
    filters=st.integers(1, 9),
)
@settings(deadline=None, max_examples=40)
def test_formula_and_convolution_count_the_same(side, c_in, kernel, filters):
    example = separable.Example(side + kernel - 1, c_in, kernel, filters)
    counted = separable.by_formula(example)
    assert counted == separable.by_running(example)
    assert counted.separable / counted.standard == pytest.approx(1 / filters + 1 / kernel**2)


def test_v1s_layers_save_what_the_formula_says():
    networks = separable.v1_in_both_forms()
    assert len(networks.pairs) == 13
    for pair in networks.pairs:
        assert pair.separable / pair.standard == pytest.approx(1 / pair.filters + 1 / 9, rel=1e-12)
    assert networks.standard_macs == 4_867_293_184 and networks.separable_macs == 568_740_352


@given(power=st.floats(-3, 3), factor=st.floats(0.1, 1e6))
def test_an_exponent_is_found(power, factor):
    x = multipliers.WIDTHS
    assert multipliers.exponent(x, [factor * value**power for value in x]) == pytest.approx(power, abs=1e-9)


def test_cost_is_quadratic_where_the_theory_says_so():
    parts = multipliers.parts_of_v1()
    assert parts["pointwise"] == pytest.approx(2, abs=0.05)
    assert parts["depthwise"] == pytest.approx(1, abs=0.05)
    for curve in multipliers.over_resolution():
        macs, params = curve.exponents
        assert 1.85 < macs <= 2
        assert params == pytest.approx(0, abs=1e-12) and len(set(curve.params)) == 1


def test_published_networks_lie_on_their_curves():
    for curve in multipliers.over_width():
        assert set(curve.published) <= set(curve.x)
        prefix = multipliers.PREFIXES[curve.name]
        for width in curve.published:
            cost = count(multipliers.NETWORKS[curve.name](width, resolution=224))
            at = curve.x.index(width)
            assert (curve.macs[at], curve.params[at]) == (cost.macs, cost.params), (prefix, width)


@given(n=st.integers(2, 40), seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_there_and_back(n, seed):
    run = manifold.there_and_back(n, seed)
    assert 0 <= run.error <= 1 + 1e-12
    assert manifold._linear_error(n, seed) < 1e-9
    matrix = np.random.default_rng([n, seed]).standard_normal((n, 2))
    for at in range(0, manifold.POINTS, 60):
        active = matrix[matrix @ manifold.spiral()[:, at] > 0]
        assert run.collapsed[at] == (np.linalg.matrix_rank(active) < 2)


@pytest.mark.slow
def test_more_dimensions_lose_less():
    rows = manifold.losses()
    errors = {row.n: row.error for row in rows}
    assert [errors[n] for n in manifold.SHOWN] == sorted((errors[n] for n in manifold.SHOWN), reverse=True)
    for row in rows:
        # means of 200 shares in [0, 1]: five standard errors, with the variance of a single point as bound
        assert abs(row.collapsed_mean - row.expected) <= 5 * math.sqrt(0.25 / manifold.SEEDS)
        assert row.error_low <= row.error <= row.error_high


@pytest.mark.parametrize("name", ["mobilenet_v2_035", "mobilenet_v3_small_050", "mobilenet_v4_conv_small"])
def test_an_unfolded_block_is_the_block(name):
    subject = fresh(small(name), plain_sample())
    index = unfolded.inverted_residual(subject.spec)
    picture = tensor(seen(plain_sample(), subject)[None], subject.preprocessing)
    steps = unfolded.unfold(subject.network, picture, index)
    with torch.inference_mode():
        x = picture
        for block in subject.network.blocks[:index]:
            x = block(x)
        assert np.array_equal(steps[0].map, x[0].numpy())
        assert np.array_equal(steps[-1].map, subject.network.blocks[index](x)[0].numpy())
    rows = [row for row in count(subject.spec).layers if row.path.startswith(f"blocks.{index}.")]
    assert [(row.params, row.macs) for row in rows] == [(s.params, s.macs) for s in steps if s.macs]
    assert subject.spec.blocks[index].residual and steps[-1].name == "sum"


def test_what_relu6_leaves():
    subject = fresh(small("mobilenet_v2_035"), plain_sample())
    picture = tensor(seen(plain_sample(), subject)[None], subject.preprocessing)
    steps = {s.name: s for s in unfolded.unfold(subject.network, picture, 3)}
    assert steps["expand"].negative == 0 and 0.3 < steps["expand"].zeros < 0.7
    assert steps["expand"].kind == "pointwise, ReLU6" and steps["project"].kind == "pointwise, no activation"
    assert 0.3 < steps["project"].negative < 0.7


def test_designs_are_priced():
    inverted, classical, full = unfolded.designs(24, 144, 56)
    assert inverted.macs == 56**2 * (24 * 144 + 9 * 144 + 144 * 24)
    assert classical.macs == 56**2 * (144 * 24 + 9 * 24 * 24 + 24 * 144)
    assert full.macs == 56**2 * (24 * 144 + 9 * 144 * 144 + 144 * 24)
    assert classical.shortcut_values == 6 * inverted.shortcut_values
    for side in (2, 7, 28):  # below the smallest picture of a network
        assert unfolded.designs(24, 144, side)[0].macs * 56**2 == inverted.macs * side**2


def test_a_grid_keeps_signs_and_gaps():
    maps = np.zeros((3, 40, 40), np.float32)
    maps[0], maps[1] = 1, -1
    shown = unfolded.grid(maps)
    assert shown.shape == (40, 3 * 42 - 2)
    assert (shown[:, :40] == 1).all() and (shown[:, 42:82] == -1).all() and (shown[:, 84:] == 0).all()
    assert np.isnan(shown[:, 40:42]).all()


def test_a_pixel_image_has_its_own_colour_for_zero_in_both_themes():
    made = picture_of(np.array([[-1.0, 0.0, 1.0, np.nan]]), "four values")
    assert made.light != made.dark and made.alt == "four values"


def test_the_cheap_functions_are_as_near_as_calculus_says():
    found = {row.name: row for row in activations.errors()}
    s = (1 - math.sqrt(1 / 3)) / 2  # where the sigmoid's slope s(1 − s) is 1/6
    x = math.log(s / (1 - s))
    assert found["hard sigmoid"].largest == pytest.approx((x + 3) / 6 - s, abs=1e-8)
    assert found["hard sigmoid"].at == pytest.approx(x, abs=2e-4)
    assert found["h-swish"].largest == pytest.approx(3 / (1 + math.exp(3)), abs=1e-8)
    assert found["ReLU6"].inside == 0 and found["ReLU6"].largest == 14


def test_our_functions_are_those_of_the_networks():
    x = np.linspace(-8, 8, 101)
    for ours, theirs in (
        (activations.relu6, torch.nn.functional.relu6),
        (activations.hard_sigmoid, torch.nn.functional.hardsigmoid),
        (activations.hard_swish, torch.nn.functional.hardswish),
        (activations.swish, torch.nn.functional.silu),
    ):
        assert np.allclose(ours(x), theirs(torch.from_numpy(x)).numpy(), atol=1e-12)


def test_gates_are_what_the_layers_multiply_with():
    network = build(small()).eval()
    kept = {}
    for path, module in network.named_modules():
        if isinstance(module, ChannelGate):
            module.register_forward_hook(lambda _, x, y, path=path: kept.update({path: (x[0], y)}))
    rows = gates.gates(network, torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert [row.path for row in rows] == list(kept)
    for row in rows:
        x, y = kept[row.path]
        both = torch.from_numpy(np.stack([row.picture, row.grey]))
        assert torch.equal(y, x * both[:, :, None, None])
        assert row.squeeze == network.get_submodule(row.path).reduce.out_channels
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_results_are_of_networks_that_exist_and_cost_what_is_printed():
    found = accuracy.points()
    assert {p.result.family for p in found} == {"V1", "V2", "V3", "V4"}
    assert {p.result.series for p in found} == {"published", "retrained"}
    for point in found:
        assert (
            40 < point.result.top1 < 90 and "arXiv" in point.result.source
        ) or "TF-slim" in point.result.source
        if point.macs_off is not None:
            allowed = 0.08 if point.result.family == "V4" else 0.03
            assert abs(point.macs_off) < allowed, point.result.label
    assert {p.result.label for p in found} >= set(accuracy.NAMED)


def test_printed_accuracies_are_those_of_the_zoo():
    for row in accuracy.results():
        known = zoo.published(row.network)
        if row.series == "published" and row.resolution == zoo.build(row.network).resolution:
            assert known is not None and known.top1 == row.top1, row.label


def test_what_the_text_says_of_v4_conv_small():
    by_label = {p.result.label: p for p in accuracy.points()}
    small_, low, high = (by_label[name] for name in ("V4-Conv-S", "V3-Large 0.75", "V3-Large 1.0"))
    line = np.interp(np.log(small_.macs), np.log([low.macs, high.macs]), [low.result.top1, high.result.top1])
    assert low.macs < small_.macs < high.macs and small_.result.top1 < line
    shares = accuracy.dense_shares()
    assert shares["V4-Conv-S"] > 3 * shares["V3-Large 1.0"]


# --- pictures and models ------------------------------------------------------------------------


def test_the_credit_is_scikit_learns():
    datasets = pytest.importorskip("sklearn.datasets")
    _, china = datasets.load_sample_images().DESCR.split("Image: china.jpg")
    china, _ = china.split("Image: flower.jpg")
    for fact in ("danielbuechele", "6061409035", "creativecommons.org/licenses/by/2.0"):
        assert fact in china
    assert "danielbuechele" in CREDIT and "6061409035" in CREDIT and "CC BY 2.0" in CREDIT
    assert open_sample(None).credit == CREDIT


def test_a_picture_of_ones_own_has_no_credit(tmp_path):
    plain_sample().image.save(tmp_path / "own.png")
    sample = open_sample(tmp_path / "own.png")
    assert (sample.name, sample.credit) == ("own.png", "")
    made = page.html([gates.make(fresh(small(), sample), sample, "")], sample)
    assert "danielbuechele" not in made and "own.png" in made


def test_a_model_is_looked_into(tmp_path):
    saved(tmp_path / "mine.safetensors", small())
    subject = open_subject(tmp_path / "mine.safetensors", plain_sample())
    assert subject.trained and subject.name == "mine.safetensors"
    assert torch.equal(
        subject.network.classifier.weight, build(small(), seed=3).classifier.weight
    )  # nothing is drawn or measured anew
    block, gated = page._block(subject, plain_sample()), page._gates(subject, plain_sample())
    made = page.html([block, gated], plain_sample())
    assert made.count("mine.safetensors") == 2 and "random weights" not in made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "lacks"),
    [
        ("mobilenet_v1_025", {"inverted residual", "squeeze-and-excite"}),
        ("mobilenet_v2_035", {"squeeze-and-excite"}),
    ],
)
def test_a_section_says_where_a_model_has_nothing_to_show(monkeypatch, name, lacks):
    for constant in ("BLOCK_NETWORK", "GATES_NETWORK"):
        monkeypatch.setattr(page, constant, "mobilenet_v3_small_050")
    sample = plain_sample()
    asked = fresh(small(name), sample)
    ideas = {
        "inverted residual": page._block(asked, sample),
        "squeeze-and-excite": page._gates(asked, sample),
    }
    made = page.html(list(ideas.values()), sample)
    for what, idea in ideas.items():
        said = f"{name} has no {what}, so this section looks into mobilenet_v3_small_050 instead."
        assert (idea.values["note"] == said) == (what in lacks)
        assert (said in made) == (what in lacks)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["L", "RGBA", "1"])
def test_any_picture_and_any_channels(tmp_path, mode):
    plain_sample(mode=mode).image.save(tmp_path / "p.png")
    sample = open_sample(tmp_path / "p.png")
    for channels in (1, 4):
        subject = fresh(small(channels=channels), sample)
        assert seen(sample, subject).shape == (64, 64, channels)
        assert page.html([unfolded.make(subject, sample, "")], sample)


def test_a_picture_of_one_pixel():
    sample = Sample(Image.new("RGB", (1, 1), (200, 10, 10)), "dot.png")
    subject = fresh(small(), sample)
    assert all(np.isfinite(row.picture).all() for row in gates.make(subject, sample, "").values["rows"])


def test_wrong_inputs_are_designed_errors(tmp_path):
    out = tmp_path / "page.html"
    (tmp_path / "text.jpg").write_text("no picture, but text")
    (tmp_path / "broken.safetensors").write_bytes(b"no model")
    for error, culprit, arguments in (
        (PictureError, "missing.jpg", {"picture": tmp_path / "missing.jpg"}),
        (PictureError, "text.jpg", {"picture": tmp_path / "text.jpg"}),
        (CheckpointError, "gone.safetensors", {"model": tmp_path / "gone.safetensors"}),
        (CheckpointError, "broken.safetensors", {"model": tmp_path / "broken.safetensors"}),
    ):
        with pytest.raises(error) as caught:
            explain(out, **arguments)
        assert Path(caught.value.file).name == culprit and not out.exists()
    with pytest.raises(UnknownName, match="mobilenet_v3_smal_100") as unknown:
        explain(out, model="mobilenet_v3_smal_100")
    assert "run folder or a checkpoint" in str(unknown.value) and not out.exists()


def test_an_existing_page_stays(tmp_path):
    out = tmp_path / "page.html"
    out.write_text("mine")
    with pytest.raises(InputError, match="exists already") as caught:
        explain(out)
    assert caught.value.remedy and out.read_text() == "mine"
    with pytest.raises(InputError, match="is a folder"):
        explain(tmp_path)


@pytest.mark.slow
def test_progress_is_told(text):
    assert text and [(len(SECTIONS), "computing")] == TOLD


def test_a_value_keeps_its_code():
    made = compute(unfolded.designs, 8, 48, 32)
    assert made.value == unfolded.designs(8, 48, 32)
    assert "def designs(" in made.code and "def _design(" in made.code and "def draw_design(" not in made.code
    assert "from mobilenets.cost import count" in made.code and "import torch" not in made.code
