"""Handing in: what is collected, what is found missing, and what a marker would see."""

import json
import shutil
import sys
import zipfile

import birthplace_submission as world
import pytest
from conftest import REPOSITORY

from mingpt.support.files import read_text, write_text
from projects.birthplace.assignment import sandbox
from projects.birthplace.assignment.submit import collect, find, write_zip
from projects.birthplace.files import load_files, study_folder
from projects.birthplace.run import main


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["run.py", *map(str, words)])
    main()


@pytest.fixture(autouse=True)
def ask_here(monkeypatch):
    monkeypatch.setattr(sandbox, "run_ours", world.ask_here)


@pytest.fixture
def out(tmp_path):
    """What the study writes, to be changed at will."""
    return shutil.copytree(world.out(), tmp_path / "out")


def test_a_submission_is_collected_and_marked(out, monkeypatch, capsys):
    monkeypatch.setattr(sandbox, "run_untrusted", lambda *_: world.answered())  # this code, run once for all tests
    run(monkeypatch, "submit", "--out", out, "--data_dir", world.data(), "--full_marks_at", "75", "--seed", world.SEED)
    shown = capsys.readouterr().out
    assert "vanilla.pretrain.dev.predictions             8 lines  Correct: 8 out of 8: 100.0%" in shown
    assert "rope.pretrain.test.predictions               2 lines\n" in shown
    assert "What a marker would see:" in shown and "100 of 100 (100.0 %), with --seed 7" in shown
    assert json.loads(read_text(out / "grade.json"))["points"] == 100
    with zipfile.ZipFile(out / "submission.zip") as archive:
        names = set(archive.namelist())
    for variant in world.VARIANTS:
        assert {f"{variant}.{name}" for name in ("model.params", "pretrain.params", "finetune.params")} <= names
        assert {
            f"{variant}.{name}.{which}.predictions" for name in ("pretrain", "nopretrain") for which in ("dev", "test")
        } <= names
    assert {"mingpt/model.py", "projects/birthplace/dataset.py"} <= names and not any(
        "README" in name for name in names
    )


def test_the_same_files_give_the_same_zip(out, tmp_path):
    collected = collect(out, REPOSITORY, partial=False)
    write_zip(tmp_path / "one.zip", collected), write_zip(tmp_path / "two.zip", dict(reversed(collected.items())))
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_all_that_is_missing_is_named_at_once(out, monkeypatch, error_line):
    for name in (
        "rope.pretrain.dev.predictions",
        "rope.pretrain.finetune.params",
        "rope.nopretrain.dev.predictions",
        "vanilla.pretrain.params",
    ):
        (out / name).unlink()
    shown = error_line(run, monkeypatch, "submit", "--out", out, "--data_dir", world.data())
    assert (
        shown
        == (
            f"error: {out}: missing rope.finetune.params, rope.pretrain.dev.predictions; make them, or hand in without "
            "them by --partial\n"
        )
        and not (out / "submission.zip").exists()
    )
    collected = collect(out, REPOSITORY, partial=True)
    assert "rope.pretrain.test.predictions" in collected and "rope.finetune.params" not in collected


def test_a_line_too_many_is_named(out, monkeypatch, error_line):
    path = out / "rope.pretrain.dev.predictions"
    write_text(path, read_text(path) + "Rome\n")
    assert (
        error_line(run, monkeypatch, "submit", "--out", out, "--data_dir", world.data())
        == f"error: {path}: 9 lines for 8 questions; there must be one for each\n"
    )


def test_other_mistakes_are_named(out, tmp_path, monkeypatch, error_line):
    def failed(*words):
        return error_line(run, monkeypatch, "submit", "--data_dir", world.data(), *words)

    assert "nowhere: no such folder; `run.py study` writes there" in failed("--out", tmp_path / "nowhere")
    assert "no code; --code is the folder with mingpt/ and projects/" in failed("--out", out, "--code", tmp_path)
    (tmp_path / "empty").mkdir()
    assert "missing vanilla.finetune.params, vanilla.model.params, vanilla.pretrain.dev" in failed(
        "--out", tmp_path / "empty"
    )
    assert "no predictions and no parameters" in failed("--out", tmp_path / "empty", "--partial")
    shutil.copyfile(out / "rope.pretrain.finetune.params", out / "rope.finetune.params")
    assert "both rope.finetune.params and rope.pretrain.finetune.params; remove the one" in failed("--out", out)


def test_parameters_are_found_under_both_names(out):
    assert find(out, "rope", "rope.finetune.params").name == "rope.pretrain.finetune.params"
    (out / "rope.pretrain.finetune.params").rename(out / "rope.finetune.params")
    assert find(out, "rope", "rope.finetune.params").name == "rope.finetune.params"
    assert find(out, "rope", "perceiver.finetune.params") is None


def test_files_from_windows_are_read_as_they_are_meant(tmp_path):
    """A byte order mark and CRLF, in the corpus, the pairs and the questions."""
    for path in world.data().iterdir():
        (tmp_path / path.name).write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    ours, theirs = load_files("cs224n", world.data()), load_files("cs224n", tmp_path)
    assert (ours.corpus, ours.train, ours.dev.questions, ours.dev.answers, ours.test.questions) == (
        theirs.corpus,
        theirs.train,
        theirs.dev.questions,
        theirs.dev.answers,
        theirs.test.questions,
    )


@pytest.mark.parametrize(
    "command, message",
    [
        ("pretrain", "wiki.txt: no document: the file is empty"),
        ("finetune", "wiki.txt: no document: the file is empty"),
        ("evaluate", "wiki.txt: no document: the file is empty"),
        ("study", "wiki.txt: no document: the file is empty"),
        ("ablate", "wiki.txt: no document: the file is empty"),
    ],
)
def test_an_empty_corpus_ends_in_one_line(command, message, tmp_path, monkeypatch, error_line):
    folder = shutil.copytree(world.data(), tmp_path / "data")
    write_text(folder / "wiki.txt", "\n\n")
    corpus = ["vanilla", folder / "wiki.txt"]
    words = {
        "pretrain": [*corpus, "--quick", "--writing_params_path", tmp_path / "p"],
        "finetune": [
            *corpus,
            "--quick",
            "--writing_params_path",
            tmp_path / "p",
            "--finetune_corpus_path",
            folder / "birth_places_train.tsv",
        ],
        "evaluate": [
            *corpus,
            "--reading_params_path",
            world.out() / "vanilla.pretrain.finetune.params",
            "--eval_corpus_path",
            folder / "birth_dev.tsv",
            "--outputs_path",
            tmp_path / "o",
        ],
        "study": ["--quick", "--data_dir", folder],
        "ablate": ["--data_dir", folder],
    }[command]
    assert message in error_line(run, monkeypatch, command, *words)


def test_a_submission_may_lie_in_one_folder(tmp_path):
    """As file managers pack a folder, and unpack it."""
    inside = ["rope.pretrain.dev.predictions", "mingpt/model.py", "projects/birthplace/run.py"]
    others = ["__MACOSX/hand in/._rope.pretrain.dev.predictions", "hand in/.DS_Store"]
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for name in [*(f"hand in/{name}" for name in inside), *others]:
            archive.writestr(name, "x\n")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for name in ("one/" + inside[0], "two/" + inside[0]):
            archive.writestr(name, "x\n")
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    for number, submission in enumerate((tmp_path / "s.zip", tmp_path / "unpacked", tmp_path / "two.zip")):
        to = tmp_path / str(number)
        to.mkdir()
        ignored = sandbox.unpack(submission, to)
        found = sorted(path.relative_to(to).as_posix() for path in to.rglob("*") if path.is_file())
        assert found == ([] if submission.name == "two.zip" else sorted(inside))
        assert number or sorted(ignored) == sorted(others)


def test_options_have_help(monkeypatch, capsys):
    for command in ("submit", "grade", "handout"):
        with pytest.raises(SystemExit) as ended:
            run(monkeypatch, command, "--help")
        assert ended.value.code == 0 and f"usage: run.py {command}" in capsys.readouterr().out
    assert (
        study_folder("world") == "out/birthplace"
        and study_folder("cs224n", quick=True) == "out/birthplace_cs224n_quick"
    )
