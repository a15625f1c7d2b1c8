"""From examples to batches, reproducibly: what is in batch number i depends on the seed and on i, and on nothing else.

So a run that was stopped goes on exactly where it was, without a saved position; and each of several processes takes
its share of a batch without asking the others.
"""

import numpy as np
import torch
from torch import Tensor


class Batches:
    """An endless sequence of batches that goes through a dataset once an epoch, in a new order each time.

    dataset       `dataset[i]` gives (x, y), two (T,) int64 tensors. If its examples are drawn at random, it has
                  `set_epoch(epoch)`, and `dataset[i]` is a function of (i, epoch). If its examples are padded, it has
                  `pad_id`: padding on the right is cut off, and no padding is ever a target.
    batch_size    examples in a batch; or, instead,
    batch_tokens  about how many tokens a batch has, padding included: examples of similar length come together, so
                  little is spent on padding
    """

    def __init__(self, dataset, batch_size: int = 0, batch_tokens: int = 0, seed: int = 0):
        if len(dataset) == 0:
            raise ValueError("the dataset is empty: there is nothing to train on")
        if (batch_size > 0) == (batch_tokens > 0):
            raise ValueError(
                f"batch_size is {batch_size} and batch_tokens {batch_tokens}; exactly one of them must be "
                "positive, and the other 0"
            )
        self.dataset, self.seed = dataset, seed
        self.batch_size, self.batch_tokens = batch_size, batch_tokens
        self.pad_id: int | None = getattr(dataset, "pad_id", None)
        self._epoch = -1
        if batch_size:
            self.per_epoch = -(-len(dataset) // batch_size)
        else:
            lengths = self._draw(epoch=0)
            if batch_tokens < lengths.max():
                raise ValueError(f"batch_tokens is {batch_tokens}, but one example has {lengths.max()} tokens")
            # Fixed by the first epoch, so that step i is always in the same epoch, though others may be longer or
            # shorter.
            self.per_epoch = len(_group(np.sort(_round_up(lengths))[::-1], batch_tokens))

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.per_epoch

    def part(self, step: int, part: int = 0, parts: int = 1) -> tuple[Tensor, Tensor]:
        """The `part`-th of `parts` shares of batch number `step`: x and y, (B, T) int64, targets of -1 not counted."""
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._plan(epoch)
        indices = self._batches[position]
        share = indices[part::parts]
        # All processes must take every step together: one without a share gets an example with nothing to learn.
        examples = [self._example(i) for i in (share if len(share) else indices[:1])]
        x, y = collate(examples, self.pad_id)
        return x, y if len(share) else torch.full_like(y, -1)

    def set_epoch_again(self) -> None:
        """Bring the dataset back to the epoch of the last batch, since whoever shares it may have set another."""
        if self._epoch >= 0 and hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(self._epoch)

    def _example(self, i: int) -> tuple[Tensor, Tensor]:
        return self._drawn[i] if self.batch_tokens else self.dataset[i]

    def _draw(self, epoch: int) -> np.ndarray:
        """Draw all examples of an epoch; returns their lengths without padding."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
        self._drawn = [self.dataset[i] for i in range(len(self.dataset))]
        used = [len(x) if self.pad_id is None else int((x != self.pad_id).sum()) for x, _ in self._drawn]
        return np.maximum(1, used)  # one of padding alone takes a column, too

    def _plan(self, epoch: int) -> None:
        """Share the examples of an epoch out among its batches."""
        rng = np.random.default_rng((self.seed, epoch))
        if self.batch_size:
            if hasattr(self.dataset, "set_epoch"):
                self.dataset.set_epoch(epoch)
            order = rng.permutation(len(self.dataset))
            self._batches = _Slices(order, self.batch_size)
        else:
            lengths = _round_up(self._draw(epoch))
            order = rng.permutation(len(lengths))
            order = order[np.argsort(-lengths[order], kind="stable")]  # longest first, equals in random order
            budget = int(lengths.sum()) // self.per_epoch  # the least that could do
            while len(starts := _group(lengths[order], budget)) > self.per_epoch:
                budget += -(-budget // 50)
            batches = [batch.tolist() for batch in np.split(order, starts[1:])]
            while len(batches) < self.per_epoch:
                largest = max(batches, key=len)
                batches.append([largest.pop() for _ in range(len(largest) // 2)])
            self._batches = [batches[i] for i in rng.permutation(self.per_epoch)]
        self._epoch = epoch


class _Slices:
    """An array cut into pieces of `size`, each made when it is asked for: a corpus may have millions of examples."""

    def __init__(self, order: np.ndarray, size: int):
        self.order, self.size = order, size

    def __getitem__(self, i: int) -> list[int]:
        return self.order[i * self.size : (i + 1) * self.size].tolist()


def collate(examples: list[tuple[Tensor, Tensor]], pad_id: int | None) -> tuple[Tensor, Tensor]:
    """Stack examples into x and y, (B, T) int64; targets that are `pad_id` become -1, columns of mere padding go.

    pad_id is None for examples without padding. A pad id is an ordinary index (often 0), and a loss that ignores -1
    would train on it.
    """
    x, y = torch.stack([x for x, _ in examples]), torch.stack([y for _, y in examples])
    if pad_id is None:
        return x, y
    used = ((x != pad_id) | (y != pad_id)).any(dim=0).nonzero()
    T = _round_up(int(used[-1]) + 1 if len(used) else 1)
    x, y = x[:, :T], y[:, :T]
    return x.contiguous(), y.masked_fill(y == pad_id, -1)


def _group(lengths: np.ndarray, budget: int) -> list[int]:
    """Where to cut examples of falling `lengths` so that no piece takes more than `budget`: the start of each piece."""
    starts, end = [], 0
    while end < len(lengths):
        starts.append(end)
        end += max(1, budget // int(lengths[end]))  # all are padded to the first
    return starts


def _round_up(length):
    """The next multiple of 16. On a CPU a matrix kernel is compiled, in milliseconds, for each new shape it meets."""
    return -(-length // 16) * 16
