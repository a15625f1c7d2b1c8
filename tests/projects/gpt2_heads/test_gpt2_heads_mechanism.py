"""The mechanism of induction heads: every score, claim and edit on a model whose answers are known."""

import copy
import json
import math
import re
import sys

import pytest
import torch
from torch import nn

from mingpt.interpret.circuits import composition_scores, subspace_similarity
from mingpt.interpret.edits import edit, exchange, project
from mingpt.interpret.hooks import patch, record
from mingpt.interpret.weights import head_weights
from mingpt.model import GPT, GPTConfig
from projects.gpt2_heads.mechanism import doubts, report
from projects.gpt2_heads.mechanism.circuits import (
    composable,
    diagonal_study,
    diagonals,
    key_basis,
    output_basis,
    pick,
    subspace_study,
)
from projects.gpt2_heads.mechanism.commands import against_published
from projects.gpt2_heads.mechanism.copying import CopyTest, folded, repeated_segments
from projects.gpt2_heads.mechanism.edits import (
    PARTS,
    bridge_subspace,
    permutation,
    project_study,
    shuffle_study,
    shuffled,
)
from projects.gpt2_heads.mechanism.handbuilt import CONFIG, INDUCTION_HEADS, PREVIOUS_TOKEN_HEADS, handbuilt_model
from projects.gpt2_heads.mechanism.paths import cut
from projects.gpt2_heads.mechanism.ranking import REFERENCE, against_reference, ranked_text, score_repeats

V, C, D, PERIOD = CONFIG.vocab_size, CONFIG.n_embd, CONFIG.head_dim, 12
STRENGTH = torch.linspace(1, 0.7, V)
SILENT = [(0, 0), (0, 2), (1, 1), (1, 3)]


@pytest.fixture(scope="module")
def model() -> GPT:
    return handbuilt_model()


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.fixture
def test(model, generator) -> CopyTest:
    return CopyTest(model, repeated_segments(V, PERIOD, 2, 32, generator), PERIOD)


@pytest.fixture
def random_model() -> GPT:
    gpt = GPT(GPTConfig(vocab_size=31, block_size=24, n_layer=3, n_head=4, n_embd=32))
    for parameter in gpt.parameters():
        nn.init.normal_(parameter, std=0.3)
    return gpt.eval()


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_untouched(model: nn.Module, before: dict) -> None:
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# ----------------------------------------------------------------------------------------------------------------------
# Scores


@pytest.mark.parametrize("drop_first", [False, True])
def test_the_heads_that_were_built_are_found(model, generator, drop_first):
    scores = score_repeats(model, PERIOD, 2, 16, drop_first, generator)
    assert scores.best("induction", 10) == INDUCTION_HEADS or scores.best("induction", 10) == INDUCTION_HEADS[::-1]
    assert sorted(scores.best("previous token", 10)) == PREVIOUS_TOKEN_HEADS
    for kind, heads in (("induction", INDUCTION_HEADS), ("previous token", PREVIOUS_TOKEN_HEADS)):
        for layer in range(2):
            for head in range(4):
                mean = scores.mean[kind][layer, head].item()
                assert mean > 0.999 if (layer, head) in heads else mean < 0.2
                assert scores.error[kind][layer, head] < 0.02


def test_the_notebooks_sums_are_ours(random_model, generator):
    """Its formula, diagonal by diagonal, on its 3 x 5 tokens, against the general one."""
    T0 = 5
    scores = score_repeats(random_model, T0, 3, 1, True, torch.Generator().manual_seed(3))
    idx = repeated_segments(31, T0, 3, 1, torch.Generator().manual_seed(3))
    with torch.no_grad(), record(random_model, "h.*.attn.pattern") as seen:
        random_model(idx)
    for layer in range(3):
        for head in range(4):
            A = seen[f"h.{layer}.attn.pattern"][0, head].clone()
            A[:, 0] = 0
            A[1:] /= A[1:].sum(dim=1, keepdim=True)
            one, two = A.diagonal(-(T0 - 1))[1:], A.diagonal(-(2 * T0 - 1))[1:]
            expected = torch.cat((one[:-T0], one[-T0:] + two)).mean()
            assert scores.mean["induction"][layer, head].item() == pytest.approx(expected.item(), abs=1e-5)
            assert scores.mean["previous token"][layer, head].item() == pytest.approx(
                A.diagonal(-1)[1:].mean().item(), abs=1e-5
            )


def test_rankings_and_reference(model, generator):
    scores = score_repeats(model, PERIOD, 2, 4, False, generator)
    text = ranked_text(scores, "induction", "Induction heads").splitlines()
    assert len(text) == 2 + 8 and {line.split()[0] for line in text[2:4]} == {"1.0", "1.2"} and "±" in text[2]
    compared = against_reference(scores, "induction", {"1.0": 0.9, "1.2": 0.8, "0.3": 0.7}, top=3)
    assert compared["shared"] in (2, 3) and compared["heads"][0]["head"] == "1.0"
    assert compared["heads"][1]["ours"] == pytest.approx(1, abs=1e-3)
    for tables in REFERENCE.values():
        for table in tables.values():
            assert len(table) >= 10 and list(table.values()) == sorted(table.values(), reverse=True)
    assert (
        REFERENCE["one sequence"]["induction"]["5.1"] == 0.9954
        and len(REFERENCE["one sequence"]["previous token"]) == 21
    )


def test_a_model_without_such_heads_is_refused(random_model, generator):
    scores = score_repeats(random_model, 10, 2, 4, False, generator)
    with pytest.raises(ValueError, match="no head reaches a score of 0.4 for induction"):
        scores.best("induction", 10)


# ----------------------------------------------------------------------------------------------------------------------
# Copying, and edits


def test_segments_repeat_and_their_tokens_differ(generator):
    idx = repeated_segments(20, 15, 3, 8, generator)
    assert idx.shape == (8, 45) and torch.equal(idx[:, :15], idx[:, 30:]) and idx.max() < 20
    assert all(len(set(row[:15].tolist())) == 15 for row in idx)
    with pytest.raises(ValueError, match="21 different tokens"):
        repeated_segments(20, 21, 2, 1, generator)


def test_the_built_model_copies_without_a_mistake(test):
    copying = test()
    assert copying.error.shape == (32, PERIOD - 1) and copying.error.sum() == 0 and copying.probability.min() > 0.999


def test_running_from_the_edited_layer_on_is_running_the_whole_model(random_model, generator):
    idx = repeated_segments(31, 10, 2, 4, generator)
    test, before = CopyTest(random_model, idx, 10), state(random_model)
    for heads in ([(0, 1), (2, 3)], [(1, 0), (1, 2)], [(2, 0), (2, 1)]):
        changes = exchange(random_model, heads, [1, 0], PARTS["QK"])
        ours = test(changes)
        dense = copy.deepcopy(random_model)
        with torch.no_grad(), edit(dense, changes):
            logits, _ = dense(idx)
        expected = logits[:, :-1].softmax(-1).gather(-1, idx[:, 1:, None]).squeeze(-1)[:, 10:]
        torch.testing.assert_close(ours.probability, expected, rtol=1e-4, atol=1e-6)
        assert torch.equal(ours.error, (logits[:, 10:-1].argmax(-1) != idx[:, 11:]).float())
        assert_untouched(random_model, before)


def test_bfloat16_counts_the_same_mistakes(test, model):
    before = state(model)
    fast = CopyTest(model, test.idx, test.period, torch.bfloat16)
    for heads in (INDUCTION_HEADS, [(1, 0), (1, 1)]):
        changes = exchange(model, heads, [1, 0], PARTS["QK"])
        assert fast(changes).probability.dtype == torch.float32
        assert (fast(changes).error - test(changes).error).abs().mean() < 0.05
    assert fast().error.sum() == 0 and fast.runner is not model
    assert_untouched(model, before)


def test_weights_are_restored_after_an_exception(test, model):
    before = state(model)
    broken = copy.copy(test)
    broken.inputs = [torch.zeros(1)] * 2  # no residual, so the run fails while the weights are changed
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        broken(exchange(model, INDUCTION_HEADS, [1, 0], PARTS["QK"]))
    assert_untouched(model, before)


def test_folding_the_norms_changes_no_prediction(random_model):
    idx = torch.randint(31, (3, 12))
    flat, before = folded(random_model), state(random_model)
    with torch.no_grad():
        torch.testing.assert_close(flat(idx)[0], random_model(idx)[0], rtol=1e-3, atol=1e-3)
    assert_untouched(random_model, before)
    for name in ("W_Q", "W_K", "W_V", "b_Q", "b_V"):
        theirs = getattr(head_weights(random_model, fold_layer_norm=True), name)
        torch.testing.assert_close(getattr(head_weights(flat), name), theirs, rtol=1e-4, atol=1e-4)
    assert all((block.ln_1.weight == 1).all() and (block.ln_1.bias == 0).all() for block in flat.transformer.h)


# ----------------------------------------------------------------------------------------------------------------------
# Claim 1


def test_the_diagonal_stands_out_where_heads_were_wired_together(model, generator):
    weights = head_weights(model)
    study = diagonal_study(weights, INDUCTION_HEADS, PREVIOUS_TOKEN_HEADS, generator)
    squares = STRENGTH**2  # W_QK W_OV^T is a multiple of the sum of strength^2 token token^T
    expected = squares.sum() / squares.square().sum().sqrt()
    torch.testing.assert_close(study["z"], expected.expand(2, 2), rtol=0.02, atol=0)
    assert study["composable"].all() and len(study["backwards"]) == 0
    assert len(study["others"]) == 4 * 4 - 4 and study["others"].abs().max() < 0.5
    assert study["gaussian_std"] == pytest.approx(1 / math.sqrt(C), rel=0.3)


def test_the_diagonal_is_the_dense_one(random_model):
    weights = head_weights(random_model, fold_layer_norm=True)
    ours = diagonals(weights, [(2, 1), (1, 0)], [(0, 3)])
    for i, (layer, head) in enumerate([(2, 1), (1, 0)]):
        W = weights.qk[layer, head].dense() @ weights.ov[0, 3].dense().T
        assert ours[i, 0].item() == pytest.approx(
            ((W.diagonal().mean() - W.mean()) / W.std(unbiased=False)).item(), abs=1e-4
        )


def test_only_earlier_layers_can_be_read():
    assert composable([(1, 0), (0, 2)], [(0, 0), (1, 3)]).tolist() == [[True, False], [False, False]]


def test_composition_scores_of_the_built_model(model):
    squares, weights = STRENGTH**2, head_weights(model)
    k, q, v = (composition_scores(weights, kind)[0, 1, 1, 0].item() for kind in "KQV")
    assert k == pytest.approx((squares.square().sum().sqrt() / squares.sum()).item(), rel=0.02)
    assert max(q, v) < k / 2


# ----------------------------------------------------------------------------------------------------------------------
# Claim 2


@pytest.mark.parametrize("rank", [1, 2, 5, 10])
def test_keys_read_what_previous_token_heads_write_at_every_rank(model, rank):
    weights = head_weights(model)
    keys, outputs = key_basis(weights, INDUCTION_HEADS, rank), output_basis(weights, PREVIOUS_TOKEN_HEADS, rank)
    for cosine in subspace_similarity(keys[:, None], outputs[None]):
        torch.testing.assert_close(cosine, torch.ones(2, 2), rtol=0, atol=1e-3)
    assert subspace_similarity(key_basis(weights, [(1, 1)], rank), outputs)[1].max() < 0.4


def test_subspaces_of_the_built_model(model, generator):
    study = subspace_study(head_weights(model), INDUCTION_HEADS, PREVIOUS_TOKEN_HEADS, SILENT, [2, 10], generator)
    for rank, groups in study.items():
        assert (
            groups["among induction heads"]["rms"].min() > 0.99
            and groups["among previous-token heads"]["rms"].min() > 0.99
        )
        assert groups["across"]["largest"].min() > 0.99 and len(groups["across"]["rms"]) == 4
        assert groups["random"]["rms"].mean().item() == pytest.approx(math.sqrt(rank / C), rel=0.1)
        assert groups["other heads"]["rms"].max() < 0.4


def test_subspaces_are_those_of_a_dense_decomposition(random_model):
    weights, heads = head_weights(random_model, fold_layer_norm=True), [(1, 2), (2, 0)]
    _, _, Vh = torch.linalg.svd(pick(weights.qk, heads).dense())
    dense = Vh[:, :3].mT
    for ours, circuits in ((key_basis(weights, heads, 3), weights.qk), (output_basis(weights, heads, 3), weights.ov)):
        _, _, Vh = torch.linalg.svd(pick(circuits, heads).dense())
        dense = Vh[:, :3].mT
        torch.testing.assert_close(ours @ ours.mT, dense @ dense.mT, rtol=0, atol=1e-4)


# ----------------------------------------------------------------------------------------------------------------------
# Claim 3


def test_permutations_and_derangements(generator):
    counts = {}
    for _ in range(900):
        order = permutation(4, generator, derangement=True)
        assert sorted(order) == [0, 1, 2, 3] and all(i != j for i, j in enumerate(order))
        counts[tuple(order)] = counts.get(tuple(order), 0) + 1
    assert len(counts) == 9 and min(counts.values()) > 60, "all nine derangements of four, alike"
    assert any(permutation(4, generator, derangement=False)[0] == 0 for _ in range(40))
    with pytest.raises(ValueError, match="at least|must be two"):
        permutation(1, generator, derangement=True)


def test_equal_circuits_can_change_places_and_others_cannot(test, model, generator):
    before, as_it_is = state(model), test()
    for component, heads in (("QK", INDUCTION_HEADS), ("OV", PREVIOUS_TOKEN_HEADS)):
        study = shuffle_study(test, heads, SILENT, [2], component, 3, True, generator)[2]
        assert study["shuffled"].error.shape == (3, 32, PERIOD - 1) and study["shuffled"].error.sum() == 0
        torch.testing.assert_close(
            study["shuffled"].probability, as_it_is.probability.expand(3, -1, -1), rtol=0, atol=1e-4
        )
        torch.testing.assert_close(
            study["control"].probability, as_it_is.probability.expand(3, -1, -1), rtol=0, atol=1e-2
        )
        assert study["foreign"].error.mean() > 0.8, "with the circuits of silent heads nothing is left"
    assert_untouched(model, before)


def test_biases_have_to_move_too(test):
    """Whole heads may change places within a layer. But without its bias b_Q an induction head is not kept from the
    first position, and where that token comes again looks there half of the time."""
    heads, order = INDUCTION_HEADS + [(1, 1), (1, 3)], [2, 3, 0, 1]
    whole = shuffled(test, [(heads, order)], PARTS["QK"] + PARTS["OV"])
    assert whole.probability.min() > 0.999
    bare = shuffled(test, [(heads, order)], ("W_Q", "W_K", "W_V", "W_O"))
    assert bare.probability[..., 1:].min() > 0.999 and 0.2 < bare.probability[..., 0].mean() < 0.8


def test_too_few_bystanders_are_refused(test, generator):
    with pytest.raises(ValueError, match="a control for 2 heads"):
        shuffle_study(test, INDUCTION_HEADS, SILENT[:1], [2], "QK", 1, True, generator)


# ----------------------------------------------------------------------------------------------------------------------
# Claim 4


@pytest.mark.parametrize("component, heads", [("QK", INDUCTION_HEADS), ("OV", PREVIOUS_TOKEN_HEADS)])
@pytest.mark.parametrize("rank", [1, 4, 10])
def test_each_direction_of_the_bridge_carries_one_token(test, model, generator, component, heads, rank):
    before = state(model)
    basis = output_basis(head_weights(model), PREVIOUS_TOKEN_HEADS[:1], V)[0]  # in the order of the tokens
    study = project_study(test, heads, component, basis, [rank], 2, generator)[rank]
    lost = test.idx[:, test.period : -1] < rank  # (B, n): the token whose earlier occurrence is looked for
    later = slice(1, None)  # without its direction for the first position, a head of the keys errs at the first
    assert study["without"].error[0][lost].mean() > 0.8
    assert study["without"].error[0][~lost].sum() == 0
    assert study["only"].error[0][:, later][~lost[:, later]].mean() > 0.8
    assert study["only"].error[0][:, later][lost[:, later]].sum() == 0
    assert study["without random"].error.shape == (2, 32, PERIOD - 1) and study["without random"].error.mean() < 0.05
    assert study["only random"].error.mean() > 0.4
    assert_untouched(model, before)


def test_the_bridge_of_the_keys_is_what_previous_token_heads_write(test, model):
    bridge = bridge_subspace(test, INDUCTION_HEADS, V)
    for written in output_basis(head_weights(model), PREVIOUS_TOKEN_HEADS, V):
        assert subspace_similarity(bridge, written)[1].item() == pytest.approx(1, abs=1e-3)
    assert test(project(model, INDUCTION_HEADS, "W_K", bridge, keep=True)).error[:, 1:].sum() == 0
    assert test(project(model, INDUCTION_HEADS, "W_K", bridge)).error.mean() > 0.8


# ----------------------------------------------------------------------------------------------------------------------
# Path patching


def test_the_previous_token_head_is_needed_in_the_keys_and_nowhere_else(test, model):
    before, as_it_is = state(model), test()
    for into in ("q", "v"):
        copying = cut(test, PREVIOUS_TOKEN_HEADS, INDUCTION_HEADS, into, direct=into == "v")
        torch.testing.assert_close(copying.probability, as_it_is.probability, rtol=0, atol=1e-3)
    for direct in (False, True):
        assert cut(test, PREVIOUS_TOKEN_HEADS, INDUCTION_HEADS, "k", direct).error.mean() > 0.8
    assert cut(test, PREVIOUS_TOKEN_HEADS, INDUCTION_HEADS, "qkv").error.mean() > 0.8
    assert cut(test, SILENT[:2], INDUCTION_HEADS, "qkv").error.sum() == 0, "a head without a part in it"
    assert cut(test, INDUCTION_HEADS, PREVIOUS_TOKEN_HEADS, "k").error.sum() == 0, "later layers reach no earlier ones"
    assert cut(test, PREVIOUS_TOKEN_HEADS, SILENT[2:], "k").error.sum() == 0
    with pytest.raises(ValueError, match="into is 'x'"):
        cut(test, PREVIOUS_TOKEN_HEADS, INDUCTION_HEADS, "x")
    assert_untouched(model, before)


def test_cutting_a_path_is_what_direct_computation_says(random_model, generator):
    """Head 2.1 as computed by hand from a residual without head 0.3's output, against the patched run."""
    idx = repeated_segments(31, 10, 2, 4, generator)
    test = CopyTest(random_model, idx, 10)
    weights = head_weights(random_model)
    with torch.no_grad(), record(random_model, ["h.*.resid_pre", "h.*.attn.head_out", "h.*.attn.q"]) as seen:
        random_model(idx)
    output = seen["h.0.attn.head_out"][:, 3] @ weights.W_O[0, 3]
    residual = seen["h.2.resid_pre"] - (output - output.mean(dim=(0, 1)))
    with torch.no_grad():
        q = random_model.transformer.h[2].ln_1(residual) @ weights.W_Q[2, 1] + weights.b_Q[2, 1]

    def put(x):
        x[:, 1] = q
        return x

    with torch.no_grad(), patch(random_model, {"h.2.attn.q": put}):
        logits, _ = random_model(idx)
    ours = cut(test, [(0, 3)], [(2, 1)], "q", direct=True)
    torch.testing.assert_close(ours.probability, test.score(logits[:, 10:-1]).probability, rtol=1e-4, atol=1e-6)


def test_cutting_every_path_is_the_key_of_an_ablated_run(random_model, generator):
    """The key of head 2.1 from a run in which head 0.3's output is its mean, put into an ordinary run."""
    idx = repeated_segments(31, 10, 2, 4, generator)
    test = CopyTest(random_model, idx, 10)
    with torch.no_grad(), record(random_model, "h.0.attn.head_out") as seen:
        random_model(idx)
    mean = seen["h.0.attn.head_out"][:, 3].mean(dim=(0, 1))

    def silence(x):
        x[:, 3] = mean
        return x

    with (
        torch.no_grad(),
        patch(random_model, {"h.0.attn.head_out": silence}),
        record(random_model, "h.2.attn.k") as ablated,
    ):
        random_model(idx)

    def put(x):
        x[:, 1] = ablated["h.2.attn.k"][:, 1]
        return x

    with torch.no_grad(), patch(random_model, {"h.2.attn.k": put}):
        logits, _ = random_model(idx)
    ours = cut(test, [(0, 3)], [(2, 1)], "k")
    torch.testing.assert_close(ours.probability, test.score(logits[:, 10:-1]).probability, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(ours.probability, cut(test, [(0, 3)], [(2, 1)], "k", direct=True).probability, rtol=1e-5)


# ----------------------------------------------------------------------------------------------------------------------
# Doubts, and the commands


def test_a_control_that_draws_important_heads_is_found_out(test, model, generator):
    everyone = [(layer, head) for layer in range(2) for head in range(4)]
    found = doubts.control_heads(test, everyone, INDUCTION_HEADS + PREVIOUS_TOKEN_HEADS, 2, "QK", 40, generator)
    assert found["without"]["n"] > 0 and found["without"]["max"] < 0.05
    assert found["with important heads"]["max"] > 0.3, (
        "two previous-token heads' W_QK may change places, but not with others"
    )


def test_editing_more_heads_than_there_are_is_harmless_only_here(test, generator):
    """The silent heads write nothing. `doubts.how_many_edited` on a trained model is another matter."""
    ranking = PREVIOUS_TOKEN_HEADS + SILENT[:2]
    found = doubts.how_many_edited(test, INDUCTION_HEADS, ranking, V, [1, 2, 4])
    assert found[2]["without"] > 0.9 and found[4]["without"] > 0.9 and all(row["only"] == 0 for row in found.values())


def test_directions_beyond_head_dim_are_noise(random_model, generator):
    found = doubts.null_space(random_model, (1, 0), generator)
    assert found["within head_dim"] > 0.999 and found["the next as many"] < 0.9


def test_a_model_called_gpt2_is_printed_beside_the_published_rankings(tmp_path):
    """With random weights of 12 layers of 12 heads: the numbers mean nothing, the table is complete."""
    gpt = GPT(GPTConfig(vocab_size=60, block_size=64, n_layer=12, n_head=12, n_embd=48)).eval()
    one = score_repeats(gpt, 5, 3, 1, True, torch.Generator().manual_seed(0))
    found = against_published(gpt, one, torch.Generator().manual_seed(0))
    assert [row["head"] for row in found["one sequence"]["induction"]["heads"]][:3] == ["5.1", "5.5", "6.9"]
    text = "\n".join(report.scores({"a": {}, "b": {}, "against published": found}))
    assert text.count("of 10 are ours") == 4 and "4.11 0.989/" in text


def run(monkeypatch, *words):
    from projects.gpt2_heads.run import main

    monkeypatch.setattr(sys, "argv", ["run.py", *map(str, words)])
    main()


def test_all_runs_every_step_on_the_built_model_with_quick(tmp_path, monkeypatch, capsys, coarse_figures):
    in_the_way = tmp_path / "mechanism" / "scores.json"
    in_the_way.parent.mkdir()
    in_the_way.write_text("mine")
    run(monkeypatch, "all", "--quick", "--out", tmp_path)
    assert in_the_way.with_name("scores.json.kept").read_text() == "mine"
    rows = json.loads((tmp_path / "mechanism" / "summary.json").read_text())["rows"]
    value = {row: found["mean"] for row, found in rows.items()}
    assert value["induction heads"] == value["previous-token heads"] == 2 and value["error as it is"] == 0
    assert (
        value["error, QK of all induction heads shuffled"]
        == value["error, OV of all previous-token heads shuffled"]
        == 0
    )
    assert value["error, QK of all induction heads foreign"] > 0.8 and value["error, cut into k, all paths"] > 0.8
    assert value["error, cut into q, all paths"] == value["error, cut into v, all paths"] == 0
    for name in ("scores", "diagonal", "diagonal_maps", "subspace", "shuffle", "project", "paths", "doubts"):
        assert (tmp_path / "mechanism" / f"{name}.png").stat().st_size > 3_000
    shown = capsys.readouterr().out
    assert "hardly trained, has no induction heads; this is the model built by hand" in shown and "1.0 1.000" in shown
    text = (tmp_path / "mechanism" / "induction_heads.txt").read_text().splitlines()
    assert len(text) == 2 + 8 and text[2].split()[0] in ("1.0", "1.2")


@pytest.mark.parametrize(
    "words, message",
    [
        (["scores", "--length", 3], "--length is 3; it must be at least 5"),
        (["scores", "--batch_size", "99999999999999999999"], "error: argument --batch_size: '99999999999999999999"),
        (["all", "--seeds", "99999999999999999999"], "error: argument --seeds: '99999999999999999999"),
        (["scores", "--length", 17], "segment of 17 different tokens|does not fit"),
        (["shuffle", "--text", "1 2 3"], "shuffle takes no --text"),
        (["paths", "--seeds", 2], "paths takes no --seeds; all does"),
        (["all", "--seeds", 0], "--seeds is 0"),
        (["isolate", "--text", "1 2 99"], "numbers from 0 to 15, and '99' is none"),
    ],
)
def test_mistakes_end_in_one_line(words, message, monkeypatch, error_line, tmp_path):
    assert re.search(message, error_line(run, monkeypatch, *words, "--model", "handbuilt", "--out", tmp_path))
