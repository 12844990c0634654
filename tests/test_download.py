"""The downloader against a real HTTP server that behaves as badly as real ones do."""

import dataclasses
import errno
import hashlib
import json
import shutil
import ssl
import struct
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilenets.errors import EnvironmentFault, InputError, WriteFailed
from mobilenets.weights import cache, catalogue, download, transfer
from mobilenets.weights.transfer import Rules, Trouble

QUICK = Rules(attempts=3, stall_s=10, backoff_s=0.01, redirects=4, schemes=("http", "https"))
HASTY = dataclasses.replace(QUICK, attempts=6, stall_s=1)


def safetensors(size: int, seed: int = 0) -> bytes:
    """A file in that form, of about `size` bytes that do not compress."""
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    values = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    return struct.pack("<Q", len(header)) + header + values.tobytes()


BODY = safetensors(300_000)
OTHER = safetensors(300_000, seed=1)
SHA = hashlib.sha256(BODY).hexdigest()

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """A local HTTP server that plays `answers` in turn, the last one for ever, and keeps the requests."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.ended = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.requests.append((self.path, headers))
                answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                try:
                    answer(self)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                del format, args

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/weights.safetensors"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.ended.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    here = Server()
    yield here
    here.close()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine that runs the tests counts."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT", "HF_TOKEN", "MOBILENETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


class Told:
    """A progress that keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.totals: list[tuple[int, int]] = []

    def track(self, items: Iterable, total: int, what: str, *, size: Callable | None = None) -> Iterator:
        done = 0
        for item in items:
            yield item
            done += size(item) if size else 1
        self.totals.append((total, done))

    def say(self, line: str) -> None:
        self.lines.append(line)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def weights(url: str, *, hash: str = f"sha256:{SHA}", size: str = "") -> catalogue.Published:
    row = catalogue.find("mobilenet_v2_100.ra_in1k")
    return dataclasses.replace(row, url=url, hash=hash, size=size)


def fetch(
    published: catalogue.Published, folder: Path, told: Told | None = None, rules: Rules = QUICK
) -> Path:
    return download.fetch(published, progress=told or Told(), cache=folder, rules=rules)


def failure(published: catalogue.Published, folder: Path, rules: Rules = QUICK) -> str:
    with pytest.raises(EnvironmentFault) as caught:
        fetch(published, folder, rules=rules)
    text = str(caught.value)
    assert caught.value.exit_code == 3
    assert str(folder / published.file) in text and published.url in text  # what to download, where to put it
    assert not (folder / published.file).exists()
    return text


# --- answers ------------------------------------------------------------------------------------


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    if "Content-Length" not in names:
        names["Content-Length"] = str(len(body))
    for name, value in names.items():
        if value:
            handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()


def whole(body: bytes = BODY, **headers: str) -> Answer:
    return lambda handler: send(handler, 200, body, **{"ETag": '"one"', **headers})


def cut(at: int, body: bytes = BODY, etag: str = '"one"') -> Answer:
    """Announces the whole body and ends the connection after `at` bytes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        send(handler, 200, body[:at], Content_Length=str(len(body)), ETag=etag)
        handler.close_connection = True

    return answer


def ranged(body: bytes = BODY, etag: str = '"one"') -> Answer:
    """As a good server does: 206 for a range under the right ETag, else everything."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        if asked is None or handler.headers.get("If-Range") != etag:
            send(handler, 200, body, ETag=etag)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        said = f"bytes {start}-{len(body) - 1}/{len(body)}"
        send(handler, 206, body[start:], ETag=etag, Content_Range=said)

    return answer


def status(code: int, **headers: str) -> Answer:
    return lambda handler: send(handler, code, b"no", **headers)


def redirect(location: str, **headers: str) -> Answer:
    return lambda handler: send(handler, 302, b"", Location=location, **headers)


def left(folder: Path) -> set[str]:
    """Names in the cache, without the lock."""
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


NAME = "mobilenet_v2_100.ra_in1k.safetensors"


# --- a good server ------------------------------------------------------------------------------


def test_a_file_comes_whole_and_verified(server: Server, tmp_path: Path):
    server.answers = [whole()]
    told = Told()
    path = fetch(weights(server.url), tmp_path / "new" / "folder", told)
    assert path.read_bytes() == BODY and path.name == NAME
    assert left(path.parent) == {NAME, f"{NAME}.sha256"}
    assert (path.parent / f"{NAME}.sha256").read_text() == f"{SHA}  {NAME}\n"
    assert server.url in told.lines[0] and "publisher states" in told.lines[-1]
    total, done = told.totals[0]
    assert total == done == len(BODY) // 1000
    _, headers = server.requests[0]
    assert "authorization" not in headers and "range" not in headers
    assert headers["accept-encoding"] == "identity" and headers["user-agent"].startswith("mobilenets/")


def test_a_cached_file_is_not_fetched_again(server: Server, tmp_path: Path):
    server.answers = [whole()]
    told = Told()
    first = fetch(weights(server.url), tmp_path)
    assert fetch(weights(server.url), tmp_path, told) == first
    assert len(server.requests) == 1 and told.lines == []


def test_the_beginning_of_a_hash_suffices(server: Server, tmp_path: Path):
    server.answers = [whole()]
    assert fetch(weights(server.url, hash=f"sha256:{SHA[:8]}"), tmp_path).exists()


def test_md5_is_checked_where_that_is_what_the_publisher_states(server: Server, tmp_path: Path):
    server.answers = [whole()]
    right = hashlib.md5(BODY).hexdigest()
    assert "MD5" in failure(weights(server.url, hash=f"md5:{'0' * 32}"), tmp_path)
    assert fetch(weights(server.url, hash=f"md5:{right}"), tmp_path).exists()


def test_chunked_without_a_length_will_do_under_a_hash(server: Server, tmp_path: Path):
    server.answers = [lambda handler: send(handler, 200, BODY, Content_Length="")]
    assert fetch(weights(server.url), tmp_path).read_bytes() == BODY


# --- going on with a part -----------------------------------------------------------------------


def test_a_cut_connection_goes_on_where_it_was(server: Server, tmp_path: Path):
    server.answers = [cut(100_000), ranged()]
    told = Told()
    assert fetch(weights(server.url), tmp_path, told).read_bytes() == BODY
    _, headers = server.requests[1]
    assert headers["range"] == "bytes=100000-" and headers["if-range"] == '"one"'
    assert "100,000 of" in told.text
    total, done = told.totals[-1]
    assert total == done == (len(BODY) - 100_000) // 1000


def test_a_stopped_run_goes_on_where_it_was(server: Server, tmp_path: Path):
    class Impatient(Told):
        def track(self, items: Iterable, total: int, what: str, *, size: Callable | None = None) -> Iterator:
            for count, item in enumerate(items):
                if count == 2:
                    raise KeyboardInterrupt
                yield item

    server.answers = [ranged()]
    with pytest.raises(KeyboardInterrupt):
        fetch(weights(server.url), tmp_path, Impatient())
    here = (tmp_path / f"{NAME}.part").read_bytes()
    assert 0 < len(here) < len(BODY) and BODY.startswith(here)
    assert not (tmp_path / NAME).exists()
    assert fetch(weights(server.url), tmp_path).read_bytes() == BODY
    assert server.requests[1][1]["range"] == f"bytes={len(here)}-"
    assert left(tmp_path) == {NAME, f"{NAME}.sha256"}


def test_a_server_that_knows_no_ranges(server: Server, tmp_path: Path):
    server.answers = [cut(100_000), whole()]
    assert fetch(weights(server.url), tmp_path).read_bytes() == BODY


def test_a_file_that_was_replaced_meanwhile(server: Server, tmp_path: Path):
    server.answers = [cut(100_000, OTHER, '"old"'), ranged(BODY, '"new"')]
    assert fetch(weights(server.url), tmp_path).read_bytes() == BODY


def test_a_server_that_ignores_if_range_is_found_out(server: Server, tmp_path: Path):
    """The rest of one file after the beginning of another does not verify, so it all comes again."""

    def careless(handler: BaseHTTPRequestHandler) -> None:
        start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        send(handler, 206, BODY[start:], Content_Range=f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")

    server.answers = [cut(100_000, OTHER), careless, whole()]
    told = Told()
    assert fetch(weights(server.url), tmp_path, told).read_bytes() == BODY
    assert "once more from the start" in told.text
    assert "range" not in server.requests[2][1]


@pytest.mark.parametrize(
    "said", ["bytes 5-300/301", "bytes 0-99/*", "", "bytes */300000", f"bytes 100000-200000/{len(BODY)}"]
)
def test_a_wrong_range_is_not_appended(server: Server, tmp_path: Path, said: str):
    server.answers = [cut(100_000), lambda handler: send(handler, 206, BODY, Content_Range=said), whole()]
    assert fetch(weights(server.url), tmp_path).read_bytes() == BODY
    assert len(server.requests) == 3 and "range" not in server.requests[2][1]


def test_a_part_that_is_too_long(server: Server, tmp_path: Path):
    server.answers = [cut(100_000), status(416, Content_Range="bytes */1000"), whole()]
    assert fetch(weights(server.url), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("etag", ["", 'W/"one"'])
def test_no_range_is_asked_for_without_a_strong_validator(server: Server, tmp_path: Path, etag: str):
    server.answers = [cut(100_000, etag=etag), whole()]
    assert fetch(weights(server.url), tmp_path).read_bytes() == BODY
    assert "range" not in server.requests[1][1]


def test_a_part_of_another_address_is_not_gone_on_with(server: Server, tmp_path: Path):
    server.answers = [cut(100_000)]
    failure(weights(server.url), tmp_path, dataclasses.replace(QUICK, attempts=1))
    server.answers = [ranged()]
    fetch(weights(server.url.replace("weights", "other")), tmp_path)
    assert "range" not in server.requests[-1][1]


# --- servers that fail --------------------------------------------------------------------------


def test_a_server_that_always_cuts_ends_in_an_error_that_keeps_the_part(server: Server, tmp_path: Path):
    server.answers = [cut(100_000)]
    text = failure(weights(server.url), tmp_path)
    assert "the connection ended after 100,000 of" in text and "attempts" in text
    assert "goes on from there" in text
    assert left(tmp_path) == {f"{NAME}.part", f"{NAME}.part.json"}


def test_attempts_that_bring_something_new_do_not_count(server: Server, tmp_path: Path):
    def a_bit_more(handler: BaseHTTPRequestHandler) -> None:
        start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        said = f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"
        piece, rest = BODY[start : start + 50_000], str(len(BODY) - start)
        send(handler, 206, piece, Content_Range=said, Content_Length=rest, ETag='"one"')
        handler.close_connection = True

    server.answers = [a_bit_more]
    assert fetch(weights(server.url), tmp_path).read_bytes() == BODY
    assert len(server.requests) > QUICK.attempts


@pytest.mark.slow
@pytest.mark.parametrize("begun", [True, False])
def test_a_stalled_server_is_left_and_asked_again(server: Server, tmp_path: Path, begun: bool):
    def stall(handler: BaseHTTPRequestHandler) -> None:
        if begun:
            send(handler, 200, BODY[:5000], Content_Length=str(len(BODY)), ETag='"one"')
        server.ended.wait(20)

    server.answers = [stall, ranged()]
    told = Told()
    began = time.monotonic()
    assert fetch(weights(server.url), tmp_path, told, HASTY).read_bytes() == BODY
    assert time.monotonic() - began < 15  # the server would have slept for 20
    assert ("nothing came for 1 s" if begun else "did not answer within 1 s") in told.text


@pytest.mark.slow
def test_a_trickle_is_a_stall(server: Server, tmp_path: Path):
    def trickle(handler: BaseHTTPRequestHandler) -> None:
        send(handler, 200, b"", Content_Length=str(len(BODY)))
        for byte in BODY[:1000]:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            if server.ended.wait(0.01):
                return

    server.answers = [trickle]
    rules = dataclasses.replace(HASTY, attempts=1)
    assert "bytes came in 1 s" in failure(weights(server.url), tmp_path, rules)


def test_500_then_well(server: Server, tmp_path: Path):
    server.answers = [status(500), status(503), whole()]
    told = Told()
    assert fetch(weights(server.url), tmp_path, told).read_bytes() == BODY
    assert "500 (Internal Server Error)" in told.text


def test_500_for_ever(server: Server, tmp_path: Path):
    server.answers = [status(500)]
    assert "500" in failure(weights(server.url), tmp_path)
    assert len(server.requests) == QUICK.attempts


def test_retry_after_is_obeyed(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pauses: list[float] = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    server.answers = [status(429, Retry_After="7"), status(500), status(503, Retry_After="9999"), whole()]
    fetch(weights(server.url), tmp_path, rules=dataclasses.replace(QUICK, attempts=4, backoff_s=1))
    assert pauses == [7, 2, 120]


@pytest.mark.parametrize("code", [401, 403, 404, 410, 451])
def test_a_refusal_is_not_asked_again(server: Server, tmp_path: Path, code: int):
    server.answers = [status(code)]
    text = failure(weights(server.url), tmp_path)
    assert str(code) in text and len(server.requests) == 1
    assert ("HF_TOKEN" in text) == (code in (401, 403))


def test_nobody_there(tmp_path: Path):
    gone = Server()
    gone.close()
    text = failure(weights(gone.url, hash="sha256:f55367f5"), tmp_path)
    assert "there is no connection" in text and "(3 attempts)" in text
    assert "begins with f55367f5" in text


def test_something_that_is_not_http(server: Server, tmp_path: Path):
    def gibberish(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        handler.close_connection = True

    server.answers = [gibberish]
    assert "not HTTP" in failure(weights(server.url), tmp_path)


def test_a_certificate_that_is_not_trusted_is_not_asked_again():
    error = ssl.SSLCertVerificationError("no")
    error.verify_message = "self-signed certificate"
    trouble = transfer._no_answer(error, QUICK)
    assert not trouble.again and "self-signed certificate" in trouble.what


# --- servers that lie ---------------------------------------------------------------------------


def test_a_wrong_hash_leaves_nothing_and_says_both(server: Server, tmp_path: Path):
    server.answers = [whole(OTHER)]
    text = failure(weights(server.url), tmp_path)
    assert SHA in text and hashlib.sha256(OTHER).hexdigest() in text
    assert left(tmp_path) == set() and len(server.requests) == 1


def test_a_web_page_is_not_weights(server: Server, tmp_path: Path):
    server.answers = [whole(b"<!doctype html><title>Login</title>", Content_Type="text/html; charset=utf-8")]
    assert "web page" in failure(weights(server.url, hash=""), tmp_path)
    assert left(tmp_path) == set()


def test_a_web_page_under_another_name_is_not_weights_either(server: Server, tmp_path: Path):
    server.answers = [whole(b"<!doctype html><title>Login</title>", Content_Type="application/octet-stream")]
    assert "safetensors" in failure(weights(server.url, hash=""), tmp_path)


def test_an_encoding_that_was_not_asked_for(server: Server, tmp_path: Path):
    server.answers = [whole(Content_Encoding="gzip")]
    assert "encoding" in failure(weights(server.url), tmp_path)


def test_a_length_that_is_not_the_published_size(server: Server, tmp_path: Path):
    server.answers = [whole()]
    text = failure(weights(server.url, size="22.1 MB"), tmp_path)
    assert f"announces {len(BODY):,} bytes" in text and "22.1 MB" in text
    assert left(tmp_path) == set()
    fetch(weights(server.url, size="0.30 MB"), tmp_path)


def test_a_length_that_is_too_short_is_found_by_the_form_of_the_file(server: Server, tmp_path: Path):
    server.answers = [whole(Content_Length=str(len(BODY) - 1000))]
    text = failure(weights(server.url, hash=""), tmp_path)
    assert f"its header says {len(BODY):,} bytes" in text and left(tmp_path) == set()


def test_a_length_that_is_too_long_never_becomes_a_file(server: Server, tmp_path: Path):
    def more_than_there_is(handler: BaseHTTPRequestHandler) -> None:
        send(handler, 200, BODY, Content_Length=str(len(BODY) + 1000))
        handler.close_connection = True

    server.answers = [more_than_there_is]
    assert f"of {len(BODY) + 1000:,} bytes" in failure(weights(server.url), tmp_path)


def test_without_hash_and_length_nothing_shows_that_a_file_is_whole(server: Server, tmp_path: Path):
    server.answers = [lambda handler: send(handler, 200, BODY, Content_Length="")]
    assert "nothing shows that it is whole" in failure(weights(server.url, hash=""), tmp_path)


def test_a_file_without_a_published_hash_is_remembered(server: Server, tmp_path: Path):
    server.answers = [whole()]
    told = Told()
    path = fetch(weights(server.url, hash=""), tmp_path, told)
    assert "states no hash" in told.text and SHA in told.text
    path.write_bytes(OTHER)  # a disk that forgot, or somebody
    again = Told()
    assert fetch(weights(server.url, hash=""), tmp_path, again).read_bytes() == BODY
    assert SHA in again.text and hashlib.sha256(OTHER).hexdigest() in again.text
    assert (tmp_path / f"{NAME}.damaged").read_bytes() == OTHER


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("kind", ["X-Linked-Etag", "x-goog-hash"])
def test_a_hash_that_the_server_states_counts(server: Server, tmp_path: Path, kind: str, right: bool):
    body = BODY if right else OTHER
    md5 = b64encode(hashlib.md5(body).digest()).decode()
    said = (
        f'"{hashlib.sha256(body).hexdigest()}"' if kind == "X-Linked-Etag" else f"crc32c=AAAAAA==,md5={md5}"
    )
    server.answers = [
        redirect(f"{server.url}?storage", **{kind: said})
        if kind == "X-Linked-Etag"
        else whole(**{kind: said}),
        whole(),
    ]
    if right:
        told = Told()
        fetch(weights(server.url, hash=""), tmp_path, told)
        assert "publisher's server states" in told.text
    else:
        assert "the server states" in failure(weights(server.url, hash=""), tmp_path)


def test_the_hub_and_its_storage_must_agree_on_the_length(server: Server, tmp_path: Path):
    server.answers = [redirect(f"{server.url}?storage", X_Linked_Size="77"), whole()]
    rules = dataclasses.replace(QUICK, attempts=1)
    assert "announces 77 bytes" in failure(weights(server.url), tmp_path, rules)


# --- redirects, tokens, mirrors, proxies --------------------------------------------------------


def test_redirects_are_followed(server: Server, tmp_path: Path):
    server.answers = [redirect("/elsewhere?x=1"), redirect(f"http://127.0.0.1:{server.port}/end"), ranged()]
    assert fetch(weights(server.url), tmp_path).read_bytes() == BODY
    assert [path for path, _ in server.requests] == ["/weights.safetensors", "/elsewhere?x=1", "/end"]


def test_a_loop_of_redirects_ends(server: Server, tmp_path: Path):
    server.answers = [redirect("/weights.safetensors")]
    assert "more than 4 times" in failure(weights(server.url), tmp_path)
    assert len(server.requests) == QUICK.redirects + 1


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://example.org/x", "data:,x", ""])
def test_a_redirect_leads_to_http_or_nowhere(server: Server, tmp_path: Path, location: str):
    server.answers = [redirect(location)]
    text = failure(weights(server.url), tmp_path)
    assert "only http" in text or "without saying where" in text
    assert len(server.requests) == 1


def test_encryption_is_never_left():
    everywhere = dataclasses.replace(QUICK, schemes=("http", "https"))
    with pytest.raises(Trouble, match="without encryption"):
        transfer.follow("https://hub.example.org/a", "http://hub.example.org/a", everywhere)
    onward = transfer.follow("https://hub.example.org/a/b", "../c", everywhere)
    assert onward == "https://hub.example.org/c"


def test_addresses_without_encryption_are_refused_outside_of_tests(server: Server, tmp_path: Path):
    server.answers = [whole()]
    assert "only https:// is followed" in failure(weights(server.url), tmp_path, Rules(attempts=1))
    assert server.requests == []


def hub_row(**changes: str) -> catalogue.Published:
    url = "https://huggingface.co/timm/mobilenetv2_100.ra_in1k/resolve/main/model.safetensors"
    return dataclasses.replace(weights(url), **changes)


def test_a_mirror_of_the_hub(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.port}/mirror/")
    server.answers = [whole()]
    fetch(hub_row(), tmp_path)
    assert server.requests[0][0] == "/mirror/timm/mobilenetv2_100.ra_in1k/resolve/main/model.safetensors"


def test_a_mirror_is_for_the_hub_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example.org")
    other = catalogue.find("mobilenet_v2_100.torchvision_imagenet1k_v2")
    assert download.address(other) == other.url
    assert download.address(hub_row()).startswith("https://mirror.example.org/timm/")
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example.org")
    with pytest.raises(InputError, match="HF_ENDPOINT"):
        download.address(hub_row())


def test_the_token_goes_to_the_hub_alone(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("HF_TOKEN", "secret\n")
    storage = f"http://localhost:{server.port}/storage"
    back = f"http://127.0.0.1:{server.port}/back"
    server.answers = [redirect("/renamed"), redirect(storage), redirect(back), whole()]
    fetch(hub_row(), tmp_path)
    sent = [headers.get("authorization") for _, headers in server.requests]
    assert sent == ["Bearer secret", "Bearer secret", None, None]


def test_no_token_for_others(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    server.answers = [whole()]
    fetch(weights(server.url), tmp_path)
    assert "authorization" not in server.requests[0][1]


def test_proxies_are_honoured(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
    server.answers = [whole()]
    fetch(weights("http://weights.invalid/a.safetensors"), tmp_path / "a")
    assert server.requests[0][0] == "http://weights.invalid/a.safetensors"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fetch(weights(server.url), tmp_path / "b")
    assert server.requests[1][0] == "/weights.safetensors"


# --- offline, and files put there by hand -------------------------------------------------------


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
@pytest.mark.parametrize("value", ["1", "TRUE", "yes", "on"])
def test_offline_says_which_file_to_put_where(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
):
    monkeypatch.setenv(variable, value)
    server.answers = [whole()]
    assert variable in failure(weights(server.url), tmp_path)
    assert server.requests == []
    (tmp_path / NAME).write_bytes(BODY)
    told = Told()
    assert fetch(weights(server.url), tmp_path, told) == tmp_path / NAME
    assert (tmp_path / f"{NAME}.sha256").read_text().startswith(SHA)


def test_zero_is_not_offline(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    server.answers = [whole()]
    assert fetch(weights(server.url), tmp_path).exists()


def test_the_wrong_file_put_there_by_hand_is_set_aside(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / NAME).write_bytes(OTHER)
    text = failure(weights(server.url), tmp_path)
    assert SHA in text and f"{NAME}.damaged" in text
    assert (tmp_path / f"{NAME}.damaged").read_bytes() == OTHER


def test_a_page_saved_as_weights_by_hand_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / NAME).write_bytes(b"<html>not yet</html>")
    assert "does not begin as" in failure(weights("https://example.org/a.safetensors", hash=""), tmp_path)


# --- disks and other processes ------------------------------------------------------------------


def test_a_disk_without_room_is_told_before_it_is_full(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    server.answers = [whole()]
    with pytest.raises(WriteFailed, match="MOBILENETS_CACHE"):
        fetch(weights(server.url), tmp_path)
    assert left(tmp_path) == set()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_refuses_keeps_what_came(server: Server, tmp_path: Path, code: int):
    class Full(Told):
        def track(self, items: Iterable, total: int, what: str, *, size: Callable | None = None) -> Iterator:
            yield next(iter(items))
            raise OSError(code, "no")

    server.answers = [ranged()]
    with pytest.raises(WriteFailed, match="MOBILENETS_CACHE") as caught:
        fetch(weights(server.url), tmp_path, Full())
    assert caught.value.exit_code == 3 and NAME in str(caught.value)
    assert fetch(weights(server.url), tmp_path).read_bytes() == BODY
    assert "range" in server.requests[1][1]


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteFailed, match="MOBILENETS_CACHE"):
        fetch(weights("http://127.0.0.1:1/a.safetensors"), tmp_path / "file" / "folder")


@pytest.mark.parametrize("locks", [True, False])
def test_two_at_once(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: bool):
    """With a lock one of them downloads; on a file system without, each has a part of its own."""
    if not locks:
        monkeypatch.setattr(cache, "_lock", lambda _: None)
    began = threading.Barrier(2)

    def slowly(handler: BaseHTTPRequestHandler) -> None:
        if not locks:
            began.wait(5)
        send(handler, 200, BODY[:1000], Content_Length=str(len(BODY)))
        time.sleep(0.1)
        handler.wfile.write(BODY[1000:])

    server.answers = [slowly]
    monkeypatch.setattr(cache, "WAIT_S", 0.01)
    told = [Told(), Told()]
    paths: list[Path] = []
    threads = [
        threading.Thread(target=lambda one=one: paths.append(fetch(weights(server.url), tmp_path, one)))
        for one in told
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert paths == [tmp_path / NAME] * 2 and paths[0].read_bytes() == BODY
    assert len(server.requests) == (1 if locks else 2)
    assert ("Another process" in told[0].text + told[1].text) == locks
    assert left(tmp_path) == {NAME, f"{NAME}.sha256"}


# --- the cache folder and small rules -----------------------------------------------------------


def test_where_the_cache_is(tmp_path: Path):
    home = Path.home()
    assert cache.folder(platform="linux", environment={}) == home / ".cache/mobilenets/weights"
    assert cache.folder(platform="linux", environment={"XDG_CACHE_HOME": "/x"}) == Path(
        "/x/mobilenets/weights"
    )
    assert cache.folder(platform="linux", environment={"XDG_CACHE_HOME": "x"}).is_relative_to(home)
    assert cache.folder(platform="darwin", environment={}) == home / "Library/Caches/mobilenets/weights"
    local = {"LOCALAPPDATA": str(tmp_path)}
    assert cache.folder(platform="win32", environment=local) == tmp_path / "mobilenets" / "weights"
    for platform in ("linux", "darwin", "win32"):
        named = {"MOBILENETS_CACHE": str(tmp_path), **local}
        assert cache.folder(platform=platform, environment=named) == tmp_path / "weights"


def test_the_default_is_the_named_folder(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path))
    server.answers = [whole()]
    assert download.fetch(weights(server.url), rules=QUICK) == tmp_path / "weights" / NAME


@settings(deadline=None)  # other programs may hold the core
@given(st.lists(st.binary(max_size=3000), max_size=30))
def test_kilobytes_add_up(chunks: list[bytes]):
    count = download.Kilobytes()
    assert sum(map(count, chunks)) == count.whole(sum(map(len, chunks)))


@pytest.mark.parametrize(
    ("ending", "content", "wrong"),
    [
        (".h5", b"\x89HDF\r\n\x1a\nrest", None),
        (".h5", b"<html>", "HDF5"),
        (".pth", b"\x80\x02rest", None),
        (".pth", b"<html>", "PyTorch"),
        (".bin", b"PK\x03\x04 and no end", "without its end"),
        (".safetensors", struct.pack("<Q", 10**6) + b"{}", "within its own header"),
        (".safetensors", struct.pack("<Q", 3) + b"{x}", "cannot be read"),
        (".safetensors", struct.pack("<Q", 9) + b'{"a": []}', "cannot be read"),
        (".safetensors", b"", "empty"),
    ],
)
def test_forms(tmp_path: Path, ending: str, content: bytes, wrong: str | None):
    path = tmp_path / "file"
    path.write_bytes(content)
    found = cache.wrong_form(path, ending)
    assert found is None if wrong is None else found is not None and wrong in found


def test_a_whole_pytorch_file_has_the_right_form(tmp_path: Path):
    import torch

    torch.save({"a": torch.zeros(3)}, tmp_path / "a.pth")
    assert cache.wrong_form(tmp_path / "a.pth", ".pth") is None
