"""The transformers of the n-gram study: against plain references, many at once, skips and freezing."""

from dataclasses import replace

import pytest
import torch
from test_ngram_law import random_law
from torch import nn

from mingpt.interpret.hooks import record
from mingpt.low_rank import context_index
from projects.ngram_superposition.distributions import geometric_law
from projects.ngram_superposition.faults import OneLowRank, OneTransformer
from projects.ngram_superposition.interpretation import all_contexts
from projects.ngram_superposition.losses import Objective, evaluate, score_logits
from projects.ngram_superposition.training import EnsembleAdam, TrainingConfig, train
from projects.ngram_superposition.transformer import PARTS, LowRanks, Skips, TransformerConfig, Transformers, layer_norm

SHAPES = [
    TransformerConfig(4, 3, 5),
    TransformerConfig(4, 2, 6, n_layer=2, n_parallel=2, n_head=3, width=7, depth=2),
    TransformerConfig(3, 4, 4, n_layer=3, n_parallel=2, n_head=2, width=5),
    TransformerConfig(5, 3, 6, n_parallel=3, head_dim=2),
]
SKIPS = [Skips(), Skips(residual=True), Skips(pos_qk=True, emb_ov=True), Skips(emb_qk=True, pos_ov=True)]


def sequence_divergence(logits, idx, law, next_token):
    """The notebook's divergence on sampled sequences, of any length from n on: (M,), nats.

    logits (M, B, T, N) of a model that read idx (B, T): those at positions n-2 to T-2 are predictions of tokens n-1 to
    T-1, held against the sampled token (`next_token`) or the true conditional.
    """
    n = law.order
    log_q = logits[:, :, n - 2 : -1].log_softmax(-1)
    if next_token:
        drawn = idx[None, :, n - 1 :, None].expand(len(logits), -1, -1, -1)
        return -log_q.gather(-1, drawn).flatten(1).mean(1) - law.entropy()
    contexts = context_index(idx[:, :-1].unfold(1, n - 1, 1), law.vocab_size)
    rows = law.conditional.to(log_q.dtype)[contexts]  # (B, T - n + 1, N)
    return -(rows * log_q).sum(-1).flatten(1).mean(1) - law.entropy()


def test_against_pytorchs_multihead_attention():
    """The notebook's model, with its own weights copied in."""
    plain, model = (
        OneTransformer(10, 5, 4, 3).double(),
        Transformers(TransformerConfig(10, 3, 5, n_parallel=4), [0]).double(),
    )
    with torch.no_grad():
        for mine, theirs in ((model.wte, plain.wte), (model.wpe, plain.wpe), (model.lm_head, plain.lm_head)):
            mine[0] = theirs.weight
        for h, attn in enumerate(plain.attn):
            for mine, theirs in zip(
                (model.h[0].attn.c_q, model.h[0].attn.c_k, model.h[0].attn.c_v), attn.in_proj_weight.chunk(3)
            ):
                mine[0, h] = theirs.T
            model.h[0].attn.c_o[0, h] = attn.out_proj.weight.T
    idx = torch.randint(10, (20, 3))
    expected = plain(idx)
    expected = expected - expected.mean(-1, keepdim=True)  # the notebook centres over everything, which is no different
    assert torch.allclose(model(idx)[0], expected, atol=1e-12)


@pytest.mark.parametrize("config", SHAPES, ids=str)
@pytest.mark.parametrize("skips", [None, SKIPS], ids=["plain", "skips"])
def test_all_contexts_at_once_give_the_same_logits(config, skips):
    model = Transformers(config, range(4), skips).double()
    expected = model(all_contexts(config.vocab_size, config.order))[:, :, -1]
    assert torch.allclose(model.context_logits(), expected, atol=1e-12)
    rows = torch.randint(expected.size(1), (4, 9))
    assert torch.allclose(model.context_logits(rows[0]), expected[:, rows[0]], atol=1e-12)
    assert torch.allclose(model.context_logits(rows), torch.stack([e[r] for e, r in zip(expected, rows)]), atol=1e-12)


def test_it_is_causal_and_its_logits_are_centred():
    model = Transformers(replace(SHAPES[2], block_size=6), range(2)).double()
    idx = torch.randint(3, (5, 6))
    logits = model(idx)
    changed = idx.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 3
    assert torch.equal(logits[:, :, :4], model(changed)[:, :, :4]) and not torch.equal(logits, model(changed))
    assert logits.mean(-1).abs().max() < 1e-12


def test_layer_norm_learns_nothing():
    x = torch.randn(3, 5, 7, dtype=torch.float64)
    y = layer_norm(x)
    assert y.mean(-1).abs().max() < 1e-12 and (y.var(-1, correction=0) - 1).abs().max() < 1e-6


def test_exact_loss_and_gradients_against_a_plain_reference():
    law, model = random_law(3, 3), Transformers(TransformerConfig(3, 3, 4), [0, 1]).double()
    objective = Objective(law, "exact", [0, 1], dtype=torch.float64)
    batch = objective.next_batch()
    divergence = objective.divergence(model.context_logits(batch.rows), batch)
    gradients = torch.autograd.grad(divergence.sum(), list(model.parameters()), allow_unused=True)

    reference = 0.0
    for a in range(3):  # sum over sequences of p log (p / q), written out
        for b in range(3):
            log_q = model(torch.tensor([[a, b]]))[:, 0, -1].log_softmax(-1)
            for c in range(3):
                p = law.tables[0][a] * law.tables[1][a, b] * law.tables[2][a, b, c]
                reference = reference + p * (law.tables[2][a, b, c].log() - log_q[:, c])
    assert torch.allclose(divergence, reference, atol=1e-12)
    expected = torch.autograd.grad(reference.sum(), list(model.parameters()), allow_unused=True)
    for one, two in zip(gradients, expected):
        assert (one is None) == (two is None) and (one is None or torch.allclose(one, two, atol=1e-12))
    assert torch.allclose(evaluate(model, law).divergence, divergence, atol=1e-12)


@pytest.mark.parametrize("kind", ["next", "full"])
@pytest.mark.parametrize("batch_size", [5, 50], ids=["rows", "counts"])
def test_sampled_losses_are_the_notebooks(kind, batch_size):
    """The same draws, as sequences, through the plain model; there are 9 contexts, so 50 draws become counts."""
    law, model = random_law(3, 3), Transformers(TransformerConfig(3, 3, 4), [0, 1]).double()
    objective = Objective(law, kind, [7, 8], batch_size, dtype=torch.float64)
    drawn = objective._draw()
    objective._stock.append(drawn)
    batch = objective.next_batch()
    assert (batch.rows is None) == (batch_size == 50)
    losses = objective.divergence(model.context_logits(batch.rows), batch)
    for i in range(2):
        idx = torch.stack((drawn[i] // 9, drawn[i] // 3 % 3, drawn[i] % 3), 1)
        expected = sequence_divergence(model(idx), idx, law, kind == "next")[i]
        assert losses[i].item() == pytest.approx(expected.item(), abs=1e-12)


def test_sampled_losses_tend_to_the_exact_one():
    law, model = random_law(3, 3), Transformers(TransformerConfig(3, 3, 4, block_size=6), [0])
    idx, exact = law.sample(40_000, 3, seed=0), evaluate(model, law).divergence.item()
    for next_token in (True, False):
        assert sequence_divergence(model(idx), idx, law, next_token).item() == pytest.approx(exact, abs=0.02)
    longer = law.sample(10, 6, seed=0)
    by_hand = [-model(longer)[0, :, t].log_softmax(-1).gather(1, longer[:, t + 1 : t + 2]) for t in range(1, 5)]
    expected = torch.cat(by_hand).mean().item() - law.entropy()
    assert sequence_divergence(model(longer), longer, law, True).item() == pytest.approx(expected, abs=1e-5)


def test_scores_of_the_law_itself():
    law = geometric_law([1, 1, 0.5], [4, 4, 4], 4, 0)
    scores = score_logits(law.conditional.log()[None], [law])
    assert scores.divergence.item() == pytest.approx(0, abs=1e-12) and scores.accuracy.item() == pytest.approx(1)
    assert scores.hit_rate.item() == pytest.approx(8 / 15) == scores.ceiling.item(), "no model can do better"
    uniform = score_logits(torch.zeros(1, 16, 4, dtype=torch.float64), [law])
    assert uniform.divergence.item() == pytest.approx(law.random_divergence())


# ----------------------------------------------------------------------------------------------------------------------
# Training


def test_adam_is_pytorchs():
    law, ours, theirs = random_law(3, 3), LowRanks(3, 2, 3, [0]).double(), LowRanks(3, 2, 3, [0]).double()
    objective = Objective(law, "exact", [0], dtype=torch.float64)
    adam, reference = EnsembleAdam(ours, 0.01), torch.optim.Adam(theirs.parameters(), 0.01)
    for _ in range(30):
        adam.step(objective.divergence(ours.context_logits(), objective.whole).sum())
        reference.zero_grad()
        objective.divergence(theirs.context_logits(), objective.whole).sum().backward()
        reference.step()
    for a, b in zip(ours.parameters(), theirs.parameters()):
        assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("kind", ["exact", "next", "full"])
@pytest.mark.parametrize(
    "make",
    [
        lambda seeds, skips: Transformers(
            TransformerConfig(4, 3, 4, n_layer=2, n_parallel=2, n_head=2, width=5), seeds, skips
        ),
        lambda seeds, skips: LowRanks(4, 3, 3, seeds),
    ],
    ids=["transformer", "LowRank"],
)
def test_many_at_once_are_trained_as_one_at_a_time(make, kind):
    """Models with seeds, laws, rates, skips and frozen parts of their own."""
    seeds, laws, rates = [3, 1, 4, 1], [random_law(4, 3, i) for i in range(4)], [1e-2, 3e-3, 1e-3, 2e-2]
    skips, frozen = SKIPS, [(), ("U",), ("E",), ("U",)]
    steps = TrainingConfig(10)

    def trained(which):
        model = make([seeds[i] for i in which], [skips[i] for i in which]).double()
        objective = Objective([laws[i] for i in which], kind, [seeds[i] for i in which], 30, dtype=torch.float64)
        return model, train(model, objective, steps, [frozen[i] for i in which], [rates[i] for i in which])

    together, losses = trained(range(4))
    for i in range(4):
        alone, loss = trained([i])
        assert torch.allclose(losses[:, i], loss[:, 0], atol=1e-10)
        for a, b in zip(together.parameters(), alone.parameters()):
            assert torch.allclose(a[i], b[0], atol=1e-10)


@pytest.mark.parametrize("part", PARTS)
def test_frozen_parts_stay_bit_for_bit(part):
    model, law = Transformers(TransformerConfig(4, 3, 4, width=6), [0, 1]), random_law(4, 3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, Objective(law, "next", [0, 1], 20), TrainingConfig(10, 1e-2), [(part,), ()])
    for name, p in model.named_parameters():
        is_frozen = name.split(".")[-1] in PARTS[part]
        assert torch.equal(p[0], before[name][0]) == is_frozen, name
        assert not torch.equal(p[1], before[name][1]), "the other model learns it"


@pytest.mark.parametrize("batch_size", [20, 64], ids=["rows", "counts"])
def test_where_one_token_is_possible_both_losses_train_the_same_models_to_the_last_bit(batch_size):
    """There are 36 contexts, so batches of 20 are drawn rows, and of 64 a table of counts."""

    def trained(law, kind):
        model = Transformers(TransformerConfig(6, 3, 4, n_parallel=2), [0, 1])
        train(model, Objective(law, kind, [0, 1], batch_size), TrainingConfig(30, 1e-2))
        return torch.cat([p.flatten() for p in model.parameters()])

    certain, uncertain = (geometric_law([1, 1, 0.6], [6, 6, count], 6, 0) for count in (1, 6))
    assert torch.equal(trained(certain, "next"), trained(certain, "full"))
    assert not torch.equal(trained(uncertain, "next"), trained(uncertain, "full"))


def test_training_learns():
    law = geometric_law([1, 1, 1], [5, 5, 1], 5, 0)
    model = LowRanks(5, 3, 3, [0, 1])
    losses = train(model, Objective(law, "exact", [0, 1]), TrainingConfig(400, 3e-2))
    assert (
        losses[0].min() > 1.5
        and evaluate(model, law).divergence.max() < 0.05
        and evaluate(model, law).accuracy.min() == 1
    )


# ----------------------------------------------------------------------------------------------------------------------
# Skips


def changed(model, name, idx, place):
    """What stands at `place` before and after the parameter `name` becomes another."""
    seen = []
    for _ in range(2):
        with torch.no_grad(), record(model, place) as kept:
            model(idx)
        seen.append(kept[place])
        with torch.no_grad():
            getattr(model, name).normal_()
    return not torch.equal(*seen)


@pytest.mark.parametrize(
    "skip, name, place",
    [
        ("pos_qk", "wpe", "h.0.attn.pattern"),
        ("emb_qk", "wte", "h.0.attn.pattern"),
        ("pos_ov", "wpe", "h.0.attn.v"),
        ("emb_ov", "wte", "h.0.attn.v"),
    ],
)
def test_what_is_skipped_has_no_influence_at_all(skip, name, place):
    config, idx = TransformerConfig(5, 3, 4), torch.randint(5, (10, 3))
    assert not changed(Transformers(config, [0], [Skips(**{skip: True})]), name, idx, place)
    assert changed(Transformers(config, [0]), name, idx, place)


def test_without_the_residual_only_attention_is_left():
    model, idx = (
        Transformers(TransformerConfig(5, 3, 4), [0, 0], [Skips(residual=True), Skips()]),
        torch.randint(5, (10, 3)),
    )
    with torch.no_grad(), record(model, ["h.0.attn", "h.0.resid_mid", "h.0.resid_pre"]) as seen:
        model(idx)
    assert torch.equal(seen["h.0.resid_mid"][0], seen["h.0.attn"][0])
    assert torch.equal(seen["h.0.resid_mid"][1], seen["h.0.attn"][1] + seen["h.0.resid_pre"][1])


def test_the_record_adds_up():
    model, idx = Transformers(replace(SHAPES[1], block_size=4), range(3)).double(), torch.randint(4, (6, 4))
    with torch.no_grad(), record(model, ["h.*.*", "h.*.attn.*", "logits"]) as seen:
        logits = model(idx)
    assert torch.equal(seen["logits"], logits)
    for layer in range(2):
        assert torch.allclose(seen[f"h.{layer}.attn.head_out"].sum(2), seen[f"h.{layer}.attn"])
        assert torch.allclose(seen[f"h.{layer}.attn.pattern"].sum(-1), torch.ones(1, dtype=torch.float64))
        mid, post = seen[f"h.{layer}.resid_mid"], seen[f"h.{layer}.resid_post"]
        assert torch.allclose(seen[f"h.{layer}.resid_pre"] + seen[f"h.{layer}.attn"], mid)
        assert torch.allclose(mid + seen[f"h.{layer}.mlp"], post)
    assert torch.equal(seen["h.0.resid_post"], seen["h.1.resid_pre"])


# ----------------------------------------------------------------------------------------------------------------------
# Mistakes


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            dict(n_embd=5, n_head=2),
            "n_embd is 5, which 2 heads do not divide; change n_embd or n_head, or set head_dim",
        ),
        (dict(order=3, block_size=2), "block_size is 2, shorter than an n-gram; it must be at least order, 3"),
        (dict(order=1), "order is 1; it must be at least 2"),
        (dict(order=9), "order is 9; it must be at most 7"),
        (dict(n_parallel=0), "n_parallel is 0; it must be at least 1"),
        (dict(width=-1), "width is -1; it must be at least 0"),
    ],
)
def test_impossible_shapes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**changes)


def test_other_mistakes_get_one_line():
    law, model = random_law(4, 3), LowRanks(4, 2, 3, [0, 1])
    with pytest.raises(ValueError, match="pos_qk and emb_qk are both skipped; that leaves QK no input"):
        Skips(pos_qk=True, emb_qk=True)
    with pytest.raises(ValueError, match="there are 1 skips for 2 models"):
        Transformers(TransformerConfig(), [0, 1], [Skips()])
    with pytest.raises(ValueError, match="no part is called 'P'; there are E, positions, QKV, O, U"):
        EnsembleAdam(model, 0.1, [("P",), ()])
    with pytest.raises(ValueError, match="there are 1 lists of frozen parts for 2 models"):
        EnsembleAdam(model, 0.1, [()])
    with pytest.raises(ValueError, match="the objective is 'ful'; it must be one of exact, full, next"):
        Objective(law, "ful", [0])
    with pytest.raises(ValueError, match="batch_size is 0"):
        Objective(law, "next", [0])
    with pytest.raises(ValueError, match="there are 2 laws for 3 models"):
        Objective([law, law], "exact", [0, 1, 2])
    with pytest.raises(ValueError, match="the same vocabulary and order"):
        Objective([law, random_law(3, 3)], "exact", [0, 1])
    with pytest.raises(ValueError, match="idx has 4 tokens; block_size is 3"):
        Transformers(TransformerConfig(), [0])(torch.zeros(1, 4, dtype=torch.long))
    for changes, message in (
        (dict(max_iters=0), "max_iters is 0"),
        (dict(learning_rate=0), "learning_rate is 0"),
        (dict(final_rate=2), "final_rate is 2"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainingConfig(**changes)
    with pytest.raises(FloatingPointError, match="the loss is no longer a number; lower --learning_rate"):
        train(model, Objective(law, "exact", [0, 1]), TrainingConfig(3, 1e38))


def test_the_notebooks_low_rank_model_numbers_contexts_alike():
    plain, model = OneLowRank(6, 3), LowRanks(6, 3, 3, [0])
    with torch.no_grad():
        model.wte[0], model.lm_head[0] = plain.wte.weight, plain.lm_head.weight
        idx = all_contexts(6, 3)
        expected = nn.functional.log_softmax(plain(idx)[:, -1], -1)
    assert torch.allclose(model.context_logits()[0].log_softmax(-1), expected, atol=1e-6)
