"""The byte-level BPE tokenizer: splitting, encoding, decoding, files, errors.

Identity with tiktoken is checked on a sample by default and in full with MINGPT_FULL_TESTS=1: 200,000 random strings
and every file of the standard library, a minute or two.
"""

import heapq
import json
import os
import pickle
import random
import re
import subprocess
import sys
import sysconfig
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REAL_DATA, REPOSITORY

from mingpt import fast
from mingpt.bpe import BPETokenizer, split_text
from mingpt.char import CharTokenizer
from mingpt.fast import bpe_split
from mingpt.model import GPT
from mingpt.pretrained import tokenizer_files as bpe_files
from mingpt.pretrained.tokenizer_files import byte_to_char
from mingpt.support.files import cache_folder

SHARED = REAL_DATA
FULL = bool(os.environ.get("MINGPT_FULL_TESTS"))
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CORPUS = (
    "the cat sat on the mat, the cat's hat; a naïve 'thé' at 12:30 — 猫が座った。 " * 3
    + "\n\n  def f(x):\n\treturn x\n"
)


@pytest.fixture(scope="module")
def gpt2_files():
    paths = SHARED / "gpt2_bpe" / "encoder.json", SHARED / "gpt2_bpe" / "vocab.bpe"
    if not all(path.exists() for path in paths):
        pytest.skip("GPT-2's vocabulary is not here")
    return paths


@pytest.fixture(scope="module")
def gpt2(gpt2_files):
    return BPETokenizer.from_files(*gpt2_files)


@pytest.fixture(scope="module")
def tiktoken_gpt2(gpt2_files):
    tiktoken = pytest.importorskip("tiktoken")
    pytest.importorskip("tiktoken.load")

    vocab_json, merges_txt = map(str, gpt2_files)
    ranks = tiktoken.load.data_gym_to_mergeable_bpe_ranks(merges_txt, vocab_json)
    special = {"<|endoftext|>": 50256}
    return tiktoken.Encoding("gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens=special)


@pytest.fixture(scope="module")
def small():
    """A tokenizer of our own, for what does not need GPT-2's vocabulary."""
    return BPETokenizer.train(CORPUS, 300, ["<|end|>", "<|end|>more"], progress=False)


@pytest.fixture(scope="module")
def characters():
    """Code points assigned both in this Python's Unicode tables and in those of the `regex` package."""
    regex = pytest.importorskip("regex")
    assigned = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]
    return "".join(regex.findall(r"\P{Cn}", "".join(assigned)))


def random_text(rng, characters):
    """Up to 40 characters: from all of Unicode, from 64 neighbouring ones, or from what the pattern is about."""
    kind = rng.randrange(4)
    if kind == 0:
        pool = characters
    elif kind == 1:
        start = rng.randrange(len(characters) - 64)
        pool = characters[start : start + 64] + " \n'"
    else:
        pool = "abcSTM'''sstremvldl  \n\n\t\r12½²一Ⅷé_-.,!\x1c\x1f\x85\xa0\u2028\u3000\u200b\u0301𝒜𝟘😀𐄇𖭛"
        pool += " " * 40 * (kind - 2)
    return "".join(rng.choices(pool, k=rng.randint(1, 40)))


# ------------------------------------------------------------------------------------------------------ splitting


@pytest.fixture(params=["fast", "plain"])
def way(request, monkeypatch):
    monkeypatch.setattr(fast, "_on", request.param == "fast")


@pytest.mark.usefixtures("way")
def test_split_by_example():
    assert split_text("Hello  world's 12½ naïve!!\n\n  x") == [
        "Hello", " ", " world", "'s", " 12½", " naïve", "!!", "\n\n ", " x",
    ]  # fmt: skip
    assert split_text("I'LL he'll  ") == ["I", "'", "LL", " he", "'ll", "  "]
    assert split_text("a\x1cb\u3000c") == ["a", "\x1c", "b", "\u3000", "c"]  # \x1c is no white space
    assert split_text("") == []


@pytest.mark.usefixtures("way")
def test_split_high_characters():
    # a letter, a number and an emoji above U+FFFF, next to low ones of their class and of another
    assert split_text("a𝒜b 𝒜a 1𝟘 𝟘1 !😀! 😀!𝒜1") == ["a𝒜b", " 𝒜a", " 1𝟘", " 𝟘1", " !😀!", " 😀!", "𝒜", "1"]


@pytest.mark.usefixtures("way")
def test_split_like_the_regex_package(characters):
    pattern = pytest.importorskip("regex").compile(GPT2_PATTERN)
    everything = " ".join(characters) + characters
    assert split_text(everything) == pattern.findall(everything)
    rng = random.Random(1)
    for _ in range(10_000):
        text = random_text(rng, characters)
        assert split_text(text) == pattern.findall(text), ascii(text)


def test_no_letters_or_numbers_beyond_the_scanned_planes():
    assert not any(unicodedata.category(chr(code))[0] in "LN" for code in range(0x40000, 0x110000))


def test_white_space_is_unicodes():
    regex = pytest.importorskip("regex")
    every = "".join(map(chr, range(0x110000)))
    assert re.findall(f"[{bpe_split.SPACE}]", every) == regex.findall(r"\s", every.replace("\x1c\x1d\x1e\x1f", ""))


def test_blocks_change_nothing():
    text = CORPUS * 20
    for size in (1, 7, 100, 1 << 20):
        pieces = list(bpe_split.blocks(text, size))
        assert "".join(pieces) == text
        assert [word for piece in pieces for word in split_text(piece)] == split_text(text)


# ------------------------------------------------------------------------------------------------------- encoding


def test_gpt2_by_example(gpt2):
    assert gpt2.vocab_size == 50257
    assert gpt2.special_tokens == {"<|endoftext|>": 50256}
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.encode("Hello<|endoftext|>", allowed_special="all") == [15496, 50256]
    assert gpt2.decode([15496, 995, 50256]) == "Hello world<|endoftext|>"
    assert gpt2.decode(gpt2.encode("😀")[:1]) == "\ufffd"
    assert gpt2.encode("") == []


def test_ids_are_tiktokens_on_random_strings(gpt2, tiktoken_gpt2, characters):
    rng = random.Random(0)
    for _ in range(200_000 if FULL else 4_000):
        text = random_text(rng, characters)
        ids = gpt2.encode(text)
        assert ids == tiktoken_gpt2.encode_ordinary(text), ascii(text)
        assert gpt2.decode(ids) == text


def test_ids_are_tiktokens_on_every_character(gpt2, tiktoken_gpt2, characters):
    text = "".join(f"{char} a{char}" for char in characters[:: 1 if FULL else 23])
    assert gpt2.encode(text) == tiktoken_gpt2.encode_ordinary(text)


def test_ids_are_tiktokens_on_the_standard_library(gpt2, tiktoken_gpt2):
    library = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(path for path in library.rglob("*.py") if "site-packages" not in path.parts)
    assert len(paths) > 100
    for path in paths if FULL else paths[::40]:
        text = path.read_text("utf-8", errors="replace")
        ids = gpt2.encode_ordinary(text)
        assert ids == tiktoken_gpt2.encode_ordinary(text), path
        assert gpt2.decode(ids) == text, path


@pytest.mark.parametrize("folder", ["text", "wikitext2"])
def test_ids_are_tiktokens_on_shared_texts(gpt2, tiktoken_gpt2, folder):
    paths = sorted(path for path in (SHARED / folder).glob("*") if path.is_file())
    if not paths:
        pytest.skip(f"no texts in ../shared/data/{folder}")
    for path in paths:
        text = path.read_text("utf-8")
        ids = gpt2.encode(text)
        assert ids == tiktoken_gpt2.encode_ordinary(text), path
        assert gpt2.decode(ids) == text


def test_every_gpt2_token_merges_back_to_itself(gpt2):
    tokens = gpt2.tokens[:-1]
    assert gpt2._fast.words(tokens) == [(id,) for id in range(len(tokens))]


def test_all_ways_to_merge_agree(small, characters):
    rng = random.Random(2)
    words = [random_text(rng, characters).encode() for _ in range(300)]
    words += ["".join(rng.choices("theca ", k=rng.randint(1, 700))).encode() for _ in range(100)]
    words += [b"t" * n for n in range(1, 400, 7)]
    one_by_one = [tuple(small._fast.word([small._byte_ids[byte] for byte in word])) for word in words]
    assert small._fast.words(words) == one_by_one
    for text in (CORPUS, "ttt the", "a" * 500, "thecat" * 80):
        assert [id for work in small.show_work(text) for id in work.ids] == small.encode(text)


def test_merges_in_an_odd_order():
    # a token may be merged at a lower rank than the one that makes it: nothing may count on ranks that only rise
    single = [bytes([byte]) for byte in range(256)]
    a, b, ab, aba = *b"ab", 256, 257
    tokenizer = BPETokenizer([*single, b"ab", b"aba", b"abaab"], [(aba, ab), (ab, a), (a, b)])
    for text in ("ababab", "abaab", "ab" * 40, " ".join(["aba", "abab"] * 40)):
        assert [id for work in tokenizer.show_work(text) for id in work.ids] == tokenizer.encode(text)
    words = [b"ab" * n for n in range(1, 60)]
    one_by_one = [tuple(tokenizer._fast.word(list(word))) for word in words]
    assert tokenizer._fast.words(words) == one_by_one


def test_the_plain_way_encodes_alike(small, characters):
    rng = random.Random(4)
    texts = [CORPUS[:2000], *(random_text(rng, characters) for _ in range(300))]
    ids = [small.encode(text, "all") for text in texts]
    with fast.plain():
        assert [small.encode(text, "all") for text in texts] == ids


def test_show_work(gpt2):
    (work,) = gpt2.show_work("Hello")
    assert work.data == b"Hello"
    assert work.merges == [(41, b"l", b"l"), (439, b"e", b"ll"), (10853, b"ell", b"o"), (15240, b"H", b"ello")]
    assert work.tokens == [b"Hello"] and work.ids == [15496]
    assert str(work) == (
        "'Hello': 5 bytes 48 65 6c 6c 6f\n  merge     41: l + l\n  merge    439: e + ll\n  merge  10853: ell + o\n"
        "  merge  15240: H + ello\n  tokens: Hello   ids: [15496]"
    )


def test_batch_bytes_and_arrays(small):
    assert small.encode_batch(["the cat", "", "hat"]) == [small.encode("the cat"), [], small.encode("hat")]
    assert small.encode("thé".encode()) == small.encode("thé")
    assert small.decode(np.array(small.encode("thé"))) == "thé"
    assert small.decode_bytes(small.encode("thé")) == "thé".encode()
    assert small.decode([]) == ""


def test_special_tokens(small):
    end, longer = small.special_tokens["<|end|>"], small.special_tokens["<|end|>more"]
    a, b = small.encode("a"), small.encode(" b")
    assert small.encode("a<|end|> b<|end|>", {"<|end|>"}) == a + [end] + b + [end]
    assert small.encode("a<|end|>more b", "all") == a + [longer] + b
    assert small.encode("<|end|><|end|>", "<|end|>") == [end, end]
    assert end not in small.encode_ordinary("<|end|>")
    assert small.decode(small.encode_ordinary("<|end|>")) == small.decode([end]) == "<|end|>"
    with pytest.raises(ValueError, match=r"special token '<\|end\|>' at index 1; pass allowed_special"):
        small.encode("a<|end|>")
    with pytest.raises(ValueError, match=r"special token '<\|end\|>more' at index 9"):
        small.encode("<|end|> b<|end|>more", "<|end|>")
    with pytest.raises(ValueError, match=r"'<\|x\|>' is no special token; there is <\|end\|>"):
        small.encode("a", {"<|x|>"})


@pytest.mark.parametrize("letters", ["t", "the"])
def test_long_words_take_a_linear_number_of_steps(small, letters, monkeypatch):
    steps = 0

    def counted(heap, pop=heapq.heappop):
        nonlocal steps
        steps += 1
        return pop(heap)

    monkeypatch.setattr("mingpt.fast.bpe_encode.heapq.heappop", counted)
    for n in (1_000, 10_000, 40_000):
        text, steps = letters * (n // len(letters)), 0
        assert small.decode(small.encode(text)) == text
        assert steps < 3 * n, "each pop is a pair of neighbours; merges make at most two new ones each"


def test_pickle_and_threads(small):
    tokenizer = BPETokenizer(small.tokens, small.merges, small.special_tokens, cache_chars=30)
    again = pickle.loads(pickle.dumps(tokenizer))
    texts = [f"{'the cat sat' * (n % 5)} {n} hats" for n in range(400)]
    with ThreadPoolExecutor(4) as threads:  # each of them empties the cache that the others read
        assert list(threads.map(again.encode, texts)) == small.encode_batch(texts)


def test_importing_needs_no_torch(environment):
    code = "import sys, mingpt.bpe; sys.exit('torch' in sys.modules or 'requests' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_cache_is_bounded(small):
    tokenizer = BPETokenizer(small.tokens, small.merges, small.special_tokens, cache_chars=1000)
    rng = random.Random(0)
    for _ in range(300):
        text = " ".join("".join(rng.choices("abcdefgh", k=9)) for _ in range(20))
        assert tokenizer.encode(text) == small.encode(text)
        assert sum(map(len, tokenizer._fast.cache)) <= 1000
    tokenizer.encode("x" * 100_000)
    assert not tokenizer._fast.cache


# ---------------------------------------------------------------------------------------------------------- files


def test_byte_to_char():
    table = byte_to_char()
    assert sorted(table) == list(range(256)) and len(set(table.values())) == 256
    assert (table[ord("A")], table[ord(" ")], table[ord("\n")], table[0]) == ("A", "Ġ", "Ċ", "Ā")
    assert not any(char.isspace() for char in table.values())


def test_save_and_load(small, tmp_path):
    paths = small.save(tmp_path / "new" / "folder")
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["merges.txt", "vocab.json"]
    again = BPETokenizer.from_files(*paths, special_tokens=["<|end|>", "<|end|>more"])
    assert (again.tokens, again.merges, again.special_tokens) == (small.tokens, small.merges, small.special_tokens)
    assert again.encode(CORPUS) == small.encode(CORPUS)


def test_save_gives_gpt2s_own_files(gpt2, gpt2_files, tmp_path):
    for ours, theirs in zip(gpt2.save(tmp_path), gpt2_files):
        assert ours.read_bytes() == theirs.read_bytes()


def test_windows_line_ends_and_byte_order_marks(small, tmp_path):
    vocab, merges = small.save(tmp_path)
    merges.write_bytes(b"\xef\xbb\xbf" + merges.read_bytes().replace(b"\n", b"\r\n"))
    vocab.write_bytes(b"\xef\xbb\xbf" + vocab.read_bytes())
    assert BPETokenizer.from_files(vocab, merges, list(small.special_tokens)).merges == small.merges


def test_saved_files_with_the_tokenizers_package(small, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    vocab, merges = map(str, small.save(tmp_path))
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(vocab, merges))
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in (CORPUS, "unseen words, too: ÄÖÜ 🎉", "x" * 1000):
        assert theirs.encode(text).ids == small.encode(text)


def test_from_pretrained(gpt2_files, monkeypatch, tmp_path, capsys):
    from mingpt.pretrained import download

    monkeypatch.setenv("MINGPT_CACHE", str(tmp_path))
    contents = dict(zip(("vocab.json", "merges.txt"), (path.read_bytes() for path in gpt2_files)))

    def fetch(urls, path, sha256=None, *, description=None, largest=None):
        assert all(url.startswith("https://") for url in urls) and len(sha256) == 64
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[path.name])
        return path

    monkeypatch.setattr(download, "fetch", fetch)
    assert BPETokenizer.from_pretrained("gpt2").encode("Hello world") == [15496, 995]
    assert sorted(os.listdir(tmp_path / "gpt2_bpe")) == ["merges.txt", "vocab.json"]

    import runpy

    prepare = runpy.run_path(str(REPOSITORY / "data" / "gpt2_bpe" / "prepare.py"))
    prepare["main"](["--out", str(tmp_path / "other")])
    assert capsys.readouterr().out.splitlines()[-1] == "50257 tokens, 50000 merges"
    assert (tmp_path / "other" / "vocab.json").exists()


def test_the_shared_files_have_the_pinned_sums(gpt2_files):
    import hashlib

    pinned = [sha256 for _, sha256 in bpe_files.PRETRAINED["gpt2"].values()]
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in gpt2_files] == pinned


# --------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "text, message",
    [
        ("ab\ud800c", r"lone surrogate '\\ud800' at index 2"),
        ("x" * 600_000 + " \udfff", r"lone surrogate '\\udfff' at index 600001"),
        (b"ab\xff", "not UTF-8: byte 0xff at offset 2"),
        (None, "text is a NoneType"),
        (["a"], "text is a list"),
    ],
)
def test_bad_text(small, text, message):
    for encode in (small.encode, small.encode_ordinary, small.show_work):
        with pytest.raises(ValueError, match=message):
            encode(text)
    with pytest.raises(ValueError, match=message):
        BPETokenizer.train([text], 300, progress=False)
    with pytest.raises(ValueError, match=message):
        small.encode_batch(["fine", text])


@pytest.mark.parametrize(
    "ids, message",
    [
        ([1, 2, 300], "id 300 at index 2 is out of range; ids go from 0 to 299"),
        ([1, -1], "id -1 at index 1 is out of range"),
        ([1, 2.0], "sequence of integers: 'float'"),
        (["a"], "sequence of integers: 'str'"),
        (7, "sequence of integers, not 7 of type 'int'"),
    ],
)
def test_bad_ids(small, ids, message):
    for decode in (small.decode, small.decode_bytes):
        with pytest.raises(ValueError, match=message):
            decode(ids)


@pytest.mark.parametrize(
    "batch",
    [
        [[1, 2], [3, 4]],
        [[1], [2]],
        [(1, 2)],
        np.array([[1, 2], [3, 4]]),
        np.array([[1], [2]]),
        torch.tensor([[1, 2]]),
        torch.tensor([[1], [2]]),
        [np.array([1, 2])],
        [torch.tensor([1, 2])],
        torch.ones(2, 2, dtype=torch.bool),
    ],
)
def test_a_batch_is_not_decoded_as_one_text(small, batch):
    for tokenizer in (small, CharTokenizer("abcdefgh")):
        with pytest.raises(ValueError, match="not a batch of [12] such; decode one at a time") as error:
            tokenizer.decode(batch)
        assert "\n" not in str(error.value)
        assert [tokenizer.decode(row) for row in ([1, 2], np.array([1, 2], np.uint16), torch.tensor([1, 2]))] == [
            tokenizer.decode(iter((1, 2)))
        ] * 3


@pytest.mark.parametrize(
    "ids",
    [
        None,
        5,
        "ab",
        b"ab",
        1.5,
        [None],
        [True],
        [1, "2"],
        np.array(3),
        torch.tensor([0.5]),
        torch.tensor([True]),
        [10**5000],
        [-(2**70)],
    ],
)
def test_what_is_no_sequence_of_ids_is_one_line(small, ids):
    for tokenizer in (small, CharTokenizer("abcdefgh")):
        with pytest.raises(ValueError, match="sequence of integers|out of range|outside the vocabulary") as error:
            tokenizer.decode(ids)
        assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: BPETokenizer.train(None, 300), "the texts are a NoneType; give a string"),
        (lambda: BPETokenizer.train(5, 300), "the texts are a int"),
        (lambda: BPETokenizer.train([None], 300, progress=False), "text is a NoneType"),
        (lambda: BPETokenizer.train("text", "300"), "vocab_size is '300'; it has to be a whole number"),
        (lambda: BPETokenizer.train("text", 300.5), "vocab_size is 300.5"),
        (lambda: BPETokenizer.train("text", None), "vocab_size is None"),
        (lambda: BPETokenizer.train("text", 300, None), "names of special tokens are None"),
        (lambda: BPETokenizer.train("text", 300, [5]), "names of special tokens are .5."),
        (lambda: BPETokenizer(None, []), "`tokens` is a list of bytes"),
        (lambda: BPETokenizer(["a"], []), "`tokens` is a list of bytes"),
        (lambda: BPETokenizer([bytes([b]) for b in range(256)], None), "`merges` a list of pairs"),
        (lambda: BPETokenizer([bytes([b]) for b in range(256)], [(1, 2, 3)]), "`merges` a list of pairs"),
        (lambda: BPETokenizer([bytes([b]) for b in range(256)], [("a", "b")]), "`merges` a list of pairs"),
        (lambda: BPETokenizer([bytes([b]) for b in range(256)], [], 5), "`special_tokens` a mapping"),
        (lambda: BPETokenizer([bytes([b]) for b in range(256)], [], {"\ud800": 5}), "`special_tokens` a mapping"),
        (lambda: BPETokenizer.from_files(None, 5), "a NoneType is no path"),
        (lambda: BPETokenizer.from_pretrained(None), "no pretrained tokenizer is called None"),
        (lambda: BPETokenizer.from_pretrained(["gpt2"]), "no pretrained tokenizer is called .'gpt2'."),
    ],
)
def test_another_type_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_encode_batch_wants_a_list(small):
    for texts in ("text", b"text", None, 5):
        with pytest.raises(ValueError, match=f"takes a list of texts, not a {type(texts).__name__}"):
            small.encode_batch(texts)
    for names in (None, 5, [None]):
        with pytest.raises(ValueError, match="names of special tokens are"):
            small.encode("text", names)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": ' + "[" * 100_000, '{"!": ' + "9" * 5000 + "}"])
def test_a_deep_or_huge_vocabulary_is_one_line(small, tmp_path, content):
    vocab, merges = small.save(tmp_path)
    vocab.write_text(content)
    with pytest.raises(ValueError, match="vocab.json: not JSON that can be read") as error:
        BPETokenizer.from_files(vocab, merges)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_long_and_odd_tokens_are_short_in_messages(small, tmp_path):
    for token in ("x" * 100_000, "\x1b[2J", "<" + "y" * 99_999):
        vocab, merges = changed(tmp_path, small, (b'"A": 32', json.dumps(token).encode() + b': 300, "A": 32'))
        with pytest.raises(ValueError, match="vocab.json: no merge .* makes token|ids go from") as error:
            BPETokenizer.from_files(vocab, merges, list(small.special_tokens))
        assert str(error.value).isprintable() and len(str(error.value)) < 500
    vocab, merges = changed(tmp_path, small, None, (FIRST, b"q" * 100_000 + b"\n"))
    with pytest.raises(ValueError, match="merges.txt:2: 'qqq") as error:
        BPETokenizer.from_files(vocab, merges, list(small.special_tokens))
    assert len(str(error.value)) < 500


def test_files_of_a_killed_writer_are_removed_and_a_failure_leaves_the_old(small, tmp_path, monkeypatch):
    paths = small.save(tmp_path)
    before = [path.read_bytes() for path in paths]
    (tmp_path / ".vocab.json.999999999.tmp").write_text("half")
    monkeypatch.setattr(Path, "write_text", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        small.save(tmp_path)
    monkeypatch.undo()
    assert [path.read_bytes() for path in paths] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merges.txt", "vocab.json"]


def test_without_a_home_the_cache_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.delenv("MINGPT_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "mingpt"

    def home():  # as for a user without an account, and without HOME
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    for call in (cache_folder, BPETokenizer.from_pretrained, lambda: GPT.from_pretrained("gpt2")):
        with pytest.raises(ValueError, match="no home folder to keep downloads in; set MINGPT_CACHE"):
            call()
    monkeypatch.setenv("MINGPT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path


def changed(folder, small, vocab=None, merges=None):
    """Save `small`, replace (old, new) in its files, and return their paths."""
    paths = small.save(folder)
    for path, change in zip(paths, (vocab, merges)):
        if change is not None:
            content = path.read_bytes()
            assert change[0] in content
            path.write_bytes(content.replace(*change, 1))
    return paths


FIRST = b"a t\n"  # the first merge of `small`


@pytest.mark.parametrize(
    "vocab, merges, message",
    [
        (None, (FIRST, b"at\n"), r"merges.txt:2: 'at' is no merge; a line is two tokens with one space"),
        (None, (FIRST, b"a t e\n"), r"merges.txt:2: 'a t e' is no merge"),
        (None, (FIRST, FIRST + b"\n"), r"merges.txt:3: '' is no merge"),
        (None, (FIRST, FIRST + FIRST), r"merges.txt:3: repeats line 2, 'a t'"),
        (None, (FIRST, b"t zz\n"), r"merges.txt:2: the vocabulary has no token 'zz'; use two files that belong"),
        (None, (FIRST, b"h h\n"), r"merges.txt:2: the vocabulary has no token 'hh'"),
        (None, (FIRST, b""), r"no merge in .*merges.txt makes token 'at' \(id 256\); use two files"),
        (None, (FIRST, b"t \xff\n"), r"merges.txt:2: not UTF-8 text"),
        ((b'"A": ', b'"AAA": '), None, r"vocab.json: has no token for byte 0x41 \(written 'A'\)"),
        ((b'"A": 32', b'"A": 33'), None, r"vocab.json: tokens 'A' and 'B' share id 33"),
        ((b'"A": 32', b'"A": 3200'), None, r"vocab.json: token 'A' has id 3200; ids go from 0 to 299"),
        ((b'"A": 32', b'"A": "32"'), None, r"vocab.json: has to be one JSON object, token -> id"),
        ((b'"A": 32', b'"A" 32'), None, r"vocab.json:1: not JSON"),
        ((b'"A"', b'"\xff"'), None, r"vocab.json:1: not UTF-8 text"),
    ],
)
def test_bad_files(small, tmp_path, vocab, merges, message):
    with pytest.raises(ValueError, match=message) as error:
        BPETokenizer.from_files(*changed(tmp_path, small, vocab, merges), list(small.special_tokens))
    assert "\n" not in str(error.value)


def test_vocabulary_that_is_not_of_bytes(small, tmp_path):
    paths = changed(tmp_path, small, (b'"<|end|>": 298', '"猫": 298, "猫<|end|>": 300, "<|end|>": 301'.encode()))
    paths[1].write_text(paths[1].read_text("utf-8") + "猫 <|end|>\n", "utf-8")
    with pytest.raises(ValueError, match="vocab.json: in token '猫<|end|>', '猫' stands for no byte"):
        BPETokenizer.from_files(*paths, ["猫", "<|end|>", "<|end|>more"])


def test_missing_file_and_unknown_names(small, tmp_path):
    vocab, merges = small.save(tmp_path)
    with pytest.raises(ValueError, match="nothing.json: no such file"):
        BPETokenizer.from_files(tmp_path / "nothing.json", merges)
    with pytest.raises(ValueError, match="has no special token 'the'"):
        BPETokenizer.from_files(vocab, merges, ["the"])
    with pytest.raises(ValueError, match=r"makes token '<\|end\|>more' .* or name it in special_tokens"):
        BPETokenizer.from_files(vocab, merges)
    with pytest.raises(ValueError, match="no pretrained tokenizer is called 'gpt3'; there is gpt2"):
        BPETokenizer.from_pretrained("gpt3")


def test_bad_tokens_and_merges(small):
    with pytest.raises(ValueError, match="no token for byte 0x21"):
        BPETokenizer(small.tokens[1:], [])
    with pytest.raises(ValueError, match="'th' is empty or in the vocabulary twice"):
        BPETokenizer(small.tokens + [b"th"], small.merges)
    with pytest.raises(ValueError, match="'' is empty or in the vocabulary twice"):
        BPETokenizer(small.tokens + [b""], small.merges)
    with pytest.raises(ValueError, match="merge 0 makes '!!', which is not in the vocabulary"):
        BPETokenizer(small.tokens, [(0, 0)])
    for merges in ([(0, 300)], [(-1, 0)]):
        with pytest.raises(ValueError, match=r"merge 0, \(.*\), has an id out of range"):
            BPETokenizer(small.tokens, merges)
    with pytest.raises(ValueError, match="merge 0, .* comes a second time"):
        BPETokenizer(small.tokens, small.merges[:1] * 2)
    for id in (0, 300):
        with pytest.raises(ValueError, match=rf"special token '<\|end\|>' has id {id}; `tokens` has to hold its name"):
            BPETokenizer(small.tokens, small.merges, {"<|end|>": id})
    with pytest.raises(ValueError, match="written like another token"):
        BPETokenizer([*small.tokens, "Ġ".encode()], small.merges, {"Ġ": 300}).save("nowhere")


# ----------------------------------------------------------------------------------------------- properties

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import strategies as st  # noqa: E402

TEXT = st.text() | st.text(alphabet="the cat's 12\n\t—猫😀𝒜\x1c\x85", max_size=60)
quick = hypothesis.settings(max_examples=150, deadline=None)


@pytest.fixture(scope="module")
def tokenizer(small):
    return small


@quick
@hypothesis.given(TEXT)
def test_round_trip(tokenizer, text):
    ids = tokenizer.encode_ordinary(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()


@quick
@hypothesis.given(TEXT)
def test_pre_tokens_concatenate(tokenizer, text):
    words = split_text(text)
    assert "".join(words) == text
    assert all(split_text(word) == [word] for word in words)
    assert [id for word in words for id in tokenizer.encode_ordinary(word)] == tokenizer.encode_ordinary(text)


@quick
@hypothesis.given(st.lists(TEXT, min_size=1, max_size=5))
def test_special_tokens_separate(tokenizer, texts):
    hypothesis.assume(not any("<" in text or text.startswith("more") for text in texts))
    end = tokenizer.special_tokens["<|end|>"]
    ids = tokenizer.encode("<|end|>".join(texts), allowed_special={"<|end|>"})
    expected = tokenizer.encode(texts[0])
    for text in texts[1:]:
        expected += [end, *tokenizer.encode(text)]
    assert ids == expected


@quick
@hypothesis.given(st.lists(st.integers(0, 299)))
def test_any_ids_decode(tokenizer, ids):
    assert tokenizer.decode_bytes(ids) == b"".join(tokenizer.tokens[id] for id in ids)
    assert isinstance(tokenizer.decode(ids), str)
