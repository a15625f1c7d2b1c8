"""The two files of a byte-level BPE tokenizer, in the format that GPT-2 was published in: read, write, download.

    vocab.json    one JSON object, token -> id: {"!": 0, ..., "\\u0120gazed": 50255, "<|endoftext|>": 50256}
    merges.txt    "#version: 0.2", then the merges in order of rank, a line each: Ġ t, Ġ a, h e, ...

Tokens are bytes, and files are text, so a visible character stands for each byte (`byte_to_char`). Reading checks
everything: a damaged file, or two that do not belong together, would give wrong ids without a sound.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", and the files of its release.
"""

import functools
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mingpt.support.files import atomic_path, cache_folder, read_json, read_text, short

# tokenizer -> file -> (mirrors tried in order, SHA-256)
PRETRAINED = {
    "gpt2": {
        "vocab.json": (
            (
                "https://openaipublic.blob.core.windows.net/gpt-2/models/124M/encoder.json",
                "https://huggingface.co/openai-community/gpt2/resolve/main/vocab.json",
            ),
            "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
        ),
        "merges.txt": (
            (
                "https://openaipublic.blob.core.windows.net/gpt-2/models/124M/vocab.bpe",
                "https://huggingface.co/openai-community/gpt2/resolve/main/merges.txt",
            ),
            "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
        ),
    }
}


@functools.cache
def byte_to_char() -> dict[int, str]:
    """The visible character that stands for each byte in the files, in the order of GPT-2's first 256 ids.

    Printable Latin-1 characters stand for themselves; the other 68 bytes (controls, the space and so on) take the
    characters from U+0100 upwards, in order. So the space, byte 32, shows as "Ġ", and a token never contains the
    space that separates the two halves of a merge.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def visible(token: bytes) -> str:
    """A token as the files write it: one visible character per byte."""
    return "".join(map(byte_to_char().__getitem__, token))


def read_tokenizer(
    vocab_json: str | os.PathLike, merges_txt: str | os.PathLike, special_tokens: Iterable[str] | None = None
) -> tuple[list[bytes], list[tuple[int, int]], dict[str, int]]:
    """Read the two files of a tokenizer.

    Arguments:
        vocab_json, merges_txt: their paths
        special_tokens: names of the special tokens in vocab.json; by default those tokens that no merge makes and
            that look the part: <...> or [...]

    Returns the tokens' bytes by id, the merges as pairs of ids, and the special tokens, name -> id. Raises ValueError,
    with the file and the line, for files that are damaged or do not belong together.
    """
    vocab = read_vocab(vocab_json)
    pairs = read_merges(merges_txt, vocab)
    made = set(byte_to_char().values()).union(left + right for left, right in pairs)
    unmade = {token: None for token in vocab if token not in made}  # a set, in order
    if special_tokens is None:
        special_tokens = [token for token in unmade if re.fullmatch(r"<.+>|\[.+\]", token)]
    for name in special_tokens:
        if name not in unmade:
            raise ValueError(f"{vocab_json}: has no special token {short(name)}; leave it out of special_tokens")
    specials = {name: vocab[name] for name in special_tokens}
    for token in unmade:
        if token not in specials:
            raise ValueError(
                f"{vocab_json}: no merge in {merges_txt} makes token {short(token)} (id {vocab[token]}); use two files "
                "that belong together, or name it in special_tokens"
            )
    byte_of = {char: byte for byte, char in byte_to_char().items()}
    tokens = []
    for name in sorted(vocab, key=vocab.__getitem__):
        try:
            tokens.append(name.encode("utf-8") if name in specials else bytes(map(byte_of.__getitem__, name)))
        except KeyError as error:
            raise ValueError(
                f"{vocab_json}: in token {short(name)}, {error} stands for no byte; use byte-level BPE's files"
            ) from None
        except UnicodeEncodeError:
            raise ValueError(f"{vocab_json}: special token {short(name)} has a lone surrogate; rename it") from None
    return tokens, [(vocab[left], vocab[right]) for left, right in pairs], specials


def write_tokenizer(
    folder: str | os.PathLike,
    tokens: Sequence[bytes],
    merges: Iterable[tuple[int, int]],
    special_tokens: Mapping[str, int],
) -> tuple[Path, Path]:
    """Write vocab.json and merges.txt into `folder`, made if need be, each complete or not at all.

    The other arguments are what `read_tokenizer` returns. Returns the two paths. Raises ValueError when a special
    token's name is how the file writes another token.
    """
    names = {id: name for name, id in special_tokens.items()}
    vocab = {names[id] if id in names else visible(token): id for id, token in enumerate(tokens)}
    if len(vocab) < len(tokens):
        raise ValueError("a special token is written like another token in vocab.json; give it another name")
    lines = [f"{visible(tokens[left])} {visible(tokens[right])}\n" for left, right in merges]
    paths = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
    # Both are written before either is renamed: a disk that fills up leaves the old two.
    with atomic_path(paths[0]) as vocab_json, atomic_path(paths[1]) as merges_txt:
        vocab_json.write_text(json.dumps(vocab), encoding="utf-8", newline="\n")
        merges_txt.write_text("#version: 0.2\n" + "".join(lines), encoding="utf-8", newline="\n")
    return paths


def download_pretrained(name: str = "gpt2", folder: str | os.PathLike | None = None) -> tuple[Path, Path]:
    """Fetch and verify the two files of a published tokenizer.

    Arguments:
        name: a key of `PRETRAINED`
        folder: where the files go: $MINGPT_CACHE/<name>_bpe by default, or ~/.cache/mingpt/<name>_bpe where that is
            not set. Files that are there already are only verified.

    Returns the paths of vocab.json and merges.txt. Raises ValueError for an unknown name, and download's
    DownloadError, a ValueError too, when a file cannot be downloaded.
    """
    from mingpt.pretrained.download import (
        fetch,  # here, as it brings in `requests`, which nothing else of a tokenizer needs
    )

    if not isinstance(name, str) or name not in PRETRAINED:
        raise ValueError(f"no pretrained tokenizer is called {short(name)}; there is {', '.join(PRETRAINED)}")
    folder = cache_folder() / f"{name}_bpe" if folder is None else Path(folder)
    vocab_json, merges_txt = (
        fetch(urls, folder / file, sha256=sha256, description=f"{name} {file}", largest=1 << 23)
        for file, (urls, sha256) in PRETRAINED[name].items()
    )
    return vocab_json, merges_txt


def read_vocab(path: str | os.PathLike) -> dict[str, int]:
    """vocab.json: token, with its bytes as visible characters -> id; the ids are 0, 1, 2 ... in any order.

    Raises ValueError, with the file and what is wrong in it.
    """
    vocab = read_json(_path(path))
    if not isinstance(vocab, dict) or not all(type(id) is int for id in vocab.values()):
        raise ValueError(f"{path}: has to be one JSON object, token -> id")
    token_of = {}
    for token, id in vocab.items():
        if not 0 <= id < len(vocab):
            raise ValueError(
                f"{path}: token {short(token)} has id {short(id)}; ids go from 0 to {len(vocab) - 1}, without gaps"
            )
        if id in token_of:
            raise ValueError(
                f"{path}: tokens {short(token_of[id])} and {short(token)} share id {id}; give each its own"
            )
        token_of[id] = token
    for byte, char in byte_to_char().items():
        if char not in vocab:
            raise ValueError(f"{path}: has no token for byte 0x{byte:02x} (written {char!r}); all 256 are needed")
    return vocab


def read_merges(path: str | os.PathLike, vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """merges.txt: an optional first line "#version ...", then "left right" a line, all of them tokens of `vocab`.

    Returns the pairs in order of rank. Raises ValueError, with the file and the line, for one that is no such pair,
    comes a second time, or has or makes a token that `vocab` lacks.
    """
    pairs = {}  # pair -> its line
    lines = read_text(_path(path)).split("\n")
    while lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        if number == 1 and line.startswith("#version"):
            continue
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise ValueError(f"{path}:{number}: {short(line)} is no merge; a line is two tokens with one space between")
        if (left, right) in pairs:
            raise ValueError(f"{path}:{number}: repeats line {pairs[left, right]}, {short(line)}; remove one of them")
        for token in (left, right, left + right):
            if token not in vocab:
                raise ValueError(
                    f"{path}:{number}: the vocabulary has no token {short(token)}; use two files that belong together"
                )
        pairs[left, right] = number
    return list(pairs)


def _path(path: str | os.PathLike) -> Path:
    """A path, or ValueError for what is none."""
    try:
        return Path(path)
    except TypeError:
        raise ValueError(f"a {type(path).__name__} is no path; give the path of a tokenizer's file") from None
