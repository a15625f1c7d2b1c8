"""The model in a folder gives way to a new run all at once: whenever a kill comes, one of them is there, and whole.

1. What the new run needs is prepared in a folder beside: `with prepared_beside(out) as beside`.
2. When everything has been checked, `replace(out)` writes `switch.json` there. At this moment the old model is given
up.
3. The old model's files are removed, and those prepared are renamed to their places. If a kill comes between, the next
   command in this folder goes on with it: `finish_replacing(out)`.
"""

import os
import re
from contextlib import contextmanager, suppress
from pathlib import Path

from mingpt.support.files import move_into_place, read_json, remove_own, write_json

BESIDE, SWITCH = ".chargpt-prepared", "switch.json"
PREPARED = ("tokens.bin", "vocab.json", "merges.txt", "corpus.json", "config.json")
RESULTS = ("checkpoint.pt", "metrics.jsonl", "loss.png", "sample.txt")


@contextmanager
def prepared_beside(out: Path):
    """A folder in `out` for what a new run needs; emptied first, and removed with all that is in it at the end."""
    finish_replacing(out)
    _clear(out)
    try:
        yield out / BESIDE
    finally:
        if not (out / BESIDE / SWITCH).exists():  # otherwise the next command goes on with it
            _clear(out)


def replace(out: Path) -> None:
    """Let what has been prepared take the place of what is in `out`. Tokens stay if none have been prepared."""
    beside = out / BESIDE
    new = [name for name in PREPARED if (beside / name).is_file()]
    old = RESULTS + (("vocab.json", "merges.txt") if "corpus.json" in new else ())
    write_json(beside / SWITCH, {"remove": [name for name in old if name not in new], "move": new})
    finish_replacing(out)


def finish_replacing(out: Path) -> None:
    """Do what is left to do of a `replace` that was begun."""
    beside = out / BESIDE
    if not (beside / SWITCH).is_file():
        return
    plan = read_json(beside / SWITCH)
    for name in set(RESULTS + PREPARED).intersection(plan["remove"]):
        remove_own(out / name)
    for name in plan["move"]:
        if name in PREPARED and (beside / name).is_file():
            move_into_place(beside / name, out / name)
    (beside / SWITCH).unlink()
    _clear(out)


def _clear(out: Path) -> None:
    """Remove what was prepared, also by a process that was killed while it wrote. `out` belongs to this process."""
    beside = out / BESIDE
    ours = re.compile(r"|".join(rf"{name}|\.{name}\.\d+\.tmp" for name in map(re.escape, (*PREPARED, SWITCH))))
    for path in beside.iterdir() if beside.is_dir() else ():
        if ours.fullmatch(path.name):
            path.unlink()
    with suppress(OSError):
        os.rmdir(beside)
