"""The best table of logits of rank d for a law, as far as a deterministic solver finds it.

The problem: minimise over W_E (R, d) and W_U (N, d)

    f = sum over contexts c of p(c) KL(p(. | c) || softmax(W_E[c] W_U^T)).

It is convex in W_E for a given W_U, in which its rows do not interact, and convex in W_U for a given W_E; not in both.
So: L-BFGS on both together, preconditioned by the Newton matrices that the factors have alone, a d x d block for each
row,

    W_E[c]:  p(c) W_U^T (diag q_c - q_c q_c^T) W_U
    W_U[v]:  sum over c of p(c) q_c[v] (1 - q_c[v]) W_E[c] W_E[c]^T,

from the best rank-d approximation of the log-probabilities in least squares, and from random starts; the best end
counts. It is the best found, not proven to be the optimum: a start that was not tried could end lower. All starts, and
all laws of one shape, are solved at once along a leading axis. Large problems are solved in float32 first, which is
twice as fast, and then go on in float64.

Where the law has zeros, the least divergence may be approached only as logits grow without bound; the solver then stops
where it no longer gains.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from projects.ngram_superposition.distributions import Law, check_rank

MEMORY = 12  # pairs of steps that L-BFGS looks back on
REFRESH = 5  # steps between new preconditioners
LARGE = 200_000  # logits, from which on a problem begins in float32


@dataclass(frozen=True)
class Optimum:
    """The best of all starts for one law."""

    divergence: float  # nats
    wte: Tensor  # W_E (N^(n-1), d)
    lm_head: Tensor  # W_U (N, d)
    starts: list[float]  # the divergence that each start ended at; the first is from least squares
    iterations: int
    gradient: float  # its largest component, at the end of the best start


def solve(
    law: Law,
    rank: int,
    starts: int | None = None,
    seed: int = 0,
    max_iters: int | None = None,
    tolerance: float = 1e-10,
) -> Optimum:
    """The best logits of rank `rank` for one law; see `solve_all`."""
    return solve_all([law], rank, starts, seed, max_iters, tolerance)[0]


def solve_all(
    laws: Sequence[Law],
    rank: int,
    starts: int | None = None,
    seed: int = 0,
    max_iters: int | None = None,
    tolerance: float = 1e-10,
) -> list[Optimum]:
    """The best logits of rank `rank` for each of several laws over the same tokens.

    starts      how many: one from least squares, the others random; 4, or 2 for a large problem
    max_iters   at most this many steps; 500, or 150 for a large problem, which keeps it to some ten seconds
    tolerance   stop when ten steps gain less than this, in nats
    """
    check_rank(rank, laws[0].vocab_size)
    large = laws[0].conditional.numel() >= LARGE
    starts = (2 if large else 4) if starts is None else starts
    max_iters = (150 if large else 500) if max_iters is None else max_iters
    if starts < 1 or max_iters < 1:
        raise ValueError(f"starts is {starts} and max_iters {max_iters}; both must be at least 1")
    seen = sum(law.contexts for law in laws).nonzero()[:, 0]  # the others cost nothing, whatever their logits
    problem = Problem(
        torch.stack([law.contexts[seen] for law in laws]).repeat_interleave(starts, 0),
        torch.stack([law.conditional[seen] for law in laws]).repeat_interleave(starts, 0),
    )
    generator, first, K = torch.Generator().manual_seed(seed), [], len(seen)
    for law in laws:
        wte, lm_head = least_squares(law, rank)
        first.append((wte[seen], lm_head))
        for _ in range(starts - 1):
            first.append(
                tuple(
                    torch.randn(factor.shape, generator=generator, dtype=torch.float64) * factor.std()
                    for factor in (wte[seen], lm_head)
                )
            )
    x = torch.stack([torch.cat(factors) for factors in first])  # (M, R + N, d): both factors, one below the other
    iterations = 0
    if large:
        rough = Problem(problem.contexts.float(), problem.conditional.float())
        x, _, iterations, _ = lbfgs(rough, x.float(), max_iters, max(tolerance, 1e-6))
        x, max_iters = x.double(), max(1, max_iters // 10)
    x, value, more, gradient = lbfgs(problem, x, max_iters, tolerance)
    results = []
    for i, law in enumerate(laws):
        ends = value[i * starts : (i + 1) * starts]
        best = i * starts + int(ends.argmin())
        wte = torch.zeros(len(law.contexts), rank, dtype=torch.float64)
        wte[seen] = x[best, :K]
        results.append(
            Optimum(
                value[best].item(),
                wte,
                x[best, K:],
                ends.tolist(),
                iterations + more,
                gradient[best].abs().max().item(),
            )
        )
    return results


def least_squares(law: Law, rank: int, floor: float = 1e-4) -> tuple[Tensor, Tensor]:
    """W_E, W_U whose product is nearest to the log-probabilities, each row less its mean, in least squares.

    The constant that softmax cannot see is taken out first. Probabilities below `floor` count as `floor`.
    """
    logs = law.conditional.clamp(min=floor).log()
    left, values, right = torch.linalg.svd(logs - logs.mean(1, keepdim=True), full_matrices=False)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, right[:rank].T * root


class Problem:
    """f, its gradient, and the preconditioner. contexts (M, R), conditional (M, R, N)."""

    def __init__(self, contexts: Tensor, conditional: Tensor):
        self.contexts, self.conditional = contexts, conditional
        self.entropy = -(contexts * torch.xlogy(conditional, conditional).sum(-1)).sum(-1)
        self.factors: Tensor | None = None

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f (M,) and its gradient, of the shape of x; also keeps q for the preconditioner."""
        K = self.contexts.size(1)
        wte, lm_head = x[:, :K], x[:, K:]
        logits = wte @ lm_head.transpose(1, 2)
        log_q = F.log_softmax(logits, -1)
        value = -(self.contexts * (self.conditional * log_q).sum(-1)).sum(-1) - self.entropy
        self.q = log_q.exp_()
        residual = self.contexts[..., None] * (self.q - self.conditional)  # df / dlogits, (M, R, N)
        return value, torch.cat((residual @ lm_head, residual.transpose(1, 2) @ wte), 1)

    def refresh(self, x: Tensor, gradient: Tensor) -> None:
        """Factor the Newton blocks at x, where `value_and_gradient` was called last."""
        K, d = self.contexts.size(1), x.size(-1)
        wte, lm_head = x[:, :K], x[:, K:]
        pairs = (lm_head[..., :, None] * lm_head[..., None, :]).flatten(2)  # (M, N, d * d)
        mean = self.q @ lm_head
        squares = (self.q @ pairs).unflatten(-1, (d, d))
        blocks_e = squares - mean[..., :, None] * mean[..., None, :]
        blocks_e = self.contexts[..., None, None] * blocks_e
        pairs = (wte[..., :, None] * wte[..., None, :]).flatten(2)  # (M, R, d * d)
        weight = self.contexts[..., None] * self.q * (1 - self.q)
        blocks_u = (weight.transpose(1, 2) @ pairs).unflatten(-1, (d, d))
        blocks = torch.cat((blocks_e, blocks_u), 1)
        # A ridge keeps a row's step below half the typical row, also where the law is certain and its block vanishes.
        size = [part.norm(dim=-1).mean(-1, keepdim=True).expand(part.shape[:2]) for part in (wte, lm_head)]
        ridge = gradient.norm(dim=-1) / (0.5 * torch.cat(size, 1)) + torch.finfo(x.dtype).tiny
        ridge = ridge + 1e-6 * blocks.diagonal(dim1=-2, dim2=-1).mean(-1)
        rounding = torch.finfo(x.dtype).eps * squares.diagonal(dim1=-2, dim2=-1).mean(-1)  # of the difference above
        ridge[:, :K] += 16 * self.contexts * rounding
        self.factors = torch.linalg.cholesky_ex(blocks + ridge[..., None, None] * torch.eye(d, dtype=x.dtype))[0]

    def precondition(self, gradient: Tensor) -> Tensor:
        """The Newton step of each row alone."""
        return torch.cholesky_solve(gradient[..., None], self.factors)[..., 0]


def lbfgs(problem: Problem, x: Tensor, max_iters: int, tolerance: float) -> tuple[Tensor, Tensor, int, Tensor]:
    """L-BFGS (Nocedal and Wright 2006, algorithm 7.4) on M problems side by side, with backtracking line search.

    Returns x, f (M,), the number of steps and the gradient.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((1, 2))[:, None, None]

    value, gradient = problem.value_and_gradient(x)
    moves, values = [], [value]
    for iteration in range(max_iters):
        if iteration % REFRESH == 0:
            problem.refresh(x, gradient)
        direction, shares = gradient.clone(), []
        for s, y, rho in reversed(moves):
            share = rho * dot(s, direction)
            direction -= share * y
            shares.append(share)
        direction = problem.precondition(direction)
        for (s, y, rho), share in zip(moves, reversed(shares)):
            direction += s * (share - rho * dot(y, direction))
        slope, length = dot(gradient, direction), torch.ones_like(dot(gradient, gradient))
        for _ in range(12):  # halve the step of those that have not gained enough
            new_value, new_gradient = problem.value_and_gradient(x - length * direction)
            short = ~(new_value[:, None, None] <= value[:, None, None] - 1e-4 * length * slope) | (slope < 0)
            if not short.any():
                break
            length = torch.where(short, length / 2, length)
        if short.any():  # those stay where they are, and forget what led them there
            length = torch.where(short, 0.0, length)
            moves = [(s, y, torch.where(short, 0.0, rho)) for s, y, rho in moves]
            new_value, new_gradient = problem.value_and_gradient(x - length * direction)
        s, y = -length * direction, new_gradient - gradient
        curvature = dot(s, y)
        useful = curvature > 1e-8 * (dot(s, s) * dot(y, y)).sqrt()
        rho = torch.where(useful, 1 / curvature, 0.0)
        moves = moves[-MEMORY + 1 :] + [(s, y, rho)]
        x, value, gradient = x + s, new_value, new_gradient
        values.append(value)
        if len(values) > 10 and (values[-11] - value).max() < tolerance:
            break
    return x, value, iteration + 1, gradient
