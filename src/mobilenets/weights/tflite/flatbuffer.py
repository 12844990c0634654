"""Reading a flatbuffer that may be damaged or hostile, with the standard library and numpy alone.

A flatbuffer is tables that point forward to other tables, vectors and strings; where a field lies in
its table is said by a *vtable* that many tables may share (FlatBuffers, *Internals*). Every offset
is checked before it is followed, and every vector counts against a budget, because overlapping
vectors can make a small file as large as its author likes.
"""

import struct
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mobilenets.errors import CheckpointError

_SLACK_BYTES = 1 << 20
_SIZES = {"b": 1, "B": 1, "H": 2, "i": 4, "I": 4, "Q": 8}
"""Bytes of a number by its `struct` code."""


@dataclass
class Flatbuffer:
    """The bytes, and how many bytes of vectors may still be read from them."""

    data: memoryview
    name: str = "the file"
    """What the bytes are, in messages."""
    _left: int = field(init=False)

    def __post_init__(self) -> None:
        self._left = 4 * len(self.data) + _SLACK_BYTES

    def root(self, identifier: bytes, what: str) -> "Table":
        """The outermost table; `CheckpointError` where bytes 4–8 are not `identifier`."""
        if bytes(self.data[4:8]) != identifier:
            raise CheckpointError(
                f"{self.name} has not the mark {identifier.decode('ascii')} at byte 4 of {what}."
            )
        return self.table(self.number("I", 0, what), what)

    def number(self, code: str, at: int, what: str) -> int:
        """The whole number of `struct` code `code` at byte `at`, little endian."""
        self.check(at, _SIZES[code], what)
        return int(struct.unpack_from(f"<{code}", self.data, at)[0])

    def check(self, at: int, size: int, what: str) -> None:
        """`CheckpointError` unless the `size` bytes from `at` on lie inside."""
        if at < 0 or at + size > len(self.data):
            raise CheckpointError(
                f"{what} lies outside of {self.name} (bytes {at} to {at + size} of {len(self.data)}): "
                "it is truncated or damaged."
            )

    def spend(self, size: int, what: str) -> None:
        """Count `size` bytes of vectors; `CheckpointError` where they are more than can be meant."""
        self._left -= size
        if self._left < 0:
            raise CheckpointError(
                f"{what} is larger than {self.name} allows: its tables overlap, so it is damaged."
            )

    def table(self, at: int, what: str) -> "Table":
        """The table at byte `at`."""
        vtable = at - self.number("i", at, what)
        size = self.number("H", vtable, what)
        if size < 4 or size % 2:
            raise CheckpointError(f"{what} has a table of fields of {size} bytes: it is damaged.")
        self.check(vtable, size, what)
        return Table(self, at, vtable, size // 2 - 2, what)


@dataclass(frozen=True, slots=True)
class Table:
    """A table; a field is named by its slot, its number in the schema. An absent one has a default."""

    buffer: Flatbuffer
    at: int
    vtable: int
    slots: int
    what: str

    def _field(self, slot: int) -> int | None:
        """Where the field lies, or `None` where it is absent."""
        if slot >= self.slots:
            return None
        offset = self.buffer.number("H", self.vtable + 4 + 2 * slot, self.what)
        return self.at + offset if offset else None

    def has(self, slot: int) -> bool:
        """Whether the field is there."""
        return self._field(slot) is not None

    def number(self, slot: int, code: str, default: int = 0) -> int:
        """A whole number of `struct` code `code`."""
        at = self._field(slot)
        return default if at is None else self.buffer.number(code, at, self.what)

    def _pointed(self, slot: int, what: str) -> int | None:
        at = self._field(slot)
        return None if at is None else at + self.buffer.number("I", at, what)

    def table(self, slot: int, what: str) -> "Table | None":
        """The table that the field points to."""
        at = self._pointed(slot, what)
        return None if at is None else self.buffer.table(at, what)

    def _vector(self, slot: int, item_bytes: int, what: str) -> tuple[int, int]:
        """Where the items begin and how many there are; an absent vector is empty."""
        at = self._pointed(slot, what)
        if at is None:
            return 0, 0
        count = self.buffer.number("I", at, what)
        self.buffer.check(at + 4, count * item_bytes, what)
        return at + 4, count

    def tables(self, slot: int, what: str) -> list["Table"]:
        """The tables of a vector of tables."""
        start, count = self._vector(slot, 4, what)
        self.buffer.spend(4 * count, what)
        found = []
        for index in range(count):
            at, label = start + 4 * index, f"{what} {index}"
            found.append(self.buffer.table(at + self.buffer.number("I", at, label), label))
        return found

    def numbers(self, slot: int, dtype: str, what: str) -> NDArray[np.generic]:
        """A vector of numbers of numpy type `dtype` (`<f4`, `<i4`, `<i8`)."""
        kind = np.dtype(dtype)
        start, count = self._vector(slot, kind.itemsize, what)
        self.buffer.spend(kind.itemsize * count, what)
        return np.frombuffer(self.buffer.data, kind, count, start)

    def bytes(self, slot: int, what: str) -> memoryview:
        """A vector of bytes, without a copy."""
        start, count = self._vector(slot, 1, what)
        return self.buffer.data[start : start + count]

    def text(self, slot: int, what: str) -> str:
        """A string; bytes that are no UTF-8 become replacement characters."""
        raw = self.bytes(slot, what)
        self.buffer.spend(len(raw), what)
        return bytes(raw).decode("utf-8", errors="replace")
