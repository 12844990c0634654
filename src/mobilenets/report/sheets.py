"""Contact sheets: pictures exactly as the network sees them, before training and after a test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mobilenets.errors import PictureError
from mobilenets.evaluation import Evaluation
from mobilenets.files import write_bytes
from mobilenets.folder import Folder, Picture
from mobilenets.pictures import load
from mobilenets.preprocessing import Preprocessing, prepare
from mobilenets.report.style import LIGHT, encoded, font_for, shortened
from mobilenets.threads import in_threads

TILES = 48
"""Pictures of a sheet before training."""
WRONG_TILES = 24
"""Pictures on the sheet of mistakes."""
_SIDE, _GAP, _MARGIN = 168, 14, 26
_CLASS_ROW, _MIXED_ROW, _WRONG_ROW = 12, 8, 6
"""Tiles side by side at most: of one class, of many classes with a few each, of mistakes."""
_FEW = 4
"""From so many pictures of a class on, it has rows of its own."""
_SIZES = (15, 13, 11)
"""Height of the letters of a caption's first, second and third line, in pixels."""
_GREY = "#d5d9de"


@dataclass(frozen=True)
class Tile:
    """One picture of a sheet, with what stands under it."""

    image: Image.Image | None
    """RGB, with the network's resolution; `None` where the file can no longer be read."""
    caption: tuple[str, ...]
    """Up to three lines, as they are in the file system: not yet made harmless."""


def stratified(folder: Folder, limit: int = TILES) -> tuple[Picture, ...]:
    """About `limit` training pictures, equally many of each class, drawn with the folder's seed.

    Of more than `limit` classes, that many classes spread over the list show one each. Where nothing
    is there to train on, the other splits are drawn from.
    """
    rng = np.random.default_rng(folder.seed)
    available: dict[int, list[Picture]] = {}
    for picture in folder.split("train") or folder.pictures:
        available.setdefault(picture.label, []).append(picture)
    labels = sorted(available)
    if len(labels) > limit:
        labels = [labels[i] for i in np.linspace(0, len(labels) - 1, limit).astype(int)]
    each = max(1, limit // max(1, len(labels)))
    drawn = []
    for label in labels:
        some = rng.permutation(len(available[label]))[:each]
        drawn += [available[label][i] for i in sorted(some)]
    return tuple(drawn)


def seen_tiles(folder: Folder, preprocessing: Preprocessing, resolution: int) -> list[Tile]:
    """A stratified sample of the training pictures, each with its class."""
    sample = stratified(folder)
    images = _prepared([picture.path for picture in sample], preprocessing, resolution)
    return [Tile(image, (folder.classes[p.label],)) for image, p in zip(images, sample, strict=True)]


def wrong_tiles(evaluation: Evaluation, preprocessing: Preprocessing, resolution: int) -> list[Tile]:
    """The most confident mistakes: truth, prediction with its probability, name of the picture."""
    chosen = evaluation.most_confidently_wrong(WRONG_TILES)
    images = _prepared([evaluation.paths[i] for i in chosen], preprocessing, resolution)
    tiles = []
    for image, i in zip(images, chosen, strict=True):
        said = evaluation.predicted[i]
        sure = f"{evaluation.probabilities[i, said]:.0%}"
        truth, prediction = evaluation.labels[evaluation.truth[i]], evaluation.labels[said]
        tiles.append(Tile(image, (truth, f"→ {prediction} {sure}", evaluation.names[i])))
    return tiles


def sheet(folder: Folder, preprocessing: Preprocessing, resolution: int) -> Image.Image:
    """A contact sheet of what the network will see of `folder`: to be looked at before training."""
    return seen_sheet(seen_tiles(folder, preprocessing, resolution), resolution)


def seen_sheet(tiles: Sequence[Tile], resolution: int) -> Image.Image:
    """`seen_tiles` as a contact sheet."""
    side_by_side = columns(tiles)
    groups = by_class(tiles) if side_by_side else [("", list(tiles))]
    rows = [row for _, group in groups for row in _rows(group, side_by_side or _MIXED_ROW)]
    return composed(rows, f"What the network sees, {resolution} px", "No picture was there to be seen.")


def wrong_sheet(tiles: Sequence[Tile]) -> Image.Image:
    """`wrong_tiles` as a contact sheet."""
    title, nothing = "Most confidently wrong: label, then prediction", "No test picture was named wrongly."
    return composed(_rows(tiles, _WRONG_ROW), title, nothing)


def by_class(tiles: Sequence[Tile]) -> list[tuple[str, list[Tile]]]:
    """Tiles in their order, grouped by the first line of their caption."""
    return [(label, list(group)) for label, group in groupby(tiles, lambda tile: tile.caption[0])]


def columns(tiles: Sequence[Tile]) -> int:
    """How many tiles side by side give every class its own rows; 0 where classes have too few for that."""
    largest = max((len(group) for _, group in by_class(tiles)), default=0)
    return math.ceil(largest / math.ceil(largest / _CLASS_ROW)) if largest >= _FEW else 0


def _rows(tiles: Sequence[Tile], length: int) -> list[Sequence[Tile]]:
    return [tiles[start : start + length] for start in range(0, len(tiles), length)]


def write_sheet(path: Path, folder: Folder, preprocessing: Preprocessing, resolution: int) -> Path:
    """`sheet` as a PNG in `path`."""
    write_bytes(path, encoded(sheet(folder, preprocessing, resolution), "PNG"))
    return path


def composed(rows: Sequence[Sequence[Tile]], title: str, nothing: str) -> Image.Image:
    """Rows of tiles under `title`; without any, a sheet that says `nothing`."""
    lines = max((len(tile.caption) for row in rows for tile in row), default=1)
    height = _SIDE + 8 + sum(size + 5 for size in _SIZES[:lines]) + _GAP
    width = max([4, *map(len, rows)]) * (_SIDE + _GAP) - _GAP
    top = _MARGIN + 38
    canvas = Image.new(
        "RGB", (2 * _MARGIN + width, top + max(60, len(rows) * height) + _MARGIN - _GAP), LIGHT.surface
    )
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, _MARGIN - 6), title, LIGHT.ink, font_for(title, 20))
    if not rows:
        draw.text((_MARGIN, top), nothing, LIGHT.muted, font_for(nothing, 15))
    for number, row in enumerate(rows):
        for column, tile in enumerate(row):
            _place(canvas, tile, (_MARGIN + column * (_SIDE + _GAP), top + number * height))
    return canvas


def _place(canvas: Image.Image, tile: Tile, corner: tuple[int, int]) -> None:
    x, y = corner
    draw = ImageDraw.Draw(canvas)
    if tile.image is None:
        draw.rectangle((x, y, x + _SIDE - 1, y + _SIDE - 1), _GREY)
        note = "no longer readable"
        draw.text((x + _SIDE / 2, y + _SIDE / 2), note, LIGHT.muted, font_for(note, 14), anchor="mm")
    else:
        canvas.paste(_scaled(tile.image, _SIDE), corner)
    y += _SIDE + 6
    for number, (text, size) in enumerate(zip(tile.caption, _SIZES, strict=False)):
        colour = (LIGHT.ink, LIGHT.wrong, LIGHT.muted)[number]
        _line(draw, (x, y), text, size, colour)
        y += size + 5


def _line(draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, size: int, colour: str) -> None:
    """`text` on one line no wider than a tile."""
    limit = 40
    while limit > 4:
        shown = shortened(text, limit)
        font = font_for(shown, size)
        if font.getlength(shown) <= _SIDE:
            break
        limit = min(limit, len(shown)) - 1
    draw.text(corner, shown, colour, font)


def thumbnail(image: Image.Image, side: int) -> tuple[bytes, str]:
    """A tile for a page: its bytes and media type. Small pictures stay as they are, losslessly."""
    if max(image.size) <= side // 2:
        return encoded(image, "PNG"), "image/png"
    return encoded(_scaled(image, min(side, image.width)), "JPEG"), "image/jpeg"


def _scaled(image: Image.Image, side: int) -> Image.Image:
    """Square `image` with sides of `side` pixels; small ones keep hard pixel edges, to show what is there."""
    kernel = Image.Resampling.NEAREST if 2 * image.width <= side else Image.Resampling.LANCZOS
    return image.resize((side, side), kernel)


def _prepared(
    paths: Sequence[Path], preprocessing: Preprocessing, resolution: int
) -> list[Image.Image | None]:
    def one(path: Path) -> Image.Image | None:
        try:
            pixels = prepare(load(path, exif=preprocessing.exif), preprocessing, resolution)
        except PictureError:  # it was there when it was scanned; the sheet shows a grey tile
            return None
        image = Image.fromarray(pixels[:, :, 0] if preprocessing.channels == 1 else pixels)
        if image.mode == "RGBA":
            under = Image.new("RGBA", image.size, LIGHT.surface)
            image = Image.alpha_composite(under, image)
        return image.convert("RGB")

    return list(in_threads(one, paths))
