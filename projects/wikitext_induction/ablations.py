"""Changes to a trained net that tell cause from company: take the previous token away, and see what goes with it."""

from dataclasses import replace

import torch
from torch import Tensor

from mingpt.conv_attention import ConvAttentionNet
from mingpt.interpret.hooks import patch, record
from projects.wikitext_induction.measures import attended_mass, induction_targets
from projects.wikitext_induction.taps import CURRENT, PREVIOUS


def rebuilt(net: ConvAttentionNet, kernel: Tensor) -> ConvAttentionNet:
    """A copy of `net` with another convolution, (C, C, K)."""
    copy = ConvAttentionNet(replace(net.config, kernel_size=kernel.size(2)))
    copy.load_state_dict({**net.state_dict(), "layers.conv.weight": kernel})
    return copy.eval()


def without_previous(net: ConvAttentionNet) -> ConvAttentionNet:
    """The previous tap at zero."""
    kernel = net.layers["conv"].weight.detach().clone()
    kernel[:, :, PREVIOUS] = 0
    return rebuilt(net, kernel)


def one_further_back(net: ConvAttentionNet) -> ConvAttentionNet:
    """The previous tap moved by one, and any before it: it now reads the token two before."""
    kernel = net.layers["conv"].weight.detach()
    return rebuilt(
        net, torch.cat([kernel[:, :, :CURRENT], torch.zeros_like(kernel[:, :, :1]), kernel[:, :, CURRENT:]], dim=2)
    )


def smeared(net: ConvAttentionNet) -> ConvAttentionNet:
    """Pure smearing: the previous tap becomes the current one times one scalar a channel, fitted by least squares.

    Output channel c is then proportional to (1 - s_c) x + s_c (previous x), the form of the paper's smeared keys.
    """
    kernel = net.layers["conv"].weight.detach().clone()
    previous, current = kernel[:, :, PREVIOUS], kernel[:, :, CURRENT]
    scale = (previous * current).sum(dim=1) / (current * current).sum(dim=1).clamp(min=1e-12)  # (C,)
    kernel[:, :, PREVIOUS] = scale[:, None] * current
    return rebuilt(net, kernel)


@torch.no_grad()
def scores(net: ConvAttentionNet, idx: Tensor) -> dict[str, float]:
    """Attention of the second copy to the induction target and to the key after it, and the accuracy there."""
    L = idx.size(1) // 2
    with record(net, "layers.attn.pattern") as seen:
        logits, _ = net(idx)
    pattern, second = seen["layers.attn.pattern"], torch.arange(2 * L)[:, None] >= L
    targets = induction_targets(idx) & second
    after = targets.roll(1, dims=2) & torch.ones_like(targets).tril()
    return {
        "prefix_matching": round(float(attended_mass(pattern, targets).max()), 4),
        "one_after": round(float(attended_mass(pattern, after).max()), 4),
        "repeat_accuracy": round(float((logits[:, L:-1].argmax(dim=2) == idx[:, L + 1 :]).float().mean()), 4),
    }


@torch.no_grad()
def ablate(net: ConvAttentionNet, idx: Tensor) -> dict[str, dict[str, float]]:
    """`scores` of the net as it is and of each change to it, on `random_repeats` idx.

    The last three take the previous token away from the keys, the queries or the values alone: they are computed
    without it and put into the net, whose other parts are left as they are.
    """
    bare = without_previous(net)
    results = {
        "as trained": scores(net, idx),
        "previous tap zeroed": scores(bare, idx),
        "previous tap one further back": scores(one_further_back(net), idx),
        "previous tap smeared": scores(smeared(net), idx),
    }
    with record(bare, "layers.attn.*") as seen:
        bare(idx)
    for letter, part in (("k", "keys"), ("q", "queries"), ("v", "values")):
        replacement = seen[f"layers.attn.{letter}"]
        with patch(net, {f"layers.attn.{letter}": lambda _, new=replacement: new}):
            results[f"{part} without the previous token"] = scores(net, idx)
    return results
