"""Several processes that do one piece of work: which of them this is, and what they owe each other.

torchrun starts them and tells each by its environment which one it is. Without torchrun there is one.
"""

import os
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from mingpt.support.devices import pick_device

# How long one may wait for another. That is for a first process which prepares a large text: one that fails closes its
# connections, which the others notice at once.
PATIENCE = timedelta(hours=12)


def process_rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", 0))


def process_count() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first_process() -> bool:
    """Whether this is the only process, or the first of several: the one that writes and speaks."""
    return process_rank() == 0


def join_processes(device_name: str = "auto") -> torch.device:
    """Connect this process to the others, if there are any, unless it is already. Returns its device.

    Where there are CUDA GPUs and none is named, each process of a machine has one of its own; without them, processes
    share
    the CPU: no other device can exchange gradients.
    """
    if process_count() == 1:
        return pick_device(device_name)
    if torch.cuda.is_available() and device_name in ("auto", "cuda"):
        device = pick_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(device)
    else:
        device = pick_device("cpu" if device_name == "auto" else device_name)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return device


@contextmanager
def first_process_first(device_name: str = "auto"):
    """The body runs in the first process, and only then in the others, which find the files that it made.

    If it fails in the first process, it runs in no other: they end too.
    """
    join_processes(device_name)
    with lost_processes_named():
        if not is_first_process():
            dist.barrier()
        yield
        if is_first_process() and process_count() > 1:
            dist.barrier()


@contextmanager
def lost_processes_named():
    """Turn the broken connection that a process leaves to the others when it fails into an error of one line."""
    try:
        yield
    except RuntimeError as error:
        if process_count() == 1 or not ("gloo" in str(error) or isinstance(error, dist.DistBackendError)):
            raise
        raise ConnectionError(
            f"process {process_rank()} of {process_count()} stops because another one has ended; if that "
            "one left no message of its own, it was killed, perhaps because memory ran out"
        ) from None
