"""Byte-level byte-pair encoding (BPE): GPT-2's tokenizer, and how to train one.

A language model reads integers, so text has to become integers and come back unharmed. Three steps do it:

1. Split. A pattern cuts the text into *pre-tokens*: roughly words, each with the space before it. Merges never
   cross from one pre-token into the next.
2. Bytes. Each pre-token is written in UTF-8. There are only 256 bytes, so no text is ever "unknown".
3. Merge. A ranked list of merges, learnt once from a corpus, joins neighbours: the pair with the lowest rank
   first, again and again, until no neighbouring pair is in the list. What is left are the tokens.

Training learns that list: count every neighbouring pair in the corpus, join the most frequent one everywhere, and
repeat until the vocabulary is full.

    tokenizer = BPETokenizer.from_pretrained("gpt2")
    ids = tokenizer.encode("Hello world")                      # [15496, 995]
    tokenizer.decode(ids)                                      # 'Hello world'
    print(*tokenizer.show_work("Hello world"), sep="\n")       # every merge
    BPETokenizer.train(open("corpus.txt", encoding="utf-8"), vocab_size=8192).save("out/tokenizer")

This file has the plain algorithm, and `mingpt/fast/` what gives the same ids sooner: bpe_split.py, bpe_encode.py and
bpe_train.py. GPT-2's two files are read and written by pretrained/tokenizer_files.py.

Sources: Sennrich, Haddow and Birch 2016, "Neural Machine Translation of Rare Words with Subword Units" (merges learnt
from pair counts); Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2 (bytes as
the base alphabet, the splitting).
"""

import functools
import operator
import os
import re
import sys
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from mingpt import fast
from mingpt.char import token_ids
from mingpt.fast.bpe_encode import FastEncoder
from mingpt.fast.bpe_split import blocks, fast_split_text
from mingpt.fast.bpe_train import fast_learn_merges
from mingpt.pretrained.tokenizer_files import (
    byte_to_char,
    download_pretrained,
    read_tokenizer,
    visible,
    write_tokenizer,
)
from mingpt.support.files import short

CACHE_CHARS = 1 << 21  # characters of pre-tokens whose ids are kept: some 120 MB of memory


# ----------------------------------------------------------------------------------------------------------------------
# Step 1: split


@functools.cache
def pre_token_pattern() -> re.Pattern:
    """GPT-2's splitting pattern, which it writes with the classes \\p{L}, letters, and \\p{N}, numbers:

        's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+

    In words: an English ending, or a run of letters, of numbers or of other visible characters with the space before
    it, or
    white space, which leaves its last character to what follows. Python's `re` has no \\p{...}, and its \\w, \\d and
    \\s
    differ from the classes meant on thousands of characters, so they are spelled out from Unicode's tables.
    """
    letters = character_class(lambda c: unicodedata.category(c)[0] == "L")
    numbers = character_class(lambda c: unicodedata.category(c)[0] == "N")
    spaces = character_class(
        lambda c: c.isspace() and c not in "\x1c\x1d\x1e\x1f"
    )  # Python's four more, no white space
    return re.compile(
        f"'(?:[sdmt]|ll|ve|re)| ?[{letters}]+| ?[{numbers}]+| ?[^{spaces}{letters}{numbers}]+"
        f"|[{spaces}]+(?![^{spaces}])|[{spaces}]+"
    )


def character_class(belongs: Callable[[str], bool]) -> str:
    """All characters for which `belongs` is true, as ranges to stand between the brackets of a pattern."""
    marks = "".join("x" if belongs(chr(code)) else " " for code in range(sys.maxunicode + 1))
    return "".join(f"{chr(run.start())}-{chr(run.end() - 1)}" for run in re.finditer("x+", marks))


def split_text(text: str) -> list[str]:
    """The pre-tokens of `text`; joined together they give `text` back."""
    if fast.on():
        return fast_split_text(text)
    return pre_token_pattern().findall(text)


# ----------------------------------------------------------------------------------------------------------------------
# Steps 2 and 3: bytes and merges


def merge(ids: list[int], ranks: Mapping[tuple[int, int], int], merged: Sequence[int]) -> list[int]:
    """Make all merges of one pre-token, in place: the pair of lowest rank first, the leftmost of equals.

    Arguments:
        ids: the token ids of its bytes, at first
        ranks: (left id, right id) -> rank
        merged: rank -> id of the two tokens joined

    Returns the ranks of the merges, in the order in which they were made.
    """
    made = []
    while ranked := [(ranks[pair], i) for i, pair in enumerate(zip(ids, ids[1:])) if pair in ranks]:
        rank, i = min(ranked)
        ids[i : i + 2] = [merged[rank]]
        made.append(rank)
    return made


# ----------------------------------------------------------------------------------------------------------------------
# Learning the merges


def count_words(texts: Iterable[str | bytes], special_tokens: Sequence[str] = (), progress: bool = False) -> Counter:
    """How often each distinct pre-token occurs in `texts`, which are read as a stream and cut at `special_tokens`.

    Raises ValueError for bad text, as `BPETokenizer.encode` does.
    """
    words = Counter()
    with tqdm(desc="read", unit=" characters", unit_scale=True, disable=not progress) as bar:
        for text in texts:
            for piece in split_at(checked_text(text), special_tokens)[::2]:
                for block in blocks(piece):
                    words.update(split_text(block))
                    bar.update(len(block))
    return words


def learn_merges(
    word_counts: Mapping[str, int], n_merges: int, progress: bool = False
) -> tuple[list[bytes], list[tuple[int, int]]]:
    """Up to `n_merges` merges, each the most frequent pair of neighbours after those before it (Sennrich et al. 2016).

    Arguments:
        word_counts: pre-token -> how often it occurs; since merges never cross pre-tokens, nothing more is needed of a
        text
        n_merges: how many; fewer where the text runs out of pairs

    Returns the tokens by id and the merges as pairs of ids. Bytes have GPT-2's ids 0 to 255, and merge number r makes
    the id 256 + r.
    """
    if fast.on():
        return fast_learn_merges(word_counts, n_merges, progress)
    byte_ids = {byte: id for id, byte in enumerate(byte_to_char())}
    tokens, merges = [bytes([byte]) for byte in byte_ids], []
    words = [[byte_ids[byte] for byte in word.encode("utf-8")] for word in word_counts]
    for _ in tqdm(range(n_merges), desc="merges", unit="", disable=not progress):
        # 1. Count every pair of neighbours, as often as its word occurs.
        pairs = Counter()
        for ids, count in zip(words, word_counts.values()):
            for pair in zip(ids, ids[1:]):
                pairs[pair] += count
        # 2. Choose the most frequent one. Ties go to the smallest ids, so that the outcome depends on the text alone.
        # A pair
        #    that spells a token that exists is no candidate, as when "a" + "bc" comes after "ab" + "c".
        known = set(tokens)
        candidates = [pair for pair in pairs if tokens[pair[0]] + tokens[pair[1]] not in known]
        if not candidates:
            break
        best = min(candidates, key=lambda pair: (-pairs[pair], pair))
        # 3. Join it wherever it stands.
        for ids in words:
            join(ids, best, len(tokens))
        tokens.append(tokens[best[0]] + tokens[best[1]])
        merges.append(best)
    return tokens, merges


def join(ids: list[int], pair: tuple[int, int], new: int) -> None:
    """Put `new` for every `pair` in `ids`, from the left, in place."""
    i = 0
    while i + 1 < len(ids):
        if (ids[i], ids[i + 1]) == pair:
            ids[i : i + 2] = [new]
        i += 1


# ----------------------------------------------------------------------------------------------------------------------
# The tokenizer


@dataclass(frozen=True)
class WordWork:
    """How one pre-token was encoded; printed, it shows a space as "Ġ" (see `byte_to_char`).

    word: the pre-token
    data: its bytes
    merges: (rank, left token, right token) in the order they were made
    tokens, ids: the outcome
    """

    word: str
    data: bytes
    merges: list[tuple[int, bytes, bytes]]
    tokens: list[bytes]
    ids: list[int]

    def __str__(self) -> str:
        lines = [f"{self.word!r}: {len(self.data)} bytes {self.data.hex(' ')}"]
        lines += [f"  merge {rank:>6}: {visible(a)} + {visible(b)}" for rank, a, b in self.merges]
        lines += [f"  tokens: {' | '.join(map(visible, self.tokens))}   ids: {self.ids}"]
        return "\n".join(lines)


class BPETokenizer:
    """Text to token ids and back, by a vocabulary and a ranked list of merges.

    Arguments:
        tokens: the bytes of every token, indexed by id; all 256 single bytes have to be among them
        merges: pairs of ids in order of rank; the two tokens joined have to be a token as well
        special_tokens: name -> id of the tokens that stand for no text, such as <|endoftext|>; their places in
            `tokens` hold their names in UTF-8
        cache_chars: how many characters of pre-tokens may be kept with their ids

    Raises ValueError where these do not fit together.
    """

    def __init__(
        self,
        tokens: Iterable[bytes],
        merges: Iterable[tuple[int, int]],
        special_tokens: Mapping[str, int] | None = None,
        *,
        cache_chars: int = CACHE_CHARS,
    ):
        try:
            self.tokens = list(tokens)
            self.merges = [(operator.index(left), operator.index(right)) for left, right in merges]
            self.special_tokens = dict(special_tokens or {})
            fit = all(isinstance(token, bytes) for token in self.tokens) and all(map(is_text, self.special_tokens))
        except (TypeError, ValueError):  # not iterable, no pairs, no integers
            fit = False
        if not fit:
            raise ValueError(
                "`tokens` is a list of bytes, `merges` a list of pairs of ids, and `special_tokens` a mapping of "
                "names to ids; another type was given"
            )
        ids = {token: id for id, token in enumerate(self.tokens)}
        if len(ids) < len(self.tokens) or b"" in ids:
            twice = next((token for token, count in Counter(self.tokens).items() if count > 1), b"")
            raise ValueError(f"token {visible(twice)!r} is empty or in the vocabulary twice; give every token one id")
        for byte in range(256):
            if bytes([byte]) not in ids:
                raise ValueError(f"the vocabulary has no token for byte 0x{byte:02x}; give each of the 256 bytes one")
        for name, id in self.special_tokens.items():
            if ids.get(name.encode("utf-8")) != id:
                raise ValueError(f"special token {name!r} has id {id}; `tokens` has to hold its name there")
        self._byte_ids = [ids[bytes([byte])] for byte in range(256)]
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self._merged = []  # rank -> id of the joined token
        for rank, (left, right) in enumerate(self.merges):
            if not (0 <= left < len(ids) and 0 <= right < len(ids)) or self._ranks[left, right] != rank:
                raise ValueError(f"merge {rank}, {(left, right)}, has an id out of range or comes a second time")
            joined = self.tokens[left] + self.tokens[right]
            if joined not in ids:
                raise ValueError(f"merge {rank} makes {visible(joined)!r}, which is not in the vocabulary; add it")
            self._merged.append(ids[joined])
        self._fast = FastEncoder(self._byte_ids, self._ranks, self._merged, len(ids), cache_chars)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return len(self.tokens)

    def __repr__(self) -> str:
        return f"BPETokenizer(vocab_size={self.vocab_size}, special_tokens={self.special_tokens})"

    def encode(self, text: str | bytes, allowed_special: str | Iterable[str] = ()) -> list[int]:
        """Token ids of `text`.

        Arguments:
            text: a string, or its bytes in UTF-8
            allowed_special: names of the special tokens that may occur in the text and become their id, or "all"

        Raises ValueError for text that UTF-8 cannot write or read, and for any other special token in it, because
        text from outside should not be able to end a document. `encode_ordinary` takes such names as plain text.
        """
        text = checked_text(text)
        allowed = list(self.special_tokens) if allowed_special == "all" else name_list(allowed_special)
        for name in allowed:
            if name not in self.special_tokens:
                raise ValueError(f"{name!r} is no special token; there is {', '.join(self.special_tokens) or 'none'}")
        for name in self.special_tokens:
            if name not in allowed and (index := text.find(name)) >= 0:
                raise ValueError(
                    f"text has the special token {name!r} at index {index}; pass allowed_special={{{name!r}}} to "
                    "encode it, or use encode_ordinary to take it as plain text"
                )
        ids = []
        for n, piece in enumerate(split_at(text, allowed)):
            ids += [self.special_tokens[piece]] if n % 2 else self._encode(piece)
        return ids

    def encode_ordinary(self, text: str | bytes) -> list[int]:
        """`encode` with the names of special tokens taken as plain text. Raises ValueError as it does for bad text."""
        return self._encode(checked_text(text))

    def encode_batch(self, texts: Iterable[str | bytes], allowed_special: str | Iterable[str] = ()) -> list[list[int]]:
        """`encode` for each of `texts`. Raises ValueError as it does, and for a single text."""
        if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
            raise ValueError(
                f"encode_batch takes a list of texts, not a {type(texts).__name__}; use encode for a single one"
            )
        return [self.encode(text, allowed_special) for text in texts]

    def _encode(self, text: str) -> list[int]:
        """Ids of checked text without special tokens."""
        if fast.on():
            return self._fast.encode(text)
        return [id for work in self.show_work(text) for id in work.ids]

    def show_work(self, text: str | bytes) -> list[WordWork]:
        """How `encode_ordinary` encodes `text`, pre-token by pre-token; print the items to read them.

        Raises ValueError for bad text, as `encode` does.
        """
        works = []
        for word in split_text(checked_text(text)):
            data = word.encode("utf-8")
            ids = [self._byte_ids[byte] for byte in data]
            made = [
                (rank, *(self.tokens[id] for id in self.merges[rank])) for rank in merge(ids, self._ranks, self._merged)
            ]
            works.append(WordWork(word, data, made, [self.tokens[id] for id in ids], ids))
        return works

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of a sequence of token ids (a list, or a 1-D array or tensor of integers).

        Raises ValueError for what is no integer, for a batch of sequences and for an id that is not in the vocabulary.
        """
        ids = token_ids(ids)
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            place, id = next((place, id) for place, id in enumerate(ids) if not 0 <= id < self.vocab_size)
            raise ValueError(f"id {short(id)} at index {place} is out of range; ids go from 0 to {self.vocab_size - 1}")
        return b"".join(map(self.tokens.__getitem__, ids))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of a sequence of token ids. Bytes that are not UTF-8, as of half a character, become U+FFFD.

        Raises ValueError as `decode_bytes` does.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    @classmethod
    def train(
        cls,
        texts: str | Iterable[str | bytes],
        vocab_size: int,
        special_tokens: str | Iterable[str] = (),
        *,
        progress: bool = True,
    ) -> "BPETokenizer":
        """Learn a tokenizer of `vocab_size` tokens: 256 bytes, merges by pair count, `special_tokens` last.

        Arguments:
            texts: a string, or an iterable of strings that are split on their own and read once, as a stream; only
                the distinct pre-tokens and their counts are kept
            vocab_size: bytes and special tokens included
            special_tokens: names that become one id each; the text is cut at them and they are not counted
            progress: show bars

        Returns the tokenizer. When the text runs out of pairs before the vocabulary is full, a warning says how many
        tokens there are. Raises ValueError for a `vocab_size` too small, bad names and bad text.
        """
        names = name_list(special_tokens)
        for n, name in enumerate(names):
            if len(checked_text(name).encode("utf-8")) < 2 or name in names[:n]:
                raise ValueError(f"special token {name!r} is given twice, or is not two bytes long; change it")
        try:
            vocab_size = operator.index(vocab_size)
        except TypeError:
            raise ValueError(f"vocab_size is {short(vocab_size)}; it has to be a whole number") from None
        if not isinstance(texts, Iterable):
            raise ValueError(
                f"the texts are a {type(texts).__name__}; give a string, a list of strings or an open file"
            )
        room = vocab_size - 256 - len(names)
        if room < 0:
            raise ValueError(
                f"vocab_size is {vocab_size}; it has to be at least {256 + len(names)}, for the 256 bytes and "
                f"{len(names)} special tokens"
            )
        counts = count_words([texts] if isinstance(texts, (str, bytes)) else texts, names, progress)
        tokens, merges = learn_merges(counts, room, progress)
        if len(merges) < room:
            size = len(tokens) + len(names)
            warnings.warn(f"the text has no more pairs to merge: {size} tokens, not {vocab_size}", stacklevel=2)
        specials = {name: len(tokens) + n for n, name in enumerate(names)}
        return cls(tokens + [name.encode("utf-8") for name in names], merges, specials)

    @classmethod
    def from_files(
        cls,
        vocab_json: str | os.PathLike,
        merges_txt: str | os.PathLike,
        special_tokens: str | Iterable[str] | None = None,
    ) -> "BPETokenizer":
        """Read GPT-2's two files: token -> id as JSON, and one merge a line in order of rank.

        `special_tokens`: names of the special tokens in vocab.json. By default those that no merge makes and that
        look the part: <...> or [...]. Raises ValueError, with the file and the line, for files that are damaged or
        do not belong together.
        """
        names = None if special_tokens is None else name_list(special_tokens)
        return cls(*read_tokenizer(vocab_json, merges_txt, names))

    @classmethod
    def from_pretrained(cls, name: str = "gpt2", folder: str | os.PathLike | None = None) -> "BPETokenizer":
        """A published tokenizer, downloaded once into `folder`; for that and the errors see `download_pretrained`."""
        return cls.from_files(*download_pretrained(name, folder))

    def save(self, folder: str | os.PathLike) -> tuple[Path, Path]:
        """Write vocab.json and merges.txt, GPT-2's two files, into `folder`; returns their paths.

        Raises ValueError when a special token's name is how the file writes another token.
        """
        return write_tokenizer(folder, self.tokens, self.merges, self.special_tokens)


def is_text(value) -> bool:
    """Whether `value` is a string that UTF-8 can write."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def name_list(names: str | Iterable[str]) -> list[str]:
    """One name, or several, as a list. ValueError for anything else."""
    several = [names] if isinstance(names, str) else list(names) if isinstance(names, Iterable) else None
    if several is None or not all(isinstance(name, str) for name in several):
        raise ValueError(f"the names of special tokens are {short(names)}; give a string, or a list of strings")
    return several


def checked_text(text: str | bytes) -> str:
    """`text` as a string that UTF-8 can write; raises ValueError for other bytes, lone surrogates and non-text."""
    if not isinstance(text, (str, bytes)):
        raise ValueError(f"text is a {type(text).__name__}; it has to be a string, or bytes in UTF-8")
    try:
        if isinstance(text, bytes):
            return text.decode("utf-8")
        text.encode("utf-8")
        return text
    except UnicodeDecodeError as error:
        raise ValueError(f"text is not UTF-8: byte 0x{text[error.start]:02x} at offset {error.start}") from None
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text has a lone surrogate {text[error.start]!r} at index {error.start}, which UTF-8 cannot write; "
            "text.encode('utf-8', 'replace').decode('utf-8') puts '?' in its place"
        ) from None


def split_at(text: str, names: Sequence[str]) -> list[str]:
    """Cut `text` at `names`, the longest that fits: ordinary text at even places of the result, names at odd ones."""
    if not names:
        return [text]
    return re.split("(" + "|".join(map(re.escape, sorted(names, key=len, reverse=True))) + ")", text)
