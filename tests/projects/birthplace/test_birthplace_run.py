"""The birthplace study from its command line: the study itself, the assignment's commands, and mistakes."""

import json
import re
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest
import torch
from conftest import REPOSITORY
from torch.nn import functional as F

from mingpt.support.files import read_text, write_text
from projects.birthplace import run as study
from projects.birthplace.dataset import MASK, WORLD, make_tokenizer
from projects.birthplace.dataset import main as show_examples
from projects.birthplace.evaluate import Score, majority_answer, predict, predict_with_paraphrases, score
from projects.birthplace.files import PARAPHRASES, Questions, load_files, person
from projects.birthplace.recipes import RECIPES, build_model, get_recipe
from projects.birthplace.run import main
from projects.birthplace.steps import (
    FORMAT,
    Settings,
    load_parameters,
    model_from,
    new_model,
    save_parameters,
    with_rate,
)
from projects.birthplace.variants import VARIANTS

WIKI, TRAIN, DEV, TEST = (
    str(WORLD / name) for name in ("wiki.txt", "birth_places_train.tsv", "birth_dev.tsv", "birth_test_inputs.tsv")
)


def run(monkeypatch, *words):
    """run.py in this process, with a tiny model."""
    monkeypatch.setattr(sys, "argv", ["run.py", *map(str, words)])
    main()


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    """The assignment's commands up to finetuned parameters, run once."""
    folder = tmp_path_factory.mktemp("assignment")
    with pytest.MonkeyPatch.context() as patch:
        common = ("--quick", "--out", folder / "out", "--max_epochs", "1", "--device", "cpu", "--tb_expt_name", "x")
        run(
            patch,
            "pretrain",
            "vanilla",
            WIKI,
            "--writing_params_path",
            folder / "pretrain.params",
            "--pretrain_lr",
            "6e-3",
            *common,
        )
        run(
            patch,
            "finetune",
            "vanilla",
            WIKI,
            "--reading_params_path",
            folder / "pretrain.params",
            "--writing_params_path",
            folder / "finetune.params",
            "--finetune_corpus_path",
            TRAIN,
            "--finetune_lr",
            "1e-3",
            *common,
        )
    return folder


def few(questions: Questions) -> Questions:
    return replace(
        questions, questions=questions.questions[:2], answers=questions.answers[:2], lines=questions.lines[:2]
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_study_writes_everything(variant, tmp_path, monkeypatch, capsys, coarse_figures):
    """All of the world and two seeds with one variant; a part of it with the others, which take the same way."""
    files, seeds = load_files("world"), 2 if variant == "vanilla" else 1
    if variant != "vanilla":
        characters = "".join(sorted(set(files.corpus) - {"\n"})) + "\n"
        corpus = "".join(files.corpus.splitlines(keepends=True)[::4]) + characters
        files = replace(files, corpus=corpus, dev=few(files.dev), test=few(files.test), control=few(files.control))
    monkeypatch.setattr(study, "load_files", lambda *names: files)
    run(monkeypatch, "study", variant, "--quick", "--out", tmp_path, "--seeds", seeds)
    shown = capsys.readouterr().out
    spread, none = (r" ± \d+\.\d", r" ± 0\.0") if seeds > 1 else ("", "")
    for row in (
        rf"^majority answer( +\d+\.\d{none} %){{4}}$",
        rf"^guess by frequency( +\d+\.\d{none} %){{4}}$",
        rf"^no pretraining( +\d+\.\d{spread} %){{4}}$",
        rf"^pretraining( +\d+\.\d{spread} %){{4}}$",
        f"^{seeds} runs?, ",
        "For the real assignment",
    ):
        assert re.search(row, shown, re.MULTILINE), row
    metrics = json.loads(read_text(tmp_path / f"{variant}.metrics.json"))
    assert [r["seed"] for r in metrics["runs"]] == list(range(seeds))
    assert variant != "vanilla" or metrics["runs"][0]["dev"]["majority"] == 15
    assert metrics["config"]["variant"] == variant and metrics["config"]["recipe"]["name"] == "quick"
    for figure in ("loss.png", "accuracy.png"):
        assert (tmp_path / f"{variant}.{figure}").read_bytes().startswith(b"\x89PNG")
    folder = tmp_path / "seed1" if seeds > 1 else tmp_path
    for name in ("nopretrain", "pretrain"):
        for which in ("dev", "test", "control"):
            for kind in ("", ".paraphrases"):
                predictions = read_text(folder / f"{variant}.{name}.{which}{kind}.predictions")
                assert predictions.count("\n") == len(getattr(files, which).questions)
    assert (folder / f"{variant}.pretrain.params").exists()


def test_evaluate_writes_a_line_a_question_and_marks_it(finetuned, tmp_path, monkeypatch, capsys):
    run(
        monkeypatch,
        "evaluate",
        "vanilla",
        WIKI,
        "--reading_params_path",
        finetuned / "finetune.params",
        "--eval_corpus_path",
        DEV,
        "--outputs_path",
        tmp_path / "dev.predictions",
    )
    answers = load_files("world").dev.answers
    predictions = read_text(tmp_path / "dev.predictions").split("\n")[:-1]
    right = sum(a == b for a, b in zip(predictions, answers))
    assert len(predictions) == len(answers)
    assert f"Correct: {right} out of {len(answers)}: {100 * right / len(answers):.1f}%" in capsys.readouterr().out


def test_evaluate_can_paraphrase(tmp_path, monkeypatch, capsys):
    tokenizer, settings = make_tokenizer(read_text(WIKI)), Settings("vanilla", get_recipe("quick"))
    model = new_model(settings, tokenizer)
    for parameter in model.parameters():  # answers whatever the question suggests
        torch.nn.init.normal_(parameter, std=0.1)
    save_parameters(tmp_path / "params", settings, model, tokenizer)
    run(
        monkeypatch,
        "evaluate",
        "vanilla",
        WIKI,
        "--reading_params_path",
        tmp_path / "params",
        "--paraphrases",
        "--eval_corpus_path",
        DEV,
        "--outputs_path",
        tmp_path / "dev.predictions",
    )
    questions = load_files("world").dev.questions
    expected, _ = predict_with_paraphrases(model, tokenizer, questions)
    assert expected != predict(model, tokenizer, questions), "this model answers paraphrases alike: nothing is tested"
    assert read_text(tmp_path / "dev.predictions").split("\n")[:-1] == expected
    assert "Correct: " in capsys.readouterr().out


def test_evaluate_says_so_when_there_is_nothing_to_mark(finetuned, tmp_path, monkeypatch, capsys):
    run(
        monkeypatch,
        "evaluate",
        "vanilla",
        WIKI,
        "--reading_params_path",
        finetuned / "finetune.params",
        "--eval_corpus_path",
        TEST,
        "--outputs_path",
        tmp_path / "test.predictions",
    )
    shown = capsys.readouterr().out
    assert "has no answers, so there is nothing to mark" in shown and "Correct" not in shown
    assert read_text(tmp_path / "test.predictions").count("\n") == len(load_files("world").test.questions)


def test_london(monkeypatch, capsys):
    run(monkeypatch, "london", "--eval_corpus_path", DEV, "--finetune_corpus_path", TRAIN)
    shown = capsys.readouterr().out
    assert shown.count(": 15.0%") == 2 and "Always London:" in shown


def test_london_on_the_real_dev_set_is_five_percent(cs224n_files, monkeypatch, capsys):
    run(monkeypatch, "london", "--eval_corpus_path", cs224n_files / "birth_dev.tsv")
    assert "Correct: 25 out of 500: 5.0%" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        (["pretrain", "vanilla"], "error: pretrain needs a corpus: run.py pretrain vanilla wiki.txt"),
        (["pretrain", "vanilla", WIKI], "error: pretrain needs --writing_params_path"),
        (["pretrain", "vanilla", "nowhere.txt", "--writing_params_path", "p"], "error: nowhere.txt: no such file"),
        (["finetune", "vanilla", WIKI, "--writing_params_path", "p"], "error: finetune needs --finetune_corpus_path"),
        (
            [
                "evaluate",
                "vanilla",
                WIKI,
                "--reading_params_path",
                "nowhere",
                "--eval_corpus_path",
                DEV,
                "--outputs_path",
                "o",
            ],
            "error: nowhere: no such file",
        ),
        (["london"], "error: london needs --eval_corpus_path"),
        (["--recipe", "secret"], "error: no recipe is called 'secret'; there are salient, world, handout, quick"),
        (["--data", "wiki"], "error: --data is 'wiki'; it must be world or cs224n"),
        (["--data_dir", "nowhere"], "error: --data_dir nowhere: no such folder"),
        (["--quick", "--device", "tpu"], "error: device 'tpu' cannot be used here"),
        (["--max_epochs", "5"], "error: study takes no --max_epochs; pretrain and finetune do"),
        (["pretrain", "vanilla", WIKI, "--seeds", "3"], "error: pretrain takes no --seeds; only study does"),
        (["evaluate", "vanilla", WIKI, "--bottleneck_dim", "64"], "error: evaluate needs --reading_params_path"),
        (["pretrain", "vanilla", WIKI, "--seeds", "0"], "error: pretrain takes no --seeds; only study does"),
        (
            ["evaluate", "vanilla", WIKI, "--recipe", "handout"],
            "error: evaluate takes no --recipe; study, pretrain and finetune do",
        ),
        (["london", "--eval_corpus_path", DEV, "--device", "cpu"], "error: london takes no --device"),
        (
            ["london", "--eval_corpus_path", DEV, "--finetune_corpus_path", WORLD / "birth_test_inputs.tsv"],
            f"error: {WORLD / 'birth_test_inputs.tsv'}:1: no tab; each line is QUESTION<tab>PLACE",
        ),
        (["cost", "--rounds", "0"], "error: --rounds is 0; it must be at least 1"),
        (["study", "vanilla", WIKI], "error: study takes no corpus"),
        (["--seeds", "0"], "error: --seeds is 0; it must be at least 1"),
        (
            ["pretrain", "vanilla", WIKI, "--writing_params_path", "p", "--max_epochs", "0"],
            "error: --max_epochs is 0; it must be positive",
        ),
        (
            ["pretrain", "vanilla", WIKI, "--writing_params_path", "p", "--pretrain_lr", "-1"],
            "error: --pretrain_lr is -1.0; it must be positive",
        ),
    ],
)
def test_a_mistake_ends_in_one_line(words, message, tmp_path, monkeypatch, error_line):
    monkeypatch.chdir(tmp_path)
    assert error_line(run, monkeypatch, *words).startswith(message)


@pytest.mark.parametrize(
    "words, message",
    [
        (["pretrian"], "invalid choice: 'pretrian'"),
        (["pretrain", "perciever"], "invalid choice: 'perciever'"),
        (["--writing_parms_path", "p"], "unknown argument --writing_parms_path; did you mean --writing_params_path?"),
    ],
)
def test_a_wrong_word_is_explained(words, message, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, *words)
    assert message in capsys.readouterr().err


def test_parameters_of_another_variant_corpus_or_program_are_refused(finetuned, tmp_path):
    tokenizer = make_tokenizer(read_text(WIKI))
    quick = get_recipe("quick")
    with pytest.raises(ValueError, match="finetune.params: parameters of variant vanilla, not rope"):
        load_parameters(finetuned / "finetune.params", Settings("rope", quick), tokenizer)
    with pytest.raises(ValueError, match="parameters for another vocabulary"):
        load_parameters(finetuned / "finetune.params", Settings("vanilla", quick), make_tokenizer("abc"))
    torch.save({"weights": torch.zeros(1)}, tmp_path / "p")
    with pytest.raises(ValueError, match="p: not written by `run.py pretrain`"):
        load_parameters(tmp_path / "p", Settings("vanilla", quick), tokenizer)


@pytest.mark.parametrize("variant", ["rope", "perceiver"])
def test_each_entry_of_a_parameter_file_is_checked(variant):
    """A missing one, one of another type or size:
    one line that begins with the file's name, before memory is asked for.
    """
    tokenizer, settings = make_tokenizer(read_text(WIKI)), Settings(variant, get_recipe("quick"))
    model = new_model(settings, tokenizer)
    good = {
        "format": FORMAT,
        "variant": variant,
        "vocabulary": tokenizer.characters,
        "config": asdict(model.config),
        "bottleneck_dim": getattr(model, "bottleneck_dim", 0),
        "model": model.state_dict(),
    }
    model_from(good, "p", settings, tokenizer)
    config, weights, odd = good["config"], good["model"], (None, True, -1, 2**70, 1.5, "x", [], b"x", torch.zeros(2))
    weight = weights["transformer.wte.weight"]
    bad = [{key: value for key, value in good.items() if key != missing} for missing in good]
    bad += [
        {**good, key: value} for key in good for value in odd if not (key == "bottleneck_dim" and type(value) is int)
    ]
    bad += [{**good, "config": {key: value for key, value in config.items() if key != missing}} for missing in config]
    bad += [{**good, "config": {**config, key: value}} for key in config for value in odd if value is not True]
    bad += [{**good, "config": {**config, "n_layer": 10**9}}, {**good, "config": {**config, "n_embd": 2**40}}]
    bad += [
        {**good, "model": {**weights, "transformer.wte.weight": value}}
        for value in (*odd, weight.int(), weight.T, weight.to("meta"), weight.to_sparse(), weight / 0, weight[None])
    ]
    bad += [
        {**good, "model": {**weights, "y" * 100_000: weight}},
        {**good, "model": {}},
        {**good, "model": {1: weight}},
    ]
    if variant == "perceiver":
        bad += [{**good, "bottleneck_dim": value} for value in (-1, 0, 16, 129, 2**70)]
    for saved in bad:
        with pytest.raises(ValueError, match="^p: .{1,400}$"):
            model_from(saved, "p", settings, tokenizer)


def test_a_bottleneck_of_another_width_is_refused(tmp_path):
    tokenizer, quick = make_tokenizer(read_text(WIKI)), get_recipe("quick")
    settings = Settings("perceiver", quick, bottleneck_dim=16)
    save_parameters(tmp_path / "p", settings, new_model(settings, tokenizer), tokenizer)
    for asked in (0, 16):
        assert (
            load_parameters(
                tmp_path / "p", Settings("perceiver", quick, bottleneck_dim=asked), tokenizer
            ).bottleneck_dim
            == 16
        )
    with pytest.raises(ValueError, match="p: a perceiver of bottleneck_dim 16, not 64"):
        load_parameters(tmp_path / "p", Settings("perceiver", quick, bottleneck_dim=64), tokenizer)
    assert new_model(Settings("perceiver", quick), tokenizer).bottleneck_dim == 32


def test_parameters_carry_their_own_shape(tmp_path):
    tokenizer, settings = make_tokenizer(read_text(WIKI)), Settings("rope", get_recipe("quick"))
    model = new_model(settings, tokenizer)
    save_parameters(tmp_path / "p", settings, model, tokenizer)
    again = load_parameters(tmp_path / "p", Settings("rope", get_recipe("handout")), tokenizer)
    assert again.config == model.config
    for a, b in zip(model.parameters(), again.parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_have_the_assignments_model_and_can_be_built(name):
    recipe = get_recipe(name)
    for variant in VARIANTS:
        model = build_model(variant, 256, recipe)
        if name in ("handout", "salient"):
            assert (model.config.n_layer, model.config.n_head, model.config.n_embd, model.config.block_size) == (
                4,
                8,
                256,
                128,
            )
    assert recipe.pretrain.trainer.max_iters or recipe.pretrain.trainer.max_epochs


def test_another_rate_moves_both_optimizers_and_another_length_replaces_the_recipes():
    phase = with_rate(get_recipe("salient").pretrain, 6e-3, 7)
    assert phase.optim.learning_rate == 6e-3 and phase.optim.muon_learning_rate == pytest.approx(0.04)
    assert (phase.trainer.max_epochs, phase.trainer.max_iters) == (7, 0)


def test_shifted_positions_are_used_in_training_only_and_never_leave_the_block():
    recipe, used = get_recipe("quick"), []
    model = build_model("vanilla", 40, recipe)
    model.transformer.wpe.register_forward_hook(lambda module, args, output: used.append(args[0]))
    idx = torch.randint(1, 40, (64, 127))
    idx[:, 100:] = 0
    model.train()(idx)
    starts = used[0][:, 0]
    assert starts.min() == 0 and starts.max() == 28, "any start that leaves room for the 100 characters"
    assert used[0].max() <= 127 and (used[0][:, :100].diff(dim=1) == 1).all()
    model.eval()(idx)
    assert torch.equal(used[1], torch.arange(127))


def test_answers_are_the_likeliest_characters_one_question_at_a_time():
    tokenizer = make_tokenizer(read_text(WIKI))
    model = build_model("vanilla", tokenizer.vocab_size, get_recipe("quick"))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    questions = load_files("world").dev.questions[:9]
    batched = predict(model, tokenizer, questions, batch_size=4)
    model.eval()
    for question, said in zip(questions, batched):
        tokens = tokenizer.encode(question + MASK)
        for _ in range(32):
            with torch.no_grad():
                tokens.append(F.softmax(model(torch.tensor([tokens]))[0][0, -1], dim=0).argmax().item())
        assert tokenizer.decode(tokens).split(MASK)[1] == said


def test_of_the_answers_to_paraphrases_the_likeliest_to_all_of_them_is_taken():
    tokenizer = make_tokenizer(read_text(WIKI))
    model = build_model("vanilla", tokenizer.vocab_size, get_recipe("quick"))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    long = "Ann" * 29  # not every answer to a shorter way fits behind this question
    questions = [
        "Where was Ada Roe born?",
        "Where was Bo Li born?",
        f"Where was {long} born?",
        "Who?",
        "Where was Ada raised?",
    ]
    answers, each = predict_with_paraphrases(model, tokenizer, questions)
    assert len(set(each[0])) > 1, "the ways agree on everything: nothing is tested"
    changed = dropped = 0
    for question, name, answer, said in zip(questions, ["Ada Roe", "Bo Li", long, None, None], answers, each):
        ways = [way.format(name) if name else question for way in PARAPHRASES]
        assert said == [predict(model, tokenizer, [way])[0] for way in ways]
        products = {}
        for proposal in {proposal for proposal in said if len(question) + 1 + len(proposal) <= 128}:
            products[proposal] = 0.0
            for way in ways:  # one character at a time
                tokens, after = tokenizer.encode(way + MASK), tokenizer.encode(proposal + MASK)
                for i, token in enumerate(after):
                    with torch.no_grad():
                        logits = model(torch.tensor([tokens + after[:i]]))[0][0, -1]
                    products[proposal] += F.log_softmax(logits, dim=0)[token].item()
        assert products[answer] == pytest.approx(max(products.values()), abs=1e-3)
        changed += answer != predict(model, tokenizer, [question])[0]
        dropped += len(set(said)) > len(products)
    assert changed, "paraphrases have changed no answer"
    assert dropped, "every proposal has fitted behind the long question"
    assert predict_with_paraphrases(model, tokenizer, []) == ([], [])


def test_a_paraphrase_that_the_vocabulary_lacks_is_named_before_training(tmp_path, monkeypatch, error_line):
    write_text(tmp_path / "wiki.txt", "Ada Roe. Ada Roe was born in Oslo ?\nWhere.\n")
    for name in ("birth_places_train", "birth_dev", "birth_test_inputs"):
        write_text(tmp_path / f"{name}.tsv", "Where was Ada Roe born?\tOslo\nWhere was Ada Dane born?\tOslo\n")
    assert (
        "error: the corpus has no ',', which is in the paraphrase '{}, born in'; evaluate without --paraphrases"
        in error_line(run, monkeypatch, "--quick", "--data_dir", tmp_path, "--out", tmp_path / "out")
    )


def test_the_person_of_a_question():
    assert person("Where was J. N. Roe born?") == "J. N. Roe"
    assert person("Where was Ada raised?") == person("Is Ada born?") == person("Where was born?") == ""


def test_marks():
    assert str(score(["Oslo", "Rome"], ["Oslo", "Roma"])) == "Correct: 1 out of 2: 50.0%"
    assert Score(3, 4).percent == 75
    assert majority_answer(["b", "a", "a", "b", "c"]) == "a"
    with pytest.raises(ValueError, match="1 predictions for 2 questions"):
        score(["Oslo"], ["Oslo", "Rome"])


def test_dataset_examples_are_printed(environment, tmp_path, monkeypatch, capsys):
    script = subprocess.run(
        [sys.executable, REPOSITORY / "projects" / "birthplace" / "dataset.py", "charcorruption"],
        cwd=tmp_path,
        env={**environment, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    monkeypatch.setattr(sys, "argv", ["dataset.py", "namedata"])
    show_examples()
    for shown, expected in ((script.stdout, MASK), (capsys.readouterr().out, "x: Where was")):
        assert shown.count("x: ") == 4 and expected in shown


def test_the_study_downloads_the_real_files_as_a_script(tmp_path, environment):
    """Without a network, which a proxy that is not there makes sure of; in a process of its own, since a script has
    another import path."""
    have_them = (REPOSITORY / "data" / "cs224n_a5" / "wiki.txt").exists()
    nowhere = dict.fromkeys(("MINGPT_MIRROR", "http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    shown = subprocess.run(
        [sys.executable, REPOSITORY / "projects" / "birthplace" / "run.py", "--quick", "--data", "cs224n"],
        env={**environment, **nowhere, "no_proxy": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert shown.returncode == (0 if have_them else 2), shown.stderr
    assert have_them or re.fullmatch(r"error: .*(wiki\.txt|birth_\w+\.tsv).*", shown.stderr.strip())


def test_the_study_reads_a_folder_of_ones_own(tmp_path, monkeypatch, capsys, coarse_figures):
    for name in ("wiki.txt", "birth_places_train.tsv", "birth_dev.tsv", "birth_test_inputs.tsv"):
        lines = read_text(WORLD / name).splitlines(keepends=True)
        write_text(tmp_path / "data" / name, "".join(lines if name == "wiki.txt" else lines[-3:]))
    run(monkeypatch, "--quick", "--data_dir", tmp_path / "data", "--out", tmp_path)
    run(monkeypatch, "--quick", "--data_dir", tmp_path / "data", "--out", tmp_path, "--resume")
    metrics = json.loads(read_text(tmp_path / "vanilla.metrics.json"))
    assert {len(losses) for losses in metrics["runs"][0]["losses"].values()} == {12}, (
        "whole curves, also after a resumption"
    )
    assert "For the real assignment" not in capsys.readouterr().out


def test_pretraining_survives_kill_nine(tmp_path, environment, monkeypatch):
    corpus = tmp_path / "wiki.txt"
    write_text(corpus, "".join(read_text(WIKI).splitlines(keepends=True)[:320]))  # 20 steps

    def words(name, *more):
        return [
            "pretrain",
            "vanilla",
            corpus,
            "--quick",
            "--writing_params_path",
            tmp_path / f"{name}.params",
            "--out",
            tmp_path / name,
            "--max_epochs",
            "1",
            "--checkpoint_interval",
            "4",
            *more,
        ]

    def lines(name):
        path = tmp_path / name / "vanilla.pretrain" / "metrics.jsonl"
        return (
            [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []
        )

    killed = subprocess.Popen(
        [sys.executable, REPOSITORY / "projects" / "birthplace" / "run.py", *words("killed")],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while len(lines("killed")) < 7:
        assert killed.poll() is None
        time.sleep(0.02)
    killed.kill()  # SIGKILL
    killed.wait()
    assert not (tmp_path / "killed.params").exists()
    run(monkeypatch, *words("killed", "--resume"))
    run(monkeypatch, *words("whole"))
    assert [l["loss"] for l in lines("killed")] == [l["loss"] for l in lines("whole")]
    a, b = (torch.load(tmp_path / f"{name}.params", weights_only=True)["model"] for name in ("whole", "killed"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert {path.name for path in (tmp_path / "killed").rglob("*")} == {
        path.name for path in (tmp_path / "whole").rglob("*")
    }
