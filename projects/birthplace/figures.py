"""The figures of the study."""

from pathlib import Path

import numpy as np

from mingpt.support.plotting import COLORS, figure


def smooth(values: list[float], most: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Steps and running means over up to `most` losses, fewer in a short run."""
    window = max(1, min(most, len(values) // 20))
    total = np.cumsum(np.concatenate([[0.0], values]))
    return np.arange(window, len(values) + 1), (total[window:] - total[:-window]) / window


def plot_losses(
    path: Path, pretraining: list[list[float]], finetuning: dict[str, list[list[float]]], about: str
) -> None:
    """Training loss against step; one list of losses a seed, for pretraining and for each kind of finetuning.

    `about` says which model and data.
    """
    with figure(path, width=9.0, height=3.6, columns=2) as (left, right):
        for i, losses in enumerate(pretraining):
            left.plot(
                *smooth(losses),
                color=COLORS["blue"],
                alpha=0.8,
                label="documents with gaps (all characters)" if i == 0 else None,
            )
        left.set(
            title=f"Pretraining, {about}",
            xlabel="step (running mean over up to 20)",
            ylabel="loss (nats per character)",
        )
        for (name, runs), color in zip(finetuning.items(), (COLORS["grey"], COLORS["green"])):
            for i, losses in enumerate(runs):
                right.plot(
                    np.linspace(0, 100, len(losses)),
                    losses,
                    color=color,
                    alpha=0.8,
                    lw=1.2,
                    label=name if i == 0 else None,
                )
        right.set(
            title="Finetuning to answer “Where was X born?”",
            xlabel="share of finetuning done (%)",
            ylabel="loss (nats per character)",
        )
        for axes in (left, right):
            axes.set_ylim(bottom=0)
            axes.legend()


def plot_accuracy(path: Path, rows: list[str], marks: dict[str, list[list[float]]], about: str) -> None:
    """Accuracy in percent: what was marked -> for each of the rows, the values of all seeds; a dot for each seed.

    `about` says which model and data.
    """
    colors = (COLORS["blue"], COLORS["sky"], COLORS["red"], COLORS["orange"])
    with figure(path, width=9, height=4.2) as axes:
        for i, (label, values) in enumerate(marks.items()):
            places = np.arange(len(rows)) + 0.21 * (i - (len(marks) - 1) / 2)
            axes.bar(places, [np.mean(v) for v in values], 0.19, color=colors[i], label=label)
            for place, seeds in zip(places, values):
                axes.text(place, max(seeds) + 1.5, f"{np.mean(seeds):.0f}", ha="center")
                if len(seeds) > 1:
                    axes.plot([place] * len(seeds), seeds, ".", color="black", ms=4)
        axes.set_xticks(range(len(rows)), rows)
        axes.grid(axis="x", visible=False)
        seeds = len(next(iter(marks.values()))[0])
        axes.set(
            ylabel="right answers (%)",
            ylim=(0, 112),
            yticks=range(0, 101, 20),
            title=f"Where was X born?  {about}, " + (f"{seeds} seeds (dots: single runs)" if seeds > 1 else "1 seed"),
        )
        axes.legend(loc="upper left")
