"""Write the starter version: the same folder, with what is to be learned left out.

    run.py --handout DIR           or: run.py handout DIR

DIR gets the code of this study and of the part of `mingpt/` that it imports, the embedded world, and a README. The
bodies of the functions listed in handout.txt are replaced by a NotImplementedError; signatures, docstrings and
everything around them stay, and the docstrings are the specification. The grader comes along, but for `reference.py`,
which compares with the solution.
"""

import ast
from pathlib import Path

from mingpt.support.command import one_line_errors
from mingpt.support.config import Parser
from mingpt.support.files import WRITTEN, own_folder, read_text, write_text

ROOT = Path(__file__).resolve().parents[3]
STUDY = "projects/birthplace"
PRIVATE = (f"{STUDY}/assignment/reference.py",)
DATA = (
    *(f"data/birthplace_world/*.{kind}" for kind in ("tsv", "txt", "py", "md")),
    "data/cs224n_a5/prepare.py",
    "projects/__init__.py",
    "data/__init__.py",
    "requirements.txt",
    "LICENSE",
)


def read_list(path: Path) -> dict[str, list[str]]:
    """File -> names of functions to be written, as handout.txt lists them."""
    functions: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        words = line.partition("#")[0].split()
        if len(words) not in (0, 2):
            raise ValueError(f"{path}:{number}: a line is FILE FUNCTION")
        if words:
            functions.setdefault(words[0], []).append(words[1])
    return functions


def functions_of(source: str) -> dict[str, ast.FunctionDef]:
    """Name -> node of a module's functions and of its classes' methods (as "Class.method")."""
    found = {}
    for node in ast.parse(source).body:
        for function, prefix in [(node, "")] + [
            (child, f"{node.name}.") for child in getattr(node, "body", []) if isinstance(node, ast.ClassDef)
        ]:
            if isinstance(function, ast.FunctionDef):
                found[prefix + function.name] = function
    return found


def body_lines(function: ast.FunctionDef, lines: list[str]) -> tuple[int, int]:
    """First and last line (from 0; the last excluded) of a function's body, with its comments, without docstring."""
    statement = function.body[0]
    if statement.lineno == function.lineno:
        raise ValueError(f"{function.name}: its body stands on the line of its name; give it lines of its own")
    if ast.get_docstring(function) is not None:
        start = statement.end_lineno
    else:
        start = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))]) - 1
        while not lines[start - 1].strip() or lines[start - 1].lstrip().startswith("#"):
            start -= 1
    end = function.end_lineno
    while end < len(lines) and lines[end].startswith(" " * statement.col_offset + "#"):
        end += 1
    return start, end


def blank(source: str, names: list[str], path: str) -> str:
    """The module with the bodies of the functions `names` replaced. ValueError if it has no such function."""
    lines, functions = source.splitlines(keepends=True), functions_of(source)
    for name in names:
        if name not in functions:
            raise ValueError(
                f"{path}: has no function {name}, which handout.txt lists; there are {', '.join(functions)}"
            )
    for name in sorted(names, key=lambda name: -functions[name].lineno):  # from the end, so that line numbers stay true
        start, end = body_lines(functions[name], lines)
        indent = " " * functions[name].body[0].col_offset
        lines[start:end] = [f'{indent}raise NotImplementedError("{name}: to be written")\n']
    return "".join(lines)


def imported_core(files: list[str]) -> list[str]:
    """The modules of `mingpt` that these files import, and those that they import in turn, as paths."""
    found, left = {"mingpt/__init__.py"}, list(files)
    while left:
        for node in ast.walk(ast.parse(read_text(ROOT / left.pop()))):
            names = [
                alias.name for alias in getattr(node, "names", []) if isinstance(node, (ast.Import, ast.ImportFrom))
            ]
            if isinstance(node, ast.ImportFrom):  # of a module, or of the modules of a package
                names = [node.module or "", *(f"{node.module}.{name}" for name in names)]
            paths = [name.replace(".", "/") for name in names if name.startswith("mingpt.")]
            new = {
                file
                for path in paths
                for file in (f"{path}.py", f"{path}/__init__.py", f"{Path(path).parent}/__init__.py")
                if (ROOT / file).is_file()
            } - found
            found |= new
            left += new
    return sorted(found)


def handout(folder: Path) -> list[str]:
    """Write the starter version to `folder`, which must be new or empty. Returns the names of its files."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: is not an empty folder; a handout needs a new one")
    functions = read_list(ROOT / STUDY / "assignment" / "handout.txt")
    study = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / STUDY).rglob("*.*"))
        if path.suffix in (".py", ".txt", ".md") and path.name != "README.md" and path.parent.name != "results"
    ]
    data = [path.relative_to(ROOT).as_posix() for pattern in DATA for path in sorted(ROOT.glob(pattern))]
    code = [name for name in [*study, *data] if name.endswith(".py")]
    names = sorted({*study, *data, *imported_core(code)} - set(PRIVATE))
    if strange := sorted(set(functions) - set(names)):
        raise ValueError(f"handout.txt lists {strange[0]}, which is not part of the handout")
    texts = {name: read_text(ROOT / name) for name in names}
    texts.update({name: blank(texts[name], listed, name) for name, listed in functions.items()})
    table = "\n".join(
        [
            "| file | function |",
            "|---|---|",
            *(f"| `{name}` | `{function}` |" for name, listed in functions.items() for function in listed),
        ]
    )
    texts["README.md"] = read_text(ROOT / STUDY / "assignment" / "handout.md").replace("{functions}", table)
    with own_folder(folder):
        for name, text in texts.items():
            write_text(folder / name, text)
        (folder / WRITTEN).unlink()  # all of it is the student's from now on
    return sorted(texts)


def main(words: list[str]) -> None:
    """The command line of `run.py handout`."""
    parser = Parser(prog="run.py handout", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write it; new or empty")
    args = parser.parse_args(words)
    with one_line_errors():
        names = handout(args.folder)
        functions = sum(map(len, read_list(ROOT / STUDY / "assignment" / "handout.txt").values()))
        print(
            f"{args.folder}: {len(names)} files, {functions} functions to be written; start with "
            f"{args.folder / 'README.md'}"
        )
