"""Predictions against brute force, and the study from its command line."""

import json
import sys

import pytest
import torch

from mingpt.support.files import read_text
from projects.attention_exploration import theory
from projects.attention_exploration.measure import Row, attend, orthonormal, sample_keys, sampled, weights
from projects.attention_exploration.run import main
from projects.attention_exploration.theory import ONE_HEAD, TWO_HEADS


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["run.py", *map(str, words)])
    main()


def test_attention_is_softmax_of_the_plain_scores():
    g = generator()
    queries, keys, values = (
        torch.randn(*shape, dtype=torch.float64, generator=g) for shape in ((2, 5), (3, 7, 5), (7, 4))
    )
    expected = torch.einsum("hd,bsd->bhs", queries, keys).softmax(-1)
    torch.testing.assert_close(weights(queries, keys), expected)
    torch.testing.assert_close(attend(queries, keys, values), expected @ values)


@pytest.mark.parametrize("n", [3, 10, 500])
def test_bounds_of_the_top_weight_are_reached(n):
    gap = 2.7
    low, high = theory.top_weight_range(gap, n)
    tied = torch.tensor([gap] + [0.0] * (n - 1), dtype=torch.float64).softmax(0)[0]
    alone = torch.tensor([gap, 0.0] + [-1e9] * (n - 2), dtype=torch.float64).softmax(0)[0]
    torch.testing.assert_close(low, tied), torch.testing.assert_close(high, alone)
    assert theory.top_weight_range(theory.gap_needed(0.01, n), n)[0] == pytest.approx(0.99)


def test_leak_is_what_the_other_keys_get():
    for n, targets in ((4, 1), (10, 2), (100, 3)):
        scores = torch.zeros(n, dtype=torch.float64)
        scores[:targets] = 3.0
        assert theory.leak(3.0, n, targets) == pytest.approx(float(scores.softmax(0)[targets:].sum()))


@pytest.mark.parametrize("seed", range(5))
def test_the_extractor_on_random_bases(seed):
    A, B = (torch.randn(9, k, dtype=torch.float64, generator=generator(seed + 10 * k)) for k in (3, 4))
    M = theory.extractor(A, B)
    torch.testing.assert_close(M @ A, A, atol=1e-9, rtol=0)
    torch.testing.assert_close(M @ B, torch.zeros_like(B), atol=1e-9, rtol=0)
    with pytest.raises(ValueError, match="share 1 dimension, so no matrix"):
        theory.extractor(A, torch.cat([A[:, :1] + A[:, 1:2], B], dim=1))


@pytest.mark.parametrize("std", [0.3, 1.4, 6.0])
def test_logistic_normal_law_against_a_fine_grid(std):
    z = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    p = torch.exp(-z * z / 2)
    p, r = p / p.sum(), torch.sigmoid(std * z)
    assert theory.logistic_normal_variance(std) == pytest.approx(float(p @ (r - 0.5) ** 2), abs=1e-7)
    assert float(theory.logistic_normal_cdf(0.3, 0.0, std)) == pytest.approx(float(p[r <= 0.3].sum()), abs=1e-4)
    grid = torch.linspace(1e-4, 1 - 1e-4, 100_001, dtype=torch.float64)
    density = theory.logistic_normal_density(grid, 0.0, std)
    peaks = grid[1:-1][(density[1:-1] > density[:-2]) & (density[1:-1] > density[2:])]
    found = torch.tensor([mode for mode in theory.modes(std) if 1e-4 < mode < 1 - 1e-4], dtype=torch.float64)
    torch.testing.assert_close(peaks, found, atol=1e-4, rtol=0)


@pytest.mark.parametrize("heads", [ONE_HEAD, TWO_HEADS])
@pytest.mark.parametrize("alpha, radial", [(0.01, 0.0), (1e-8, 0.5), (0.02, 0.3)])
def test_errors_against_simulation_with_plain_softmax(heads, alpha, radial):
    n, beta, g = 6, 3.0, generator(3)
    mu = orthonormal(n, 8, g)
    keys = sample_keys(mu, alpha, radial, 40_000, g)
    queries = beta * torch.tensor(heads, dtype=torch.float64) @ mu[:2]
    c = (keys @ queries.T).softmax(dim=1).mean(dim=2)  # (B, S)
    target = torch.tensor([0.5, 0.5] + [0.0] * (n - 2), dtype=torch.float64)
    squares = ((c - target) ** 2).sum(dim=1)
    error, spread = theory.output_error(heads, beta, n, alpha, radial)
    assert abs(float(squares.mean()) - error) < 4 * float(squares.std()) / 200
    assert float(c.var(dim=0).sum()) == pytest.approx(spread, rel=0.05)


def test_a_wrong_prediction_fails():
    draws = torch.randn(10_000, dtype=torch.float64, generator=generator())
    assert sampled("q", "mean", 0.0, draws).ok and not sampled("q", "mean", 0.05, draws).ok
    assert Row("q", "identity", 1.0, 1.0 + 1e-12).ok and not Row("q", "identity", 1.0, 1.0 + 1e-6).ok
    assert Row("q", "bound", 1.0, 0.5, relation="<=").ok and not Row("q", "bound", 1.0, 1.1, relation="<=").ok


@pytest.mark.parametrize("seed", [0, 1])
def test_the_study(seed, tmp_path, monkeypatch, capsys, coarse_figures):
    if seed:  # figures are drawn once: they take most of the time
        for name in ("copying", "extraction", "averaging", "distributions", "errors"):
            monkeypatch.setattr(f"projects.attention_exploration.run.plot_{name}", lambda *_: None)
    run(monkeypatch, "--quick", "--seed", seed, "--out", tmp_path)
    metrics = json.loads(read_text(tmp_path / "metrics.json"))
    assert metrics["failed"] == 0 and metrics["rows"] > 100 and 0.7 < metrics["rms_standard_errors_apart"] < 1.3
    for name in ("copying", "extraction", "averaging", "distributions", "errors") if seed == 0 else ():
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    lines = read_text(tmp_path / "table.md").splitlines()
    assert len(lines) == metrics["rows"] + 2 and all(line.count("|") - line.count("\\|") == 8 for line in lines)
    assert all(line.endswith("| pass |") for line in lines[2:])
    assert "FAIL" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        (("--n_keys", "3"), "--n_keys is 3; it must be from 4"),
        (("--d", "5"), "--d is 5, but 10 orthonormal keys need --d 10 or more"),
        (("--draws", "10"), "--draws is 10; standard errors need at least 100"),
        (("--draws", "100000000"), "take more than 2 GB"),
        (("--draws", "0"), "--draws is 0; standard errors need at least 100"),
        (("--seed", "99999999999999999999"), "error: argument --seed: '99999999999999999999"),
        (("--d", "99999999999999999999"), "error: argument --d: '99999999999999999999"),
    ],
)
def test_mistakes_are_one_line(words, message, tmp_path, monkeypatch, error_line):
    assert message in error_line(run, monkeypatch, *words, "--out", tmp_path)
    assert not list(tmp_path.iterdir())
