"""Interventions: models without some of their heads, or with other weights in them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mingpt.interpret.hooks import patch, record
from mingpt.interpret.weights import Head, checked, head_views

Changes = dict[tuple[int, int, str], Tensor]  # (layer, head, "W_Q" ... "b_V") -> what to put there


@contextmanager
def ablate(
    model: nn.Module,
    heads: Iterable[Head],
    how: str = "zero",
    reference: Tensor | None = None,
    generator: torch.Generator | None = None,
):
    """While the context lasts, the outputs of `heads` say nothing about the text at hand.

    how: "zero": their outputs before W_O are 0
         "mean": their mean over all positions of `reference`, (B, T) int64, which is read once, beforehand
         "resample": those of another sequence of the batch at the same position; needs at least two
    """
    if how not in ("zero", "mean", "resample"):
        raise ValueError(f"how is {how!r}; it must be one of zero, mean, resample")
    if (reference is None) == (how == "mean"):
        raise ValueError("a reference is needed for how='mean', and for nothing else")
    by_layer = {}
    for layer, head in checked(model, heads):
        by_layer.setdefault(f"h.{layer}.attn.head_out", []).append(head)
    means = {}
    if how == "mean" and by_layer:
        with torch.no_grad(), record(model, by_layer) as seen:
            model(reference)
        means = {name: x.mean(dim=(0, 2)) for name, x in seen.items()}  # (H, D)

    def change(name: str, chosen: list[int]) -> Callable[[Tensor], Tensor]:
        def silence(x):  # (B, H, T, D)
            if how == "zero":
                x[:, chosen] = 0
            elif how == "mean":
                x[:, chosen] = means[name][chosen, None].to(x.dtype)
            else:
                if len(x) < 2:
                    raise ValueError("to resample, a batch needs at least two sequences")
                shift = int(torch.randint(1, len(x), (), generator=generator))
                x[:, chosen] = x[:, chosen].roll(shift, dims=0)
            return x

        return silence

    with patch(model, {name: change(name, chosen) for name, chosen in by_layer.items()}):
        yield


@contextmanager
def edit(model: nn.Module, changes: Mapping[tuple[int, int, str], Tensor]):
    """While the context lasts, weights of heads are replaced; afterwards they are what they were, bit for bit.

    changes: (layer, head, part) -> the new weights; part is W_Q, W_K, W_V (C, D), W_O (D, C), b_Q, b_K or b_V (D,).
    Costs a copy of what is replaced, so that many edits can be tried on one model.
    """
    places = []
    for (layer, head, part), new in changes.items():
        checked(model, [(layer, head)])
        views = head_views(model, layer)
        if part not in views or part == "b_O":
            raise ValueError(f"a head has no {part!r}; it has {', '.join(sorted(set(views) - {'b_O'}))}")
        place = views[part][head].detach()
        if place.shape != new.shape:
            raise ValueError(f"{part} of head {layer}.{head} is {tuple(place.shape)}, its change {tuple(new.shape)}")
        places.append((place, place.clone(), new))
    try:
        for place, _, new in places:
            place.copy_(new)
        yield
    finally:
        for place, old, _ in places:
            place.copy_(old)


def exchange(model: nn.Module, heads: Sequence[Head], order: Sequence[int], parts: Sequence[str]) -> Changes:
    """Changes for `edit`: heads[i] gets the `parts` (e.g. W_Q, W_K, b_Q, b_K) of heads[order[i]]."""
    heads = checked(model, heads)
    if sorted(order) != list(range(len(heads))):
        raise ValueError(f"order must be a permutation of 0 to {len(heads) - 1}, not {list(order)}")
    views = {layer: head_views(model, layer) for layer, _ in heads}
    sources = [heads[i] for i in order]
    return {
        (layer, head, part): views[from_layer][part][from_head].detach().clone()
        for (layer, head), (from_layer, from_head) in zip(heads, sources)
        for part in parts
    }


def project(model: nn.Module, heads: Sequence[Head], part: str, basis: Tensor, keep: bool = False) -> Changes:
    """Changes for `edit`: take the span of `basis`, orthonormal (C, r), out of the residual side of W_Q, W_K, W_V or
    W_O.

    With `keep`, keep nothing else: W <- P W instead of (I - P) W for P = basis basis^T (W_O P, W_O (I - P) for W_O).
    """
    changes = {}
    for layer, head in checked(model, heads):
        W = head_views(model, layer)[part][head].detach()
        inside = (W @ basis) @ basis.T if part == "W_O" else basis @ (basis.T @ W)
        changes[layer, head, part] = inside if keep else W - inside
    return changes
