"""Greedy generation: ours with the cache, ours without it, and transformers' `generate` with its own.

Weights are random, the same for both, and float32; how many sequences come out the same is counted (rounding may break
a tie). Without a cache every new token costs
a pass over all tokens so far: with more than a small model that takes minutes, so passes are timed at five lengths and
summed over all lengths by the trapezoidal rule.

With one sequence, a token costs at least one reading of all weights from memory, which is timed too: every weight is
summed up.
"""

import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from statistics import median

import torch

from mingpt.fast.memory import keep_freed_memory
from mingpt.model import GPT, GPTConfig
from projects.benchmark.harness import Table, timings_of

SMALL = dict(n_layer=6, n_head=6, n_embd=384, vocab_size=256)
SHAPES = [  # title, config, sequences, new tokens, rounds at most
    ("6 layers, 6 heads, 384 wide", SMALL, 1, 512, 5),
    ("6 layers, 6 heads, 384 wide", SMALL, 16, 512, 3),
    ("GPT-2", {}, 1, 512, 3),
    ("GPT-2", {}, 16, 64, 3),
]
QUICK = [("2 layers, 2 heads, 32 wide", dict(n_layer=2, n_head=2, n_embd=32, vocab_size=256), 2, 16, 1)]
PROMPT = 16  # tokens
OURS, UNCACHED, THEIRS = "ours", "ours, without the cache", "transformers"


@torch.no_grad()
def uncached_seconds(model: GPT, batch_size: int, new_tokens: int) -> float:
    """Seconds that passes over PROMPT, PROMPT + 1, ... tokens take, as many as new tokens: from five, by trapezoids."""
    lengths = [PROMPT + round(share * (new_tokens - 1)) for share in (0, 0.25, 0.5, 0.75, 1)]
    seconds = []
    for length in lengths:
        idx = torch.randint(0, model.config.vocab_size, (batch_size, length))
        started = time.perf_counter()
        model(idx)
        seconds.append(time.perf_counter() - started)
    return sum((b - a) * (x + y) / 2 for (a, b), (x, y) in zip(pairwise(lengths), pairwise(seconds))) + seconds[0]


def transformers_model(model: GPT):
    """The same model in transformers; None where that is not installed."""
    try:
        import transformers
    except ImportError:
        return None
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        theirs = transformers.GPT2LMHeadModel.from_pretrained(folder)
        # Read now, and not from files that are gone: the weights may be mapped into memory.
        theirs.load_state_dict({name: value.clone() for name, value in theirs.state_dict().items()}, assign=True)
    theirs.tie_weights()
    return theirs.eval()


@torch.no_grad()
def measure(quick: bool = False, repeats: int = 5) -> Iterator[Table]:
    """One table for each shape and number of sequences."""
    keep_freed_memory()
    for title, shape, batch_size, new_tokens, most in QUICK if quick else SHAPES:
        torch.manual_seed(0)
        model = GPT(GPTConfig(**shape)).eval()
        theirs = transformers_model(model)
        idx = torch.randint(0, model.config.vocab_size, (batch_size, PROMPT))

        def generate_theirs(count: int):
            return theirs.generate(
                idx, max_new_tokens=count, min_new_tokens=count, do_sample=False, use_cache=True, pad_token_id=0
            )

        same, seconds, reading = "", {OURS: [], UNCACHED: [], THEIRS: []}, []
        model.generate(idx, 4)
        if theirs is not None:
            generate_theirs(4)
        for _ in range(min(repeats, most)):
            started = time.perf_counter()
            tokens = model.generate(idx, new_tokens)
            seconds[OURS].append(time.perf_counter() - started)
            if theirs is not None:
                started = time.perf_counter()
                other = generate_theirs(new_tokens)
                seconds[THEIRS].append(time.perf_counter() - started)
                same = f"{(tokens == other).all(dim=1).sum().item()} of {batch_size}"
            seconds[UNCACHED].append(uncached_seconds(model, batch_size, new_tokens))
            started = time.perf_counter()
            for weight in model.parameters():
                weight.sum()
            reading.append(time.perf_counter() - started)
        facts = (
            {
                "share of the time that reading the weights takes": median(
                    new_tokens * once / whole for once, whole in zip(reading, seconds[OURS])
                )
            }
            if batch_size == 1
            else {}
        )
        if same:
            facts["sequences with the same tokens as transformers"] = same
        goals = {UNCACHED: 10, THEIRS: 1.5} if batch_size == 1 and not quick else {THEIRS: 1.5} if not quick else {}
        yield Table(
            f"Generation: {title}, {batch_size} x {new_tokens} tokens",
            timings_of(seconds),
            OURS,
            batch_size * new_tokens,
            "tokens",
            goals,
            facts,
        )
