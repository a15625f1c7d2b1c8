"""What `mingpt/fast` saves: the same work with it and without it, by its one switch."""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from mingpt import fast
from mingpt.bpe import BPETokenizer, count_words, learn_merges
from mingpt.conv_attention import ConvAttentionConfig, ConvAttentionNet
from mingpt.model import GPT, GPTConfig
from projects.benchmark.harness import Table, compare
from projects.benchmark.steps import our_step
from projects.benchmark.tokenizer import mixed_text

FAST, PLAIN = "fast", "plain"


def plainly(work: Callable[[], object]) -> Callable[[], object]:
    """`work` on the plain path."""

    def run():
        with fast.plain():
            return work()

    return run


def both(work: Callable[[], object]) -> dict[str, Callable[[], object]]:
    """The same work in the two ways."""
    return {FAST: work, PLAIN: plainly(work)}


def measure(quick: bool = False, repeats: int = 5) -> Iterator[Table]:
    """Training steps of two models, generation, and a tokenizer's encoding and training."""
    torch.manual_seed(0)
    shape, B, T, V, C = (
        (dict(n_layer=4, n_head=8, n_embd=256), 32, 128, 8192, 256)
        if not quick
        else (dict(n_layer=1, n_head=2, n_embd=32), 4, 16, 256, 32)
    )
    x, y = torch.randint(0, 256, (2, B, T))
    step = our_step(GPT(GPTConfig(vocab_size=256, block_size=T, **shape)), "float32", x, y)
    yield Table(
        f"Fast and plain: a training step of a GPT, {C} wide, {B} x {T} tokens, float32",
        compare(both(step), repeats=repeats),
        FAST,
    )

    x, y = torch.randint(0, V, (2, B // 4, T))
    step = our_step(ConvAttentionNet(ConvAttentionConfig(V, T, C)), "float32", x, y)
    yield Table(
        f"Fast and plain: a training step of the conv-attention net, {C} wide, vocabulary {V:,}, float32",
        compare(both(step), repeats=repeats),
        FAST,
    )

    model, prompt = GPT(GPTConfig(vocab_size=256, block_size=256, **shape)).eval(), torch.randint(0, 256, (1, 16))
    yield Table(
        "Fast and plain: generation, 1 x 128 tokens, float32",
        compare(both(partial(model.generate, prompt, 128 if not quick else 8)), repeats=repeats),
        FAST,
    )

    text, _ = mixed_text(20_000 if quick else 300_000)
    learned = BPETokenizer.train(text, 300 if quick else 4096, progress=False)
    new_text = both(lambda: BPETokenizer(learned.tokens, learned.merges).encode_ordinary(text))
    yield Table(
        "Fast and plain: BPE, encoding a new text",
        compare(new_text, repeats=repeats, warmup=0),
        FAST,
        work=len(text.encode()) / 1e6,
        unit="MB",
    )
    counts, merges = count_words([text]), 20 if quick else 100
    yield Table(
        f"Fast and plain: BPE, learning {merges} merges",
        compare(both(lambda: learn_merges(counts, merges)), repeats=repeats, warmup=0),
        FAST,
    )
