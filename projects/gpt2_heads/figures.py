"""The figures of `isolate`: one layer in close-up (layer2_*.png), all layers at a glance (all_*.png)."""

import math
from pathlib import Path

import numpy as np
from torch import Tensor

from mingpt.support.plotting import COLORS, figure
from projects.gpt2_heads.density import gaussian_kde, scott_bandwidth
from projects.gpt2_heads.isolate import Heads, last_token_products, same_and_different, turned, uniform_weights, weights

SAME, DIFFERENT, CHANCE = COLORS["green"], COLORS["red"], COLORS["grey"]
GROUPS = {
    "last to others": COLORS["green"],
    "last to first": COLORS["orange"],
    "self, later tokens": COLORS["blue"],
    "self, first token": COLORS["grey"],
}


def draw_all(out: Path, heads: Heads, layers: list[dict], labels: list[str], layer: int, name: str, seed: int) -> None:
    """Every figure, into the folder `out`; `layers` is what `measure` gives."""
    products, chance = (same_and_different(last_token_products(heads.q, k)) for k in (heads.k, turned(heads.k, seed)))
    groups = weights(heads.pattern)
    where = f"layer {layer} of {name}"
    descriptives(out / f"layer{layer}_descriptives.png", layers[layer]["heads"], where)
    scores(
        out / f"layer{layer}_scores.png",
        [x[layer].numpy() for x in products],
        [x[layer].numpy() for x in chance],
        where,
        seed,
    )
    dots(out / f"layer{layer}_weights.png", {key: group[layer].numpy() for key, group in groups.items()}, labels, where)
    densities(out / f"layer{layer}_densities.png", {key: group[layer].numpy() for key, group in groups.items()}, where)
    patterns(out / f"layer{layer}_patterns.png", heads.pattern[layer], labels, where)
    all_descriptives(out / "all_descriptives.png", layers, name)
    all_scores(out / "all_scores.png", layers, name)
    all_weights(out / "all_weights.png", layers, len(labels), name)
    all_densities(
        out / "all_densities.png",
        [{key: group[i].numpy() for key, group in groups.items()} for i in range(len(layers))],
        name,
    )
    atlas(out / "all_patterns.png", heads.pattern, name)
    kde_demo(out / "kde_demo.png")


# ----------------------------------------------------------------------------------------------------------------------
# One layer


def descriptives(path: Path, heads: dict, where: str) -> None:
    """Means and standard deviations of Q and K per head, and Q against K."""
    H = len(heads["q_mean"])
    with figure(path, width=12, height=3.8, columns=3) as (left, middle, right):
        for key, label, shift, color, marker in (
            ("q", "queries", -0.2, COLORS["blue"], "s"),
            ("k", "keys", 0, COLORS["orange"], "o"),
            ("v", "values", 0.2, COLORS["green"], "^"),
        ):
            left.errorbar(
                np.arange(H) + shift,
                heads[f"{key}_mean"],
                heads[f"{key}_std"],
                fmt=marker,
                ms=5,
                color=color,
                label=label,
                capsize=2,
            )
        left.axhline(0, color="black", lw=0.8)
        left.set(
            xlabel="head",
            ylabel="activation",
            title="mean ± std over tokens and channels",
            xticks=range(0, H, -(-H // 12)),
        )
        left.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16))
        for axes, key, title in ((middle, "mean", "means"), (right, "std", "standard deviations")):
            axes.scatter(heads[f"q_{key}"], heads[f"k_{key}"], s=90, color=COLORS["sky"], edgecolor="black")
            for h, (x, y) in enumerate(zip(heads[f"q_{key}"], heads[f"k_{key}"])):
                axes.annotate(str(h), (x, y), xytext=(7, 4), textcoords="offset points", fontsize=8)
            axes.set(xlabel=f"queries: {key}", ylabel=f"keys: {key}", title=f"{title}, a point a head")
        left.figure.suptitle(f"Queries, keys and values in {where} (without the first token)", fontweight="bold")


def scores(path: Path, products: list[np.ndarray], chance: list[np.ndarray], where: str, seed: int) -> None:
    """Products of the last query with earlier keys: same head, different heads, and what turned keys give."""
    with figure(path, width=12, height=4.2, columns=2, width_ratios=(1, 1.3)) as (left, right):
        names = ["same\nhead", "different\nheads", "same head,\nkeys turned", "different,\nkeys turned"]
        samples = [sample for sample in (*products, *chance) if len(sample)]  # a single head has no other
        names, colors = (
            (names, (SAME, DIFFERENT, CHANCE, CHANCE)) if len(samples) == 4 else (names[::2], (SAME, CHANCE))
        )
        for place, (sample, color) in enumerate(zip(samples, colors)):
            scatter(left, place, sample, color)
            left.plot([place - 0.3, place + 0.3], [sample.mean()] * 2, color="black", lw=2)
        left.axhline(0, color="black", lw=0.8)
        left.set_xticks(range(len(names)), names)
        left.set(
            ylabel="query · key (not divided by √D)", title="last token with each earlier one but the first (bar: mean)"
        )
        left.grid(axis="x", visible=False)
        grid = np.linspace(min(s.min() for s in samples), max(s.max() for s in samples), 400)
        for sample, color, label in ((products[0], SAME, "same head"), (products[1], DIFFERENT, "different heads")):
            if len(sample) < 2 or sample.min() == sample.max():
                continue
            heights, edges = np.histogram(sample, bins=40)
            density = gaussian_kde(sample, grid)
            right.stairs(
                heights / heights.max() * density.max() / density.max(), edges, fill=True, color=color, alpha=0.3
            )
            right.plot(grid, density / density.max(), color=color, lw=2, label=f"{label} (n = {len(sample):,})")
        turned_density = gaussian_kde(chance[0], grid)
        right.plot(
            grid,
            turned_density / turned_density.max(),
            color=CHANCE,
            lw=1.5,
            ls="--",
            label="same head, keys turned at random",
        )
        right.axvline(0, color="black", lw=0.8)
        right.set(
            xlabel="query · key",
            ylabel="density (highest point = 1)",
            title="histograms, and Gaussian densities with Scott's bandwidth",
        )
        right.legend(loc="upper left", fontsize=8)
        right.set_ylim(0, 1.35)
        left.figure.suptitle(f"Raw scores in {where} (one random turn, seed {seed})", fontweight="bold")


def scatter(axes, place: float, sample: np.ndarray, color: str, most: int = 1500) -> None:
    """A strip of points around `place`, spread sideways; an even selection of them where there are more than `most`."""
    shown = np.sort(sample)[np.linspace(0, len(sample) - 1, min(most, len(sample))).round().astype(int)]
    sideways = np.random.default_rng(0).uniform(-0.22, 0.22, len(shown))
    axes.plot(place + sideways, shown, "o", ms=3.5, color=color, alpha=0.35, mew=0)


def dots(path: Path, groups: dict[str, np.ndarray], labels: list[str], where: str) -> None:
    """Attention weights: last token to others and to the first, tokens to themselves, the first to itself."""
    chance = uniform_weights(len(labels))
    with figure(path, width=9, height=4.2) as axes:
        for place, (name, color) in enumerate(GROUPS.items()):
            scatter(axes, place, groups[name], color)
            axes.plot(
                [place - 0.3, place + 0.3],
                [groups[name].mean()] * 2,
                color="black",
                lw=2,
                label="mean" if place == 0 else None,
            )
            axes.plot(
                [place - 0.3, place + 0.3],
                [chance[name]] * 2,
                color="black",
                lw=1.2,
                ls=":",
                label="if all visible tokens got the same" if place == 0 else None,
            )
        axes.set_xticks(
            range(4),
            [
                "last token\nto others",
                "last token\nto the first",
                "later tokens\nto themselves",
                "first token to itself\n(it sees no other: always 1)",
            ],
        )
        axes.set(ylabel="attention weight", ylim=(-0.03, 1.05), title=f"Attention weights in {where}, all heads")
        axes.grid(axis="x", visible=False)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def densities(path: Path, groups: dict[str, np.ndarray], where: str) -> None:
    """Histogram and density of the weights, whole and in close-up."""
    with figure(path, width=12, height=4.0, columns=2) as (left, right):
        for axes, top, title in ((left, 1.05, "whole"), (right, 0.1, "the lowest tenth of the height")):
            density_curves(axes, groups)
            axes.set(
                xlim=(0, 1), ylim=(0, top), xlabel="attention weight", ylabel="density (highest point = 1)", title=title
            )
        left.legend(fontsize=8)
        left.figure.suptitle(
            f"Distribution of attention weights in {where}: histograms, and Gaussian densities with Scott's bandwidth",
            fontweight="bold",
        )


def density_curves(axes, groups: dict[str, np.ndarray], histogram: bool = True) -> None:
    """Densities of the last token's weights on earlier ones, and of self-attention, each scaled to a height of 1."""
    grid = np.linspace(0, 1, 400)
    for name, color, label in (
        ("last to previous", SAME, "last token to earlier ones"),
        ("self, later tokens", DIFFERENT, "tokens to themselves"),
    ):
        sample = groups[name]
        if sample.min() == sample.max():
            continue
        if histogram:
            heights, edges = np.histogram(sample, bins=40, range=(0, 1))
            axes.stairs(heights / heights.max(), edges, fill=True, color=color, alpha=0.25)
        density = gaussian_kde(sample, grid)
        axes.plot(
            grid,
            density / density.max(),
            color=color,
            lw=2,
            label=f"{label} (n = {len(sample)}, bandwidth {scott_bandwidth(sample):.2g})",
        )


def patterns(path: Path, pattern: Tensor, labels: list[str], where: str) -> None:
    """Each head's pattern (H, T, T), with the tokens along the edges of the sheet."""
    H, T = pattern.shape[:2]
    columns = math.ceil(math.sqrt(H))
    rows = -(-H // columns)
    side = min(max(2.2, 0.095 * T), 6.0)
    with figure(
        path,
        width=columns * side + 1.8,
        height=rows * side + 1.6,
        rows=rows,
        columns=columns,
        squeeze=False,
        sharex=True,
        sharey=True,
    ) as grid:
        step = max(1, -(-T // int(side * 11)))
        for h, axes in enumerate(grid.flat):
            axes.grid(visible=False)
            if h >= H:
                axes.set_visible(False)
                continue
            image = axes.imshow(pattern[h].sqrt().numpy(), vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
            axes.set_title(f"head {h}")
            axes.set_xticks(range(0, T, step), labels[::step], rotation=90, fontsize=6)
            axes.set_yticks(range(0, T, step), labels[::step], fontsize=6)
            axes.tick_params(length=2, labelbottom=h + columns >= H)
        bar = image.figure.colorbar(image, ax=grid, shrink=0.5, label="attention weight")
        bar.set_ticks(np.sqrt([0, 0.05, 0.2, 0.5, 1]), labels=["0", "0.05", "0.2", "0.5", "1"])
        image.figure.supxlabel("token looked at")
        image.figure.supylabel("token that looks")
        image.figure.suptitle(f"Attention patterns in {where}", fontweight="bold")


# ----------------------------------------------------------------------------------------------------------------------
# All layers


def table(layers: list[dict], name: str) -> np.ndarray:
    """A number of each head, (n_layer, n_head)."""
    return np.array([layer["heads"][name] for layer in layers])


def heat_maps(path: Path, tables: dict[str, np.ndarray], columns: int, title: str, weights_too: bool = False) -> None:
    """A heat map (layer, head) for each table; of weights on a scale from 0 to 1, of others on their own."""
    L, H = next(iter(tables.values())).shape
    rows = -(-len(tables) // columns)
    with figure(
        path,
        width=columns * max(2.9, 0.32 * H + 1.2),
        height=rows * max(2.2, 0.26 * L + 1.2) + 0.4,
        rows=rows,
        columns=columns,
        squeeze=False,
    ) as grid:
        for axes, (name, values) in zip(grid.flat, tables.items()):
            most = np.abs(values).max() or 1.0
            signed = values.min() < 0
            image = axes.imshow(
                values,
                cmap="RdBu_r" if signed else "Blues",
                vmin=-most if signed else 0,
                vmax=1 if weights_too else most,
                aspect="auto",
                interpolation="nearest",
            )
            axes.set(
                title=name,
                xlabel="head",
                ylabel="layer",
                xticks=range(0, H, -(-H // 8)),
                yticks=range(0, L, -(-L // 8)),
            )
            axes.grid(visible=False)
            axes.figure.colorbar(image, ax=axes)
        grid[0, 0].figure.suptitle(title, fontweight="bold")


def all_descriptives(path: Path, layers: list[dict], name: str) -> None:
    """Mean and standard deviation of Q, K, V of every head."""
    tables = {
        f"{label}: {what}": table(layers, f"{key}_{short}")
        for short, what in (("mean", "mean"), ("std", "standard deviation"))
        for key, label in (("q", "queries"), ("k", "keys"), ("v", "values"))
    }
    heat_maps(path, tables, 3, f"Activations of every head of {name} (without the first token)")


def all_weights(path: Path, layers: list[dict], T: int, name: str) -> None:
    """Where the weight of every head goes."""
    tables = {
        "last token: to the first": table(layers, "last_to_first"),
        "last token: to those between": table(layers, "last_to_others_sum"),
        "last token: to itself": table(layers, "last_to_self"),
        "later tokens: to the first": table(layers, "first_mean"),
        "later tokens: to the one before": table(layers, "previous_mean"),
        "later tokens: to themselves": table(layers, "self_mean"),
    }
    heat_maps(path, tables, 3, f"Where every head of {name} looks: shares of attention, {T} tokens", weights_too=True)


def all_scores(path: Path, layers: list[dict], name: str) -> None:
    """Quantiles of the last token's products, layer by layer."""
    with figure(path, width=max(7, 0.75 * len(layers) + 3), height=4.2) as axes:
        for key, shift, color in (
            ("same head", -0.22, SAME),
            ("different heads", 0, DIFFERENT),
            ("same head, keys turned", 0.22, CHANCE),
        ):
            for i, layer in enumerate(layers):
                numbers = layer["products"][key]
                if not numbers["n"]:
                    continue
                axes.plot([i + shift] * 2, [numbers["p5"], numbers["p95"]], color=color, lw=2)
                axes.plot([i + shift] * 2, [numbers["p25"], numbers["p75"]], color=color, lw=7, solid_capstyle="butt")
                axes.plot(i + shift, numbers["p50"], "o", color="white", mec=color, ms=6, label=key if i == 0 else None)
        axes.axhline(0, color="black", lw=0.8)
        axes.set(
            xlabel="layer",
            ylabel="query · key (not divided by √D)",
            xticks=range(len(layers)),
            title=f"Last token's scores in {name}, first token left out\n"
            "(ring: median; thick: middle half; thin: 5th to 95th percentile)",
        )
        axes.title.set_size(10)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def all_densities(path: Path, groups: list[dict[str, np.ndarray]], name: str) -> None:
    """The density curves of each layer."""
    columns = min(4, len(groups))
    rows = -(-len(groups) // columns)
    with figure(
        path,
        width=3.1 * columns,
        height=2.5 * rows + 0.7,
        rows=rows,
        columns=columns,
        squeeze=False,
        sharex=True,
        sharey=True,
    ) as grid:
        for i, axes in enumerate(grid.flat):
            if i >= len(groups):
                axes.set_visible(False)
                continue
            density_curves(axes, groups[i], histogram=False)
            axes.set(title=f"layer {i}", xlim=(0, 1), ylim=(0, 1.05))
        drawing = grid[0, 0].figure
        drawing.supxlabel("attention weight")
        drawing.supylabel("density (highest = 1)")
        drawing.suptitle(
            f"Attention weights in {name}\nlast token to earlier ones (green), tokens to themselves (red)",
            fontweight="bold",
        )


def atlas(path: Path, pattern: Tensor, name: str) -> None:
    """The patterns (L, H, T, T) of all heads, small."""
    L, H = pattern.shape[:2]
    side = 1.7 if H <= 6 else 1.0
    with figure(path, width=H * side + 0.6, height=L * side + 0.9, rows=L, columns=H, squeeze=False) as grid:
        for layer in range(L):
            for head in range(H):
                axes = grid[layer, head]
                axes.imshow(
                    pattern[layer, head].sqrt().numpy(), vmin=0, vmax=1, cmap="Blues", interpolation="antialiased"
                )
                axes.set(xticks=[], yticks=[])
                if layer == 0:
                    axes.set_title(f"head {head}", fontsize=9)
                if head == 0:
                    axes.set_ylabel(f"layer {layer}", fontsize=9)
        grid[0, 0].figure.suptitle(
            f"All attention patterns of {name}\n(row: token that looks; darker: more, by the square root)",
            fontweight="bold",
            fontsize=10,
        )


# ----------------------------------------------------------------------------------------------------------------------


def kde_demo(path: Path) -> None:
    """What a kernel density estimate is: five values, a normal curve around each, and their mean."""
    sample, grid = np.array([-1.6, 0.3, 0.45, 0.6, 1.3]), np.linspace(-2.5, 2.5, 400)
    scott = scott_bandwidth(sample)
    with figure(path, width=10, height=3.4, columns=3, sharey=True) as panels:
        for axes, h, what in zip(panels, (0.1, 0.25, scott), ("narrow", "wider", "Scott's rule")):
            for x in sample:
                axes.plot(grid, gaussian_kde([x], grid, h) / len(sample), color=COLORS["grey"], lw=1)
            axes.plot(sample, np.zeros(len(sample)), "|", ms=14, mew=2, color=COLORS["red"], clip_on=False)
            axes.plot(grid, gaussian_kde(sample, grid, h), color=COLORS["blue"], lw=2)
            axes.set(title=f"bandwidth {h:.2g} ({what})", xlabel="value", xlim=(-2.5, 2.5), ylim=(0, None))
        panels[0].set_ylabel("density (per unit)")
        panels[0].figure.suptitle(
            "A density estimate is the mean of a normal curve around each value (red marks)", fontweight="bold"
        )
