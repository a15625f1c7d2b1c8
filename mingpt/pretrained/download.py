"""Download a file once, and know that it is the right one.

    from mingpt.pretrained.download import fetch
    fetch("https://example.org/a/corpus.txt", "data/corpus.txt", sha256="521f7f42...")

The bytes go to `corpus.txt.part`, are checked there, and only then take the final name: whatever goes wrong on
the way, `corpus.txt` is either the right file or what it was before. A cut connection, Ctrl-C or a kill leaves
the `.part`, and the next call goes on from where it ended.

The environment variable MINGPT_MIRROR, a base URL such as http://127.0.0.1:8000/files, names a mirror to ask
before the others, for the last path component of each url: above, http://127.0.0.1:8000/files/corpus.txt.

Every call ends: a server may send no more than `largest` bytes, no slower than `lowest_rate`, and all of them together
have until `deadline`. MINGPT_LOWEST_RATE (bytes a second) and MINGPT_DEADLINE (seconds) change the last two everywhere,
for a slow connection.
"""

import contextlib
import glob
import os
import re
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from mingpt.pretrained.watchdog import Watchdog, watched_session
from mingpt.support.command import printable
from mingpt.support.files import sha256_of

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

CHUNK = 1 << 16  # bytes read at a time; a cut loses at most one chunk
ATTEMPTS = 3  # failures in a row, none getting further than before, after which a mirror is given up
BACKOFF = 0.5  # seconds before the second attempt, doubled for each one after it
REDIRECTS = 10  # in a row, that are followed
LARGEST = 1 << 33  # bytes; the largest file that we ask for, GPT-2 XL, has 6.4e9
LOWEST_RATE = 1000  # bytes a second, averaged over a chunk; a telephone modem had five times that
DEADLINE = 12 * 3600  # seconds for all mirrors together


class DownloadError(ValueError):
    """The file could not be downloaded; the message is one line that says why and what to do."""


class _Refused(Exception):
    """This mirror will not serve the file, however often it is asked."""


class _Unreachable(_Refused):
    """There is no connection to this mirror's host at all."""


class _Interrupted(Exception):
    """This attempt failed; the next one may not."""


@dataclass
class _Wanted:
    """What is asked of every mirror alike."""

    sha256: str | None
    check: Callable | None
    largest: int  # bytes
    lowest_rate: float  # bytes a second
    end: float  # of the time for all mirrors, by time.monotonic()
    timeout: tuple[float, float]  # (connect, read), seconds
    label: str

    def wrong(self, path):
        """What speaks against the file at `path`, in words; None if it is the right one, as far as can be told."""
        if self.sha256 and (found := sha256_of(path)) != self.sha256:
            return f"{os.path.getsize(path)} bytes, sha256 {found}"
        try:
            if self.check and not self.sha256:
                self.check(path)
        except ValueError as error:
            return str(error)
        return None


def fetch(
    urls,
    path,
    sha256=None,
    *,
    description=None,
    timeout=(5.0, 15.0),
    mirror_name=None,
    check=None,
    largest=LARGEST,
    lowest_rate=None,
    deadline=None,
):
    """Make sure that `path` holds the file, downloading it if need be.

    Arguments:
        urls: a url, or several mirrors of the same file in the order to try them.
        path: where the file goes; missing folders are created.
        sha256: expected SHA-256 in hex. Without it a file is taken to be right when `check` says so, and a download
            only if the server announced its length, too, and sent it plainly.
        description: label of the progress bar (on stderr, if that is a terminal); the file's name by default.
        timeout: (connect, read), seconds to wait for a connection and for the next bytes.
        mirror_name: what the file is called on the mirror of MINGPT_MIRROR; by default, the last part of its url.
        check: called with the path of a file whose sha256 is not known; raises ValueError if it is damaged.
        largest: bytes that the file may have at most.
        lowest_rate: bytes a second. A server that takes longer than CHUNK / lowest_rate for the headers or for the next
            CHUNK bytes is given up.
        deadline: seconds that all mirrors together may take.

    Returns `path` as a Path. An existing file that is not the right one stays where it is until a verified one is there
    to replace it, and is then kept as `<path>.bad` (`.bad.1`, ... where that is taken). Several processes may ask
    for the same path at once.

    Raises DownloadError if no mirror delivers the file or it cannot be written.
    """
    path = Path(path)
    urls = [urls] if isinstance(urls, str) else list(urls)
    lowest_rate = _limit("MINGPT_LOWEST_RATE", LOWEST_RATE) if lowest_rate is None else lowest_rate
    deadline = _limit("MINGPT_DEADLINE", DEADLINE) if deadline is None else deadline
    wanted = _Wanted(
        sha256 and sha256.lower(),
        check,
        largest,
        lowest_rate,
        time.monotonic() + deadline,
        timeout,
        description or path.name,
    )
    note = ""
    try:
        if mirror := os.environ.get("MINGPT_MIRROR"):
            urls = [f"{mirror.rstrip('/')}/{mirror_name or _split(url).path.split('/')[-1]}" for url in urls] + urls
        if path.is_dir():
            raise DownloadError(f"{path} is a folder where a file is to be written: give another path")
        if path.exists():
            if not (problem := wanted.wrong(path)):
                return path
            print(f"{path} is not the expected file ({problem}): downloading it again", file=sys.stderr)
            note = " The file now there is another one, and was left alone."
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_dead_parts(path)
        with _part_of(path, wanted.sha256) as part:
            _fill(part, dict.fromkeys(urls), wanted)
    except _Refused as refusal:
        raise DownloadError(
            f"could not download {path.name}: {printable(str(refusal))}.{note} Try again later, or get it by "
            f"hand and put it at {path.absolute()} (sha256 {wanted.sha256 or 'not known'})"
        ) from refusal
    except OSError as error:
        kept = f"; what has come is in {path}.part" if os.path.exists(f"{path}.part") else ""
        raise DownloadError(
            f"cannot read or write {path}: {error}; check permissions and free space, or give another path{kept}"
        ) from error
    return path


def _limit(variable, default):
    """A limit from the environment, or the default."""
    text = os.environ.get(variable) or str(default)
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", text) or not float(text):
        raise DownloadError(f"the environment variable {variable} is {text[:80]!r}; it must be a positive number")
    return float(text)


def _split(url):
    """The parts of a url; _Refused if it is malformed, as http://[::1/ is."""
    try:
        return urlsplit(url)
    except ValueError as error:
        raise _Refused(f"{url}: {error}") from error


@contextlib.contextmanager
def _part_of(path, sha256):
    """Open a file to download into; on a clean exit it becomes `path`, after an error it waits for the next call."""
    part, shared = _claim(path)
    try:
        yield part
        os.fsync(part.fileno())
        if not fcntl:
            part.close()  # Windows renames no open file; elsewhere it stays locked, or another call would remove it
        if path.exists() and sha256_of(path) != (sha256 or sha256_of(part.name)):
            kept, number = f"{path}.bad", 0
            while os.path.lexists(kept):
                number += 1
                kept = f"{path}.bad.{number}"
            os.rename(path, kept)
            print(f"the former {path} is kept as {kept}", file=sys.stderr)
        os.replace(part.name, path)
    except BaseException:
        if shared and _size(part) == 0:
            os.unlink(part.name)
        raise
    finally:
        part.close()
        if not shared:
            Path(part.name).unlink(missing_ok=True)


def _claim(path):
    """Open a part file that no other process writes to. Returns (file, shared).

    `<path>.part`, which later calls can resume, belongs to whoever holds the lock on it; the system drops the lock
    when its holder dies, so that nothing stale survives a kill. If it is in use, or there are no locks (Windows, some
    network file systems), the part gets a name of its own, shared is False, and it cannot be resumed by another call.

    Parts are not buffered: a full disk then shows where bytes are written, not once more at each later call.
    """
    names = [f"{path}.part", *(f"{path}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part" for _ in range(9))]
    for name in names if fcntl else ():
        part = open(name, "a+b", buffering=0)
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another may have renamed or removed this very file after it was opened here: then it is not ours to write.
            if os.path.samestat(os.stat(part.name), os.fstat(part.fileno())):
                return part, name == names[0]
        except OSError:
            pass  # in use, renamed or not lockable: all the same
        part.close()
        if name != names[0]:
            Path(name).unlink(missing_ok=True)
    return open(names[-1], "a+b", buffering=0), False


def _remove_dead_parts(path):
    """Remove the parts with names of their own whose writers are dead. `<path>.part` stays: it can be resumed."""
    for part in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        if re.fullmatch(r"\.[0-9]+-[0-9a-f]{8}\.part", part.name[len(path.name) :]):
            with contextlib.suppress(OSError):  # locked by its writer, or gone by now
                with open(part, "ab") if fcntl else contextlib.nullcontext() as file:  # Windows removes no open file
                    if fcntl:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    part.unlink()


def _fill(part, urls, wanted):
    """Fill `part` from the first url that delivers; raise _Refused with the answers of all if none does."""
    answers, dead_hosts = [], set()
    for url in urls:
        try:
            host = _split(url).netloc
            if time.monotonic() >= wanted.end:
                raise _Refused(f"{url}: not asked any more, the time is over (MINGPT_DEADLINE, in seconds)")
            if host in dead_hosts:  # offline, a host costs its time-out once, not once for each url
                raise _Refused(f"{url}: the same host")
        except _Refused as refusal:
            answers.append(str(refusal))
            continue
        try:
            return _Transfer(url, part, wanted).run()
        except _Refused as refusal:
            answers.append(f"{url}: {refusal}")
            if isinstance(refusal, _Unreachable):
                dead_hosts.add(host)
    raise _Refused("; ".join(answers) or "no url was given")


class _Transfer:
    """Fill a part file from one url, over as many requests as it takes."""

    def __init__(self, url, part, wanted):
        self.url, self.part, self.wanted = url, part, wanted
        self.etag = self.total = None  # name the version that the part holds, once this url has said so
        self.watchdog = Watchdog(CHUNK, wanted.lowest_rate, wanted.end)

    def run(self):
        """Return when the part is the file; raise _Refused when this url cannot make it so."""
        failures, furthest, sha256 = 0, _size(self.part), self.wanted.sha256
        while True:
            if sha256 is None and (self.etag is None or self.total is None):
                self.part.truncate(0)  # nothing could tell whether these bytes belong to this file
            if _size(self.part) and sha256 and sha256_of(self.part.name) == sha256:
                return
            try:
                from_start = self.request()
                problem = self.wanted.wrong(self.part.name)
                if problem is None:
                    return
                self.part.truncate(0)
                # A resumed part may be two versions spliced: that is worth another request, for the whole file.
                raise (_Refused if from_start else _Interrupted)(f"sent another file ({problem})")
            except _Interrupted as interruption:
                failures = 1 if _size(self.part) > furthest else failures + 1
                furthest = max(furthest, _size(self.part))
                pause = BACKOFF * 2 ** (failures - 1)
                if failures >= ATTEMPTS or time.monotonic() + pause >= self.wanted.end:
                    raise _Refused(f"{interruption} ({failures} attempts)") from interruption
                time.sleep(pause)
                self.watchdog.left -= pause  # a server that cuts after each byte is a slow one

    def request(self):
        """Ask once for what is missing and append it. Returns whether the answer was the file from its start."""
        import requests
        from requests.packages import urllib3  # what requests itself sends with: some of its errors come through

        problem = None
        with self.watchdog:
            try:
                with watched_session(self.watchdog) as session:
                    offset = self.ask(session)
            except requests.RequestException as error:
                cause = error.args[0] if error.args else error
                if isinstance(
                    cause, urllib3.exceptions.MaxRetryError
                ):  # unknown host, refused, no route, bad certificate
                    problem = _Unreachable(re.sub(r"^\w+\(.*?\): ", "", str(cause.reason.args[-1])))
                elif isinstance(error, (requests.ConnectionError, requests.Timeout)):
                    problem = _Interrupted(f"no answer ({cause})")
                else:
                    problem = _Refused(error)
            except urllib3.exceptions.HTTPError as error:
                problem = _Interrupted(f"connection lost after {_size(self.part)} bytes ({error})")
            except ValueError as error:  # of headers and addresses that nobody foresaw
                problem = _Refused(f"an answer that cannot be read ({error})")
            except (_Refused, _Interrupted) as error:
                problem = error
        if self.watchdog.expired:  # also where the cut looked like the end of the body
            late = time.monotonic() >= self.wanted.end
            raise _Refused(
                f"too slow, {_size(self.part)} bytes had come when "
                + (
                    "the time was over (MINGPT_DEADLINE, in seconds)"
                    if late
                    else f"it fell below {self.wanted.lowest_rate:g} bytes a second (MINGPT_LOWEST_RATE)"
                )
            )
        if problem:
            raise problem
        return offset == 0

    def ask(self, session):
        """Send one request, follow redirects, receive what comes. Returns where in the file that began."""
        offset, url = _size(self.part), self.url
        headers = {"Accept-Encoding": "identity"}  # lengths and ranges then count the file's own bytes
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if self.etag:
                headers["If-Range"] = self.etag
        for _ in range(REDIRECTS + 1):
            with session.get(url, headers=headers, stream=True, timeout=self.wanted.timeout) as response:
                if response.status_code not in (301, 302, 303, 307, 308):
                    offset, total = self.agree(response, offset)
                    self.receive(response, offset, total)
                    return offset
                # http.client reads headers as Latin-1, and servers send addresses in UTF-8.
                place = response.headers.get("Location", "").encode("latin-1", "replace").decode("utf-8", "replace")
            if not place:
                raise _Refused(f"HTTP {response.status_code} {response.reason} without a new address")
            url = urljoin(url, place)
        raise _Refused(f"more than {REDIRECTS} redirects")

    def agree(self, response, offset):
        """Check status and headers against what was asked for.

        Returns (offset, total): where in the file the answer begins, 0 if the server starts anew; and the size that
        the whole file will have, None if not announced.
        """
        status, headers = response.status_code, response.headers
        if status == 429 or status >= 500:
            raise _Interrupted(f"HTTP {status} {response.reason}")
        if status not in (200, 206, 416) or (status != 200 and not offset):
            raise _Refused(f"HTTP {status} {response.reason}")
        if headers.get("Content-Type", "").startswith("text/html") and not self.url.endswith((".html", ".htm")):
            raise _Refused("an HTML page instead of the file (a login or error page?)")
        encoding = headers.get("Content-Encoding", "identity")
        if self.wanted.sha256 is None and encoding.lower() != "identity":
            raise _Refused(f"sent it encoded as {encoding}, which was not asked for")
        etag = headers.get("ETag", "")
        etag = etag if etag.startswith('"') else None  # a weak one, W/"...", does not promise equal bytes
        if status == 200:  # no range was asked for, or the server ignores ranges, or its file has changed
            self.part.truncate(0)
            length = headers.get("Content-Length")
            if length is not None and not re.fullmatch("[0-9]{1,15}", length):
                raise _Refused(f"a Content-Length that is no number of bytes ({length[:40]!r})")
            self.etag, self.total = etag, None if length is None else int(length)
            if (
                self.wanted.sha256 is None
                and length is None
                and headers.get("Transfer-Encoding", "").lower() != "chunked"
            ):
                raise _Refused("announces no length, so that nobody would notice a cut")
            return 0, self.total
        span = re.fullmatch(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15}|\*)", headers.get("Content-Range", ""))
        total = span and (self.total or int(span[2]) + 1 if span[3] == "*" else int(span[3]))
        if not span or int(span[1]) != offset or (self.etag and etag != self.etag) or total != (self.total or total):
            self.part.truncate(0)
            raise _Interrupted(f"HTTP {status} for another part of the file, or of another version of it")
        return offset, total

    def receive(self, response, offset, total):
        """Append the answer's body to the part and see that it came whole."""
        from tqdm import tqdm

        most = self.wanted.largest if total is None else total
        if most > self.wanted.largest:
            raise _Refused(f"announces {most} bytes, and the file has {self.wanted.largest} at most")
        size = offset
        with tqdm(desc=self.wanted.label, initial=offset, total=total, unit="B", unit_scale=True, disable=None) as bar:
            for chunk in response.raw.stream(CHUNK, decode_content=False):  # the bytes as sent, never gunzipped
                size += len(chunk)
                if size > most:
                    self.part.truncate(0)
                    raise _Refused(f"sent more than {most} bytes")
                _write(self.part, chunk)
                self.watchdog.gained(len(chunk))
                bar.update(len(chunk))
        if total is not None and size != total:
            raise _Interrupted(f"sent {size} of {total} bytes")


def _write(file, data):
    """Write all of `data` to a file without a buffer, which may take less at a time."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _size(file):
    return file.seek(0, os.SEEK_END)
