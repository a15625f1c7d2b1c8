"""Isolate the attention heads of a model: their queries, keys, values, scores and weights on one text, in numbers.

Everything is computed for all layers L and heads H at once. The text has T tokens; the first is treated apart
throughout, because heads that have nothing to do look at it (the attention sink of Xiao et al. 2023).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mingpt.interpret.hooks import record
from mingpt.model import GPT
from projects.gpt2_heads.density import mass_outside, scott_bandwidth


@dataclass
class Heads:
    """What the heads of a model did on one text: q, k, v are (L, H, T, D), pattern is (L, H, T, T), on the CPU."""

    q: Tensor
    k: Tensor
    v: Tensor
    pattern: Tensor


@torch.no_grad()
def read(model: GPT, idx: list[int]) -> Heads:
    """Run the model once over the tokens `idx` and keep what its heads compute; three tokens at least."""
    model.eval()
    device = next(model.parameters()).device
    with record(model, [f"h.*.attn.{name}" for name in ("q", "k", "v", "pattern")]) as seen:
        model(torch.tensor([idx], device=device))
    return Heads(*(seen.stack(f"h.*.attn.{name}")[:, 0].float().cpu() for name in ("q", "k", "v", "pattern")))


def mean_and_std(x: Tensor) -> tuple[Tensor, Tensor]:
    """Over tokens but the first and over channels: (L, H, T, D) -> two (L, H)."""
    x = x[:, :, 1:].flatten(2)
    return x.mean(dim=2), x.std(dim=2)


def last_token_products(q: Tensor, k: Tensor) -> Tensor:
    """q_g . k_h for every pair of heads g, h of a layer: the last token's query, earlier tokens' keys but the first's.

    (L, H, T, D) twice -> (L, H, H, T - 2). Where g = h these are scores before the division by sqrt(D); where not, the
    model never computes them.
    """
    return torch.einsum("lgd,lhtd->lght", q[:, :, -1], k[:, :, 1:-1])


def same_and_different(products: Tensor) -> tuple[Tensor, Tensor]:
    """Split (L, H, H, N) into the pairs of a head with itself, (L, H * N), and with others, (L, H * (H - 1) * N)."""
    same = torch.eye(products.size(1), dtype=torch.bool)
    return products[:, same].flatten(1), products[:, ~same].flatten(1)


def turned(x: Tensor, seed: int) -> Tensor:
    """x, (L, H, T, D), with the channels of each head turned by a random rotation of its own.

    Lengths, and the angles within a head, stay; how one head's channels correspond to another's, or to the queries',
    is now chance. So products with turned keys show what lengths alone would give.
    """
    L, H, _, D = x.shape
    normal = torch.randn(L, H, D, D, generator=torch.Generator().manual_seed(seed))
    rotation, _ = torch.linalg.qr(normal)
    return x @ rotation


def weights(pattern: Tensor) -> dict[str, Tensor]:
    """The groups of attention weights that are compared, each (L, n) over all heads; from pattern (L, H, T, T).

    "last to first" is part of "last to previous"; "last to others" is the rest of it.
    """
    own = pattern.diagonal(dim1=-2, dim2=-1)
    return {
        name: group.flatten(1)
        for name, group in {
            "last to previous": pattern[:, :, -1, :-1],
            "last to first": pattern[:, :, -1, :1],
            "last to others": pattern[:, :, -1, 1:-1],
            "self, later tokens": own[:, :, 1:],
            "self, first token": own[:, :, :1],
        }.items()
    }


def uniform_weights(T: int) -> dict[str, float]:
    """The means of the groups in `weights` if every token looked at all that it sees alike."""
    return {
        "last to previous": 1 / T,
        "last to first": 1 / T,
        "last to others": 1 / T,
        "self, later tokens": float(np.mean(1 / np.arange(2, T + 1))),
        "self, first token": 1.0,
    }


def untrained(model: GPT, seed: int) -> GPT:
    """A model of the same shape with fresh weights: what shape and text alone produce."""
    torch.manual_seed(seed)
    return GPT(model.config)


# ----------------------------------------------------------------------------------------------------------------------
# In numbers, for results.json


def summary(values: Tensor) -> dict[str, float]:
    """How many, mean, standard deviation, and five percentiles, of (n,) values; of none only how many."""
    if not len(values):  # a single head has no other to be compared with
        return {"n": 0}
    values = values.double().numpy()
    points = np.percentile(values, (5, 25, 50, 75, 95))
    return {
        "n": len(values),
        "mean": _round(values.mean()),
        "std": _round(values.std(ddof=1)) if len(values) > 1 else 0.0,
        **{f"p{p}": _round(x) for p, x in zip((5, 25, 50, 75, 95), points)},
    }


def measure(heads: Heads, seed: int) -> list[dict]:
    """All numbers of each layer."""
    L, H, T, _ = heads.q.shape
    moments = {name: mean_and_std(getattr(heads, name)) for name in "qkv"}
    products, chance = (same_and_different(last_token_products(heads.q, k)) for k in (heads.k, turned(heads.k, seed)))
    first_score = torch.einsum("lhd,lhd->lh", heads.q[:, :, -1], heads.k[:, :, 0])
    own = products[0].view(L, H, T - 2)
    groups = weights(heads.pattern)
    layers = []
    for layer in range(L):
        last = heads.pattern[layer, :, -1]
        per_head = {
            f"{name}_{what}": values[layer]
            for name, pair in moments.items()
            for what, values in zip(("mean", "std"), pair)
        }
        per_head |= {
            "score_with_first": first_score[layer],
            "score_with_others_mean": own[layer].mean(dim=1),
            "last_to_first": last[:, 0],
            "last_to_others_sum": last[:, 1:-1].sum(dim=1),
            "last_to_self": last[:, -1],
            "self_mean": heads.pattern[layer].diagonal(dim1=1, dim2=2)[:, 1:].mean(dim=1),
            "previous_mean": heads.pattern[layer].diagonal(-1, dim1=1, dim2=2).mean(dim=1),
            "first_mean": heads.pattern[layer, :, 1:, 0].mean(dim=1),
        }
        layers.append(
            {
                "layer": layer,
                "heads": {name: [_round(x) for x in values.tolist()] for name, values in per_head.items()},
                "products": {
                    "same head": summary(products[0][layer]),
                    "different heads": summary(products[1][layer]),
                    "same head, keys turned": summary(chance[0][layer]),
                    "different heads, keys turned": summary(chance[1][layer]),
                },
                "weights": {name: summary(group[layer]) for name, group in groups.items()},
                "densities": {
                    name: _density(groups[name][layer].numpy()) for name in ("last to previous", "self, later tokens")
                },
            }
        )
    return layers


def _density(sample: np.ndarray) -> dict | None:
    if sample.min() == sample.max():
        return None
    return {"bandwidth": _round(scott_bandwidth(sample)), "mass_outside_0_1": _round(mass_outside(sample, 0.0, 1.0))}


def _round(x: float) -> float:
    return float(f"{x:.5g}")
