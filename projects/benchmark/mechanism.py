"""Editing heads of a GPT-2: our studies beside a direct rendering of the same experiments, in turns in one process.

    python projects/benchmark/mechanism.py             # some minutes
    python projects/benchmark/mechanism.py --quick     # a tiny model, seconds

The weights are random and of GPT-2 small's shape, and the heads are those of its published rankings: time depends on
shapes and layers, not on values. An experiment is a piece of the one in projects/gpt2_heads, batches of 5 sequences of
twice 20 tokens:

    shuffle    10 induction heads exchange W_Q and W_K, 10 previous-token heads W_V and W_O, and 10 other heads either
    project    the common subspace, of several ranks, is taken out of the keys of 10 induction heads

The direct way copies the model for every edit, runs it whole, and, for each rank, decomposes the ten stacked C x C
matrices in full. Ours edits in place, runs from the first edited layer on, scores only what counts, and decomposes in
factors. Both give the same probabilities in float32, which is checked before anything is timed.
"""

import copy
from functools import partial

import torch
from torch import Tensor

from mingpt.config import Parser
from mingpt.heads import common_subspace, edit, exchange, head_weights, project
from mingpt.model import GPT, GPTConfig
from mingpt.utils import has_fast_bfloat16
from projects.benchmark.harness import compare, print_table, versions
from projects.gpt2_heads.mechanism.circuits import pick
from projects.gpt2_heads.mechanism.copying import CopyTest, repeated_segments
from projects.gpt2_heads.mechanism.edits import PARTS
from projects.gpt2_heads.mechanism.ranking import REFERENCE

PERIOD, BATCH = 20, 5
NOTEBOOK = {
    "shuffle": (16 * 2 * 2 * BATCH, 20 * 60 + 15),
    "project": (20 * BATCH, 7 * 60),
}  # sequences, seconds it reports


def published(kind: str, count: int) -> list[tuple[int, int]]:
    """The first heads of a published ranking."""
    return [tuple(map(int, name.split("."))) for name in list(REFERENCE["fifty"][kind])[:count]]


@torch.no_grad()
def direct_probabilities(model: GPT, idx: Tensor, changes: dict) -> Tensor:
    """A copy of the model, edited and run whole; probabilities of the right tokens in the second copy."""
    model = copy.deepcopy(model)
    with edit(model, changes):
        probabilities = model(idx)[0].softmax(dim=-1)
    return probabilities[:, :-1].gather(-1, idx[:, 1:, None]).squeeze(-1)[:, PERIOD:]


@torch.no_grad()
def direct_subspace(model: GPT, heads: list, rank: int) -> Tensor:
    """The common subspace by a full decomposition of the stacked matrices."""
    dense = pick(head_weights(model).qk, heads).dense().flatten(0, 1)
    return torch.linalg.svd(dense, full_matrices=False).Vh[:rank].T


def main() -> None:
    """Print the tables."""
    parser = Parser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--permutations", type=int, default=2, help="in one round")
    parser.add_argument("--ranks", type=int, default=2, help="in one round")
    args = parser.parse_args()
    config = (
        GPTConfig(block_size=64)
        if not args.quick
        else GPTConfig(vocab_size=100, block_size=64, n_layer=12, n_head=12, n_embd=96)
    )
    generator = torch.Generator().manual_seed(0)
    model = GPT(config).eval()
    induction, previous = published("induction", 10), published("previous token", 10)
    pool = [(layer, head) for layer in range(12) for head in range(12) if (layer, head) not in induction + previous]
    idx = repeated_segments(config.vocab_size, PERIOD, 2, BATCH, generator)
    test = CopyTest(model, idx, PERIOD)
    fast = CopyTest(model, idx, PERIOD, torch.bfloat16) if has_fast_bfloat16(torch.device("cpu")) else None
    draws = []
    for _ in range(args.permutations):
        order = torch.randperm(10, generator=generator).tolist()
        others = [pool[i] for i in torch.randperm(len(pool), generator=generator)[:10]]
        draws += [(induction, order, "QK"), (others, order, "QK"), (previous, order, "OV"), (others, order, "OV")]
    ranks = [10 * (i + 1) if not args.quick else i + 1 for i in range(args.ranks)]

    def shuffle_directly():
        return [
            direct_probabilities(model, idx, exchange(model, heads, order, PARTS[part])) for heads, order, part in draws
        ]

    def shuffle_ours(test=test):
        return [test(exchange(model, heads, order, PARTS[part])).probability for heads, order, part in draws]

    def project_directly():
        return [
            direct_probabilities(model, idx, project(model, induction, "W_K", direct_subspace(model, induction, rank)))
            for rank in ranks
        ]

    def project_ours(test=test):
        basis = common_subspace(pick(head_weights(model).qk, induction), max(ranks))
        return [test(project(model, induction, "W_K", basis[:, :rank])).probability for rank in ranks]

    print(
        f"{versions('torch')}, {torch.get_num_threads()} threads, width {config.n_embd}, vocabulary {config.vocab_size}"
    )
    for name, direct, ours in (
        ("shuffle", shuffle_directly, shuffle_ours),
        ("project", project_directly, project_ours),
    ):
        torch.testing.assert_close(torch.stack(ours()), torch.stack(direct()), rtol=1e-3, atol=1e-6)
        work = BATCH * (len(draws) if name == "shuffle" else len(ranks))
        print()
        timings = compare(
            {"direct": direct, "ours, float32": ours, "ours, bfloat16": fast and partial(ours, fast)},
            repeats=args.repeats,
            warmup=0,
        )
        print_table(timings, title=name, work=work, unit="seq")
        if args.quick:
            continue  # a rate of the tiny model says nothing
        sequences, seconds = NOTEBOOK[name]
        best = min(timing.median for timing in timings.values() if timing.seconds)
        print(
            f"  the notebook edited and ran {sequences} sequences in {seconds} s; ten times as many "
            f"take {10 * sequences * best / work:.0f} s at the best rate here"
        )


if __name__ == "__main__":
    main()
