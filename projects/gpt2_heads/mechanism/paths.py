"""Path patching: take a head's output away from the queries, the keys or the values of another head, and nowhere else.

An induction head should need the previous-token head in its keys, and not in its queries or values (Elhage et al. 2021:
K-composition, against Q- and V-composition). "Direct" cuts the one path through the residual and leaves those through
heads and MLPs between; otherwise all are cut (Wang et al. 2022, "Interpretability in the wild", and Goldowsky-Dill et
al. 2023). In either case a head's output is replaced by its mean over the sequences and positions of the test.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mingpt.interpret.edits import ablate
from mingpt.interpret.hooks import patch, record
from mingpt.interpret.weights import Head, head_views
from projects.gpt2_heads.mechanism.copying import Copying, CopyTest

PARTS = "qkv"


@torch.no_grad()
def cut(test: CopyTest, senders: Sequence[Head], receivers: Sequence[Head], into: str, direct: bool = False) -> Copying:
    """The copying (B, n) when no sender reaches the `into` ("q", "k", "v", or several) of any receiver.

    A sender reaches a receiver only in a later layer; the other pairs are left alone.
    """
    if not into or not set(into) <= set(PARTS):
        raise ValueError(f"into is {into!r}; it must be made of q, k and v")
    by_layer = {layer: [head for other, head in receivers if other == layer] for layer, _ in receivers}
    changes = {}
    for layer, heads in by_layer.items():
        earlier = [sender for sender in senders if sender[0] < layer]
        if earlier:
            inputs = (_direct if direct else _ablated)(test, earlier, layer, heads)
            changes |= {f"h.{layer}.attn.{part}": _put(heads, inputs[part]) for part in into}
    with patch(test.model, changes):
        logits, _ = test.model(test.idx)
    return test.score(logits[:, test.period : -1])


def _ablated(test: CopyTest, senders: Sequence[Head], layer: int, heads: Sequence[int]) -> dict[str, Tensor]:
    """q, k, v (B, heads, T, D) of the heads in a run in which nothing sees the senders."""
    with ablate(test.model, senders, "mean", test.idx), record(test.model, f"h.{layer}.attn.[{PARTS}]") as seen:
        test.model(test.idx)
    return {part: seen[f"h.{layer}.attn.{part}"][:, heads] for part in PARTS}


def _direct(test: CopyTest, senders: Sequence[Head], layer: int, heads: Sequence[int]) -> dict[str, Tensor]:
    """The same computed from the residual of an ordinary run, less what the senders add to it."""
    with record(test.model, [f"h.{sender}.attn.head_out" for sender, _ in senders]) as seen:
        test.model(test.idx)
    residual = test.inputs[layer]
    for sender, head in senders:
        output = seen[f"h.{sender}.attn.head_out"][:, head] @ head_views(test.model, sender)["W_O"][head]
        residual = residual - (output - output.mean(dim=(0, 1)))
    x, views = test.model.transformer.h[layer].ln_1(residual)[:, None], head_views(test.model, layer)  # (B, 1, T, C)
    return {part: x @ views[f"W_{part.upper()}"][heads] + views[f"b_{part.upper()}"][heads, None] for part in PARTS}


def _put(heads: Sequence[int], new: Tensor) -> Callable[[Tensor], Tensor]:
    def replace(x: Tensor) -> Tensor:  # (B, H, T, D)
        x[:, heads] = new
        return x

    return replace


def path_study(
    test: CopyTest, senders: Sequence[Head], receivers: Sequence[Head], others: Sequence[Head]
) -> dict[str, Copying]:
    """Every way to cut the senders off, and, as a control, to cut off the `others` instead: label -> copying."""
    result = {"nothing": test()}
    for into in (*PARTS, PARTS):
        result[f"{into}, all paths"] = cut(test, senders, receivers, into)
        result[f"{into}, direct"] = cut(test, senders, receivers, into, direct=True)
        result[f"{into}, other heads"] = cut(test, others, receivers, into)
    return result
