"""What attention must do, worked out on paper. No attention is computed here; `run.py` compares it with these.

Notation: n keys, of which a and b matter; q = beta (x_a mu_a + x_b mu_b) with orthonormal mu; scores s_i = k_i . q;
weights w = softmax(s); output c = sum_i w_i v_i. All functions take and return float64 tensors or floats.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.special import ndtr  # the standard normal distribution function

ONE_HEAD = ((1.0, 1.0),)  # (x_a, x_b) for each head: one query between the two means,
TWO_HEADS = ((1.0, 0.0), (0.0, 1.0))  # or one query along each


# ----------------------------------------------------------------------------------------------------------------------
# Copying and averaging


def top_weight_range(gap: Tensor | float, n: int) -> tuple[Tensor, Tensor]:
    """The least and the greatest weight of the top key whose score is `gap` above the runner-up's, among n keys.

    The least is reached if all other keys tie with the runner-up, the greatest (in the limit) if the rest are far
    below.
    """
    gap = torch.as_tensor(gap, dtype=torch.float64)
    return torch.sigmoid(gap - math.log(n - 1)), torch.sigmoid(gap)


def gap_needed(epsilon: float, n: int) -> float:
    """The gap between the best and the second-best score that guarantees the best key a weight of 1 - epsilon."""
    return math.log((n - 1) * (1 - epsilon) / epsilon)


def leak(beta: Tensor | float, n: int, targets: int = 2) -> Tensor:
    """The weight outside `targets` keys of score beta, when the other n - targets keys have score 0."""
    beta = torch.as_tensor(beta, dtype=torch.float64)
    return torch.sigmoid(math.log((n - targets) / targets) - beta)


# ----------------------------------------------------------------------------------------------------------------------
# Extraction from a sum


def projector(A: Tensor) -> Tensor:
    """The orthogonal projector (d, d) onto the span of the columns of A (d, m), whether orthonormal or not: A A^+."""
    return A @ torch.linalg.pinv(A)


def extractor(A: Tensor, B: Tensor) -> Tensor:
    """The matrix M (d, d) of least norm with M v_a = v_a on the span of A (d, m) and M v_b = 0 on that of B (d, p).

    M = [A 0] [A B]^+, the oblique projector onto span A along span B. ValueError where the spans share a direction:
    then
    no M exists.
    """
    both = torch.cat((A, B), dim=1)
    shared = int(torch.linalg.matrix_rank(A) + torch.linalg.matrix_rank(B) - torch.linalg.matrix_rank(both))
    if shared:
        raise ValueError(
            f"the spans of A and B share {shared} dimension{'s' if shared > 1 else ''}, so no matrix tells v_a "
            "from v_b; take subspaces that meet only in 0"
        )
    return torch.cat((A, torch.zeros_like(B)), dim=1) @ torch.linalg.pinv(both)


# ----------------------------------------------------------------------------------------------------------------------
# The logistic-normal law: r = sigmoid(L) with L normal (Aitchison and Shen 1980)


def log_odds_std(beta: float, alpha: float, radial: float) -> float:
    """The standard deviation tau of ln(w_a / w_b) for one head: tau^2 = beta^2 (radial + 4 alpha), for every n."""
    return beta * math.sqrt(radial + 4 * alpha)


def transition(alpha: float, radial: float) -> float:
    """The beta at which tau^2 = 2: below, r has one mode (at 1/2); above, it has two."""
    return math.sqrt(2 / (radial + 4 * alpha))


def logistic_normal_density(r: Tensor, mean: float, std: float) -> Tensor:
    """The density of r = sigmoid(L), L ~ N(mean, std^2), at r in (0, 1)."""
    z = (torch.logit(r) - mean) / std
    return torch.exp(-z * z / 2) / (math.sqrt(2 * math.pi) * std * r * (1 - r))


def logistic_normal_cdf(r: Tensor | float, mean: float, std: float) -> Tensor:
    """P(sigmoid(L) <= r) for L ~ N(mean, std^2)."""
    return ndtr((torch.logit(torch.as_tensor(r, dtype=torch.float64)) - mean) / std)


def logistic_normal_variance(std: float) -> float:
    """Var sigmoid(L) for L ~ N(0, std^2), by quadrature: 1/4 - E[r (1 - r)], as E r = 1/2.

    About std^2 / 16 for a small std, and 1/4 - 1 / (std sqrt(2 pi)) for a large one.
    """
    z, p = normal_grid(std)
    r = torch.sigmoid(std * z)
    return 0.25 - float(p @ (r * (1 - r)))


def modes(std: float) -> list[float]:
    """Where the density of sigmoid(L), L ~ N(0, std^2), has its maxima: the stable roots of x = std^2 tanh(x / 2)."""
    if std * std <= 2:
        return [0.5]
    x = std * std  # above the root, from where the iteration falls monotonically onto it
    for _ in range(100_000):
        following = std * std * math.tanh(x / 2)
        if x - following < 1e-13 * x:
            break
        x = following
    r = 1 / (1 + math.exp(-x))
    return [1 - r, r]


# ----------------------------------------------------------------------------------------------------------------------
# Moments of softmax weights when the scores are independent normals


@dataclass(frozen=True)
class ScoreLaw:
    """Independent normal scores in groups of equal law: key a, key b, and each of the n - 2 others."""

    mean: tuple[float, ...]
    variance: tuple[float, ...]
    count: tuple[int, ...]


def score_law(head: tuple[float, float], beta: float, n: int, alpha: float, radial: float) -> ScoreLaw:
    """The scores under q = beta (x_a mu_a + x_b mu_b), for Sigma_i = alpha I, and + radial mu_a mu_a^T for key a."""
    x_a, x_b = head
    noise = beta**2 * alpha * (x_a**2 + x_b**2)
    return ScoreLaw((beta * x_a, beta * x_b, 0.0), (noise + beta**2 * radial * x_a**2, noise, noise), (1, 1, n - 2))


def normal_grid(std: float) -> tuple[Tensor, Tensor]:
    """Nodes z and weights p of the trapezoid rule for E f(std Z), f varying over distances of about 1.

    Its error falls exponentially in 1 / step for such analytic f; the step here leaves less than 1e-9.
    """
    step = min(0.4, 0.4 / std) if std else 0.4
    z = torch.arange(-7.5, 7.5 + step, step, dtype=torch.float64)
    p = torch.exp(-z * z / 2)
    return z, p / p.sum()


def weight_moments(law: ScoreLaw) -> tuple[Tensor, Tensor]:
    """E[w_i] and E[w_i^2] of the softmax weights w of independent normal scores, each (groups,).

    The sum in the denominator is taken apart by 1 / X^k = integral of t^(k-1) e^(-tX) dt / (k-1)!, which makes the
    expectation a product over keys; with t = e^(-u) and y_i = e^(s_i - u)

        E[w_i^k] = integral of E[y_i^k e^(-y_i)] prod_{j != i} E[e^(-y_j)] du,   k = 1, 2.

    For k = 1 this is the chance that key i wins after adding Gumbel noise to all scores (Gumbel 1954).
    """
    std = [math.sqrt(variance) for variance in law.variance]
    low = max(m - 7.5 * s for m, s in zip(law.mean, std)) - 5  # below, some e^(-y_j) is 0
    high = max(m + 7.5 * s for m, s in zip(law.mean, std)) + 30  # above, y_i is
    step = 0.3
    u = torch.arange(low, high, step, dtype=torch.float64)
    below, first, second = [], [], []
    for m, s in zip(law.mean, std):
        z, p = normal_grid(s)
        y = (m + s * z - u[:, None]).clamp(max=7).exp()  # (u, z); e^(-e^7) is 0 in float64
        below.append(torch.exp(-y) @ p)
        first.append((y * torch.exp(-y)) @ p)
        second.append((y * y * torch.exp(-y)) @ p)
    below, count = torch.stack(below), torch.tensor(law.count)
    others = torch.stack(
        [(below ** left[:, None]).prod(dim=0) for left in count - torch.eye(len(count), dtype=torch.int64)]
    )
    return step * (torch.stack(first) * others).sum(dim=1), step * (torch.stack(second) * others).sum(dim=1)


def output_error(heads: tuple, beta: float, n: int, alpha: float, radial: float) -> tuple[float, float]:
    """E |c - (v_a + v_b) / 2|^2 and E |c - E c|^2 for orthonormal values, c the mean over heads.

    Exact up to quadrature: the heads' scores are independent, because the heads' queries are orthogonal and the radial
    part of k_a is seen by one of them only.
    """
    mean, variance = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for head in heads:
        first, second = weight_moments(score_law(head, beta, n, alpha, radial))
        mean += first / len(heads)
        variance += (second - first**2) / len(heads) ** 2
    count = torch.tensor([1, 1, n - 2], dtype=torch.float64)
    target = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    spread = float(count @ variance)
    return spread + float(count @ (mean - target) ** 2), spread


# ----------------------------------------------------------------------------------------------------------------------
# The limit of vanishing alpha, where the factor gamma ~ N(1, radial) of k_a = gamma mu_a is all that is random


def a_weight_law(heads: tuple, beta: float, n: int, radial: float) -> tuple[float, float, float, float]:
    """(scale, shift, mean, std): v_a's weight in the output is scale sigmoid(L) + shift with L ~ N(mean, std^2).

    The log-odds of a softmax weight are its score less the log-sum-exp of the others, which here is a constant.
    """
    std = beta * math.sqrt(radial)
    if heads == ONE_HEAD:
        return 1.0, 0.0, beta - math.log(math.exp(beta) + n - 2), std
    return 0.5, 0.5 / (math.exp(beta) + n - 1), beta - math.log(n - 1), std


def found_probability(beta: float, n: int, radial: float) -> float:
    """The chance that the head with q = beta mu_a gives key a more than half its weight: gamma beta > ln(n - 1)."""
    return float(ndtr(torch.tensor((1 - math.log(n - 1) / beta) / math.sqrt(radial), dtype=torch.float64)))
