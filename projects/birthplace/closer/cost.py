"""What a training step of each variant costs: parameters, floating-point operations, and measured time.

python projects/birthplace/run.py cost             # under a minute
python projects/birthplace/run.py cost --rounds 20
"""

import statistics
import sys
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # this checkout, whatever else is installed

from mingpt import fast
from mingpt.fast.memory import keep_freed_memory
from mingpt.optim import make_optimizers
from mingpt.support.command import one_line_errors
from mingpt.support.config import Parser
from mingpt.support.devices import pick_device, pick_dtype
from projects.birthplace.recipes import BLOCK_SIZE, build_model, get_recipe
from projects.birthplace.variants import VARIANTS

BATCH_SIZE, VOCAB_SIZE = 32, 256


def training_step(model, optimizers, idx, dtype):
    """Forward, backward and update on one batch."""
    with torch.autocast(idx.device.type, dtype=dtype, enabled=dtype != torch.float32):
        _, loss = model(idx, idx)
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def count_flops(variant: str, bottleneck_dim: int) -> int:
    """Operations of the matrix products of a step, forward and backward; a multiplication and an addition count as two.

    Nothing is computed: tensors on the device "meta" have shapes only. Attention in its plain form, since the counter
    does not know the fused one everywhere; half of its scores are masked, and counted.
    """
    recipe = get_recipe("salient")
    with fast.plain(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        idx = torch.zeros(BATCH_SIZE, BLOCK_SIZE, dtype=torch.long)
        build_model(variant, VOCAB_SIZE, recipe, bottleneck_dim)(idx, idx)[1].backward()
    return counter.get_total_flops()


def main(words: list[str] | None = None) -> None:
    """Measure all variants in turns and print the table."""
    parser = Parser(prog="run.py cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=8, help="steps of each variant, in turns")
    parser.add_argument("--bottleneck_dim", type=int, default=32)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    args = parser.parse_args(words)
    with one_line_errors():
        if args.rounds < 1:
            raise ValueError(f"--rounds is {args.rounds}; it must be at least 1")
        device = pick_device(args.device)
        dtype, recipe = pick_dtype(args.dtype, device), get_recipe("salient")
        keep_freed_memory()
        idx = torch.randint(2, VOCAB_SIZE, (BATCH_SIZE, BLOCK_SIZE), device=device)
        models = {name: build_model(name, VOCAB_SIZE, recipe, args.bottleneck_dim).to(device) for name in VARIANTS}
        flops = {name: count_flops(name, args.bottleneck_dim) for name in models}
        optimizers = {name: make_optimizers(model, recipe.pretrain.optim) for name, model in models.items()}
        seconds = {name: [] for name in models}
        for turn in range(args.rounds + 2):
            for name, model in models.items():
                started = time.perf_counter()
                training_step(model, optimizers[name], idx, dtype)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if turn >= 2:  # the first two compile kernels
                    seconds[name].append(time.perf_counter() - started)

        print(
            f"A step on {BATCH_SIZE} sequences of {BLOCK_SIZE} characters, {device.type}, "
            f"{str(dtype).removeprefix('torch.')}, "
            f"{torch.get_num_threads()} threads; median of {args.rounds}, in turns\n"
        )
        print(f"{'':14}{'parameters':>12}{'GFLOP':>9}{'ms':>9}{'times vanilla':>15}")
        for name, model in models.items():
            ratio = statistics.median(s / v for s, v in zip(seconds[name], seconds["vanilla"]))
            print(
                f"{name:14}{model.num_parameters():>12,}{flops[name] / 1e9:>9.0f}"
                f"{1000 * statistics.median(seconds[name]):>9.0f}{ratio:>15.2f}"
            )


if __name__ == "__main__":
    main()
