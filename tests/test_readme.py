"""The READMEs: their links lead somewhere, their commands exist, and nothing is left to fill in."""

import re
import shlex
import subprocess
import sys

import pytest

from conftest import REPOSITORY

READMES = sorted(path for path in REPOSITORY.rglob("README.md")
                 if not any(part == "out" or part.startswith(".") for part in path.relative_to(REPOSITORY).parts))
SCRIPTS = sorted(REPOSITORY.glob("projects/*/run.py")) + sorted(REPOSITORY.glob("data/*/[!_]*.py"))


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
    for script in re.findall(r"python3? (?:-m torch\S+ )?((?:projects|data)/\S+\.py)", readme.read_text(encoding="utf-8")):
        assert (REPOSITORY / script).exists(), f"{named(readme)}: {script}"


def test_the_two_commands_are_there_and_ci_takes_the_second():
    lines = (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()
    commands = [lines[lines.index(f"<!-- {name} command -->") + 1].strip() for name in ("run", "test")]
    assert all(command.startswith("python3 -m venv .venv && .venv/bin/pip install") for command in commands)
    assert commands[0].endswith("projects/birthplace/run.py") and commands[1].endswith("-m pytest -q -n auto --dist loadfile")
    for part in commands[1].split("&&"):
        assert shlex.split(part), "the shell can read it"
    assert "<!-- test command -->" in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("script", SCRIPTS, ids=named)
def test_every_script_explains_itself_from_any_folder_and_imports_no_plotting(script, environment, tmp_path):
    code = ("import runpy, sys, atexit; sys.argv = sys.argv[1:] + ['--help']; sys.path[0] = sys.argv[0].rpartition('/')[0]; "
            "atexit.register(lambda: print('imported:', [m for m in ('matplotlib', 'requests') if m in sys.modules])); "
            "runpy.run_path(sys.argv[0], run_name='__main__')")
    shown = subprocess.run([sys.executable, "-c", code, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert shown.returncode == 0 and "usage:" in shown.stdout, shown.stderr
    if script.parent.parent.name == "projects":
        assert shown.stdout.splitlines()[-1] == "imported: []"


def test_importing_the_model_draws_no_plots_and_opens_no_connection(environment):
    code = "import mingpt.model, mingpt.trainer, sys; print([m for m in ('matplotlib', 'requests') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
