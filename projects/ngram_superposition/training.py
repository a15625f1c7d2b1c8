"""Adam for many models at once, and the loop."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from mingpt.optim import OptimConfig, rate_factor
from mingpt.support.devices import progress_options
from projects.ngram_superposition.losses import Objective
from projects.ngram_superposition.transformer import PARTS, Ensemble


class EnsembleAdam:
    """Adam (Kingma and Ba 2015) with a learning rate for each model, and parts that stay as they are.

    All parameters become views into one long vector, so that a step is a handful of operations on it whatever the
    number of models. rates: (M,), or a float for all; frozen: for each model the parts (keys of `PARTS`) that it does
    not learn.
    """

    def __init__(
        self,
        model: Ensemble,
        rates: float | Sequence[float],
        frozen: Sequence[Sequence[str]] | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        self.parameters, self.betas, self.eps, self.steps = list(model.parameters()), betas, eps, 0
        M = model.models
        rates = torch.as_tensor(rates, dtype=self.parameters[0].dtype).expand(M)
        frozen = [()] * M if frozen is None else frozen
        if len(frozen) != M:
            raise ValueError(f"there are {len(frozen)} lists of frozen parts for {M} models; give one for each")
        for part in sorted({part for parts in frozen for part in parts}):
            if part not in PARTS:
                raise ValueError(f"no part is called {part!r}; there are {', '.join(PARTS)}")
        rate_of = []
        for name, parameter in model.named_parameters():
            held = [any(name.split(".")[-1] in PARTS[part] for part in parts) for parts in frozen]
            rate = torch.where(torch.tensor(held), 0.0, rates).to(parameter.device)
            rate_of.append(rate.view(M, *[1] * (parameter.ndim - 1)).expand_as(parameter).flatten())
        self.rate = torch.cat(rate_of)
        self.flat = torch.cat([parameter.detach().flatten() for parameter in self.parameters])
        for parameter, part in zip(self.parameters, self.flat.split([p.numel() for p in self.parameters])):
            parameter.data = part.view_as(parameter)
        self.mean, self.square = torch.zeros_like(self.flat), torch.zeros_like(self.flat)

    def step(self, loss: Tensor, factor: float = 1.0) -> None:
        """One step down `loss`, a scalar, at `factor` times the rates."""
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        gradient = torch.cat(
            [torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in zip(gradients, self.parameters)]
        )
        self.steps += 1
        beta1, beta2 = self.betas
        self.mean.lerp_(gradient, 1 - beta1)
        self.square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = self.square.sqrt().div_((1 - beta2**self.steps) ** 0.5).add_(self.eps)
        self.flat.addcdiv_(self.mean * self.rate, scale, value=-factor / (1 - beta1**self.steps))


@dataclass(frozen=True)
class TrainingConfig:
    """How long, and how fast: the rate falls linearly from `learning_rate` to `final_rate` times that."""

    max_iters: int = 5000
    learning_rate: float = 1e-3
    final_rate: float = 1.0

    def __post_init__(self):
        if self.max_iters < 1:
            raise ValueError(f"max_iters is {self.max_iters}; it must be at least 1")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be positive")
        if not 0 < self.final_rate <= 1:
            raise ValueError(f"final_rate is {self.final_rate}; it must be in (0, 1]")


def train(
    model: Ensemble,
    objective: Objective,
    config: TrainingConfig,
    frozen: Sequence[Sequence[str]] | None = None,
    rates: Sequence[float] | None = None,
    eval_interval: int = 0,
    on_eval: Callable[[int], None] | None = None,
    title: str = "",
) -> Tensor:
    """Train all models of the ensemble in place. Returns each batch's divergence before its step, (max_iters, M), nats.

    rates      a learning rate for each model instead of config's
    on_eval    called with the number of steps done, every `eval_interval` steps and at the end

    Raises FloatingPointError if a loss is not finite at the end.
    """
    optim = OptimConfig(schedule="linear", min_lr_ratio=config.final_rate)
    adam = EnsembleAdam(model, config.learning_rate if rates is None else rates, frozen)
    losses = torch.empty(config.max_iters, model.models, device=objective.entropy.device, dtype=objective.dtype)
    for step in tqdm(range(config.max_iters), desc=title or None, disable=not title, leave=False, **progress_options()):
        if on_eval and eval_interval and step % eval_interval == 0:
            on_eval(step)
        batch = objective.next_batch()
        divergence = objective.divergence(model.context_logits(batch.rows), batch)
        adam.step(divergence.sum(), rate_factor(optim, step, config.max_iters))
        losses[step] = divergence.detach()
    if on_eval:
        on_eval(config.max_iters)
    if not losses[-1].isfinite().all():
        raise FloatingPointError("the loss is no longer a number; lower --learning_rate")
    return losses.cpu()
