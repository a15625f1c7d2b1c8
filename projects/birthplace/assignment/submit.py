"""Collect what is to be handed in, and show what a marker would see.

    run.py study vanilla; run.py study rope        both write to out/birthplace
    run.py submit                                  makes out/birthplace/submission.zip of it, and marks that
    run.py submit --data cs224n                    the same of out/birthplace_cs224n, where the study with --data
    cs224n writes

In the zip, under the assignment's names:

    vanilla.model.params                           finetuned without pretraining, and its predictions
        vanilla.nopretrain.{dev,test}.predictions
    {vanilla,rope,...}.pretrain.params             pretrained; may be left out
    {vanilla,rope,...}.finetune.params             finetuned after pretraining, and its predictions
        {vanilla,rope,...}.pretrain.{dev,test}.predictions
    mingpt/  projects/birthplace/                  the code

The assignment's own commands write these names if told to. `run.py study` has VARIANT.nopretrain.finetune.params for
VARIANT.model.params, and VARIANT.pretrain.finetune.params for VARIANT.finetune.params; either name will do.
"""

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from mingpt.support.command import one_line_errors
from mingpt.support.config import Parser, config_from_args
from mingpt.support.files import atomic_path, own_folder, write_json
from projects.birthplace.assignment.grade import (
    REQUIRED,
    GradeOptions,
    check_count,
    files_of,
    grade,
    print_report,
    read_predictions,
)
from projects.birthplace.assignment.sandbox import CODE
from projects.birthplace.evaluate import score
from projects.birthplace.files import Files, data_named, load_files, study_folder
from projects.birthplace.variants import VARIANTS

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class SubmitOptions(GradeOptions):
    """What is handed in; and how it is marked for a try."""

    out: Annotated[str, "folder with predictions and parameters, the study's unless given; the zip goes there, too"] = (
        ""
    )
    code: Annotated[str, "folder with mingpt/ and projects/; this one, unless given"] = ""
    partial: Annotated[bool, "true: hand in what is there, though something is missing"] = False


def collect(out: Path, code: Path, partial: bool) -> dict[str, Path]:
    """Name in the zip -> file. ValueError that names everything missing, unless `partial`."""
    found, missing = {}, []
    for variant in VARIANTS:
        started = variant in REQUIRED or any(out.glob(f"{variant}.*.predictions"))
        needed = [*files_of(variant), *(name for named in files_of(variant).values() for name in named.values())]
        optional = [
            f"{variant}.nopretrain.dev.predictions",
            f"{variant}.nopretrain.test.predictions",
            f"{variant}.model.params",
            f"{variant}.pretrain.params",
        ]
        for name in dict.fromkeys([*needed, *optional]):
            path = find(out, variant, name)
            if path is not None:
                found[name] = path
            elif started and name in needed:
                missing.append(name)
    if missing and not partial:
        raise ValueError(f"{out}: missing {', '.join(missing)}; make them, or hand in without them by --partial")
    if not found:
        raise ValueError(f"{out}: no predictions and no parameters; `run.py study` writes them")
    for folder in CODE:
        modules = sorted((code / folder).rglob("*.py"))
        if not modules:
            raise ValueError(f"{code / folder}: no code; --code is the folder with mingpt/ and projects/")
        found.update({path.relative_to(code).as_posix(): path for path in modules})
    return found


def find(out: Path, variant: str, name: str) -> Path | None:
    """The file that is handed in as `name`: of that name, or of the one that the study gives it."""
    studys = {
        f"{variant}.model.params": f"{variant}.nopretrain.finetune.params",
        f"{variant}.finetune.params": f"{variant}.pretrain.finetune.params",
    }
    candidates = [out / other for other in (name, studys.get(name)) if other and (out / other).is_file()]
    if len(candidates) > 1:
        raise ValueError(f"{out}: both {candidates[0].name} and {candidates[1].name}; remove the one that is not meant")
    return candidates[0] if candidates else None


def check_predictions(collected: dict[str, Path], files: Files) -> None:
    """Print lines and marks of each file of predictions. ValueError if one has not a line for each question."""
    for name, path in collected.items():
        if name.endswith(".predictions"):
            questions, lines = getattr(files, name.split(".")[2]), read_predictions(path)
            check_count(str(path), lines, questions)
            marks = f"  {score(lines, questions.answers)}" if questions.answered else ""
            print(f"  {name:40} {len(lines):>5} lines{marks}")


def write_zip(path: Path, collected: dict[str, Path]) -> None:
    """Write the submission, atomically. The same files give the same bytes: no time of day goes into it."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, source in sorted(collected.items()):
            archive.writestr(zipfile.ZipInfo(name), source.read_bytes(), zipfile.ZIP_DEFLATED)


def submit(options: SubmitOptions) -> dict:
    """Collect, check, write the zip, mark it and write grade.json. Returns the marks, as `grade` does."""
    data = data_named(options.data, options.data_dir)
    out = Path(options.out or study_folder(data, options.data_dir))
    options = replace(options, out=str(out), code=options.code or str(ROOT))
    if not out.is_dir():
        raise ValueError(f"{out}: no such folder; `run.py study` writes there, but with --quick elsewhere; tell --out")
    collected = collect(out, Path(options.code), options.partial)
    check_predictions(collected, load_files(data, options.data_dir))
    with own_folder(out):
        return write_and_grade(out, collected, options)


def write_and_grade(out: Path, collected: dict[str, Path], options: SubmitOptions) -> dict:
    """Write submission.zip and grade.json into the folder. Returns the grade."""
    write_zip(out / "submission.zip", collected)
    code = sum(name.endswith(".py") for name in collected)
    print(
        f"{out / 'submission.zip'}: {len(collected) - code} files of predictions and parameters, {code} of code, "
        f"{(out / 'submission.zip').stat().st_size / 1e6:.1f} MB\n\nWhat a marker would see:"
    )
    report = grade(str(out / "submission.zip"), options)
    print_report(report)
    write_json(out / "grade.json", report)
    return report


def main(words: list[str]) -> None:
    """The command line of `run.py submit`."""
    parser = Parser(prog="run.py submit", description=__doc__)
    parser.add_config(SubmitOptions)
    args = parser.parse_args(words)
    with one_line_errors():
        submit(config_from_args(SubmitOptions, args))
