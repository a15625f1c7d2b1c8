"""chargpt: tokens on disk, windows of them, training, resuming, sampling, mistakes,
and what is left when a run is broken off.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mingpt.batches import Batches
from mingpt.bpe import BPETokenizer
from mingpt.model import GPT
from mingpt.support.checkpoints import fingerprint, load_torch, save_torch
from mingpt.support.files import own_folder, read_json, read_text, try_lock, write_json
from mingpt.trainer import Trainer
from projects.chargpt import run as chargpt
from projects.chargpt.corpus import (
    Windows,
    alphabet,
    char_encoder,
    find_text,
    read_description,
    read_pieces,
    tokens_are_whole,
    write_tokens,
)
from projects.chargpt.replacing import BESIDE
from projects.chargpt.run import Corpus, Sampling, load_model, main, make_trainer, read_run, resumed_run, split

TEXT = "Zoë saw a 😀 in Łódź, twice!\n\n  Then she\twent   home. " * 200


def run(*words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["run.py", *(os.fspath(w) if isinstance(w, Path) else str(w) for w in words)])
        main()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8", newline="")
    return path


SMALL = (
    "--quick",
    "--device",
    "cpu",
    "--dtype",
    "float32",
    "--max_iters",
    "4",
    "--checkpoint_interval",
    "2",
    "--max_new_tokens",
    "9",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a text and, in `out`, the model of a finished run; for `model` to copy."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8", newline="")
    run("train", folder / "text.txt", *SMALL, "--out", folder / "out")
    return folder


@pytest.fixture
def model(trained, tmp_path, monkeypatch):
    """A copy of the finished run, with no figure drawn in what follows, which takes the longest."""
    shutil.copytree(trained / "out", tmp_path / "out")
    monkeypatch.setattr(chargpt, "plot_losses", lambda out: None)
    return tmp_path / "out"


def content(folder) -> dict:
    """All files in a folder but the list of those that are ours."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".written"
    }


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
    count, sha256 = write_tokens(tmp_path, find_text(file), lambda piece: [ord(c) % 50 for c in piece], vocab_size)
    tokens = np.fromfile(tmp_path / "tokens.bin", {2: np.uint16, 4: np.uint32}[itemsize])
    assert tokens.tolist() == [ord(c) % 50 for c in TEXT] and count == len(TEXT)
    described = SimpleNamespace(tokens=count, vocab_size=vocab_size, tokens_sha256=sha256)
    assert (tmp_path / "tokens.bin").stat().st_size == itemsize * len(TEXT) and tokens_are_whole(tmp_path, described)
    data = bytearray((tmp_path / "tokens.bin").read_bytes())
    data[100] ^= 1
    for damaged in (data, b"cut"):
        (tmp_path / "tokens.bin").write_bytes(damaged)
        assert not tokens_are_whole(tmp_path, described)
    text = find_text(file)
    file.write_text(TEXT[::-1], encoding="utf-8")
    with pytest.raises(ValueError, match="the text has changed while it was read"):
        write_tokens(tmp_path / "new", text, lambda piece: [0] * len(piece), vocab_size)
    assert not list((tmp_path / "new").iterdir())


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
    run(*common)
    shown = capsys.readouterr().out
    assert "Loss on the text held out" in shown and (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in read_text(out / "metrics.jsonl").splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 20 and losses[-1] < losses[0]

    saved = load_torch(out / "checkpoint.pt")
    assert saved["iter_num"] == 20
    held_out = re.search(r"held out: (\d+\.\d+) nats", shown).group(1)
    tokens = (out / "tokens.bin").stat().st_mtime_ns
    run(*common, "--resume")
    assert (out / "tokens.bin").stat().st_mtime_ns == tokens, "tokens of the same text are used again"
    assert f"held out: {held_out} nats" in capsys.readouterr().out, "a finished run says the same again"
    run("sample", "--out", out, "--prompt", "Zoë", "--max_new_tokens", "30", "--samples", "2", "--device", "cpu")
    written = read_text(out / "sample.txt")
    assert (
        written.count("Zoë") >= 2
        and "----" in written
        and written.strip() in capsys.readouterr().out.replace("\r", "\n")
    )


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, file, monkeypatch):
    monkeypatch.setattr(chargpt, "plot_losses", lambda out: None)

    def train(name, *words):
        run(
            "train", file, "--quick", "--out", tmp_path / name, "--device", "cpu", "--checkpoint_interval", "10", *words
        )
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


def test_another_text_is_not_taken_for_the_one_before(model, file, error_line):
    """The same name, size and time of change, and the same characters, so that the model would fit."""
    before, size, time = content(model), file.stat().st_size, file.stat().st_mtime_ns
    file.write_text(TEXT[::-1], encoding="utf-8", newline="")
    os.utime(file, ns=(time, time))
    assert file.stat().st_size == size
    assert "text.txt: not the text of the run in" in error_line(run, "train", file, "--resume", "--out", model)
    assert content(model) == before
    run("train", file, *SMALL, "--out", model)
    assert (model / "tokens.bin").read_bytes() != before["tokens.bin"]
    for name in ("tokens.bin", "corpus.json"):  # what an older version, or somebody's copying, may leave
        shutil.copy(model / name, model.parent / name)
        (model / name).write_bytes(before[name])
    assert "checkpoint.pt and tokens.bin come from different texts" in error_line(run, "sample", "--out", model)
    assert "the content of the text differs; the content of the tokens differs" in error_line(
        run, "train", "--resume", "--out", model
    )


def test_the_preset_gpt2_is_gpt2(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        chargpt,
        "train",
        lambda asked, *rest: seen.update(Corpus=asked.corpus, Model=asked.model, Training=asked.training),
    )
    run("train", "x", "--preset", "gpt2", "--block_size", "512")
    assert seen["Corpus"].tokenizer == "gpt2" and seen["Training"].optimizer == "adamw"
    assert (seen["Model"].positions, seen["Model"].block_size) == ("learned", 512), "a flag has the last word"
    run("train", "x")
    assert seen["Corpus"].tokenizer == "char" and seen["Model"].positions == "rotary"


def test_a_changed_text_is_read_again(tmp_path, file, monkeypatch):
    monkeypatch.setattr(chargpt, "plot_losses", lambda out: None)
    out = tmp_path / "out"
    run("train", file, "--quick", "--out", out, "--device", "cpu", "--max_iters", "1")
    before = read_description(out).tokens
    file.write_text(TEXT * 2, encoding="utf-8", newline="")
    run("train", file, "--quick", "--out", out, "--device", "cpu", "--max_iters", "1")
    assert read_description(out).tokens == 2 * before


def test_a_text_without_line_ends_and_a_prompt_that_cannot_be(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(chargpt, "plot_losses", lambda out: None)
    path, out = tmp_path / "line.txt", tmp_path / "out"
    path.write_text("abc abd " * 200)
    common = ("train", path, "--quick", "--out", out, "--device", "cpu")
    run(*common, "--max_iters", "1", "--max_new_tokens", "9")
    assert len(read_text(out / "sample.txt").rstrip("\n")) == 10, "it begins with the first character there is"
    (out / "checkpoint.pt").unlink()
    with pytest.raises(SystemExit):
        run(*common, "--prompt", "Zoë")
    assert "error: --prompt: the character 'Z' (U+005A) at place 0" in capsys.readouterr().err
    assert not (out / "checkpoint.pt").exists(), "that is said before the training"


def test_mistakes_are_one_line(tmp_path, file, capsys):
    (tmp_path / "latin.txt").write_bytes("Zoë".encode("latin-1") * 100)
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for words, message in (
        (("train", tmp_path / "none.txt"), "none.txt: no such file or folder"),
        (("train", tmp_path / "latin.txt"), "latin.txt:1: not UTF-8 text"),
        (("train", tmp_path / "empty.txt"), "the text is empty"),
        (("train", tmp_path / "folder"), "no *.txt in this folder"),
        (("train", file, "--block_size", "4000"), "which are fewer than one window of --block_size 4000"),
        (("train", file, "--tokenizer", "words"), "--tokenizer is 'words'; it must be"),
        (("train", file, "--preset", "huge"), "no preset is called 'huge'"),
        (("sample", file), "sample takes no text"),
        (("sample",), "nothing has been trained here"),
    ):
        with pytest.raises(SystemExit) as exit:
            run(*words, "--out", tmp_path / "out" / str(len(message)))
        err = capsys.readouterr().err.strip().splitlines()
        assert exit.value.code == 2 and message in err[-1], err


# ----------------------------------------------------------------------------------------------------------------------
# Which files


def test_folders_are_read_in_order(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(name)
    assert [path.name for path in find_text(tmp_path).files] == ["a.txt", "b.txt"]
    assert [path.name for path in find_text(tmp_path, "*.md").files] == ["c.md"]


def test_what_is_no_text_of_the_user_is_left_out_and_named(tmp_path, monkeypatch, capsys):
    """The second run in a folder of texts must not read what the first one wrote, wherever that was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chargpt, "plot_losses", lambda out: None)
    Path("sub").mkdir()
    Path("sub/a.txt").write_text("Then she went home. " * 100)
    Path(".git").mkdir()
    for name, data in (
        (".git/x.txt", b"git"),
        (".hidden.txt", b"hidden"),
        ("latin.txt", b"caf\xe9" * 9),
        ("zeros.txt", b"a\0b\0"),
    ):
        Path(name).write_bytes(data)
    command = ("train", ".", *SMALL, "--tokenizer", "bpe", "--vocab_size", "260")
    run(*command)
    said = capsys.readouterr().out
    assert ".git (hidden), .hidden.txt (hidden), latin.txt (not UTF-8), zeros.txt (zero bytes in it)\n" in said
    before = read_description("out/chargpt")
    run(*command, "--resume")
    assert read_description("out/chargpt") == before
    run(*command, "--out", ".")  # the outputs lie among the texts, and those of the first run in a folder beside
    assert read_description(".").text_sha256 == before.text_sha256
    text = find_text(".", out=".")
    assert (
        "sample.txt (written by this program)" in text.left_out
        and "merges.txt (written by this program)" in text.left_out
    )
    assert (
        text.sha256
        == find_text(".", out="other").sha256
        == find_text(".", out="out/chargpt").sha256
        == before.text_sha256
    )


@pytest.mark.parametrize("pattern", ["/etc/*", "../*.txt", "a/../../*.txt", ""])
def test_a_pattern_stays_in_the_folder(pattern):
    with pytest.raises(ValueError, match="--pattern is .*; it must be a pattern of names in the folder"):
        Corpus(pattern=pattern)


def test_utf16_and_bytes_that_are_no_text_are_named_with_their_line(tmp_path):
    path = tmp_path / "text.txt"
    for data, size, message in (
        ("one\ntwo\n".encode("utf-16-le"), 100, "text.txt:1: holds zero bytes, so it is no text, or UTF-16"),
        (b"one\ntwo\nth\0ree", 3, "text.txt:3: holds zero bytes"),
        (b"one\ntwo\ncaf\xe9\n", 3, "text.txt:3: not UTF-8 text"),
        (b"one\ntwo\ncaf\xc3", 100, "text.txt:3: not UTF-8 text"),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            list(read_pieces([path], size))


def test_names_that_are_not_utf8(tmp_path, monkeypatch, error_line):
    """Of the text, and of the folder that is written."""
    path, out = tmp_path / os.fsdecode(b"te\xffxt.txt"), tmp_path / os.fsdecode(b"o\xffut")
    try:
        path.write_text(TEXT, encoding="utf-8")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 names only")
    monkeypatch.setattr(chargpt, "plot_losses", lambda out: None)
    run("train", path, *SMALL, "--out", out)
    assert read_description(out).source == str(path) and read_run(out).text == str(path)
    (out / "tokens.bin").unlink()
    run("train", "--resume", "--out", out)
    assert "\\udcff" in error_line(run, "train", tmp_path / os.fsdecode(b"\xff"), "--out", out)


def test_a_text_that_is_too_short_says_for_what():
    assert split(5000, 0.05, 128) == 4750
    for count, held_out, message in (
        (
            2000,
            0.05,
            "2,000 tokens; with --held_out 0.05, those held out are 100, which are fewer than one window of "
            "--block_size 128",
        ),
        (2000, 0.95, "2,000 tokens; with --held_out 0.95, those to train on are 100, which are fewer"),
        (200, 0.05, "200 tokens, and two windows of --block_size 128, one to train on and one held out, take 258"),
    ):
        with pytest.raises(ValueError, match=message):
            split(count, held_out, 128)
    with pytest.raises(ValueError) as raised:
        split(2000, 0.05, 128)
    advised = float(re.search(r"a --held_out of about ([\d.]+)", str(raised.value))[1])
    assert split(2000, advised, 128), "the advice is good"


# ----------------------------------------------------------------------------------------------------------------------
# Nothing lost


def last_line(capsys, *words) -> str:
    """The line in which a command ends that was called with a mistake; a progress bar may stand before it."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run(*words)
    shown = capsys.readouterr().err
    assert ended.value.code == 2 and shown.count("\n") <= 2, shown
    return shown.splitlines()[-1]


def test_a_command_that_fails_leaves_the_model_as_it_was(model, file, tmp_path, capsys):
    before = content(model)
    (tmp_path / "short.txt").write_text("short")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9" * 100)
    other = tmp_path / "other.txt"
    other.write_text("Then she went home. " * 200)
    for words, message in (
        (("train", tmp_path / "short.txt"), "the text has 5 tokens"),
        (("train", tmp_path / "latin.txt"), "not UTF-8"),
        (("train", other, "--prompt", "ß"), "--prompt: the character 'ß'"),
        (("train", other, "--block_size", "4000"), "--block_size 4000"),
        (("train", other, "--top_p", "2"), "--top_p is 2.0"),
        (("train", other, "--dtype", "int"), "dtype is 'int'"),
        (("train", other, "--device", "nonsense"), "device 'nonsense'"),
        (("train", other, "--tokenizer", "bpe", "--vocab_size", "9"), "--vocab_size is 9"),
        (("train", other, "--learning_rate", "nan"), "argument --learning_rate: 'nan' is not finite"),
        (("train", other, "--seed", "99999999999999999999"), "argument --seed: '99999999999999999999' is out of range"),
        (("train", other, "--resume"), "other.txt: not the text of the run in"),
        (("train", "--resume", "--block_size", "32"), "--block_size is 32, and the run in"),
        (("train", file, "--resume", "--held_out", "0.1"), "--held_out is 0.1, and the run in"),
        (("train", "--resume", "--tokenizer", "bpe"), "--tokenizer is 'bpe', and the run in"),
        (("train", "--resume", "--learning_rate", "1"), "--learning_rate is 1.0, and the run in"),
        (("train", "--resume", "--max_iters", "3"), "a run can be made longer, and not shorter"),
        (("sample", "--prompt", "ß"), "--prompt: the character 'ß'"),
        (("sample", "--temperature", "nan"), "argument --temperature: 'nan' is not finite"),
    ):
        assert message in last_line(capsys, *words, "--out", model)
        assert content(model) == before, words
    run("sample", "--out", model, "--device", "cpu")
    new = tmp_path / "new"
    last_line(capsys, "train", tmp_path / "short.txt", "--out", new)
    last_line(capsys, "train", "--resume", "--out", new)
    assert not new.exists(), "what failed leaves nothing"


def test_resume_alone_goes_on_with_the_text_and_the_settings_of_the_run(model, trained, tmp_path, capsys, error_line):
    run("train", "--resume", "--max_iters", "6", "--out", model, "--max_new_tokens", "5")
    assert "The run was to have 4 steps, and goes on from step 4 to 6" in capsys.readouterr().out
    assert load_torch(model / "checkpoint.pt")["iter_num"] == 6 and len(losses(model)) == 6
    assert read_run(model).training.max_iters == 6 and read_run(model).model.block_size == 64
    moved = tmp_path / "elsewhere.md"
    moved.write_text(TEXT, encoding="utf-8", newline="")
    run("train", moved, "--resume", "--max_iters", "7", "--out", model, "--max_new_tokens", "5")
    assert len(losses(model)) == 7, "a text that lies elsewhere, under another name, is the same text"

    whole = (model / "tokens.bin").read_bytes()
    (model / "tokens.bin").write_bytes(whole[:-1] + b"\1")
    settings = read_json(model / "corpus.json")
    write_json(model / "corpus.json", {**settings, "source": str(moved)})
    run("train", "--resume", "--out", model, "--max_new_tokens", "5")
    assert (model / "tokens.bin").read_bytes() == whole, "lost tokens are made again from the same text"
    (model / "tokens.bin").unlink()
    moved.write_text(TEXT[::-1], encoding="utf-8", newline="")
    assert "tokens.bin: damaged or lost, and" in error_line(run, "train", "--resume", "--out", model)
    assert "there is no run here to resume" in error_line(run, "train", "--resume", "--out", tmp_path / "none")


def losses(folder) -> list[float]:
    lines = [json.loads(line) for line in read_text(folder / "metrics.jsonl").splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_a_kill_leaves_the_old_model_or_the_new_run(model, tmp_path, monkeypatch):
    """The folder as it is before each renaming and each removal of a new run,
    which a kill at that moment would leave.
    """
    other, states = tmp_path / "other.txt", []
    other.write_text("Then she went home. " * 300)
    old = fingerprint(load_torch(model / "checkpoint.pt")["model"])

    def watched(function):
        def call(*arguments, **options):
            if not states or content(states[-1]) != content(model):
                states.append(tmp_path / f"state{len(states)}")
                shutil.copytree(model, states[-1])
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", watched(os.replace))
        patch.setattr(os, "unlink", watched(os.unlink))
        patch.setattr(Path, "unlink", watched(Path.unlink))
        run("train", other, *SMALL, "--max_iters", "2", "--tokenizer", "bpe", "--vocab_size", "260", "--out", model)
    new, seen = load_torch(model / "checkpoint.pt")["model"], set()
    begun = []
    for state in states:
        with own_folder(state):  # as `sample` begins
            chargpt.finish_replacing(state)
        if content(state) in begun:
            continue  # it has been gone on with already
        begun.append(content(state))
        if (state / "checkpoint.pt").exists():
            load_model(state)
            of_old = fingerprint(load_torch(state / "checkpoint.pt")["model"]) == old
            seen.add("the old model" if of_old else "the new model")
            if of_old:
                assert read_description(state).tokenizer == "char" and (state / "sample.txt").exists()
                continue
        else:
            seen.add("the new run")
            assert not (state / "sample.txt").exists() and not (state / "loss.png").exists()
        run("train", "--resume", "--out", state)
        assert fingerprint(load_torch(state / "checkpoint.pt")["model"]) == fingerprint(new)
        assert (
            losses(state) == losses(model)
            and (state / "sample.txt").read_bytes() == (model / "sample.txt").read_bytes()
        )
        assert set(content(state)) == set(content(model)) and not (state / BESIDE).exists()
    assert seen == {"the old model", "the new run", "the new model"} and len(states) > 15, len(states)


def test_a_second_run_in_a_folder_touches_nothing(model, file, error_line):
    before = content(model)
    with open(model / ".lock", "a+") as held:
        assert try_lock(held)
        for words in (("train", file, "--quick"), ("train", "--resume"), ("sample",)):
            assert "another run is writing here" in error_line(run, *words, "--out", model)
    (model / ".lock").unlink()
    assert content(model) == before


def test_signals_lose_nothing(model, tmp_path, monkeypatch, capsys):
    """While the text is read; in a training; while the sample is written."""
    before, other = content(model), tmp_path / "other.txt"
    other.write_text("Then she went home. " * 200)

    def stopped(number, owner, name, *words) -> str:
        capsys.readouterr()
        function = getattr(owner, name)

        def call(*arguments, **options):
            os.kill(os.getpid(), number)
            return function(*arguments, **options)

        with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(owner, name, call)
            run(*words, "--out", model)
        assert ended.value.code == 128 + number
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith(f"stopped by {'Ctrl-C' if number == signal.SIGINT else 'SIGTERM'}; ")
        return last

    for number in (signal.SIGINT, signal.SIGTERM):
        assert "no further step was done, and nothing in" in stopped(
            number, chargpt, "write_tokens", "train", other, *SMALL
        )
        assert content(model) == before
        assert "the model in" in stopped(number, chargpt, "load_model", "sample")
        assert content(model) == before
    said = stopped(signal.SIGTERM, Trainer, "step", "train", other, *SMALL)
    assert "the first 1 of 4 steps are kept in" in said and "--resume goes on from there" in said
    assert "is complete; run.py sample --out" in stopped(signal.SIGINT, GPT, "generate", "train", "--resume")
    run("sample", "--out", model)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit for the size of a file")
def test_a_full_disk_and_a_reader_that_leaves(trained, tmp_path, environment):
    """In one process: a disk that takes 4,000 bytes a file, when there are tokens to write, and a checkpoint."""
    out = tmp_path / "out"
    shutil.copytree(trained / "out", out)
    old, before = (out / "checkpoint.pt").read_bytes(), content(out)
    script = """if True:
        import resource, sys
        from projects.chargpt import run
        text, out = sys.argv[1:]
        run.plot_losses = lambda out: None
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        def call(size, *words):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
            sys.argv = ["run.py", "train", *words, "--out", out]
            try:
                run.main()
            except SystemExit as ended:
                print("status", ended.code, file=sys.stderr)
        call(4000, text, "--quick")
        call(4000, "--resume", "--max_iters", "6")
        call(limit[0], "--resume", "--max_iters", "6", "--max_new_tokens", "9")
        """
    text = tmp_path / "other.txt"
    text.write_text("Then she went home. " * 300)
    child = subprocess.Popen(
        [sys.executable, "-c", script, text, out],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    child.stdout.readline()
    child.stdout.close()  # as `| head -1` does
    said = child.stderr.read()
    assert child.wait() == 0, said
    lines = [line for line in said.splitlines() if line.startswith(("error", "status"))]
    assert len(lines) == 4 and "Traceback" not in said, said
    assert f"{out / BESIDE / 'tokens.bin'}: " in lines[0] and "free some space" in lines[0] and lines[1] == "status 2"
    assert f"{out / 'checkpoint.pt'}: " in lines[2] and "free some space" in lines[2] and lines[3] == "status 2"
    assert load_torch(out / "checkpoint.pt")["iter_num"] == 6 and losses(out)[:4] == losses(trained / "out")
    assert len((out / "sample.txt").read_text()) >= 9 and set(content(out)) == set(before), "no temporary file is left"
    assert old != (out / "checkpoint.pt").read_bytes()


# ----------------------------------------------------------------------------------------------------------------------
# One line for whatever is in a flag or a file


@pytest.mark.parametrize(
    "flags",
    [
        dict(temperature=-1.0),
        dict(temperature=1e-300),
        dict(temperature=float("nan")),
        dict(temperature=float("inf")),
        dict(top_k=-1),
        dict(top_p=0.0),
        dict(top_p=1.1),
        dict(top_p=float("nan")),
        dict(max_new_tokens=-1),
        dict(max_new_tokens=99999999999),
        dict(samples=0),
        dict(samples=10**6, max_new_tokens=10**6),
    ],
)
def test_sampling_flags_are_checked_before_anything_else(flags):
    with pytest.raises(ValueError, match=f"--{list(flags)[-1]} is "):
        Sampling(**flags)


def test_temperature_0_takes_the_likeliest_token(model):
    texts = set()
    for seed in range(3):
        run("sample", "--out", model, "--temperature", "0", "--seed", seed, "--max_new_tokens", "20")
        texts.add(read_text(model / "sample.txt"))
    loaded, tokenizer = load_model(model)
    assert texts == {tokenizer.decode(loaded.generate([tokenizer.encode("\n")], 20)[0]) + "\n"}


def variants(value):
    """Other values in the place of one: of other types, and of none."""
    return [
        other
        for other in (None, True, -1, 10**400, 0.5, float("nan"), "x", [], ["x"], {}, {"a": {}})
        if type(other) is not type(value)
    ]


def entries(value, path=()):
    """The path of each value in nested dictionaries."""
    for name, inner in value.items():
        yield (*path, name)
        if isinstance(inner, dict):
            yield from entries(inner, (*path, name))


def with_other(value: dict, path, other) -> dict:
    """A copy with another value at `path`; without one if that is `...`."""
    copy = dict(value)
    if len(path) > 1:
        copy[path[0]] = with_other(value[path[0]], path[1:], other)
    elif other is ...:
        del copy[path[0]]
    else:
        copy[path[0]] = other
    return copy


@pytest.mark.parametrize("name, read", [("corpus.json", read_description), ("config.json", read_run)])
def test_settings_of_other_types_are_one_line(model, name, read):
    path = model / name
    good = read_json(path)
    for place in entries(good):
        value = good
        for step in place:
            value = value[step]
        for other in (..., *variants(value)):
            if isinstance(value, float) and type(other) is int and abs(other) < 1e6:
                continue  # 1 for 1.0
            path.write_text(json.dumps(with_other(good, place, other)))
            if other is ... and len(place) > 1:
                read(model)  # a setting that an older version did not have takes its default
                continue
            with pytest.raises(ValueError, match=name):
                read(model)
    for text in ("[" * 100_000, "", "[]", "{}", "null", "\0", '{"tokens": ' + "9" * 5000 + "}"):
        path.write_text(text)
        with pytest.raises(ValueError, match=name):
            read(model)


def test_a_checkpoint_with_values_of_other_types_is_one_line(model, monkeypatch, error_line):
    run_, path = resumed_run(model, SimpleNamespace(path="", quick=False)), model / "checkpoint.pt"
    good = load_torch(path)
    places = [place for place in entries(good) if place[0] != "model" or len(place) == 1]
    places += [("model", name) for name in list(good["model"])[:2]]
    trainer = make_trainer(run_, model)
    for place in places:
        readers = [trainer.load_checkpoint] + [lambda: load_model(model)] * (place[0] in ("model", "extra", "inputs"))
        for other in (..., None, "x", torch.ones(3), {"a": {1: torch.ones(2)}}):
            value = with_other(good, place, other)
            monkeypatch.setattr("mingpt.trainer.load_torch", lambda path: value)
            monkeypatch.setattr(chargpt, "load_torch", lambda path: value)
            for read in readers:
                try:
                    read()
                except ValueError as error:
                    assert str(model) in str(error)
    monkeypatch.undo()
    save_torch(path, good)
    for line in ("x", "3", "{}", "[" * 9999):
        (model / "metrics.jsonl").write_text(f'{{"iter": 1, "loss": 3.0}}\n{line}\n')
        assert "metrics.jsonl:2: not a line of metrics" in error_line(run, "train", "--resume", "--out", model)
    save_torch(path, with_other(good, ("extra",), 3))
    error_line(run, "train", "--resume", "--out", model)
    assert "not a checkpoint of this version" in error_line(run, "sample", "--out", model)
