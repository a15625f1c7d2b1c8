"""Low-rank models of n-gram laws: one vector for each context, one for each next token, and their products as logits.

    model = LowRank(vocab_size=10, n_embd=5, order=3)          # trigrams: contexts of two tokens
    logits, loss = model(idx[:, :-1], idx[:, 1:])

No sequence model of width C whose logits are a linear map of its last hidden state, GPT included, can do better on an
n-gram law than the best LowRank of the same width (the softmax bottleneck; Yang et al. 2018, "Breaking the softmax
bottleneck").
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mingpt.model import cross_entropy


def context_index(idx: Tensor, vocab_size: int) -> Tensor:
    """The number of each context: its tokens as digits in base V, the first one the most significant.

    idx (..., n - 1) int64 -> (...) int64 in [0, V^(n-1)). It is the row that the context has in a table of shape
    (V,) * n flattened to (V^(n-1), V), so that no caller has to choose an order of its own.

    ValueError for a token outside the vocabulary: as a digit it would carry, and name another context.
    """
    if idx.numel() and not torch.compiler.is_compiling():
        low, high = (int(bound) for bound in idx.aminmax())
        if low < 0 or high >= vocab_size:
            raise ValueError(f"token {low if low < 0 else high} is outside the vocabulary of {vocab_size}")
    index = torch.zeros(idx.shape[:-1], dtype=torch.long, device=idx.device)
    for position in range(idx.size(-1)):
        index = index * vocab_size + idx[..., position]
    return index


class LowRank(nn.Module):
    """logits(context) = W_E[context] . W_U: every table of logits of rank n_embd, and nothing else.

    vocab_size  V, number of tokens
    n_embd      C, the rank
    order       n of the n-grams, at least 2: a context is n - 1 tokens, and there are V^(n-1) of them

    The weights are `wte.weight`, W_E (V^(n-1), C), and `lm_head.weight`, W_U (V, C).
    """

    def __init__(self, vocab_size: int, n_embd: int, order: int = 2):
        super().__init__()
        for name, value, least in (("vocab_size", vocab_size, 1), ("n_embd", n_embd, 1), ("order", order, 2)):
            if value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")
        self.vocab_size, self.order = vocab_size, order
        self.wte = nn.Embedding(vocab_size ** (order - 1), n_embd)
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        for weight in (self.wte.weight, self.lm_head.weight):
            nn.init.uniform_(weight, -(n_embd**-0.5), n_embd**-0.5)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Predict the token after each position from it and the n - 2 before it.

        idx      (B, T) int64, T >= n - 1
        targets  (B, T) int64, the tokens to predict; -1 where there is nothing to learn

        Returns (logits, loss): logits (B, T, V), of mean 0; loss as `mingpt.model.cross_entropy`, or None.
        The first n - 2 positions have no whole context: their logits are 0, and their targets do not count.
        """
        B, T = idx.shape
        missing = self.order - 2
        if T < self.order - 1:
            raise ValueError(
                f"idx has {T} tokens, fewer than the {self.order - 1} of a context of this {self.order}-gram model"
            )
        contexts = context_index(idx.unfold(1, self.order - 1, 1), self.vocab_size)  # (B, T - missing)
        logits = self.lm_head(self.wte(contexts))
        logits = F.pad(logits - logits.mean(-1, keepdim=True), (0, 0, missing, 0))  # (B, T, V)
        if targets is None:
            return logits, None
        counted = targets.clone()
        counted[:, :missing] = -1
        return logits, cross_entropy(logits, counted)
