"""The circuits of attention heads: products of their weights, in D x D arithmetic; conventions as in `weights.py`."""

import math

import torch
from torch import Tensor, nn

from mingpt.interpret.weights import Factored, HeadWeights, head_weights, unembedding


def product_norms(first: Factored, second: Factored) -> Tensor:
    """The Frobenius norm of first @ second, in D x D arithmetic. Leading dimensions broadcast."""
    middle = first.right @ second.left
    left, right = first.left.mT @ first.left, second.right @ second.right.mT
    return ((left @ middle) * (middle @ right)).sum(dim=(-2, -1)).clamp(min=0).sqrt()


def diagonal_z(first: Factored, second: Factored) -> Tensor:
    """(mean of the diagonal - mean of all entries) / (their standard deviation), for the C x C matrix first @ second.

    Leading dimensions broadcast: `diagonal_z(qk[:, None], ov.T[None])` scores all pairs. The statistic of Song et al.
    2024, claim 1. Its values for random heads have a standard deviation of 1 / sqrt(C), not 1.
    """
    C = first.left.size(-2)
    middle = first.right @ second.left
    trace = (middle * (second.right @ first.left).mT).sum(dim=(-2, -1))
    mean = first.left.mean(dim=-2, keepdim=True) @ middle @ second.right.mean(dim=-1, keepdim=True)
    mean = mean.squeeze(-1).squeeze(-1)
    std = (product_norms(first, second) ** 2 / C**2 - mean**2).clamp(min=0).sqrt()
    return (trace / C - mean) / std


def composition_scores(weights: HeadWeights, kind: str) -> Tensor:
    """||W_OV^A M||_F / (||W_OV^A||_F ||M||_F) of every two heads A, B, with M of B: how much of A's output B reads.

    `kind` is "Q" (M = W_QK), "K" (M = W_QK^T) or "V" (M = W_OV); Elhage et al. 2021, "Q-, K- and V-composition".
    Returns (n_layer, H, n_layer, H), [A, B], NaN unless A's layer is before B's. Compare with `weights.random()`.
    """
    choices = {"Q": weights.qk, "K": weights.qk.T, "V": weights.ov}
    if kind not in choices:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(choices)}")
    writes, reads = weights.ov, choices[kind]
    L, H = weights.W_Q.shape[:2]
    scores = weights.W_Q.new_full((L, H, L, H), math.nan)
    for a in range(L - 1):  # one layer against all later ones at a time: the D x D products of all pairs would be large
        norms = product_norms(writes[a][:, None, None], reads[a + 1 :][None])
        scores[a, :, a + 1 :] = norms / (writes[a].norm()[:, None, None] * reads[a + 1 :].norm())
    return scores


def subspace_similarity(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Generalised cosines between the spans of orthonormal bases (..., C, r): (largest, root mean square), each (...).

    The singular values s of first^T second are the cosines of the principal angles; the two are s_1 and sqrt(mean of
    s^2). 1 for equal subspaces, 0 for orthogonal ones; for random ones the second is near sqrt(r / C).
    """
    cosines = torch.linalg.svdvals(first.mT @ second)
    return cosines[..., 0], cosines.square().mean(dim=-1).sqrt()


def common_subspace(circuits: Factored, rank: int) -> Tensor:
    """(C, rank): the top right singular vectors of circuits (K, C, C) stacked to (K C, C); Song et al.'s "bridge".

    For W_QK of K induction heads, the directions of the keys that they share. Each left factor is reduced to its
    triangular part first, so that the stack has K D rows.
    """
    rows = (torch.linalg.qr(circuits.left).R @ circuits.right).flatten(0, -2)
    if not 1 <= rank <= min(rows.shape):
        raise ValueError(f"rank is {rank}; these circuits span at most {min(rows.shape)} directions")
    return torch.linalg.svd(rows, full_matrices=False).Vh[:rank].T


def copying_scores(model: nn.Module) -> Tensor:
    """(n_layer, H): sum Re(lambda) / sum |lambda| over the eigenvalues of W_E W_OV W_U, in [-1, 1].

    From Elhage et al. 2021. Near 1, attending to a token raises that token's own logit, whatever the token is. The
    V x V matrix has the eigenvalues of the D x D matrix W_O (W_U W_E) W_V, and zeros. Layer norms are folded.
    """
    weights = head_weights(model, fold_layer_norm=True)
    through_vocabulary = unembedding(model) @ model.transformer.wte.weight.detach().float()  # (C, C), for all heads
    eigenvalues = torch.linalg.eigvals(weights.W_O @ through_vocabulary @ weights.W_V)
    return eigenvalues.real.sum(dim=-1) / eigenvalues.abs().sum(dim=-1)
