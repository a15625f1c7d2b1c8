"""Files that are whole or absent, and folders that belong to one run at a time.

    with own_folder("out/run"):                    # one line and exit if another process is writing there
        write_json("out/run/metrics.json", {...})  # complete at every moment, whatever kills the process
        remove_own("out/run/old.json")             # deleted only if this program wrote it

Inside `own_folder`, a file that stands where one is to be written, and that no earlier run of ours wrote, is renamed to
`<name>.kept`: what a user has is never lost. The names of what we wrote are in `.written` in that folder.
"""

import errno
import hashlib
import json
import os
import re
import reprlib
import shlex
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

LOCK, WRITTEN = ".lock", ".written"


# ----------------------------------------------------------------------------------------------------------------------
# One file


@contextmanager
def atomic_path(path: str | os.PathLike):
    """A temporary name beside `path` to write to; renamed to `path` at the end, removed if the body raises.

    Whoever reads `path` sees the old file or the new one, complete, whenever the process is killed. A temporary file
    that a killed process left is removed by the next writer of the same path. Errors are OSError, with the path in
    them.
    """
    path = Path(path)
    _check_file(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        lock = open(temporary, "ab")
        try:
            with suppress(OSError):  # on a file system without locks
                try_lock(lock)  # held while the writer lives: by it others know that this file is not stale
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            _make_way(path)
            if not fcntl:
                lock.close()  # Windows renames no open file
            os.replace(temporary, path)
        finally:
            lock.close()
            temporary.unlink(missing_ok=True)


def _check_file(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is {'a folder' if path.is_dir() else 'not a regular file'}; give the path of a file")


def _remove_stale(path: Path) -> None:
    """Remove the temporary files of `path` whose writers are dead: no such process, and nobody holds the lock."""
    for old in path.parent.glob(f".{_escaped(path.name)}.*.tmp"):
        pid = re.fullmatch(r"\.(\d+)\.tmp", old.name.removeprefix(f".{path.name}"))
        if not pid or _alive(int(pid[1])) and int(pid[1]) != os.getpid():
            continue
        try:
            with open(old, "ab") as file:
                stale = try_lock(file)
            if stale:
                old.unlink(missing_ok=True)
        except OSError:
            pass  # not ours to remove, or gone by now


def _escaped(name: str) -> str:
    """`name` as a pattern that fits nothing else."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def _alive(pid: int) -> bool:
    """Whether a process of that number exists here."""
    if not fcntl:  # os.kill would end it on Windows; there, the lock alone decides
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def try_lock(file) -> bool:
    """Lock an open file for this process until it is closed. Returns whether that went: False if another holds it.

    The system drops the lock when its holder dies. Where a file system has no locks, OSError.
    """
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            file.seek(1 << 30)  # a byte that is never written: what is locked cannot be read on Windows
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        return True
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        raise


@contextmanager
def errors_named(path: str | os.PathLike):
    """Give an OSError that says no file, as that of a full disk does, the name of the one that was being written."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror or os.strerror(error.errno), str(path)) from error
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` as UTF-8 with Unix line ends, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | os.PathLike, value) -> None:
    """Write `value` as indented JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a file name that is not UTF-8: only escapes can write it
        text = json.dumps(value, indent=2)
    write_text(path, text + "\n")


def move_into_place(source: str | os.PathLike, path: str | os.PathLike) -> None:
    """Rename a finished file to `path`, with the care that `atomic_path` takes of what stands there."""
    with errors_named(path):
        _make_way(Path(path))
        os.replace(source, path)


def append_line(path: str | os.PathLike, line: str) -> None:
    """Add a line to a text file. A kill may leave a part of the line, which has no line end then."""
    with errors_named(path), open(path, "a", encoding="utf-8", newline="\n") as file:
        file.write(line + "\n")


def check_writable(path: str | os.PathLike) -> None:
    """Raise ValueError or OSError if a file could not be written at `path`.

    Better before the work than after it.
    """
    path = Path(path)
    _check_file(path)
    existing = next(parent for parent in path.absolute().parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"{path}: cannot be written, since {existing} is no folder that you may write to")


def read_text(path: str | os.PathLike) -> str:
    """The text of a UTF-8 file, its line ends as \\n. Raises ValueError if the file is missing or not UTF-8."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ValueError(f"{path}: is a folder, not a file") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from None
    if "\0" in text:  # UTF-16 without a mark is valid UTF-8 as long as it is English
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{path}:{line}: holds zero bytes, so it is no text, or UTF-16; save the file as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: str | os.PathLike):
    """The value in a JSON file, with or without a byte order mark.

    ValueError, with file and line, if it is not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except (RecursionError, ValueError) as error:  # too deep, or an integer of thousands of digits
        raise ValueError(f"{path}: not JSON that can be read ({error})") from None


def sha256_of(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, as 64 lower-case hex digits, without holding it in memory.

    OSError if it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def short(value) -> str:
    """A value from a file as it may stand in an error message: printable, in one line, and not long."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"a huge {type(value).__name__}"


def short_name(name: str) -> str:
    """The same for a name, without quotes."""
    return short(name)[1:-1]


def cache_folder() -> Path:
    """Where downloads are kept: $MINGPT_CACHE, or ~/.cache/mingpt. ValueError where there is no home folder."""
    given = os.environ.get("MINGPT_CACHE")
    try:
        return Path(given) if given else Path.home() / ".cache" / "mingpt"
    except RuntimeError:  # no HOME, and a user without an account
        raise ValueError(
            "there is no home folder to keep downloads in; set MINGPT_CACHE to a folder, as in MINGPT_CACHE=/tmp/mingpt"
        ) from None


# ----------------------------------------------------------------------------------------------------------------------
# One folder

_owned: dict[Path, set[str]] = {}  # folder -> what runs of ours have written below it, as relative paths


@contextmanager
def own_folder(folder: str | os.PathLike):
    """Have `folder` to this process while the body runs; it is made if need be, and removed again if it stays empty.

    ValueError, before anything is touched, if another process has it. A lock that a killed process held is free. A
    folder
    inside one that this process has already is its own, too. Of the processes that torchrun starts, the first has it.
    """
    from mingpt.support.processes import is_first_process  # here, as it brings in torch, which a tokenizer does without

    folder = Path(folder).resolve()
    if not is_first_process() or any(folder.is_relative_to(mine) for mine in _owned):
        yield
        return
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file, and a folder is to be written; give another --out")
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    with errors_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = _lock_folder(folder)
    written = folder / WRITTEN
    _owned[folder] = (
        set(written.read_text(encoding="utf-8", errors="surrogateescape").splitlines()) if written.is_file() else set()
    )
    try:
        yield
    finally:
        if not any(os.path.lexists(folder / name) for name in _owned.pop(folder)):
            written.unlink(missing_ok=True)
        if fcntl:
            (folder / LOCK).unlink(missing_ok=True)  # while it is locked: nobody can have taken it
        lock.close()
        for parent in made:
            try:
                parent.rmdir()
            except OSError:  # it holds something, as it should
                break


def _lock_folder(folder: Path):
    """The lock file of a folder, open and locked, with a line in it that says who has it."""
    path = folder / LOCK
    while True:
        file = open(path, "a+", encoding="utf-8", errors="replace")
        try:
            if not try_lock(file):
                file.seek(0)
                holder = file.read(400).strip() if fcntl else ""
                file.close()
                raise ValueError(
                    f"{folder}: another run is writing here ({holder or 'it is locked'}); wait until it has "
                    "ended, or give another --out"
                )
            if not fcntl or os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                break
            file.close()  # the last holder has removed this very file
        except OSError as error:
            print(
                f"note: {folder} cannot be locked ({error.strerror}); see to it that no other run writes there",
                file=sys.stderr,
            )
            return file
    file.truncate(0)
    file.write(f"process {os.getpid()}: {shlex.join(sys.argv)}"[:400] + "\n")
    file.flush()
    return file


def _place(path: str | os.PathLike) -> tuple[Path | None, str]:
    """The owned folder that a path is in, or None, and the path's name in its `.written`."""
    path = Path(os.path.abspath(path))
    path = path.parent.resolve() / path.name  # a link itself is what is replaced, not what it points to
    for folder in _owned:
        if path.is_relative_to(folder):
            return folder, path.relative_to(folder).as_posix()
    return None, ""


def is_own(path: str | os.PathLike) -> bool:
    """Whether `path` lies in a folder that this process has, and a run of ours wrote it."""
    folder, name = _place(path)
    return folder is not None and name in _owned[folder]


def remove_own(path: str | os.PathLike) -> None:
    """Delete a file if a run of ours wrote it; otherwise keep it, under another name, for whoever put it there."""
    path = Path(path)
    _make_way(path, record=False)
    path.unlink(missing_ok=True)


def _make_way(path: Path, record: bool = True) -> None:
    """Before `path` is written in an owned folder: keep what is there and is not ours, and note the name as ours."""
    folder, name = _place(path)
    if folder is None or name in _owned[folder]:
        return
    if os.path.lexists(path):
        kept, number = path.with_name(path.name + ".kept"), 0
        while os.path.lexists(kept):
            number += 1
            kept = path.with_name(f"{path.name}.kept.{number}")
        os.rename(path, kept)
        print(f"note: {path} was there before and is not of this program; it is now {kept}", file=sys.stderr)
    if record:
        with open(folder / WRITTEN, "a", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            file.write(name + "\n")
        _owned[folder].add(name)
