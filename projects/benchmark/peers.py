"""Plain renderings of the public ways to write and train a GPT, on our parameters: minGPT's and nanoGPT's."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mingpt.model import GPT, MLP, GPTConfig


class PlainAttention(nn.Module):
    """Attention as minGPT writes it (`fused=False`) or as nanoGPT does (`fused=True`), with our parameters' names."""

    def __init__(self, config: GPTConfig, fused: bool):
        super().__init__()
        self.n_head, self.fused = config.n_head, fused
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.register_buffer(
            "allowed", torch.ones(config.block_size, config.block_size).tril().bool(), persistent=False
        )

    def forward(self, x: Tensor, rotation=None, cache=None) -> Tensor:
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.n_head, -1).transpose(1, 2) for part in self.c_attn(x).split(C, dim=2))
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
            scores = scores.masked_fill(~self.allowed[:T, :T], -math.inf)
            y = F.softmax(scores, dim=-1) @ v
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))


class PlainMLP(MLP):
    """The MLP as both write it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class PlainGPT(GPT):
    """minGPT's way: our GPT, its layers and its loss written plainly."""

    fused = False

    def make_blocks(self) -> list[nn.Module]:
        blocks = super().make_blocks()
        for block in blocks:
            block.attn = PlainAttention(self.config, self.fused)
            block.mlp = PlainMLP(self.config)
        return blocks

    def forward(self, idx: Tensor, targets: Tensor | None = None):
        logits, _ = super().forward(idx)
        return logits, None if targets is None else F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=-1
        )


class NanoGPT(PlainGPT):
    """nanoGPT's way: the same with PyTorch's fused attention."""

    fused = True
