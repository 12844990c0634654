"""From a checkpoint to a bundle: a folder that runs by itself, proven before it counts.

`export` converts, opens what it converted, compares it with the model it came from, runs the bundle's
own self-test, and only then gives the folder its name. A comparison that fails leaves nothing behind.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenets import checkpoint as checkpoints
from mobilenets.checkpoint import MODEL_FILE, Checkpoint
from mobilenets.compiler.targets import TARGETS
from mobilenets.errors import CheckpointError, GateFailed, InputError, UnknownName
from mobilenets.exporting import contents, golden
from mobilenets.exporting.destination import check_destination
from mobilenets.exporting.formats import FORMATS, Format, Options
from mobilenets.exporting.onnx import OPSETS
from mobilenets.files import replacing_folder
from mobilenets.pictures import load
from mobilenets.preprocessing import prepare
from mobilenets.progress import SILENT, Progress
from mobilenets.runtime import ENGINES, Session
from mobilenets.runtime.bundle import Bundle, is_bundle, read_bundle
from mobilenets.runtime.compiled_session import CompiledSession
from mobilenets.runtime.torch_session import TorchSession
from mobilenets.text import count, file_name, printable
from mobilenets.tolerances import LOGITS, Agreement, agreement

__all__ = ["FORMATS", "OPSETS", "Format", "export"]


def export(
    model: Checkpoint | str | Path,
    to: str = "onnx",
    *,
    out: str | Path | None = None,
    pictures: str | Path | None = None,
    opset: int = OPSETS[0],
    target: str = "native",
    precision: str = "fp32",
    single_threaded: bool = False,
    progress: Progress = SILENT,
) -> Bundle:
    """Write `model` (a checkpoint, its path, or a run folder) as a bundle in the format `to`.

    `out` is the bundle's folder. Without it, the bundle lies beside the checkpoint (in its run folder)
    and is called after it: `flowers.safetensors` gives `flowers-onnx`, a run's `model.safetensors` is
    called after its network; a checkpoint in memory goes to the working directory. A bundle that
    stands there is replaced; anything else is an `InputError`.

    The golden pictures are generated; up to `golden.MAX_TAKEN` from the folder `pictures` are added.
    `target` (a key of `compiler.targets.TARGETS`), `precision` (`fp32` or `bf16`) and `single_threaded` are
    for C. What another machine runs cannot be opened here: then the same source is compiled for this machine
    too, and compared.

    Raises `GateFailed`, with nothing written, where the result does not compute what `model` does.
    """
    if to not in FORMATS:
        raise UnknownName("format", to, FORMATS)
    chosen = FORMATS[to]
    if precision not in LOGITS:
        raise UnknownName("precision", precision, LOGITS)
    if precision != "fp32" and to != "c":
        raise InputError(f"{chosen.title} is written in fp32 alone; {precision} is for C (--to c).")
    asked = Options(opset, target, not single_threaded, precision, progress)
    runs_here = chosen.runs_here(asked)
    if precision != "fp32" and not runs_here and TARGETS[target].paths_bf16:
        raise InputError(f"a model in {precision} is compared where it runs, and {target} does not run here.")
    checkpoint, file = _source(model)
    folder = _destination(Path(out) if out is not None else _beside(checkpoint, file, to))
    check_destination(folder)
    images = golden.generated(checkpoint.spec.resolution)
    taken_count = 0
    if pictures is not None:
        taken, refused = golden.taken(Path(pictures), checkpoint.manifest.preprocessing)
        images, taken_count = images | taken, len(taken)
        if refused:
            progress.say(
                f"{printable(str(pictures))}: {count(refused, 'file')} left out: no usable pictures."
            )
    progress.say(f"Converting {printable(checkpoint.spec.name)} to {chosen.title} …")
    with replacing_folder(folder) as building:
        chosen.write(checkpoint, building, asked)
        files = golden.save(images, building / golden.FOLDER)
        pixels = _prepared(files, checkpoint)
        logits = TorchSession(checkpoint).run(pixels)
        unproven = contents.unproven(building, checkpoint, to, chosen.engine, chosen.model_file(asked))
        session: Session
        if runs_here:
            session = ENGINES[chosen.engine](unproven, None, progress)
        else:  # the same C, compiled for this machine
            session = CompiledSession(checkpoint, precision=precision, progress=progress)
        found = _compare(session, pixels, logits, to, file, LOGITS[precision])
        progress.say(_sentence(found))
        proof = contents.Proof(files, pixels, logits, found, taken_count)
        contents.write(unproven, checkpoint, proof, chosen, asked, source_file=file)
        read_bundle(building)
        if runs_here:
            _run_selftest(building)
        else:
            progress.say(_elsewhere(unproven.model_file.name, target))
    return read_bundle(folder)


def _source(model: Checkpoint | str | Path) -> tuple[Checkpoint, Path | None]:
    if isinstance(model, Checkpoint):
        return model, None
    path = Path(model)
    if is_bundle(path):
        raise InputError(
            "is a bundle already; an export starts from a checkpoint.",
            file=path,
            remedy="Name the run folder or the .safetensors file that it was made from.",
        )
    return checkpoints.load(path), path / MODEL_FILE if path.is_dir() else path


def _beside(checkpoint: Checkpoint, file: Path | None, to: str) -> Path:
    if file is None or file.name == MODEL_FILE:
        return (Path() if file is None else file.parent) / f"{file_name(checkpoint.spec.name)}-{to}"
    return file.with_name(f"{file.stem}-{to}")


def _destination(out: Path) -> Path:
    """`out`, or where it leads: a link and a folder without a name of its own cannot be replaced."""
    return Path(os.path.realpath(out)) if out.is_symlink() or out.name in ("", "..") else out


def _prepared(files: list[Path], checkpoint: Checkpoint) -> NDArray[np.uint8]:
    """What the network sees of the golden pictures, read back from their files."""
    contract, side = checkpoint.manifest.preprocessing, checkpoint.spec.resolution
    return np.stack([prepare(load(file, exif=contract.exif), contract, side) for file in files])


def _compare(
    session: Session,
    pixels: NDArray[np.uint8],
    logits: NDArray[np.float32],
    to: str,
    source: Path | None,
    tolerance: float,
) -> Agreement:
    """The worse of two comparisons with the source's logits: one picture at a time, and all at once."""
    if not np.isfinite(logits).all():
        raise CheckpointError(
            "its network gives NaN or infinity, so there is nothing to compare with.", file=source
        )
    single = agreement(logits, np.concatenate([session.run(one[None]) for one in pixels]), tolerance)
    together = agreement(logits, session.run(pixels), tolerance)
    found = max(single, together, key=lambda each: (not each.holds, each.relative))
    if not found.holds:
        used = ", ".join(f"{name} {version}" for name, version in contents.versions(to).items())
        raise GateFailed(
            f"the exported model is not the model it came from. {_sentence(found)}",
            file=source,
            remedy="Nothing was written. This is a fault of the conversion, not of your model: please "
            f"report it with these versions: {used}.",
        )
    return found


def _sentence(found: Agreement) -> str:
    return (
        f"Compared with torch on {count(found.n, 'picture')}, alone and together: logits at most "
        f"{found.relative:.1e} of their spread apart (allowed {found.tolerance:.0e}), "
        f"same best class on {found.top1_agreement:.0%}."
    )


def _elsewhere(model_file: str, target: str) -> str:
    return (
        f"{model_file} is for {target} and did not run: what was compared is the same source, compiled "
        "for this machine. Check it where it will run."
    )


def _run_selftest(folder: Path) -> None:
    """Run the bundle's own check as its users will: in a process that knows only the bundle."""
    done = subprocess.run(  # our own program, no shell
        [sys.executable, "-B", "selftest.py"],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        last = next(reversed(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
        raise GateFailed(
            f"the bundle's own self-test failed: {printable(last)}", remedy="Nothing was written."
        )
