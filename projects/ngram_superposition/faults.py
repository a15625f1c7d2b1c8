"""What the notebook gets wrong, each beside what is right; and how fast its way of training is beside ours."""

import time

import numpy as np
import torch
from torch import nn

from projects.ngram_superposition.distributions import Law, geometric_law, power_law, rank_law
from projects.ngram_superposition.experiments import divergence_of
from projects.ngram_superposition.interpretation import attention_map, subspace_distance, top_span
from projects.ngram_superposition.losses import Objective, evaluate
from projects.ngram_superposition.scaling import write_csv
from projects.ngram_superposition.settings import Options, Setup
from projects.ngram_superposition.training import TrainingConfig, train
from projects.ngram_superposition.transformer import LowRanks, Skips, Transformers, layer_norm


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
        train(model, options.objective(law, setup.objective, [seed] * len(skips), setup.batch_size), setup.training,
              title="faults")
        return model

    scores = evaluate(trained([Skips(), Skips(), Skips(residual=True)]), law)
    first, dropped, skipped = scores.divergence.tolist()
    say("skips do not reach the model", dropped - first, skipped - first, "effect of skipping the residual, nats")

    low = LowRanks(setup.vocab_size, setup.n_embd, law.order, [seed])
    losses = train(low, Objective(law, "next", [seed], setup.batch_size), setup.training)[:, 0].tolist()
    say("sum(x[-100:-1]) / 100", notebook_mean(losses), float(np.mean(losses[-100:])),
        "mean of the last 100 divergences, nats")

    N, wte, lm_head = setup.vocab_size, low.wte.detach()[0].double(), low.lm_head.detach()[0].double()
    paired = wte.view(N, N, -1).transpose(0, 1).flatten(0, 1)  # row x0 + N x1 of the model beside the law's x0 N + x1
    say("rows of contexts transposed", divergence_of(paired, lm_head, law), divergence_of(wte, lm_head, law),
        "divergence of LowRank, nats")

    model = trained([Skips(residual=True)])
    say("attention map without layer norm", notebook_attention_map(model).std().item(),
        attention_map(model).std().item(),
        "spread of the attention over pairs of tokens")

    geometric, power = (make([0.9] * 2, [100] * 2, 100, seed).tables[0] for make in (geometric_law, power_law))
    ratios = [(table.max() / table.min()).item() for table in (geometric, power)]
    say("a power law that is geometric", *ratios, "likeliest token over the least likely of 100, rate 0.9")

    say("the freezing cell omits freeze_pos", "KeyError", ", ".join(("E", "positions", "QKV", "O", "U")),
        "parts that can be frozen")
    say("LowRank called in an old order", "TypeError", f"({setup.vocab_size}, {setup.n_embd}, {law.order})",
        "vocab_size, n_embd, order; by name")

    ranked = rank_law([10, 10], 10, 5, False, seed)[0]
    shifted = top_span(ranked, 5) + 1.0  # softmax cannot tell it from the span itself
    say("subspaces with the ones direction", subspace_distance(shifted, top_span(ranked, 5), centre=False),
        subspace_distance(shifted, top_span(ranked, 5)), "distance of two W_U that make the same model")

    wide = geometric_law([1, 1, 0.6], [setup.vocab_size] * 3, setup.vocab_size, seed)
    model = options.place(LowRanks(setup.vocab_size, setup.vocab_size, 3, [seed]))
    train(model, options.objective(wide, "exact", [seed], 1), TrainingConfig(setup.max_iters, 1e-2))
    scores = evaluate(model, wide)
    say("accuracy against a sampled token", scores.hit_rate.item(), scores.accuracy.item(),
        f"of a perfect model; the first cannot exceed {scores.ceiling.item():.3f}")
    write_csv(options.path("faults.csv"), rows)
    return {"rows": rows}


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
# Speed


class OneTransformer(nn.Module):
    """One transformer as the notebook has it: a MultiheadAttention for each parallel head, one after the other."""

    def __init__(self, vocab_size: int, n_embd: int, n_parallel: int, block_size: int):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab_size, n_embd), nn.Embedding(block_size, n_embd)
        self.attn = nn.ModuleList(nn.MultiheadAttention(n_embd, 1, bias=False, batch_first=True)
                                  for _ in range(n_parallel))
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


def speed(setup: Setup, options: Options, quick: bool = False) -> dict:
    """Model-steps a second: one model at a time in the notebook's way, and ours in ensembles, in turns in this process.

    Both take the same step: a batch of the same size, against one sampled token each.
    """
    law, rows = setup.make_law(options.seed), []
    steps, turns, sizes = (4, 1, (1, 8)) if quick else (100, 3, (1, 16, 64))

    def ours(make, M: int) -> float:
        model, count = make(M), max(4, steps // max(1, M // 4))
        objective = Objective(law, "next", list(range(M)), setup.batch_size)
        train(model, objective, TrainingConfig(2))
        started = time.perf_counter()
        train(model, objective, TrainingConfig(count))
        return count * M / (time.perf_counter() - started)

    kinds = {
        "LowRank": (lambda: OneLowRank(setup.vocab_size, setup.n_embd),
                    lambda M: LowRanks(setup.vocab_size, setup.n_embd, 3, list(range(M)))),
        f"transformer, {setup.n_parallel} heads": (
            lambda: OneTransformer(setup.vocab_size, setup.n_embd, setup.n_parallel, 3),
            lambda M: Transformers(setup.model, list(range(M)))),
    }
    for name, (one, many) in kinds.items():
        turn = [(one_at_a_time(one(), law, setup.batch_size, steps), *(ours(many, M) for M in sizes))
                for _ in range(turns)]
        medians = np.median(turn, axis=0)
        ensembles = {f"ours, {M}": round(median) for M, median in zip(sizes, medians[1:])}
        rows.append({"model": name, "notebook's way": round(medians[0]), **ensembles,
                     "times": round(max(medians[1:]) / medians[0], 1)})
        print(f"{name}: one at a time {medians[0]:.0f} steps/s; ours " +
              ", ".join(f"{m:.0f} with M = {M}" for M, m in zip(sizes, medians[1:])) + f"; {rows[-1]['times']} times")
    return {"rows": rows, "threads": torch.get_num_threads()}
