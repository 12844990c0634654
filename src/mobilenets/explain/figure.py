"""What a section of the page is made of: computed values with their code, figures, and their drawing.

Charts are drawn once, by matplotlib in the report's style, and put into the page as SVG whose colours
are the page's CSS variables: one drawing serves the light page, the dark one and the printer, at any
zoom. Tensors are shown as small pixel images, one for each theme.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any, Generic, TypeVar, TypeVarTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from mobilenets.explain.program import program
from mobilenets.report.page import Chart, chart
from mobilenets.report.style import DARK, LIGHT, Theme, drawing, encoded

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

FAMILY_COLOURS = {"V1": "#6a737e", "V2": "#1d60a9", "V3": "#c05a14", "V4": "#0f8266"}
"""Of the generations, on white. Each has its marker as well, so that no reader depends on the hue."""
MARKERS = {"V1": "s", "V2": "o", "V3": "^", "V4": "D"}
_VARIABLES = {
    LIGHT.ink: "--ink",
    LIGHT.muted: "--muted",
    LIGHT.line: "--line",
    LIGHT.shade: "--track",
    LIGHT.right: "--right",
    LIGHT.wrong: "--warm",
    LIGHT.surface: "--surface",
    **{colour: f"--{name.lower()}" for name, colour in FAMILY_COLOURS.items()},
}
"""A colour of the light theme → the CSS variable that stands for it in the page."""
_CSS_PIXELS_PER_INCH = 100
"""The report's density: letters of a chart are as large as the page's small print."""


@dataclass(frozen=True, slots=True)
class Computed(Generic[T]):
    """A value, and the program that gave it."""

    value: T
    code: str


def compute(function: Callable[[*Ts], T], *arguments: *Ts) -> Computed[T]:
    """Call `function` and keep its source beside the result."""
    return Computed(function(*arguments), program(function))


@dataclass(frozen=True, slots=True)
class Source:
    """Where the literature has what a figure shows."""

    paper: str
    """An arXiv identifier, such as `1704.04861`."""
    place: str
    """Table, figure, equation or section."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Drawings side by side with one caption, where the paper has it, and the code that made it."""

    images: tuple["Markup | Chart", ...]
    caption: str
    source: Source
    code: str
    drawing: str = ""
    columns: int = 1
    """Drawings side by side on a wide screen; with 0 the one drawing stands beside its caption."""


@dataclass(frozen=True, slots=True)
class Idea:
    """One section of the page; `key` names its template and its anchor."""

    key: str
    title: str
    short: str
    """For the table of contents."""
    figures: Mapping[str, Figure]
    values: Mapping[str, Any] = field(default_factory=dict)
    """What the prose of the template says in numbers."""


@contextmanager
def canvas(width: float, height: float) -> Iterator["Canvas"]:
    """An empty figure of `width` × `height` inches in the report's style, for `svg`."""
    with drawing(LIGHT, width, height) as figure:
        figure.patch.set_visible(False)
        yield figure


@contextmanager
def sketch(width: float, height: float) -> Iterator[tuple["Canvas", "Axes"]]:
    """A figure without axes, to draw on in inches from its lower left corner, for `svg`."""
    with canvas(width, height) as figure:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        axes.set_xlim(0, width)
        axes.set_ylim(0, height)
        yield figure, axes


def svg(figure: "Canvas", alt: str) -> "Markup":
    """`figure` as an `<svg>` element in the page's own colours; `alt` says in words what it shows.

    Nothing in it has an identifier that another figure of the page could have as well.
    """
    import matplotlib
    from markupsafe import Markup

    stream = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": alt}):
        figure.savefig(stream, format="svg", facecolor="none", metadata=dict.fromkeys(_METADATA))
    width, height = (round(_CSS_PIXELS_PER_INCH * inches) for inches in figure.get_size_inches())
    text = _trimmed(stream.getvalue())
    box = re.search(r'viewBox="([^"]+)"', text)
    if box is None:
        raise ValueError("matplotlib wrote an SVG without a viewBox.")
    inside = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    opening = (
        f'<svg role="img" aria-label="{escape(alt)}" viewBox="{box[1]}" '
        f'width="{width}" height="{height}" preserveAspectRatio="xMidYMid meet">'
    )
    return Markup(f"{opening}{inside}</svg>")  # noqa: S704 — matplotlib escapes its text, we escape `alt`


_METADATA = ("Creator", "Date", "Format", "Type")


def _trimmed(text: str) -> str:
    """matplotlib's SVG for use inside HTML: no metadata, only identifiers that are used, our variables."""
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace("xlink:href=", "href=")
    used = set(re.findall(r'(?:href="|url\()#([\w-]+)', text))
    text = re.sub(r' id="([\w.-]+)"', lambda found: found[0] if found[1] in used else "", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"(-?\d+\.\d{2})\d+", r"\1", text)  # hundredths of a point are enough
    return re.sub(r"\n\s*", "\n", text)


def picture_of(levels: NDArray[np.float64], alt: str, *, enlarge: int = 1) -> Chart:
    """Values in [−1, 1] as a pixel image: blue above zero, orange below, the page's colour at zero.

    NaN is a gap. `levels` is H×W; every value becomes `enlarge` × `enlarge` pixels.
    """
    index = np.round((np.clip(np.nan_to_num(levels), -1, 1) + 1) * (_LEVELS // 2)).astype(np.uint8)
    index[np.isnan(levels)] = _LEVELS
    index = index.repeat(enlarge, axis=0).repeat(enlarge, axis=1)
    return chart(_indexed(index, LIGHT), _indexed(index, DARK), alt)


_LEVELS = 31
"""Colours of a tensor's picture, an odd number so that zero has its own; with the gap they are 5 bits."""


def _indexed(index: NDArray[np.uint8], theme: Theme) -> bytes:
    surface, below, above, gap = (
        np.array(ImageColor.getrgb(c), float) for c in (theme.surface, theme.wrong, theme.right, theme.line)
    )
    ramp = np.linspace(-1, 1, _LEVELS)[:, None]
    colours = surface + np.maximum(ramp, 0) * (above - surface) + np.maximum(-ramp, 0) * (below - surface)
    image = Image.fromarray(index)  # grey; a palette makes it an indexed one
    image.putpalette(np.vstack([colours, gap]).round().astype(np.uint8).tobytes())
    return encoded(image, "PNG")


def drawn(*functions: Callable[..., Any]) -> str:
    """The program of a figure's drawing."""
    return program(*functions)
