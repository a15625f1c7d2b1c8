"""The assignment's models. Each is a GPT with something else in the place of a part.

vanilla        learned positions
rope           rotary positions (Su et al. 2021)
synthesizer    attention that does not compare positions with one another (Tay et al. 2020, "dense")
perceiver      middle layers that work on a few summaries of the sequence (Jaegle et al. 2021)
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mingpt.generate import KVCache
from mingpt.interpret.hooks import add_hook_points
from mingpt.model import GPT, MLP, Block, GPTConfig, causal_mask

VARIANTS = ("vanilla", "rope", "synthesizer", "perceiver")


class ShiftedGPT(GPT):
    """A GPT whose sequences begin at a random position while it is trained, if `shift` is set.

    A biography begins with a name; in a question the name stands 10 characters later. Learned positions that saw names
    only at the beginning would not know it there.
    """

    shift = False

    def forward(self, idx: Tensor, targets: Tensor | None = None, positions: Tensor | None = None, cache=None):
        if self.shift and self.training and positions is None:
            block_size, T = self.config.block_size, idx.size(1)
            room = block_size - (idx != 0).sum(dim=1, keepdim=True)  # (B, 1); 0 is padding
            start = (torch.rand(room.shape, device=idx.device) * (room + 1)).long()
            # Only padding is moved past the end, and nothing looks at it.
            positions = (start + torch.arange(T, device=idx.device)).clamp(max=block_size - 1)  # (B, T)
        return super().forward(idx, targets, positions, cache)


# ----------------------------------------------------------------------------------------------------------------------


class SynthesizerAttention(nn.Module):
    """Attention whose scores come from the query's position alone: nothing is compared with a key.

        head = softmax(ReLU(x A + b1) B + b2 + mask) x W_V

    Every position writes down, from what stands there, how much it wants of the first, second, third ... token of the
    sequence (Tay et al. 2020, "Synthesizer", section 3.1). A and b1 are `c_hidden`, D channels for each head; W_V is
    `c_value`; B and b2 are `score_weight` (H, D, block_size) and `score_bias` (H, block_size).
    """

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.config, self.layer = config, layer
        self.c_hidden = nn.Linear(config.n_embd, config.n_embd)
        self.c_value = nn.Linear(config.n_embd, config.n_embd)
        self.score_weight = nn.Parameter(torch.empty(config.n_head, config.head_dim, config.block_size))
        self.score_bias = nn.Parameter(torch.zeros(config.n_head, config.block_size))
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.score_weight, std=config.head_dim**-0.5)
        add_hook_points(self, "scores", "pattern", "head_out")

    def forward(self, x: Tensor, rotation=None, cache: KVCache | None = None) -> Tensor:
        B, T, C = x.shape
        H, D = self.config.n_head, self.config.head_dim
        hidden, v = (
            linear(x).view(B, T, H, D).transpose(1, 2) for linear in (self.c_hidden, self.c_value)
        )  # (B, H, T, D)
        mask = None
        if cache is not None:
            _, v = cache.append(self.layer, v, v)  # (B, H, S, D): column p holds the token at position p
            mask = cache.mask(T)
        mask = causal_mask(hidden, v) if mask is None else mask.to(v.dtype)
        S = v.size(2)
        weight, bias = self.score_weight[:, :, :S], self.score_bias[:, None, :S]
        scores = self.scores(F.relu(hidden) @ weight + bias + mask)  # (B, H, T, S)
        pattern = F.dropout(self.pattern(scores.softmax(dim=-1)), self.config.dropout, self.training)
        y = self.head_out(pattern @ v).transpose(1, 2).reshape(B, T, C)
        return self.resid_dropout(self.c_proj(y))


class Synthesizer(ShiftedGPT):
    """A GPT with `SynthesizerAttention` in every layer."""

    def make_blocks(self) -> list[nn.Module]:
        blocks = super().make_blocks()
        for layer, block in enumerate(blocks):
            block.attn = SynthesizerAttention(self.config, layer)
        return blocks


# ----------------------------------------------------------------------------------------------------------------------


class CrossAttention(nn.Module):
    """Queries from one sequence, keys and values from another."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.c_query = nn.Linear(config.n_embd, config.n_embd)
        self.c_key = nn.Linear(config.n_embd, config.n_embd)
        self.c_value = nn.Linear(config.n_embd, config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.dropout)
        add_hook_points(self, "pattern")

    def forward(self, x: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """x (B, T, C) asks source (B, S, C) through mask (T, S), 0 or -inf. Returns (B, T, C).

        A query that may look nowhere gets zeros: each row of the softmax has one more column, of score 0 and value 0.
        """
        B, T, C = x.shape
        H, D = self.config.n_head, self.config.head_dim
        q = self.c_query(x).view(B, T, H, D).transpose(1, 2)  # (B, H, T, D)
        k, v = (
            linear(source).view(B, -1, H, D).transpose(1, 2) for linear in (self.c_key, self.c_value)
        )  # (B, H, S, D)
        if self.config.qk_norm:
            q, k = F.rms_norm(q, (D,)), F.rms_norm(k, (D,))
        scores = F.pad(q @ k.transpose(-2, -1) / math.sqrt(D) + mask, (1, 0))  # (B, H, T, 1 + S)
        pattern = self.pattern(scores.softmax(dim=-1)[..., 1:])
        y = F.dropout(pattern, self.config.dropout, self.training) @ v  # (B, H, T, D)
        return self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(B, T, C)))


class CrossBlock(nn.Module):
    """A layer that reads another sequence: cross-attention and an MLP, each added to the residual."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.ln_1, self.ln_source, self.ln_2 = (nn.LayerNorm(config.n_embd) for _ in range(3))
        self.attn = CrossAttention(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x), self.ln_source(source), mask)
        return x + self.mlp(self.ln_2(x))


class Bottleneck(nn.Module):
    """Middle layers that work on `bottleneck_dim` learned vectors instead of on all positions (Jaegle et al. 2021).

    Vector j goes with the j-th of as many equal segments of the block: it reads all positions up to the end of its
    segment, the middle layers let it see the vectors before it, and a position reads the vectors whose segments are
    complete. So nothing that comes later can be seen. (If each vector read everything, the whole future would leak
    through them; if vector j read only up to position j, all positions beyond the number of vectors would be lost.)
    """

    def __init__(self, config: GPTConfig, bottleneck_dim: int):
        super().__init__()
        self.stride = -(-config.block_size // bottleneck_dim)  # positions in a segment
        self.vectors = nn.Parameter(0.02 * torch.randn(bottleneck_dim, config.n_embd))
        self.down, self.up = CrossBlock(config), CrossBlock(config)
        self.h = nn.ModuleList([Block(config, layer) for layer in range(1, config.n_layer - 1)])

    def forward(self, x: Tensor, rotation=None, cache: KVCache | None = None) -> Tensor:
        assert cache is None, "a summary is not of one position: Perceiver generates without a cache"
        B, T, C = x.shape
        n = T // self.stride  # segments that are complete
        ends = self.stride * torch.arange(1, n + 1, device=x.device) - 1  # their last positions
        past = torch.arange(T, device=x.device) <= ends[:, None]  # (n, T): what each vector may read
        known = ends <= torch.arange(T, device=x.device)[:, None]  # (T, n): which vectors each position may read
        past, known = (torch.zeros(m.shape, device=x.device).masked_fill_(~m, -math.inf) for m in (past, known))
        y = self.down(self.vectors[:n].expand(B, n, C), x, past)
        for block in self.h:
            y = block(y)
        return self.up(x, y, known)


class Perceiver(ShiftedGPT):
    """A GPT whose layers between the first and the last are a `Bottleneck`."""

    def __init__(self, config: GPTConfig, bottleneck_dim: int = 32):
        if config.n_layer < 2:
            raise ValueError(
                f"n_layer is {config.n_layer}; a perceiver has one layer before its bottleneck and one after"
            )
        if not 1 <= bottleneck_dim <= config.block_size:
            raise ValueError(f"bottleneck_dim is {bottleneck_dim}; it must be in [1, block_size = {config.block_size}]")
        self.bottleneck_dim = bottleneck_dim
        super().__init__(config)

    def make_blocks(self) -> list[nn.Module]:
        last = self.config.n_layer - 1
        return [Block(self.config, 0), Bottleneck(self.config, self.bottleneck_dim), Block(self.config, last)]

    def generate(self, idx, max_new_tokens, *args, **options):
        """Without a cache; otherwise as GPT's."""
        return super().generate(idx, max_new_tokens, *args, **{**options, "use_cache": False})


# ----------------------------------------------------------------------------------------------------------------------


def make_variant(variant: str, config: GPTConfig, shift: bool = False, bottleneck_dim: int = 32) -> GPT:
    """A fresh model of one of the VARIANTS."""
    if variant not in VARIANTS:
        raise ValueError(f"no variant is called {variant!r}; there are {', '.join(VARIANTS)}")
    config = replace(config, positions="rotary" if variant == "rope" else "learned")
    if variant == "perceiver":
        model = Perceiver(config, bottleneck_dim)
    else:
        model = (Synthesizer if variant == "synthesizer" else ShiftedGPT)(config)
    # Rotary positions see distances only: shifting them would change nothing. A synthesizer's scores are for places 0,
    # 1, 2
    # ... of the block; shifting the embeddings of positions would not shift those.
    model.shift = shift and variant in ("vanilla", "perceiver")
    return model
