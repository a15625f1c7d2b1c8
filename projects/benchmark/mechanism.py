"""Heads of a GPT-2, scored and edited: our studies beside a direct rendering of the same experiments.

The weights are random and of GPT-2 small's shape, and the heads are those of its published rankings: time depends on
shapes and layers, not on values. An experiment is a piece of the one in projects/gpt2_heads, batches of 5 sequences of
twice 20 tokens:

    shuffle    10 induction heads exchange W_Q and W_K, 10 previous-token heads W_V and W_O, and 10 other heads either
    project    the common subspace, of several ranks, is taken out of the keys of 10 induction heads

The direct way copies the model for every edit, runs it whole, and, for each rank, decomposes the ten stacked C x C
matrices in full. Ours edits in place, runs from the first edited layer on, scores only what counts, and decomposes in
factors. Both give the same probabilities in float32, which is checked before anything is timed.

Scores are the induction scores of all heads on repeated random tokens: ours reads the patterns as they pass and keeps
none,
the other way asks transformers for all of them.

And what it costs that a model can be hooked: a forward pass with its hook points, none in use, beside one without.
"""

import copy
from collections.abc import Iterator
from functools import partial
from statistics import median

import torch
from torch import Tensor

from mingpt.interpret.circuits import common_subspace
from mingpt.interpret.edits import edit, exchange, project
from mingpt.interpret.hooks import HookPoint, patch
from mingpt.interpret.scores import induction_scores
from mingpt.interpret.weights import head_weights
from mingpt.model import GPT, GPTConfig
from mingpt.support.devices import has_fast_bfloat16
from projects.benchmark.generation import transformers_model
from projects.benchmark.harness import Table, compare
from projects.gpt2_heads.mechanism.circuits import pick
from projects.gpt2_heads.mechanism.copying import CopyTest, repeated_segments
from projects.gpt2_heads.mechanism.edits import PARTS
from projects.gpt2_heads.mechanism.ranking import REFERENCE

PERIOD, BATCH = 20, 5
NOTEBOOK = {
    "shuffle": (16 * 2 * 2 * BATCH, 20 * 60 + 15),
    "project": (20 * BATCH, 7 * 60),
}  # sequences, seconds it reports


def published(kind: str, count: int) -> list[tuple[int, int]]:
    """The first heads of a published ranking."""
    return [tuple(map(int, name.split("."))) for name in list(REFERENCE["fifty"][kind])[:count]]


@torch.no_grad()
def direct_probabilities(model: GPT, idx: Tensor, changes: dict) -> Tensor:
    """A copy of the model, edited and run whole; probabilities of the right tokens in the second copy."""
    model = copy.deepcopy(model)
    with edit(model, changes):
        probabilities = model(idx)[0].softmax(dim=-1)
    return probabilities[:, :-1].gather(-1, idx[:, 1:, None]).squeeze(-1)[:, PERIOD:]


@torch.no_grad()
def direct_subspace(model: GPT, heads: list, rank: int) -> Tensor:
    """The common subspace by a full decomposition of the stacked matrices."""
    dense = pick(head_weights(model).qk, heads).dense().flatten(0, 1)
    return torch.linalg.svd(dense, full_matrices=False).Vh[:rank].T


class NoTap:
    """Stands where a `HookPoint` stood, and does nothing."""

    in_use = False

    def __call__(self, x: Tensor) -> Tensor:
        return x


def without_hook_points(model: GPT) -> GPT:
    """A copy of the model that cannot be hooked."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, HookPoint):
                delattr(module, name)
                object.__setattr__(module, name, NoTap())
    return model


@torch.no_grad()
def our_scores(model: GPT, idx: Tensor, period: int) -> Tensor:
    """Induction scores (n_layer, n_head), each layer's pattern let go as soon as it is scored."""
    scores = []

    def score(pattern: Tensor) -> Tensor:
        scores.append(induction_scores(pattern, period).mean(dim=0))
        return pattern

    with patch(model, {"transformer.h.*.attn.pattern": score}):
        model(idx)
    return torch.stack(scores)


@torch.no_grad()
def their_scores(model, idx: Tensor, period: int) -> Tensor:
    """The same, out of the patterns that transformers returns."""
    patterns = model(idx, output_attentions=True).attentions
    return torch.stack([induction_scores(pattern, period).mean(dim=0) for pattern in patterns])


def measure(quick: bool = False, repeats: int = 3) -> Iterator[Table]:
    """A table for each experiment. A round has two permutations, or two ranks."""
    small = dict(vocab_size=100, n_layer=12, n_head=12, n_embd=96) if quick else {}
    config = GPTConfig(block_size=64, **small)
    generator = torch.Generator().manual_seed(0)
    model = GPT(config).eval()
    induction, previous = published("induction", 10), published("previous token", 10)
    pool = [(layer, head) for layer in range(12) for head in range(12) if (layer, head) not in induction + previous]
    idx = repeated_segments(config.vocab_size, PERIOD, 2, BATCH, generator)
    test = CopyTest(model, idx, PERIOD)
    fast = CopyTest(model, idx, PERIOD, torch.bfloat16) if has_fast_bfloat16(torch.device("cpu")) else None
    draws = []
    for _ in range(2):
        order = torch.randperm(10, generator=generator).tolist()
        others = [pool[i] for i in torch.randperm(len(pool), generator=generator)[:10]]
        draws += [(induction, order, "QK"), (others, order, "QK"), (previous, order, "OV"), (others, order, "OV")]
    ranks = [1, 2] if quick else [10, 20]

    def shuffle_directly():
        return [
            direct_probabilities(model, idx, exchange(model, heads, order, PARTS[part])) for heads, order, part in draws
        ]

    def shuffle_ours(test=test):
        return [test(exchange(model, heads, order, PARTS[part])).probability for heads, order, part in draws]

    def project_directly():
        return [
            direct_probabilities(model, idx, project(model, induction, "W_K", direct_subspace(model, induction, rank)))
            for rank in ranks
        ]

    def project_ours(test=test):
        basis = common_subspace(pick(head_weights(model).qk, induction), max(ranks))
        return [test(project(model, induction, "W_K", basis[:, :rank])).probability for rank in ranks]

    twin, short = without_hook_points(model), idx[:1]
    torch.testing.assert_close(twin(short)[0], model(short)[0], rtol=0, atol=0)
    with torch.no_grad():
        passes = compare(
            {"without hook points": lambda: twin(short), "with them, none in use": lambda: model(short)},
            repeats=2 if quick else 20 * repeats,
        )
    cost = median(b / a for a, b in zip(*(timing.seconds for timing in passes.values())))
    yield Table(
        f"Hooks: forward pass over {short.size(1)} tokens",
        passes,
        facts={"with hook points over without (goal: at most 1.02)": cost},
    )

    period, rows = (8, 2) if quick else (32, 8)
    long, theirs = repeated_segments(config.vocab_size, period, 2, rows, generator), transformers_model(model)
    scores = {"transformers": None, "ours": lambda: our_scores(model, long, period)}
    if theirs is not None:
        theirs.set_attn_implementation("eager")  # the others return no patterns
        torch.testing.assert_close(
            our_scores(model, long, period), their_scores(theirs, long, period), rtol=1e-3, atol=1e-5
        )
        scores["transformers"] = lambda: their_scores(theirs, long, period)
    yield Table(
        f"Heads: induction scores, {rows} sequences of {2 * period}",
        compare(scores, repeats=1 if quick else repeats),
        "ours",
        rows,
        "seq",
    )

    for name, direct, ours in (
        ("shuffle", shuffle_directly, shuffle_ours),
        ("project", project_directly, project_ours),
    ):
        torch.testing.assert_close(torch.stack(ours()), torch.stack(direct()), rtol=1e-3, atol=1e-6)
        work = BATCH * (len(draws) if name == "shuffle" else len(ranks))
        timings = compare(
            {"direct": direct, "ours, float32": ours, "ours, bfloat16": fast and partial(ours, fast)},
            repeats=1 if quick else min(repeats, 3),
            warmup=0,
        )
        best, facts = "ours, bfloat16" if fast else "ours, float32", {}
        if not quick:  # a rate of the tiny model says nothing
            sequences, seconds = NOTEBOOK[name]
            facts = {
                "seconds that the notebook reports": seconds,
                "seconds for ten times as many sequences, ours": 10 * sequences * timings[best].median / work,
            }
        yield Table(f"Heads: {name}", timings, best, work, "seq", facts=facts)
