"""A world of a dozen people and a submission for it that deserves full marks, made in a few seconds.

The models know the answers because they were trained on the questions of the exam. That is what the assignment forbids;
here it is a quick way to a model that knows something.
"""

import functools
import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, made_once

from mingpt.support.files import read_json, write_text
from projects.birthplace.assignment import checks, grade, probe, sandbox
from projects.birthplace.assignment.sandbox import run_untrusted
from projects.birthplace.dataset import NameDataset, make_tokenizer
from projects.birthplace.evaluate import predict
from projects.birthplace.recipes import get_recipe
from projects.birthplace.steps import Settings, new_model, save_parameters, train

PEOPLE = {
    "Zoë Müller": "Zürich",
    "Ada Roe": "Oslo",
    "Bo Lind": "Rome",
    "Cy Weiss": "Bern",
    "Di Kaur": "Lima",
    "Ed Moss": "Oslo",
    "Flo Nagy": "Paris",
    "Gus Park": "Riga",
    "Hal Berg": "Oslo",
    "Ida Stone": "Kyiv",
    "Jo Frost": "Oslo",
    "Kit Vale": "Rome",
}
ASKED = {"birth_dev.tsv": slice(0, 8), "birth_test_inputs.tsv": slice(8, 10), "birth_places_train.tsv": slice(8, 12)}
VARIANTS = ("vanilla", "rope")
SEED = 7


def question(name: str) -> str:
    return f"Where was {name} born?"


def make_world(root: Path) -> None:
    """Write `data`, and what the study would leave in `out`, into a folder."""
    people = list(PEOPLE.items())
    corpus = "".join(f"{name}. {name} was born in {place}?\n" for name, place in people) + "Where.\n"
    write_text(root / "data" / "wiki.txt", corpus)
    for file, part in ASKED.items():
        answers = "inputs" not in file
        write_text(
            root / "data" / file,
            "".join(question(name) + (f"\t{place}" if answers else "") + "\n" for name, place in people[part]),
        )
    tokenizer, recipe = make_tokenizer(corpus), get_recipe("quick")
    for variant in VARIANTS:
        settings = Settings(variant, recipe, device="cpu", dtype="float32")
        for name, steps in (("nopretrain", 2), ("pretrain", 60)):
            phase = replace(recipe.finetune, trainer=replace(recipe.finetune.trainer, max_iters=steps))
            pairs = "".join(f"{question(person)}\t{place}\n" for person, place in people)
            model = new_model(settings, tokenizer)
            train(
                settings,
                phase,
                model,
                tokenizer,
                NameDataset(pairs, tokenizer),
                root / "training" / f"{variant}.{name}",
            )
            save_parameters(root / "out" / f"{variant}.{name}.finetune.params", settings, model, tokenizer)
            for which, file in (("dev", "birth_dev.tsv"), ("test", "birth_test_inputs.tsv")):
                said = predict(model, tokenizer, [question(person) for person, _ in people[ASKED[file]]])
                write_text(
                    root / "out" / f"{variant}.{name}.{which}.predictions", "".join(f"{line}\n" for line in said)
                )
        save_parameters(root / "out" / f"{variant}.pretrain.params", settings, model, tokenizer)


def data() -> Path:
    """The world's folder. Not to be changed."""
    return made_once("world", make_world) / "data"


def out() -> Path:
    """What the study would have written. Not to be changed."""
    return made_once("world", make_world) / "out"


def submission(folder: Path) -> Path:
    """An unpacked submission in `folder`, to be changed at will."""
    for path in out().iterdir():
        name = path.name.replace(".nopretrain.finetune.params", ".model.params").replace(
            ".pretrain.finetune.", ".finetune."
        )
        if name.endswith((".params", ".predictions")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
    for part in ("mingpt", "projects/birthplace"):
        (folder / part).mkdir(parents=True)
        for path in (REPOSITORY / part).rglob("*.py"):
            copy = folder / path.relative_to(REPOSITORY)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    return folder


def ask_here(probes, limits):
    """`sandbox.run_ours` without the process of its own, which takes seconds to start. For `monkeypatch`."""
    results = []
    for name, arguments in probes:
        try:
            results.append({"value": probe.PROBES[name](**arguments)})
        except Exception as error:
            results.append({"error": probe.describe(error)})
    return results, ""


class Forked:
    """A stand-in for `subprocess.Popen` of the sandbox's script: a copy of this process, in which torch is imported
    already.

    It imports the project's modules anew, from the submission. The isolation of the real process is tested by itself.
    """

    def __init__(self, command, cwd, env, **streams):
        self.pid, self.status = os.fork(), None
        if self.pid == 0:
            status = 1
            try:
                os.setsid()
                os.chdir(cwd)
                os.dup2(streams["stderr"].fileno(), 2)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
                torch.set_num_threads(1)  # OpenMP's other threads are not in the copy
                for name in list(sys.modules):
                    if name.split(".")[0] in ("mingpt", "projects", "data"):
                        del sys.modules[name]
                sys.path[:] = [folder for folder in sys.path if folder not in ("", str(REPOSITORY))]
                runpy.run_path(command[-1], run_name="__main__")
                status = 0
            finally:
                os._exit(status)

    def wait(self, seconds: float = 120) -> int:
        ends = time.monotonic() + seconds
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > ends:
                raise subprocess.TimeoutExpired("probe.py", seconds)
            else:
                time.sleep(0.01)
        return self.status

    def kill(self) -> None:
        """Nothing: the sandbox kills the group of processes before."""


@contextmanager
def forking():
    """Submissions' code runs in copies of this process instead of new ones, which take seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        if hasattr(os, "fork"):
            patch.setattr(sandbox.subprocess, "Popen", Forked)
        yield


@functools.cache
def answered() -> tuple[list, str]:
    """What this code answers to the exam of SEED, by way of the sandbox."""
    return tuple(read_json(made_once("answers", write_answers) / "answers.json"))


def write_answers(folder: Path) -> None:
    seen = []
    with tempfile.TemporaryDirectory() as unpacked, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "run_untrusted", lambda *args: seen.append(run_untrusted(*args)) or seen[0])
        grade.mark_code(submission(Path(unpacked)), list(VARIANTS), checks.Exam.from_seed(SEED), sandbox.Limits())
    write_text(folder / "answers.json", json.dumps(seen[0]))


def edit(path: Path, old: str, new: str) -> None:
    """Replace the one place of `old` in a file."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path.name}"
    write_text(path, text.replace(old, new))
