"""The figures of the study."""

import math
from pathlib import Path

import numpy as np
import torch

from mingpt.support.plotting import COLORS, figure
from projects.ngram_superposition.distributions import Law

PALETTE = list(COLORS.values())


def band(axes, x, values, color: str, label: str, **style) -> None:
    """The mean over seeds of values (points, seeds), and the range that they cover."""
    values = np.asarray(values)
    axes.plot(x, values.mean(1), color=color, label=label, **style)
    axes.fill_between(x, values.min(1), values.max(1), color=color, alpha=0.2, linewidth=0)


def heat(axes, values, centre: bool = False, **options):
    """A heat map: red above 0, blue below with `centre`, else from 0 to 1. Returns the image."""
    values = np.asarray(values)
    top = np.abs(values).max()
    scale = dict(cmap="RdBu_r", vmin=-top, vmax=top) if centre else dict(cmap="viridis", vmin=0, vmax=1)
    axes.grid(False)
    return axes.imshow(values, interpolation="nearest", **{**scale, **options})


def colour_bar(image, axes, label: str) -> None:
    """The scale beside a heat map, its label on top, where it meets no neighbour's."""
    bar = axes[0].figure.colorbar(image, ax=list(axes), shrink=0.85)
    bar.ax.set_title(label, fontsize=9, loc="left")


def smooth(losses: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of `window` steps at a time, (points, seeds), and the step in the middle of each."""
    count = len(losses) // window
    return (np.arange(count) + 0.5) * window, losses[: count * window].reshape(count, window, -1).mean(1)


def plot_dynamics(path: Path, curves: dict, law: Law, optimum: float, seeds: int) -> None:
    """Divergence and accuracy against step, for both losses."""
    with figure(path, width=9.5, height=3.8, columns=2) as (left, right):
        styles = ((COLORS["orange"], "-", 2.5), (COLORS["blue"], "--", 1.3))  # they coincide where the law is certain
        for (name, (losses, scores)), (color, ls, lw) in zip(curves.items(), styles):
            x, values = smooth(losses.numpy(), max(1, len(losses) // 200))
            left.plot(x, values.mean(1), color=color, lw=0.7, alpha=0.5)
            steps = [step for step, _ in scores]
            band(left, steps, [s.divergence.tolist() for _, s in scores], color, name, ls=ls, lw=lw)
            band(right, steps, [s.accuracy.tolist() for _, s in scores], color, f"trained on {name}", ls=ls, lw=lw)
        left.axhline(law.random_divergence(), color=COLORS["red"], ls="--", label="random: log N - entropy")
        left.axhline(optimum, color=COLORS["green"], ls="--", label="best of the same rank")
        left.set(
            xlabel="step",
            ylabel="divergence (nats)",
            ylim=(min(-0.05, optimum), 1.08 * law.random_divergence()),
            title=f"Divergence, exact (thin: of the batches), {seeds} seeds",
        )
        right.axhline(1 / law.vocab_size, color="black", ls=":", label="random")
        right.set(
            xlabel="step",
            ylabel="likeliest token found",
            ylim=(0, 1.03),
            title="Accuracy over all contexts (ceiling 1)",
        )
        left.legend(loc="upper right", bbox_to_anchor=(1, 0.93), fontsize=8)
        right.legend(loc="upper left", fontsize=8)


def plot_settings(
    path: Path, names: list[str], divergence: torch.Tensor, label: str, law: Law, title: str, tall: bool = False
) -> None:
    """One line for each row of divergence (settings, seeds), a dot for each seed; logarithmic where it has to be."""
    values, places = divergence.numpy(), np.arange(len(names))
    with figure(path, width=7.5, height=5.4 if tall else 3.8) as axes:
        axes.plot(values.mean(1), places, "|", color=COLORS["blue"], ms=16, mew=3, label="mean")
        axes.plot(values, places[:, None].repeat(values.shape[1], 1), ".", color="black", ms=5)
        axes.axvline(law.random_divergence(), color=COLORS["red"], ls="--", label="random: log N - entropy")
        axes.set_yticks(places, names)
        wide = values.max() > 20 * values.min()
        axes.set(
            xlabel="divergence after training (nats)",
            ylabel=label,
            xscale="log" if wide else "linear",
            xlim=(None if wide else 0, None),
            ylim=(len(names) - 0.5, -0.5),
            title=f"{title}  (dots: {values.shape[1]} seeds)",
        )
        axes.legend(fontsize=8)


def plot_attention(path: Path, maps: torch.Tensor, comes: torch.Tensor, values: torch.Tensor) -> None:
    """The maps (H, first, second) of one model, pairs that never come faded, and the singular values (M, H, first)."""
    heads = len(maps)
    with figure(path, width=3.2 * heads + 3.6, height=3.8, columns=heads + 1) as axes:
        for head in range(heads):
            image = heat(axes[head], maps[head], aspect="auto", alpha=torch.where(comes, 1.0, 0.2).numpy())
            axes[head].set(
                title=f"head {head}",
                xlabel=f"second token (number of {comes.size(1)})",
                ylabel=f"first token (number of {comes.size(0)})" if head == 0 else None,
            )
        axes[0].set_title(f"head 0 (faded: {(~comes).sum()} of {comes.numel()} pairs,\nwhich never come)", fontsize=10)
        colour_bar(image, axes[:heads], "attention\nto first")
        count = min(12, values.size(-1))
        for head in range(heads):
            for i, row in enumerate(values[:, head, :count]):
                axes[-1].plot(
                    range(1, 1 + count),
                    row,
                    "o-",
                    ms=3,
                    color=PALETTE[head],
                    alpha=0.7,
                    label=f"head {head}" if i == 0 else None,
                )
        axes[-1].set(
            title=f"Singular values of these maps,\n{len(values)} seeds",
            xlabel="number",
            ylabel="singular value",
            xticks=range(1, count + 1, 2),
            ylim=(0, None),
        )
        axes[-1].legend(fontsize=8)


def plot_contributions(path: Path, parts, solo, group, answers, contexts, lm_head) -> None:
    """One model: the lead of the right token by head and together; one context in full, and W_U W_U^T.

    parts, solo, group, answers   of the contexts that come, whose numbers are `contexts`
    """
    order = group[0].argsort(descending=True)
    heads, N = solo.size(2), parts.logits.size(-1)
    example = order[len(order) // 2].item()
    first, second = divmod(contexts[example].item(), N)
    gram = lm_head @ lm_head.T
    with figure(path, width=11, height=7.4, rows=2, columns=3) as axes:
        for head in range(min(heads, 2)):
            axes[0, head].bar(range(len(order)), solo[0, order, head].numpy(), 1.0, color=PALETTE[head])
            axes[0, head].set(title=f"head {head} alone")
        axes[0, 2].bar(range(len(order)), group[0, order].numpy(), 1.0, color=COLORS["green"])
        axes[0, 2].set(title="all heads together")
        for ax in axes[0]:
            ax.sharey(axes[0, 0])
            ax.set(xlabel="context, by the joint lead")
            ax.axhline(0, color="black", lw=0.8)
        axes[0, 0].set_ylabel("lead of the right token (logits)")
        table = torch.cat((parts.logits[0, example], parts.logits[0, example].sum(0, keepdim=True))).T
        image = heat(axes[1, 0], table, True, aspect="auto")
        axes[1, 0].set_xticks(range(heads + 1), [f"head {h}" for h in range(heads)] + ["all"])
        axes[1, 0].set(title=f"Logits after ({first}, {second}), followed by {answers[example].item()}", ylabel="token")
        colour_bar(image, axes[1, :1], "logit")
        image = heat(axes[1, 1], gram, True)
        axes[1, 1].set(title=r"$W_U W_U^T$", xlabel="token", ylabel="token")
        colour_bar(image, axes[1, 1:2], "product")
        image = heat(axes[1, 2], gram * parts.tokens[0, example].sum(0), True)
        axes[1, 2].set(
            title="The same times the written coordinates:\nrows add up to the logits",
            xlabel="coordinate (token)",
            ylabel="logit of token",
        )
        colour_bar(image, axes[1, 2:], "product")
        for ax in axes[1]:
            ax.set_yticks(range(N))
        for ax in axes[1, 1:]:
            ax.set_xticks(range(N))


def plot_superposition(path: Path, shown: dict, answers: torch.Tensor, tokens: torch.Tensor) -> None:
    """Products of tokens' and of contexts' vectors, and cosines of each context with its token."""
    order = answers.argsort(stable=True)
    with figure(path, width=13.5, height=6.8, rows=2, columns=4) as axes:
        for row, name in enumerate(("LowRank", "transformer")):
            U, E, towards = shown[name]
            image = heat(axes[row, 0], U @ U.T, True)
            axes[row, 0].set(title=f"{name}: tokens\n" r"$W_U W_U^T$, centred", xlabel="token", ylabel="token")
            colour_bar(image, axes[row, :1], "product")
            direction = E / E.norm(dim=1, keepdim=True)
            image = heat(axes[row, 1], (direction @ direction.T)[order][:, order], True)
            axes[row, 1].set(title=f"{name}: contexts,\nby likeliest token", xlabel="context", ylabel="context")
            colour_bar(image, axes[row, 1:2], "cosine")
            least = towards.min().item()
            axes[row, 2].hist(towards.flatten().numpy(), np.linspace(least, 1, 31), color=COLORS["blue"])
            axes[row, 2].set(
                title=f"{name}: a context and\nits likeliest token, {len(towards)} seeds",
                xlabel="cosine (note the range)",
                ylabel="contexts",
                box_aspect=1,
            )
        U, E, towards = shown["optimum"]
        image = heat(axes[0, 3], U @ U.T, True)
        axes[0, 3].set(title="best found: tokens\n" r"$W_U W_U^T$, centred", xlabel="token", ylabel="token")
        colour_bar(image, axes[0, 3:], "product")
        image = heat(axes[1, 3], tokens @ tokens.T, True)
        half = len(tokens) // 2
        axes[1, 3].set(
            title="transformer: inputs\n" r"$(W_E + pos)(W_E + pos)^T$",
            xlabel="token at position 0 | at position 1",
            ylabel="token at 1 | at 0",
        )
        ticks = range(0, len(tokens), max(1, half // 5))
        for axis, line in ((axes[1, 3].xaxis, axes[1, 3].axvline), (axes[1, 3].yaxis, axes[1, 3].axhline)):
            axis.set_ticks(ticks, [str(tick % half) for tick in ticks], fontsize=8)
            line(half - 0.5, color="black", lw=0.8)
        colour_bar(image, axes[1, 3:], "product")
        for ax in (axes[0, 0], axes[1, 0], axes[0, 3]):
            ax.set(xticks=range(len(U)), yticks=range(len(U)))


def plot_subspace(path: Path, ranks: list[int], trained: dict, optima: dict, random: float, d: int) -> None:
    """Distance of spans against the rank of the law's log-probabilities."""
    with figure(path, width=7, height=4.2) as axes:
        for name, color in zip(trained, (COLORS["blue"], COLORS["orange"])):
            band(axes, ranks, trained[name], color, f"{name}, trained", marker="o", ms=4)
            band(axes, ranks, optima[name], color, f"{name}, optimum", ls="--")
        axes.axhline(random, color=COLORS["grey"], ls=":", label="two random spans")
        seeds = len(next(iter(trained.values()))[0])
        axes.set(
            xlabel="rank of the log-probabilities",
            ylabel="distance of the projections",
            xticks=ranks,
            ylim=(-0.05, 1.3 * random),
            title=f"span(W_U) and the top {d} directions of the law  ({seeds} laws each)",
        )
        axes.legend(fontsize=8, loc="upper left", ncols=3)


def plot_closed_form(path: Path, table: dict[str, list[float]], transposed: list[float], seeds: int) -> None:
    """Divergences, a dot for each law; the notebook's pairing of rows beside them."""
    rows = {**table, "trained, rows paired\nas in the notebook": transposed}
    with figure(path, width=7, height=3.2) as axes:
        for place, (name, values) in enumerate(rows.items()):
            color = COLORS["red"] if name not in table else COLORS["blue"]
            axes.plot(values, [place] * len(values), "o", color=color, alpha=0.8)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set(
            xlabel="divergence (nats)",
            xlim=(0, None),
            ylim=(len(rows) - 0.5, -0.5),
            title=f"Embeddings of contexts  (dots: {seeds} laws)",
        )
        axes.ticklabel_format(axis="x", scilimits=(-2, 2))


def plot_optimum(path: Path, rows: list[dict], steps: int, seeds: int) -> None:
    """Adam against the best found, for each law."""
    with figure(path, width=7, height=3.6) as axes:
        for place, row in enumerate(rows):
            names = (f"Adam, {steps:,} steps, {seeds} seeds", "best found", "random") if place == 0 else (None,) * 3
            axes.plot(row["adam"], [place] * len(row["adam"]), "o", color=COLORS["orange"], label=names[0])
            axes.plot(row["optimum"], place, "|", color=COLORS["green"], ms=18, mew=3, label=names[1])
            axes.plot(row["random"], place, "x", color=COLORS["red"], label=names[2])
        axes.set_yticks(range(len(rows)), [row["law"] for row in rows])
        axes.set(
            xscale="log",
            xlabel="divergence (nats)",
            ylim=(len(rows) - 0.5, -0.5),
            title="How far training stays from the best of its rank",
        )
        axes.legend(fontsize=8, loc="upper left")


NICE = {
    "vocab_size": "tokens N",
    "n_embd": "width d",
    "n_parallel": "parallel heads",
    "n_head": "heads of a module, d = 6",
    "n_layer": "layers",
    "width": "MLP width",
    "depth": "MLP depth, width 16",
    "fall": "fall of the token's law, ln(1/alpha)",
}


def plot_scaling(path: Path, rows: list[dict], fits: dict, seeds: int) -> None:
    """What the divergence exceeds the optimum by, against each number of the shape, with the fit and its exponent."""
    sweeps, columns = list(fits), 3
    lines = math.ceil((len(sweeps) + 1) / columns)  # one place more, for the legend
    with figure(path, width=3.6 * columns, height=3.1 * lines, rows=lines, columns=columns) as grid:
        for ax, sweep in zip(grid.flat, sweeps):
            chosen = [row for row in rows if row["sweep"] == sweep]
            x = np.array([row["value"] for row in chosen])
            excess = np.array([row["divergence"] - row["optimum"] for row in chosen])
            values = sorted(set(x))
            ax.set(xscale="log", yscale="log", xlabel=NICE[sweep], title="no fit: an excess is not positive")
            if sweep == "fall":  # a thin line for each shape
                names = ("N", "d", "n_layer", "para", "n_head", "width", "depth")
                shapes = [tuple(row[name] for name in names) for row in chosen]
                for shape in dict.fromkeys(shapes):
                    here = np.array([shape == other for other in shapes])
                    ax.plot(
                        values,
                        [excess[here & (x == value)].mean() for value in values],
                        color=COLORS["grey"],
                        lw=0.6,
                        alpha=0.7,
                    )
                ax.set_xticks(values, [f"{value:.2f}" for value in values])
            else:
                laws = [(row["alpha_1"], row["alpha_2"]) for row in chosen]
                optima = np.array([row["optimum"] for row in chosen])
                for law, color in zip(sorted(set(laws)), PALETTE):
                    here = np.array([law == other for other in laws])
                    band(
                        ax,
                        values,
                        [excess[here & (x == value)] for value in values],
                        color,
                        f"{law[0]}, {law[1]}",
                        marker="o",
                        ms=3,
                        lw=1,
                    )
                    ax.plot(values, [optima[here & (x == value)][0] for value in values], color=color, ls=":", lw=1)
                ax.set_xticks(values, [str(int(value)) for value in values])
            fit = fits[sweep].get("excess")
            if fit:
                middle = np.log(excess).mean() - fit.exponent * np.log(x).mean()
                ax.plot(values, np.exp(middle) * np.array(values) ** fit.exponent, color="black", ls="--", lw=1.8)
                ax.set_title(f"exponent {fit.exponent:.2f} [{fit.low:.2f}, {fit.high:.2f}]")
            ax.minorticks_off()
        for ax in grid[:, 0]:
            ax.set_ylabel("excess divergence (nats)")
        for ax in list(grid.flat)[len(sweeps) :]:
            ax.axis("off")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        title = (
            "divergence less that of the best of rank d;\n"
            f"a line for each law, alphas of context, token;\nband: {seeds} seeds\n"
            "dotted: the divergence of the best itself\nblack: fitted power of the excess\n"
            "grey, last panel: a line for each shape"
        )
        list(grid.flat)[len(sweeps)].legend(handles, labels, title=title, fontsize=8, title_fontsize=8, loc="center")


def plot_memorization(
    path: Path, rows: list[dict], published: dict, N: int, associations: int, bound, seeds: int
) -> None:
    """Accuracy against heads, head size and width; the published points and the bound beside it."""
    titles = {"heads": "heads H", "head_dim": "head size $d_h$", "n_embd": "width d"}
    with figure(path, width=11, height=3.7, columns=3, sharey=True) as axes:
        for ax, sweep in zip(axes, titles):
            chosen = [row for row in rows if row["sweep"] == sweep]
            values = sorted({row[sweep] for row in chosen})
            table = [[row["accuracy"] for row in chosen if row[sweep] == value] for value in values]
            band(ax, values, table, COLORS["blue"], f"ours, {seeds} seed{'s' * (seeds > 1)}", marker="o", ms=4)
            if sweep in published:
                ax.plot(
                    list(published[sweep]),
                    list(published[sweep].values()),
                    "s",
                    mfc="none",
                    color=COLORS["orange"],
                    label="published",
                )
            ax.plot(
                values,
                [next(row["bound"] for row in chosen if row[sweep] == value) for value in values],
                color=COLORS["green"],
                ls="--",
                label="bound: $H d_h + d$ stored",
            )
            ax.axhline(1 / N, color="black", ls=":", label="guessing")
            names = {"heads": "H", "head_dim": "$d_h$", "n_embd": "d"}
            others = ", ".join(f"{name} = {chosen[0][key]}" for key, name in names.items() if key != sweep)
            ax.set(xlabel=titles[sweep], title=others, ylim=(0, 1.03))
        axes[0].set_ylabel(f"share of {associations:,} associations recalled")
        axes[0].legend(fontsize=8)
