"""What runs beside a submission's code: it calls the code and writes down what comes back. It judges nothing.

`sandbox.run_untrusted` copies this file next to the submission's modules and runs it there, in a process that the
submission can do anything with. So no verdict is made here, and nothing that is written here is believed: `grade.py`
chose the questions, gets raw answers (characters, indices, logits) and marks them in its own process. (`submitted` is
another
matter: it runs beside our own code, in a process of its own because of the file that it reads.)

The same functions, called in the marker's process, give the answers of our own code.
"""

import json
import os
import sys
import types
from pathlib import Path


def vocabulary(text: str) -> str:
    """The characters of the corpus's tokenizer, in order."""
    from projects.birthplace.dataset import make_tokenizer

    return make_tokenizer(text).characters


def corruption(text: str, block_size: int, seed: int, draws: list[list[int]]) -> dict:
    """How many documents there are, and the examples [epoch, i] of `draws`, each as `example` gives it."""
    from projects.birthplace.dataset import CharCorruptionDataset, make_tokenizer

    dataset = CharCorruptionDataset(text, make_tokenizer(text), block_size, seed)
    examples = []
    for epoch, i in draws:
        dataset.set_epoch(epoch)
        examples.append(example(dataset, i))
    return {"documents": len(dataset), "examples": examples}


def questions(text: str, pairs: str, block_size: int) -> dict:
    """All examples of the questions in the TSV text `pairs`."""
    from projects.birthplace.dataset import NameDataset, make_tokenizer

    dataset = NameDataset(pairs, make_tokenizer(text), block_size)
    return {"examples": [example(dataset, i) for i in range(len(dataset))]}


def example(dataset, i: int) -> dict:
    """x and y as lists with the names of their dtypes, or the error that came instead."""
    try:
        x, y = dataset[i]
        return {"x": x.tolist(), "y": y.tolist(), "dtypes": [str(x.dtype), str(y.dtype)]}
    except Exception as error:
        return {"error": describe(error)}


def logits(variant: str, vocab_size: int, seed: int, rows: list[list[int]]) -> list:
    """The logits, (B, T, V) as lists, of a small model with the parameters that `seed` draws."""
    import torch

    with torch.no_grad():
        return small_model(variant, vocab_size, seed)(torch.tensor(rows))[0].tolist()


def answers(characters: str, seeds: list[int], asked: list[str]) -> list[list[str]]:
    """What `predict` makes of models with the parameters that `seeds` draw, and that vocabulary."""
    from mingpt.char import CharTokenizer
    from projects.birthplace.evaluate import predict

    tokenizer = CharTokenizer(characters)
    return [list(predict(speaker(tokenizer.vocab_size, seed), tokenizer, asked)) for seed in seeds]


def commands(text: str, pairs: str, asked: str, letters: str, epochs: int, seed: int) -> dict:
    """The assignment's four commands, run on files of these texts. What they print and write, as it is.

    Steps are the lines of their metrics. "learned" is by how much pretraining changed a fresh model; finetuning is at a
    rate of almost 0, and "moved" is by how much it changed that. Evaluated is `speaker`, with the corpus `letters`.
    """
    import contextlib
    import io

    from projects.birthplace import run
    from projects.birthplace.dataset import make_tokenizer
    from projects.birthplace.recipes import get_recipe
    from projects.birthplace.steps import Settings, load_parameters, new_model, save_parameters

    for name, content in (("wiki.txt", text), ("pairs.tsv", pairs), ("asked.tsv", asked), ("letters.txt", letters)):
        Path(name).write_text(content, encoding="utf-8")
    settings, tokenizer = Settings("vanilla", get_recipe("quick")), make_tokenizer(letters)
    model = speaker(tokenizer.vocab_size, seed)
    save_parameters("evaluated.params", settings, permuted(model, tokenizer.characters), tokenizer)
    trained = ["--quick", "--out", "out", "--max_epochs", str(epochs), "--device", "cpu"]
    lines = {
        "pretrain": ["vanilla", "wiki.txt", "--writing_params_path", "pretrain.params", *trained],
        "finetune": [
            "vanilla",
            "wiki.txt",
            "--reading_params_path",
            "pretrain.params",
            "--writing_params_path",
            "finetune.params",
            "--finetune_corpus_path",
            "pairs.tsv",
            "--finetune_lr",
            "1e-9",
            *trained,
        ],
        "scratch": [
            "vanilla",
            "wiki.txt",
            "--writing_params_path",
            "scratch.params",
            "--finetune_corpus_path",
            "pairs.tsv",
            *trained,
        ],
        "evaluate": [
            "vanilla",
            "letters.txt",
            "--reading_params_path",
            "evaluated.params",
            "--eval_corpus_path",
            "asked.tsv",
            "--outputs_path",
            "predictions",
            "--device",
            "cpu",
        ],
        "london": ["--eval_corpus_path", "asked.tsv", "--finetune_corpus_path", "pairs.tsv"],
    }
    found: dict = {"errors": {}, "printed": {}}
    for command, words in lines.items():
        name = "finetune" if command == "scratch" else command
        sys.argv, printed = ["run.py", name, *words], io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                run.main()
        except BaseException as error:
            found["errors"][command] = describe(error)
        with contextlib.suppress(ValueError):  # where the command has closed it
            printed.flush()
            found["printed"][command] = printed.buffer.getvalue().decode("utf-8", "replace")[-2000:]
        if found["errors"].get(command, "").startswith("SystemExit"):  # after a message
            found["errors"][command] = found["printed"].get(command, "").strip().split("\n")[-1][:300]
    for command, folder in (
        ("pretrain", "vanilla.pretrain"),
        ("finetune", "vanilla.finetune.pretrain"),
        ("scratch", "vanilla.finetune.nopretrain"),
    ):
        metrics = Path("out", folder, "metrics.jsonl")
        found[f"{command} steps"] = len(metrics.read_text(encoding="utf-8").splitlines()) if metrics.exists() else 0
    try:
        fresh = new_model(settings, make_tokenizer(text)).state_dict()
        read, moved = (
            load_parameters(f"{name}.params", settings, make_tokenizer(text)).state_dict()
            for name in ("pretrain", "finetune")
        )
        found["learned"] = max((read[name] - fresh[name]).abs().max().item() for name in fresh)
        found["moved"] = max((read[name] - moved[name]).abs().max().item() for name in fresh)
    except Exception as error:
        found["errors"].setdefault("finetune", describe(error))
    if Path("predictions").exists():
        found["predictions"] = Path("predictions").read_text(encoding="utf-8", errors="replace")
    return found


def permuted(model, characters: str):
    """The model for another order of its characters than the specified one: it says the same."""
    import torch

    order = [sorted(characters[2:]).index(character) + 2 if i > 1 else i for i, character in enumerate(characters)]
    with torch.no_grad():
        for weight in {model.transformer.wte.weight, model.lm_head.weight}:
            weight.copy_(weight[order])
    return model


def speaker(vocab_size: int, seed: int):
    """A `small_model` that says various things when it is asked."""
    import torch

    model = small_model("vanilla", vocab_size, seed)
    with torch.no_grad():
        model.transformer.wte.weight[1] *= 2  # the mark, so that some answers end
    return model


def submitted(path: str, variant: str, characters: str, asked: list[str]) -> list[str] | str:
    """What submitted parameters answer, or why they cannot be used.

    Runs beside our own code, not beside a submission's.
    """
    from mingpt.char import CharTokenizer
    from projects.birthplace.assignment.reference import load_submitted
    from projects.birthplace.evaluate import predict

    tokenizer = CharTokenizer(characters)
    try:
        return predict(load_submitted(path, variant, tokenizer), tokenizer, asked)
    except ValueError as error:
        return str(error)


def small_model(variant: str, vocab_size: int, seed: int):
    """A model of the quick recipe's size whose parameters are a function of their names, their shapes and the seed.

    Larger than at initialisation: every part of the model should show in its logits, and not the embeddings most.
    """
    from dataclasses import replace

    import torch

    from projects.birthplace.recipes import build_model, get_recipe

    recipe = get_recipe("quick")
    recipe = replace(recipe, model={**recipe.model, "n_layer": 3})  # so that a perceiver has a layer in its middle
    model = build_model(variant, vocab_size, recipe).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters(), key=lambda named: named[0]):
            std = 0.2 if name.endswith(("wte.weight", "wpe.weight")) else 1.0
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
    return model


PROBES = {
    function.__name__: function
    for function in (vocabulary, corruption, questions, logits, answers, commands, submitted)
}


def describe(error: BaseException) -> str:
    """An error in a few words."""
    return f"{type(error).__name__}: {error}"[:300]


def limit(limits: dict) -> None:
    """Bind this process, and what it starts, to the limits; on Windows there is no way to."""
    try:
        import resource
    except ImportError:
        return
    for name, most in (
        ("RLIMIT_CPU", limits["seconds"]),
        ("RLIMIT_DATA", limits["memory"]),
        ("RLIMIT_FSIZE", limits["file_size"]),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_NOFILE", 256),
    ):
        hard = resource.getrlimit(getattr(resource, name))[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(getattr(resource, name), (most, most))


def confine(path: list[str]) -> None:
    """Import the submission's modules and the installed packages, and no other copy of this project."""
    home = os.getcwd()
    sys.path[:0] = [home, *path]
    for name in ("projects", "projects.birthplace"):  # as namespace packages they would span the whole path
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [os.path.join(home, *name.split("."))]


def main() -> None:
    """Answer the probes of request.json, one line of result.jsonl each."""
    request = json.loads(Path("request.json").read_text(encoding="utf-8"))
    limit(request["limits"])
    confine(request["path"])
    with open("result.jsonl", "w", encoding="utf-8") as results:
        for name, arguments in request["probes"]:
            try:
                line = {"value": PROBES[name](**arguments)}
            except BaseException as error:  # SystemExit, too: the next probe may fare better
                line = {"error": describe(error)}
            results.write(json.dumps(line) + "\n")
            results.flush()


if __name__ == "__main__":
    main()
