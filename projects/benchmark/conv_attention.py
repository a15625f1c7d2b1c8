"""A training step of ConvAttentionNet beside the assignment's own forward pass.

The shape is that of the full-size study in projects/wikitext_induction: 384 wide, 8,192 tokens in the vocabulary, 16
sequences of 256. The peer is a plain float32 rendering of the architecture as it is usually written: three linear maps,
`Conv1d` between two permutations, `scaled_dot_product_attention`, PyTorch's cross-entropy, AdamW as it comes. "Masked
weight.data" cuts the convolution's weight off from the gradient, as the assignment's code does, and so saves its
backward pass; "masked in use" has it, and is the one that trains what ours trains.

Each step is forward, backward, clipping to norm 1, and the update; memory management as in training.py.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mingpt.conv_attention import ConvAttentionConfig, ConvAttentionNet
from mingpt.fast.memory import keep_freed_memory
from mingpt.support.devices import has_fast_bfloat16
from projects.benchmark.harness import Table, compare, usual_memory
from projects.benchmark.steps import our_step, plain_step
from projects.benchmark.training import settle


class PlainConvAttention(nn.Module):
    """The assignment's net, written the plain way: `cut` masks the convolution's `weight.data`, else the weight in
    use."""

    def __init__(self, vocab_size: int, n_embd: int, cut: bool):
        super().__init__()
        self.cut = cut
        self.embeddings = nn.Embedding(vocab_size, n_embd)
        self.conv = nn.Conv1d(n_embd, n_embd, 3, padding=1)
        self.register_buffer("tap_mask", torch.tensor([1.0, 1.0, 0.0]))
        self.maps = nn.ModuleList(nn.Linear(n_embd, n_embd, bias=False) for _ in range(3))
        self.lm_head = nn.Linear(n_embd, vocab_size)

    def forward(self, idx: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        weight = (self.conv.weight.data if self.cut else self.conv.weight) * self.tap_mask
        x = F.conv1d(self.embeddings(idx).permute(0, 2, 1).contiguous(), weight, self.conv.bias, padding=1)
        q, k, v = (linear(x.permute(0, 2, 1).contiguous()) for linear in self.maps)
        logits = self.lm_head(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


def measure(quick: bool = False, repeats: int = 7) -> Iterator[Table]:
    """One table."""
    V, C, B, T = (8192, 384, 16, 256) if not quick else (256, 32, 4, 32)
    config = ConvAttentionConfig(vocab_size=V, block_size=T, n_embd=C)
    torch.manual_seed(0)
    x, y = torch.randint(0, V, (2, B, T))

    plain = {
        "published, weight.data masked": PlainConvAttention(V, C, cut=True),
        "published, masked in use": PlainConvAttention(V, C, cut=False),
    }
    steps = {name: plain_step(net, torch.optim.AdamW(net.parameters(), lr=3e-4), x, y) for name, net in plain.items()}
    steps["ours, float32"] = our_step(ConvAttentionNet(config), "float32", x, y)
    if has_fast_bfloat16(torch.device("cpu")):
        steps["ours, bfloat16"] = our_step(ConvAttentionNet(config), "bfloat16", x, y)
    before = {
        name: partial(settle, step, usual_memory if name in plain else keep_freed_memory)
        for name, step in steps.items()
    }
    yield Table(
        f"Training step: conv-attention net, {C} wide, vocabulary {V:,}, {B} sequences of {T}",
        compare(steps, repeats=repeats, before=before),
        list(steps)[-1],
        B * T,
        "tokens",
        {"published, weight.data masked": 2.5} if not quick else {},
    )
