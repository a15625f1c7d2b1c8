"""The experiments, one for each question of the notebook: from a Setup and Options to figures and numbers."""

import math
import time
from itertools import product

import torch
from torch import Tensor

from projects.ngram_superposition import figures
from projects.ngram_superposition.distributions import Law, almost_rank_law, geometric_law, peaked_law, rank_law
from projects.ngram_superposition.interpretation import (
    attention_map,
    closed_form_embeddings,
    head_contributions,
    last_residual,
    random_subspace_distance,
    subspace_distance,
    top_span,
)
from projects.ngram_superposition.losses import evaluate, score_logits
from projects.ngram_superposition.optimum import least_squares, solve
from projects.ngram_superposition.settings import Options, Setup
from projects.ngram_superposition.training import train
from projects.ngram_superposition.transformer import LowRanks, Skips


def cell(values) -> str:
    """Mean and, of several, standard deviation."""
    values = torch.as_tensor(values, dtype=torch.float64)
    return f"{values.mean():.4f}" + (f" ± {values.std():.4f}" if values.numel() > 1 else "")


def train_low_rank(setup: Setup, options: Options, laws, max_iters: int = 0) -> tuple[LowRanks, Tensor]:
    """LowRank models of one law, or of a list of laws with one model each. Returns them and their losses."""
    seeds = options.model_seeds if isinstance(laws, Law) else [options.seed + i for i in range(len(laws))]
    first = laws if isinstance(laws, Law) else laws[0]
    model = options.place(LowRanks(first.vocab_size, setup.n_embd, first.order, seeds))
    training = setup.training if not max_iters else type(setup.training)(max_iters, setup.learning_rate)
    return model, train(
        model, options.objective(laws, setup.objective, seeds, setup.batch_size), training, title="LowRank"
    )


def dynamics(setup: Setup, options: Options) -> dict:
    """Training against one sampled token and against the whole row; the random and the optimal baseline."""
    law = setup.make_law(options.seed)
    curves, metrics = {}, {"entropy": law.entropy(), "random divergence": law.random_divergence()}
    interval = max(1, setup.max_iters // 40)
    for name, kind in (("next token", "next"), ("full divergence", "full")):
        model, scores = setup.transformers(options), []
        losses = train(
            model,
            options.objective(law, kind, options.model_seeds, setup.batch_size),
            setup.training,
            eval_interval=interval,
            on_eval=lambda step: scores.append((step, evaluate(model, law))),
            title=name,
        )
        curves[name] = losses, scores
        last = scores[-1][1]
        metrics[name] = {
            "divergence": last.divergence.tolist(),
            "accuracy": last.accuracy.tolist(),
            "hit rate": last.hit_rate.tolist(),
        }
        print(f"{name:16} divergence {cell(last.divergence)}  accuracy {cell(last.accuracy)}")
    started = time.perf_counter()
    best = solve(law, setup.n_embd)
    metrics["optimum"] = {"divergence": best.divergence, "seconds": round(time.perf_counter() - started, 1)}
    metrics["ceiling of the hit rate"] = last.ceiling[0].item()
    name = f"best of rank {setup.n_embd}"
    print(f"{name:16} divergence {best.divergence:.4f}, of random {law.random_divergence():.4f}")
    figures.plot_dynamics(options.path("dynamics.png"), curves, law, best.divergence, options.seeds)
    return metrics


FROZEN = {
    "nothing": (),
    "E": ("E",),
    "positions": ("positions",),
    "QKV": ("QKV",),
    "O": ("O",),
    "U": ("U",),
    "all but O": ("E", "positions", "QKV", "U"),
    "all but U": ("E", "positions", "QKV", "O"),
}


def freezing(setup: Setup, options: Options) -> dict:
    """Parts of the transformer kept as they were drawn: which does it need to learn?"""
    law = setup.make_law(options.seed)
    model = setup.transformers(options, repeats=len(FROZEN))
    frozen = [parts for parts in FROZEN.values() for _ in options.model_seeds]
    objective = options.objective(law, setup.objective, options.model_seeds * len(FROZEN), setup.batch_size)
    train(model, objective, setup.training, frozen, title="freezing")
    divergence = evaluate(model, law).divergence.view(len(FROZEN), -1)
    for name, values in zip(FROZEN, divergence):
        print(f"frozen: {name:12} divergence {cell(values)}")
    best = solve(law, setup.n_embd).divergence
    figures.plot_settings(
        options.path("freezing.png"),
        list(FROZEN),
        divergence,
        "frozen at its random start",
        law,
        "What a transformer must learn",
    )
    return {
        "divergence": {name: values.tolist() for name, values in zip(FROZEN, divergence)},
        "optimum": best,
        "random": law.random_divergence(),
    }


def all_skips() -> list[Skips]:
    """Every combination that leaves QK and OV an input."""
    allowed = [
        skip for skip in product((False, True), repeat=5) if not (skip[1] and skip[2]) and not (skip[3] and skip[4])
    ]
    return [Skips(*skip) for skip in sorted(allowed, key=sum)]


def modifications(setup: Setup, options: Options) -> dict:
    """Paths taken out of the transformer, alone and together."""
    law, results, skips = setup.make_law(options.seed), {}, all_skips()
    for skip in skips:
        model = setup.transformers(options, [skip] * options.seeds)
        train(
            model,
            options.objective(law, setup.objective, options.model_seeds, setup.batch_size),
            setup.training,
            title=str(skip),
        )
        results[str(skip)] = evaluate(model, law)
        print(f"skipped: {str(skip):26} divergence {cell(results[str(skip)].divergence)}", flush=True)
    divergence = torch.stack([scores.divergence for scores in results.values()])
    figures.plot_settings(
        options.path("modifications.png"),
        list(results),
        divergence,
        "skipped",
        law,
        "What attention needs to see",
        tall=True,
    )
    return {
        "divergence": {name: scores.divergence.tolist() for name, scores in results.items()},
        "accuracy": {name: scores.accuracy.tolist() for name, scores in results.items()},
        "random": law.random_divergence(),
    }


def attention_maps(setup: Setup, options: Options) -> dict:
    """Where each head looks, for the pairs of tokens that come, and how many independent patterns there are.

    The maps have a row for each token that ever comes first and a column for each that ever comes second. Many of their
    pairs may never come: what heads do there follows from other pairs, and nothing has trained it.
    """
    law = setup.make_law(options.seed)
    model = setup.transformers(options, [Skips(residual=True)] * options.seeds)
    train(
        model,
        options.objective(law, setup.objective, options.model_seeds, setup.batch_size),
        setup.training,
        title="attention_map",
    )
    maps, scores = attention_map(model).cpu().double(), evaluate(model, law)
    comes = torch.zeros(law.vocab_size, law.vocab_size, dtype=torch.bool)
    comes[law.sequences()[0][:, :2].unbind(1)] = True
    first, second = comes.any(1), comes.any(0)
    maps, comes = maps[:, :, first][..., second], comes[first][:, second]  # (M, H, first, second), (first, second)
    generator = torch.Generator().manual_seed(options.seed)
    values, share = shares(maps)
    chance = torch.stack(
        [
            shares(maps.flatten(2)[..., torch.randperm(comes.numel(), generator=generator)].view_as(maps))[1]
            for _ in range(20)
        ]
    ).mean(0)  # a map is positive, so above 0
    given = maps[..., comes]  # (M, H, pairs)
    print(f"divergence {cell(scores.divergence)}, accuracy {cell(scores.accuracy)}")
    print(
        f"{first.sum()} first x {second.sum()} second tokens, {comes.sum()} pairs come; there heads give the first "
        f"token {given.mean():.3f} ± {given.std(-1).mean():.3f}"
    )
    print(
        f"share of the first singular value in the square sum: {share.min():.3f} to {share.max():.3f} over heads and "
        f"seeds; with the map's cells shuffled {chance.min():.3f} to {chance.max():.3f}"
    )
    figures.plot_attention(options.path("attention_map.png"), maps[0], comes, values)
    return {
        "divergence": scores.divergence.tolist(),
        "accuracy": scores.accuracy.tolist(),
        "first tokens": int(first.sum()),
        "second tokens": int(second.sum()),
        "pairs that come": int(comes.sum()),
        "mean attention to the first token": given.mean(-1).tolist(),
        "its standard deviation over pairs": given.std(-1).tolist(),
        "singular values": values.tolist(),
        "share of the first": share.tolist(),
        "the same, cells shuffled": chance.tolist(),
    }


def shares(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values of matrices (..., A, B), and the share of the first in their square sum (...)."""
    values = torch.linalg.svdvals(maps)
    return values, values[..., 0] ** 2 / (values**2).sum(-1)


def contributions(setup: Setup, options: Options) -> dict:
    """What each head adds to the logit of the right token, alone and with the others."""
    law = setup.make_law(options.seed)
    seen = (law.contexts > 0).nonzero()[:, 0]
    answers = law.conditional[seen].argmax(-1)
    model = setup.transformers(options, [Skips(residual=True)] * options.seeds)
    untrained = head_contributions(model).of(seen).only_together(answers)
    train(
        model,
        options.objective(law, setup.objective, options.model_seeds, setup.batch_size),
        setup.training,
        title="heads",
    )
    parts, scores = head_contributions(model).of(seen), evaluate(model, law)
    solo, group = parts.lead(answers)
    alone, together = (solo > 0).double().mean(1), (group > 0).double().mean(1)
    only = parts.only_together(answers)
    shuffled = torch.stack([parts.shifted(by).only_together(answers) for by in range(1, len(seen))]).mean(0)
    print(f"divergence {cell(scores.divergence)}; the right token leads in {cell(together)} of the contexts")
    for head in range(solo.size(2)):
        print(f"head {head} alone: in {cell(alone[:, head])}")
    print(
        f"in {cell(only)} the heads are right together and none is alone; with the heads of different contexts added "
        f"in {cell(shuffled)}, before training in {cell(untrained)}"
    )
    figures.plot_contributions(
        options.path("head_contributions.png"), parts, solo, group, answers, seen, model.lm_head[0].detach().cpu()
    )
    return {
        "divergence": scores.divergence.tolist(),
        "right together": together.tolist(),
        "right alone": alone.tolist(),
        "right by some head": (solo > 0).any(-1).double().mean(1).tolist(),
        "right only together": only.tolist(),
        "the same, heads of different contexts": shuffled.tolist(),
        "the same, untrained": untrained.tolist(),
    }


def superposition(setup: Setup, options: Options) -> dict:
    """N tokens in fewer than N dimensions: the angles between their vectors, in LowRank and in the transformer."""
    N, law = setup.vocab_size, setup.make_law(options.seed)
    seen = (law.contexts > 0).nonzero()[:, 0]
    low, _ = train_low_rank(setup, options, law)
    model = setup.transformers(options)
    train(
        model,
        options.objective(law, setup.objective, options.model_seeds, setup.batch_size),
        setup.training,
        title="transformer",
    )
    best = solve(law, setup.n_embd)
    answers, metrics, shown = law.conditional[seen].argmax(-1), {}, {}
    metrics["contexts of each token"] = torch.bincount(answers, minlength=N).tolist()
    for name, unembedding, hidden, logits in (
        ("LowRank", low.lm_head, low.wte, low.context_logits()),
        ("transformer", model.lm_head, last_residual(model), model.context_logits()),
        ("optimum", best.lm_head[None], best.wte[None], (best.wte @ best.lm_head.T)[None]),
    ):
        U, E = unembedding.detach().cpu().double(), hidden.detach().cpu().double()[:, seen]
        centred = U - U.mean(1, keepdim=True)
        cosine = torch.cosine_similarity(centred[:, :, None], centred[:, None], dim=-1)
        others = cosine.masked_select(~torch.eye(N, dtype=torch.bool)).view(len(U), -1)
        towards = torch.cosine_similarity(E, centred[:, answers], dim=-1)
        scores = score_logits(logits.detach().cpu().double(), [law])
        metrics[name] = {
            "divergence": scores.divergence.tolist(),
            "accuracy": scores.accuracy.tolist(),
            "largest cosine of two tokens": others.max(1).values.tolist(),
            "root mean square cosine": others.square().mean(1).sqrt().tolist(),
            "cosine of a context and its token": towards.mean(1).tolist(),
            "length of each token's vector": centred.norm(dim=-1).tolist(),
        }
        shown[name] = centred[0], E[0], towards
        print(
            f"{name:12} divergence {cell(scores.divergence)}, cosine of two tokens (root mean square) "
            f"{cell(others.square().mean(1).sqrt())}, of a context and its token {cell(towards.mean(1))}"
        )
    tokens = (model.wte[0, None] + model.wpe[0, :2, None]).flatten(0, 1).detach().cpu().double()
    figures.plot_superposition(options.path("superposition.png"), shown, answers, tokens)
    print(f"contexts of each token: {metrics['contexts of each token']}")
    bound = math.sqrt((N - setup.n_embd) / (setup.n_embd * (N - 1)))
    print(f"{N} directions in {setup.n_embd} dimensions: a root mean square cosine of {bound:.3f} at least (Welch)")
    return {**metrics, "Welch bound": bound}


def subspace(setup: Setup, options: Options) -> dict:
    """How far span(W_U) is from the span of the strongest directions of the log-probabilities."""
    N, d = setup.vocab_size, setup.n_embd
    ranks, rows = list(range(d, N + 1)), {"axis-aligned": [], "not aligned": []}
    laws = [
        rank_law([N, N], N, rank, aligned, options.seed + i)[0]
        for aligned in (True, False)
        for rank in ranks
        for i in range(options.seeds)
    ]
    model, _ = train_low_rank(setup, options, laws)
    optima = [solve(law, d).lm_head for law in laws]
    learned = [subspace_distance(U, top_span(law, d)) for U, law in zip(model.lm_head.detach().cpu().double(), laws)]
    found = [subspace_distance(U, top_span(law, d)) for U, law in zip(optima, laws)]
    shape = (2, len(ranks), options.seeds)
    learned, found = torch.tensor(learned).view(shape), torch.tensor(found).view(shape)
    random = random_subspace_distance(N, d)
    for name, a, b in zip(rows, learned, found):
        for rank, one, two in zip(ranks, a, b):
            print(f"{name:13} rank {rank:2}: trained {cell(one)}, optimum {cell(two)}")
    print(f"two random spans: {random:.3f}")
    trained, optima = dict(zip(rows, learned)), dict(zip(rows, found))
    figures.plot_subspace(options.path("subspace.png"), ranks, trained, optima, random, d)
    return {
        "ranks": ranks,
        "trained": dict(zip(rows, learned.tolist())),
        "optimum": dict(zip(rows, found.tolist())),
        "random": random,
    }


def closed_form(setup: Setup, options: Options) -> dict:
    """Four ways to embed contexts of a law almost of rank d, by their divergence."""
    N, d = setup.vocab_size, setup.n_embd
    table = {"trained": [], "closed form, trained W_U": [], "least squares": [], "optimum": []}
    laws = [almost_rank_law([N, N], N, min(d + 1, N), False, options.seed + i) for i in range(options.seeds)]
    model, _ = train_low_rank(setup, options, laws)
    transposed = []
    for law, wte, lm_head in zip(laws, model.wte.detach().cpu().double(), model.lm_head.detach().cpu().double()):
        left, right = least_squares(law, d)
        best = solve(law, d)
        fitted = closed_form_embeddings(lm_head, law)
        table["trained"].append(divergence_of(wte, lm_head, law))
        table["closed form, trained W_U"].append(divergence_of(fitted, lm_head, law))
        table["least squares"].append(divergence_of(left, right, law))
        table["optimum"].append(best.divergence)
        transposed.append(divergence_of(wte.view(N, N, d).transpose(0, 1).reshape(-1, d), lm_head, law))
    for name, values in table.items():
        print(f"{name:26} {' '.join(f'{v:.6f}' for v in values)}   mean {sum(values) / len(values):.6f}")
    figures.plot_closed_form(options.path("closed_form.png"), table, transposed, options.seeds)
    return {**table, "trained, rows paired as in the notebook": transposed}


def divergence_of(wte: Tensor, lm_head: Tensor, law: Law) -> float:
    """Exact divergence of the logits wte . lm_head^T, in nats."""
    return score_logits((wte @ lm_head.T)[None], [law]).divergence.item()


def optimum(setup: Setup, options: Options) -> dict:
    """How far Adam stays from the best logits of a rank that the solver finds, and how long finding those takes."""
    N, rows = setup.vocab_size, []
    laws = {f"geometric {alpha}": geometric_law([1, 1, alpha], [N] * 3, N, options.seed) for alpha in (0.9, 0.6, 0.3)}
    laws["almost of rank"] = almost_rank_law([N, N], N, min(setup.n_embd + 1, N), False, options.seed)
    laws["peaked"] = peaked_law([N, N], N, 0.95, 0, options.seed)
    for name, law in laws.items():
        started = time.perf_counter()
        best = solve(law, setup.n_embd)
        seconds = time.perf_counter() - started
        model, _ = train_low_rank(setup, options, law)
        adam = evaluate(model, law).divergence
        rows.append(
            {
                "law": name,
                "random": law.random_divergence(),
                "optimum": best.divergence,
                "starts": best.starts,
                "seconds": round(seconds, 2),
                "steps": best.iterations,
                "adam": adam.tolist(),
            }
        )
        print(
            f"{name:15} optimum {best.divergence:.5f} ({best.iterations} steps, {seconds:.1f} s; starts end at "
            f"{min(best.starts):.5f} to {max(best.starts):.5f})   Adam {cell(adam)}"
        )
    figures.plot_optimum(options.path("optimum.png"), rows, setup.max_iters, options.seeds)
    return {"rows": rows}


def large_optimum(setup: Setup, options: Options) -> dict:
    """The solver on a large law, with `max_iters` steps and with four times as many: time, and what these gain."""
    law, rows = setup.make_law(options.seed), []
    for steps in (setup.max_iters, 4 * setup.max_iters):
        started, processor = time.perf_counter(), time.process_time()
        best = solve(law, setup.n_embd, max_iters=steps)
        rows.append(
            {
                "at most": steps,
                "seconds": round(time.perf_counter() - started, 1),
                "processor seconds": round(time.process_time() - processor, 1),
                "steps": best.iterations,
                "divergence": best.divergence,
                "starts": best.starts,
                "gradient": best.gradient,
            }
        )
        print(
            f"at most {steps} steps: best found {best.divergence:.4f} of random {law.random_divergence():.4f} in "
            f"{rows[-1]['processor seconds']} s of processor time; starts end at "
            f"{' '.join(f'{end:.4f}' for end in best.starts)}",
            flush=True,
        )
    return {"random": law.random_divergence(), "threads": torch.get_num_threads(), "rows": rows}
