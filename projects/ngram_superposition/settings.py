"""What can be set from the command line, and the laws and models that settings stand for."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch

from mingpt.support.command import printable
from mingpt.support.devices import pick_device
from projects.ngram_superposition.distributions import (
    Law,
    almost_rank_law,
    first_positions_law,
    geometric_law,
    peaked_law,
    power_law,
    rank_law,
    zipf_law,
)
from projects.ngram_superposition.losses import OBJECTIVES, Objective
from projects.ngram_superposition.training import TrainingConfig
from projects.ngram_superposition.transformer import Ensemble, TransformerConfig, Transformers

LARGEST = 2**31  # sizes from here on fit no computer that this runs on; from 2^63 on they fit no tensor
DTYPES = {"float32": torch.float32, "float64": torch.float64}
RANKED_LAWS = ("geometric", "power", "zipf")  # the rows of a table are the same numbers in random orders
FULL_LAWS = ("peaked", "balanced", "rank", "aligned_rank", "almost_rank", "first_positions")  # no token is impossible
LAWS = (*RANKED_LAWS, *FULL_LAWS)


@dataclass(frozen=True)
class Options:
    """What every experiment understands."""

    out: Annotated[str, "folder for everything that is written"] = "out/ngram_superposition"
    seed: Annotated[int, "decides the laws; models count on from it"] = 2222
    seeds: Annotated[int, "models of each setting, each with its own start and its own batches"] = 3
    # Not auto: batches and optima are computed on the CPU whatever this says, and nothing was measured elsewhere.
    device: Annotated[str, "where models train: auto, cpu, cuda, cuda:1, mps"] = "cpu"
    dtype: Annotated[str, "float32 or float64"] = "float32"
    resume: Annotated[bool, "true: keep the experiments whose results are there, and run the others"] = False

    def __post_init__(self):
        if not 1 <= self.seeds <= 10_000:
            raise ValueError(f"--seeds is {self.seeds}; it must be from 1 to 10,000")
        if not 0 <= self.seed <= 2**32:
            raise ValueError(f"--seed is {self.seed}; it must be from 0 to 2^32")
        if self.dtype not in DTYPES:
            raise ValueError(f"--dtype is {self.dtype!r}; it must be float32 or float64")

    @property
    def model_seeds(self) -> list[int]:
        return list(range(self.seed, self.seed + self.seeds))

    def path(self, name: str) -> Path:
        return Path(self.out) / name

    def place(self, model: Ensemble) -> Ensemble:
        """The model on the device and in the number format asked for."""
        return model.to(pick_device(self.device), DTYPES[self.dtype])

    def objective(self, laws: Law | Sequence[Law], kind: str, seeds: Sequence[int], batch_size: int) -> Objective:
        """Batches for models with these seeds."""
        return Objective(laws, kind, seeds, batch_size, pick_device(self.device), DTYPES[self.dtype])


@dataclass(frozen=True)
class Setup:
    """One experiment's law, model and training. Each experiment has its own defaults; see EXPERIMENTS in run.py."""

    vocab_size: Annotated[int, "N, tokens"] = 10
    n_embd: Annotated[int, "C, width of the models and rank of the baseline"] = 5
    n_layer: Annotated[int, "layers"] = 1
    n_parallel: Annotated[int, "attention modules side by side in a layer"] = 5
    n_head: Annotated[int, "heads of a module"] = 1
    width: Annotated[int, "hidden units of the MLP; 0: no MLP"] = 0
    depth: Annotated[int, "hidden layers of the MLP"] = 1
    law: Annotated[str, ", ".join(LAWS)] = "geometric"
    alphas: Annotated[str, "how fast probabilities fall in each table of a geometric or power law, e.g. 1,1,0.6"] = (
        "1,1,1"
    )
    nb_tokens: Annotated[
        str,
        "tokens with a probability above 0 in each row of each table, e.g. 40,40,1; all: all of "
        "them, in as many tables as there are alphas",
    ] = "10,10,1"
    peak: Annotated[float, "probability of the likeliest token in a peaked or balanced law"] = 0.95
    rank: Annotated[int, "of the logits in a law that has a rank; 0: n_embd"] = 0
    objective: Annotated[str, "exact, full or next: all contexts, or drawn ones against the law or one token"] = "next"
    max_iters: Annotated[int, "steps of training"] = 5000
    batch_size: Annotated[int, "sampled sequences in a step"] = 512
    learning_rate: Annotated[float, "Adam's"] = 1e-3

    def __post_init__(self):
        for name, value in asdict(self).items():
            if isinstance(value, int) and not -LARGEST < value < LARGEST:
                raise ValueError(f"--{name} is {printable(str(value))}; it must be less than {LARGEST:,}")
        if self.law not in LAWS:
            raise ValueError(f"--law is {self.law!r}; it must be one of {', '.join(LAWS)}")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"--objective is {self.objective!r}; it must be one of {', '.join(OBJECTIVES)}")
        if self.n_embd > self.vocab_size:
            raise ValueError(
                f"--n_embd is {self.n_embd}, more than the {self.vocab_size} tokens; no logits have that rank"
            )
        if self.batch_size < 1:
            raise ValueError(f"--batch_size is {self.batch_size}; it must be at least 1")
        _ = self.counts, self.rates, self.model, self.training  # so that mistakes come up now

    @property
    def counts(self) -> list[int]:
        return (
            [self.vocab_size] * len(self.rates)
            if self.nb_tokens == "all"
            else numbers(self.nb_tokens, "nb_tokens", int)
        )

    @property
    def rates(self) -> list[float]:
        return numbers(self.alphas, "alphas", float)

    @property
    def model(self) -> TransformerConfig:
        return TransformerConfig(
            self.vocab_size,
            max(2, len(self.counts)),
            self.n_embd,
            self.n_layer,
            self.n_parallel,
            self.n_head,
            width=self.width,
            depth=self.depth,
        )

    @property
    def training(self) -> TrainingConfig:
        return TrainingConfig(self.max_iters, self.learning_rate)

    def make_law(self, seed: int) -> Law:
        N, counts, rank = self.vocab_size, self.counts, self.rank or self.n_embd
        if self.law == "zipf":
            return zipf_law(counts, N, seed)
        if self.law in RANKED_LAWS:
            return (geometric_law if self.law == "geometric" else power_law)(self.rates, counts, N, seed)
        if counts[-1] != N:
            raise ValueError(
                f"--nb_tokens ends in {counts[-1]}; a {self.law} law makes all tokens possible at the "
                f"end, so it must end in {N}, or be all"
            )
        if self.law in ("peaked", "balanced"):
            return peaked_law(counts[:-1], N, self.peak, 0, seed, self.law == "balanced")
        if self.law in ("rank", "aligned_rank"):
            return rank_law(counts[:-1], N, rank, self.law == "aligned_rank", seed)[0]
        if self.law == "almost_rank":
            return almost_rank_law(counts[:-1], N, rank, False, seed)
        return first_positions_law(counts[:-1], N, rank, seed)

    def transformers(self, options: Options, skips=None, repeats: int = 1) -> Transformers:
        """`repeats` settings, each with the options' seeds."""
        return options.place(Transformers(self.model, options.model_seeds * repeats, skips))


def numbers(text: str, name: str, kind: type) -> list:
    """Numbers between commas. ValueError if something else is there."""
    try:
        return [kind(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"--{name} is {text!r}; write numbers with commas between, such as 1,1,1") from None
