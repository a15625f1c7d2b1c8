"""The weights of attention heads, one by one.

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

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

Head = tuple[int, int]  # (layer, head), both from 0


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
    def qk(self) -> Factored:
        """W_Q W_K^T of every head, (n_layer, H, C, C): score = x_query W_QK x_key^T / sqrt(D), but for the biases."""
        return Factored(self.W_Q, self.W_K.mT)

    @property
    def ov(self) -> Factored:
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
    attn, H = blocks(model)[layer].attn, model.config.n_head
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
    for layer, block in enumerate(blocks(model)):
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


def blocks(model: nn.Module) -> nn.ModuleList:
    """The layers of a model."""
    return model.transformer.h


def checked(model: nn.Module, heads: Iterable[Head]) -> list[Head]:
    """The heads as a list. ValueError for one that the model does not have."""
    heads, L, H = [tuple(head) for head in heads], len(blocks(model)), model.config.n_head
    for layer, head in heads:
        if not (0 <= layer < L and 0 <= head < H):
            raise ValueError(f"there is no head {layer}.{head}; layers are 0 to {L - 1}, heads 0 to {H - 1}")
    return heads
