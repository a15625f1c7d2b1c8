"""What do the attention heads of a GPT-2 do?

    python projects/gpt2_heads/run.py isolate           queries, keys, scores and weights of each head, in figures
    python projects/gpt2_heads/run.py isolate --layer 6 --text "Any text of yours."
    python projects/gpt2_heads/run.py view --text "Any text."          one HTML file to explore where each head looks
    python projects/gpt2_heads/run.py isolate --model small --quick    every step in seconds, on an untrained model

--model gpt2 (or gpt2-medium, gpt2-large, gpt2-xl) downloads the published weights once; a folder with weights, as
transformers writes it, is read where it is; small is a model that this study trains itself, in about a minute, on
random words that repeat. By default it is gpt2 where that can be downloaded, and otherwise small.

How do induction heads work? Each of these writes to mechanism/ in the folder:

    run.py scores       which heads are induction heads, and which are previous-token heads
    run.py diagonal     claim 1: do induction heads read what previous-token heads write? The diagonal of W_QK W_OV
    run.py subspace     claim 2: angles between the subspaces that heads read and write
    run.py shuffle      claim 3: heads of a kind change places
    run.py project      claim 4: copying without, and with nothing but, the common subspace
    run.py paths        is it by their keys, their queries, or their values?
    run.py doubts       variance, controls, or a bug: the open questions of the study that this one follows
    run.py all --quick                        all of them in seconds, on the model built by hand
    run.py all --model small --seeds 3        all of them
    run.py all --model handbuilt --length 12  on a model whose heads were written down: every answer is known
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout, whatever else is installed

from mingpt.support.command import one_line_errors, way_to_go_on
from mingpt.support.config import Parser, config_from_args, config_to_dict
from mingpt.support.devices import pick_device
from mingpt.support.files import own_folder, write_json
from projects.gpt2_heads.mechanism.options import STUDY_NAMES, AllOptions, MechanismOptions
from projects.gpt2_heads.specimen import Specimen, load_specimen


@dataclass(frozen=True)
class Options:
    """What every command understands."""

    out: Annotated[str, "folder for everything that is written"] = "out/gpt2_heads"
    model: Annotated[
        str, "auto, small, handbuilt, gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a folder or file of weights"
    ] = "auto"
    seed: Annotated[int, "of the small model's training, and of all that is drawn at random"] = 0
    device: Annotated[str, "auto, cpu, cuda, mps"] = "cpu"

    def __post_init__(self):
        if not 0 <= self.seed <= 2**32:
            raise ValueError(f"--seed is {self.seed}; it must be from 0 to 2^32")


@dataclass(frozen=True)
class TextOptions:
    """What is looked at, and where."""

    text: Annotated[str, "text to run the model on; a text of our own unless given"] = ""
    layer: Annotated[int, "layer to show closely, from 0; -1: the middle one"] = -1


@dataclass(frozen=True)
class ViewOptions:
    """What only the page understands."""

    html: Annotated[str, "file to write; view.html in the folder unless given"] = ""

    def __post_init__(self):
        from projects.gpt2_heads.page import refuse_other_file

        if self.html:
            refuse_other_file(Path(self.html))


# ----------------------------------------------------------------------------------------------------------------------
# Commands


def isolate(specimen: Specimen, options: Options, text: TextOptions) -> None:
    """The heads of one layer in close-up and all layers at a glance: figures and results.json."""
    from projects.gpt2_heads import figures
    from projects.gpt2_heads.isolate import measure, read, untrained

    started, out = time.perf_counter(), Path(options.out)
    idx, labels, layer = tokens_of(specimen, text)
    heads = read(specimen.model, idx)
    fresh = read(untrained(specimen.model, options.seed), idx)
    layers, fresh_layers = measure(heads, options.seed), measure(fresh, options.seed)

    write_json(
        out / "results.json",
        {
            "model": specimen.name,
            "config": config_to_dict(specimen.model.config),
            "seed": options.seed,
            "text": text.text or specimen.text,
            "tokens": labels,
            "layer": layer,
            "layers": layers,
            "untrained": fresh_layers,
        },
    )
    figures.draw_all(out, heads, layers, labels, layer, specimen.name, options.seed)
    print_layer(layers[layer], fresh_layers[layer], len(idx))
    print(f"\nFigures and results.json are in {out} ({time.perf_counter() - started:.0f} s).")


def view(specimen: Specimen, options: Options, text: TextOptions, page: ViewOptions) -> None:
    """The page to explore."""
    from projects.gpt2_heads.page import patterns_of, write_page
    from projects.gpt2_heads.scores import score_heads

    path = Path(page.html or Path(options.out) / "view.html")
    idx, labels, layer = tokens_of(specimen, text)
    config = specimen.model.config
    patterns = patterns_of(specimen.model, idx)
    length = min(50, config.block_size // 2)
    scores = score_heads(specimen.model, length, batch_size=8, seed=options.seed)
    size = write_page(
        path,
        "Where do the heads look?",
        f"{specimen.name}: {config.n_layer} layers of {config.n_head} heads, {len(idx)} tokens",
        labels,
        patterns,
        {name: table.tolist() for name, table in scores.items()},
        f"Scores are mean weights on 8 sequences of {length} random tokens, twice over: on what followed the same "
        "token before (ind), on the token before (pre), on the same token before (dup); under each square stands "
        "the largest.",
        layer=layer,
        head=int(scores["induction"][layer].argmax()),
    )
    print(f"{path}: {size / 1e6:.2f} MB. Open it in a browser.")


@dataclass(frozen=True)
class Command:
    """A function `run(specimen, options, *configs)` and the classes of the flags that only some commands take."""

    run: Callable[..., None]
    configs: tuple[type, ...]


def mechanism(study: str) -> Callable[..., None]:
    """The command for one study of the mechanism of induction heads."""

    def run(specimen: Specimen, options: Options, settings: MechanismOptions) -> None:
        from projects.gpt2_heads.mechanism.commands import Bench, run_study

        bench = Bench(specimen.name, specimen.model, options.seed, settings)
        run_study(study, bench, Path(options.out) / "mechanism")

    return run


def every_study(
    specimen: Specimen, options: Options, settings: MechanismOptions, repeats: AllOptions, quick: bool = False
) -> None:
    """All of them, and the main numbers over the seeds."""
    from projects.gpt2_heads.mechanism.commands import run_all

    specimens = {options.seed: specimen}
    for seed in range(options.seed + 1, options.seed + repeats.seeds):
        specimens[seed] = load_specimen(options.model, Path(options.out), seed, pick_device(options.device), quick)
    labelled = [(one.name, one.model, seed) for seed, one in specimens.items()]
    run_all(labelled, settings, Path(options.out) / "mechanism")


COMMANDS = {
    "isolate": Command(isolate, (TextOptions,)),
    "view": Command(view, (TextOptions, ViewOptions)),
    **{study: Command(mechanism(study), (MechanismOptions,)) for study in STUDY_NAMES},
    "all": Command(every_study, (MechanismOptions, AllOptions)),
}
QUICK = dict(length=12, batch_size=8, permutations=2, random_subspaces=1)  # MechanismOptions' fields


# ----------------------------------------------------------------------------------------------------------------------


def tokens_of(specimen: Specimen, text: TextOptions) -> tuple[list[int], list[str], int]:
    """The text's ids, how they are shown, and the layer. ValueError where the model has no such layer, or no room."""
    n_layer = specimen.model.config.n_layer
    if not -1 <= text.layer < n_layer:
        raise ValueError(f"--layer is {text.layer}; {specimen.name} has layers 0 to {n_layer - 1}")
    idx, block_size = specimen.tokenizer.encode(text.text or specimen.text), specimen.model.config.block_size
    if not 3 <= len(idx) <= block_size:
        raise ValueError(
            f"the text has {len(idx)} token{'s' * (len(idx) != 1)}; {specimen.name} reads up to {block_size}, and "
            "there must be 3 for a last one, a first one and one between them"
        )
    return idx, [specimen.tokenizer.label(token) for token in idx], n_layer // 2 if text.layer == -1 else text.layer


def print_layer(layer: dict, fresh: dict, T: int) -> None:
    """The layer's main numbers, beside those of the untrained model."""
    print(f"\nLayer {layer['layer']}, {T} tokens, all heads together{'':20}{'this model':>20}{'fresh weights':>20}")
    for part, title in (("products", "query . key of the last token with"), ("weights", "attention weight")):
        print(title)
        for name in (name for name, numbers in layer[part].items() if numbers["n"]):
            cells = [
                f"{numbers['mean']:.3g} ± {numbers['std']:.3g}" for numbers in (layer[part][name], fresh[part][name])
            ]
            print(f"    {name:48}{cells[0]:>20}{cells[1]:>20}")


def refuse_unused(args, command: str) -> None:
    """A flag that the command would not look at is a misunderstanding."""
    configs = {config for other in COMMANDS.values() for config in other.configs} - set(COMMANDS[command].configs)
    own = {name for config in COMMANDS[command].configs for name in config.__dataclass_fields__}
    for config in configs:
        for name in config.__dataclass_fields__:
            if name in vars(args) and name not in own:
                takers = [other for other, entry in COMMANDS.items() if config in entry.configs]
                raise ValueError(
                    f"{command} takes no --{name}; {' and '.join(takers)} {'do' if len(takers) > 1 else 'does'}"
                )


def main() -> None:
    """Read the command line and run one command."""
    parser = Parser(description=__doc__)
    parser.add_argument("command", nargs="?", default="isolate", choices=COMMANDS)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="in place of the small model, and of auto: a tiny one, trained for seconds; for the "
        "mechanism the one built by hand, and few draws",
    )
    parser.add_config(Options, "every command")
    for config in dict.fromkeys(config for command in COMMANDS.values() for config in command.configs):
        takers = [name for name, command in COMMANDS.items() if config in command.configs]
        parser.add_config(config, ", ".join(takers))
    args = parser.parse_args()
    with one_line_errors():
        refuse_unused(args, args.command)
        if not getattr(args, "text", "unless given").strip():
            raise ValueError("--text is empty; leave it out for a text of our own")
        options, command = config_from_args(Options, args), COMMANDS[args.command]
        quick = {MechanismOptions: QUICK} if args.quick else {}
        configs = [config_from_args(config, args, **quick.get(config, {})) for config in command.configs]
        device = pick_device(options.device)
        if args.quick and MechanismOptions in command.configs and options.model in ("auto", "small"):
            print(
                "The small model, hardly trained, has no induction heads; this is the model built by hand, which has."
            )
            options = replace(options, model="handbuilt")
        more = {"quick": args.quick} if args.command == "all" else {}
        with (
            own_folder(options.out),
            way_to_go_on("the same command starts again; a small model that was trained is kept"),
        ):
            specimen = load_specimen(options.model, Path(options.out), options.seed, device, args.quick)
            command.run(specimen, options, *configs, **more)


if __name__ == "__main__":
    main()
