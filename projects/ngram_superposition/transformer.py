"""The models of this study, many at once: each parameter has a leading axis of M models that train as one program.

Shape letters beyond those of `mingpt/model.py`:
    M  models: seeds times settings, all of one shape      N  tokens of the vocabulary, `vocab_size`
    n  order of the n-grams, `order`                       R  contexts, of N^(n-1)

`Transformers` is attention-only unless `width` is positive. A layer runs `n_parallel` attention modules of `n_head`
heads side by side; since each module writes the sum of its heads into the residual, that is one module of
H = n_parallel * n_head heads, and they are kept as that. What is particular (Dana, Pydi and Chevaleyre 2025,
"Memorization in attention-only transformers"): layer norms learn nothing, the position embedding is added to the normed
input of every attention layer and never to the residual, there is no norm before the unembedding, and logits are
centred.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mingpt.interpret.hooks import HookPoint
from mingpt.low_rank import LowRank

PARTS = {  # what can be frozen -> the parameters that it means, by the last part of their name
    "E": ("wte",),
    "positions": ("wpe",),
    "QKV": ("c_q", "c_k", "c_v"),
    "O": ("c_o",),
    "U": ("lm_head",),
}
TOKEN_AXES = "uvwxyz"  # einsum's letters for the first, second, ... token of a context


@dataclass(frozen=True)
class TransformerConfig:
    """The shape that all models of an ensemble share."""

    vocab_size: int = 10
    order: int = 3
    n_embd: int = 5
    n_layer: int = 1
    n_parallel: int = 5
    n_head: int = 1
    head_dim: int = 0  # 0: n_embd / n_head
    width: int = 0  # of the MLP's hidden layers; 0: no MLP
    depth: int = 1  # hidden layers of the MLP
    block_size: int = 0  # longest input; 0: order

    def __post_init__(self):
        for name, least in (
            ("vocab_size", 2),
            ("order", 2),
            ("n_embd", 1),
            ("n_layer", 1),
            ("n_parallel", 1),
            ("n_head", 1),
            ("head_dim", 0),
            ("width", 0),
            ("depth", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.order > len(TOKEN_AXES) + 1:
            raise ValueError(f"order is {self.order}; it must be at most {len(TOKEN_AXES) + 1}")
        if self.block_size and self.block_size < self.order:
            raise ValueError(
                f"block_size is {self.block_size}, shorter than an n-gram; it must be at least order, {self.order}"
            )
        if not self.head_dim and self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd is {self.n_embd}, which {self.n_head} heads do not divide; change n_embd or "
                "n_head, or set head_dim"
            )

    @property
    def heads(self) -> int:
        return self.n_parallel * self.n_head

    @property
    def size_of_head(self) -> int:
        return self.head_dim or self.n_embd // self.n_head

    @property
    def has_mlp(self) -> bool:
        return self.width > 0 and self.depth > 0


@dataclass(frozen=True)
class Skips:
    """What a model leaves out of every layer. Models of one ensemble may differ in it."""

    residual: bool = False  # the connection around attention
    pos_qk: bool = False  # positions, in what queries and keys are computed from
    emb_qk: bool = False  # the residual, in the same
    pos_ov: bool = False  # positions, in what values are computed from
    emb_ov: bool = False  # the residual, in the same

    def __post_init__(self):
        for name in ("qk", "ov"):
            if getattr(self, f"pos_{name}") and getattr(self, f"emb_{name}"):
                raise ValueError(f"pos_{name} and emb_{name} are both skipped; that leaves {name.upper()} no input")

    def __str__(self):
        return ", ".join(field.name for field in fields(self) if getattr(self, field.name)) or "none"


def layer_norm(x: Tensor) -> Tensor:
    """Zero mean and unit variance over the channels, with nothing learned."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-10)


class MLP(nn.Module):
    """`depth` hidden layers of `width` with GELUs between; the last map has no bias."""

    def __init__(self, config: TransformerConfig, models: int):
        super().__init__()
        C, width = config.n_embd, config.width
        sizes = [C] + [width] * config.depth + [C]
        self.weights = nn.ParameterList(torch.empty(models, a, b) for a, b in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(torch.empty(models, 1, b) for b in sizes[1:-1])

    def forward(self, x: Tensor) -> Tensor:
        """x (M, ..., C) -> (M, ..., C)."""
        h = x.flatten(1, -2)
        for weight, bias in zip(self.weights, self.biases):
            h = F.gelu(torch.baddbmm(bias, h, weight))
        return (h @ self.weights[-1]).view_as(x)


class Attention(nn.Module):
    """H causal heads, each with its own W_Q, W_K, W_V (C, D) and W_O (D, C), without biases."""

    def __init__(self, config: TransformerConfig, models: int):
        super().__init__()
        H, C, D = config.heads, config.n_embd, config.size_of_head
        self.c_q, self.c_k, self.c_v = (nn.Parameter(torch.empty(models, H, C, D)) for _ in range(3))
        self.c_o = nn.Parameter(torch.empty(models, H, D, C))
        self.q, self.k, self.v, self.scores, self.pattern, self.head_out = (HookPoint() for _ in range(6))

    def forward(self, qk: Tensor, ov: Tensor) -> Tensor:
        """qk, ov (M, B, T, C), what queries and keys, and what values are computed from -> (M, B, T, C)."""
        q = self.q(torch.einsum("mbtc,mhcd->mbhtd", qk, self.c_q))
        k = self.k(torch.einsum("mbtc,mhcd->mbhtd", qk, self.c_k))
        v = self.v(torch.einsum("mbtc,mhcd->mbhtd", ov, self.c_v))
        T = qk.size(-2)
        mask = torch.full((T, T), -math.inf, dtype=q.dtype, device=q.device).triu(1)
        scores = self.scores(q @ k.transpose(-2, -1) / math.sqrt(q.size(-1)) + mask)  # (M, B, H, T, T)
        pattern = self.pattern(scores.softmax(-1))
        head_out = self.head_out(torch.einsum("mbhtd,mhdc->mbhtc", pattern @ v, self.c_o))  # what each head writes
        return head_out.sum(2)

    def on_grid(self, qk: list[Tensor], ov: list[Tensor], axes: list[str], positions: range) -> list[Tensor]:
        """The same on all contexts at once; see `Transformers.context_logits`. One tensor for each of `positions`."""
        keys = [torch.einsum(f"m{a}c,mhcd->m{a}hd", x, self.c_k) for x, a in zip(qk, axes)]
        c_ov = self.c_v @ self.c_o  # (M, H, C, C)
        written = [torch.einsum(f"m{a}e,mhec->m{a}hc", x, c_ov) for x, a in zip(ov, axes)]
        outputs = []
        for t in positions:
            full = TOKEN_AXES[: t + 1]
            query = torch.einsum(f"m{axes[t]}c,mhcd->m{axes[t]}hd", qk[t], self.c_q) / math.sqrt(self.c_q.size(-1))
            scores = []
            for s in range(t + 1):
                both = "".join(sorted({*axes[t], *axes[s]}))
                score = (
                    (query * keys[s]).sum(-1)
                    if s == t
                    else torch.einsum(f"m{axes[t]}hd,m{axes[s]}hd->m{both}h", query, keys[s])
                )
                scores.append(spread(score, both, full))
            pattern = torch.stack(torch.broadcast_tensors(*scores)).softmax(0).unbind()  # t + 1 times (M, N, ..., N, H)
            outputs.append(
                sum(torch.einsum(f"m{full}h,m{axes[s]}hc->m{full}c", pattern[s], written[s]) for s in range(t + 1))
            )
        return outputs


def spread(x: Tensor, axes: str, full: str) -> Tensor:
    """x (M, one axis for each of `axes`, K) with axes of length 1 put in for those of `full` that it lacks."""
    for i, axis in enumerate(full):
        if axis not in axes:
            x = x.unsqueeze(1 + i)
    return x


class Keep(nn.Module):
    """`Skips` of M models as factors: `keep("pos_qk", x)` is x, (M, ...), with zeros for the models that skip it."""

    def __init__(self, skips: Sequence[Skips]):
        super().__init__()
        for name in (field.name for field in fields(Skips)):
            kept = [not getattr(skip, name) for skip in skips]
            if not all(kept):
                self.register_buffer(name, torch.tensor(kept, dtype=torch.float32), persistent=False)

    def forward(self, name: str, x: Tensor) -> Tensor:
        factor = self._buffers.get(name)
        return x if factor is None else x * factor.view(-1, *[1] * (x.ndim - 1))


class Layer(nn.Module):
    """Attention, and the MLP if there is one."""

    def __init__(self, config: TransformerConfig, models: int):
        super().__init__()
        self.attn = Attention(config, models)
        self.mlp = MLP(config, models) if config.has_mlp else None
        self.resid_pre, self.resid_mid, self.resid_post = HookPoint(), HookPoint(), HookPoint()

    def forward(self, x: Tensor, pos: Tensor, keep: Keep) -> Tensor:
        """x (M, B, T, C), pos (M, 1, T, C) -> (M, B, T, C)."""
        x = self.resid_pre(x)
        normed = layer_norm(x)
        attn = self.attn(keep("emb_qk", normed) + keep("pos_qk", pos), keep("emb_ov", normed) + keep("pos_ov", pos))
        x = self.resid_mid(keep("residual", x) + attn)
        return self.resid_post(x if self.mlp is None else x + self.mlp(layer_norm(x)))

    def on_grid(
        self, x: list[Tensor], axes: list[str], pos: list[Tensor], keep: Keep, positions: range
    ) -> list[Tensor]:
        """The same on all contexts at once: x[t] is (M, N for each of axes[t], C)."""
        pos = [p.view(p.size(0), *[1] * len(a), -1) for p, a in zip(pos, axes)]
        normed = [layer_norm(part) for part in x]
        qk = [keep("emb_qk", part) + keep("pos_qk", p) for part, p in zip(normed, pos)]
        ov = [keep("emb_ov", part) + keep("pos_ov", p) for part, p in zip(normed, pos)]
        outputs = []
        for t, attn in zip(positions, self.attn.on_grid(qk, ov, axes, positions)):
            mid = spread(keep("residual", x[t]), axes[t], TOKEN_AXES[: t + 1]) + attn
            outputs.append(mid if self.mlp is None else mid + self.mlp(layer_norm(mid)))
        return outputs


class Ensemble(nn.Module):
    """What `Transformers` and `LowRanks` share: M models over the same tokens, that say `context_logits`."""

    vocab_size: int
    order: int

    @property
    def models(self) -> int:
        """M."""
        return self.lm_head.size(0)

    def num_parameters(self) -> int:
        """How many numbers one of the models learns."""
        return sum(p.numel() for p in self.parameters()) // self.models

    def reset(self, bounds: dict[str, float], seeds: Sequence[int]) -> None:
        """Draw each parameter uniformly from [-bound, bound], model i from seeds[i] alone, whatever stands beside it.

        `bounds` has the last part of a parameter's name, or its full name.
        """
        with torch.no_grad():
            for i, seed in enumerate(seeds):
                generator = torch.Generator().manual_seed(seed)
                for name, parameter in self.named_parameters():
                    bound = bounds.get(name, bounds.get(name.split(".")[-1]))
                    drawn = torch.rand(parameter.shape[1:], generator=generator)
                    parameter[i] = bound * (2 * drawn - 1)

    def unembed(self, x: Tensor) -> Tensor:
        """x (M, R, C) -> logits (M, R, N) of mean 0.

        In memory tokens come before contexts: a softmax over a short last axis does not vectorise.
        """
        centred = self.lm_head - self.lm_head.mean(1, keepdim=True)
        return (centred @ x.transpose(1, 2)).transpose(1, 2)


class Transformers(Ensemble):
    """M transformers of one shape.

    config  the shape
    seeds   one for each model; decides its initial parameters
    skips   one for each model; nothing is skipped by default

    The parameters, each with the axis of models first: wte (M, N, C), wpe (M, block_size, C), h.<l>.attn.c_q, c_k, c_v
    (M, H, C, D) and c_o (M, H, D, C), h.<l>.mlp, lm_head (M, N, C). They start as in the study's notebook: as PyTorch
    starts a MultiheadAttention for each module, and linear layers for the rest.

    What `mingpt.interpret.hooks` can record in a call: h.<l>.resid_pre, .resid_mid, .resid_post (M, B, T, C);
    h.<l>.attn.q, .k,
    .v (M, B, H, T, D), .scores, .pattern (M, B, H, T, T), .head_out (M, B, H, T, C), what each head writes; h.<l>.attn
    and .mlp (M, B, T, C); logits (M, B, T, N).
    """

    def __init__(self, config: TransformerConfig, seeds: Sequence[int], skips: Sequence[Skips] | None = None):
        super().__init__()
        if skips is not None and len(skips) != len(seeds):
            raise ValueError(f"there are {len(skips)} skips for {len(seeds)} models; give one for each")
        M, C = len(seeds), config.n_embd
        self.config, self.vocab_size, self.order = config, config.vocab_size, config.order
        self.wte = nn.Parameter(torch.empty(M, config.vocab_size, C))
        self.wpe = nn.Parameter(torch.empty(M, config.block_size or config.order, C))
        self.h = nn.ModuleList(Layer(config, M) for _ in range(config.n_layer))
        self.lm_head = nn.Parameter(torch.empty(M, config.vocab_size, C))
        self.keep = Keep(skips or [Skips()] * M)
        self.logits = HookPoint()

        module_width = config.n_head * config.size_of_head
        bounds = dict.fromkeys(("wte", "wpe", "lm_head"), C ** (-0.5))
        bounds |= {name: math.sqrt(6 / (3 * module_width + C)) for name in ("c_q", "c_k", "c_v")}
        bounds["c_o"] = module_width**-0.5
        for name, parameter in self.named_parameters():
            if ".mlp.weights." in name:
                bounds[name] = bounds[name.replace("weights", "biases")] = parameter.size(1) ** -0.5
        self.reset(bounds, seeds)

    def forward(self, idx: Tensor) -> Tensor:
        """idx (B, T) int64 -> logits (M, B, T, N) for the token after each position, by every model."""
        B, T = idx.shape
        if T > self.wpe.size(1):
            raise ValueError(f"idx has {T} tokens; block_size is {self.wpe.size(1)}")
        x, pos = self.wte[:, idx], self.wpe[:, None, :T]
        for layer in self.h:
            x = layer(x, pos, self.keep)
        return self.logits(self.unembed(x.flatten(1, 2)).unflatten(1, (B, T)))

    def context_logits(self, rows: Tensor | None = None) -> Tensor:
        """Logits (M, R, N) for the token after each context: all N^(n-1), or those numbered `rows`, (R,) or (M, R).

        As `forward`, with less work: what stands at position t depends on the t + 1 tokens up to it, not on a whole
        context, so that N^(t+1) vectors are enough, and in the first layer N. Attention between two positions then
        is an outer product of two short tables.
        """
        last = self.order - 2
        x, axes, pos = [self.wte] * (last + 1), list(TOKEN_AXES[: last + 1]), list(self.wpe[:, : last + 1].unbind(1))
        for i, layer in enumerate(self.h):
            positions = range(last if i == len(self.h) - 1 else 0, last + 1)
            x = layer.on_grid(x, axes, pos, self.keep, positions)
            axes = [TOKEN_AXES[: t + 1] for t in positions]
        return self.unembed(pick(x[-1].flatten(1, -2), rows))


class LowRanks(Ensemble):
    """M models `mingpt.low_rank.LowRank` of one shape: wte, W_E (M, N^(n-1), C), and lm_head, W_U (M, N, C)."""

    def __init__(self, vocab_size: int, n_embd: int, order: int, seeds: Sequence[int]):
        super().__init__()
        single = LowRank(vocab_size, n_embd, order)  # for its checks
        self.vocab_size, self.order = vocab_size, order
        self.wte = nn.Parameter(torch.empty(len(seeds), *single.wte.weight.shape))
        self.lm_head = nn.Parameter(torch.empty(len(seeds), *single.lm_head.weight.shape))
        self.reset({"wte": n_embd**-0.5, "lm_head": n_embd**-0.5}, seeds)

    def context_logits(self, rows: Tensor | None = None) -> Tensor:
        """Logits (M, R, N) for the token after each context, as those of `Transformers`."""
        return self.unembed(pick(self.wte, rows))


def pick(x: Tensor, rows: Tensor | None) -> Tensor:
    """x (M, K, C) -> its rows (M, R, C): all, those numbered `rows` (R,), or for each model its own, (M, R)."""
    if rows is None:
        return x
    if rows.ndim == 1:
        return x[:, rows]
    return x.gather(1, rows[..., None].expand(-1, -1, x.size(-1)))
