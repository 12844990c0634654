"""Say what is on pictures:  python predict.py PICTURE [PICTURE …]

Needs the packages in requirements.txt and the files beside it, nothing else. Take it apart, or use it
from your own program:

    from predict import Classifier
    classifier = Classifier()
    for label, probability in classifier.predict("photo.jpg"):
        print(label, probability)
"""

import json
import sys
from pathlib import Path

import numpy as np
from engine import Engine
from numpy.typing import NDArray
from PIL import Image, ImageOps
from support.preprocessing import Preprocessing, prepare
from support.text import printable

HERE = Path(__file__).resolve().parent


class Classifier:
    """The model in this folder."""

    def __init__(self, folder: Path = HERE):
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.labels: list[str] = manifest["labels"]
        self.preprocessing = Preprocessing.from_json(manifest["preprocessing"])
        self.resolution: int = manifest["spec"]["resolution"]
        self.engine = Engine(folder / manifest["bundle"]["model_file"])

    def pixels(self, picture: str | Path) -> NDArray[np.uint8]:
        """A picture file as the network's pixels: `uint8`, height×width×channels."""
        with Image.open(picture) as image:
            upright = ImageOps.exif_transpose(image) if self.preprocessing.exif else image
            pixels: NDArray[np.uint8] = prepare(upright, self.preprocessing, self.resolution)
            return pixels

    def logits(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`uint8` N×height×width×channels to `float32` N×classes; normalisation is in the model."""
        result: NDArray[np.float32] = self.engine.logits(batch)
        return result

    def predict(self, picture: str | Path, top: int = 5) -> list[tuple[str, float]]:
        """The `top` best labels of a picture file with their probabilities, the best first."""
        logits = self.logits(self.pixels(picture)[None])[0].astype(np.float64)
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        return [(self.labels[i], float(shares[i])) for i in np.argsort(-shares, kind="stable")[:top]]


def main(pictures: list[str]) -> int:
    """Print the five best labels of each picture; 2 where one could not be read."""
    if not pictures:
        print("usage: python predict.py PICTURE [PICTURE …]", file=sys.stderr)
        return 2
    classifier = Classifier()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # old consoles
    failed = False
    for picture in pictures:
        try:
            best = classifier.predict(picture)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            print(f"{printable(picture)}: cannot be read ({printable(str(error))})", file=sys.stderr)
            failed = True
            continue
        print(printable(picture))
        for label, probability in best:
            print(f"  {probability:6.1%}  {printable(label)}")
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
