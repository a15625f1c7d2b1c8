"""WikiText-2 and its stand-in: files, splits, tokens, examples, and what is said when they are not right."""

import re
import subprocess
import sys
import zipfile

import pytest
from conftest import REAL_DATA, REPOSITORY

from data.wikitext2 import generate as generating
from data.wikitext2 import prepare as preparing
from data.wikitext2.generate import SENTENCES, generate
from data.wikitext2.prepare import ARCHIVE, SHA256, prepare, unpack
from mingpt.batches import Batches
from mingpt.bpe import BPETokenizer
from mingpt.pretrained.download import DownloadError
from mingpt.support.files import sha256_of
from projects.wikitext_induction.text import (
    DURSLEY,
    Lines,
    Packed,
    load_corpus,
    prompt_tokens,
    read_split,
    train_tokenizer,
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(generate(train=20)["train"], 300)


@pytest.fixture
def archive(tmp_path):
    """A zip file with the layout of the real one."""
    path = tmp_path / "mirror" / ARCHIVE
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as zipped:
        for split in ("train", "valid", "test"):
            zipped.writestr(f"wikitext-2-raw/wiki.{split}.raw", f" = Title = \n\n {split} text . \n")
    return path


def test_the_generated_text_has_wikitexts_form_and_is_the_same_every_time():
    text = generate(seed=3, train=30, valid=5, test=5)
    assert text == generate(seed=3, train=30, valid=5, test=5) != generate(seed=4, train=30, valid=5, test=5)
    for line in text["train"].split("\n"):
        assert line == "" or line[0] == line[-1] == " ", "WikiText's lines begin and end with a space"
    assert len(re.findall(r"^ = [^=]+ = $", text["train"], re.MULTILINE)) == 30


def test_generated_names_recur_in_their_article_and_in_no_other():
    text = generate(train=40)["train"]
    articles = re.split(r"^ = [^=]+ = $", text, flags=re.MULTILINE)[1:]
    common = set(re.findall(r"\w+", " ".join(sum(SENTENCES.values(), ()))))
    names = [
        {word for word in re.findall(r"\b[A-Z]\w{4,}\b", article) if word not in common}
        - {"History", "Early", "Later", "Description", "Legacy"}
        for article in articles
    ]
    assert all(len(found) >= 4 for found in names)
    assert len(set.union(*names)) == sum(map(len, names)), "no name in two articles"
    repeated = [article.count(name) for article, found in zip(articles, names) for name in found]
    assert sum(repeated) / len(repeated) > 3


def test_no_articles_are_refused():
    with pytest.raises(ValueError, match="valid is 0 articles"):
        generate(valid=0)


def test_the_archive_is_fetched_verified_and_unpacked(archive, tmp_path, monkeypatch, capsys):
    asked = []

    def fetch(urls, path, sha256, largest):
        asked.extend(urls)
        assert sha256 == SHA256 and len(sha256) == 64
        return archive

    monkeypatch.setattr(preparing, "fetch", fetch)
    prepare(tmp_path / "wikitext")
    assert (tmp_path / "wikitext" / "wiki.valid.raw").read_text() == " = Title = \n\n valid text . \n"
    assert len(asked) >= 2 and all(url.endswith("/" + ARCHIVE) for url in asked)
    assert re.search(r"^wiki\.train\.raw +3 lines +\d+ bytes$", capsys.readouterr().out, re.MULTILINE)
    asked.clear()
    prepare(tmp_path / "wikitext", quiet=True)
    assert not asked, "nothing to do the second time"


def test_an_archive_that_is_another_file_is_not_unpacked(archive, environment):
    """As a script, and without a network: a damaged archive that lies there is neither taken nor lost."""
    shown = subprocess.run(
        [sys.executable, REPOSITORY / "data" / "wikitext2" / "prepare.py", "--out", archive.parent],
        env={**environment, **dict.fromkeys(("MINGPT_MIRROR", "http_proxy", "https_proxy"), "http://127.0.0.1:9")},
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 2 and "error: could not download wikitext-2-raw-v1.zip" in shown.stderr
    assert sha256_of(archive) != SHA256 and not list(archive.parent.glob("*.raw"))


def test_an_archive_without_a_file_is_explained(archive, tmp_path):
    with pytest.raises(
        ValueError, match="has no wiki.dev.raw, only wikitext-2-raw/wiki.test.raw, wikitext-2-raw/wiki.train"
    ):
        unpack(archive, [tmp_path / "wiki.test.raw", tmp_path / "wiki.dev.raw"])
    assert not (tmp_path / "wiki.test.raw").exists(), "everything is checked before anything is written"


def zip_of(path, **options):
    return zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options)


def test_the_folders_in_an_archive_do_not_matter_unless_they_leave_a_doubt(tmp_path):
    target = tmp_path / "out" / "wiki.test.raw"
    for number, name in enumerate(("wiki.test.raw", "top/wikitext/wiki.test.raw", "../../wiki.test.raw")):
        archive = tmp_path / f"{number}.zip"
        with zip_of(archive) as zipped:
            zipped.mkdir("top/wiki.test.raw") if hasattr(
                zipped, "mkdir"
            ) else None  # a folder of that name: Python 3.11
            zipped.writestr("__MACOSX/top/._wiki.test.raw", "metadata")
            zipped.writestr(name, f"text {number}")
        unpack(archive, [target])
        assert target.read_text() == f"text {number}" and len(list((tmp_path / "out").iterdir())) == 1
    assert not (tmp_path / "wiki.test.raw").exists()
    with zip_of(tmp_path / "two.zip") as zipped:
        zipped.writestr("a/wiki.test.raw", "one")
        zipped.writestr("b/wiki.test.raw", "two")
    with pytest.raises(ValueError, match="has wiki.test.raw twice, as a/wiki.test.raw and b/wiki.test.raw"):
        unpack(tmp_path / "two.zip", [target])
    with zip_of(tmp_path / "none.zip"):
        pass
    with pytest.raises(ValueError, match="has no wiki.test.raw, only empty folders"):
        unpack(tmp_path / "none.zip", [target])


def test_an_archive_cannot_fill_the_disk(tmp_path, monkeypatch):
    archive, target = tmp_path / "bomb.zip", tmp_path / "out" / "wiki.test.raw"
    monkeypatch.setattr(preparing, "LARGEST", 1_000_000)
    with zip_of(archive) as zipped:
        zipped.writestr("wiki.test.raw", bytes(1_000_001))
    with pytest.raises(ValueError, match="wiki.test.raw would have 1,000,001 bytes, more than 1,000,000"):
        unpack(archive, [target])
    data = archive.read_bytes()
    assert data.count((1_000_001).to_bytes(4, "little")) == 2  # in the member's own header, and in the directory
    archive.write_bytes(data.replace((1_000_001).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    with pytest.raises(ValueError, match="bomb.zip: cannot be unpacked .*delete it and try again"):
        unpack(archive, [target])
    assert not target.exists() and list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"no zip",
        lambda data: b"",
        lambda data: data.replace(b"validity", b"validate"),
    ],
)
def test_a_damaged_archive_is_explained_and_writes_nothing(tmp_path, damage):
    archive, target = tmp_path / "damaged.zip", tmp_path / "out" / "wiki.test.raw"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("wiki.test.raw", "validity" * 10)
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(ValueError, match="damaged.zip: cannot be unpacked .*delete it and try again"):
        unpack(archive, [target])
    assert not target.exists()


def test_generated_text_does_not_replace_a_users_own(tmp_path, monkeypatch, error_line):
    (tmp_path / "wiki.train.raw").write_text("the real one")
    monkeypatch.setattr(sys, "argv", ["generate.py", "--out", str(tmp_path), "--train", "1"])
    generating.main()
    assert (tmp_path / "wiki.train.raw.kept").read_text() == "the real one"
    generating.main()
    assert not (tmp_path / "wiki.train.raw.kept.1").exists(), "what we wrote ourselves is replaced"
    monkeypatch.setattr(sys, "argv", ["generate.py", "--out", str(tmp_path / "new"), "--train", "0"])
    assert "train is 0 articles" in error_line(generating.main)
    assert not (tmp_path / "new").exists()


def test_a_folder_of_ones_own_raw_or_tokenised(tmp_path):
    (tmp_path / "wiki.train.raw").write_text("one", encoding="utf-8")
    (tmp_path / "wiki.valid.tokens").write_text("two", encoding="utf-8")
    corpus = load_corpus("auto", str(tmp_path), "train", "valid")
    assert (corpus.train, corpus.evaluation) == ("one", "two") and "trained on train" in corpus.source


def test_without_a_network_the_text_is_generated_with_one_line_that_says_so(monkeypatch, capsys):
    def offline(quiet):
        raise DownloadError("no connection")

    monkeypatch.setattr("projects.wikitext_induction.text.prepare", offline)
    corpus = load_corpus("auto", "", "train", "valid")
    notice = capsys.readouterr().out
    assert notice.count("\n") == 1 and "not comparable" in notice and "no connection" in notice
    assert "generated" in corpus.source
    with pytest.raises(DownloadError):
        load_corpus("wikitext2", "", "train", "valid")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", r"wiki.train.raw is empty"),
        (b"   \n\n", r"wiki.train.raw is empty"),
        (b"good\n\xff\xfe", r"wiki.train.raw:2: not UTF-8 text \(byte 5\)"),
    ],
)
def test_a_bad_file_is_explained(content, message, tmp_path):
    (tmp_path / "wiki.train.raw").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_split(tmp_path, "train")


def test_a_missing_split_is_explained(tmp_path):
    with pytest.raises(ValueError, match="has neither wiki.train.raw nor wiki.train.tokens; python data/wikitext2"):
        read_split(tmp_path, "train")
    (tmp_path / "wiki.test.tokens").write_text("text")
    with pytest.raises(ValueError, match="it has test: name them with --train_split and --eval_split"):
        read_split(tmp_path, "train")


def test_the_corpus_has_to_exist():
    with pytest.raises(ValueError, match="--data is 'wiki103'; it must be auto, wikitext2 or generated"):
        load_corpus("wiki103", "", "train", "valid")
    with pytest.raises(ValueError, match="--data_dir nowhere: no such folder"):
        load_corpus("auto", "nowhere", "train", "valid")
    with pytest.raises(ValueError, match="--data generated reads no files"):
        load_corpus("generated", "somewhere", "train", "valid")


def test_packed_blocks_cover_the_text_and_targets_are_the_next_tokens():
    data = Packed(list(range(32)), 10, "it")
    assert len(data) == 3
    for i in range(3):
        x, y = data[i]
        assert x.tolist() == list(range(10 * i, 10 * i + 10)) and y.tolist() == list(range(10 * i + 1, 10 * i + 11))
    assert len(Packed(list(range(11)), 10, "it")) == 1
    with pytest.raises(ValueError, match="it has 10 tokens, fewer than the 11 of one block"):
        Packed(list(range(10)), 10, "it")


def test_lines_are_padded_and_padding_is_never_a_target(tokenizer):
    data = Lines("a line\n\n \nanother , longer line of text\n", tokenizer, 8)
    assert len(data) == 2
    x, y = data[0]
    ids = tokenizer.encode("a line")
    assert x.tolist()[: len(ids)] == ids and set(x.tolist()[len(ids) :]) == {data.pad_id} and len(x) == 8
    x, y = Batches(data, batch_size=2).part(0)
    assert (y != data.pad_id).all() and (y == -1).any() and (x[y != -1] != data.pad_id).all()


def test_the_padding_token_is_last_and_no_text_makes_it(tokenizer):
    assert tokenizer.special_tokens == {"<|pad|>": tokenizer.vocab_size - 1}
    assert tokenizer.vocab_size - 1 not in tokenizer.encode_ordinary("<|pad|> " + DURSLEY)


def test_a_prompt_longer_than_the_context_is_explained(tokenizer):
    n = len(tokenizer.encode_ordinary(DURSLEY))
    assert prompt_tokens(DURSLEY, tokenizer, n) == tokenizer.encode_ordinary(DURSLEY)
    with pytest.raises(ValueError, match=rf"of number '\.\.\. has {n} tokens, more than the context of {n - 1};"):
        prompt_tokens(DURSLEY, tokenizer, n - 1)


def test_the_dursley_text_begins_and_ends_with_the_same_sentence():
    sentences = re.split(r"(?<=\.) ", DURSLEY)
    assert len(sentences) == 3 and sentences[0] == sentences[2]


def test_the_real_validation_and_test_splits():
    folder = REAL_DATA / "wikitext2"
    if not (folder / "wiki.test.tokens").exists():
        pytest.skip("the files of WikiText-2 are not here")
    corpus = load_corpus("wikitext2", str(folder), "test", "valid")
    assert corpus.train.count("\n") == 4358 and corpus.evaluation.count("\n") == 3760
    assert "Robert <unk> is an English film" in corpus.train and "Homarus gammarus" in corpus.evaluation
    small = BPETokenizer.train(corpus.evaluation[:50_000], 400, progress=False)
    assert small.decode(small.encode(corpus.train[:5000])) == corpus.train[:5000]
