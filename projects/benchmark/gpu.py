"""Training GPT-2 on a CUDA GPU: a step of ours beside nanoGPT's way, both in bfloat16 with fused attention and fused
AdamW.

nanoGPT's way here is autocast, `scaled_dot_product_attention`, fused AdamW, TF32 products where something is left in
float32; with `compiled`, both under torch.compile.
"""

from collections.abc import Iterator

import torch
from torch import nn

from mingpt.model import GPT, GPTConfig
from mingpt.optim import OptimConfig
from mingpt.trainer import Trainer, TrainerConfig
from projects.benchmark.harness import Table, compare
from projects.benchmark.peers import NanoGPT
from projects.benchmark.steps import OneBatch

OURS, NANOGPT = "ours, bfloat16", "nanoGPT's way, bfloat16"


def measure(quick: bool = False, repeats: int = 7, compiled: bool = False) -> Iterator[Table]:
    """One table, of ten steps a round; ValueError where there is no CUDA GPU."""
    if not torch.cuda.is_available():
        raise ValueError("there is no CUDA GPU here; topic gpu needs one")
    torch.set_float32_matmul_precision("high")
    config, B = (
        (GPTConfig(n_layer=2, n_head=2, n_embd=64, vocab_size=256, block_size=64), 4)
        if quick
        else (GPTConfig(vocab_size=50304), 12)
    )  # a multiple of 64: products of even tiles
    x, y = torch.randint(0, config.vocab_size, (2, B, config.block_size))

    trainer = Trainer(
        TrainerConfig(max_iters=100_000, batch_size=B, dtype="bfloat16", device="cuda", compile=compiled),
        OptimConfig(),
        GPT(config),
        OneBatch(x, y),
    )
    plain = NanoGPT(config).cuda()
    model = torch.compile(plain) if compiled else plain
    optimizer = torch.optim.AdamW(plain.parameters(), fused=True)
    x, y = x.cuda(), y.cuda()

    def their_step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            _, loss = model(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()

    def ten(step):
        return lambda: [step() for _ in range(10)]

    timings = compare(
        {NANOGPT: ten(their_step), OURS: ten(trainer.step)}, repeats=repeats, synchronize=torch.cuda.synchronize
    )
    yield Table(
        f"Training step on {torch.cuda.get_device_name()}: GPT-2, {B} sequences of {config.block_size}"
        + (", compiled" if compiled else ""),
        timings,
        OURS,
        10 * B * config.block_size,
        "tokens",
        {NANOGPT: 1.0},
    )
