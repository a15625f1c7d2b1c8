"""GPT-2, to be read from top to bottom: configuration, attention, MLP, block, the whole model.

Shape letters, used in every file of this project:
    B  batch              T  time: positions in the sequence
    C  n_embd: width      H  n_head: attention heads
    D  head_dim = C / H   S  key positions (S = T unless a cache holds earlier ones)
    V  vocab_size

The architecture is that of Radford et al. 2019. Module names are GPT-2's as well, so its published weights load by
name. Where a line says `fast.on()`, `mingpt/fast` computes the same sooner: to follow the plain way, set MINGPT_FAST=0.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mingpt import fast
from mingpt.fast.attention import fast_attention
from mingpt.fast.cross_entropy import fast_cross_entropy
from mingpt.fast.gelu import fast_gelu
from mingpt.generate import KVCache, generate
from mingpt.interpret.hooks import HookPoint, add_hook_points

PRESETS = {
    name: dict(n_layer=n_layer, n_head=n_head, n_embd=n_embd)
    for name, n_layer, n_head, n_embd in (
        ("gpt2", 12, 12, 768),
        ("gpt2-medium", 24, 16, 1024),  # 124 and 354 million parameters
        ("gpt2-large", 36, 20, 1280),
        ("gpt2-xl", 48, 25, 1600),  # 774 million and 1.56 billion
        ("gpt-mini", 6, 6, 192),
        ("gpt-micro", 4, 4, 128),
        ("gpt-nano", 3, 3, 48),
    )
}


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT. The defaults are GPT-2's smallest published model."""

    vocab_size: int = 50257
    block_size: int = 1024  # the longest sequence, in tokens
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0  # probability to zero an entry of the pattern, or of what a layer adds; in training only
    tie_weights: bool = True  # the output layer multiplies by the table of token embeddings
    positions: str = "learned"  # a vector a position, added; or "rotary": queries and keys are turned by an angle
    qk_norm: bool = False  # queries and keys of root mean square 1, which bounds the scores (Henry et al. 2020)

    def __post_init__(self):
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd is {self.n_embd}, which {self.n_head} heads do not divide; change n_embd or n_head"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be in [0, 1)")
        if self.positions not in ("learned", "rotary"):
            raise ValueError(f"positions is {self.positions!r}; it must be one of learned, rotary")
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(
                f"head_dim is {self.head_dim}; rotary positions turn pairs of channels, so it must be even"
            )

    @property
    def head_dim(self) -> int:
        """Channels of one head, D = C / H."""
        return self.n_embd // self.n_head

    @classmethod
    def from_name(cls, name: str, **changes) -> "GPTConfig":
        """A preset by name, e.g. `GPTConfig.from_name("gpt-nano", vocab_size=65)`."""
        if name not in PRESETS:
            raise ValueError(f"no preset is called {name!r}; there are {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **changes})


# ----------------------------------------------------------------------------------------------------------------------


def causal_mask(q: Tensor, k: Tensor) -> Tensor:
    """(T, S): 0 where a query may look, at its own position and those before it, and -inf elsewhere.

    The T queries stand at the last T of S positions: row t is position S - T + t.
    """
    T, S = q.size(-2), k.size(-2)
    return q.new_full((T, S), -math.inf).triu(S - T + 1)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    scores_point: nn.Module = HookPoint(),
    pattern_point: nn.Module = HookPoint(),
) -> Tensor:
    """softmax(q k^T / sqrt(D) + mask) v, the textbook formula (Vaswani et al. 2017, equation 1).

    q is (B, H, T, D), k and v are (B, H, S, D). mask broadcasts to (B, H, T, S); it is causal unless given. Returns
    (B, H, T, D).
    """
    mask = causal_mask(q, k) if mask is None else mask.to(q.dtype)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))  # (B, H, T, S); without the root, they would grow with D
    scores = scores_point(scores + mask)  # exp(-inf) = 0: what is masked gets no weight, exactly
    pattern = pattern_point(scores.softmax(dim=-1))  # each row sums to 1: where this query looks
    return F.dropout(pattern, dropout) @ v


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair of channels (i, i + D/2) of x, (B, H, T, D), by its position's angle (Su et al. 2021, eq. 34).

    The product of a query and a key then depends on their distance only.
    """
    cos, sin = (part.to(x.dtype) for part in rotation)  # (T, D/2) each
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class CausalSelfAttention(nn.Module):
    """Multi-head self-attention in which a position sees itself and what came before it."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.config = config
        self.layer = layer  # its place in the cache
        self.c_attn = nn.Linear(
            config.n_embd, 3 * config.n_embd
        )  # queries, keys and values of all heads in one product
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.dropout)
        add_hook_points(self, "q", "k", "v", "scores", "pattern", "head_out")  # identities with a name

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None = None, cache: KVCache | None = None) -> Tensor:
        B, T, C = x.shape
        H, D = self.config.n_head, self.config.head_dim
        q, k, v = (part.view(B, T, H, D).transpose(1, 2) for part in self.c_attn(x).split(C, dim=2))  # (B, H, T, D)
        if self.config.qk_norm:
            q, k = F.rms_norm(q, (D,)), F.rms_norm(k, (D,))
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)  # not v: what is moved does not depend on where it stood
        q, k, v = self.q(q), self.k(k), self.v(v)
        mask = None  # causal
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (B, H, S, D): all tokens so far
            mask = cache.mask(T)

        dropout = self.config.dropout if self.training else 0.0
        if fast.on() and not (self.scores.in_use or self.pattern.in_use):  # it never holds those two
            y = fast_attention(q, k, v, mask, dropout)
        else:
            y = attention(q, k, v, mask, dropout, self.scores, self.pattern)
        y = self.head_out(y).transpose(1, 2).reshape(B, T, C)  # heads side by side again
        return self.resid_dropout(self.c_proj(y))


def gelu(x: Tensor) -> Tensor:
    """x Φ(x) in GPT-2's tanh form (Hendrycks and Gimpel 2016); Φ is the standard normal distribution function."""
    if fast.on():
        return fast_gelu(x)
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class MLP(nn.Module):
    """Two linear layers with 4 C hidden channels between them, applied to every position on its own."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.dropout)
        add_hook_points(self, "hidden")

    def forward(self, x: Tensor) -> Tensor:
        return self.resid_dropout(self.c_proj(self.hidden(gelu(self.c_fc(x)))))


class Block(nn.Module):
    """One layer: attention moves information between positions, the MLP works on it."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)
        add_hook_points(self, "resid_pre", "resid_mid", "resid_post")

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None = None, cache: KVCache | None = None) -> Tensor:
        # Both add to x, the residual stream, which has no norm in its way: gradients reach the first layer
        # undiminished.
        x = self.resid_pre(x)
        x = self.resid_mid(x + self.attn(self.ln_1(x), rotation, cache))
        return self.resid_post(x + self.mlp(self.ln_2(x)))


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood, in nats, of targets (B, T) under logits (B, T, V), in float32.

    Targets of -1 do not count. Where all are -1 the loss is 0: a mean over nothing would be NaN and spoil the weights.
    """
    if fast.on():
        return fast_cross_entropy(logits, targets)
    logits, targets = logits.flatten(0, 1).float(), targets.flatten()
    total = F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")
    return total / (targets != -1).sum().clamp(min=1)


# ----------------------------------------------------------------------------------------------------------------------


class GPT(nn.Module):
    """The whole model: token ids in, logits for the next token at every position out."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        T, C = config.block_size, config.n_embd
        self.transformer = nn.ModuleDict()
        self.transformer["wte"] = nn.Embedding(config.vocab_size, C)
        if config.positions == "learned":
            self.transformer["wpe"] = nn.Embedding(T, C)
        self.transformer["drop"] = nn.Dropout(config.dropout)
        self.transformer["h"] = nn.ModuleList(self.make_blocks())
        self.transformer["ln_f"] = nn.LayerNorm(C)
        self.lm_head = nn.Linear(C, config.vocab_size, bias=False)
        if config.tie_weights:
            self.lm_head.weight = self.transformer.wte.weight

        if config.positions == "rotary":
            # The first pair of channels turns by 1 radian a position, the last by almost 1/10,000.
            frequency = 10000.0 ** (-torch.arange(0, config.head_dim, 2) / config.head_dim)  # (D/2,)
            angle = torch.arange(T)[:, None] * frequency
            self.register_buffer("cos", angle.cos(), persistent=False)  # computed, so not part of what is saved
            self.register_buffer("sin", angle.sin(), persistent=False)
        self.init_weights()

    def make_blocks(self) -> list[nn.Module]:
        """The layers, in order, each called as `block(x, rotation, cache)`. Override it to put something else there."""
        return [Block(self.config, layer) for layer in range(self.config.n_layer)]

    def init_weights(self) -> None:
        """GPT-2's initialisation: normal weights of standard deviation 0.02, biases 0, layer norms the identity.

        The c_proj layers write to the residual, 2 n_layer times: divided by the root of that, their sum keeps its size.
        """
        for name, module in self.named_modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                std = 0.02 / math.sqrt(2 * self.config.n_layer) if name.endswith("c_proj") else 0.02
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def num_parameters(self) -> int:
        """How many numbers the model learns. Tied weights count once."""
        return sum(p.numel() for p in self.parameters())

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, positions: Tensor | None = None, cache: KVCache | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Predict the token after each position.

        idx        (B, T) int64, T <= block_size
        targets    (B, T) int64, the tokens to predict; -1 where there is nothing to learn
        positions  (B, T), (1, T) or (T,) int64, where the tokens stand; from 0, or on from the cache, unless given
        cache      holds the tokens that come before idx, and afterwards idx too

        Returns (logits, loss): logits (B, T, V); loss a scalar, see `cross_entropy`, or None without targets.
        """
        T, held = idx.size(1), 0 if cache is None else cache.longest
        if held + T > self.config.block_size:
            raise ValueError(f"{held + T} tokens do not fit into block_size {self.config.block_size}; cut the input")
        if positions is None:
            positions = torch.arange(T, device=idx.device) if cache is None else cache.positions(T)

        x = self.transformer.wte(idx)  # (B, T, C)
        if self.config.positions == "learned":
            x = x + self.transformer.wpe(positions)
        x = self.transformer.drop(x)
        rotation = self.rotation(positions)
        for block in self.transformer.h:
            x = block(x, rotation, cache)
        logits = self.lm_head(self.transformer.ln_f(x))  # (B, T, V)
        if cache is not None:
            cache.advance(T)
        return logits, None if targets is None else cross_entropy(logits, targets)

    def rotation(self, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines of the rotary angles, (T, D/2), or (B or 1, 1, T, D/2) for positions by row; else None."""
        if self.config.positions != "rotary":
            return None
        cos, sin = self.cos[positions], self.sin[positions]
        return (cos, sin) if positions.ndim == 1 else (cos.unsqueeze(1), sin.unsqueeze(1))  # the same for all heads

    def generate(self, idx, max_new_tokens, temperature=1.0, do_sample=False, top_k=None, **options):
        """Continue `idx` by up to `max_new_tokens` tokens; see `mingpt.generate.generate` for all options."""
        return generate(self, idx, max_new_tokens, temperature, do_sample, top_k, **options)

    @classmethod
    def from_pretrained(cls, source, **options) -> "GPT":
        """GPT-2 by name ("gpt2" ...

        "gpt2-xl"), or a folder or file of its format; see `mingpt.pretrained.gpt2.load`.
        """
        from mingpt.pretrained import gpt2  # here, as it imports this file

        return gpt2.load(cls, source, **options)

    def save_pretrained(self, folder) -> None:
        """Write a folder that `from_pretrained`, transformers' and ours, loads; see `mingpt.pretrained.gpt2.save`."""
        from mingpt.pretrained import gpt2

        gpt2.save(self, folder)
