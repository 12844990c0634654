"""Every error that this package raises on purpose: what is wrong, in which file, what to do.

The tree decides the exit code of the command line. A message reads
*what was wrong: value received; what is accepted*, then the remedy on its own line.
Anything else that reaches the user is a bug, and is reported as one.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from mobilenets.text import printable


class MobilenetsError(Exception):
    """Base of the tree. `file` names the culprit, `remedy` says what to do next."""

    exit_code: ClassVar[int] = 3

    def __init__(self, what: str, *, file: str | Path | None = None, remedy: str | None = None):
        super().__init__(what)
        self.what = what
        self.file = None if file is None else str(file)
        self.remedy = remedy

    def __str__(self) -> str:
        head = f"{printable(self.file)}: {self.what}" if self.file else self.what
        return f"{head}\n{self.remedy}" if self.remedy else head

    def in_file(self, file: str | Path) -> "MobilenetsError":
        """The same error with the file's name added, unless it already names one."""
        if self.file is None:
            self.file = str(file)
        return self


class GateFailed(MobilenetsError):
    """A comparison that had to hold did not: exit code 1."""

    exit_code = 1


class InputError(MobilenetsError):
    """The user gave something that cannot be used: exit code 2."""

    exit_code = 2


class SpecError(InputError):
    """A network that cannot exist."""


class UnknownName(InputError):
    """A name that is not in a closed list; the message suggests the nearest and lists all."""

    def __init__(self, kind: str, name: str, accepted: Iterable[str], *, remedy: str | None = None):
        accepted = list(accepted)
        near = difflib.get_close_matches(name, accepted, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        listed = f"Accepted: {', '.join(accepted)}."
        super().__init__(
            f"unknown {kind}: '{printable(name)}'.{hint}",
            remedy=f"{listed} {remedy}" if remedy else listed,
        )


class FolderError(InputError):
    """A folder (or CSV) of pictures from which nothing can be learnt."""


class PictureError(InputError):
    """One picture that cannot be used. `kind` is the row of the scan's table it is counted in."""

    def __init__(self, what: str, *, kind: str, file: str | Path | None = None):
        super().__init__(what, file=file, remedy=None)
        self.kind = kind


class CheckpointError(InputError):
    """A model file that is broken, foreign, too new, or contradicts itself."""


class RecipeError(InputError):
    """A recipe field that does not exist or has a value outside its range."""


class LabelsError(InputError):
    """Class names that do not match between a model and a folder."""


class EnvironmentFault(MobilenetsError):
    """The machine lacks something: exit code 3."""

    exit_code = 3


class MissingExtra(EnvironmentFault):
    """An optional package is not installed; the message holds the line that installs it."""

    def __init__(self, purpose: str, extra: str, package: str):
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed.",
            remedy=f"Install it with: pip install 'mobilenets[{extra}]'",
        )


class WriteFailed(EnvironmentFault):
    """A file could not be written (full disk, permissions); nothing already there was lost."""


class TrainingDiverged(GateFailed):
    """The loss became NaN or infinite; the best model so far is kept."""


class Interrupted(MobilenetsError):
    """Ctrl-C (130) or SIGTERM (143), after everything worth keeping was written."""

    exit_code = 130
