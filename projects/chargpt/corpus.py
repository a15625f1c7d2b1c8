"""Text of any size as tokens on disk, and windows of them to train on.

    tokens.bin     all tokens, one after another, 2 bytes each (4 if the vocabulary is larger than 65,536)
    corpus.json    which text they are of, by which tokenizer, and how many they are: a `Description`

Text is read in pieces and tokens are written as they come, so neither has to fit into memory. A text is known by its
content: where its files lie and when they were written does not count.
"""

import codecs
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mingpt.char import CharTokenizer
from mingpt.fast.bpe_split import BOUNDARY
from mingpt.support.config import config_from_dict
from mingpt.support.devices import progress_options
from mingpt.support.files import WRITTEN, atomic_path, read_json, sha256_of, write_json

PIECE = 1 << 22  # characters


# ----------------------------------------------------------------------------------------------------------------------
# Which text


@dataclass(frozen=True)
class Text:
    """Files that together are one text.

    files      in the order in which they are read
    sha256     of their content
    left_out   what else in the folder fits the pattern, with the reason: "old.txt (not UTF-8)"
    """

    files: list[Path]
    sha256: str
    left_out: list[str]


def find_text(path: str | os.PathLike, pattern: str = "*.txt", out: str | os.PathLike | None = None) -> Text:
    """The file at `path`, or all text files in that folder and below whose names fit `pattern`, in order of their
    names.

    Left out of a folder: what is hidden, the folder `out`, what this program has written, and what is no text.
    ValueError
    where nothing is left, and for a single file that is no text.
    """
    path = Path(path)
    if not path.is_dir():
        if not path.is_file():
            reason = (
                "not a regular file, and a text is read more than once" if path.exists() else "no such file or folder"
            )
            raise ValueError(f"{path}: {reason}")
        return Text([path], _sha256_of_all([_sha256_of_text(path)]), [])
    reasons = {}  # name, relative to the folder -> why it is left out
    files, hashes = [], []
    for file in sorted(file for file in path.rglob(pattern) if file.is_file()):
        if excluded := _excluded(file.relative_to(path), path.resolve(), out):
            reasons[excluded[0]] = excluded[1]
            continue
        try:
            hashes.append(_sha256_of_text(file))
            files.append(file)
        except NotText as error:
            reasons[str(file.relative_to(path))] = error.reason
    left_out = [f"{name} ({reason})" for name, reason in reasons.items()]
    if not files:
        raise ValueError(
            f"{path}: no {pattern} in this folder; another --pattern may fit"
            + (f". Left out: {some_of(left_out)}" if left_out else "")
        )
    return Text(files, _sha256_of_all(hashes), left_out)


def some_of(names: list[str], most: int = 6) -> str:
    """A list of names for one line."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _excluded(name: Path, folder: Path, out: str | os.PathLike | None) -> tuple[str, str] | None:
    """The part of folder/name for which this file is no part of the text, and the reason.

    None if the file is one.
    """
    for i, part in enumerate(name.parts):
        if part.startswith("."):
            return str(Path(*name.parts[: i + 1])), "hidden"
    out = Path(out).resolve() if out is not None else None
    for i in range(len(name.parts) - 1):  # each folder between `folder` and the file; `out` may be `folder` itself
        if folder / Path(*name.parts[: i + 1]) == out:
            return str(Path(*name.parts[: i + 1])), "--out"
    for i in range(len(name.parts)):
        written = folder.joinpath(*name.parts[:i], WRITTEN)
        if (
            written.is_file()
            and Path(*name.parts[i:]).as_posix()
            in written.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        ):
            return str(name), "written by this program"
    return None


class NotText(ValueError):
    """A file that is no UTF-8 text; `reason` says why in a few words."""

    def __init__(self, path: Path, line: int, message: str, reason: str):
        super().__init__(f"{path}:{line}: {message}")
        self.reason = reason


def read_pieces(files: Iterable[Path], size: int = PIECE) -> Iterator[str]:
    """The text of UTF-8 files in pieces of about `size` characters, cut in front of white space.

    There no token of a byte-level BPE is cut in two; in a text without white space for 1,000 characters one may be.
    NotText, a ValueError, for a file that is not UTF-8, or has zero bytes, as UTF-16 without a mark has.
    """
    for path in files:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rest, line = "", 1
            while True:
                try:
                    read = file.read(size)
                except UnicodeDecodeError as error:
                    raise NotText(
                        path,
                        _line_that_is_not_utf8(path),
                        f"not UTF-8 text ({error.reason}); save the file as UTF-8",
                        "not UTF-8",
                    ) from None
                if "\0" in read:
                    raise NotText(
                        path,
                        line + read.count("\n", 0, read.index("\0")),
                        "holds zero bytes, so it is no text, or UTF-16; save the file as UTF-8",
                        "zero bytes in it",
                    )
                line += read.count("\n")
                text = rest + read
                if not read:
                    break
                cuts = [match.start() for match in BOUNDARY.finditer(text, max(0, len(text) - 1000))]
                cut = cuts[-1] if cuts else len(text)
                rest = text[cut:]
                yield text[:cut]
            if rest:
                yield rest


def _line_that_is_not_utf8(path: Path) -> int:
    """The number of the first line of a file that is not UTF-8."""
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                return line + error.object.count(b"\n", 0, error.start)
            line += chunk.count(b"\n")
    return line


def _sha256_of_text(path: Path) -> str:
    digest = hashlib.sha256()
    for piece in read_pieces([path]):
        digest.update(piece.encode("utf-8"))
    return digest.hexdigest()


def _sha256_of_all(hashes: Iterable[str]) -> str:
    """One hash for several files, in their order."""
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


# ----------------------------------------------------------------------------------------------------------------------
# Tokens


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


def write_tokens(folder: str | os.PathLike, text: Text, encode: Callable, vocab_size: int) -> tuple[int, str]:
    """Tokenize a text into folder/tokens.bin, atomically. Returns the number of tokens and the SHA-256 of the file.

    ValueError if the text is not what it was when it was found.
    """
    dtype, total = token_dtype(vocab_size), sum(file.stat().st_size for file in text.files)
    count, tokens_digest, hashes = 0, hashlib.sha256(), []
    bar = tqdm(total=total, unit="B", unit_scale=True, desc="tokens", **progress_options())
    with bar, atomic_path(Path(folder) / "tokens.bin") as temporary, open(temporary, "wb") as out:
        for file in text.files:
            file_digest = hashlib.sha256()
            for piece in read_pieces([file]):
                tokens = np.ascontiguousarray(encode(piece), dtype=dtype).data.cast("B") if piece else b""
                out.write(tokens)  # not `tofile`, whose error does not say that a disk is full
                tokens_digest.update(tokens)
                count += len(tokens) // dtype().itemsize
                read = piece.encode("utf-8")
                file_digest.update(read)
                bar.update(len(read))
            hashes.append(file_digest.hexdigest())
        if _sha256_of_all(hashes) != text.sha256:
            raise ValueError(f"{text.files[0]}: the text has changed while it was read; start again")
    return count, tokens_digest.hexdigest()


@dataclass(frozen=True)
class Description:
    """What is in tokens.bin: corpus.json."""

    source: str  # the file or folder where the text was found
    text_sha256: str
    tokenizer: str
    asked_for: int  # the vocabulary that a trained BPE was to have; a short text may not fill it
    vocab_size: int
    characters: str  # of the vocabulary of a character tokenizer, in order
    tokenizer_sha256: str
    tokens: int
    tokens_sha256: str

    def __post_init__(self):
        if (
            self.tokenizer not in ("char", "bpe", "gpt2")
            or self.vocab_size < 1
            or self.tokens < 1
            or self.tokenizer == "char"
            and self.vocab_size != len(self.characters)
        ):
            raise ValueError("its values contradict each other")

    @property
    def inputs(self) -> dict[str, str]:
        """What a model that is trained on these tokens depends on, for `Trainer`."""
        return {"the text": self.text_sha256, "the tokenizer": self.tokenizer_sha256, "the tokens": self.tokens_sha256}


def write_description(folder: str | os.PathLike, description: Description) -> None:
    """Write corpus.json."""
    write_json(Path(folder) / "corpus.json", asdict(description))


def read_description(folder: str | os.PathLike) -> Description:
    """What corpus.json says. ValueError if there is none, or it is damaged."""
    path = Path(folder) / "corpus.json"
    try:
        return config_from_dict(Description, read_json(path), "corpus.json")
    except (ValueError, TypeError, AttributeError) as error:  # the last two: a value is missing, or it is no object
        raise ValueError(f"{path}: not a description of tokens ({_first_line(error, path)}); train again") from None


def _first_line(error: Exception, path: Path) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].removeprefix(f"{path}: ")


def tokens_are_whole(folder: str | os.PathLike, description: Description) -> bool:
    """Whether folder/tokens.bin is what it was when corpus.json was written."""
    path = Path(folder) / "tokens.bin"
    size = description.tokens * token_dtype(description.vocab_size)().itemsize
    return path.is_file() and path.stat().st_size == size and sha256_of(path) == description.tokens_sha256


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
            raise ValueError(
                f"{end - begin} tokens are fewer than one window of {block_size} and the token after it; "
                "give more text or a smaller block_size"
            )
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
