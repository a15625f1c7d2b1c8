"""Can a small GPT learn facts by reading, and tell them when asked?

    python projects/birthplace/run.py                     the whole study, on a small invented world: 1 to 4 minutes
    python projects/birthplace/run.py --quick             every step in seconds; learns next to nothing
    python projects/birthplace/run.py --data cs224n       the same on the files of CS224n's assignment 5
    python projects/birthplace/run.py study rope          with rotary positions

The assignment's own commands:

    run.py pretrain vanilla wiki.txt --writing_params_path vanilla.pretrain.params
    run.py finetune vanilla wiki.txt --reading_params_path vanilla.pretrain.params
           --writing_params_path vanilla.finetune.params --finetune_corpus_path birth_places_train.tsv
    run.py evaluate vanilla wiki.txt --reading_params_path vanilla.finetune.params
           --eval_corpus_path birth_dev.tsv --outputs_path vanilla.pretrain.dev.predictions
           (--paraphrases puts every question in four ways, which is more often right)
    run.py london --eval_corpus_path birth_dev.tsv --finetune_corpus_path birth_places_train.tsv

A closer look, handing in, and marking; each has a --help of its own:

    run.py analyze                       what a finetuned model knows, and whether it knows that it knows
    run.py cost                          what a training step of each variant costs
    run.py ablate                        what each part of the recipe brings, one change at a time
    run.py submit                        collect what is to be handed in, and show its marks
    run.py grade submission.zip          mark a submission
    run.py --handout DIR                 write the starter version, without the functions to be written
"""

import importlib
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout, whatever else is installed

from mingpt.support.command import one_line_errors, way_to_go_on
from mingpt.support.config import Parser, config_from_args, config_to_dict
from mingpt.support.devices import pick_device, pick_dtype
from mingpt.support.files import check_writable, is_own, own_folder, remove_own, write_json
from mingpt.support.processes import process_count
from mingpt.support.tables import with_spread
from projects.birthplace.commands import evaluate, finetune, london, pretrain, write_predictions
from projects.birthplace.dataset import documents_of, make_tokenizer, read_pairs
from projects.birthplace.evaluate import majority_answer, predict_with_paraphrases, score
from projects.birthplace.figures import plot_accuracy, plot_losses
from projects.birthplace.files import (
    PARAPHRASES,
    Files,
    Questions,
    data_named,
    load_files,
    study_folder,
)
from projects.birthplace.recipes import (
    BLOCK_SIZE,
    RECIPES,
    Recipe,
    finetuning_data,
    get_recipe,
    pretraining_data,
)
from projects.birthplace.steps import (
    Settings,
    new_model,
    save_parameters,
    train,
    trainer_config,
)
from projects.birthplace.variants import VARIANTS

TRAINING = {"quick", "out", "recipe", "seed", "bottleneck_dim", "device", "dtype", "resume", "checkpoint_interval"}
COMMANDS = {  # each with its flags
    "study": TRAINING | {"data", "data_dir", "seeds"},
    "pretrain": TRAINING | {"writing_params_path", "pretrain_lr", "max_epochs"},
    "finetune": TRAINING
    | {"reading_params_path", "writing_params_path", "finetune_corpus_path", "finetune_lr", "max_epochs"},
    "evaluate": {"device", "bottleneck_dim", "reading_params_path", "eval_corpus_path", "outputs_path", "paraphrases"},
    "london": {"eval_corpus_path", "finetune_corpus_path"},
}
OTHERS = {  # commands with a module, flags and --help of their own
    "analyze": "closer.analysis",
    "ablate": "closer.ablations",
    "cost": "closer.cost",
    "submit": "assignment.submit",
    "grade": "assignment.grade",
    "handout": "assignment.handout",
    "--handout": "assignment.handout",
}

MARKS = {
    "dev": "people read about, asked once",
    "dev.paraphrases": "people read about, asked in four ways",
    "control": "people never read about, asked once",
    "control.paraphrases": "people never read about, asked in four ways",
}


@dataclass(frozen=True)
class Options:
    """What the commands understand that train; evaluate takes --device and --bottleneck_dim."""

    out: Annotated[
        str, "folder for all that is written; one for each kind of study, and one for the commands, unless given"
    ] = ""
    recipe: Annotated[str, f"{', '.join(RECIPES)}; unless given, salient, but world for the study of the world"] = ""
    seed: Annotated[int, "first seed"] = 0
    bottleneck_dim: Annotated[int, "learned vectors in the middle of a perceiver; 32, or what it has that is read"] = 0
    device: Annotated[str, "auto, cpu, cuda, mps"] = "auto"
    dtype: Annotated[str, "auto, float32, bfloat16, float16"] = "auto"
    resume: Annotated[bool, "true: go on from the checkpoints in the folder"] = False
    checkpoint_interval: Annotated[int, "steps between checkpoints"] = 500

    def __post_init__(self):
        if self.bottleneck_dim < 0:
            raise ValueError(
                f"--bottleneck_dim is {self.bottleneck_dim}; it must be at least 1, or 0 for what --help says"
            )


@dataclass(frozen=True)
class StudyOptions:
    """What the study understands."""

    data: Annotated[str, "world (invented, embedded) or cs224n (downloaded); cs224n with --data_dir, else world"] = ""
    data_dir: Annotated[str, "folder with the files, instead of a download"] = ""
    seeds: Annotated[int, "how many runs, with seeds from --seed on"] = 1

    def __post_init__(self):
        if self.seeds < 1:
            raise ValueError(f"--seeds is {self.seeds}; it must be at least 1")


# ----------------------------------------------------------------------------------------------------------------------
# The study


def study(variant: str, options: Options, study_options: StudyOptions, quick: bool) -> None:
    """Pretrain, finetune with and without pretraining, ask, mark, draw; once for each seed."""
    data = data_named(study_options.data, study_options.data_dir)
    files = load_files(data, study_options.data_dir)
    recipe_name = options.recipe or ("quick" if quick else "world" if data == "world" else "salient")
    recipe, out = get_recipe(recipe_name), Path(options.out or study_folder(data, study_options.data_dir, quick))
    config = {
        "variant": variant,
        **config_to_dict(options),
        **config_to_dict(study_options),
        "data": data,
        "out": str(out),
        "recipe": {"name": recipe_name, **config_to_dict(recipe)},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    folders = {
        seed: out if study_options.seeds == 1 else out / f"seed{seed}"
        for seed in range(options.seed, options.seed + study_options.seeds)
    }
    for seed in (min(folders), max(folders)):
        check(make_settings(variant, recipe, options, seed), files)
    with own_folder(out), way_to_go_on(going_on(out)):
        started, runs = time.perf_counter(), []
        introduce(files)
        if not options.resume:
            for folder in {out, *folders.values()}:
                forget(folder, variant)
        for seed, folder in folders.items():
            runs.append(run_once(make_settings(variant, recipe, options, seed), files, folder))
        report_study(variant, files, config, runs, out, time.perf_counter() - started)
    if data == "world" and not study_options.data_dir:
        print("The people of this world are invented. For the real assignment:  run.py --data cs224n")


def check(settings: Settings, files: Files) -> None:
    """ValueError for whatever would end a run of the study later, when it has removed what an earlier one left."""
    tokenizer = make_tokenizer(files.corpus, files.corpus_source)
    for name in ("dev", "test", "control"):
        getattr(files, name).check(tokenizer, BLOCK_SIZE)
    everything_read(settings, files, tokenizer)
    for phase in (settings.recipe.scratch, settings.recipe.pretrain, settings.recipe.finetune):
        trainer_config(settings, phase)
    pick_dtype(settings.dtype, pick_device(settings.device))
    with torch.device("meta"):  # shapes without memory
        new_model(settings, tokenizer)


def everything_read(settings: Settings, files: Files, tokenizer) -> dict:
    """By what all phases of a run are known: a change of any file is found before the first of them is resumed."""
    recipe, seed, sources = settings.recipe, settings.seed, (files.train_source, files.corpus_source)
    return {
        **pretraining_data(recipe, files.corpus, tokenizer, seed, files.corpus_source).inputs,
        **finetuning_data(recipe, files.train, files.corpus, tokenizer, seed, False, *sources).inputs,
    }


def going_on(out: Path) -> str:
    """What a signal that comes between two phases has the user told."""
    return f"what was finished is kept in {out}, and the same command with --resume goes on from there"


def forget(folder: Path, variant: str) -> None:
    """Remove what an earlier study of the variant left here.

    A new one that is stopped must not be completed from it.
    """
    for path in [*folder.glob(f"{variant}.*"), *folder.glob(f"{variant}.*/checkpoint.pt")]:
        if path.is_file() and is_own(path):
            remove_own(path)


def report_study(variant: str, files: Files, config: dict, runs: list[dict], out: Path, seconds: float) -> None:
    """The table, the figures and metrics.json of all runs."""
    rows = {
        "majority answer": "majority",
        "guess by frequency": "guess",
        "no pretraining": "nopretrain",
        "pretraining": "pretrain",
    }
    marks = {name: {row: [run[name][key] for run in runs] for row, key in rows.items()} for name in MARKS}
    print_table(marks, files, seconds)
    trained_on = {
        "no pretraining": " (answers)",
        "after pretraining": " (answers and documents)" if config["recipe"]["mixed"] else " (answers)",
    }
    about = f"{variant} on {Path(files.corpus_source).resolve().parent.name}"
    plot_losses(
        out / f"{variant}.loss.png",
        [run["losses"]["pretraining"] for run in runs],
        {name + counted: [run["losses"][name] for run in runs] for name, counted in trained_on.items()},
        about,
    )
    plot_accuracy(
        out / f"{variant}.accuracy.png",
        list(rows),
        {MARKS[name]: list(those.values()) for name, those in marks.items()},
        about,
    )
    write_json(out / f"{variant}.metrics.json", {"config": config, "seconds": round(seconds, 1), "runs": runs})
    print(f"\nFigures, metrics, parameters and predictions are in {out}.")


def run_once(settings: Settings, files: Files, out: Path) -> dict:
    """One seed of the study. Returns its scores in percent, its losses and some of its answers."""
    tokenizer = make_tokenizer(files.corpus, files.corpus_source)
    recipe, seed = settings.recipe, settings.seed
    answers = [answer for _, _, answer in read_pairs(files.train, files.train_source, answers=True)]
    inputs = everything_read(settings, files, tokenizer)
    commonest = majority_answer(answers)
    losses, predictions = (
        {},
        {"majority": {name: [commonest] * len(questions_of(files, name).questions) for name in MARKS}},
    )

    def finetuned(model, pretrained: bool, name: str):
        data = finetuning_data(
            recipe, files.train, files.corpus, tokenizer, seed, pretrained, files.train_source, files.corpus_source
        )
        phase = recipe.finetune if pretrained else recipe.scratch
        losses["after pretraining" if pretrained else "no pretraining"] = train(
            settings, phase, model, tokenizer, data, out / f"{settings.variant}.finetune.{name}", inputs
        )
        save_parameters(out / f"{settings.variant}.{name}.finetune.params", settings, model, tokenizer, files.corpus)
        predictions[name] = ask(settings, model, tokenizer, files, out, name)

    print(f"\n[seed {seed}] finetuning without pretraining")
    finetuned(new_model(settings, tokenizer), False, "nopretrain")

    print(f"[seed {seed}] pretraining: reading")
    model = new_model(settings, tokenizer)
    print(f"            {model.num_parameters():,} parameters, {len(tokenizer.characters)} characters")
    documents = pretraining_data(recipe, files.corpus, tokenizer, seed, files.corpus_source)
    losses["pretraining"] = train(
        settings, recipe.pretrain, model, tokenizer, documents, out / f"{settings.variant}.pretrain", inputs
    )
    save_parameters(out / f"{settings.variant}.pretrain.params", settings, model, tokenizer, files.corpus)

    print(f"[seed {seed}] finetuning after pretraining")
    finetuned(model, True, "pretrain")

    marks = {
        name: {key: score(said[name], questions_of(files, name).answers).percent for key, said in predictions.items()}
        for name in MARKS
    }
    shares = {answer: count / len(answers) for answer, count in Counter(answers).items()}
    for name in MARKS:  # what drawing answers from those of training would score on average
        marks[name]["guess"] = 100 * float(
            np.mean([shares.get(truth, 0.0) for truth in questions_of(files, name).answers])
        )
    of_strangers = predictions["pretrain"]["control"]
    return {
        "seed": seed,
        **marks,
        "losses": {name: [round(l, 4) for l in curve] for name, curve in losses.items()},
        "control_answers": Counter(of_strangers).most_common(5),
        "control_answers_that_are_places_of_training": float(np.mean([answer in shares for answer in of_strangers])),
    }


def ask(settings: Settings, model, tokenizer, files: Files, out: Path, name: str) -> dict[str, list[str]]:
    """The model's answers to each set of questions, also written one a line under the assignment's file names."""
    said = {}
    for which in ("dev", "test", "control"):
        said[f"{which}.paraphrases"], each = predict_with_paraphrases(model, tokenizer, getattr(files, which).questions)
        said[which] = [answers[0] for answers in each]  # the first is the question itself
        for kind in (which, f"{which}.paraphrases"):
            write_predictions(out / f"{settings.variant}.{name}.{kind}.predictions", said[kind])
    return said


def questions_of(files: Files, name: str) -> Questions:
    """The questions of one of the MARKS."""
    return getattr(files, name.split(".")[0])


def introduce(files: Files) -> None:
    """Say what is read and asked."""
    documents = documents_of(files.corpus, files.corpus_source)
    pairs = read_pairs(files.train, files.train_source, answers=True)
    print(f"To read:            {len(documents):,} lines of {files.corpus_source}, such as\n    {documents[0]}")
    print(f"To be trained on:   {len(pairs):,} questions, such as\n    {pairs[0][1]}  {pairs[0][2]}")
    print(f"To be asked:        {len(files.dev.questions)} about people it reads about but is never asked about, and")
    print(f"                    {len(files.control.questions)} about people it never reads about")


def print_table(marks: dict[str, dict[str, list[float]]], files: Files, seconds: float) -> None:
    """The result: right answers in percent, with the standard deviation over seeds where there are several."""
    runs = len(next(iter(marks["dev"].values())))
    print(f"\n{'Right answers about':20}{'people read about':>26}{'people never read about':>32}")
    print(f"{'':20}{f'({len(files.dev.questions)} questions)':>26}{f'({len(files.control.questions)} questions)':>32}")
    print(f"{'':20}" + f"{'asked once':>15}{'in four ways':>15}" * 2)
    for row in marks["dev"]:
        print(f"{row:20}" + "".join(f"{with_spread(marks[name][row]) + ' %':>15}" for name in MARKS))
    print(f"{runs} run{'s' if runs > 1 else ''}, {seconds:.0f} s in all")


def make_settings(variant: str, recipe: Recipe, options: Options, seed: int) -> Settings:
    """The options that the steps of a run share."""
    return Settings(
        variant,
        recipe,
        seed,
        options.bottleneck_dim,
        options.device,
        options.dtype,
        options.resume,
        options.checkpoint_interval,
    )


def refuse_unused(args) -> None:
    """Raise ValueError for a flag that the command would not look at, and for a number that cannot be."""
    for name in sorted(set().union(*COMMANDS.values()) - COMMANDS[args.command]):
        if getattr(args, name, None) not in (None, "") and getattr(args, name) is not False:
            *others, taker = [command for command, flags in COMMANDS.items() if name in flags]
            who = f"{', '.join(others)} and {taker} do" if others else f"only {taker} does"
            raise ValueError(f"{args.command} takes no --{name}; {who}")
    for name in ("pretrain_lr", "finetune_lr", "max_epochs"):
        if (value := getattr(args, name)) is not None and value <= 0:
            raise ValueError(f"--{name} is {value}; it must be positive")
    if args.corpus is not None and args.command in ("study", "london"):
        raise ValueError(f"{args.command} takes no corpus ({args.corpus}); see --help")


# ----------------------------------------------------------------------------------------------------------------------


def main() -> None:
    """Read the command line and run one command."""
    if sys.argv[1:] and sys.argv[1] in OTHERS:
        return importlib.import_module(f"projects.birthplace.{OTHERS[sys.argv[1]]}").main(sys.argv[2:])
    parser = Parser(description=__doc__)
    commands = [*COMMANDS, *(name for name in OTHERS if not name.startswith("-"))]
    parser.add_argument("command", nargs="?", default="study", choices=commands)
    parser.add_argument("variant", nargs="?", default="vanilla", choices=list(VARIANTS))
    parser.add_argument("corpus", nargs="?", help="pretraining corpus, one document a line (wiki.txt)")
    parser.add_argument("--quick", action="store_true", help="the study in seconds, with a tiny model")
    parser.add_config(Options, "study, pretrain, finetune; evaluate takes --device and --bottleneck_dim")
    parser.add_config(StudyOptions, "study")
    group = parser.add_argument_group("pretrain, finetune, evaluate, london")
    for name in (
        "reading_params_path",
        "writing_params_path",
        "finetune_corpus_path",
        "eval_corpus_path",
        "outputs_path",
    ):
        group.add_argument(f"--{name}", metavar="PATH", default="")
    group.add_argument(
        "--paraphrases",
        action="store_true",
        help=f"put each question in {len(PARAPHRASES)} ways, and take the answer that is likeliest in all of them",
    )
    group.add_argument("--pretrain_lr", type=float, help="AdamW's peak rate, instead of the recipe's")
    group.add_argument("--finetune_lr", type=float, help="the same for finetuning")
    group.add_argument("--max_epochs", type=int, help="passes over the data, instead of the recipe's")
    group.add_argument("--tb_expt_name", help="accepted for the assignment's sake; metrics.jsonl has the losses")
    args = parser.parse_args()
    with one_line_errors():
        options = config_from_args(Options, args)
        if args.command in OTHERS:
            raise ValueError(f"{args.command} has flags of its own, so it comes first: run.py {args.command} ...")
        refuse_unused(args)
        if process_count() > 1 and args.command not in ("pretrain", "finetune"):
            raise ValueError(f"{args.command} runs in one process; torchrun is for pretrain and finetune")
        if args.command == "study":
            return study(args.variant, options, config_from_args(StudyOptions, args), args.quick)
        if args.command == "london":
            return london(args)
        if args.corpus is None:
            raise ValueError(f"{args.command} needs a corpus: run.py {args.command} {args.variant} wiki.txt ...")
        for path in (args.writing_params_path, args.outputs_path):
            if path:
                check_writable(path)
        recipe = get_recipe(options.recipe or ("quick" if args.quick else "salient"))
        settings = make_settings(args.variant, recipe, options, options.seed)
        out = Path(options.out or "out/birthplace_commands")
        if args.command == "evaluate":
            return evaluate(args.variant, args.corpus, args, settings, out)
        command = {"pretrain": pretrain, "finetune": finetune}[args.command]
        with own_folder(out), way_to_go_on(going_on(out)):
            command(args.variant, args.corpus, args, settings, out)


if __name__ == "__main__":
    main()
