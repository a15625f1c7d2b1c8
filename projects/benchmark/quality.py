"""Does training in bfloat16 cost anything? The same 1,000 steps in float32 and in bfloat16, from the same start, on
the same batches.

A character model of 4 layers, 8 heads and width 256 reads the docstrings of Python's standard library, 8 windows of 128
characters a step; each seed is another start and another order. The loss on text held out is measured in float32 for
both.
"""

import time
from collections.abc import Iterator
from statistics import mean, stdev

import torch
from torch import Tensor

from mingpt.char import CharTokenizer
from mingpt.model import GPT, GPTConfig
from mingpt.optim import OptimConfig
from mingpt.trainer import Trainer, TrainerConfig
from projects.benchmark.harness import Table, timings_of
from projects.benchmark.tokenizer import docstrings, library_files

SHAPE = dict(n_layer=4, n_head=8, n_embd=256, block_size=128)
DTYPES = ("float32", "bfloat16")


class Windows:
    """A dataset of consecutive windows of one sequence of tokens (N,)."""

    def __init__(self, ids: Tensor, block_size: int):
        self.ids, self.block_size = ids, block_size

    def __len__(self) -> int:
        return (len(self.ids) - 1) // self.block_size

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        window = self.ids[i * self.block_size : (i + 1) * self.block_size + 1]
        return window[:-1], window[1:]


def held_out_loss(dtype: str, seed: int, ids: Tensor, shape: dict, steps: int) -> tuple[float, float]:
    """Train in `dtype`. Returns the loss on the last twentieth of the text, nats a character, and the seconds."""
    border = len(ids) * 19 // 20
    torch.manual_seed(seed)
    model = GPT(GPTConfig(vocab_size=int(ids.max()) + 1, **shape))
    config = TrainerConfig(max_iters=steps, batch_size=8, dtype=dtype, device="cpu", seed=seed)
    trainer = Trainer(
        config,
        OptimConfig(learning_rate=1e-3, schedule="cosine", warmup_iters=steps // 20),
        model,
        Windows(ids[:border], shape["block_size"]),
    )
    started = time.perf_counter()
    trainer.run()
    seconds = time.perf_counter() - started
    held_out = Windows(ids[border:], shape["block_size"])
    losses = []
    with torch.no_grad():
        for start in range(0, len(held_out) // 16 * 16, 16):
            x, y = (torch.stack(part) for part in zip(*(held_out[i] for i in range(start, start + 16))))
            losses.append(model.eval()(x, y)[1].item())
    return mean(losses), seconds


def measure(quick: bool = False, repeats: int = 3) -> Iterator[Table]:
    """One table; a round is a seed."""
    text = docstrings(library_files(), 60_000 if quick else 1_500_000)
    ids = torch.tensor(CharTokenizer.from_text(text).encode(text))
    shape, steps = ({**SHAPE, "n_layer": 1, "n_embd": 32}, 5) if quick else (SHAPE, 1000)
    losses, seconds = {dtype: [] for dtype in DTYPES}, {dtype: [] for dtype in DTYPES}
    for seed in range(1 if quick else repeats):
        for dtype in DTYPES:
            loss, took = held_out_loss(dtype, seed, ids, shape, steps)
            losses[dtype].append(loss)
            seconds[dtype].append(took)
    facts = {
        f"loss on text held out, {dtype}, by seed": ", ".join(f"{loss:.4f}" for loss in values)
        for dtype, values in losses.items()
    }
    gaps = [b - a for a, b in zip(losses["float32"], losses["bfloat16"])]
    facts["bfloat16 minus float32, mean over the seeds"] = mean(gaps)
    if len(gaps) > 1:
        facts["standard deviation between seeds, float32"] = stdev(losses["float32"])
        facts["standard deviation of the difference"] = stdev(gaps)
    yield Table(
        f"Quality: {steps:,} steps on {len(ids):,} characters",
        timings_of(seconds),
        work=steps,
        unit="steps",
        facts=facts,
    )
