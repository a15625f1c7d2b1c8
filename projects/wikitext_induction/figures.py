"""The figures of the study. Runs come as in report.py: net -> its runs, one a seed."""

from pathlib import Path

import numpy as np
from torch import Tensor

from mingpt.support.plotting import COLORS, figure
from projects.wikitext_induction.nets import VARIANTS
from projects.wikitext_induction.taps import TAPS, channel_ratio, uniform_bound


def seeds_of(runs: dict[str, list[dict]]) -> str:
    """How many seeds the nets of a table or a figure have, in words."""
    fewest, most = min(map(len, runs.values())), max(map(len, runs.values()))
    return "1 seed" if most == 1 else f"{most} seeds" if fewest == most else f"{fewest} to {most} seeds"


def draw_curves(axes, runs: dict[str, list[dict]], value: str, x: str, least: float | None = None) -> None:
    """One line for each net that has `value`: the mean over seeds, in a band from the lowest to the highest."""
    for name, found in runs.items():
        variant = VARIANTS[name]
        if value not in found[0]["curve"][-1]:
            continue
        steps = [point[x] for point in found[0]["curve"]]
        values = np.array([[point[value] for point in run["curve"]] for run in found])
        color, style = COLORS[variant.color], "--" if variant.dashed else "-"
        axes.plot(steps, values.mean(axis=0), style, color=color, label=variant.label)
        axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=color, alpha=0.2, linewidth=0)
    if least is not None:
        axes.axhline(least, color="black", lw=0.8, ls=":")


def plot_phase_change(path: Path, runs: dict[str, list[dict]]) -> None:
    """Prefix matching, the first layer's attention to the token before, and accuracy, against the step."""
    with figure(path, width=11.0, height=4.4, columns=3, sharey=True) as axes:
        draw_curves(axes[0], runs, "prefix_matching", "step", least=0.4)
        draw_curves(axes[1], runs, "previous_token", "step")
        draw_curves(axes[2], runs, "repeat_accuracy", "step")
        axes[0].annotate(
            "usual threshold of an induction head",
            (1, 0.41),
            xycoords=("axes fraction", "data"),
            ha="right",
            fontsize=8,
        )
        axes[0].set(
            title="Last layer looks at the induction target", ylabel="attention, or share right", ylim=(-0.02, 1.05)
        )
        axes[1].set(title="First layer looks at the token before")
        axes[2].set(title="Second copy predicted right")
        for each in axes:
            each.set(xlabel="training step")
        handles, labels = axes[0].get_legend_handles_labels()
        alone = axes[2].get_legend_handles_labels()
        extra = [i for i, label in enumerate(alone[1]) if label not in labels]
        axes[0].figure.legend(
            handles + [alone[0][i] for i in extra],
            labels + [alone[1][i] for i in extra],
            ncols=4,
            loc="outside lower center",
            fontsize=9,
        )
        axes[0].figure.suptitle(f"Repeated random segments ({seeds_of(runs)}; bands: lowest to highest)", fontsize=11)


def plot_curves(path: Path, runs: dict[str, list[dict]]) -> None:
    """Losses and accuracy on text, and what they owe to copying, against the epoch."""
    with figure(path, width=13.0, height=7.0, rows=2, columns=3) as axes:
        for each, value, title, unit in (
            (axes[0, 0], "train_loss", "Training text", "loss (nats per token)"),
            (axes[0, 1], "loss", "Text never trained on", "loss (nats per token)"),
            (axes[1, 0], "train_accuracy", "Training text", "next token predicted right (share)"),
            (axes[1, 1], "accuracy", "Text never trained on", "next token predicted right (share)"),
            (axes[0, 2], "repeat_loss", "Random tokens, repeated", "loss, 2nd minus 1st copy (nats)"),
            (axes[1, 2], "prefix_matching", "Random tokens, repeated", "attention to the induction target"),
        ):
            draw_curves(each, runs, value, "epoch")
            each.set(title=title, xlabel="epoch", ylabel=unit)
            if value == "prefix_matching":  # chance is about 0.01: nothing under 0.1 should look like a rise
                each.set(ylim=(0, max(0.1, each.get_ylim()[1])))
        handles, labels = axes[0, 0].get_legend_handles_labels()
        axes[0, 0].figure.legend(handles, labels, ncols=4, loc="outside lower center", fontsize=9)
        source = next(iter(runs.values()))[0]["settings"]["source"]
        axes[0, 0].figure.suptitle(f"{source} ({seeds_of(runs)}; bands: lowest to highest)", fontsize=11)


def plot_taps(path: Path, kernel: Tensor, detached: Tensor) -> None:
    """The kernel's three taps as maps and as distributions, and each channel's share of the previous token."""
    bound = uniform_bound(kernel.size(0))
    largest = max(3 * bound, float(kernel[:, :, :2].abs().quantile(0.999)) if kernel.numel() < 1 << 24 else 3 * bound)
    shown = min(64, kernel.size(0))
    with figure(path, width=11.0, height=6.6, rows=2, columns=3) as axes:
        for tap, each, below in zip(range(3), axes[0], axes[1]):
            image = each.imshow(kernel[:shown, :shown, tap].numpy(), cmap="RdBu_r", vmin=-largest, vmax=largest)
            each.set(title=f"{TAPS[tap]} token's tap", xlabel="input channel", ylabel="output channel")
            each.grid(False)
            if tap < 2:
                bins = np.linspace(-largest, largest, 61)
                weights, untrained = (k[:, :, tap].flatten().numpy() for k in (kernel, detached))
                below.hist(weights, bins, density=True, color=COLORS["blue"], label="trained")
                below.hist(
                    untrained,
                    bins,
                    density=True,
                    histtype="step",
                    color=COLORS["red"],
                    label="detached: as initialised",
                )
                below.set(xlabel=f"weights of the {TAPS[tap]} tap", ylabel="density")
                below.set(ylim=(0, 1.45 * below.get_ylim()[1]))  # room for the legend
                below.legend(fontsize=8, loc="upper left")
        axes[0, 0].figure.colorbar(image, ax=axes[0].tolist(), label="weight", shrink=0.8)
        ratios = [channel_ratio(k).numpy() for k in (kernel, detached)]
        bins = np.linspace(0, max(2.0, *(float(np.quantile(r, 0.99)) for r in ratios)), 41)
        axes[1, 2].hist(ratios[0], bins, color=COLORS["blue"], label="trained")
        axes[1, 2].hist(ratios[1], bins, histtype="step", color=COLORS["red"], label="detached")
        axes[1, 2].set(xlabel="|previous| / |current|, of each output channel", ylabel="channels")
        axes[1, 2].legend(fontsize=8)
        note = "" if shown == kernel.size(0) else f"; maps: the first {shown} of {kernel.size(0)} channels"
        axes[0, 0].figure.suptitle(
            f"The convolution's weights (1 seed{note}). The future tap is masked and learns nothing.", fontsize=11
        )


def plot_dursley(path: Path, patterns: dict[str, np.ndarray], tokens: list[str]) -> None:
    """Attention from each token of the repeated sentence to each of the first one; the induction target is outlined."""
    n = len(tokens)
    labels = [token.replace(" ", "·") for token in tokens]
    with figure(path, width=1.5 + 6.2 * len(patterns), height=7.2, columns=len(patterns), squeeze=False) as axes:
        for name, each in zip(patterns, axes[0]):
            brightest = max(0.1, float(np.quantile(patterns[name], 0.995)))
            image = each.imshow(patterns[name], cmap="Blues", vmin=0, vmax=brightest)
            each.plot(
                np.arange(1, n),
                np.arange(n - 1),
                "s",
                mfc="none",
                mec=COLORS["red"],
                ms=max(3.0, 230 / n),
                mew=0.7,
                label="induction target: the token after the same one",
            )
            each.set_xticks(range(n), labels, rotation=90, fontsize=7)
            each.set_yticks(range(n), labels, fontsize=7)
            each.grid(False)
            each.set(
                title=VARIANTS[name].label,
                xlabel="key: token of the first sentence",
                ylabel="query: token of the last sentence, equal to the first",
            )
            each.figure.colorbar(image, ax=each, label="attention (rest: on other keys)", shrink=0.7)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        axes[0, 0].figure.legend(handles, labels, loc="outside lower center")
        axes[0, 0].figure.suptitle("Last layer's attention on the Dursley text (1 seed)", fontsize=11)


def plot_ablations(path: Path, ablations: list[dict]) -> None:
    """Where the head looks after each change to the trained net; a dot for each seed."""
    names = list(ablations[0])
    with figure(path, width=8.5, height=4.2) as axes:
        for key, shift, color, label in (
            ("prefix_matching", -0.2, "blue", "induction target"),
            ("one_after", 0.2, "orange", "the key after it"),
        ):
            draw_bars(axes, [[each[name][key] for each in ablations] for name in names], shift, COLORS[color], label)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set(
            xlabel="attention of the second copy to ...",
            xlim=(0, 1.02),
            title=f"conv → attention, changed after training (seeds: {len(ablations)})",
        )
        axes.figure.legend(*axes.get_legend_handles_labels(), ncols=2, loc="outside lower center")
        axes.grid(axis="y", visible=False)


def draw_bars(axes, rows: list[list[float]], shift: float, color: str, label: str) -> None:
    """Horizontal bars of the mean of each row, with a line of one standard deviation and a dot for each seed."""
    places = [place for place, row in enumerate(rows) if row]
    rows = [row for row in rows if row]
    spread = [np.std(row, ddof=1) if len(row) > 1 else 0.0 for row in rows]
    places = np.array(places) + shift
    axes.barh(
        places, [np.mean(row) for row in rows], 0.36, xerr=spread, color=color, label=label, error_kw={"elinewidth": 1}
    )
    for place, row in zip(places, rows):
        axes.plot(row, [place] * len(row), ".", color="black", ms=3)


def plot_summary(path: Path, repeats: dict[str, list[dict]], text: dict[str, list[dict]]) -> None:
    """Every net on both kinds of data: does it have an induction head, and does that help?"""
    names = [name for name in VARIANTS if name in repeats or name in text]
    panels = [
        ("prefix matching (attention)", "prefix_matching", (0, 1.02)),
        ("loss on the 2nd copy minus the 1st (nats)", "repeat_loss", None),
    ]
    with figure(path, width=10.0, height=4.4, columns=2, sharey=True) as axes:
        for each, (unit, key, limits) in zip(axes, panels):
            for runs, shift, color, label in (
                (repeats, -0.2, "blue", "trained on repeats"),
                (text, 0.2, "orange", "trained on text"),
            ):
                if runs:
                    rows = [[run["final"][key] for run in runs.get(name, []) if key in run["final"]] for name in names]
                    draw_bars(each, rows, shift, COLORS[color], f"{label} ({seeds_of(runs)})")
            each.set(xlabel=unit)
            if limits:
                each.set(xlim=limits)
            each.grid(axis="y", visible=False)
        axes[0].set_yticks(range(len(names)), [VARIANTS[name].label for name in names])
        axes[0].invert_yaxis()
        handles, labels = axes[0].get_legend_handles_labels()
        axes[0].figure.legend(handles, labels, ncols=2, loc="outside lower center")
        axes[0].figure.suptitle(
            "Tested on random tokens, twice (bars: mean, lines: standard deviation, dots: seeds)", fontsize=11
        )
