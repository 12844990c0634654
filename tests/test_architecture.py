"""The house: who may import whom, what stays free of torch, what the public names are.

`LAYERS` is the order in which the modules stand. A module imports only from those before it, also
inside functions; a package's own name stands for its `__init__`. A new module has to be put here.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

import mobilenets

SOURCE = Path(mobilenets.__file__).parent

_IN_ORDER = {
    "values": """
        text errors files progress threads machine tolerances
        spec
        zoo.rounding zoo.mobilenet_v1 zoo.mobilenet_v2 zoo.mobilenet_v3 zoo.mobilenet_v4 zoo.edgetpu zoo
        cost
        preprocessing imagenet formats pictures
        layout listing split folder
        checkpoint
    """,
    "engine": """
        compiler.folding compiler.steps compiler.tiling compiler.pairs compiler.strips
        compiler.gating
        compiler.planning compiler.packing compiler.fetching compiler.emission
        compiler.targets compiler.toolchain compiler compiler.kept
        runtime.session runtime.bundle runtime.shared_library
        runtime.compiled_session runtime.onnx_session runtime.openvino_session runtime.litert_session
        runtime.ncnn_session runtime.torch_session runtime
        evaluation prediction
        report.record report.findings report.words report.counsel report.style report.charts report.sheets
        report.tables report.card report.page report.output report
        benchmark benchmark.samples benchmark.yardstick benchmark.conditions benchmark.peaks benchmark.engines
        benchmark.results benchmark.worker benchmark.rounds benchmark.program benchmark.comparison
        benchmark.layers benchmark.roofline
    """,
    "learning": """
        layers network
        slicing.groups slicing.moments slicing.importance slicing
        weights.catalogue weights.cache weights.transfer weights.download
        weights.source weights.matching weights.pytorch_file weights.timm weights.torchvision
        weights.transformers weights.hub_config weights.repositories weights.by_order
        weights.keras weights.keras_config weights.keras_file weights.keras_model
        weights.tflite.flatbuffer weights.tflite.tensor weights.tflite.metadata weights.tflite.file
        weights.tflite.nodes weights.tflite.walk weights.tflite.operators weights.tflite.arithmetic
        weights.tflite.trace weights.tflite.identify weights.tflite.normalisation weights.tflite
        weights.unfolding weights.reading weights.importing weights
        recipe augment loader
        weights.conventions weights.detective
        training.plan training.speed training.device training.optimization training.interrupt training.head
        training.state training.run_folder training.loop training.run training
    """,
    "delivery": """
        exporting.golden exporting.c exporting.onnx exporting.formats exporting.card exporting.contents
        exporting.destination exporting exporting.litert exporting.ncnn exporting.peers
        exporting.written exporting.state_dict exporting.keras_weights
        proof.theirs proof
        explain.program explain.figure explain.subject explain.separable explain.multipliers explain.manifold
        explain.unfolded explain.accuracy explain.activations explain.gates explain.page explain
        cli.terminal cli.networks cli.published cli.detection cli.benching cli.verbs cli
        demo
        __main__
    """,
}
LAYERS = {layer: modules.split() for layer, modules in _IN_ORDER.items()}
ORDER = list(chain.from_iterable(LAYERS.values()))
LAYER_OF = {module: layer for layer, modules in LAYERS.items() for module in modules}

AGAINST_THE_ORDER = {
    ("runtime.torch_session", "network"): "an engine that runs the network of the learning layer",
    ("cli", "demo"): "the verb `demo` types the other verbs",
}

# Packages beside the standard library: as a module is imported, and inside functions alone.
NOW = {
    "values": {"numpy", "PIL", "safetensors"},
    "engine": {"numpy", "PIL"},
    "learning": {"numpy", "PIL", "safetensors", "torch"},
    "delivery": {"numpy", "PIL", "safetensors", "torch", "typer", "rich"},
}
WHEN_USED = {
    "values": {"pillow_heif"},
    "engine": {"matplotlib", "jinja2", "markupsafe", "onnxruntime", "openvino", "ai_edge_litert", "ncnn"},
    "learning": {"accelerate", "h5py"},
    "delivery": {"onnx", "onnxscript", "litert_torch", "pnnx", "sklearn", "h5py"}
    | {"timm", "torchvision", "transformers"}
    | {"keras"},
}
WITH_TORCH = {"runtime.torch_session"}
"""In the engine layer the one module that imports torch: it is imported when that engine is opened."""

PROGRAMS = {f"exporting/example/{name}.py" for name in ("predict", "selftest", "onnx/engine", "c/engine")}
"""Not modules of ours: they are copied into every bundle and run there, without this package."""


class Import(NamedTuple):
    """One import of `target`, a module of ours (without `mobilenets.`) or the name of a package."""

    target: str
    ours: bool
    when_used: bool
    """Inside a function, or for the type checker alone."""
    line: int


def module_name(file: Path) -> str:
    """`runtime/__init__.py` → `runtime`; the package itself is the empty name."""
    return ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


FILES = {
    module_name(file): file
    for file in sorted(SOURCE.rglob("*.py"))
    if file.relative_to(SOURCE).as_posix() not in PROGRAMS
}


@cache
def imports(file: Path) -> tuple[Import, ...]:
    """Every import in `file`, wherever it stands."""

    def visit(node: ast.AST, when_used: bool) -> Iterator[Import]:
        deferred = when_used or isinstance(node, ast.FunctionDef | ast.Lambda) or is_type_checking(node)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, deferred)
        for target in targets(node):
            first, _, rest = target.partition(".")
            yield (
                Import(rest, True, deferred, node.lineno)
                if first == "mobilenets"
                else Import(first, False, deferred, node.lineno)
            )

    return tuple(visit(ast.parse(file.read_text(encoding="utf-8")), False))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def targets(node: ast.AST) -> list[str]:
    """The modules that an import statement names: `from a import b` is `a.b` where that is a module."""
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom():
            assert node.level == 0 and node.module, f"line {node.lineno}: imports are absolute"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            return [name if name.removeprefix("mobilenets.") in FILES else node.module for name in whole]
        case ast.Call(func=ast.Name(id="import_module"), args=[ast.Constant(value=str() as name)]):
            return [name]
    return []


def test_every_module_has_its_place():
    assert sorted(ORDER) == sorted(set(FILES) - {""})
    assert len(set(ORDER)) == len(ORDER)
    assert {file for file in PROGRAMS if (SOURCE / file).is_file()} == PROGRAMS


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_from_those_before_it(module):
    before = {"", *ORDER[: ORDER.index(module)]}
    for found in imports(FILES[module]):
        allowed = found.target in before or (module, found.target) in AGAINST_THE_ORDER
        assert not found.ours or allowed, f"{FILES[module]}:{found.line} imports {found.target}"


def test_the_exceptions_are_used():
    used = {(module, found.target) for module in ORDER for found in imports(FILES[module]) if found.ours}
    assert set(AGAINST_THE_ORDER) <= used
    for importer, imported in AGAINST_THE_ORDER:
        assert ORDER.index(importer) < ORDER.index(imported)


@pytest.mark.parametrize("module", ORDER)
def test_a_layer_uses_its_packages_only(module):
    order = list(LAYERS)
    layers = order[: order.index(LAYER_OF[module]) + 1]
    now = NOW[LAYER_OF[module]] | ({"torch"} if module in WITH_TORCH else set())
    when_used = now.union(*(WHEN_USED[layer] | NOW[layer] for layer in layers))
    for found in imports(FILES[module]):
        if not found.ours and found.target not in sys.stdlib_module_names:
            allowed = when_used if found.when_used else now
            assert found.target in allowed, f"{FILES[module]}:{found.line} imports {found.target}"


def test_the_package_itself_imports_nothing_of_ours():
    """`import mobilenets` is the standard library; its names are for the type checker until used."""
    for found in imports(FILES[""]):
        assert found.when_used if found.ours else found.target in sys.stdlib_module_names


def test_programs_for_bundles_do_without_us():
    for name in PROGRAMS:
        for found in imports(SOURCE / name):
            allowed = {
                "numpy",
                "PIL",
                "onnxruntime",
                "support",
                "predict",
                "engine",
            } | sys.stdlib_module_names
            assert not found.ours and found.target in allowed, f"{name}:{found.line} imports {found.target}"


def test_no_pickle_is_opened_but_by_import():
    """`torch.load` stands once, with `weights_only=True`; nothing else that reads pickles is imported."""
    readers = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    users = {m for m in ORDER for found in imports(FILES[m]) if found.target in readers and not found.ours}
    assert users <= {"weights.pytorch_file"}
    calls = [
        (module, {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords})
        for module in ORDER
        for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load", "numpy.load")
    ]
    pickles = [(module, how) for module, how in calls if how.get("allow_pickle") != "False"]
    assert [module for module, _ in pickles] == ["weights.pytorch_file"]
    assert pickles[0][1]["weights_only"] == "True"


def test_one_module_speaks_to_the_network():
    speakers = {"socket", "ssl", "urllib", "http", "ftplib", "smtplib", "requests", "httpx", "aiohttp"}
    for module in ORDER:
        for found in imports(FILES[module]):
            allowed = found.ours or found.target not in speakers or module == "weights.transfer"
            assert allowed, f"{FILES[module]}:{found.line}"


def test_imports_are_found_wherever_they_stand(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        "import numpy.typing\n"
        "from mobilenets.report import card, write_report\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "class A:\n    def f(self):\n        from mobilenets import zoo\n        import_module('jinja2')\n"
    )
    assert list(imports(file)) == [
        Import("numpy", False, False, 1),
        Import("report.card", True, False, 2),
        Import("report", True, False, 2),
        Import("torch", False, True, 4),
        Import("zoo", True, True, 7),
        Import("jinja2", False, True, 8),
    ]


@pytest.mark.parametrize("module", ORDER)
def test_functions_name_their_arguments(module):
    """No `**kwargs`: a misspelt argument is an error."""
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            assert node.args.kwarg is None, f"{FILES[module]}:{node.lineno}"


# --- what is imported when ----------------------------------------------------------------------


def python(program: str, *arguments: str) -> str:
    """What a fresh interpreter prints that runs `program` and treats warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


HEAVY = ("torch", "accelerate", "matplotlib", "sklearn", "onnx", "onnxruntime", "jinja2", "typer", "rich")
LOADED = f"import sys; print([name for name in {HEAVY!r} if name in sys.modules])"


@pytest.mark.slow
def test_importing_values_and_engine_brings_no_torch():
    """Nor any other engine, nor what only the command line and the report use."""
    modules = [m for m in LAYERS["values"] + LAYERS["engine"] if m not in WITH_TORCH]
    program = "\n".join(f"import mobilenets.{module}" for module in modules)
    assert python(f"{program}\n{LOADED}") == "[]"


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["summary", "mobilenet_v2_100", "--json"],
        ["summary", "mobilenet_v2_100", "--target", "native", "--json"],
        ["weights", "v3", "--json"],
    ],
)
def test_reading_networks_on_the_command_line_brings_no_torch(arguments):
    """`mobilenets summary` and `mobilenets weights` answer at once."""
    run = f"from mobilenets.cli import run_command; run_command({arguments!r})"
    loaded = python(f"{run}\n{LOADED}").splitlines()[-1]
    assert "torch" not in loaded and "matplotlib" not in loaded


def test_import_is_quick():
    """Under 0.15 s, best of five, in interpreters of their own."""
    program = (
        "import time; began = time.perf_counter(); import mobilenets; print(time.perf_counter() - began)"
    )
    assert min(float(python(program)) for _ in range(5)) < 0.15


def test_import_brings_the_standard_library_alone():
    program = "import sys; before = set(sys.modules); import mobilenets; print(*set(sys.modules) - before)"
    brought = {name.partition(".")[0] for name in python(program).split()}
    assert brought - sys.stdlib_module_names == {"mobilenets"}
    assert "mobilenets.zoo" not in python(program).split()


# --- the public names ---------------------------------------------------------------------------


def test_public_names_are_functions_and_the_zoo():
    """A verb is a function also after the module of a similar name was imported."""
    for name in ("training", "evaluation", "prediction", "exporting", "weights", "folder", "checkpoint"):
        import_module(f"mobilenets.{name}")
    for name in set(mobilenets.__all__) - {"zoo", "__version__"}:
        assert callable(getattr(mobilenets, name)), name
        assert not isinstance(getattr(mobilenets, name), ModuleType), name
    assert isinstance(mobilenets.zoo, ModuleType)
    assert dir(mobilenets) == sorted(mobilenets.__all__)


def test_the_type_checker_sees_the_same_names():
    tree = ast.parse(FILES[""].read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if is_type_checking(node)]
    declared = {
        alias.name: node.module for node in block.body for alias in node.names if node.module != "mobilenets"
    }
    assert declared == {name: f"mobilenets.{home}" for name, home in mobilenets._HOME.items()}
    assert set(mobilenets.__all__) == {*declared, "zoo", "__version__"}
    for name, home in declared.items():
        assert getattr(mobilenets, name) is getattr(import_module(home), name)


def test_a_name_that_does_not_exist():
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        mobilenets.trian  # noqa: B018
