"""Files are written under a temporary name and renamed: a reader never sees half of one."""

import errno
import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mobilenets.errors import InputError, WriteFailed


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it when the block ends without an error.

    On any error the temporary file goes and `path` is as it was. A full disk or a missing
    permission becomes `WriteFailed`.
    """
    temporary = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise write_failed(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """A hidden name in the same folder; `WriteFailed` where `path` names a folder or nothing."""
    if not path.name or path.is_dir():
        raise WriteFailed("is a folder, so no file can be written there.", file=path, remedy="Name a file.")
    return _unique(path, "tmp")


def _unique(path: Path, end: str) -> Path:
    """A hidden name beside `path`, which no other thread has, and no process in another container."""
    return path.with_name(f".{path.name[:80]}.{secrets.token_hex(6)}.{end}")


@contextmanager
def replacing_folder(out: Path) -> Iterator[Path]:
    """A new folder beside `out`, given its name when the block ends without an error.

    What stood at `out` goes only then; on any error the new folder goes instead and `out` is as it was.
    Whoever calls this has made sure that `out` may be replaced. A full disk or a missing permission
    becomes `WriteFailed`.
    """
    temporary = _unique(out, "tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        _move(temporary, out)
    except OSError as error:
        raise write_failed(out, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move(new: Path, out: Path) -> None:
    old = _unique(out, "old")
    replaced = out.exists()
    if replaced:
        os.replace(out, old)
    try:
        os.replace(new, out)
    except OSError:
        if replaced:
            os.replace(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_failed(path: Path, error: OSError) -> WriteFailed:
    """The designed form of an operating-system error met while writing `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        what, remedy = (
            "the disk is full, so this file was not written",
            "Free some space and run the same command again.",
        )
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        what, remedy = "no permission to write here", "Choose another place with -o."
    else:
        what, remedy = f"could not be written ({error.strerror or error})", "Choose another place with -o."
    return WriteFailed(f"{what}.", file=path, remedy=f"{remedy} What was there before is untouched.")


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all, and flushed to the disk."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8. A lone surrogate (undecodable file name) is written as its escape."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN and infinity are refused by `json`."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON in `path`; `InputError` names the file, line and column where it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error}).", file=path) from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}.", file=path
        ) from error
    except (RecursionError, ValueError) as error:  # nested too deeply, a number of thousands of digits
        raise InputError(f"is no JSON that can be read ({error}).", file=path) from error


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def caches(*, platform: str = sys.platform, environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of everything that can be fetched or made again; it need not exist yet.

    `$MOBILENETS_CACHE`, else `mobilenets` in the platform's place for caches: `$XDG_CACHE_HOME` or
    `~/.cache`, `~/Library/Caches` on macOS, `%LOCALAPPDATA%` on Windows.
    """
    if named := environment.get("MOBILENETS_CACHE"):
        return Path(named).expanduser()
    if platform == "win32":
        local = environment.get("LOCALAPPDATA")
        place = Path(local) if local else Path.home() / "AppData" / "Local"
    elif platform == "darwin":
        place = Path.home() / "Library" / "Caches"
    else:  # XDG Base Directory Specification: a relative path there is to be ignored
        xdg = environment.get("XDG_CACHE_HOME", "")
        place = Path(xdg) if xdg.startswith("/") else Path.home() / ".cache"
    return place / "mobilenets"
