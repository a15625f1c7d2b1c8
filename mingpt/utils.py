"""Small things that several files need: devices and number formats, seeds, files that are never half-written."""

import ctypes
import json
import os
import platform
import random
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def set_seed(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" takes a GPU where there is one. ValueError if it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason}); try --device cpu") from None
    return device


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware, rather than by way of float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return False


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format for matrix products; "auto" is bfloat16 where the hardware multiplies it, else float32."""
    if name == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    if name not in DTYPES:
        raise ValueError(f"dtype is {name!r}; it must be one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def keep_freed_memory() -> bool:
    """Tell Linux's C library to keep freed memory for the next allocation. Returns whether it could be told.

    By default each freed block of 32 MB or more goes back to the kernel, which hands it out again at the next step,
    page by page and zeroed: for a large float32 activation that takes several times as long as computing it.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1  # names and values from malloc.h
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


@contextmanager
def atomic_path(path: str | os.PathLike):
    """A temporary name beside `path` to write to; renamed to `path` at the end, removed if the body raises.

    Whoever reads `path` sees the old file or the new one, complete, whenever the process is killed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` as UTF-8 with Unix line ends, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | os.PathLike, value) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_text(path: str | os.PathLike) -> str:
    """The text of a UTF-8 file, with or without a byte order mark, with any line ends. ValueError if it has none."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ValueError(f"{path}: is a folder, not a file") from None
    except UnicodeDecodeError as error:
        line = Path(path).read_bytes()[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}:{line}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from None


def save_torch(path: str | os.PathLike, value) -> None:
    """torch.save, atomically."""
    with atomic_path(path) as temporary:
        torch.save(value, temporary)


def load_torch(path: str | os.PathLike):
    """What `save_torch` wrote, on the CPU. Loads tensors and plain values only, never code."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types for a damaged or malicious file
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a file of parameters that can be loaded safely ({reason})") from None


def with_spread(values: list[float], digits: int = 1, sign: str = "") -> str:
    """The mean and, where there are several values, their sample standard deviation: "93.3 ± 3.8"; `sign="+"` shows the mean's."""
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):{sign}.{digits}f}{spread}"


def progress_options() -> dict:
    """Options for tqdm: often on a terminal, every 15 seconds in a log file."""
    return dict(mininterval=0.5 if sys.stderr.isatty() else 15.0, dynamic_ncols=True)


@contextmanager
def one_line_errors():
    """End the program with one line on stderr, and status 2, when a user's mistake comes up.

    Mistakes are ValueError, OSError, and the FloatingPointError of a run that diverges. With MINGPT_TRACEBACK=1 in the
    environment the traceback is shown instead.
    """
    sys.stdout.reconfigure(errors="replace")  # a console without "⁇" shows a question mark
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("MINGPT_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
