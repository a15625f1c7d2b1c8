"""The ablations of birthplace: what each changes, who is asked, and that finished runs are kept."""

import json
import os
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import REPOSITORY

from mingpt.support.files import read_text, write_text
from mingpt.trainer import Trainer
from projects.birthplace.closer import ablations
from projects.birthplace.closer.ablations import CHANGES, AblationOptions, laboratory
from projects.birthplace.dataset import make_tokenizer, name_of, read_pairs
from projects.birthplace.files import load_files, person
from projects.birthplace.recipes import get_recipe
from projects.birthplace.run import main
from projects.birthplace.steps import Settings, new_model, save_parameters


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["run.py", "ablate", *map(str, words)])
    main()


EXPECTED = {  # what each change sets: part of the recipe, field
    "random gaps alone, as in the assignment": {("", "salient"), ("", "recall")},
    "gaps in capitalised words, with the document around them": {("", "salient"), ("", "recall")},
    "no random gaps": {("", "recall")},
    "AdamW for all parameters": {("pretrain", "optimizer"), ("finetune", "optimizer")},
    "AdamW for all parameters, pretraining at a third of its rate": {
        ("pretrain", "optimizer"),
        ("finetune", "optimizer"),
        ("pretrain", "learning_rate"),
        ("pretrain", "muon_learning_rate"),
    },
    "queries and keys not normalised": {("model", "qk_norm")},
    "dropout 0.1": {("model", "dropout")},
    "output layer not tied to the embeddings": {("model", "tie_weights")},
    "learned positions that always begin at 0": {("", "shift")},
    "no documents while finetuning": {("", "mixed")},
    "finetuning at the rates of pretraining": {("finetune", "learning_rate"), ("finetune", "muon_learning_rate")},
    "half the readings": {("pretrain", "max_iters")},
    "twice the readings": {("pretrain", "max_iters")},
}


def fields_of(recipe) -> dict[tuple[str, str], object]:
    """(part of the recipe, field) -> value."""
    found = {("", name): getattr(recipe, name) for name in ("salient", "recall", "shift", "mixed")}
    found |= {("model", name): value for name, value in recipe.model.items()}
    for phase in ("pretrain", "finetune", "scratch"):
        for part in (getattr(recipe, phase).trainer, getattr(recipe, phase).optim):
            found |= {(phase, name): value for name, value in vars(part).items()}
    return found


def test_a_change_changes_one_thing():
    assert set(EXPECTED) == set(CHANGES) - {"recipe", "rotary positions"}
    recipe = get_recipe("salient")
    recipe = replace(
        recipe, pretrain=replace(recipe.pretrain, trainer=replace(recipe.pretrain.trainer, max_epochs=0, max_iters=100))
    )
    before = fields_of(recipe)
    for name, change in CHANGES.items():
        after = fields_of(change.recipe(recipe))
        changed = {field for field in before | after if before.get(field) != after.get(field)}
        assert changed == EXPECTED.get(name, set()), name
        assert change.variant == ("rope" if name == "rotary positions" else "")
        assert change.spares_pretraining(recipe) == (
            name == "recipe" or name.endswith("finetuning") or name.startswith("finetuning")
        )
    assert CHANGES["half the readings"].recipe(recipe).pretrain.trainer.max_iters == 50
    assert CHANGES["twice the readings"].recipe(recipe).pretrain.trainer.max_iters == 200


def test_the_laboratory_holds_questions_out():
    files = load_files("world")
    part = laboratory(files, 40)
    trained = [question for _, question, _ in read_pairs(part.train, "train", answers=True)]
    assert len(trained) == 30 and len(part.dev.questions) == 10 and not set(trained) & set(part.dev.questions)
    answers = {question: answer for _, question, answer in read_pairs(files.train, "train", answers=True)}
    assert all(answers[q] == a for q, a in zip(part.dev.questions, part.dev.answers))
    names = {person(question) for question in trained + part.dev.questions}
    assert {name_of(line) for line in part.corpus.split("\n")} == names, "nobody else is read about"
    whole = laboratory(files, 0)
    assert whole.corpus == files.corpus.strip("\n") and len(whole.dev.questions) == len(answers) // 4
    with pytest.raises(ValueError, match="are too few; raise --people"):
        laboratory(files, 3)


@pytest.fixture
def short(monkeypatch, coarse_figures):
    """Two steps of finetuning."""
    recipe = get_recipe("quick")
    recipe = replace(recipe, finetune=replace(recipe.finetune, trainer=replace(recipe.finetune.trainer, max_iters=2)))
    monkeypatch.setattr(ablations, "get_recipe", lambda name: recipe)


def test_runs_are_kept(tmp_path, monkeypatch, capsys, short):
    words = (
        "--recipe",
        "quick",
        "--max_iters",
        2,
        "--only",
        "recipe; half the readings",
        "--seeds",
        2,
        "--device",
        "cpu",
        "--out",
        tmp_path,
    )
    monkeypatch.setattr(
        ablations,
        "predict_with_paraphrases",
        lambda model, tokenizer, questions: (
            ["Vienna"] * len(questions),
            [["Vienna", "Rome", "Rome", "Rome"]] * len(questions),
        ),
    )
    run(monkeypatch, *words)
    shown = capsys.readouterr().out
    assert "40 questions of birth_dev.tsv, vanilla, 2 steps of 2,048 characters, 2 seeds" in shown
    saved = json.loads(read_text(tmp_path / "ablations.json"))["runs"]
    assert [run["steps"] for run in saved["recipe"]] == [2, 2] and [
        run["steps"] for run in saved["half the readings"]
    ] == [1, 1]
    truth = load_files("world").dev.answers
    assert (
        saved["recipe"][0]["percent"] == saved["recipe"][0]["percent in four ways"] == 100 * truth.count("Vienna") / 40
    )
    assert saved["recipe"][0]["ways of asking"]["X in"] == 100 * truth.count("Rome") / 40
    assert "| half the readings | " in read_text(tmp_path / "ablations.md")
    assert (tmp_path / "ablations.png").read_bytes().startswith(b"\x89PNG")
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}
    next(iter(times)).unlink()
    run(monkeypatch, *words, "--resume")
    again = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}
    assert sum(again[path] != times[path] for path in times) == 1
    capsys.readouterr()
    changed = replace(load_files("world"), train=load_files("world").train.replace("Vienna", "Rome"))
    monkeypatch.setattr(ablations, "load_files", lambda *names: changed)
    run(monkeypatch, *words[:4], "--only", "recipe", *words[6:], "--resume")
    assert (
        capsys.readouterr().out.count("of another run, with other settings or data, or damaged; it is made again") == 2
    )


def test_a_stopped_ablation_goes_on_and_a_new_one_takes_nothing_from_it(
    assignment, tmp_path, monkeypatch, capsys, short
):
    words = (
        "--data_dir",
        assignment,
        "--people",
        8,
        "--recipe",
        "quick",
        "--max_iters",
        4,
        "--only",
        "recipe; half the readings",
        "--device",
        "cpu",
        "--out",
    )
    monkeypatch.setattr(
        ablations,
        "predict_with_paraphrases",
        lambda model, tokenizer, questions: (
            [str(model.transformer.wte.weight.sum().item())] * len(questions),
            [["Oslo"] * 4] * len(questions),
        ),
    )
    run(monkeypatch, *words, tmp_path / "whole")
    (tmp_path / "whole" / "ablations.txt").write_text("the user's")
    step, done = Trainer.step, []

    def stopped(trainer):
        done.append(str(trainer.out_dir))
        if len(done) == 8:  # the second step of the second run
            os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", stopped)
    for out in ("whole", "parts"):
        done.clear()
        with pytest.raises(SystemExit) as ended:
            run(monkeypatch, *words, tmp_path / out)
        assert (
            ended.value.code == 143
            and "the same command with --resume goes on from there" in capsys.readouterr().err.splitlines()[-1]
        )
        assert (
            not (tmp_path / out / "ablations.json").exists() and len(list((tmp_path / out).glob("*/result.json"))) == 1
        )
    assert (tmp_path / "whole" / "ablations.txt").exists()
    monkeypatch.setattr(Trainer, "step", lambda trainer: done.append(str(trainer.out_dir)) or step(trainer))
    done.clear()
    run(monkeypatch, *words, tmp_path / "parts", "--resume")
    assert [Path(folder).name for folder in done] == ["finetune"] * 2, "what was done is not done again"
    assert not list((tmp_path / "parts").rglob("checkpoint.pt"))


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ("--only", "nothing"),
            "no change is called 'nothing'; there are: recipe; random gaps alone, as in the assignment",
        ),
        (("--seeds", "0"), "--seeds is 0; it must be at least 1"),
        (("--max_iters", "-1"), "--max_iters is -1; it must be at least 0"),
        (("--data", "mars"), "--data is 'mars'; it must be world or cs224n"),
    ],
)
def test_a_mistake_ends_in_one_line(words, message, monkeypatch, error_line, tmp_path):
    assert message in error_line(run, monkeypatch, *words, "--out", tmp_path)


@pytest.fixture
def assignment(tmp_path):
    """A few people in the assignment's files, with what theirs have and the world has not: initials, people without a
    document, and few question marks."""
    people = [f"{name} {letter}. Roe" for name in ("Ada", "Bo", "Cy", "Di") for letter in "JKLM"]
    write_text(
        tmp_path / "wiki.txt",
        "".join(f"{name}. {name}, was born in {'Oslo' if i % 2 else 'Rome'} .\n" for i, name in enumerate(people))
        + "Unasked. Where was he?\n",
    )
    for file, asked in (
        ("birth_places_train", [*people[:12], "Nobody"]),
        ("birth_dev", people[12:]),
        ("birth_test_inputs", people[12:]),
    ):
        write_text(
            tmp_path / f"{file}.tsv",
            "".join(f"Where was {name} born?" + ("\tOslo" if "inputs" not in file else "") + "\n" for name in asked),
        )
    return tmp_path


def test_a_part_of_the_assignments_people(assignment, tmp_path, monkeypatch, short):
    run(
        monkeypatch,
        "--data_dir",
        assignment,
        "--people",
        8,
        "--recipe",
        "quick",
        "--max_iters",
        2,
        "--device",
        "cpu",
        "--only",
        "recipe",
        "--out",
        tmp_path / "out",
    )
    saved = json.loads(read_text(tmp_path / "out" / "ablations.json"))
    assert (
        saved["runs"]["recipe"][0]["questions"] == 2
        and "2 questions of birth_places_train.tsv, vanilla" in saved["about"]
    )


def test_finetuning_alone(assignment, tmp_path, monkeypatch, error_line, short):
    tokenizer, settings = make_tokenizer(read_text(assignment / "wiki.txt")), Settings("rope", get_recipe("quick"))
    save_parameters(tmp_path / "p", settings, new_model(settings, tokenizer), tokenizer)
    words = (
        "--data_dir",
        assignment,
        "--recipe",
        "quick",
        "--variant",
        "rope",
        "--reading_params_path",
        tmp_path / "p",
        "--out",
        tmp_path / "out",
    )
    run(monkeypatch, *words, "--people", 0)
    runs = json.loads(read_text(tmp_path / "out" / "ablations.json"))["runs"]
    assert set(runs) == {"recipe", "no documents while finetuning", "finetuning at the rates of pretraining"}
    assert all(one["steps"] == 0 and one["questions"] == 3 for (one,) in runs.values())
    assert "'dropout 0.1' is a change of pretraining" in error_line(
        run, monkeypatch, *words, "--people", 0, "--only", "dropout 0.1"
    )
    assert "--reading_params_path needs --data cs224n" in error_line(run, monkeypatch, *words)


def test_options_are_all_changes_unless_named():
    assert AblationOptions().names == list(CHANGES)


def test_the_readme_and_the_results_name_changes_that_there_are():
    project = REPOSITORY / "projects" / "birthplace"
    commands = re.findall(r'--only "([^"]+)"', read_text(project / "README.md"))
    assert commands
    for command in commands:
        assert AblationOptions(only=command.replace("\\\n", "")).names  # which raises for another name
    for path in (project / "results").glob("world_ablations*.json"):
        assert set(json.loads(read_text(path))["runs"]) <= set(CHANGES)
