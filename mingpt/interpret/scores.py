"""What attention patterns show: induction, previous tokens, duplicate tokens, copying.

All take patterns (..., B, H, T, T) and return one number for each sequence and head, (..., B, H), to be averaged over
B, with a standard error.
"""

import torch
from torch import Tensor, nn

from mingpt.interpret.hooks import record
from mingpt.interpret.weights import blocks, head_views, unembedding


def induction_scores(pattern: Tensor, period: int, drop_first: bool = False) -> Tensor:
    """Attention to what followed the earlier occurrences of a token, in segments of `period` tokens that repeat.

    The mean over the queries i >= period of the sum over m >= 1 of A[i, i - m period + 1], columns above 0 (Olsson et
    al. 2022, "prefix matching"). With `drop_first` the first column, on which heads rest that find nothing, is taken
    away and the rows are rescaled to 1 (Song et al. 2024).
    """
    T = pattern.size(-1)
    if not 1 <= period < T:
        raise ValueError(f"period is {period}; for a second copy within {T} positions it must be from 1 to {T - 1}")
    key, query = torch.arange(T, device=pattern.device), torch.arange(period, T, device=pattern.device)[:, None]
    follows = ((query - key + 1) % period == 0) & (key <= query - period + 1) & (key > 0)  # the first follows nothing
    pattern = _without_first(pattern) if drop_first else pattern
    return (pattern[..., period:, :] * follows).sum(dim=-1).mean(dim=-1)


def previous_token_scores(pattern: Tensor, drop_first: bool = False) -> Tensor:
    """The mean of A[i, i-1]; with `drop_first` as above, and then from i = 2 on."""
    if pattern.size(-1) < 3:
        raise ValueError(f"previous-token scores need at least 3 positions, not {pattern.size(-1)}")
    pattern = _without_first(pattern) if drop_first else pattern
    return pattern.diagonal(-1, dim1=-2, dim2=-1)[..., int(drop_first) :].mean(dim=-1)


def duplicate_token_scores(pattern: Tensor, idx: Tensor) -> Tensor:
    """The mean attention to earlier occurrences of the same token, over the queries that have one; NaN where none has.

    idx is (B, T) int64.
    """
    return _mass(pattern, (idx[:, :, None] == idx[:, None, :]).tril(-1))


def prefix_matching_scores(pattern: Tensor, idx: Tensor) -> Tensor:
    """`induction_scores` for any text: attention to the j <= i with idx[j-1] = idx[i], over the i that have one."""
    same = (idx[:, :, None] == idx[:, None, :]).tril(-1)
    return _mass(pattern, nn.functional.pad(same, (1, 0))[..., :-1])


def copying_scores_by_activation(model: nn.Module, idx: Tensor) -> Tensor:
    """(n_layer, B, H) in [-1, 1]: does a head raise the logits of the tokens that it looks at? (Olsson et al. 2022)

    Through W_O and the unembedding, less the mean over the vocabulary, the value at j raises the logit of each token of
    the sample by some amount or, where that is negative, by 0. The score is the token at j's share in what all tokens
    of the sample are raised by, summed over queries and keys with the pattern as weights, and rescaled from [0, 1].
    Repeated tokens of a sample each count, so use random tokens without repeats for a share that one token could win
    alone.
    """
    with torch.no_grad(), record(model, ["h.*.attn.pattern", "h.*.attn.v"]) as seen:
        model(idx)
    W_U = unembedding(model)
    W_U = (W_U - W_U.mean(dim=1, keepdim=True)).T[idx].mT  # (B, C, T): a column for each token of the sample
    scores = []
    for layer in range(len(blocks(model))):
        W_O = head_views(model, layer)["W_O"].detach().float()
        rise = (seen[f"h.{layer}.attn.v"].float() @ W_O @ W_U[:, None]).relu()  # (B, H, S, T): of token t by position s
        weight = seen[f"h.{layer}.attn.pattern"].float().sum(dim=-2)  # (B, H, S)
        own, total = (weight * rise.diagonal(dim1=-2, dim2=-1)).sum(-1), (weight * rise.sum(-1)).sum(-1)
        scores.append(2 * own / total - 1)
    return torch.stack(scores)


def _without_first(pattern: Tensor) -> Tensor:
    rest = pattern.clone()
    rest[..., 0] = 0
    return rest / rest.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(rest.dtype).tiny)  # row 0 has nothing left


def _mass(pattern: Tensor, targets: Tensor) -> Tensor:
    """Mean over the queries with a target of the attention on targets; `targets` is (B, T, T) of bool."""
    mass = (pattern * targets[:, None]).sum(dim=-1)  # (..., B, H, T)
    return mass.sum(dim=-1) / targets.any(dim=-1).sum(dim=-1)[:, None]
