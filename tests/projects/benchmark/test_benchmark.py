"""The benchmark: its harness, its peers, and that every topic runs."""

import importlib
import json
import math
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import REAL_DATA

from mingpt.model import GPT, GPTConfig
from mingpt.pretrained.download import DownloadError
from mingpt.support.command import Stopped
from mingpt.support.files import write_json
from projects.benchmark import harness, tokenizer
from projects.benchmark.generation import uncached_seconds
from projects.benchmark.peers import NanoGPT, PlainGPT
from projects.benchmark.run import ON_REQUEST, TOPICS, main, read_tables
from projects.benchmark.training import count_flops


def test_compare_runs_in_turns(monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock[0])

    def variant(name, seconds):
        def run():
            calls.append(name)
            clock[0] += seconds * (1 + calls.count(name))

        return run

    timings = harness.compare({"a": variant("a", 1), "none": None, "b": variant("b", 4)}, repeats=3, warmup=1)
    assert "".join(calls) == "abababab"
    assert list(timings) == ["a", "none", "b"]
    assert timings["a"].seconds == (3, 4, 5) and timings["b"].seconds == (12, 16, 20)
    assert timings["b"].median == 16 and timings["b"].spread == (12, 20)
    assert timings["none"].seconds == () and math.isnan(timings["none"].median)


def test_what_runs_before_a_round_is_not_timed(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock[0])

    def wait(seconds):
        clock[0] += seconds

    timings = harness.compare({"a": lambda: wait(1)}, before={"a": lambda: wait(100)}, repeats=2)
    assert timings["a"].seconds == (1, 1)


def test_compare_wants_a_round():
    with pytest.raises(ValueError, match="repeats is 0"):
        harness.compare({}, repeats=0)


def test_ours_is_compared_round_by_round(capsys):
    timings = harness.timings_of({"theirs": [2.0, 40.0, 8.0], "ours": [1.0, 10.0, 1.0], "absent": []})
    table = harness.Table("a table", timings, "ours", work=10, unit="MB", goals={"theirs": 3}, facts={"a fact": 0.5})
    assert table.times_as_fast_as("theirs") == (4, 2, 8)  # not 8 / 1, the ratio of the medians
    assert math.isnan(table.times_as_fast_as("absent")[0])
    harness.print_table(table)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "a table" and "MB/s" in lines[2]
    assert lines[3].split() == ["theirs", "8", "2..40", "1.25", "4.00,", "2.00..8.00", "(goal", "3)"]
    assert lines[5].split() == ["absent", "not", "installed"]
    assert lines[6].strip() == "a fact: 0.5"


def test_versions():
    assert harness.versions("pytest", "no-such-package").endswith(", no-such-package not installed")


def test_a_fresh_process_and_its_memory():
    assert harness.in_fresh_process(math.factorial, 5) == 120
    assert harness.peak_memory() > 50e6  # torch alone takes more


@pytest.mark.parametrize("peer", [PlainGPT, NanoGPT])
def test_the_peers_compute_what_our_model_computes(peer):
    config = GPTConfig(vocab_size=50, block_size=16, n_layer=2, n_head=2, n_embd=16)
    model, theirs = GPT(config), peer(config)
    theirs.load_state_dict(model.state_dict())
    x, y = torch.randint(0, 50, (2, 3, 16))
    for ours, other in zip(model(x, y), theirs(x, y)):
        torch.testing.assert_close(ours, other)


def test_flops_of_a_step_are_counted():
    config = GPTConfig(vocab_size=64, block_size=16, n_layer=1, n_head=2, n_embd=32)
    forward = 2 * 16 * (12 * 32 * 32 + 64 * 32) + 2 * 2 * 16 * 16 * 32  # linear layers and head, scores and sums
    assert count_flops(config, 1) == 3 * forward  # and as much again for each of the two gradients


def test_passes_without_a_cache_are_summed_over_all_lengths(monkeypatch):
    clock = [0.0]

    def model(idx):
        clock[0] += idx.size(1)  # a pass takes a second for each token

    model.config = GPTConfig(vocab_size=10)
    monkeypatch.setattr("projects.benchmark.generation.time.perf_counter", lambda: clock[0])
    assert uncached_seconds(model, 1, 101) == pytest.approx(sum(range(16, 117)), rel=0.02)


@pytest.mark.parametrize("topic", [*TOPICS, *ON_REQUEST])
def test_every_topic_runs(topic, monkeypatch):
    if topic == "gpu" and not torch.cuda.is_available():
        with pytest.raises(ValueError, match="there is no CUDA GPU here"):
            next(importlib.import_module("projects.benchmark.gpu").measure(quick=True))
        return
    module = importlib.import_module(f"projects.benchmark.{topic}")
    if topic == "startup":  # starting a dozen Pythons takes half a minute
        monkeypatch.setattr(module.subprocess, "run", lambda command, **_: time.sleep(len(command) / 1000))
    if topic == "changes":
        monkeypatch.setattr(module, "python", lambda *_: None)
    if topic == "loading":
        monkeypatch.setattr(module, "in_fresh_process", lambda function, *args: function(*args))
    tables = list(module.measure(quick=True, repeats=1))
    assert tables
    for table in tables:
        assert not table.ours or table.timings[table.ours].median > 0
        assert set(table.goals) <= set(table.timings)


TEXT = "the cat sat on the mat, and the dog lay by the door; Zoë saw 😀 twice. " * 20


def test_where_gpt2s_vocabulary_cannot_be_had_one_of_our_own_stands_in(tmp_path, monkeypatch, capsys):
    def unreachable(*arguments):
        raise DownloadError("nobody is there")

    monkeypatch.setattr(tokenizer, "download_pretrained", unreachable)
    for quick, reason in ((True, "--quick downloads nothing"), (False, "nobody is there")):
        with tokenizer.vocabulary(None, quick, TEXT, 270) as files:
            tables = list(tokenizer.compare_all(TEXT, files, 270, 1))
        assert not files[0].exists() and len(tables) == 3
        assert (
            capsys.readouterr().out
            == f"GPT-2's vocabulary is not used ({reason}); one of 270 tokens, trained on the text, "
            "stands in for it\n"
        )
    with (
        pytest.raises(ValueError, match="has neither vocab.json with merges.txt"),
        tokenizer.vocabulary(tmp_path, True, TEXT, 270),
    ):
        pass


def test_gpt2s_own_vocabulary(capsys):
    if not (REAL_DATA / "gpt2_bpe").exists():
        pytest.skip("GPT-2's vocabulary is not here")
    with tokenizer.vocabulary(REAL_DATA / "gpt2_bpe", True, TEXT, 270) as files:
        assert len(list(tokenizer.compare_all(TEXT, files, 270, 1))) == 3, "the peers give the same ids"
    assert capsys.readouterr().out == ""


def test_what_is_not_installed_is_a_row_that_says_so(monkeypatch, capsys):
    for package in ("transformers", "tiktoken", "tokenizers"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(
        "projects.benchmark.loading.in_fresh_process", lambda function, *arguments: function(*arguments)
    )
    with tokenizer.vocabulary(None, True, TEXT, 270) as files:
        tables = list(tokenizer.compare_all(TEXT, files, 270, 1))
    for topic in ("generation", "loading"):
        tables += importlib.import_module(f"projects.benchmark.{topic}").measure(quick=True, repeats=1)
    for table in tables:
        harness.print_table(table)
        assert table.timings["ours"].seconds
    assert capsys.readouterr().out.count("not installed") == 2 + 2 + 1 + 1 + 1


GOOD = {
    "title": "t",
    "timings": {"ours": {"seconds": [1.0]}, "a": {"seconds": []}},
    "ours": "ours",
    "work": 2,
    "unit": "MB",
    "goals": {"a": 2},
    "facts": {"f": 1.0},
}


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        "3",
        "[]",
        "{}",
        '{"tables": 3}',
        '{"tables": [3]}',
        *(
            json.dumps({"tables": [{**GOOD, **change}]})
            for change in (
                {"timings": 3},
                {"timings": {"ours": 3}},
                {"timings": {"ours": {"seconds": ["1"]}}},
                {"timings": {"ours": {"seconds": [0]}}},
                {"timings": {"ours": {"seconds": [math.nan]}}},
                {"title": 3},
                {"ours": "b"},
                {"ours": "a"},
                {"ours": []},
                {"work": "2"},
                {"goals": {"a": "2"}},
                {"goals": 3},
                {"facts": 3},
                {"more": 1},
                {"unit": None},
            )
        ),
    ],
)
def test_results_of_another_kind_are_left_out(content, tmp_path, capsys):
    (tmp_path / "training.json").write_text(content)
    (tmp_path / "ngram.json").write_text(json.dumps({"tables": [GOOD]}))
    assert [table.title for table in read_tables(tmp_path)] == ["t"]
    said = capsys.readouterr().err
    assert "training.json" in said and said.endswith("; it is left out\n") and said.count("\n") == 1


class FakeChild:
    """A process that measures nothing, and writes what a topic would."""

    status, stopped = 0, []

    def __init__(self, command):
        self.topic = command[2]
        self.out = Path(command[command.index("--out") + 1]) / "quick"

    def wait(self):
        if self.status is None and not self.stopped:
            raise Stopped(signal.SIGTERM)
        if self.status == 0:
            write_json(
                self.out / f"{self.topic}.json",
                {
                    "tables": [
                        {**GOOD, "title": self.topic, "timings": {"ours": {"seconds": [1]}, "a": {"seconds": [2]}}}
                    ]
                },
            )
        return self.status

    def terminate(self):
        self.stopped.append(self.topic)


def test_several_topics_run_in_processes_of_their_own(tmp_path, monkeypatch, capsys, error_line, coarse_figures):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["run.py", *words, "--quick", "--out", str(tmp_path)])
        main()

    monkeypatch.setattr("projects.benchmark.run.subprocess.Popen", FakeChild)
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / "ngram.json").write_text("mine")
    run()
    assert {path.stem for path in (tmp_path / "quick").glob("*.json")} == set(TOPICS)
    assert (tmp_path / "quick" / "ngram.json.kept").read_text() == "mine" and (
        tmp_path / "quick" / "benchmark.png"
    ).exists()
    monkeypatch.setattr(FakeChild, "status", 2)
    assert "error: not measured: ngram, startup; the reasons are above" in error_line(run, "ngram", "startup")
    monkeypatch.setattr(FakeChild, "status", None)
    with pytest.raises(SystemExit) as ended:
        run("ngram", "startup")
    assert ended.value.code == 143 and FakeChild.stopped == ["ngram"], "its process is stopped too"
    assert (
        capsys.readouterr().err
        == f"stopped by SIGTERM; topics that were measured are kept in {tmp_path / 'quick'}; to go "
        "on, name the others\n"
    )


def test_the_command_line(tmp_path, monkeypatch, capsys, error_line, coarse_figures):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["run.py", *map(str, words)])
        main()

    tmp_path = tmp_path / "quick"  # where --quick writes

    run("ngram", "--quick", "--out", tmp_path.parent)
    assert "Training low-rank models" in capsys.readouterr().out
    saved = json.loads((tmp_path / "ngram.json").read_text(encoding="utf-8"))
    assert saved["topic"] == "ngram" and "torch" in saved["machine"]["versions"]
    tables = read_tables(tmp_path)
    assert len(tables) == 2 and tables[0].times_as_fast_as("ours, one at a time")[0] > 0
    run("report", "--quick", "--out", tmp_path.parent)
    assert (tmp_path / "benchmark.png").read_bytes()[:4] == b"\x89PNG"
    for words, message in (
        (["trainings"], "error: there is no topic 'trainings'"),
        (["ngram", "--repeats", 0], "error: --repeats is 0"),
        (["report", "--out", tmp_path.parent], "error: "),
    ):
        assert error_line(run, *words).startswith(message)
