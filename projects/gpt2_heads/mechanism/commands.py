"""The commands: what to measure, in which order, and what to write and print. Figures are drawn in `figures`."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mingpt.interpret.weights import Head, head_weights
from mingpt.model import GPT
from mingpt.support.devices import pick_dtype
from mingpt.support.files import write_json, write_text
from projects.gpt2_heads.mechanism import doubts as doubt
from projects.gpt2_heads.mechanism.circuits import diagonal_study, pick, subspace_study
from projects.gpt2_heads.mechanism.copying import Copying, CopyTest, folded, repeated_segments
from projects.gpt2_heads.mechanism.edits import bridge_subspace, project_study, shuffle_study
from projects.gpt2_heads.mechanism.options import MechanismOptions
from projects.gpt2_heads.mechanism.paths import path_study
from projects.gpt2_heads.mechanism.ranking import (
    KINDS,
    REFERENCE,
    Scores,
    against_reference,
    name,
    ranked_text,
    score_repeats,
)


class Bench:
    """A model with the norms folded into its weights, its heads by kind, and sequences to copy."""

    def __init__(self, label: str, model: GPT, seed: int, options: MechanismOptions):
        if 2 * options.length > model.config.block_size:
            raise ValueError(
                f"--length is {options.length}; twice that does not fit into {model.config.block_size} positions"
            )
        if next(model.parameters()).device.type != "cpu":
            raise ValueError("the studies of the mechanism run on the CPU; leave --device out")
        if model.config.positions != "learned":
            raise ValueError(
                "circuits of a model with rotary positions depend on the distance; these studies are for learned ones"
            )
        self.label, self.options = label, options
        self.raw, self.model = model, folded(model)
        self.generator = torch.Generator().manual_seed(seed)
        V, length = model.config.vocab_size, options.length
        idx = repeated_segments(V, length, 2, options.batch_size, self.generator)
        self.test, self.raw_test = CopyTest(self.model, idx, length), CopyTest(model, idx, length)
        dtype = pick_dtype(options.dtype, torch.device("cpu"))
        self.fast_test = CopyTest(self.model, idx, length, dtype)  # for the studies that try many edits
        self.scores = score_repeats(model, length, 2, options.batch_size, False, self.generator)
        self.ranking = {kind: self.scores.ranking(kind) for kind in KINDS}
        self.induction, self.previous = (self.scores.best(kind, options.top) for kind in KINDS)
        L, H = model.config.n_layer, model.config.n_head
        self.everyone: list[Head] = [(layer, head) for layer in range(L) for head in range(H)]
        self.important = self.induction + self.previous
        self.bystanders = [head for head in self.everyone if head not in self.important]

    @property
    def ranks(self) -> list[int]:
        """Of subspaces to project on: from 1 on, about a third larger each time, up to 100 or what there is."""
        most = min(100, self.model.config.head_dim * len(self.induction), self.model.config.n_embd - 1)
        ranks = sorted({min(most, round(4 ** (i / 4.6))) for i in range(17)} | {most})
        return [rank for rank in ranks if rank >= 1]

    def counts(self, kind: str) -> list[int]:
        """How many heads to shuffle: 2 to 20, as far as there are bystanders for a control."""
        return [
            count
            for count in range(2, 21)
            if len([head for head in self.bystanders if head not in self.ranking[kind][:count]]) >= count
        ]


def rounded(matrix: Tensor) -> list[list[float]]:
    """Three significant digits, enough for a picture."""
    return [[float(f"{value:.3g}") for value in row] for row in matrix.tolist()]


def spread(values: Tensor) -> dict:
    """Mean, standard deviation and number of some values."""
    return {"mean": values.mean().item(), "std": values.std(unbiased=False).item(), "n": values.numel()}


def of_copying(copying: Copying) -> dict:
    """Numbers for JSON; the spread is that over edited models, or over sequences where there is only one."""
    error, probability = copying.error, copying.probability
    over = error.mean(dim=tuple(range(1, error.ndim)))  # one number a model, or a sequence
    return {
        "error": spread(over),
        "standard_error": (over.std(unbiased=False) / max(1, len(over) - 1) ** 0.5).item(),
        "probability": spread(probability.mean(dim=tuple(range(1, error.ndim)))),
        "error_by_position": error.flatten(0, -2).mean(dim=0).tolist(),
        "probability_by_position": probability.flatten(0, -2).mean(dim=0).tolist(),
    }


# ----------------------------------------------------------------------------------------------------------------------
# One function a command: it measures, and returns what is written as JSON


def scores(bench: Bench, out: Path) -> dict:
    """Both kinds of score by both definitions, ranked; against published rankings where the model is GPT-2."""
    model, seed = bench.raw, bench.generator
    length = min(bench.model.config.block_size // 2, 50, bench.model.config.vocab_size)
    forms = {
        f"{length} tokens twice": score_repeats(model, length, 2, bench.options.batch_size, False, seed),
        "5 tokens three times, column 0 dropped": score_repeats(model, 5, 3, bench.options.batch_size, True, seed),
        "the same, one sequence": score_repeats(model, 5, 3, 1, True, seed),
    }
    for form, scored in list(forms.items())[:2]:
        for kind in KINDS:
            file = f"{kind.replace(' ', '_')}_heads{'_notebook' if 'dropped' in form else ''}.txt"
            write_text(
                out / file,
                ranked_text(
                    scored, kind, f"{kind} scores of {bench.label}: {form}, {bench.options.batch_size} sequences"
                ),
            )
    result = {
        form: {
            kind: {
                "mean": scored.mean[kind].tolist(),
                "standard_error": scored.error[kind].tolist(),
                "ranking": [name(head) for head in scored.ranking(kind)],
            }
            for kind in KINDS
        }
        for form, scored in forms.items()
    }
    if bench.label == "gpt2":
        result["against published"] = against_published(model, forms["the same, one sequence"], seed)
    result["copying error as it is"] = of_copying(bench.test())
    return result


def against_published(model: GPT, one: Scores, generator: torch.Generator) -> dict:
    """Both published rankings of GPT-2 small beside ours, each by its own recipe."""
    fifty = score_repeats(model, 25, 2, 50, True, generator)
    return {
        recipe: {kind: against_reference(ours, kind, REFERENCE[recipe][kind]) for kind in KINDS}
        for recipe, ours in (("one sequence", one), ("fifty", fifty))
    }


def diagonal(bench: Bench, out: Path) -> dict:
    """Claim 1."""
    weights = head_weights(bench.model)
    study = diagonal_study(weights, bench.induction, bench.previous, bench.generator)
    z, null = study["z"], study["gaussian_std"]
    possible = z[study["composable"]]
    best = (z + torch.where(study["composable"], 0.0, -torch.inf)).flatten().argmax().item()
    reader, writer = bench.induction[best // len(bench.previous)], bench.previous[best % len(bench.previous)]
    possible_others = [(q, o) for q in bench.bystanders for o in bench.bystanders if o[0] < q[0]]
    other = possible_others[int(torch.randint(len(possible_others), (), generator=bench.generator))]
    pairs = {
        f"{name(reader)} reads {name(writer)}": (reader, writer),
        f"two other heads: {name(other[0])} and {name(other[1])}": other,
    }
    blocks = {}
    tokens = bench.model.transformer.wte.weight.detach()[:64]
    for label, (q, o) in pairs.items():
        product = (pick(weights.qk, [q]) @ pick(weights.ov, [o]).T)[0]
        between = (tokens @ product.left) @ (product.right @ tokens.T)
        blocks[label] = {"channels": rounded(product.left[:64] @ product.right[:, :64]), "tokens": rounded(between)}
    return {
        "readers": [name(head) for head in bench.induction],
        "writers": [name(head) for head in bench.previous],
        "z": z.tolist(),
        "composable": study["composable"].tolist(),
        "null_std": null,
        "null_std_expected": weights.W_Q.size(2) ** -0.5,
        "tested": spread(possible),
        "tested_in_null_std": spread(possible / null),
        "others": spread(study["others"]),
        "gaussian": spread(study["gaussian"]),
        "values": {
            "tested": possible.tolist(),
            "others": study["others"].tolist(),
            "gaussian": study["gaussian"].tolist(),
        },
        "blocks": blocks,
    }


def subspace(bench: Bench, out: Path) -> dict:
    """Claim 2."""
    ranks = [rank for rank in (2, 3, 5, 10) if rank <= bench.model.config.head_dim]
    study = subspace_study(
        head_weights(bench.model), bench.induction, bench.previous, bench.bystanders, ranks, bench.generator
    )
    return {
        str(rank): {
            group: {kind: spread(values) for kind, values in found.items()}
            for group, found in groups.items()
            if found["rms"].numel()
        }
        for rank, groups in study.items()
    }


def shuffle(bench: Bench, out: Path) -> dict:
    """Claim 3."""
    options, result = bench.options, {"as it is": of_copying(bench.fast_test())}
    for component, kind, heads in (("QK", "induction", bench.induction), ("OV", "previous token", bench.previous)):
        study = shuffle_study(
            bench.fast_test,
            bench.ranking[kind],
            bench.bystanders,
            bench.counts(kind),
            component,
            options.permutations,
            options.derangements,
            bench.generator,
        )
        result[component] = {
            "heads": [name(head) for head in bench.ranking[kind][:20]],
            "of that kind": len(heads),
            "counts": {
                str(count): {label: of_copying(copying) for label, copying in found.items()}
                for count, found in study.items()
            },
        }
    return result


def project(bench: Bench, out: Path) -> dict:
    """Claim 4."""
    bridge = bridge_subspace(bench.fast_test, bench.induction, max(bench.ranks))
    result = {"as it is": of_copying(bench.fast_test())}
    for component, heads in (("QK", bench.induction), ("OV", bench.previous)):
        study = project_study(
            bench.fast_test, heads, component, bridge, bench.ranks, bench.options.random_subspaces, bench.generator
        )
        result[component] = {
            str(rank): {label: of_copying(copying) for label, copying in found.items()} for rank, found in study.items()
        }
    return result


def paths(bench: Bench, out: Path) -> dict:
    """K-composition against Q- and V-composition."""
    first = max(layer for layer, _ in bench.induction)
    others = [head for head in bench.bystanders if head[0] < first][: len(bench.previous)]
    study = path_study(bench.test, bench.previous, bench.induction, others)
    return {
        "senders": [name(head) for head in bench.previous],
        "receivers": [name(head) for head in bench.induction],
        "other heads": [name(head) for head in others],
        **{label: of_copying(copying) for label, copying in study.items()},
    }


def doubts(bench: Bench, out: Path) -> dict:
    """Variance, controls, or a bug: one experiment for each doubt about the notebook."""
    test, generator, draws = bench.test, bench.generator, max(20, 3 * bench.options.permutations)
    result = {}
    for component, kind, heads in (("QK", "induction", bench.induction), ("OV", "previous token", bench.previous)):
        count = max(bench.counts(kind))
        listed = bench.ranking[kind][:count]
        own = heads if len(heads) > 1 else bench.ranking[kind][:2]
        drawn = min(count, max(2, len(bench.everyone) // 14))  # few enough that some draws spare all that matter
        result[component] = {
            "count": count,
            "of that kind": len([head for head in listed if head in heads]),
            "one permutation": doubt.one_permutation(test, listed, component, draws, generator),
            "five sequences": doubt.five_sequences(test, listed, component, draws, generator),
            "control": doubt.control_heads(test, bench.everyone, bench.important, drawn, component, draws, generator),
            "biases": doubt.biases(test, own, component, draws // 2, generator),
        }
    rank = min(bench.model.config.head_dim, max(bench.ranks))
    ranks = [r for r in bench.ranks if r <= bench.model.config.head_dim * len(bench.previous)]
    counts = [count for count in (1, 2, 3, 4, 6, 8, 10, 15, 20, 30) if count <= len(bench.everyone) // 2 + 2]
    longer = [bench.ranking[kind][: min(20, len(bench.everyone) // 2)] for kind in KINDS]
    result["layer order"] = doubt.layer_order(bench.model, *longer)
    result["gains"] = doubt.gains(bench.raw_test, bench.test, bench.induction, bench.previous, rank)
    result["whose subspace"] = doubt.whose_subspace(test, bench.induction, bench.previous, ranks)
    result["how many edited"] = {
        "rank": rank,
        "of that kind": len(bench.previous),
        "counts": doubt.how_many_edited(test, bench.induction, bench.ranking["previous token"], rank, counts),
    }
    result["null space"] = doubt.null_space(bench.model, bench.induction[0], generator)
    return result


STUDIES: dict[str, Callable[[Bench, Path], dict]] = {
    "scores": scores,
    "diagonal": diagonal,
    "subspace": subspace,
    "shuffle": shuffle,
    "project": project,
    "paths": paths,
    "doubts": doubts,
}


# ----------------------------------------------------------------------------------------------------------------------


def run_study(command: str, bench: Bench, out: Path) -> dict:
    """Measure, write, draw and print one study."""
    from projects.gpt2_heads.mechanism import figures, report

    started = time.perf_counter()
    result = STUDIES[command](bench, out)
    write_json(out / f"{command}.json", {"model": bench.label, **result})
    figures.DRAW[command](out, result, bench.label)
    print("\n".join(report.LINES[command](result)))
    print(f"{out}: {command}.json and figures ({time.perf_counter() - started:.1f} s)\n")
    return result


def run_all(labelled: list[tuple[str, GPT, int]], options: MechanismOptions, out: Path) -> None:
    """Every study for each (label, model, seed); the main numbers over the seeds in summary.json."""
    from projects.gpt2_heads.mechanism import report

    rows: dict[str, list[float]] = {}
    for label, model, seed in labelled:
        bench = Bench(label, model, seed, options)
        folder = out if len(labelled) == 1 else out / f"seed{seed}"
        results = {command: run_study(command, bench, folder) for command in STUDIES}
        for row, value in report.headlines(results, bench).items():
            rows.setdefault(row, []).append(value)
    summary = {
        row: {**spread(torch.tensor(values, dtype=torch.float64)), "values": values} for row, values in rows.items()
    }
    write_json(out / "summary.json", {"models": [label for label, _, _ in labelled], "rows": summary})
    print("\n".join(report.summary_lines(summary, len(labelled))))
