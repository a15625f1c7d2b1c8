"""Devices, number formats, seeds, and the options of progress bars."""

import operator
import random
import sys

import numpy as np
import torch

from mingpt.support.files import short

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def set_seed(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators. ValueError unless `seed` is a whole number of 64 bits."""
    if not hasattr(seed, "__index__") or not -(2**63) <= (number := operator.index(seed)) < 2**64:
        raise ValueError(f"seed is {short(seed)}; it must be a whole number from -2**63 to 2**64 - 1")
    seed = number
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" takes a GPU where there is one.

    ValueError if it is not there, or cannot compute.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" fails here: its tensors have a shape and no numbers
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise ValueError(f"device {short(name)} cannot be used here ({reason}); try --device cpu") from None
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


def progress_options() -> dict:
    """Options for tqdm: often on a terminal, every 15 seconds in a log file."""
    return dict(mininterval=0.5 if sys.stderr and sys.stderr.isatty() else 15.0, dynamic_ncols=True)
