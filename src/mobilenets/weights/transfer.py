"""One file over HTTP, in parts if need be. The only module that speaks to the network.

`receive` makes one attempt: it follows redirects, asks for the rest of a file of which a part is
here, checks what the server announces against what is known, and appends to the part. It raises
`Trouble`, which says whether another attempt makes sense; `download` decides and words it.

The rules are those of RFC 9110: a part is gone on with only under a strong validator (`If-Range`,
13.1.5), and only where `Content-Range` (14.4) says that the server understood.
"""

import base64
import binascii
import dataclasses
import http.client
import json
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import mobilenets
from mobilenets import files
from mobilenets.weights.cache import beside

CHUNK_BYTES = 1 << 16
SLOWEST_BYTES = 1024
"""A transfer that brings less than this in `Rules.stall_s` has stalled."""

_REDIRECTS = (301, 302, 303, 307, 308)
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_ASK_AGAIN_S = 120.0
"""The longest `Retry-After` that is obeyed."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How patient a transfer is, and where it may go."""

    attempts: int = 5
    """Attempts in a row that bring nothing new before it gives up."""
    stall_s: float = 30.0
    """The longest wait for a connection, an answer, or the next kilobyte."""
    backoff_s: float = 1.0
    """The pause before the second attempt; it doubles with each."""
    redirects: int = 10
    schemes: tuple[str, ...] = ("https",)
    """`http` is for tests alone."""


@dataclass(frozen=True, slots=True)
class Stated:
    """What a server says of a whole file while it sends it."""

    total: int | None = None
    sha256: str = ""
    """The hub sends it for every large file (`X-Linked-Etag`)."""
    md5: str = ""
    """Google Cloud Storage sends it (`x-goog-hash`)."""
    resumed: bool = False
    """Whether this answer brought the rest of a part, not the whole file."""


class Trouble(Exception):
    """An attempt that failed. `again`: another may not; `afresh`: without the part that is here."""

    def __init__(self, what: str, *, again: bool, afresh: bool = False, wait_s: float = 0.0, status: int = 0):
        super().__init__(what)
        self.what = what
        self.again = again
        self.afresh = afresh
        self.wait_s = wait_s
        self.status = status


def receive(
    url: str,
    part: Path,
    *,
    rules: Rules,
    fits: Callable[[int], str | None],
    show: Callable[[Iterator[bytes], int | None], Iterable[bytes]],
    token: str = "",
) -> Stated:
    """Bring `part` up to the whole file at `url`, and return what the server said of it.

    `fits` names what is wrong with a total length (bytes), before anything is fetched; `show` passes
    the chunks through, of which so many bytes are to come. `token` goes to `url`'s own host alone.
    Raises `Trouble`; an error in writing `part` is an `OSError` as it is.
    """
    start, validator = _resumable(part, url)
    response, stated = _open(url, rules, token, start, validator)
    with response:
        start = _start(response, start)
        stated = _checked(response, stated, start, fits)
        _append(response, url, part, start, stated, rules, show)
    return dataclasses.replace(stated, resumed=start > 0)


def discard(part: Path) -> None:
    """Remove a part and what was noted of it."""
    part.unlink(missing_ok=True)
    beside(part, ".json").unlink(missing_ok=True)


# --- what is here already -----------------------------------------------------------------------


def _resumable(part: Path, url: str) -> tuple[int, str]:
    """How many bytes of the file at `url` are here, and the validator that they came under."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        noted = json.loads(beside(part, ".json").read_text(encoding="utf-8"))
        size = part.stat().st_size
        if noted["url"] == url and noted["validator"] and size:
            return size, str(noted["validator"])
    return 0, ""


def _note(part: Path, url: str, headers: Message) -> None:
    """Write down what the part is a part of; a weak ETag cannot promise equal bytes."""
    etag = headers.get("ETag", "")
    validator = etag if etag.startswith('"') else ""
    files.write_json(beside(part, ".json"), {"url": url, "validator": validator})


# --- asking -------------------------------------------------------------------------------------


def _open(url: str, rules: Rules, token: str, start: int, validator: str) -> tuple[Any, Stated]:
    """The answer to a GET, after redirects, and the hashes that the servers on the way stated."""
    stated, here = Stated(), url
    for _ in range(rules.redirects + 1):
        _check_scheme(here, rules)
        headers = {"User-Agent": f"mobilenets/{mobilenets.__version__}", "Accept-Encoding": "identity"}
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": validator}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        response = _ask(urllib.request.Request(here, headers=headers), rules)  # noqa: S310 (_check_scheme)
        stated = _hashes(response.headers, stated)
        if response.status not in _REDIRECTS:
            return _accepted(response), stated
        with response:
            onward = follow(here, response.headers.get("Location", ""), rules)
        if _origin(onward) != _origin(here):
            token = ""
        here = onward
    raise Trouble(f"the server redirects more than {rules.redirects} times", again=False)


def _ask(request: urllib.request.Request, rules: Rules) -> Any:
    """Any answer that a server gives, also 3xx and 4xx; `Trouble` where none comes."""
    opener = urllib.request.OpenerDirector()  # build_opener would add file:, ftp: and data:
    for handler in (
        urllib.request.ProxyHandler,  # HTTP_PROXY, HTTPS_PROXY, NO_PROXY
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    try:
        return opener.open(request, timeout=rules.stall_s)
    except urllib.error.HTTPError as error:
        return error
    except urllib.error.URLError as error:
        raise _no_answer(error.reason, rules) from error
    except (OSError, http.client.HTTPException) as error:
        raise _no_answer(error, rules) from error


def _no_answer(reason: object, rules: Rules) -> Trouble:
    match reason:
        case TimeoutError():
            return Trouble(f"the server did not answer within {rules.stall_s:g} s", again=True)
        case ssl.SSLCertVerificationError():
            why = reason.verify_message or "not trusted"
            return Trouble(f"the server's certificate was not accepted ({why})", again=False)
        case OSError():
            return Trouble(f"there is no connection ({reason.strerror or reason})", again=True)
        case http.client.HTTPException():
            return Trouble(f"the server's answer is not HTTP ({type(reason).__name__})", again=True)
        case _:
            return Trouble(f"there is no connection ({reason})", again=True)


def follow(here: str, location: str, rules: Rules) -> str:
    """Where a redirect leads; `Trouble` for one that leaves encryption or has no address."""
    if not location:
        raise Trouble("the server redirects without saying where to", again=False)
    onward = urljoin(here, location)
    if urlsplit(here).scheme == "https" and urlsplit(onward).scheme != "https":
        raise Trouble("the server redirects from https to an address without encryption", again=False)
    _check_scheme(onward, rules)
    return onward


def _check_scheme(url: str, rules: Rules) -> None:
    parts = urlsplit(url)
    if parts.scheme not in rules.schemes or not parts.hostname:
        allowed = ", ".join(f"{scheme}://" for scheme in rules.schemes)
        raise Trouble(f"its address would be {url[:200]}; only {allowed} is followed", again=False)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


# --- what the answer says -----------------------------------------------------------------------


def _accepted(response: Any) -> Any:
    """The response if it brings a file; `Trouble` for every other."""
    status = response.status
    if status in (200, 206):
        kind = response.headers.get_content_type()
        if kind in ("text/html", "application/xhtml+xml"):
            response.close()
            raise Trouble(
                "a web page came instead of the file, as from a proxy or a network that wants a login",
                again=False,
            )
        if response.headers.get("Content-Encoding", "identity") != "identity":
            response.close()
            raise Trouble("the server sends the file in an encoding that was not asked for", again=False)
        return response
    response.close()
    reason = http.client.responses.get(status, "an unknown status")
    if status == 416:
        raise Trouble("the part that is here is longer than the file", again=True, afresh=True)
    if status in _AGAIN:
        raise Trouble(
            f"the server answers {status} ({reason})",
            again=True,
            wait_s=_retry_after(response),
            status=status,
        )
    raise Trouble(f"the server answers {status} ({reason})", again=False, status=status)


def _retry_after(response: Any) -> float:
    value = response.headers.get("Retry-After", "")
    return min(float(value), _ASK_AGAIN_S) if value.isdecimal() else 0.0


def _start(response: Any, asked: int) -> int:
    """Where in the file the body begins: 0, or what was asked for; `Trouble` for anything else."""
    if response.status == 200:  # no ranges here, or another file by now: from the beginning
        return 0
    said = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", said)
    if match is None or int(match[1]) != asked:
        raise Trouble(
            f"the server sends another part than was asked for ({said[:60] or 'no Content-Range'})",
            again=True,
            afresh=True,
        )
    return asked


def _checked(response: Any, stated: Stated, start: int, fits: Callable[[int], str | None]) -> Stated:
    """`stated` with the file's whole length, if the server says one and it can be true."""
    length = response.headers.get("Content-Length", "")
    total = start + int(length) if length.isdecimal() else None
    said = response.headers.get("Content-Range", "").rpartition("/")[2]
    if response.status == 206 and said.isdecimal():
        if total is not None and total != int(said):
            raise Trouble("the server contradicts itself about the length", again=True, afresh=True)
        total = int(said)
    if stated.total is not None and total is not None and stated.total != total:
        what = f"the hub announces {stated.total:,} bytes, its storage {total:,}"
        raise Trouble(what, again=True, afresh=True)
    total = stated.total if total is None else total
    if total is not None and (wrong := fits(total)):
        raise Trouble(wrong, again=False)
    return dataclasses.replace(stated, total=total)


def _hashes(headers: Message, known: Stated) -> Stated:
    """`known` with the hashes of the whole file that these headers state."""
    etag = headers.get("X-Linked-Etag", "").strip('"')
    sha256 = etag if re.fullmatch(r"[0-9a-f]{64}", etag) else known.sha256
    size = headers.get("X-Linked-Size", "")
    total = int(size) if size.isdecimal() else known.total
    md5 = known.md5
    if headers.get("x-goog-stored-content-encoding", "identity") == "identity":
        for one in ",".join(headers.get_all("x-goog-hash", [])).split(","):
            kind, _, value = one.strip().partition("=")
            with suppress(binascii.Error):
                md5 = base64.b64decode(value, validate=True).hex() if kind == "md5" else md5
    return Stated(total, sha256, md5)


# --- the body -----------------------------------------------------------------------------------


def _append(
    response: Any,
    url: str,
    part: Path,
    start: int,
    stated: Stated,
    rules: Rules,
    show: Callable[[Iterator[bytes], int | None], Iterable[bytes]],
) -> None:
    """Write the body after the first `start` bytes; all of it, or `Trouble` with what came kept."""
    to_come = None if stated.total is None else stated.total - start
    with part.open("r+b" if start else "wb") as stream:
        stream.seek(start)
        stream.truncate()
        _note(part, url, response.headers)  # only now: before, older bytes may have stood there
        received = 0
        for chunk in show(_chunks(response, rules), to_come):
            stream.write(chunk)
            received += len(chunk)
    if to_come is not None and received != to_come:
        raise Trouble(
            f"the connection ended after {start + received:,} of {stated.total:,} bytes", again=True
        )


def _chunks(response: Any, rules: Rules) -> Iterator[bytes]:
    """The body as it arrives; `Trouble` where it stops or all but stops."""
    since, arrived = time.monotonic(), 0
    while True:
        try:
            chunk: bytes = response.read1(CHUNK_BYTES)
        except TimeoutError as error:
            raise Trouble(f"nothing came for {rules.stall_s:g} s", again=True) from error
        except (OSError, http.client.HTTPException) as error:
            raise Trouble(f"the connection broke ({type(error).__name__})", again=True) from error
        if not chunk:
            return
        yield chunk
        arrived += len(chunk)
        if (now := time.monotonic()) - since > rules.stall_s:
            if arrived < SLOWEST_BYTES:
                raise Trouble(f"only {arrived} bytes came in {rules.stall_s:g} s", again=True)
            since, arrived = now, 0
