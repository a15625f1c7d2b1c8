"""The model under study, with what turns text into its tokens: GPT-2, a folder of weights, or the small model."""

from dataclasses import dataclass
from pathlib import Path

import torch

from mingpt.bpe import BPETokenizer
from mingpt.model import GPT
from mingpt.pretrained.download import DownloadError
from mingpt.pretrained.gpt2 import PUBLISHED
from projects.gpt2_heads.mechanism.handbuilt import NumberTokenizer, handbuilt_model
from projects.gpt2_heads.small import TEXT as SMALL_TEXT
from projects.gpt2_heads.small import WordTokenizer, small_model

GPT2_TEXT = (
    "The ferry from Bergen was late, so Ingrid Solheim read her letter again. When the ferry from Bergen came at last, "
    "Ingrid Solheim had read it five times."
)
TOKENIZER_FILES = (
    ("vocab.json", "merges.txt"),
    ("encoder.json", "vocab.bpe"),
)  # transformers' names, and the first release's


@dataclass
class Specimen:
    """A model and its tokenizer: `encode(text)` gives ids, `label(id)` how a token is shown."""

    name: str
    model: GPT
    tokenizer: "WordTokenizer | BPELabels | NumberTokenizer"
    text: str  # looked at unless another is given


class BPELabels:
    """A byte-pair tokenizer whose tokens can be shown one by one: the space before a word as "·", a line end as "↵"."""

    def __init__(self, tokenizer: BPETokenizer):
        self.tokenizer = tokenizer
        self.encode = tokenizer.encode

    def label(self, token: int) -> str:
        """A token as text; bytes that are no whole character as \\x.. ."""
        text = self.tokenizer.decode_bytes([token]).decode("utf-8", errors="backslashreplace")
        return text.replace(" ", "·").replace("\n", "↵").replace("\t", "⇥")


def load_specimen(name: str, out: Path, seed: int, device: torch.device, quick: bool = False) -> Specimen:
    """The specimen called `name`: "gpt2" and its larger sisters, "small", "handbuilt", a folder, or "auto".

    "auto" is GPT-2 where its files are cached or can be downloaded; otherwise it says so in a line, and is "small",
    which is trained once and kept in `out`. With `quick` it is "small" at once.
    ValueError for anything else that is no folder, or holds no GPT-2.
    """
    if name == "auto" and quick:
        specimen = _small(out, seed, quick)
    elif name == "auto":
        try:
            specimen = _gpt2("gpt2")
        except DownloadError:
            print("GPT-2 can be neither found nor downloaded, so this is the small model (--model gpt2 tells why)")
            specimen = _small(out, seed, quick)
    elif name == "small":
        specimen = _small(out, seed, quick)
    elif name == "handbuilt":
        specimen = Specimen("built by hand", handbuilt_model(seed), NumberTokenizer(), NumberTokenizer.text)
    elif Path(name).exists():
        specimen = _folder(Path(name))
    elif name in PUBLISHED:
        specimen = _gpt2(name)
    else:
        raise ValueError(
            f"--model {name}: no such folder or file, and no model of that name; there are auto, small, handbuilt, "
            f"{', '.join(PUBLISHED)}"
        )
    specimen.model.to(device).eval()
    return specimen


def _small(out: Path, seed: int, quick: bool) -> Specimen:
    tokenizer = WordTokenizer()
    return Specimen(
        f"small, seed {seed}" + (", hardly trained" if quick else ""),
        small_model(out, seed, quick),
        tokenizer,
        SMALL_TEXT,
    )


def _gpt2(name: str) -> Specimen:
    tokenizer = BPELabels(BPETokenizer.from_pretrained("gpt2"))  # before half a gigabyte of weights
    return Specimen(name, GPT.from_pretrained(name), tokenizer, GPT2_TEXT)


def _folder(path: Path) -> Specimen:
    """Weights as transformers and `save_pretrained` write them: a folder, or a file with the other files beside it."""
    model = GPT.from_pretrained(path)
    folder = path if path.is_dir() else path.parent
    files = [[folder / file for file in pair] for pair in TOKENIZER_FILES]
    found = next((pair for pair in files if all(file.exists() for file in pair)), None)
    if found is not None:
        tokenizer = BPETokenizer.from_files(*found)
    elif model.config.vocab_size == 50257:
        tokenizer = BPETokenizer.from_pretrained("gpt2")
    else:
        raise ValueError(
            f"{folder}: has neither vocab.json with merges.txt nor encoder.json with vocab.bpe, and a vocabulary of "
            f"{model.config.vocab_size} is not GPT-2's; put its tokenizer's files there"
        )
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens and the model {model.config.vocab_size}; "
            "they do not belong together"
        )
    return Specimen(str(path), model, BPELabels(tokenizer), GPT2_TEXT)
