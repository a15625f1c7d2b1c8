"""What the taps of a convolution look like, and what they would look like if they had never been trained."""

import math

import torch
from torch import Tensor

TAPS = ("previous", "current", "future")  # the last taps of a kernel, as they stand in it
PREVIOUS, CURRENT = -3, -2

# The assignment's table, by tap: largest weight, smallest, 75 % and 90 % quantile.
PUBLISHED = {
    "previous": (0.133, -0.135, 0.019, 0.037),
    "current": (0.185, -0.196, 0.029, 0.055),
    "future": (0.023, -0.023, 0.011, 0.018),
}


def tap_statistics(kernel: Tensor) -> dict[str, dict]:
    """For each of the last three taps of a kernel, (C, C, K): max, min, quantiles, norm; and the previous tap's share
    in each channel.

    `ratio` has quantiles over output channels of |previous| / |current|, norms over the inputs.
    """
    result = {}
    for name, weights in zip(TAPS, kernel.float().unbind(dim=2)[PREVIOUS:]):
        q75, q90 = torch.quantile(weights.flatten(), torch.tensor([0.75, 0.9])).tolist()
        result[name] = {
            "max": float(weights.max()),
            "min": float(weights.min()),
            "q75": q75,
            "q90": q90,
            "norm": float(weights.norm()),
        }
    ratio = channel_ratio(kernel)
    result["ratio"] = dict(zip(("q10", "median", "q90"), torch.quantile(ratio, torch.tensor([0.1, 0.5, 0.9])).tolist()))
    return {name: {key: round(value, 4) for key, value in values.items()} for name, values in result.items()}


def channel_ratio(kernel: Tensor) -> Tensor:
    """|previous| / |current| for each output channel of a (C, C, K) kernel, K >= 3: (C,)."""
    norms = kernel.float().norm(dim=1)  # (C, K)
    return norms[:, PREVIOUS] / norms[:, CURRENT]


def uniform_bound(n_embd: int, kernel_size: int = 3) -> float:
    """The largest weight that PyTorch gives a fresh convolution: 1 / sqrt(inputs)."""
    return 1 / math.sqrt(n_embd * kernel_size)
