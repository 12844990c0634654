"""The documents tell the truth: their tables, commands, names and examples are checked against the code."""

import ast
import contextlib
import importlib
import io
import json
import os
import re
import shlex
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

import family_tables
import mobilenets
import test_cost
from mobilenets import cli, recipe, zoo
from mobilenets.checkpoint import Manifest
from mobilenets.errors import SpecError
from mobilenets.preprocessing import for_channels
from mobilenets.zoo import MAX_WIDTH, ZOO
from test_architecture import FILES, ORDER

ROOT = Path(__file__).parents[1]
if not (ROOT / "README.md").is_file():
    pytest.skip("the documents lie beside the tests in the repository alone", allow_module_level=True)

README, FAMILY, ARCHITECTURE, CONTRIBUTING = (
    ROOT / name for name in ("README.md", "docs/family.md", "docs/architecture.md", "CONTRIBUTING.md")
)
DOCUMENTS = [
    README,
    CONTRIBUTING,
    ROOT / "CHANGELOG.md",
    ROOT / "LOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
REWRITE = "MOBILENETS_REWRITE_DOCUMENTS"


def by_name(document):
    return document.relative_to(ROOT).as_posix()


def text(document):
    return document.read_text(encoding="utf-8")


def fenced(document, language):
    """The contents of every block of `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text(document), re.MULTILINE | re.DOTALL)


def prose(document):
    """The document without its fenced and indented blocks, in lines that are not broken."""
    kept = re.sub(r"^```.*?^```$", "", text(document), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^ {4}.*$", "", kept, flags=re.MULTILINE)


def code_spans(document):
    return re.findall(r"`([^`\n]+)`", prose(document))


def table_rows(document, first_heading):
    """The rows, as lists of cells, of the table whose first column has that heading."""
    lines = text(document).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    assert rows
    return rows


def named_files(document, first_heading):
    """The files that the first column of a table names."""
    cells = [row[0] for row in table_rows(document, first_heading)]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


# --- numbers ------------------------------------------------------------------------------------

_TABLE = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


@pytest.mark.parametrize("document", [README, FAMILY], ids=by_name)
def test_tables_are_those_of_the_code(document):
    written = text(document)
    made = _TABLE.sub(lambda m: f"{m[1]}{family_tables.TABLES[m[2]]()}\n{m[4]}", written)
    if os.environ.get(REWRITE):
        document.write_text(made, encoding="utf-8")
        return
    assert written == made, f"write it anew: {REWRITE}=1 python -m pytest {__file__} -k tables"


def test_every_table_is_used():
    used = [name for document in (README, FAMILY) for _, name, _, _ in _TABLE.findall(text(document))]
    assert sorted(used) == sorted(family_tables.TABLES)


def test_the_table_of_widths_and_rules():
    """Each row: the published widths, the range, the call in Python, and whether the rules part."""
    rows = {row[0].strip("`"): row[1:] for row in table_rows(FAMILY, "network")}
    assert list(rows) == list(ZOO)
    for prefix, (call, published, allowed, agree) in rows.items():
        entry = ZOO[prefix]
        assert tuple(float(width) for width in published.split(",")) == entry.widths
        for width in (*entry.widths, MAX_WIDTH, 1e-3):
            assert eval(call.strip("`").replace("α", str(width)), {"zoo": zoo}) == entry.build(width)
        assert allowed == f"0 < α ≤ {MAX_WIDTH:g}"
        for beyond in (0, MAX_WIDTH * 1.001):
            with pytest.raises(SpecError):
                entry.build(beyond)
        parted = any(len(family_tables.agreeing_rules(prefix, width)) > 1 for width in family_tables.WIDTHS)
        assert agree == ("differ" if parted else "agree"), prefix


def test_variants_part_where_their_base_does():
    """The table of rules leaves out variants: nothing is lost by that."""
    for prefix in ZOO:
        base = next((base for base in reversed(family_tables.BASES) if prefix.startswith(base)), None)
        for width in family_tables.WIDTHS:
            groups = {tuple(rules) for rules, _ in family_tables.agreeing_rules(prefix, width)}
            expected = family_tables.agreeing_rules(base or prefix, width)
            if "edgetpu" in prefix:  # the table says it in words: one activation of the paper's
                assert groups == {("timm", "keras", "torchvision"), ("paper",)}
                continue
            assert groups == {tuple(rules) for rules, _ in expected} if base else len(groups) == 1


def test_every_network_that_is_left_out_is_named():
    """What the reference tables have and the zoo has not, each with its reason."""
    section = text(FAMILY).partition("## Not here")[2]
    for model in test_cost.EXCLUDED:
        assert model in section or model.removeprefix("MobileNetV4-Hybrid") in ("Medium", "Large"), model


def test_the_number_of_reference_counts():
    mapped = sum(row["model"] not in test_cost.EXCLUDED for row in test_cost.COSTS)
    assert f"with {mapped} counts" in text(README)


# --- commands -----------------------------------------------------------------------------------

COMMANDS = typer.main.get_command(cli.app).commands


def command_lines(document):
    """Every `mobilenets …` in a shell block or a code span, as words."""
    lines = [
        line.removeprefix(".venv/bin/") for block in fenced(document, "sh") for line in block.splitlines()
    ]
    found = [line for line in [*lines, *code_spans(document)] if line.startswith("mobilenets ")]
    return [shlex.split(line, comments=True)[1:] for line in found]


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_commands_exist(document):
    """Every verb is there, and takes the words that follow it."""
    for verb, *arguments in command_lines(document):
        assert verb in COMMANDS, f"mobilenets {verb}"
        if arguments and "--help" not in arguments:
            COMMANDS[verb].make_context(verb, list(arguments))


def test_the_readme_shows_every_verb():
    assert {verb for verb, *_ in command_lines(README)} == set(COMMANDS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_make_targets_exist(document):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE))
    lines = [line for block in fenced(document, "sh") for line in block.splitlines()]
    for line in [*lines, *code_spans(document)]:
        if line.startswith("make "):
            words = [word for word in shlex.split(line, comments=True)[1:] if "=" not in word]
            assert set(words) <= targets, line


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_extras_exist(document):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extras in re.findall(r"(?:\.|mobilenets)\[([\w,-]+)\]", text(document)):
        assert set(extras.split(",")) <= set(project["optional-dependencies"])


def test_the_readme_installs_what_the_makefile_does():
    """But for the bytecode, which the Makefile leaves to the first import."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("--no-compile ", "")
    (line,) = [line for block in fenced(README, "sh") for line in block.splitlines() if "--editable" in line]
    options, wanted = line.partition("pip ")[2].rsplit(" ", 1)
    assert f"pip {options}" in makefile and wanted in makefile
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert set(re.findall(r"\btorch==[\d.]+", text(README))) == {
        pin for pin in constraints if pin.startswith("torch==")
    }


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_links_and_paths_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", prose(document)):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target
    for span in code_spans(document):
        for path in re.findall(r"(?<![\w/.])(?:tests|docs|src|\.ci)/[\w/.]*\w", span):
            assert (ROOT / path).exists() or "<" in span, path


def test_the_layers_are_those_of_the_test():
    """`runtime/` stands for the modules of a package."""
    rows = table_rows(ARCHITECTURE, "layer")
    documented = [name for row in rows for name in re.findall(r"`([^`]+)`", row[1])]
    packages = [f"{m.partition('.')[0]}/" if m.partition(".")[0] in PACKAGES else m for m in ORDER]
    assert documented == list(dict.fromkeys(packages))


PACKAGES = {name.partition(".")[0] for name in FILES if "." in name}


@pytest.mark.slow
@pytest.mark.parametrize("document", [ARCHITECTURE, CONTRIBUTING, FAMILY, README], ids=by_name)
def test_names_exist(document):
    """Every `module.name` of ours in a document, and every test that is named beside its file."""
    for span in code_spans(document):
        name = span.partition("(")[0].removeprefix("mobilenets.")
        module, _, attribute = name.rpartition(".")
        if module and module in FILES and re.fullmatch(r"[A-Za-z_]\w*", attribute):
            owner = importlib.import_module(f"mobilenets.{module}")
            assert attribute in ("py", "html", "csv") or name in FILES or hasattr(owner, attribute), span
    for row in text(document).splitlines():
        for file, names in re.findall(r"`(tests/test_\w+\.py)`: ((?:`test_\w+`(?:, )?)+)", row):
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert set(re.findall(r"`(\w+)`", names)) <= defined, row


def test_the_fields_of_a_checkpoint():
    spec = replace(zoo.v2(0.35), classes=2)
    manifest = Manifest(spec, ("a", "b"), for_channels(3))
    assert named_files(ARCHITECTURE, "field") == {*manifest.to_json(), "trained_on"}


def test_the_version_is_the_same_everywhere():
    assert f"({mobilenets.__version__})" in text(ROOT / "CHANGELOG.md")
    assert f"\nversion: {mobilenets.__version__}\n" in text(ROOT / "CITATION.cff")


# --- the example --------------------------------------------------------------------------------


def write_pictures(folder, per_class=12):
    """Two classes that are easy to tell apart: round things on dark, stripes on bright."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:40, 0:48]
    for i in range(per_class):
        noise = rng.normal(0, 12, (40, 48, 3))
        centre = rng.uniform(12, 28, 2)
        disc = 60 + 120 * ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < 100)[..., None]
        stripes = 150 + 60 * np.sin(x / rng.uniform(1.5, 3))[..., None]
        for name, pixels in (("cats", disc), ("dogs", stripes)):
            file = folder / name / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(file)


@pytest.mark.slow
def test_the_python_example_runs(tmp_path, monkeypatch):
    """And leaves the files that README.md and docs/architecture.md say."""
    pytest.importorskip("onnxscript")
    (example,) = fenced(README, "python")
    write_pictures(tmp_path / "pictures")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(recipe.PRESETS, "digits", replace(recipe.preset("digits"), epochs=1))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(example, "README.md", "exec"), {})
    first, accuracy, prediction = printed.getvalue().splitlines()
    assert re.fullmatch(r"[\d,]+ MACs, [\d,]+ parameters", first)
    assert re.fullmatch(r"[\d.]+% \([\d.]+% – [\d.]+%, n = \d+\)", accuracy)
    assert prediction.startswith("pictures/cats/1.png: ") and "cats" in prediction and "dogs" in prediction
    assert {file.name for file in Path("run").iterdir()} == named_files(README, "file")
    documented = named_files(ARCHITECTURE, "file")
    assert {file.name + "/" * file.is_dir() for file in Path("bundle").iterdir()} == documented
    assert json.loads(Path("bundle/certificate.json").read_text())["verdict"] == "passed"
