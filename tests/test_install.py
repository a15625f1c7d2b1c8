"""An installation brings `mingpt` and nothing else;
scripts keep to their own checkout (more of that: test_readme.py).
"""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import REPOSITORY

# Where modules come from with the folder argv[1] installed, and where with the checkout argv[2] first, as scripts put
# it.
WHERE = """
import json, sys, site
from importlib.util import find_spec
def where():
    return {name: getattr(find_spec(name), "origin", None) for name in ("mingpt", "projects", "data")}
site.addsitedir(sys.argv[1])
installed = where()
sys.path.insert(0, sys.argv[2])
print(json.dumps([installed, where()]))
"""


def can_build() -> bool:
    if importlib.util.find_spec("pip") is None or importlib.util.find_spec("setuptools") is None:
        return False
    return tuple(map(int, importlib.metadata.version("setuptools").split(".")[:2])) >= (
        70,
        1,
    )  # before: with `wheel` only


@pytest.mark.parametrize("editable", [False, True], ids=["copied", "editable"])
def test_an_installation_brings_mingpt_alone_and_a_checkout_goes_first(editable, tmp_path):
    if not can_build():
        pytest.skip("pip and setuptools 70.1 or later, which build a package without a network, are not here")
    source, target = tmp_path / "source", tmp_path / "target"
    for name in ("mingpt", "projects", "data"):  # a copy, since building leaves files beside setup.py
        shutil.copytree(
            REPOSITORY / name,
            source / name,
            ignore=lambda folder, names: [
                name for name in names if not name.endswith(".py") and not os.path.isdir(os.path.join(folder, name))
            ],
        )
    shutil.copyfile(REPOSITORY / "setup.py", source / "setup.py")
    where_to = ["--prefix", target, "--editable"] if editable else ["--target", target]
    done = subprocess.run(
        [
            str(word)
            for word in (
                sys.executable,
                "-m",
                "pip",
                "install",
                "-q",
                "--no-deps",
                "--no-index",
                "--no-build-isolation",
                "--use-pep517",
                *where_to,
                source,
            )
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    site = next(target.rglob("*.dist-info")).parent
    if not editable:
        assert [path.name for path in site.iterdir() if path.suffix != ".dist-info"] == ["mingpt"]
        assert {p.relative_to(site) for p in (site / "mingpt").rglob("*.py")} == {
            p.relative_to(REPOSITORY) for p in (REPOSITORY / "mingpt").rglob("*.py")
        }
    done = subprocess.run(
        [sys.executable, "-I", "-c", WHERE, str(site), str(REPOSITORY)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    installed, with_checkout = json.loads(done.stdout)
    assert installed["mingpt"] == str((source if editable else site) / "mingpt" / "__init__.py")
    assert not any(str(tmp_path) in str(installed[name]) for name in ("projects", "data"))
    assert with_checkout == {name: str(REPOSITORY / name / "__init__.py") for name in installed}
