"""What a marker can check because the solution is there: the half of the grader that no handout contains.

A submission's parameters are put into *our* model and asked *our* way. So predictions that nobody's model made are
found out, and accuracy is that of the parameters, not that of a file of lines. A file of parameters can be made to take
any time and memory when it is read. So our code reads it in a process of its own, with the limits that a submission's
code has.
"""

import os
import zipfile
from itertools import zip_longest
from pathlib import Path

import torch

from mingpt.char import CharTokenizer
from mingpt.model import GPT
from mingpt.support.checkpoints import load_torch
from projects.birthplace.assignment import probe, sandbox
from projects.birthplace.assignment.checks import BLOCK_SIZE, Exam, Malformed, largest_difference, read_logits, shown
from projects.birthplace.dataset import make_tokenizer
from projects.birthplace.evaluate import predict
from projects.birthplace.recipes import get_recipe
from projects.birthplace.steps import Settings, model_from

MAX_PARAMETERS = 5_000_000  # numbers; the assignment's model has 3.3 million
MAX_FILE = 16 * MAX_PARAMETERS  # bytes: float32, and room for more
LIMITS = sandbox.Limits(seconds=1800)  # for thousands of questions on a slow machine


def load_submitted(path: str | os.PathLike, variant: str, tokenizer: CharTokenizer) -> GPT:
    """A submission's model. ValueError in one line if the file is too large, damaged, or of another model.

    Before torch reads the file it is looked at: it must be a zip whose entries are stored as they are (as `torch.save`
    makes it), since a compressed one could unpack to any size. Of it, tensors and plain values are read, and no code;
    what
    time and memory that takes nobody knows before, so `answer` does it in another process.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path.name}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile:
        raise ValueError(f"{path.name}: not written by torch.save") from None
    if (
        max(path.stat().st_size, sum(entry.file_size for entry in entries)) > MAX_FILE
        or len(entries) > 1000
        or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    ):
        raise ValueError(f"{path.name}: too large; a model has at most {MAX_PARAMETERS:,} parameters")
    try:
        saved = load_torch(path)
        check_shape(saved, tokenizer.vocab_size)
        return model_from(saved, path, Settings(variant, get_recipe("quick")), tokenizer)
    except ValueError as error:
        raise ValueError(f"{path.name}: {str(error).removeprefix(f'{path}: ')}") from None


def check_shape(saved, vocab_size: int) -> None:
    """ValueError unless a file holds what `save_parameters` writes, of a model that the assignment allows."""
    config, model = (saved.get(name) if isinstance(saved, dict) else None for name in ("config", "model"))
    if not isinstance(config, dict) or not isinstance(model, dict):
        raise ValueError("not written by `run.py pretrain` or `run.py finetune`")
    if not all(
        isinstance(x, torch.Tensor) and x.is_floating_point() and x.layout == torch.strided for x in model.values()
    ):
        raise ValueError("the parameters are not all arrays of floating-point numbers")
    sizes = [config.get(name) for name in ("n_layer", "n_embd", "block_size")]
    if not all(type(n) is int and 1 <= n <= 1 << 20 for n in sizes):  # only then they are safe to print
        raise ValueError("its n_layer, n_embd and block_size are not all sizes")
    n_layer, n_embd, block_size = sizes
    if n_layer > 64 or block_size != BLOCK_SIZE or 12 * n_layer * n_embd**2 + 2 * vocab_size * n_embd > MAX_PARAMETERS:
        raise ValueError(
            f"a model of n_layer {n_layer}, n_embd {n_embd} and block_size {block_size}; the assignment "
            f"allows {MAX_PARAMETERS:,} parameters and a block of {BLOCK_SIZE}"
        )


def answer(files: dict[Path, str], tokenizer: CharTokenizer, questions: list[str]) -> dict[Path, list[str] | str]:
    """What submitted parameters, path -> variant, answer; or, as a string, why they cannot be asked."""
    probes = [
        ("submitted", {"path": str(path), "variant": variant, "characters": tokenizer.characters, "asked": questions})
        for path, variant in files.items()
    ]
    results, ended = sandbox.run_ours(probes, LIMITS)
    return {
        path: result.get("value") or f"{path.name}: cannot be used ({result.get('error')})"
        for path, result in zip_longest(files, results, fillvalue={"error": ended})
    }


def other_logits(exam: Exam, variant: str, raw) -> str | None:
    """How a submission's logits differ from those of our model with the same parameters. Raises Malformed."""
    ours = probe.logits(variant, exam.V, exam.seed, exam.rows)
    theirs = read_logits(raw, len(exam.rows), len(exam.rows[0]), exam.V)
    most = max(largest_difference(a, b) for one, other in zip(ours, theirs) for a, b in zip(one, other))
    if most > 5e-3:  # of about 10; another order of operations may bring 3e-4
        return f"causal, but with the same parameters the specified model gives other logits (by up to {most:.2g})"


def evaluated(exam: Exam) -> list[str]:
    """What our `predict` says with the parameters that `evaluate` is given."""
    tokenizer = make_tokenizer(exam.letters)
    return predict(probe.speaker(tokenizer.vocab_size, exam.seed), tokenizer, [question for question, _ in exam.pairs])


def other_answers(exam: Exam, raw) -> str | None:
    """How the answers of a submission's `predict` differ from those of ours. Raises Malformed.

    Two may: with another order of operations, two characters can be equally likely to the last bits.
    """
    ours = probe.answers(exam.characters, exam.seeds, exam.asked)
    if (
        not isinstance(raw, list)
        or len(raw) != len(ours)
        or not all(isinstance(answers, list) and all(isinstance(said, str) for said in answers) for answers in raw)
    ):
        raise Malformed("predict returned no lists of strings")
    wrong = []
    for expected, answers in zip(ours, raw):
        if len(answers) != len(expected):
            return f"{len(answers)} answers to {len(expected)} questions"
        wrong += [
            (question, right, said) for question, right, said in zip(exam.asked, expected, answers) if said != right
        ]
    if len(wrong) > 2:
        question, right, said = wrong[0]
        return (
            f"{len(wrong)} of {len(exam.asked) * len(ours)}: to {shown(question)} the likeliest characters are "
            f"{shown(right)}, not {shown(said)}"
        )
