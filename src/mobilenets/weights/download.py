"""A published checkpoint becomes a file that deserves trust.

Nothing gets its name before it is whole and verified: by the hash that the catalogue has from the
publisher, by the one that the publisher's server states with the file, by length, and by the form
of the file. What was verified once is remembered, and every later use is checked against it.

Environment: `MOBILENETS_CACHE` (the folder), `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE` (no
network, for any publisher), `HF_ENDPOINT` (a mirror of the hub), `HF_TOKEN` (sent to that
host alone), `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`, and Python's own `SSL_CERT_FILE`.
"""

import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from mobilenets import files
from mobilenets.errors import EnvironmentFault, InputError, WriteFailed
from mobilenets.progress import SILENT, Progress
from mobilenets.text import duration, printable
from mobilenets.weights import cache as caches
from mobilenets.weights.catalogue import Published
from mobilenets.weights.transfer import Rules, Stated, Trouble, discard, receive

HUB = "https://huggingface.co"
_YES = ("1", "on", "yes", "true")
_DEFAULT = Rules()


def fetch(
    published: Published, *, progress: Progress = SILENT, cache: Path | None = None, rules: Rules = _DEFAULT
) -> Path:
    """The file of a published checkpoint, from the cache (`caches.folder()`) or its publisher.

    A file that is there is verified, not fetched again. A download that was stopped goes on where
    it was; two processes that want one file fetch it once.

    Raises `EnvironmentFault` (offline, unreachable, the wrong file), saying which address to
    download elsewhere and where to put it; `WriteFailed` for a full disk or a missing permission.
    """
    target = caches.place(published, cache)
    try:
        if (missing := _missing(published, target, progress)) is None:
            return target
        if variable := offline():
            raise EnvironmentFault(
                f"{missing}, and {variable} forbids the network.",
                file=published.name,
                remedy=_sentence(_by_hand(published, target)),
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        with caches.alone(target, lambda: progress.say("Another process downloads it; waiting …")) as locked:
            if _missing(published, target, progress):  # unless somebody else was quicker
                _download_into(published, target, locked, progress, rules)
    except OSError as error:
        raise _not_written(target, error) from error
    return target


def offline() -> str | None:
    """The environment variable that forbids the network, if one does."""
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").casefold() in _YES:
            return variable
    return None


def address(published: Published) -> str:
    """Where the file comes from: its publisher's address, or the mirror of the hub in `HF_ENDPOINT`."""
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    if not endpoint or not published.url.startswith(f"{HUB}/"):
        return published.url
    if not endpoint.startswith(("https://", "http://")):
        raise InputError(
            f"HF_ENDPOINT is '{printable(endpoint)}'; it takes the address of a mirror of the hub, "
            "such as https://hub.example.org."
        )
    return endpoint + published.url.removeprefix(HUB)


# --- what is in the cache -----------------------------------------------------------------------


def _missing(published: Published, target: Path, progress: Progress) -> str | None:
    """`None` where the verified file is there, else why not. A wrong one is set aside, and told."""
    if not target.is_file():
        return "is not in the cache"
    found = files.sha256(target)
    known = caches.remembered(target)
    wrong = caches.wrong_hash(target, published)
    if wrong is None and known is not None and known != found:
        wrong = (
            f"its SHA-256 was {known} when it was first used, and is {found} now "
            f"(if that is meant, remove {printable(caches.beside(target, '.sha256').name)})"
        )
    if wrong is None and known is None:
        wrong = caches.wrong_form(target, target.suffix)
    if wrong is not None:
        aside = caches.beside(target, ".damaged")
        os.replace(target, aside)
        told = f"{printable(str(target))} is not the published file: {wrong}. It is now {aside.name}"
        progress.say(f"{told}.")
        return told
    if known is None:  # put there by hand
        with suppress(WriteFailed):  # a shared cache may be read-only
            caches.remember(target, found)
        progress.say(_trust(published, Stated(), found))
    return None


def _trust(published: Published, stated: Stated, sha256: str) -> str:
    """What the file was verified with, in a sentence."""
    if published.digits:
        return f"{published.file}: the hash is the one that its publisher states."
    if stated.sha256 or stated.md5:
        kind = "SHA-256" if stated.sha256 else "MD5"
        return f"{published.file}: the {kind} is the one that its publisher's server states."
    return (
        f"{published.file}: its publisher states no hash, so only length and form could be checked. "
        f"Its SHA-256 is {sha256}; later uses are checked against that."
    )


# --- the download -------------------------------------------------------------------------------


def _download_into(
    published: Published, target: Path, locked: bool, progress: Progress, rules: Rules
) -> None:
    """Download into a part of its own name, which stays if it may be gone on with."""
    if locked:
        _download(published, target, caches.beside(target, ".part"), progress, rules)
        return
    part = caches.beside(target, f".{secrets.token_hex(4)}.part")
    try:
        _download(published, target, part, progress, rules)
    finally:
        discard(part)


def _download(published: Published, target: Path, part: Path, progress: Progress, rules: Rules) -> None:
    """Attempts until the whole file is here, then its verification, then its name."""
    url, size = address(published), f" ({published.size})" if published.size else ""
    progress.say(f"Downloading {published.file}{size} from {printable(url)}")
    stated = _attempts(published, url, target, part, progress, rules)
    if (wrong := _wrong(part, published, stated)) and stated.resumed:
        progress.say(
            f"The file does not verify after it was gone on with ({wrong}); once more from the start."
        )
        discard(part)
        stated = _attempts(published, url, target, part, progress, rules)
        wrong = _wrong(part, published, stated)
    if wrong:
        discard(part)
        raise EnvironmentFault(
            f"what came from {printable(url)} is not the published file: {wrong}. It was removed.",
            file=published.name,
            remedy="Somebody between here and there may have changed it, or the publisher replaced it. "
            f"Try again from another network. Or {_by_hand(published, target)}",
        )
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    sha256 = files.sha256(part)
    caches.remember(target, sha256)
    os.replace(part, target)
    discard(part)
    progress.say(_trust(published, stated, sha256))


def _attempts(
    published: Published, url: str, target: Path, part: Path, progress: Progress, rules: Rules
) -> Stated:
    """Receive the whole file, through as many failures as `rules` allow without a new byte."""
    failures, furthest = 0, 0
    token = os.environ.get("HF_TOKEN", "").strip() if published.url.startswith(f"{HUB}/") else ""

    def fits(total: int) -> str | None:
        _check_space(part, total)
        return _wrong_length(total, published)

    def show(chunks: Iterator[bytes], to_come: int | None) -> Iterable[bytes]:
        kilobytes = Kilobytes()
        total = kilobytes.whole(to_come or 0)
        return progress.track(chunks, total, f"{published.file}, kB", size=kilobytes)

    while True:
        try:
            return receive(url, part, rules=rules, fits=fits, show=show, token=token)
        except Trouble as trouble:
            here = part.stat().st_size if part.exists() else 0
            failures = 1 if here > furthest else failures + 1
            furthest = max(here, furthest)
            if trouble.afresh:
                discard(part)
            if not trouble.again or failures >= rules.attempts:
                _give_up(published, url, target, part, trouble, failures)
            wait_s = max(trouble.wait_s, rules.backoff_s * 2 ** (failures - 1))
            progress.say(f"No luck: {printable(trouble.what)}. Trying again in {duration(wait_s)}.")
            time.sleep(wait_s)


class Kilobytes:
    """Counts bytes for a progress bar in whole kilobytes, so that chunks add up to the total."""

    def __init__(self) -> None:
        self._seen = 0

    @staticmethod
    def whole(size: int) -> int:
        """`size` bytes in kilobytes, rounded down."""
        return size // 1000

    def __call__(self, chunk: bytes) -> int:
        """The kilobytes that are full with this chunk and were not before it."""
        before = self.whole(self._seen)
        self._seen += len(chunk)
        return self.whole(self._seen) - before


def _wrong_length(total: int, published: Published) -> str | None:
    limits = published.size_bytes()
    if limits is None or limits[0] <= total <= limits[1]:
        return None
    return f"the server announces {total:,} bytes, and its publisher states {published.size}"


def _wrong(part: Path, published: Published, stated: Stated) -> str | None:
    """What is wrong with a file that came whole, or `None`."""
    size = part.stat().st_size
    if stated.total is not None and stated.total != size:
        return f"it has {size:,} bytes, and the server announced {stated.total:,}"
    if wrong := _wrong_length(size, published) or caches.wrong_hash(part, published):
        return wrong
    for algorithm, said in (("sha256", stated.sha256), ("md5", stated.md5)):
        if said and (found := caches.digest(part, algorithm)) != said:
            return f"the server states {algorithm} {said}, and it is {found}"
    if stated.total is None and not (published.digits or stated.sha256 or stated.md5):
        return "its publisher states no hash and the server no length, so nothing shows that it is whole"
    return caches.wrong_form(part, Path(published.file).suffix)


def _check_space(part: Path, total: int) -> None:
    """`WriteFailed` where the disk has no room for the rest: before it is full, not after."""
    needed = total - (part.stat().st_size if part.exists() else 0)
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise WriteFailed(
            f"the disk has {free / 1e6:,.0f} MB free, and {needed / 1e6:,.0f} MB are to come.",
            file=part.parent,
            remedy="Free some space, or set MOBILENETS_CACHE to a folder on another disk; then run the "
            "same command again.",
        )


# --- what it says when it cannot ----------------------------------------------------------------


def _give_up(
    published: Published, url: str, target: Path, part: Path, trouble: Trouble, failures: int
) -> NoReturn:
    times = f" ({failures} attempts)" if failures > 1 else ""
    hint = ""
    if trouble.status in (401, 403):
        hint = "If a mirror or a proxy wants a login, set HF_TOKEN (for the hub) or HTTPS_PROXY."
    elif "certificate" in trouble.what:
        hint = "Behind a proxy that opens encryption, set SSL_CERT_FILE to its certificate."
    elif trouble.again and part.exists():
        hint = "What came so far is kept: the same command goes on from there."
    raise EnvironmentFault(
        f"could not be downloaded from {printable(url)}: {printable(trouble.what)}{times}.",
        file=published.name,
        remedy=f"{hint} Or {_by_hand(published, target)}" if hint else _sentence(_by_hand(published, target)),
    ) from trouble


def _by_hand(published: Published, target: Path) -> str:
    """Which file to put where, so that no network is needed."""
    check = ""
    if published.digits:
        kind = "SHA-256" if published.algorithm == "sha256" else "MD5"
        check = f" (its {kind} begins with {published.digits[:12]})"
    return (
        f"download {published.url} on another machine{check}, save it as "
        f"{printable(str(target))}, and run the same command again."
    )


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _not_written(target: Path, error: OSError) -> WriteFailed:
    """As `files.write_failed`, with what helps here: another cache folder."""
    failed = files.write_failed(target, error)
    failed.remedy = (
        "Free some space or set MOBILENETS_CACHE to another folder, and run the same command again; "
        "what came so far is kept."
    )
    return failed
