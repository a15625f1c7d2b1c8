"""Optimizers: each parameter in one group, Muon against torch's, and the learning rate at its edges."""

import math

import pytest
import torch
from torch import nn

from mingpt.low_rank import LowRank
from mingpt.model import GPT, GPTConfig
from mingpt.optim import Muon, OptimConfig, make_optimizers, orthogonalize, parameter_groups, rate_factor


def gpt(**changes) -> GPT:
    return GPT(GPTConfig(**{**dict(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=16), **changes}))


@pytest.mark.parametrize("changes", [{}, dict(tie_weights=False), dict(positions="rotary", qk_norm=True)])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_parameter_is_updated_by_exactly_one_optimizer(optimizer, changes):
    model = gpt(**changes)
    held = [
        p for o in make_optimizers(model, OptimConfig(optimizer=optimizer)) for g in o.param_groups for p in g["params"]
    ]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize("tie_weights", [True, False])
def test_only_matrices_decay(tie_weights):
    model = gpt(tie_weights=tie_weights)
    decayed = {
        id(p)
        for o in make_optimizers(model, OptimConfig())
        for g in o.param_groups
        if g["weight_decay"]
        for p in g["params"]
    }
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    expected = {
        f"transformer.h.{i}.{part}.weight"
        for i in range(2)
        for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    assert names == expected | (set() if tie_weights else {"lm_head.weight"})
    # "ln_1.weight" and "LayerNorm.weight" are both names people have searched for: norms are told by their class.
    assert not [name for name in names if "ln_" in name or "wte" in name or "wpe" in name or "bias" in name]


def test_groups_are_found_in_models_of_other_make():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.queries = nn.Parameter(torch.zeros(3, 4))  # belongs to no linear layer
            self.scale = nn.Parameter(torch.zeros(()))
            self.table = nn.Embedding(5, 4)
            self.LayerNorm = nn.LayerNorm(4)
            self.lm_head = nn.Linear(4, 5)

    groups = {name: {n for n, _ in pairs} for name, pairs in parameter_groups(Odd()).items()}
    assert groups == {
        "matrices": {"queries"},
        "head": {"lm_head.weight"},
        "embeddings": {"table.weight"},
        "vectors": {"scale", "LayerNorm.weight", "LayerNorm.bias", "lm_head.bias"},
    }


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("shape", [(32, 32), (16, 48), (48, 16)])
def test_muon_takes_the_steps_of_torchs(shape):
    ours, theirs = (nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1))) for _ in range(2))
    options = dict(lr=0.05, momentum=0.9, weight_decay=0.1)
    a, b = Muon([ours], **options), torch.optim.Muon([theirs], **options, adjust_lr_fn="original")
    for _ in range(10):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        a.step(), b.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02)  # both iterate in bfloat16, in another order
    assert (ours - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 8, 40), (2, 40, 8)])
def test_orthogonalize_keeps_the_singular_vectors_and_levels_the_values(shape):
    u, _, vt = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrices = u * torch.linspace(0.1, 30, u.size(-1)) @ vt  # the smallest is far above what five steps cannot lift
    result = orthogonalize(matrices)
    assert result.shape == matrices.shape and result.dtype == matrices.dtype
    values = u.mT @ result @ vt.mT
    diagonal = values.diagonal(dim1=-2, dim2=-1)
    assert diagonal.min() > 0.3 and diagonal.max() < 1.4
    assert (values - torch.diag_embed(diagonal)).abs().max() < 0.1


def test_muon_treats_the_blocks_of_a_fused_matrix_one_by_one():
    fused, parts = nn.Parameter(torch.zeros(48, 16)), [nn.Parameter(torch.zeros(16, 16)) for _ in range(3)]
    gradient = torch.randn(48, 16) * torch.tensor([1.0, 10.0, 100.0]).repeat_interleave(16)[:, None]
    fused.grad = gradient.clone()
    for part, piece in zip(parts, gradient.split(16)):
        part.grad = piece.clone()
    Muon([dict(params=[fused], blocks=3)]).step(), Muon(parts).step()
    torch.testing.assert_close(fused.data, torch.cat([p.data for p in parts]))
    assert fused[:16].norm() > 0.5 * fused[32:].norm(), (
        "small gradients of one block move as far as large ones of another"
    )


def test_muon_refuses_what_is_no_matrix():
    with pytest.raises(ValueError, match=r"a parameter of shape \(5,\) is not 1 matrices"):
        Muon([nn.Parameter(torch.zeros(5))])


@pytest.mark.parametrize("schedule, middle", [("constant", 1.0), ("linear", 0.55), ("cosine", 0.55)])
def test_rate_rises_falls_and_stays_down(schedule, middle):
    config = OptimConfig(schedule=schedule, warmup_iters=10, min_lr_ratio=0.1)
    rates = [rate_factor(config, step, 110) for step in range(200)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0 and rates[10] == 1.0
    assert rates[60] == pytest.approx(middle)
    assert max(rates[110:]) == pytest.approx(1.0 if schedule == "constant" else 0.1)


def test_the_handouts_cosine_does_not_climb_back():
    # 650 epochs with a cosine meant for 200: unclamped, its rate is back at the peak at epoch 400.
    config = OptimConfig(schedule="cosine", min_lr_ratio=0.1, decay_fraction=200 / 650)
    rates = [rate_factor(config, epoch, 650) for epoch in range(650)]
    assert all(later <= earlier for earlier, later in zip(rates, rates[1:]))
    assert rates[400] == pytest.approx(0.1)
    assert 0.5 * (1 + math.cos(math.pi * 400 / 200)) == pytest.approx(1.0), "what the unclamped one gives"


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(optimizer="sgd"), "optimizer is 'sgd'; it must be one of adamw, muon"),
        (dict(schedule="step"), "schedule is 'step'; it must be one of constant, linear, cosine"),
        (dict(learning_rate=0.0), "learning_rate is 0.0; it must be positive"),
        (dict(weight_decay=-1.0), "weight_decay is -1.0; it must not be negative"),
        (dict(beta2=1.0), r"beta2 is 1.0; it must be in \[0, 1\)"),
        (dict(min_lr_ratio=2.0), r"min_lr_ratio is 2.0; it must be in \[0, 1\]"),
    ],
)
def test_a_bad_configuration_says_what_to_change(changes, message):
    with pytest.raises(ValueError, match=message):
        OptimConfig(**changes)


def test_muon_takes_tall_blocks():
    """Three stacked matrices are updated as each would be alone."""
    stacked = nn.Parameter(torch.randn(30, 4))
    alone = [nn.Parameter(part.clone()) for part in stacked.detach().chunk(3)]
    gradient = torch.randn(30, 4)
    stacked.grad = gradient.clone()
    for p, part in zip(alone, gradient.chunk(3)):
        p.grad = part.clone()
    Muon([dict(params=[stacked], blocks=3)]).step()
    Muon(alone).step()
    torch.testing.assert_close(stacked.detach(), torch.cat([p.detach() for p in alone]), rtol=1e-2, atol=1e-3)


def test_a_model_without_matrices_for_muon_is_left_to_adamw():
    model = LowRank(5, 2, 3)
    optimizers = make_optimizers(model, OptimConfig(optimizer="muon"))
    held = [p for o in optimizers for g in o.param_groups for p in g["params"]]
    assert len(optimizers) == 1 and sorted(map(id, held)) == sorted(map(id, model.parameters()))
