"""What a marker can check because the solution is there: the half of the grader that no handout contains.

A submission's parameters are put into *our* model and asked *our* way. So predictions that nobody's model made are
found out, and accuracy is that of the parameters, not that of a file of lines.
"""

import os
import zipfile
from pathlib import Path

import torch

from mingpt.char import CharTokenizer
from mingpt.model import GPT
from mingpt.utils import load_torch
from projects.birthplace import probe
from projects.birthplace.checks import BLOCK_SIZE, Exam, Malformed, largest_difference, read_logits, shown
from projects.birthplace.evaluate import predict
from projects.birthplace.recipes import get_recipe
from projects.birthplace.steps import Settings, load_parameters

MAX_PARAMETERS = 5_000_000  # numbers; the assignment's model has 3.3 million
MAX_FILE = 16 * MAX_PARAMETERS  # bytes: float32, and room for more


def load_submitted(path: str | os.PathLike, variant: str, tokenizer: CharTokenizer) -> GPT:
    """A submission's model. ValueError in one line if the file is too large, damaged, or of another model.

    Before torch reads the file it is looked at: it must be a zip whose entries are stored as they are (as `torch.save`
    makes it), since a compressed one could unpack to any size. Of it, tensors and plain values are read, and no code.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path.name}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile:
        raise ValueError(f"{path.name}: not written by torch.save") from None
    if max(path.stat().st_size, sum(entry.file_size for entry in entries)) > MAX_FILE or len(entries) > 1000 or \
            any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError(f"{path.name}: too large; a model has at most {MAX_PARAMETERS:,} parameters")
    try:
        check_shape(load_torch(path), tokenizer.vocab_size)
        return load_parameters(path, Settings(variant, get_recipe("quick")), tokenizer)
    except ValueError as error:
        raise ValueError(f"{path.name}: {str(error).removeprefix(f'{path}: ')}") from None


def check_shape(saved, vocab_size: int) -> None:
    """ValueError unless a file holds what `save_parameters` writes, of a model that the assignment allows."""
    kinds = {"variant": str, "vocabulary": str, "config": dict, "model": dict}
    if not isinstance(saved, dict) or not all(isinstance(saved.get(name), kind) for name, kind in kinds.items()) or \
            not isinstance(saved.get("bottleneck_dim", 0), int):
        raise ValueError("not written by `run.py pretrain` or `run.py finetune`")
    if not all(isinstance(x, torch.Tensor) and x.is_floating_point() and x.layout == torch.strided
               for x in saved["model"].values()):
        raise ValueError("the parameters are not all arrays of floating-point numbers")
    n_layer, n_embd, block_size = (saved["config"].get(name) for name in ("n_layer", "n_embd", "block_size"))
    if not all(isinstance(n, int) for n in (n_layer, n_embd)) or not 1 <= n_layer <= 64 or block_size != BLOCK_SIZE or \
            12 * n_layer * n_embd**2 + 2 * vocab_size * n_embd > MAX_PARAMETERS:
        raise ValueError(f"a model of n_layer {n_layer}, n_embd {n_embd} and block_size {block_size}; the assignment "
                         f"allows {MAX_PARAMETERS:,} parameters and a block of {BLOCK_SIZE}")


def answer(path: str | os.PathLike, variant: str, tokenizer: CharTokenizer, questions: list[str]) -> list[str]:
    """What the submitted parameters answer."""
    return predict(load_submitted(path, variant, tokenizer), tokenizer, questions)


def other_logits(exam: Exam, variant: str, raw) -> str | None:
    """How a submission's logits differ from those of our model with the same parameters. Raises Malformed."""
    ours = probe.logits(variant, exam.V, exam.seed, exam.rows)
    theirs = read_logits(raw, len(exam.rows), len(exam.rows[0]), exam.V)
    most = max(largest_difference(a, b) for one, other in zip(ours, theirs) for a, b in zip(one, other))
    if most > 1e-3:
        return f"causal, but with the same parameters the specified model gives other logits (by up to {most:.2g})"


def other_answers(exam: Exam, raw) -> str | None:
    """How the answers of a submission's `predict` differ from those of ours. Raises Malformed.

    Two may: with another order of operations, two characters can be equally likely to the last bits.
    """
    ours = probe.answers("vanilla", exam.characters, exam.seeds, exam.asked)
    if not isinstance(raw, list) or len(raw) != len(ours) or not all(
            isinstance(answers, list) and all(isinstance(said, str) for said in answers) for answers in raw):
        raise Malformed("predict returned no lists of strings")
    wrong = []
    for expected, answers in zip(ours, raw):
        if len(answers) != len(expected):
            return f"{len(answers)} answers to {len(expected)} questions"
        wrong += [(question, right, said) for question, right, said in zip(exam.asked, expected, answers)
                  if said != right]
    if len(wrong) > 2:
        question, right, said = wrong[0]
        return (f"{len(wrong)} of {len(exam.asked) * len(ours)}: to {shown(question)} the likeliest characters are "
                f"{shown(right)}, not {shown(said)}")
