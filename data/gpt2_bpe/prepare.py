"""Download GPT-2's vocabulary and merges (1.5 MB) and check them against their SHA-256.

    python data/gpt2_bpe/prepare.py               # into the cache that BPETokenizer.from_pretrained("gpt2") reads
    python data/gpt2_bpe/prepare.py --out DIR     # into DIR

Prints where the two files are, and what they hold:

    .../gpt2_bpe/vocab.json
    .../gpt2_bpe/merges.txt
    50257 tokens, 50000 merges

Without a network, put the two files there by hand, or serve them from a folder elsewhere and name it in MINGPT_MIRROR
(see mingpt/pretrained/download.py).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout's mingpt, installed or not

from mingpt.bpe import BPETokenizer  # noqa: E402
from mingpt.pretrained.tokenizer_files import download_pretrained  # noqa: E402
from mingpt.support.command import one_line_errors  # noqa: E402
from mingpt.support.config import Parser  # noqa: E402


def main(arguments: list[str] | None = None) -> None:
    """Fetch the files and print what they hold. `arguments`: of the command line, by default those of this process."""
    parser = Parser(description=__doc__)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for vocab.json and merges.txt")
    args = parser.parse_args(arguments)
    with one_line_errors():
        paths = download_pretrained("gpt2", args.out)
        tokenizer = BPETokenizer.from_files(*paths)
        print(*paths, sep="\n")
        print(f"{tokenizer.vocab_size} tokens, {len(tokenizer.merges)} merges")


if __name__ == "__main__":
    main()
