"""A training step of ours beside minGPT's way and nanoGPT's way.

    minGPT's way    float32, explicit attention, AdamW one parameter after the other
    nanoGPT's way   float32, scaled_dot_product_attention, fused AdamW

Each step is forward, backward, clipping to norm 1, and the update, on one batch of random tokens. Each variant runs
under
its own memory management, and takes an untimed step after each change of it: ours keeps freed memory for the next step
(`mingpt.fast.memory.keep_freed_memory`), the peers run as they come.

"Share of the limit" is the operations of the step's matrix products in the time of the step, over those of a product of
two 2,048 x 2,048 matrices of the same format in the time that it takes in the same round.
"""

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from mingpt import fast
from mingpt.fast.memory import keep_freed_memory
from mingpt.model import GPT, GPTConfig
from mingpt.support.devices import has_fast_bfloat16
from projects.benchmark.harness import Table, compare, in_fresh_process, peak_memory, usual_memory
from projects.benchmark.peers import NanoGPT, PlainGPT
from projects.benchmark.steps import our_step, plain_step

SHAPES = {  # title -> config, sequences in a batch, goals against minGPT's and nanoGPT's ways
    "4 layers, 8 heads, 256 wide": (
        dict(n_layer=4, n_head=8, n_embd=256, vocab_size=256, block_size=128),
        64,
        (3.0, 2.2),
    ),
    "6 layers, 6 heads, 384 wide": (
        dict(n_layer=6, n_head=6, n_embd=384, vocab_size=256, block_size=256),
        16,
        (2.5, 1.8),
    ),
    "GPT-2": (dict(block_size=512), 4, (2.5, 1.8)),
}
QUICK = {"2 layers, 2 heads, 32 wide": (dict(n_layer=2, n_head=2, n_embd=32, vocab_size=256, block_size=32), 8, (0, 0))}
MINGPT, NANOGPT, FLOAT32, BFLOAT16 = (
    "minGPT's way, float32",
    "nanoGPT's way, float32",
    "ours, float32",
    "ours, bfloat16",
)
PRODUCTS = {FLOAT32: "(a product of matrices, float32)", BFLOAT16: "(a product of matrices, bfloat16)"}


def make_step(way: str, config: GPTConfig, batch_size: int, compiled: bool = False) -> Callable[[], object]:
    """A function that takes one training step in the way of that name."""
    torch.manual_seed(0)
    x, y = torch.randint(0, config.vocab_size, (2, batch_size, config.block_size))
    if way == MINGPT:
        model = PlainGPT(config)
        return plain_step(model, torch.optim.AdamW(model.parameters(), foreach=False), x, y)
    if way == NANOGPT:
        model = NanoGPT(config)
        return plain_step(model, torch.optim.AdamW(model.parameters(), fused=True), x, y)
    return our_step(GPT(config), "float32" if way == FLOAT32 else "bfloat16", x, y, compiled)


def peak_of_step(way: str, config: GPTConfig, batch_size: int) -> int:
    """Bytes that three steps take at their peak, beyond what Python and torch hold before."""
    before = peak_memory()
    step = make_step(way, config, batch_size)
    for _ in range(3):
        step()
    return peak_memory() - before


def count_flops(config: GPTConfig, batch_size: int) -> int:
    """Operations of a step's matrix products, two for each multiplication.

    Masked scores count, as they are computed.
    """
    with fast.plain(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        idx = torch.zeros(batch_size, config.block_size, dtype=torch.long)
        GPT(config)(idx, idx)[1].backward()
    return counter.get_total_flops()


def settle(step: Callable[[], object], memory: Callable[[], object]) -> None:
    """Turn to a way's memory management, and take a step that is not timed."""
    memory()
    step()


def measure(quick: bool = False, repeats: int = 7, compiled: bool = False) -> Iterator[Table]:
    """One table for each shape. `compiled` adds ours under torch.compile, which needs a C++ compiler."""
    fast = has_fast_bfloat16(torch.device("cpu"))
    size = 128 if quick else 2048
    matrices = {FLOAT32: torch.randn(size, size), **({BFLOAT16: torch.randn(size, size).bfloat16()} if fast else {})}
    products = {PRODUCTS[way]: lambda matrix=matrix: matrix @ matrix for way, matrix in matrices.items()}
    for title, (shape, batch_size, goals) in (QUICK if quick else SHAPES).items():
        config = GPTConfig(**shape)
        ways = [MINGPT, NANOGPT, FLOAT32, *([BFLOAT16] if fast else [])]
        steps = {way: make_step(way, config, batch_size) for way in ways}
        if compiled and fast:
            steps["ours, bfloat16, compiled"] = make_step(BFLOAT16, config, batch_size, compiled=True)
        before = {
            way: partial(settle, step, usual_memory if way in (MINGPT, NANOGPT) else keep_freed_memory)
            for way, step in steps.items()
        }
        ours = BFLOAT16 if fast else FLOAT32
        timings = compare(
            {**steps, **products}, repeats=repeats if config.n_layer < 12 else min(repeats, 3), before=before
        )
        facts, flops = {}, count_flops(config, batch_size)
        facts["float32: times minGPT's way (goal 1.25)"] = median(
            a / b for a, b in zip(timings[MINGPT].seconds, timings[FLOAT32].seconds)
        )
        for way in matrices:
            product, name = timings.pop(PRODUCTS[way]), way.removeprefix("ours, ")
            facts[f"limit, {name} products, GFLOP/s"] = 2e-9 * size**3 / product.median
            goal = " (goal 0.55)" if title == "GPT-2" and way == BFLOAT16 else ""
            facts[f"share of the limit, {name}{goal}"] = median(
                flops / step / (2 * size**3 / one) for step, one in zip(timings[way].seconds, product.seconds)
            )
        del steps, before
        if not quick:
            for way in (NANOGPT, ours):
                facts[f"peak memory, {way}, GB"] = in_fresh_process(peak_of_step, way, config, batch_size) / 1e9
        tokens = batch_size * config.block_size
        yield Table(
            f"Training step: {title}, {batch_size} sequences of {config.block_size}",
            timings,
            ours,
            tokens,
            "tokens",
            dict(zip((MINGPT, NANOGPT), goals)) if not quick else {},
            facts,
        )
