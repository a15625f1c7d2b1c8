"""Tables and figures from the runs in a folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mingpt.bpe import BPETokenizer
from mingpt.conv_attention import ConvAttentionConfig, Net
from mingpt.interpret.hooks import record
from mingpt.support.checkpoints import fingerprint, load_torch, save_torch
from mingpt.support.config import config_from_dict, config_to_dict
from mingpt.support.files import write_json, write_text
from mingpt.support.tables import with_spread
from projects.wikitext_induction.figures import (
    plot_ablations,
    plot_curves,
    plot_dursley,
    plot_phase_change,
    plot_summary,
    plot_taps,
    seeds_of,
)
from projects.wikitext_induction.handbuilt import handbuilt_net
from projects.wikitext_induction.measures import find_repetition, measure_repeats
from projects.wikitext_induction.nets import VARIANTS
from projects.wikitext_induction.repeats import random_repeats
from projects.wikitext_induction.runs import finished, left_out, result_path, runs_in, what_differs
from projects.wikitext_induction.text import DURSLEY, PAD, fingerprint_of

ONSET = 0.4  # a usual threshold of prefix matching above which a head is called an induction head
REPEATS_COLUMNS = {
    "prefix matching": lambda run: run["final"].get("prefix_matching"),
    "onset (step)": lambda run: onset(run),
    "copying": lambda run: run["final"].get("copying"),
    "previous token, layer 1": lambda run: run["final"].get("previous_token"),
    "repeat accuracy": lambda run: run["final"].get("repeat_accuracy"),
    "loss, 2nd - 1st copy": lambda run: run["final"]["repeat_loss"],
}
TEXT_COLUMNS = {
    "validation loss": lambda run: run["final"].get("loss"),
    "accuracy": lambda run: run["final"].get("accuracy"),
    "loss late - early": lambda run: run["final"].get("in_context_learning"),
    "prefix matching": lambda run: run["final"].get("prefix_matching"),
    "copying": lambda run: run["final"].get("copying"),
    "random repeats, 2nd - 1st": lambda run: run["final"]["repeat_loss"],
    "Dursley: on target": lambda run: run["final"].get("dursley", {}).get("target_mass"),
    "Dursley: 2nd - 1st": lambda run: run["final"].get("dursley", {}).get("repeat_loss"),
}

Runs = dict[str, list[dict]]  # net -> its runs, one a seed


def load_runs(folder: Path) -> Runs:
    """The finished runs in a folder, nets in the order of VARIANTS. ValueError where two differ in their settings."""
    runs, first = {}, None
    for (name, seed), run in finished(folder).items():
        path = result_path(folder, name, seed)
        first = first or (path, run["settings"])
        if changed := what_differs(first[1], run["settings"]):
            raise ValueError(
                f"{path} is of other settings than {first[0]} ({'; '.join(changed)}), and a table of both would "
                "compare what is not comparable; move one of them to another folder"
            )
        runs.setdefault(name, []).append(run)
    return runs


def onset(run: dict) -> float | None:
    """The first measured step with a prefix-matching score of at least ONSET; None if there is none."""
    return next(
        (float(point["step"]) for point in run.get("curve", []) if point.get("prefix_matching", 0) >= ONSET), None
    )


def cell(values: list[float | None]) -> str:
    """Mean and standard deviation over seeds; a dash for what the net does not have, or never reached in some seed."""
    if any(value is None for value in values):
        return "-"
    return with_spread(values, digits=0 if max(map(abs, values)) >= 10 else 2)


def table(runs: Runs, columns: dict[str, Callable[[dict], float | None]], others: dict[str, dict]) -> str:
    """A Markdown table: a row for each net, and one for each of `others`, name -> measures."""
    found = {VARIANTS[name].label: runs for name, runs in runs.items()} | {
        name: [{"final": measures}] for name, measures in others.items()
    }
    return markdown(
        [
            ["net", *columns],
            *(
                [name, *(cell([column(run) for run in each]) for column in columns.values())]
                for name, each in found.items()
            ),
        ]
    )


def by_hand(settings: dict) -> dict[str, float]:
    """The measures of the net of handbuilt.py on repeats."""
    idx = random_repeats(settings["repeat_vocab"], settings["repeat_block"] // 3, 64)
    return measure_repeats(handbuilt_net(settings["repeat_vocab"], settings["repeat_block"]), idx)


def ablation_table(runs: Runs) -> str:
    """A Markdown table: a row for each change to the conv-attention net."""
    found = [run["ablations"] for run in runs["conv-attention"]]
    rows = [["conv → attention", "on the target", "on the key after it", "repeat accuracy"]]
    rows += [
        [
            name,
            *(
                cell([ablations[name][key] for ablations in found])
                for key in ("prefix_matching", "one_after", "repeat_accuracy")
            ),
        ]
        for name in found[0]
    ]
    return markdown(rows)


def tap_table(runs: Runs) -> str:
    """A Markdown table: a row for each tap of each net with a convolution, over the first seed's weights."""
    rows = [["net", "tap", "max", "min", "q75", "q90", "q75 / max", "norm", "of the current tap's norm, by channel"]]
    for name in ("conv-attention", "detached"):
        for tap, values in runs[name][0]["taps"].items() if name in runs else ():
            if tap != "ratio":
                rows.append(
                    [
                        VARIANTS[name].label,
                        tap,
                        *(f"{values[key]:.3f}" for key in ("max", "min", "q75", "q90")),
                        f"{values['q75'] / values['max']:.2f}",
                        f"{values['norm']:.2f}",
                        "{q10:.2f} to {q90:.2f}, median {median:.2f}".format(**runs[name][0]["taps"]["ratio"])
                        if tap == "previous"
                        else "",
                    ]
                )
    return markdown(rows)


def markdown(rows: list[list[str]]) -> str:
    """Rows of cells as a table, the first as its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def save_net(path: Path, net: Net, settings: dict) -> None:
    """Keep a trained net beside its result."""
    save_torch(
        path, {"model": net.state_dict(), "config": config_to_dict(net.config), "settings": fingerprint(settings)}
    )


def load_net(path: Path, name: str, settings: dict) -> Net:
    """The net that a run of these settings has left behind. ValueError for any other file."""
    saved = load_torch(path)
    if not isinstance(saved, dict) or saved.get("settings") != fingerprint(settings):
        raise ValueError(f"{path}: not the net of one of these runs")
    try:
        net = VARIANTS[name].kind(config_from_dict(ConvAttentionConfig, saved["config"], str(path)))
        net.load_state_dict(saved["model"])
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path}: not the net of one of these runs ({str(error).splitlines()[0]})") from None
    return net.eval()


def saved_nets(folder: Path, settings: dict, *names: str) -> dict[str, Net]:
    """The nets of the first seed, of those `names` that there are."""
    nets = {}
    for (name, _), path in runs_in(folder, ".params").items():
        if name in names and name not in nets:
            try:
                nets[name] = load_net(path, name, settings)
            except ValueError as error:
                left_out(error)
    return nets


def dursley_patterns(folder: Path, settings: dict) -> tuple[dict[str, np.ndarray], list[str]]:
    """What each net looks at in the repeated sentence of the Dursley text.

    Returns (net -> pattern (n, n), from the queries of the repetition to the keys of the original; their tokens); none
    where there is no net, or not the tokenizer that they were trained with.
    """
    nets = saved_nets(folder, settings, "conv-attention", "attention-attention")
    try:
        tokenizer = BPETokenizer.from_files(
            *(folder / "tokenizer" / name for name in ("vocab.json", "merges.txt")), [PAD]
        )
        if fingerprint_of(tokenizer) != settings["inputs"]["the tokenizer"]:
            raise ValueError(f"{folder / 'tokenizer'}: not the tokenizer of these runs")
    except ValueError as error:
        left_out(error)
        return {}, []
    ids = tokenizer.encode_ordinary(DURSLEY)
    start, n = find_repetition(ids)
    patterns = {}
    for name, net in nets.items():
        with torch.no_grad(), record(net, "layers.attn.pattern") as seen:
            net(torch.tensor([ids]))
        patterns[name] = seen["layers.attn.pattern"][0, 0, len(ids) - n :, start : start + n].float().numpy()
    return patterns, [tokenizer.decode([i]) for i in ids[start : start + n]]


def report(out: Path) -> None:
    """Print the tables, and write them to tables.md, what is in them to metrics.json, and the figures."""
    repeats, text = load_runs(out / "repeats"), load_runs(out / "text")
    if not repeats and not text:
        raise ValueError(f"{out} has no finished runs; make some first, with run.py, or name their folder with --out")
    tables, metrics = [], {}
    for kind, runs, columns in (("repeats", repeats, REPEATS_COLUMNS), ("text", text, TEXT_COLUMNS)):
        if not runs:
            continue
        any_run = next(iter(runs.values()))[0]
        others = {"chance": any_run["chance"]}
        if kind == "repeats":
            others["conv → attention, by hand"] = by_hand(any_run["settings"])
        about = any_run["settings"].get("source", "repeated random segments")
        spread = ", mean ± standard deviation" if max(map(len, runs.values())) > 1 else ""
        tables.append(f"{about}; {seeds_of(runs)}{spread}\n\n{table(runs, columns, others)}")
        if "conv-attention" in runs:
            tables.append(f"Changes to the trained net, {kind}\n\n{ablation_table(runs)}")
            tables.append(f"Taps, {kind}\n\n{tap_table(runs)}")
        metrics[kind] = {
            "settings": any_run["settings"],
            "runs": {
                name: [
                    {
                        "seed": run["seed"],
                        "seconds": run["seconds"],
                        "onset": onset(run),
                        **run["final"],
                        **{part: run[part] for part in ("taps", "ablations") if part in run},
                    }
                    for run in found
                ]
                for name, found in runs.items()
            },
        }
        nets = saved_nets(out / kind, any_run["settings"], "conv-attention", "detached")
        if len(nets) == 2:
            plot_taps(out / f"taps_{kind}.png", *(nets[name].layers["conv"].weight.detach() for name in nets))
    if repeats:
        plot_phase_change(out / "phase_change.png", repeats)
        if "conv-attention" in repeats:
            plot_ablations(out / "ablations.png", [run["ablations"] for run in repeats["conv-attention"]])
    if text:
        plot_curves(out / "training.png", text)
        patterns, tokens = dursley_patterns(out / "text", metrics["text"]["settings"])
        if patterns:
            plot_dursley(out / "dursley.png", patterns, tokens)
    plot_summary(out / "summary.png", repeats, text)
    write_text(out / "tables.md", "\n\n".join(tables) + "\n")
    write_json(out / "metrics.json", metrics)
    print("\n" + "\n\n".join(tables) + "\n")
