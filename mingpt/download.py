"""Download a file once, and know that it is the right one.

    from mingpt.download import fetch
    fetch("https://example.org/a/corpus.txt", "data/corpus.txt", sha256="521f7f42...")

The bytes go to `corpus.txt.part`, are checked there, and only then take the final name: whatever goes wrong on
the way, `corpus.txt` is either the right file or what it was before. A cut connection, Ctrl-C or a kill leaves
the `.part`, and the next call goes on from where it ended.

The environment variable MINGPT_MIRROR, a base URL such as http://127.0.0.1:8000/files, names a mirror to ask
before the others, for the last path component of each url: above, http://127.0.0.1:8000/files/corpus.txt.
"""
import contextlib
import dataclasses
import hashlib
import os
import re
import socket
import sys
import threading
import time
import uuid
from pathlib import Path
from urllib.parse import urlsplit

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

CHUNK = 1 << 16  # bytes read at a time; a cut loses at most one chunk
SLOWEST = 1000  # bytes a second; a server that takes longer for its headers, or for a chunk, than a chunk takes at this rate is left
LARGEST = 8 << 30  # bytes; the largest published GPT-2 has 6.4 GB
DEADLINE = 6 * 3600.0  # seconds for a whole call
ATTEMPTS = 3  # failures in a row, none getting further than before, after which a mirror is given up
BACKOFF = 0.5  # seconds before the second attempt, doubled for each one after it


class DownloadError(ValueError):
    """The file could not be had; the message is one line that says why and what to do."""


class _Refused(Exception):
    """This mirror will not serve the file, however often it is asked."""


class _Unreachable(_Refused):
    """There is no connection to this mirror's host at all."""


class _Interrupted(Exception):
    """This attempt failed; the next one may not."""


def sha256_of(path):
    """Return the SHA-256 of the file at `path` as 64 lower-case hex digits, without holding it in memory."""
    with open(path, "rb") as file:
        return _digest(file)


def fetch(urls, path, sha256=None, *, check=None, description=None, timeout=(5.0, 15.0), mirror_name=None, slowest=SLOWEST,
          largest=LARGEST, deadline=DEADLINE):
    """Make sure that `path` holds the file, downloading it if need be.

    Arguments:
        urls: a url, or several mirrors of the same file in the order to try them.
        path: where the file goes; missing folders are created.
        sha256: expected SHA-256 in hex. Without it a download is taken to be right when its length is what the server
            announced, and `check` has nothing against it; without that too, an existing file is taken as it is.
        check: a function of the path of a file that raises ValueError if it is not a right one.
        description: label of the progress bar (on stderr, if that is a terminal); the file's name by default.
        timeout: (connect, read), seconds to wait for a connection and for the next bytes.
        slowest: bytes a second; a server that sends less is given up.
        largest: bytes; a larger file is refused, and no more than this is ever written.
        deadline: seconds for all of it.
        mirror_name: what the file is called on the mirror of MINGPT_MIRROR; by default, the last part of its url.

    Returns `path` as a Path. An existing file with another SHA-256 stays where it is until a verified one is there
    to replace it, and is then kept as `<path>.bad` (`.bad.1`, ... where that is taken). Several processes may ask
    for the same path at once.

    Raises DownloadError if no mirror delivers the file or it cannot be written.
    """
    path, sha256 = Path(path), sha256.lower() if sha256 else None
    urls = [urls] if isinstance(urls, str) else list(urls)
    if mirror := os.environ.get("MINGPT_MIRROR"):
        urls = [f"{mirror.rstrip('/')}/{mirror_name or urlsplit(url).path.split('/')[-1]}" for url in urls] + urls
    try:
        if path.is_dir():
            raise DownloadError(f"{path} is a folder where a file is to be written: give another path")
        if path.exists():
            if not (wrong := _what_is_wrong(path, sha256, check)):
                return path
            print(f"{path} is not the expected file ({wrong}): downloading it again", file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _part_of(path, sha256) as part:
            limits = _Limits(timeout, slowest, largest, time.monotonic() + deadline)
            _fill(part, dict.fromkeys(urls), sha256, check, description or path.name, limits)
    except _Refused as refusal:
        note = " The file now there is another one and was left alone." if path.exists() else ""
        raise DownloadError(f"could not download {path.name}: {refusal}.{note} Try again later, or get it by hand and "
                            f"put it at {path.absolute()} (sha256 {sha256 or 'not known'})") from refusal
    except OSError as error:
        raise DownloadError(f"cannot read or write {path}: {error}; check permissions and free space, or give "
                            f"another path") from error
    return path


def _what_is_wrong(path, sha256, check):
    """Why the file at `path` is not the expected one; "" if it is."""
    if sha256 is not None:
        return "" if sha256_of(path) == sha256 else "its sha256 differs"
    try:
        if check:
            check(path)
    except ValueError as error:
        return str(error)
    return ""


@dataclasses.dataclass
class _Limits:
    """What a call may take: (connect, read) seconds without a byte, bytes a second, bytes, and the time when it must end."""

    timeout: tuple
    slowest: float
    largest: int
    end: float

    def patience(self):
        """Seconds that the next chunk, or the headers of an answer, may take."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise _Refused("the time for the whole download is over")
        return min(left, CHUNK / self.slowest)


@contextlib.contextmanager
def _part_of(path, sha256):
    """Open a file to download into; on a clean exit it becomes `path`, after an error it waits for the next call."""
    part, shared = _claim(path)
    _remove_stale(path)
    try:
        yield part
        part.flush()
        os.fsync(part.fileno())
        if not shared:
            part.close()  # Windows renames no open file; a shared part has to stay locked until it has the new name
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
    """
    if fcntl:
        part = open(f"{path}.part", "a+b")
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A former holder may have renamed this very file after it was opened here: it is then not ours to write.
            if os.path.samestat(os.stat(part.name), os.fstat(part.fileno())):
                return part, True
        except OSError:
            pass  # in use, renamed or not lockable: all the same
        part.close()
    own = open(f"{path}.{uuid.uuid4().hex[:8]}.part", "a+b")
    if fcntl:
        with contextlib.suppress(OSError):
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a sign of life, for `_remove_stale`
    return own, False


def _remove_stale(path):
    """Remove the parts of this file with names of their own whose writers are dead: nobody holds the lock on them."""
    for old in path.parent.glob("*.part"):
        if not fcntl or not re.fullmatch(re.escape(path.name) + r"\.[0-9a-f]{8}\.part", old.name):
            continue
        with contextlib.suppress(OSError), open(old, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            old.unlink()


def _fill(part, urls, sha256, check, label, limits):
    """Fill `part` from the first url that delivers; raise _Refused with the answers of all if none does."""
    answers, dead_hosts = [], set()
    for url in urls:
        host = urlsplit(url).netloc
        if host in dead_hosts:  # offline, a host costs its time-out once, not once for each url
            answers.append(f"{url}: the same host")
            continue
        try:
            return _Transfer(url, part, sha256, check, label, limits).run()
        except _Refused as refusal:
            answers.append(f"{url}: {refusal}")
            if isinstance(refusal, _Unreachable):
                dead_hosts.add(host)
    raise _Refused("; ".join(answers) or "no url was given")


class _Transfer:
    """Fill a part file from one url, over as many requests as it takes."""

    def __init__(self, url, part, sha256, check, label, limits):
        self.url, self.part, self.sha256, self.check, self.label, self.limits = url, part, sha256, check, label, limits
        self.etag = None  # names the version that the part holds, once this url has said so
        self.total = None  # how long that version is

    def run(self):
        """Return when the part is the file; raise _Refused when this url cannot make it so."""
        failures, furthest = 0, _size(self.part)
        while True:
            if self.sha256 is None and self.etag is None:
                self.part.truncate(0)  # nothing could tell whether these bytes belong to this file
            if _size(self.part) and _digest(self.part) == self.sha256:
                return
            try:
                from_start = self.request()
                self.part.flush()
                wrong = _what_is_wrong(self.part.name, self.sha256, self.check)
                if not wrong:
                    return
                message = f"sent another file ({_size(self.part)} bytes, {f'sha256 {_digest(self.part)}' if self.sha256 else wrong})"
                self.part.truncate(0)
                # A resumed part may be two versions spliced: that is worth another request, for the whole file.
                raise (_Refused if from_start else _Interrupted)(message)
            except _Interrupted as interruption:
                failures = 1 if _size(self.part) > furthest else failures + 1
                furthest = max(furthest, _size(self.part))
                if failures >= ATTEMPTS:
                    raise _Refused(f"{interruption} ({ATTEMPTS} attempts)") from interruption
                time.sleep(BACKOFF * 2 ** (failures - 1))

    def request(self):
        """Ask once for what is missing and append it. Returns whether the answer was the file from its start."""
        import requests  # here, so that importing this module costs nothing
        from requests.packages import urllib3  # what requests itself sends with: some of its errors come through

        offset = _size(self.part)
        headers = {"Accept-Encoding": "identity"}  # lengths and ranges then count the file's own bytes
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if self.etag:
                headers["If-Range"] = self.etag
        with _Watch() as watch, _session(watch) as session:
            watch.allow(self.limits.patience())
            try:
                with session.get(self.url, headers=headers, stream=True, timeout=self.limits.timeout) as response:
                    offset, total = self.agree(response, offset)
                    self.receive(response, offset, total, watch)
            except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError, OSError) as error:
                if isinstance(error, DownloadError) or isinstance(error, OSError) and error.filename is not None:
                    raise
                self.refuse_slowness(watch, error)
                cause = error.args[0] if error.args else error
                if isinstance(cause, urllib3.exceptions.MaxRetryError):  # unknown host, refused, no route, bad certificate
                    raise _Unreachable(re.sub(r"^\w+\(.*?\): ", "", str(cause.reason.args[-1]))) from error
                if isinstance(error, (requests.ConnectionError, requests.Timeout)):
                    raise _Interrupted(f"no answer ({cause})") from error
                if isinstance(error, urllib3.exceptions.HTTPError):
                    raise _Interrupted(f"connection lost after {_size(self.part)} bytes ({error})") from error
                if isinstance(error, (requests.RequestException, ValueError)):  # such as a malformed redirection
                    raise _Refused(error) from error
                raise
        return offset == 0

    def refuse_slowness(self, watch, error=None):
        """_Refused if the watch has closed the connection. (To the reader that looks like an end of the answer.)"""
        if watch.rang:
            self.limits.patience()
            raise _Refused(f"sends less than {self.limits.slowest:g} bytes a second") from error

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
        if (encoding := headers.get("Content-Encoding", "identity").strip().lower()) not in ("", "identity"):
            raise _Refused(f"sends the file packed ({encoding[:20]}), which was not asked for")
        etag = headers.get("ETag", "")
        etag = etag if etag.startswith('"') else None  # a weak one, W/"...", does not promise equal bytes
        if status == 200:  # no range was asked for, or the server ignores ranges, or its file has changed
            self.part.truncate(0)
            self.etag = etag
            self.total = self.length_of(headers)
            return 0, self.total
        span = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", headers.get("Content-Range", ""))
        total = None if not span else int(span[2]) + 1 if span[3] == "*" else int(span[3])
        same = span and int(span[1]) == offset and self.etag in (None, etag) and self.total in (None, total)
        if not same:
            self.part.truncate(0)
            raise _Interrupted(f"HTTP {status} for another part of the file, or of another version of it")
        return offset, total

    def length_of(self, headers):
        """The announced length of a whole file; None if there is none, and the end can be told without."""
        length = headers.get("Content-Length")
        if length is None:
            chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
            if self.sha256 is None and self.check is None and not chunked:
                raise _Refused("announces no length, so that an answer that is cut off could not be told from a whole one")
            return None
        if not re.fullmatch("[0-9]{1,18}", length):
            raise _Refused(f"announces a length that is no number ({length[:20]!r})")
        return int(length)

    def receive(self, response, offset, total, watch):
        """Append the answer's body to the part and see that it came whole."""
        from tqdm import tqdm

        if total is not None and total > self.limits.largest:
            raise _Refused(f"has {total} bytes, and at most {self.limits.largest} are taken")
        held = offset
        with tqdm(desc=self.label, initial=offset, total=total, unit="B", unit_scale=True, disable=None) as bar:
            for chunk in response.raw.stream(CHUNK, decode_content=False):  # the bytes as sent, never gunzipped
                held += len(chunk)
                if held > self.limits.largest:
                    self.part.truncate(0)
                    raise _Refused(f"sends more than {self.limits.largest} bytes")
                self.part.write(chunk)
                bar.update(len(chunk))
                watch.allow(self.limits.patience())
        self.refuse_slowness(watch)
        if total is not None and _size(self.part) != total:
            raise _Interrupted(f"sent {_size(self.part)} of {total} bytes")


class _Watch:
    """Closes connections that take longer than allowed. A time-out is for the silence between two bytes; this is for drips.

    A thread waits for the time at which patience ends, and shuts the sockets down, so that whoever reads from them finds the
    end. It ends with the context.
    """

    def __init__(self):
        self.rang, self._end, self._sockets, self._changed = False, None, [], threading.Condition()

    def add(self, sock):
        """Watch a connection. The copy that is kept outlives the wrapping of the original in TLS."""
        with self._changed:
            if self.rang:
                raise ConnectionError("the time for an answer is over")  # no more redirections
            self._sockets.append(sock.dup())

    def allow(self, seconds):
        """Let so much time pass from now on."""
        with self._changed:
            self._end = time.monotonic() + seconds
            self._changed.notify()

    def __enter__(self):
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error):
        with self._changed:
            self._end = -1.0
            self._changed.notify()
        self._thread.join()
        for sock in self._sockets:
            sock.close()

    def _wait(self):
        with self._changed:
            while self._end is None or (left := self._end - time.monotonic()) > 0:
                self._changed.wait(None if self._end is None else left)
            if self._end < 0:
                return
            self.rang = True
            for sock in self._sockets:
                with contextlib.suppress(OSError):  # the other side may have closed it
                    sock.shutdown(socket.SHUT_RDWR)


def _session(watch):
    """A requests session whose connections are under `watch` from the moment that they are open."""
    import requests
    from requests.packages import urllib3

    def watched(pool):
        class Connection(pool.ConnectionCls):
            def _new_conn(self):
                sock = super()._new_conn()
                watch.add(sock)
                return sock

        return type(pool.__name__, (pool,), {"ConnectionCls": Connection})

    pools = {"http": watched(urllib3.connectionpool.HTTPConnectionPool),
             "https": watched(urllib3.connectionpool.HTTPSConnectionPool)}

    class Adapter(requests.adapters.HTTPAdapter):
        def init_poolmanager(self, *args, **options):
            super().init_poolmanager(*args, **options)
            self.poolmanager.pool_classes_by_scheme = pools

        def proxy_manager_for(self, *args, **options):
            manager = super().proxy_manager_for(*args, **options)
            manager.pool_classes_by_scheme = pools
            return manager

    session = requests.Session()
    session.mount("http://", Adapter())
    session.mount("https://", Adapter())
    return session


def _digest(file):
    """SHA-256 of an open file from its start, in hex."""
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def _size(file):
    return file.seek(0, os.SEEK_END)
