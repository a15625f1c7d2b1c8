"""Where the study's files are: the embedded world, the assignment's own, or a folder of one's own."""

import os
import random
import re
from dataclasses import dataclass
from pathlib import Path

from mingpt.char import CharTokenizer
from mingpt.support.files import read_text
from projects.birthplace.dataset import MASK, WORLD, encode_line, read_pairs

# One question, as finetuning puts it and as biographies would. Chosen on held-out training questions, see the README.
PARAPHRASES = ("Where was {} born?", "{} was born in", "{}, born in", "{} in")
CS224N = WORLD.parent / "cs224n_a5"


@dataclass(frozen=True)
class Questions:
    """Questions, their answers ("" where there are none), the file they are from, and their lines in it."""

    questions: list[str]
    answers: list[str]
    source: str
    lines: list[int]

    @property
    def answered(self) -> bool:
        """Whether the answers are known."""
        return bool(self.answers[0])

    def check(self, tokenizer: CharTokenizer, block_size: int, paraphrased: bool = True) -> None:
        """ValueError with file and line if a question, or a paraphrase, cannot be put to a model of that vocabulary and
        block size."""
        for number, question in zip(self.lines, self.questions):
            if paraphrased and person(question):
                for form in PARAPHRASES:
                    if lacking := set(form.replace("{}", "")) - set(tokenizer.characters):
                        raise ValueError(
                            f"the corpus has no {min(lacking)!r}, which is in the paraphrase {form!r}; "
                            "evaluate without --paraphrases"
                        )
            for prompt in paraphrases(question) if paraphrased else [question]:
                encode_line(tokenizer, prompt + MASK, self.source, number, longest=block_size - 1)


@dataclass(frozen=True)
class Files:
    """What one run of the study reads."""

    corpus: str  # one document a line
    corpus_source: str
    train: str  # QUESTION<tab>PLACE a line
    train_source: str
    dev: Questions  # people who were read about, but never asked about in training
    test: Questions  # the same, without answers
    control: Questions  # people who were never read about


def read_questions(path: str | os.PathLike) -> Questions:
    """The questions of a TSV file with or without answers. ValueError where a line is malformed."""
    pairs = read_pairs(read_text(path), str(path))
    return Questions(
        [question for _, question, _ in pairs],
        [answer for _, _, answer in pairs],
        str(path),
        [number for number, _, _ in pairs],
    )


def data_named(data: str, data_dir: str | os.PathLike) -> str:
    """What --data says; unless it does, "world", or "cs224n" for a folder of one's own."""
    return data or ("cs224n" if data_dir else "world")


def study_folder(data: str, data_dir: str | os.PathLike = "", quick: bool = False) -> str:
    """Where the study writes unless told.

    A look at the world does not overwrite an hour's run on the assignment's files.
    """
    name = Path(data_dir).resolve().name if data_dir else "" if data == "world" else data
    return "out/birthplace" + f"_{name}" * bool(name) + "_quick" * quick


def load_files(data: str, data_dir: str | os.PathLike = "") -> Files:
    """The files of `data`: "world", or "cs224n", which is downloaded if need be.

    `data_dir` is a folder of one's own.
    """
    if data not in ("world", "cs224n"):
        raise ValueError(f"--data is {data!r}; it must be world or cs224n")
    if data_dir:
        folder = Path(data_dir)
        if not folder.is_dir():
            raise ValueError(f"--data_dir {folder}: no such folder")
    elif data == "world":
        folder = WORLD
    else:
        folder = _download()
    corpus, train = folder / "wiki.txt", folder / "birth_places_train.tsv"
    texts = read_text(corpus), read_text(train)
    dev = read_questions(folder / "birth_dev.tsv")
    if not dev.answered:
        raise ValueError(f"{dev.source}: no answers; the study needs a dev set that has them")
    control = folder / "birth_control.tsv"
    return Files(
        texts[0],
        str(corpus),
        texts[1],
        str(train),
        dev,
        read_questions(folder / "birth_test_inputs.tsv"),
        read_questions(control) if control.exists() else strangers(dev, texts[0]),
    )


def person(question: str) -> str:
    """The name in a question `Where was NAME born?`; "" if it is another one."""
    found = re.fullmatch(r"Where was (.+) born\?", question)
    return found[1] if found else ""


def paraphrases(question: str) -> list[str]:
    """The question in all PARAPHRASES; one that is not `Where was NAME born?` as it stands each time."""
    name = person(question)
    return [form.format(name) if name else question for form in PARAPHRASES]


def strangers(known: Questions, corpus: str, seed: int = 0) -> Questions:
    """Questions about people who do not exist: the given names of some with the surnames of others.

    The answers are those of the surnames' owners, and nobody of the resulting name stands in the corpus: whoever gives
    such an answer has been lucky, or has gone by the surname.
    """
    rng = random.Random(seed)
    names = [person(question).split() for question in known.questions]
    owners = [(name, answer) for name, answer in zip(names, known.answers) if len(name) > 1]
    given = [name[0] for name, _ in owners]
    rng.shuffle(given)
    people = [(f"{first} {name[-1]}", answer) for first, (name, answer) in zip(given, owners)]
    people = [(name, answer) for name, answer in people if name not in corpus]
    if not people:
        raise ValueError(f"{known.source}: no two names to recombine into a control set")
    return Questions(
        [f"Where was {name} born?" for name, _ in people],
        [answer for _, answer in people],
        f"{known.source}, names recombined",
        list(range(1, len(people) + 1)),
    )


def _download() -> Path:
    """The assignment's files, downloaded and verified."""
    from data.cs224n_a5.prepare import prepare

    return prepare(CS224N)
