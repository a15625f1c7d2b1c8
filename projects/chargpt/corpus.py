"""Text of any size as tokens on disk, and windows of them to train on.

    tokens.bin     all tokens, one after another, 2 bytes each (4 if the vocabulary is larger than 65,536)
    corpus.json    which files they are from, with which tokenizer, and how many they are

Text is read in pieces and tokens are written as they come, so neither has to fit into memory.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mingpt.bpe_split import BOUNDARY
from mingpt.char import CharTokenizer
from mingpt.files import atomic_path, write_json
from mingpt.utils import progress_options

PIECE = 1 << 22  # characters


def find_files(path: str | os.PathLike, pattern: str = "*.txt") -> list[Path]:
    """The file at `path`, or all files in that folder and below whose names fit `pattern`, in order of their names."""
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.rglob(pattern) if file.is_file())
        if not files:
            raise ValueError(f"{path}: no {pattern} in this folder; another --pattern may fit")
        return files
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder")
    return [path]


def read_pieces(files: Iterable[Path], size: int = PIECE) -> Iterator[str]:
    """The text of UTF-8 files in pieces of about `size` characters, cut in front of white space.

    There no token of a byte-level BPE is cut in two; in a text without white space for 1,000 characters one may be.
    ValueError for a file that is not UTF-8.
    """
    for path in files:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rest = ""
            while True:
                try:
                    read = file.read(size)
                except UnicodeDecodeError as error:
                    raise ValueError(f"{path}: not UTF-8 text ({error.reason}); save the file as UTF-8") from None
                text = rest + read
                if not read:
                    break
                cuts = [match.start() for match in BOUNDARY.finditer(text, max(0, len(text) - 1000))]
                cut = cuts[-1] if cuts else len(text)
                rest = text[cut:]
                yield text[:cut]
            if rest:
                yield rest


def alphabet(pieces: Iterable[str]) -> CharTokenizer:
    """The tokenizer of all characters that occur. ValueError if there is none."""
    seen = np.zeros(0x110000, dtype=bool)
    for piece in pieces:
        seen[_code_points(piece)] = True
    characters = "".join(map(chr, seen.nonzero()[0]))
    if not characters:
        raise ValueError("the text is empty")
    return CharTokenizer(characters)


def char_encoder(tokenizer: CharTokenizer) -> Callable[[str], np.ndarray]:
    """`tokenizer.encode` for long texts: by a table of all code points. Of characters it does not know, ValueError."""
    table = np.full(0x110000, -1, dtype=np.int32)
    table[_code_points(tokenizer.characters)] = np.arange(tokenizer.vocab_size)

    def encode(text: str) -> np.ndarray:
        tokens = table[_code_points(text)]
        if len(tokens) and tokens.min() < 0:
            tokenizer.encode(text)  # which names the character
        return tokens

    return encode


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def write_tokens(folder: str | os.PathLike, files: list[Path], encode: Callable, vocab_size: int, description: dict) -> int:
    """Tokenize `files` into folder/tokens.bin and describe it in folder/corpus.json, each atomically. Returns the number."""
    folder, dtype = Path(folder), token_dtype(vocab_size)
    total = sum(file.stat().st_size for file in files)
    count = 0
    bar = tqdm(total=total, unit="B", unit_scale=True, desc="tokens", **progress_options())
    with bar, atomic_path(folder / "tokens.bin") as temporary, open(temporary, "wb") as out:
        for piece in read_pieces(files):
            tokens = np.asarray(encode(piece), dtype=dtype)
            tokens.tofile(out)
            count += len(tokens)
            bar.update(len(piece.encode("utf-8")))
    write_json(folder / "corpus.json", {**description, "files": describe(files), "vocab_size": vocab_size, "tokens": count})
    return count


def describe(files: list[Path]) -> list[list]:
    """Path, size and time of change of each file: whether tokens are of these files still can be told from it."""
    return [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def read_description(folder: str | os.PathLike) -> dict | None:
    """What corpus.json says, or None if there is none, or tokens.bin is not of the size it says."""
    folder = Path(folder)
    try:
        found = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        whole = found["tokens"] * token_dtype(found["vocab_size"])().itemsize == (folder / "tokens.bin").stat().st_size
        return found if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def token_dtype(vocab_size: int) -> type:
    """How a token is stored."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


class Windows:
    """Windows of block_size tokens that follow one another, a new grid each epoch.

    path         tokens.bin
    begin, end   the part of the file to take, in tokens
    dataset[i]   (x, y), both (block_size,) int64, y being x moved by one

    The file is not held in memory, and not mapped either: its pages would count as this process's memory. Each window
    is read when its turn comes, which the system's cache makes cheap.
    """

    def __init__(self, path: str | os.PathLike, vocab_size: int, begin: int, end: int, block_size: int, seed: int = 0):
        self.path, self.dtype = Path(path), np.dtype(token_dtype(vocab_size))
        self.begin, self.block_size, self.seed = begin, block_size, seed
        self.count = (end - begin - 1) // block_size
        if self.count < 1:
            raise ValueError(f"{path}: {end - begin} tokens are fewer than one window of {block_size} and the token after it; "
                             "give more text or a smaller block_size")
        self.spare = end - begin - 1 - self.count * block_size  # how far the grid can be moved
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Move the grid of windows to another place, if there is room."""
        self.offset = int(np.random.default_rng((self.seed, epoch)).integers(0, self.spare + 1))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if not 0 <= i < self.count:
            raise IndexError(f"window {i} of {self.count}")
        start = self.begin + self.offset + i * self.block_size
        tokens = np.fromfile(self.path, self.dtype, self.block_size + 1, offset=start * self.dtype.itemsize)
        tokens = torch.from_numpy(tokens.astype(np.int64))
        return tokens[:-1], tokens[1:]
