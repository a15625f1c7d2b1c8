"""Encoding without looking at every pair again for each merge; equals `mingpt.bpe.merge` on every word of a text.

- Words seen before cost one look into a dictionary.
- One new word: a merge changes only the two pairs beside it, so the ranks of all pairs wait in a heap. That is n log n
  steps for n bytes, not n^2, also for a word of a megabyte.
- Many new words: an interpreter spends most of its time between one small step and the next. So words are merged
  together, in numpy: every round makes the next merge of each word that still has one.

On a megabyte of English that is some 30 times as fast at first, and 70 times once the words are known.
"""

import heapq
from itertools import chain, repeat

import numpy as np

from mingpt.fast.bpe_split import blocks, fast_split_text

NO_MERGE = 1 << 31  # the rank of a pair that is not in the list of merges
LONG_WORD = 300  # bytes; from here on a word goes through the heap, as it would keep all the others waiting
FEW_WORDS = 20  # up to here, one word after the other is faster than a round in numpy


class FastEncoder:
    """Token ids of texts.

    Arguments:
        byte_ids: the token id of each of the 256 bytes
        ranks: (left id, right id) -> rank, in order of rank
        merged: rank -> id of the two tokens joined
        vocab_size: larger than every id
        cache_chars: how many characters of words may be kept with their ids
    """

    def __init__(
        self,
        byte_ids: list[int],
        ranks: dict[tuple[int, int], int],
        merged: list[int],
        vocab_size: int,
        cache_chars: int,
    ):
        self.byte_ids, self.ranks, self.merged, self.vocab_size = byte_ids, ranks, merged, vocab_size
        # For numpy: each pair as one number, sorted for binary search, with one more than any pair's at the end.
        keys = np.array([left * vocab_size + right for left, right in ranks], dtype=np.int64)
        by_key = keys.argsort()
        self._keys, self._rank_by_key = np.append(keys[by_key], vocab_size**2), np.append(by_key, NO_MERGE)
        self._byte_ids, self._merged = np.array(byte_ids, dtype=np.int64), np.array(merged, dtype=np.int64)
        self._byte_ranks = self._rank_pairs(self._byte_ids[:, None], self._byte_ids[None, :])  # (256, 256)
        self.cache: dict[str, tuple[int, ...]] = {}  # word -> ids
        self._cached_chars, self._cache_chars = 0, cache_chars

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        ids, cache = [], self.cache
        for block in blocks(text):
            words = fast_split_text(block)
            try:
                ids += list(chain.from_iterable(map(cache.__getitem__, words)))  # a list first: all words or none
            except KeyError:
                unknown = list(set(words).difference(cache))
                cache.update(zip(unknown, self.words([word.encode("utf-8") for word in unknown])))
                ids += chain.from_iterable(map(cache.__getitem__, words))
                self._cached_chars += sum(map(len, unknown))
                if self._cached_chars > self._cache_chars:
                    self.forget()  # the frequent words are soon back
                    cache = self.cache
        return ids

    def forget(self) -> None:
        """Keep no word. Another thread may still be reading the old dictionary, so there is a new one."""
        self.cache, self._cached_chars = {}, 0

    def word(self, ids: list[int]) -> list[int]:
        """The token ids of one pre-token, from `ids`, its bytes' ids or what some merges made of them.

        Overwrites `ids`. A linked list stands for the tokens that are left: `after[i]` and `before[i]` are the
        neighbours of the token at i, and a token that was merged into the one before it leaves a hole.
        """
        rank_of, n = self.ranks.get, len(ids)
        after, before = list(range(1, n + 1)), list(range(-1, n - 1))
        ranks = [*map(rank_of, zip(ids, ids[1:]), repeat(NO_MERGE)), NO_MERGE]  # of the pair that starts at i
        # rank * n + i sorts by rank, then from the left. An entry whose pair has changed since is passed over.
        heap = [rank * n + i for i, rank in enumerate(ranks) if rank != NO_MERGE]
        heapq.heapify(heap)
        while heap:
            rank, i = divmod(heapq.heappop(heap), n)
            if ranks[i] != rank:
                continue
            ids[i], gone = self.merged[rank], after[i]
            ids[gone], ranks[i], ranks[gone] = None, NO_MERGE, NO_MERGE
            next_one = after[i] = after[gone]
            if next_one < n:
                before[next_one] = i
            for left, right in ((before[i], i), (i, next_one)):
                if left >= 0 and right < n:
                    ranks[left] = rank_of((ids[left], ids[right]), NO_MERGE)
                    if ranks[left] != NO_MERGE:
                        heapq.heappush(heap, ranks[left] * n + left)
        return [id for id in ids if id is not None]

    def words(self, words: list[bytes]) -> list[tuple[int, ...]]:
        """The token ids of each of `words`, pre-tokens as bytes."""
        result = [None] * len(words)
        short = [n for n, word in enumerate(words) if len(word) < LONG_WORD]
        if len(short) > FEW_WORDS:
            self._together(words, short, result)
        byte_id = self.byte_ids.__getitem__
        return [done or tuple(self.word(list(map(byte_id, word)))) for word, done in zip(words, result)]

    def _together(self, words: list[bytes], numbers: list[int], result: list) -> None:
        """Put the ids of words[n] into result[n] for every n in `numbers`.

        `ids` holds the ids of all words that are not finished, one word after the other; `ranks[i]` is the rank of the
        pair (ids[i], ids[i + 1]); word number `numbers[k]` has `lengths[k]` of them.
        """
        numbers = np.array(numbers)
        lengths = np.array([len(words[n]) for n in numbers])
        data = np.frombuffer(b"".join(words[n] for n in numbers), np.uint8)
        ids = self._byte_ids[data]
        ranks = self._byte_ranks[data, np.roll(data, -1)]
        ranks[np.cumsum(lengths) - 1] = NO_MERGE  # the last token of a word is no pair with the next word's first
        while len(numbers):
            # The next merge of each word: as in `word`, rank * size + i sorts by rank, then from the left.
            starts, size = np.cumsum(lengths) - lengths, len(ids)
            rank, at = np.divmod(np.minimum.reduceat(ranks * size + np.arange(size), starts), size)
            going = rank != NO_MERGE
            if going.sum() <= FEW_WORDS:
                going[:] = False
            # Words that have no merge left are done; so are all others, one by one, once there are only a few.
            stay = np.repeat(going, lengths)
            flat, start = ids[~stay].tolist(), 0
            for number, length, rest in zip(*(array[~going].tolist() for array in (numbers, lengths, rank))):
                done = flat[start : start + length]
                result[number] = tuple(done if rest == NO_MERGE else self.word(done))
                start += length
            # In each of the others the left token becomes the joined one, and the right one goes.
            at, offsets = at[going], (at - starts)[going]
            ids[at] = self._merged[rank[going]]
            stay[at + 1] = False
            ids, ranks, numbers, lengths = ids[stay], ranks[stay], numbers[going], lengths[going] - 1
            # Only the pairs on its two sides have new ranks.
            starts = np.cumsum(lengths) - lengths
            at = starts + offsets
            ranks[at] = NO_MERGE
            left, right = at[at > starts], at[at + 1 < starts + lengths]
            ranks[left - 1] = self._rank_pairs(ids[left - 1], ids[left])
            ranks[right] = self._rank_pairs(ids[right], ids[right + 1])

    def _rank_pairs(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Ranks of the pairs of ids (left, right), in int64 and the shape that the two broadcast to."""
        keys = left * self.vocab_size + right
        places = self._keys.searchsorted(keys)
        return np.where(self._keys[places] == keys, self._rank_by_key[places], NO_MERGE)
