"""Around a command: errors of one line, signals that lose nothing, streams that may be closed."""

import io
import os
import signal
import subprocess
import sys
import threading

import pytest

from mingpt.support import command
from mingpt.support.command import Stopped, StopRequest, describe, one_line_errors, printable


def test_a_users_mistake_ends_in_one_line_and_a_bug_does_not(monkeypatch, capsys):
    monkeypatch.delenv("MINGPT_TRACEBACK", raising=False)
    for mistake in (ValueError, OSError, FloatingPointError):
        with pytest.raises(SystemExit) as ended, one_line_errors():
            raise mistake("no such thing")
        assert ended.value.code == 2 and capsys.readouterr().err == "error: no such thing\n"
    for bug in (KeyError, RuntimeError):
        with pytest.raises(bug), one_line_errors():
            raise bug("a bug")
    monkeypatch.setenv("MINGPT_TRACEBACK", "1")
    with pytest.raises(ValueError), one_line_errors():
        raise ValueError("shown with its traceback")


def test_messages_are_printable_and_short(capsys):
    with pytest.raises(SystemExit), one_line_errors():
        raise ValueError("a\nb\x1b[31m\x00" + "x" * 100_000 + "\ud800")
    shown = capsys.readouterr().err
    assert shown.startswith("error: a\\nb\\x1b[31m\\x00xxx") and shown.count("\n") == 1 and len(shown) < 1100
    assert printable("Zürich 東京") == "Zürich 東京"
    assert (
        describe(OSError(28, "No space left on device", "a/b"))
        == "a/b: No space left on device; free some space, or write somewhere else"
    )


def test_a_want_of_memory_is_one_line(capsys):
    import torch

    with pytest.raises(SystemExit) as ended, one_line_errors():
        torch.empty(1 << 55)
    assert ended.value.code == 2 and capsys.readouterr().err.startswith("error: not enough memory (")


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="only Linux grants memory that is not there")
@pytest.mark.skipif(
    os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/kfd"), reason="the driver of a GPU maps more than it uses"
)
def test_memory_that_the_machine_does_not_have_is_refused_before_it_is_used(monkeypatch, capsys):
    import resource

    import torch

    before, read = resource.getrlimit(resource.RLIMIT_DATA), command._kibibytes
    monkeypatch.setattr(command, "_kibibytes", lambda path, name: read(path, name) if name == "VmData" else 1 << 28)
    with pytest.raises(SystemExit) as ended, one_line_errors():
        small = torch.empty(1 << 20)
        torch.empty(1 << 28)  # 1 GiB, where half a GiB is free
    assert small.numel() == 1 << 20
    assert ended.value.code == 2 and capsys.readouterr().err.startswith("error: not enough memory (")
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.mark.parametrize("number, name", [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_ends_a_command_with_a_line(number, name, capsys):
    handler = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended, one_line_errors():
        os.kill(os.getpid(), number)
        signal.pause()
    assert ended.value.code == 128 + number and capsys.readouterr().err == f"stopped by {name}\n"
    assert signal.getsignal(number) is handler


def test_a_loop_ends_between_two_steps_and_a_later_signal_ends_it_at_once(monkeypatch):
    with pytest.raises(Stopped, match="stopped by SIGTERM$"), StopRequest() as stop:  # where the loop does not raise it
        for _ in range(2):  # torchrun passes on a Ctrl-C that its processes have had already
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        monkeypatch.setattr(StopRequest, "AGAIN", 0.0)
        with pytest.raises(Stopped, match="stopped by SIGTERM; at once, as it was asked to twice"):
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()


def test_outside_the_main_thread_there_are_no_signals():
    seen = []

    def work():
        with one_line_errors(), StopRequest() as stop:
            seen.append(stop.signal)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [0]


def test_streams_without_reconfigure_or_none_at_all(monkeypatch):
    class Notebook(io.StringIO):  # as Jupyter's stdout: no reconfigure
        reconfigure = property()

    notebook = Notebook()
    monkeypatch.setattr(sys, "stdout", notebook)
    monkeypatch.setattr(sys, "stderr", None)
    with one_line_errors():
        print("shown")
        print("nowhere", file=sys.stderr)
    assert notebook.getvalue() == "shown\n" and sys.stdout is notebook


def test_closed_and_broken_streams_lose_nothing(tmp_path, environment):
    program = """
import os, sys
from mingpt.support.command import one_line_errors
with one_line_errors():
    for i in range(100_000):
        print("line", i)
    with open(sys.argv[1], "w") as file:
        assert file.fileno() > 2, "a file of ours has taken the place of a closed stream"
        file.write("done")
"""
    for number, tail in enumerate(("| head -1", ">&- 2>&-", "2>&1 | head -1")):
        path = tmp_path / str(number)
        done = subprocess.run(
            ["bash", "-c", f'set -o pipefail; "$1" -c "$2" "$3" {tail}', "bash", sys.executable, program, path],
            capture_output=True,
            text=True,
            env=environment,
        )
        assert path.read_text() == "done" and done.stderr == "" and done.returncode == 0, (tail, done)
