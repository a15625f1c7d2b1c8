"""The synthetic task: a random segment, repeated. Whoever has read a segment once can copy it from then on."""

import numpy as np
import torch
from torch import Tensor


class TiledSegments:
    """A dataset of sequences, each a random segment of 8 to 24 tokens repeated until the block is full.

    The length varies, so that "look back n positions" is no solution. Example i of an epoch depends on the seed, the
    epoch and i alone.
    """

    SHORTEST, LONGEST = 8, 24

    def __init__(self, vocab_size: int, block_size: int, examples: int, seed: int):
        self.vocab_size, self.block_size, self.examples, self.seed = vocab_size, block_size, examples, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the examples of an epoch."""
        rng = np.random.default_rng((self.seed, epoch))
        segments = rng.integers(self.vocab_size, size=(self.examples, self.LONGEST))
        lengths = rng.integers(self.SHORTEST, self.LONGEST + 1, size=(self.examples, 1))
        tokens = np.take_along_axis(segments, np.arange(self.block_size + 1) % lengths, axis=1)
        self.tokens = torch.from_numpy(tokens)  # (examples, T + 1)

    def __len__(self) -> int:
        return self.examples

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.tokens[i, :-1], self.tokens[i, 1:]


def random_repeats(vocab_size: int, length: int, count: int, seed: int = 0) -> Tensor:
    """`count` rows of `length` different random tokens, twice: (count, 2 length) int64."""
    if length > vocab_size:
        raise ValueError(f"{length} different tokens cannot be drawn from a vocabulary of {vocab_size}; enlarge it")
    order = np.random.default_rng(seed).random((count, vocab_size)).argsort(axis=1)
    return torch.from_numpy(order[:, :length]).repeat(1, 2)
