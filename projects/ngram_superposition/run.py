"""What can parallel attention heads store, and how close do they come to the best low-rank model of an n-gram law?

    python projects/ngram_superposition/run.py dynamics            one experiment
    python projects/ngram_superposition/run.py all                 all of them
    python projects/ngram_superposition/run.py all --quick         all of them in seconds, too short to learn much
    python projects/ngram_superposition/run.py all --resume        those that are not finished, after a stop

    dynamics            training against one token and against the whole row; random and optimal baselines
    freezing            parts that stay at their random start
    scaling             divergence against every number of the shape, with fitted power laws
    modifications       paths left out of the transformer
    attention_map       where each head looks, for every pair of tokens
    head_contributions  what each head adds to the right token's logit, alone and with the others
    superposition       N tokens in fewer than N dimensions
    subspace            span(W_U) and the strongest directions of the law
    closed_form         trained, closed-form and least-squares embeddings
    memorization        how many associations heads can store, beside the published numbers
    optimum             how far Adam stays from the best logits of a rank that were found
    large_optimum       the solver on a hundred tokens: its time, and what four times the steps would gain
    faults              what the study's notebook gets wrong, in numbers

Each has its own defaults, and takes the flags that it uses: `run.py EXPERIMENT --max_iters 100 --n_embd 3`.

With --resume an experiment whose result is there, from the same settings, seeds, device and number format, is kept;
one that
was cut short starts again. The numbers are then those of an unbroken run.
"""

import sys
import time
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout, whatever else is installed

from mingpt.fast.memory import keep_freed_memory
from mingpt.support.checkpoints import read_sealed, write_sealed
from mingpt.support.command import one_line_errors, way_to_go_on
from mingpt.support.config import Parser, config_from_args, config_to_dict, differences
from mingpt.support.files import own_folder
from projects.ngram_superposition import experiments, faults, scaling
from projects.ngram_superposition.settings import Options, Setup

LAW = dict(law="geometric", alphas="1,1,1", peak=0.95, rank=0)
MODEL = dict(n_layer=1, n_head=1, width=0, depth=1)
SAMPLED = dict(objective="next", max_iters=5000, learning_rate=1e-3)

EXPERIMENTS = {  # name -> its function, its settings (no others can be given), and what --quick changes
    "dynamics": (
        experiments.dynamics,
        dict(
            vocab_size=100,
            n_embd=10,
            n_parallel=5,
            **MODEL,
            **LAW,
            nb_tokens="40,40,1",
            max_iters=5000,
            learning_rate=1e-3,
            batch_size=1024,
        ),
        dict(vocab_size=8, n_embd=3, nb_tokens="8,8,1"),
    ),
    "freezing": (
        experiments.freezing,
        dict(vocab_size=10, n_embd=5, n_parallel=20, **MODEL, **LAW, nb_tokens="10,10,1", **SAMPLED, batch_size=1024),
        dict(vocab_size=5, nb_tokens="5,5,1", n_parallel=2),
    ),
    "scaling": (
        scaling.scaling,
        dict(
            vocab_size=10,
            n_embd=5,
            n_parallel=5,
            **MODEL,
            objective="exact",
            max_iters=1500,
            learning_rate=1e-2,
            batch_size=512,
        ),
        dict(vocab_size=5, n_embd=3, n_parallel=2),
    ),
    "modifications": (
        experiments.modifications,
        dict(vocab_size=100, n_embd=10, n_parallel=10, **MODEL, **LAW, nb_tokens="40,40,1", **SAMPLED, batch_size=1024),
        dict(vocab_size=6, n_embd=3, nb_tokens="6,6,1", n_parallel=2),
    ),
    "attention_map": (
        experiments.attention_maps,
        dict(vocab_size=100, n_embd=10, n_parallel=3, **MODEL, **LAW, nb_tokens="10,10,1", **SAMPLED, batch_size=1024),
        dict(vocab_size=10, n_embd=3, nb_tokens="10,10,1", n_parallel=2),
    ),
    "head_contributions": (
        experiments.contributions,
        dict(
            vocab_size=10,
            n_embd=5,
            n_parallel=2,
            **MODEL,
            **LAW,
            nb_tokens="10,5,1",
            **{**SAMPLED, "max_iters": 4000},
            batch_size=512,
        ),
        dict(vocab_size=6, nb_tokens="6,3,1", n_embd=3),
    ),
    "superposition": (
        experiments.superposition,
        dict(
            vocab_size=10,
            n_embd=5,
            n_parallel=5,
            **MODEL,
            **{**LAW, "law": "peaked"},
            nb_tokens="all",
            **SAMPLED,
            batch_size=512,
        ),
        dict(vocab_size=6, n_embd=3),
    ),
    "subspace": (
        experiments.subspace,
        dict(vocab_size=10, n_embd=5, **SAMPLED, batch_size=512),
        dict(vocab_size=5, n_embd=4),
    ),
    "closed_form": (
        experiments.closed_form,
        dict(vocab_size=10, n_embd=5, **{**SAMPLED, "learning_rate": 5e-4}, batch_size=1024),
        dict(vocab_size=6, n_embd=3),
    ),
    "memorization": (
        scaling.memorization,
        dict(
            vocab_size=50,
            **LAW,
            nb_tokens="50,50,1",
            objective="next",
            max_iters=10_000,
            learning_rate=1e-2,
            batch_size=1024,
        ),
        dict(vocab_size=6, nb_tokens="6,6,1"),
    ),
    "optimum": (
        experiments.optimum,
        dict(vocab_size=10, n_embd=5, **{**SAMPLED, "max_iters": 4000}, batch_size=512),
        dict(vocab_size=6, n_embd=3),
    ),
    "large_optimum": (
        experiments.large_optimum,
        dict(vocab_size=100, n_embd=10, **{**LAW, "alphas": "0.9,0.9,0.6"}, nb_tokens="all", max_iters=150),
        dict(vocab_size=6, n_embd=3),
    ),
    "faults": (
        faults.faults,
        dict(
            vocab_size=10,
            n_embd=5,
            n_parallel=5,
            **MODEL,
            **LAW,
            nb_tokens="10,10,1",
            **{**SAMPLED, "max_iters": 2000},
            batch_size=512,
        ),
        dict(),
    ),
}
QUICK = dict(max_iters=10, batch_size=128)  # of every experiment that has them
HAS_QUICK = {"scaling", "memorization"}  # those with shorter lists of settings, too


VERSION = 1  # of the results: to be raised when an experiment comes to measure something else


def make_setup(name: str, given: dict, quick: bool) -> Setup:
    """The settings of an experiment: its defaults, those of --quick, and what was given.

    ValueError for what it does not take.
    """
    _, defaults, small = EXPERIMENTS[name]
    for flag in given:
        if flag not in defaults:
            raise ValueError(f"{name} takes no --{flag}; it takes {', '.join(defaults)}")
    short = {**{flag: value for flag, value in QUICK.items() if flag in defaults}, **small} if quick else {}
    return Setup(**{**defaults, **short, **given})


def is_finished(path: Path, identity: dict) -> bool:
    """Whether the result of this very experiment is there; if another one's is, the difference is printed."""
    if not path.exists():
        return False
    try:
        result = read_sealed(path)
    except ValueError as error:
        print(f"note: {error}")
        return False
    if changed := differences(*(flat({key: each.get(key) for key in identity}) for each in (result, identity))):
        print(f"{path} is of another run: {'; '.join(changed)}")
    return not changed


def flat(identity: dict) -> dict:
    """The same with what is in dictionaries on the level above."""
    return {
        name: value
        for key, part in identity.items()
        for name, value in (part if isinstance(part, dict) else {key: part}).items()
    }


def run(name: str, setup: Setup, options: Options, quick: bool) -> None:
    """One experiment. Its settings and its numbers are written to <name>.json, after everything else."""
    function, defaults, _ = EXPERIMENTS[name]
    path = options.path(f"{name}.json")
    identity = {
        "experiment": name,
        "version": VERSION,
        "quick": quick,
        "settings": {flag: getattr(setup, flag) for flag in defaults},
        "options": {flag: value for flag, value in config_to_dict(options).items() if flag not in ("out", "resume")},
    }
    print(f"\n{name}", flush=True)
    if options.resume and is_finished(path, identity):
        print(f"kept: {path}")
        return
    started = time.perf_counter()
    numbers = function(setup, options, *([quick] if name in HAS_QUICK else []))
    seconds = round(time.perf_counter() - started, 1)
    write_sealed(path, {**identity, "seconds": seconds, "numbers": numbers})
    print(f"{seconds:.0f} s")


def main() -> None:
    """Read the command line and run one experiment, or all."""
    parser = Parser(description=__doc__)
    names = [*EXPERIMENTS, "all"]
    parser.add_argument("experiment", choices=names, metavar="EXPERIMENT", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: small models, 10 steps")
    parser.add_config(Options, "every experiment")
    parser.add_config(Setup, "some experiments, each with its own defaults instead of these")
    args = parser.parse_args()
    with one_line_errors():
        options = config_from_args(Options, args)
        given = {field.name: getattr(args, field.name) for field in fields(Setup) if hasattr(args, field.name)}
        keep_freed_memory()
        if args.experiment == "all" and given:
            raise ValueError(f"all takes no --{next(iter(given))}; experiments differ in their settings: run one")
        names = list(EXPERIMENTS) if args.experiment == "all" else [args.experiment]
        setups = {name: make_setup(name, given, args.quick) for name in names}  # a mistake comes up before any work
        kept = f"experiments that are finished are kept in {options.out}"
        going_on = f"{kept}, and the same command with --resume runs the others"
        with own_folder(options.out), way_to_go_on(going_on):
            for name, setup in setups.items():
                run(name, setup, options, args.quick)
        print(f"\nFigures, tables and numbers are in {options.out}.")


if __name__ == "__main__":
    main()
