"""Broken and odd picture files, made by code: name → bytes and what a scan must say of them.

`CASES` maps a file name to a `Case`; every kind that the scan knows occurs. `USABLE` are plain
valid files of each format, for fuzzing. `HEIC` is apart, since it takes an optional package.
"""

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 96, 64


@dataclass(frozen=True)
class Case:
    data: bytes
    kinds: tuple[str, ...] = ()
    """What is reported, in any order; of a picture that is left out the one reason."""
    used: bool = True


def pixels(width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> np.ndarray:
    """A smooth, unsymmetrical RGB picture that survives lossy coding, different for every seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def photo(width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> Image.Image:
    return Image.fromarray(pixels(width, height, seed))


def encode(image: Image.Image, format_: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def jpeg(seed: int = 0, **options: Any) -> bytes:
    return encode(photo(seed=seed), "JPEG", quality=90, **options)


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def png(width: int, height: int, body: bytes | None = None, *, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG of the declared size; without `body`, its pixels are a few zero bytes."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(bytes(64)) if body is None else body
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def with_orientation(orientation: int, format_: str = "JPEG", **options: Any) -> bytes:
    """A picture that shows `photo()` once it is turned as its EXIF orientation says."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = photo()
    if orientation in undo:
        image = image.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, format_, exif=exif, **options)


def insert_segment(data: bytes, marker: int, body: bytes) -> bytes:
    """A JPEG with one more segment after its start."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + data[2:]


def animation(format_: str, **options: Any) -> bytes:
    first, *rest = (photo(seed=seed) for seed in (0, 1, 2))
    return encode(first, format_, save_all=True, append_images=rest, **options)


def tiff(array: np.ndarray, mode: str | None = None, **options: Any) -> bytes:
    image = Image.fromarray(array) if mode is None else Image.fromarray(array).convert(mode)
    return encode(image, "TIFF", **options)


def flipped(data: bytes, at: float, length: int = 1) -> bytes:
    """`data` with `length` bytes inverted from the relative position `at` on."""
    start = int(len(data) * at)
    return data[:start] + bytes(b ^ 0xFF for b in data[start : start + length]) + data[start + length :]


def _truncated() -> dict[str, Case]:
    whole: dict[str, tuple[bytes, tuple[float, ...]]] = {
        "jpg": (jpeg(), (0.1, 0.5, 0.99)),
        "png": (encode(photo(), "PNG"), (0.01, 0.5, 0.95)),
        "gif": (encode(photo(), "GIF"), (0.3, 0.6, 0.9)),
        "webp": (encode(photo(), "WEBP"), (0.2, 0.9)),
        "bmp": (encode(photo(), "BMP"), (0.2, 0.99)),
        "ppm": (encode(photo(), "PPM"), (0.5,)),
    }
    cases = {
        f"cut at {share:.0%}.{suffix}": Case(data[: int(len(data) * share)], ("truncated",), used=False)
        for suffix, (data, shares) in whole.items()
        for share in shares
    }
    raw, packed = encode(photo(), "TIFF"), encode(photo(), "TIFF", compression="tiff_lzw")
    return cases | {
        "no end mark.jpg": Case(jpeg()[:-2], ("truncated",), used=False),
        "progressive cut.jpg": Case(jpeg(progressive=True)[:-30], ("truncated",), used=False),
        "cut uncompressed.tif": Case(raw[: len(raw) // 2], ("truncated",), used=False),
        "cut compressed.tif": Case(packed[: len(packed) // 2], ("damaged",), used=False),
        "cut.avif": Case(encode(photo(), "AVIF")[:-200], ("truncated",), used=False),
        "cut.jp2": Case(encode(photo(), "JPEG2000")[:-300], ("damaged",), used=False),
        "only a signature.png": Case(b"\x89PNG\r\n\x1a\n", ("truncated",), used=False),
        "only a signature.jpg": Case(b"\xff\xd8\xff\xe0", ("truncated",), used=False),
    }


def _foreign() -> dict[str, Case]:
    svg = b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"></svg>'
    files = {
        "text.jpg": "só much for a picture\n".encode(),
        "page.png": b"<!DOCTYPE html><html><body>404 not found</body></html>",
        "document.jpg": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
        "archive.jpg": b"PK\x03\x04\x14\x00\x00\x00" + bytes(60),
        "drawing.png": svg,
        "song.jpg": b"ID3\x04\x00" + bytes(range(100)),
        "film.jpg": b"\x00\x00\x00\x18ftypmp42" + bytes(80),
        "layers.jpg": b"8BPS\x00\x01" + bytes(80),
        "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        "pointer.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
        "zeros.jpg": bytes(4096),
        "noise.jpg": np.random.default_rng(3).integers(128, 256, 3000, dtype=np.uint8).tobytes(),
        "camera.nef": encode(photo(), "TIFF"),
        "begins like a bitmap.bmp": b"BM is how this sentence begins, and \x00\x00\x00 no more.",
    }
    return {name: Case(data, ("not a picture",), used=False) for name, data in files.items()}


def _damaged() -> dict[str, Case]:
    whole = encode(photo(), "PNG")
    lzw = encode(photo(), "TIFF", compression="tiff_lzw")
    return {
        "empty.jpg": Case(b"", ("empty file",), used=False),
        "flipped byte.png": Case(flipped(whole, 0.5), ("damaged",), used=False),
        "bad header checksum.png": Case(flipped(whole, 18 / len(whole)), ("damaged",), used=False),
        "broken stream.png": Case(png(8, 8, b"not zlib at all"), ("damaged",), used=False),
        "no frame header.jpg": Case(
            b"\xff\xd8" + b"\xff\xda\0\x08\1\1\0\0\x3f\0" + bytes(99) + b"\xff\xd9", ("damaged",), used=False
        ),
        "broken directory.tif": Case(lzw[:4] + b"\xff\xff\xff\x7f" + lzw[8:], ("damaged",), used=False),
        "no size.gif": Case(b"GIF89a" + bytes(7) + b";", ("damaged",), used=False),
        "bomb.png": Case(png(30_000, 30_000), ("decompression bomb",), used=False),
        "huge.png": Case(png(2**31 - 1, 2**31 - 1), ("decompression bomb",), used=False),
        "huge.gif": Case(
            b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b";", ("damaged",), used=False
        ),
        "huge.bmp": Case(
            b"BM" + struct.pack("<IIIIiiHHIIIIII", 70, 0, 54, 40, 50_000, 50_000, 1, 24, *[0] * 6),
            ("decompression bomb",),
            used=False,
        ),
        "strip.png": Case(encode(photo(1, 5000), "PNG"), ("extreme shape",), used=False),
        "floating.tif": Case(tiff(pixels()[..., 0] / np.float32(255)), ("unsupported mode",), used=False),
        "lab.tif": Case(encode(Image.new("LAB", (40, 40)), "TIFF"), ("unsupported mode",), used=False),
        "32-bit.tif": Case(tiff(pixels()[..., 0].astype(np.int32) << 20), ("unsupported mode",), used=False),
        "negative.tif": Case(tiff(pixels()[..., 0].astype(np.int32) - 99), ("unsupported mode",), used=False),
    }


def _odd() -> dict[str, Case]:
    grey16 = pixels()[..., 0].astype(np.uint16) * 257
    rgb16 = (pixels().astype(">u2") * 257).reshape(HEIGHT, -1)
    rows16 = b"".join(b"\0" + row.tobytes() for row in rgb16)
    half_clear = np.dstack([pixels(), np.full((HEIGHT, WIDTH), 128, np.uint8)])
    rgba, cmyk = Image.fromarray(half_clear), photo().convert("CMYK")
    palette = photo().quantize(16)
    scanned = np.asarray(photo().convert("L"))
    return (
        {
            "plain.jpg": Case(jpeg()),
            "plain.png": Case(encode(photo(), "PNG")),
            "plain.webp": Case(encode(photo(), "WEBP")),
            "plain.bmp": Case(encode(photo(), "BMP")),
            "plain.tif": Case(encode(photo(), "TIFF")),
            "plain.avif": Case(encode(photo(), "AVIF")),
            "plain.jp2": Case(encode(photo(), "JPEG2000")),
            "plain.ppm": Case(encode(photo(), "PPM")),
            "plain.qoi": Case(encode(photo(), "QOI")),
            "UPPER.JPG": Case(jpeg()),
            "progressive.jpg": Case(jpeg(progressive=True)),
            "grey.jpg": Case(encode(photo().convert("L"), "JPEG")),
            "garbage behind.jpg": Case(jpeg() + b"left over by a camera" * 9),
            "two in one.jpg": Case(encode(photo(), "MPO", save_all=True, append_images=[photo(seed=1)])),
            "bad exif.jpg": Case(
                insert_segment(jpeg(), 0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xee" * 40)
            ),
            "cut exif.jpg": Case(insert_segment(jpeg(), 0xE1, b"Exif\0\0II*")),
            "bad multi-picture index.jpg": Case(insert_segment(jpeg(), 0xE2, b"MPF\0junk and no index")),
            "icon.ico": Case(encode(photo(64, 64), "ICO", sizes=[(64, 64)])),
            "jpeg.png": Case(jpeg(), ("wrong extension",)),
            "png.jpg": Case(encode(photo(), "PNG"), ("wrong extension",)),
            "no extension": Case(jpeg(), ("wrong extension",)),
            "picture.txt": Case(encode(photo(), "WEBP"), ("wrong extension",)),
            "cmyk.jpg": Case(encode(cmyk, "JPEG"), ("CMYK",)),
            "cmyk.tif": Case(encode(cmyk, "TIFF"), ("CMYK",)),
            "grey16.png": Case(encode(Image.fromarray(grey16), "PNG"), ("16-bit",)),
            "rgb16.png": Case(png(WIDTH, HEIGHT, zlib.compress(rows16), depth=16), ("16-bit",)),
            "grey16.tif": Case(tiff(grey16), ("16-bit",)),
            "grey16 big-endian.tif": Case(
                encode(Image.frombytes("I;16B", (WIDTH, HEIGHT), grey16.astype(">u2").tobytes()), "TIFF"),
                ("16-bit",),
            ),
            "int32.tif": Case(tiff(grey16.astype(np.int32)), ("16-bit",)),
            "one bit.png": Case(encode(photo().convert("1"), "PNG")),
            "fax.tif": Case(encode(photo().convert("1"), "TIFF", compression="group4")),
            "grey.png": Case(encode(Image.fromarray(scanned), "PNG")),
            "palette.png": Case(encode(palette, "PNG"), ("palette",)),
            "clear palette.png": Case(encode(palette, "PNG", transparency=3), ("palette", "alpha")),
            "half-clear palette.png": Case(
                encode(palette, "PNG", transparency=bytes(range(0, 160, 10))), ("palette", "alpha")
            ),
            "palette.gif": Case(encode(palette, "GIF"), ("palette",)),
            "keyed.png": Case(encode(photo(), "PNG", transparency=(1, 2, 3)), ("alpha",)),
            "grey alpha.png": Case(encode(rgba.convert("LA"), "PNG"), ("alpha",)),
            "alpha.png": Case(encode(rgba, "PNG"), ("alpha",)),
            "alpha.webp": Case(encode(rgba, "WEBP", lossless=True), ("alpha",)),
            "alpha.tif": Case(encode(rgba, "TIFF"), ("alpha",)),
            "animated.gif": Case(animation("GIF"), ("animated", "palette")),
            "animated.webp": Case(animation("WEBP", lossless=True), ("animated",)),
            "animated.png": Case(animation("PNG"), ("animated",)),
            "pages.tif": Case(animation("TIFF"), ("animated",)),
            "second frame cut.gif": Case(animation("GIF")[:-400], ("animated", "palette")),
            "invalid animation.png": Case(
                encode(photo(), "PNG")[:33] + chunk(b"acTL", bytes(8)) + encode(photo(), "PNG")[33:]
            ),
            "dot.png": Case(encode(photo(1, 1), "PNG"), ("very small",)),
            "small.jpg": Case(encode(photo(40, 31), "JPEG"), ("very small",)),
            "wide.jpg": Case(encode(photo(3200, 32), "JPEG")),
        }
        | {
            f"orientation {orientation}.jpg": Case(
                with_orientation(orientation, quality=95),
                ("EXIF-rotated",) if orientation in range(2, 9) else (),
            )
            for orientation in range(10)
        }
        | {
            "turned.png": Case(with_orientation(6, "PNG"), ("EXIF-rotated",)),
            "turned.webp": Case(with_orientation(5, "WEBP", lossless=True), ("EXIF-rotated",)),
            "turned.tif": Case(with_orientation(8, "TIFF"), ("EXIF-rotated",)),
        }
    )


CASES: dict[str, Case] = _truncated() | _foreign() | _damaged() | _odd()

USABLE: dict[str, bytes] = {
    name: CASES[name].data
    for name in (
        "plain.jpg", "progressive.jpg", "grey.jpg", "cmyk.jpg", "two in one.jpg", "orientation 6.jpg",
        "plain.png", "rgb16.png", "half-clear palette.png", "animated.png", "turned.png",
        "animated.gif", "alpha.webp", "animated.webp", "plain.bmp", "plain.ppm", "plain.qoi",
        "plain.tif", "turned.tif", "pages.tif", "fax.tif", "grey16 big-endian.tif",
        "plain.avif", "plain.jp2", "icon.ico",
    )
}  # fmt: skip


def heic(image: Image.Image, **options: Any) -> bytes:
    """A HEIC file, as iPhones write them; needs pillow-heif (skips the test where it is missing)."""
    import pytest

    pillow_heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    pillow_heif.from_pillow(image).save(stream, quality=90, **options)
    return stream.getvalue()
