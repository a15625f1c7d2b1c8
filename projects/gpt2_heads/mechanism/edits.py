"""Claims 3 and 4: what is left of copying when circuits of heads change places, or lose or keep a subspace.

Song, Xu and Zhong 2024. If the heads of a kind all use the same subspace, they can stand in for each other (claim 3),
and that subspace is all they need (claim 4). A control does the same to heads that have no part in copying, or with a
random subspace of the same size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mingpt.interpret.circuits import common_subspace
from mingpt.interpret.edits import exchange, project
from mingpt.interpret.weights import Head, head_weights
from projects.gpt2_heads.mechanism.circuits import pick, random_basis
from projects.gpt2_heads.mechanism.copying import Copying, CopyTest

PARTS = {"QK": ("W_Q", "W_K", "b_Q", "b_K"), "OV": ("W_V", "W_O", "b_V")}  # b_O is the layer's, and stays


def permutation(n: int, generator: torch.Generator, derangement: bool) -> list[int]:
    """A random order of n things; a derangement leaves none in its place, and each is equally likely."""
    if derangement and n < 2:
        raise ValueError("one head cannot change places; there must be two")
    while True:  # a third of all permutations are derangements, whatever n is
        order = torch.randperm(n, generator=generator).tolist()
        if not derangement or all(i != j for i, j in enumerate(order)):
            return order


def shuffled(test: CopyTest, draws: Sequence[tuple[Sequence[Head], Sequence[int]]], parts: Sequence[str]) -> Copying:
    """The copying (len(draws), B, n) of models in which, by draw, heads[i] has the `parts` of heads[order[i]]."""
    return Copying.stack([test(exchange(test.model, heads, order, parts)) for heads, order in draws])


def replaced(test: CopyTest, heads: Sequence[Head], by: Sequence[Head], parts: Sequence[str]) -> Copying:
    """The copying (B, n) with the parts of heads[i] replaced by those of by[i], which stay as they are."""
    n = len(heads)
    both = exchange(test.model, [*heads, *by], [*range(n, 2 * n), *range(n)], parts)
    return test({place: new for place, new in both.items() if place[:2] in heads})


def shuffle_study(
    test: CopyTest,
    ranking: Sequence[Head],
    bystanders: Sequence[Head],
    counts: Sequence[int],
    component: str,
    permutations: int,
    derangement: bool,
    generator: torch.Generator,
) -> dict[int, dict[str, Copying]]:
    """Claim 3: count -> three ways to edit, each `permutations` times over, on the same sequences.

    "shuffled"   the first `count` heads of the ranking change places
    "control"    as many of the `bystanders` do, drawn anew each time from those that are not among the first
    "foreign"    the first `count` get the circuits of those bystanders: would any circuit do?
    """
    result = {}
    for count in counts:
        heads, parts = list(ranking[:count]), PARTS[component]
        pool = [head for head in bystanders if head not in heads]
        if len(pool) < count:
            raise ValueError(
                f"a control for {count} heads needs as many that have no part in copying, and there are {len(pool)}"
            )
        orders = [permutation(count, generator, derangement) for _ in range(permutations)]
        drawn = [[pool[i] for i in torch.randperm(len(pool), generator=generator)[:count]] for _ in orders]
        result[count] = {
            "shuffled": shuffled(test, [(heads, order) for order in orders], parts),
            "control": shuffled(test, list(zip(drawn, orders)), parts),
            "foreign": Copying.stack([replaced(test, heads, others, parts) for others in drawn]),
        }
    return result


def bridge_subspace(test: CopyTest, readers: Sequence[Head], rank: int) -> Tensor:
    """(C, rank): the common bridge subspace of the keys of these heads, by importance, from `test.model`'s weights."""
    return common_subspace(pick(head_weights(test.model).qk, readers), rank)


def project_study(
    test: CopyTest,
    heads: Sequence[Head],
    component: str,
    basis: Tensor,
    ranks: Sequence[int],
    random: int,
    generator: torch.Generator,
) -> dict[int, dict[str, Copying]]:
    """Claim 4: rank -> "without", "only" the first directions of `basis` (C, at least max(ranks)), in the keys or
    outputs.

    "without random" and "only random", (random, B, n), are the same with `random` random subspaces of that rank.
    """
    part = {"QK": "W_K", "OV": "W_O"}[component]
    others = random_basis(len(basis), max(ranks), generator, random).unbind()

    def measure(subspaces, keep):
        return Copying.stack([test(project(test.model, heads, part, subspace, keep)) for subspace in subspaces])

    return {
        rank: {
            "without": measure([basis[:, :rank]], False),
            "only": measure([basis[:, :rank]], True),
            "without random": measure([other[:, :rank] for other in others], False),
            "only random": measure([other[:, :rank] for other in others], True),
        }
        for rank in ranks
    }
