"""The command line: one function per verb, which turns words into a call and a value into print.

Nothing is decided here. Errors become one message and an exit code in `main`, and nowhere else.
"""

import io
import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

import mobilenets
from mobilenets.cli import networks
from mobilenets.cli.terminal import say, show
from mobilenets.errors import EnvironmentFault, InputError, Interrupted, MissingExtra, MobilenetsError
from mobilenets.spec import Padding
from mobilenets.text import printable

app = typer.Typer(
    name="mobilenets",
    help="From a folder of pictures to a small, fast, proven image classifier that runs anywhere.",
    epilog="Begin with: mobilenets demo, or: mobilenets train FOLDER",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="A run folder, a checkpoint or a bundle.")]
Out = Annotated[Path | None, typer.Option("-o", "--output", metavar="PATH", help="Where to write.")]
Target = Annotated[
    str,
    typer.Option(metavar="NAME", help="C: native, x86-64 (any PC), aarch64-linux, wasm32, cortex-m4 …"),
]
Precision = Annotated[
    str, typer.Option(metavar="fp32|bf16", help="C: of weights; of maps too where bf16 is faster.")
]
SingleThreaded = Annotated[bool, typer.Option("--single-threaded", help="C: leave out the code for threads.")]
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="compiled, onnxruntime, openvino, torch. [default: a bundle's own; a checkpoint is compiled, "
        "once, or runs in torch where it cannot be]",
    ),
]
Folder = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER",
        help="Class folders; or train/ val/ test/ of them; or a CSV with path, label (or index), split.",
    ),
]
Resolution = Annotated[
    int | None,
    typer.Option(metavar="PIXELS", help="Side of the input, 32 or more. [default: the network's own]"),
]


def _version(wanted: bool) -> None:
    if wanted:
        show(f"mobilenets {mobilenets.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version
    if debug:
        os.environ["MOBILENETS_DEBUG"] = "1"


@app.command()
def models(json: Json = False) -> None:
    """List the published networks: cost, and the accuracy that their authors state."""
    networks.models(json)


@app.command()
def summary(
    model: Annotated[str, typer.Argument(metavar="NAME|MODEL", help="A network's name, or a model.")],
    resolution: Resolution = None,
    classes: Annotated[int | None, typer.Option(metavar="N", help="Number of classes.")] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Also the exact memory of the compiled network, for the targets of `compile`: the same for "
            "all of them, but that wasm32 and cortex-m4, -m7, -m55 have one thread only.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show a network layer by layer: shapes, parameters, MACs and their share."""
    networks.summary(model, resolution, classes, target, json)


@app.command()
def compare(
    models: Annotated[list[str], typer.Argument(metavar="NAME|MODEL…", help="Two or more networks.")],
    resolution: Resolution = None,
    classes: Annotated[int | None, typer.Option(metavar="N", help="Number of classes.")] = None,
    json: Json = False,
) -> None:
    """Show networks side by side, such as mobilenet_v1_full_100 against mobilenet_v1_100."""
    if len(models) < 2:
        raise InputError("compare needs two or more networks.", remedy="See: mobilenets models")
    networks.compare(models, resolution, classes, json)


@app.command()
def train(
    folder: Folder,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The network. [default: mobilenet_v3_small_100]")
    ] = None,
    init: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="Start from this checkpoint or run folder.")
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS",
            help="Side of the input. [default: the checkpoint's, else 160 or the network's]",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE.json",
            help="finetune, scratch, head-only, digits, or a file. "
            "[default: finetune with --init, else scratch]",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one field of the recipe; repeatable."),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Decides the split and every random draw.")
    ] = 0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop where a picture cannot be used, instead of leaving it out.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(metavar="cpu", help="Train on the CPU. [default: a GPU if there is one]")
    ] = None,
    output: Out = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped.")
    ] = None,
    print_recipe: Annotated[
        bool, typer.Option("--print-recipe", help="Print the recipe as JSON and stop.")
    ] = False,
) -> None:
    """Train a classifier on a folder of pictures, and write a run folder with a report."""
    from mobilenets.cli import verbs

    verbs.train(
        folder,
        model=model,
        init=init,
        resolution=resolution,
        recipe=recipe,
        settings=set_ or [],
        seed=seed,
        strict=strict,
        device=device,
        output=output,
        resume=resume,
        print_recipe=print_recipe,
        typed=_typed,
    )


@app.command()
def evaluate(
    model: Model,
    folder: Folder,
    split: Annotated[
        str | None,
        typer.Option(metavar="train|val|test|all", help="[default: test where there is one, else all]"),
    ] = None,
    engine: Engine = None,
    json: Json = False,
) -> None:
    """Score a model on labelled pictures: accuracy, balanced accuracy, per class, confusion."""
    from mobilenets.cli import verbs

    verbs.evaluate(model, folder, split=split, engine=engine, as_json=json)


@app.command()
def predict(
    model: Model,
    pictures: Annotated[
        list[Path], typer.Argument(metavar="IMAGE|FOLDER…", help="Pictures, or folders of them.")
    ],
    top: Annotated[int, typer.Option(metavar="N", min=1, help="How many labels per picture.")] = 3,
    engine: Engine = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write a CSV file.")] = None,
    json: Json = False,
) -> None:
    """Label pictures."""
    from mobilenets.cli import verbs

    verbs.predict(model, pictures, top=top, engine=engine, csv_file=csv, as_json=json)


@app.command("import")
def import_(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE|NAME",
            help="Weights of timm, torchvision, transformers, Keras or TFLite, a state dict of the same "
            "shapes, or a NAME that `mobilenets weights` lists. Several files: one TFLite network, cut up.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="MODEL", help="The checkpoint to write.")
    ] = Path("model.safetensors"),
    padding: Annotated[
        Padding | None, typer.Option(metavar="symmetric|same", help="[default: the network's]")
    ] = None,
    eps: Annotated[float | None, typer.Option(metavar="ε", help="Epsilon of the batch norms.")] = None,
    mean: Annotated[
        str | None, typer.Option(metavar="M[,M,M]", help="Of pixels in [0, 1]; 0.5 for [-1, 1].")
    ] = None,
    std: Annotated[str | None, typer.Option(metavar="S[,S,S]", help="Of pixels in [0, 1].")] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="imagenet|FILE", help="Class names: the ILSVRC table, or one a line."),
    ] = None,
    resolution: Resolution = None,
    licence: Annotated[str | None, typer.Option(metavar="TEXT", help="Licence of the weights.")] = None,
    detect: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Find the preprocessing that suits the weights on these labelled pictures."
        ),
    ] = None,
    proof: Annotated[
        bool, typer.Option("--proof/--no-proof", help="Compare with the library it is from, if installed.")
    ] = True,
) -> None:
    """Turn somebody else's weights into a checkpoint, and compare it with where it comes from."""
    from mobilenets.cli import verbs

    verbs.import_file(
        files,
        output,
        padding=padding,
        eps=eps,
        mean=mean,
        std=std,
        labels=labels,
        resolution=resolution,
        licence=licence,
        detect=detect,
        proof=proof,
    )


@app.command()
def weights(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="Part of a name or a publisher: v3_small, keras.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(metavar="permissive|NAME", help="Only those under such a licence.")
    ] = None,
    json: Json = False,
) -> None:
    """List published checkpoints that `import` knows by name: accuracy, licence, size, source."""
    from mobilenets.cli import published

    published.weights(text, licence, json)


@app.command()
def export(
    model: Model,
    to: Annotated[
        str,
        typer.Option("--to", metavar="FORMAT", help="onnx, c, or weights for torchvision, timm, keras."),
    ] = "onnx",
    pictures: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Compare on these, and put some in as golden pictures."),
    ] = None,
    opset: Annotated[int, typer.Option(metavar="18|20|21", help="ONNX operator set.")] = 18,
    target: Target = "native",
    precision: Precision = "fp32",
    single_threaded: SingleThreaded = False,
    output: Out = None,
    json: Json = False,
) -> None:
    """Write a bundle that runs by itself, or weights for another library; compared before it counts."""
    from mobilenets.cli import verbs

    verbs.export(
        model,
        to,
        pictures=pictures,
        opset=opset,
        target=target,
        precision=precision,
        single_threaded=single_threaded,
        output=output,
        as_json=json,
    )


@app.command(name="compile")
def compile_model(
    model: Model,
    pictures: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Compare on these, and put some in as golden pictures."),
    ] = None,
    target: Target = "native",
    precision: Precision = "fp32",
    single_threaded: SingleThreaded = False,
    output: Out = None,
    json: Json = False,
) -> None:
    """Make plain C of a model, and a library of it that needs nothing else: export --to c."""
    from mobilenets.cli import verbs

    verbs.export(
        model,
        "c",
        pictures=pictures,
        opset=18,
        target=target,
        precision=precision,
        single_threaded=single_threaded,
        output=output,
        as_json=json,
    )


@app.command()
def bench(
    model: Annotated[str, typer.Argument(metavar="NAME|MODEL", help="A network's name, or a model.")],
    engines: Annotated[
        str | None,
        typer.Option(metavar="A,B|all", help="Which to compare. [default: what is installed, torch one way]"),
    ] = None,
    threads: Annotated[int, typer.Option(metavar="N", help="Of each engine.")] = 1,
    batch: Annotated[int, typer.Option(metavar="N", help="Pictures of one run.")] = 1,
    rounds: Annotated[int, typer.Option(metavar="N", help="How often each engine has its turn.")] = 10,
    seconds: Annotated[float, typer.Option(metavar="S", help="Timed in every turn.")] = 1.0,
    precision: Annotated[
        str, typer.Option(metavar="fp32|bf16", help="bf16: of engines that have it, each in its way.")
    ] = "fp32",
    resolution: Resolution = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Add the result to this file, as one line of JSON.")
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Time every step of the compiled network instead.")
    ] = False,
    roofline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw those steps: .svg or .png. Implies --layers.")
    ] = None,
) -> None:
    """Time a network in every engine, in turn, and say which is the fastest, if anybody can."""
    from mobilenets.cli import benching

    if layers or roofline is not None:
        benching.layers(
            model,
            engines=engines,
            threads=threads,
            batch=batch,
            precision=precision,
            resolution=resolution,
            json=json,
            roofline=roofline,
        )
        return
    benching.bench(
        model,
        engines=engines,
        threads=threads,
        batch=batch,
        rounds=rounds,
        seconds=seconds,
        precision=precision,
        resolution=resolution,
        json=json,
    )


@app.command()
def explain(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The page to write.")] = Path(
        "explain.html"
    ),
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What to show. [default: scikit-learn's china.jpg]")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL|NAME", help="Look into this network. [default: fresh ones]")
    ] = None,
) -> None:
    """Write one page that explains the family by running it: pictures, numbers, and their code."""
    from mobilenets.cli import verbs

    verbs.explain(output, picture=picture, model=model)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where to work.")] = Path(
        "demo"
    ),
) -> None:
    """Do the whole way on handwritten digits: folder, training, score, prediction, ONNX."""
    from mobilenets import demo as digits

    digits.run(output)


_STOPPED = 130
_VERBS = {
    command.name or command.callback.__name__ for command in app.registered_commands if command.callback
}


_typed: list[str] = []
"""The words of the command under way, for a report that says how to repeat it."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 gate, 2 input, 3 environment, 130 and 143 stopped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console or file that cannot say ≥ gets an escape
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(run_command(sys.argv[1:] if arguments is None else arguments))


def _terminated(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


class Terminated(BaseException):
    """SIGTERM outside of a training loop: leave every `finally` and `with`, then exit with 143."""


def run_command(arguments: list[str]) -> int:
    """Run one command line and return its exit code; whatever goes wrong has been said."""
    _typed[:] = arguments
    try:
        result: Any = app(arguments, standalone_mode=False, prog_name="mobilenets")
    except TyperException as error:
        verb = next((word for word in arguments if not word.startswith("-")), "")
        help_line = " ".join(
            part for part in ("mobilenets", verb if verb in _VERBS else "", "--help") if part
        )
        return _fail(InputError(error.format_message(), remedy=f"See: {help_line}"))
    except (typer.Abort, KeyboardInterrupt):
        result = _STOPPED
    except Terminated:
        say("Ended by a signal.")
        return 143
    except BrokenPipeError:  # `mobilenets models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _fail(_designed(error))
    if result == _STOPPED:  # typer turns Ctrl-C into this code
        say("\nStopped. Everything that was finished before is still there.")
    return result if isinstance(result, int) else 0


def _designed(error: Exception) -> MobilenetsError:
    """The error as this package words it; what it does not know is a bug."""
    match error:
        case MobilenetsError():
            return error
        case ModuleNotFoundError():
            return _missing(error)
        case MemoryError():
            return EnvironmentFault("the memory is full.", remedy="Try smaller batches: --set batch_size=8")
        case RuntimeError() if "out of memory" in str(error) or "can't allocate memory" in str(error):
            return EnvironmentFault(
                f"the memory is full ({printable(str(error).splitlines()[0])}).",
                remedy="Try smaller batches: --set batch_size=8",
            )
        case OSError():
            return EnvironmentFault(f"{error.strerror or error}.", file=error.filename)
        case _:
            text = printable(f"{type(error).__name__}: {error}")
            return EnvironmentFault(
                f"this is a bug in mobilenets {mobilenets.__version__}: {text}",
                remedy="Please report it with what `mobilenets --debug …` prints.",
            )


def _fail(error: MobilenetsError) -> int:
    if os.environ.get("MOBILENETS_DEBUG"):
        traceback.print_exc()
    text = str(error)
    say(f"\n{text[:1].upper()}{text[1:]}" if isinstance(error, Interrupted) else f"Error: {text}")
    return error.exit_code


_EXTRA_OF = {
    "torch": "train",
    "accelerate": "train",
    "sklearn": "train",
    "matplotlib": "train",
    "jinja2": "train",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
    "h5py": "keras",
    "openvino": "openvino",
    "ai_edge_litert": "litert",
    "litert_torch": "litert",
    "ncnn": "ncnn",
    "pnnx": "ncnn",
}


def _missing(error: ModuleNotFoundError) -> MobilenetsError:
    package = (error.name or "").split(".")[0]
    if package in _EXTRA_OF:
        return MissingExtra("this command", _EXTRA_OF[package], package)
    return EnvironmentFault(
        f"the module '{error.name}' is missing.", remedy="Reinstall: pip install mobilenets"
    )
