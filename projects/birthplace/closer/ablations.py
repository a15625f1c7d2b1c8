"""What each part of the recipe brings: pretraining, finetuning and questions again, with one change at a time.

    python projects/birthplace/run.py ablate --seeds 3                            the embedded world: a minute or two
    each
    python projects/birthplace/run.py ablate --data cs224n --people 700           a third of the assignment's people
    python projects/birthplace/run.py ablate --only "recipe; no random gaps"         some of the changes
    python projects/birthplace/run.py ablate --data cs224n --people 0 --variant rope --reading_params_path
    rope.pretrain.params
                                                          changes of finetuning alone, after what was pretrained on
                                                          everything

Every run takes the same number of steps of the same size, but for those with half and twice the readings; so a change
that makes the examples longer reads each document fewer times. On the assignment's files dev is left alone: of the
training questions of --people people three in four are trained on, and the rest are asked; the corpus is those people's
documents. Each question is asked once, and in four ways. Finished runs stay in --out, and --resume keeps them, and goes
on with the one that was stopped. Writes ablations.json, ablations.md and ablations.png.
"""

import random
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # this checkout, whatever else is installed

from mingpt.batches import Batches
from mingpt.support.checkpoints import fingerprint
from mingpt.support.command import one_line_errors, way_to_go_on
from mingpt.support.config import Parser, config_from_args, config_to_dict
from mingpt.support.devices import pick_device, pick_dtype, set_seed
from mingpt.support.files import is_own, own_folder, read_json, remove_own, write_json, write_text
from mingpt.support.plotting import COLORS, figure
from mingpt.support.processes import process_count
from mingpt.support.tables import with_spread
from projects.birthplace.dataset import documents_of, make_tokenizer, name_of, read_pairs
from projects.birthplace.evaluate import marks_of_paraphrases, predict_with_paraphrases
from projects.birthplace.files import Files, Questions, data_named, load_files, person
from projects.birthplace.recipes import BLOCK_SIZE, RECIPES, Recipe, finetuning_data, get_recipe, pretraining_data
from projects.birthplace.steps import Settings, load_parameters, new_model, train, trainer_config, with_rate
from projects.birthplace.variants import VARIANTS


def with_optim(recipe: Recipe, **fields) -> Recipe:
    """Other fields of OptimConfig in both phases."""
    return replace(
        recipe,
        **{
            name: replace(phase, optim=replace(phase.optim, **fields))
            for name, phase in (("pretrain", recipe.pretrain), ("finetune", recipe.finetune))
        },
    )


def with_length(recipe: Recipe, times: float) -> Recipe:
    """Pretraining of another length."""
    trainer = recipe.pretrain.trainer
    return replace(
        recipe,
        pretrain=replace(recipe.pretrain, trainer=replace(trainer, max_iters=max(1, round(trainer.max_iters * times)))),
    )


def with_model(recipe: Recipe, **fields) -> Recipe:
    """Other fields of GPTConfig."""
    return replace(recipe, model={**recipe.model, **fields})


@dataclass(frozen=True)
class Change:
    """One thing that is done in another way: the variant of the model, or something of the recipe."""

    recipe: Callable[[Recipe], Recipe] = lambda recipe: recipe
    variant: str = ""  # "": as it is

    def spares_pretraining(self, recipe: Recipe) -> bool:
        """Whether only finetuning differs."""
        changed = self.recipe(recipe)
        return not self.variant and replace(changed, finetune=recipe.finetune, mixed=recipe.mixed) == recipe


CHANGES = {
    "recipe": Change(),
    "random gaps alone, as in the assignment": Change(lambda recipe: replace(recipe, salient=0.0, recall=0.0)),
    "gaps in capitalised words, with the document around them": Change(
        lambda recipe: replace(recipe, salient=recipe.salient + recipe.recall, recall=0.0)
    ),
    "no random gaps": Change(lambda recipe: replace(recipe, recall=1 - recipe.salient)),
    "AdamW for all parameters": Change(lambda recipe: with_optim(recipe, optimizer="adamw")),
    "AdamW for all parameters, pretraining at a third of its rate": Change(
        lambda recipe: with_optim(
            replace(recipe, pretrain=with_rate(recipe.pretrain, recipe.pretrain.optim.learning_rate / 3)),
            optimizer="adamw",
        )
    ),
    "queries and keys not normalised": Change(lambda recipe: with_model(recipe, qk_norm=False)),
    "dropout 0.1": Change(lambda recipe: with_model(recipe, dropout=0.1)),
    "output layer not tied to the embeddings": Change(lambda recipe: with_model(recipe, tie_weights=False)),
    "learned positions that always begin at 0": Change(lambda recipe: replace(recipe, shift=False)),
    "rotary positions": Change(variant="rope"),
    "no documents while finetuning": Change(lambda recipe: replace(recipe, mixed=0.0)),
    "finetuning at the rates of pretraining": Change(
        lambda recipe: replace(
            recipe, finetune=replace(recipe.finetune, optim=replace(recipe.pretrain.optim, warmup_iters=0))
        )
    ),
    "half the readings": Change(lambda recipe: with_length(recipe, 0.5)),
    "twice the readings": Change(lambda recipe: with_length(recipe, 2)),
}


@dataclass(frozen=True)
class AblationOptions:
    """Which runs, on what."""

    out: Annotated[str, "folder for everything that is written"] = "out/birthplace_ablations"
    data: Annotated[str, "world, or cs224n (downloaded, or --data_dir)"] = ""
    data_dir: Annotated[str, "folder with the assignment's files, instead of a download"] = ""
    people: Annotated[
        int, "cs224n: how many people, in the order of shuffled training questions; 0: all, and all documents"
    ] = 700
    variant: Annotated[str, f"the model that is changed: {', '.join(VARIANTS)}"] = "vanilla"
    reading_params_path: Annotated[str, "finetune these parameters, of all documents, instead of pretraining"] = ""
    recipe: Annotated[str, f"{', '.join(RECIPES)}; world or salient, by the data, unless given"] = ""
    max_iters: Annotated[int, "steps of pretraining; 0: as many as the recipe takes, on cs224n for 60 readings"] = 0
    batch_tokens: Annotated[int, "characters in a step of pretraining"] = 2048
    only: Annotated[str, "changes, with ; between them; all, unless given"] = ""
    seed: Annotated[int, "first seed"] = 0
    seeds: Annotated[int, "how many runs of each, with seeds from --seed on"] = 1
    device: Annotated[str, "auto, cpu, cuda, mps"] = "auto"
    dtype: Annotated[str, "auto, float32, bfloat16, float16"] = "auto"
    resume: Annotated[bool, "true: keep the finished runs in the folder"] = False

    def __post_init__(self):
        for name, least in (("people", 0), ("max_iters", 0), ("batch_tokens", 1), ("seeds", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be at least {least}")
        if self.variant not in VARIANTS:
            raise ValueError(f"--variant is {self.variant!r}; it must be one of {', '.join(VARIANTS)}")
        if self.reading_params_path and (self.people or not (self.data == "cs224n" or self.data_dir)):
            raise ValueError(
                "--reading_params_path needs --data cs224n (or --data_dir) and --people 0: pretraining has read all "
                "documents"
            )
        for name in self.names:
            if name not in CHANGES:
                raise ValueError(f"no change is called {name!r}; there are: {'; '.join(CHANGES)}")

    @property
    def names(self) -> list[str]:
        """The changes that are wanted."""
        return [" ".join(name.split()) for name in self.only.split(";")] if self.only else list(CHANGES)


def laboratory(files: Files, people: int) -> Files:
    """Of the first `people` (0: all) of the shuffled training questions whose people have a document: their documents
    (0: all), three quarters of the questions to train on, and the rest in place of dev."""
    documents = documents_of(files.corpus, files.corpus_source)
    documented = {name_of(document) for document in documents}
    pairs = [
        pair for pair in read_pairs(files.train, files.train_source, answers=True) if person(pair[1]) in documented
    ]
    random.Random(7).shuffle(pairs)
    pairs = pairs[: people or None]
    asked, kept = pairs[: len(pairs) // 4], pairs[len(pairs) // 4 :]
    names = {person(question) for _, question, _ in pairs}
    corpus = "\n".join(document for document in documents if not people or name_of(document) in names)
    if not asked:
        raise ValueError(f"{files.train_source}: {len(pairs)} of its people are too few; raise --people")
    dev = Questions(
        [question for _, question, _ in asked],
        [answer for *_, answer in asked],
        files.train_source,
        [number for number, *_ in asked],
    )
    return replace(
        files, corpus=corpus, train="".join(f"{question}\t{answer}\n" for _, question, answer in kept), dev=dev
    )


def make_settings(variant: str, recipe: Recipe, seed: int, options: AblationOptions) -> Settings:
    """What is the same for every step of a run. Its checkpoints are for signals alone."""
    return Settings(
        variant, recipe, seed, device=options.device, dtype=options.dtype, resume=options.resume, checkpoint_interval=0
    )


def run_one(
    change: Change, recipe: Recipe, files: Files, tokenizer, options: AblationOptions, seed: int, out: Path
) -> dict:
    """One run with one change. Returns the share of right answers, in percent, and what else one may want to know."""
    started = time.perf_counter()
    recipe = change.recipe(recipe)
    settings = make_settings(change.variant or options.variant, recipe, seed, options)
    if options.reading_params_path:
        model, read = load_parameters(options.reading_params_path, settings, tokenizer), []
    else:
        model = new_model(settings, tokenizer)
        documents = pretraining_data(recipe, files.corpus, tokenizer, seed, files.corpus_source)
        read = train(settings, recipe.pretrain, model, tokenizer, documents, out / "pretrain")
    questions = finetuning_data(
        recipe, files.train, files.corpus, tokenizer, seed, True, files.train_source, files.corpus_source
    )
    train(settings, recipe.finetune, model, tokenizer, questions, out / "finetune")
    marks = marks_of_paraphrases(*predict_with_paraphrases(model, tokenizer, files.dev.questions), files.dev.answers)
    return {
        "percent": next(iter(marks.values())),
        "percent in four ways": marks["all together"],
        "ways of asking": marks,
        "questions": len(files.dev.questions),
        "steps": len(read),
        "pretraining loss": round(float(np.mean(read[-50:])), 4) if read else None,
        "seconds": round(time.perf_counter() - started, 1),
    }


def report(runs: dict[str, list[dict]], out: Path, about: str) -> None:
    """The table, printed and as Markdown, and the figure."""
    base = [run["percent"] for run in runs.get("recipe", [])]
    lines = [
        about,
        "",
        "| change | right answers | asked in four ways | difference of the first, seed by seed |",
        "|---|---|---|---|",
    ]
    for name, those in runs.items():
        percent = [run["percent"] for run in those]
        gained = [run["percent"] - base[i] for i, run in enumerate(those)] if len(base) == len(those) else []
        lines.append(
            f"| {name} | {with_spread(percent)} % | {with_spread([run['percent in four ways'] for run in those])} % | "
            f"{with_spread(gained, sign='+') if gained and name != 'recipe' else ''} |"
        )
    print("\n" + "\n".join(lines))
    write_text(out / "ablations.md", "\n".join(lines) + "\n")
    write_json(out / "ablations.json", {"about": about, "runs": runs})
    with figure(out / "ablations.png", width=8.5, height=1.2 + 0.32 * len(runs)) as axes:
        for y, (name, those) in enumerate(runs.items()):
            percent = [run["percent"] for run in those]
            axes.barh(y, np.mean(percent), color=COLORS["grey" if name == "recipe" else "blue"], height=0.7)
            beside = y + 0.14 * (
                np.arange(len(percent)) - (len(percent) - 1) / 2
            )  # equal results do not hide each other
            axes.plot(percent, beside, ".", color="black", ms=5)
        if base:
            axes.axvline(np.mean(base), color="black", lw=0.8, ls="--")
        axes.set_yticks(range(len(runs)), list(runs))
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        seeds = max(len(those) for those in runs.values())
        axes.set(
            xlabel="right answers, asked once (%)" + "; dots: single seeds" * (seeds > 1),
            xlim=(0, 100),
            title="The recipe" + " (dashed)" * bool(base) + ", and one change at a time",
        )


def wanted(options: AblationOptions, recipe: Recipe) -> list[str]:
    """The changes to run; with --reading_params_path those of finetuning. ValueError if another was asked for."""
    names = options.names
    if options.reading_params_path:
        names = [name for name in options.names if CHANGES[name].spares_pretraining(recipe)]
        if options.only and names != options.names:
            other = next(name for name in options.names if name not in names)
            raise ValueError(f"--reading_params_path: {other!r} is a change of pretraining")
    return names


def is_run(result, name: str, same: dict) -> bool:
    """Whether a result.json is whole, of that change, and of the same data and settings."""
    return (
        isinstance(result, dict)
        and result.get("change") == name
        and result.get("same") == same
        and all(
            isinstance(result.get(key), kind)
            for key, kind in (("percent", float), ("percent in four ways", float), ("seed", int), ("steps", int))
        )
    )


def forget(paths: Iterable[Path]) -> None:
    """Remove those of the files that a run of ours wrote."""
    for path in paths:
        if path.is_file() and is_own(path):
            remove_own(path)


def main(words: list[str] | None = None) -> None:
    """Read the command line, run, report."""
    parser = Parser(prog="run.py ablate", description=__doc__)
    parser.add_config(AblationOptions, "ablate")
    args = parser.parse_args(words)
    with one_line_errors():
        if process_count() > 1:
            raise ValueError("ablate runs in one process; torchrun is for pretrain and finetune")
        options = config_from_args(AblationOptions, args)
        data, out = data_named(options.data, options.data_dir), Path(options.out)
        files = load_files(data, options.data_dir)
        tokenizer = make_tokenizer(
            files.corpus, files.corpus_source
        )  # of all documents: a part may lack the question mark
        if data == "cs224n":
            files = laboratory(files, options.people)
        files.dev.check(tokenizer, BLOCK_SIZE)
        recipe = get_recipe(options.recipe or ("world" if data == "world" else "salient"))
        documents = pretraining_data(recipe, files.corpus, tokenizer, 0, files.corpus_source)
        readings = 60 if data == "cs224n" else recipe.pretrain.trainer.max_epochs
        per_reading = len(Batches(documents, batch_tokens=options.batch_tokens))
        steps = options.max_iters or readings * per_reading or recipe.pretrain.trainer.max_iters
        recipe = replace(
            recipe,
            pretrain=replace(
                recipe.pretrain,
                trainer=replace(
                    recipe.pretrain.trainer,
                    max_epochs=0,
                    max_iters=steps,
                    batch_size=0,
                    batch_tokens=options.batch_tokens,
                ),
            ),
        )
        same = {
            "recipe": config_to_dict(recipe),
            "people": options.people if data == "cs224n" else 0,
            "data": data,
            "variant": options.variant,
            "vocabulary": tokenizer.characters,
            "files": fingerprint([files.corpus, files.train, files.dev.questions, files.dev.answers]),
            "starting parameters": fingerprint(Path(options.reading_params_path))
            if options.reading_params_path
            else "",
        }

        names = wanted(options, recipe)
        pick_dtype(options.dtype, pick_device(options.device))
        for seed in (options.seed, options.seed + options.seeds - 1):
            trainer_config(make_settings(options.variant, recipe, seed, options), recipe.pretrain)
            set_seed(seed)
        with (
            own_folder(out),
            way_to_go_on(f"finished runs are kept in {out}, and the same command with --resume goes on from there"),
        ):
            if not options.resume:  # what is stopped half way must not be completed from an older run
                forget(
                    [*out.glob("ablations.*"), *out.glob("*.seed*/result.json"), *out.glob("*.seed*/*/checkpoint.pt")]
                )
            runs: dict[str, list[dict]] = {name: [] for name in names}
            for seed in range(options.seed, options.seed + options.seeds):
                for name in runs:
                    folder = out / f"{list(CHANGES).index(name):02}.seed{seed}"
                    path = folder / "result.json"
                    result = read_json(path) if options.resume and path.exists() else {}
                    if not is_run(result, name, same):
                        if result:
                            print(f"{path}: of another run, with other settings or data, or damaged; it is made again")
                            forget([path, *folder.glob("*/checkpoint.pt")])
                        print(f"[seed {seed}] {name}")
                        result = {
                            "change": name,
                            "seed": seed,
                            "same": same,
                            **run_one(CHANGES[name], recipe, files, tokenizer, options, seed, folder),
                        }
                        write_json(path, result)
                        forget(folder.glob("*/checkpoint.pt"))
                    runs[name].append({key: value for key, value in result.items() if key not in ("change", "same")})
            seeds = f"{options.seeds} seeds (mean ± standard deviation)" if options.seeds > 1 else "1 seed"
            read = options.reading_params_path or f"{steps:,} steps of {options.batch_tokens:,} characters"
            source = Path(files.dev.source).name
            about = f"{len(files.dev.questions)} questions of {source}, {options.variant}, {read}, {seeds}"
            report(runs, out, about)
            print(f"\nWritten to {out}")


if __name__ == "__main__":
    main()
