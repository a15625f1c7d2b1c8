"""Small attention nets without MLPs, to study how one layer can do what usually takes two.

An induction head continues a repetition: after "... A B ... A" it looks for the token *after* the earlier A, finds B,
and predicts it. To find it, a key must tell which token stands *before* its own. Two ways to give it that (Olsson et
al. 2022, "In-context Learning and Induction Heads"):

    AttentionAttentionNet   a first attention layer copies the previous token into each position
    ConvAttentionNet        keys are "smeared": a causal convolution mixes each position with the one before it

Both are drawn as bare as they come: an embedding, two layers, a linear head. No MLP, no norm, and, unless asked for, no
residual connections and no positions. `SmearAttentionNet`, `AttentionNet` and `ConvNet` are their controls.

    net = ConvAttentionNet(ConvAttentionConfig(vocab_size=64, block_size=48, n_embd=64))
    logits, loss = net(idx, targets)

Shape letters are those of `mingpt/model.py`: B batch, T time, C n_embd, H n_head, D head_dim, V vocab_size.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mingpt.interpret.hooks import add_hook_points
from mingpt.model import cross_entropy


@dataclass(frozen=True)
class ConvAttentionConfig:
    """The shape of a net, and what it has beyond the bare one.

    kernel_size  taps of the convolution: the last one would look one token ahead and is masked, the others end with the
                 current token. 3: previous, current, (future)
    residual     each layer adds to the stream instead of replacing it
    positions    learned positions are added to the embeddings
    detach_conv  the convolution's weight gets no gradient and stays as it was initialised; its bias learns
    pad_id       a token that is nothing: it is not seen by any layer; -1: there is none
    """

    vocab_size: int
    block_size: int
    n_embd: int = 384
    n_head: int = 1
    kernel_size: int = 3
    residual: bool = False
    positions: bool = False
    detach_conv: bool = False
    pad_id: int = -1

    def __post_init__(self):
        for name in ("vocab_size", "block_size", "n_embd", "n_head"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd is {self.n_embd}, which {self.n_head} heads do not divide; change one of them")
        if self.kernel_size < 2:
            raise ValueError(
                f"kernel_size is {self.kernel_size}; it must be at least 2, for the current token and the "
                "masked tap after it"
            )
        if not -1 <= self.pad_id < self.vocab_size:
            raise ValueError(f"pad_id is {self.pad_id}; it must be a token below {self.vocab_size}, or -1 for none")


def shifted(x: Tensor, by: int) -> Tensor:
    """x, (B, T, C), moved `by` >= 0 positions later; zeros come in and what leaves the end is lost."""
    return F.pad(x, (0, 0, by, 0))[:, : x.size(1)]


class CausalConv(nn.Module):
    """A convolution over time whose last tap, the token ahead, is masked.

    weight is (C, C, K) like that of a `Conv1d`, and is initialised like it. The last tap is left out where the weight
    is *used*: it then has no influence and no gradient, and the others learn. Masking `weight.data` instead, as one may
    see it done, gives the same output but cuts the whole weight off from the loss: `detach_conv`.
    """

    def __init__(self, config: ConvAttentionConfig):
        super().__init__()
        C, K = config.n_embd, config.kernel_size
        self.weight = nn.Parameter(torch.empty(C, C, K), requires_grad=not config.detach_conv)
        self.bias = nn.Parameter(torch.empty(C))
        bound = 1 / math.sqrt(C * K)  # PyTorch's default for a convolution with C K inputs
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        past = self.weight.size(2) - 2  # taps before the current one
        # One product instead of K: the inputs of all taps side by side.
        window = torch.cat([shifted(x, past - tap) for tap in range(past + 1)], dim=-1)  # (B, T, (K - 1) C)
        taps = self.weight[:, :, :-1].transpose(1, 2).flatten(1)  # (C, (K - 1) C), without the tap ahead
        return F.linear(window, taps, self.bias)


class Smear(nn.Module):
    """The paper's smeared keys, for every channel c: y_t = s_c x_t + (1 - s_c) x_{t-1}, s = sigmoid(alpha)."""

    def __init__(self, config: ConvAttentionConfig):
        super().__init__()
        self.alpha = nn.Parameter(torch.randn(config.n_embd))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        s = self.alpha.sigmoid().to(x.dtype)
        return s * x + (1 - s) * shifted(x, 1)


class QKV(nn.Module):
    """Queries, keys and values: three (C, C) maps without biases, Xavier-normal each, in one product."""

    def __init__(self, config: ConvAttentionConfig):
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        for part in self.c_attn.weight.chunk(3):
            nn.init.xavier_normal_(part)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.n_head, -1).transpose(1, 2) for part in self.c_attn(x).chunk(3, dim=-1))
        return q, k, v  # each (B, H, T, D)


class Attention(nn.Module):
    """Causal attention, softmax(q k^T / sqrt(D)) v, with the heads side by side and no map after them.

    `q`, `k`, `v`, `head_out`, (B, H, T, D), and `pattern`, (B, H, T, T), can be recorded and changed: see
    `mingpt.interpret.hooks`.
    """

    def __init__(self, config: ConvAttentionConfig):
        super().__init__()
        self.qkv = QKV(config)
        add_hook_points(self, "q", "k", "v", "pattern", "head_out")

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x is (B, T, C); mask is (T, T) or (B, T, T), 0 where a query may look and -inf where not."""
        q, k, v = self.qkv(x)
        q, k, v = self.q(q), self.k(k), self.v(v)
        B, H, T, D = q.shape
        mask = mask.to(q.dtype)
        if mask.ndim == 3:
            mask = mask.repeat_interleave(H, dim=0)  # (B * H, T, T)
        # The stored pattern can be recorded and changed, and is small beside the logits; PyTorch's fused kernel is no
        # faster here (projects/benchmark, "changes").
        q, k = q.reshape(B * H, T, D), k.reshape(B * H, T, D)
        scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=1 / math.sqrt(D))
        pattern = self.pattern(scores.softmax(dim=-1).view(B, H, T, T))
        y = self.head_out(pattern @ v)  # (B, H, T, D)
        return y.transpose(1, 2).reshape(B, T, H * D)


class Net(nn.Module):
    """An embedding, the layers that `make_layers` gives, and a linear head. For its subclasses below."""

    def __init__(self, config: ConvAttentionConfig):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd) if config.positions else None
        self.layers = nn.ModuleDict(self.make_layers())
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size)

    def make_layers(self) -> dict[str, nn.Module]:
        """name -> a module called as `layer(x, mask)`, in order."""
        raise NotImplementedError

    def num_parameters(self) -> int:
        """How many numbers the net holds, those that are masked or detached included."""
        return sum(p.numel() for p in self.parameters())

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Predict the token after each position.

        idx      (B, T) int64, T <= block_size
        targets  (B, T) int64, the tokens to predict; -1 where there is nothing to learn

        Returns (logits, loss): logits (B, T, V); loss a scalar, the mean cross-entropy in nats over all targets that
        are not -1 (0 if all are), or None without targets.
        """
        B, T = idx.shape
        if T > self.config.block_size:
            raise ValueError(f"{T} tokens do not fit into block_size {self.config.block_size}; cut the input")
        x = self.wte(idx)
        if self.wpe is not None:
            x = x + self.wpe.weight[:T]
        mask, real = torch.full((T, T), -math.inf, device=idx.device).triu(1), None
        if self.config.pad_id >= 0:
            real = (idx != self.config.pad_id)[:, :, None]  # (B, T, 1)
            # A row of nothing but -inf would be NaN after the softmax, so padding may look at itself.
            unseen = ~real.transpose(1, 2) & ~torch.eye(T, dtype=torch.bool, device=idx.device)
            mask = mask.masked_fill(unseen, -math.inf)  # (B, T, T)
        for layer in self.layers.values():
            x = x if real is None else x * real
            y = layer(x, mask)
            x = x + y if self.config.residual else y
        logits = self.lm_head(x)  # (B, T, V)
        return logits, None if targets is None else cross_entropy(logits, targets)


class ConvAttentionNet(Net):
    """Convolution, then attention."""

    def make_layers(self) -> dict[str, nn.Module]:
        return {"conv": CausalConv(self.config), "attn": Attention(self.config)}


class AttentionAttentionNet(Net):
    """Attention, then attention."""

    def make_layers(self) -> dict[str, nn.Module]:
        return {"attn_1": Attention(self.config), "attn": Attention(self.config)}


class SmearAttentionNet(Net):
    """The convolution cut down to one number per channel, then attention."""

    def make_layers(self) -> dict[str, nn.Module]:
        return {"smear": Smear(self.config), "attn": Attention(self.config)}


class AttentionNet(Net):
    """Attention alone."""

    def make_layers(self) -> dict[str, nn.Module]:
        return {"attn": Attention(self.config)}


class ConvNet(Net):
    """Convolution alone."""

    def make_layers(self) -> dict[str, nn.Module]:
        return {"conv": CausalConv(self.config)}
