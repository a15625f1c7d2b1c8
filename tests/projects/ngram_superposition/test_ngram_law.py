"""n-gram laws: their tables, numbers, samples, and what is refused."""

import math
from itertools import product

import pytest
import torch

from projects.ngram_superposition.distributions import (
    Law,
    almost_rank_law,
    first_positions_law,
    geometric_law,
    peaked_law,
    power_law,
    rank_law,
    zipf_law,
)


def random_law(N: int, n: int, seed: int = 0) -> Law:
    generator = torch.Generator().manual_seed(seed)
    return Law(
        tuple(torch.rand((N,) * (k + 1), generator=generator, dtype=torch.float64).softmax(-1) for k in range(n))
    )


def rank_of(law: Law) -> int:
    """Of the log-probabilities, the constant of each row taken out."""
    logs = law.conditional.log()
    return torch.linalg.matrix_rank(logs - logs.mean(1, keepdim=True), atol=1e-9).item()


@pytest.mark.parametrize("n", [2, 3, 4])
def test_entropy_and_sequences_against_a_plain_loop(n):
    N, law = 3, random_law(3, n)
    entropy, probabilities = 0.0, []
    for idx in product(range(N), repeat=n):
        p = math.prod(law.tables[k][idx[: k + 1]].item() for k in range(n))
        probabilities.append(p)
        entropy -= p * math.log(law.tables[-1][idx].item())
    assert law.entropy() == pytest.approx(entropy, abs=1e-12)
    assert law.random_divergence() == pytest.approx(math.log(N) - entropy, abs=1e-12)
    idx, p = law.sequences()
    assert idx.tolist() == [list(t) for t in product(range(N), repeat=n)] and p.tolist() == pytest.approx(probabilities)
    above = sorted(probabilities)[len(probabilities) // 2]
    idx, p = law.sequences(above)
    assert len(idx) == sum(q > above for q in probabilities) and (p > above).all()


@pytest.mark.parametrize("n, length", [(2, 2), (2, 5), (3, 3), (3, 6)])
def test_samples_follow_the_law_at_every_position(n, length):
    law, count = random_law(3, n), 40_000
    idx = law.sample(count, length, seed=1)
    assert idx.shape == (count, length) and torch.equal(idx, law.sample(count, length, seed=1))
    for t in range(n - 1, length):
        for context in product(range(3), repeat=n - 1):
            follows = idx[(idx[:, t - n + 1 : t] == torch.tensor(context)).all(1), t]
            seen = torch.bincount(follows, minlength=3) / len(follows)
            assert (seen - law.tables[-1][context]).abs().max() < 5 / math.sqrt(len(follows))


def test_deterministic_laws_have_no_entropy_and_uniform_ones_all_of_it():
    assert geometric_law([1, 1, 1], [6, 6, 1], 6, 0).entropy() == 0
    uniform = geometric_law([1, 1, 1], [6, 6, 6], 6, 0)
    assert uniform.entropy() == pytest.approx(math.log(6)) and uniform.random_divergence() == pytest.approx(
        0, abs=1e-12
    )


@pytest.mark.parametrize(
    "make, expected",
    [
        (
            lambda: geometric_law([0.5, 1, 0.5], [4, 2, 3], 6, 3),
            [[8 / 15, 4 / 15, 2 / 15, 1 / 15], [0.5, 0.5], [4 / 7, 2 / 7, 1 / 7]],
        ),
        (lambda: power_law([2, 0, 1], [2, 2, 3], 6, 3), [[0.8, 0.2], [0.5, 0.5], [6 / 11, 3 / 11, 2 / 11]]),
        (lambda: zipf_law([2, 2, 3], 6, 3), [[2 / 3, 1 / 3], [2 / 3, 1 / 3], [6 / 11, 3 / 11, 2 / 11]]),
    ],
)
def test_ranks_have_the_probabilities_that_the_name_says(make, expected):
    law = make()
    for table, row in zip(law.tables, expected):
        ranked = table.sort(-1, descending=True).values.reshape(-1, 6)
        assert torch.allclose(ranked, torch.tensor(row + [0.0] * (6 - len(row)), dtype=torch.float64).expand_as(ranked))
    assert len(torch.unique(law.tables[-1].reshape(-1, 6), dim=0)) > 20, "supports are random, row by row"


def test_peaked_law():
    rows = peaked_law([5, 5], 5, 0.9, 0, 1).conditional.sort(-1, descending=True).values
    assert torch.allclose(rows, torch.tensor([0.9] + [0.025] * 4, dtype=torch.float64))
    counts = [
        torch.bincount(peaked_law([5, 5], 5, 0.9, 0, 1, balanced).conditional.argmax(-1), minlength=5)
        for balanced in (False, True)
    ]
    assert counts[1].tolist() == [5] * 5 != counts[0].tolist()
    chosen = peaked_law([9, 9], 9, 0.9, 20, 1).conditional.argmax(-1)
    assert (chosen == 0).double().mean() > 0.7, "a large exponent prefers the first token"


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_ranks_are_what_they_say(rank):
    for aligned in (False, True):
        law, directions = rank_law([7, 7], 7, rank, aligned, 0)
        assert rank_of(law) == rank and directions.shape == (7, rank)
        if aligned:
            assert law.conditional[:, rank:].var(1, correction=0).max() < 1e-20, "the other tokens never differ"
    assert rank_of(first_positions_law([7, 7], 7, rank, 0)) == rank
    logs = almost_rank_law([7, 7], 7, rank, False, 0, high=5.0, low=1e-12).conditional.log()
    values = torch.linalg.svdvals(logs - logs.mean(1, keepdim=True))
    assert (values > 1e-6).sum() == rank


def test_any_order_and_seed():
    assert geometric_law([1, 1], [4, 2], 5, 0).order == 2 and peaked_law([3] * 4, 3, 0.9, 0, 0).order == 5
    a, b, c = (geometric_law([1, 0.5], [5, 5], 5, seed).conditional for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def tables(*changes):
    made = [torch.full((3,), 1 / 3), torch.full((3, 3), 1 / 3), torch.full((3, 3, 3), 1 / 3)]
    for k, where, value in changes:
        made[k][where] = value
    return made


@pytest.mark.parametrize(
    "made, message",
    [
        (tables((1, (2, 0), 0.5)), r"table 1 of the law: row \(2,\) sums to 1.16667; a distribution sums to 1"),
        (tables((0, 0, 0.5)), r"table 0 of the law: row \(\) sums to 1.16667"),
        (tables((2, (0, 1, 2), -0.25)), r"table 2 of the law has -0.25 at \(0, 1, 2\); probabilities are not negative"),
        (tables((2, (0, 1, 2), math.nan)), r"table 2 of the law has nan at \(0, 1, 2\)"),
        (tables()[:1] + [torch.full((3, 4), 0.25)], r"table 1 of the law has shape \(3, 4\); it must have \(3, 3\)"),
        (tables()[:1], "a law has 1 tables; an n-gram law has n of them, at least 2"),
    ],
)
def test_tables_that_are_no_law_are_refused(made, message):
    with pytest.raises(ValueError, match=message):
        Law(tuple(made))


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: geometric_law([1, 1, 1], [5, 6, 1], 5, 0),
            r"nb_tokens\[1\] is 6; it must be from 1 to the 5 tokens that there are",
        ),
        (lambda: geometric_law([1, 1, 1], [5, 0, 1], 5, 0), r"nb_tokens\[1\] is 0"),
        (lambda: geometric_law([1, 1], [5, 5, 1], 5, 0), "2 alphas for 3 nb_tokens"),
        (
            lambda: geometric_law([1, 1.5], [5, 5], 5, 0),
            r"alphas\[1\] is 1.5; the ratio of a geometric law must be in \(0, 1\]",
        ),
        (
            lambda: power_law([1, -1], [5, 5], 5, 0),
            r"alphas\[1\] is -1; the exponent of a power law must not be negative",
        ),
        (lambda: rank_law([5, 5], 5, 6, True, 0), "rank is 6; logits over 5 tokens have a rank of 1 to 5"),
        (lambda: almost_rank_law([5, 5], 5, 0, True, 0), "rank is 0"),
        (lambda: first_positions_law([5], 5, 6, 0), "rank is 6"),
        (lambda: peaked_law([5, 5], 5, 1.2, 0, 0), "peak is 1.2; it must be a probability above 0"),
        (lambda: peaked_law([5, 5], 5, 0.9, 1, 0, True), "exponent is 1; a balanced law prefers no token"),
        (lambda: geometric_law([1] * 4, [300] * 4, 300, 0), "4-grams of 300 tokens are 8.1e[+]09; at most"),
        (
            lambda: random_law(3, 3).sample(2, 2, 0),
            "sequences of 2 tokens are shorter than the 3 of an n-gram of this law",
        ),
    ],
)
def test_impossible_laws_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
