"""chargpt: tokens on disk, windows of them, training, resuming, sampling, mistakes."""

import json
import re
import sys

import numpy as np
import pytest
import torch

from mingpt.batches import Batches
from mingpt.bpe import BPETokenizer
from mingpt.checkpoints import load_torch
from mingpt.files import read_text
from mingpt.trainer import Trainer
from projects.chargpt.corpus import (Windows, alphabet, char_encoder, find_files, read_description, read_pieces,
                                     write_tokens)
from projects.chargpt.run import main

TEXT = "Zoë saw a 😀 in Łódź, twice!\n\n  Then she\twent   home. " * 200


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["run.py", *map(str, words)])
    main()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize("size", [1, 7, 100, 10**6])
def test_pieces_are_the_text_and_cut_no_token(file, size):
    pieces = list(read_pieces([file], size))
    assert "".join(pieces) == TEXT
    tokenizer = BPETokenizer.train(TEXT, 290, progress=False)
    if size >= 100:
        assert sum((tokenizer.encode(piece) for piece in pieces), []) == tokenizer.encode(TEXT)


def test_char_tokens_are_those_of_the_tokenizer(file):
    tokenizer = alphabet(read_pieces([file], 50))
    assert tokenizer.characters == "".join(sorted(set(TEXT)))
    assert char_encoder(tokenizer)(TEXT).tolist() == tokenizer.encode(TEXT)
    with pytest.raises(ValueError, match="'ß'"):
        char_encoder(tokenizer)("Zoß")


@pytest.mark.parametrize("vocab_size, itemsize", [(1 << 16, 2), ((1 << 16) + 1, 4)])
def test_tokens_on_disk(tmp_path, file, vocab_size, itemsize):
    assert write_tokens(tmp_path, [file], lambda piece: [ord(c) % 50 for c in piece], vocab_size, {"x": 1}) == len(TEXT)
    tokens = np.fromfile(tmp_path / "tokens.bin", {2: np.uint16, 4: np.uint32}[itemsize])
    assert tokens.tolist() == [ord(c) % 50 for c in TEXT]
    assert (tmp_path / "tokens.bin").stat().st_size == itemsize * len(TEXT)
    assert read_description(tmp_path)["tokens"] == len(TEXT)
    (tmp_path / "tokens.bin").write_bytes(b"cut")
    assert read_description(tmp_path) is None, "tokens that were cut off are not used"


def test_windows_follow_one_another_on_a_grid_that_moves(tmp_path):
    np.arange(1000, dtype=np.uint16).tofile(tmp_path / "tokens.bin")
    windows = Windows(tmp_path / "tokens.bin", 1000, 100, 905, block_size=50)
    assert len(windows) == 16
    offsets = set()
    for epoch in range(40):
        windows.set_epoch(epoch)
        x, y = windows[0]
        assert x.dtype == torch.int64 and torch.equal(y, x + 1) and x[0] >= 100
        assert torch.equal(torch.cat([windows[i][0] for i in range(16)]), x[0] + torch.arange(800))
        assert windows[15][1][-1] < 905
        offsets.add(x[0].item())
    assert offsets == set(range(100, 105)), "804 tokens leave 4 to move by"
    with pytest.raises(ValueError, match="50 tokens are fewer than one window of 50"):
        Windows(tmp_path / "tokens.bin", 1000, 0, 50, block_size=50)


def test_millions_of_examples_cost_an_array_not_lists():
    class Many:
        def __len__(self):
            return 3_000_001

        def __getitem__(self, i):
            return torch.tensor([i]), torch.tensor([i])

    batches = Batches(Many(), batch_size=64)
    first = batches.part(0)[0].flatten().tolist()
    last = batches.part(len(batches) - 1)[0].flatten().tolist()
    assert len(set(first)) == 64 and len(last) == 1 and not set(first) & set(last)


@pytest.mark.parametrize("options", [(), ("--tokenizer", "bpe", "--vocab_size", "290")])
def test_train_resume_and_sample(tmp_path, file, options, monkeypatch, capsys):
    out = tmp_path / "out"
    common = ("train", file, "--quick", "--out", out, "--device", "cpu", "--max_new_tokens", "20", *options)
    run(monkeypatch, *common)
    shown = capsys.readouterr().out
    assert "Loss on the text held out" in shown and (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in read_text(out / "metrics.jsonl").splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 20 and losses[-1] < losses[0]

    saved = load_torch(out / "checkpoint.pt")
    assert saved["iter_num"] == 20
    held_out = re.search(r"held out: (\d+\.\d+) nats", shown).group(1)
    tokens = (out / "tokens.bin").stat().st_mtime_ns
    run(monkeypatch, *common, "--resume")
    assert (out / "tokens.bin").stat().st_mtime_ns == tokens, "tokens of the same text are used again"
    assert f"held out: {held_out} nats" in capsys.readouterr().out, "a finished run says the same again"
    run(monkeypatch, "sample", "--out", out, "--prompt", "Zoë", "--max_new_tokens", "30", "--samples", "2", "--device", "cpu")
    written = read_text(out / "sample.txt")
    assert written.count("Zoë") >= 2 and "----" in written and written.strip() in capsys.readouterr().out


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, file, monkeypatch):
    def train(name, *words):
        run(monkeypatch, "train", file, "--quick", "--out", tmp_path / name, "--device", "cpu", "--checkpoint_interval", "10", *words)
        lines = [json.loads(line) for line in read_text(tmp_path / name / "metrics.jsonl").splitlines()]
        return [line["loss"] for line in lines if "loss" in line]

    whole = train("whole")
    step, taken = Trainer.step, []

    def killed_at_15(trainer):
        if len(taken) == 15:
            raise KeyboardInterrupt
        taken.append(trainer.iter_num)
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", killed_at_15)
    with pytest.raises(SystemExit):
        train("parts")
    monkeypatch.setattr(Trainer, "step", step)
    assert train("parts", "--resume") == whole


def test_another_text_is_not_taken_for_the_one_before(tmp_path, file, monkeypatch, capsys):
    out, other = tmp_path / "out", tmp_path / "other.txt"
    common = ("--quick", "--out", out, "--device", "cpu", "--max_new_tokens", "9")
    run(monkeypatch, "train", file, *common)
    other.write_text(TEXT[::-1], encoding="utf-8", newline="")  # the same characters, so that the model would fit
    for words, message in ((("train", other, *common, "--resume"), "is of another run (corpus differs)"),
                           (("sample", "--out", out, "--device", "cpu"), "trained on another text than the tokens there")):
        with pytest.raises(SystemExit):
            run(monkeypatch, *words)
        assert message in capsys.readouterr().err


def test_the_preset_gpt2_is_gpt2(monkeypatch):
    seen = {}
    monkeypatch.setattr("projects.chargpt.run.train", lambda path, *configs: seen.update({type(c).__name__: c for c in configs}))
    run(monkeypatch, "train", "x", "--preset", "gpt2", "--block_size", "512")
    assert seen["Corpus"].tokenizer == "gpt2" and seen["Training"].optimizer == "adamw"
    assert (seen["Model"].positions, seen["Model"].block_size) == ("learned", 512), "a flag has the last word"
    run(monkeypatch, "train", "x")
    assert seen["Corpus"].tokenizer == "char" and seen["Model"].positions == "rotary"


def test_a_changed_text_is_read_again(tmp_path, file, monkeypatch):
    out = tmp_path / "out"
    run(monkeypatch, "train", file, "--quick", "--out", out, "--device", "cpu", "--max_iters", "1")
    before = read_description(out)["tokens"]
    file.write_text(TEXT * 2, encoding="utf-8", newline="")
    run(monkeypatch, "train", file, "--quick", "--out", out, "--device", "cpu", "--max_iters", "1")
    assert read_description(out)["tokens"] == 2 * before


def test_a_text_without_line_ends_and_a_prompt_that_cannot_be(tmp_path, monkeypatch, capsys):
    path, out = tmp_path / "line.txt", tmp_path / "out"
    path.write_text("abc abd " * 200)
    common = ("train", path, "--quick", "--out", out, "--device", "cpu")
    run(monkeypatch, *common, "--max_iters", "1", "--max_new_tokens", "9")
    assert len(read_text(out / "sample.txt").rstrip("\n")) == 10, "it begins with the first character there is"
    (out / "checkpoint.pt").unlink()
    with pytest.raises(SystemExit):
        run(monkeypatch, *common, "--prompt", "Zoë")
    assert "error: --prompt: the character 'Z' (U+005A) at place 0" in capsys.readouterr().err
    assert not (out / "checkpoint.pt").exists(), "that is said before the training"


def test_mistakes_are_one_line(tmp_path, file, monkeypatch, capsys):
    (tmp_path / "latin.txt").write_bytes("Zoë".encode("latin-1") * 100)
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for words, message in ((("train", tmp_path / "none.txt"), "none.txt: no such file or folder"),
                           (("train", tmp_path / "latin.txt"), "latin.txt: not UTF-8 text"),
                           (("train", tmp_path / "empty.txt"), "the text is empty"),
                           (("train", tmp_path / "folder"), "no *.txt in this folder"),
                           (("train", file, "--block_size", "4000"), "are fewer than one window of 4000"),
                           (("train", file, "--tokenizer", "words"), "--tokenizer is 'words'; it must be"),
                           (("train", file, "--preset", "huge"), "no preset is called 'huge'"),
                           (("sample", file), "sample takes no text"),
                           (("sample",), "nothing has been trained here")):
        with pytest.raises(SystemExit) as exit:
            run(monkeypatch, *words, "--out", tmp_path / "out" / str(len(message)))
        err = capsys.readouterr().err.strip().splitlines()
        assert exit.value.code == 2 and message in err[-1], err


def test_folders_are_read_in_order(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(name)
    assert [path.name for path in find_files(tmp_path)] == ["a.txt", "b.txt"]
    assert [path.name for path in find_files(tmp_path, "*.md")] == ["c.md"]
