"""Many small models: how the divergence scales with the shape, and how many associations attention can store."""

import csv
import io
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mingpt.support.files import write_text
from projects.ngram_superposition.distributions import Law, geometric_law
from projects.ngram_superposition.figures import plot_memorization, plot_scaling
from projects.ngram_superposition.losses import evaluate
from projects.ngram_superposition.optimum import solve_all
from projects.ngram_superposition.settings import Options, Setup
from projects.ngram_superposition.training import TrainingConfig, train
from projects.ngram_superposition.transformer import TransformerConfig, Transformers

SWEEPS = {  # what is varied -> its values, and what is set beside it
    "vocab_size": ([7, 8, 10, 12, 14, 20, 28], {}),
    "n_embd": ([2, 3, 4, 5, 6, 7, 8], {}),
    "n_parallel": ([1, 2, 3, 5, 10, 15, 20], {}),
    "n_head": ([1, 2, 3, 6], {"n_embd": 6}),
    "n_layer": ([1, 2, 3, 4], {}),
    "width": ([2, 4, 8, 16, 32, 64], {"depth": 1}),
    "depth": ([1, 2, 3, 4], {"width": 16}),
}
ALPHAS = ((1.0, 0.3), (1.0, 0.6), (1.0, 0.9), (0.9, 0.3), (0.9, 0.6), (0.9, 0.9))  # of the contexts, of the last token
QUICK_SWEEPS = {"n_parallel": ([1, 2, 4], {}), "n_embd": ([2, 3, 4], {})}


@dataclass(frozen=True)
class Fit:
    """y = exp(intercept) * x ** exponent, with a 95 % interval for the exponent."""

    exponent: float
    low: float
    high: float
    points: int


# Student's t, 97.5 %, for 1 to 10 degrees of freedom
T_QUANTILES = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def fit_power_law(x: Sequence[float], y: Sequence[float], groups: Sequence) -> Fit:
    """Least squares of log y on log x, with an intercept of its own for each group.

    The points of one group (a law, say) are not independent, the groups are: the interval is Student's for the mean of
    the groups' own slopes, each weighted by the spread of its x. Points with y <= 0 have no logarithm: ValueError.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if (x <= 0).any() or (y <= 0).any():
        raise ValueError("a power law is fitted to positive numbers; some are not")
    names = sorted(set(groups))
    which = np.array([names.index(group) for group in groups])
    products, squares = np.zeros((2, len(names)))
    for g in range(len(names)):
        a, b = np.log(x[which == g]), np.log(y[which == g])
        products[g], squares[g] = ((a - a.mean()) * (b - b.mean())).sum(), ((a - a.mean()) ** 2).sum()
    if len(names) < 2 or not (squares > 0).all():
        raise ValueError("a slope with an interval takes at least two groups, each with two different x")
    slope, freedom = products.sum() / squares.sum(), len(names) - 1
    error = np.sqrt(((products - slope * squares) ** 2).sum() * len(names) / freedom) / squares.sum()
    half = error * (T_QUANTILES[freedom - 1] if freedom <= len(T_QUANTILES) else 1.96 + 2.6 / freedom)
    return Fit(float(slope), float(slope - half), float(slope + half), len(x))


def scaling(setup: Setup, options: Options, quick: bool = False) -> dict:
    """Exact divergence after training, over sweeps of each number of the shape, times laws, times seeds."""
    started, rows, done = time.perf_counter(), [], {}
    sweeps, alphas = (QUICK_SWEEPS, ALPHAS[:2]) if quick else (SWEEPS, ALPHAS)
    laws_of: dict[int, list[Law]] = {}
    for sweep, (values, beside) in sweeps.items():
        for value in values:
            config = replace(setup.model, **beside, **{sweep: value})
            if config not in done:
                if config.vocab_size not in laws_of:
                    N = config.vocab_size
                    laws_of[N] = [geometric_law([a, a, b], [N] * 3, N, options.seed) for a, b in alphas]
                done[config] = run_shape(config, laws_of[config.vocab_size], setup, options)
            best, scores = done[config]
            for i, (a, b) in enumerate(alphas):
                for j, seed in enumerate(options.model_seeds):
                    k = i * options.seeds + j
                    rows.append(
                        {
                            "sweep": sweep,
                            "value": value,
                            "alpha_1": a,
                            "alpha_2": b,
                            "seed": seed,
                            "N": config.vocab_size,
                            "d": config.n_embd,
                            "n_layer": config.n_layer,
                            "para": config.n_parallel,
                            "n_head": config.n_head,
                            "width": config.width,
                            "depth": config.depth,
                            "divergence": scores.divergence[k].item(),
                            "accuracy": scores.accuracy[k].item(),
                            "optimum": best[i],
                            "random": laws_of[config.vocab_size][i].random_divergence(),
                        }
                    )
        print(f"  {sweep}: done after {time.perf_counter() - started:.0f} s", flush=True)
    write_csv(options.path("scaling.csv"), rows)
    fits = fit_sweeps(rows)
    plot_scaling(options.path("scaling.png"), rows + fall_rows(rows), fits, options.seeds)
    print(f"{'':12}{'exponent of the divergence':>30}{'of what it exceeds the best found by':>38}")
    for sweep, fit in fits.items():
        print(
            f"{sweep:12}"
            + "".join(
                f"{f.exponent:>{w}.2f} [{f.low:.2f}, {f.high:.2f}]"
                for f, w in ((fit["divergence"], 16), (fit.get("excess"), 24))
                if f
            )
        )
    seconds = time.perf_counter() - started
    settings = len(done) * len(alphas)
    print(f"{settings} settings x {options.seeds} seeds in {seconds:.0f} s")
    return {
        "settings": settings,
        "models": settings * options.seeds,
        "seconds": round(seconds, 1),
        "fits": {sweep: {name: vars(f) for name, f in fit.items()} for sweep, fit in fits.items()},
    }


SHAPE = ("N", "d", "n_layer", "para", "n_head", "width", "depth")


def fall_rows(rows: list[dict]) -> list[dict]:
    """The same models, each once, as a sweep over how steeply the last token's law falls, ln(1/alpha_2) a rank."""
    models = {tuple(row[name] for name in (*SHAPE, "alpha_1", "alpha_2", "seed")): row for row in rows}
    return [{**row, "sweep": "fall", "value": -math.log(row["alpha_2"])} for row in models.values()]


def fit_sweeps(rows: list[dict]) -> dict[str, dict[str, Fit]]:
    """Power laws for each sweep, and for "fall": of the divergence, and of its excess over the best of the rank.

    The independent units are the laws, and for "fall", which has all laws at every point, the shapes. There is no fit
    of an excess that somewhere is not positive.
    """
    rows, fits = rows + fall_rows(rows), {}
    for sweep in dict.fromkeys(row["sweep"] for row in rows):
        chosen = [row for row in rows if row["sweep"] == sweep]
        unit = SHAPE if sweep == "fall" else ("alpha_1", "alpha_2")
        groups = [tuple(row[name] for name in unit) for row in chosen]
        values = [row["value"] for row in chosen]
        fits[sweep] = {"divergence": fit_power_law(values, [row["divergence"] for row in chosen], groups)}
        excess = [row["divergence"] - row["optimum"] for row in chosen]
        if min(excess) > 0:
            fits[sweep]["excess"] = fit_power_law(values, excess, groups)
    return fits


def run_shape(config: TransformerConfig, laws: list[Law], setup: Setup, options: Options):
    """All laws times all seeds for one shape: the optimum for each law, and scores, laws slow and seeds fast."""
    rank = min(config.n_embd, config.vocab_size)
    best = [found.divergence for found in solve_all(laws, rank, starts=2, max_iters=200, tolerance=1e-7)]
    repeated = [law for law in laws for _ in range(options.seeds)]
    seeds = options.model_seeds * len(laws)
    model = options.place(Transformers(config, seeds))
    train(model, options.objective(repeated, setup.objective, seeds, setup.batch_size), setup.training)
    return best, evaluate(model, repeated)


# ----------------------------------------------------------------------------------------------------------------------
# Memorization

# Accuracies at N = 50, from the data files behind the figures of Dana, Pydi and Chevaleyre 2025: against the number of
# heads (d = d_h = 10), against their size (H = 20, d = 10), and against the width (H = 20, d_h = 10).
PUBLISHED = {
    "heads": {1: 0.130, 6: 0.324, 11: 0.506, 16: 0.685, 21: 0.861, 26: 0.963, 31: 0.997},
    "head_dim": {1: 0.081, 2: 0.110, 3: 0.155, 4: 0.209, 5: 0.288, 6: 0.357, 7: 0.453, 8: 0.546, 9: 0.639, 10: 0.804},
    "n_embd": {
        5: 0.264,
        6: 0.362,
        7: 0.460,
        8: 0.578,
        9: 0.697,
        10: 0.809,
        11: 0.777,
        12: 0.789,
        13: 0.786,
        14: 0.812,
        15: 0.814,
    },
}


def accuracy_bound(vocab_size: int, associations: int, heads: int, head_dim: int, n_embd: int) -> float:
    """Least accuracy of the best attention-only transformer: it can store H d_h + d associations, and guesses the rest.

    1/N + (1 - 1/N) (H d_h + d) / T0, at most 1; corollary 1 of Dana, Pydi and Chevaleyre 2025.
    """
    stored = min(1.0, (heads * head_dim + n_embd) / associations)
    return 1 / vocab_size + (1 - 1 / vocab_size) * stored


def memorization(setup: Setup, options: Options, quick: bool = False) -> dict:
    """Accuracy on as many random associations as there are pairs of tokens, against heads, head size and width."""
    started, N = time.perf_counter(), setup.vocab_size
    law = setup.make_law(options.seed)
    associations = int((law.contexts > 0).sum())
    points = (
        {"heads": [1, 3], "head_dim": [1, 4], "n_embd": [4, 6]}
        if quick
        else {"heads": [1, 6, 11, 16, 21, 26, 31], "head_dim": [1, 3, 5, 7, 10], "n_embd": [5, 7, 10, 15]}
    )
    rows, done = [], {}
    for sweep, values in points.items():
        for value in values:
            shape = {"heads": 20, "head_dim": 10, "n_embd": 10, sweep: value}
            key = tuple(shape.values())
            if key not in done:
                done[key] = memorize(setup, options, law, shape)
                print(
                    f"  {shape}: accuracy {' '.join(f'{a:.3f}' for a in done[key][0])}, "
                    f"{time.perf_counter() - started:.0f} s",
                    flush=True,
                )
            accuracies, parameters = done[key]
            for seed, accuracy in zip(options.model_seeds, accuracies):
                rows.append(
                    {
                        "sweep": sweep,
                        **shape,
                        "seed": seed,
                        "accuracy": accuracy,
                        "parameters": parameters,
                        "bound": accuracy_bound(N, associations, *key),
                        "published": PUBLISHED[sweep].get(value, math.nan) if N == 50 else math.nan,
                    }
                )
    write_csv(options.path("memorization.csv"), rows)
    plot_memorization(
        options.path("memorization.png"),
        rows,
        PUBLISHED if N == 50 else {},
        N,
        associations,
        accuracy_bound,
        options.seeds,
    )
    return {"seconds": round(time.perf_counter() - started, 1), "associations": associations, "rows": rows}


def memorize(setup: Setup, options: Options, law: Law, shape: dict[str, int]) -> tuple[list[float], int]:
    """Train one shape, at a rate that falls to a twentieth: the accuracy of each seed, and the parameters."""
    config = replace(setup.model, n_parallel=shape["heads"], head_dim=shape["head_dim"], n_embd=shape["n_embd"])
    model = options.place(Transformers(config, options.model_seeds))
    objective = options.objective(law, setup.objective, options.model_seeds, setup.batch_size)
    train(model, objective, TrainingConfig(setup.max_iters, setup.learning_rate, 0.05))
    return evaluate(model, law).accuracy.tolist(), model.num_parameters()


def write_csv(path, rows: list[dict]) -> None:
    """Rows of one set of columns, numbers with six digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()} for row in rows
    )
    write_text(path, text.getvalue())
