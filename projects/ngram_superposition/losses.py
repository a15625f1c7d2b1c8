"""How far a model is from a law: divergences and accuracies, exact over all contexts or on sampled batches.

The divergence of a model q from the law p is the mean over contexts of KL(p(. | context) || q(. | context)):
cross-entropy minus the conditional entropy, in nats. It is 0 for a perfect model and log N - entropy for one that says
1/N.

Whether a batch is exact or sampled, its loss is a weighted sum of log-probabilities,

    - sum over contexts c and tokens v of weight[c, v] log q(v | c),

and only the weights differ: p(c) p(v | c) exactly; (times c was drawn) / B * p(v | c) for sampled contexts against the
true row; (times c and v were drawn together) / B for the usual next-token loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from projects.ngram_superposition.distributions import Law

OBJECTIVES = ("exact", "full", "next")


@dataclass
class Batch:
    """Contexts and what their logits are held against. Leading axes of length 1 are shared by all models."""

    rows: Tensor | None  # (R,) or (M, R) numbers of the contexts; None: all of them, in order
    weights: Tensor | None = None  # (M or 1, R, N), of sum 1; fastest if it lies in memory as (M or 1, N, R)
    tokens: Tensor | None = None  # (M, R) int64, instead of weights: one drawn token after each context, all alike

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """logits (M, R, N) -> (M,), nats."""
        log_q = F.log_softmax(logits.transpose(1, 2), dim=1)  # (M, N, R), as it lies in memory; see `Ensemble.unembed`
        if self.tokens is not None:
            return -log_q.gather(1, self.tokens[:, None]).flatten(1).mean(1)
        return -(self.weights.transpose(1, 2) * log_q).sum((1, 2))


class Objective:
    """Batches for an ensemble.

    laws        one for each of the M models, or one for all; of the same order and vocabulary
    kind        "exact" (all contexts by their probability: every batch is the same), "full" (`batch_size` sampled
                contexts against the true conditional) or "next" (the same against one sampled token each)
    seeds       one for each model: decides its batches, whatever models stand beside it
    ahead       steps whose batches are drawn at once
    """

    def __init__(
        self,
        laws: Law | Sequence[Law],
        kind: str,
        seeds: Sequence[int],
        batch_size: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        ahead: int = 64,
    ):
        laws = [laws] if isinstance(laws, Law) else list(laws)
        if kind not in OBJECTIVES:
            raise ValueError(f"the objective is {kind!r}; it must be one of {', '.join(OBJECTIVES)}")
        if len(laws) not in (1, len(seeds)):
            raise ValueError(f"there are {len(laws)} laws for {len(seeds)} models; give one, or one for each")
        if len({(law.vocab_size, law.order) for law in laws}) > 1:
            raise ValueError("the laws of one ensemble must have the same vocabulary and order")
        if kind != "exact" and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; sampled batches have at least 1 sequence")
        self.laws, self.kind, self.seeds, self.batch_size, self.device = laws, kind, list(seeds), batch_size, device
        self.dtype = dtype
        self.entropy = torch.tensor([law.entropy() for law in laws], dtype=dtype, device=device)  # (M or 1,)
        joint = torch.stack([law.joint for law in laws])  # (M or 1, N^(n-1), N)
        self.conditional = torch.stack([law.conditional for law in laws]).to(device, dtype)
        self.rows = None
        if len(laws) == 1 and (laws[0].contexts > 0).sum() < 0.5 * joint.size(1):
            self.rows = laws[0].contexts.nonzero()[:, 0].to(device)
            joint = joint[:, self.rows.cpu()]
        self.whole = Batch(self.rows, joint.to(device, dtype).transpose(1, 2).contiguous().transpose(1, 2))
        self.generators = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        self.ahead = ahead
        self._stock: list[Tensor] = []

    def divergence(self, logits: Tensor, batch: Batch) -> Tensor:
        """(M, R, N) -> (M,), nats."""
        return batch.cross_entropy(logits) - self.entropy

    def next_batch(self) -> Batch:
        """The next step's batch."""
        if self.kind == "exact":
            return self.whole
        drawn = self._draw()  # (M, batch_size), context * N + token
        N, contexts = self.conditional.size(-1), self.conditional.size(1)
        M = len(self.seeds)
        if contexts <= self.batch_size:  # fewer contexts than draws: a table of counts says the same, and is smaller
            cells = drawn if self.kind == "next" else drawn // N
            counts = torch.zeros(M, contexts * (N if self.kind == "next" else 1), dtype=self.dtype, device=self.device)
            counts.scatter_add_(1, cells, torch.ones_like(cells, dtype=self.dtype))
            counts = counts.view(M, contexts, -1) / self.batch_size
            return Batch(None, counts if self.kind == "next" else counts * self.conditional)
        rows, tokens = drawn // N, drawn % N
        if self.kind == "next":
            return Batch(rows, tokens=tokens)
        model = torch.arange(len(self.laws), device=self.device)[:, None]
        return Batch(rows, self.conditional[model, rows] / self.batch_size)

    def _draw(self) -> Tensor:
        """(M, batch_size) draws from each law's n-grams."""
        if not self._stock:
            laws = self.laws * (len(self.seeds) if len(self.laws) == 1 else 1)
            drawn = [
                torch.multinomial(law.joint.flatten(), self.ahead * self.batch_size, True, generator=generator)
                for law, generator in zip(laws, self.generators)
            ]
            self._stock = list(torch.stack(drawn).to(self.device).view(len(drawn), self.ahead, -1).unbind(1))
        return self._stock.pop()


@dataclass(frozen=True)
class Scores:
    """What an ensemble has learned, exactly, over all contexts. Each (M,)."""

    divergence: Tensor  # nats
    accuracy: Tensor  # probability of a context for which the token called likeliest is likeliest; at most 1
    hit_rate: Tensor  # probability that the token called likeliest is the one drawn; at most `ceiling`
    ceiling: Tensor  # mean probability of the likeliest token


@torch.no_grad()
def evaluate(model, laws: Law | Sequence[Law]) -> Scores:
    """Exact scores, in float64, of an ensemble whose model i learns laws[i], or the one law."""
    laws = [laws] if isinstance(laws, Law) else laws
    return score_logits(model.context_logits().cpu().double(), laws)


def score_logits(logits: Tensor, laws: Sequence[Law]) -> Scores:
    """The same from logits (M, N^(n-1), N) in float64."""
    rows = []
    for i, row in enumerate(logits):
        law = laws[i if len(laws) > 1 else 0]
        divergence = -(law.joint * row.log_softmax(-1)).sum() - law.entropy()
        said = law.conditional.gather(1, row.argmax(-1, keepdim=True))[:, 0]
        best = law.conditional.max(-1).values
        rows.append(
            [
                divergence,
                (law.contexts * (said >= best)).sum(),
                (law.contexts * said).sum(),
                (law.contexts * best).sum(),
            ]
        )
    return Scores(*torch.tensor(rows, dtype=torch.float64).T)
