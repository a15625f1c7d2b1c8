"""Files that are never half-written, and folders that one run has to itself."""

import errno
import os
import subprocess
import sys

import pytest

from mingpt.support import files
from mingpt.support.files import (
    append_line,
    atomic_path,
    is_own,
    own_folder,
    read_json,
    read_text,
    remove_own,
    sha256_of,
    try_lock,
    write_json,
    write_text,
)

DEAD = 4_194_305  # above the largest process number that Linux gives


def names(folder):
    return sorted(os.listdir(folder))


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old\n")
    with pytest.raises(RuntimeError):
        with atomic_path(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError
    assert path.read_text() == "old\n" and names(tmp_path) == ["file.txt"]


def test_writing_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b" / "file.json"
    write_json(path, {"Zürich": 1})
    assert read_text(path) == '{\n  "Zürich": 1\n}\n'
    write_text(path, "new")
    assert read_text(path) == "new"


def test_a_writer_removes_what_dead_writers_of_the_same_path_left(tmp_path):
    path = tmp_path / "checkpoint.pt"
    for name in (
        f".checkpoint.pt.{DEAD}.tmp",
        f".checkpoint.pt.{os.getpid()}.tmp",
    ):  # a number may have come round again
        (tmp_path / name).write_text("half")
    kept = [f".checkpoint.pt.{os.getppid()}.tmp", f".other.pt.{DEAD}.tmp", ".checkpoint.pt.mine.tmp"]
    for name in kept:
        (tmp_path / name).write_text("not for us to remove")
    write_text(path, "whole")
    assert names(tmp_path) == sorted([*kept, "checkpoint.pt"])


@pytest.mark.skipif(sys.platform == "win32", reason="locks differ")
def test_a_temporary_file_whose_lock_is_held_stays(tmp_path):
    """Its writer's number may mean nothing here: it may be on another machine, or in another container."""
    other = tmp_path / f".file.txt.{DEAD}.tmp"
    with open(other, "w") as file:
        assert try_lock(file)
        write_text(tmp_path / "file.txt", "whole")
        assert other.exists()
    write_text(tmp_path / "file.txt", "again")
    assert names(tmp_path) == ["file.txt"]


def test_a_name_with_the_signs_of_patterns_is_a_name(tmp_path):
    (tmp_path / f".b.{DEAD}.tmp").write_text("of another file")
    for name in ("[ab]", "*"):
        write_text(tmp_path / name, "x")
    assert f".b.{DEAD}.tmp" in names(tmp_path)


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder: is a folder; give the path of a file"):
        write_text(tmp_path / "folder", "x")
    if os.path.exists("/dev/null"):
        with pytest.raises(ValueError, match="/dev/null: is not a regular file"):
            write_text("/dev/null", "x")


def test_a_full_disk_is_named_with_the_path(tmp_path):
    write_text(tmp_path / "file", "old")
    with pytest.raises(OSError, match="No space left on device: .*file'"):
        with atomic_path(tmp_path / "file"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # what write() raises: it says no name
    assert read_text(tmp_path / "file") == "old" and names(tmp_path) == ["file"]
    if os.path.exists("/dev/full"):
        with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
            append_line("/dev/full", "line")


def test_text_is_read_with_any_line_ends_and_with_a_byte_order_mark(tmp_path):
    (tmp_path / "f").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert read_text(tmp_path / "f") == "one\ntwo\nthree\n"


def test_unreadable_text_is_named_with_its_line(tmp_path):
    (tmp_path / "f").write_bytes(b"one\ntwo \xff\n")
    with pytest.raises(ValueError, match=r"f:2: not UTF-8 text \(byte 8\)"):
        read_text(tmp_path / "f")
    (tmp_path / "f").write_bytes("one\ntwo\n".encode("utf-16-le"))  # without a mark
    with pytest.raises(ValueError, match="f:1: holds zero bytes, so it is no text, or UTF-16; save the file as UTF-8"):
        read_text(tmp_path / "f")
    with pytest.raises(ValueError, match="missing: no such file"):
        read_text(tmp_path / "missing")
    with pytest.raises(ValueError, match="is a folder, not a file"):
        read_text(tmp_path)


def test_json_is_read_with_a_mark_and_refused_in_one_line(tmp_path):
    path = tmp_path / "f.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path) == {"a": 1}
    for text, message in (
        ('{\n"a" 1}', "f.json:2: not JSON"),
        ("[" * 100_000, "f.json: not JSON that can be read"),
        ("1" * 10_000, "f.json: not JSON that can be read"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message) as found:
            read_json(path)
        assert "\n" not in str(found.value) and len(str(found.value)) < 300


def test_the_hash_of_a_file(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_of(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(FileNotFoundError, match="No such file"):
        sha256_of(tmp_path / "g")


# ----------------------------------------------------------------------------------------------------------------------


def test_a_second_process_gets_one_line_and_touches_nothing(tmp_path, environment):
    second = """
import sys
from mingpt.support.command import one_line_errors
from mingpt.support.files import own_folder, write_text
with one_line_errors(), own_folder(sys.argv[1]):
    write_text(sys.argv[1] + "/loss.png", "second")
"""
    folder = tmp_path / "out"
    command = [sys.executable, "-c", second, str(folder)]
    with own_folder(folder):
        write_text(folder / "loss.png", "first")
        before = names(folder)
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert "another run is writing here (process " + str(os.getpid()) in done.stderr
        assert names(folder) == before and read_text(folder / "loss.png") == "first"
    assert names(folder) == [".written", "loss.png"]


def test_a_lock_of_a_dead_process_is_free(tmp_path):
    (tmp_path / ".lock").write_text("process 1: run.py\n")  # as after kill -9: the file is there, and nobody holds it
    with own_folder(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()
    assert names(tmp_path) == []


def test_a_folder_that_stays_empty_goes_again(tmp_path):
    with pytest.raises(ValueError), own_folder(tmp_path / "a" / "b"):
        raise ValueError("a check that failed")
    assert names(tmp_path) == []
    (tmp_path / "mine").mkdir()
    with own_folder(tmp_path / "mine"):
        pass
    assert names(tmp_path) == ["mine"], "an empty folder that was there is not ours to remove"
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ValueError, match="file: is a file, and a folder is to be written"),
        own_folder(tmp_path / "file"),
    ):
        pass


def test_a_users_file_in_the_way_is_kept(tmp_path, capsys):
    (tmp_path / "loss.png").write_text("the user's")
    for text in ("first run", "second run"):
        with own_folder(tmp_path):
            write_text(tmp_path / "loss.png", text)
    assert read_text(tmp_path / "loss.png") == "second run" and read_text(tmp_path / "loss.png.kept") == "the user's"
    assert names(tmp_path) == [".written", "loss.png", "loss.png.kept"]
    assert capsys.readouterr().err.count("is not of this program; it is now") == 1


def test_only_what_we_wrote_is_deleted(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "labels.json").write_text("the user's")
    (tmp_path / "run" / "labels.json.kept").write_text("an older one")
    with own_folder(tmp_path):
        write_text(tmp_path / "run" / "result.json", "ours")
        assert is_own(tmp_path / "run" / "result.json") and not is_own(tmp_path / "run" / "labels.json")
    with own_folder(tmp_path):  # a later run
        for name in ("result.json", "labels.json", "absent.json"):
            remove_own(tmp_path / "run" / name)
    assert names(tmp_path / "run") == ["labels.json.kept", "labels.json.kept.1"]


def test_a_folder_in_a_folder_that_is_ours_is_ours(tmp_path):
    with own_folder(tmp_path), own_folder(tmp_path / "run"):
        write_text(tmp_path / "run" / "a.txt", "a")
    assert names(tmp_path) == [".written", "run"] and names(tmp_path / "run") == ["a.txt"]
    assert (tmp_path / ".written").read_text() == "run/a.txt\n" and not files._owned


def test_a_file_system_without_locks_says_so(tmp_path, monkeypatch, capsys):
    def no_locks(file):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files, "try_lock", no_locks)
    with own_folder(tmp_path):
        write_text(tmp_path / "a", "a")
    assert "cannot be locked (No locks available); see to it that no other run writes there" in capsys.readouterr().err
