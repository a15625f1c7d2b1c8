"""n-gram laws: the distributions that the models of this study learn.

A law of order n over N tokens is a list of n tables. `tables[k]`, of shape (N,) * (k + 1), holds the probability of
token number k given the k tokens before it; `tables[-1]` also of every later token given the n - 1 before it. All
probabilities are float64.

    law = geometric_law([1, 1, 0.6], [10, 10, 10], 10, seed=0)
    law.entropy()                      # nats, of the last token given its context
    law.sample(5, length=8, seed=1)    # (5, 8) tokens
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mingpt.low_rank import context_index

MOST_CELLS = 2**24  # of the largest table; it is also what torch.multinomial can draw from


@dataclass(frozen=True)
class Law:
    """Conditional tables, checked: ValueError for a wrong shape, a negative entry or a row that does not sum to 1."""

    tables: tuple[Tensor, ...]

    def __post_init__(self):
        object.__setattr__(self, "tables", tuple(torch.as_tensor(table, dtype=torch.float64) for table in self.tables))
        if len(self.tables) < 2:
            raise ValueError(f"a law has {len(self.tables)} tables; an n-gram law has n of them, at least 2")
        for k, table in enumerate(self.tables):
            wanted = (self.vocab_size,) * (k + 1)
            if tuple(table.shape) != wanted:
                raise ValueError(f"table {k} of the law has shape {tuple(table.shape)}; it must have {wanted}")
            if not table.isfinite().all() or (table < 0).any():
                where = tuple(((table < 0) | ~table.isfinite()).nonzero()[0].tolist())
                raise ValueError(
                    f"table {k} of the law has {table[where].item():.4g} at {where}; probabilities are not negative"
                )
            wrong = (table.sum(-1) - 1).abs() > 1e-6
            if wrong.any():
                where = tuple(wrong.nonzero()[0].tolist()) if k else ()
                raise ValueError(
                    f"table {k} of the law: row {where} sums to {table.sum(-1)[where].item():.6g}; "
                    "a distribution sums to 1"
                )

    @property
    def vocab_size(self) -> int:
        return self.tables[0].numel()

    @property
    def order(self) -> int:
        """n: tokens of an n-gram, its context of n - 1 and the one to predict."""
        return len(self.tables)

    @cached_property
    def conditional(self) -> Tensor:
        """P(token | context), (N^(n-1), N). Row number `context_index(context)`."""
        return self.tables[-1].reshape(-1, self.vocab_size)

    @cached_property
    def contexts(self) -> Tensor:
        """P(context), (N^(n-1),): of the first n - 1 tokens of a sequence."""
        probability = torch.ones(1, dtype=torch.float64)
        for table in self.tables[:-1]:
            probability = (probability[:, None] * table.reshape(-1, self.vocab_size)).flatten()
        return probability

    @cached_property
    def joint(self) -> Tensor:
        """P(context, token), (N^(n-1), N)."""
        return self.contexts[:, None] * self.conditional

    def entropy(self) -> float:
        """Of the token given its context, in nats: what the best possible model still pays for a token."""
        return abs(torch.xlogy(self.joint, self.conditional).sum().item())  # abs: 0.0, not -0.0

    def random_divergence(self) -> float:
        """Divergence of the model that gives every token 1/N, in nats."""
        return math.log(self.vocab_size) - self.entropy()

    def sequences(self, above: float = 0.0) -> tuple[Tensor, Tensor]:
        """All n-grams more probable than `above`, in the tables' order: tokens (K, n), probabilities (K,)."""
        N, n = self.vocab_size, self.order
        idx = (self.joint.reshape((N,) * n) > above).nonzero()
        return idx, self.joint[context_index(idx[:, :-1], N), idx[:, -1]]

    def sample(self, count: int, length: int, seed: int) -> Tensor:
        """`count` sequences of `length` tokens, at least n: (count, length) int64."""
        if length < self.order:
            raise ValueError(f"sequences of {length} tokens are shorter than the {self.order} of an n-gram of this law")
        generator = torch.Generator().manual_seed(seed)
        idx = torch.empty(count, length, dtype=torch.long)
        for t in range(length):
            k = min(t, self.order - 1)  # how many tokens before it matter
            rows = self.tables[k].reshape(-1, self.vocab_size)[context_index(idx[:, t - k : t], self.vocab_size)]
            idx[:, t] = torch.multinomial(rows, 1, generator=generator)[:, 0]
        return idx


# ----------------------------------------------------------------------------------------------------------------------
# Tables whose rows are all the same numbers in a random order


def ranked_tables(
    weights: list[Tensor], nb_tokens: list[int], vocab_size: int, generator: torch.Generator
) -> list[Tensor]:
    """Table k: in each row `nb_tokens[k]` random tokens, with probabilities proportional to weights[k]."""
    check_size(vocab_size, len(nb_tokens))
    if len(weights) != len(nb_tokens):
        raise ValueError(f"{len(weights)} alphas for {len(nb_tokens)} nb_tokens; each of the tables needs one of both")
    tables = []
    for k, (weight, count) in enumerate(zip(weights, nb_tokens)):
        if not 1 <= count <= vocab_size:
            raise ValueError(f"nb_tokens[{k}] is {count}; it must be from 1 to the {vocab_size} tokens that there are")
        row = torch.where(torch.arange(vocab_size) < count, weight.double(), 0.0)
        order = torch.rand(vocab_size**k, vocab_size, generator=generator).argsort(-1)
        tables.append((row / row.sum())[order].reshape((vocab_size,) * (k + 1)))
    return tables


def check_size(vocab_size: int, order: int) -> None:
    """ValueError where the largest table would not fit."""
    if vocab_size < 2:
        raise ValueError(f"vocab_size is {vocab_size}; it must be at least 2")
    if vocab_size**order > MOST_CELLS:
        raise ValueError(
            f"{order}-grams of {vocab_size} tokens are {vocab_size**order:.3g}; at most {MOST_CELLS:.3g} "
            "fit, so lower vocab_size or the order"
        )


def geometric_law(alphas: list[float], nb_tokens: list[int], vocab_size: int, seed: int) -> Law:
    """Probabilities alpha^0, alpha^1, alpha^2, ... by rank; 1 makes them equal. The notebook calls this a power law."""
    for k, alpha in enumerate(alphas):
        if not 0 < alpha <= 1:
            raise ValueError(f"alphas[{k}] is {alpha}; the ratio of a geometric law must be in (0, 1]")
    weights = [alpha ** torch.arange(vocab_size).double() for alpha in alphas]
    return Law(tuple(ranked_tables(weights, nb_tokens, vocab_size, torch.Generator().manual_seed(seed))))


def power_law(alphas: list[float], nb_tokens: list[int], vocab_size: int, seed: int) -> Law:
    """Probabilities 1^-alpha, 2^-alpha, 3^-alpha, ... by rank: what a power law is. 0 makes them equal."""
    for k, alpha in enumerate(alphas):
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alphas[{k}] is {alpha}; the exponent of a power law must not be negative")
    weights = [torch.arange(1, vocab_size + 1).double() ** -alpha for alpha in alphas]
    return Law(tuple(ranked_tables(weights, nb_tokens, vocab_size, torch.Generator().manual_seed(seed))))


def zipf_law(nb_tokens: list[int], vocab_size: int, seed: int) -> Law:
    """Probabilities in proportion 1, 1/2, 1/3, ... by rank: Zipf's law, the power law of exponent 1."""
    return power_law([1.0] * len(nb_tokens), nb_tokens, vocab_size, seed)


# ----------------------------------------------------------------------------------------------------------------------
# A last table with structure. `nb_tokens` is for the n - 1 tables before it, uniform over that many random tokens.


def uniform_tables(nb_tokens: list[int], vocab_size: int, generator: torch.Generator) -> list[Tensor]:
    """The tables of the context, and a check that the one to come fits."""
    check_size(vocab_size, len(nb_tokens) + 1)
    return ranked_tables([torch.ones(vocab_size)] * len(nb_tokens), nb_tokens, vocab_size, generator)


def with_last(tables: list[Tensor], rows: Tensor) -> Law:
    """The law with the last table given as rows, (N^(n-1), N)."""
    return Law((*tables, rows.reshape((rows.size(-1),) * (len(tables) + 1))))


def peaked_law(
    nb_tokens: list[int], vocab_size: int, peak: float, exponent: float, seed: int, balanced: bool = False
) -> Law:
    """After each context one token has probability `peak`, the others share the rest equally.

    Which token it is, is drawn with weights (1 - i / N) ** exponent for token i: 0 makes all alike, but by chance some
    come after more contexts than others. `balanced` deals the tokens out instead, the same number of contexts to each
    (to one, where N does not divide them), in random order; `exponent` must then be 0.
    """
    if not 0 < peak <= 1:
        raise ValueError(f"peak is {peak}; it must be a probability above 0")
    if balanced and exponent:
        raise ValueError(f"exponent is {exponent}; a balanced law prefers no token, so it must be 0")
    generator, N = torch.Generator().manual_seed(seed), vocab_size
    tables = uniform_tables(nb_tokens, N, generator)
    count = N ** len(nb_tokens)
    if balanced:
        chosen = torch.randperm(count, generator=generator) % N
    else:
        chosen = torch.multinomial((1 - torch.arange(N) / N) ** exponent, count, True, generator=generator)
    rows = torch.full((len(chosen), N), (1 - peak) / (N - 1), dtype=torch.float64)
    rows[torch.arange(len(chosen)), chosen] = peak
    return with_last(tables, rows)


def rank_law(
    nb_tokens: list[int],
    vocab_size: int,
    rank: int,
    axis_aligned: bool,
    seed: int,
    scale: float = 0.1,
    importance: float = 1.0,
) -> tuple[Law, Tensor]:
    """Log-probabilities of rank `rank`, but for a constant in each row. Returns the law and the directions, (N, rank).

    Logits are scale * z . W^T, with z normal, and W the first columns of the identity (`axis_aligned`: only the first
    `rank` tokens ever differ) or normal. Direction i is weighted by importance ** i.
    """
    check_rank(rank, vocab_size)
    generator, N = torch.Generator().manual_seed(seed), vocab_size
    tables = uniform_tables(nb_tokens, N, generator)
    normal = torch.randn(N, rank, generator=generator, dtype=torch.float64)  # drawn in any case
    directions = torch.eye(N, rank, dtype=torch.float64) if axis_aligned else normal
    features = torch.randn(N ** len(nb_tokens), rank, generator=generator, dtype=torch.float64)
    weights = importance ** torch.arange(rank).double()
    return with_last(tables, (scale * (features * weights) @ directions.T).softmax(-1)), directions


def almost_rank_law(
    nb_tokens: list[int], vocab_size: int, rank: int, axis_aligned: bool, seed: int, high: float = 1.0, low: float = 0.1
) -> Law:
    """Log-probabilities almost of rank `rank`: normal logits with `rank` singular values `high`, the others `low`.

    With `axis_aligned` their right singular vectors become the axes, one for each token.
    """
    check_rank(rank, vocab_size)
    generator, N = torch.Generator().manual_seed(seed), vocab_size
    tables = uniform_tables(nb_tokens, N, generator)
    normal = torch.randn(N ** len(nb_tokens), N, generator=generator, dtype=torch.float64)
    left, _, right = torch.linalg.svd(normal, full_matrices=False)
    values = torch.where(torch.arange(N) < rank, high, low).double()
    return with_last(tables, (left * values @ (torch.eye(N).double() if axis_aligned else right)).softmax(-1))


def first_positions_law(nb_tokens: list[int], vocab_size: int, rank: int, seed: int, importance: float = 1.0) -> Law:
    """Normal logits for the first `rank` tokens, times importance ** i for token i, and 0 for the others."""
    check_rank(rank, vocab_size)
    generator, N = torch.Generator().manual_seed(seed), vocab_size
    tables = uniform_tables(nb_tokens, N, generator)
    logits = torch.randn(N ** len(nb_tokens), N, generator=generator, dtype=torch.float64)
    weights = torch.where(torch.arange(N) < rank, importance ** torch.arange(N).double(), 0.0)
    return with_last(tables, (logits * weights).softmax(-1))


def check_rank(rank: int, vocab_size: int) -> None:
    """ValueError where there are not as many directions as tokens."""
    if not 1 <= rank <= vocab_size:
        raise ValueError(f"rank is {rank}; logits over {vocab_size} tokens have a rank of 1 to {vocab_size}")
