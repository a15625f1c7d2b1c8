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

To read on: bpe_split.py has GPT-2's pattern, bpe_merge.py makes the merges of `show_work` fast, and bpe_files.py
reads and writes GPT-2's two files.

Sources: Sennrich, Haddow and Birch 2016, "Neural Machine Translation of Rare Words with Subword Units" (merges learnt
from pair counts); Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2 (bytes as
the base alphabet, the splitting).
"""

import heapq
import operator
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from mingpt.pretrained.tokenizer_files import byte_to_char, download_pretrained, read_tokenizer, visible, write_tokenizer
from mingpt.fast.bpe_merge import Merger
from mingpt.fast.bpe_split import blocks, checked_text, split_at, split_text
from mingpt.char import token_ids
from mingpt.support.files import short

# ------------------------------------------------------------------------------------------------------ tokenizer

CACHE_CHARS = 1 << 21  # characters of pre-tokens whose ids are kept: some 120 MB of memory


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

    def __init__(self, tokens: Iterable[bytes], merges: Iterable[tuple[int, int]],
                 special_tokens: Mapping[str, int] | None = None, *, cache_chars: int = CACHE_CHARS):
        try:
            self.tokens = list(tokens)
            self.merges = [(operator.index(left), operator.index(right)) for left, right in merges]
            self.special_tokens = dict(special_tokens or {})
            fit = all(isinstance(token, bytes) for token in self.tokens) and all(map(is_text, self.special_tokens))
        except (TypeError, ValueError):  # not iterable, no pairs, no integers
            fit = False
        if not fit:
            raise ValueError("`tokens` is a list of bytes, `merges` a list of pairs of ids, and `special_tokens` a mapping of "
                             "names to ids; another type was given")
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
        self._merger = Merger(self._byte_ids, self._ranks, self._merged, len(ids))
        self._cache = {}  # pre-token -> ids
        self._cached_chars, self._cache_chars = 0, cache_chars

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
            raise ValueError(f"encode_batch takes a list of texts, not a {type(texts).__name__}; use encode for a single one")
        return [self.encode(text, allowed_special) for text in texts]

    def _encode(self, text: str) -> list[int]:
        """Ids of checked text without special tokens; words seen before cost one look into a dictionary each."""
        ids, cache = [], self._cache
        for block in blocks(text):
            words = split_text(block)
            try:
                ids += list(chain.from_iterable(map(cache.__getitem__, words)))  # a list first: all words or none
            except KeyError:
                unknown = list(set(words).difference(cache))
                cache.update(zip(unknown, self._merger.words([word.encode("utf-8") for word in unknown])))
                ids += chain.from_iterable(map(cache.__getitem__, words))
                self._cached_chars += sum(map(len, unknown))
                if self._cached_chars > self._cache_chars:
                    # Start anew; the frequent words are soon back. Another thread may still be reading the old one.
                    self._cache, self._cached_chars = {}, 0
                    cache = self._cache
        return ids

    def show_work(self, text: str | bytes) -> list[WordWork]:
        """How `encode_ordinary` encodes `text`, pre-token by pre-token; print the items to read them.

        This is the algorithm in its plainest form: look at all pairs, make the merge of lowest rank (the leftmost of
        equals), repeat. Raises ValueError for bad text, as `encode` does.
        """
        works = []
        for word in split_text(checked_text(text)):
            data, merges = word.encode("utf-8"), []
            ids = [self._byte_ids[byte] for byte in data]
            while ranked := [(self._ranks[pair], i) for i, pair in enumerate(zip(ids, ids[1:])) if pair in self._ranks]:
                rank, i = min(ranked)
                merges.append((rank, self.tokens[ids[i]], self.tokens[ids[i + 1]]))
                ids[i : i + 2] = [self._merged[rank]]
            works.append(WordWork(word, data, merges, [self.tokens[id] for id in ids], ids))
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
    def train(cls, texts: str | Iterable[str | bytes], vocab_size: int, special_tokens: str | Iterable[str] = (), *,
              progress: bool = True) -> "BPETokenizer":
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
            raise ValueError(f"the texts are a {type(texts).__name__}; give a string, a list of strings or an open file")
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
    def from_files(cls, vocab_json: str | os.PathLike, merges_txt: str | os.PathLike,
                   special_tokens: str | Iterable[str] | None = None) -> "BPETokenizer":
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


# ------------------------------------------------------------------------------------------------------- training


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


def learn_merges(word_counts: Mapping[str, int], n_merges: int,
                 progress: bool = False) -> tuple[list[bytes], list[tuple[int, int]]]:
    """Up to `n_merges` merges, each the most frequent pair of neighbours after those before it.

    Ties go to the smallest pair of ids, where bytes have GPT-2's ids 0 to 255 and merge number r makes id 256 + r. A
    pair that spells a token that is there already is passed over: a vocabulary holds every token once. Returns the
    tokens by id and the merges as pairs of ids.

    The textbook recounts all pairs after every merge. Here the counts are kept, and a merge only visits the words that
    hold its pair. A heap finds the most frequent pair: counts of old pairs only ever fall, so an entry that is too high
    is put back with its count of today when it comes up.
    """
    byte_ids = {byte: id for id, byte in enumerate(byte_to_char())}
    tokens = [bytes([byte]) for byte in byte_ids]
    known, merges = set(tokens), []
    words, counts = [], list(word_counts.values())
    pair_counts, words_with = defaultdict(int), defaultdict(set)
    for w, (word, count) in enumerate(word_counts.items()):
        ids = list(map(byte_ids.__getitem__, word.encode("utf-8")))
        words.append(ids)
        for pair in zip(ids, ids[1:]):
            pair_counts[pair] += count
            words_with[pair].add(w)
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)

    with tqdm(total=n_merges, desc="merges", unit="", disable=not progress) as bar:
        while heap and len(merges) < n_merges:
            count, pair = heapq.heappop(heap)
            if -count != pair_counts[pair]:
                if pair_counts[pair] > 0:
                    heapq.heappush(heap, (-pair_counts[pair], pair))
                continue
            token = tokens[pair[0]] + tokens[pair[1]]
            if token in known:
                continue
            new = len(tokens)
            tokens.append(token)
            known.add(token)
            merges.append(pair)
            born = set()
            for w in words_with.pop(pair):
                born.update(merge_in_word(words[w], w, counts[w], pair, new, pair_counts, words_with))
            del pair_counts[pair]
            for neighbours in born:
                if pair_counts[neighbours] > 0:
                    heapq.heappush(heap, (-pair_counts[neighbours], neighbours))
            bar.update()
    return tokens, merges


def merge_in_word(ids: list[int], w: int, count: int, pair: tuple[int, int], new: int, pair_counts: dict,
                  words_with: dict) -> list[tuple[int, int]]:
    """Put `new` for every `pair` in `ids`, from the left, and keep the counts of its neighbours right.

    Arguments:
        ids: the tokens of word number `w`, which occurs `count` times; changed in place
        pair_counts: pair -> how often it occurs; what the merge breaks up is taken off, what it makes is added
        words_with: pair -> numbers of the words it occurs in, or once did; `w` is added to what the merge makes

    Returns the pairs that came into being, all of them with `new` on one side.
    """
    left, right = pair
    born = []
    read = write = 0
    end = len(ids) - 1
    while read <= end:
        id = ids[read]
        if id == left and read < end and ids[read + 1] == right:
            if write:
                before = ids[write - 1]
                pair_counts[before, left] -= count
                pair_counts[before, new] += count
                born.append((before, new))
            read += 1
            if read < end:
                behind = ids[read + 1]
                pair_counts[right, behind] -= count
                pair_counts[new, behind] += count
                born.append((new, behind))
            id = new
        ids[write] = id
        read += 1
        write += 1
    del ids[write:]
    for neighbours in born:
        words_with[neighbours].add(w)
    return born
