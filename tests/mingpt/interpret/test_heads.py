"""Heads: factored results against dense ones, known scores, attributions that sum up, edits that leave no trace."""

import math

import pytest
import torch
from torch import nn

from mingpt.interpret.attribution import logit_attribution, logit_lens
from mingpt.interpret.circuits import (
    common_subspace,
    composition_scores,
    copying_scores,
    diagonal_z,
    product_norms,
    subspace_similarity,
)
from mingpt.interpret.edits import ablate, edit, exchange, project
from mingpt.interpret.hooks import record
from mingpt.interpret.scores import (
    copying_scores_by_activation,
    duplicate_token_scores,
    induction_scores,
    prefix_matching_scores,
    previous_token_scores,
)
from mingpt.interpret.weights import Factored, head_views, head_weights, unembedding
from mingpt.model import GPT, CausalSelfAttention, GPTConfig

L, H, C, D, V = 3, 4, 32, 8, 31
CLOSE = dict(rtol=1e-4, atol=1e-4)


@pytest.fixture
def model() -> GPT:
    gpt = GPT(GPTConfig(vocab_size=V, block_size=24, n_layer=L, n_head=H, n_embd=C))
    for parameter in gpt.parameters():
        nn.init.normal_(parameter, std=0.3)
    return gpt.eval()


@pytest.fixture
def idx() -> torch.Tensor:
    return torch.randint(V, (2, 10))


def factored(*leading: int, N=C, M=C, rank=D) -> Factored:
    return Factored(torch.randn(*leading, N, rank), torch.randn(*leading, rank, M))


# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", [False, True])
def test_heads_computed_from_their_own_weights_are_those_of_the_model(model, idx, fold):
    with torch.no_grad(), record(model, ["h.*.resid_pre", "h.*.ln_1", "h.*.attn", "h.*.attn.*"]) as seen:
        model(idx)
    weights = head_weights(model, fold_layer_norm=fold)
    for layer in range(L):
        x = seen[f"h.{layer}.resid_pre"]
        x = (
            (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
            if fold
            else seen[f"h.{layer}.ln_1"]
        )
        q, k, v = (
            x[:, None] @ W[layer] + b[layer][:, None]
            for W, b in ((weights.W_Q, weights.b_Q), (weights.W_K, weights.b_K), (weights.W_V, weights.b_V))
        )
        pattern = seen[f"h.{layer}.attn.pattern"]
        for name, ours in dict(q=q, k=k, v=v).items():
            torch.testing.assert_close(ours, seen[f"h.{layer}.attn.{name}"], **CLOSE)
        written = (pattern @ v @ weights.W_O[layer]).sum(dim=1) + weights.b_O[layer]
        torch.testing.assert_close(written, seen[f"h.{layer}.attn"], **CLOSE)


def test_folding_takes_out_what_the_norm_takes_away(model):
    folded = head_weights(model, fold_layer_norm=True)
    torch.testing.assert_close(folded.W_K.sum(dim=-2), torch.zeros(L, H, D), atol=1e-4, rtol=0)
    assert folded.W_Q.shape == (L, H, C, D) and folded.W_O.shape == (L, H, D, C) and folded.b_O.shape == (L, C)


def test_views_write_to_the_model(model):
    views = head_views(model, 1)
    with torch.no_grad():
        views["W_K"][2].zero_()
        views["W_O"][3].zero_()
        views["b_V"][0].zero_()
    attn = model.transformer.h[1].attn
    assert (attn.c_attn.weight == 0).all(dim=1).nonzero().flatten().tolist() == list(range(C + 2 * D, C + 3 * D))
    assert (attn.c_proj.weight == 0).all(dim=0).nonzero().flatten().tolist() == list(range(3 * D, 4 * D))
    assert (attn.c_attn.bias == 0).nonzero().flatten().tolist() == list(range(2 * C, 2 * C + D))


def test_factored_results_are_the_dense_ones():
    A, B = factored(2, 3), factored(2, 3)
    dense = A.dense()
    assert dense.shape == (2, 3, C, C)
    torch.testing.assert_close((A @ B).dense(), dense @ B.dense(), rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(A.T.dense(), dense.mT)
    torch.testing.assert_close(A[1, 2].dense(), dense[1, 2])
    torch.testing.assert_close(A.norm(), torch.linalg.matrix_norm(dense), **CLOSE)
    torch.testing.assert_close(A.diagonal(), dense.diagonal(dim1=-2, dim2=-1), **CLOSE)
    torch.testing.assert_close(A.trace(), dense.diagonal(dim1=-2, dim2=-1).sum(-1), **CLOSE)
    torch.testing.assert_close(product_norms(A, B), torch.linalg.matrix_norm(dense @ B.dense()), **CLOSE)
    U, S, W = A.svd()
    torch.testing.assert_close(S, torch.linalg.svdvals(dense)[..., :D], **CLOSE)
    torch.testing.assert_close((U * S[..., None, :]) @ W.mT, dense, **CLOSE)
    for basis in (U, W):
        torch.testing.assert_close(basis.mT @ basis, torch.eye(D).expand(2, 3, D, D), **CLOSE)
    ours = A[0, 0].eigenvalues()
    theirs = torch.linalg.eigvals(A[0, 0].dense().double())
    theirs = theirs[theirs.abs().argsort(descending=True)[:D]].to(ours.dtype)
    assert (ours[:, None] - theirs).abs().min(dim=0).values.max() < 1e-3, "each dense eigenvalue is among ours"


def test_a_product_keeps_the_smaller_rank():
    A, B = factored(rank=2), factored(rank=5)
    for product in (A @ B, B @ A):
        assert product.left.shape == (C, 2) and product.right.shape == (2, C)
    torch.testing.assert_close((B @ A).dense(), B.dense() @ A.dense(), rtol=1e-4, atol=1e-3)


def test_the_diagonal_of_all_pairs_is_the_dense_one():
    qk, ov = factored(3), factored(5)
    ours = diagonal_z(qk[:, None], ov.T[None])
    assert ours.shape == (3, 5)
    for i in range(3):
        for j in range(5):
            W = qk[i].dense().double() @ ov[j].dense().double().T
            expected = (W.diagonal().mean() - W.mean()) / W.std(unbiased=False)
            assert ours[i, j].item() == pytest.approx(expected.item(), abs=1e-4)


def test_the_diagonal_of_matching_heads_stands_out_and_of_random_ones_has_the_documented_spread():
    bridge, _ = torch.linalg.qr(torch.randn(64, 8))
    match = Factored(bridge, bridge.T)
    assert diagonal_z(match, match).item() == pytest.approx(math.sqrt(8) * math.sqrt(1 - 8 / 64), rel=0.1)
    spread = diagonal_z(factored(20, N=64, M=64)[:, None], factored(20, N=64, M=64)[None])
    assert spread.std().item() == pytest.approx(1 / 8, rel=0.2) and abs(spread.mean().item()) < 0.03


@pytest.mark.parametrize("kind", "QKV")
def test_composition_is_the_dense_ratio_and_nan_between_layers_that_cannot_compose(model, kind):
    weights = head_weights(model, fold_layer_norm=True)
    scores = composition_scores(weights, kind)
    ov, M = weights.ov.dense(), {"Q": weights.qk, "K": weights.qk.T, "V": weights.ov}[kind].dense()
    for a, b in ((0, 1), (0, 2), (1, 2)):
        norm = torch.linalg.matrix_norm
        expected = norm(ov[a][:, None] @ M[b][None]) / (norm(ov[a])[:, None] * norm(M[b]))
        torch.testing.assert_close(scores[a, :, b], expected, **CLOSE)
    later = torch.arange(L) < torch.arange(L)[:, None]  # [B, A]
    assert torch.equal(scores.isnan(), ~later.T[:, None, :, None].expand(L, H, L, H))


def test_composition_finds_the_input_that_was_wired():
    weights = head_weights(GPT(GPTConfig(vocab_size=V, block_size=8, n_layer=2, n_head=8, n_embd=64)))
    weights = weights.random(torch.Generator().manual_seed(0))
    weights.W_K[1, 0] = weights.W_O[0, 1].T  # head 1.0 reads its keys where head 0.1 writes
    scores = {kind: composition_scores(weights, kind)[0, :, 1] for kind in "QKV"}
    assert scores["K"][1, 0].item() == pytest.approx(1 / math.sqrt(8), rel=0.1), "against 1 / 8"
    for kind in "QKV":
        others = scores[kind][torch.arange(8) != 1]
        assert others.mean().item() == pytest.approx(1 / math.sqrt(64), rel=0.1) and others.max() < 0.2


def test_similarity_of_subspaces_with_known_angles():
    eye = torch.eye(6)
    angle = 0.3
    turned = torch.stack([eye[0] * math.cos(angle) + eye[3] * math.sin(angle), eye[4]], dim=1)
    largest, rms = subspace_similarity(eye[:, :2], turned)
    assert largest.item() == pytest.approx(math.cos(angle), abs=1e-6)
    assert rms.item() == pytest.approx(math.cos(angle) / math.sqrt(2), abs=1e-6)
    assert [x.item() for x in subspace_similarity(eye[:, :2], eye[:, [1, 0]])] == pytest.approx([1, 1])
    random = [torch.linalg.qr(torch.randn(20, 768, 10)).Q for _ in range(2)]
    largest, rms = subspace_similarity(*random)
    assert largest.mean().item() == pytest.approx(0.203, abs=0.01)
    assert rms.mean().item() == pytest.approx(0.113, abs=0.005)


def test_the_common_subspace_is_that_of_the_dense_stack():
    circuits = factored(3)
    V = torch.linalg.svd(circuits.dense().flatten(0, 1)).Vh[:5].T
    similarity = torch.stack(subspace_similarity(common_subspace(circuits, 5), V))
    torch.testing.assert_close(similarity, torch.ones(2), **CLOSE)
    assert common_subspace(circuits, 24).shape == (C, 24)
    with pytest.raises(ValueError, match="rank is 25; these circuits span at most 24 directions"):
        common_subspace(circuits, 25)


# ----------------------------------------------------------------------------------------------------------------------


def test_copying_by_eigenvalues_is_that_of_the_whole_vocabulary(model):
    weights = head_weights(model, fold_layer_norm=True)
    E, U = model.transformer.wte.weight, unembedding(model)
    whole = torch.linalg.eigvals((E @ weights.ov.dense() @ U).detach().double())  # (L, H, V, V)
    expected = whole.real.sum(-1) / whole.abs().sum(-1)
    torch.testing.assert_close(copying_scores(model), expected.float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_head_that_copies_or_refuses_to_is_recognised(sign):
    gpt = GPT(GPTConfig(vocab_size=16, block_size=16, n_layer=1, n_head=1, n_embd=64)).eval()
    views = head_views(gpt, 0)
    with torch.no_grad():
        gpt.transformer.wte.weight.copy_(torch.linalg.qr(torch.randn(64, 16)).Q.T)
        gpt.transformer.wpe.weight.zero_()
        views["W_V"][0].copy_(torch.eye(64))
        views["W_O"][0].copy_(sign * torch.eye(64))
    assert copying_scores(gpt).item() == pytest.approx(sign, abs=0.01)
    by_activation = copying_scores_by_activation(gpt, torch.randperm(16)[None])
    assert by_activation.shape == (1, 1, 1) and by_activation.item() == pytest.approx(sign, abs=0.05)


def test_patterns_with_known_scores():
    period, T = 4, 12
    idx = torch.arange(period).repeat(3)[None]
    i, j = torch.arange(T)[:, None], torch.arange(T)

    def pattern(condition):  # (1, 1, T, T): attention spread over where the condition holds, on column 0 elsewhere
        weight = (condition & (j <= i)).float()
        weight[weight.sum(1) == 0, 0] = 1
        return (weight / weight.sum(1, keepdim=True))[None, None]

    induction = pattern((i - j + 1 == period) & (i >= period))
    assert induction_scores(induction, period).item() == 1
    assert prefix_matching_scores(induction, idx).item() == 1
    assert previous_token_scores(induction).item() == pytest.approx(1 / (T - 1)), "row 1 alone, which rests on column 0"
    assert previous_token_scores(induction, drop_first=True).item() == 0
    both = pattern(((i - j + 1) % period == 0) & (i >= period) & (j > 0))  # in the last copy over two places
    assert induction_scores(both, period).item() == 1 and prefix_matching_scores(both, idx).item() == 1
    previous = pattern(i - j == 1)
    assert previous_token_scores(previous).item() == previous_token_scores(previous, drop_first=True).item() == 1
    assert induction_scores(previous, period).item() == 0
    duplicate = pattern((i - j) % period == 0)  # half or a third of it is on the token itself
    assert duplicate_token_scores(duplicate, idx).item() == pytest.approx((0.5 + 2 / 3) / 2)
    uniform = pattern(j <= i)
    assert previous_token_scores(uniform).item() == pytest.approx(sum(1 / (n + 1) for n in range(1, T)) / (T - 1))
    resting = 0.5 * induction + 0.5 * pattern(j == 0)
    assert induction_scores(resting, period).item() == pytest.approx(0.5)
    assert induction_scores(resting, period, drop_first=True).item() == pytest.approx(1)
    stacked = torch.stack([induction, previous]).expand(2, 5, 1, T, T)
    assert induction_scores(stacked, period).shape == (2, 5, 1), "layers, sequences, heads"


def test_the_notebooks_form_of_the_induction_score():
    T0, T = 5, 15
    A = torch.rand(T, T).tril() + 1e-3
    A = A.tril() / A.tril().sum(1, keepdim=True)
    adjusted = torch.zeros(T, T)
    adjusted[1:, 1:] = A[1:, 1:] / A[1:, 1:].sum(1, keepdim=True)
    one, two = adjusted.diagonal(-(T0 - 1))[1:], adjusted.diagonal(-(2 * T0 - 1))[1:]
    expected = torch.cat([one[:-T0], one[-T0:] + two]).mean()
    torch.testing.assert_close(induction_scores(A[None, None], T0, drop_first=True)[0, 0], expected)
    ours = previous_token_scores(A[None, None], drop_first=True)[0, 0]
    torch.testing.assert_close(ours, adjusted.diagonal(-1)[1:].mean())


def test_scores_of_unsuitable_patterns():
    with pytest.raises(ValueError, match="period is 6; .* from 1 to 5"):
        induction_scores(torch.ones(1, 1, 6, 6), 6)
    with pytest.raises(ValueError, match="at least 3 positions, not 2"):
        previous_token_scores(torch.ones(1, 1, 2, 2))
    distinct = torch.arange(6)[None]
    assert duplicate_token_scores(torch.ones(1, 1, 6, 6), distinct).isnan().all()


# ----------------------------------------------------------------------------------------------------------------------


def test_attributions_sum_to_the_logit(model, idx):
    targets = torch.randint(V, (2, 10))
    parts = logit_attribution(model, idx, targets)
    assert parts["heads"].shape == (L, H, 2, 10) and parts["mlp"].shape == (L, 2, 10)
    total = sum(part.reshape(-1, 2, 10).sum(dim=0) for part in parts.values())
    logits = model(idx)[0].detach().gather(2, targets[..., None])[..., 0]
    torch.testing.assert_close(total, logits, rtol=1e-3, atol=1e-3)
    for wrong in (targets.clone().fill_(-1), targets.clone().fill_(V), targets[:, 1:]):  # -1 would be the last token
        with pytest.raises(
            ValueError, match=f"must be token ids from 0 to {V - 1}, one for each place of idx, .2, 10."
        ):
            logit_attribution(model, idx, wrong)


def test_models_without_mlps_are_analysed_as_well(idx):
    class AttentionOnly(nn.Module):
        def __init__(self, config, layer):
            super().__init__()
            self.ln_1, self.attn = nn.LayerNorm(config.n_embd), CausalSelfAttention(config, layer)

        def forward(self, x, rotation, cache):
            return x + self.attn(self.ln_1(x), rotation, cache)

    class AttentionOnlyGPT(GPT):
        def make_blocks(self):
            return [AttentionOnly(self.config, layer) for layer in range(self.config.n_layer)]

    net = AttentionOnlyGPT(GPTConfig(vocab_size=V, block_size=24, n_layer=2, n_head=H, n_embd=C)).eval()
    parts = logit_attribution(net, idx, idx)
    assert parts["mlp"].abs().max() == 0
    total = sum(part.reshape(-1, 2, 10).sum(dim=0) for part in parts.values())
    torch.testing.assert_close(total, net(idx)[0].detach().gather(2, idx[..., None])[..., 0], **CLOSE)
    torch.testing.assert_close(logit_lens(net, idx)[-1], net(idx)[0].detach())
    assert copying_scores(net).shape == (2, H) and copying_scores_by_activation(net, idx).shape == (2, 2, H)


def test_the_attribution_of_a_head_in_the_last_layer_is_what_its_absence_costs_but_for_the_scale(model, idx):
    targets = torch.randint(V, (2, 10))
    with torch.no_grad():
        model.transformer.h[-1].mlp.c_proj.weight.zero_()
        parts = logit_attribution(model, idx, targets)
        with record(model, "h.2") as seen:
            full = model(idx)[0]
        with ablate(model, [(2, 1)]), record(model, "h.2") as without:
            model(idx)
        x = without["h.2"]
        std = (seen["h.2"].var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()  # the scale as it was
        ln_f = model.transformer.ln_f
        frozen = ((x - x.mean(-1, keepdim=True)) / std * ln_f.weight + ln_f.bias) @ model.lm_head.weight.T
    effect = (full - frozen).gather(2, targets[..., None])[..., 0]
    torch.testing.assert_close(parts["heads"][2, 1], effect, rtol=1e-3, atol=1e-3)


def test_the_logit_lens_ends_with_the_models_own_logits(model, idx):
    lens = logit_lens(model, idx)
    assert lens.shape == (L + 1, 2, 10, V)
    torch.testing.assert_close(lens[-1], model(idx)[0].detach(), **CLOSE)
    embedding = model.transformer.wte(idx) + model.transformer.wpe.weight[:10]
    torch.testing.assert_close(lens[0], model.lm_head(model.transformer.ln_f(embedding)).detach(), **CLOSE)


def test_ablations_put_in_what_they_say(model, idx):
    heads = [(0, 1), (0, 3), (2, 0)]
    names = ["h.0.attn.head_out", "h.2.attn.head_out"]
    with record(model, names) as clean:
        logits = model(idx)[0]
    with ablate(model, heads), record(model, names) as zero:
        model(idx)
    assert zero[names[0]][:, [1, 3]].abs().max() == 0 and zero[names[1]][:, 0].abs().max() == 0
    assert torch.equal(zero[names[0]][:, [0, 2]], clean[names[0]][:, [0, 2]])
    with ablate(model, heads, "mean", reference=idx), record(model, names) as mean:
        model(idx)
    torch.testing.assert_close(mean[names[0]][1, 3, 5], clean[names[0]].mean(dim=(0, 2))[3])
    with ablate(model, heads, "resample"), record(model, names) as other:
        assert not torch.equal(model(idx)[0], logits)
    assert torch.equal(other[names[0]][0, 1], clean[names[0]][1, 1]), "of two sequences, each gets the other's"
    assert torch.equal(model(idx)[0], logits)


def test_a_whole_layer_without_heads_writes_its_bias_only(model, idx):
    with ablate(model, [(1, head) for head in range(H)]), record(model, "h.1.attn") as seen:
        model(idx)
    torch.testing.assert_close(seen["h.1.attn"], model.transformer.h[1].attn.c_proj.bias.expand(2, 10, C))


def test_edits_act_and_are_undone_bit_for_bit_even_after_an_exception(model, idx):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logits = model(idx)[0]
    changes = {(0, 1, "W_Q"): torch.randn(C, D), (0, 1, "b_Q"): torch.randn(D), (2, 3, "W_O"): torch.randn(D, C)}
    with pytest.raises(ZeroDivisionError), edit(model, changes):
        assert torch.equal(head_views(model, 0)["W_Q"][1], changes[0, 1, "W_Q"])
        assert torch.equal(head_views(model, 2)["W_O"][3], changes[2, 3, "W_O"])
        changed = sum(int((value != before[name]).sum()) for name, value in model.state_dict().items())
        assert changed == C * D + D + C * D, "and nothing else changes"
        assert not torch.equal(model(idx)[0], logits)
        with edit(model, {(0, 1, "W_Q"): torch.zeros(C, D)}):
            assert head_views(model, 0)["W_Q"][1].abs().max() == 0
        assert torch.equal(head_views(model, 0)["W_Q"][1], changes[0, 1, "W_Q"]), "edits nest"
        raise ZeroDivisionError
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_exchanging_all_parts_of_heads_within_a_layer_changes_nothing(model, idx):
    parts = ["W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V"]
    heads = [(1, 0), (1, 1), (1, 2), (1, 3)]
    with edit(model, exchange(model, heads, [2, 0, 3, 1], parts)):
        permuted = model(idx)[0]
        weights = head_weights(model)
    torch.testing.assert_close(permuted, model(idx)[0], **CLOSE)
    assert torch.equal(weights.W_Q[1, 0], head_weights(model).W_Q[1, 2]), "heads[0] has what heads[order[0]] had"
    with edit(model, exchange(model, heads, [2, 0, 3, 1], parts[:2])):
        assert not torch.allclose(model(idx)[0], permuted)


def test_projections_remove_or_keep_a_subspace(model):
    basis = torch.linalg.qr(torch.randn(C, 5)).Q
    for keep in (False, True):
        changes = project(model, [(0, 2)], "W_K", basis, keep) | project(model, [(1, 1)], "W_O", basis, keep)
        inside = basis @ basis.T
        P = inside if keep else torch.eye(C) - inside
        weights = head_weights(model)
        torch.testing.assert_close(changes[0, 2, "W_K"], P @ weights.W_K[0, 2], **CLOSE)
        torch.testing.assert_close(changes[1, 1, "W_O"], weights.W_O[1, 1] @ P, **CLOSE)
    parts = [project(model, [(0, 2)], "W_V", basis, keep)[0, 2, "W_V"] for keep in (False, True)]
    torch.testing.assert_close(sum(parts), head_views(model, 0)["W_V"][2].detach(), **CLOSE)


@pytest.mark.parametrize(
    "attempt, message",
    [
        (
            lambda m: edit(m, {(3, 0, "W_Q"): torch.zeros(C, D)}).__enter__(),
            "no head 3.0; layers are 0 to 2, heads 0 to 3",
        ),
        (
            lambda m: edit(m, {(0, 0, "b_O"): torch.zeros(C)}).__enter__(),
            "a head has no 'b_O'; it has W_K, W_O, W_Q, W_V,",
        ),
        (
            lambda m: edit(m, {(0, 0, "W_Q"): torch.zeros(D, C)}).__enter__(),
            r"W_Q of head 0.0 is \(32, 8\), its change",
        ),
        (lambda m: ablate(m, [(0, 4)]).__enter__(), "there is no head 0.4"),
        (
            lambda m: ablate(m, [(0, 0)], "median").__enter__(),
            "how is 'median'; it must be one of zero, mean, resample",
        ),
        (lambda m: ablate(m, [(0, 0)], "mean").__enter__(), "a reference is needed for how='mean'"),
        (lambda m: exchange(m, [(0, 0), (0, 1)], [0, 0], ["W_Q"]), "a permutation of 0 to 1"),
        (lambda m: composition_scores(head_weights(m), "O"), "kind is 'O'; it must be one of Q, K, V"),
    ],
)
def test_bad_requests_are_refused(model, attempt, message):
    with pytest.raises(ValueError, match=message):
        attempt(model)


def test_resampling_needs_two_sequences(model):
    with pytest.raises(ValueError, match="at least two sequences"), ablate(model, [(0, 0)], "resample"):
        model(torch.zeros(1, 5, dtype=torch.long))
