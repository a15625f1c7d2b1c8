"""Training many small models on n-grams: ours in one batched program, and the notebook's way, one model after the
other.

All variants take as many model-steps, on batches of 512 against one sampled token: with M models at once, a step of
ours is M model-steps.
"""

from collections.abc import Callable, Iterator

import torch

from projects.benchmark.harness import Table, compare
from projects.ngram_superposition.distributions import geometric_law
from projects.ngram_superposition.faults import OneLowRank, OneTransformer, one_at_a_time
from projects.ngram_superposition.losses import Objective
from projects.ngram_superposition.training import TrainingConfig, train
from projects.ngram_superposition.transformer import LowRanks, TransformerConfig, Transformers

N, WIDTH, HEADS, BATCH = 10, 5, 5, 512


def measure(quick: bool = False, repeats: int = 5) -> Iterator[Table]:
    """A table for low-rank models and one for transformers."""
    law, together = geometric_law([1, 1, 1], [N, N, N], N, 0), 4 if quick else 64
    model_steps = 8 if quick else 256

    def ours(make: Callable, models: int) -> Callable[[], object]:
        ensemble = make(list(range(models)))
        # As many batches are drawn at once as a round takes, so that each round pays for its own.
        objective = Objective(law, "next", list(range(models)), BATCH, ahead=model_steps // models)
        return lambda: train(ensemble, objective, TrainingConfig(model_steps // models))

    torch.manual_seed(0)
    kinds = {
        "low-rank models": (OneLowRank(N, WIDTH), lambda seeds: LowRanks(N, WIDTH, 3, seeds)),
        f"transformers of {HEADS} heads": (
            OneTransformer(N, WIDTH, HEADS, 3),
            lambda seeds: Transformers(TransformerConfig(N, n_embd=WIDTH, n_parallel=HEADS), seeds),
        ),
    }
    for title, (one, many) in kinds.items():
        variants = {
            "one at a time, as in the notebook": lambda one=one: one_at_a_time(one, law, BATCH, model_steps),
            "ours, one at a time": ours(many, 1),
            f"ours, {together} at once": ours(many, together),
        }
        yield Table(
            f"Training {title} on trigrams",
            compare(variants, repeats=1 if quick else repeats),
            list(variants)[-1],
            model_steps,
            "steps",
            {"one at a time, as in the notebook": 10} if not quick else {},
        )
