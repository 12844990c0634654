"""One look for every chart and contact sheet: colours, fonts, and how a figure becomes a PNG.

Blue stands for right, orange for wrong, in every chart and in the page: the pair stays apart in all
common kinds of colour blindness, and in grey by lightness. Nothing here touches matplotlib's global
state: no pyplot, no backend is chosen, and the settings hold inside `drawing` only.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageFont

from mobilenets.errors import MissingExtra
from mobilenets.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FAMILIES = (
    ("Inter", "Helvetica Neue", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans", "Arial"),
    ("DejaVu Sans",),  # comes with matplotlib: Latin, Greek, Cyrillic, Arabic, symbols
    ("Noto Sans CJK SC", "Microsoft YaHei", "PingFang SC", "Hiragino Sans GB", "WenQuanYi Zen Hei"),
    ("Noto Sans CJK JP", "Yu Gothic", "Hiragino Sans"),
    ("Noto Sans CJK KR", "Malgun Gothic", "Apple SD Gothic Neo"),
    ("Noto Sans Arabic", "Noto Sans Hebrew"),
    ("Noto Sans Devanagari", "Nirmala UI"),
    ("Noto Sans Thai", "Leelawadee UI"),
    ("Noto Emoji", "Segoe UI Symbol", "Symbola"),
)
"""Of each row the first font that is installed is used; a character comes from the first that has it."""


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a chart, as `#rrggbb`."""

    surface: str
    ink: str
    muted: str
    """Axis labels and everything that explains."""
    line: str
    """Grids and frames."""
    shade: str
    """Bands behind a chart."""
    right: str
    """What the model got right; the first series."""
    wrong: str
    """What it got wrong; the second series."""


LIGHT = Theme(
    surface="#ffffff",
    ink="#1b2026",
    muted="#5b6570",
    line="#e3e6ea",
    shade="#f2f4f7",
    right="#1d5fa8",
    wrong="#c8601a",
)
DARK = Theme(
    surface="#1a1e24",
    ink="#e9ecef",
    muted="#9ca6b1",
    line="#2e353e",
    shade="#222830",
    right="#74b0f4",
    wrong="#f0a05a",
)


@contextmanager
def drawing(theme: Theme, width: float, height: float) -> Iterator["Figure"]:
    """An empty figure of `width` × `height` inches in `theme`, and matplotlib's settings while it is drawn.

    A character that no installed font has becomes a box, without a warning. Raises `MissingExtra`
    where matplotlib is not installed.
    """
    with _needs_matplotlib():
        import matplotlib
        from matplotlib.figure import Figure
    with matplotlib.rc_context(_settings(theme)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        warnings.filterwarnings("ignore", r"Matplotlib currently does not support", UserWarning)
        yield Figure(figsize=(width, height), layout="constrained")


@contextmanager
def _needs_matplotlib() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MissingExtra("Drawing a report", "train", "matplotlib") from error


def _settings(theme: Theme) -> dict[Any, Any]:
    return {
        "font.family": list(families()),
        "font.size": 10,
        "figure.dpi": 160,
        "figure.facecolor": theme.surface,
        "savefig.facecolor": theme.surface,
        "axes.facecolor": theme.surface,
        "axes.edgecolor": theme.line,
        "axes.labelcolor": theme.muted,
        "axes.titlecolor": theme.ink,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.titlepad": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.unicode_minus": True,
        "grid.color": theme.line,
        "grid.linewidth": 0.8,
        "text.color": theme.ink,
        "text.parse_math": False,  # a `$` in a name is a dollar sign, not the start of a formula
        "text.usetex": False,
        "xtick.color": theme.line,
        "ytick.color": theme.line,
        "xtick.labelcolor": theme.muted,
        "ytick.labelcolor": theme.muted,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "legend.borderaxespad": 0.0,
        "lines.linewidth": 2.0,
        "lines.solid_capstyle": "round",
    }


def png(figure: "Figure", *, dpi: int | None = None, tight: bool = False) -> bytes:
    """`figure` as a PNG of at most 256 colours, which is what a chart needs and a third of the bytes.

    `dpi` is the settings' unless given; `tight` cuts off an empty border.
    """
    stream = BytesIO()
    figure.savefig(
        stream,
        format="png",
        dpi=dpi or "figure",
        bbox_inches="tight" if tight else None,
        pad_inches=0.05,
        metadata={"Software": None},
    )
    stream.seek(0)
    with Image.open(stream) as full:
        return encoded(full.convert("RGB").quantize(256, dither=Image.Dither.NONE), "PNG")


def encoded(image: Image.Image, format_: str) -> bytes:
    """`image` as the bytes of a `PNG`, or of a `JPEG` of quality 82."""
    stream = BytesIO()
    image.save(stream, format_, quality=82, optimize=image.mode == "P" or format_ == "JPEG")
    return stream.getvalue()


@cache
def families() -> tuple[str, ...]:
    """The font families to use on this machine, in the order in which they are asked for a character."""
    with _needs_matplotlib():
        from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    found = (next((name for name in row if name in installed), None) for row in _FAMILIES)
    return tuple(name for name in found if name is not None)


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """A font of `size` pixels that has every character of `text`, or else the one that has most."""

    def missing(family: str) -> int:
        return sum(not character.isspace() and ord(character) not in _face(family)[1] for character in text)

    return _font(_face(min(families(), key=missing))[0], size)


@cache
def _face(family: str) -> tuple[str, frozenset[int]]:
    """The file of a font family, and the code points that it has."""
    from matplotlib.font_manager import findfont, get_font

    file = str(findfont(family))
    return file, frozenset(get_font(file).get_charmap())


_font = cache(ImageFont.truetype)


def shortened(text: str, limit: int) -> str:
    """`text` on one line, harmless, and of at most `limit` characters: the middle gives way to `…`."""
    text = printable(text)
    if len(text) <= limit:
        return text
    keep = limit - 1
    return f"{text[: keep - keep // 3]}…{text[len(text) - keep // 3 :]}"
