"""Optimizers: which parameters decay, AdamW and Muon, and the learning rate over time."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from mingpt.support.devices import has_fast_bfloat16


@dataclass(frozen=True)
class OptimConfig:
    """How the parameters are updated."""

    optimizer: Annotated[str, "adamw, or muon: Muon for the weight matrices of the blocks, AdamW for the rest"] = (
        "adamw"
    )
    learning_rate: Annotated[float, "peak rate of AdamW"] = 3e-4
    muon_learning_rate: Annotated[float, "peak rate of Muon"] = 0.02
    weight_decay: Annotated[float, "decay of weight matrices; never of embeddings, norms and biases"] = 0.1
    beta1: Annotated[float, "AdamW's decay of the mean gradient"] = 0.9
    beta2: Annotated[float, "AdamW's decay of the mean squared gradient"] = 0.95
    grad_clip: Annotated[float, "largest norm of the whole gradient; 0 for no limit"] = 1.0
    schedule: Annotated[str, "constant, linear or cosine, after the warm-up"] = "cosine"
    warmup_iters: Annotated[int, "steps of linear warm-up"] = 0
    decay_fraction: Annotated[
        float, "share of the run over which the rate falls; it stays at its lowest after that"
    ] = 1.0
    min_lr_ratio: Annotated[float, "lowest rate, as a share of the peak"] = 0.0

    def __post_init__(self):
        for name, allowed in (("optimizer", ("adamw", "muon")), ("schedule", ("constant", "linear", "cosine"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")
        for name in ("learning_rate", "muon_learning_rate", "decay_fraction"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        for name in ("weight_decay", "grad_clip", "warmup_iters"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1)")
        if not 0 <= self.min_lr_ratio <= 1:
            raise ValueError(f"min_lr_ratio is {self.min_lr_ratio}; it must be in [0, 1]")


def rate_factor(config: OptimConfig, step: int, max_iters: int) -> float:
    """The learning rate at `step` (from 0), as a share of its peak.

    Rises linearly over `warmup_iters` steps, then falls to `min_lr_ratio` at the end of `decay_fraction` of the run,
    and
    stays there: without the limit a cosine would climb back to its peak.
    """
    if step < config.warmup_iters:
        return (step + 1) / config.warmup_iters
    fall = max(1.0, config.decay_fraction * max_iters - config.warmup_iters)
    fallen = min(1.0, (step - config.warmup_iters) / fall)
    if config.schedule == "constant":
        left = 1.0
    elif config.schedule == "linear":
        left = 1.0 - fallen
    else:
        left = 0.5 * (1.0 + math.cos(math.pi * fallen))
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * left


def parameter_groups(model: nn.Module) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Each parameter of the model in exactly one group, by the kind of module that owns it.

    matrices    weights of linear layers, and other parameters of two or more dimensions: these decay
    head        the weight of `lm_head`, unless it is tied to an embedding: decays, but is not for Muon
    embeddings  lookup tables: rows that a batch does not use get no gradient, so they must not decay
    vectors     biases, and the weights of norms
    """
    group_of: dict[nn.Parameter, str] = {}
    for module_name, module in model.named_modules():
        for _, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.Embedding):
                group_of[parameter] = "embeddings"  # also where a linear head shares the table
            elif parameter.ndim < 2 or isinstance(module, nn.LayerNorm):
                group_of[parameter] = "vectors"
            else:
                group_of.setdefault(parameter, "head" if module_name.endswith("lm_head") else "matrices")
    groups = {"matrices": [], "head": [], "embeddings": [], "vectors": []}
    for name, parameter in model.named_parameters():  # names a shared parameter once
        groups[group_of[parameter]].append((name, parameter))
    held = [parameter for pairs in groups.values() for _, parameter in pairs]
    assert len(held) == len(set(held)) and set(held) == set(model.parameters()), "a parameter is in no group, or in two"
    return groups


def make_optimizers(model: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """The optimizers that `config` asks for; together they hold each parameter that requires a gradient once.

    The key "peak_lr" of each of their groups is the rate that the schedule scales.
    """
    groups = {name: [(n, p) for n, p in pairs if p.requires_grad] for name, pairs in parameter_groups(model).items()}
    matrices, optimizers = groups["matrices"], []
    if config.optimizer == "muon":
        fused = [p for name, p in matrices if name.endswith("c_attn.weight")]  # queries, keys and values in one matrix
        single = [p for name, p in matrices if p.ndim == 2 and not name.endswith("c_attn.weight")]
        muon = [dict(params=single, blocks=1), dict(params=fused, blocks=3)]
        muon = [group for group in muon if group["params"]]
        if muon:  # a model may have tables alone
            optimizers.append(Muon(muon, config.muon_learning_rate, weight_decay=config.weight_decay))
        matrices = [(name, p) for name, p in matrices if p.ndim != 2]
    decayed = [p for _, p in matrices + groups["head"]]
    kept = [p for _, p in groups["embeddings"] + groups["vectors"]]
    adamw = [dict(params=decayed, weight_decay=config.weight_decay), dict(params=kept, weight_decay=0.0)]
    device_type = next(model.parameters()).device.type
    optimizers.append(
        torch.optim.AdamW(
            [group for group in adamw if group["params"]],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            fused=device_type in ("cpu", "cuda"),
        )
    )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks").

    A gradient matrix is often nearly of low rank: a few directions take all of the step. Muon replaces the momentum
    U S V^T by U V^T, so that all directions move alike. For 2-D weights of hidden layers only.

    lr is in units of the spectral norm of the change, scaled by sqrt(rows / columns) for tall matrices. A group with
    `blocks` > 1 holds matrices that are several stacked on one another, each to be orthogonalised on its own.
    """

    def __init__(self, params, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0, steps: int = 5):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay, steps=steps, blocks=1))
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim != 2 or p.size(0) % group["blocks"]:
                    raise ValueError(f"Muon: a parameter of shape {tuple(p.shape)} is not {group['blocks']} matrices")

    @torch.no_grad()
    def step(self, closure=None):
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(p.shape, []).append(p)
            for (rows, columns), parameters in by_shape.items():
                rows //= group["blocks"]
                momentum = torch.stack([self._nesterov(p, group["momentum"]) for p in parameters])
                updates = orthogonalize(momentum.view(-1, rows, columns), group["steps"]).reshape(momentum.shape)
                for p, update in zip(parameters, updates):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update, alpha=-group["lr"] * max(1, rows / columns) ** 0.5)
        return loss

    def _nesterov(self, p: nn.Parameter, momentum: float) -> Tensor:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(state["momentum"], momentum)


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """About U V^T for each matrix U S V^T of a (n, rows, columns) stack, by Newton-Schulz iteration.

    Each step applies the odd polynomial a x + b x^3 + c x^5 to all singular values at once. Jordan's coefficients take
    any value in (0, 1] to somewhere in about [0.7, 1.2] in five steps, which serves as well as exactly 1 and is sooner
    reached. Runs in bfloat16 where that is fast; the result has the dtype of the input.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16() if has_fast_bfloat16(matrices.device) else matrices.float()
    tall = x.size(-2) > x.size(-1)
    if tall:  # the smaller of x x^T and x^T x
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)
