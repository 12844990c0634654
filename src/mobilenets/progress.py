"""How long work tells somebody that it goes on. The library is silent; the command line is not."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Where long work reports. One implementation is silent, one draws in a terminal."""

    def track(
        self, items: Iterable[T], total: int, what: str, *, size: Callable[[T], int] | None = None
    ) -> Iterator[T]:
        """Yield `items` unchanged, showing how much of `total` is done, the rate and the time left.

        `size` says for how much of the total an item counts, as a batch does for its pictures; 1 without it.
        """
        ...

    def say(self, line: str) -> None:
        """One calm line of prose that stays."""
        ...


class Silent:
    """Reports nothing: the default in Python."""

    def track(
        self, items: Iterable[T], total: int, what: str, *, size: Callable[[T], int] | None = None
    ) -> Iterator[T]:
        """Yield `items`."""
        yield from items

    def say(self, line: str) -> None:
        """Drop `line`."""


SILENT = Silent()
