"""Cross-entropy: what counts, and the way that stays in the cache."""

import pytest
import torch
from torch.nn import functional as F

from mingpt.fast.cross_entropy import CachedCrossEntropy
from mingpt.model import cross_entropy


def test_loss_ignores_targets_of_minus_one_and_is_zero_without_targets():
    logits = torch.randn(2, 5, 7, requires_grad=True)
    targets = torch.randint(0, 7, (2, 5))
    targets[0, 3:] = -1
    counted = F.cross_entropy(logits[targets != -1], targets[targets != -1])
    torch.testing.assert_close(cross_entropy(logits, targets), counted)
    nothing = cross_entropy(logits, torch.full((2, 5), -1))
    nothing.backward()
    assert nothing.item() == 0 and logits.grad.abs().max() == 0


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-6), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_the_cached_loss_is_cross_entropy(dtype, tolerance, monkeypatch):
    monkeypatch.setattr(CachedCrossEntropy, "CACHED", 700)  # several parts, the last one smaller
    logits, targets = torch.randn(3, 11, 100).mul(4).to(dtype).requires_grad_(), torch.randint(-1, 100, (3, 11))
    targets[1, :4] = -1
    expected = logits.detach().clone().requires_grad_()
    expected_loss = cross_entropy(expected, targets)
    assert "Cached" not in type(expected_loss.grad_fn).__name__
    monkeypatch.setattr(CachedCrossEntropy, "LARGE", 0)
    loss = cross_entropy(logits, targets)
    assert "Cached" in type(loss.grad_fn).__name__
    (3 * loss).backward()
    (3 * expected_loss).backward()
    torch.testing.assert_close(loss, expected_loss.to(loss.dtype), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits.grad, expected.grad, atol=tolerance, rtol=tolerance)


def test_without_targets_the_cached_loss_is_zero_and_not_nan(monkeypatch):
    monkeypatch.setattr(CachedCrossEntropy, "LARGE", 0)
    logits = torch.randn(2, 5, 7, requires_grad=True)
    loss = cross_entropy(logits, torch.full((2, 5), -1))
    loss.backward()
    assert loss.item() == 0 and logits.grad.abs().max() == 0


@pytest.mark.parametrize("large", [0, 1 << 22])
def test_a_target_that_is_no_token_is_an_error(large, monkeypatch):
    monkeypatch.setattr(CachedCrossEntropy, "LARGE", large)
    with pytest.raises((IndexError, RuntimeError)):
        cross_entropy(torch.randn(2, 5, 7), torch.full((2, 5), -100))


def test_evaluation_keeps_no_gradient(monkeypatch):
    monkeypatch.setattr(CachedCrossEntropy, "LARGE", 0)
    logits, targets = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
    made = []
    monkeypatch.setattr("mingpt.fast.cross_entropy.torch.empty_like", lambda x: made.append(x) or torch.zeros_like(x))
    assert cross_entropy(logits, targets).grad_fn is None and not made
    cross_entropy(logits.clone().requires_grad_(), targets)
    assert len(made) == 1, "the gradient's place, only where there is a gradient"
    torch.testing.assert_close(cross_entropy(logits, targets), F.cross_entropy(logits.flatten(0, 1), targets.flatten()))


def test_in_float16_the_gradient_outlives_a_scaled_loss():
    """A softmax over thousands of tokens, over thousands of targets, is less than float16 has,
    unless it is scaled first.
    """
    logits = (torch.randn(1, 600, 8000) * 0.1).half().requires_grad_()
    targets = torch.zeros(1, 600, dtype=torch.long)
    assert logits.numel() > CachedCrossEntropy.LARGE
    (cross_entropy(logits, targets) * 65536.0).backward()
    whole = logits.detach().float().requires_grad_()
    (cross_entropy(whole, targets) * 65536.0).backward()
    torch.testing.assert_close(logits.grad[..., 1:].float(), whole.grad[..., 1:], rtol=1e-2, atol=1e-5)
    assert logits.grad[..., 1:].abs().min() > 0


@pytest.fixture
def three_derivatives(monkeypatch):
    """Logits and targets so small that the cached way, which every size takes in this test, needs several parts."""
    monkeypatch.setattr(CachedCrossEntropy, "LARGE", 0)
    monkeypatch.setattr(CachedCrossEntropy, "CACHED", 40)
    targets = torch.randint(0, 17, (2, 3))
    targets[0, 1] = -1
    return torch.randn(2, 3, 17), targets


def plain(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


def test_second_derivatives_of_the_cached_loss_are_right(three_derivatives):
    logits, targets = three_derivatives
    found = []
    for loss in (cross_entropy, plain):
        x = logits.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(3 * loss(x, targets), x, create_graph=True)
        found.append(torch.autograd.grad(gradient.square().sum(), x)[0])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-7)
    torch.autograd.gradgradcheck(
        lambda x: cross_entropy(x, targets), logits.double().requires_grad_(), eps=1e-2, atol=1e-4
    )


@pytest.mark.parametrize("derivative", [torch.func.grad, torch.func.jacfwd, torch.func.hessian])
def test_the_cached_loss_under_functional_transforms(derivative, three_derivatives):
    logits, targets = three_derivatives
    found = [derivative(lambda x: loss(x, targets))(logits) for loss in (cross_entropy, plain)]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_the_cached_loss_under_vmap(three_derivatives):
    logits, targets = three_derivatives
    many, more = torch.stack([logits, -logits, 2 * logits]), torch.stack([targets, targets.flip(0), targets])
    torch.testing.assert_close(torch.vmap(cross_entropy)(many, more), torch.stack(list(map(plain, many, more))))
    torch.testing.assert_close(
        torch.vmap(cross_entropy, (None, 0))(logits, more), torch.stack([plain(logits, y) for y in more])
    )
    torch.testing.assert_close(
        torch.vmap(torch.func.grad(cross_entropy))(many, more), torch.vmap(torch.func.grad(plain))(many, more)
    )
    x = logits.clone().requires_grad_()
    outer = torch.tensor([1.0, 2.0])
    (several,) = torch.autograd.grad(cross_entropy(x, targets), x, outer, is_grads_batched=True)
    (once,) = torch.autograd.grad(plain(x, targets), x)
    torch.testing.assert_close(several, outer[:, None, None, None] * once)
