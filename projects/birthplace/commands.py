"""The assignment's four commands: what a student writes. run.py reads the flags and calls them."""

import os
from pathlib import Path

from mingpt.support.devices import pick_device
from mingpt.support.files import read_text, write_text
from projects.birthplace.dataset import make_tokenizer, read_pairs
from projects.birthplace.evaluate import majority_answer, predict, predict_with_paraphrases, score
from projects.birthplace.files import Questions, read_questions
from projects.birthplace.recipes import BLOCK_SIZE, finetuning_data, pretraining_data
from projects.birthplace.steps import (
    Settings,
    is_first_process,
    load_parameters,
    new_model,
    save_parameters,
    train,
    with_rate,
)


def pretrain(variant: str, corpus_path: str, args, settings: Settings, out: Path) -> None:
    """Read: train a fresh model on corrupted documents.

    corpus_path is wiki.txt; args is the command line, from which `required(args, name, command)` takes a flag that must
    be there; --pretrain_lr and --max_epochs take the place of the recipe's (`with_rate`). Metrics and checkpoints go to
    out/VARIANT.pretrain, the trained parameters to --writing_params_path; `report_training` says so at the end.
    """
    writing = required(args, "writing_params_path", "pretrain")
    corpus = read_text(corpus_path)
    tokenizer = make_tokenizer(corpus, corpus_path)
    phase = with_rate(settings.recipe.pretrain, args.pretrain_lr, args.max_epochs)
    documents = pretraining_data(settings.recipe, corpus, tokenizer, settings.seed, corpus_path)
    model = new_model(settings, tokenizer)
    losses = train(settings, phase, model, tokenizer, documents, out / f"{variant}.pretrain")
    save_parameters(writing, settings, model, tokenizer, corpus)
    report_training(losses, writing)


def finetune(variant: str, corpus_path: str, args, settings: Settings, out: Path) -> None:
    """Train on questions; after pretraining if there are parameters to read, else from scratch.

    The questions are those of --finetune_corpus_path. With --reading_params_path it is the recipe's `finetune`, without
    its `scratch`; --finetune_lr and --max_epochs take the place of its numbers. Metrics and checkpoints go to
    out/VARIANT.finetune.pretrain, or out/VARIANT.finetune.nopretrain, the parameters to --writing_params_path.
    """
    writing, pairs_path = (
        required(args, "writing_params_path", "finetune"),
        required(args, "finetune_corpus_path", "finetune"),
    )
    corpus, pairs, reading = read_text(corpus_path), read_text(pairs_path), args.reading_params_path
    tokenizer = make_tokenizer(corpus, corpus_path)
    model = load_parameters(reading, settings, tokenizer) if reading else new_model(settings, tokenizer)
    phase = with_rate(
        settings.recipe.finetune if reading else settings.recipe.scratch, args.finetune_lr, args.max_epochs
    )
    data = finetuning_data(
        settings.recipe, pairs, corpus, tokenizer, settings.seed, bool(reading), pairs_path, corpus_path
    )
    losses = train(
        settings, phase, model, tokenizer, data, out / f"{variant}.finetune.{'pretrain' if reading else 'nopretrain'}"
    )
    save_parameters(writing, settings, model, tokenizer, corpus)
    report_training(losses, writing)


def evaluate(variant: str, corpus_path: str, args, settings: Settings, out: Path) -> None:
    """Answer questions, one prediction a line, and mark them if the answers are known.

    By `predict`, or with --paraphrases by `predict_with_paraphrases`. The questions are those of --eval_corpus_path,
    which `Questions.check` looks at before they are asked; the model is that of --reading_params_path.
    `write_predictions` puts the predictions into --outputs_path, and `mark` prints how many are right.
    """
    reading, asked = required(args, "reading_params_path", "evaluate"), required(args, "eval_corpus_path", "evaluate")
    outputs = required(args, "outputs_path", "evaluate")
    tokenizer = make_tokenizer(read_text(corpus_path), corpus_path)
    model = load_parameters(reading, settings, tokenizer).to(pick_device(settings.device))
    questions = read_questions(asked)
    questions.check(tokenizer, BLOCK_SIZE, args.paraphrases)
    predictions = (
        predict_with_paraphrases(model, tokenizer, questions.questions)[0]
        if args.paraphrases
        else predict(model, tokenizer, questions.questions)
    )
    write_predictions(outputs, predictions)
    mark(predictions, questions)
    print(f"{len(predictions)} predictions written to {outputs}")


def london(args) -> None:
    """What is right without any model: always London, and always the commonest answer of the training questions.

    Asked is --eval_corpus_path, and `mark` prints how many are right. The training questions are those of
    --finetune_corpus_path, if it is given; `majority_answer` says which answer is the commonest.
    """
    questions = read_questions(required(args, "eval_corpus_path", "london"))
    print("Always London:")
    mark(["London"] * len(questions.questions), questions)
    if args.finetune_corpus_path:
        path = args.finetune_corpus_path
        answer = majority_answer([answer for _, _, answer in read_pairs(read_text(path), path, answers=True)])
        print(f"Always {answer}, the commonest answer of {path}:")
        mark([answer] * len(questions.questions), questions)


# ----------------------------------------------------------------------------------------------------------------------
# What they share


def mark(predictions: list[str], questions: Questions) -> None:
    """Print how many are right, or that nobody knows."""
    if questions.answered:
        print(score(predictions, questions.answers))
    else:
        print(f"{questions.source} has no answers, so there is nothing to mark")


def write_predictions(path: str | os.PathLike, predictions: list[str]) -> None:
    """One prediction a line."""
    write_text(path, "".join(prediction + "\n" for prediction in predictions))


def report_training(losses: list[float], writing: str) -> None:
    """Say what a training command has done."""
    if is_first_process():
        print(f"{len(losses)} steps, last loss {losses[-1]:.4f} nats per character")
        print(f"Parameters written to {writing}")


def required(args, name: str, command: str) -> str:
    """The value of a flag that this command cannot do without."""
    value = getattr(args, name)
    if not value:
        raise ValueError(f"{command} needs --{name}")
    return value
