"""What a file is, by its first bytes: a picture of a known format, or something else with a name.

Only the formats listed here are handed to Pillow, so no file starts Ghostscript, a video demuxer
or a parser without a signature. The names are Pillow's.
"""

import re
from pathlib import PurePath

from mobilenets.errors import PictureError

HEAD_BYTES = 512
"""How many of a file's first bytes `identify` looks at."""

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "HEIF": (".heic", ".heif", ".hif"),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "ICO": (".ico",),
    "QOI": (".qoi",),
}
"""Every format that is read, with the extensions that its files go by."""

EXTENSIONS = frozenset(extension for extensions in FORMATS.values() for extension in extensions)

_RAW_EXTENSIONS = frozenset(
    (".3fr", ".arw", ".cr2", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".nef", ".nrw", ".pef", ".sr2", ".srw")
)
"""Camera raw files that are TIFFs by signature; what a TIFF reader finds in them is a thumbnail."""


def _signature(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


_PICTURES = (
    (_signature(rb"\xff\xd8\xff"), "JPEG"),
    (_signature(rb"\x89PNG\r\n\x1a\n"), "PNG"),
    (_signature(rb"GIF8[79]a"), "GIF"),
    (_signature(rb"RIFF.{4}WEBP"), "WEBP"),
    (_signature(rb"BM.{12}[\x0c-\xff]\0\0\0"), "BMP"),
    (_signature(rb"II[*+]\0|MM\0[*+]"), "TIFF"),
    (_signature(rb".{4}ftyp(avi[fs]|(mif1|msf1).{0,40}avi[fs])"), "AVIF"),
    (_signature(rb".{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)"), "HEIF"),
    (_signature(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"), "JPEG2000"),
    (_signature(rb"P[1-6]\s"), "PPM"),
    (_signature(rb"\0\0\x01\0[^\0]"), "ICO"),
    (_signature(rb"qoif"), "QOI"),
)
_OTHERS = (
    (_signature(rb"%PDF"), "a PDF document"),
    (_signature(rb"PK\x03\x04"), "a ZIP archive or an office document"),
    (_signature(rb"8BPS"), "a Photoshop document"),
    (_signature(rb"%!PS|\xc5\xd0\xd3\xc6"), "a PostScript drawing"),
    (_signature(rb"ID3|\xff[\xfb\xf3\xf2]|RIFF.{4}WAVE|OggS|fLaC"), "a sound file"),
    (_signature(rb".{4}ftypcrx|FUJIFILMCCD-RAW|IIR[OS]|IIU\0"), "a camera raw file"),
    (_signature(rb".{4}(ftyp|moov|mdat)|RIFF.{4}AVI |\x1aE\xdf\xa3|\0\0\x01\xba"), "a video"),
    (_signature(rb"\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ"), "a compressed archive"),
    (_signature(rb"version https://git-lfs"), "a Git LFS pointer (fetch the files with: git lfs pull)"),
    (_signature(rb"(?i:\s*(<\?xml.*?>\s*|<!--.*?-->\s*|<!DOCTYPE svg.*?>\s*)*<svg)"), "an SVG drawing"),
    (_signature(rb"(?i:\s*<(!doctype html|html|head|body))"), "a web page"),
    (_signature(rb"\0+\Z"), "nothing but zero bytes"),
)


def identify(head: bytes, name: PurePath | None = None) -> str:
    """The key of `FORMATS` that a file beginning with `head` has.

    Raises `PictureError`, kind `not a picture`, saying what it is instead. `name` is looked at for
    one purpose: to know a camera's raw file from the TIFF that it pretends to be.
    """
    for signature, format_ in _PICTURES:
        if signature.match(head):
            if format_ == "TIFF" and name is not None and name.suffix.lower() in _RAW_EXTENSIONS:
                raise _not_a_picture("a camera raw file; export it as JPEG first")
            return format_
    for signature, what in _OTHERS:
        if signature.match(head):
            raise _not_a_picture(what)
    raise _not_a_picture("text" if looks_like_text(head) else "in no known picture format")


def looks_like_text(head: bytes) -> bool:
    """Whether `head` could begin a text file: UTF-8 (the last character may be cut), no control bytes."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode("utf-8")
    return all(character >= " " or character in "\t\n\r\f" for character in text)


def _not_a_picture(what: str) -> PictureError:
    return PictureError(f"is not a picture: it is {what}.", kind="not a picture")
