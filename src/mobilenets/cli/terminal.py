"""What the command line looks like: prose and progress on standard error, results on standard output."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from mobilenets.text import printable

T = TypeVar("T")

OUT = Console(highlight=False, soft_wrap=True)
TABLES = Console(highlight=False, width=10_000)
"""Tables take the width that they need; a narrow terminal wraps their lines, a file keeps them."""
ERR = Console(stderr=True, highlight=False, soft_wrap=True)


class _Rate(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        """`142/s`, once it is known."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed and speed >= 10 else f"{speed:.1f}/s" if speed else "")


class TerminalProgress:
    """Bars with rate and time left where standard error is a terminal; lines alone elsewhere."""

    def track(
        self, items: Iterable[T], total: int, what: str, *, size: Callable[[T], int] | None = None
    ) -> Iterator[T]:
        """See `progress.Progress.track`. The bar goes when its work is done."""
        if not ERR.is_terminal:
            yield from items
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with Progress(*columns, console=ERR, transient=True) as bars:
            task = bars.add_task(what, total=total)
            for item in items:
                yield item
                bars.advance(task, size(item) if size else 1)

    def say(self, line: str) -> None:
        """One line on standard error."""
        say(line)


def say(line: str = "") -> None:
    """Prose for people: standard error, no markup, long lines wrapped by the terminal alone."""
    ERR.print(Text(line))


def show(text: str) -> None:
    """A result on standard output, as it is."""
    OUT.print(Text(text))


def show_json(value: Any) -> None:
    """A result for machines: one JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=1, allow_nan=False) + "\n")


def show_table(
    columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[object]], *, title: str | None = None
) -> None:
    """A table on standard output. `columns` are (heading, "left" or "right"); cells are escaped."""
    if title is not None:
        show(title)
    table = Table(box=None, pad_edge=False)
    for heading, side in columns:
        table.add_column(Text(heading), justify="right" if side == "right" else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    TABLES.print(table)
