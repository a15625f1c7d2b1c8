"""Claims 1 and 2, on weights alone: the diagonal of W_QK W_OV, and the angles between the subspaces of heads.

Song, Xu and Zhong 2024, "Out-of-distribution generalization via composition: a lens through induction heads in
Transformers". A previous-token head writes which token came before; an induction head's keys read it. If they use the
same directions for it, the product of W_QK and the transpose of W_OV (row vectors) has a large diagonal, and the top
right singular vectors of W_QK, those of the keys, span what the top right singular vectors of W_OV, the output, span.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mingpt.interpret.circuits import diagonal_z, subspace_similarity
from mingpt.interpret.weights import Factored, Head, HeadWeights


def pick(circuits: Factored, heads: Sequence[Head]) -> Factored:
    """The circuits of some heads: (n_layer, H, C, C) -> (len(heads), C, C)."""
    layers, numbers = zip(*heads)
    return circuits[list(layers), list(numbers)]


def composable(readers: Sequence[Head], writers: Sequence[Head]) -> Tensor:
    """(len(readers), len(writers)) bool: whether the writer is in an earlier layer; else nothing can be read."""
    return torch.tensor([[writer[0] < reader[0] for writer in writers] for reader in readers])


def diagonals(weights: HeadWeights, readers: Sequence[Head], writers: Sequence[Head]) -> Tensor:
    """(len(readers), len(writers)): the z-score of the diagonal of each W_QK W_OV^T."""
    return diagonal_z(pick(weights.qk, readers)[:, None], pick(weights.ov, writers).T[None])


def diagonal_study(
    weights: HeadWeights, readers: Sequence[Head], writers: Sequence[Head], generator: torch.Generator
) -> dict:
    """Claim 1: z of induction heads with previous-token heads, of all other pairs that can compose, and of Gaussian
    heads.

    "gaussian_std" is that of the Gaussian pairs; 1 / sqrt(C) in theory. Divide by it to get null standard deviations.
    """
    L, H, C = weights.W_Q.shape[:3]
    everyone = [(layer, head) for layer in range(L) for head in range(H)]
    allowed = composable(everyone, everyone)
    tested = torch.zeros_like(allowed)
    for reader in readers:
        for writer in writers:
            tested[everyone.index(reader), everyone.index(writer)] = True
    z = diagonals(weights, everyone, everyone)
    gaussian = diagonals(weights.random(generator), everyone, everyone)
    return {
        "z": diagonals(weights, readers, writers),
        "composable": composable(readers, writers),
        "others": z[allowed & ~tested],
        "backwards": z[~allowed & tested],
        "gaussian": gaussian.flatten(),
        "gaussian_std": gaussian.std().item(),
    }


def key_basis(weights: HeadWeights, heads: Sequence[Head], rank: int) -> Tensor:
    """(len(heads), C, rank): the directions of the residual that matter most for the keys of each head."""
    return pick(weights.qk, heads).svd()[2][..., :rank]


def output_basis(weights: HeadWeights, heads: Sequence[Head], rank: int) -> Tensor:
    """(len(heads), C, rank): the directions that each head mostly writes to."""
    return pick(weights.ov, heads).svd()[2][..., :rank]


def random_basis(C: int, rank: int, generator: torch.Generator, count: int | None = None) -> Tensor:
    """(count, C, rank), or (C, rank): orthonormal, uniformly at random."""
    return torch.linalg.qr(torch.randn(*([] if count is None else [count]), C, rank, generator=generator)).Q


def similarities(first: Tensor, second: Tensor, chosen: Tensor) -> dict[str, Tensor]:
    """Both generalised cosines of every pair of bases (n, C, r) and (m, C, r) for which `chosen` (n, m) is true."""
    i, j = chosen.nonzero(as_tuple=True)
    largest, rms = subspace_similarity(first[i], second[j])
    return {"largest": largest, "rms": rms}


def subspace_study(
    weights: HeadWeights,
    readers: Sequence[Head],
    writers: Sequence[Head],
    others: Sequence[Head],
    ranks: Sequence[int],
    generator: torch.Generator,
) -> dict[int, dict[str, dict[str, Tensor]]]:
    """Claim 2: rank -> group of pairs -> similarities.

    "among induction heads" (keys), "among previous-token heads" (outputs), "across" (keys with outputs, of pairs that
    can compose), "other heads" (keys of `others` with their outputs, of pairs that can compose), "random" subspaces.
    """
    result = {}
    for rank in ranks:
        keys, outputs = key_basis(weights, readers, rank), output_basis(weights, writers, rank)
        other_keys, other_outputs = (basis(weights, others, rank) for basis in (key_basis, output_basis))
        random, again = (random_basis(keys.size(1), rank, generator, 200) for _ in range(2))
        result[rank] = {
            "among induction heads": similarities(keys, keys, torch.ones(2 * [len(readers)]).triu(1).bool()),
            "among previous-token heads": similarities(outputs, outputs, torch.ones(2 * [len(writers)]).triu(1).bool()),
            "across": similarities(keys, outputs, composable(readers, writers)),
            "other heads": similarities(other_keys, other_outputs, composable(others, others)),
            "random": similarities(random, again, torch.eye(len(random)).bool()),
        }
    return result
