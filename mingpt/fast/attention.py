"""Attention without storing more than it must; equals `mingpt.model.attention`."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def fast_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(D) + mask) v, by the kernel that is fastest on this device, in this dtype and shape.

    q is (B, H, T, D), k and v are (B, H, S, D); mask broadcasts to (B, H, T, S). Without one, the queries stand at the
    last T of S positions, either T = S or T = 1. Returns (B, H, T, D).

    PyTorch's fused kernel wins everywhere but in training on a CPU in 16 bits, where its backward pass is slow. There
    the pattern is stored, as long as it is small; at 4,096 positions it would take 32 MB a head.
    """
    training = mask is None and q.size(-2) == k.size(-2) and torch.is_grad_enabled() and q.requires_grad
    if training and q.device.type == "cpu" and q.element_size() == 2 and q.size(-2) <= 1024:
        return batched_attention(q, k, v, dropout)
    return fused_attention(q, k, v, mask, dropout)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """PyTorch's one kernel for all of it. It never stores the (T, S) pattern, so memory grows with T, not with T^2."""
    causal = (
        True if mask is None and q.size(-2) == k.size(-2) else False
    )  # a bool also where sizes are symbols or tensors
    mask = None if mask is None else mask.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)


def batched_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """The textbook formula in three kernels: scale and causal mask are folded into the first product."""
    B, H, T, D = q.shape
    q, k, v = (x.reshape(B * H, T, D) for x in (q, k, v))
    mask = q.new_full((T, T), -math.inf).triu(1)
    scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=1 / math.sqrt(D))  # (B*H, T, T)
    pattern = F.dropout(scores.softmax(dim=-1), dropout)
    return torch.bmm(pattern, v).view(B, H, T, D)
