"""A resumed run of the birthplace study is the same run, or is refused; and one that starts anew takes nothing from an older one."""

import os
import signal
import sys

import pytest
import torch

from mingpt.checkpoints import load_torch
from mingpt.files import own_folder, write_text
from mingpt.trainer import Trainer
from projects.birthplace import run as study
from projects.birthplace.run import main

PEOPLE = [f"{given} {family}" for given in ("Ada", "Bo", "Cy", "Di") for family in ("Roe", "Dane")]
PLACES = ["Oslo", "Rome"]


def write_files(folder, turned=False):
    """The four files of a world of eight people; `turned`, each was born in the other place. Names and sizes are the same."""
    places = [PLACES[(i + turned) % 2] for i in range(len(PEOPLE))]
    born = [f"{name}. {name}, who was born in {place} .\n" for name, place in zip(PEOPLE, places)]
    write_text(folder / "wiki.txt", "".join(born) + "Where?\n")
    asked = [f"Where was {name} born?\t{place}\n" for name, place in zip(PEOPLE, places)]
    write_text(folder / "birth_places_train.tsv", "".join(asked[:5]))
    for name in ("birth_dev", "birth_test_inputs"):
        write_text(folder / f"{name}.tsv", "".join(asked[5:]))
    write_text(folder / "birth_control.tsv", "Where was Ada Rane born?\tOslo\n")
    return folder


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    return [write_files(tmp_path_factory.mktemp(name), turned) for name, turned in (("world", False), ("turned", True))]


def run(*words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["run.py", *map(str, words), "--quick", "--device", "cpu"])
        main()


def test_pretraining_on_another_corpus_is_not_resumed(worlds, tmp_path, error_line):
    first, other = worlds
    words = ("--max_epochs", "1", "--out", tmp_path, "--writing_params_path", tmp_path / "a.params")
    run("pretrain", "vanilla", first / "wiki.txt", *words)
    before = load_torch(tmp_path / "a.params")["model"]
    assert "is of another run (the content of corpus differs); use the old settings or another folder" in error_line(
        run, "pretrain", "vanilla", other / "wiki.txt", *words, "--resume")
    run("pretrain", "vanilla", first / "wiki.txt", *words, "--resume")
    assert all(torch.equal(value, before[name]) for name, value in load_torch(tmp_path / "a.params")["model"].items())


def test_finetuning_with_other_pairs_or_parameters_is_not_resumed(worlds, tmp_path, error_line):
    first, other = worlds
    for name, seed in (("a", 0), ("b", 1)):
        run("pretrain", "vanilla", first / "wiki.txt", "--max_epochs", "1", "--out", tmp_path / name, "--seed", seed,
            "--writing_params_path", tmp_path / f"{name}.params")

    def finetune(pairs, parameters, *more):
        run("finetune", "vanilla", first / "wiki.txt", "--finetune_corpus_path", pairs / "birth_places_train.tsv", "--max_epochs", "1",
            "--reading_params_path", tmp_path / parameters, "--out", tmp_path, "--writing_params_path", tmp_path / "c.params", *more)

    finetune(first, "a.params")
    assert "(the content of question-answer pairs differs)" in error_line(finetune, other, "a.params", "--resume")
    assert "(the content of starting parameters differs)" in error_line(finetune, first, "b.params", "--resume")
    finetune(first, "a.params", "--resume")


def test_a_study_whose_data_changed_is_not_resumed(worlds, tmp_path, error_line):
    data = write_files(tmp_path / "data")
    run("--data_dir", data, "--out", tmp_path / "out")
    write_files(data, turned=True)
    assert "the content of question-answer pairs differs" in error_line(run, "--data_dir", data, "--out", tmp_path / "out", "--resume")


def test_a_new_study_takes_nothing_from_an_older_one(worlds, tmp_path, monkeypatch):
    """Killed in its first phase and resumed, it must not find the later phases done."""
    out = tmp_path / "out"
    run("--data_dir", worlds[0], "--out", out)
    (out / "vanilla.notes.txt").write_text("the user's")
    assert (out / "vanilla.metrics.json").exists()
    step = Trainer.step

    def killed(trainer):
        if trainer.iter_num == 2:
            raise OSError("killed")
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", killed)
    with pytest.raises(SystemExit):
        run("--data_dir", worlds[0], "--out", out)
    assert not list(out.glob("*/checkpoint.pt")) and not (out / "vanilla.metrics.json").exists()
    assert (out / "vanilla.notes.txt").exists() and not list(out.glob("*.params"))


def test_a_signal_stops_a_study_which_goes_on_to_the_same_end(worlds, tmp_path, monkeypatch, capsys):
    run("--data_dir", worlds[0], "--out", tmp_path / "whole")
    after_step = Trainer._after_step

    def signalled(trainer, last):
        after_step(trainer, last)
        if trainer.iter_num == 5 and "pretrain" in str(trainer.out_dir):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(Trainer, "_after_step", signalled)
        run("--data_dir", worlds[0], "--out", tmp_path / "parts")
    assert ended.value.code == 143 and "with --resume goes on from there" in capsys.readouterr().err.splitlines()[-1]
    run("--data_dir", worlds[0], "--out", tmp_path / "parts", "--resume")
    whole, parts = ({path.relative_to(tmp_path / name): path for path in (tmp_path / name).rglob("*") if path.is_file()}
                    for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name in whole:
        if name.suffix == ".predictions":
            assert whole[name].read_bytes() == parts[name].read_bytes()
        if name.suffix == ".params":
            a, b = load_torch(whole[name])["model"], load_torch(parts[name])["model"]
            assert all(torch.equal(a[key], b[key]) for key in a), name


def test_a_folder_in_use_is_left_alone(worlds, tmp_path, error_line, monkeypatch):
    from mingpt import files

    with own_folder(tmp_path / "out"):
        with monkeypatch.context() as patch:
            patch.setattr(files, "_owned", {})  # as in another process
            assert "another run is writing here" in error_line(run, "--data_dir", worlds[0], "--out", tmp_path / "out")
        assert os.listdir(tmp_path / "out") == [".lock"]


def test_a_file_that_cannot_be_written_is_named_before_training(worlds, tmp_path, error_line, monkeypatch):
    monkeypatch.setattr(study, "train", None)
    (tmp_path / "file").write_text("")
    for path, message in ((tmp_path, "is a folder; give the path of a file"), (tmp_path / "file" / "a.params", "cannot be written")):
        assert message in error_line(run, "pretrain", "vanilla", worlds[0] / "wiki.txt", "--writing_params_path", path)


def test_a_wrong_command_is_told_all_commands(capsys):
    with pytest.raises(SystemExit):
        run("foo")
    shown = capsys.readouterr().err
    assert all(name in shown for name in ("study", "pretrain", "finetune", "evaluate", "london", "analyze", "ablate", "cost", "submit",
                                          "grade", "handout"))
