"""Batches are functions of the seed and the step, cover every example once an epoch, and split without overlap."""

from collections import Counter

import pytest
import torch

from mingpt.batches import Batches, collate


class Padded:
    """Examples of different lengths; example i of an epoch is told by its first token."""

    pad_id = 0

    def __init__(self, lengths, width=60):
        self.lengths, self.width, self.epoch = lengths, width, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, i):
        x = torch.zeros(self.width, dtype=torch.long)
        x[: self.lengths[i]] = 1 + i
        x[self.lengths[i] - 1] = 1000 + self.epoch
        return x, x.clone()


LENGTHS = torch.randint(5, 58, (301,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.mark.parametrize("sizes", [dict(batch_size=32), dict(batch_tokens=500)])
def test_an_epoch_has_every_example_once_and_epochs_differ(sizes):
    batches = Batches(Padded(LENGTHS), **sizes)
    epochs = []
    for epoch in range(3):
        seen = [batches.part(epoch * len(batches) + i)[0] for i in range(len(batches))]
        assert Counter(row[0].item() for x in seen for row in x) == Counter(range(1, 302))
        assert all((x == 1000 + epoch).any(dim=1).all() for x in seen), "examples are drawn anew each epoch"
        epochs.append([x[0, 0].item() for x in seen])
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("sizes", [dict(batch_size=32), dict(batch_tokens=500)])
def test_a_batch_is_a_function_of_seed_and_step(sizes):
    one, other = Batches(Padded(LENGTHS), **sizes, seed=5), Batches(Padded(LENGTHS), **sizes, seed=5)
    steps = [0, 1, len(one) + 3, 2, 3 * len(one)]
    later = {step: other.part(step) for step in reversed(steps)}  # asked for in another order
    for step in steps:
        for a, b in zip(one.part(step), later[step]):
            assert torch.equal(a, b)
    assert not torch.equal(one.part(0)[0], Batches(Padded(LENGTHS), **sizes, seed=6).part(0)[0])


@pytest.mark.parametrize("sizes", [dict(batch_size=32), dict(batch_tokens=500)])
@pytest.mark.parametrize("parts", [2, 3, 7])
def test_shares_make_up_the_batch_without_overlap(sizes, parts):
    batches = Batches(Padded(LENGTHS), **sizes)
    for step in range(len(batches)):
        whole = Counter(row[0].item() for row in batches.part(step)[0])
        shares = Counter()
        for part in range(parts):
            x, y = batches.part(step, part, parts)
            shares.update(row[0].item() for row, target in zip(x, y) if (target != -1).any())
        assert shares == whole


def test_a_share_of_nothing_has_nothing_to_learn():
    x, y = Batches(Padded([5, 6]), batch_size=2).part(0, part=2, parts=3)
    assert x.shape[0] == 1 and (y == -1).all()


def test_batches_of_tokens_hold_about_that_many_and_little_padding():
    lengths = LENGTHS * 5
    batches = Batches(Padded(lengths), batch_tokens=1920)
    for epoch in range(2):
        sizes = [batches.part(epoch * len(batches) + i)[0].numel() for i in range(len(batches))]
        assert 0.5 * 1920 < min(sizes) and max(sizes) <= 1.1 * 1920
        assert sum(lengths) / sum(sizes) > 0.7
    shuffled = Batches(Padded(lengths), batch_size=32)
    assert sum(lengths) / sum(shuffled.part(i)[0].numel() for i in range(len(shuffled))) < 0.6


@pytest.mark.parametrize("lengths", [[5], [50, 5], [57] + [5] * 40, [57] * 3, [5, 57, 5]])
@pytest.mark.parametrize("batch_tokens", [64, 100, 1000])
def test_no_batch_of_tokens_is_empty(lengths, batch_tokens):
    batches = Batches(Padded(lengths), batch_tokens=batch_tokens)
    rows = [row[0].item() for i in range(len(batches)) for row in batches.part(i)[0]]
    assert sorted(rows) == list(range(1, len(lengths) + 1))
    assert all((batches.part(i)[1] != -1).any() for i in range(len(batches)))


def test_the_last_batch_of_an_epoch_is_not_dropped():
    batches = Batches(Padded([5] * 7), batch_size=3)
    assert [len(batches.part(i)[0]) for i in range(len(batches))] == [3, 3, 1]


def test_padding_is_no_target_even_where_its_index_is_zero():
    x, y = collate([Padded([5, 9])[i] for i in range(2)], pad_id=0)
    assert x.shape == (2, 16), "cut after the longest, rounded up to a multiple of 16"
    assert (y[0] == -1).sum() == 11 and (y[1] == -1).sum() == 7 and not (y == 0).any()


def test_without_a_pad_id_nothing_is_cut_or_ignored():
    example = (torch.arange(10), torch.zeros(10, dtype=torch.long))
    x, y = collate([example, example], pad_id=None)
    assert x.shape == (2, 10) and (y == 0).all()


@pytest.mark.parametrize(
    "lengths, sizes, message",
    [
        ([], dict(batch_size=2), "the dataset is empty"),
        ([5], dict(), "exactly one of them must be positive"),
        ([5], dict(batch_size=2, batch_tokens=20), "exactly one of them must be positive"),
        ([5, 50], dict(batch_tokens=40), "batch_tokens is 40, but one example has 50 tokens"),
    ],
)
def test_mistakes_are_named(lengths, sizes, message):
    with pytest.raises(ValueError, match=message):
        Batches(Padded(lengths), **sizes)


@pytest.mark.parametrize("lengths, batch_tokens", [([20] * 30 + [0] * 10, 64), ([60] * 39 + [0], 64)])
def test_an_example_of_padding_alone_is_an_example(lengths, batch_tokens):
    class Blank(Padded):
        def __getitem__(self, i):
            x = torch.full((self.width,), 1 + i)
            x[self.lengths[i] :] = 0
            return x, x.clone()

    batches = Batches(Blank(lengths), batch_tokens=batch_tokens)
    shares = [batches.part(i) for i in range(len(batches))]
    assert sum(len(x) for x, _ in shares) == len(lengths) and sum(int((y != -1).sum()) for _, y in shares) == sum(
        lengths
    )
