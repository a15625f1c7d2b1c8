"""LowRank: a table of logits of low rank, indexed as the law's own table is."""

import pytest
import torch
from torch.nn import functional as F

from mingpt.low_rank import LowRank, context_index


@pytest.mark.parametrize("order", [2, 3, 4])
def test_contexts_are_numbered_as_rows_of_the_flattened_table(order):
    V = 5
    table = torch.rand((V,) * order)
    idx = torch.randint(V, (20, order - 1))
    rows = table.reshape(-1, V)[context_index(idx, V)]
    for row, context in zip(rows, idx):
        assert torch.equal(row, table[tuple(context.tolist())])


@pytest.mark.parametrize("order", [2, 3, 4])
def test_logits_are_products_of_the_context_and_the_token(order):
    V, model = 4, LowRank(4, 3, order)
    idx = torch.randint(V, (6, 7))
    logits, loss = model(idx)
    assert logits.shape == (6, 7, V) and loss is None
    table = model.wte.weight @ model.lm_head.weight.T
    for b in range(6):
        for t in range(order - 2, 7):
            row = 0
            for token in idx[b, t - order + 2 : t + 1].tolist():
                row = row * V + token
            assert torch.allclose(logits[b, t], table[row] - table[row].mean(), atol=1e-6)
    assert (logits[:, : order - 2] == 0).all()


def test_all_logits_together_have_the_rank():
    model = LowRank(7, 2, 3)
    every = torch.cartesian_prod(torch.arange(7), torch.arange(7))
    assert torch.linalg.matrix_rank(model(every)[0][:, -1]) == 2


def test_positions_without_a_whole_context_do_not_count():
    model, idx, targets = LowRank(4, 2, 4), torch.randint(4, (3, 6)), torch.randint(4, (3, 6))
    logits, loss = model(idx, targets)
    expected = F.cross_entropy(logits[:, 2:].flatten(0, 1), targets[:, 2:].flatten())
    assert torch.allclose(loss, expected) and (targets >= 0).all(), "the caller's targets stay as they are"


def test_a_bigram_table_is_learned_when_the_rank_allows():
    table = torch.rand(5, 5, generator=torch.Generator().manual_seed(1)).softmax(-1)
    idx = torch.arange(5)[:, None]

    def divergence(n_embd):
        model = LowRank(5, n_embd)
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=300, tolerance_grad=1e-9, tolerance_change=0)

        def closure():
            optimizer.zero_grad()
            value = (table * (table.log() - model(idx)[0][:, 0].log_softmax(-1))).sum(-1).mean()
            value.backward()
            return value

        optimizer.step(closure)
        return closure().item()

    assert divergence(4) < 1e-6, "5 tokens have 4 dimensions, since a constant makes no difference"
    assert divergence(1) > 1e-3


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((4, 2, 1), "order is 1; it must be at least 2"),
        ((4, 0, 2), "n_embd is 0; it must be at least 1"),
        ((0, 2, 2), "vocab_size is 0; it must be at least 1"),
    ],
)
def test_impossible_shapes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LowRank(*arguments)


def test_a_context_shorter_than_the_ngram_is_refused():
    with pytest.raises(ValueError, match="idx has 2 tokens, fewer than the 3 of a context of this 4-gram model"):
        LowRank(4, 2, 4)(torch.zeros(1, 2, dtype=torch.long))


@pytest.mark.parametrize("token", [-1, 5, 7])
def test_a_token_outside_the_vocabulary_is_no_other_context(token):
    with pytest.raises(ValueError, match=f"token {token} is outside the vocabulary of 5"):
        context_index(torch.tensor([[0, token], [1, 2]]), 5)
    with pytest.raises(ValueError, match=f"token {token} is outside the vocabulary of 5"):
        LowRank(5, 3, order=3)(torch.tensor([[0, 1, token]]))
