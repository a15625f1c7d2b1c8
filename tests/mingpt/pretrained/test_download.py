"""mingpt.pretrained.download and data/cs224n_a5/prepare.py against a local server that misbehaves in every way we know
of.

What holds throughout: a call ends with the right file, or with DownloadError and no file under the final name.
"""

import gzip
import hashlib
import http.server
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY

from mingpt.pretrained import download, watchdog
from mingpt.pretrained.download import DownloadError, fetch
from mingpt.support.files import sha256_of

ROOT = REPOSITORY
DATA = bytes(range(256)) * 2000  # 512,000 bytes: eight chunks
OTHER = DATA[::-1]
HALF = 4 * download.CHUNK


def sha(data):
    return hashlib.sha256(data).hexdigest()


# How the server may behave. Each takes the request handler; `cut(n)` and the like build one.


def serve(handler, data=DATA, etag='"v1"', sent=None, ranges=True):
    """A proper answer with Range and If-Range; the connection is dropped after `sent` bytes of the body."""
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    current = handler.headers.get("If-Range") in (None, etag)
    if asked and ranges and current:
        start = int(asked[1])
        if start >= len(data):
            return handler.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        status, body = 206, data[start:]
    else:
        status, body, headers = 200, data, {}
    if etag:
        headers["ETag"] = etag
    handler.answer(status, body, headers, sent)


def cut(sent, **kwargs):
    return lambda handler: serve(handler, sent=sent, **kwargs)


def ok(**kwargs):
    return lambda handler: serve(handler, **kwargs)


def status(code, body=b"sorry"):
    return lambda handler: handler.answer(code, body)


def length_of(announced):
    return lambda handler: handler.answer(200, DATA, {"Content-Length": str(announced)})


def html(content_type):
    return lambda handler: handler.answer(200, b"<!DOCTYPE html><p>Please log in", {"Content-Type": content_type})


def spliced(handler):
    """Sends the rest of another version of the file, and does not say so."""
    start = int(handler.headers["Range"][6:-1])
    handler.answer(206, OTHER[start:], {"Content-Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"})


def wrong_range(handler):
    """Answers a Range request with the file's beginning."""
    handler.answer(206, DATA, {"Content-Range": f"bytes 0-{len(DATA) - 1}/{len(DATA)}", "ETag": '"v1"'})


def a_piece(handler):
    """Answers a Range request properly, with fewer bytes than were asked for."""
    start = int(handler.headers["Range"][6:-1])
    headers = {"Content-Range": f"bytes {start}-{start + 999}/{len(DATA)}", "ETag": '"v1"'}
    handler.answer(206, DATA[start : start + 1000], headers)


def new_version_ignoring_if_range(handler):
    start = int(handler.headers["Range"][6:-1])
    handler.answer(206, OTHER[start:], {"Content-Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}", "ETag": '"v2"'})


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        with server.lock:
            server.requests.append((self.path, dict(self.headers)))
            behave = server.script.pop(0) if len(server.script) > 1 else server.script[0]
        behave(self)

    def answer(self, code, body, headers=None, sent=None):
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body if sent is None else body[:sent])
        except ConnectionError:  # the client has seen enough
            pass
        self.close_connection = True

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    """Answers request number i with script[i]; the last entry stays for all that follow."""

    daemon_threads = True

    def __init__(self, *script):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.requests, self.lock = list(script), [], threading.Lock()
        self.base = f"http://127.0.0.1:{self.server_port}"
        self.url = f"{self.base}/folder/corpus.txt"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def ranges(self):
        return [headers.get("Range") for _, headers in self.requests]


@pytest.fixture
def start():
    servers = []

    def start_server(*script):
        servers.append(Server(*script))
        return servers[-1]

    yield start_server
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    monkeypatch.setattr(download, "BACKOFF", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("MINGPT_MIRROR", raising=False)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "corpus.txt"


def files(folder):
    return sorted(entry.name for entry in folder.iterdir())


# ---- what should work


@pytest.mark.parametrize("expected", [sha(DATA), sha(DATA).upper(), None])
def test_a_proper_server(start, tmp_path, expected):
    path = tmp_path / "new" / "folder" / "corpus.txt"
    assert fetch(start(serve).url, str(path), expected) == path
    assert path.read_bytes() == DATA
    assert files(path.parent) == ["corpus.txt"]
    assert sha256_of(path) == sha(DATA)


def test_an_empty_file_can_be_downloaded(start, path):
    fetch(start(ok(data=b"")).url, path, sha(b""))
    assert path.read_bytes() == b"" and files(path.parent) == ["corpus.txt"]


def test_existing_good_file_asks_nobody(start, path):
    path.write_bytes(DATA)
    server = start(serve)
    fetch(server.url, path, sha(DATA))
    fetch(server.url, path)
    assert server.requests == [] and files(path.parent) == ["corpus.txt"]


def test_existing_file_that_differs_is_kept_beside_the_new_one(start, path, capsys):
    server = start(serve)
    for mine in (b"mine", b"mine too"):
        path.write_bytes(mine)
        fetch(server.url, path, sha(DATA))
        assert path.read_bytes() == DATA
    assert "not the expected file" in capsys.readouterr().err
    assert (path.parent / "corpus.txt.bad").read_bytes() == b"mine"
    assert (path.parent / "corpus.txt.bad.1").read_bytes() == b"mine too"


def test_existing_file_that_differs_survives_a_failed_download(start, path):
    path.write_bytes(b"mine")
    with pytest.raises(DownloadError, match="left alone"):
        fetch(start(status(404)).url, path, sha(DATA))
    assert path.read_bytes() == b"mine" and files(path.parent) == ["corpus.txt"]


@pytest.mark.parametrize("expected", [sha(DATA), None])
def test_a_cut_is_resumed(start, path, expected):
    server = start(cut(HALF), cut(HALF // 2), serve)
    fetch(server.url, path, expected)
    assert path.read_bytes() == DATA
    assert server.ranges() == [None, f"bytes={HALF}-", f"bytes={HALF + HALF // 2}-"]
    assert server.requests[1][1]["If-Range"] == '"v1"'
    assert all(headers["Accept-Encoding"] == "identity" for _, headers in server.requests)


def test_cuts_without_end_are_borne_while_there_is_progress(start, path):
    server = start(cut(download.CHUNK))
    fetch(server.url, path, sha(DATA))
    assert path.read_bytes() == DATA and len(server.requests) == 8 > download.ATTEMPTS


@pytest.mark.parametrize("expected", [sha(DATA), None])
def test_a_server_that_ignores_ranges(start, path, expected):
    server = start(cut(HALF, ranges=False), ok(ranges=False))
    fetch(server.url, path, expected)
    assert path.read_bytes() == DATA and len(server.requests) == 2


def test_without_sha256_and_etag_nothing_is_spliced(start, path):
    server = start(cut(HALF, etag=None), ok(etag=None))
    fetch(server.url, path)
    assert path.read_bytes() == DATA and server.ranges() == [None, None]


def test_a_weak_etag_is_no_reason_to_resume(start, path):
    server = start(cut(HALF, etag='W/"v1"'), ok(etag='W/"v1"'))
    fetch(server.url, path)
    assert path.read_bytes() == DATA and server.ranges() == [None, None]


def test_an_answer_for_another_range_is_not_used(start, path):
    server = start(cut(HALF), wrong_range, serve)
    fetch(server.url, path, sha(DATA))
    assert path.read_bytes() == DATA and server.ranges() == [None, f"bytes={HALF}-", None]


@pytest.mark.parametrize("resumed", [ok(data=OTHER, etag='"v2"'), new_version_ignoring_if_range])
@pytest.mark.parametrize("expected", [sha(OTHER), None])
def test_the_file_changes_between_cut_and_resume(start, path, resumed, expected):
    fetch(start(cut(HALF), resumed, ok(data=OTHER, etag='"v2"')).url, path, expected)
    assert path.read_bytes() == OTHER


def test_a_range_answered_in_pieces_is_not_taken_for_the_whole(start, path):
    server = start(cut(HALF), a_piece, a_piece, serve)
    fetch(server.url, path)
    assert path.read_bytes() == DATA
    assert server.ranges() == [None, f"bytes={HALF}-", f"bytes={HALF + 1000}-", f"bytes={HALF + 2000}-"]


def test_a_splice_is_found_out_and_fetched_afresh(start, path):
    server = start(cut(HALF, etag=None), spliced, serve)
    fetch(server.url, path, sha(DATA))
    assert path.read_bytes() == DATA and server.ranges() == [None, f"bytes={HALF}-", None]


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_passing_error_is_retried(start, path, code):
    server = start(status(code), status(code), serve)
    fetch(server.url, path, sha(DATA))
    assert path.read_bytes() == DATA and len(server.requests) == 3


def test_a_part_from_an_earlier_call_is_resumed(start, path):
    Path(f"{path}.part").write_bytes(DATA[:HALF])
    server = start(serve)
    fetch(server.url, path, sha(DATA))
    assert path.read_bytes() == DATA and server.ranges() == [f"bytes={HALF}-"]
    assert files(path.parent) == ["corpus.txt"]


def test_a_whole_part_from_an_earlier_call_needs_no_request(start, path):
    Path(f"{path}.part").write_bytes(DATA)
    server = start(serve)
    fetch(server.url, path, sha(DATA))
    assert path.read_bytes() == DATA and server.requests == []


@pytest.mark.parametrize("junk", [b"junk", OTHER, DATA + b"more"])
def test_a_part_that_is_not_of_this_file_does_no_harm(start, path, junk):
    Path(f"{path}.part").write_bytes(junk)
    fetch(start(serve).url, path, sha(DATA))
    assert path.read_bytes() == DATA


def test_a_part_is_not_trusted_without_sha256(start, path):
    Path(f"{path}.part").write_bytes(OTHER[:HALF])
    fetch(start(serve).url, path)
    assert path.read_bytes() == DATA


# ---- mirrors


@pytest.mark.parametrize(
    "broken", [status(404), status(500), html("text/html"), ok(data=OTHER), cut(HALF, ranges=False)]
)
def test_the_second_mirror_is_asked_when_the_first_fails(start, path, broken):
    second = start(serve)
    fetch([start(broken).url, second.url], path, sha(DATA))
    assert path.read_bytes() == DATA and len(second.requests) == 1


def test_the_second_mirror_goes_on_where_the_first_broke_off(start, path):
    second = start(ok(etag='"other"'))
    fetch([start(cut(HALF), status(404)).url, second.url], path, sha(DATA))
    assert path.read_bytes() == DATA and second.ranges() == [f"bytes={HALF}-"]


def test_environment_mirror_is_asked_first(start, path, monkeypatch):
    mirror, public = start(serve), start(serve)
    monkeypatch.setenv("MINGPT_MIRROR", mirror.base + "/files/")
    fetch(public.url + "?raw=1", path, sha(DATA))
    assert path.read_bytes() == DATA
    assert [asked for asked, _ in mirror.requests] == ["/files/corpus.txt"] and public.requests == []


def test_environment_mirror_that_fails_is_passed_over(start, path, monkeypatch):
    mirror, public = start(status(404)), start(serve)
    monkeypatch.setenv("MINGPT_MIRROR", mirror.base)
    fetch([public.url, public.url], path, sha(DATA))
    assert path.read_bytes() == DATA and len(mirror.requests) == len(public.requests) == 1


# ---- what should end in one clear line


@pytest.mark.parametrize(
    "behaviour, answer, requests",
    [
        (status(404), "HTTP 404 Not Found", 1),
        (status(403), "HTTP 403 Forbidden", 1),
        (status(206, DATA), "HTTP 206 Partial Content", 1),
        (status(500), "HTTP 500 Internal Server Error (3 attempts)", 3),
        (html("text/html; charset=utf-8"), "an HTML page instead of the file", 1),
        (html("text/plain"), "sent another file (31 bytes", 1),
        (ok(data=OTHER), f"sent another file (512000 bytes, sha256 {sha(OTHER)})", 1),
        (length_of(len(DATA) - 1000), "sent another file (511000 bytes", 1),
        (cut(100, ranges=False), "(3 attempts)", 3),
        (cut(0), "(3 attempts)", 3),
        (lambda handler: handler.connection.shutdown(socket.SHUT_RDWR), "no answer", 3),
    ],
)
def test_errors_name_the_file_the_answer_and_the_remedy(start, path, behaviour, answer, requests):
    server = start(behaviour)
    with pytest.raises(DownloadError) as caught:
        fetch(server.url, path, sha(DATA))
    message = str(caught.value)
    for part in ("could not download corpus.txt", f"{server.url}: ", answer, str(path), sha(DATA)):
        assert part in message
    assert "\n" not in message and isinstance(caught.value, ValueError)
    assert len(server.requests) == requests and not path.exists()


def test_a_length_announced_too_long_still_gives_the_right_file_if_the_sha256_says_so(start, path):
    fetch(start(length_of(len(DATA) + 1000)).url, path, sha(DATA))
    assert path.read_bytes() == DATA


def test_a_length_announced_too_long_is_an_error_without_sha256(start, path):
    with pytest.raises(DownloadError, match="3 attempts"):
        fetch(start(length_of(len(DATA) + 1000)).url, path)
    assert not path.exists()


def test_a_failed_download_keeps_its_part_for_the_next_call(start, path):
    server = start(cut(HALF), status(404))
    with pytest.raises(DownloadError):
        fetch(server.url, path, sha(DATA))
    assert files(path.parent) == ["corpus.txt.part"]
    server.script[:] = [serve]
    fetch(server.url, path, sha(DATA))
    assert path.read_bytes() == DATA and server.ranges()[-1] == f"bytes={HALF}-"


def test_all_mirrors_are_named_in_the_error(start, path):
    first, second = start(status(404)), start(status(410))
    with pytest.raises(DownloadError) as caught:
        fetch([first.url, second.url], path)
    assert f"{first.url}: HTTP 404" in str(caught.value) and f"{second.url}: HTTP 410" in str(caught.value)
    assert files(path.parent) == []


def test_a_stalled_server_is_given_up(start, path):
    over = threading.Event()
    server = start(lambda handler: over.wait(10))
    try:
        with pytest.raises(DownloadError, match="no answer"):
            fetch(server.url, path, sha(DATA), timeout=(0.1, 0.1))
    finally:
        over.set()
    assert len(server.requests) == download.ATTEMPTS


def test_an_unknown_host_is_asked_once_and_not_retried(path, monkeypatch):
    lookups = []

    def no_network(host, *args, **kwargs):
        lookups.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DownloadError, match="name resolution"):
        fetch(["https://example.invalid/a/corpus.txt", "https://example.invalid/b/corpus.txt"], path, sha(DATA))
    assert lookups == ["example.invalid"] and files(path.parent) == []


def test_a_host_that_does_not_answer_costs_one_timeout(path, monkeypatch):
    calls = []

    def black_hole(address, *args, **kwargs):
        calls.append(address)
        raise TimeoutError("timed out")

    monkeypatch.setattr("urllib3.util.connection.create_connection", black_hole)
    with pytest.raises(DownloadError, match=r"a/corpus.txt: Connection to 127.0.0.1 timed out.*b/corpus.txt: the same"):
        fetch(["http://127.0.0.1:9/a/corpus.txt", "http://127.0.0.1:9/b/corpus.txt"], path)
    assert calls == [("127.0.0.1", 9)]


def test_a_refused_connection_is_not_retried(path, monkeypatch):
    monkeypatch.setattr(download, "BACKOFF", 100)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can take the port meanwhile
        with pytest.raises(DownloadError, match="refused"):
            fetch(f"http://127.0.0.1:{closed.getsockname()[1]}/corpus.txt", path)
    assert not path.exists()


@pytest.mark.parametrize("url", ["no-scheme/corpus.txt", "ftp://127.0.0.1/corpus.txt", "http://"])
def test_a_malformed_url_is_one_clear_line(path, url):
    with pytest.raises(DownloadError, match="could not download corpus.txt: "):
        fetch(url, path)
    assert files(path.parent) == []


def test_no_urls(path):
    with pytest.raises(DownloadError, match="no url was given"):
        fetch([], path)
    assert not path.exists()


def test_a_place_that_cannot_be_written(start, tmp_path):
    server = start(serve)
    (tmp_path / "file").write_bytes(b"not a folder")
    with pytest.raises(DownloadError, match="cannot read or write .*check permissions"):
        fetch(server.url, tmp_path / "file" / "corpus.txt", sha(DATA))
    with pytest.raises(DownloadError, match="is a folder"):
        fetch(server.url, tmp_path, sha(DATA))
    assert server.requests == [] and files(tmp_path) == ["file"]


def test_a_read_only_folder(start, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write to read-only folders (root, or Windows)")
    with pytest.raises(DownloadError, match="cannot read or write .*Permission denied"):
        fetch(start(serve).url, folder / "corpus.txt", sha(DATA))
    assert files(folder) == []


# ---- servers that would never end

FEW = dict(lowest_rate=download.CHUNK / 0.15)  # a chunk in .15 s, or the server is given up


def drip(first, again, pause=0.01):
    """Send `first`, and then `again` without end, if there is anything to it."""

    def behave(handler):
        handler.close_connection = True
        try:
            handler.connection.sendall(first)
            while again:
                handler.connection.sendall(again)
                time.sleep(pause)
        except OSError:  # the client has seen enough
            pass

    return behave


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "behaviour",
    [
        drip(OK + b"Content-Length: 512000\r\n\r\n", b"x"),
        drip(OK + b"\r\n", b"x"),
        drip(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        drip(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"x"),
        drip(b"", b"H"),
        drip(OK + b"X-Header: ", b"x"),
        drip(OK, b"X-Header: x\r\n", 0.05),
        drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        drip(b"HTTP/1.1 302 Found\r\nLocation: ", b"x"),
    ],
    ids=["body", "body of no length", "chunks", "length of a chunk", "status", "header", "headers", "100", "redirect"],
)
@pytest.mark.parametrize("expected", [sha(DATA), None])
def test_a_server_that_never_ends_is_given_up(start, path, behaviour, expected):
    threads = threading.active_count() + 1  # the server's own
    server = start(behaviour)
    with pytest.raises(DownloadError, match="too slow, .* fell below 436907 bytes a second|announces no length"):
        fetch(server.url, path, expected, **FEW)
    assert not path.exists() and len(server.requests) == 1
    wait_for(lambda: threading.active_count() <= threads)


def test_a_server_that_cuts_after_every_few_bytes_is_a_slow_one(start, path):
    server = start(cut(10))
    with pytest.raises(DownloadError, match="too slow"):
        fetch(server.url, path, sha(DATA), **FEW)
    assert not path.exists()


def test_a_socket_that_connects_after_the_time_is_cut_at_once():
    dog = watchdog.Watchdog(chunk=1, lowest_rate=1, end=0)
    ours, theirs = socket.socketpair()
    with dog, ours, theirs:
        wait_for(lambda: dog.expired)
        dog.watch(ours)
        theirs.settimeout(20)
        assert theirs.recv(1) == b"" and ours.fileno() != -1, "shut down, and left to its owner to close"


def test_all_mirrors_together_have_until_the_deadline(start, path, monkeypatch):
    monkeypatch.setenv("MINGPT_DEADLINE", "0.2")
    first, second = start(drip(OK + b"Content-Length: 99999999\r\n\r\n", bytes(1000))), start(serve)
    with pytest.raises(
        DownloadError, match="when the time was over .*corpus.txt: not asked any more, the time is over"
    ):
        fetch([first.url, second.url], path, sha(DATA))
    assert second.requests == [] and not path.exists()
    second.script[:] = [status(503)]
    with pytest.raises(
        DownloadError, match=r"503 Service Unavailable \(1 attempts\)"
    ):  # it does not sleep past the end
        monkeypatch.setattr(download, "BACKOFF", 100)
        fetch(second.url, path, sha(DATA), deadline=10)


@pytest.mark.parametrize("variable", ["MINGPT_DEADLINE", "MINGPT_LOWEST_RATE"])
@pytest.mark.parametrize("value", ["soon", "0", "-1", "1e9", "nan", "²"])
def test_a_limit_in_the_environment_has_to_be_a_number(path, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(DownloadError, match=f"{variable} is '{re.escape(value)}'; it must be a positive number"):
        fetch("http://127.0.0.1:9/corpus.txt", path)


@pytest.mark.parametrize(
    "behaviour, answer",
    [
        (drip(OK + b"\r\n", bytes(10000), 0), "sent more than 600000 bytes"),
        (
            drip(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"2710\r\n" + bytes(10000) + b"\r\n", 0),
            "sent more than 600000 bytes",
        ),
        (length_of(600001), "announces 600001 bytes, and the file has 600000 at most"),
    ],
)
def test_a_file_larger_than_it_can_be_does_not_fill_the_disk(start, path, behaviour, answer):
    with pytest.raises(DownloadError, match=answer):
        fetch(start(behaviour).url, path, sha(DATA), largest=600_000)
    assert files(path.parent) == [], "and what came is not kept"
    fetch([start(behaviour).url, start(serve).url], path, sha(DATA), largest=600_000)
    assert path.read_bytes() == DATA


# ---- answers that are malformed


def redirect(place, code=302):
    return lambda handler: handler.answer(code, b"moved", {"Location": place} if place else {})


@pytest.mark.parametrize(
    "broken",
    [
        length_of("²"),
        length_of("9" * 5000),
        length_of("-1"),
        length_of("1e3"),
        length_of("5, 6"),
        redirect("http://[::1/"),
        redirect("http://"),
        redirect(""),
        redirect("file:///etc/passwd"),
        redirect("//:x/"),
        redirect("http://127.0.0.1:99999/"),
        redirect(f"http://{'a' * 70}.example/"),
        redirect("http://\xff\xfe.example/"),
        redirect("again"),
        drip(b"HTTP/1.1 two hundred\r\n\r\n", b""),
        drip(b"\xff\xfe\r\n\r\n", b""),
        drip(OK + b"\xff\xfe no header\r\nContent-Length: 3\r\n\r\nabc", b""),
    ],
)
def test_a_malformed_answer_is_an_error_of_that_mirror_alone(start, path, broken):
    for expected in (sha(DATA), None):
        fetch([start(broken).url, start(serve).url], path, expected, check=is_data)
        assert path.read_bytes() == DATA
        path.unlink()
    with pytest.raises(DownloadError, match="^could not download corpus.txt: ") as caught:
        fetch(start(broken).url, path, sha(DATA))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 3000


@pytest.mark.parametrize(
    "span", ["bytes ²-3/4", f"bytes {HALF}-{'9' * 5000}/*", f"bytes {HALF}-5/{'9' * 5000}", "rows 1-2/3"]
)
def test_a_malformed_range_is_asked_for_again(start, path, span):
    server = start(cut(HALF), lambda handler: handler.answer(206, DATA[HALF:], {"Content-Range": span}), serve)
    fetch(server.url, path, sha(DATA))
    assert path.read_bytes() == DATA and len(server.requests) == 3


def test_redirects_are_followed_and_their_bodies_are_not_read(start, path):
    file = start(serve)
    endless = f"HTTP/1.1 301 Moved\r\nLocation: {file.url}\r\n\r\n".encode()
    for expected in (sha(DATA), None):
        fetch(start(redirect("other.txt"), redirect("/third"), drip(endless, bytes(100_000), 0)).url, path, expected)
        assert path.read_bytes() == DATA
        path.unlink()


def test_a_malformed_url_beside_a_mirror(start, path, monkeypatch):
    with pytest.raises(DownloadError, match="Invalid IPv6"):
        fetch("http://[::1/corpus.txt", path)
    fetch(["http://[::1/corpus.txt", start(serve).url], path)
    assert path.read_bytes() == DATA


# ---- files whose sha256 is not known


def is_data(path):
    if Path(path).read_bytes() != DATA:
        raise ValueError(f"{path}: is not the data")


def without_length(handler):
    """Half of the file, and no way to tell that there is more."""
    handler.connection.sendall(OK + b"\r\n" + DATA[:HALF])
    handler.close_connection = True


def chunked(end):
    return drip(OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(DATA) + DATA + b"\r\n" + end, b"")


def encoded(handler):
    handler.answer(200, gzip.compress(DATA), {"Content-Encoding": "gzip"})


@pytest.mark.parametrize(
    "behaviour, answer",
    [
        (without_length, "announces no length"),
        (encoded, "encoded as gzip, which was not asked for"),
    ],
)
def test_without_sha256_what_cannot_be_checked_is_refused(start, path, behaviour, answer):
    for check in (None, is_data):
        with pytest.raises(DownloadError, match=answer):
            fetch(start(behaviour).url, path, check=check)
    assert files(path.parent) == []


def test_chunks_need_no_length(start, path):
    fetch(start(chunked(b"0\r\n\r\n")).url, path)
    assert path.read_bytes() == DATA


def test_with_sha256_no_length_and_an_encoding_do_no_harm(start, path):
    half = DATA[:HALF]
    fetch(start(without_length).url, path, sha(half))
    assert path.read_bytes() == half
    packed = gzip.compress(DATA, mtime=0)  # a file that is kept packed, and that servers like to label so
    fetch(start(lambda handler: handler.answer(200, packed, {"Content-Encoding": "gzip"})).url, path, sha(packed))
    assert path.read_bytes() == packed


def test_the_same_etag_with_another_total_is_another_file(start, path):
    longer = DATA + b"more"
    server = start(cut(HALF), ok(data=longer), ok(data=longer))
    fetch(server.url, path)
    assert path.read_bytes() == longer and server.ranges() == [None, f"bytes={HALF}-", None]


def test_a_check_decides_where_there_is_no_sha256(start, path, capsys):
    with pytest.raises(DownloadError, match=r"sent another file \(.*is not the data\)"):
        fetch(start(ok(data=OTHER)).url, path, check=is_data)
    assert files(path.parent) == []
    path.write_bytes(DATA[:HALF])  # as an earlier version may have left it
    fetch([start(ok(data=OTHER)).url, start(serve).url], path, check=is_data)
    assert path.read_bytes() == DATA and files(path.parent) == ["corpus.txt", "corpus.txt.bad"]
    assert "is not the data" in capsys.readouterr().err
    server = start(serve)
    fetch(server.url, path, check=is_data)
    assert server.requests == []


def test_published_weights_without_a_sha256_are_checked_against_their_header(start, tmp_path, monkeypatch):
    from mingpt.model import GPT, GPTConfig
    from mingpt.pretrained import gpt2 as pretrained

    monkeypatch.setitem(pretrained.PUBLISHED, "gpt-nano", ("main", None))
    monkeypatch.setenv("MINGPT_CACHE", str(tmp_path / "cache"))
    GPT(GPTConfig.from_name("gpt-nano")).save_pretrained(tmp_path / "model")
    whole = (tmp_path / "model" / "model.safetensors").read_bytes()
    server = start(ok(data=whole[:-4]))
    monkeypatch.setenv("MINGPT_MIRROR", server.base)
    monkeypatch.setenv("https_proxy", server.base)  # nor can the public file be downloaded
    with pytest.raises(DownloadError, match="it may be cut off"):
        GPT.from_pretrained("gpt-nano")
    server.script[:] = [ok(data=whole)]
    GPT.from_pretrained("gpt-nano")


def test_every_published_model_has_a_fixed_revision_and_fits_its_largest_size():
    from mingpt.model import GPTConfig
    from mingpt.pretrained import gpt2 as pretrained

    sizes = {"gpt2": 548_105_171, "gpt2-xl": 6_431_000_000}  # of the real files
    for name, (revision, digest) in pretrained.PUBLISHED.items():
        assert re.fullmatch("[0-9a-f]{40}", revision) and (digest is None or re.fullmatch("[0-9a-f]{64}", digest))
        largest = pretrained._largest_file(GPTConfig.from_name(name))
        assert sizes.get(name, 0) < largest < download.LARGEST


# ---- what dead processes and full disks leave


@pytest.mark.skipif(download.fcntl is None, reason="without file locks, only Windows knows what is in use")
def test_parts_of_dead_processes_are_removed_and_no_others(start, path):
    shared, private = download._claim(path)[0], download._claim(path)[0]  # of live ones
    dead = Path(f"{path}.{2**22 + 1}-0123abcd.part")
    others = [Path(f"{path}.notes.part"), Path(f"{path}.12-draft.part"), path.with_name("corpus-txt.12-0123abcd.part")]
    for file in [dead, *others]:
        file.write_bytes(b"some")
    fetch(start(serve).url, path, sha(DATA))
    assert not dead.exists() and all(file.exists() for file in [*others, Path(shared.name), Path(private.name)])
    private.close()
    shared.close()  # as the system does when its holder dies
    path.unlink()
    with pytest.raises(DownloadError):
        fetch(start(cut(HALF), status(404)).url, path, sha(DATA))
    assert sorted(files(path.parent)) == sorted([*(file.name for file in others), "corpus.txt.part"])


def test_a_full_disk_is_one_line_and_loses_nothing(start, path):
    resource = pytest.importorskip("resource")
    path.write_bytes(b"mine")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    server = start(serve)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HALF + 1000, limits[1]))
    try:
        with pytest.raises(DownloadError, match="cannot read or write .*; check permissions and free space") as caught:
            fetch(server.url, path, sha(DATA))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and path.read_bytes() == b"mine"
    fetch(server.url, path, sha(DATA))
    assert path.read_bytes() == DATA and server.ranges()[-1] == f"bytes={HALF + 1000}-"


# ---- processes

CHILD = "import sys; from mingpt.pretrained.download import fetch; fetch(sys.argv[1], sys.argv[2], sys.argv[3])"


def child(server, path):
    """The same fetch in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", CHILD, server.url, str(path), sha(DATA)], env=environment)


def stall_after(sent, over):
    """Send `sent` bytes, then nothing until `over` is set, then the rest."""

    def behave(handler):
        handler.answer(200, DATA, {"ETag": '"v1"'}, sent)
        handler.wfile.flush()
        over.wait(30)
        try:
            handler.wfile.write(DATA[sent:])
        except OSError:  # the client is dead
            pass

    return behave


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.mark.skipif(download.fcntl is None, reason="parts are not shared without file locks")
def test_kill_in_the_middle_then_resume(start, path):
    over, part = threading.Event(), Path(f"{path}.part")
    server = start(stall_after(HALF, over), serve)
    process = child(server, path)
    try:
        wait_for(lambda: part.exists() and part.stat().st_size == HALF)
    finally:
        process.kill()
        process.wait()
        over.set()
    assert process.returncode == -signal.SIGKILL and files(path.parent) == ["corpus.txt.part"]
    fetch(server.url, path, sha(DATA))
    assert path.read_bytes() == DATA and server.ranges() == [None, f"bytes={HALF}-"]
    assert files(path.parent) == ["corpus.txt"]


def test_two_processes_at_once(start, path):
    over = threading.Event()
    server = start(stall_after(HALF, over), serve)
    process = child(server, path)
    try:
        wait_for(lambda: len(server.requests) == 1)
        fetch(server.url, path, sha(DATA))  # does not wait for the other, and does not touch its part
        assert path.read_bytes() == DATA and server.ranges() == [None, None]
    finally:
        over.set()
        assert process.wait(20) == 0
    assert path.read_bytes() == DATA and files(path.parent) == ["corpus.txt"]


@pytest.mark.skipif(download.fcntl is None, reason="parts are not shared without file locks")
def test_a_part_renamed_between_opening_and_locking_is_not_written_to(start, path, monkeypatch):
    part, flock = Path(f"{path}.part"), download.fcntl.flock
    part.write_bytes(DATA)

    def finish_then_lock(file, operation):
        part.rename(path)  # another process is done with it just now
        flock(file, operation)

    monkeypatch.setattr(download.fcntl, "flock", finish_then_lock)
    server = start(serve)
    fetch(server.url, path)
    assert path.read_bytes() == DATA and server.ranges() == [None] and files(path.parent) == ["corpus.txt"]


def test_many_threads_at_once(start, path):
    server, failures = start(serve), []

    def work():
        try:
            fetch(server.url, path, sha(DATA))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and path.read_bytes() == DATA and files(path.parent) == ["corpus.txt"]


def test_a_part_with_a_name_of_its_own_is_locked_until_it_has_the_final_one(start, path, monkeypatch):
    """Another call, that tidies up at that very moment, must not take it for that of a dead writer."""
    server, rename = start(serve), os.replace

    def tidied(source, target):
        download._remove_dead_parts(path)
        rename(source, target)

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.part", "ab") as taken:
        if not download.fcntl:
            pytest.skip("there are no such locks here")
        download.fcntl.flock(taken, download.fcntl.LOCK_EX)
        monkeypatch.setattr(os, "replace", tidied)
        fetch(server.url, path, sha(DATA))
    assert path.read_bytes() == DATA


def test_without_file_locks_all_works_but_resuming(start, path, monkeypatch):
    monkeypatch.setattr(download, "fcntl", None)
    server = start(cut(HALF), status(404))
    with pytest.raises(DownloadError):
        fetch(server.url, path, sha(DATA))
    assert files(path.parent) == []
    server.script[:] = [serve]
    fetch(server.url, path, sha(DATA))
    assert path.read_bytes() == DATA and files(path.parent) == ["corpus.txt"]


def test_importing_the_module_loads_no_packages():
    code = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('download', sys.argv[1]); "
        "spec.loader.exec_module(importlib.util.module_from_spec(spec)); "
        "sys.exit(any(name in sys.modules for name in ('requests', 'urllib3', 'tqdm', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code, download.__file__], cwd=ROOT).returncode == 0


# ---- data/cs224n_a5/prepare.py

SCRIPT = ROOT / "data" / "cs224n_a5" / "prepare.py"
TEXTS = {
    "birth_places_train.tsv": "Where was A born?\tX\nWhere was B born?\tY",
    "birth_dev.tsv": "é\n",
    "birth_test_inputs.tsv": "Where?\n",
    "wiki.txt": "A was born in X.\nB was born in Y.\n",
}


@pytest.fixture
def prepare_module(monkeypatch):
    """The script as a module, with small texts standing for the real ones."""
    monkeypatch.setattr(sys, "path", list(sys.path))  # the script adds to it
    spec = importlib.util.spec_from_file_location("prepare_cs224n_a5", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert sorted(module.SHA256) == sorted(TEXTS)
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in module.SHA256.values())
    monkeypatch.setattr(module, "SHA256", {name: sha(text.encode()) for name, text in TEXTS.items()})
    return module


def serve_texts(handler):
    serve(handler, TEXTS[handler.path.split("/")[-1]].encode())


def test_prepare_downloads_verifies_and_counts(start, tmp_path, monkeypatch, capsys, prepare_module):
    monkeypatch.setenv("MINGPT_MIRROR", start(serve_texts).base)
    assert prepare_module.prepare(tmp_path / "data") == tmp_path / "data"
    assert files(tmp_path / "data") == sorted(TEXTS) and prepare_module.verify(tmp_path / "data") == []
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        [name, lines, "lines", str(len(TEXTS[name])), "characters"] for name, lines in zip(TEXTS, ("2", "1", "1", "2"))
    ]
    prepare_module.prepare(tmp_path / "data", quiet=True)
    assert capsys.readouterr().out == ""


def test_verify_has_one_line_for_each_file_that_is_missing_or_differs(tmp_path, prepare_module):
    for name, text in TEXTS.items():
        (tmp_path / name).write_bytes(text.encode())
    (tmp_path / "wiki.txt").unlink()
    (tmp_path / "birth_dev.tsv").write_bytes(b"changed")
    right = sha(TEXTS["birth_dev.tsv"].encode())
    assert prepare_module.verify(tmp_path) == [
        f"{tmp_path / 'birth_dev.tsv'}: differs, its sha256 is {sha(b'changed')} and not {right}",
        f"{tmp_path / 'wiki.txt'}: missing",
    ]


def test_command_line_ends_with_one_line_and_no_traceback(start, tmp_path):
    server = start(status(404))
    environment = {**os.environ, "MINGPT_MIRROR": server.base, "https_proxy": server.base, "NO_PROXY": "127.0.0.1"}
    run = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "data")]
    done = subprocess.run(run, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: could not download birth_places_train.tsv: ") and done.stderr.count("\n") == 1
    done = subprocess.run([*run, "--verify"], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count(": missing\n") == 4
