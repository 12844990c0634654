"""`mobilenets demo`: the main job on scikit-learn's handwritten digits, by the very commands a user types.

The digits are real scans (1,797 of 8×8 pixels with 17 grey levels, from the UCI *Optical Recognition
of Handwritten Digits* set, CC BY 4.0) that come with scikit-learn, so nothing is downloaded.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from mobilenets.cli import run_command
from mobilenets.cli.terminal import say
from mobilenets.cli.verbs import command_line
from mobilenets.errors import MissingExtra, MobilenetsError
from mobilenets.files import replacing_folder
from mobilenets.text import printable

SIDE = 32


def run(folder: Path) -> None:
    """Work under `folder`. Steps whose result is there already are not done again."""
    digits, trained, bundle = folder / "digits", folder / "run", folder / "onnx"
    if not digits.exists():
        say(f"Writing scikit-learn's handwritten digits to {printable(str(digits))}: one folder per class.")
        write_digits(digits)
    few = [str(digits / name / "0000.png") for name in ("zero", "three", "eight")]
    steps = [
        (trained / "report.html", _train_words(digits, trained)),
        (None, ["evaluate", str(trained), str(trained / "split.csv")]),
        (None, ["predict", str(trained), *few]),
        (bundle / "certificate.json", ["export", str(trained), "--to", "onnx", "-o", str(bundle)]),
        (None, ["predict", str(bundle), *few]),
    ]
    for result, words in steps:
        if result is not None and result.exists():
            say(f"\n# there already: {printable(str(result))}; remove it to start afresh")
            continue
        say(f"\n$ {command_line(words)}")
        code = run_command(words)
        if code:
            raise _Stopped(code)
    say(f"\nOpen {printable(str(trained / 'report.html'))} in a browser.")
    say("Now your own photos: put them into one folder per class, and type")
    say("    mobilenets train FOLDER")


def _train_words(digits: Path, trained: Path) -> list[str]:
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
