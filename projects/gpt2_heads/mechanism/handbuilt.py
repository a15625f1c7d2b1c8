"""A two-layer, attention-only GPT whose heads are written down instead of trained, so that every answer is known.

The residual is split into orthogonal parts, which are sets of columns of one orthonormal basis without the direction
(1, ..., 1), which layer norms take away:

    token       the token here                          V directions      from wte
    position    where we are                            T                 from wpe
    previous    the token one position earlier          V                 from the previous-token heads
    answer      what to say next                        V                 from the induction heads, read by lm_head

Layer 0, heads 1 and 3, previous-token heads: W_QK takes position i to position i - 1; W_OV takes token to previous.
Layer 1, heads 0 and 2, induction heads: W_QK takes token to previous (the key whose previous token is this token), and
b_Q keeps them from the first position, which has no token before it; W_OV takes token to answer.
All other heads have weights that are too small to do anything.

Token v has a strength that falls from 1 to 0.7 with v, in every circuit alike, so that singular vectors are in the
order of the tokens: the top r directions of the bridge (the part "previous") carry tokens 0 to r - 1.
"""

import math

import torch
from torch import Tensor, nn

from mingpt.interpret.hooks import add_hook_points
from mingpt.interpret.weights import head_views
from mingpt.model import GPT, CausalSelfAttention, GPTConfig

# 80 of the 160 directions are in use.
CONFIG = GPTConfig(vocab_size=16, block_size=32, n_layer=2, n_head=4, n_embd=160, tie_weights=False)
PREVIOUS_TOKEN_HEADS, INDUCTION_HEADS = [(0, 1), (0, 3)], [(1, 0), (1, 2)]
SHARP = 60.0  # scores of a match: the softmax is as good as all or nothing
LOUD = 2.5  # about 15 of a logit for the answer


class AttentionOnlyBlock(nn.Module):
    """A layer without an MLP."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = CausalSelfAttention(config, layer)
        add_hook_points(self, "resid_pre", "resid_post")

    def forward(self, x: Tensor, rotation=None, cache=None) -> Tensor:
        x = self.resid_pre(x)
        return self.resid_post(x + self.attn(self.ln_1(x), rotation, cache))


class AttentionOnlyGPT(GPT):
    """A GPT whose layers are attention alone."""

    def make_blocks(self) -> list[nn.Module]:
        return [AttentionOnlyBlock(self.config, layer) for layer in range(self.config.n_layer)]


@torch.no_grad()
def handbuilt_model(seed: int = 0) -> AttentionOnlyGPT:
    """The model, ready to use. The seed draws the basis, inner bases of heads, and weights that do nothing."""
    generator = torch.Generator().manual_seed(seed)
    V, T, C, D = CONFIG.vocab_size, CONFIG.block_size, CONFIG.n_embd, CONFIG.head_dim
    model = AttentionOnlyGPT(CONFIG).eval()
    token, position, previous, answer = parts(C, (V, T, V, V), generator)
    strength = torch.linspace(1, 0.7, V)

    def inner(n: int) -> Tensor:
        """n orthonormal directions of a head's own D: any will do, as only products of two matrices matter."""
        return torch.linalg.qr(torch.randn(D, D, generator=generator)).Q[:n]

    for name, parameter in model.named_parameters():
        if ".attn." in name:
            parameter.copy_(1e-4 * torch.randn(parameter.shape, generator=generator))
    model.transformer.wte.weight.copy_(token)
    model.transformer.wpe.weight.copy_(position)
    model.lm_head.weight.copy_(LOUD * answer)

    # A layer norm makes each of n orthogonal parts of length 1 sqrt(C / n) long: n is 2 before layer 0, then 2 to 3.
    long = math.sqrt(C / 2)
    for layer, head in PREVIOUS_TOKEN_HEADS:
        views, basis = head_views(model, layer), inner(T)
        views["W_Q"][head] = position[1:].T @ basis[:-1]
        views["W_K"][head] = SHARP * math.sqrt(D) / long**2 * position.T @ basis
        basis = inner(V)
        views["W_V"][head] = token.T @ basis
        views["W_O"][head] = basis.T @ (strength[:, None] * previous) / (long * len(PREVIOUS_TOKEN_HEADS))
    long, weakest = math.sqrt(C / 3), strength[-1].item() ** 2  # written with a strength, and read with it
    for layer, head in INDUCTION_HEADS:
        views, basis = head_views(model, layer), inner(V + 1)
        views["W_Q"][head] = token.T @ basis[:V]
        matches = previous.T @ (strength[:, None] * basis[:V])
        not_the_first = torch.outer(position[0], basis[V])
        views["W_K"][head] = SHARP * math.sqrt(D) / (long**2 * weakest) * (matches - not_the_first)
        views["b_Q"][head] = long * basis[V]
        basis = inner(V)
        views["W_V"][head] = token.T @ basis
        views["W_O"][head] = basis.T @ answer / (long * len(INDUCTION_HEADS))
    return model


def parts(C: int, sizes: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, ...]:
    """Orthonormal rows (size, C) for each size, all orthogonal to each other and to (1, ..., 1)."""
    ones = torch.ones(C, 1)
    basis = torch.linalg.qr(torch.cat((ones, torch.randn(C, sum(sizes), generator=generator)), dim=1)).Q[:, 1:]
    return basis.T.split(sizes)


class NumberTokenizer:
    """A token is a number from 0 to V - 1; spaces separate them."""

    vocab_size = CONFIG.vocab_size
    text = " ".join(map(str, 2 * [3, 14, 1, 5, 9, 2, 6, 10, 8, 7, 0, 12]))

    def encode(self, text: str) -> list[int]:
        """The numbers. ValueError names the first word that is none of them."""
        for word in text.split():
            if not (word.isdecimal() and int(word) < self.vocab_size):
                raise ValueError(
                    f"the built model reads numbers from 0 to {self.vocab_size - 1}, and {word!r} is none of them"
                )
        return [int(word) for word in text.split()]

    def label(self, token: int) -> str:
        """A token as text."""
        return str(token)
