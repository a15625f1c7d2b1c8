"""What an induction head does, in numbers.

A[i, j] is the attention from query i to key j and t[i] the token there. In "... A B ... A" the induction target of the
second A is B: the key j with t[j - 1] = t[i].
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mingpt.conv_attention import Attention, Net
from mingpt.interpret.hooks import record


def induction_targets(idx: Tensor) -> Tensor:
    """Which keys are induction targets of which queries, (B, T, T): [b, i, j] says that j <= i and t[j-1] = t[i]."""
    B, T = idx.shape
    before = F.pad(idx[:, :-1], (1, 0), value=-1)  # the token before each key; none before the first
    return (before[:, None, :] == idx[:, :, None]).tril()


def attended_mass(pattern: Tensor, keys: Tensor) -> Tensor:
    """The attention of a head that falls on `keys`, over the queries that have any.

    pattern is (B, H, T, T), keys (B, T, T) bool. Returns (H,), each in [0, 1]; nan where no query has a key.
    """
    mass = (pattern.float() * keys[:, None]).sum(dim=3)  # (B, H, T)
    asked = keys.any(dim=2)  # (B, T)
    return (mass * asked[:, None]).sum(dim=(0, 2)) / asked.sum()


def previous_token(pattern: Tensor) -> Tensor:
    """Mean attention to the token before, A[i, i-1]; (H,)."""
    return pattern.float().diagonal(-1, dim1=2, dim2=3).mean(dim=(0, 2))


def duplicate_token(pattern: Tensor, idx: Tensor) -> Tensor:
    """Mean attention to earlier occurrences of the query's own token; (H,)."""
    return attended_mass(pattern, (idx[:, None, :] == idx[:, :, None]).tril(-1))


def copying(pattern: Tensor, values: Tensor, unembedding: Tensor, idx: Tensor) -> Tensor:
    """Whether what is attended to becomes more likely: the copying score of Olsson et al. by activation.

    What the value at key j does to the logits is taken through the unembedding, less its mean over the vocabulary;
    rises only. Of the rise among all tokens of the sequence, t[j] has some share. The mean share, weighted by how much
    j is attended to, is rescaled from [0, 1] to [-1, 1]: 1 says that only the attended token rises.

    values is (B, H, T, D), unembedding (V, H D), idx (B, T). Returns (H,).
    """
    B, H, T, D = values.shape
    present = torch.zeros(B, len(unembedding)).scatter_(1, idx, 1.0)  # (B, V): the tokens of each sequence, once each
    scores = []
    for head, columns in enumerate(unembedding.float().split(D, dim=1)):
        effect = values[:, head].float() @ columns.T  # (B, T, V)
        rise = F.relu(effect - effect.mean(dim=2, keepdim=True)) * present[:, None]
        share = rise.gather(2, idx[:, :, None]).squeeze(2) / rise.sum(dim=2).clamp(min=1e-12)  # (B, T)
        weight = pattern[:, head].float().sum(dim=1)  # (B, T): all attention that key j gets
        scores.append(2 * (share * weight).sum() / weight.sum() - 1)
    return torch.stack(scores)


def attention_layers(net: Net) -> list[str]:
    """Names of the attention layers, first to last."""
    return [f"layers.{name}" for name, layer in net.layers.items() if isinstance(layer, Attention)]


def token_losses(logits: Tensor, idx: Tensor) -> Tensor:
    """Cross-entropy in nats of each next token of idx, (B, T), under logits (B, T, V): (B, T - 1)."""
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), idx[:, 1:].flatten(), reduction="none")
    return losses.view(len(idx), -1)


@torch.no_grad()
def measure_repeats(net: Net, idx: Tensor) -> dict[str, float]:
    """The measures on `random_repeats`: idx is (B, 2 L), whose second half repeats the first.

    prefix_matching   attention from the second copy to the induction target; of the last layer's best head, like the
                      next two
    duplicate_token   attention from the second copy to the same token in the first
    copying           see above
    previous_token    attention to the token before, anywhere; of the best head of all layers but the last
    repeat_accuracy   share of the second copy's tokens predicted right, but for its first, which nobody can know
    repeat_loss       loss on the second copy minus loss on the first, nats per token

    Nets without attention lack the first four, nets with one layer of it the fourth.
    """
    L = idx.size(1) // 2
    layers = attention_layers(net)
    with record(net, [f"{layer}.{tap}" for layer in layers for tap in ("pattern", "v")]) as seen:
        logits, _ = net(idx)
    losses = token_losses(logits, idx)
    right = logits[:, L:-1].argmax(dim=2) == idx[:, L + 1 :]
    result = {"repeat_accuracy": right.float().mean(), "repeat_loss": losses[:, L:].mean() - losses[:, : L - 1].mean()}
    patterns = [seen[f"{layer}.pattern"] for layer in layers]
    if patterns:
        second = torch.arange(2 * L)[:, None] >= L  # queries of the second copy
        last = patterns[-1]
        result["prefix_matching"] = attended_mass(last, induction_targets(idx) & second).max()
        result["duplicate_token"] = duplicate_token(last, idx).max()
        result["copying"] = copying(last, seen[f"{layers[-1]}.v"], net.lm_head.weight, idx).max()
    if len(patterns) > 1:
        result["previous_token"] = max(previous_token(pattern).max() for pattern in patterns[:-1])
    return {name: round(float(value), 4) for name, value in result.items()}


def chance(idx: Tensor) -> dict[str, float]:
    """What `measure_repeats` would give for even attention and values that favour no token; idx is (B, 2 L)."""
    B, T = idx.shape
    even = torch.ones(T, T).tril() / torch.arange(1, T + 1)[:, None]
    second = torch.arange(T)[:, None] >= T // 2
    tokens = torch.tensor([float(len(set(row))) for row in idx.tolist()])
    result = {
        "prefix_matching": attended_mass(even.expand(B, 1, T, T), induction_targets(idx) & second)[0],
        "copying": (2 / tokens - 1).mean(),
        "repeat_loss": 0.0,
    }
    return {name: round(float(value), 4) for name, value in result.items()}


def in_context_learning(losses: Tensor) -> float:
    """Loss late in the context minus loss early in it, in nats; negative says that context helps.

    losses is (T,), by position. Olsson et al. take token 500 minus token 50 of 512; here, to have less noise, the last
    tenth of the positions minus the tenth around one tenth.
    """
    T = len(losses)
    early = losses[T // 20 : max(T // 20 + 1, 3 * T // 20)]
    return float(losses[T - max(1, T // 10) :].mean() - early.mean())


def find_repetition(ids: list[int]) -> tuple[int, int]:
    """(start, n) of the longest run of tokens ids[start : start + n] that is also the end of ids, without overlap."""
    best = (0, 0)
    for start in range(len(ids)):
        for n in range(best[1] + 1, len(ids)):
            if start + n <= len(ids) - n and ids[start : start + n] == ids[len(ids) - n :]:
                best = (start, n)
    return best


@torch.no_grad()
def measure_quotation(net: Net, ids: list[int]) -> dict[str, float]:
    """The measures on a text whose end repeats an earlier part of it: ids, the tokens of the text.

    target_mass      attention from the repetition to the induction target in the original; best head of the last layer
    any_target_mass  the same to all keys that follow the query's token, wherever they stand
    repeat_loss      loss on the repetition minus loss on the original, nats per token; the first token of each left out
    """
    start, n = find_repetition(ids)
    idx, end = torch.tensor([ids]), len(ids) - n
    patterns = [f"{layer}.pattern" for layer in attention_layers(net)]
    with record(net, patterns[-1:]) as seen:
        losses = token_losses(net(idx)[0], idx)[0]
    result = {"repeat_loss": losses[end:].mean() - losses[start : start + n - 1].mean()}
    if patterns:
        pattern = seen[patterns[-1]]
        query = torch.arange(end, len(ids))
        result["target_mass"] = pattern[0, :, query, query - end + start + 1].mean(dim=1).max()
        repetition = (torch.arange(len(ids)) >= end)[:, None]
        result["any_target_mass"] = attended_mass(pattern, induction_targets(idx) & repetition).max()
    return {name: round(float(value), 4) for name, value in result.items()}
