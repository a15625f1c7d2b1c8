"""Training steps to be timed: a plain one, and one of our trainer, on a batch that stays the same."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mingpt.optim import OptimConfig
from mingpt.trainer import Trainer, TrainerConfig


class OneBatch:
    """A dataset of one batch."""

    def __init__(self, x: Tensor, y: Tensor):
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.x[i], self.y[i]


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Callable[[], None]:
    """A function that takes one plain float32 step: forward, backward, clipping to norm 1, update."""

    def step():
        _, loss = model(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def our_step(model: nn.Module, dtype: str, x: Tensor, y: Tensor, compiled: bool = False) -> Callable[[], int]:
    """A function that takes one step of our trainer on the CPU, with matrix products in `dtype`."""
    config = TrainerConfig(max_iters=10_000, batch_size=len(x), dtype=dtype, device="cpu", compile=compiled)
    return Trainer(config, OptimConfig(), model, OneBatch(x, y)).step
