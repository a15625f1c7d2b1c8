"""Download the data of Stanford's CS224N assignment 5: who was born where.

    python data/cs224n_a5/prepare.py            into this folder (the files are git-ignored)
    python data/cs224n_a5/prepare.py --out DIR  into another one
    python data/cs224n_a5/prepare.py --verify   only look at what is there

Output to expect, after a second or two:

    birth_places_train.tsv     2000 lines    79764 characters
    birth_dev.tsv               500 lines    20017 characters
    birth_test_inputs.tsv       437 lines    13854 characters
    wiki.txt                   2937 lines   418352 characters

`wiki.txt` holds a sentence or two about one person a line, to pretrain on. A line of `birth_places_train.tsv` and
`birth_dev.tsv` is a question and its answer with a tab between them, "Where was Khatchig Mouradian born?\tLebanon";
`birth_test_inputs.tsv` has the questions only. Without a network, put the four files into the folder by hand, or
serve them from a folder elsewhere and name it in MINGPT_MIRROR (see mingpt/pretrained/download.py).
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # this checkout's mingpt, installed or not: other packages have that name too

from mingpt.pretrained.download import fetch  # noqa: E402
from mingpt.support.command import one_line_errors  # noqa: E402
from mingpt.support.files import sha256_of  # noqa: E402

SHA256 = {
    "birth_places_train.tsv": "521f7f42bbd9065525edc1eb4353b6706215e76bd683653e36bacace2c8bb409",
    "birth_dev.tsv": "101a56073eba0db9aad5e2aaf1aa9bf8bdae966ae3aaed8fc8cda5edfa7856da",
    "birth_test_inputs.tsv": "5ccd3b2a1682e0daf90d59488aef8805ef21b9d35795cc3bdabdea79d293aa1f",
    "wiki.txt": "823bb536fca77c8b5a15b34b0dead6355d0cf1f806e822464bca28806c2fd055",
}
# A student's public copy; first at a fixed commit, then at the head of the branch. The copies found
# in other repositories have other lengths, so none of them can stand in.
MIRRORS = [
    "https://raw.githubusercontent.com/xuanhaocui/cs224n/168293459f587bcacef05c257f57ee104e978eda/a5/",
    "https://raw.githubusercontent.com/xuanhaocui/cs224n/main/a5/",
]


def prepare(folder=HERE, quiet=False):
    """Make sure that `folder` holds the four files, downloading those that are missing or differ.

    Arguments:
        folder: where they go; created if need be.
        quiet: print no table of lines and characters.

    Returns `folder` as a Path. Raises DownloadError with the name of the file that could not be downloaded.
    """
    folder = Path(folder)
    for name, sha256 in SHA256.items():
        fetch([mirror + name for mirror in MIRRORS], folder / name, sha256, largest=1 << 23)
    if not quiet:
        for name in SHA256:
            text = (folder / name).read_bytes().decode("utf-8")
            lines = text.count("\n") + (not text.endswith("\n"))  # the last line may lack its line end
            print(f"{name:<24}{lines:>7} lines {len(text):>8} characters")
    return folder


def verify(folder=HERE):
    """Return one line for each of the four files that is missing from `folder` or differs; [] if all are right."""
    problems = []
    for name, sha256 in SHA256.items():
        path = Path(folder) / name
        if not path.is_file():
            problems.append(f"{path}: missing")
        elif (found := sha256_of(path)) != sha256:
            problems.append(f"{path}: differs, its sha256 is {found} and not {sha256}")
    return problems


def main():
    parser = argparse.ArgumentParser(description="Download and verify the data of CS224N assignment 5.")
    parser.add_argument(
        "--out", type=Path, default=HERE, metavar="DIR", help="folder for the files (default: %(default)s)"
    )
    parser.add_argument(
        "--verify", action="store_true", help="download nothing, only say which files are missing or differ"
    )
    args = parser.parse_args()
    if args.verify:
        with one_line_errors():
            problems = verify(args.out)
        sys.exit("\n".join(problems) or 0)
    with one_line_errors():
        prepare(args.out)


if __name__ == "__main__":
    main()
