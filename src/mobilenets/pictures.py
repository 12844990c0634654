"""From a file to a decoded, upright picture, or to a `PictureError` that says what is wrong with it.

The content decides what a file is, never its name. Pillow decodes everything but HEIC. simplejpeg
was tried: where the result must be a Pillow picture, to be resized, it is no faster than Pillow 13.
"""

import hashlib
import logging
import re
import stat
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from mobilenets import formats
from mobilenets.errors import MissingExtra, PictureError
from mobilenets.preprocessing import Preprocessing, prepare
from mobilenets.text import count
from mobilenets.threads import in_threads

MAX_PIXELS = 178_956_970
"""More is taken for a decompression bomb: twice the size at which Pillow warns, where it refuses too."""
MAX_BYTES = 1 << 30
MAX_ASPECT = 100
"""Longer side ÷ shorter side. A longer strip has no meaningful square crop, and enlarging its
shorter side to the network's would take gigabytes."""
SMALL = 32
"""Pixels of the shorter side below which a picture is reported, since it must be enlarged."""

_MODES_8_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr")
_MODES_16_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")
"""Together, Pillow's modes that `preprocessing.to_mode` turns into 8 bits without losing their meaning."""
_END_MARK = {"JPEG": b"\xff\xd9", "PNG": b"IEND", "GIF": b";"}
"""What stands within the last bytes of a file that is whole."""
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class Examined:
    """What one look at a usable file found."""

    sha256: str
    format: str
    """A key of `formats.FORMATS`."""
    width: int
    height: int
    """Pixels, after the EXIF orientation."""
    oddities: tuple[tuple[str, str], ...]
    """(kind, detail) of everything unusual that was dealt with."""


def load(path: str | Path, *, exif: bool = True, at_least: int | None = None) -> Image.Image:
    """The picture in `path`, decoded in full, in its own mode; of an animation the first frame.

    With `exif` it is turned as its EXIF orientation says; TIFF and HEIF always are, by their decoders.
    `at_least` is for augmented training views only: a JPEG may then come at 1/2, 1/4 or 1/8 of its
    size, with no side below `at_least` pixels that was not so before. Raises `PictureError` naming
    the file.
    """
    with _naming(path):
        return decode(_read(Path(path)), exif=exif, at_least=at_least)


def decode(data: bytes, *, exif: bool = True, at_least: int | None = None) -> Image.Image:
    """`load` for bytes in memory; the `PictureError` then names no file."""
    format_ = formats.identify(data[: formats.HEAD_BYTES])
    with _QUIET, _designed(format_, data):
        return _pixels(_open(data, format_), exif=exif, at_least=at_least)[0]


def examine(path: str | Path) -> Examined:
    """Decode the picture in `path` once and say what it is. Raises `PictureError` as `load` does."""
    path = Path(path)
    with _naming(path):
        data = _read(path)
        format_ = formats.identify(data[: formats.HEAD_BYTES])
        with _QUIET, _designed(format_, data):
            lazy = _open(data, format_)
            oddities = _oddities(lazy, format_, path.suffix)
            image, orientation = _pixels(lazy, exif=True, at_least=None)
        if orientation in _UPRIGHT:
            oddities.append(("EXIF-rotated", f"turned upright (orientation {orientation})"))
        if min(image.size) < SMALL:
            oddities.append(("very small", f"{image.width}×{image.height} pixels"))
        return Examined(
            sha256=hashlib.sha256(data).hexdigest(),
            format=format_,
            width=image.width,
            height=image.height,
            oddities=tuple(oddities),
        )


def batches(
    paths: Sequence[str | Path],
    preprocessing: Preprocessing,
    resolution: int,
    *,
    batch_size: int,
    threads: int | None = None,
    on_error: Callable[[int, PictureError], None] | None = None,
) -> Iterator[tuple[list[int], NDArray[np.uint8]]]:
    """Prepared pictures in order: (indices into `paths`, `uint8` N×H×W×C), N ≤ `batch_size`.

    A batch is decoded by `threads` (default: the cores this process may use) when it is asked for, and
    none while the last one is computed on: engines on a CPU keep all cores busy, and waiting for a
    core that decodes costs their threads far more than the overlap would save. A picture that cannot
    be used goes to `on_error` with its index and is left out; without `on_error` its `PictureError`
    is raised. Only the last batch may be smaller; none is empty.
    """

    def prepared(path: str | Path) -> NDArray[np.uint8] | PictureError:
        try:
            return prepare(load(path, exif=preprocessing.exif), preprocessing, resolution)
        except PictureError as error:
            return error

    indices: list[int] = []
    pixels: list[NDArray[np.uint8]] = []
    position = 0
    while position < len(paths):
        chunk = paths[position : position + batch_size - len(indices)]
        for index, result in enumerate(in_threads(prepared, chunk, threads=threads), position):
            if isinstance(result, PictureError):
                if on_error is None:
                    raise result
                on_error(index, result)
            else:
                indices.append(index)
                pixels.append(result)
        position += len(chunk)
        if len(indices) == batch_size:
            yield indices, np.stack(pixels)
            indices, pixels = [], []
    if indices:
        yield indices, np.stack(pixels)


def _read(path: Path) -> bytes:
    """All bytes of a file that begins like a picture; of anything else only the beginning is read."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
            raise PictureError(f"is {what}, not a picture file.", kind="not a file")
        if status.st_size == 0:
            raise PictureError("is empty (0 bytes).", kind="empty file")
        with path.open("rb") as stream:
            head = stream.read(formats.HEAD_BYTES)
            formats.identify(head, path)
            if status.st_size > MAX_BYTES:
                raise PictureError(
                    f"is {status.st_size:,} bytes long; at most {MAX_BYTES:,} are read.", kind="too large"
                )
            return head + stream.read()
    except FileNotFoundError as error:
        if path.is_symlink():
            raise PictureError("is a link to a file that does not exist.", kind="broken link") from error
        raise PictureError("there is no such file.", kind="missing") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PictureError(f"cannot be read ({reason}).", kind="unreadable") from error


def _open(data: bytes, format_: str) -> ImageFile.ImageFile:
    """The picture with its header read and checked, its pixels not yet decoded."""
    stream = BytesIO(data)
    image = _open_heif(stream) if format_ == "HEIF" else Image.open(stream, formats=(format_,))
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"{width}×{height} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise PictureError(
            f"is a strip of {width:,}×{height:,} pixels; the longer side may be at most "
            f"{MAX_ASPECT} times the shorter.",
            kind="extreme shape",
        )
    return image


def _open_heif(stream: BytesIO) -> ImageFile.ImageFile:
    """The primary picture of a HEIC file, through an optional package, without registering it in Pillow."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        missing = MissingExtra("a HEIC picture (iPhone)", "heif", "pillow-heif")
        raise PictureError(f"{missing.what} {missing.remedy}", kind="HEIC without pillow-heif") from error
    make: Callable[[BytesIO], ImageFile.ImageFile] = HeifImageFile
    return make(stream)


def _pixels(lazy: ImageFile.ImageFile, *, exif: bool, at_least: int | None) -> tuple[Image.Image, int]:
    """The decoded picture, upright where `exif` says so, and its EXIF orientation, 1–8."""
    turned_by_pillow = lazy.format == "TIFF"
    orientation = _orientation(lazy) if turned_by_pillow else 1  # loading removes it
    if at_least is not None and lazy.format in ("JPEG", "MPO"):
        lazy.draft(None, (at_least, at_least))
    lazy.load()
    image: Image.Image = lazy
    if not turned_by_pillow:
        orientation = _orientation(lazy)
    if isinstance(image.info.get("transparency"), bytes) and image.mode not in ("P", "PA"):
        del image.info["transparency"]  # only a palette can have such; nothing can be made of it
    _check_mode(image)
    if exif and orientation in _UPRIGHT and not turned_by_pillow:
        image = image.transpose(_UPRIGHT[orientation])
    return image, orientation


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none or where the block is beyond reading."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block raises nearly anything, and the pixels are fine
        return 1
    return value if isinstance(value, int) else 1


def _check_mode(image: Image.Image) -> None:
    if image.mode == "F":
        reason = "holds floating-point values, and nothing says which of them are black and white"
    elif image.mode not in (*_MODES_8_BIT, *_MODES_16_BIT):
        reason = f"has pixels of a kind that has no defined conversion to RGB ({image.mode})"
    elif (
        image.mode == "I"
        and not 0 <= min(extremes := cast("Any", image.getextrema())) <= max(extremes) < 1 << 16
    ):
        reason = f"holds 32-bit values ({extremes[0]} to {extremes[1]}); at most 16 bits are understood"
    else:
        return
    raise PictureError(f"{reason}.", kind="unsupported mode")


def _oddities(lazy: ImageFile.ImageFile, format_: str, suffix: str) -> list[tuple[str, str]]:
    """What is unusual about a picture and dealt with, as far as name and header tell: (kind, detail)."""
    found = []
    if suffix.lower() not in formats.FORMATS[format_]:
        named = f"named '{suffix}'" if suffix else "without extension"
        found.append(("wrong extension", f"{named}, but its content is {format_}"))
    if lazy.format != "MPO" and _several_frames(lazy):
        found.append(("animated", "only the first frame or page is used"))
    if lazy.mode in _MODES_16_BIT or ";16" in str(lazy.tile[:1]):  # the tile names the raw mode: RGB;16B
        found.append(("16-bit", "the upper 8 bits are used"))
    if lazy.mode == "CMYK":
        found.append(("CMYK", "converted to RGB without colour management"))
    if lazy.mode in ("P", "PA"):
        found.append(("palette", "converted to full colour"))
    if lazy.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in lazy.info:
        found.append(("alpha", "transparency is composed on the background"))
    return found


def _several_frames(lazy: ImageFile.ImageFile) -> bool:
    try:
        return bool(getattr(lazy, "is_animated", False))
    except Exception:  # the second frame is damaged; the first is all that we use
        return True


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    try:
        yield
    except PictureError as error:
        raise error.in_file(path) from error.__cause__


@contextmanager
def _designed(format_: str, data: bytes) -> Iterator[None]:
    """Whatever a decoder raises on damaged data comes out as `PictureError`."""
    try:
        yield
    except PictureError:
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        raise PictureError(
            f"claims more than {MAX_PIXELS // 10**6} million pixels or does not fit into memory.",
            kind="decompression bomb",
        ) from error
    except Exception as error:  # struct.error, IndexError, ZeroDivisionError, zlib.error …: any parser's
        if formats.looks_like_text(data[: formats.HEAD_BYTES]) and format_ != "PPM":
            raise PictureError("is not a picture: it is text.", kind="not a picture") from error
        if _ends_early(error, format_, data):
            raise PictureError(
                f"is truncated: the {format_} data ends early, after {count(len(data), 'byte')}.",
                kind="truncated",
            ) from error
        reason = "" if isinstance(error, UnidentifiedImageError) else f": {error}"
        raise PictureError(f"is a damaged {format_} file{reason}.", kind="damaged") from error


def _ends_early(error: Exception, format_: str, data: bytes) -> bool:
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return True
    if format_ == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if format_ == "BMP":
        return int.from_bytes(data[2:6], "little") > len(data)
    return format_ in _END_MARK and _END_MARK[format_] not in data[-64:]


class _Quiet:
    """No warning from Pillow while anybody is inside: odd metadata and large pictures are our business.

    `warnings.catch_warnings` exchanges the filters of the whole process and gives other threads
    the wrong ones back when calls overlap. This puts one entry about Pillow alone in front and
    takes it out after the last thread has left.
    """

    _ENTRY = ("ignore", None, Warning, re.compile(r"PIL\b|pillow_heif\b"), 0)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            self._take_out()
            cast("list[Any]", warnings.filters).insert(0, self._ENTRY)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._take_out()

    def _take_out(self) -> None:
        if self._ENTRY in warnings.filters:
            cast("list[Any]", warnings.filters).remove(self._ENTRY)


_QUIET = _Quiet()
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else its errors go to stderr unasked
