"""The READMEs: their links lead somewhere, their commands exist, and nothing is left to fill in."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from mingpt.support.files import write_text

READMES = sorted(
    path
    for path in REPOSITORY.rglob("README.md")
    if not any(part == "out" or part.startswith(".") for part in path.relative_to(REPOSITORY).parts)
)
NOT_FOR_PEOPLE = {"probe.py"}  # the grader starts it, beside a submission
SCRIPTS = [
    path
    for folder in ("projects", "data")
    for path in sorted(REPOSITORY.glob(f"{folder}/*/**/[!_]*.py"))
    if "\nif __name__ ==" in path.read_text(encoding="utf-8") and path.name not in NOT_FOR_PEOPLE
]


def named(path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.mark.parametrize("readme", READMES, ids=named)
def test_links_lead_somewhere(readme):
    text = readme.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#\s]+)", text):
        assert link.startswith("http") or (readme.parent / link).exists(), f"{named(readme)}: {link}"
    assert not re.findall(r"@[A-Z]+@", text), "nothing is left to fill in"


@pytest.mark.parametrize("readme", READMES, ids=named)
def test_commands_name_files_that_exist(readme):
    for script in re.findall(
        r"python3? (?:-m torch\S+ )?((?:projects|data)/\S+\.py)", readme.read_text(encoding="utf-8")
    ):
        assert (REPOSITORY / script).exists(), f"{named(readme)}: {script}"


def test_the_two_commands_are_there_and_ci_takes_the_second():
    lines = (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()
    commands = [lines[lines.index(f"<!-- {name} command -->") + 1].strip() for name in ("run", "test")]
    assert all(command.startswith("python3 -m venv .venv && .venv/bin/pip install") for command in commands)
    assert commands[0].endswith("projects/birthplace/run.py") and commands[1].endswith(
        "-m pytest -q -n auto --dist loadfile"
    )
    for part in commands[1].split("&&"):
        assert shlex.split(part), "the shell can read it"
    assert "<!-- test command -->" in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")


# Starting Python and importing torch takes seconds, so one process starts all scripts, each with the project's modules
# imported anew. As scripts are started: their own folder first on the path, and this checkout not yet.
STARTER = """
import contextlib, importlib, io, json, os, runpy, sys
from traceback import format_exc

def project():
    return [name for name in sys.modules if name.partition(".")[0] in ("mingpt", "projects", "data")]

def heavy():
    return [name for name in ("matplotlib", "requests") if name in sys.modules]

sys.path[0] = root = sys.argv[1]
importlib.import_module("mingpt.model"), importlib.import_module("mingpt.trainer")
found = {"the core": {"imported": heavy()}}
for script in sys.argv[2:]:
    for name in project():
        del sys.modules[name]
    before, shown, sys.argv, error = list(sys.path), io.StringIO(), [script, "--help"], ""
    sys.path[0] = os.path.dirname(script)
    with contextlib.redirect_stdout(shown):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as ended:
            error = str(ended.code or "")
        except BaseException:
            error = format_exc()
    files = [file for name in project() if (file := getattr(sys.modules[name], "__file__", None))]
    found[script] = {"error": error, "shown": shown.getvalue(), "imported": heavy(),
                     "elsewhere": [file for file in files if not file.startswith(root + os.sep)]}
    sys.path[:] = before
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """Script -> what its --help did, from another folder, where other packages are installed under our names."""
    folder, site = tmp_path_factory.mktemp("elsewhere"), tmp_path_factory.mktemp("site")
    for name in ("mingpt", "projects", "data"):
        (site / name).mkdir()
        write_text(site / name / "__init__.py", "raise ImportError('this is the installed one')\n")
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", STARTER, str(REPOSITORY), *map(str, SCRIPTS)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("script", SCRIPTS, ids=named)
def test_every_script_explains_itself_from_any_folder_and_is_of_this_checkout(script, started):
    found = started[str(script)]
    assert found["error"] == "" and "usage:" in found["shown"] and found["elsewhere"] == []
    if script.is_relative_to(REPOSITORY / "projects"):
        assert found["imported"] == [], "it imports no plotting"


def test_importing_the_model_draws_no_plots_and_opens_no_connection(started):
    assert started["the core"]["imported"] == []
