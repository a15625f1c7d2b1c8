"""What can attention copy, average and tell apart, and what do two heads have that one has not?

    python projects/attention_exploration/run.py             every claim, predicted and measured, in seconds
    python projects/attention_exploration/run.py --quick     the same from fewer draws

The written questions of CS224n's assignment 5. README.md has the derivations, theory.py the formulas.
"""

import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout, whatever else is installed

from mingpt.support.command import one_line_errors, way_to_go_on
from mingpt.support.config import Parser, config_from_args, config_to_dict
from mingpt.support.files import own_folder, write_json, write_text
from projects.attention_exploration import theory
from projects.attention_exploration.figures import (
    plot_averaging,
    plot_copying,
    plot_distributions,
    plot_errors,
    plot_extraction,
)
from projects.attention_exploration.measure import (
    K,
    Row,
    attend,
    orthonormal,
    sample_keys,
    sampled,
    sampled_share,
    sampled_variance,
    weights,
)
from projects.attention_exploration.theory import ONE_HEAD, TWO_HEADS

BETAS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
BETAS_SHOWN = (1.0, 2.0, 4.0, 16.0)  # with the distribution of the output
RADIAL = 0.5  # the assignment's variance of k_a along mu_a
ISOTROPIC_ALPHA = 0.0025  # small, but its effect is to be seen
VANISHING_ALPHA = 1e-8
HEADS = {"one head": ONE_HEAD, "two heads": TWO_HEADS}
SMALLEST_ERROR = 1e-6  # below it, the mean squared error of two heads is made by draws rarer than any sample holds


@dataclass(frozen=True)
class Options:
    """The size of the experiments."""

    out: Annotated[str, "folder for everything that is written"] = "out/attention_exploration"
    seed: Annotated[int, "seed of everything that is drawn"] = 0
    n_keys: Annotated[int, "keys, of which two matter"] = 10
    d: Annotated[int, "dimensions of keys and values"] = 16
    draws: Annotated[int, "draws of the keys for each beta"] = 20_000

    def __post_init__(self):
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"--seed is {self.seed}; it must be from 0 to 2^63 - 1")
        if not 4 <= self.n_keys <= 1000:
            raise ValueError(f"--n_keys is {self.n_keys}; it must be from 4 (two that matter and two others) to 1000")
        if self.d < self.n_keys:
            raise ValueError(f"--d is {self.d}, but {self.n_keys} orthonormal keys need --d {self.n_keys} or more")
        if self.draws < 100:
            raise ValueError(f"--draws is {self.draws}; standard errors need at least 100")
        if self.draws * self.n_keys * self.d > 2**28:
            raise ValueError(
                f"{self.draws} draws of {self.n_keys} keys in {self.d} dimensions take more than 2 GB; "
                "lower --draws, --n_keys or --d"
            )


# ----------------------------------------------------------------------------------------------------------------------
# Question 1: copying


def copying(options: Options, generator: torch.Generator, out: Path) -> list[Row]:
    """Weights as a distribution, when nearly all of it is on one key, and what the output is then."""
    n, d, beta = options.n_keys, options.d, 5.0
    query = 1.5 * torch.randn(1, d, dtype=torch.float64, generator=generator)
    keys = torch.randn(1000, n, d, dtype=torch.float64, generator=generator)
    w, scores = weights(query, keys)[:, 0], keys @ query[0]  # (1000, S) both
    values = torch.randn(n, d, dtype=torch.float64, generator=generator)
    rows = [Row("1a", "largest |sum of weights - 1| in 1,000 random problems", 0.0, float((w.sum(1) - 1).abs().max()))]

    # Softmax weights are the chances of winning after Gumbel noise is added to the scores.
    small = keys[:1] / 4
    gumbel = -torch.empty(options.draws, n, dtype=torch.float64).exponential_(generator=generator).log()
    picks = ((small[0] @ query[0]) + gumbel).argmax(dim=1)
    p, c = weights(query, small)[0, 0], attend(query, small, values)[0, 0]
    rows += [
        sampled_share("1a", "share of random picks that fall on the heaviest key", float(p.max()), picks == p.argmax()),
        sampled("1a", "mean of the picked values, first coordinate", float(c[0]), values[picks, 0]),
    ]

    top, second = scores.topk(2, dim=1).values.T
    rest = scores.masked_fill(scores == top[:, None], -math.inf).logsumexp(dim=1)
    heaviest = w.max(dim=1).values
    low, high = theory.top_weight_range(top - second, n)
    inside = (heaviest > low - 1e-12) & (heaviest < high + 1e-12)
    tie = weights(
        torch.ones(1, 1, dtype=torch.float64),
        torch.tensor([theory.gap_needed(0.01, n)] + [0.0] * (n - 1), dtype=torch.float64)[None, :, None],
    )
    rows += [
        Row(
            "1b",
            "largest |logit(w_j) - (s_j - logsumexp of the other scores)|",
            0.0,
            float(
                (torch.log(heaviest / (w.sum(1) - heaviest).clamp(min=1e-300)) - (top - rest))[heaviest < 0.999]
                .abs()
                .max()
            ),
        ),
        Row(
            "1b",
            "share of problems with the top weight within its bounds for its gap",
            1.0,
            float(inside.double().mean()),
        ),
        Row("1b", "top weight at the gap ln((n-1) 0.99/0.01), all others tied", 0.99, float(tie[0, 0, 0])),
        Row(
            "1b",
            "top weight at gap 5 among 1,000 keys, all others tied",
            float(theory.top_weight_range(5.0, 1000)[0]),
            float(
                weights(5 * torch.eye(1, 1000, dtype=torch.float64), torch.eye(1000, dtype=torch.float64)[None])[
                    0, 0, 0
                ]
            ),
        ),
    ]

    # Large keys are not the condition: only differences of scores count, and so does the angle.
    moved = keys + 100 * torch.randn(d, dtype=torch.float64, generator=generator)
    basis = orthonormal(n, d, generator)
    long = basis.clone()
    long[1] *= 10
    inner = torch.cat((basis[1:].mean(dim=0, keepdim=True), basis[1:]))  # key 0 is the mean of the others
    directions = torch.randn(10_000, d, dtype=torch.float64, generator=generator)
    queries = directions * torch.logspace(-2, 3, 10_000, dtype=torch.float64)[:, None]
    rows += [
        Row(
            "1b",
            "largest change of a weight when 100 times a random vector is added to all keys",
            0.0,
            float((weights(query, moved)[:, 0] - w).abs().max()),
        ),
        Row(
            "1b",
            "weight of a key 10 times as long, at right angles to q = 5 k_1",
            1 / (n - 1 + math.exp(beta)),
            float(weights(beta * basis[:1], long[None])[0, 0, 1]),
        ),
        Row(
            "1b",
            "most that 10,000 queries give to a key that is the mean of the others",
            1 / n,
            float(weights(queries, inner[None])[0, :, 0].max()),
            relation="<=",
        ),
    ]

    output = attend(beta * basis[:1], basis[None], values)[0, 0]
    others = values[1:].mean(dim=0)  # the others' scores are equal
    rows += [
        Row(
            "1c",
            "|c - v_j| for q = 5 k_j",
            float(theory.leak(beta, n, 1) * (others - values[0]).norm()),
            float((output - values[0]).norm()),
        )
    ]
    plot_copying(out / "copying.png", n, (top - second), heaviest)
    return rows


# ----------------------------------------------------------------------------------------------------------------------
# Question 2: an average of two


def subspaces(
    angles: torch.Tensor, d: int, m: int, p: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bases A (d, m) and B (d, p), skew and of any length, whose spans have these principal angles (m,); m <= p."""
    frame = orthonormal(m + p, d, generator).T  # (d, m + p)
    a, b = frame[:, :m], frame[:, m:].clone()
    b[:, :m] = b[:, :m] * angles.sin() + a * angles.cos()
    mix = [
        torch.randn(k, k, dtype=torch.float64, generator=generator) + 2 * torch.eye(k, dtype=torch.float64)
        for k in (m, p)
    ]
    return a @ mix[0], b @ mix[1]


def extraction(options: Options, generator: torch.Generator, out: Path) -> list[Row]:
    """The matrix that gets v_a back from v_a + v_b, for ever less convenient bases."""
    d, m, p = options.d, options.d // 4, options.d // 3
    right = torch.full((m,), math.pi / 2, dtype=torch.float64)
    A, B = subspaces(right, d, m, p, generator)  # orthogonal subspaces, skew bases
    Q, gram = torch.linalg.qr(A)[0], A.T @ A
    x, y = (torch.randn(k, 1000, dtype=torch.float64, generator=generator) for k in (m, p))
    v_a, s = A @ x, A @ x + B @ y

    def miss(M: torch.Tensor) -> float:
        """The largest relative error of M s over 1,000 sums."""
        return float(((M @ s - v_a).norm(dim=0) / v_a.norm(dim=0)).max())

    worst_gram = float((torch.linalg.eigvalsh(gram) - 1).abs().max())
    rows = [
        Row("2a", "error of M = Q Q^T, orthonormal basis Q of span A, orthogonal subspaces", 0.0, miss(Q @ Q.T)),
        Row("2a", "numbers in Q^T s: coordinates, not the d-vector v_a", m, len(Q.T @ s)),
        Row(
            "2a",
            "|Q^T s - coordinates of v_a in Q|, largest",
            0.0,
            float((Q.T @ s - torch.linalg.lstsq(Q, v_a)[0]).abs().max()),
        ),
        Row("2a", "error of M = A A^+, skew basis A", 0.0, miss(theory.projector(A))),
        Row(
            "2a",
            "worst relative error of M = A A^T, skew basis: max |eigenvalue of A^T A - 1|",
            worst_gram,
            float(torch.linalg.matrix_norm((A @ A.T - torch.eye(d, dtype=torch.float64)) @ Q, 2)),
        ),
    ]

    degrees, measured = torch.tensor([3.0, 10, 20, 30, 45, 60, 75, 90], dtype=torch.float64), []
    for theta in degrees.deg2rad():
        angles = torch.linspace(float(theta), math.pi / 2, m, dtype=torch.float64)  # the least of them is theta
        A, B = subspaces(angles, d, m, p, generator)
        M, orthogonal = theory.extractor(A, B), theory.projector(A)
        b = torch.linalg.qr(B)[0]
        measured.append((float(torch.linalg.matrix_norm(orthogonal @ b, 2)), float(torch.linalg.matrix_norm(M, 2))))
        if round(math.degrees(theta)) in (30, 90):
            name = f"subspaces at {math.degrees(theta):.0f}°"
            x, y = (torch.randn(k, 1000, dtype=torch.float64, generator=generator) for k in (m, p))
            v_a, s = A @ x, A @ x + B @ y
            delta = torch.randn(d, options.draws, dtype=torch.float64, generator=generator) / math.sqrt(d)
            rows += [
                Row("2a", f"{name}: error of the oblique projector M = [A 0][A B]^+", 0.0, miss(M)),
                Row("2a", f"{name}: worst |A A^+ v_b| / |v_b| = cos θ", math.cos(theta), measured[-1][0]),
                Row("2a", f"{name}: norm of M = 1 / sin θ", 1 / math.sin(theta), measured[-1][1]),
                sampled(
                    "2a",
                    f"{name}: mean |M δ|² for noise δ with E|δ|² = 1",
                    float((1 / angles.sin() ** 2).sum()) / d,
                    (M @ delta).square().sum(dim=0),
                ),
            ]
    shared = torch.cat((A[:, :1], B), dim=1)  # now v_a could be in both
    try:
        theory.extractor(A, shared)
        refused = 0
    except ValueError:
        refused = 1
    rows.append(Row("2a", "subspaces that share a direction: refused (1)", 1, refused))

    # Together: attention averages, M takes v_a out of the average. M c is half of v_a, so it takes 2 M.
    A, B = subspaces(right, d, m, p, generator)
    keys, values = orthonormal(options.n_keys, d, generator), torch.zeros(options.n_keys, d, dtype=torch.float64)
    values[0], values[1] = A[:, 0], B[:, 0]
    c = attend(5.0 * (keys[:1] + keys[1:2]), keys[None], values)[0, 0]
    back = 2 * theory.projector(A) @ c
    rows.append(
        Row(
            "2a",
            "|2 M c - v_a| / |v_a| from attention at beta = 5, other values 0",
            float(theory.leak(5.0, options.n_keys)),
            float((back - values[0]).norm() / values[0].norm()),
        )
    )
    plot_extraction(out / "extraction.png", degrees, measured)
    return rows


def averaging(options: Options, generator: torch.Generator, out: Path) -> list[Row]:
    """q = beta (k_a + k_b): what is left for the others, and what orthonormality was needed for."""
    n, d, sizes, betas = options.n_keys, options.d, (4, 16, 128, 1024), torch.arange(0, 15.0, 2, dtype=torch.float64)
    leaks = {}
    for size in sizes:
        keys = torch.eye(size, dtype=torch.float64)
        leaks[size] = 1 - weights(betas[:, None] * (keys[0] + keys[1]), keys[None])[0, :, :2].sum(dim=1)
    predicted = torch.stack([theory.leak(betas, size) for size in sizes])
    rows = [
        Row(
            "2b",
            "largest difference between the leak and 1/(1 + 2 e^beta/(n-2)), n from 4 to 1,024",
            0.0,
            float((torch.stack(list(leaks.values())) - predicted).abs().max()),
        )
    ]

    keys, values = orthonormal(n, d, generator), torch.randn(n, d, dtype=torch.float64, generator=generator)
    middle, others = values[:2].mean(dim=0), values[2:].mean(dim=0)
    c = attend(5.0 * (keys[:1] + keys[1:2]), keys[None], values)[0, 0]
    rows.append(
        Row(
            "2b",
            "|c - (v_a + v_b)/2| at beta = 5",
            float(theory.leak(5.0, n) * (others - middle).norm()),
            float((c - middle).norm()),
        )
    )
    large = torch.eye(1000, dtype=torch.float64)
    rows.append(
        Row(
            "2b",
            "leak at beta = 5 among 1,000 keys: a large beta that is not large enough",
            float(theory.leak(5.0, 1000)),
            1 - float(weights(5 * (large[:1] + large[1:2]), large[None])[0, 0, :2].sum()),
        )
    )

    # Independent keys: the dual basis gives scores (beta, beta, 0, ..., 0) whatever the angles and lengths.
    skew = torch.randn(n, d, dtype=torch.float64, generator=generator)
    dual = torch.linalg.pinv(skew)  # (d, n): skew @ dual = I
    w = weights(5 * (dual[:, 0] + dual[:, 1])[None], skew[None])[0, 0]
    rows += [
        Row("2b", "skew keys, q from the dual basis, beta = 5: leak", float(theory.leak(5.0, n)), float(w[2:].sum())),
        Row("2b", "skew keys, q from the dual basis: |w_a - w_b|", 0.0, float((w[0] - w[1]).abs())),
    ]

    # A unit key between k_a and k_b: q = beta (k_a + k_b) copies it; a query on the other side averages a and b.
    between = keys.clone()
    between[2] = (keys[0] + keys[1]) / math.sqrt(2)
    root2, beta = math.sqrt(2), 20.0
    w = weights(beta * (keys[:1] + keys[1:2]), between[None])[0, 0]
    behind = -beta * (keys[0] + keys[1]) - 2 * beta * keys[3:].sum(
        dim=0
    )  # scores -beta, -beta, -1.41 beta, -2 beta ...
    repaired = weights(behind[None], between[None])[0, 0]
    rows += [
        Row(
            "2b",
            "key (k_a + k_b)/√2 present, q = 20 (k_a + k_b): its weight",
            1 / (1 + 2 * math.exp(beta * (1 - root2)) + (n - 3) * math.exp(-beta * root2)),
            float(w[2]),
        ),
        Row(
            "2b",
            "the same keys, q = -20 (k_a + k_b) - 40 (others): w_a + w_b",
            1 / (1 + math.exp(beta * (1 - root2)) / 2 + (n - 3) * math.exp(-beta) / 2),
            float(repaired[:2].sum()),
        ),
    ]
    plot_averaging(out / "averaging.png", betas, leaks)
    return rows


# ----------------------------------------------------------------------------------------------------------------------
# Questions 3 and 4: one head and two heads on noisy keys


def queries_of(heads: tuple, beta: float, mu: torch.Tensor) -> torch.Tensor:
    """One query (H, D) a head: beta (x_a mu_a + x_b mu_b)."""
    return beta * torch.tensor(heads, dtype=torch.float64) @ mu[:2]


def squared_errors(w: torch.Tensor) -> torch.Tensor:
    """|c - (v_a + v_b)/2|^2 (B,) for orthonormal values, from the output's weights (B, S)."""
    target = torch.zeros(w.size(1), dtype=torch.float64)
    target[:2] = 0.5
    return (w - target).square().sum(dim=1)


def isotropic_noise(options: Options, generator: torch.Generator, mu: torch.Tensor) -> tuple[list[Row], dict]:
    """Sigma = alpha I: both designs work, one head in a window of beta only."""
    n, alpha, rows, points = options.n_keys, ISOTROPIC_ALPHA, [], {name: [] for name in HEADS}
    for beta in BETAS:
        keys = sample_keys(mu, alpha, 0.0, options.draws, generator)
        for (name, heads), question in zip(HEADS.items(), ("3a", "4a")):
            w = weights(queries_of(heads, beta, mu), keys)  # (B, H, S)
            output = w.mean(dim=1)
            error = theory.output_error(heads, beta, n, alpha, 0.0)[0]
            if error > SMALLEST_ERROR:
                rows.append(
                    sampled(
                        question, f"{name}, beta = {beta:g}: mean |c - (v_a + v_b)/2|²", error, squared_errors(output)
                    )
                )
                points[name].append((beta, rows[-1].measured))
            if heads == ONE_HEAD:
                tau = theory.log_odds_std(beta, alpha, 0.0)
                share = output[:, 0] / (output[:, 0] + output[:, 1])
                rows.append(
                    sampled_variance(
                        question,
                        f"{name}, beta = {beta:g}: variance of r = w_a/(w_a + w_b)",
                        theory.logistic_normal_variance(tau),
                        share,
                    )
                )
            elif beta == BETAS[-1]:
                right = (w[:, 0, 0] > 0.5) & (w[:, 1, 1] > 0.5)
                rows.append(
                    Row(
                        question,
                        f"{name}, beta = {beta:g}: share of draws in which both heads copy the right value",
                        1.0,
                        float(right.double().mean()),
                    )
                )
    return rows, points


def radial_noise(options: Options, generator: torch.Generator, mu: torch.Tensor) -> tuple[list[Row], dict, dict]:
    """Sigma_a = alpha I + mu_a mu_a^T / 2: one head ends at one of two values, two heads mostly stay between them."""
    n, alpha, rows = options.n_keys, VANISHING_ALPHA, []
    points, outputs = {name: [] for name in (*HEADS, "one head, keys normalised")}, {name: {} for name in HEADS}
    for beta in BETAS:
        keys = sample_keys(mu, alpha, RADIAL, options.draws, generator)
        gamma = keys[:, 0] @ mu[0]  # k_a is gamma mu_a and next to nothing else
        if beta == BETAS[0]:
            inside, negative = (
                math.erf(0.5 / math.sqrt(2 * RADIAL)),
                float(theory.ndtr(torch.tensor(-1 / math.sqrt(RADIAL)))),
            )
            rows += [
                sampled_share("3b", "share of draws with 0.5 <= gamma <= 1.5", inside, (gamma - 1).abs() <= 0.5),
                sampled_share("3b", "share of draws with gamma < 0", negative, gamma < 0),
            ]
        for (name, heads), question in zip(HEADS.items(), ("3b", "4b")):
            w = weights(queries_of(heads, beta, mu), keys)
            output = w.mean(dim=1)
            outputs[name][beta] = output[:, 0]
            label = f"{name}, beta = {beta:g}: "
            error, spread = theory.output_error(heads, beta, n, alpha, RADIAL)
            rows += [
                sampled(question, label + "mean |c - (v_a + v_b)/2|²", error, squared_errors(output)),
                sampled_variance(question, label + "variance of c", spread, output),
            ]
            points[name].append((beta, rows[-2].measured))
            rows += (one_head_rows if heads == ONE_HEAD else two_head_rows)(label, beta, n, w, gamma)
        unit = keys / keys.norm(dim=-1, keepdim=True)
        w = weights(queries_of(ONE_HEAD, beta, mu), unit).mean(dim=1)
        rows.append(
            sampled(
                "after 4b",
                f"one head, keys normalised, beta = {beta:g}: mean |c - (v_a + v_b)/2|²",
                normalised_error(beta, n),
                squared_errors(w),
            )
        )
        points["one head, keys normalised"].append((beta, rows[-1].measured))
    return rows, points, outputs


def one_head_rows(label: str, beta: float, n: int, w: torch.Tensor, gamma: torch.Tensor) -> list[Row]:
    """The law of r = w_a / (w_a + w_b)."""
    tau = theory.log_odds_std(beta, VANISHING_ALPHA, RADIAL)
    share = w[:, 0, 0] / (w[:, 0, 0] + w[:, 0, 1])
    rows = [
        sampled_variance("3b", label + "variance of r = w_a/(w_a + w_b)", theory.logistic_normal_variance(tau), share)
    ]
    if beta in BETAS_SHOWN or beta == BETAS[-1]:
        middle = 1 - 2 * float(theory.logistic_normal_cdf(0.1, 0.0, tau))
        rows += [
            sampled("3b", label + "mean of r", 0.5, share),
            sampled_share("3b", label + "share of draws with 0.1 < r < 0.9", middle, (share - 0.5).abs() < 0.4),
        ]
    return rows


def two_head_rows(label: str, beta: float, n: int, w: torch.Tensor, gamma: torch.Tensor) -> list[Row]:
    """How often head 1 finds v_a, and what it gives when it does not."""
    found = theory.found_probability(beta, n, RADIAL)
    rows = [sampled_share("4b", label + "share of draws in which head 1 finds v_a", found, w[:, 0, 0] > 0.5)]
    if beta == BETAS[-1]:
        positive = float(theory.ndtr(torch.tensor(1 / math.sqrt(RADIAL))))
        hits = (w[:, 0, 0] > 0.5)[gamma > 0]
        rows += [
            sampled_share("4b", label + "the same among draws with gamma > 0", found / positive, hits),
            sampled("4b", label + "weight of v_b in head 1 where gamma < -0.5", 1 / (n - 1), w[gamma < -0.5, 0, 1]),
        ]
    return rows


def normalised_error(beta: float, n: int) -> float:
    """E |c - (v_a + v_b)/2|^2 of one head on keys of length 1, alpha -> 0: k_a is mu_a, or where gamma < 0, -mu_a."""
    chance = float(theory.ndtr(torch.tensor(1 / math.sqrt(RADIAL))))
    scores = beta * torch.tensor([[1.0, 1.0] + [0.0] * (n - 2), [-1.0, 1.0] + [0.0] * (n - 2)], dtype=torch.float64)
    right, flipped = squared_errors(scores.softmax(dim=1)).tolist()
    return chance * right + (1 - chance) * flipped


def noisy_keys(options: Options, generator: torch.Generator, out: Path) -> tuple[list[Row], dict]:
    """Both kinds of noise over beta; the rows in the questions' order, and the best beta of each design."""
    n, mu = options.n_keys, orthonormal(options.n_keys, options.d, generator)
    rows, isotropic = isotropic_noise(options, generator, mu)
    more, radial, outputs = radial_noise(options, generator, mu)
    betas = torch.logspace(math.log10(BETAS[0]), math.log10(BETAS[-1]), 43, dtype=torch.float64).tolist()
    curves = {
        kind: {
            name: [theory.output_error(heads, beta, n, alpha, radial)[0] for beta in betas]
            for name, heads in HEADS.items()
        }
        for kind, alpha, radial in (("isotropic", ISOTROPIC_ALPHA, 0.0), ("radial", VANISHING_ALPHA, RADIAL))
    }
    curves["radial"]["one head, keys normalised"] = [normalised_error(beta, n) for beta in betas]
    plot_distributions(out / "distributions.png", outputs, BETAS_SHOWN, n, RADIAL)
    plot_errors(
        out / "errors.png",
        betas,
        curves,
        {"isotropic": isotropic, "radial": radial},
        n,
        {"isotropic": (ISOTROPIC_ALPHA, 0.0), "radial": (VANISHING_ALPHA, RADIAL)},
    )
    best = {
        f"{kind}: {name}": {"beta": round(betas[errors.index(min(errors))], 2), "rms_error": math.sqrt(min(errors))}
        for kind, lines in curves.items()
        for name, errors in lines.items()
        if min(errors) > SMALLEST_ERROR
    }
    return sorted(rows + more, key=lambda row: row.question.replace("after ", "5")), best


# ----------------------------------------------------------------------------------------------------------------------


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| question | quantity | predicted | measured | standard error | standard errors apart | |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        error, z = ("", "") if row.z is None else (f"{row.standard_error:.1e}", f"{row.z:+.1f}")
        predicted = ("≤ " if row.relation == "<=" else "") + f"{row.predicted:.6g}"
        quantity = row.quantity.replace("|", "\\|")  # a bar would end the cell
        lines.append(
            f"| {row.question} | {quantity} | {predicted} | {row.measured:.6g} | {error} | {z} | "
            f"{'pass' if row.ok else '**FAIL**'} |"
        )
    return "\n".join(lines) + "\n"


def study(options: Options) -> None:
    """All questions in order; figures, the table and metrics.json in the folder."""
    started, out = time.perf_counter(), Path(options.out)
    generator = torch.Generator().manual_seed(options.seed)
    rows = copying(options, generator, out) + extraction(options, generator, out) + averaging(options, generator, out)
    more, best = noisy_keys(options, generator, out)
    rows += more
    seconds = time.perf_counter() - started

    samples = [row for row in rows if row.z is not None]
    failed = [row for row in rows if not row.ok]
    report(rows)
    print(
        f"{len(rows) - len(samples)} identities and bounds hold to 1e-9; {len(samples)} means over draws lie within "
        f"{K} standard errors."
        if not failed
        else f"{len(failed)} of {len(rows)} rows FAIL; see table.md"
    )
    write_text(out / "table.md", table(rows))
    write_json(out / "config.json", config_to_dict(options))
    write_json(
        out / "metrics.json",
        {
            "seconds": round(seconds, 1),
            "rows": len(rows),
            "failed": len(failed),
            "standard_errors_allowed": K,
            "rms_standard_errors_apart": math.sqrt(sum(row.z**2 for row in samples) / len(samples)),
            "best_beta": best,
            "transition_beta": {
                "isotropic": theory.transition(ISOTROPIC_ALPHA, 0.0),
                "radial": theory.transition(VANISHING_ALPHA, RADIAL),
            },
            "table": [{**asdict(row), "standard_errors_apart": row.z, "ok": row.ok} for row in rows],
        },
    )
    print(f"{seconds:.1f} s. Figures, table.md and metrics.json are in {out}.")


def report(rows: list[Row]) -> None:
    """The table on the screen."""
    print(f"{'':9}{'':82}{'predicted':>11}{'measured':>11}{'± s.e.':>9}")
    for row in rows:
        error = "" if row.standard_error is None else f"{row.standard_error:.1e}"
        print(
            f"{row.question:9}{row.quantity:82}{'≤' if row.relation == '<=' else ' '}"
            f"{row.predicted:>10.4g}{row.measured:>11.4g}{error:>9}  {'pass' if row.ok else 'FAIL'}"
        )


def main() -> None:
    """Read the command line and run the study."""
    parser = Parser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5,000 draws instead of 20,000")
    parser.add_config(Options, "options")
    args = parser.parse_args()
    with one_line_errors():
        options = config_from_args(Options, args, **({"draws": 5000} if args.quick else {}))
        with own_folder(options.out), way_to_go_on("the same command starts again"):
            study(options)


if __name__ == "__main__":
    main()
