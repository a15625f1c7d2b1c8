"""Loading GPT-2's weights from a safetensors file: time, and memory beyond what the imports take, ours and
transformers'.

Each loading is one of a process that has done nothing else, and reads the whole of the weights afterwards, since a file
that is mapped into memory is read only where it is looked at.
"""

import tempfile
import time
from collections.abc import Iterator
from statistics import median

import torch

from mingpt.model import GPT, GPTConfig
from projects.benchmark.harness import Table, in_fresh_process, peak_memory, timings_of

OURS, THEIRS = "ours", "transformers"


def load_ours(folder: str) -> tuple[float, int]:
    """Seconds until the weights are there, and until they have been read; bytes at the peak beyond those before."""
    import mingpt.pretrained.gpt2  # noqa: F401  (counted as an import, not as loading)

    return timed(GPT.from_pretrained, folder)


def load_theirs(folder: str) -> tuple[float, int] | None:
    """The same for transformers; None where it is not installed."""
    try:
        from transformers import GPT2LMHeadModel
    except ImportError:
        return None
    return timed(GPT2LMHeadModel.from_pretrained, folder)


@torch.no_grad()
def timed(load, folder: str) -> tuple[float, int]:
    """Seconds of `load(folder)` and of reading all weights once, and bytes at the peak beyond those before."""
    before, started = peak_memory(), time.perf_counter()
    for weight in load(folder).parameters():
        weight.sum()
    return time.perf_counter() - started, peak_memory() - before


def measure(quick: bool = False, repeats: int = 5) -> Iterator[Table]:
    """One table."""
    model = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=32, vocab_size=256) if quick else GPTConfig())
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        del model
        seconds, peaks = {OURS: [], THEIRS: []}, {OURS: [], THEIRS: []}
        for _ in range(1 if quick else repeats):
            for name, load in ((OURS, load_ours), (THEIRS, load_theirs)):
                if (result := in_fresh_process(load, folder)) is not None:
                    seconds[name].append(result[0])
                    peaks[name].append(result[1] / size)
    facts = {
        f"peak memory over the size of the weights, {name}": median(values) for name, values in peaks.items() if values
    }
    yield Table(
        f"Loading {size / 1e6:.0f} MB of weights and reading them once",
        timings_of(seconds),
        OURS,
        facts=facts,
        goals={THEIRS: 1},
    )
