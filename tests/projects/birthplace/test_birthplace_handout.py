"""The starter version: what is left out of it, and that filling it in makes it the whole again."""

import ast
import json
import shutil
import subprocess
import sys

import birthplace_submission as world
import pytest
from conftest import REPOSITORY

from mingpt.support.files import read_text, write_text
from projects.birthplace.assignment import handout as handout_module
from projects.birthplace.assignment import sandbox
from projects.birthplace.assignment.grade import GradeOptions, grade
from projects.birthplace.assignment.handout import blank, body_lines, functions_of, handout, read_list
from projects.birthplace.assignment.submit import collect, write_zip
from projects.birthplace.run import main

TO_WRITE = read_list(REPOSITORY / "projects" / "birthplace" / "assignment" / "handout.txt")


@pytest.fixture(scope="module")
def starter(tmp_path_factory):
    """A handout. Not to be changed."""
    folder = tmp_path_factory.mktemp("handout") / "starter"
    handout(folder)
    return folder


def fill_in(folder):
    """Write the solution's bodies into a handout's functions, as a student who knows it all would."""
    for file, names in TO_WRITE.items():
        solution = read_text(REPOSITORY / file)
        for name in names:
            text = read_text(folder / file)
            lines, theirs = text.splitlines(keepends=True), solution.splitlines(keepends=True)
            start, end = body_lines(functions_of(text)[name], lines)
            first, last = body_lines(functions_of(solution)[name], theirs)
            lines[start:end] = theirs[first:last]
            write_text(folder / file, "".join(lines))


def test_listed_functions_are_blank_and_documented_and_all_else_is_as_it_was(starter):
    assert sum(map(len, TO_WRITE.values())) >= 8
    for file, names in TO_WRITE.items():
        ours, theirs = read_text(REPOSITORY / file), read_text(starter / file)
        whole, blanked = functions_of(ours), functions_of(theirs)
        assert list(whole) == list(blanked)
        for name in names:
            *docstring, only = blanked[name].body
            assert ast.unparse(only) == f"raise NotImplementedError('{name}: to be written')" and len(docstring) <= 1
            assert ast.get_docstring(whole[name]) == ast.get_docstring(blanked[name])
            assert ast.unparse(whole[name].args) == ast.unparse(blanked[name].args)
            owner = next(
                (node for node in ast.parse(ours).body if getattr(node, "name", "") == name.split(".")[0]), None
            )
            assert ast.get_docstring(whole[name]) or ast.get_docstring(owner), f"{name} has no specification"
        for name in set(whole) - set(names):
            assert ast.get_source_segment(ours, whole[name]) == ast.get_source_segment(theirs, blanked[name])


def test_the_solution_is_not_in_it(starter):
    assert not (starter / "projects/birthplace/assignment/reference.py").exists()
    everything = "".join(read_text(path) for path in starter.rglob("*.*") if path.suffix in (".py", ".md", ".txt"))
    for line in (
        "masked = rng.randint(1, max(1, most))",
        "indices[:-1].clone()",
        "y[: len(question)] = self.pad_id",
        "a * cos - b * sin",
        "stop_tokens=[stop]",
        "write_predictions(outputs, predictions)",
    ):
        assert any(line in read_text(REPOSITORY / file) for file in TO_WRITE), f"{line} is no longer in the solution"
        assert line not in everything


def test_it_has_what_it_imports_and_a_readme(starter):
    assert (starter / "mingpt" / "trainer.py").exists() and not (starter / "mingpt" / "bpe.py").exists()
    assert (starter / "data" / "birthplace_world" / "wiki.txt").exists()
    readme = read_text(starter / "README.md")
    assert "{functions}" not in readme
    for names in TO_WRITE.values():
        assert all(f"`{name}`" in readme for name in names)


def test_filling_the_bodies_back_in_makes_the_grader_pass(starter, tmp_path, environment, monkeypatch):
    """As a student would: write the functions and look at the marks; then the marker's own."""
    del environment["PYTHONPATH"]  # nothing but this folder and the packages
    folder = tmp_path / "starter"
    handout(folder)

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", *map(str, words)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )

    fill_in(folder)
    for file in TO_WRITE:
        assert read_text(folder / file) == read_text(REPOSITORY / file)
    out = shutil.copytree(world.out(), tmp_path / "out")
    shown = run("projects.birthplace.run", "submit", "--out", out, "--data_dir", world.data(), "--full_marks_at", "75")
    assert shown.returncode == 0, shown.stderr
    report = json.loads(read_text(out / "grade.json"))
    unmarked = {line["name"] for line in report["lines"] if line["points"] is None}
    assert unmarked == {
        "predict: the likeliest characters, up to the next mark",
        "vanilla: they are what the parameters answer",
        "rope: they are what the parameters answer",
    }
    assert report["points"] == report["of"] == 89

    monkeypatch.setattr(sandbox, "run_ours", world.ask_here)
    with world.forking():
        full = grade(
            str(out / "submission.zip"), GradeOptions(data_dir=str(world.data()), full_marks_at=75.0, seed=world.SEED)
        )
    assert full["points"] == full["of"] == 100


def test_blank_code_gets_the_points_of_what_is_not_blank(starter, tmp_path, monkeypatch):
    write_zip(tmp_path / "s.zip", collect(world.out(), starter, partial=False))
    monkeypatch.setattr(sandbox, "run_ours", world.ask_here)
    with world.forking():
        report = grade(str(tmp_path / "s.zip"), GradeOptions(data_dir=str(world.data()), full_marks_at=75.0))
    marks = {line["name"]: (line["points"], line["reason"]) for line in report["lines"]}
    assert marks["vocabulary: PAD, MASK, the sorted characters"][0] == 3 and marks["vanilla: causal"][0] == 6
    assert marks["rope: causal"] == (0, "NotImplementedError: rotate: to be written")
    assert marks["something is always masked"][0] == 0 and marks["x: question ⁇ answer ⁇, padded"][0] == 0
    for command in ("pretrain", "evaluate", "london"):
        points, reason = next(found for name, found in marks.items() if name.startswith(command))
        assert points == 0 and reason == f"{command}: NotImplementedError: {command}: to be written"
    assert "NameDataset.__getitem__: to be written" in marks["x: question ⁇ answer ⁇, padded"][1]


SOURCE = '''"""A module."""
import re  # stays


class A:
    # stays
    def f(self, x: int = 3) -> int:  # stays, too
        """What it does."""
        # goes
        y = """
        a string
        """
        return y
        # goes

    # stays
    @property
    def g(self):
        # goes

        def inner():
            return 1
        return inner


def h(x,
      y):
    return x
'''


def test_blanking_keeps_everything_outside_the_bodies():
    lines = blank(SOURCE, ["A.f", "A.g", "h"], "a.py").split("\n")
    assert "goes" not in "".join(lines) and "".join(lines).count("stays") == 4
    assert [line.strip() for line in lines if "NotImplementedError" in line] == [
        f'raise NotImplementedError("{name}: to be written")' for name in ("A.f", "A.g", "h")
    ]
    assert "inner" not in "".join(lines) and '        """What it does."""' in lines
    assert blank(SOURCE, ["h"], "a.py") == SOURCE.replace(
        "    return x\n", '    raise NotImplementedError("h: to be written")\n'
    )


def test_a_list_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="a.py: has no function k, which handout.txt lists; there are A.f, A.g, h"):
        blank(SOURCE, ["k"], "a.py")
    with pytest.raises(ValueError, match="f: its body stands on the line of its name"):
        blank("def f(): return 1\n", ["f"], "a.py")
    write_text(tmp_path / "list", "# a comment\na.py f\n\nb.py g h\n")
    with pytest.raises(ValueError, match="list:4: a line is FILE FUNCTION"):
        read_list(tmp_path / "list")
    monkeypatch.setattr(handout_module, "read_list", lambda path: {"mingpt/bpe.py": ["train"]})
    with pytest.raises(ValueError, match="handout.txt lists mingpt/bpe.py, which is not part of the handout"):
        handout(tmp_path / "new")


@pytest.mark.parametrize("word", ["handout", "--handout"])
def test_the_command(word, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", word, str(tmp_path / "new")])
    main()
    assert f"{sum(map(len, TO_WRITE.values()))} functions to be written; start with" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr().err
    assert ended.value.code == 2
    assert shown == f"error: {tmp_path / 'new'}: is not an empty folder; a handout needs a new one\n"
