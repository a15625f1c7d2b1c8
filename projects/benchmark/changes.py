"""What single changes are worth: the same work as in the other tables, with one of them taken back.

A table says how many times as long the work takes without the change; 1 is no effect. Some are choices that could have
gone the other
way, such as a kernel: "with ..." is what was tried instead.
"""

import copy
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

import mingpt.bpe
import mingpt.conv_attention
import mingpt.fast.bpe_encode
import mingpt.model
import mingpt.pretrained.gpt2
from mingpt.bpe import BPETokenizer
from mingpt.conv_attention import CausalConv, ConvAttentionConfig, ConvAttentionNet
from mingpt.fast.attention import fused_attention
from mingpt.fast.memory import keep_freed_memory
from mingpt.generate import KVCache
from mingpt.interpret.circuits import common_subspace
from mingpt.interpret.edits import exchange
from mingpt.interpret.weights import head_views, head_weights
from mingpt.model import GPT, GPTConfig
from mingpt.pretrained.gpt2 import SafeTensors
from mingpt.support.devices import has_fast_bfloat16
from projects.benchmark.harness import Table, compare, usual_memory
from projects.benchmark.mechanism import PERIOD, direct_subspace, published
from projects.benchmark.startup import python
from projects.benchmark.steps import our_step
from projects.benchmark.tokenizer import mixed_text
from projects.benchmark.training import settle
from projects.gpt2_heads.mechanism.circuits import pick
from projects.gpt2_heads.mechanism.copying import CopyTest, repeated_segments
from projects.gpt2_heads.mechanism.edits import PARTS
from projects.ngram_superposition.distributions import geometric_law
from projects.ngram_superposition.losses import Batch, Objective
from projects.ngram_superposition.training import TrainingConfig, train
from projects.ngram_superposition.transformer import TransformerConfig, Transformers

KEPT = "as it is"


def replaced(function: Callable[[], object], *changes: tuple) -> Callable[[], object]:
    """`function`, to be called while each (object, name of an attribute, other value) is in place."""

    def run():
        with ExitStack() as stack:
            for change in changes:
                stack.enter_context(patch.object(*change))
            return function()

    return run


def plain_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """PyTorch's, on a float32 copy of all logits."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-1)


def named(shape: dict) -> str:
    """The shape of a model in words."""
    return "{n_layer} layers, {n_head} heads, {n_embd} wide".format(**shape)


def compare_steps(steps: dict[str, Callable], memory: dict[str, Callable], repeats: int) -> dict:
    """`compare`, each training step under its own memory management and after one that is not timed."""
    before = {name: partial(settle, step, memory.get(name, keep_freed_memory)) for name, step in steps.items()}
    return compare(steps, repeats=repeats, before=before)


def training(quick: bool, repeats: int) -> Iterator[Table]:
    """A step of GPT, and one of the conv-attention net with its large vocabulary."""
    dtype = "bfloat16" if has_fast_bfloat16(torch.device("cpu")) else "float32"
    shape, B, T = (
        (dict(n_layer=4, n_head=8, n_embd=256), 64, 128) if not quick else (dict(n_layer=1, n_head=2, n_embd=32), 4, 16)
    )
    torch.manual_seed(0)
    x, y = torch.randint(0, 256, (2, B, T))

    def step(dtype: str = dtype, **config) -> Callable[[], int]:
        return our_step(GPT(GPTConfig(vocab_size=256, block_size=T, **shape, **config)), dtype, x, y)

    tanh_form = mingpt.model, "gelu", lambda x: F.gelu(x, approximate="tanh")
    steps = {
        KEPT: step(),
        "float32": step("float32"),
        "with PyTorch's fused attention": replaced(step(), (mingpt.model, "fast_attention", fused_attention)),
        "with separate kernels for scale and mask": replaced(
            step(), (mingpt.model, "fast_attention", mingpt.model.attention)
        ),
        "GELU by tanh": replaced(step(), tanh_form),
        "freed memory given back": step(),
    }
    yield Table(
        f"Changes: training step, {named(shape)}, {dtype}",
        compare_steps(steps, {"freed memory given back": usual_memory}, repeats),
        KEPT,
    )

    V, C, B, T = (8192, 384, 16, 256) if not quick else (256, 32, 4, 32)
    x, y = torch.randint(0, V, (2, B, T))

    def net_step(dtype: str = dtype) -> Callable[[], int]:
        return our_step(ConvAttentionNet(ConvAttentionConfig(V, T, C)), dtype, x, y)

    def convolve(self: CausalConv, x: Tensor, mask: Tensor) -> Tensor:
        tap_mask = torch.tensor([1.0, 1.0, 0.0])
        return F.conv1d(x.transpose(1, 2), self.weight * tap_mask, self.bias, padding=1).transpose(1, 2)

    def fuse(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)

    net = ConvAttentionNet(ConvAttentionConfig(V, T, C))
    for change in (
        (mingpt.conv_attention, "cross_entropy", plain_cross_entropy),
        (CausalConv, "forward", convolve),
        (mingpt.conv_attention.Attention, "forward", fuse),
    ):
        torch.testing.assert_close(replaced(lambda: net(x, y)[1], change)(), net(x, y)[1])
    steps = {
        KEPT: net_step(),
        "float32": net_step("float32"),
        "PyTorch's cross-entropy": replaced(net_step(), (mingpt.conv_attention, "cross_entropy", plain_cross_entropy)),
        "Conv1d": replaced(net_step(), (CausalConv, "forward", convolve)),
        "with PyTorch's fused attention": replaced(net_step(), (mingpt.conv_attention.Attention, "forward", fuse)),
        "freed memory given back": net_step(),
    }
    yield Table(
        f"Changes: conv-attention net, {C} wide, vocabulary {V:,}, {dtype}",
        compare_steps(steps, {"freed memory given back": usual_memory}, repeats),
        KEPT,
    )


@torch.no_grad()
def generation(quick: bool, repeats: int) -> Iterator[Table]:
    """One sequence, greedy, float32."""
    shape, tokens = (
        (dict(n_layer=6, n_head=6, n_embd=384), 256) if not quick else (dict(n_layer=1, n_head=2, n_embd=32), 8)
    )
    model = GPT(GPTConfig(vocab_size=256, block_size=512, **shape)).eval()
    idx = torch.randint(0, 256, (1, 16))

    def generate() -> Tensor:
        return model.generate(idx, tokens)

    def always_a_mask(self, T: int) -> Tensor:
        return torch.full((T, self.longest + T), -math.inf).triu(self.longest + 1)

    variants = {
        KEPT: generate,
        "a mask also for one new token": replaced(generate, (KVCache, "mask", always_a_mask)),
        "with products, scale and mask apart": replaced(
            generate, (mingpt.model, "fast_attention", mingpt.model.attention)
        ),
    }
    yield Table(f"Changes: generation, {named(shape)}, 1 x {tokens} tokens", compare(variants, repeats=repeats), KEPT)


@torch.no_grad()
def loading(quick: bool, repeats: int) -> Iterator[Table]:
    """GPT-2's shape, loaded and read once."""
    model = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=32, vocab_size=256) if quick else GPTConfig())
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        del model

        def load() -> None:
            for weight in GPT.from_pretrained(folder).parameters():
                weight.sum()

        mapped = SafeTensors.__getitem__
        variants = {
            KEPT: load,
            "copied out of the file": replaced(
                load, (SafeTensors, "__getitem__", lambda *where: mapped(*where).clone())
            ),
            "weights drawn before they are replaced": replaced(
                load, (mingpt.pretrained.gpt2, "_Uninitialised", nullcontext)
            ),
        }
        yield Table("Changes: loading GPT-2's weights and reading them once", compare(variants, repeats=repeats), KEPT)


def byte_pairs(quick: bool, repeats: int) -> Iterator[Table]:
    """Encoding a text whose words a tokenizer has not met."""
    text, _ = mixed_text(60_000 if quick else 3_000_000)
    learned = BPETokenizer.train(text[: len(text) // 4], 300 if quick else 8192, progress=False)

    def encode() -> list[int]:
        return BPETokenizer(learned.tokens, learned.merges).encode_ordinary(text)

    def plain(self, ids: list[int]) -> list[int]:
        """All pairs of a word are looked at again for each merge."""
        while ranked := [(self.ranks[pair], i) for i, pair in enumerate(zip(ids, ids[1:])) if pair in self.ranks]:
            rank, i = min(ranked)
            ids[i : i + 2] = [self.merged[rank]]
        return ids

    merge = mingpt.fast.bpe_encode
    alone = merge, "FEW_WORDS", 1 << 60
    blocks = merge.blocks
    variants = {
        KEPT: encode,
        "one word after the other, by a heap": replaced(encode, alone),
        "one word after the other, by looking at all pairs": replaced(
            encode, alone, (merge.FastEncoder, "word", plain)
        ),
        "in blocks of 16,384 characters, not 262,144": replaced(
            encode, (merge, "blocks", lambda text: blocks(text, 1 << 14))
        ),
    }
    if any(variant() != encode() for variant in variants.values()):
        raise ValueError("the ways to merge give different ids; this is a mistake in one of them")
    yield Table("Changes: BPE, cold", compare(variants, repeats=repeats, warmup=0), KEPT)

    def forgetful() -> list[int]:
        learned._fast.forget()
        return learned.encode_ordinary(text)

    variants = {KEPT: lambda: learned.encode_ordinary(text), "ids not kept from one call to the next": forgetful}
    yield Table("Changes: BPE, warm", compare(variants, repeats=repeats), KEPT)


def ngrams(quick: bool, repeats: int) -> Iterator[Table]:
    """64 transformers on trigrams."""
    law, models = geometric_law([1, 1, 1], [10, 10, 10], 10, 0), 4 if quick else 64
    model_steps = 8 if quick else 512

    def training(models: int = models) -> Callable[[], object]:
        ensemble = Transformers(TransformerConfig(10, n_embd=5, n_parallel=5), list(range(models)))
        # As many batches are drawn at once as a round takes, so that each round pays for its own.
        objective = Objective(law, "next", list(range(models)), 512, ahead=model_steps // models)
        return lambda: train(ensemble, objective, TrainingConfig(model_steps // models))

    def each_draw(self: Objective) -> Batch:
        drawn = self._draw()
        return Batch(drawn // 10, tokens=drawn % 10)

    def as_sequences(self: Transformers, rows: Tensor | None = None) -> Tensor:
        """Every context run as a sequence of its own; `rows` are all of them here."""
        grid = torch.cartesian_prod(torch.arange(10), torch.arange(10))  # context x0, x1 is number 10 x0 + x1
        return self(grid)[:, :, -1]

    some = Transformers(TransformerConfig(10, n_embd=5, n_parallel=5), [0, 1])
    torch.testing.assert_close(as_sequences(some), some.context_logits())
    variants = {
        KEPT: training(),
        "one model at a time": training(1),
        "512 draws as they come, not counts of the 100 contexts": replaced(
            training(), (Objective, "next_batch", each_draw)
        ),
        "each context a sequence of its own": replaced(training(), (Transformers, "context_logits", as_sequences)),
    }
    yield Table(f"Changes: {models} transformers on trigrams", compare(variants, repeats=repeats), KEPT)


@torch.no_grad()
def heads(quick: bool, repeats: int) -> Iterator[Table]:
    """Ten heads of a GPT-2 edited, and their common subspace."""
    small = dict(vocab_size=100, n_layer=12, n_head=12, n_embd=96) if quick else {}
    model = GPT(GPTConfig(block_size=64, **small)).eval()
    induction = published("induction", 10)
    idx = repeated_segments(model.config.vocab_size, PERIOD, 2, 5, torch.Generator().manual_seed(0))
    test = CopyTest(model, idx, PERIOD)
    order = list(range(1, 10)) + [0]
    edits = exchange(model, induction, order, PARTS["QK"])

    def copied() -> object:
        other = copy.copy(test)
        other.runner = copy.deepcopy(model)
        return other(edits)

    unchanged = {(0, 0, "W_Q"): head_views(model, 0)["W_Q"][0].clone()}
    for other in (copied(), test({**unchanged, **edits})):
        torch.testing.assert_close(other.probability, test(edits).probability, rtol=1e-3, atol=1e-6)
    variants = {
        KEPT: lambda: test(edits),
        "a copy of the model for each edit": copied,
        "all layers run, also those before the edit": lambda: test({**unchanged, **edits}),
    }
    if has_fast_bfloat16(torch.device("cpu")):
        variants["in bfloat16, which the studies use where it is fast"] = partial(
            CopyTest(model, idx, PERIOD, torch.bfloat16), edits
        )
    yield Table("Changes: an edit of ten heads, float32", compare(variants, repeats=repeats), KEPT)

    rank = 10
    variants = {
        KEPT: lambda: common_subspace(pick(head_weights(model).qk, induction), rank),
        "the stacked matrices decomposed in full": lambda: direct_subspace(model, induction, rank),
    }
    yield Table("Changes: the common subspace of ten heads", compare(variants, repeats=repeats), KEPT)


def start(quick: bool, repeats: int) -> Iterator[Table]:
    """A Python that imports the model."""
    code = "import mingpt.model"
    variants = {
        KEPT: partial(python, "-c", code),
        "plotting imported too": partial(python, "-c", f"{code}, matplotlib.pyplot"),
        "downloads imported too": partial(python, "-c", f"{code}, requests"),
    }
    yield Table("Changes: start-up", compare(variants, repeats=repeats), KEPT)


def measure(quick: bool = False, repeats: int = 5) -> Iterator[Table]:
    """Tables of all of them."""
    for part in (training, generation, loading, byte_pairs, ngrams, heads, start):
        yield from part(quick, 1 if quick else repeats)
