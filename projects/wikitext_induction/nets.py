"""The nets of the study."""

from dataclasses import dataclass, field

from mingpt.conv_attention import (
    AttentionAttentionNet,
    AttentionNet,
    ConvAttentionConfig,
    ConvAttentionNet,
    ConvNet,
    Net,
    SmearAttentionNet,
)


@dataclass(frozen=True)
class Variant:
    """One net: its class, the options that are not at their defaults, and how figures show it."""

    kind: type[Net]
    label: str
    color: str  # of mingpt.support.plotting
    options: dict = field(default_factory=dict)
    dashed: bool = False


VARIANTS = {
    "conv-attention": Variant(ConvAttentionNet, "conv → attention", "blue"),
    "detached": Variant(ConvAttentionNet, "conv (detached) → attention", "sky", dict(detach_conv=True)),
    "smear": Variant(SmearAttentionNet, "smear → attention", "green"),
    "attention-attention": Variant(AttentionAttentionNet, "attention → attention", "red"),
    "positions": Variant(AttentionAttentionNet, "attention → attention, positions", "orange", dict(positions=True)),
    "residual": Variant(
        AttentionAttentionNet,
        "attention → attention, positions, residual",
        "purple",
        dict(positions=True, residual=True),
    ),
    "attention": Variant(AttentionNet, "attention alone", "grey"),
    "conv": Variant(ConvNet, "conv alone", "grey", dashed=True),
}


def build(name: str, vocab_size: int, block_size: int, n_embd: int, pad_id: int = -1) -> Net:
    """A fresh net by the name of its variant."""
    variant = VARIANTS[name]
    return variant.kind(ConvAttentionConfig(vocab_size, block_size, n_embd, pad_id=pad_id, **variant.options))


def parse_names(names: str) -> list[str]:
    """The variants in a comma-separated list; all for an empty one. ValueError for one that there is not."""
    chosen = [name.strip() for name in names.split(",") if name.strip()] or list(VARIANTS)
    for name in chosen:
        if name not in VARIANTS:
            raise ValueError(f"no net is called {name!r}; there are {', '.join(VARIANTS)}")
    return chosen
