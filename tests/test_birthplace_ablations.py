"""The ablations of birthplace: what each changes, who is asked, and that finished runs are kept."""

import json
import sys

import pytest

from mingpt.config import config_to_dict
from mingpt.utils import read_text
from projects.birthplace import ablations
from projects.birthplace.ablations import CHANGES, AblationOptions, laboratory, spread
from projects.birthplace.dataset import WORLD, read_pairs
from projects.birthplace.files import load_files
from projects.birthplace.recipes import get_recipe
from projects.birthplace.run import main


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["run.py", "ablate", *map(str, words)])
    main()


def test_a_change_changes_one_thing():
    """Every change differs from the recipe, in one field of the recipe, of the model or of how both phases are trained."""
    recipe = get_recipe("salient")
    flat = lambda recipe: {(path, key): value for path, fields in (
        ("", {k: v for k, v in config_to_dict(recipe).items() if not isinstance(v, dict)}), ("model", recipe.model),
        *((f"{phase} {part}", config_to_dict(getattr(getattr(recipe, phase), part)))
          for phase in ("pretrain", "finetune", "scratch") for part in ("trainer", "optim")))
        for key, value in fields.items()}
    before = flat(recipe)
    for name, change in CHANGES.items():
        after = flat(change.recipe(recipe))
        changed = {key for key in before | after if before.get(key) != after.get(key)}
        fields = {key for _, key in changed}
        if name == "recipe":
            assert not changed and change.variant == "vanilla"
        elif name == "rotary positions":
            assert not changed and change.variant == "rope"
        elif "readings" in name:
            assert not changed, "they scale max_iters, which main sets"
        else:
            assert change.variant == "vanilla" and fields in (
                {"salient", "recall"}, {"recall"}, {"optimizer"}, {"optimizer", "learning_rate"}, {"qk_norm"}, {"dropout"},
                {"tie_weights"}, {"shift"}, {"mixed"}, {"learning_rate", "muon_learning_rate"}), (name, changed)
            assert not any("scratch" in path for path, _ in changed)


def test_the_laboratory_holds_questions_out():
    files = load_files("world")
    part = laboratory(files, 40)
    trained = [question for _, question, _ in read_pairs(part.train, "train", answers=True)]
    assert len(trained) == 30 and len(part.dev.questions) == 10 and not set(trained) & set(part.dev.questions)
    answers = {question: answer for _, question, answer in read_pairs(files.train, "train", answers=True)}
    assert all(answers[q] == a for q, a in zip(part.dev.questions, part.dev.answers))
    names = {question.removeprefix("Where was ").removesuffix(" born?") for question in trained + part.dev.questions}
    assert {line.partition(". ")[0] for line in part.corpus.split("\n")} == names, "nobody else is read about"
    with pytest.raises(ValueError, match="are too few; raise --people"):
        laboratory(files, 3)


def test_spread():
    assert spread([50.0]) == "50.0" and spread([1.0, 3.0], "+") == "+2.0 ± 1.4"


def test_runs_are_kept(tmp_path, monkeypatch, capsys):
    words = ("--recipe", "quick", "--max_iters", 2, "--only", "recipe; half the readings", "--seeds", 2, "--device", "cpu",
             "--out", tmp_path)
    monkeypatch.setattr(ablations, "predict", lambda model, tokenizer, questions: ["Vienna"] * len(questions))
    run(monkeypatch, *words)
    shown = capsys.readouterr().out
    assert f"40 questions of {WORLD / 'birth_dev.tsv'}, 2 steps of 2,048 characters, 2 seeds" in shown
    saved = json.loads(read_text(tmp_path / "ablations.json"))["runs"]
    assert [run["steps"] for run in saved["recipe"]] == [2, 2] and [run["steps"] for run in saved["half the readings"]] == [1, 1]
    truth = load_files("world").dev.answers
    assert saved["recipe"][0]["correct"] == truth.count("Vienna")
    assert "| half the readings | " in read_text(tmp_path / "ablations.md")
    assert (tmp_path / "ablations.png").read_bytes().startswith(b"\x89PNG")
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}
    next(iter(times)).unlink()
    run(monkeypatch, *words, "--resume")
    again = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}
    assert sum(again[path] != times[path] for path in times) == 1


@pytest.mark.parametrize("words, message", [
    (("--only", "nothing"), "no change is called 'nothing'; there are: recipe; gaps of the assignment's law alone"),
    (("--seeds", "0"), "--seeds is 0; it must be at least 1"),
    (("--data", "mars"), "--data is 'mars'; it must be world or cs224n"),
])
def test_a_mistake_ends_in_one_line(words, message, monkeypatch, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *words, "--out", tmp_path)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_options_are_all_changes_unless_named():
    assert AblationOptions().names == list(CHANGES)
