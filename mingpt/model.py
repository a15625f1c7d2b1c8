"""A GPT-2-shaped language model, to be read from top to bottom.

Shape letters, used in every file of this project:
    B  batch              T  time: positions in the sequence
    C  n_embd: width      H  n_head: attention heads
    D  head_dim = C / H   S  key positions (S = T unless a cache holds earlier ones)
    V  vocab_size

The architecture is GPT-2's (Radford et al. 2019): token and position embeddings, `n_layer` pre-norm blocks of causal
self-attention and a GELU MLP, a final layer norm, and a linear head. Module names are GPT-2's as well, so its
published weights load by name.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mingpt.generate import KVCache, generate
from mingpt.hooks import Tap, add_taps
from mingpt.loss import cross_entropy

PRESETS = {
    "gpt2": dict(n_layer=12, n_head=12, n_embd=768),  # 124 million parameters
    "gpt2-medium": dict(n_layer=24, n_head=16, n_embd=1024),  # 354 million
    "gpt2-large": dict(n_layer=36, n_head=20, n_embd=1280),  # 774 million
    "gpt2-xl": dict(n_layer=48, n_head=25, n_embd=1600),  # 1.56 billion
    "gpt-mini": dict(n_layer=6, n_head=6, n_embd=192),
    "gpt-micro": dict(n_layer=4, n_head=4, n_embd=128),
    "gpt-nano": dict(n_layer=3, n_head=3, n_embd=48),
}


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT. The defaults are GPT-2's smallest published model.

    `positions` is "learned" (a table `wpe` added to the embeddings) or "rotary" (queries and keys turned by an angle
    that grows with the position; Su et al. 2021). `qk_norm` scales queries and keys to unit root mean square, which
    bounds the attention scores (Henry et al. 2020). `tie_weights`: the output layer multiplies by the table of token
    embeddings, as in GPT-2. `dropout` is a probability, and 0 outside of training. `attention` is "auto" for the fastest of
    the three functions below, or the name of one: "explicit", "batched" or "fused".
    """

    vocab_size: int = 50257
    block_size: int = 1024
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    tie_weights: bool = True
    positions: str = "learned"
    qk_norm: bool = False
    attention: str = "auto"

    def __post_init__(self):
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd is {self.n_embd}, which {self.n_head} heads do not divide; change n_embd or n_head")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be in [0, 1)")
        for name, allowed in (("positions", ("learned", "rotary")), ("attention", ("auto", "explicit", "batched", "fused"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}; rotary positions turn pairs of channels, so it must be even")

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
# Attention. All three functions compute softmax(q k^T / sqrt(D) + mask) v and differ only in how. `dropout` is the
# probability to drop an entry of the pattern: the caller gives 0 unless it trains. A `Tap` is an identity: a name for what
# passes there, so that `mingpt.hooks` can record or change it.


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float,
                       scores_tap: nn.Module = Tap(), pattern_tap: nn.Module = Tap()) -> Tensor:
    """The textbook formula (Vaswani et al. 2017, equation 1).

    q is (B, H, T, D), k and v are (B, H, S, D); mask broadcasts to (B, H, T, S) and holds 0 where a query may look and
    -inf where it may not. Returns (B, H, T, D).
    """
    scores = scores_tap(q @ k.transpose(-2, -1) / math.sqrt(q.size(-1)) + mask)  # (B, H, T, S)
    pattern = pattern_tap(scores.softmax(dim=-1))
    return F.dropout(pattern, dropout) @ v


def batched_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """The same in three kernels: scale and mask are folded into the product."""
    B, H, T, D = q.shape
    q, k, v = (x.reshape(B * H, -1, D) for x in (q, k, v))
    if mask.ndim == 4:  # with a cache: (B or 1, 1, T, S)
        mask = mask.expand(B, H, -1, -1).reshape(B * H, T, -1)
    scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=1 / math.sqrt(D))  # (B*H, T, S)
    pattern = F.dropout(scores.softmax(dim=-1), dropout)
    return torch.bmm(pattern, v).view(B, H, T, D)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """The same in PyTorch's one fused kernel, which never stores the (T, S) pattern.

    Without a mask: causal among T = S positions, or one query, T = 1, that sees all S keys.
    """
    causal = True if mask is None and q.size(-2) == k.size(-2) else False  # a bool also where sizes are symbols or tensors
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)


def fastest_attention(q: Tensor, plain_causal: bool) -> str:
    """Which of the above is fastest for queries on this device, in this dtype and shape: "fused" or "batched".

    PyTorch's fused kernel wins everywhere but in training on a CPU in 16 bits, where its backward pass is slow. There
    the pattern is stored, as long as it is small: at 4,096 positions it would take 32 MB a head.
    """
    training = torch.is_grad_enabled() and q.requires_grad
    if training and plain_causal and q.device.type == "cpu" and q.element_size() == 2 and q.size(-2) <= 1024:
        return "batched"
    return "fused"


@dataclass
class Context:
    """What every layer needs to know about the positions it is given."""

    plain_causal: bool  # the mask is the usual triangle, or its last row: one new token that sees all before it
    rotation: tuple[Tensor, Tensor] | None  # cosines and sines of the rotary angles, each (..., T, D/2)
    cache: KVCache | None
    _mask: Tensor | None = None

    def mask(self, q: Tensor) -> Tensor:
        """0 where a query of q, (B, H, T, D), may look, and -inf where not: (T, T), or (B or 1, 1, T, S) with a cache.

        Made when a layer asks for it first: the fused kernel does without, and at 16,384 positions it takes 1 GB.
        """
        T = q.size(-2)
        if self._mask is None or self._mask.size(-2) != T:
            triangle = torch.full((T, T), -math.inf, device=q.device).triu(1) if self.cache is None else self.cache.mask(T)
            self._mask = triangle.to(q.dtype)
        return self._mask


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair of channels (i, i + D/2) of x, (B, H, T, D), by its position's angle (Su et al. 2021, eq. 34)."""
    cos, sin = (part.to(x.dtype) for part in rotation)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class CausalSelfAttention(nn.Module):
    """Multi-head self-attention in which a position sees itself and what came before it."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.config = config
        self.layer = layer  # its place in the cache
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.dropout)
        add_taps(self, "q", "k", "v", "scores", "pattern", "head_out")

    def forward(self, x: Tensor, context: Context) -> Tensor:
        B, T, C = x.shape
        H, D = self.config.n_head, self.config.head_dim
        q, k, v = (part.view(B, T, H, D).transpose(1, 2) for part in self.c_attn(x).split(C, dim=2))  # (B, H, T, D)
        if self.config.qk_norm:
            q, k = F.rms_norm(q, (D,)), F.rms_norm(k, (D,))
        if context.rotation is not None:
            q, k = rotate(q, context.rotation), rotate(k, context.rotation)
        q, k, v = self.q(q), self.k(k), self.v(v)
        if context.cache is not None:
            k, v = context.cache.append(self.layer, k, v)  # (B, H, S, D)

        dropout = self.config.dropout if self.training else 0.0
        how = self.config.attention
        if self.scores.in_use or self.pattern.in_use:
            how = "explicit"  # the others never hold them
        elif how == "auto":
            how = fastest_attention(q, context.plain_causal)
        if how == "explicit":
            y = explicit_attention(q, k, v, context.mask(q), dropout, self.scores, self.pattern)
        elif how == "batched":
            y = batched_attention(q, k, v, context.mask(q), dropout)
        else:
            y = fused_attention(q, k, v, None if context.plain_causal else context.mask(q), dropout)
        y = self.head_out(y).transpose(1, 2).reshape(B, T, C)  # heads side by side again
        return self.resid_dropout(self.c_proj(y))


def gelu(x: Tensor) -> Tensor:
    """x Φ(x), Φ being the standard normal distribution function, in GPT-2's tanh form of it (Hendrycks and Gimpel 2016).

    For 16-bit numbers on a CPU it is the exact form, since PyTorch's tanh form takes three times as long there. The two
    differ by less than 5e-4, a sixteenth of the distance between neighbouring bfloat16 numbers at 1.
    """
    exact = x.device.type == "cpu" and x.element_size() == 2
    return F.gelu(x, approximate="none" if exact else "tanh")


class MLP(nn.Module):
    """Two linear layers with 4 C hidden channels between them, applied to every position on its own."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.dropout)
        add_taps(self, "hidden")

    def forward(self, x: Tensor) -> Tensor:
        return self.resid_dropout(self.c_proj(self.hidden(gelu(self.c_fc(x)))))


class Block(nn.Module):
    """One layer: attention moves information between positions, the MLP works on it. Both add to the residual."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)
        add_taps(self, "resid_pre", "resid_mid", "resid_post")

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = self.resid_pre(x)
        x = self.resid_mid(x + self.attn(self.ln_1(x), context))
        return self.resid_post(x + self.mlp(self.ln_2(x)))


# ----------------------------------------------------------------------------------------------------------------------


class GPT(nn.Module):
    """The whole model: token indices in, logits for the next token at every position out."""

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
            frequency = 10000.0 ** (-torch.arange(0, config.head_dim, 2) / config.head_dim)  # (D/2,) radians a position
            angle = torch.arange(T)[:, None] * frequency
            # Not parameters, and computed from the config, so not part of what is saved.
            self.register_buffer("cos", angle.cos(), persistent=False)
            self.register_buffer("sin", angle.sin(), persistent=False)
        self.init_weights()

    def make_blocks(self) -> list[nn.Module]:
        """The layers, in order, each called as `block(x, context)`. Override it to put something else there."""
        return [Block(self.config, layer) for layer in range(self.config.n_layer)]

    def init_weights(self) -> None:
        """GPT-2's initialisation.

        linear and embedding weights                   normal, standard deviation 0.02
        c_proj weights, which write to the residual    the same divided by sqrt(2 n_layer), so that the sum of
                                                       2 n_layer contributions keeps its size
        biases                                         0
        layer norms                                    weight 1, bias 0
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

    def forward(self, idx: Tensor, targets: Tensor | None = None, positions: Tensor | None = None,
                cache: KVCache | None = None) -> tuple[Tensor, Tensor | None]:
        """Predict the token after each position.

        idx        (B, T) int64, T <= block_size
        targets    (B, T) int64, the tokens to predict; -1 where there is nothing to learn
        positions  (B, T), (1, T) or (T,) int64, where the tokens stand; from 0, or on from the cache, unless given
        cache      holds the tokens that come before idx, and afterwards idx too

        Returns (logits, loss): logits (B, T, V); loss a scalar, the mean cross-entropy in nats over all targets that
        are not -1 (0 if all are), or None without targets.
        """
        T, held = idx.size(1), 0 if cache is None else cache.longest
        if held + T > self.config.block_size:
            raise ValueError(f"{held + T} tokens do not fit into block_size {self.config.block_size}; cut the input")
        if positions is None:
            positions = torch.arange(T, device=idx.device) if cache is None else cache.positions(T)
        context = self.context(T, positions, cache)

        x = self.transformer.wte(idx)
        if self.config.positions == "learned":
            x = x + self.transformer.wpe(positions)
        x = self.transformer.drop(x)
        for block in self.transformer.h:
            x = block(x, context)
        logits = self.lm_head(self.transformer.ln_f(x))  # (B, T, V)
        if cache is not None:
            cache.advance(T)
        return logits, None if targets is None else cross_entropy(logits, targets)

    def context(self, T: int, positions: Tensor, cache: KVCache | None) -> Context:
        """What the layers need to know of T tokens at `positions`."""
        rotation = None
        if self.config.positions == "rotary":
            cos, sin = self.cos[positions], self.sin[positions]  # (T, D/2), or (B or 1, T, D/2) for positions by row
            rotation = (cos, sin) if positions.ndim == 1 else (cos.unsqueeze(1), sin.unsqueeze(1))
        plain_causal = cache is None or cache.longest == 0 or T == 1 and cache.uniform
        return Context(plain_causal, rotation, cache)

    @classmethod
    def from_pretrained(cls, source, **options) -> "GPT":
        """GPT-2 by name ("gpt2" ... "gpt2-xl"), or a folder or file of its format; see `mingpt.pretrained.load`."""
        from mingpt import pretrained  # here, as it imports this file

        return pretrained.load(cls, source, **options)

    def save_pretrained(self, folder) -> None:
        """Write a folder that `from_pretrained`, transformers' and ours, loads; see `mingpt.pretrained.save`."""
        from mingpt import pretrained

        pretrained.save(self, folder)

    def generate(self, idx, max_new_tokens, temperature=1.0, do_sample=False, top_k=None, **options):
        """Continue `idx` by up to `max_new_tokens` tokens; see `mingpt.generate.generate` for all options."""
        return generate(self, idx, max_new_tokens, temperature, do_sample, top_k, **options)
