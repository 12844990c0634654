"""The page: every idea in its section, nothing outside of the file.

As in the report: no script, no address that a browser would ask, and a Content-Security-Policy that
forbids both. Links to papers are plain links. Equal input gives equal bytes: no date, nothing drawn
by chance.
"""

from collections.abc import Callable, Sequence
from importlib.metadata import version

from PIL import Image

import mobilenets
from mobilenets.explain import accuracy, activations, gates, manifold, multipliers, separable, unfolded
from mobilenets.explain.figure import Idea
from mobilenets.explain.subject import Sample, Subject, open_subject
from mobilenets.preprocessing import Preprocessing, prepare
from mobilenets.progress import Progress
from mobilenets.report.page import data_uri, environment
from mobilenets.report.style import encoded

BLOCK_NETWORK = "mobilenet_v2_100"
GATES_NETWORK = "mobilenet_v3_small_100"
"""What sections 4 and 6 look into where no model is given, or where it has no such block."""
_THUMBNAIL = 320


def ideas(model: str | None, sample: Sample, progress: Progress) -> list[Idea]:
    """All sections in order; `model` is looked into where it can be. Errors as `open_subject` does."""
    asked = None if model is None else open_subject(model, sample)
    makers: list[Callable[[], Idea]] = [
        separable.make,
        multipliers.make,
        manifold.make,
        lambda: _block(asked, sample),
        activations.make,
        lambda: _gates(asked, sample),
        accuracy.make,
    ]
    return [make() for make in progress.track(makers, len(makers), "computing")]


def _block(asked: Subject | None, sample: Sample) -> Idea:
    usable = asked is not None and unfolded.inverted_residual(asked.spec) is not None
    subject = asked if asked is not None and usable else open_subject(BLOCK_NETWORK, sample)
    return unfolded.make(subject, sample, _note(asked, usable, "inverted residual", subject))


def _gates(asked: Subject | None, sample: Sample) -> Idea:
    usable = asked is not None and gates.has_gates(asked)
    subject = asked if asked is not None and usable else open_subject(GATES_NETWORK, sample)
    return gates.make(subject, sample, _note(asked, usable, "squeeze-and-excite", subject))


def _note(asked: Subject | None, usable: bool, what: str, subject: Subject) -> str:
    if asked is None or usable:
        return ""
    return f"{asked.name} has no {what}, so this section looks into {subject.spec.name} instead."


def html(sections: Sequence[Idea], sample: Sample) -> str:
    """The page. Raises `MissingExtra` where Jinja2 is not installed."""
    from markupsafe import Markup, escape

    shown = Image.fromarray(prepare(sample.image, Preprocessing(), _THUMBNAIL))
    made = environment("explain", "report")
    made.filters |= {
        "millions": lambda n: f"{n / 1e6:,.1f}",
        "fixed": _fixed,
        "code": lambda text: Markup(escape(text)),  # noqa: S704 — escaped; its line breaks stay
    }
    return made.get_template("explain.html.j2").render(
        ideas=sections,
        sample=sample,
        picture=data_uri(encoded(shown, "JPEG"), "image/jpeg"),
        versions=[("mobilenets", mobilenets.__version__)] + [(name, version(name)) for name in _USED],
    )


def _fixed(number: float, digits: int = 2) -> str:
    """`number` with so many digits, without a minus before zero."""
    return f"{round(number, digits) + 0.0:.{digits}f}"


_USED = ("torch", "numpy", "matplotlib")
