"""Download WikiText-2 (raw): some 2 million words of good Wikipedia articles (Merity et al. 2016).

    python data/wikitext2/prepare.py            into this folder (the files are git-ignored)
    python data/wikitext2/prepare.py --out DIR  into another one

Output to expect:

    wiki.train.raw      36718 lines   10929707 bytes
    wiki.valid.raw       3760 lines    1144610 bytes
    wiki.test.raw        4358 lines    1290590 bytes

The text is under CC BY-SA 3.0. Without a network, put the three files into the folder by hand, or the archive
`wikitext-2-raw-v1.zip`, or serve the archive from a folder elsewhere and name that in MINGPT_MIRROR (see
mingpt/pretrained/download.py).
"""

import argparse
import shutil
import sys
import zipfile
import zlib
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # this checkout's mingpt, installed or not: other packages have that name too

from mingpt.pretrained.download import fetch  # noqa: E402
from mingpt.support.command import one_line_errors  # noqa: E402
from mingpt.support.files import atomic_path  # noqa: E402

ARCHIVE = "wikitext-2-raw-v1.zip"
SHA256 = "ef7edb566e3e2b2d31b29c1fdb0c89a4cc683597484c3dc2517919c615435a11"
MIRRORS = [  # the first at a fixed commit; the last is the publisher's, which has been refusing requests for years
    "https://huggingface.co/datasets/ggml-org/ci/resolve/927b3642933080f1b0e811e2f916e14c292992f9/",
    "https://wikitext.smerity.com/",
    "https://s3.amazonaws.com/research.metamind.io/wikitext/",
]
LARGEST = 1 << 26  # bytes of an archive or of a text; the real ones have 4.7 and 10.9 million
SPLITS = ("train", "valid", "test")


def prepare(folder=HERE, quiet=False):
    """Make sure that `folder` holds wiki.train.raw, wiki.valid.raw and wiki.test.raw; download and unpack if not.

    Arguments:
        folder: where they go; created if need be.
        quiet: print no table of lines and bytes.

    Returns `folder` as a Path. Raises DownloadError if the archive cannot be downloaded, ValueError if it lacks a file.
    """
    folder = Path(folder)
    paths = [folder / f"wiki.{split}.raw" for split in SPLITS]
    if not all(path.is_file() for path in paths):
        unpack(fetch([mirror + ARCHIVE for mirror in MIRRORS], folder / ARCHIVE, SHA256, largest=LARGEST), paths)
    if not quiet:
        for path in paths:
            data = path.read_bytes()
            print(f"{path.name:<16}{data.count(10):>9} lines {len(data):>10} bytes")
    return folder


def unpack(archive, paths):
    """Write the member of the zip file `archive` that has the name of each of `paths` there, whole or not at all.

    In which folder of the archive a member is does not matter. Raises ValueError, before anything is written, where one
    is missing, is there twice, or is too large; and where the archive is damaged.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = [_member(zipped, archive, path.name) for path in paths]
            for path, member in zip(paths, members):
                # zipfile reads no more than the size that the archive states, whatever is packed in it
                with atomic_path(path) as temporary, zipped.open(member) as packed, open(temporary, "wb") as file:
                    shutil.copyfileobj(packed, file)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        RuntimeError,
    ) as error:  # RuntimeError: encrypted, or packed unusually
        raise ValueError(f"{archive}: cannot be unpacked ({error}); delete it and try again") from error


def _member(zipped, archive, name):
    """The entry of the zip file that is the file `name`, in whatever folder."""
    files = [entry for entry in zipped.infolist() if not entry.is_dir()]
    found = [entry for entry in files if Path(entry.filename).name == name]
    if not found:
        there = sorted(entry.filename for entry in files)
        shown = ", ".join(there[:10]) + (f" and {len(there) - 10} more" if len(there) > 10 else "")
        raise ValueError(f"{archive} has no {name}, only {shown or 'empty folders'}; delete it and try again")
    if len(found) > 1:
        raise ValueError(
            f"{archive} has {name} twice, as {found[0].filename} and {found[1].filename}; unpack by hand the "
            "one that is meant"
        )
    if found[0].file_size > LARGEST:
        raise ValueError(
            f"{archive}: {name} would have {found[0].file_size:,} bytes, more than {LARGEST:,}; that is not "
            "WikiText-2, so delete it and try again"
        )
    return found[0]


def main():
    parser = argparse.ArgumentParser(description="Download and verify WikiText-2 (raw).")
    parser.add_argument(
        "--out", type=Path, default=HERE, metavar="DIR", help="folder for the files (default: %(default)s)"
    )
    args = parser.parse_args()
    with one_line_errors():
        prepare(args.out)


if __name__ == "__main__":
    main()
