"""The figures of the mechanism, drawn from what the commands write as JSON."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from mingpt.support.plotting import COLORS, figure

TESTED, OTHERS, CHANCE = COLORS["blue"], COLORS["orange"], COLORS["grey"]
OF = {"QK": "Q and K weights of induction heads", "OV": "V and O weights of previous-token heads"}


def scores(out: Path, result: dict, label: str) -> None:
    """Layer x head, one panel for each kind and definition."""
    forms = list(result)[:2]
    rows, columns = np.array(result[forms[0]]["induction"]["mean"]).shape
    with figure(
        out / "scores.png", width=10, height=3 + 0.8 * max(3, rows), rows=2, columns=2, sharex=True, sharey=True
    ) as panels:
        for line, form in zip(panels, forms):
            for axes, (kind, found) in zip(line, result[form].items()):
                table = np.array(found["mean"])
                image = axes.imshow(table, vmin=0, vmax=1, cmap="viridis", aspect="auto")
                for (layer, head), value in np.ndenumerate(table):
                    axes.text(
                        head,
                        layer,
                        f"{value:.2f}".lstrip("0") if value < 0.995 else "1",
                        ha="center",
                        va="center",
                        fontsize=9 if columns <= 8 else 6,
                        color="black" if value > 0.6 else "white",
                    )
                axes.set_title(f"{kind} score\n{form}", fontsize=10)
                axes.set(yticks=range(rows), xticks=range(columns))
                axes.grid(False)
        for axes in panels[:, 0]:
            axes.set_ylabel("layer")
        for axes in panels[1]:
            axes.set_xlabel("head")
        panels[0, 0].figure.colorbar(image, ax=panels, label="mean attention to that token", shrink=0.7)
        panels[0, 0].figure.suptitle(f"Which heads look where? {label}, random tokens that repeat", fontweight="bold")


def diagonal(out: Path, result: dict, label: str) -> None:
    """Two products as heat maps, the matrix of all z, and their histogram."""
    with figure(out / "diagonal_maps.png", width=10, height=8.6, rows=2, columns=2) as panels:
        for column, (pair, blocks) in zip(panels.T, result["blocks"].items()):
            for axes, basis, what in zip(
                column, ("channels", "tokens"), ("residual channel", "token, by its embedding")
            ):
                block = np.array(blocks[basis])
                limit = np.percentile(np.abs(block), 99.5)
                image = axes.imshow(block, cmap="RdBu_r", vmin=-limit, vmax=limit)
                axes.set(title=pair, xlabel=f"{what}: what was read before", ylabel=f"{what}: what is asked for")
                axes.grid(False)
                axes.figure.colorbar(image, ax=axes, shrink=0.8)
        panels[0, 0].figure.suptitle(
            f"W_QK W_OVᵀ has a diagonal where one head reads what the other writes: {label}\n"
            "in the channels of the residual (above) and between tokens (below)",
            fontweight="bold",
        )
    z, allowed = np.array(result["z"]), np.array(result["composable"])
    with figure(out / "diagonal.png", width=11, height=4.4, columns=2, width_ratios=(1, 1.4)) as (left, right):
        image = left.imshow(np.where(allowed, z, np.nan), cmap="viridis", vmin=0, vmax=np.nanmax(z), aspect="auto")
        for (i, j), value in np.ndenumerate(z):
            left.text(
                j,
                i,
                f"{value:.1f}" if allowed[i, j] else "later",
                ha="center",
                va="center",
                fontsize=9 if z.size <= 36 else 6,
                color="black" if not allowed[i, j] or value > 0.6 * z.max() else "white",
            )
        left.set(
            title="z of each pair",
            xlabel="previous-token head (layer.head)",
            ylabel="induction head (layer.head)",
            xticks=range(z.shape[1]),
            xticklabels=result["writers"],
            yticks=range(z.shape[0]),
            yticklabels=result["readers"],
        )
        left.grid(False)
        left.figure.colorbar(image, ax=left)
        values = result["values"]
        bins = np.linspace(min(map(min, values.values())), max(map(max, values.values())), 50)
        for group, color, text in (
            ("gaussian", CHANCE, "random weights"),
            ("others", OTHERS, "other pairs that can compose"),
            ("tested", TESTED, "induction with previous-token heads"),
        ):
            share = np.full(len(values[group]), 100 / len(values[group]))
            right.hist(
                values[group],
                bins=bins,
                color=color,
                alpha=0.75,
                weights=share,
                label=f"{text} ({len(values[group])} pairs)",
            )
        right.set(
            xlabel="z of the diagonal: (its mean − mean of all) / std of all",
            ylabel="share of the pairs of that kind (%)",
            title="against other pairs",
        )
        right.set_ylim(top=1.45 * right.get_ylim()[1])
        right.legend(loc="upper left", fontsize=9)
        left.figure.suptitle(f"Claim 1: how far the diagonal of W_QK W_OVᵀ stands out, {label}", fontweight="bold")


GROUPS = {
    "among induction heads": (COLORS["blue"], "o"),
    "among previous-token heads": (COLORS["green"], "s"),
    "across": (COLORS["purple"], "D"),
    "other heads": (COLORS["orange"], "v"),
    "random": (COLORS["grey"], "x"),
}
NAMES = {
    "among induction heads": "keys of two induction heads",
    "among previous-token heads": "outputs of two previous-token heads",
    "across": "keys of induction, outputs of previous-token heads",
    "other heads": "keys and outputs of other heads",
    "random": "random subspaces",
}


def subspace(out: Path, result: dict, label: str) -> None:
    """Both similarities against the rank, a line for each group of pairs."""
    ranks = [int(rank) for rank in result]
    with figure(out / "subspace.png", width=11, height=4.6, columns=2, sharey=True) as panels:
        for axes, kind, title in zip(
            panels, ("largest", "rms"), ("the best-matching direction", "root mean square of all directions")
        ):
            for shift, (group, (color, marker)) in enumerate(GROUPS.items()):
                found = {rank: result[str(rank)][group][kind] for rank in ranks if group in result[str(rank)]}
                axes.errorbar(
                    [rank + 0.12 * (shift - 2) for rank in found],
                    [value["mean"] for value in found.values()],
                    [value["std"] for value in found.values()],
                    marker=marker,
                    color=color,
                    capsize=2,
                    label=NAMES[group],
                )
            axes.set(xlabel="rank: directions of each head", title=title, xticks=ranks, ylim=(0, 1.02))
        panels[0].set_ylabel("generalised cosine (1: same subspace)")
        panels[0].figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
        panels[0].figure.suptitle(
            f"Claim 2: do heads use the same directions? {label} (bars: std over pairs)", fontweight="bold"
        )


SHUFFLES = {
    "shuffled": (TESTED, "o", "they change places"),
    "foreign": (COLORS["red"], "^", "they get those of other heads"),
    "control": (OTHERS, "s", "as many other heads change places"),
}


def shuffle(out: Path, result: dict, label: str) -> None:
    """Error against how many heads change places; error and probability by position."""
    with figure(out / "shuffle.png", width=13, height=7.8, rows=2, columns=3) as panels:
        for line, component in zip(panels, ("QK", "OV")):
            found, as_it_is = result[component]["counts"], result["as it is"]
            counts, enough = [int(count) for count in found], result[component]["of that kind"]
            shown = str(enough if enough in counts else counts[-1])
            for way, (color, marker, text) in SHUFFLES.items():
                mean = np.array([found[str(count)][way]["error"]["mean"] for count in counts])
                half = 1.96 * np.array([found[str(count)][way]["standard_error"] for count in counts])
                low, high = 100 * (mean - half).clip(0, 1), 100 * (mean + half).clip(0, 1)
                line[0].plot(counts, 100 * mean, marker=marker, color=color, label=text)
                line[0].fill_between(counts, low, high, color=color, alpha=0.2)
                for axes, kind in zip(line[1:], ("error", "probability")):
                    values = 100 * np.array(found[shown][way][f"{kind}_by_position"])
                    axes.plot(range(1, 1 + len(values)), values, marker=".", color=color)
            line[0].axhline(100 * as_it_is["error"]["mean"], color="black", lw=0.9, ls="--", label="model as it is")
            for axes, kind, text in zip(
                line[1:], ("error", "probability"), ("wrong (%)", "probability of the right token (%)")
            ):
                values = 100 * np.array(as_it_is[f"{kind}_by_position"])
                axes.plot(range(1, 1 + len(values)), values, color="black", lw=0.9, ls="--")
                axes.set(
                    xlabel="position in the second copy (tokens)", ylabel=text, title=f"{shown} heads, by position"
                )
                axes.set_xticks(range(2, 1 + len(values), max(2, len(values) // 8)))
            if counts[-1] > enough:
                edges = (enough + 0.5, counts[-1] + 0.3)
                line[0].axvspan(*edges, color=CHANCE, alpha=0.15, lw=0, label="more than there are of that kind")
            line[0].set(xlabel="number of heads", ylabel="wrong predictions (%)", title=OF[component], xticks=counts)
            for axes in line:
                axes.set_ylim(-3, 103)
        legend = panels[1, 0].get_legend_handles_labels()
        panels[0, 0].figure.legend(*legend, loc="outside lower center", ncols=5, fontsize=9)
        n = next(iter(found.values()))["shuffled"]["error"]["n"]
        panels[0, 0].figure.suptitle(
            f"Claim 3: heads that stand in for each other, {label} (bands: 95 % confidence over {n} permutations)",
            fontweight="bold",
        )


def project(out: Path, result: dict, label: str) -> None:
    """Error against the rank taken out, and kept, with random subspaces."""
    with figure(out / "project.png", width=11, height=7.8, rows=2, columns=2, sharex=True, sharey=True) as panels:
        for line, component in zip(panels, ("QK", "OV")):
            ranks = [int(rank) for rank in result[component]]
            for axes, way, title in zip(
                line, ("without", "only"), ("subspace taken out", "nothing but the subspace kept")
            ):
                for kind, color, text in (
                    (way, TESTED, "common subspace"),
                    (f"{way} random", CHANCE, "random subspace"),
                ):
                    mean = np.array([result[component][str(rank)][kind]["error"]["mean"] for rank in ranks])
                    axes.plot(ranks, 100 * mean, marker="o", ms=4, color=color, label=text)
                    if "random" in kind:
                        std = np.array([result[component][str(rank)][kind]["error"]["std"] for rank in ranks])
                        axes.fill_between(
                            ranks, 100 * (mean - std).clip(0, 1), 100 * (mean + std).clip(0, 1), color=color, alpha=0.25
                        )
                axes.axhline(
                    100 * result["as it is"]["error"]["mean"], color="black", lw=0.9, ls="--", label="model as it is"
                )
                side = "keys of induction heads" if component == "QK" else "outputs of previous-token heads"
                axes.set(
                    title=f"{side}\n{title}", ylim=(-3, 103), xscale="log", xticks=ranks[::2], xticklabels=ranks[::2]
                )
                axes.minorticks_off()
            line[0].set_ylabel("wrong predictions (%)")
        for axes in panels[1]:
            axes.set_xlabel("rank of the subspace (log scale)")
        panels[0, 1].legend(fontsize=9)
        n = result["QK"][str(ranks[0])]["only random"]["error"]["n"]
        panels[0, 0].figure.suptitle(
            f"Claim 4: the subspace that copying passes through, {label} (band: std of {n} random ones)",
            fontweight="bold",
        )


def paths(out: Path, result: dict, label: str) -> None:
    """A bar for each input of the induction heads, and each way to cut."""
    places = {"q": "queries", "k": "keys", "v": "values", "qkv": "all three"}
    ways = {
        "all paths": (TESTED, "cut off: previous-token heads, every path"),
        "direct": (COLORS["sky"], "direct path only"),
        "other heads": (CHANCE, "as many other heads instead"),
    }
    with figure(out / "paths.png", width=8, height=4.4) as axes:
        for shift, (way, (color, text)) in enumerate(ways.items()):
            found = [result[f"{place}, {way}"] for place in places]
            bars = axes.bar(
                np.arange(len(places)) + 0.27 * (shift - 1),
                [100 * one["error"]["mean"] for one in found],
                0.25,
                color=color,
                yerr=[196 * one["standard_error"] for one in found],
                capsize=2,
                label=text,
            )
            axes.bar_label(bars, fmt="%.0f", fontsize=8, padding=2)
        axes.set(
            xticks=range(len(places)),
            xticklabels=[f"into {text}" for text in places.values()],
            ylabel="wrong predictions (%)",
            ylim=(0, 108),
            title=f"Without what these heads write, in one input of the induction heads: {label}",
        )
        axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8.5)


def doubts(out: Path, result: dict, label: str) -> None:
    """Single permutations; the notebook's control; how many heads are edited."""
    with figure(out / "doubts.png", width=12.5, height=4.2, columns=3) as (left, middle, right):
        for i, (component, color) in enumerate((("QK", TESTED), ("OV", COLORS["green"]))):
            errors = 100 * np.array(result[component]["one permutation"]["errors"])
            place = i + 0.28 * (np.random.default_rng(0).random(len(errors)) - 0.5)
            left.scatter(place, errors, s=16, color=color, alpha=0.6, edgecolor="none")
            control, hit = (
                100 * np.array(result[component]["control"]["errors"]),
                np.array(result[component]["control"]["hit"]),
            )
            for j, (chosen, shade) in enumerate(((hit, COLORS["red"]), (~hit, CHANCE))):
                place = 2.4 * i + j + 0.28 * (np.random.default_rng(1).random(chosen.sum()) - 0.5)
                middle.scatter(place, control[chosen], s=16, color=shade, alpha=0.6, edgecolor="none")
        left.set(
            xticks=(0, 1),
            xlim=(-0.5, 1.5),
            ylabel="wrong predictions (%)",
            ylim=(-3, 103),
            title="one point, one permutation",
            xticklabels=[
                f"{c}, {result[c]['count']} heads,\n{result[c]['of that kind']} of the kind" for c in ("QK", "OV")
            ],
        )
        middle.set(
            xticks=(0, 1, 2.4, 3.4),
            ylim=(-3, 103),
            title="the notebook's control: any heads",
            xticklabels=[
                "QK,\nsome that\nmatter",
                "QK,\nnone that\nmatters",
                "OV,\nsome that\nmatter",
                "OV,\nnone that\nmatters",
            ],
        )
        many = result["how many edited"]
        counts = [int(count) for count in many["counts"]]
        for way, color, marker in (("without", COLORS["red"], "o"), ("only", TESTED, "s")):
            right.plot(
                counts,
                [100 * row[way] for row in many["counts"].values()],
                marker=marker,
                color=color,
                label="bridge taken out" if way == "without" else "only the bridge kept",
            )
        right.axvline(many["of that kind"], color="black", lw=0.9, ls="--")
        right.set(
            xlabel="heads edited, best previous-token head first\n(dashed: how many there really are)",
            ylim=(-3, 103),
            title=f"outputs edited at rank {many['rank']}",
            xticks=counts,
        )
        right.legend(fontsize=9)
        left.figure.suptitle(f"Variance, controls, or a bug? {label}", fontweight="bold")


DRAW: dict[str, Callable[[Path, dict, str], None]] = {
    "scores": scores,
    "diagonal": diagonal,
    "subspace": subspace,
    "shuffle": shuffle,
    "project": project,
    "paths": paths,
    "doubts": doubts,
}
