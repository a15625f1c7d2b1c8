"""The figures of the study."""

from pathlib import Path

import numpy as np

from mingpt.plotting import COLORS, figure


def smooth(values: list[float], most: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Steps and running means over up to `most` losses, fewer in a short run."""
    window = max(1, min(most, len(values) // 20))
    total = np.cumsum(np.concatenate([[0.0], values]))
    return np.arange(window, len(values) + 1), (total[window:] - total[:-window]) / window


def plot_losses(path: Path, pretraining: list[list[float]], finetuning: dict[str, list[list[float]]]) -> None:
    """Training loss against step; one list of losses a seed, for pretraining and for each kind of finetuning."""
    with figure(path, width=9.0, height=3.6, columns=2) as (left, right):
        for i, losses in enumerate(pretraining):
            left.plot(*smooth(losses), color=COLORS["blue"], alpha=0.8, label="pretraining" if i == 0 else None)
        left.set(title="Restoring missing pieces of biographies", xlabel="step", ylabel="loss (nats per character)")
        for (name, runs), color in zip(finetuning.items(), (COLORS["grey"], COLORS["green"])):
            for i, losses in enumerate(runs):
                right.plot(np.linspace(0, 100, len(losses)), losses, color=color, alpha=0.8, lw=1.2,
                           label=name if i == 0 else None)
        right.set(title="Finetuning to answer “Where was X born?”", xlabel="share of finetuning done (%)",
                  ylabel="loss (nats per character)")
        for axes in (left, right):
            axes.set_ylim(bottom=0)
            axes.legend()


def plot_accuracy(path: Path, rows: list[str], dev: list[list[float]], control: list[list[float]]) -> None:
    """Accuracy in percent for each row of the table, on people read about and on strangers; a dot for each seed."""
    with figure(path, width=7.5, height=3.8) as axes:
        for values, shift, color, label in ((dev, -0.2, COLORS["blue"], "people it read about, never asked about"),
                                            (control, 0.2, COLORS["orange"], "people it never read about")):
            places = np.arange(len(rows)) + shift
            bars = axes.bar(places, [np.mean(v) for v in values], 0.36, color=color, label=label)
            axes.bar_label(bars, fmt="%.0f %%", padding=4)
            for place, seeds in zip(places, values):
                if len(seeds) > 1:
                    axes.plot([place] * len(seeds), seeds, ".", color="black", ms=5)
        axes.set_xticks(range(len(rows)), [row.replace(", ", ",\n") for row in rows])
        axes.grid(axis="x", visible=False)
        seeds = max(map(len, dev))
        axes.set(ylabel="right answers (%)", ylim=(0, 112), yticks=range(0, 101, 20),
                 title="Where was X born?" + (f"  ({seeds} seeds; dots: single runs)" if seeds > 1 else "  (1 seed)"))
        axes.legend(loc="upper left")
