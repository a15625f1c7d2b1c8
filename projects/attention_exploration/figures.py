"""The figures of the study: dots are measured, lines are predicted."""

import math
from pathlib import Path

import torch

from mingpt.support.plotting import COLORS, figure
from projects.attention_exploration import theory
from projects.attention_exploration.theory import ONE_HEAD, TWO_HEADS

STYLES = {"one head": COLORS["blue"], "two heads": COLORS["orange"], "one head, keys normalised": COLORS["green"]}


def plot_copying(path: Path, n: int, gaps: torch.Tensor, heaviest: torch.Tensor) -> None:
    """The weight of the top key against its lead over the runner-up, between the two bounds."""
    line = torch.linspace(0, 16, 400, dtype=torch.float64)
    low, high = theory.top_weight_range(line, n)
    with figure(path, width=7.0, height=4.0) as axes:
        axes.fill_between(line, low, high, color=COLORS["sky"], alpha=0.35, lw=0, label="possible")
        axes.plot(line, high, color=COLORS["blue"], label="all others far below: 1/(1 + e^(-gap))")
        axes.plot(line, low, color=COLORS["green"], label=f"all others tied: 1/(1 + {n - 1} e^(-gap))")
        axes.plot(gaps, heaviest, ".", color="black", ms=2.5, label=f"{len(gaps):,} random problems, {n} keys")
        needed = theory.gap_needed(0.01, n)
        axes.plot([needed, needed], [0, 0.99], ":", color=COLORS["red"])
        axes.annotate(
            f"gap {needed:.1f} is always enough for 0.99", (needed, 0.35), (needed + 0.3, 0.35), color=COLORS["red"]
        )
        axes.set(
            xlim=(0, 14),
            ylim=(0, 1.03),
            xlabel="gap: best score less second-best score",
            ylabel="weight of the best key",
            title="A key gets nearly all the weight when its score leads",
        )
        axes.legend(loc="lower right")


def plot_extraction(path: Path, degrees: torch.Tensor, measured: list[tuple[float, float]]) -> None:
    """What v_b does to the orthogonal projector, and what noise does to the oblique one, against the angle."""
    line = torch.linspace(3, 90, 300, dtype=torch.float64)
    with figure(path, width=8.6, height=3.7, columns=2) as (left, right):
        left.plot(line, line.deg2rad().cos(), color=COLORS["blue"], label="predicted: cos θ")
        left.plot(degrees, [m[0] for m in measured], "o", color="black", ms=4.5, label="measured")
        left.set(
            title="Orthogonal projector: what it lets through of v_b",
            ylabel="worst |A A⁺ v_b| / |v_b|",
            ylim=(-0.03, 1.05),
        )
        right.plot(line, 1 / line.deg2rad().sin(), color=COLORS["orange"], label="predicted: 1 / sin θ")
        right.plot(degrees, [m[1] for m in measured], "o", color="black", ms=4.5, label="measured")
        right.set(
            title="Oblique projector: exact, but amplifies noise",
            ylabel="norm of M",
            yscale="log",
            yticks=[1, 2, 5, 10, 20],
        )
        right.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
        right.minorticks_off()
        for axes in (left, right):
            axes.set(xlabel="smallest angle between the subspaces, θ (degrees)", xticks=range(0, 91, 15))
            axes.legend()


def plot_averaging(path: Path, betas: torch.Tensor, leaks: dict[int, torch.Tensor]) -> None:
    """The weight that q = beta (k_a + k_b) leaves to the others."""
    line = torch.linspace(0, 14, 300, dtype=torch.float64)
    with figure(path, width=7.0, height=4.0) as axes:
        for (n, measured), color in zip(leaks.items(), COLORS.values()):
            axes.plot(line, theory.leak(line, n), color=color, label=f"n = {n:,}")
            axes.plot(betas, measured, "o", color=color, ms=4.5)
            half = math.log((n - 2) / 2)
            axes.plot([half, half], [0.0, 0.5], ":", color=color, lw=1)
        axes.plot([], [], "ko", ms=4.5, label="measured")
        axes.set(
            xlabel="β in q = β (k_a + k_b)",
            ylabel="weight on the n - 2 other keys",
            ylim=(-0.02, 1.02),
            title="How large β must be depends on n: half leaks at β = ln((n-2)/2)",
        )
        axes.legend()


def plot_distributions(path: Path, outputs: dict, betas: tuple, n: int, radial: float) -> None:
    """The weight of v_a in the output over draws of the keys, one head above, two heads below."""
    edges = torch.linspace(0, 1, 41, dtype=torch.float64)
    inner = edges.clamp(1e-12, 1 - 1e-12)
    with figure(path, width=10.5, height=5.2, rows=2, columns=len(betas), sharex=True, sharey=True) as grid:
        for row, (name, heads) in zip(grid, (("one head", ONE_HEAD), ("two heads", TWO_HEADS))):
            for axes, beta in zip(row, betas):
                draws = outputs[name][beta]
                share = torch.histogram(draws, edges).hist / len(draws)
                axes.bar(
                    edges[:-1].numpy(),
                    share.numpy(),
                    1 / 40,
                    align="edge",
                    color=STYLES[name],
                    alpha=0.6,
                    label="measured",
                )
                scale, shift, mean, std = theory.a_weight_law(heads, beta, n, radial)
                cdf = theory.logistic_normal_cdf(((inner - shift) / scale).clamp(1e-12, 1 - 1e-12), mean, std)
                cdf[(inner - shift) / scale >= 1] = 1.0
                cdf[(inner - shift) / scale <= 0] = 0.0
                axes.stairs(cdf.diff(), edges, color="black", lw=1, label="predicted")
                axes.axvline(0.5, color=COLORS["red"], ls=":", lw=1)
                axes.set(yscale="log", ylim=(5e-4, 1.3), title=f"{name}, β = {beta:g}", xticks=[0, 0.5, 1])
                axes.grid(axis="x", visible=False)
        for axes in grid[:, 0]:
            axes.set_ylabel("share of draws in a bin")
        for axes in grid[1]:
            axes.set_xlabel("weight of v_a in the output")
        grid[0, 0].legend(loc="upper right", fontsize=8)


def plot_errors(path: Path, betas: list[float], curves: dict, points: dict, n: int, noises: dict) -> None:
    """The error of the output against beta, for both kinds of noise."""
    titles = {"isotropic": "Noise in all directions, variance {0:g}", "radial": "Variance {1:g} along μ_a"}
    with figure(path, width=10.0, height=4.3, columns=2, sharey=True) as panels:
        for axes, (kind, lines) in zip(panels, curves.items()):
            for name, errors in lines.items():
                axes.plot(betas, [math.sqrt(max(e, 1e-9)) for e in errors], color=STYLES[name], label=name)
                axes.plot(*zip(*[(b, math.sqrt(e)) for b, e in points[kind][name]]), "o", color=STYLES[name], ms=4.5)
            axes.axhline(math.sqrt(0.5), color=COLORS["grey"], ls="--", lw=1)
            axes.text(betas[0], math.sqrt(0.5) * 1.1, "v_a alone, or v_b alone", color=COLORS["grey"], fontsize=9)
            change = theory.transition(*noises[kind])
            axes.axvline(change, color=COLORS["red"], ls=":", lw=1.2)
            axes.text(
                change * 1.06, 9e-3, f"one head:\ntwo modes from\nβ = {change:.3g}", color=COLORS["red"], fontsize=9
            )
            axes.plot([], [], "ko", ms=4.5, label="measured")
            axes.set(
                xscale="log",
                yscale="log",
                ylim=(1e-3, 1.3),
                xlabel="β: length of the query",
                title=titles[kind].format(*noises[kind]),
            )
            axes.set_xticks([0.5, 1, 2, 4, 8, 16, 32, 64], ["0.5", "1", "2", "4", "8", "16", "32", "64"])
            axes.minorticks_off()
        panels[0].set_ylabel("root mean square of |c - (v_a + v_b)/2|")
        panels[0].legend(loc="lower left")
        panels[1].legend(loc="lower left")
