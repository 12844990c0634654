"""The folder that a run writes into: found, claimed, and recognised again for a resume."""

from pathlib import Path

from mobilenets.checkpoint import MODEL_FILE
from mobilenets.errors import InputError, Interrupted, MobilenetsError, TrainingDiverged
from mobilenets.files import write_failed
from mobilenets.folder import Folder
from mobilenets.text import command_line, printable
from mobilenets.training import state
from mobilenets.training.interrupt import StopRequest
from mobilenets.training.plan import Plan, read_plan

PLAN_FILE = "plan.json"
SPLIT_FILE = "split.csv"
METRICS_FILE = "metrics.json"


def check_out(out: str | Path | None) -> None:
    """Refuse a folder that holds something: nothing is ever written over."""
    path = Path(out) if out is not None else None
    if path is not None and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(
            "exists already and is not empty.",
            file=path,
            remedy="Choose another with -o, or go on with a stopped run there with --resume.",
        )


def claim(folder: Folder, out: str | Path | None) -> Path:
    """Make `out`, or the next free `runs/<folder>-<n>`, so that no other run takes it."""
    check_out(out)
    try:
        if out is not None:
            Path(out).mkdir(parents=True, exist_ok=True)
            return Path(out)
        stem = folder.root.stem if folder.root.is_file() else folder.root.resolve().name
        Path("runs").mkdir(exist_ok=True)
        n = 1
        while True:
            path = Path("runs") / f"{stem}-{n}"
            try:
                path.mkdir()
                return path
            except FileExistsError:
                n += 1
    except OSError as error:
        raise write_failed(Path(out or "runs"), error) from error


def stored_plan(run: str | Path) -> Plan:
    """The plan of a run that was stopped and can be resumed; `InputError` for any other."""
    run = Path(run)
    if state.exists(run):
        return read_plan(run / PLAN_FILE)
    if not run.exists():
        raise InputError(
            "there is no such run folder.", file=run, remedy="Runs are under runs/ unless -o says."
        )
    if (run / METRICS_FILE).exists():
        raise InputError(
            "is a finished run: there is nothing to go on with.",
            file=run,
            remedy=f"Start from its model with: --init {printable(str(run))}",
        )
    raise InputError(
        "is not a run that was stopped.", file=run, remedy="It was stopped before its first save."
    )


def check_same_pictures(run: Path, folder: Folder) -> None:
    """Refuse to resume on other pictures than the run began with."""
    file = run / SPLIT_FILE
    if not file.exists() or file.read_bytes() != folder.split_csv(run).encode("utf-8", "surrogateescape"):
        raise InputError(
            f"its pictures are not those that the run in {printable(str(run))} began with.",
            file=folder.root,
            remedy="Go on with the unchanged folder, or start a new run with --init.",
        )


def with_way_on(error: MobilenetsError, run: Path, folder: Folder, stop: StopRequest) -> MobilenetsError:
    """Say what was kept and how to go on."""
    model = run / MODEL_FILE
    if isinstance(error, TrainingDiverged) and model.exists():
        error.remedy = f"{error.remedy}\nThe best model so far is kept: {printable(str(model))}"
    if isinstance(error, Interrupted):
        if stop.signal == 15:
            error.exit_code = 143  # type: ignore[misc]
        kept = f"The best model so far: {printable(str(model))}\n" if model.exists() else ""
        words = ["train", str(folder.root), "--resume", str(run)]
        error.remedy = f"{kept}Go on with: {command_line(words)}"
    return error
