"""What `mingpt/fast` computes is what the plain functions compute, over random shapes, dtypes and gradients."""

import random

import pytest
import torch
from torch.nn import functional as F

from mingpt import fast
from mingpt.fast.attention import batched_attention, fast_attention, fused_attention
from mingpt.fast.cross_entropy import CachedCrossEntropy
from mingpt.generate import generate_plainly
from mingpt.model import GPT, GPTConfig, attention, cross_entropy, gelu

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2}


def assert_same(plain, quick, inputs, tolerance):
    """The outputs and the gradients of a random projection of them agree, to rounding."""
    expected, found = plain(*inputs), quick(*inputs)
    weights = torch.randn_like(expected)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    gradients = [torch.autograd.grad((y * weights).sum(), inputs) for y in (expected, found)]
    for a, b in zip(*gradients):
        torch.testing.assert_close(b, a, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("seed", range(6))
def test_attention(dtype, seed):
    rng = random.Random(seed)
    B, H, T, D, held = (
        rng.randint(1, 3),
        rng.randint(1, 4),
        rng.choice([1, 2, 7, 33, 64]),
        2 * rng.randint(1, 8),
        rng.randint(1, 9),
    )
    q, k, v = (torch.randn(B, H, T, D, dtype=dtype, requires_grad=True) for _ in range(3))
    causal = [
        lambda q, k, v: fast_attention(q, k, v),
        lambda q, k, v: fused_attention(q, k, v, None, 0.0),
        lambda q, k, v: batched_attention(q, k, v, 0.0),
    ]
    for quick in causal:
        assert_same(attention, quick, (q, k, v), TOLERANCE[dtype])
    # As with a cache: T queries at the end of S keys, behind a mask by row.
    keys, values = (torch.randn(B, H, held + T, D, dtype=dtype, requires_grad=True) for _ in range(2))
    mask = torch.zeros(B, 1, T, held + T).masked_fill(torch.rand(B, 1, T, held + T) < 0.3, -torch.inf)
    mask[..., 0] = 0  # each query sees something
    assert_same(
        lambda *x: attention(*x, mask), lambda *x: fast_attention(*x, mask), (q, keys, values), TOLERANCE[dtype]
    )
    one = q[:, :, :1].detach().requires_grad_()
    assert_same(attention, fast_attention, (one, keys, values), TOLERANCE[dtype])


def test_sixteen_bit_training_on_a_cpu_stores_the_pattern_and_all_else_is_fused(monkeypatch):
    taken = []
    for name in ("batched_attention", "fused_attention"):
        monkeypatch.setattr(f"mingpt.fast.attention.{name}", lambda *_, name=name: taken.append(name))
    q = torch.randn(1, 1, 4, 8, requires_grad=True)
    fast_attention(q.bfloat16(), q, q), fast_attention(q, q, q), fast_attention(q.bfloat16(), q, q, torch.zeros(4, 4))
    with torch.no_grad():
        fast_attention(q.bfloat16(), q, q)
    assert taken == ["batched_attention", *["fused_attention"] * 3]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_gelu(dtype):
    x = torch.randn(50, 7, dtype=dtype).mul(3).requires_grad_()

    def plain(x):
        with fast.plain():
            return gelu(x)

    assert_same(plain, gelu, (x,), TOLERANCE[dtype])
    torch.testing.assert_close(gelu(x.double()), F.gelu(x.double(), approximate="tanh"))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("seed", range(4))
def test_cross_entropy(dtype, seed, monkeypatch):
    monkeypatch.setattr(CachedCrossEntropy, "LARGE", 0)
    monkeypatch.setattr(CachedCrossEntropy, "CACHED", 700)  # several parts, the last one smaller
    rng = random.Random(seed)
    B, T, V = rng.randint(1, 4), rng.randint(1, 40), rng.choice([2, 31, 200])
    logits = torch.randn(B, T, V, dtype=dtype).mul(4).requires_grad_()
    targets = torch.randint(-1, V, (B, T))

    def plain(logits):
        with fast.plain():
            return cross_entropy(logits, targets)

    assert_same(
        plain, lambda logits: cross_entropy(logits, targets), (logits,), max(1e-5, TOLERANCE[dtype])
    )  # in float32


@pytest.mark.parametrize("options", [dict(), dict(do_sample=True, temperature=0.8, top_k=9, top_p=0.9)])
@pytest.mark.parametrize("new", [0, 3, 30])
def test_generation_is_the_plain_loop(options, new):
    model = GPT(GPTConfig(vocab_size=31, block_size=16, n_layer=2, n_head=2, n_embd=16, positions="rotary"))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    idx = torch.randint(31, (3, 5))

    def draws():
        return {**options, **({"generator": torch.Generator().manual_seed(1)} if options else {})}

    plain = generate_plainly(model.eval(), idx, new, **draws())
    assert plain.shape == (3, 5 + new)
    assert torch.equal(model.generate(idx, new, **draws()), plain)
    with fast.plain():
        assert torch.equal(model.train().generate(idx, new, **draws()), plain)
    assert model.training, "as it was before"


def test_the_switch(monkeypatch):
    monkeypatch.setattr(fast, "_on", None)
    monkeypatch.setenv("MINGPT_FAST", "0")
    assert not fast.on()
    monkeypatch.setattr(fast, "_on", None)
    monkeypatch.delenv("MINGPT_FAST")
    assert fast.on()
    with pytest.raises(KeyError), fast.plain():
        assert not fast.on()
        raise KeyError
    assert fast.on(), "however the body ends"
    monkeypatch.setattr(fast, "_on", None)
    monkeypatch.setenv("MINGPT_FAST", "slow")
    with pytest.raises(ValueError, match="MINGPT_FAST is 'slow'; it must be 0 or 1"):
        fast.on()
