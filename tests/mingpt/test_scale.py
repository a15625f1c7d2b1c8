"""Several processes give the numbers of one, and end together; a text larger than the memory that it gets.

A start of torchrun takes seconds, so each of the two does several things: see `work_of_trainer`, `work_of_projects`.
"""

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from conftest import REPOSITORY, TESTS
from test_trainer import Stop, Sums, gpt, metrics, stop_at, stopping
from torch import distributed as dist

from mingpt.optim import OptimConfig
from mingpt.support.checkpoints import load_torch
from mingpt.support.files import read_text, write_json, write_text
from mingpt.support.processes import process_rank
from mingpt.trainer import Trainer, TrainerConfig
from projects.birthplace import run as birthplace
from projects.birthplace.dataset import WORLD
from projects.chargpt import run as chargpt
from projects.wikitext_induction import run as wikitext
from projects.wikitext_induction import training

FULL = bool(os.environ.get("MINGPT_FULL_TESTS"))
needs_torchrun = pytest.mark.skipif(
    not dist.is_available() or sys.platform == "win32", reason="this torch has no processes that work together"
)


def torchrun(environment, *words) -> tuple[subprocess.CompletedProcess, float]:
    """`work_of_...` in two processes: what came of it, and how long it took to end after the failure at its end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__, *words]
    done = subprocess.run(
        [str(word) for word in command],
        env={**environment, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{TESTS}"},
        text=True,
        capture_output=True,
        timeout=180,
    )
    assert (words[-1] / "failed_at").exists(), done.stderr
    return done, time.time() - float(read_text(words[-1] / "failed_at"))


def losses(folder, name="loss") -> list[float]:
    return [line[name] for line in metrics(folder) if name in line]


# ----------------------------------------------------------------------------------------------------------------------
# The trainer


class Recorded(Sums):
    """Examples that keep a list of which were read."""

    def __init__(self):
        super().__init__(count=54)
        self.read = []

    def __getitem__(self, i):
        self.read.append(i)
        return super().__getitem__(i)


def make(out_dir, **changes) -> Trainer:
    """Two epochs of 6 batches of 9: the shares of two processes are uneven."""
    config = dict(max_iters=12, batch_size=9, device="cpu", dtype="float32", eval_interval=6, checkpoint_interval=5)
    optim = OptimConfig(optimizer="muon", learning_rate=3e-3, warmup_iters=3)
    return Trainer(TrainerConfig(**{**config, **changes}), optim, gpt(), Recorded(), Sums(20, seed=1), out_dir)


def run_until(made: Trainer, step: int) -> None:
    made.add_callback("on_batch_end", lambda trainer: stop_at(trainer, step))
    with pytest.raises(Stop):
        made.run()


def work_of_trainer(folder: Path) -> None:
    """What each of two processes does; at the end the second one is killed."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    made, exchanged = make(folder / "two", accumulate=2), []

    def count(state, bucket):
        if bucket.is_last():  # gradients travel in buckets
            exchanged.append(made.iter_num)
        return allreduce_hook(state, bucket)

    made._trained.register_comm_hook(None, count)
    made.run()
    write_json(folder / f"rank{process_rank()}.json", {"read": made.batches.dataset.read, "exchanged": exchanged})

    make(folder / "one_then_two").run(resume=True)

    def kill(trainer):
        if trainer.iter_num == 8 and process_rank() == 1:
            write_text(folder / "failed_at", str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)

    made = make(folder / "two_then_one")
    made.add_callback("on_batch_end", kill)
    made.run()


@needs_torchrun
def test_two_processes_are_one_and_end_together(tmp_path, environment):
    make(tmp_path / "one").run()
    expected, expected_eval = losses(tmp_path / "one"), losses(tmp_path / "one", "eval_loss")
    run_until(make(tmp_path / "one_then_two"), 8)
    assert load_torch(tmp_path / "one_then_two" / "checkpoint.pt")["iter_num"] == 5

    done, seconds = torchrun(environment, "trainer", tmp_path)
    assert done.returncode != 0 and seconds < 15
    assert "error: process 0 of 2 stops because another one has ended; if that one left no message" in done.stderr
    assert "Traceback" not in done.stderr.split("torch/distributed/elastic")[0], "there is one, and that is torchrun's"
    assert "FutureWarning" not in done.stderr

    assert len(expected) == 12 and losses(tmp_path / "two") == pytest.approx(expected, rel=1e-4)
    assert losses(tmp_path / "two", "eval_loss") == pytest.approx(expected_eval, rel=1e-4)
    ranks = [json.loads(read_text(tmp_path / f"rank{rank}.json")) for rank in range(2)]
    for epoch in range(2):  # of 54 examples, half of them for each process, but for the odd one of 9
        shares = [rank["read"][len(rank["read"]) // 2 * epoch :][: len(rank["read"]) // 2] for rank in ranks]
        assert sorted(shares[0] + shares[1]) == list(range(54)), "each example was read once, by one process"
    assert ranks[0]["exchanged"] == ranks[1]["exchanged"] == list(range(12)), (
        "once a step, not for each of its two parts"
    )

    assert losses(tmp_path / "one_then_two") == pytest.approx(expected, rel=1e-4)
    assert load_torch(tmp_path / "two_then_one" / "checkpoint.pt")["iter_num"] == 5
    make(tmp_path / "two_then_one").run(resume=True)
    assert losses(tmp_path / "two_then_one") == pytest.approx(expected, rel=1e-4)


# ----------------------------------------------------------------------------------------------------------------------
# The projects


def commands(folder: Path) -> list[tuple]:
    """Short runs of the projects that take torchrun, in float32, so that they can be compared.

    Birthplace has rotary positions here: with learned ones its model begins at random places, which each process draws.
    """
    common = ("--quick", "--device", "cpu", "--dtype", "float32")
    return [
        (
            chargpt,
            "train",
            folder.parent / "text.txt",
            *common,
            "--max_iters",
            "9",
            "--accumulate",
            "2",
            "--max_new_tokens",
            "5",
            "--out",
            folder / "chargpt",
        ),
        (
            birthplace,
            "finetune",
            "rope",
            WORLD / "wiki.txt",
            *common,
            "--max_epochs",
            "1",
            "--writing_params_path",
            folder / "params",
            "--out",
            folder / "birthplace",
            "--finetune_corpus_path",
            WORLD / "birth_places_train.tsv",
        ),
        *(
            (
                wikitext,
                kind,
                *common,
                "--nets",
                "conv-attention,detached",
                "--train_chars",
                "15000",
                "--vocab_size",
                "400",
                "--block_size",
                "320",
                "--repeat_steps",
                "5",
                "--out",
                folder / "wikitext",
            )
            for kind in ("text", "repeats")
        ),
    ]


def run_projects(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(wikitext, "report", lambda out: (out / f"report{process_rank()}").touch())  # its figures take seconds
    patch.setattr(chargpt, "plot_losses", lambda out: None)
    for project, *words in commands(folder):
        patch.setattr(sys, "argv", ["run.py", *map(str, words)])
        project.main()


def run_wikitext(folder: Path, patch: pytest.MonkeyPatch, *more) -> None:
    """The same run on text as that of `run_projects`, with `more` words."""
    _, *words = commands(folder)[2]
    patch.setattr(sys, "argv", ["run.py", *map(str, words), "--checkpoint_interval", "2", *more])
    wikitext.main()


def work_of_projects(folder: Path) -> None:
    """What each of two processes does; at the end there is a text that the first one cannot prepare."""
    with pytest.MonkeyPatch.context() as patch:
        run_projects(folder / "two", patch)
        with redirect_stdout(io.TextIOWrapper(io.BytesIO())):  # main reconfigures it, which a StringIO cannot do
            run_wikitext(folder / "stopped", patch, "--resume")
        write_text(folder / "failed_at", str(time.time()))
        sys.argv = ["run.py", "train", str(folder / "latin.txt"), "--quick", "--out", str(folder / "latin")]
        chargpt.main()


@needs_torchrun
def test_projects_in_two_processes(tmp_path, environment, monkeypatch, capsys):
    write_text(tmp_path / "text.txt", "".join(f"Then {n} of them went home by {n * 7 % 61}. " for n in range(3000)))
    run_projects(tmp_path / "one", monkeypatch)
    said = capsys.readouterr().out
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(training, "Trainer", stopping(3))
        run_wikitext(tmp_path / "stopped", patch)
    capsys.readouterr()
    measured = tmp_path / "stopped" / "wikitext" / "text" / "conv-attention.seed0" / "measured.json"
    saved = json.loads(read_text(measured))
    saved["curve"][0]["before the stop"] = True
    write_json(measured, saved)
    (tmp_path / "latin.txt").write_bytes("Zoë".encode("latin-1") * 100)
    done, seconds = torchrun(environment, "projects", tmp_path)
    assert done.returncode != 0 and seconds < 20
    assert "latin.txt:1: not UTF-8 text (invalid continuation byte); save the file as UTF-8\n" in done.stderr
    assert (
        "error: process 1 of 2 stops because another one has ended" in done.stderr
        and "FutureWarning" not in done.stderr
    )

    def lines(shown, folder):  # but for times and rounding
        return [
            line.replace(folder, "")
            for line in shown.splitlines()
            if line and "s in all" not in line and "oss" not in line
        ]

    assert lines(done.stdout, "/two/") == lines(said, "/one/"), "the first process says what one says"
    assert done.stderr.count("9/9") == 1, "one progress bar"
    one, two = (
        {path.relative_to(tmp_path / name): path for path in (tmp_path / name).rglob("*")} for name in ("one", "two")
    )
    assert set(one) == set(two), "the same files, and none of a second process"
    compared = [path for path in one if path.name == "metrics.jsonl"]
    assert len(compared) == 2
    for path in compared:
        first, second = losses(one[path].parent), losses(two[path].parent)
        assert len(first) == len(second) and second[:12] == pytest.approx(first[:12], rel=1e-3), path
    for kind in ("text", "repeats"):
        first, second = (
            json.loads(read_text(tmp_path / name / "wikitext" / kind / "conv-attention.seed0.json"))
            for name in ("one", "two")
        )
        key = {"text": "train_loss", "repeats": "repeat_loss"}[kind]
        assert second["final"][key] == pytest.approx(first["final"][key], rel=1e-3, abs=2e-3)
        if kind == "text":  # begun in one process, and gone on with in two
            third = json.loads(read_text(tmp_path / "stopped" / "wikitext" / kind / "conv-attention.seed0.json"))
            assert third["curve"][0].get("before the stop"), "it went on, and did not begin anew"
            assert [p["step"] for p in third["curve"]] == [p["step"] for p in first["curve"]]
            assert third["final"][key] == pytest.approx(first["final"][key], rel=1e-3, abs=2e-3)


# ----------------------------------------------------------------------------------------------------------------------
# A text larger than memory


def write_large_text(path: Path, size: int) -> None:
    """About `size` bytes of text with characters of 1, 2 and 4 bytes, written piece by piece."""
    piece = "".join(f"Zoë saw 😀 {n} times; then {n * 7 % 61} of them went home.\n" for n in range(1000)).encode() * 20
    with open(path, "wb") as file:
        for _ in range(-(-size // len(piece))):
            file.write(piece)


def peak_memory_of_training(folder: Path, environment, size: int) -> int:
    """Bytes of resident memory at the peak of a process that prepares and trains on `size` bytes of text."""
    path, out = folder / "large.txt", folder / "out"
    write_large_text(path, size)
    words = ["--max_iters", "3", "--batch_size", "4", "--eval_windows", "4", "--max_new_tokens", "5", "--device", "cpu"]
    script = REPOSITORY / "projects" / "chargpt" / "run.py"
    run = subprocess.Popen(
        [sys.executable, script, "train", path, *words, "--out", out],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(run.pid, 0)
    run.returncode = os.waitstatus_to_exitcode(status)
    assert run.returncode == 0 and len(losses(out)) == 3
    for large in (path, out / "tokens.bin"):
        large.unlink()
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell the peak memory of a child")
def test_a_larger_text_takes_no_more_memory(tmp_path, environment):
    """An eighth of what the text has more: the order of the windows takes 8 bytes for each 128 tokens."""
    small, large = (peak_memory_of_training(tmp_path, environment, size) for size in (16_000_000, 64_000_000))
    assert large - small < 48_000_000 / 8, f"{small / 1e6:.0f} and {large / 1e6:.0f} MB"


@pytest.mark.skipif(not FULL, reason="a minute and 3 GB of disk; set MINGPT_FULL_TESTS=1 to run it")
def test_a_gigabyte_of_text_takes_less_memory_than_that(tmp_path, environment):
    peak = peak_memory_of_training(tmp_path, environment, 1_000_000_000)
    print(f"\n1 GB of text, {peak / 1e6:.0f} MB of memory")
    assert peak < 1_000_000_000


if __name__ == "__main__":
    from mingpt.support.command import one_line_errors

    with one_line_errors():
        {"trainer": work_of_trainer, "projects": work_of_projects}[sys.argv[1]](Path(sys.argv[2]))
