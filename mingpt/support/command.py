"""What surrounds the work of a command: mistakes in one line, signals that lose nothing, streams that may be closed.

def main():
    args = parser.parse_args()
    with one_line_errors(), own_folder(args.out):
        work(args)

status 0    done, also where the reader of a pipe left early:  run.py | head -1
status 2    a mistake, in one line on stderr; MINGPT_TRACEBACK=1 in the environment shows the traceback instead
status 130  stopped by Ctrl-C (SIGINT)
status 143  stopped by SIGTERM
"""

import errno
import os
import signal
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

LONGEST_MESSAGE = 1000  # characters: the name of a tensor in a file may have 100,000
SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Stopped(KeyboardInterrupt):
    """The program was asked to stop; the message says what is kept, and how to go on."""

    def __init__(self, number: int, message: str = ""):
        name = SIGNALS[signal.Signals(number)]
        super().__init__(f"stopped by {name}" + (f"; {message}" if message else ""))
        self.status = 128 + number


@contextmanager
def way_to_go_on(message: str):
    """Add `message`, which says what is kept, to a stop in the body, unless that names --resume itself."""
    try:
        yield
    except Stopped as stopped:
        if "--resume" not in str(stopped):
            stopped.args = (f"{stopped}; {message}",)
        raise


@contextmanager
def one_line_errors():
    """End the program with one line on stderr when a user's mistake, a full disk or a signal comes up.

    Mistakes are ValueError, OSError, the FloatingPointError of a run that diverges, and a lack of memory.
    """
    with ExitStack() as stack:
        stack.enter_context(_streams_that_last())
        stack.enter_context(_no_more_memory_than_there_is())
        stack.enter_context(_handlers(lambda number, frame: _raise(Stopped(number))))
        try:
            yield
            sys.stdout.flush()
        except Stopped as stopped:
            _end(
                str(stopped) if os.environ.get("RANK", "0") == "0" else "", stopped.status
            )  # one of several speaks for all
        except KeyboardInterrupt:
            _end("stopped by Ctrl-C", 130)
        except (ValueError, OSError, FloatingPointError, MemoryError, RuntimeError) as error:
            if os.environ.get("MINGPT_TRACEBACK") or isinstance(error, RuntimeError) and not _wants_memory(error):
                raise
            _end(f"error: {describe(error)}", 2)


def describe(error: Exception) -> str:
    """An error as one line of printable characters, of a length that a terminal shows."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        hint = (
            "; free some space, or write somewhere else"
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            else ""
        )
        text = f"{os.fspath(error.filename)}: {error.strerror}{hint}"
    elif isinstance(error, (MemoryError, RuntimeError)):
        reason = str(error).splitlines()[0] if str(error) else "the system gave no more"
        text = f"not enough memory ({reason}); take smaller sizes"
    else:
        text = str(error)
    return printable(text)


def printable(text: str) -> str:
    """`text` in one line: control characters as Python writes them, and the middle left out where it is very long."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    if len(text) > LONGEST_MESSAGE:
        half = LONGEST_MESSAGE // 2
        text = f"{text[:half]} [{len(text) - 2 * half:,} characters left out] {text[-half:]}"
    return text


def _wants_memory(error: RuntimeError) -> bool:
    """Whether torch could not have the memory that it asked for. On a CPU it says so in a plain RuntimeError."""
    said = str(error)
    return (
        type(error).__name__ == "OutOfMemoryError"
        or "not enough memory" in said
        or "can't allocate memory" in said
        or "Storage size calculation overflowed" in said
    )


@contextmanager
def _no_more_memory_than_there_is():
    """While the body runs, have allocations fail that the machine's free memory cannot hold, so that they end in one
    line.

    Linux grants them all the same, and kills the process, or another, once the memory is used. Elsewhere nothing
    changes.
    """
    try:
        before = resource.getrlimit(resource.RLIMIT_DATA)
        used = _kibibytes("/proc/self/status", "VmData")
        free = _kibibytes("/proc/meminfo", "MemAvailable") + _kibibytes("/proc/meminfo", "SwapFree")
        container = Path("/sys/fs/cgroup/memory.max")
        if container.is_file() and (most := container.read_text().strip()).isdigit():
            free = min(free, int(most))
    except (OSError, AttributeError, KeyError):
        before = None
    # Drivers of GPUs map far more of the address space than they use.
    if before is None or any(os.path.exists(driver) for driver in ("/dev/nvidiactl", "/dev/kfd")):
        yield
        return
    limits = [limit for limit in (used + free, *before) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _kibibytes(path: str, name: str) -> int:
    """The bytes in a line such as `MemAvailable:  1234 kB` of one of Linux's tables."""
    with open(path) as file:
        return 1024 * int(dict(line.split(":", 1) for line in file if ":" in line)[name].split()[0])


def _end(line: str, status: int):
    if line:
        print(line, file=sys.stderr)
    sys.exit(status)


def _raise(error: BaseException):
    raise error


# ----------------------------------------------------------------------------------------------------------------------
# Signals


@contextmanager
def _handlers(handler):
    """Handle SIGINT and SIGTERM by `handler`. Only a program's main thread can; elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, handler)
        for number in SIGNALS
        if signal.getsignal(number) not in (None, signal.SIG_IGN)
    }  # None: set by what is not Python
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


class StopRequest:
    """Whether the program has been asked to stop, for loops that end between two steps.

        with StopRequest() as stop:
            for step in range(n):
                ...
                if stop.signal:
                    save()
                    raise Stopped(stop.signal, "step 10 is kept in out/run; --resume goes on from there")

    A signal that the loop has not acted upon raises Stopped at the end of the context. One that comes again, a second
    later or more, stops at once, whatever is lost by that.
    """

    AGAIN = 1.0  # seconds: a terminal gives Ctrl-C to every process, and torchrun then passes it on to the same ones

    def __init__(self):
        self.signal = 0  # the number of the signal that came

    def __enter__(self):
        self._stack = ExitStack()
        self._stack.enter_context(_handlers(self._note))
        return self

    def __exit__(self, kind, error, traceback):
        self._stack.close()
        if self.signal and kind is None:  # it came before the loop, or after it had looked for the last time
            raise Stopped(self.signal)

    def _note(self, number, frame):
        if not self.signal:
            self.signal, self._since = int(number), time.monotonic()
        elif time.monotonic() - self._since >= self.AGAIN:
            raise Stopped(number, "at once, as it was asked to twice")


# ----------------------------------------------------------------------------------------------------------------------
# Streams


@contextmanager
def _streams_that_last():
    """Have stdout and stderr take whatever is printed, closed, missing, or at the end of a broken pipe."""
    before = sys.stdout, sys.stderr
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:  # pythonw, or a shell's >&-
            _occupy(number)
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="replace")  # a console without "⁇" shows a question mark
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Lasting, streams)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _Lasting):
                stream.flush()
        sys.stdout, sys.stderr = (old if old is not None else new for old, new in zip(before, streams))


def _occupy(number: int) -> None:
    """Open the file descriptor `number` if it is closed.

    Otherwise the next file that we open would get it, and C code's messages with it.
    """
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        if null != number:
            os.dup2(null, number)
            os.close(null)


class _Lasting:
    """A text stream that goes on as a bin once its reader has left: the run behind `| head -1` is still wanted."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._discard()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._discard()

    def _discard(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)

    def __getattr__(self, name):
        return getattr(self._stream, name)
