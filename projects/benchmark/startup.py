"""How long a Python takes that only imports: nothing, torch, our model; and `--help` of every project."""

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

from projects.benchmark.harness import Table, compare

PROJECTS = Path(__file__).resolve().parents[1]


def python(*arguments: str) -> None:
    """Run a Python to its end."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECTS.parent)}
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)


def measure(quick: bool = False, repeats: int = 5) -> Iterator[Table]:
    """A table of imports and one of `--help`."""
    repeats = 1 if quick else repeats
    imports = {f"import {name}": partial(python, "-c", f"import {name}") for name in ("sys", "torch", "mingpt.model")}
    timings = compare(imports, repeats=repeats)
    added = median(b - a for a, b in zip(timings["import torch"].seconds, timings["import mingpt.model"].seconds))
    yield Table("Start-up", timings, facts={"seconds that mingpt.model adds to torch": added})
    scripts = sorted(PROJECTS.glob("*/run.py"))[: 1 if quick else None]
    helps = {f"{path.parent.name} --help": partial(python, str(path), "--help") for path in scripts}
    yield Table("--help", compare(helps, repeats=repeats, warmup=0), facts={"goal": "under 3 s each"})
