"""Attention heads one by one: their weights, their circuits, what they do, and what happens without them.

Row vectors throughout, as activations are rows: for the residual x (T, C) after the layer norm, a head computes

    q = x W_Q + b_Q    k = x W_K + b_K    v = x W_V + b_V        W_Q, W_K, W_V (C, D)
    scores = q k^T / sqrt(D)   pattern = softmax(scores)         biases (D,)
    what it adds to the residual = pattern v W_O                 W_O (D, C)

so that only two C x C matrices of rank D matter (Elhage et al. 2021, "A mathematical framework for transformer
circuits"): W_QK = W_Q W_K^T says who looks where, and W_OV = W_V W_O what is moved when they do. Both stay products of
two thin matrices here (`Factored`): what one wants to know of them costs D x D arithmetic.

A column-vector paper's W_OV is the transpose of this one; its W_QK W_OV is `qk @ ov.T`.

Works for any model that has GPT's `config.n_head` and blocks `transformer.h[i].attn` with `c_attn` and `c_proj`, with
or without MLPs.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from mingpt.interpret.hooks import patch, record

Head = tuple[int, int]  # (layer, head), both from 0


# ----------------------------------------------------------------------------------------------------------------------
# Weights


@dataclass(frozen=True)
class HeadWeights:
    """Every head's own weights, row-vector convention."""

    W_Q: Tensor  # (n_layer, H, C, D)
    W_K: Tensor  # (n_layer, H, C, D)
    W_V: Tensor  # (n_layer, H, C, D)
    W_O: Tensor  # (n_layer, H, D, C)
    b_Q: Tensor  # (n_layer, H, D)
    b_K: Tensor  # (n_layer, H, D)
    b_V: Tensor  # (n_layer, H, D)
    b_O: Tensor  # (n_layer, C): added once a layer, no head's own

    @property
    def qk(self) -> "Factored":
        """W_Q W_K^T of every head, (n_layer, H, C, C): score = x_query W_QK x_key^T / sqrt(D), but for the biases."""
        return Factored(self.W_Q, self.W_K.mT)

    @property
    def ov(self) -> "Factored":
        """W_V W_O of every head, (n_layer, H, C, C): attending fully to x_key adds x_key W_OV, but for the biases."""
        return Factored(self.W_V, self.W_O)

    def random(self, generator: torch.Generator | None = None) -> "HeadWeights":
        """The same shapes filled with standard normals: the baseline that scores of circuits are to be held against."""
        return HeadWeights(
            *(
                torch.randn(tensor.shape, generator=generator).to(tensor)
                for tensor in (getattr(self, field.name) for field in fields(self))
            )
        )


def head_views(model: nn.Module, layer: int) -> dict[str, Tensor]:
    """One layer's weights by head, as views: W_Q, W_K, W_V (H, C, D), W_O (H, D, C), b_Q, b_K, b_V (H, D), b_O (C,).

    Writing to them, under no_grad, writes to the model.
    """
    attn, H = _blocks(model)[layer].attn, model.config.n_head
    C = attn.c_proj.out_features
    weight, bias = attn.c_attn.weight.view(3, H, C // H, C).mT, attn.c_attn.bias.view(3, H, C // H)
    views = {f"W_{part}": weight[i] for i, part in enumerate("QKV")}
    views |= {f"b_{part}": bias[i] for i, part in enumerate("QKV")}
    return views | {"W_O": attn.c_proj.weight.view(C, H, C // H).permute(1, 2, 0), "b_O": attn.c_proj.bias}


@torch.no_grad()
def head_weights(model: nn.Module, fold_layer_norm: bool = False) -> HeadWeights:
    """All layers' weights by head: a copy, in float32, with the layers stacked.

    With `fold_layer_norm`, Q, K and V are those that read the normalised residual (x - mean) / std itself: the gain and
    bias of the layer norm `ln_1` are multiplied in, and the direction (1, ..., 1), which the norm takes away, is
    taken out: W <- (I - 11^T / C) diag(gain) W, b <- b + bias W. The scores are the same, and circuits of different
    layers become comparable.
    """
    layers = []
    for layer, block in enumerate(_blocks(model)):
        views = {name: view.detach().float() for name, view in head_views(model, layer).items()}
        if fold_layer_norm:
            gain, bias = block.ln_1.weight.float(), block.ln_1.bias.float()
            for part in "QKV":
                W = views[f"W_{part}"]
                views[f"b_{part}"] = views[f"b_{part}"] + bias @ W
                W = gain[:, None] * W
                views[f"W_{part}"] = W - W.mean(dim=-2, keepdim=True)
        layers.append(views)
    return HeadWeights(*(torch.stack([views[field.name] for views in layers]) for field in fields(HeadWeights)))


@torch.no_grad()
def unembedding(model: nn.Module) -> Tensor:
    """(C, V) float32: from the normalised last residual to logits; `ln_f`'s gain is folded in, the mean taken out."""
    W = model.transformer.ln_f.weight.float()[:, None] * model.lm_head.weight.float().T
    return W - W.mean(dim=0)


# ----------------------------------------------------------------------------------------------------------------------
# Circuits


@dataclass(frozen=True)
class Factored:
    """The matrices left @ right, (..., N, M), of low rank: left is (..., N, D) and right (..., D, M).

    Nothing here but `dense` forms an N x M matrix. Indexing picks among the leading dimensions.
    """

    left: Tensor
    right: Tensor

    def __getitem__(self, index) -> "Factored":
        return Factored(self.left[index], self.right[index])

    @property
    def T(self) -> "Factored":
        """The transposed matrices, (..., M, N)."""
        return Factored(self.right.mT, self.left.mT)

    def __matmul__(self, other: "Factored") -> "Factored":
        """The product, of the smaller of the two ranks; leading dimensions broadcast."""
        middle = self.right @ other.left
        if middle.size(-2) <= middle.size(-1):
            return Factored(self.left, middle @ other.right)
        return Factored(self.left @ middle, other.right)

    def dense(self) -> Tensor:
        """The matrices themselves, (..., N, M)."""
        return self.left @ self.right

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """U (..., N, D), S (..., D) in falling order, V (..., M, D), with U diag(S) V^T the matrix.

        By way of the D x D product of the triangular factors of both sides. Only vectors of non-zero S mean anything.
        """
        Q_left, R_left = torch.linalg.qr(self.left)
        Q_right, R_right = torch.linalg.qr(self.right.mT)
        U, S, Vh = torch.linalg.svd(R_left @ R_right.mT, full_matrices=False)
        return Q_left @ U, S, Q_right @ Vh.mT

    def eigenvalues(self) -> Tensor:
        """(..., D) complex: those of right @ left, which left @ right has too, and otherwise zeros."""
        return torch.linalg.eigvals(self.right @ self.left)

    def diagonal(self) -> Tensor:
        """(..., N)"""
        return (self.left * self.right.mT).sum(dim=-1)

    def trace(self) -> Tensor:
        """(...): the sum of the diagonal."""
        return self.diagonal().sum(dim=-1)

    def norm(self) -> Tensor:
        """Frobenius."""
        return ((self.left.mT @ self.left) * (self.right @ self.right.mT)).sum(dim=(-2, -1)).clamp(min=0).sqrt()


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


# ----------------------------------------------------------------------------------------------------------------------
# Scores of attention patterns. All take patterns (..., B, H, T, T) and return one number for each sequence and head,
# (..., B, H), to be averaged over B, with a standard error.


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
    for layer in range(len(_blocks(model))):
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


# ----------------------------------------------------------------------------------------------------------------------
# What heads contribute


@torch.no_grad()
def logit_attribution(model: nn.Module, idx: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """What each part of the model adds directly to the logits of `tokens`, with the scale of the final layer norm as it
    was.

    idx and tokens are (B, T) int64; tokens[b, t] is the one whose logit at t is explained (the logit is linear in the
    parts, so for a difference of two tokens subtract two results). Returns, each summing to the logit with the others:
        embedding (B, T)      token and position
        heads (n_layer, H, B, T)     attn_bias (n_layer, B, T)     mlp (n_layer, B, T), 0 where there is none
        bias (B, T)           of the final layer norm
    """
    V = model.lm_head.out_features
    if tokens.shape != idx.shape or not 0 <= int(tokens.min()) <= int(tokens.max()) < V:
        raise ValueError(
            f"tokens, {tuple(tokens.shape)}, must be token ids from 0 to {V - 1}, one for each place of "
            f"idx, {tuple(idx.shape)}"
        )
    layers = range(len(_blocks(model)))
    mlps = [layer for layer in layers if hasattr(_blocks(model)[layer], "mlp")]
    with record(model, ["drop", "h.*", "h.*.attn.head_out"] + [f"h.{layer}.mlp" for layer in mlps]) as seen:
        model(idx)
    ln_f, W_U = model.transformer.ln_f, model.lm_head.weight
    std = (seen[f"h.{layers[-1]}"].var(dim=-1, unbiased=False) + ln_f.eps).sqrt()
    direction = W_U[tokens] * ln_f.weight
    direction = (direction - direction.mean(dim=-1, keepdim=True)) / std[..., None]  # (B, T, C)
    views = [head_views(model, layer) for layer in layers]
    heads = [
        torch.einsum("bhtd,hdc,btc->hbt", seen[f"h.{layer}.attn.head_out"], view["W_O"], direction)
        for layer, view in enumerate(views)
    ]
    zero = direction.new_zeros(idx.shape)
    return dict(
        embedding=(seen["drop"] * direction).sum(-1),
        heads=torch.stack(heads),
        attn_bias=torch.stack([direction @ view["b_O"] for view in views]),
        mlp=torch.stack([(seen[f"h.{layer}.mlp"] * direction).sum(-1) if layer in mlps else zero for layer in layers]),
        bias=W_U[tokens] @ ln_f.bias,
    )


@torch.no_grad()
def logit_lens(model: nn.Module, idx: Tensor) -> Tensor:
    """(n_layer + 1, B, T, V): the logits if the model ended before each layer, then its own (nostalgebraist 2020)."""
    with record(model, ["drop", "h.*"]) as seen:  # what goes into the first block, and what comes out of each
        model(idx)
    return torch.stack([model.lm_head(model.transformer.ln_f(x)) for x in seen.values()])


# ----------------------------------------------------------------------------------------------------------------------
# Interventions


@contextmanager
def ablate(
    model: nn.Module,
    heads: Iterable[Head],
    how: str = "zero",
    reference: Tensor | None = None,
    generator: torch.Generator | None = None,
):
    """While the context lasts, the outputs of `heads` say nothing about the text at hand.

    how: "zero": their outputs before W_O are 0
         "mean": their mean over all positions of `reference`, (B, T) int64, which is read once, beforehand
         "resample": those of another sequence of the batch at the same position; needs at least two
    """
    if how not in ("zero", "mean", "resample"):
        raise ValueError(f"how is {how!r}; it must be one of zero, mean, resample")
    if (reference is None) == (how == "mean"):
        raise ValueError("a reference is needed for how='mean', and for nothing else")
    by_layer = {}
    for layer, head in _checked(model, heads):
        by_layer.setdefault(f"h.{layer}.attn.head_out", []).append(head)
    means = {}
    if how == "mean" and by_layer:
        with torch.no_grad(), record(model, by_layer) as seen:
            model(reference)
        means = {name: x.mean(dim=(0, 2)) for name, x in seen.items()}  # (H, D)

    def change(name: str, chosen: list[int]) -> Callable[[Tensor], Tensor]:
        def silence(x):  # (B, H, T, D)
            if how == "zero":
                x[:, chosen] = 0
            elif how == "mean":
                x[:, chosen] = means[name][chosen, None].to(x.dtype)
            else:
                if len(x) < 2:
                    raise ValueError("to resample, a batch needs at least two sequences")
                shift = int(torch.randint(1, len(x), (), generator=generator))
                x[:, chosen] = x[:, chosen].roll(shift, dims=0)
            return x

        return silence

    with patch(model, {name: change(name, chosen) for name, chosen in by_layer.items()}):
        yield


Changes = dict[tuple[int, int, str], Tensor]  # (layer, head, "W_Q" ... "b_V") -> what to put there


@contextmanager
def edit(model: nn.Module, changes: Mapping[tuple[int, int, str], Tensor]):
    """While the context lasts, weights of heads are replaced; afterwards they are what they were, bit for bit.

    changes: (layer, head, part) -> the new weights; part is W_Q, W_K, W_V (C, D), W_O (D, C), b_Q, b_K or b_V (D,).
    Costs a copy of what is replaced, so that many edits can be tried on one model.
    """
    places = []
    for (layer, head, part), new in changes.items():
        _checked(model, [(layer, head)])
        views = head_views(model, layer)
        if part not in views or part == "b_O":
            raise ValueError(f"a head has no {part!r}; it has {', '.join(sorted(set(views) - {'b_O'}))}")
        place = views[part][head].detach()
        if place.shape != new.shape:
            raise ValueError(f"{part} of head {layer}.{head} is {tuple(place.shape)}, its change {tuple(new.shape)}")
        places.append((place, place.clone(), new))
    try:
        for place, _, new in places:
            place.copy_(new)
        yield
    finally:
        for place, old, _ in places:
            place.copy_(old)


def exchange(model: nn.Module, heads: Sequence[Head], order: Sequence[int], parts: Sequence[str]) -> Changes:
    """Changes for `edit`: heads[i] gets the `parts` (e.g. W_Q, W_K, b_Q, b_K) of heads[order[i]]."""
    heads = _checked(model, heads)
    if sorted(order) != list(range(len(heads))):
        raise ValueError(f"order must be a permutation of 0 to {len(heads) - 1}, not {list(order)}")
    views = {layer: head_views(model, layer) for layer, _ in heads}
    sources = [heads[i] for i in order]
    return {
        (layer, head, part): views[from_layer][part][from_head].detach().clone()
        for (layer, head), (from_layer, from_head) in zip(heads, sources)
        for part in parts
    }


def project(model: nn.Module, heads: Sequence[Head], part: str, basis: Tensor, keep: bool = False) -> Changes:
    """Changes for `edit`: take the span of `basis`, orthonormal (C, r), out of the residual side of W_Q, W_K, W_V or
    W_O.

    With `keep`, keep nothing else: W <- P W instead of (I - P) W for P = basis basis^T (W_O P, W_O (I - P) for W_O).
    """
    changes = {}
    for layer, head in _checked(model, heads):
        W = head_views(model, layer)[part][head].detach()
        inside = (W @ basis) @ basis.T if part == "W_O" else basis @ (basis.T @ W)
        changes[layer, head, part] = inside if keep else W - inside
    return changes


def _blocks(model: nn.Module) -> nn.ModuleList:
    return model.transformer.h


def _checked(model: nn.Module, heads: Iterable[Head]) -> list[Head]:
    heads, L, H = [tuple(head) for head in heads], len(_blocks(model)), model.config.n_head
    for layer, head in heads:
        if not (0 <= layer < L and 0 <= head < H):
            raise ValueError(f"there is no head {layer}.{head}; layers are 0 to {L - 1}, heads 0 to {H - 1}")
    return heads
