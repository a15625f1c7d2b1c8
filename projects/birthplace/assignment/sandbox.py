"""Open a submission, and run its code, trusting neither.

A zip is refused as a whole if any of its entries could reach outside the folder (absolute paths, `..`, drive letters,
backslashes, links), if it is encrypted, or if it holds too much (entries, bytes, or bytes for its size: a bomb). Only
the files that a submission consists of are unpacked, and their bytes are counted while they are.

Code runs in a process of its own: Python's isolated mode, an environment without the marker's variables, no open files
but its messages, a temporary folder as home, limits on time, memory and the size of files where the system has them,
and the end for whatever it started in its process group. What comes back is one bounded file of JSON, which is data to
be judged. Nothing of a submission is ever unpickled but its parameters, these with `weights_only=True` and in another
process of that kind, in which our code reads them.

That is protection from accidents and from cheating on points. **It is not a container**: the process is the marker's
user. It can read what the marker can read (the answers, too, or this project's own solution, to hand on what that
returns), change the marker's files, use the network, start processes that leave the group, and share memory that no
limit counts; and root can raise the limits. Windows has time limits only. To mark strangers' work, run `grade` inside a
container or as a user that owns nothing.
"""

import importlib.util
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

WANTED = re.compile(
    r"[a-z]+\.(model|pretrain|finetune)\.params"
    r"|[a-z]+\.(nopretrain|pretrain)\.(dev|test)\.predictions"
    r"|(mingpt|projects/birthplace)(/\w+){1,3}\.py",
    re.ASCII,
)
CODE = ("mingpt", "projects/birthplace")  # the folders with a submission's modules, and folders in them
MAX_ENTRIES, MAX_BYTES, MAX_RATIO = 500, 400 << 20, 200  # parameters hardly shrink, and text to a third or a tenth
SMALL = 1 << 20  # less than this is no bomb, whatever its ratio
HERE = Path(__file__).resolve().parent
PACKAGES = ("torch", "numpy", "matplotlib", "tqdm", "requests")


@dataclass(frozen=True)
class Limits:
    """What a submission's code may use."""

    seconds: int = 120  # of time, and in each process of computing time
    memory: int = 4 << 30  # bytes that a process allocates for itself
    file_size: int = 32 << 20  # bytes of any file that it writes, its results among them


# ----------------------------------------------------------------------------------------------------------------------
# Files


def unpack(submission: str | os.PathLike, folder: str | os.PathLike) -> list[str]:
    """Copy the files of a submission, a zip or a folder, into `folder`, which must exist.

    Returns the names that do not belong to a submission, and were left out. ValueError if it could do harm.
    """
    submission, folder = Path(submission), Path(folder)
    if submission.is_dir():
        return _copy_folder(submission, folder)
    if not submission.is_file():
        raise ValueError(f"{submission}: no such file or folder")
    if submission.stat().st_size > MAX_BYTES:
        raise ValueError(f"{submission}: {submission.stat().st_size:,} bytes; a submission has at most {MAX_BYTES:,}")
    try:
        with zipfile.ZipFile(submission) as archive:
            return _unzip(archive, folder, str(submission))
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        UnicodeDecodeError,
        OSError,
    ) as error:
        raise ValueError(f"{submission}: not a zip file, or a damaged one ({error})") from None


def _unzip(archive: zipfile.ZipFile, folder: Path, source: str) -> list[str]:
    """Check every entry, then extract those that are wanted."""
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise ValueError(f"{source}: {len(entries)} entries; a submission has at most {MAX_ENTRIES}")
    seen = set()
    for entry in entries:
        name = entry.orig_filename  # as it stands in the file, before zipfile mends it
        if danger := _danger(entry, name, seen):
            raise ValueError(f"{source}: refused, the entry {clean(repr(name))} {danger}")
        seen.add(name.casefold())
    left, top = MAX_BYTES, _top_folder([entry.orig_filename for entry in entries])
    for entry in entries:
        name = entry.orig_filename.removeprefix(top)
        if WANTED.fullmatch(name):
            left = _extract(archive, entry, folder / name, left, source)
    return [
        entry.orig_filename
        for entry in entries
        if not entry.is_dir() and not WANTED.fullmatch(entry.orig_filename.removeprefix(top))
    ]


def _top_folder(names: list[str]) -> str:
    """The folder, with its slash, that a submission lies in when a file manager has packed a folder; else ""."""
    if any(WANTED.fullmatch(name) for name in names):
        return ""
    tops = {name.partition("/")[0] + "/" for name in names if WANTED.fullmatch(name.partition("/")[2])}
    return tops.pop() if len(tops) == 1 else ""


def _danger(entry: zipfile.ZipInfo, name: str, seen: set[str]) -> str:
    """What is wrong with an entry of a zip, or ""."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if not name or len(name) > 200 or not name.isprintable():
        return "has no proper name"
    if name.startswith("/") or "\\" in name or re.match("[A-Za-z]:", name):
        return "has an absolute path, a drive letter or a backslash"
    if ".." in name.split("/"):
        return "leads out of the folder"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or another special file"
    if entry.flag_bits & 1:
        return "is encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in an unusual way; use the ordinary one"
    if name.casefold() in seen:
        return "stands in it twice"
    return ""


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, left: int, source: str) -> int:
    """Write one entry to `target`, counting. Returns how many bytes may still come."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with archive.open(entry) as packed, open(target, "xb") as file:
        while chunk := packed.read(1 << 16):
            written, left = written + len(chunk), left - len(chunk)
            if left < 0 or written > max(SMALL, MAX_RATIO * entry.compress_size):
                raise ValueError(
                    f"{source}: refused, {clean(entry.orig_filename)} unpacks to more than a submission "
                    f"may hold ({MAX_BYTES:,} bytes in all, {MAX_RATIO} times its packed size)"
                )
            file.write(chunk)
    return left


def _copy_folder(submission: Path, folder: Path) -> list[str]:
    """The same for a submission that is a folder. Links in it are refused, and other folders in it not looked at."""
    left, others = MAX_BYTES, []
    inside = [path for path in submission.iterdir() if not path.name.startswith((".", "__"))]
    if (
        len(inside) == 1
        and inside[0].is_dir()
        and not inside[0].is_symlink()
        and inside[0].name not in ("mingpt", "projects")
    ):
        submission = inside[0]  # as a zip of a folder is unpacked
    inside = [submission, *(submission / part for part in CODE)]
    while inside:
        place = inside.pop(0)
        for parent in (place, *place.parents):
            if parent.is_relative_to(submission) and parent != submission and parent.is_symlink():
                raise ValueError(f"{submission}: refused, {parent.relative_to(submission).as_posix()} is a link")
        for path in sorted(place.glob("*")):
            name = path.relative_to(submission).as_posix()
            if not WANTED.fullmatch(name):
                others += [] if path.is_dir() else [name]
                if path.is_dir() and place != submission and not path.name.startswith((".", "__")):
                    inside.append(path)
                continue
            if not stat.S_ISREG(path.lstat().st_mode):
                raise ValueError(f"{submission}: refused, {name} is a link or another special file")
            left -= path.stat().st_size
            if left < 0:
                raise ValueError(f"{submission}: refused, more than {MAX_BYTES:,} bytes")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
    return others


def clean(text: str, longest: int = 160) -> str:
    """A submission's words, safe to print: on one line, without what a terminal would obey, cut."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= longest else text[: longest - 3] + "..."


# ----------------------------------------------------------------------------------------------------------------------
# Code


def run_untrusted(script: Path, code: Path, request: dict, limits: Limits) -> tuple[list, str]:
    """Run `script` (ours) beside the modules in the folder `code` (not ours).

    The script finds `request` and its limits in request.json, and the modules, in its working directory, and writes
    result.jsonl there, a JSON value a line. Returns these values, and "" or how the process failed. What it wrote
    before it failed counts: a hang at the end does not undo the beginning.
    """
    with tempfile.TemporaryDirectory(prefix="submission-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        for folder in CODE:
            (home / folder).mkdir(parents=True)
            for path in (code / folder).rglob("*.py"):
                if path.is_file():  # an editor may have left a link that leads nowhere
                    copy = home / path.relative_to(code)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)
        shutil.copyfile(script, home / "probe.py")
        request = {**request, "limits": asdict(limits), "path": package_folders()}
        (home / "request.json").write_text(json.dumps(request), encoding="utf-8")
        with open(home / "messages", "wb") as messages:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "probe.py"],
                cwd=home,
                env=_environment(home),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=messages,
                start_new_session=True,
            )  # other files are closed by default
            problem = _wait(process, limits.seconds)
        values = _read_lines(home / "result.jsonl", limits.file_size)
        said = _read_bounded(home / "messages", 1 << 16).decode("utf-8", "replace").strip().splitlines()
        return values, problem and clean(problem + (f" ({said[-1]})" if said else ""))


def run_ours(probes: list, limits: Limits) -> tuple[list, str]:
    """Run our own probe beside our own code, because of what it reads. As `run_untrusted`, but believed."""
    return run_untrusted(HERE / "probe.py", HERE.parents[2], {"probes": probes}, limits)


def package_folders() -> list[str]:
    """Where the five packages are installed. Given by hand, since `-S` leaves out site-packages, in which an editable
    install would lead a submission that lacks a file to ours."""
    specs = [importlib.util.find_spec(package) for package in PACKAGES]
    return sorted({str(Path(spec.origin).parents[1]) for spec in specs if spec is not None})


def _environment(home: Path) -> dict[str, str]:
    """No variable of the marker's, but what Windows cannot start a process without."""
    kept = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}
    return {
        **kept,
        "HOME": str(home),
        "TMPDIR": str(home),
        "TEMP": str(home),
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
    }


def _wait(process: subprocess.Popen, seconds: float) -> str:
    """Wait for the end; then end what is left of the process group. Returns "" or what went wrong."""
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"the code took more than {seconds} s"
    finally:
        if hasattr(os, "killpg"):
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass  # nothing is left
        process.kill()
        process.wait()
    if status < 0:
        return f"the code was ended by signal {-status} ({signal.Signals(-status).name})"
    return f"the code ended with status {status}" if status else ""


def _read_bounded(path: Path, most: int) -> bytes:
    """The first `most` bytes of a regular file; nothing of what is none: a pipe would block, a link lead elsewhere."""
    try:
        descriptor = os.open(
            path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
    except OSError:
        return b""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return b""
    with open(descriptor, "rb") as file:
        return file.read(most)


def _read_lines(path: Path, most: int) -> list:
    """The JSON values of a file, a line each, up to the first line that is none."""
    values = []
    for line in _read_bounded(path, most).split(b"\n")[:-1]:
        try:
            values.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return values
