"""The two datasets of the study, as strings that a small GPT can be trained on.

Pretraining, "span corruption" (Raffel et al. 2020), one document of the corpus an example:

    Khatchig Mouradian. Khatchig Mou⁇ journalist, writer⁇radian is a⁇□□□□...
    |----------- prefix -----------| |---- suffix -----| |-masked--|

    The model reads a document from which a piece is missing, then a mark, then has to write the piece. Every character
    is trained on, those before the gap included; the padding is not.

Finetuning, one question an example:

    x    Where was Khatchig Mouradian born?⁇Lebanon⁇□□□□
    y    □□□□□□□□□□□□□□□□□□□□□□□□□□□□□□□□□□Lebanon⁇□□□□□     only the answer is trained on

To see some:   python projects/birthplace/dataset.py namedata
               python projects/birthplace/dataset.py charcorruption
"""

import random
import re
import sys
from pathlib import Path

import torch
from torch import Tensor

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout, whatever else is installed

from mingpt.char import CharTokenizer
from mingpt.support.command import one_line_errors
from mingpt.support.config import Parser
from mingpt.support.files import read_text

PAD, MASK = "\u25a1", "\u2047"  # □ and ⁇, which no document contains; indices 0 and 1
WORLD = Path(__file__).resolve().parents[2] / "data" / "birthplace_world"


def make_tokenizer(text: str, source: str = "the corpus") -> CharTokenizer:
    """PAD, MASK, then the sorted characters of the pretraining corpus: the vocabulary of every model of this study."""
    documents_of(text, source)  # an empty one would end in puzzles about strange characters
    try:
        return CharTokenizer.from_text(text, special=PAD + MASK)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def documents_of(corpus: str, source: str = "the corpus") -> list[str]:
    """The documents of a corpus, one a line; empty lines are none. ValueError if there is no other."""
    documents = [line for line in corpus.split("\n") if line]
    if not documents:
        raise ValueError(f"{source}: no document: the file is empty")
    return documents


class CharCorruptionDataset:
    """Documents with a piece missing, to be restored.

    text        one document a line; empty lines are skipped
    tokenizer   its vocabulary begins with PAD and MASK
    block_size  the length of the padded string; x and y, its two overlapping ends, are one shorter
    seed        `dataset[i]` is a function of the seed, i, and the epoch (`set_epoch`)
    source      the name of the file, for error messages

    `dataset[i]` is (x, y), both (block_size - 1,) int64, y being x moved by one; PAD in y is not to be trained on
    (`pad_id` tells `mingpt.batches` so).
    """

    pad_id = 0

    def __init__(
        self, text: str, tokenizer: CharTokenizer, block_size: int = 128, seed: int = 0, source: str = "the corpus"
    ):
        self.longest = int(block_size * 7 / 8)  # the longest beginning of a document that is looked at
        if self.longest + 3 > block_size:  # three marks
            raise ValueError(f"block_size is {block_size}; span corruption needs at least 17")
        self.documents = documents_of(text, source)
        self.tokenizer, self.block_size, self.seed = tokenizer, block_size, seed
        for number, line in enumerate(text.split("\n"), 1):
            encode_line(tokenizer, line, source, number)
        self.set_epoch(0)

    @property
    def inputs(self) -> dict:
        """What the examples are made of, by which a run is known."""
        return {"corpus": self.documents}

    def set_epoch(self, epoch: int) -> None:
        """Draw other pieces from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if not 0 <= i < len(self.documents):
            raise IndexError(f"document {i} of {len(self.documents)}")  # also what ends a for loop
        rng = random.Random(f"{self.seed} {self.epoch} {i}")
        return _shifted(self.corrupt(self.documents[i], rng), self.tokenizer, self.block_size)

    def corrupt(self, document: str, rng: random.Random) -> str:
        """prefix MASK suffix MASK masked MASK, without padding."""
        prefix, masked, suffix = self.split(document, rng)
        return prefix + MASK + suffix + MASK + masked + MASK

    def split(self, document: str, rng: random.Random) -> tuple[str, str, str]:
        """Prefix, masked content and suffix of a random beginning of the document.

        The beginning is between 4 and 7/8 of block_size characters long, any length being equally likely (never longer
        than the document). The length of the masked content is drawn anew each time: anything from 1 to about half of
        the beginning, so that it is a quarter of it on average. Its place is random, too: at the very start, at the
        very end, or anywhere between.
        """
        longest = min(self.longest, len(document))
        length = rng.randint(min(4, longest), longest)
        # Uniform on 1 .. length/2 - 1, whose mean is length/4; if length is odd, the upper end is rounded either way.
        most = (length - 2 + rng.randint(0, 1) * (length % 2)) // 2
        masked = rng.randint(1, max(1, most))
        start = rng.randint(0, length - masked)
        return document[:start], document[start : start + masked], document[start + masked : length]


class SalientCorruptionDataset(CharCorruptionDataset):
    """Span corruption that more often asks for what is worth knowing (Guu et al. 2020, "salient span masking").

    salient     share of the examples in which the missing piece is a run of capitalised words after the name that the
                document begins with: mostly a name or a place, now and then a "She" or a "Born". In half of them
                nothing
                follows the gap, as nothing follows a question
    recall      share in which, besides, little else is left than the name: up to 3 words from anywhere in the document,
                then the name, then up to 4 of the words that led up to the gap, and one mark, as in a question:

                    writer and Khatchig Mouradian born in⁇Lebanon⁇

                What a model learns from whole documents it can tell if asked in the document's own words. To tell it
                when asked in others, it must have connected the fact with the name. Seven times in ten a gap that
                follows an "in", "at", "near", "from" or "of" is preferred

    Other parameters as for `CharCorruptionDataset`, which makes the remaining examples, and those of documents without
    a name.
    """

    capitalised = re.compile(r"\b[^\W\d_a-z]\w*(?: [^\W\d_a-z]\w*)*")
    preposition = re.compile(r"\b(?:in|at|near|from|of)(?: the)? $")

    def __init__(self, *args, salient: float = 0.1, recall: float = 0.8, **options):
        super().__init__(*args, **options)
        if not (salient >= 0 and recall >= 0 and salient + recall <= 1):
            raise ValueError(f"salient is {salient} and recall {recall}; both are shares of one whole")
        self.salient, self.recall = salient, recall

    def corrupt(self, document: str, rng: random.Random) -> str:
        draw = rng.random()
        if draw < self.recall:
            question = self.ask(document, rng)
            if question:
                return question
        elif draw < self.recall + self.salient:
            spans = self.spans(document[: self.longest])
            if spans:
                start, end = rng.choice(spans)
                suffix = "" if rng.random() < 0.5 else document[end : self.longest]
                return document[:start] + MASK + suffix + MASK + document[start:end] + MASK
        return super().corrupt(document, rng)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Start and end of each run of capitalised words after the name, except words of the name itself."""
        title = name_of(text)
        return [
            match.span()
            for match in self.capitalised.finditer(text, len(title) + 1)
            if match.group() not in title and match.group()[0].isupper()
        ]

    def ask(self, document: str, rng: random.Random) -> str:
        """Some words, the name, some words, MASK, a name or place, MASK; or "" if the document has none to ask for."""
        spans = self.spans(document)
        if rng.random() < 0.7:
            spans = [span for span in spans if self.preposition.search(document[: span[0]])] or spans
        if not spans:
            return ""
        start, end = rng.choice(spans)
        name, gap = name_of(document), document[start:end]
        before, after = document[len(name) + 2 : start].split(), document[end:].split()
        lead = rng.randint(0, 3) if rng.random() < 0.5 else 0
        first = rng.randint(0, len(before + after))
        tail = rng.randint(0, 4)
        words = [
            *(before + after)[first : first + lead],  # a name does not always come first: "Where was ..."
            name + ("." if rng.random() < 0.2 else ""),  # with the full stop that documents put after it, or without
            *before[max(0, len(before) - tail) :],
        ]
        room = self.block_size - len(gap) - 2  # for the words, so that both marks fit
        if room <= len(name):
            return ""
        return " ".join(words)[-room:] + MASK + gap + MASK


# A full stop after an initial or one of these is part of the name.
_end_of_name = re.compile(r"(?<!\b\w)(?<!\bJr)(?<!\bSr)(?<!\bDr)(?<!\bSt)\. ")


def name_of(document: str) -> str:
    """The name that a document begins with: what comes before its first full stop, initials apart ("J. N. Roe.

    He ...").
    """
    return _end_of_name.split(document, maxsplit=1)[0]


class NameDataset:
    """Questions with their answers.

    text        a line each: `Where was NAME born?<TAB>PLACE`
    tokenizer   that of pretraining
    block_size  as for CharCorruptionDataset
    source      the name of the file, for error messages

    `dataset[i]` is (x, y), both (block_size - 1,) int64; y is PAD up to the answer.
    """

    pad_id = 0

    def __init__(self, text: str, tokenizer: CharTokenizer, block_size: int = 128, source: str = "the pairs"):
        self.tokenizer, self.block_size, self.source = tokenizer, block_size, source
        self.pairs = read_pairs(text, source, answers=True)
        self.inputs = {"question-answer pairs": [pair[1:] for pair in self.pairs]}
        for number, question, answer in self.pairs:
            encode_line(tokenizer, question + MASK + answer + MASK, source, number, block_size)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if not 0 <= i < len(self.pairs):
            raise IndexError(f"pair {i} of {len(self.pairs)}")
        _, question, answer = self.pairs[i]
        x, y = _shifted(question + MASK + answer + MASK, self.tokenizer, self.block_size)
        y[: len(question)] = self.pad_id  # y[len(question)] is the answer's first character
        return x, y


class MixedDataset:
    """All of one dataset and, each epoch, as many of another's examples as make up a given share of the total.

    Finetuning on questions alone overwrites what pretraining put into the weights; a few documents among them keep it.
    """

    def __init__(self, dataset, other, share: float, seed: int = 0):
        if not 0 <= share < 1:
            raise ValueError(f"the share of the second dataset is {share}; it must be in [0, 1)")
        self.dataset, self.other, self.seed = dataset, other, seed
        self.pad_id = dataset.pad_id
        self.inputs = {**other.inputs, **dataset.inputs}
        self.extra = round(len(dataset) * share / (1 - share))
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose other examples of the second dataset, in their next form."""
        self.other.set_epoch(epoch)
        rng = random.Random(f"mixed {self.seed} {epoch}")
        self.chosen = [rng.randrange(len(self.other)) for _ in range(self.extra)]

    def __len__(self) -> int:
        return len(self.dataset) + self.extra

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.dataset[i] if i < len(self.dataset) else self.other[self.chosen[i - len(self.dataset)]]


def read_pairs(text: str, source: str, answers: bool | None = None) -> list[tuple[int, str, str]]:
    """(line number, question, answer) of each line of a TSV file, without its empty lines.

    answers: True if every line must have one, None if all lines may be without (the answer is then ""). ValueError
    names
    the line that breaks the form.
    """
    pairs = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line:
            continue
        question, tab, answer = line.partition("\t")
        if answers and not tab:
            raise ValueError(f"{source}:{number}: no tab; each line is QUESTION<tab>PLACE")
        if tab and (not answer or "\t" in answer):
            raise ValueError(
                f"{source}:{number}: {'nothing' if not answer else 'a second tab'} after the tab; each line "
                "is QUESTION<tab>PLACE"
            )
        if question != question.strip() or answer != answer.strip():
            raise ValueError(
                f"{source}:{number}: a blank before or after the question or the place, which would count as "
                "part of it; remove it"
            )
        if pairs and bool(tab) != bool(pairs[0][2]):
            raise ValueError(f"{source}:{number}: some lines have an answer and some have none")
        pairs.append((number, question, answer))
    if not pairs:
        raise ValueError(f"{source}: no question: the file is empty")
    return pairs


def _shifted(string: str, tokenizer: CharTokenizer, block_size: int) -> tuple[Tensor, Tensor]:
    """The string padded to block_size, as x (without its last character) and y (without its first)."""
    indices = torch.tensor(tokenizer.encode(string + PAD * (block_size - len(string))), dtype=torch.long)
    return indices[:-1].clone(), indices[1:].clone()


def encode_line(tokenizer: CharTokenizer, line: str, source: str, number: int, longest: int | None = None) -> list[int]:
    """The indices of a line, marks included. ValueError with file and line for a strange character or too many."""
    if longest is not None and len(line) > longest:
        raise ValueError(
            f"{source}:{number}: {len(line)} characters with marks, of at most {longest}; shorten the line"
        )
    try:
        return tokenizer.encode(line)
    except ValueError as error:
        raise ValueError(f"{source}:{number}: {error}; the vocabulary is that of the pretraining corpus") from None


def main() -> None:
    """Print a few examples of one of the two datasets."""
    parser = Parser(description="Print a few examples of a dataset.")
    parser.add_argument("kind", choices=["namedata", "charcorruption"])
    parser.add_argument("--data_dir", type=Path, default=WORLD, help="folder with wiki.txt and birth_places_train.tsv")
    args = parser.parse_args()
    with one_line_errors():
        corpus, pairs = args.data_dir / "wiki.txt", args.data_dir / "birth_places_train.tsv"
        tokenizer = make_tokenizer(read_text(corpus), str(corpus))
        if args.kind == "namedata":
            dataset = NameDataset(read_text(pairs), tokenizer, source=str(pairs))
        else:
            dataset = CharCorruptionDataset(read_text(corpus), tokenizer, source=str(corpus))
        for i in range(4):
            x, y = dataset[i]
            print(f"x: {tokenizer.decode(x)}\ny: {tokenizer.decode(y)}\n")


if __name__ == "__main__":
    main()
