"""Golden pictures: small pictures with the logits that the source model gives for them.

They travel in the bundle, so that any device can check later that it still computes the same. The
generated ones are nobody's, the same in every export of a resolution, and chosen for what goes wrong
between implementations: enlarging, shrinking, odd sizes, grey, transparency, EXIF rotation, borders.
"""

import random
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilenets.errors import FolderError, PictureError
from mobilenets.pictures import load
from mobilenets.prediction import expand
from mobilenets.preprocessing import Preprocessing, to_mode
from mobilenets.text import count

FOLDER = "golden"
MAX_TAKEN = 16
"""How many pictures of the user's folder go into a bundle."""
MAX_SIDE = 512
"""Longer side of those, in pixels: a bundle is for devices."""
_ORIENTATION, _TURNED = 0x0112, 6


def _gradient(width: int, height: int) -> NDArray[np.uint8]:
    """Red grows to the right, green downwards, blue along the diagonal: H×W×3."""
    y, x = np.mgrid[0:height, 0:width]
    across, down = 255 * x / max(1, width - 1), 255 * y / max(1, height - 1)
    return np.stack([across, down, (across + down) / 2], axis=2).astype(np.uint8)


def _noise(width: int, height: int) -> NDArray[np.uint8]:
    """Independent bytes: every pixel counts."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _discs(width: int, height: int) -> NDArray[np.uint8]:
    """Coloured discs with hard edges on a gradient: something to tell apart."""
    pixels = _gradient(width, height)
    y, x = np.mgrid[0:height, 0:width]
    generator = np.random.default_rng(1)
    for _ in range(12):
        centre = generator.random(2) * (height, width)
        radius = generator.uniform(0.05, 0.25) * min(width, height)
        inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        pixels[inside] = generator.integers(0, 256, 3)
    return pixels


def _stripes(width: int, height: int) -> NDArray[np.uint8]:
    """Waves that become finer to the right: they turn into moiré where a kernel is too narrow."""
    x, y = np.arange(width) / width, np.arange(height) / height
    wave = np.sin(x**2 * width * 1.5)[None, :] * np.cos(y * 40)[:, None]
    grey = (127.5 + 127.5 * wave).astype(np.uint8)
    return np.stack([grey, 255 - grey, np.roll(grey, 5, axis=1)], axis=2)


def _with_alpha(width: int, height: int) -> Image.Image:
    """The discs, fading out to the right."""
    pixels = _discs(width, height)
    alpha = np.broadcast_to(255 - pixels[..., :1] // 2, (height, width, 1))
    return Image.fromarray(np.concatenate([pixels, alpha.astype(np.uint8)], axis=2))


def generated(resolution: int) -> dict[str, Image.Image]:
    """Name → picture, for a network that sees `resolution`×`resolution` pixels."""
    side = resolution
    return {
        "gradient": Image.fromarray(_gradient(side, side)),
        "noise": Image.fromarray(_noise(side, side)),
        "discs-wide": Image.fromarray(_discs(2 * side + 3, side + 11)),
        "stripes-tall": Image.fromarray(_stripes(side + 5, 2 * side - 1)),
        "small": Image.fromarray(_discs(23, 17)),
        "grey": Image.fromarray(_stripes(side + 7, side + 2)[..., 0]),
        "transparent": _with_alpha(side + 1, side + 30),
        "turned": Image.fromarray(_discs(side + 40, side + 9)),
    }


def taken(
    folder: Path, preprocessing: Preprocessing, *, at_most: int = MAX_TAKEN
) -> tuple[dict[str, Image.Image], int]:
    """Up to `at_most` pictures from anywhere below `folder`, and how many files were refused on the way.

    Which ones is decided by a fixed seed. They are upright, in the network's channels, at most
    `MAX_SIDE` pixels long, and have neither their names nor their metadata: a bundle goes to others.
    Raises `FolderError` where there is no folder or no picture.
    """
    files = list(expand([folder]))
    random.Random(0).shuffle(files)  # noqa: S311  # a spread over the folder, no secret
    pictures: dict[str, Image.Image] = {}
    refused = 0
    for file in files:
        if len(pictures) == at_most:
            break
        try:
            image = to_mode(load(file, exif=preprocessing.exif), preprocessing)
        except PictureError:
            refused += 1
            continue
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        image.info.clear()
        pictures[f"taken-{len(pictures) + 1:02d}"] = image
    if not pictures:
        raise FolderError(f"has no picture that can be decoded, of {count(refused, 'file')}.", file=folder)
    return pictures, refused


def save(pictures: dict[str, Image.Image], folder: Path) -> list[Path]:
    """Write the pictures as PNGs into `folder`, which is made; their paths in order."""
    folder.mkdir(parents=True)
    files = []
    for name, image in pictures.items():
        file = folder / f"{name}.png"
        exif = Image.Exif()
        if name == "turned":
            exif[_ORIENTATION] = _TURNED
        image.save(file, format="PNG", exif=exif, optimize=True)
        files.append(file)
    return files
