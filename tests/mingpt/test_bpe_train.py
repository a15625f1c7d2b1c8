"""Training the BPE tokenizer."""

import random
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import REPOSITORY

from mingpt import fast
from mingpt.bpe import BPETokenizer, count_words, learn_merges, split_text

ROOT = REPOSITORY
SHARED = ROOT.parent / "shared" / "data"
PROSE = (
    Path(__file__).read_text("utf-8")
    + "In the beginning there was the word, the naïve word: слово, 猫猫猫, aaaaaaa. " * 9
)


def textbook_merges(text, n_merges):
    """The plain way: all pairs are counted anew for each merge."""
    with fast.plain():
        return learn_merges(count_words([text]), n_merges)


@pytest.mark.parametrize("way", ["fast", "plain"])
def test_a_worked_example(way, monkeypatch):
    monkeypatch.setattr(fast, "_on", way == "fast")
    # "low" 5 times, "lower" 2, "newest" 6, "widest" 3: Sennrich et al. 2016, figure 1, with bytes for characters
    text = "low," * 5 + "lower," * 2 + "newest," * 6 + "widest," * 3
    tokenizer = BPETokenizer.train(text, 256 + 4, progress=False)
    # es and st are 9 each: the pair with the smaller ids goes first. Then es t, and l o before o w, both 7.
    assert tokenizer.tokens[256:] == [b"es", b"est", b"lo", b"low"]
    assert tokenizer.encode("lowest") == [259, 257]


@pytest.mark.parametrize("text", [PROSE, "a" * 50, "ab" * 30 + " " + "ba" * 7, "aaab aab ab b" * 3, "x", ""])
def test_merges_are_the_textbooks(text):
    assert learn_merges(count_words([text]), 100) == textbook_merges(text, 100)


def test_merges_are_the_textbooks_on_random_text():
    rng = random.Random(0)
    for _ in range(150):
        text = "".join(rng.choices("abc \n", k=rng.randint(1, 120)))
        assert learn_merges(count_words([text]), 60) == textbook_merges(text, 60), text


def test_merges_are_those_of_the_tokenizers_package():
    tokenizers = pytest.importorskip("tokenizers")
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    path = SHARED / "text" / "tiny_shakespeare.txt"
    text = path.read_text("utf-8")[:200_000] if path.exists() else PROSE
    theirs.train_from_iterator([text], trainer)
    ours = BPETokenizer.train(text, 500, progress=False)
    assert ours.encode(text) == theirs.encode(text).ids


def test_a_stream_is_read_once_and_counts_the_same():
    lines = PROSE.splitlines()
    read = []
    stream = (read.append(line) or line for line in lines)
    assert count_words(stream) == sum((Counter(split_text(line)) for line in lines), Counter())
    assert read == lines
    assert (
        BPETokenizer.train(iter(lines), 300, progress=False).merges
        == BPETokenizer.train(lines, 300, progress=False).merges
    )


def test_order_of_the_texts_does_not_matter():
    lines = PROSE.splitlines()
    forwards, backwards = (BPETokenizer.train(order, 400, progress=False) for order in (lines, lines[::-1]))
    assert forwards.merges == backwards.merges


def test_short_text_stops_and_says_so():
    with pytest.warns(UserWarning, match="no more pairs to merge: 259 tokens, not 1000"):
        tokenizer = BPETokenizer.train("abc", 1000, ["<|end|>"], progress=False)
    assert tokenizer.tokens[256:] == [b"ab", b"abc", b"<|end|>"]
    assert tokenizer.encode("abc<|end|>", "all") == [257, 258]
    with pytest.warns(UserWarning, match="256 tokens, not 257"):
        assert BPETokenizer.train([], 257, progress=False).vocab_size == 256


def test_special_tokens_are_not_counted():
    texts = "the cat", "the mat"
    with_specials = BPETokenizer.train("<|end|>".join(texts), 260, ["<|end|>"], progress=False)
    assert with_specials.merges == BPETokenizer.train(texts, 259, progress=False).merges
    assert with_specials.special_tokens == {"<|end|>": 259}


def test_bad_arguments():
    with pytest.raises(ValueError, match="vocab_size is 256; it has to be at least 257, for the 256 bytes and 1 "):
        BPETokenizer.train("text", 256, "<|end|>", progress=False)
    for names in (["<|x|>", "<|x|>"], "", "x"):
        with pytest.raises(ValueError, match="special token '.*' is given twice, or is not two bytes long"):
            BPETokenizer.train(iter(()), 260, names, progress=False)
    with pytest.raises(ValueError, match="lone surrogate"):
        BPETokenizer.train("text", 260, ["<\udfff>"], progress=False)


def test_progress_bar(capsys):
    BPETokenizer.train(PROSE, 270, progress=True)
    shown = capsys.readouterr().err
    assert "read" in shown and "merges" in shown


def test_a_long_word_trains_in_linear_time():
    def seconds(n):
        start = time.perf_counter()
        assert len(learn_merges({"ab" * n: 1}, 10)[1]) == 10
        return time.perf_counter() - start

    short, long = (min(seconds(n) for _ in range(3)) for n in (5_000, 40_000))
    assert long < 24 * short  # 8 times the letters; a quadratic algorithm takes 64 times as long
