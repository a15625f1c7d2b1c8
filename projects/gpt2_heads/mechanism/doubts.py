"""Variance, controls or a bug? Each doubt about the notebook's experiments as an experiment of its own.

Each function returns plain numbers for one doubt, from the same sequences with and without the thing in doubt. "error"
is the share of wrong predictions in the second copy.
"""

from collections.abc import Sequence

import torch

from mingpt.interpret.circuits import common_subspace
from mingpt.interpret.edits import project
from mingpt.interpret.weights import Head, head_weights
from mingpt.model import GPT
from projects.gpt2_heads.mechanism.circuits import composable, diagonals, pick
from projects.gpt2_heads.mechanism.copying import CopyTest
from projects.gpt2_heads.mechanism.edits import PARTS, bridge_subspace, permutation, shuffled


def summary(errors: torch.Tensor) -> dict[str, float]:
    """Mean, standard deviation, smallest and largest, and how many."""
    if not len(errors):
        return {"n": 0}
    return {
        "n": len(errors),
        "mean": errors.mean().item(),
        "std": errors.std(unbiased=False).item(),
        "min": errors.min().item(),
        "max": errors.max().item(),
    }


def one_permutation(
    test: CopyTest, heads: Sequence[Head], component: str, draws: int, generator: torch.Generator
) -> dict:
    """The spread of the error over single permutations, as the notebook draws one; by whether the best head moves."""
    orders = [permutation(len(heads), generator, derangement=False) for _ in range(draws)]
    errors = shuffled(test, [(heads, order) for order in orders], PARTS[component]).error.mean(dim=(1, 2))
    stays = torch.tensor([order[0] == 0 for order in orders])
    return {
        "all": summary(errors),
        "best head stays": summary(errors[stays]),
        "best head moves": summary(errors[~stays]),
        "errors": errors.tolist(),
    }


def five_sequences(
    test: CopyTest, heads: Sequence[Head], component: str, draws: int, generator: torch.Generator
) -> dict:
    """The spread of the error of one permutation over batches of 5 sequences: what small batches add."""
    order = permutation(len(heads), generator, derangement=len(heads) > 1)
    errors = shuffled(test, [(heads, order)], PARTS[component]).error[0].mean(dim=1)  # (B,)
    batches = torch.stack([errors[torch.randperm(len(errors), generator=generator)[:5]].mean() for _ in range(draws)])
    return summary(batches)


def control_heads(
    test: CopyTest,
    everyone: Sequence[Head],
    important: Sequence[Head],
    count: int,
    component: str,
    draws: int,
    generator: torch.Generator,
) -> dict:
    """The notebook's control, any `count` heads of the model, by whether it happened to draw important ones."""
    chosen = [[everyone[i] for i in torch.randperm(len(everyone), generator=generator)[:count]] for _ in range(draws)]
    errors = shuffled(
        test, [(heads, permutation(count, generator, derangement=True)) for heads in chosen], PARTS[component]
    ).error.mean(dim=(1, 2))
    hit = torch.tensor([any(head in important for head in heads) for heads in chosen])
    return {
        "with important heads": summary(errors[hit]),
        "without": summary(errors[~hit]),
        "count": count,
        "errors": errors.tolist(),
        "hit": hit.tolist(),
    }


def biases(test: CopyTest, heads: Sequence[Head], component: str, draws: int, generator: torch.Generator) -> dict:
    """Error when biases move with the weights, and when they stay behind; the same permutations."""
    pairs = [(heads, permutation(len(heads), generator, derangement=True)) for _ in range(draws)]
    parts = {
        "with biases": PARTS[component],
        "weights only": [part for part in PARTS[component] if part.startswith("W")],
    }
    return {label: summary(shuffled(test, pairs, chosen).error.mean(dim=(1, 2))) for label, chosen in parts.items()}


def layer_order(model: GPT, readers: Sequence[Head], writers: Sequence[Head]) -> dict:
    """z of the diagonal for pairs that can compose, and for those that cannot, which the notebook counts in."""
    z, allowed = diagonals(head_weights(model), readers, writers), composable(readers, writers)
    return {"can compose": summary(z[allowed]), "cannot": summary(z[~allowed])}


def gains(raw: CopyTest, flat: CopyTest, readers: Sequence[Head], writers: Sequence[Head], rank: int) -> dict:
    """z, and the error when the bridge is projected out of outputs, with the gains of layer norms left out and folded
    in.

    `raw` tests the model as it is and `flat` the one with gains folded into the weights, on the same sequences. The
    bridge from raw weights lives behind the gains, and what a head writes before them.
    """
    result = {}
    for label, test in (("left out", raw), ("folded in", flat)):
        z = diagonals(head_weights(test.model), readers, writers)[composable(readers, writers)]
        bridge = bridge_subspace(test, readers, rank)
        edited = {
            f"error {name} the bridge": test(project(test.model, writers, "W_O", bridge, keep)).error.mean().item()
            for name, keep in (("without", False), ("with only", True))
        }
        result[label] = {"z": summary(z), **edited}
    return result


def whose_subspace(test: CopyTest, readers: Sequence[Head], writers: Sequence[Head], ranks: Sequence[int]) -> dict:
    """Edits of outputs with the bridge from the keys of induction heads, and with what the edited heads themselves
    write.

    The second is a tautology where the rank is all that they write; between the two lies what they write and nobody
    reads.
    """
    bases = {
        "bridge of the keys": bridge_subspace(test, readers, max(ranks)),
        "their own outputs": common_subspace(pick(head_weights(test.model).ov, writers), max(ranks)),
    }
    return {
        label: {
            rank: {
                "without": test(project(test.model, writers, "W_O", basis[:, :rank])).error.mean().item(),
                "only": test(project(test.model, writers, "W_O", basis[:, :rank], keep=True)).error.mean().item(),
            }
            for rank in ranks
        }
        for label, basis in bases.items()
    }


def how_many_edited(
    test: CopyTest, readers: Sequence[Head], ranking: Sequence[Head], rank: int, counts: Sequence[int]
) -> dict:
    """The bridge taken out of, or kept alone in, the outputs of the first `count` heads: is the list too long?"""
    bridge = bridge_subspace(test, readers, rank)
    return {
        count: {
            label: test(project(test.model, ranking[:count], "W_O", bridge, keep)).error.mean().item()
            for label, keep in (("without", False), ("only", True))
        }
        for count in counts
    }


def null_space(model: GPT, head: Head, generator: torch.Generator) -> dict:
    """How far the top r singular directions of one W_QK, decomposed densely, move when the weights are rounded
    differently.

    For r up to head_dim, and for twice as many: the others belong to the singular value 0, and any will do. 1: not at
    all.
    """
    W = pick(head_weights(model).qk, [head]).dense()[0]
    D = model.config.head_dim
    noise = 1e-6 * W.std() * torch.randn(W.shape, generator=generator)
    first, second = (torch.linalg.svd(matrix).Vh for matrix in (W, W + noise))
    cosines = {
        rank: torch.linalg.svdvals(first[low:rank] @ second[low:rank].T).square().mean().sqrt().item()
        for low, rank in ((0, D), (D, 2 * D))
    }
    return {"within head_dim": cosines[D], "the next as many": cosines[2 * D]}
