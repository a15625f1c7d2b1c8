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
import hashlib
import os
import re
import sys
import time
import uuid
from pathlib import Path
from urllib.parse import urlsplit

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

CHUNK = 1 << 16  # bytes read at a time; a cut loses at most one chunk
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


def fetch(urls, path, sha256=None, *, description=None, timeout=(5.0, 15.0), mirror_name=None):
    """Make sure that `path` holds the file, downloading it if need be.

    Arguments:
        urls: a url, or several mirrors of the same file in the order to try them.
        path: where the file goes; missing folders are created.
        sha256: expected SHA-256 in hex. Without it an existing file is taken as it is, and a download is taken to
            be right when its length is what the server announced.
        description: label of the progress bar (on stderr, if that is a terminal); the file's name by default.
        timeout: (connect, read), seconds to wait for a connection and for the next bytes.
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
            if sha256 is None or sha256_of(path) == sha256:
                return path
            print(f"{path} is not the expected file (its sha256 differs): downloading it again", file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _part_of(path, sha256) as part:
            _fill(part, dict.fromkeys(urls), sha256, description or path.name, timeout)
    except _Refused as refusal:
        note = " The file now there has another sha256 and was left alone." if path.exists() else ""
        raise DownloadError(f"could not download {path.name}: {refusal}.{note} Try again later, or get it by hand and "
                            f"put it at {path.absolute()} (sha256 {sha256 or 'not known'})") from refusal
    except OSError as error:
        raise DownloadError(f"cannot read or write {path}: {error}; check permissions and free space, or give "
                            f"another path") from error
    return path


@contextlib.contextmanager
def _part_of(path, sha256):
    """Open a file to download into; on a clean exit it becomes `path`, after an error it waits for the next call."""
    part, shared = _claim(path)
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
    return open(f"{path}.{uuid.uuid4().hex[:8]}.part", "a+b"), False


def _fill(part, urls, sha256, label, timeout):
    """Fill `part` from the first url that delivers; raise _Refused with the answers of all if none does."""
    answers, dead_hosts = [], set()
    for url in urls:
        host = urlsplit(url).netloc
        if host in dead_hosts:  # offline, a host costs its time-out once, not once for each url
            answers.append(f"{url}: the same host")
            continue
        try:
            return _Transfer(url, part, sha256, label, timeout).run()
        except _Refused as refusal:
            answers.append(f"{url}: {refusal}")
            if isinstance(refusal, _Unreachable):
                dead_hosts.add(host)
    raise _Refused("; ".join(answers) or "no url was given")


class _Transfer:
    """Fill a part file from one url, over as many requests as it takes."""

    def __init__(self, url, part, sha256, label, timeout):
        self.url, self.part, self.sha256, self.label, self.timeout = url, part, sha256, label, timeout
        self.etag = None  # names the version that the part holds, once this url has said so

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
                digest = _digest(self.part)
                if self.sha256 in (None, digest):
                    return
                message = f"sent another file ({_size(self.part)} bytes, sha256 {digest})"
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
        try:
            with requests.get(self.url, headers=headers, stream=True, timeout=self.timeout) as response:
                offset, total = self.agree(response, offset)
                self.receive(response, offset, total)
        except requests.RequestException as error:
            cause = error.args[0] if error.args else error
            if isinstance(cause, urllib3.exceptions.MaxRetryError):  # unknown host, refused, no route, bad certificate
                raise _Unreachable(re.sub(r"^\w+\(.*?\): ", "", str(cause.reason.args[-1]))) from error
            if isinstance(error, (requests.ConnectionError, requests.Timeout)):
                raise _Interrupted(f"no answer ({cause})") from error
            raise _Refused(error) from error
        except urllib3.exceptions.HTTPError as error:
            raise _Interrupted(f"connection lost after {_size(self.part)} bytes ({error})") from error
        return offset == 0

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
        etag = headers.get("ETag", "")
        etag = etag if etag.startswith('"') else None  # a weak one, W/"...", does not promise equal bytes
        if status == 200:  # no range was asked for, or the server ignores ranges, or its file has changed
            self.part.truncate(0)
            self.etag = etag
            length = headers.get("Content-Length", "")
            return 0, int(length) if length.isdigit() else None
        span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", headers.get("Content-Range", ""))
        if not span or int(span[1]) != offset or (self.etag and etag != self.etag):
            self.part.truncate(0)
            raise _Interrupted(f"HTTP {status} for another part of the file, or of another version of it")
        return offset, int(span[2]) + 1 if span[3] == "*" else int(span[3])

    def receive(self, response, offset, total):
        """Append the answer's body to the part and see that it came whole."""
        from tqdm import tqdm

        with tqdm(desc=self.label, initial=offset, total=total, unit="B", unit_scale=True, disable=None) as bar:
            for chunk in response.raw.stream(CHUNK, decode_content=False):  # the bytes as sent, never gunzipped
                self.part.write(chunk)
                bar.update(len(chunk))
        if total is not None and _size(self.part) != total:
            raise _Interrupted(f"sent {_size(self.part)} of {total} bytes")


def _digest(file):
    """SHA-256 of an open file from its start, in hex."""
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def _size(file):
    return file.seek(0, os.SEEK_END)
