"""What the parts of a model contribute to its logits."""

import torch
from torch import Tensor, nn

from mingpt.interpret.hooks import record
from mingpt.interpret.weights import blocks, head_views


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
    layers = range(len(blocks(model)))
    mlps = [layer for layer in layers if hasattr(blocks(model)[layer], "mlp")]
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
