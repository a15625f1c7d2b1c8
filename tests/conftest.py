"""What the tests share. They run on the CPU, offline, and write only under pytest's temporary folders."""

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

if (
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN
):  # as a shell starts what it runs in the background; commands leave it so
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Before torch is imported: with models this small, two threads wait for each other longer than they work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
TESTS = Path(__file__).resolve().parent
# Tests mirror the code in folders, and some use what stands in others.
sys.path += [str(folder) for folder in sorted(TESTS.rglob("*/")) if folder.is_dir() and folder.name != "__pycache__"]
sys.path.insert(0, str(REPOSITORY))  # this checkout is what is tested, from whatever folder and whatever is installed
REAL_DATA = REPOSITORY.parent / "shared" / "data"
SLOWEST = (
    "scale",
    "birthplace_grade",
    "birthplace_run",
    "chargpt",
    "birthplace_handout",
    "trainer",
    "wikitext_induction",
    "ngram_study",
    "benchmark",
)  # the files with the longest tests
SHARED = (
    "MINGPT_TESTS_SHARED"  # the environment variable with a folder that all processes of one run of the tests share
)


def pytest_configure(config):
    config.option.loadscopereorder = False  # pytest-xdist takes the files in the order that we give them
    if not hasattr(config, "workerinput"):  # the first process; those of pytest-xdist inherit the variable
        folder = tempfile.TemporaryDirectory(prefix="mingpt-tests-")
        os.environ[SHARED] = folder.name
        config.add_cleanup(folder.cleanup)


def pytest_collection_modifyitems(items):
    """The longest tests first: at the end, one worker would be busy with them and the others idle."""
    rank = {f"test_{name}.py": place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def made_once(name: str, make) -> Path:
    """The folder `name`, filled by `make(folder)` once for all processes of this run of the tests.

    Not to be changed.
    """
    from mingpt.support.files import try_lock

    folder = Path(os.environ[SHARED]) / name
    with open(f"{folder}.lock", "ab") as lock:
        while not try_lock(lock):
            time.sleep(0.05)
        if not folder.exists():
            unfinished = Path(f"{folder}.unfinished")
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(folder)
    return folder


@pytest.fixture(autouse=True)
def seeded():
    """Each test draws the same random numbers, alone or among others."""
    torch.manual_seed(0)


@pytest.fixture
def coarse_figures(monkeypatch):
    """Figures with all that is in them, but coarse and laid out by rule of thumb:
    otherwise they take most of a study's test.
    """
    import matplotlib.figure

    class Coarse(matplotlib.figure.Figure):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **{**options, "layout": None})

        def savefig(self, *arguments, **options):
            super().savefig(*arguments, **{**options, "dpi": 40})

    monkeypatch.setattr(matplotlib.figure, "Figure", Coarse)


@pytest.fixture
def environment():
    """The environment for a script started by a test: this checkout is importable, and as many threads as here."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "MPLBACKEND": "Agg"}


@pytest.fixture
def cs224n_files():
    """The folder with the assignment's real files, where there is one."""
    folder = REAL_DATA / "cs224n_a5"
    if not (folder / "wiki.txt").exists():
        pytest.skip("the files of CS224n's assignment 5 are not here")
    return folder


@pytest.fixture
def error_line(capsys):
    """`error_line(run, *words)` is the one line in which a command ends that was called with a mistake."""

    def call(run, *words) -> str:
        capsys.readouterr()  # what earlier commands have shown
        with pytest.raises(SystemExit) as ended:
            run(*words)
        shown = capsys.readouterr().err
        assert ended.value.code == 2 and shown.startswith("error: ") and shown.count("\n") == 1, shown
        return shown

    return call
