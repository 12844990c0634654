"""Names of files and labels, made safe for the place where they land."""

import re
import shlex
import unicodedata
from collections.abc import Sequence

_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def printable(text: str) -> str:
    r"""`text` for a terminal or a log: one line, nothing that moves the cursor or the reading order.

    Control characters, line breaks, bidirectional marks and lone surrogates (undecodable bytes in
    a file name) come out as `\n`, `\u202e`; letters of any script and emoji stay. Zero-width
    joiners are kept between emoji, where they carry meaning.
    """
    return "".join(
        character
        if character == "\u200d" or unicodedata.category(character) not in _INVISIBLE
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def spreadsheet_cell(text: str) -> str:
    """`text` for a CSV cell that people open in a spreadsheet: never taken for a formula.

    The `csv` module does the quoting; this adds the apostrophe that spreadsheets understand where
    a cell would begin a formula (OWASP, *CSV injection*).
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def file_name(text: str) -> str:
    """`text` as a file's name on any system: whatever else it is, it names no folder."""
    return re.sub(r"[^\w.+-]", "_", text)


def count(n: int, noun: str, plural: str | None = None) -> str:
    """`3 pictures`, `1 picture`, `1,024 pictures`."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def first_few(items: Sequence[str], shown: int = 5) -> str:
    """`a, b, c, d, e and 7 more`: enough of a long list for a message."""
    rest = len(items) - shown
    return ", ".join(items[:shown]) + (f" and {rest:,} more" if rest > 0 else "")


def duration(seconds: float) -> str:
    """A time span for people: `45 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def command_line(words: Sequence[str]) -> str:
    """A `mobilenets` command as one would type it, with quotes where a shell needs them."""
    return printable(shlex.join(["mobilenets", *words]))
