"""The n-gram study: the solver, the looks inside, the fits, and the command line."""

import json
import math
import os
import re
import signal

import numpy as np
import pytest
import torch
from test_ngram_law import random_law

from mingpt.support import command
from projects.ngram_superposition import run as run_module
from projects.ngram_superposition.distributions import Law, almost_rank_law, geometric_law, peaked_law, rank_law
from projects.ngram_superposition.experiments import FROZEN, all_skips, divergence_of
from projects.ngram_superposition.faults import error_of, notebook_attention_map, notebook_freeze, notebook_mean
from projects.ngram_superposition.interpretation import (
    attention_map,
    closed_form_embeddings,
    head_contributions,
    last_residual,
    projection,
    random_subspace_distance,
    subspace_distance,
    top_span,
)
from projects.ngram_superposition.losses import Objective, evaluate
from projects.ngram_superposition.optimum import Problem, least_squares, solve, solve_all
from projects.ngram_superposition.run import EXPERIMENTS, main
from projects.ngram_superposition.scaling import accuracy_bound, fit_power_law, fit_sweeps
from projects.ngram_superposition.settings import LAWS, Setup
from projects.ngram_superposition.training import TrainingConfig, train
from projects.ngram_superposition.transformer import LowRanks, Skips, TransformerConfig, Transformers, layer_norm

# ----------------------------------------------------------------------------------------------------------------------
# The optimum


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_a_law_of_the_rank_is_reached_exactly(aligned, scale):
    law, _ = rank_law([6, 6], 6, 3, aligned, 0, scale)
    found = solve(law, 3)
    assert 0 <= found.divergence + 1e-12 and found.divergence < 1e-8
    assert divergence_of(found.wte, found.lm_head, law) == pytest.approx(found.divergence, abs=1e-12)
    assert solve(law, 2).divergence > 1e-5


def test_a_constant_in_each_row_costs_no_rank():
    law = random_law(4, 3)
    assert solve(law, 3).divergence < 1e-8, "4 tokens have 3 dimensions that softmax sees"


def brute_force(law: Law) -> float:
    """The best logits of rank 1 over 3 tokens: every direction is tried, each row bisected along it."""
    plane = torch.tensor([[1, -1, 0], [1, 1, -2]], dtype=torch.float64)
    plane /= plane.norm(dim=1, keepdim=True)
    angle = torch.linspace(0, math.pi, 1001, dtype=torch.float64)
    u = angle.cos()[:, None] * plane[0] + angle.sin()[:, None] * plane[1]  # (A, 3)
    low, high = (
        torch.full((1001, len(law.contexts)), -60.0).double(),
        torch.full((1001, len(law.contexts)), 60.0).double(),
    )
    wanted = u @ law.conditional.T
    for _ in range(45):
        e = (low + high) / 2
        rising = ((e[..., None] * u[:, None]).softmax(-1) * u[:, None]).sum(-1) > wanted
        low, high = torch.where(rising, low, e), torch.where(rising, e, high)
    log_q = (e[..., None] * u[:, None]).log_softmax(-1)
    return (-(law.joint * log_q).sum((1, 2)) - law.entropy()).min().item()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [2, 3])
def test_brute_force_finds_nothing_better(n, seed):
    generator = torch.Generator().manual_seed(seed)
    law = Law(
        tuple((2 * torch.randn((3,) * (k + 1), generator=generator, dtype=torch.float64)).softmax(-1) for k in range(n))
    )
    assert solve(law, 1, starts=8).divergence == pytest.approx(brute_force(law), abs=2e-5)


def test_gradient_of_the_solver_is_autograds():
    law = random_law(3, 3)
    problem, x = (
        Problem(law.contexts[None], law.conditional[None]),
        torch.randn(1, 12, 2, dtype=torch.float64, requires_grad=True),
    )
    value, gradient = problem.value_and_gradient(x.detach())
    logits = x[:, :9] @ x[:, 9:].transpose(1, 2)
    reference = -(law.joint * logits.log_softmax(-1)).sum() - law.entropy()
    assert torch.allclose(value, reference.detach()) and torch.allclose(
        gradient, torch.autograd.grad(reference, x)[0], atol=1e-12
    )


def test_training_does_not_beat_the_optimum_and_several_laws_are_solved_as_one():
    laws = [geometric_law([1, 1, 0.6], [5, 5, 5], 5, seed) for seed in range(3)]
    together = solve_all(laws, 2, starts=3)
    model = LowRanks(5, 2, 3, range(3))
    train(model, Objective(laws, "exact", range(3)), TrainingConfig(600, 3e-2))
    for law, found, reached in zip(laws, together, evaluate(model, laws).divergence.tolist()):
        assert found.divergence <= reached + 1e-6 and reached < found.divergence + 0.05
        assert found.divergence == min(found.starts) and found.gradient < 1e-5
        assert found.divergence == pytest.approx(solve(law, 2, starts=1).divergence, abs=0.02)


def test_contexts_that_never_come_do_not_count():
    law = geometric_law([1, 1, 0.6], [2, 6, 6], 6, 0)
    found = solve(law, 3)
    assert (found.wte[law.contexts == 0] == 0).all()
    assert divergence_of(found.wte, found.lm_head, law) == pytest.approx(found.divergence, abs=1e-10)


def test_any_deterministic_law_is_reached_with_two_dimensions():
    assert solve(geometric_law([1, 1, 1], [6, 6, 1], 6, 0), 2, max_iters=300).divergence < 1e-3


def test_least_squares_is_exact_for_a_law_of_the_rank():
    law, _ = rank_law([6, 6], 6, 3, False, 0)
    assert divergence_of(*least_squares(law, 3), law) < 1e-12


def test_the_solver_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="rank is 5; logits over 4 tokens have a rank of 1 to 4"):
        solve(random_law(4, 2), 5)
    with pytest.raises(ValueError, match="starts is 0"):
        solve(random_law(4, 2), 2, starts=0)


# ----------------------------------------------------------------------------------------------------------------------
# Looks inside


def model_without_residual() -> Transformers:
    return Transformers(TransformerConfig(6, 3, 4, n_parallel=3), [0, 1], [Skips(residual=True)] * 2).double()


def test_the_attention_map_is_the_models_own_pattern():
    model = model_without_residual()
    maps = attention_map(model)
    assert maps.shape == (2, 3, 6, 6)
    m, h, a, b = 1, 2, 4, 3
    attn, x = model.h[0].attn, [layer_norm(model.wte[m, token]) + model.wpe[m, t] for t, token in enumerate((a, b))]
    scores = torch.stack([(x[1] @ attn.c_q[m, h]) @ (part @ attn.c_k[m, h]) / 2.0 for part in x])
    assert maps[m, h, a, b].item() == pytest.approx(scores.softmax(0)[0].item(), abs=1e-12)
    assert (notebook_attention_map(model) - maps).abs().max() > 0.01, "without the layer norm it is another map"
    with torch.no_grad():
        model.wte.copy_(layer_norm(model.wte))  # whose layer norm changes nothing
    assert torch.allclose(notebook_attention_map(model), attention_map(model), atol=1e-6)


def test_contributions_add_up_to_the_logits():
    model = model_without_residual()
    parts = head_contributions(model)
    assert torch.allclose(parts.logits.sum(2), model.context_logits(), atol=1e-12)
    gram = model.lm_head @ model.lm_head.transpose(1, 2)
    logits = torch.einsum("mrhv,mvw->mrhw", parts.tokens, gram)
    assert torch.allclose(logits - logits.mean(-1, keepdim=True), parts.logits, atol=1e-10)
    assert torch.allclose(model.unembed(last_residual(model)), model.context_logits(), atol=1e-12)


def test_heads_can_be_right_together_and_neither_alone():
    parts = head_contributions(model_without_residual())
    logits = torch.zeros(1, 1, 2, 3)
    logits[0, 0] = torch.tensor([[2.0, 3.0, 0.0], [2.0, 0.0, 3.0]])
    parts = type(parts)(parts.written, logits, parts.tokens)
    solo, group = parts.lead(torch.tensor([0]))
    assert solo.tolist() == [[[-1.0, -1.0]]] and group.tolist() == [[1.0]]
    assert parts.only_together(torch.tensor([0])).tolist() == [1] and parts.only_together(torch.tensor([1])) == 0


def test_shifted_heads_do_not_share_a_context():
    parts = head_contributions(model_without_residual())
    shifted, few = parts.shifted(5), parts.of(torch.tensor([3, 30]))
    assert torch.equal(shifted.logits[:, :, 0], parts.logits[:, :, 0])
    assert torch.equal(shifted.logits[:, 5:, 1], parts.logits[:, :-5, 1])
    assert torch.equal(shifted.logits[:, 10:, 2], parts.logits[:, :-10, 2])
    assert torch.equal(few.logits, parts.logits[:, [3, 30]]) and few.written.shape == (2, 2, 3, 4)


def test_attention_maps_are_of_trigrams():
    with pytest.raises(ValueError, match="this one is of order 2"):
        attention_map(Transformers(TransformerConfig(6, 2, 4), [0]))


def test_distances_of_spans():
    A = torch.randn(8, 3, dtype=torch.float64)
    P = projection(A)
    assert torch.allclose(P @ P, P) and P.trace().item() == pytest.approx(3) and P.sum(1).abs().max() < 1e-12
    assert subspace_distance(A, A @ torch.randn(3, 3).double()) == pytest.approx(0, abs=1e-6)
    shifted = A + torch.randn(1, 3).double()
    assert subspace_distance(A, shifted) == pytest.approx(0, abs=1e-6), "softmax cannot see the shift"
    assert subspace_distance(A, shifted, centre=False) > 0.1, "the notebook's distance can"
    a, b = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]).double().chunk(2, 1)
    assert subspace_distance(a, b) == pytest.approx(math.sqrt(2)), "orthogonal lines"
    drawn = [subspace_distance(*torch.randn(2, 8, 3, dtype=torch.float64)) ** 2 for _ in range(300)]
    assert np.mean(drawn) ** 0.5 == pytest.approx(random_subspace_distance(8, 3), rel=0.03)


def test_the_best_span_of_a_law_of_the_rank_is_the_laws_own():
    law, directions = rank_law([6, 6], 6, 3, False, 0)
    assert subspace_distance(top_span(law, 3), directions) < 1e-6
    assert subspace_distance(solve(law, 3).lm_head, directions) < 1e-3


def test_closed_form_is_the_weighted_regression_and_exact_when_it_can_be():
    law, directions = rank_law([6, 6], 6, 3, False, 0, scale=1.0)
    assert divergence_of(closed_form_embeddings(directions, law), directions, law) < 1e-12
    lm_head = torch.randn(6, 2, dtype=torch.float64)
    fitted = closed_form_embeddings(lm_head, law)
    for row in (0, 17):
        weight = law.conditional[row].sqrt()[:, None]
        inputs = torch.cat((lm_head, torch.ones(6, 1).double()), 1)
        expected = torch.linalg.lstsq(weight * inputs, weight * law.conditional[row].log()[:, None]).solution[:2, 0]
        assert torch.allclose(fitted[row], expected, atol=1e-8)
    near = almost_rank_law([6, 6], 6, 4, False, 0)
    found = solve(near, 3)
    assert divergence_of(closed_form_embeddings(found.lm_head, near), found.lm_head, near) == pytest.approx(
        found.divergence, rel=0.05
    )


def test_laws_with_zeros_have_no_logarithms():
    law = geometric_law([1, 1, 1], [4, 4, 1], 4, 0)
    for call in (lambda: top_span(law, 2), lambda: closed_form_embeddings(torch.randn(4, 2), law)):
        with pytest.raises(ValueError, match="the law has probabilities of 0"):
            call()


def test_rows_paired_as_in_the_notebook_are_the_wrong_rows():
    law = peaked_law([5, 5], 5, 0.9, 0, 0)
    found = solve(law, 4)
    transposed = found.wte.view(5, 5, 4).transpose(0, 1).reshape(25, 4)
    assert found.divergence < 1e-3 and divergence_of(transposed, found.lm_head, law) > 0.5


def test_the_notebooks_mean_of_a_hundred_ones_is_not_one():
    assert notebook_mean([1.0] * 500) == pytest.approx(0.99)


# ----------------------------------------------------------------------------------------------------------------------
# Fits and bounds


def test_power_laws_are_recovered_with_an_intercept_for_each_group():
    x = np.tile([1, 2, 4, 8], 6)
    groups = np.repeat(range(6), 4)
    exact = fit_power_law(x, (1 + groups) * x**-1.5, groups)
    assert [exact.exponent, exact.low, exact.high] == pytest.approx([-1.5] * 3) and exact.points == 24
    random, covered = np.random.default_rng(0), 0
    for _ in range(300):  # slopes that differ from group to group, and noise
        slopes = -1.5 + 0.2 * random.normal(size=6)
        fit = fit_power_law(x, (1 + groups) * x ** slopes[groups] * np.exp(0.1 * random.normal(size=24)), groups)
        covered += fit.low < -1.5 < fit.high
    assert 0.92 < covered / 300 < 0.98, "95 % intervals hold the truth in 95 % of the cases"


def scaling_rows(exponent, fall):
    """What `scaling` writes of models whose excess is N ** exponent * ln(1/alpha_2) ** fall, above an optimum of 1."""
    return [
        {
            "sweep": "vocab_size",
            "value": N,
            "alpha_1": a,
            "alpha_2": b,
            "seed": seed,
            "N": N,
            "d": 5,
            "n_layer": 1,
            "para": 5,
            "n_head": 1,
            "width": 0,
            "depth": 1,
            "optimum": 1.0,
            "divergence": 1 + N**exponent * (-math.log(b)) ** fall,
        }
        for N in (2, 4, 8)
        for a in (0.9, 1.0)
        for b in (0.3, 0.6, 0.9)
        for seed in (0, 1)
    ]


def test_the_excess_is_fitted_against_the_shape_and_against_the_fall_of_the_law():
    rows = scaling_rows(-2.0, 1.5)
    fits = fit_sweeps(rows + [{**row, "sweep": "n_layer"} for row in rows])  # the same models once more
    assert fits["vocab_size"]["excess"].exponent == pytest.approx(-2) and fits["fall"]["excess"].points == len(rows)
    assert fits["fall"]["excess"].exponent == pytest.approx(1.5)
    assert abs(fits["vocab_size"]["divergence"].exponent) < 1, "the divergence itself runs into its floor"
    rows[0]["divergence"] = 0.9
    assert "excess" not in fit_sweeps(rows)["vocab_size"]


def test_fits_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="fitted to positive numbers"):
        fit_power_law([1, 2], [1, 0], [0, 0])
    for x, groups in (([1, 2], [0, 1]), ([1, 2], [0, 0])):
        with pytest.raises(ValueError, match="at least two groups, each with two different x"):
            fit_power_law(x, [1, 2], groups)


def test_the_bound_of_the_paper():
    assert accuracy_bound(50, 2500, 21, 10, 10) == pytest.approx(0.106, abs=5e-4)
    assert accuracy_bound(50, 2500, 10_000, 10, 10) == 1


# ----------------------------------------------------------------------------------------------------------------------
# The command line


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["run.py", *map(str, words)])
    main()


def test_all_experiments_run_quickly_and_leave_figures_and_numbers(tmp_path, monkeypatch, capsys, coarse_figures):
    run(monkeypatch, "all", "--quick", "--seeds", "2", "--out", tmp_path)
    shown = capsys.readouterr().out
    for name in EXPERIMENTS:
        result = json.loads((tmp_path / f"{name}.json").read_text())
        assert result["experiment"] == name and result["options"]["seeds"] == 2 and f"\n{name}\n" in shown
        if name not in ("faults", "large_optimum"):
            assert (tmp_path / f"{name}.png").stat().st_size > 4_000
    assert len((tmp_path / "scaling.csv").read_text().splitlines()) == 1 + 6 * 2 * 2
    faults = {row["fault"]: row for row in json.loads((tmp_path / "faults.json").read_text())["numbers"]["rows"]}
    assert len(faults) == 9
    effect = faults[
        "skips do not reach the model"
    ]  # of models trained side by side: places in a batch round differently
    assert abs(effect["notebook"]) < 1e-6 and abs(effect["right"]) > 1e-5
    assert faults["the freezing cell omits freeze_pos"]["notebook"] == "KeyError: 'freeze_pos'"
    assert faults["the freezing cell omits freeze_pos"]["right"] == "positions, O"
    assert faults["LowRank called in an old order"]["notebook"].endswith(
        "takes 4 positional arguments but 5 were given"
    )


FEW = ("closed_form", "large_optimum", "faults")


@pytest.fixture
def few_experiments(monkeypatch, coarse_figures):
    """`all` is three of the quickest."""
    monkeypatch.setattr("projects.ngram_superposition.run.EXPERIMENTS", {name: EXPERIMENTS[name] for name in FEW})


def results(folder) -> dict:
    """Experiment -> what its file says, but for seconds, those inside the numbers too."""

    def timeless(value):
        if isinstance(value, dict):
            return {
                key: timeless(part)
                for key, part in value.items()
                if "seconds" not in key and key != "sha256 of the rest"
            }
        return [timeless(part) for part in value] if isinstance(value, list) else value

    return {path.name: timeless(json.loads(path.read_text())) for path in folder.glob("*.json")}


def test_a_stop_keeps_what_is_finished_and_resume_runs_the_rest(tmp_path, monkeypatch, capsys, few_experiments):
    words = ("all", "--quick", "--seeds", "1")
    run(monkeypatch, *words, "--out", tmp_path / "unbroken")
    function, *rest = EXPERIMENTS["large_optimum"]

    def stopped(setup, options):
        function(setup, options)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setitem(run_module.EXPERIMENTS, "large_optimum", (stopped, *rest))
        run(patch, *words, "--out", tmp_path / "cut")
    said = capsys.readouterr()
    assert ended.value.code == 143 and said.err.splitlines()[-1] == (
        f"stopped by SIGTERM; experiments that are finished are kept in {tmp_path / 'cut'}, and the same command with "
        "--resume runs the others"
    )
    assert list(results(tmp_path / "cut")) == ["closed_form.json"]
    kept = (tmp_path / "cut" / "closed_form.json").stat()
    run(monkeypatch, *words, "--out", tmp_path / "cut", "--resume")
    assert capsys.readouterr().out.count("kept: ") == 1
    assert (tmp_path / "cut" / "closed_form.json").stat() == kept
    found, expected = results(tmp_path / "cut"), results(tmp_path / "unbroken")
    assert len(found) == 3 and found == expected
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == sorted(
        path.name for path in (tmp_path / "unbroken").iterdir()
    )


def test_results_of_other_settings_or_of_somebody_else_are_not_taken_for_finished(
    tmp_path, monkeypatch, capsys, few_experiments
):
    words, path = ("large_optimum", "--quick", "--out", tmp_path), tmp_path / "large_optimum.json"
    path.write_text('{"experiment": "large_optimum", "numbers": 1}')
    for more, said in (
        ((), "note: .*: not a result that this program wrote\n"),
        (("--max_iters", "9"), "is of another run: max_iters was 10 and is 9"),
        (("--max_iters", "9", "--seed", "7"), "is of another run: seed was 2222 and is 7"),
        (("--max_iters", "9", "--seed", "7"), "kept: "),
    ):
        run(monkeypatch, *words, *more, "--resume")
        assert re.search(said, capsys.readouterr().out), said
    assert json.loads((tmp_path / "large_optimum.json.kept").read_text())["numbers"] == 1
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "VERSION", 0)
        run(patch, *words, *more, "--resume")
    assert "is of another run: version was 1 and is 0" in capsys.readouterr().out
    for content in (
        path.read_text().replace("2222", "7").replace('"divergence": ', '"divergence": 1'),
        "[" * 100_000,
        "[3]",
    ):
        path.write_text(content)
        run(monkeypatch, *words, *more, "--resume")
        assert "kept: " not in capsys.readouterr().out


def test_settings_are_taken(tmp_path, monkeypatch, coarse_figures):
    run(
        monkeypatch,
        "freezing",
        "--quick",
        "--seeds",
        "1",
        "--vocab-size",
        "4",
        "--n_embd",
        "3",
        "--nb_tokens",
        "4,2,4",
        "--law",
        "zipf",
        "--out",
        tmp_path,
        "--objective",
        "exact",
        "--dtype",
        "float64",
    )
    result = json.loads((tmp_path / "freezing.json").read_text())
    assert (result["settings"]["vocab_size"], result["settings"]["law"], result["options"]["dtype"]) == (
        4,
        "zipf",
        "float64",
    )
    assert list(result["numbers"]["divergence"]) == list(FROZEN)


def test_errors_are_provoked_not_asserted():
    whole = {f"freeze_{part}": False for part in ("E", "pos", "QKV", "O", "U")}
    assert error_of(notebook_freeze, whole) == "none" and notebook_freeze({**whole, "freeze_O": True}) == ["O"]


@pytest.mark.parametrize("law", LAWS)
def test_every_law_can_be_chosen(law):
    made = Setup(vocab_size=6, n_embd=4, law=law, nb_tokens="all", alphas="1,0.5,0.5", rank=2).make_law(0)
    assert (made.order, made.vocab_size) == (3, 6) and (made.conditional > 0).all()
    if law not in ("geometric", "power", "zipf", "peaked", "balanced"):
        logs = made.conditional.log()
        values = torch.linalg.svdvals(logs - logs.mean(1, keepdim=True))
        assert values[1] > 3 * values[2], "two directions stand out"
        assert (values[2] < 1e-9 * values[0]) == (law != "almost_rank")


def test_every_combination_of_skips_that_leaves_an_input():
    assert len(all_skips()) == 18 and all_skips()[0] == Skips() and len(set(map(str, all_skips()))) == 18


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["subspace", "--n_parallel", "3"],
            "error: subspace takes no --n_parallel; it takes vocab_size, n_embd, objective",
        ),
        (["all", "--max_iters", "3"], "error: all takes no --max_iters"),
        (["freezing", "--n_embd", "5", "--n_head", "2"], "error: n_embd is 5, which 2 heads do not divide"),
        (
            ["freezing", "--nb_tokens", "10,11,1"],
            "error: nb_tokens[1] is 11; it must be from 1 to the 10 tokens that there are",
        ),
        (["freezing", "--nb_tokens", "10,x,1"], "error: --nb_tokens is '10,x,1'; write numbers with commas between"),
        (["freezing", "--alphas", "1,1"], "error: 2 alphas for 3 nb_tokens"),
        (["freezing", "--law", "pareto"], "error: --law is 'pareto'; it must be one of geometric, power, zipf, peaked"),
        (
            ["freezing", "--law", "peaked"],
            "error: --nb_tokens ends in 1; a peaked law makes all tokens possible at the end",
        ),
        (
            ["freezing", "--law", "rank", "--nb_tokens", "all", "--rank", "11"],
            "error: rank is 11; logits over 10 tokens",
        ),
        (["freezing", "--objective", "some"], "error: --objective is 'some'"),
        (["freezing", "--seeds", "0"], "error: --seeds is 0"),
        (["freezing", "--seeds", "99999999999999999999"], "error: argument --seeds: '99999999999999999999"),
        (["freezing", "--seed", "99999999999999999999"], "error: argument --seed: '99999999999999999999"),
        (["freezing", "--seed", "-1"], "error: --seed is -1"),
        (["freezing", "--learning_rate", "nan"], "error: argument --learning_rate: 'nan' is not finite"),
        (["freezing", "--learning_rate", "inf"], "error: argument --learning_rate: 'inf' is not finite"),
        (["freezing", "--alphas", "nan,1,1"], "error: alphas[0] is nan; the ratio"),
        (["superposition", "--peak", "nan"], "error: argument --peak: 'nan' is not finite"),
        (["faults", "--vocab_size", "9" * 400], "error: argument --vocab_size: '9999"),
        (["freezing", "--n_parallel", "-99999999999"], "error: --n_parallel is -99999999999; it must be less than"),
        (["freezing", "--dtype", "float16"], "error: --dtype is 'float16'"),
        (["freezing", "--batch_size", "0"], "error: --batch_size is 0"),
        (["freezing", "--max_iters", "0"], "error: max_iters is 0"),
        (
            ["attention_map", "--quick", "--nb_tokens", "10,10", "--alphas", "1,1"],
            "error: an attention map over pairs of tokens is of trigram",
        ),
        (["subspace", "--n_embd", "11"], "error: --n_embd is 11, more than the 10 tokens"),
        (["superposition", "--quick", "--device", "tpu"], "error: device 'tpu' cannot be used here"),
    ],
)
def test_a_mistake_ends_in_one_line(words, message, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *words, "--out", tmp_path)
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert ended.value.code == 2 and len(shown) == 1 and shown[0].startswith(message)


@pytest.mark.skipif(
    not os.path.exists("/proc/self/status") or os.path.exists("/dev/nvidiactl"),
    reason="only Linux grants memory that is not there, and drivers of GPUs map more than they use",
)
def test_sizes_that_no_memory_holds_end_in_one_line(tmp_path, monkeypatch, capsys):
    read = command._kibibytes
    monkeypatch.setattr(command, "_kibibytes", lambda path, name: read(path, name) if name == "VmData" else 1 << 28)
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "freezing", "--vocab_size", "2000000000", "--nb_tokens", "1,1,1", "--out", tmp_path)
    assert ended.value.code == 2 and capsys.readouterr().err.splitlines()[-1].startswith("error: not enough memory (")


def test_an_unknown_experiment_is_named(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "dynamic")
    assert "invalid choice: 'dynamic'" in capsys.readouterr().err
