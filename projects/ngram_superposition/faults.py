"""What the notebook gets wrong, each beside what is right; and its models and its loop, to compare ours with."""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from mingpt.low_rank import LowRank
from projects.ngram_superposition.distributions import Law, geometric_law, power_law, rank_law
from projects.ngram_superposition.experiments import divergence_of
from projects.ngram_superposition.interpretation import attention_map, subspace_distance, top_span
from projects.ngram_superposition.losses import Objective, evaluate
from projects.ngram_superposition.scaling import write_csv
from projects.ngram_superposition.settings import Options, Setup
from projects.ngram_superposition.training import TrainingConfig, train
from projects.ngram_superposition.transformer import PARTS, LowRanks, Skips, Transformers, layer_norm


def faults(setup: Setup, options: Options) -> dict:
    """One row a fault: what the notebook's way gives, what is right, and why."""
    rows, seed = [], options.seed

    def say(fault: str, notebook, right, why: str) -> None:
        rows.append({"fault": fault, "notebook": notebook, "right": right, "why": why})
        shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in (notebook, right)]
        print(f"{fault:38} notebook {shown[0]:>12}   right {shown[1]:>12}   {why}", flush=True)

    law = setup.make_law(seed)

    def trained(skips: list[Skips]) -> Transformers:
        model = options.place(Transformers(setup.model, [seed] * len(skips), skips))
        train(
            model,
            options.objective(law, setup.objective, [seed] * len(skips), setup.batch_size),
            setup.training,
            title="faults",
        )
        return model

    scores = evaluate(trained([Skips(), Skips(), Skips(residual=True)]), law)
    first, dropped, skipped = scores.divergence.tolist()
    say("skips do not reach the model", dropped - first, skipped - first, "effect of skipping the residual, nats")

    low = LowRanks(setup.vocab_size, setup.n_embd, law.order, [seed])
    losses = train(low, Objective(law, "next", [seed], setup.batch_size), setup.training)[:, 0].tolist()
    say(
        "sum(x[-100:-1]) / 100",
        notebook_mean(losses),
        float(np.mean(losses[-100:])),
        "mean of the last 100 divergences, nats",
    )

    N, wte, lm_head = setup.vocab_size, low.wte.detach()[0].double(), low.lm_head.detach()[0].double()
    paired = wte.view(N, N, -1).transpose(0, 1).flatten(0, 1)  # row x0 + N x1 of the model beside the law's x0 N + x1
    say(
        "rows of contexts transposed",
        divergence_of(paired, lm_head, law),
        divergence_of(wte, lm_head, law),
        "divergence of LowRank, nats",
    )

    model = trained([Skips(residual=True)])
    say(
        "attention map without layer norm",
        notebook_attention_map(model).std().item(),
        attention_map(model).std().item(),
        "spread of the attention over pairs of tokens",
    )

    geometric, power = (make([0.9] * 2, [100] * 2, 100, seed).tables[0] for make in (geometric_law, power_law))
    ratios = [(table.max() / table.min()).item() for table in (geometric, power)]
    say("a power law that is geometric", *ratios, "likeliest token over the least likely of 100, rate 0.9")

    cell = {"freeze_E": True, "freeze_QKV": True, "freeze_O": False, "freeze_U": True}  # the first of the notebook's
    model = options.place(Transformers(setup.model, [seed]))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(
        model, options.objective(law, setup.objective, [seed], setup.batch_size), TrainingConfig(1), [("E", "QKV", "U")]
    )
    learned = [
        part
        for part, names in PARTS.items()
        if not all(torch.equal(p, before[name]) for name, p in model.named_parameters() if name.split(".")[-1] in names)
    ]
    say(
        "the freezing cell omits freeze_pos",
        error_of(notebook_freeze, cell),
        ", ".join(learned),
        "what is still learned with E, QKV and U frozen",
    )

    single = LowRank(vocab_size=N, n_embd=setup.n_embd, order=law.order)
    say(
        "LowRank called in an old order",
        error_of(notebook_low_rank, N, setup.n_embd, law.order, law.order, law),
        f"W_E {tuple(single.wte.weight.shape)}",
        "the scaling cell's call; ours, by name",
    )

    ranked = rank_law([10, 10], 10, 5, False, seed)[0]
    shifted = top_span(ranked, 5) + 1.0  # softmax cannot tell it from the span itself
    say(
        "subspaces with the ones direction",
        subspace_distance(shifted, top_span(ranked, 5), centre=False),
        subspace_distance(shifted, top_span(ranked, 5)),
        "distance of two W_U that make the same model",
    )

    wide = geometric_law([1, 1, 0.6], [setup.vocab_size] * 3, setup.vocab_size, seed)
    model = options.place(LowRanks(setup.vocab_size, setup.vocab_size, 3, [seed]))
    train(model, options.objective(wide, "exact", [seed], 1), TrainingConfig(setup.max_iters, 1e-2))
    scores = evaluate(model, wide)
    say(
        "accuracy against a sampled token",
        scores.hit_rate.item(),
        scores.accuracy.item(),
        f"of a perfect model; the first cannot exceed {scores.ceiling.item():.3f}",
    )
    write_csv(options.path("faults.csv"), rows)
    return {"rows": rows}


def error_of(call: Callable, *arguments) -> str:
    """The type and the message of the error that the call ends in; "none" if it does not."""
    try:
        call(*arguments)
    except (KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def notebook_freeze(freezer: dict[str, bool]) -> list[str]:
    """How the notebook's models read what to freeze, rebuilt: one entry for each part, positions among them."""
    return [part for part in ("E", "pos", "QKV", "O", "U") if freezer[f"freeze_{part}"]]


def notebook_low_rank(d: int, N: int, context_window: int, pi: Law) -> None:
    """The arguments of the notebook's low-rank model, rebuilt from all its calls but the scaling cell's."""


def notebook_mean(values: list[float]) -> float:
    """The notebook's mean of the last hundred values: 99 of them, divided by 100."""
    return sum(values[-100:-1]) / 100


@torch.no_grad()
def notebook_attention_map(model: Transformers) -> torch.Tensor:
    """The attention map as the notebook computes it, from embeddings that no layer norm has touched: (M, H, N, N)."""
    first, second = model.wte + model.wpe[:, :1], model.wte + model.wpe[:, 1:2]
    attn = model.h[0].attn
    q = torch.einsum("mnc,mhcd->mhnd", second, attn.c_q) / attn.c_q.size(-1) ** 0.5
    to_first = torch.einsum("mhbd,mhad->mhab", q, torch.einsum("mnc,mhcd->mhnd", first, attn.c_k))
    to_second = (q * torch.einsum("mnc,mhcd->mhnd", second, attn.c_k)).sum(-1)[:, :, None]
    return (to_first - to_second).sigmoid()


# ----------------------------------------------------------------------------------------------------------------------
# The notebook's models and its loop: what tests and `projects/benchmark/run.py ngram` hold ours against


class OneTransformer(nn.Module):
    """One transformer as the notebook has it: a MultiheadAttention for each parallel head, one after the other."""

    def __init__(self, vocab_size: int, n_embd: int, n_parallel: int, block_size: int):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab_size, n_embd), nn.Embedding(block_size, n_embd)
        self.attn = nn.ModuleList(
            nn.MultiheadAttention(n_embd, 1, bias=False, batch_first=True) for _ in range(n_parallel)
        )
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)

    def forward(self, idx):
        x, T = self.wte(idx), idx.size(1)
        h = layer_norm(x) + self.wpe.weight[:T]
        mask = torch.ones(T, T, dtype=torch.bool).triu(1)
        x = x + sum(attn(h, h, h, attn_mask=mask, need_weights=False)[0] for attn in self.attn)
        logits = self.lm_head(x)
        return logits - logits.mean()


class OneLowRank(nn.Module):
    """One low-rank model as the notebook has it, for trigrams."""

    def __init__(self, vocab_size: int, n_embd: int):
        super().__init__()
        self.wte, self.lm_head = nn.Embedding(vocab_size**2, n_embd), nn.Linear(n_embd, vocab_size, bias=False)
        self.vocab_size = vocab_size

    def forward(self, idx):
        pairs = idx[:, :-1] * self.vocab_size + idx[:, 1:]
        logits = self.lm_head(self.wte(torch.cat((torch.zeros_like(pairs[:, :1]), pairs), 1)))
        return logits - logits.mean()


def one_at_a_time(model: nn.Module, law: Law, batch_size: int, steps: int) -> float:
    """Steps a second of the notebook's loop: sampled batches, one token each, accuracy by a second pass, Adam."""
    sampled = law.sample(batch_size * steps, law.order, seed=0).view(steps, batch_size, -1)
    optimizer, entropy = torch.optim.Adam(model.parameters(), 1e-3), law.entropy()
    started = time.perf_counter()
    for idx in sampled:
        log_q = (model(idx)[:, 1:-1].softmax(-1) + 1e-12).log()
        loss = nn.functional.cross_entropy(log_q.flatten(0, 1), idx[:, 2:].flatten()) - entropy
        with torch.no_grad():
            accuracy = (model(idx).argmax(-1)[:, 1:-1] == idx[:, 2:]).float().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item(), accuracy.item()
    return steps / (time.perf_counter() - started)
