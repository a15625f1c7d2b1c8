"""The assignment's variants: causality, caches, formulas written out, and what reaches what."""

import math

import pytest
import torch
from torch.nn import functional as F

from mingpt.interpret.hooks import record
from mingpt.model import GPTConfig
from mingpt.optim import parameter_groups
from projects.birthplace.variants import VARIANTS, make_variant

SHAPE = dict(vocab_size=31, block_size=24, n_layer=4, n_head=4, n_embd=32)


def small(variant, seed=0, std=0.3, **changes):
    torch.manual_seed(seed)
    model = make_variant(variant, GPTConfig(**{**SHAPE, **changes}), bottleneck_dim=6)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return model.eval()


def tokens(*shape):
    return torch.randint(2, 31, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_later_token_changes_no_earlier_logit(variant, qk_norm):
    model, idx = small(variant, qk_norm=qk_norm), tokens(2, 24)
    with torch.no_grad():
        before = model(idx)[0]
        for t in range(24):
            changed = idx.clone()
            changed[:, t] = (changed[:, t] + 5) % 31
            after = model(changed)[0]
            assert torch.equal(after[:, :t], before[:, :t]), f"position {t} is seen before its time"
            assert (after[:, t] - before[:, t]).abs().max() > 1e-4, f"position {t} is not seen at all"


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_earlier_token_can_be_seen_from_the_end(variant):
    model, idx = small(variant), tokens(1, 24)
    embeddings = model.transformer.wte(idx).detach().requires_grad_()
    hook = model.transformer.wte.register_forward_hook(lambda *_: embeddings)
    model(idx)[0][0, -1].norm().backward()
    hook.remove()
    assert (embeddings.grad[0].norm(dim=1) > 1e-6).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_prompts_of_unequal_length_continue_as_they_would_alone(variant):
    model = small(variant)
    prompts = [tokens(n)[:n].tolist() for n in (3, 11, 6, 1)]
    together = model.generate(prompts, 9)
    for prompt, out in zip(prompts, together):
        idx = torch.tensor([prompt])
        for _ in range(9):
            idx = torch.cat([idx, model(idx)[0][:, -1:].argmax(-1)], dim=1)
        assert out == idx[0].tolist()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_shorter_text_gives_the_same_logits(variant):
    model, idx = small(variant), tokens(2, 24)
    with torch.no_grad():
        whole = model(idx)[0]
        for T in (1, 3, 4, 9, 16):
            torch.testing.assert_close(model(idx[:, :T])[0], whole[:, :T], rtol=1e-4, atol=1e-4)


def test_synthesizer_is_the_formula():
    model, idx = small("synthesizer", n_layer=1), tokens(2, 10)
    with torch.no_grad(), record(model, ["h.0.attn.pattern", "h.0.ln_1", "h.0.attn"]) as seen:
        model(idx)
    attn, x = model.transformer.h[0].attn, seen["h.0.ln_1"]
    heads = []
    for h in range(4):
        channels = slice(8 * h, 8 * h + 8)
        hidden = F.relu(x @ attn.c_hidden.weight[channels].T + attn.c_hidden.bias[channels])
        scores = hidden @ attn.score_weight[h] + attn.score_bias[h]  # (B, T, block_size)
        for t in range(10):
            row = scores[:, t, : t + 1].softmax(dim=-1)
            torch.testing.assert_close(seen["h.0.attn.pattern"][:, h, t, : t + 1], row, rtol=1e-4, atol=1e-5)
        pattern = scores[:, :, :10].masked_fill(~torch.ones(10, 10).tril().bool(), -math.inf).softmax(dim=-1)
        heads.append(pattern @ (x @ attn.c_value.weight[channels].T + attn.c_value.bias[channels]))
    torch.testing.assert_close(attn.c_proj(torch.cat(heads, dim=-1)), seen["h.0.attn"], rtol=1e-4, atol=1e-4)


def test_synthesizer_compares_nothing():
    """Its pattern at a position follows from what stands there; in layer 0 from nothing else."""
    model, idx = small("synthesizer", n_layer=2), tokens(1, 12)
    changed = idx.clone()
    changed[0, :7] = (changed[0, :7] + 3) % 31
    patterns = []
    for text in (idx, changed):
        with torch.no_grad(), record(model, "h.0.attn.pattern") as seen:
            model(text)
        patterns.append(seen["h.0.attn.pattern"][:, :, 7:])
    torch.testing.assert_close(*patterns)


def test_perceiver_reads_complete_segments_only():
    """Block 24, 6 vectors: segments of 4. Attention down and up, seen as patterns."""
    model, idx = small("perceiver"), tokens(1, 15)
    with (
        torch.no_grad(),
        record(model, ["h.1.down.attn.pattern", "h.1.up.attn.pattern", "h.1.h.*.attn.pattern"]) as seen,
    ):
        model(idx)
    down, up = seen["h.1.down.attn.pattern"][0], seen["h.1.up.attn.pattern"][0]
    assert down.shape == (4, 3, 15) and up.shape == (4, 15, 3), "of 15 positions, 3 segments are complete"
    for j in range(3):
        assert (down[:, j, : 4 * j + 4] > 0).all() and (down[:, j, 4 * j + 4 :] == 0).all()
    for t in range(15):
        complete = (t + 1) // 4
        assert (up[:, t, :complete] > 0).all() and (up[:, t, complete:] == 0).all()
    assert len(model.transformer.h[1].h) == 2 and seen["h.1.h.0.attn.pattern"].shape == (1, 4, 3, 3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_is_trained_by_muon_and_adamw(variant):
    from mingpt.optim import OptimConfig, make_optimizers

    model = small(variant).train()
    groups = parameter_groups(model)
    assert sum(len(pairs) for pairs in groups.values()) == len(list(model.parameters()))
    before = [p.clone() for p in model.parameters()]
    optimizers = make_optimizers(model, OptimConfig(optimizer="muon"))
    model(tokens(4, 24), tokens(4, 24))[1].backward()
    for optimizer in optimizers:
        optimizer.step()
    for (name, p), old in zip(model.named_parameters(), before):
        assert p.grad is not None and not torch.equal(p, old), name


def test_mistakes():
    with pytest.raises(ValueError, match="no variant is called 'linformer'; there are vanilla, rope"):
        make_variant("linformer", GPTConfig(**SHAPE))
    for bad in (0, 25):
        with pytest.raises(ValueError, match=f"bottleneck_dim is {bad}; it must be in"):
            make_variant("perceiver", GPTConfig(**SHAPE), bottleneck_dim=bad)
    with pytest.raises(ValueError, match="n_layer is 1; a perceiver has one layer before"):
        make_variant("perceiver", GPTConfig(**{**SHAPE, "n_layer": 1}))


def test_shift_is_for_learned_positions():
    config = GPTConfig(**SHAPE)
    assert [make_variant(v, config, shift=True, bottleneck_dim=6).shift for v in VARIANTS] == [True, False, False, True]
