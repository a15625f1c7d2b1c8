"""The datasets of the birthplace study, held against the assignment's specification property by property."""

import random
from collections import Counter
from functools import partial

import pytest
import torch

from mingpt.batches import Batches
from projects.birthplace.dataset import (
    MASK,
    PAD,
    CharCorruptionDataset,
    MixedDataset,
    NameDataset,
    SalientCorruptionDataset,
    make_tokenizer,
    name_of,
    read_pairs,
)
from projects.birthplace.files import load_files, read_questions, strangers

LETTERS = "".join(chr(i) for i in range(0x4E00, 0x4E00 + 200))  # a document whose every character is different
CORPUS = "Zoë Müller. Zoë Müller was born in Zürich.\n\nAda Roe. Roe, born in Oslo, was a poet.\nX\n" + LETTERS + "\n"


def string(dataset, i) -> str:
    """The padded string behind example i, put together again from x and y."""
    x, y = dataset[i]
    assert x.dtype == y.dtype == torch.int64 and torch.equal(x[1:], y[:-1])
    return dataset.tokenizer.decode(torch.cat([x, y[-1:]]))


@pytest.fixture
def tokenizer():
    return make_tokenizer(CORPUS + "Where was X born?")


def test_vocabulary_is_pad_mask_and_the_sorted_characters(tokenizer):
    assert tokenizer.characters[:2] == "\u25a1\u2047" and tokenizer.index[PAD] == 0 and tokenizer.index[MASK] == 1
    assert list(tokenizer.characters[2:]) == sorted(set(CORPUS + "Where was X born?"))


def test_empty_lines_are_no_documents(tokenizer):
    dataset = CharCorruptionDataset(CORPUS, tokenizer)
    assert len(dataset) == 4 and "" not in dataset.documents
    assert [len(x) for x, _ in dataset] == [127] * 4, "and a for loop over it ends"


@pytest.mark.parametrize("kind", [CharCorruptionDataset, partial(SalientCorruptionDataset, salient=0.5, recall=0.0)])
def test_an_example_is_prefix_mark_suffix_mark_masked_mark_padding(kind, tokenizer):
    dataset = kind(CORPUS, tokenizer)
    for epoch in range(300):
        dataset.set_epoch(epoch)
        for i, document in enumerate(dataset.documents):
            whole = string(dataset, i)
            body = whole.rstrip(PAD)
            assert len(whole) == 128 and PAD not in body
            prefix, suffix, masked, end = body.split(MASK)
            assert end == "" and masked, "something is always masked"
            assert document.startswith(prefix + masked + suffix), "reassembled, it is a beginning of the document"


def test_every_length_is_drawn_and_a_quarter_is_masked_on_average(tokenizer):
    dataset, rng = CharCorruptionDataset(CORPUS, tokenizer), random.Random(0)
    lengths, shares, starts = Counter(), [], Counter()
    for _ in range(40000):
        prefix, masked, suffix = dataset.split(LETTERS, rng)
        length = len(prefix + masked + suffix)
        lengths[length] += 1
        shares.append(len(masked) / length)
        starts[len(prefix) == 0] += 1
    assert set(lengths) == set(range(4, 113)), "from 4 to int(128 * 7 / 8)"
    assert min(lengths.values()) > 0.6 * max(lengths.values()), "all about equally often"
    assert sum(shares) / len(shares) == pytest.approx(0.25, abs=0.005)


@pytest.mark.parametrize("length", [4, 5, 6, 7, 9, 16, 33, 112])
def test_the_mean_masked_length_is_a_quarter_whatever_the_length(length, tokenizer):
    dataset, rng = CharCorruptionDataset(CORPUS, tokenizer), random.Random(0)
    masked = []
    while len(masked) < 3000:
        prefix, piece, suffix = dataset.split(LETTERS[:length], rng)
        if len(prefix + piece + suffix) == length or length == 112:
            masked.append(len(piece) / len(prefix + piece + suffix) * length)
    assert sum(masked) / len(masked) == pytest.approx(length / 4, rel=0.06)
    assert min(masked) > 0


def test_a_document_is_never_made_longer_than_it_is(tokenizer):
    dataset = CharCorruptionDataset(CORPUS, tokenizer)
    for epoch in range(50):
        dataset.set_epoch(epoch)
        assert string(dataset, 2).rstrip(PAD) == MASK + MASK + "X" + MASK


def test_an_example_is_a_function_of_seed_epoch_and_number(tokenizer):
    one, other = (CharCorruptionDataset(CORPUS, tokenizer, seed=3) for _ in range(2))
    one.set_epoch(7), other.set_epoch(7)
    random.seed(1)
    assert string(one, 3) == string(other, 3) == string(one, 3)
    other.set_epoch(8)
    assert string(one, 3) != string(other, 3)
    assert len({string(CharCorruptionDataset(CORPUS, tokenizer, seed=s), 3) for s in range(5)}) == 5


def test_salient_spans_are_capitalised_words_that_are_not_in_the_title(tokenizer):
    dataset, rng = SalientCorruptionDataset(CORPUS, tokenizer, salient=1.0, recall=0.0), random.Random(0)
    document = "Ada Roe. Roe, born in Oslo, lived in New York City."
    drawn = [dataset.corrupt(document, rng).split(MASK) for _ in range(400)]
    assert {masked for _, _, masked, _ in drawn} == {"Oslo", "New York City"}, "and not the name itself"
    assert 0.4 < sum(suffix == "" for _, suffix, _, _ in drawn) / 400 < 0.6
    assert all(suffix == "" or prefix + masked + suffix == document for prefix, suffix, masked, _ in drawn)
    assert dataset.corrupt("no names in here at all", rng).count(MASK) == 3, "without names, the plain law"


def test_the_name_of_a_document():
    for name in ("Ada Roe", "J. N. Roe", "Ada M. Roe", "Ada Roe Jr. the Elder", "Dr. Zoë St. Roe", "Ada", "Ada Roe II"):
        assert name_of(f"{name}. {name} was born in Oslo . He died.") == name
    assert name_of("no full stop") == "no full stop"


def test_a_document_of_initials_is_asked_for_by_the_whole_name(tokenizer):
    for recall in (0.0, 1.0):
        dataset = SalientCorruptionDataset(CORPUS, tokenizer, salient=1 - recall, recall=recall)
        drawn = {dataset.corrupt("Ada M. Roe. Roe, M. Roe of old, born in Oslo.", random.Random(i)) for i in range(200)}
        assert {gap.split(MASK)[-2] for gap in drawn} == {"Oslo"}
        assert all("Ada M. Roe" in gap for gap in drawn)


def test_short_documents_keep_their_words_before_the_gap(tokenizer):
    dataset = SalientCorruptionDataset(CORPUS, tokenizer, salient=0.0, recall=1.0)
    drawn = Counter(
        dataset.corrupt("Ada Roe. Born in Oslo", random.Random(i)).split(MASK)[0].replace(".", "") for i in range(2000)
    )
    assert 0.5 < drawn["Ada Roe Born in"] / sum(n for words, n in drawn.items() if words.startswith("Ada")) < 0.7, (
        "tails of 2, 3 and 4 words"
    )


def test_recall_asks_after_the_name_in_few_words_of_the_document(tokenizer):
    dataset, rng = SalientCorruptionDataset(CORPUS, tokenizer, salient=0.0, recall=1.0), random.Random(0)
    document = "Ada Roe. Roe (2 May 1900 in Oslo - 1980) was a poet and Dane."
    kinds = Counter()
    for _ in range(4000):
        words, asked, end = dataset.corrupt(document, rng).split(MASK)
        assert end == "" and asked in ("May", "Oslo", "Dane") and asked not in words.split(), "the words do not tell"
        lead, name, tail = words.partition("Ada Roe")
        assert name and len(lead.split()) <= 3
        tail = tail.removeprefix(".").split()
        before = document[len("Ada Roe. ") : document.index(asked)].split()
        assert len(tail) <= 4 and tail == before[len(before) - len(tail) :], "those just before the gap"
        kinds[asked] += 1
        kinds["nothing before"] += lead == ""
        kinds["only the name"] += words == "Ada Roe"
    assert 0.75 < kinds["Oslo"] / 4000 < 0.85, "0.7 behind a preposition, and a third of the rest"
    assert kinds["May"] > 200 and kinds["Dane"] > 200 and kinds["only the name"] > 200
    assert 0.5 < kinds["nothing before"] / 4000 < 0.75
    assert dataset.corrupt("no names in here at all", rng).count(MASK) == 3, "without names, the plain law"


def test_a_recalled_example_fits_the_block(tokenizer):
    dataset, rng = SalientCorruptionDataset(CORPUS, tokenizer, salient=0.0, recall=1.0, block_size=32), random.Random(0)
    for document in (
        "Ada Roe. Roe was born in Oslo and then wandered aimlessly in " + "Aa" * 8,
        "A person of a very long name indeed. He lived in Oslo",
        "Ada Roe. In " + "Aa" * 40,
    ):
        for _ in range(300):
            assert len(dataset.corrupt(document, rng)) <= 32


def test_shares_beyond_the_whole_are_refused(tokenizer):
    with pytest.raises(ValueError, match="salient is 0.5 and recall 0.6; both are shares of one whole"):
        SalientCorruptionDataset(CORPUS, tokenizer, salient=0.5, recall=0.6)


def test_questions_are_masked_up_to_the_answer(tokenizer):
    question, answer = "Where was Zoë Müller born?", "Zürich"
    x, y = NameDataset(f"{question}\t{answer}\n", tokenizer)[0]
    assert tokenizer.decode(x) == (question + MASK + answer + MASK).ljust(127, PAD)
    assert tokenizer.decode(y) == (PAD * len(question) + answer + MASK).ljust(127, PAD)


def test_padding_is_never_trained_on(tokenizer):
    pairs = NameDataset("Where was Zoë Müller born?\tZürich\nWhere was Roe born?\tOslo", tokenizer)
    for dataset in (CharCorruptionDataset(CORPUS, tokenizer), pairs):
        x, y = Batches(dataset, batch_size=4).part(0)
        assert not (y == 0).any() and (y == -1).any() and x.shape[1] <= 127
    targets = Batches(pairs, batch_size=2).part(0)[1]
    learned = sorted(tokenizer.decode(row[row != -1]) for row in targets)
    assert learned == ["Oslo" + MASK, "Zürich" + MASK], "the last pair too, though its line does not end in a newline"


def test_mixing_adds_a_share_of_documents(tokenizer):
    pairs = NameDataset("Where was Roe born?\tOslo\n" * 30, tokenizer)
    mixed = MixedDataset(pairs, CharCorruptionDataset(CORPUS, tokenizer), share=0.25)
    assert len(mixed) == 40
    first = [tokenizer.decode(mixed[i][0]) for i in range(40)]
    assert all(x.startswith("Where was Roe born?") == (i < 30) for i, x in enumerate(first))
    mixed.set_epoch(1)
    again = [tokenizer.decode(mixed[i][0]) for i in range(40)]
    assert first[:30] == again[:30] and first[30:] != again[30:], "other documents, in other forms"
    assert Batches(mixed, batch_size=40).part(0)[0].shape[0] == 40


@pytest.mark.parametrize(
    "text, message",
    [
        ("Where was Roe born?\tOslo\nWhere was Roe born?\n", "f.tsv:2: no tab; each line is QUESTION<tab>PLACE"),
        ("Where was Roe born?\t\n", "f.tsv:1: nothing after the tab"),
        ("Where was Roe born?\tOslo\tOslo\n", "f.tsv:1: a second tab"),
        (
            "Where was Roe born?\tOslo\nWhere was Poe born?\tRome \n",
            "f.tsv:2: a blank before or after the question or the place",
        ),
        (
            "\n\nWhere was Ω born?\tOslo\n",
            r"f.tsv:3: the character 'Ω' \(U\+03A9\) at place 10 is not in the vocabulary",
        ),
        ("Where was " + "Roe " * 40 + "born?\tOslo\n", "f.tsv:1: 181 characters with marks, of at most 128"),
        ("\n", "f.tsv: no question: the file is empty"),
    ],
)
def test_a_bad_line_is_named(text, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        NameDataset(text, tokenizer, source="f.tsv")


def test_a_bad_corpus_is_named(tokenizer):
    with pytest.raises(ValueError, match="wiki.txt: no document: the file is empty"):
        CharCorruptionDataset("\n\n", tokenizer, source="wiki.txt")
    with pytest.raises(ValueError, match=r"wiki.txt:2: the character 'Ω'"):
        CharCorruptionDataset("Roe\nΩ\n", tokenizer, source="wiki.txt")
    with pytest.raises(ValueError, match=r"wiki.txt: the text contains '⁇' \(U\+2047\), which is reserved"):
        make_tokenizer("What⁇", "wiki.txt")
    with pytest.raises(ValueError, match="block_size is 16; span corruption needs at least 17"):
        CharCorruptionDataset("Roe\n", tokenizer, block_size=16)


def test_the_smallest_block_holds_the_longest_example(tokenizer):
    for block_size in (17, 18, 25, 128):
        dataset = CharCorruptionDataset(CORPUS, tokenizer, block_size)
        for epoch in range(60):
            dataset.set_epoch(epoch)
            assert {len(x) for x, _ in dataset} == {block_size - 1}


def test_questions_without_answers_are_read_but_not_mixed_with_others(tmp_path):
    (tmp_path / "q.tsv").write_text("Where was A born?\r\nWhere was B born?\r\n", encoding="utf-8")
    questions = read_questions(tmp_path / "q.tsv")
    assert questions.questions == ["Where was A born?", "Where was B born?"] and not questions.answered
    with pytest.raises(ValueError, match="f:2: some lines have an answer and some have none"):
        read_pairs("Where was A born?\nWhere was B born?\tOslo\n", "f")


def test_a_question_that_cannot_be_asked_is_named(tokenizer, tmp_path):
    for text, message in (
        ("\nWhere was Ω born?\n", "q.tsv:2: the character 'Ω'"),
        ("Where was " + "Roe " * 40 + "born?", "q.tsv:1: 176 characters with marks, of at most 127"),
    ):
        (tmp_path / "q.tsv").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            read_questions(tmp_path / "q.tsv").check(tokenizer, 128)


def test_the_world_needs_no_download():
    files = load_files("world")
    assert files.dev.answered and files.control.answered and not files.test.answered
    assert all(
        question.removeprefix("Where was ").removesuffix(" born?") not in files.corpus
        for question in files.control.questions
    )


def test_strangers_are_in_no_document():
    files = load_files("world")
    people = strangers(files.dev, files.corpus)
    assert len(people.questions) > 30 and people.answered
    assert not [q for q in people.questions if q[10:-6] in files.corpus]


def test_unknown_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--data is 'wiki'; it must be world or cs224n"):
        load_files("wiki")
    with pytest.raises(ValueError, match="no such folder"):
        load_files("world", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="wiki.txt: no such file"):
        load_files("cs224n", tmp_path)


def test_the_real_files_keep_their_accents_and_every_line(cs224n_files):
    files = load_files("cs224n", cs224n_files)
    tokenizer = make_tokenizer(files.corpus)
    train = NameDataset(files.train, tokenizer)
    assert (len(train), len(files.dev.questions), len(files.test.questions)) == (2000, 500, 437)
    assert len(CharCorruptionDataset(files.corpus, tokenizer)) == 2937
    accented = [q for q in files.dev.questions if not q.isascii()]
    assert len(accented) == 17
    for question in accented:
        assert tokenizer.decode(tokenizer.encode(question)) == question
    x, _ = train[[q for _, q, _ in train.pairs].index(next(q for _, q, _ in train.pairs if not q.isascii()))]
    assert not tokenizer.decode(x).isascii()
