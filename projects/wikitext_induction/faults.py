"""What is wrong with the published experiment, each point shown by a small one. Seconds in all."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.wikitext2.generate import generate
from mingpt.conv_attention import AttentionAttentionNet, CausalConv, ConvAttentionConfig, ConvNet, Net
from mingpt.interpret.hooks import record
from mingpt.optim import OptimConfig
from mingpt.support.devices import set_seed
from mingpt.support.files import write_json
from mingpt.trainer import Trainer, TrainerConfig
from projects.wikitext_induction.nets import VARIANTS, build
from projects.wikitext_induction.taps import PUBLISHED, uniform_bound
from projects.wikitext_induction.text import Lines, train_tokenizer

WIDTH = 384  # the assignment's


class LeakyConv(CausalConv):
    """The convolution with its last tap unmasked."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return F.conv1d(x.mT, self.weight, self.bias, padding=1).mT


class LeakyConvNet(ConvNet):
    """Convolution alone, which sees the token it is to predict."""

    def make_layers(self) -> dict[str, nn.Module]:
        return {"conv": LeakyConv(self.config)}


class RandomTokens:
    """A dataset of tokens drawn at random: nothing can be known about the next one."""

    def __init__(self, vocab_size: int, block_size: int, examples: int):
        self.tokens = torch.randint(vocab_size, (examples, block_size + 1))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.tokens[i, :-1], self.tokens[i, 1:]


class CountedPadding(Lines):
    """`Lines` whose padding is a target like any other, as where nobody says otherwise."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.pad_id = None


def gradient_norms() -> dict[str, list[float] | None]:
    """Norm of the loss's gradient on each tap, with the mask on `weight.data` and on the weight in use."""
    x, mask = torch.randn(4, 16, 20), torch.tensor([1.0, 1.0, 0.0])
    result = {}
    for name in ("mask on weight.data", "mask on the weight in use"):
        conv = nn.Conv1d(16, 16, 3, padding=1)
        weight = conv.weight.data if name.endswith("data") else conv.weight
        F.conv1d(x, weight * mask, conv.bias, padding=1).square().mean().backward()
        gradient = conv.weight.grad
        result[name] = None if gradient is None else [round(float(norm), 4) for norm in gradient.norm(dim=(0, 1))]
    return result


def shape_of_the_table() -> dict[str, dict[str, float]]:
    """The quantiles of each published tap as shares of its largest weight: 0.5 and 0.8 for a uniform distribution."""
    return {
        tap: {"q75 / max": round(q75 / high, 2), "q90 / max": round(q90 / high, 2)}
        for tap, (high, _, q75, q90) in PUBLISHED.items()
    }


def fitting_widths() -> tuple[int, int]:
    """The narrowest and the widest net whose fresh convolution has the published third tap, to the digits printed."""
    high, _, q75, q90 = PUBLISHED["future"]

    def rounds_to_it(width: int) -> bool:
        bound = uniform_bound(width)
        return all(
            abs(value - printed) <= 0.0005 for value, printed in ((bound, high), (0.5 * bound, q75), (0.8 * bound, q90))
        )

    widths = [width for width in range(1, 2000) if rounds_to_it(width)]
    return widths[0], widths[-1]


@torch.no_grad()
def influence_of_the_future(net: Net) -> float:
    """The largest change of any logit when a later token changes; 0 for a causal net."""
    T, V = net.config.block_size, net.config.vocab_size
    idx = torch.randint(V, (4, T))
    other = idx.clone()
    other[:, T // 2 :] = (idx[:, T // 2 :] + 1) % V
    return float((net(idx)[0] - net(other)[0])[:, : T // 2].abs().max())


def accuracy_on_random_tokens(net: Net, steps: int) -> float:
    """Next-token accuracy after training on random tokens, of which a causal net can guess 1 in V."""
    config = net.config
    train(net, RandomTokens(config.vocab_size, config.block_size, 640), steps)
    with torch.no_grad():
        idx = torch.randint(config.vocab_size, (64, config.block_size + 1))
        return float((net(idx[:, :-1])[0].argmax(dim=2) == idx[:, 1:]).float().mean())


@torch.no_grad()
def change_by_reordering(net: AttentionAttentionNet) -> float:
    """The largest change of the first layer's last output when the tokens before it are put into another order."""
    T = net.config.block_size
    idx = torch.randint(net.config.vocab_size, (4, T))
    shuffled = torch.cat([idx[:, torch.randperm(T - 1)], idx[:, -1:]], dim=1)
    outputs = []
    for tokens in (idx, shuffled):
        with record(net, "layers.attn_1") as seen:
            net(tokens)
        outputs.append(seen["layers.attn_1"][:, -1])
    return float((outputs[0] - outputs[1]).abs().max())


@torch.no_grad()
def influence_of_padding(pad_id: int, left: bool) -> float:
    """The largest change of a real token's logits when the padding's embedding changes; pad_id -1: no mask."""
    net = build("conv-attention", vocab_size=50, block_size=24, n_embd=32, pad_id=pad_id).eval()
    idx, padding = torch.randint(49, (4, 24)), torch.zeros(24, dtype=torch.bool)
    padding[slice(0, 8) if left else slice(16, 24)] = True
    idx[:, padding] = 49
    before = net(idx)[0]
    net.wte.weight[49] += 1
    return float((net(idx)[0] - before)[:, ~padding].abs().max())


def counting_padding(steps: int, articles: int) -> dict[str, dict[str, float]]:
    """Accuracy of a net trained with the padding counted and of one without, each measured both ways."""
    text = generate(seed=1, train=articles, valid=10, test=1)
    tokenizer, T = train_tokenizer(text["train"], 512), 192
    valid = Lines(text["valid"], tokenizer, T)
    x, y = (torch.stack(part) for part in zip(*(valid[i] for i in range(len(valid)))))
    real = y != valid.padding
    result = {"share of padding": round(float((~real).float().mean()), 4)}
    for name, kind in (("counted", CountedPadding), ("not counted", Lines)):
        set_seed(0)
        net = build("conv-attention", tokenizer.vocab_size, T, 64)
        train(net, kind(text["train"], tokenizer, T), steps, batch_size=16)
        with torch.no_grad():
            right = net(x)[0].argmax(dim=2) == y
        result[name] = {
            "with padding": round(float(right.float().mean()), 4),
            "without": round(float(right[real].float().mean()), 4),
        }
    return result


def train(net: Net, data, steps: int, batch_size: int = 64) -> None:
    """Some steps of AdamW at 3e-3, in float32 on the CPU."""
    Trainer(
        TrainerConfig(max_iters=steps, batch_size=batch_size, device="cpu", dtype="float32"),
        OptimConfig(learning_rate=3e-3, schedule="constant", weight_decay=0.0),
        net,
        data,
    ).run()


def show_faults(out: Path, seed: int, quick: bool = False) -> None:
    """Run all of it, print it, and write faults.json."""
    set_seed(seed)
    tiny = ConvAttentionConfig(vocab_size=64, block_size=32, n_embd=32)
    leaky = LeakyConvNet(tiny)
    low, high = fitting_widths()
    steps = 5 if quick else 200
    found = {
        "gradient norm on the taps previous, current, future": gradient_norms(),
        "published taps": shape_of_the_table(),
        "bound of a fresh convolution at width 384": round(uniform_bound(WIDTH), 4),
        "widths whose fresh convolution has the published third tap": [low, high],
        "influence of the future": {name: influence_of_the_future(build(name, 64, 32, 32)) for name in VARIANTS}
        | {"last tap unmasked": round(influence_of_the_future(leaky), 4)},
        "accuracy on random tokens": {
            "last tap masked": round(accuracy_on_random_tokens(ConvNet(tiny), steps), 4),
            "last tap unmasked": round(accuracy_on_random_tokens(leaky, steps), 4),
        },
        "first layer's change when earlier tokens are reordered": {
            name: round(change_by_reordering(build(name, 64, 32, 32)), 6)
            for name in ("attention-attention", "positions")
        },
        "influence of padding on real tokens": {
            "on the right": influence_of_padding(-1, left=False),
            "on the left": round(influence_of_padding(-1, left=True), 4),
            "on the left, padding mask": influence_of_padding(49, left=True),
        },
        "accuracy with padding counted in training": counting_padding(*((5, 10) if quick else (120, 60))),
    }
    for title, values in found.items():
        print(f"{title}: {values}" if not isinstance(values, dict) else f"{title}:")
        for name, value in values.items() if isinstance(values, dict) else ():
            print(f"    {name:28} {'no gradient' if value is None else value}")
    write_json(out / "faults.json", found)
