"""Real text: the corpus, its tokens, and examples of them."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data.wikitext2.generate import generate
from data.wikitext2.prepare import HERE as WIKITEXT2
from data.wikitext2.prepare import SPLITS, prepare
from mingpt.bpe import BPETokenizer
from mingpt.pretrained.download import DownloadError
from mingpt.support.checkpoints import fingerprint
from mingpt.support.files import read_text

PAD = "<|pad|>"
GENERATED_ARTICLES = 400  # 0.8 million characters

# The assignment's text for looking at attention. Its first and last sentence are equal; the quotation is from J. K.
# Rowling, "Harry Potter and the Philosopher's Stone" (1997).
DURSLEY = (
    "Mr and Mrs Dursley, of number four, Privet Drive, were proud to say that they were perfectly normal, "
    "thank you very much. They were the last people you'd expect to be involved in anything strange or mysterious, "
    "because they just didn't hold with such nonsense. Mr and Mrs Dursley, of number four, Privet Drive, were proud to "
    "say that they were perfectly normal, thank you very much."
)


@dataclass(frozen=True)
class Corpus:
    """A text to train on, one to evaluate on, and what they are."""

    train: str
    evaluation: str
    source: str


def load_corpus(
    data: str, data_dir: str, train_split: str, eval_split: str, articles: int = GENERATED_ARTICLES
) -> Corpus:
    """The corpus called `data`: "wikitext2", "generated", or "auto" for the first of them that is available.

    `articles` is the size of a generated one. WikiText-2 is read from `data_dir`, or else from data/wikitext2, where it
    is downloaded if need be. ValueError for files that are missing or empty, or not UTF-8.
    """
    if data not in ("auto", "wikitext2", "generated"):
        raise ValueError(f"--data is {data!r}; it must be auto, wikitext2 or generated")
    folder = Path(data_dir) if data_dir else WIKITEXT2
    if data_dir and data == "generated":
        raise ValueError(f"--data generated reads no files; leave out --data_dir {data_dir}, or say --data wikitext2")
    if data_dir and not folder.is_dir():
        raise ValueError(f"--data_dir {data_dir}: no such folder")
    if data != "generated":
        try:
            if not data_dir:
                prepare(quiet=True)
            return Corpus(
                *(read_split(folder, split) for split in (train_split, eval_split)),
                f"WikiText-2, trained on {train_split}, evaluated on {eval_split}",
            )
        except DownloadError as error:
            if data == "wikitext2":
                raise
            print(f"The text is generated and its numbers are not comparable, since there is no WikiText-2: {error}")
    texts = generate(seed=0, train=articles, valid=articles // 10 + 1, test=1)
    return Corpus(texts["train"], texts["valid"], "generated encyclopedia (not comparable with WikiText)")


def read_split(folder: Path, split: str) -> str:
    """The text of "train", "valid" or "test", raw or tokenised, in `folder`."""
    names = [f"wiki.{split}.raw", f"wiki.{split}.tokens"]
    for name in names:
        if (folder / name).exists():
            text = read_text(folder / name)
            if not text.strip():
                raise ValueError(f"{folder / name} is empty; there is nothing to read")
            return text
    there = [other for other in SPLITS if any((folder / f"wiki.{other}.{form}").exists() for form in ("raw", "tokens"))]
    raise ValueError(
        f"{folder} has neither {names[0]} nor {names[1]}; "
        + (
            f"it has {' and '.join(there)}: name them with --train_split and --eval_split"
            if there
            else "python data/wikitext2/prepare.py --out DIR downloads them"
        )
    )


def train_tokenizer(text: str, vocab_size: int) -> BPETokenizer:
    """Our byte-level BPE with `vocab_size` tokens, the last of them for padding; fewer where the text has no more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a small text may have fewer pairs; the vocabulary is printed anyway
        return BPETokenizer.train(text, vocab_size, [PAD], progress=False)


def fingerprint_of(tokenizer: BPETokenizer) -> str:
    """The same for two tokenizers exactly if they turn every text into the same tokens."""
    return fingerprint([tokenizer.tokens, tokenizer.merges, tokenizer.special_tokens])


class Packed:
    """A dataset of consecutive blocks of one long sequence of tokens."""

    def __init__(self, ids: list[int], block_size: int, source: str):
        if len(ids) < block_size + 1:
            raise ValueError(
                f"{source} has {len(ids)} tokens, fewer than the {block_size + 1} of one block; take a "
                "longer text or a smaller --block_size"
            )
        self.ids, self.block_size = torch.tensor(ids), block_size

    def __len__(self) -> int:
        return (len(self.ids) - 1) // self.block_size

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        block = self.ids[i * self.block_size : (i + 1) * self.block_size + 1]
        return block[:-1], block[1:]


class Lines:
    """A dataset with one example for each line that is not blank, cut at the block's end or padded on the right.

    The padding is never a target: `mingpt.batches` turns it into -1, and cuts columns that hold nothing else.
    """

    def __init__(self, text: str, tokenizer: BPETokenizer, block_size: int):
        self.padding, self.block_size = tokenizer.special_tokens[PAD], block_size
        self.pad_id = self.padding
        ids = [tokenizer.encode_ordinary(line)[: block_size + 1] for line in text.splitlines() if line.strip()]
        self.examples = [torch.tensor(line) for line in ids if len(line) > 1]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        block = torch.full((self.block_size + 1,), self.padding)
        block[: len(self.examples[i])] = self.examples[i]
        return block[:-1], block[1:]


def prompt_tokens(text: str, tokenizer: BPETokenizer, block_size: int) -> list[int]:
    """The tokens of a prompt. ValueError if they do not fit into the context."""
    ids = tokenizer.encode_ordinary(text)
    if len(ids) > block_size:
        raise ValueError(
            f"the prompt {text[:30]!r}... has {len(ids)} tokens, more than the context of {block_size}; "
            "shorten it or raise --block_size"
        )
    return ids
