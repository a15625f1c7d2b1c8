"""Attention computed by the model's own function, on sampled keys;
and rows that set a prediction beside a measurement.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mingpt.model import attention

# a measured mean passes within this many standard errors; 5, since few draws decide some means, which are then skewed
K = 5


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Outputs (B, H, C) of H heads with one query each, queries (H, D), on B draws of keys (B, S, D); values (S, C).

    The assignment's scores are k . q; the model's are divided by sqrt(D), which is undone here.
    """
    q = queries[None, :, None] * math.sqrt(queries.size(-1))  # (1, H, 1, D)
    mask = queries.new_zeros(1, keys.size(1))  # every key may be seen
    return attention(q, keys[:, None], values[None, None], mask).squeeze(2)


def weights(queries: Tensor, keys: Tensor) -> Tensor:
    """Attention weights (B, H, S): the output for the values e_1 ... e_S."""
    return attend(queries, keys, torch.eye(keys.size(1), dtype=keys.dtype))


def orthonormal(rows: int, d: int, generator: torch.Generator) -> Tensor:
    """Random orthonormal rows (rows, d), rows <= d."""
    return torch.linalg.qr(torch.randn(d, rows, dtype=torch.float64, generator=generator))[0].T


def sample_keys(mu: Tensor, alpha: float, radial: float, draws: int, generator: torch.Generator) -> Tensor:
    """Keys (B, S, D) around the means mu (S, D): covariance alpha I, and + radial mu_0 mu_0^T for key 0, which is a."""
    keys = mu + math.sqrt(alpha) * torch.randn(draws, *mu.shape, dtype=torch.float64, generator=generator)
    keys[:, 0] += math.sqrt(radial) * torch.randn(draws, 1, dtype=torch.float64, generator=generator) * mu[0]
    return keys


@dataclass(frozen=True)
class Row:
    """One line of the table. `relation` is "=" or "<="; a standard error of None marks an identity, not a sample."""

    question: str
    quantity: str
    predicted: float
    measured: float
    standard_error: float | None = None
    relation: str = "="

    @property
    def z(self) -> float | None:
        """How many standard errors lie between the two."""
        return None if self.standard_error is None else (self.measured - self.predicted) / self.standard_error

    @property
    def ok(self) -> bool:
        """Within K standard errors; for an identity or a bound, within rounding (1e-9)."""
        if self.z is not None:
            return abs(self.z) <= K
        excess = self.measured - self.predicted
        return (excess if self.relation == "<=" else abs(excess)) <= 1e-9 * max(1.0, abs(self.predicted))


def sampled(question: str, quantity: str, predicted: float, draws: Tensor) -> Row:
    """A row for a mean over independent draws (B,)."""
    return Row(question, quantity, predicted, float(draws.mean()), float(draws.std() / math.sqrt(len(draws))))


def sampled_share(question: str, quantity: str, predicted: float, hits: Tensor) -> Row:
    """A row for a share of independent draws, hits (B,) bool; its standard error is the predicted one."""
    error = math.sqrt(predicted * (1 - predicted) / len(hits))
    return Row(question, quantity, predicted, float(hits.double().mean()), error)


def sampled_variance(question: str, quantity: str, predicted: float, draws: Tensor) -> Row:
    """A row for a variance: of draws (B,), or of draws (B, C) summed over C."""
    squares = (draws - draws.mean(dim=0)) ** 2
    squares = squares * len(draws) / (len(draws) - 1)  # the mean was fitted
    return sampled(question, quantity, predicted, squares if draws.ndim == 1 else squares.sum(dim=1))
