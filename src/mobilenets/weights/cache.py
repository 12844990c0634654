"""Where downloaded weights lie, who may write there, and what is remembered of them.

A file of the cache has its checkpoint's name. Beside it are `FILE.sha256` (in the form of
`sha256sum`, the hash of the first verified download, against which later reads are checked), and
while a download is under way `FILE.part`, `FILE.part.json` (what it is a part of) and `FILE.lock`.
"""

import hashlib
import json
import os
import struct
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mobilenets import files
from mobilenets.weights.catalogue import Published

WAIT_S = 0.2
"""How often a process looks whether another one has finished with a file."""


def folder(*, platform: str = sys.platform, environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of downloaded weights, `weights` in `files.caches`; it need not exist yet."""
    return files.caches(platform=platform, environment=environment) / "weights"


def place(published: Published, cache: Path | None = None) -> Path:
    """Where the file of these weights lies, or would."""
    return (folder() if cache is None else cache) / published.file


def beside(target: Path, ending: str) -> Path:
    """`target` with `ending` after its whole name: `a.h5` → `a.h5.sha256`."""
    return target.with_name(target.name + ending)


def remembered(target: Path) -> str | None:
    """The SHA-256 that the first verified download of `target` had; `None` where there was none."""
    with suppress(OSError, UnicodeDecodeError):
        words = beside(target, ".sha256").read_text(encoding="ascii").split()
        if words and len(words[0]) == hashlib.sha256().digest_size * 2:
            return words[0]
    return None


def remember(target: Path, sha256: str) -> None:
    """Write `target.sha256`, which `sha256sum --check` understands."""
    files.write_text(beside(target, ".sha256"), f"{sha256}  {target.name}\n")


def wrong_hash(path: Path, published: Published) -> str | None:
    """What is wrong with the file's bytes by the hash that its publisher states: expected and found."""
    if published.algorithm is None:
        return None
    found = digest(path, published.algorithm)
    if found.startswith(published.digits):
        return None
    name = {"sha256": "SHA-256", "md5": "MD5"}[published.algorithm]
    begins = "begins with" if len(published.digits) < len(found) else "is"
    return f"its {name} {begins} {published.digits} at its publisher's, and is {found} here"


def digest(path: Path, algorithm: str) -> str:
    """A file's hash in hexadecimal. MD5 is what some publishers state: it finds accidents, not forgery."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def wrong_form(path: Path, ending: str) -> str | None:
    """What is wrong with a file by the form that `ending` (`.safetensors`, `.h5`, `.pth`, `.bin`) means.

    The beginning must be that of its format, and where the format says how long a file is
    (safetensors, a zip of PyTorch), it must be that long.
    """
    with path.open("rb") as stream:
        start = stream.read(9)
    if not start:
        return "it is empty"
    if ending == ".safetensors":
        return _wrong_safetensors(path, start)
    if ending == ".h5":
        return None if start.startswith(b"\x89HDF\r\n\x1a\n") else "it does not begin as an HDF5 file does"
    if start.startswith(b"PK\x03\x04"):
        return None if zipfile.is_zipfile(path) else "it is a zip file without its end"
    return None if start.startswith(b"\x80") else "it does not begin as a PyTorch file does"


def _wrong_safetensors(path: Path, start: bytes) -> str | None:
    if start[8:] != b"{":
        return "it does not begin as a safetensors file does"
    (header,) = struct.unpack("<Q", start[:8])
    size = path.stat().st_size
    if 8 + header > size:
        return "it ends within its own header"
    with path.open("rb") as stream:
        stream.seek(8)
        try:
            entries = json.loads(stream.read(header))
            ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return "its safetensors header cannot be read"
    said = 8 + header + max(ends, default=0)
    return None if said == size else f"its header says {said:,} bytes, and it has {size:,}"


@contextmanager
def alone(target: Path, waiting: Callable[[], None]) -> Iterator[bool]:
    """Hold `target`'s lock, so that one process at a time downloads it; `waiting` is called once if
    another one holds it. Yields whether there is a lock: some network file systems have none.

    The operating system gives the lock back when the process ends, however it ends.
    """
    with beside(target, ".lock").open("a+b") as stream:
        told = False
        while (held := _lock(stream)) is False:
            if not told:
                waiting()
                told = True
            time.sleep(WAIT_S)
        try:
            yield held is True
        finally:
            if held:
                _unlock(stream)


if sys.platform == "win32":
    import msvcrt

    def _lock(stream: BinaryIO) -> bool | None:
        try:
            stream.seek(0)
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(stream: BinaryIO) -> None:
        stream.seek(0)
        msvcrt.locking(stream.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(stream: BinaryIO) -> bool | None:
        """True: it is ours. False: somebody has it. None: there are no locks on this file system."""
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return None
        return True

    def _unlock(stream: BinaryIO) -> None:
        fcntl.flock(stream, fcntl.LOCK_UN)
