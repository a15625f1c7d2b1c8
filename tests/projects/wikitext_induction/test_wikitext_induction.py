"""The induction study: its measures on known answers, its ablations, its faults, its command line."""

import importlib
import json
import math
import re
import sys

import numpy as np
import pytest
import torch
from test_trainer import Stop, stopping

from mingpt.conv_attention import ConvAttentionConfig, ConvAttentionNet
from mingpt.support.checkpoints import fingerprint, write_sealed
from mingpt.support.files import read_text, try_lock, write_json
from mingpt.trainer import Trainer
from projects.wikitext_induction import faults
from projects.wikitext_induction.ablations import ablate, one_further_back, smeared, without_previous
from projects.wikitext_induction.handbuilt import handbuilt_net
from projects.wikitext_induction.measures import (
    attended_mass,
    chance,
    copying,
    duplicate_token,
    find_repetition,
    in_context_learning,
    induction_targets,
    measure_quotation,
    measure_repeats,
    previous_token,
    token_losses,
)
from projects.wikitext_induction.nets import VARIANTS, build, parse_names
from projects.wikitext_induction.repeats import TiledSegments, random_repeats
from projects.wikitext_induction.report import cell, load_runs, onset
from projects.wikitext_induction.run import SIZES, main
from projects.wikitext_induction.taps import channel_ratio, tap_statistics
from projects.wikitext_induction.text import load_corpus
from projects.wikitext_induction.training import RepeatsConfig, TextConfig, Unfinished, read_measured, train_on_repeats


def run(monkeypatch, *words):
    """run.py in this process."""
    monkeypatch.setattr(sys, "argv", ["run.py", *map(str, words)])
    main()


# ----------------------------------------------------------------------------------------------------------------------
# The net built by hand


def test_the_handbuilt_net_is_perfect_on_every_measure():
    net, idx = handbuilt_net(40, 64), random_repeats(40, 24, 16)
    found = measure_repeats(net, idx)
    assert found["prefix_matching"] == found["copying"] == found["repeat_accuracy"] == 1.0
    assert found["duplicate_token"] == 0.0
    losses = token_losses(net(idx)[0], idx)
    assert losses[:, 24:].max() < 1e-6, "nothing is left to learn in the second copy"
    assert found["repeat_loss"] == pytest.approx(-losses[:, :23].mean().item(), abs=1e-4)
    quotation = measure_quotation(net, [3, 1, 4, 15, 9, 2, 6, 30, 3, 1, 4, 15, 9, 2])
    assert quotation["target_mass"] == quotation["any_target_mass"] == 1.0


def test_the_handbuilt_net_follows_its_previous_tap():
    found = ablate(handbuilt_net(40, 64), random_repeats(40, 24, 16))
    intact = {"prefix_matching": 1.0, "one_after": 0.0, "repeat_accuracy": 1.0}
    for name in ("as trained", "queries without the previous token", "values without the previous token"):
        assert found[name] == intact
    assert found["previous tap one further back"] == {"prefix_matching": 0.0, "one_after": 1.0, "repeat_accuracy": 0.0}
    for name in ("previous tap zeroed", "keys without the previous token"):
        assert found[name]["prefix_matching"] < 0.05 and found[name]["repeat_accuracy"] < 0.05


# ----------------------------------------------------------------------------------------------------------------------
# Measures on known answers


def test_induction_targets_of_a_small_text():
    idx = torch.tensor([[5, 6, 7, 5, 6, 5]])
    found = [(i, j) for i, j in induction_targets(idx)[0].nonzero().tolist()]
    assert found == [(3, 1), (4, 2), (5, 1), (5, 4)], "after A B C A: B; the key after the query is in the future"


def test_targets_of_repeated_random_tokens_are_one_diagonal():
    idx = random_repeats(30, 10, 4)
    expected = torch.zeros(20, 20, dtype=torch.bool)
    for i in range(10, 20):
        expected[i, i - 9] = True
    assert torch.equal(induction_targets(idx), expected.expand(4, 20, 20))


def test_masses_of_patterns_that_are_known():
    idx = torch.tensor([[5, 6, 7, 5, 6, 7]])
    uniform = torch.ones(6, 6).tril() / torch.arange(1, 7)[:, None]
    shifted = torch.diag(torch.ones(5), -1)
    pattern = torch.stack([uniform, shifted])[None]
    assert previous_token(pattern).tolist() == pytest.approx([np.mean([1 / n for n in range(2, 7)]), 1.0])
    assert duplicate_token(pattern, idx).tolist() == pytest.approx([np.mean([1 / 4, 1 / 5, 1 / 6]), 0.0])
    targets = induction_targets(idx)
    assert attended_mass(pattern, targets).tolist() == pytest.approx([np.mean([1 / 4, 1 / 5, 1 / 6]), 0.0])
    assert math.isnan(attended_mass(pattern, torch.zeros(1, 6, 6, dtype=torch.bool))[0])


def test_copying_of_heads_that_copy_mislead_or_raise_all_alike():
    idx = torch.tensor([[0, 1, 2, 3]])
    pattern = torch.ones(4, 4).tril()[None, None] / torch.arange(1, 5)[:, None]
    unembedding = torch.eye(6)
    values = torch.eye(6)[idx][:, None]  # the value at a key is its token's one-hot
    assert copying(pattern, values, unembedding, idx).tolist() == [1.0]
    assert copying(pattern, values.roll(1, dims=2), unembedding, idx).tolist() == [-1.0], "each raises another token"
    alike = torch.tensor([1.0, 1, 1, 1, -2, -2]).expand(1, 1, 4, 6)
    assert copying(pattern, alike, unembedding, idx).tolist() == pytest.approx([-0.5]), "a share of 1/4 each"


def test_in_context_learning_is_late_minus_early():
    losses = torch.cat([torch.full((30,), 5.0), torch.full((70,), 3.0)])
    assert in_context_learning(losses) == pytest.approx(-2.0)
    assert in_context_learning(torch.full((7,), 2.0)) == 0


def test_the_repetition_is_found():
    assert find_repetition([1, 2, 3, 9, 8, 1, 2, 3]) == (0, 3)
    assert find_repetition([7, 1, 2, 3, 9, 4, 1, 2, 3]) == (1, 3), "a first token differs where no space is before it"
    assert find_repetition([1, 1, 1, 1]) == (0, 2), "without overlap"
    assert find_repetition([1, 2, 3]) == (0, 0)


def test_random_repeats_have_different_tokens_and_segments_any_length():
    idx = random_repeats(30, 12, 50)
    assert idx.shape == (50, 24) and torch.equal(idx[:, :12], idx[:, 12:])
    assert all(len(set(row.tolist())) == 12 for row in idx)
    with pytest.raises(ValueError, match="31 different tokens cannot be drawn from a vocabulary of 30"):
        random_repeats(30, 31, 1)
    data, lengths = TiledSegments(1000, 48, 200, seed=0), set()
    for x, y in (data[i] for i in range(200)):
        whole = torch.cat([x, y[-1:]])
        assert torch.equal(x[1:], y[:-1])
        lengths.add(next(n for n in range(1, 49) if torch.equal(whole[n:], whole[:-n])))
    assert min(lengths) >= 8 and max(lengths) == 24 and len(lengths) > 12
    first = data[0][0]
    data.set_epoch(1)
    assert not torch.equal(first, data[0][0])


# ----------------------------------------------------------------------------------------------------------------------
# Ablations and taps


def test_the_ablations_change_the_tap_and_nothing_else():
    net = build("conv-attention", 30, 24, 16)
    kernel = net.layers["conv"].weight.detach().clone()
    zeroed, moved = without_previous(net), one_further_back(net)
    assert torch.equal(zeroed.layers["conv"].weight[:, :, 1:], kernel[:, :, 1:])
    assert zeroed.layers["conv"].weight[:, :, 0].abs().max() == 0
    assert moved.layers["conv"].weight.shape == (16, 16, 4)
    assert torch.equal(net.layers["conv"].weight, kernel), "the net itself stays as it is"
    x = torch.randn(1, 8, 16)
    difference = net.layers["conv"](x, None) - zeroed.layers["conv"](x, None)
    further = moved.layers["conv"](x, None) - zeroed.layers["conv"](x, None)
    torch.testing.assert_close(further[:, 1:], difference[:, :-1])


def test_pure_smearing_is_a_scalar_a_channel_and_exact_where_the_kernel_smears():
    net = build("conv-attention", 30, 24, 16)
    with torch.no_grad():
        current = net.layers["conv"].weight[:, :, 1]
        net.layers["conv"].weight[:, :, 0] = torch.linspace(-1, 2, 16)[:, None] * current
    torch.testing.assert_close(smeared(net).layers["conv"].weight, net.layers["conv"].weight)
    with torch.no_grad():
        net.layers["conv"].weight[:, :, 0] += torch.randn(16, 16)
    kernel = smeared(net).layers["conv"].weight
    ratio = kernel[:, :, 0] / kernel[:, :, 1]
    torch.testing.assert_close(ratio, ratio[:, :1].expand(16, 16), atol=1e-4, rtol=1e-4)


def test_a_wider_kernel_has_the_same_last_taps():
    net = ConvAttentionNet(ConvAttentionConfig(30, 24, 16, kernel_size=4))
    kernel = net.layers["conv"].weight.detach()
    assert tap_statistics(kernel) == tap_statistics(kernel[:, :, 1:])
    moved, x = one_further_back(net), torch.randn(1, 8, 16)
    assert moved.layers["conv"].weight.shape == (16, 16, 5)
    current = without_previous(net).layers["conv"]  # with the tap two back
    current.weight.data[:, :, 0] = 0
    past = net.layers["conv"](x, None) - current(x, None)
    torch.testing.assert_close((moved.layers["conv"](x, None) - current(x, None))[:, 1:], past[:, :-1])
    assert set(ablate(net, random_repeats(30, 12, 4))) > {"as trained", "previous tap one further back"}


def test_chance_is_what_even_attention_gives():
    idx = random_repeats(30, 12, 50)
    found = chance(idx)
    assert found["prefix_matching"] == pytest.approx(sum(1 / (i + 1) for i in range(12, 24)) / 12, abs=1e-4)
    assert found["copying"] == pytest.approx(2 / 12 - 1, abs=1e-4)


def test_tap_statistics_of_a_known_kernel():
    taps = torch.full((4, 4), 3.0), torch.full((4, 4), -6.0), torch.linspace(-1, 1, 16).view(4, 4)
    kernel = torch.stack(taps, dim=2)
    found = tap_statistics(kernel)
    assert found["previous"] == {"max": 3.0, "min": 3.0, "q75": 3.0, "q90": 3.0, "norm": 12.0}
    assert found["future"]["q75"] == pytest.approx(0.5) and found["future"]["q90"] == pytest.approx(0.8)
    assert found["ratio"] == {"q10": 0.5, "median": 0.5, "q90": 0.5}
    assert channel_ratio(kernel).tolist() == [0.5] * 4


# ----------------------------------------------------------------------------------------------------------------------
# What the published experiment gets wrong


def test_a_mask_on_weight_data_leaves_no_gradient():
    found = faults.gradient_norms()
    assert found["mask on weight.data"] is None
    previous, current, future = found["mask on the weight in use"]
    assert previous > 0 and current > 0 and future == 0


def test_the_published_third_tap_is_uniform_and_the_others_are_not():
    shape = faults.shape_of_the_table()
    assert shape["future"] == {"q75 / max": pytest.approx(0.5, abs=0.03), "q90 / max": pytest.approx(0.8, abs=0.03)}
    for tap in ("previous", "current"):
        assert shape[tap]["q75 / max"] < 0.2 and shape[tap]["q90 / max"] < 0.4
    assert faults.fitting_widths() == (631, 658), "not 384"


def test_an_unmasked_tap_tells_the_answer_and_a_masked_one_does_not():
    config = build("conv", 20, 16, 32).config
    assert faults.accuracy_on_random_tokens(faults.LeakyConvNet(config), 100) > 0.8
    assert faults.accuracy_on_random_tokens(faults.ConvNet(config), 30) < 0.12
    assert faults.influence_of_the_future(faults.LeakyConvNet(config)) > 0.01
    assert all(faults.influence_of_the_future(build(name, 20, 16, 32)) == 0 for name in VARIANTS)


def test_order_and_padding():
    assert faults.change_by_reordering(build("attention-attention", 64, 32, 32)) < 1e-5
    assert faults.change_by_reordering(build("positions", 64, 32, 32)) > 0.1
    assert faults.influence_of_padding(-1, left=False) == 0
    assert faults.influence_of_padding(-1, left=True) > 0.01
    assert faults.influence_of_padding(49, left=True) == 0


# ----------------------------------------------------------------------------------------------------------------------
# The study


def unfinished(folder, resume=False):
    return Unfinished(folder, {"any": "thing"}, interval=3, resume=resume)


def test_an_induction_head_forms_with_a_convolution_and_not_without(tmp_path):
    """Two nets for 80 steps each: some seconds."""
    config = RepeatsConfig(
        repeat_steps=80, repeat_every=40, repeat_batch=32, repeat_vocab=32, repeat_block=30, repeat_lr=5e-3
    )
    net, found = train_on_repeats("conv-attention", 0, config, "cpu", unfinished(tmp_path))
    assert found["final"]["prefix_matching"] > 0.8 and found["final"]["repeat_accuracy"] > 0.9
    assert [point["step"] for point in found["curve"]] == [0, 40, 80]
    assert found["ablations"]["keys without the previous token"]["prefix_matching"] < 0.1
    assert found["ablations"]["queries without the previous token"]["prefix_matching"] > 0.8
    _, control = train_on_repeats("attention", 0, config, "cpu", unfinished(tmp_path))
    assert control["final"]["prefix_matching"] < 0.1 and control["final"]["repeat_accuracy"] < 0.3


def test_a_run_that_was_cut_short_goes_on(tmp_path, monkeypatch):
    """At step 5, after a checkpoint at 3 and a measurement at 4, which the resumed run repeats."""
    config = RepeatsConfig(repeat_steps=8, repeat_batch=4, repeat_every=2)
    net, unbroken = train_on_repeats("conv-attention", 0, config, "cpu", unfinished(tmp_path / "unbroken"))
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr("projects.wikitext_induction.training.Trainer", stopping(5))
        train_on_repeats("conv-attention", 0, config, "cpu", unfinished(tmp_path / "cut"))
    measured = json.loads(read_text(tmp_path / "cut" / "measured.json"))
    assert [point["step"] for point in measured["curve"]] == [0, 2, 4]
    steps = []
    monkeypatch.setattr(Trainer, "_seed_step", lambda trainer: steps.append(trainer.iter_num))
    again, resumed = train_on_repeats("conv-attention", 0, config, "cpu", unfinished(tmp_path / "cut", resume=True))
    assert steps == [3, 4, 5, 6, 7] and resumed["curve"] == unbroken["curve"]
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), net.parameters()))


def test_a_detached_convolution_stays_as_it_was(tmp_path):
    config = RepeatsConfig(repeat_steps=5, repeat_batch=4)
    torch.manual_seed(0)
    fresh = build("detached", config.repeat_vocab, config.repeat_block, config.repeat_width)
    net, _ = train_on_repeats("detached", 0, config, "cpu", unfinished(tmp_path))
    assert torch.equal(net.layers["conv"].weight, fresh.layers["conv"].weight)
    assert not torch.equal(net.wte.weight, fresh.wte.weight)


SMALL = (
    "--train_chars",
    "15000",
    "--vocab_size",
    "400",
    "--block_size",
    "320",
    "--n_embd",
    "16",
    "--batch_size",
    "8",
    "--eval_blocks",
    "1",
)


def test_the_study_writes_everything_and_resumes(tmp_path, monkeypatch, capsys, coarse_figures):
    words = (
        "--quick",
        "--nets",
        "conv-attention,detached",
        "--seeds",
        "2",
        "--repeat_steps",
        "3",
        "--repeat_batch",
        "4",
        "--out",
        tmp_path,
        *SMALL,
    )
    run(monkeypatch, *words)
    shown = capsys.readouterr().out
    for row in (
        "mask on weight.data +no gradient",
        r"\| conv → attention \| 0\.0\d ± 0\.0\d \|",
        r"\| conv \(detached\) → attention \| future \|",
        "keys without the previous token",
        "generated encyclopedia",
        "; 2 seeds, mean ± standard deviation",
    ):
        assert re.search(row, shown), row
    for name in ("phase_change", "training", "dursley", "summary", "ablations", "taps_text", "taps_repeats"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    metrics = json.loads(read_text(tmp_path / "metrics.json"))
    assert [r["seed"] for r in metrics["text"]["runs"]["detached"]] == [0, 1]
    assert json.loads(read_text(tmp_path / "faults.json"))["influence of the future"]["detached"] == 0
    runs = {path.name for path in tmp_path.glob("*/*.json")}
    assert runs == {f"{net}.seed{seed}.json" for net in ("conv-attention", "detached") for seed in (0, 1)}
    assert not list(tmp_path.glob("*/*/checkpoint.pt")) and not (tmp_path / ".lock").exists()

    before = contents(tmp_path)
    (tmp_path / "text" / "detached.seed1.json").unlink()
    monkeypatch.setattr("projects.wikitext_induction.run.report", lambda out: None)
    run(monkeypatch, "text", *words, "--resume")
    after = contents(tmp_path)
    changed = [
        name for name in {**before, **after} if without_seconds(before.get(name)) != without_seconds(after.get(name))
    ]
    assert changed == [], "the run that was missing is the same again"


def contents(folder):
    """name -> bytes, of all files in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def without_seconds(data):
    """Of a result, what two runs have in common to the last bit."""
    if data is None or not data.startswith(b"{"):
        return data
    return {name: value for name, value in json.loads(data).items() if name not in ("seconds", "sha256 of the rest")}


@pytest.fixture
def texts(tmp_path):
    """Two folders of texts of the same size: the second has another evaluation text, by one word."""
    for name, word in (("data1", " cat"), ("data2", " dog")):
        (tmp_path / name).mkdir()
        for split, text in (
            ("train", "the cat sat on the mat and the dog lay by the door . "),
            ("valid", f"so the{word} was here . "),
        ):
            (tmp_path / name / f"wiki.{split}.raw").write_text(text * 120, encoding="utf-8")
    return tmp_path


TINY = (
    "text",
    "--size",
    "quick",
    "--nets",
    "conv",
    "--vocab_size",
    "280",
    "--train_chars",
    "0",
    "--n_embd",
    "8",
    "--batch_size",
    "2",
    "--eval_blocks",
    "1",
    "--block_size",
    "400",
)


def test_a_text_run_is_known_by_the_content_of_what_it_reads(texts, monkeypatch, error_line, coarse_figures):
    out = texts / "mine"
    run(monkeypatch, *TINY, "--data_dir", texts / "data1", "--out", out)
    before = contents(out)
    line = error_line(run, monkeypatch, *TINY, "--data_dir", texts / "data2", "--out", out, "--resume")
    assert "conv.seed0.json is of other settings (the content of the evaluation text differs); give those again" in line
    line = error_line(run, monkeypatch, *TINY, "--data_dir", texts / "data1", "--out", out, "--resume", "--epochs", "2")
    assert "(epochs was 1 and is 2)" in line
    assert contents(out) == before, "and nothing of the new text is written"

    # One that was cut short is refused in the same way: by its measurements, and by its checkpoint too.
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr("projects.wikitext_induction.training.Trainer", stopping(3))
        run(patch, *TINY, "--data_dir", texts / "data1", "--out", out, "--checkpoint_interval", "2")
    before = contents(out)
    assert "text/conv.seed0.json" not in before and "text/conv.seed0/checkpoint.pt" in before
    line = error_line(run, monkeypatch, *TINY, "--data_dir", texts / "data2", "--out", out, "--resume")
    assert (
        "conv.seed0 is of other settings (the content of the evaluation text differs)" in line
        and contents(out) == before
    )
    measured = out / "text" / "conv.seed0" / "measured.json"
    saved = json.loads(read_text(measured))
    corpus = load_corpus("wikitext2", str(texts / "data2"), "train", "valid")
    saved["settings"]["inputs"]["the evaluation text"] = fingerprint(corpus.evaluation)
    write_json(measured, saved)
    line = error_line(run, monkeypatch, *TINY, "--data_dir", texts / "data2", "--out", out, "--resume")
    assert "checkpoint.pt is of another run (the content of the evaluation text differs)" in line


def test_what_is_not_of_this_study_is_neither_deleted_nor_read(texts, monkeypatch, capsys, coarse_figures):
    out, words = texts / "mine", (*TINY, "--data_dir", texts / "data1", "--out", texts / "mine")
    theirs = {
        "text/labels.json": "[" * 100_000,
        "text/net.params": "parameters",
        "text/conv.seed3.json": '{"settings": {}}',
        "text/conv.seed4.json": "[" * 100_000,
        "text/conv.seed0/notes.txt": "notes",
        "text/attention.seed0/measured.json": "{}",
        "text/attention-attention.seed0.params": "no net",
        "text/tokenizer/notes.txt": "notes",
    }
    in_the_way = {
        "text/conv.seed0.json": '{"mine": 1}',
        "text/conv.seed0.params": "mine",
        "tables.md": "mine",
        "text/tokenizer/vocab.json": "{}",
        "text/conv.seed0/checkpoint.pt": "mine",
        "text/source.txt": "mine",
    }
    for name, content in {**theirs, **in_the_way}.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(content, encoding="utf-8")
    for resume in ((), ()):  # the second run deletes what the first one wrote
        run(monkeypatch, *words, *resume)
        found = contents(out)
        assert {name: found[name].decode() for name in theirs} == theirs
        assert {name: found[f"{name}.kept"].decode() for name in in_the_way} == in_the_way
        assert json.loads(found["text/conv.seed0.json"])["net"] == "conv" and b"conv alone" in found["tables.md"]
    said = capsys.readouterr().err
    for name, reason in (
        ("conv.seed3.json", "not a result that this program wrote"),
        ("conv.seed4.json", "not JSON that can be read"),
        ("attention-attention.seed0.params", "not a file of parameters"),
    ):
        assert re.search(f"note: .*{name}: {reason}.*; it is left out\n", said), name
    assert "labels.json" not in said and "net.params" not in said
    assert "conv.seed0.json.kept" in said and "conv.seed0.json.kept.1" not in said, "what we wrote is not kept twice"


@pytest.mark.parametrize(
    "project, words",
    [
        ("wikitext_induction", ["text", "--quick"]),
        ("wikitext_induction", ["report"]),
        ("ngram_superposition", ["faults", "--quick"]),
        ("gpt2_heads", ["isolate", "--quick"]),
        ("gpt2_heads", ["all", "--quick"]),
        ("attention_exploration", ["--quick"]),
        ("benchmark", ["report"]),
    ],
)
def test_a_second_run_in_a_folder_is_one_line_and_touches_nothing(project, words, tmp_path, monkeypatch, error_line):
    monkeypatch.setattr(sys, "argv", ["run.py", *words, "--out", str(tmp_path)])
    with open(tmp_path / ".lock", "w") as lock:  # as another process holds it
        assert try_lock(lock)
        line = error_line(importlib.import_module(f"projects.{project}.run").main)
    assert line.startswith(f"error: {tmp_path}: another run is writing here (it is locked); wait until it has ended")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_lines_with_a_padding_mask(tmp_path, monkeypatch):
    monkeypatch.setattr("projects.wikitext_induction.run.report", lambda out: None)
    run(
        monkeypatch,
        "text",
        "--quick",
        "--nets",
        "conv-attention",
        "--examples",
        "lines",
        "--padding_mask",
        *SMALL,
        "--out",
        tmp_path,
    )
    settings = json.loads(read_text(tmp_path / "text" / "conv-attention.seed0.json"))["settings"]
    assert settings["examples"] == "lines" and settings["padding_mask"] is True


def test_the_seeds_settings_are_those_of_the_full_size():
    config = TextConfig(**SIZES["full"])
    assert (config.n_embd, config.learning_rate, config.epochs, config.warmup_ratio) == (384, 3e-4, 10, 0.1)


def test_rows_of_the_tables():
    assert cell([1.0, 2.0, 3.0]) == "2.00 ± 1.00" and cell([0.5]) == "0.50" and cell([None, 1.0]) == "-"
    assert cell([120.0, 140.0]) == "130 ± 14"
    curve = [{"step": step, "prefix_matching": score} for step, score in ((0, 0.1), (20, 0.4), (40, 0.9))]
    assert onset({"curve": curve}) == 20 and onset({"curve": curve[:1]}) is None


def test_runs_of_different_settings_are_not_mixed(tmp_path):
    for seed, steps in ((0, 5), (1, 6)):
        write_sealed(tmp_path / f"conv.seed{seed}.json", {"net": "conv", "seed": seed, "settings": {"steps": steps}})
    with pytest.raises(
        ValueError, match=r"conv.seed1.json is of other settings than .*conv.seed0.json \(steps was 5 and is 6\)"
    ):
        load_runs(tmp_path)


def test_results_are_read_by_net_and_number_and_only_from_their_own_file(tmp_path, capsys):
    for seed in (2, 10):
        write_sealed(tmp_path / f"conv.seed{seed}.json", {"net": "conv", "seed": seed, "settings": {}})
    write_sealed(tmp_path / "smear.seed2.json", {"net": "conv", "seed": 2, "settings": {}})
    assert [run["seed"] for run in load_runs(tmp_path)["conv"]] == [2, 10] and "smear" not in load_runs(tmp_path)
    assert "smear.seed2.json: the result of another run; it is left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        '{"seconds": 1, "curve": []}',
        '{"seconds": "1", "curve": [{"step": 0}]}',
        '{"seconds": 1, "curve": [{"step": "0"}]}',
        '{"seconds": 1, "curve": [3]}',
        "[" * 100_000,
    ],
)
def test_measurements_of_another_kind_are_refused(content, tmp_path):
    (tmp_path / "measured.json").write_text(content)
    with pytest.raises(ValueError, match="measured.json: not"):
        read_measured(tmp_path / "measured.json")


@pytest.mark.parametrize(
    "words, message",
    [
        (["--nets", "conv,lstm"], "error: no net is called 'lstm'; there are conv-attention, detached"),
        (["--size", "huge"], "error: --size is 'huge'; it must be one of quick, small, full"),
        (["--seeds", "0"], "error: --seeds is 0; it must be at least 1"),
        (["--examples", "words"], "error: --examples is 'words'; it must be packed or lines"),
        (["--padding_mask"], "error: --padding_mask is for --examples lines; packed examples have no padding"),
        (["--seed", "99999999999999999999"], "error: argument --seed: '99999999999999999999"),
        (["--seed", "-1"], "error: --seed is -1"),
        (["--seeds", "99999999999999999999"], "error: argument --seeds: '99999999999999999999"),
        (["--n_embd", "9" * 30], "error: argument --n_embd: '99999999999999999999"),
        (["--repeat_width", "9" * 30], "error: argument --repeat_width: '99999999999999999999"),
        (["--repeat_block", "5"], "error: --repeat_block is 5; it must be at least 6"),
        (["--repeat_lr", "nan"], "error: argument --repeat_lr: 'nan' is not finite"),
        (["--learning_rate", "inf"], "error: argument --learning_rate: 'inf' is not finite"),
        (["--warmup_ratio", "nan"], "error: argument --warmup_ratio: 'nan' is not finite"),
        (["--train_chars", "-1"], "error: --train_chars is -1; it must not be negative"),
        (["--epochs", "0"], "error: --epochs is 0; it must be positive"),
        (["--warmup_ratio", "1"], "error: --warmup_ratio is 1.0; it must be in"),
        (["text", "--data_dir", "nowhere"], "error: --data_dir nowhere: no such folder"),
        (["text", "--quick", "--block_size", "64"], "error: the prompt 'Mr and Mrs Dursley, of number '... has "),
        (["text", "--quick", "--train_chars", "100"], "error: the training text has "),
        (["report"], "error: out/wikitext_induction has no finished runs"),
        (["text", "--quick", "--device", "tpu"], "error: device 'tpu' cannot be used here"),
    ],
)
def test_a_mistake_ends_in_one_line(words, message, tmp_path, monkeypatch, error_line):
    monkeypatch.chdir(tmp_path)
    assert error_line(run, monkeypatch, *words).startswith(message)
    assert not list(tmp_path.iterdir())


def test_names_of_nets():
    assert parse_names("") == list(VARIANTS) and parse_names("conv, smear") == ["conv", "smear"]
