"""Marking: what breaks a property loses its points and no others, and what attacks the grader gains none."""

import json
import math
import os
import random
import shutil
import stat
import struct
import sys
import time
import warnings
import zipfile
from pathlib import Path

import birthplace_submission as world
import pytest
import torch
from birthplace_submission import edit
from conftest import REPOSITORY

from mingpt.model import Block, CausalSelfAttention
from mingpt.support.checkpoints import load_torch
from mingpt.support.files import read_text, write_text
from projects.birthplace.assignment import checks, grade, probe, reference, sandbox
from projects.birthplace.assignment.checks import Exam
from projects.birthplace.assignment.grade import GradeOptions
from projects.birthplace.assignment.sandbox import Limits, run_untrusted, unpack
from projects.birthplace.dataset import CharCorruptionDataset, make_tokenizer
from projects.birthplace.files import load_files
from projects.birthplace.recipes import get_recipe
from projects.birthplace.run import main
from projects.birthplace.steps import Settings, new_model, save_parameters
from projects.birthplace.variants import VARIANTS, SynthesizerAttention

SEED = world.SEED
RUN_OURS = sandbox.run_ours


def options(**changes) -> GradeOptions:
    return GradeOptions(**{"data_dir": str(world.data()), "full_marks_at": 75.0, "seed": SEED, **changes})


def lost(report: dict) -> dict[str, str]:
    """Property -> reason, of the lines that did not get all their points."""
    return {line["name"]: line["reason"] for line in report["lines"] if line["points"] != line["of"]}


@pytest.fixture(scope="module", autouse=True)
def ask_here():
    """Submitted parameters are asked in this process; that they are in another is tested by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "run_ours", world.ask_here)
        yield


@pytest.fixture(scope="module")
def correct(tmp_path_factory, ask_here):
    """A correct submission, its marks, and what its code answered."""
    folder = world.submission(tmp_path_factory.mktemp("correct"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "run_untrusted", lambda *_: world.answered())
        report = grade.grade(str(folder), options())
    return folder, report, world.answered()


@pytest.fixture
def submission(tmp_path):
    return world.submission(tmp_path / "submission")


def test_a_correct_submission_gets_full_marks(correct):
    _, report, _ = correct
    assert lost(report) == {} and report["points"] == report["of"] == 100 and report["variants"] == ["vanilla", "rope"]


# Submissions, each with one mistake: file, what stood there, what stands there now, the property, words of the reason.
DATASET, MODEL = "projects/birthplace/dataset.py", "mingpt/model.py"
BROKEN = {
    "the vocabulary is sorted the wrong way round": (
        "mingpt/char.py",
        "sorted(set(text))",
        "sorted(set(text), reverse=True)",
        "vocabulary: PAD, MASK, the sorted characters",
        "index 2 is U+",
    ),
    "empty lines are documents": (
        DATASET,
        'documents = [line for line in corpus.split("\\n") if line]',
        'documents = corpus.split("\\n")',
        "a document a line, no empty ones",
        "24 documents, not 12: empty lines are none",
    ),
    "y is not moved": (
        DATASET,
        "        return _shifted(self.corrupt(self.documents[i], rng), self.tokenizer, self.block_size)\n",
        "        x, y = _shifted(self.corrupt(self.documents[i], rng), self.tokenizer, self.block_size)\n"
        "        return x, x\n",
        "y is x moved by one",
        "x[1:] is not y[:-1]",
    ),
    "what comes after the gap is written before what comes before it": (
        DATASET,
        "prefix + MASK + suffix + MASK",
        "suffix + MASK + prefix + MASK",
        "reassembled, it is a beginning of the document",
        "is no beginning of",
    ),
    "documents are cut too late": (
        DATASET,
        "longest = min(self.longest, len(document))",
        "longest = min(120, len(document))",
        "never longer than 112, or than the document",
        "at most 112",
    ),
    "the first character of the answer is not trained on": (
        DATASET,
        "y[: len(question)] = self.pad_id",
        "y[: len(question) + 1] = self.pad_id",
        "y: padding up to the answer, then the answer ⁇",
        "instead of",
    ),
    "rotated keys are centred over all positions": (
        MODEL,
        "q, k = rotate(q, rotation), rotate(k, rotation)",
        "q, k = rotate(q, rotation), rotate(k - k.mean(-2, keepdim=True), rotation)",
        "rope: causal",
        "change the logits at position ",
    ),
    "finetuning forgets what pretraining has written": (
        "projects/birthplace/commands.py",
        "load_parameters(reading, settings, tokenizer) if reading else new_model",
        "new_model",
        "pretrain and finetune: train as long as they are told, and write parameters",
        "does not end with the parameters",
    ),
    "london says Paris": (
        "projects/birthplace/commands.py",
        'mark(["London"] * len',
        'mark(["Paris"] * len',
        "london: what London and the commonest answer score",
        "london does not print 'Correct: 3 out of 20: 15.0%'",
    ),
    "a line of predictions too many": (
        "vanilla.pretrain.dev.predictions",
        "Zürich\nOslo\nRome\nBern\nLima\nOslo\nParis\nRiga\n",
        "Zürich\nOslo\nRome\nBern\nLima\nOslo\nParis\nRiga\nRome\n",
        "vanilla: one prediction a question",
        "vanilla.pretrain.dev.predictions: 9 lines for 8 questions; there must be",
    ),
    "predictions that no model made": (
        "rope.pretrain.test.predictions",
        "Oslo\nKyiv\n",
        "Oslo\nRome\n",
        "rope: they are what the parameters answer",
        "line 2 is 'Rome', they answer 'Kyiv'",
    ),
    "the model knows nothing": (
        "rope.finetune.params",
        None,
        None,
        "rope: right on dev after pretraining",
        "0 of 8, 0.0 %",
    ),
}


def know_nothing(folder: Path) -> None:
    """rope as it was before it learned anything, and what it answers."""
    files, path = load_files("cs224n", world.data()), folder / "rope.finetune.params"
    shutil.copyfile(world.out() / "rope.nopretrain.finetune.params", path)
    for which, said in grade.ask(folder, ["rope"], files)[path.name].items():
        write_text(folder / f"rope.pretrain.{which}.predictions", "".join(f"{line}\n" for line in said))


# Three at a time where they are in the code, which is run for seconds: they are independent of each other, and say so.
TOGETHER = [
    [
        "the vocabulary is sorted the wrong way round",
        "what comes after the gap is written before what comes before it",
        "finetuning forgets what pretraining has written",
    ],
    ["empty lines are documents", "the first character of the answer is not trained on", "london says Paris"],
    ["y is not moved", "documents are cut too late", "rotated keys are centred over all positions"],
    ["a line of predictions too many"],
    ["predictions that no model made"],
    ["the model knows nothing"],
]


@pytest.mark.parametrize("mistakes", TOGETHER, ids="; ".join)
def test_a_broken_property_loses_its_points_and_no_others(mistakes, submission, correct, monkeypatch):
    expected, files = {}, set()
    for mistake in mistakes:
        file, old, new, name, reason = BROKEN[mistake]
        files.add(file)
        expected[name] = reason
        if old is None:
            know_nothing(submission)
        else:
            edit(submission / file, old, new)
    if not any(file.endswith(".py") for file in files):  # the same code and the same seed: it would answer the same
        monkeypatch.setattr(sandbox, "run_untrusted", lambda *_: correct[2])
    with world.forking():
        report = grade.grade(str(submission), options())
    assert set(lost(report)) == set(expected) and all(
        reason in lost(report)[name] for name, reason in expected.items()
    ), lost(report)
    assert report["points"] == 100 - sum(line["of"] for line in report["lines"] if line["name"] in expected)


def test_each_mistake_is_made_once():
    assert sorted(mistake for mistakes in TOGETHER for mistake in mistakes) == sorted(BROKEN)


def law(name: str):
    """The dataset with one thing done differently."""

    class Other(CharCorruptionDataset):
        def corrupt(self, document, rng):
            string = super().corrupt(document, rng)
            return {"no last mark": string[:-1], "a mark as padding": string + probe_mark}.get(name, string)

        def split(self, document, rng):
            longest = min(112, len(document))
            length = rng.randint(min(10 if name == "no short ones" else 4, longest), longest)
            most = max(1, (length - 2 + rng.randint(0, 1) * (length % 2)) // 2)
            masked = rng.randint(0 if name == "nothing masked" else 1, most)
            if name == "half of it":
                masked = rng.randint(1, max(1, length - 1))
            if name == "always a quarter":
                masked = max(1, round(length / 4))
            start = length - masked if name == "always at the end" else rng.randint(0, length - masked)
            return document[:start], document[start : start + masked], document[start + masked : length]

        def __getitem__(self, i):
            x, y = super().__getitem__(i)
            return (x.int(), y.int()) if name == "32 bits" else (x, y)

    probe_mark = checks.MASK
    return Other


@pytest.mark.parametrize(
    "name, expected",
    [
        ("as specified", set()),
        ("no last mark", {"three marks: prefix ⁇ suffix ⁇ masked ⁇"}),
        ("a mark as padding", {"padded at the end, and only there"}),
        ("no short ones", {"every length from 4 to 112 is drawn"}),
        ("nothing masked", {"something is always masked"}),
        ("always a quarter", {"the masked length is random"}),
        ("always at the end", {"the gap can be anywhere"}),
        ("half of it", {"a quarter is masked on average"}),
        ("32 bits", {"x and y are int64, here and in span corruption"}),
    ],
)
def test_each_property_of_span_corruption_is_judged_by_itself(name, expected, monkeypatch):
    exam = Exam.from_seed(SEED)
    monkeypatch.setattr("projects.birthplace.dataset.CharCorruptionDataset", law(name))
    raw = probe.corruption(exam.text, checks.BLOCK_SIZE, exam.seed, exam.draws)
    lines, dtypes = checks.mark_spans(exam, probe.vocabulary(exam.text), raw)
    lines.append(checks.mark_dtypes(dtypes))
    assert {line.name for line in lines if line.points != line.of} == expected


def test_a_right_submission_passes_whatever_the_seed():
    """The law itself, by formula instead of by dataset: 20 exams' worth of draws against the margins."""
    document = "".join(chr(0x4E00 + i) for i in range(200))
    for seed in range(20):
        rng, draws = random.Random(seed), []
        dataset = object.__new__(CharCorruptionDataset)
        dataset.longest = 112
        for _ in range(len(checks.LONG) * checks.EPOCHS):
            prefix, masked, suffix = dataset.split(document, rng)
            draws.append(checks.Draw(document, prefix, suffix, masked, ""))
        assert not [problem for _, _, check in checks.PROPERTIES if (problem := check(draws))]
    # The likeliest failure: of 109 lengths, one is never drawn.
    assert 109 * (1 - 1 / 109) ** len(draws) < 1e-6


def test_a_model_that_is_causal_but_another_one_is_told_apart(correct):
    exam = Exam.from_seed(SEED)
    rows = torch.tensor(exam.rows)
    bigram = torch.randn(exam.V, exam.V)[rows].tolist()  # looks at the last token only
    assert checks.sees_the_future(exam, bigram) is None
    assert "the specified model gives other logits" in reference.other_logits(exam, "vanilla", bigram)
    constant = torch.zeros(len(rows), 24, exam.V).tolist()
    assert "do not depend on the token there" in checks.sees_the_future(exam, constant)
    for strange in (10**400, math.inf, True, "1.0"):
        with pytest.raises(checks.Malformed, match="a logit is not a finite number"):
            checks.read_logits([[[0.0, strange]]], 1, 1, 2)


def test_predictions_in_another_order_are_not_the_likeliest_characters():
    exam = Exam.from_seed(SEED)
    said = probe.answers(exam.characters, exam.seeds, exam.asked)
    assert len(set(sum(said, []))) > 10 and min(map(len, sum(said, []))) < 32, "various answers, some of which end"
    assert reference.other_answers(exam, said) is None
    assert "the likeliest characters are" in reference.other_answers(exam, [answers[::-1] for answers in said])
    assert reference.other_answers(exam, [answers[1:] for answers in said]) == "7 answers to 8 questions"


# ----------------------------------------------------------------------------------------------------------------------
# Parameters and predictions


def marks(folder, variant="rope"):
    files = load_files("cs224n", world.data())
    lines = grade.mark_predictions(folder, variant, files, options(data="cs224n"), grade.ask(folder, [variant], files))
    return [line.points for line in lines], [line.reason for line in lines]


def test_accuracy_is_that_of_the_parameters(submission):
    """Gold answers copied into the file, by someone whose model knows nothing."""
    shutil.copyfile(submission / "vanilla.model.params", submission / "vanilla.finetune.params")
    points, reasons = marks(submission, "vanilla")
    assert (
        points == [3, 0, 0] and "0 of 8, 0.0 %" in reasons[2] and "0 of 8 are what the parameters answer" in reasons[1]
    )


def test_accuracy_is_paid_in_proportion(monkeypatch):
    files = load_files("cs224n", world.data())
    answers = files.dev.answers  # of 8, two are Oslo, which is the commonest in training
    for right, points in ((0, 0), (2, 0), (4, 3.5), (5, 5.2), (6, 7), (8, 7)):
        line = grade.mark_accuracy("rope", answers[:right] + ["Atlantis"] * (8 - right), files, options(data="cs224n"))
        assert line.points == pytest.approx(points, abs=0.06)
    with pytest.raises(ValueError, match="--full_marks_at is 20.0; always answering Oslo already gets 25.0 %"):
        grade.mark_accuracy("rope", answers, files, options(data="cs224n", full_marks_at=20.0))


def test_parameters_of_another_variant_or_width_or_corpus_are_named(submission, tmp_path):
    shutil.copyfile(submission / "vanilla.finetune.params", submission / "rope.finetune.params")
    points, reasons = marks(submission)
    assert points == [3, 0, 0] and reasons[1] == "rope.finetune.params: parameters of variant vanilla, not rope"

    saved = load_torch(submission / "vanilla.finetune.params")
    saved["variant"], saved["config"]["positions"] = "rope", "rotary"
    saved["config"]["n_embd"] = 32
    torch.save(saved, submission / "rope.finetune.params")
    points, reasons = marks(submission)
    assert points == [3, 0, 0] and reasons[1].startswith("rope.finetune.params: ") and "\n" not in reasons[1]

    saved["config"]["n_embd"], saved["config"]["n_layer"] = 4096, 64
    torch.save(saved, submission / "rope.finetune.params")
    assert "n_layer 64, n_embd 4096 and block_size 128; the assignment allows 5,000,000" in marks(submission)[1][1]
    saved["config"]["n_embd"], saved["config"]["n_layer"] = 64, 2
    saved["model"]["transformer.ln_f.weight"] = [1.0] * 64
    torch.save(saved, submission / "rope.finetune.params")
    assert "not all arrays of floating-point numbers" in marks(submission)[1][1]

    tokenizer, settings = make_tokenizer("another corpus"), Settings("rope", get_recipe("quick"))
    save_parameters(submission / "rope.finetune.params", settings, new_model(settings, tokenizer), tokenizer)
    assert "parameters for another vocabulary" in marks(submission)[1][1]


def test_parameters_that_are_no_parameters_are_named_and_never_run(submission, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    path = submission / "rope.finetune.params"
    torch.save({"format": "birthplace parameters 1", "model": Evil()}, path)
    assert "not a file of parameters that can be loaded safely" in marks(submission)[1][1]
    assert not (tmp_path / "pwned").exists()
    torch.save({"format": "birthplace parameters 1", "model": Evil()}, path, _use_new_zipfile_serialization=False)
    assert marks(submission)[1][1] == "rope.finetune.params: not written by torch.save"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(1 << 20))
    assert "too large" in marks(submission)[1][1]
    torch.save([1, 2], path)
    assert "not written by `run.py pretrain`" in marks(submission)[1][1]
    path.unlink()
    points, reasons = marks(submission)
    assert (
        points == [3, 0, 0]
        and reasons[1] == "rope.finetune.params: no such file"
        and reasons[2] == "no answers to mark"
    )


def test_parameters_are_read_in_another_process(submission, tmp_path, monkeypatch):
    """Files that would take the marker's memory or time, or end in a traceback, cost their own points, and no more."""

    class Large:
        def __reduce__(self):
            return bytearray, (6 << 30,)

    files, path = load_files("cs224n", world.data()), submission / "rope.finetune.params"
    saved, asked = load_torch(path), {}
    deep = "x"
    for _ in range(12):  # printed, it would have 10^12 characters
        deep = [deep] * 10
    for name, change in (
        ("good", {}),
        ("large", {"config": Large()}),
        ("deep", {"config": {**saved["config"], "block_size": deep}}),
        ("keys", {"model": {1: saved["model"]["transformer.ln_f.weight"]}}),
        ("fields", {"config": {**saved["config"], 1: 2}}),
        ("bare", {"bottleneck_dim": None}),
    ):
        asked[submission / f"{name}.params"] = "rope"
        torch.save({**saved, **change}, submission / f"{name}.params")
    monkeypatch.undo()
    started = time.perf_counter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "run_ours", RUN_OURS)
        said = reference.answer(asked, make_tokenizer(files.corpus), files.dev.questions)
        patch.setattr(reference, "LIMITS", Limits(seconds=1))
        late = reference.answer(asked, make_tokenizer(files.corpus), files.dev.questions)
    reasons = {path.stem: reason for path, reason in said.items()}
    assert reasons.pop("good") == files.dev.answers
    if sys.platform == "linux":
        assert reasons["large"].startswith("large.params: not a file of parameters that can be loaded safely")
    assert reasons["deep"] == "deep.params: its n_layer, n_embd and block_size are not all sizes"
    assert all(
        reasons[name] == f"{name}.params: not written by `run.py pretrain` or `run.py finetune`"
        for name in ("keys", "fields", "bare")
    )
    assert late[submission / "bare.params"] == "bare.params: cannot be used (the code took more than 1 s)"
    assert time.perf_counter() - started < 60


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_that_leaks_is_found_out(variant, monkeypatch):
    """Each in its own layer; in the perceiver between its vectors."""
    exam = Exam.from_seed(SEED)
    assert checks.sees_the_future(exam, probe.logits(variant, exam.V, exam.seed, exam.rows)) is None
    if variant == "perceiver":
        forward = Block.forward

        def leak(block, x, *context):
            y = forward(block, x, *context)
            return y + x.flip(1) if x.size(1) < 24 else y  # fewer than positions: these are the vectors

        monkeypatch.setattr(Block, "forward", leak)
    else:
        attention = SynthesizerAttention if variant == "synthesizer" else CausalSelfAttention
        attend = attention.forward
        monkeypatch.setattr(
            attention, "forward", lambda self, x, *context: attend(self, x, *context) + x.mean(1, keepdim=True)
        )
    raw = probe.logits(variant, exam.V, exam.seed, exam.rows)
    assert "change the logits at position" in checks.sees_the_future(exam, raw)


def test_missing_predictions_lose_points_and_strange_line_ends_do_not(submission):
    path = submission / "rope.pretrain.dev.predictions"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert marks(submission)[0] == [3, 4, 7]
    path.unlink()
    points, reasons = marks(submission)
    assert points == [0, 0, 7] and reasons[0] == "rope.pretrain.dev.predictions: no such file"


# ----------------------------------------------------------------------------------------------------------------------
# Attacks


def hostile(folder: Path, text: str) -> Path:
    """A submission's code that does this as soon as it is imported."""
    for part in ("mingpt", "projects/birthplace"):
        (folder / part).mkdir(parents=True)
    write_text(folder / DATASET, f"import json, os, sys, time\n{text}\n")
    return folder


def attack(folder: Path, text: str, **limits):
    return run_untrusted(
        Path(probe.__file__),
        hostile(folder, text),
        {"probes": [["vocabulary", {"text": "a"}]]},
        Limits(**{"seconds": 20, **limits}),
    )


def test_what_code_prints_counts_for_nothing(tmp_path):
    assert attack(tmp_path, """print('{"value": "full marks"}', flush=True); os._exit(0)""") == ([], "")


def test_a_hang_is_ended_and_what_came_before_it_counts(tmp_path):
    started = time.perf_counter()
    values, problem = attack(
        tmp_path, """open("result.jsonl", "w").write("1\\n2\\nbroken"); time.sleep(60)""", seconds=2
    )
    assert values == [1, 2] and problem.startswith("the code took more than 2 s") and time.perf_counter() - started < 20


def test_a_crash_is_reported_without_what_a_terminal_obeys(tmp_path):
    text = r"""sys.stderr.write("\x1b[2J\x07full marks\u202e" * 99); sys.stderr.flush(); os._exit(3)"""
    values, problem = attack(tmp_path, text)
    assert values == [] and problem.startswith("the code ended with status 3")
    assert problem.isprintable() and len(problem) <= 160


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")
@pytest.mark.parametrize(
    "text, error",
    [
        ("bytearray(6 << 30)", "MemoryError"),
        (
            "open('big', 'wb').write(bytes(2 << 20)); os.stat('big').st_size < 2 << 20 or sys.exit('no limit')",
            "OSError",
        ),
        ("[open('/dev/null') for _ in range(300)].sort(key=id)", "OSError"),
        ("raise SystemExit('full marks')", "SystemExit"),
    ],
)
def test_what_is_used_is_limited(tmp_path, text, error):
    if error == "MemoryError" and sys.platform != "linux":
        pytest.skip("only Linux limits the memory of a process")
    values, _ = attack(tmp_path, text, file_size=1 << 20)
    assert len(values) == 1 and values[0]["error"].startswith(error)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here to see processes in")
def test_a_process_left_behind_is_ended(tmp_path):
    note = tmp_path / "pid"
    attack(
        tmp_path / "code",
        f"child = os.fork()\nif child == 0: time.sleep(60)\nopen({str(note)!r}, 'w').write(str(child))\nos._exit(0)",
    )
    state = Path(f"/proc/{note.read_text()}/stat")

    def ended():
        try:
            return ") Z " in state.read_text()  # dead and not yet collected
        except (FileNotFoundError, ProcessLookupError):
            return True

    for _ in range(100):
        if ended():
            break
        time.sleep(0.05)
    assert ended(), "the child still runs"


def test_the_markers_variables_and_files_are_not_handed_on(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKEN", "secret"), monkeypatch.setenv("PYTHONSTARTUP", "x")
    with open(tmp_path / "gold", "w") as gold:
        os.set_inheritable(gold.fileno(), True)
        values, _ = attack(
            tmp_path / "code",
            """
paths = [os.readlink("/proc/self/fd/" + n) for n in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" +
n)] \
    if os.path.isdir("/proc/self/fd") else []
open("result.jsonl", "w").write(json.dumps([sorted(os.environ), paths, os.getcwd(), sys.path]) + "\\n"); os._exit(0)""",
        )
    variables, paths, home, path = values[0]
    assert "TOKEN" not in variables and "PYTHONPATH" not in variables and not any("gold" in p for p in paths)
    assert str(REPOSITORY) not in [home, *path], "an import cannot find the solution"


def test_a_submission_that_lacks_a_module_does_not_get_ours(tmp_path):
    values, _ = attack(tmp_path, "import projects.birthplace.assignment.reference")
    assert "No module named 'projects.birthplace.assignment" in values[0]["error"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files here")
@pytest.mark.parametrize(
    "text",
    [
        "os.mkfifo('result.jsonl')",
        "os.symlink('/etc/hostname', 'result.jsonl')",
        "os.mkdir('result.jsonl')",
        "pass",
        "open('result.jsonl', 'w').write('[' * 10**6 + '\\n')",
    ],
)
def test_results_are_read_from_a_plain_file_only(tmp_path, text):
    assert attack(tmp_path, f"os.remove('result.jsonl'); {text}; os._exit(0)") == ([], "")


FORGERIES = [
    None,
    1,
    "full marks",
    [],
    [[]],
    {"value": None},
    {"value": 10**400},
    {"value": {"points": 100}},
    {"value": [math.nan]},
    {"value": {"documents": 12, "examples": [{"x": [0], "y": [0], "dtypes": ["torch.int64"]}] * 2500}},
    {"value": {"documents": [], "examples": {}}},
    {"error": ["not", "text"]},
    {"value": [[[1e999]]]},
]


@pytest.mark.parametrize("forged", FORGERIES, ids=lambda value: repr(value)[:30])
def test_forged_results_gain_nothing(forged, correct, monkeypatch):
    monkeypatch.setattr(sandbox, "run_untrusted", lambda *_: ([forged] * 20, ""))
    lines = grade.mark_code(correct[0], ["vanilla", "rope"], Exam.from_seed(SEED), Limits())
    assert sum(line.points for line in lines) == 0 and all(line.reason for line in lines)


def test_forged_examples_with_a_true_vocabulary_gain_nothing(correct, monkeypatch):
    """All as asked but for what is in it: rows of padding, or answers to another exam."""
    exam, values = Exam.from_seed(SEED), correct[2][0]
    examples = [{"x": [0] * 127, "y": [0] * 127, "dtypes": ["torch.int64"] * 2}] * len(exam.draws)
    padding = [values[0], {"value": {"documents": 12, "examples": examples}}]
    monkeypatch.setattr(sandbox, "run_untrusted", lambda *_: (padding, ""))
    lines = grade.mark_code(correct[0], ["vanilla"], exam, Limits())
    kept = {line.name for line in lines if line.points}  # what is true of it: no more than a row of padding deserves
    assert kept == {
        "vocabulary: PAD, MASK, the sorted characters",
        "a document a line, no empty ones",
        "y is x moved by one",
        "padded at the end, and only there",
        "x and y are int64, here and in span corruption",
    }
    monkeypatch.setattr(sandbox, "run_untrusted", lambda *_: (values, ""))
    lines = grade.mark_code(correct[0], ["vanilla"], Exam.from_seed(SEED + 1), Limits())
    # What was recorded for one exam is worth nothing in another, but for the dtype, which is a claim anyway.
    assert {line.name for line in lines if line.points} == {checks.DTYPES[0]}


def test_code_that_ends_early_patches_the_grader_or_is_not_there_gets_the_other_points_only(submission):
    path = submission / DATASET
    whole = read_text(path)
    patched = (
        "import os, sys\nfor module in list(sys.modules.values()):\n"
        "    vars(module).update(full_or_nothing=lambda *_: 'full marks', mark_spans=lambda *_: 'full marks')\n"
        "open('result.jsonl', 'w').write('{\"value\": {\"points\": 100}}\\n' * 9)\nos._exit(0)\n"
    )
    for text, reason in (
        ("import os\nos._exit(0)\n" + whole, "the code ended without an answer"),
        (patched, "not made of PAD, MASK"),
        (None, "the submission has no projects/birthplace/dataset.py"),
    ):
        path.unlink()
        if text is not None:
            write_text(path, text)
        report = grade.grade(str(submission), options())
        assert report["points"] == 28 and reason in lost(report)["something is always masked"]


# ----------------------------------------------------------------------------------------------------------------------
# Archives


def zipped(path: Path, *entries, compression=zipfile.ZIP_DEFLATED) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of names that stand twice
        for entry in entries:
            archive.writestr(entry, b"x\n")
    return path


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


GOOD = "rope.pretrain.dev.predictions"


@pytest.mark.parametrize(
    "entries, message",
    [
        (["/etc/x"], "has an absolute path"),
        (["C:/x"], "has an absolute path, a drive letter"),
        (["a\\..\\x"], "or a backslash"),
        (["../" + GOOD], "leads out of the folder"),
        (["mingpt/../../x.py"], "leads out of the folder"),
        ([link(GOOD)], "is a link or another special file"),
        ([GOOD, GOOD], "stands in it twice"),
        ([GOOD, GOOD.upper()], "stands in it twice"),
        ([GOOD + "\n"], "has no proper name"),
        (["x" * 201], "has no proper name"),
        ([f"{i}" for i in range(500)], "501 entries; a submission has at most 500"),
    ],
)
def test_a_zip_that_could_do_harm_is_refused_as_a_whole(entries, message, tmp_path):
    archive = zipped(tmp_path / "s.zip", "vanilla.pretrain.dev.predictions", *entries)
    (tmp_path / "to").mkdir()
    with pytest.raises(ValueError, match="s.zip: (refused, the entry .* |)" + message) as refused:
        unpack(archive, tmp_path / "to")
    assert str(refused.value).isprintable() and list((tmp_path / "to").iterdir()) == []


def test_a_bomb_is_refused_while_it_goes_off(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "s.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vanilla.model.params", bytes(30 << 20))
    (tmp_path / "to").mkdir()
    with pytest.raises(ValueError, match="refused, vanilla.model.params unpacks to more than"):
        unpack(tmp_path / "s.zip", tmp_path / "to")
    assert (tmp_path / "to" / "vanilla.model.params").stat().st_size < 10 << 20
    with zipfile.ZipFile(tmp_path / "sum.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("vanilla.model.params", "rope.model.params"):  # neither is a bomb
            archive.writestr(name, bytes(range(100)) * 30)
    monkeypatch.setattr(sandbox, "MAX_BYTES", 5000)
    assert (tmp_path / "sum.zip").stat().st_size < 5000
    (tmp_path / "new").mkdir()
    with pytest.raises(ValueError, match="refused, rope.model.params unpacks to more than"):
        unpack(tmp_path / "sum.zip", tmp_path / "new")
    monkeypatch.setattr(sandbox, "MAX_BYTES", 300)
    with pytest.raises(ValueError, match=r"sum.zip: \d+ bytes; a submission has at most 300"):
        unpack(tmp_path / "sum.zip", tmp_path / "new")


def test_encrypted_damaged_and_unusual_archives_are_refused(tmp_path):
    data = bytearray(zipped(tmp_path / "s.zip", GOOD).read_bytes())
    central = data.index(b"PK\x01\x02")
    for name, change, message in (
        ("encrypted", lambda d: struct.pack_into("<H", d, central + 8, 1), "is encrypted"),
        ("lying", lambda d: struct.pack_into("<I", d, central + 24, 1), "damaged"),
        ("cut", lambda d: d.__delitem__(slice(30, 34)), "damaged"),
        ("none", lambda d: d.__setitem__(slice(None), b"not a zip"), "not a zip file"),
    ):
        changed = bytearray(data)
        change(changed)
        (tmp_path / f"{name}.zip").write_bytes(changed)
        (tmp_path / name).mkdir()
        with pytest.raises(ValueError, match=message):
            unpack(tmp_path / f"{name}.zip", tmp_path / name)
    (tmp_path / "to").mkdir()
    with pytest.raises(ValueError, match="is compressed in an unusual way"):
        unpack(zipped(tmp_path / "s.zip", GOOD, compression=zipfile.ZIP_LZMA), tmp_path / "to")


def test_only_what_belongs_to_a_submission_is_unpacked(tmp_path):
    archive = zipped(
        tmp_path / "s.zip", GOOD, "mingpt/model.py", "__MACOSX/x", "json.py", "projects/other/y.py", ".env"
    )
    (tmp_path / "to").mkdir()
    assert unpack(archive, tmp_path / "to") == ["__MACOSX/x", "json.py", "projects/other/y.py", ".env"]
    assert sorted(p.relative_to(tmp_path / "to").as_posix() for p in (tmp_path / "to").rglob("*") if p.is_file()) == [
        "mingpt/model.py",
        GOOD,
    ]


def test_a_folder_is_taken_as_it_is_but_for_links(submission, tmp_path):
    (tmp_path / "to").mkdir(), (tmp_path / "again").mkdir()
    write_text(submission / "notes.txt", "x")
    assert unpack(submission, tmp_path / "to") == ["notes.txt"]
    assert read_text(tmp_path / "to" / DATASET) == read_text(REPOSITORY / DATASET)
    (submission / GOOD).unlink()
    (submission / GOOD).symlink_to(REPOSITORY / "LICENSE")
    with pytest.raises(ValueError, match=f"refused, {GOOD} is a link"):
        unpack(submission, tmp_path / "again")
    shutil.rmtree(submission / "mingpt")
    (submission / "mingpt").symlink_to(REPOSITORY / "mingpt")
    (submission / GOOD).unlink()
    with pytest.raises(ValueError, match="refused, mingpt is a link"):
        unpack(submission, tmp_path / "again")


# ----------------------------------------------------------------------------------------------------------------------
# The command


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["run.py", *map(str, words)])
    main()


def test_the_command_prints_a_table_and_writes_json(correct, tmp_path, monkeypatch, capsys):
    folder, report, answered = correct
    monkeypatch.setattr(sandbox, "run_untrusted", lambda *_: answered)
    run(
        monkeypatch,
        "grade",
        folder,
        "--data_dir",
        world.data(),
        "--full-marks-at",
        "75",
        "--seed",
        SEED,
        "--out",
        tmp_path,
    )
    shown = capsys.readouterr().out
    assert "something is always masked" in shown and "100 of 100 (100.0 %), with --seed 7" in shown
    assert json.loads(read_text(tmp_path / "grade.json"))["lines"] == report["lines"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["nowhere.zip"], "error: nowhere.zip: no such file or folder"),
        ([str(Path(__file__).parent)], "error: the submission holds no predictions and no parameters"),
        (["x.zip", "--full_marks_at", "101"], "error: --full_marks_at is 101.0; it is a percentage"),
        (["x.zip", "--seconds", "0"], "error: --seconds is 0; it must be at least 1"),
        (["x.zip", "--data", "wiki"], "error: --data is 'wiki'; it must be world or cs224n"),
    ],
)
def test_a_mistake_ends_in_one_line(words, message, tmp_path, monkeypatch, error_line):
    monkeypatch.chdir(tmp_path)
    assert error_line(run, monkeypatch, "grade", *words).startswith(message)


def test_an_empty_corpus_is_named(correct, tmp_path):
    shutil.copytree(world.data(), tmp_path / "data")
    write_text(tmp_path / "data" / "wiki.txt", "\n")
    with pytest.raises(ValueError, match="wiki.txt: no document: the file is empty"):
        grade.grade(str(correct[0]), options(data_dir=str(tmp_path / "data")))
