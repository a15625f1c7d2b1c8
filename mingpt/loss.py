"""The loss of a language model: cross-entropy, and a way to it that stays in a CPU's cache."""

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood, in nats, of targets (B, T) under logits (B, T, V), in float32.

    Targets of -1 do not count. Where all are -1 the loss is 0: a mean over nothing would be NaN and spoil the weights.
    """
    logits, targets = logits.flatten(0, 1), targets.flatten()
    large = logits.device.type == "cpu" and logits.numel() > CachedCrossEntropy.LARGE
    large = large and logits.dtype != torch.float16  # in which a gradient underflows before a GradScaler can enlarge it
    if large and not torch.compiler.is_compiling():  # a compiler would unroll its loop
        return CachedCrossEntropy.apply(logits, targets)
    total = F.cross_entropy(logits.float(), targets, ignore_index=-1, reduction="sum")
    return total / (targets != -1).sum().clamp(min=1)


class CachedCrossEntropy(torch.autograd.Function):
    """The same number and the same gradient for large logits on a CPU, sooner and in less memory.

    With thousands of tokens in the vocabulary, float32 copies of the logits are larger than everything else in a step,
    and each pass over them is a trip to memory. Here as many rows at a time are worked on as stay in the processor's
    cache, and the gradient, softmax(logits) - onehot(target), is written down while the softmax is at hand.
    """

    LARGE = 1 << 22  # logits; below, they are in the cache anyway
    CACHED = 1 << 18  # logits worked on at a time

    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor) -> Tensor:
        """logits is (N, V), targets (N,) int64, -1 where nothing counts."""
        weight = (targets != -1) / (targets != -1).sum().clamp(min=1)
        targets = torch.where(targets == -1, 0, targets)  # any other number that is no token is an error below
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        total = torch.zeros(())
        for start in range(0, len(logits), rows := max(1, CachedCrossEntropy.CACHED // logits.size(1))):
            part = slice(start, start + rows)
            target, w = targets[part, None], weight[part, None]
            log_p = logits[part].float().log_softmax(dim=1)
            total -= torch.where(w > 0, log_p.gather(1, target) * w, 0.0).sum()
            if gradient is not None:
                gradient[part] = log_p.exp_().scatter_add_(1, target, -torch.ones_like(w)).mul_(w)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, outer: Tensor):
        """The gradient, times that of what comes after the loss, which is mostly 1."""
        (gradient,) = ctx.saved_tensors
        return gradient if outer == 1 else gradient * outer.to(gradient.dtype), None
