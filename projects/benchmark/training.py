"""A training step of ours beside minGPT's way and nanoGPT's way, in turns in one process.

    python projects/benchmark/training.py             # a few minutes
    python projects/benchmark/training.py --quick     # a tiny model, seconds

The shape is that of the birthplace study: 4 layers, 8 heads, 256 wide, 128 positions, 64 sequences. The peers are plain
renderings of the public method, on the same parameters:

    minGPT's way    float32, explicit attention, AdamW one parameter after the other
    nanoGPT's way   float32, scaled_dot_product_attention, fused AdamW

Each step is forward, backward, clipping to norm 1, and the update. The last column says how many times as fast as minGPT's
way each is.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mingpt.config import Parser
from mingpt.model import GPT, MLP, Context, GPTConfig
from mingpt.utils import has_fast_bfloat16
from projects.benchmark.harness import compare, print_table, versions
from projects.benchmark.steps import our_step, plain_step


class PlainAttention(nn.Module):
    """Attention as minGPT writes it (`fused=False`) or as nanoGPT does (`fused=True`), with our parameters' names."""

    def __init__(self, config: GPTConfig, fused: bool):
        super().__init__()
        self.n_head, self.fused = config.n_head, fused
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.register_buffer("allowed", torch.ones(config.block_size, config.block_size).tril().bool(), persistent=False)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.n_head, -1).transpose(1, 2) for part in self.c_attn(x).split(C, dim=2))
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
            scores = scores.masked_fill(~self.allowed[:T, :T], -math.inf)
            y = F.softmax(scores, dim=-1) @ v
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))


class PlainMLP(MLP):
    """The MLP as both write it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class PlainGPT(GPT):
    """The same GPT, its layers written plainly."""

    fused = False

    def make_blocks(self) -> list[nn.Module]:
        blocks = super().make_blocks()
        for block in blocks:
            block.attn = PlainAttention(self.config, self.fused)
            block.mlp = PlainMLP(self.config)
        return blocks


class NanoGPT(PlainGPT):
    """With PyTorch's fused attention."""

    fused = True


def main() -> None:
    """Print the table."""
    parser = Parser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--compile", action="store_true", help="also ours under torch.compile")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    shape = dict(n_layer=4, n_head=8, n_embd=256) if not args.quick else dict(n_layer=2, n_head=2, n_embd=32)
    B, T = (64, 128) if not args.quick else (8, 32)
    config = GPTConfig(vocab_size=256, block_size=T, **shape)
    x, y = torch.randint(0, 256, (2, B, T))

    mingpt, nanogpt = PlainGPT(config), NanoGPT(config)
    # The peers before ours: a Trainer tells the C library to keep freed memory, which from then on helps everybody.
    variants = {
        "minGPT's way, float32": plain_step(mingpt, torch.optim.AdamW(mingpt.parameters(), foreach=False), x, y),
        "nanoGPT's way, float32": plain_step(nanogpt, torch.optim.AdamW(nanogpt.parameters(), fused=True), x, y)}
    alone = compare(variants, repeats=args.repeats)
    variants["ours, float32"] = our_step(GPT(config), "float32", x, y)
    if has_fast_bfloat16(torch.device("cpu")):
        variants["ours, bfloat16"] = our_step(GPT(config), "bfloat16", x, y)
        variants["the same, fused attention"] = our_step(GPT(replace(config, attention="fused")), "bfloat16", x, y)
        if args.compile:
            variants["ours, bfloat16, compiled"] = our_step(GPT(config), "bfloat16", x, y, compiled=True)
    print(f"{versions('torch')}, {torch.get_num_threads()} threads, {shape}, {B} sequences of {T}\n")
    print_table(alone, title="Peers alone, with the C library's usual memory management", work=B * T, unit="tokens")
    print()
    print_table(compare(variants, repeats=args.repeats), title="All in turns", work=B * T, unit="tokens")


if __name__ == "__main__":
    main()
