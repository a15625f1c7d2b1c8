"""A resumed run of the birthplace study is the same run, or is refused;
and one that starts anew takes nothing from an older one.
"""

import os
import signal
import sys

import pytest
import torch

from mingpt.support.checkpoints import load_torch
from mingpt.support.files import own_folder, read_text, write_text
from mingpt.trainer import Trainer
from projects.birthplace import run as study
from projects.birthplace.closer import analysis
from projects.birthplace.dataset import make_tokenizer
from projects.birthplace.recipes import get_recipe
from projects.birthplace.run import main
from projects.birthplace.steps import Settings, new_model, save_parameters

PEOPLE = [f"{given} {family}" for given in ("Ada", "Bo", "Cy", "Di") for family in ("Roe", "Dane")]
PLACES = ["Oslo", "Rome"]


def write_files(folder, turned=False):
    """The four files of a world of eight people; `turned`, each was born in the other place.

    Names and sizes are the same.
    """
    places = [PLACES[(i + turned) % 2] for i in range(len(PEOPLE))]
    born = [f"{name}. {name}, who was born in {place} .\n" for name, place in zip(PEOPLE, places)]
    write_text(folder / "wiki.txt", "".join(born) + "Where?\n")
    asked = [f"Where was {name} born?\t{place}\n" for name, place in zip(PEOPLE, places)]
    write_text(folder / "birth_places_train.tsv", "".join(asked[:5]))
    for name in ("birth_dev", "birth_test_inputs"):
        write_text(folder / f"{name}.tsv", "".join(asked[5:]))
    write_text(folder / "others.tsv", "Where was Ada Wane born?\tOslo\nWhere was Bo Rose born?\tRome\n")
    write_text(folder / "birth_control.tsv", "Where was Ada Rane born?\tOslo\n")
    return folder


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    return [write_files(tmp_path_factory.mktemp(name), turned) for name, turned in (("world", False), ("turned", True))]


def run(*words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["run.py", *map(str, words), "--quick", "--device", "cpu"])
        main()


def contents(folder):
    """Path -> content and time of change of every file, to see that nothing is touched."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_pretraining_on_another_corpus_is_not_resumed(worlds, tmp_path, error_line, capsys):
    first, other = worlds
    words = ("--max_epochs", "1", "--out", tmp_path, "--writing_params_path", tmp_path / "a.params")
    run("pretrain", "vanilla", first / "wiki.txt", *words)
    before = load_torch(tmp_path / "a.params")["model"]
    assert "is of another run (the content of corpus differs); use the old settings or another folder" in error_line(
        run, "pretrain", "vanilla", other / "wiki.txt", *words, "--resume"
    )
    run("pretrain", "vanilla", first / "wiki.txt", *words, "--resume")
    assert all(torch.equal(value, before[name]) for name, value in load_torch(tmp_path / "a.params")["model"].items())
    for changed, message in (("", "losses of 0 of 1 steps"), ('{"iter": 1}\n', "not the losses that the run wrote")):
        (tmp_path / "vanilla.pretrain" / "metrics.jsonl").write_text(changed)
        with pytest.raises(SystemExit):
            run("pretrain", "vanilla", first / "wiki.txt", *words, "--resume")
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_finetuning_with_other_pairs_or_parameters_is_not_resumed(worlds, tmp_path, error_line):
    first, other = worlds
    for name, seed in (("a", 0), ("b", 1)):
        run(
            "pretrain",
            "vanilla",
            first / "wiki.txt",
            "--max_epochs",
            "1",
            "--out",
            tmp_path / name,
            "--seed",
            seed,
            "--writing_params_path",
            tmp_path / f"{name}.params",
        )

    def finetune(pairs, parameters, *more):
        run(
            "finetune",
            "vanilla",
            first / "wiki.txt",
            "--finetune_corpus_path",
            pairs / "birth_places_train.tsv",
            "--max_epochs",
            "1",
            "--reading_params_path",
            tmp_path / parameters,
            "--out",
            tmp_path,
            "--writing_params_path",
            tmp_path / "c.params",
            *more,
        )

    finetune(first, "a.params")
    assert "(the content of question-answer pairs differs)" in error_line(finetune, other, "a.params", "--resume")
    assert "(the content of starting parameters differs)" in error_line(finetune, first, "b.params", "--resume")
    finetune(first, "a.params", "--resume")


def test_a_study_whose_data_changed_is_not_resumed(worlds, tmp_path, error_line):
    data = write_files(tmp_path / "data")
    run("--data_dir", data, "--out", tmp_path / "out")
    before, read = contents(tmp_path / "out"), read_text(data / "wiki.txt")
    write_files(data, turned=True)
    assert "the content of question-answer pairs differs; the content of corpus differs" in error_line(
        run, "--data_dir", data, "--out", tmp_path / "out", "--resume"
    )
    write_files(data)
    write_text(
        data / "wiki.txt", "".join(reversed(read.splitlines(keepends=True)))
    )  # the first phase reads no documents
    assert "(the content of corpus differs)" in error_line(
        run, "--data_dir", data, "--out", tmp_path / "out", "--resume"
    )
    assert contents(tmp_path / "out") == before


def test_a_new_study_takes_nothing_from_an_older_one(worlds, tmp_path, monkeypatch, error_line):
    """Killed in its first phase and resumed, it must not find the later phases done."""
    out = tmp_path / "out"
    run("--data_dir", worlds[0], "--out", out)
    (out / "vanilla.notes.txt").write_text("the user's")
    assert (out / "vanilla.metrics.json").exists()
    before = contents(out)
    for mistake, message in (
        (("--dtype", "int8"), "dtype is 'int8'"),
        (("--seed", -1), "seed is -1"),
        (("--bottleneck_dim", -1), "is -1"),
        (("--checkpoint_interval", -1), "checkpoint_interval is -1"),
    ):
        assert message in error_line(run, "--data_dir", worlds[0], "--out", out, *mistake)
    assert contents(out) == before, "a mistake must not cost an older study"
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
    assert ended.value.code == 143 and "the first 5 of 12 steps are kept" in capsys.readouterr().err.splitlines()[-1]
    ask = study.ask

    def interrupted(*arguments):  # between two phases
        if arguments[-1] == "pretrain":
            os.kill(os.getpid(), signal.SIGINT)
        return ask(*arguments)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(study, "ask", interrupted)
        run("--data_dir", worlds[0], "--out", tmp_path / "parts", "--resume")
    assert ended.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"stopped by Ctrl-C; what was finished is kept in {tmp_path / 'parts'}, and the same command with "
        "--resume goes on from there"
    )
    run("--data_dir", worlds[0], "--out", tmp_path / "parts", "--resume")
    whole, parts = (
        {path.relative_to(tmp_path / name): path for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    for name in whole:
        if name.suffix == ".predictions":
            assert whole[name].read_bytes() == parts[name].read_bytes()
        if name.suffix == ".params":
            a, b = load_torch(whole[name])["model"], load_torch(parts[name])["model"]
            assert all(torch.equal(a[key], b[key]) for key in a), name


def test_a_folder_in_use_is_left_alone(worlds, tmp_path, error_line, monkeypatch):
    """By whatever command, and before it has worked for an hour."""
    from mingpt.support import files
    from projects.birthplace.assignment import grade
    from projects.birthplace.closer import ablations

    for module, name in (
        (ablations, "run_one"),
        (analysis, "predict_with_paraphrases"),
        (grade, "grade"),
        (study, "train"),
        (study, "run_once"),
    ):
        monkeypatch.setattr(module, name, None)
    world, parameters, out = worlds[0], tmp_path / "p", tmp_path / "out"
    save(parameters, world)
    corpus, pairs, dev = (world / name for name in ("wiki.txt", "birth_places_train.tsv", "others.tsv"))
    commands = (
        ["study", "--data_dir", world, "--quick"],
        ["pretrain", "vanilla", corpus, "--writing_params_path", tmp_path / "a", "--quick"],
        [
            "finetune",
            "vanilla",
            corpus,
            "--finetune_corpus_path",
            pairs,
            "--writing_params_path",
            tmp_path / "a",
            "--quick",
        ],
        [
            "analyze",
            "vanilla",
            corpus,
            "--reading_params_path",
            parameters,
            "--finetune_corpus_path",
            pairs,
            "--eval_corpus_path",
            dev,
        ],
        ["ablate", "--data_dir", world, "--people", "4", "--recipe", "quick"],
        ["grade", "nothing.zip"],
    )
    with own_folder(out):
        with monkeypatch.context() as patch:
            patch.setattr(files, "_owned", {})  # as in another process
            for command in commands:
                patch.setattr(sys, "argv", ["run.py", *map(str, command), "--out", str(out)])
                assert "another run is writing here" in error_line(main), command
        assert os.listdir(out) == [".lock"]


def save(path, world):
    """Fresh parameters of a small model that has read the world's corpus."""
    corpus, settings = read_text(world / "wiki.txt"), Settings("vanilla", get_recipe("quick"))
    tokenizer = make_tokenizer(corpus)
    save_parameters(path, settings, new_model(settings, tokenizer), tokenizer, corpus)


def test_parameters_are_not_analysed_with_another_corpus(worlds, tmp_path, error_line):
    save(tmp_path / "p", worlds[0])
    words = [
        [
            "vanilla",
            str(world / "wiki.txt"),
            "--reading_params_path",
            str(tmp_path / "p"),
            "--finetune_corpus_path",
            str(world / "birth_places_train.tsv"),
            "--eval_corpus_path",
            str(world / "others.tsv"),
            "--out",
            str(tmp_path),
        ]
        for world in worlds
    ]
    assert f"wiki.txt: not the corpus that the model of {tmp_path / 'p'} has read" in error_line(
        analysis.main, words[1]
    )
    analysis.main(words[0])
    assert (tmp_path / "vanilla.analysis.json").exists()


def test_a_file_that_cannot_be_written_is_named_before_training(worlds, tmp_path, error_line, monkeypatch):
    monkeypatch.setattr(study, "train", None)
    (tmp_path / "file").write_text("")
    for path, message in (
        (tmp_path, "is a folder; give the path of a file"),
        (tmp_path / "file" / "a.params", "cannot be written"),
    ):
        assert message in error_line(run, "pretrain", "vanilla", worlds[0] / "wiki.txt", "--writing_params_path", path)


def test_a_wrong_command_is_told_all_commands(capsys):
    with pytest.raises(SystemExit):
        run("foo")
    shown = capsys.readouterr().err
    assert all(
        name in shown
        for name in (
            "study",
            "pretrain",
            "finetune",
            "evaluate",
            "london",
            "analyze",
            "ablate",
            "cost",
            "submit",
            "grade",
            "handout",
        )
    )
