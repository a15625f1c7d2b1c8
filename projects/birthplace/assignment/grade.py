"""Mark a submission: what its code does, what its parameters answer, and the points with their reasons.

    run.py grade submission.zip                    on the embedded world
    run.py grade submission.zip --data cs224n      on the assignment's files
    run.py grade folder                            a submission that has been unpacked

The parameters are marked first, with our code. Then the submission's code is run, in a process of its own; see
`sandbox.py` for what that protects from and what not. It answers questions that are drawn anew for each grading, and
all verdicts are made here, from its raw answers: what that process prints, patches or claims gains it nothing.

Points: `checks.py` has those of the code. Each variant has 6 for causality, 3 for complete predictions, 4 for
predictions that are what the parameters answer, and 7 for accuracy: none up to what always giving the commonest
training answer scores, all from `--full_marks_at` on, and in proportion between. vanilla and rope must be handed in;
others may be, and count if they are. What parameters were trained on cannot be seen: a model that was shown the dev
answers gets
full marks.
"""

import importlib
import os
import secrets
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from mingpt.support.command import one_line_errors
from mingpt.support.config import Parser, config_from_args, config_to_dict
from mingpt.support.files import check_writable, own_folder, read_text, write_json
from projects.birthplace.assignment import checks, sandbox
from projects.birthplace.assignment.checks import Exam, Line, Malformed, full_or_nothing
from projects.birthplace.dataset import documents_of, make_tokenizer, read_pairs
from projects.birthplace.evaluate import majority_answer, score
from projects.birthplace.files import Files, Questions, data_named, load_files
from projects.birthplace.variants import VARIANTS

HERE = Path(__file__).resolve().parent
# A handout is without it. By the file, since another copy of this project may be installed.
HAS_SOLUTION = (HERE / "reference.py").exists()
reference = importlib.import_module("projects.birthplace.assignment.reference") if HAS_SOLUTION else None
REQUIRED = ("vanilla", "rope")
FULL_MARKS_AT = {"world": 80.0, "cs224n": 19.0}  # percent on dev; on the assignment's, 19 to 26 have been published
NEEDED_CODE = (
    "mingpt/__init__.py",
    "mingpt/model.py",
    *(f"projects/birthplace/{name}.py" for name in ("dataset", "evaluate", "recipes", "steps", "run")),
)
MARKER = "marked by the marker, who has the solution"
MODEL, PREDICTIONS = "model", "predictions"
ANSWERS_LINE = ("predict: the likeliest characters, up to the next mark", 3)


@dataclass(frozen=True)
class GradeOptions:
    """How a submission is marked."""

    data: Annotated[str, "world or cs224n: what the submission was trained on; world, or with --data_dir cs224n"] = ""
    data_dir: Annotated[str, "folder with the files, instead of a download"] = ""
    full_marks_at: Annotated[float, "percentage on dev that gets all points; 0: 80 (world) or 19 (cs224n)"] = 0.0
    seed: Annotated[int, "of the questions put to the code; -1: new ones each time"] = -1
    seconds: Annotated[int, "time limit for the submission's code"] = 120
    out: Annotated[str, "folder for grade.json"] = "out/birthplace"

    def __post_init__(self):
        if not 0 <= self.full_marks_at <= 100:
            raise ValueError(f"--full_marks_at is {self.full_marks_at}; it is a percentage")
        if self.seconds < 1:
            raise ValueError(f"--seconds is {self.seconds}; it must be at least 1")


def grade(submission: str, options: GradeOptions) -> dict:
    """Mark a submission. Returns plain values: "points", "of", "seed", "lines", ... ValueError if it is refused."""
    options = replace(
        options,
        data=data_named(options.data, options.data_dir),
        seed=secrets.randbelow(2**31) if options.seed < 0 else options.seed,
    )
    options = replace(options, full_marks_at=options.full_marks_at or FULL_MARKS_AT.get(options.data, 0.0))
    files = load_files(options.data, options.data_dir)
    check_marks(files, options)
    documents_of(files.corpus, files.corpus_source)
    with tempfile.TemporaryDirectory(prefix="grade-") as name:
        folder = Path(name)
        ignored = sandbox.unpack(submission, folder)
        variants = variants_of(folder)
        # In this order: nothing is read from the folder once the submission's code has run.
        said = ask(folder, variants, files)
        answers = [line for variant in variants for line in mark_predictions(folder, variant, files, options, said)]
        lines = mark_code(folder, variants, Exam.from_seed(options.seed), sandbox.Limits(options.seconds)) + answers
    marked = [line for line in lines if line.points is not None]
    return {
        "submission": str(submission),
        "points": round(sum(line.points for line in marked), 1),
        "of": sum(line.of for line in marked),
        "variants": variants,
        "ignored": list(map(sandbox.clean, ignored)),
        **config_to_dict(options),
        "lines": [asdict(replace(line, reason=sandbox.clean(line.reason, 220))) for line in lines],
    }


def variants_of(folder: Path) -> list[str]:
    """The required variants, then the others of which there is a file."""
    found = {path.name.split(".")[0] for path in folder.iterdir() if path.is_file()}
    if not found:
        raise ValueError("the submission holds no predictions and no parameters; `run.py submit` makes one that does")
    if unknown := sorted(found - set(VARIANTS)):
        raise ValueError(f"no variant is called {unknown[0]!r}; there are {', '.join(VARIANTS)}")
    return [*REQUIRED, *(variant for variant in VARIANTS if variant in found and variant not in REQUIRED)]


# ----------------------------------------------------------------------------------------------------------------------
# Predictions and parameters


def files_of(variant: str) -> dict[str, dict[str, str]]:
    """Parameters that a variant needs -> the predictions made with them, by questions; under the assignment's names."""
    needed = {f"{variant}.finetune.params": "pretrain"}
    if variant == "vanilla":  # the assignment finetunes only this one without pretraining
        needed[f"{variant}.model.params"] = "nopretrain"
    return {
        parameters: {which: f"{variant}.{name}.{which}.predictions" for which in ("dev", "test")}
        for parameters, name in needed.items()
    }


def read_predictions(path: Path) -> list[str]:
    """The lines of a file of predictions. ValueError if it cannot be read."""
    if path.is_file() and path.stat().st_size > 1 << 20:
        raise ValueError(f"{path}: more than a megabyte")
    lines = read_text(path).split("\n")
    return lines if lines[-1] else lines[:-1]


def check_count(source: str, lines: list[str], questions: Questions) -> None:
    """ValueError if there is not one line for each question."""
    if len(lines) != len(questions.questions):
        raise ValueError(
            f"{source}: {len(lines)} lines for {len(questions.questions)} questions; there must be one for each"
        )


def mark_predictions(
    folder: Path, variant: str, files: Files, options: GradeOptions, said: dict[str, dict[str, list[str]] | str]
) -> list[Line]:
    """Three lines for a variant: its predictions are complete, are what the parameters answer, and are right.

    said: as `ask` gives it.
    """
    incomplete, made_up, judged = [], [], {}
    for parameters, predictions in files_of(variant).items():
        lines = {}
        for which, name in predictions.items():
            try:
                lines[which] = read_predictions(folder / name)
                check_count(name, lines[which], getattr(files, which))
            except ValueError as error:
                incomplete.append(str(error).replace(f"{folder}{os.sep}", ""))
        judged[parameters] = lines.get("dev", [])
        if HAS_SOLUTION:
            answers = said[parameters]
            if isinstance(answers, str):
                made_up.append(answers)
                judged[parameters] = []
            else:
                judged[parameters] = answers["dev"]
                made_up += [
                    difference(name, lines.get(which, []), answers[which]) for which, name in predictions.items()
                ]
    honest = f"{variant}: they are what the parameters answer"
    return [
        full_or_nothing(PREDICTIONS, f"{variant}: one prediction a question", 3, "; ".join(incomplete)),
        full_or_nothing(PREDICTIONS, honest, 4, "; ".join(filter(None, made_up)))
        if HAS_SOLUTION
        else Line(PREDICTIONS, honest, 4, None, MARKER),
        mark_accuracy(variant, judged[f"{variant}.finetune.params"], files, options),
    ]


def ask(folder: Path, variants: list[str], files: Files) -> dict[str, dict[str, list[str]] | str]:
    """What submitted parameters answer on dev and test when our code asks.

    File -> answers, or why they cannot be used.
    """
    if not HAS_SOLUTION:
        return {}
    tokenizer, dev = make_tokenizer(files.corpus, files.corpus_source), len(files.dev.questions)
    submitted = {folder / parameters: variant for variant in variants for parameters in files_of(variant)}
    answers = reference.answer(submitted, tokenizer, files.dev.questions + files.test.questions)
    return {
        path.name: said if isinstance(said, str) else {"dev": said[:dev], "test": said[dev:]}
        for path, said in answers.items()
    }


def difference(name: str, lines: list[str], answers: list[str]) -> str:
    """Where predictions are not the parameters' answers, or "". Up to 3 % may differ, and one of ten, as devices round
    differently."""
    same = sum(a == b for a, b in zip(lines, answers))
    if len(answers) - same <= max(0.03 * len(answers), min(1, len(answers) // 10)):
        return ""
    first = next(
        (
            f": line {i} is {checks.shown(line)}, they answer {checks.shown(answer)}"
            for i, (line, answer) in enumerate(zip(lines, answers), 1)
            if line != answer
        ),
        "",
    )
    return f"{name}: {same} of {len(answers)} are what the parameters answer{first}"


def check_marks(files: Files, options: GradeOptions) -> tuple[str, float]:
    """The commonest answer of training, and what always giving it scores on dev, in percent: that gets no points.

    ValueError if it would get them all.
    """
    answers, best = files.dev.answers, options.full_marks_at
    commonest = majority_answer([answer for _, _, answer in read_pairs(files.train, files.train_source, answers=True)])
    floor = score([commonest] * len(answers), answers).percent
    if floor >= best:
        raise ValueError(
            f"--full_marks_at is {best}; always answering {commonest} already gets {floor:.1f} % on {files.dev.source}"
        )
    return commonest, floor


def mark_accuracy(variant: str, predictions: list[str], files: Files, options: GradeOptions) -> Line:
    """The line of accuracy on dev, after pretraining."""
    of, name = 7, f"{variant}: right on dev after pretraining"
    answers, best = files.dev.answers, options.full_marks_at
    if len(predictions) != len(answers):
        return Line(PREDICTIONS, name, of, 0.0, "no answers to mark")
    (commonest, floor), reached = check_marks(files, options), score(predictions, answers)
    share = min(1.0, max(0.0, (reached.percent - floor) / (best - floor)))
    return Line(
        PREDICTIONS,
        name,
        of,
        round(of * share, 1),
        f"{reached.correct} of {reached.total}, {reached.percent:.1f} %; points from {floor:.1f} % "
        f"(always {commonest}) to {best:.1f} %",
    )


# ----------------------------------------------------------------------------------------------------------------------
# Code


def mark_code(folder: Path, variants: list[str], exam: Exam, limits: sandbox.Limits) -> list[Line]:
    """The lines of what the submission's code does."""
    said = reference.evaluated(exam) if HAS_SOLUTION else None
    probes = [
        ("vocabulary", {"text": exam.text}),
        ("corruption", {"text": exam.text, "block_size": checks.BLOCK_SIZE, "seed": exam.seed, "draws": exam.draws}),
        ("questions", {"text": exam.text, "pairs": exam.pairs_text, "block_size": checks.BLOCK_SIZE}),
        ("answers", {"characters": exam.characters, "seeds": exam.seeds, "asked": exam.asked}),
        *(
            ("logits", {"variant": variant, "vocab_size": exam.V, "seed": exam.seed, "rows": exam.rows})
            for variant in variants
        ),
        (
            "commands",
            {
                "text": "\n".join(exam.documents),
                "pairs": exam.training_text,
                "asked": exam.gold_text(said),
                "letters": exam.letters,
                "epochs": exam.epochs,
                "seed": exam.seed,
            },
        ),
    ]
    missing = [name for name in NEEDED_CODE if not (folder / name).is_file()]
    results, ended = [], f"the submission has no {', '.join(missing)}"
    if not missing:
        results, ended = sandbox.run_untrusted(HERE / "probe.py", folder, {"probes": probes}, limits)

    def answer(i: int):
        """The raw answer to probe number i. Malformed if there is none."""
        if i >= len(results):
            raise Malformed(ended or "the code ended without an answer")
        if not isinstance(results[i], dict) or "value" not in results[i]:
            raise Malformed(str(results[i].get("error", "no answer") if isinstance(results[i], dict) else "no answer"))
        return results[i]["value"]

    dtypes, lines = [], []
    for group, names, mark, i in (
        (checks.SPANS, checks.ALL_OF_SPANS, checks.mark_spans, 1),
        (checks.QUESTIONS, checks.ALL_OF_QUESTIONS, checks.mark_questions, 2),
    ):
        try:
            marked, found = mark(exam, answer(0), answer(i))
            lines, dtypes = lines + marked, dtypes + found
        except Malformed as error:
            lines += [Line(group, name, of, 0.0, str(error)) for name, of in names]
    lines.append(checks.mark_dtypes(dtypes))
    try:
        lines += checks.mark_commands(exam, answer(len(probes) - 1), said)
    except Malformed as error:
        lines += [Line(checks.COMMANDS, name, of, 0.0, str(error)) for name, of in checks.ALL_OF_COMMANDS]
    lines.append(
        mark_model(*ANSWERS_LINE, lambda: reference.other_answers(exam, answer(3)))
        if HAS_SOLUTION
        else Line(MODEL, *ANSWERS_LINE, None, MARKER)
    )
    for i, variant in enumerate(variants, 4):
        lines.append(
            mark_model(
                f"{variant}: causal",
                6,
                lambda: (
                    checks.sees_the_future(exam, answer(i))
                    or HAS_SOLUTION
                    and reference.other_logits(exam, variant, answer(i))
                ),
            )
        )
    return lines


def mark_model(name: str, of: float, check: Callable[[], str | None]) -> Line:
    """A line about the model: full points unless the check finds a problem or nothing to check."""
    try:
        return full_or_nothing(MODEL, name, of, check() or None)
    except Malformed as error:
        return Line(MODEL, name, of, 0.0, str(error))


# ----------------------------------------------------------------------------------------------------------------------
# The report


def print_report(report: dict) -> None:
    """The table: each property with its points and, where some are lost, the reason."""
    width = max(len(line["name"]) for line in report["lines"])
    group = ""
    for line in report["lines"]:
        if line["group"] != group:
            group = line["group"]
            print(f"\n{group}")
        points = "-" if line["points"] is None else f"{line['points']:g}"
        print(f"  {line['name']:{width}} {points:>5} of {line['of']:<3g} {line['reason']}".rstrip())
    print(
        f"\n{'points':{width + 2}} {report['points']:>5g} of {report['of']:<3g} "
        f"({100 * report['points'] / report['of']:.1f} %), with --seed {report['seed']}"
    )
    if report["ignored"]:
        print(
            f"not looked at: {', '.join(report['ignored'][:10])}{' and others' if len(report['ignored']) > 10 else ''}"
        )


def main(words: list[str]) -> None:
    """The command line of `run.py grade`."""
    parser = Parser(prog="run.py grade", description=__doc__)
    parser.add_argument("submission", help="a zip that `run.py submit` wrote, or a folder with what is in it")
    parser.add_config(GradeOptions)
    args = parser.parse_args(words)
    with one_line_errors():
        options = config_from_args(GradeOptions, args)
        check_writable(Path(options.out) / "grade.json")
        with own_folder(options.out):
            report = grade(args.submission, options)
            print_report(report)
            write_json(Path(options.out) / "grade.json", report)
        print(f"The same as JSON: {Path(options.out) / 'grade.json'}")
