"""What the analysis of answers counts, on answers whose explanation is known."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from mingpt.support.files import read_text
from projects.birthplace.closer import analysis
from projects.birthplace.closer.analysis import Answer, calibration, describe_answers, grouped, wilson
from projects.birthplace.dataset import MASK, WORLD, make_tokenizer
from projects.birthplace.evaluate import confidences
from projects.birthplace.files import PARAPHRASES, Questions
from projects.birthplace.recipes import build_model, get_recipe
from projects.birthplace.steps import Settings, save_parameters

CORPUS = "\n".join(
    [
        "Ann Lee. Ann Lee was born in Rome .",
        "Ann Poe. " + "x" * 110 + " Oslo",
        "Bo Ray. A poet .",
        "Cy Day. Day, of Bonn .",
    ]
)


def test_each_answer_gets_what_may_explain_it():
    people, truth = ["Ann Lee", "Ann Poe", "Bo Ray", "Di Fox"], ["Rome", "Oslo", "Rome", "Bonn"]
    questions = Questions([f"Where was {name} born?" for name in people], truth, "q", [1, 2, 3, 4])
    answers = describe_answers(
        questions,
        ["Rome", "Rome", "Rome", "Bonn"],
        [0.9, 0.2, 0.5, 0.4],
        [["Rome"] * 4, ["Rome", "Oslo"] * 2, [""], list("abcd")],
        CORPUS,
        Counter({"Rome": 5}),
    )
    assert [a.right for a in answers] == [True, False, True, True]
    assert [a.place_ends for a in answers] == [33, 124, None, None]
    assert [a.namesakes for a in answers] == [1, 1, 0, 0]
    assert [a.asked_in_training for a in answers] == [5, 0, 5, 0] and [a.distinct for a in answers] == [1, 2, 1, 4]
    assert grouped(answers, analysis.by_position) == {
        "0–39": [True],
        "> 112": [False],
        "nowhere": [True],
        "no biography": [True],
    }
    assert grouped(answers, analysis.by_place) == {"0": [False, True], "3–9": [True, True]}


def test_calibration_of_a_model_that_is_right_as_often_as_it_is_sure():
    rng = np.random.default_rng(0)
    sure = rng.uniform(0, 1, 20_000)
    answers = [Answer("", "a", "a" if rng.random() < p else "b", p, 0, 1, 0, 0, 1) for p in sure]
    points, error = calibration(answers)
    assert len(points) == 8 and sum(n for _, _, n in points) == 20_000 and error < 0.01
    overconfident = [Answer("", "a", "a" if i % 2 else "b", 0.9, 0, 1, 0, 0, 1) for i in range(80)]
    assert calibration(overconfident)[1] == pytest.approx(0.4)


def test_wilson_interval():
    assert wilson([True] * 5 + [False] * 5) == pytest.approx((23.66, 76.34), abs=0.01)
    assert wilson([False] * 20)[0] == 0 and wilson([True] * 20)[1] == pytest.approx(100)


def test_confidence_is_the_probability_of_the_whole_answer():
    tokenizer = make_tokenizer(read_text(WORLD / "wiki.txt"))
    torch.manual_seed(0)
    model = build_model("vanilla", tokenizer.vocab_size, get_recipe("quick")).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    question, answer, product = "Where was Ann born?", "Rome", 1.0
    for i, character in enumerate(answer + MASK):
        tokens = torch.tensor([tokenizer.encode(question + MASK + answer[:i])])
        product *= model(tokens)[0][0, -1].softmax(-1)[tokenizer.index[character]].item()
    assert confidences(model, tokenizer, [question], [answer])[0] == pytest.approx(product, rel=1e-3)


def test_the_command(tmp_path, capsys, error_line):
    corpus = str(WORLD / "wiki.txt")
    tokenizer = make_tokenizer(read_text(corpus))
    settings = Settings("rope", get_recipe("quick"))
    save_parameters(tmp_path / "p", settings, build_model("rope", tokenizer.vocab_size, settings.recipe), tokenizer)
    analysis.main(
        [
            "rope",
            corpus,
            "--reading_params_path",
            str(tmp_path / "p"),
            "--finetune_corpus_path",
            str(WORLD / "birth_places_train.tsv"),
            "--eval_corpus_path",
            str(WORLD / "birth_dev.tsv"),
            "--out",
            str(tmp_path),
            "--device",
            "cpu",
        ]
    )
    results = json.loads(read_text(tmp_path / "rope.analysis.json"))
    assert results["right"]["questions"] == 40 and (tmp_path / "rope.analysis.png").stat().st_size > 10_000
    for groups in (
        "position of the place",
        "others with the given name",
        "training questions with the true place",
        "answer is",
        analysis.PARAPHRASED,
    ):
        assert sum(cell["questions"] for cell in results[groups].values()) == 40
    assert list(results["ways of asking"]) == [*(way.format("X") for way in PARAPHRASES), "all together"]
    assert "Mean confidence" in capsys.readouterr().out
    words = [
        "rope",
        corpus,
        "--reading_params_path",
        str(tmp_path / "p"),
        "--finetune_corpus_path",
        str(WORLD / "birth_places_train.tsv"),
        "--eval_corpus_path",
        str(WORLD / "birth_test_inputs.tsv"),
    ]
    assert "birth_test_inputs.tsv: no answers" in error_line(analysis.main, words)
