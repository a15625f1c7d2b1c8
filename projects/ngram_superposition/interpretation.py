"""Looking inside: where heads attend, what each writes, which directions tokens have, and what a rank allows."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mingpt.interpret.hooks import record
from projects.ngram_superposition.distributions import Law
from projects.ngram_superposition.transformer import Transformers


def all_contexts(vocab_size: int, order: int) -> Tensor:
    """Every context, (N^(n-1), n - 1) int64, in the order of `context_index`."""
    return torch.cartesian_prod(*[torch.arange(vocab_size)] * (order - 1)).view(-1, order - 1)


@torch.no_grad()
def attention_map(model: Transformers, layer: int = 0) -> Tensor:
    """What the second token of each pair gives to the first: (M, H, N, N), [.., first, second], of trigram models.

    Taken from the pattern that the model itself computes, layer norm and all. The rest, 1 minus it, stays on the second
    token.
    """
    if model.order != 3:
        raise ValueError(
            f"an attention map over pairs of tokens is of trigram models; this one is of order {model.order}"
        )
    idx = all_contexts(model.vocab_size, 3).to(model.wte.device)
    with record(model, f"h.{layer}.attn.pattern") as seen:
        model(idx)
    pattern = seen[f"h.{layer}.attn.pattern"][:, :, :, 1, 0]  # (M, N * N, H)
    return pattern.transpose(1, 2).unflatten(-1, (model.vocab_size, model.vocab_size))


@dataclass(frozen=True)
class Contributions:
    """What each head of one layer writes after every context, in three bases."""

    written: Tensor  # (M, R, H, C): what it writes into the residual at the last position
    logits: Tensor  # (M, R, H, N): what that adds to the logits, of mean 0
    tokens: Tensor  # (M, R, H, N): coordinates a with a . W_U = written, the shortest such

    def of(self, contexts: Tensor) -> "Contributions":
        """Those of some contexts, given as a mask (R,) or as numbers."""
        return Contributions(self.written[:, contexts], self.logits[:, contexts], self.tokens[:, contexts])

    def shifted(self, by: int) -> "Contributions":
        """Head h with what it writes h * `by` contexts further on: heads that do not know of each other's context."""
        return Contributions(
            *(
                torch.stack([part[:, :, h].roll(h * by, 1) for h in range(part.size(2))], 2)
                for part in (self.written, self.logits, self.tokens)
            )
        )

    def lead(self, answers: Tensor) -> tuple[Tensor, Tensor]:
        """By how much the logit of answers[c] exceeds the largest other, from each head alone and from all together.

        Returns solo (M, R, H) and group (M, R). A group can lead where no head does.
        """

        def ahead(logits: Tensor) -> Tensor:
            index = answers.view(1, -1, *[1] * (logits.ndim - 2)).expand(*logits.shape[:-1], 1)
            others = logits.scatter(-1, index, -math.inf).max(-1).values
            return logits.gather(-1, index)[..., 0] - others

        return ahead(self.logits), ahead(self.logits.sum(2))

    def only_together(self, answers: Tensor) -> Tensor:
        """Share of the contexts in which the right token leads in the sum of the heads and in none alone, (M,)."""
        solo, group = self.lead(answers)
        return ((group > 0) & ~(solo > 0).any(-1)).double().mean(1)


@torch.no_grad()
def head_contributions(model: Transformers, layer: int = 0) -> Contributions:
    """The contributions of the heads of `layer` after every context, on the CPU."""
    idx = all_contexts(model.vocab_size, model.order).to(model.wte.device)
    with record(model, f"h.{layer}.attn.head_out") as seen:
        model(idx)
    written = seen[f"h.{layer}.attn.head_out"][:, :, :, -1]  # (M, R, H, C)
    unembedding = model.lm_head - model.lm_head.mean(1, keepdim=True)
    logits = torch.einsum("mrhc,mvc->mrhv", written, unembedding)
    tokens = torch.einsum("mrhc,mcv->mrhv", written, torch.linalg.pinv(model.lm_head))
    return Contributions(written.cpu(), logits.cpu(), tokens.cpu())


@torch.no_grad()
def last_residual(model: Transformers) -> Tensor:
    """What is unembedded after each context, (M, N^(n-1), C): the transformer's counterpart of LowRank's W_E."""
    layer = len(model.h) - 1
    with record(model, f"h.{layer}.resid_post") as seen:
        model(all_contexts(model.vocab_size, model.order).to(model.wte.device))
    return seen[f"h.{layer}.resid_post"][:, :, -1]


# ----------------------------------------------------------------------------------------------------------------------
# Subspaces


def projection(columns: Tensor, centre: bool = True) -> Tensor:
    """The projection onto the span of the columns of (N, d), (N, N).

    With `centre` the all-ones direction is taken out of each first: softmax cannot see it, so no training decides it.
    """
    if centre:
        columns = columns - columns.mean(0, keepdim=True)
    left, values, _ = torch.linalg.svd(columns, full_matrices=False)
    basis = left[:, values > 1e-9 * values[0]]
    return basis @ basis.T


def subspace_distance(a: Tensor, b: Tensor, centre: bool = True) -> float:
    """Frobenius norm of the difference of the projections onto the spans of (N, d) and (N, e).

    For spans of one dimension d it is sqrt(2 * sum of sin^2 of the principal angles): 0 to sqrt(2 d).
    """
    return (projection(a, centre) - projection(b, centre)).norm().item()


def random_subspace_distance(vocab_size: int, rank: int) -> float:
    """Root mean square distance of two random spans of dimension `rank` among the N - 1 that softmax sees."""
    return math.sqrt(2 * (rank - rank**2 / (vocab_size - 1)))


def top_span(law: Law, rank: int) -> Tensor:
    """The first `rank` right singular vectors of the log-probabilities, each row less its mean: (N, rank)."""
    logs = law.conditional.log()
    if not logs.isfinite().all():
        raise ValueError("the law has probabilities of 0, whose logarithms have no span; take one without")
    return torch.linalg.svd(logs - logs.mean(1, keepdim=True), full_matrices=False)[2][:rank].T


# ----------------------------------------------------------------------------------------------------------------------
# Closed forms


def closed_form_embeddings(lm_head: Tensor, law: Law) -> Tensor:
    """W_E (N^(n-1), d) = Var^-1 Cov, for a given W_U (N, d): the best to second order about the law itself.

    Near the law, KL(p || q) is half the variance under p of the log-probabilities' error, so that each row is a
    regression of log p(v | c) on W_U[v], weighted with p(v | c). Needs a law without zeros.
    """
    p, logs = law.conditional, law.conditional.log()
    if not logs.isfinite().all():
        raise ValueError("the law has probabilities of 0, whose logarithms cannot be regressed; take one without")
    lm_head = lm_head.double()
    mean = p @ lm_head  # (R, d)
    pairs = (lm_head[:, :, None] * lm_head[:, None, :]).flatten(1)
    variance = (p @ pairs).unflatten(-1, lm_head.shape[1:] * 2) - mean[:, :, None] * mean[:, None, :]
    covariance = (p * logs) @ lm_head - (p * logs).sum(1, keepdim=True) * mean
    return torch.linalg.lstsq(variance, covariance[..., None]).solution[..., 0]
