"""`mobilenets demo`: the main job on scikit-learn's handwritten digits, by the very commands a user types.

The digits are real scans (1,797 of 8×8 pixels with 17 grey levels, from the UCI *Optical Recognition
of Handwritten Digits* set, CC BY 4.0) that come with scikit-learn, so nothing is downloaded.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from mobilenets.checkpoint import MODEL_FILE
from mobilenets.cli import run_command
from mobilenets.cli.terminal import say
from mobilenets.errors import MissingExtra, MobilenetsError
from mobilenets.files import replacing_folder
from mobilenets.text import command_line, printable

SIDE = 32


def run(folder: Path) -> None:
    """Work under `folder`. What is finished there is not done again, and a stopped run goes on."""
    digits, trained, bundle = folder / "digits", folder / "run", folder / "onnx"
    if not digits.exists():
        say(f"Writing scikit-learn's handwritten digits to {printable(str(digits))}: one folder per class.")
        write_digits(digits)
    few = [str(digits / name / "0000.png") for name in ("zero", "three", "eight")]
    if _finished(trained):
        say(
            f"\n# trained already: {printable(str(trained))}; remove {printable(str(folder))} to start afresh"
        )
    else:
        _type(_train_words(digits, trained))
    _type(["evaluate", str(trained), str(trained / "split.csv")])
    _type(["predict", str(trained), *few])
    if _newer(bundle / "certificate.json", trained / MODEL_FILE):
        say(f"\n# exported already: {printable(str(bundle))}")
    else:
        _type(["export", str(trained), "--to", "onnx", "-o", str(bundle)])
    _type(["predict", str(bundle), *few])
    say(f"\nOpen {printable(str(trained / 'report.html'))} in a browser.")
    say("Now your own photos: put them into one folder per class, and type")
    say("    mobilenets train FOLDER")


def _type(words: list[str]) -> None:
    """Show a command and run it."""
    say(f"\n$ {command_line(words)}")
    code = run_command(words)
    if code:
        raise _Stopped(code)


def _finished(trained: Path) -> bool:
    return (trained / "metrics.json").exists() and not (trained / "resume").exists()


def _newer(file: Path, than: Path) -> bool:
    return file.exists() and file.stat().st_mtime_ns >= than.stat().st_mtime_ns


def _train_words(digits: Path, trained: Path) -> list[str]:
    if (trained / "resume").exists():
        return ["train", str(digits), "--resume", str(trained)]
    network = ["--model", "mobilenet_v2_035", "--resolution", str(SIDE)]
    return ["train", str(digits), *network, "--recipe", "digits", "-o", str(trained)]


class _Stopped(MobilenetsError):
    """A step failed and has said why."""

    def __init__(self, code: int):
        super().__init__("the demo ends here, since the command above failed.")
        self.exit_code = code  # type: ignore[misc]


NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def write_digits(folder: Path) -> None:
    """The digits as `folder`/<name>/<number>.png: grey, enlarged four times to 32×32 pixels.

    The folder appears when it is complete.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra("the demo's pictures", "train", "scikit-learn") from error
    data = load_digits()
    counts = [0] * len(NAMES)
    with replacing_folder(folder) as unfinished:
        for scan, label in zip(data.images, data.target, strict=True):
            grey = Image.fromarray((255 - scan * (255 / 16)).round().astype(np.uint8))
            file = unfinished / NAMES[label] / f"{counts[label]:04d}.png"
            counts[label] += 1
            file.parent.mkdir(parents=True, exist_ok=True)
            grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file)
