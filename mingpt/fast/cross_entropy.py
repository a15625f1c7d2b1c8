"""Cross-entropy that stays in a CPU's cache; equals `mingpt.model.cross_entropy`, and so do all its derivatives."""

import torch
from torch import Tensor
from torch.nn import functional as F


def fast_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood, in nats, of targets (B, T) under logits (B, T, V), in float32.

    Targets of -1 do not count. Where all are -1 the loss is 0: a mean over nothing would be NaN and spoil the weights.
    """
    logits, targets = logits.flatten(0, 1), targets.flatten()
    # First of all: a compiler would unroll the loop of the other way, and its sizes are symbols that cannot be
    # compared.
    if not torch.compiler.is_compiling() and not torch.jit.is_tracing() and CachedCrossEntropy.pays(logits):
        return CachedCrossEntropy.apply(logits, targets, logits.requires_grad and torch.is_grad_enabled())[0]
    total = F.cross_entropy(logits.float(), targets, ignore_index=-1, reduction="sum")
    return total / (targets != -1).sum().clamp(min=1)


class CachedCrossEntropy(torch.autograd.Function):
    """The same number and the same derivatives for large logits on a CPU, sooner and in less memory.

    With thousands of tokens in the vocabulary, float32 copies of the logits are larger than everything else in a step,
    and each pass over them is a trip to memory. Here as many rows at a time are worked on as stay in the processor's
    cache, and the gradient, softmax(logits) - onehot(target), is written down while the softmax is at hand.
    """

    LARGE = 1 << 22  # logits; below, they are in the cache anyway
    CACHED = 1 << 18  # logits worked on at a time

    @staticmethod
    def pays(logits: Tensor) -> bool:
        """Whether this is the faster way. In float16 a gradient would underflow before a GradScaler can enlarge it."""
        return (
            logits.device.type == "cpu" and logits.dtype != torch.float16 and logits.numel() > CachedCrossEntropy.LARGE
        )

    @staticmethod
    def forward(logits: Tensor, targets: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
        """logits is (N, V), targets (N,) int64, -1 where nothing counts.

        Returns the loss, and its gradient if `wanted`.
        """
        weight = _weights(targets)
        targets = torch.where(targets == -1, 0, targets)  # any other number that is no token is an error below
        gradient = torch.empty_like(logits) if wanted else None
        total = torch.zeros(())
        for start in range(0, len(logits), rows := max(1, CachedCrossEntropy.CACHED // logits.size(1))):
            part = slice(start, start + rows)
            target, w = targets[part, None], weight[part, None]
            log_p = logits[part].float().log_softmax(dim=1)
            total -= torch.where(w > 0, log_p.gather(1, target) * w, 0.0).sum()
            if gradient is not None:
                gradient[part] = log_p.exp_().scatter_add_(1, target, -torch.ones_like(w)).mul_(w)
        return total, gradient

    @staticmethod
    def setup_context(ctx, inputs, output):
        logits, targets, _ = inputs
        _, gradient = output
        if gradient is not None:
            ctx.mark_non_differentiable(gradient)
        ctx.save_for_backward(logits, targets, gradient)
        ctx.save_for_forward(logits, targets)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, outer: Tensor | None, _):
        """The gradient, times that of what comes after the loss, which is mostly 1."""
        logits, targets, gradient = ctx.saved_tensors
        if outer is None:
            return None, None, None
        if (
            gradient is None or torch.is_grad_enabled()
        ):  # the derivative of this gradient may be wanted: it needs its formula
            return (_gradient(logits, targets) * outer).to(logits.dtype), None, None
        return gradient if _is_one(outer) else gradient * outer.to(gradient.dtype), None, None

    @staticmethod
    def jvp(ctx, logits_tangent: Tensor | None, *_):
        logits, targets = ctx.saved_tensors
        return None if logits_tangent is None else (_gradient(logits, targets) * logits_tangent).sum(), None

    @staticmethod
    def vmap(info, in_dims, logits: Tensor, targets: Tensor, wanted: bool):
        """One after the other: each of them is large."""
        losses = [
            CachedCrossEntropy.apply(
                *(x if dim is None else x.select(dim, i) for x, dim in zip((logits, targets), in_dims)), wanted
            )[0]
            for i in range(info.batch_size)
        ]
        return (torch.stack(losses), None), (0, None)


def _weights(targets: Tensor) -> Tensor:
    """The share of each target in the mean, (N,) float32."""
    return (targets != -1) / (targets != -1).sum().clamp(min=1)


def _gradient(logits: Tensor, targets: Tensor) -> Tensor:
    """That of the loss for logits (N, V), by its formula, which has derivatives itself. Returns (N, V) float32."""
    onehot = torch.zeros_like(logits, dtype=torch.float32).scatter(1, targets.clamp(min=0)[:, None], 1.0)
    return (logits.float().softmax(dim=1) - onehot) * _weights(targets)[:, None]


def _is_one(outer: Tensor) -> bool:
    try:
        return bool(outer == 1)
    except RuntimeError:  # under vmap it stands for several numbers
        return False
