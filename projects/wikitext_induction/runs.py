"""The files of the runs of one kind, and whose they are.

    NET.seedN.json      the result of a finished run, with the settings that it had
    NET.seedN.params    its net
    NET.seedN/          what a run keeps until it is finished: checkpoint.pt, metrics.jsonl, measured.json

A folder holds runs of one setting: a table in which two of them stood side by side would compare what is not
comparable.
Whatever else lies there is somebody else's, and is neither read nor touched.
"""

import re
import sys
from contextlib import suppress
from pathlib import Path

from mingpt.support.checkpoints import read_sealed
from mingpt.support.config import differences
from mingpt.support.files import is_own, read_json, remove_own
from mingpt.support.processes import is_first_process
from projects.wikitext_induction.nets import VARIANTS

NAME = re.compile(rf"({'|'.join(map(re.escape, VARIANTS))})\.seed(\d+)")
MEASURED, UNFINISHED = "measured.json", ("measured.json", "checkpoint.pt", "metrics.jsonl")


def result_path(folder: Path, net: str, seed: int) -> Path:
    """Where a finished run's result is."""
    return folder / f"{net}.seed{seed}.json"


def runs_in(folder: Path, suffix: str) -> dict[tuple[str, int], Path]:
    """(net, seed) -> path, for all names of runs with that suffix, the nets in the order of VARIANTS."""
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        name = NAME.fullmatch(path.name.removesuffix(suffix))
        if name and path.name.endswith(suffix) and path.is_dir() == (suffix == ""):
            found[name[1], int(name[2])] = path
    order = list(VARIANTS)
    return dict(sorted(found.items(), key=lambda item: (order.index(item[0][0]), item[0][1])))


def finished(folder: Path) -> dict[tuple[str, int], dict]:
    """(net, seed) -> the result of each finished run.

    A file with such a name that is no result is named and left out.
    """
    results = {}
    for run, path in runs_in(folder, ".json").items():
        try:
            result = read_sealed(path)
        except ValueError as error:
            left_out(error)
            continue
        if (result.get("net"), result.get("seed")) == run and isinstance(result.get("settings"), dict):
            results[run] = result
        else:
            left_out(f"{path}: the result of another run")
    return results


def left_out(reason: object) -> None:
    """Say that a file is not used, and why."""
    if is_first_process():
        print(f"note: {reason}; it is left out", file=sys.stderr)


def what_differs(before: dict, now: dict) -> list[str]:
    """In what two runs' settings differ, in words.

    Of the texts and the tokenizer, settings hold fingerprints, in "inputs".
    """
    old, new = ({**settings, "inputs": None} for settings in (before, now))
    inputs = [settings.get("inputs") if isinstance(settings.get("inputs"), dict) else {} for settings in (before, now)]
    return differences(old, new) + [
        f"the content of {name} differs"
        for name in {**inputs[0], **inputs[1]}
        if inputs[0].get(name) != inputs[1].get(name)
    ]


def refuse_other_settings(folder: Path, settings: dict) -> None:
    """ValueError where a folder has a run of other settings, finished or not: it names in what they differ."""
    there = {result_path(folder, *run): result["settings"] for run, result in finished(folder).items()}
    for path in runs_in(folder, "").values():
        with suppress(ValueError):  # not of this program; a run that needs the file will say so
            saved = read_json(path / MEASURED)
            if isinstance(saved, dict) and isinstance(saved.get("settings"), dict):
                there[path] = saved["settings"]
    for path, before in there.items():
        if changed := what_differs(before, settings):
            raise ValueError(
                f"{path} is of other settings ({'; '.join(changed)}); give those again, or another --out, or "
                "leave --resume out to begin anew"
            )


def clear(folder: Path) -> None:
    """Delete what earlier runs have written into a folder of runs, and nothing else."""
    for suffix in (".json", ".params"):
        for path in runs_in(folder, suffix).values():
            if is_own(path):
                remove_own(path)
    for path in runs_in(folder, "").values():
        clear_unfinished(path)


def clear_unfinished(folder: Path) -> None:
    """Delete what a run keeps until it is finished; its folder too, if that leaves it empty."""
    for name in UNFINISHED:
        if is_own(folder / name):
            remove_own(folder / name)
    with suppress(OSError):  # somebody else's files are in it
        folder.rmdir()
