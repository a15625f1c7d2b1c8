"""Our BPE tokenizer beside tiktoken and tokenizers, on the same text.

Three tables: encoding warm (our cache knows the text's words), encoding cold (a tokenizer that has seen no text yet)
and
training. All run on one thread and give the same ids, which is checked. The vocabulary is GPT-2's, out of --vocab (a
folder with vocab.json and merges.txt, or OpenAI's names for them) or else downloaded. With --quick, and where it
cannot be
had, one that we train on the same text stands in for it; a line says so.
"""

import ast
import os
import random
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mingpt.bpe import BPETokenizer, split_text
from mingpt.pretrained.download import DownloadError
from mingpt.pretrained.tokenizer_files import download_pretrained
from projects.benchmark.harness import Table, compare

ALPHABETS = {  # of scripts that cover one, two and three bytes in UTF-8, with and without spaces between words
    "French": "abcdefghilmnopqrstuvéèêàçù",
    "Greek": "αβγδεζηθικλμνξοπρστυφχψω",
    "Russian": "абвгдежзийклмнопрстуфхцчшщыьэюя",
    "Hebrew": "אבגדהוזחטיכלמנסעפצקרשת",
    "Arabic": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "Hindi": "अआइईउऊकखगघचजटडतदनपबमयरलवशसहािीुू",
    "Thai": "กขคงจฉชซดตถทธนบปพฟมยรลวสหะาิี",
    "Japanese": "あいうえおかきくけこさしすせそたちつてとアイウエオカキクケコ日本語人大小中国",
    "Korean": "".join(map(chr, range(0xAC00, 0xAD80))),
    "Chinese": "".join(map(chr, range(0x4E00, 0x5000))),
}
UNSPACED = {"Japanese": "、。", "Chinese": "，。", "Thai": " "}  # words follow each other; what ends a phrase


def other_scripts(size: int, rng: random.Random) -> str:
    """About `size` characters of made-up words, in turn from each of `ALPHABETS`, with numbers and emoji.

    One word in seven is new and the rest repeat earlier ones, the early ones more often: natural text's distribution,
    near enough (its vocabulary never stops growing).
    """
    lines, written = [], 0
    known = {name: [] for name in ALPHABETS}
    while written < size:
        name = rng.choice(list(ALPHABETS))
        words = []
        for _ in range(40):
            if known[name] and rng.random() > 1 / 7:
                words.append(known[name][int(len(known[name]) * rng.random() ** 3)])
            else:
                length = rng.randint(1, 3) if len(ALPHABETS[name]) > 100 else rng.randint(2, 9)
                known[name].append("".join(rng.choices(ALPHABETS[name], k=length)))
                words.append(known[name][-1])
        words[rng.randrange(40)] += rng.choice([", 2019", " 😀", "! 🚀🎉", " (17)", " 👍🏽", "."])
        if name in UNSPACED:
            lines.append("".join(word + (rng.choice(UNSPACED[name]) if rng.random() < 1 / 6 else "") for word in words))
        else:
            lines.append(" ".join(words))
        written += len(lines[-1]) + 1
    return "\n".join(lines)


def docstrings(files: list[Path], size: int) -> str:
    """About `size` characters of English: what the docstrings of Python `files` say."""
    found, written = [], 0
    for path in files:
        if written > size:
            break
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue  # the library's tests include files that are wrong on purpose
        nodes = (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)))
        for doc in filter(None, map(ast.get_docstring, nodes)):
            found.append(doc)
            written += len(doc) + 2
    return "\n\n".join(found)


def library_files() -> list[Path]:
    """The Python files of the standard library, in order. What is installed beside it is not even looked through."""
    library = Path(sysconfig.get_paths()["stdlib"])
    own = [path for path in library.iterdir() if path.name != "site-packages"]
    below = (file for path in own if path.is_dir() for file in path.rglob("*.py") if "site-packages" not in file.parts)
    return sorted([*(path for path in own if path.suffix == ".py"), *below])


def mixed_text(size: int) -> tuple[str, str]:
    """About `size` bytes of code, English and other scripts, shuffled by the paragraph; and a line on what it is."""
    rng = random.Random(0)
    files = library_files()
    rng.shuffle(files)
    code = ""
    while files and len(code) < size / 3:
        code += files.pop().read_text("utf-8", errors="ignore")
    english = docstrings(files, size // 3)
    other = other_scripts(size // 6, rng)
    parts = {
        "standard library": code[: size // 3],
        "its docstrings": english[: size // 3],
        "made-up, other scripts": other,
    }
    paragraphs = [paragraph for part in parts.values() for paragraph in part.split("\n\n")]
    rng.shuffle(paragraphs)
    sizes = ", ".join(f"{len(part.encode()) / 1e6:.2f} MB {name}" for name, part in parts.items())
    return "\n\n".join(paragraphs), sizes


@contextmanager
def vocabulary(folder: Path | None, quick: bool, text: str, vocab_size: int):
    """Yields the paths of vocab.json and merges.txt: GPT-2's, in `folder` or downloaded, or else of a stand-in."""
    reason = "--quick downloads nothing"
    if folder or not quick:
        try:
            yield gpt2_files(folder)
            return
        except DownloadError as error:
            reason = str(error)
    print(
        f"GPT-2's vocabulary is not used ({reason}); one of {vocab_size:,} tokens, trained on the text, stands in "
        "for it"
    )
    with tempfile.TemporaryDirectory() as temporary:
        yield BPETokenizer.train(text, vocab_size, progress=False).save(temporary)


def gpt2_files(folder: Path | None) -> tuple[Path, Path]:
    """GPT-2's vocabulary and merges: in `folder`, or downloaded where none is named."""
    if folder is None:
        return download_pretrained("gpt2")
    for names in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
        if all((folder / name).exists() for name in names):
            return folder / names[0], folder / names[1]
    raise ValueError(f"--vocab {folder}: has neither vocab.json with merges.txt nor encoder.json with vocab.bpe")


def one_after_the_other(tokenizers: list, encode: Callable) -> Callable[[], object]:
    """A function that at each call does `encode` with the next of `tokenizers`, which have seen no text yet.

    They stay alive, so that no round pays for taking one down.
    """
    fresh = iter(tokenizers)
    return lambda: encode(next(fresh))


def tiktoken_encode(ours: BPETokenizer) -> Callable[[str], list[int]] | None:
    """tiktoken's encoding with our vocabulary; None where it is not installed."""
    try:
        import tiktoken
        from tiktoken_ext.openai_public import r50k_pat_str
    except ImportError:
        return None
    special = set(ours.special_tokens.values())
    ranks = {
        token: id for id, token in enumerate(ours.tokens) if id not in special
    }  # tokens stand in the order of their merges
    return tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={}).encode_ordinary


class Tokenizers:
    """The `tokenizers` package, set to byte-level BPE on one thread. ImportError where it is not installed."""

    def __init__(self):
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read at its import
        os.environ["RAYON_NUM_THREADS"] = "1"
        import tokenizers

        self.package = tokenizers

    def around(self, model):
        """A tokenizer that splits and writes bytes as GPT-2's does."""
        tokenizer = self.package.Tokenizer(model)
        tokenizer.pre_tokenizer = self.package.pre_tokenizers.ByteLevel(add_prefix_space=False)
        return tokenizer

    def load(self, files: tuple[Path, Path]):
        """The tokenizer in vocab.json and merges.txt."""
        return self.around(self.package.models.BPE.from_file(*map(str, files)))

    def train(self, text: str, vocab_size: int) -> None:
        """Learn `vocab_size` tokens, the 256 bytes among them."""
        alphabet = self.package.pre_tokenizers.ByteLevel.alphabet()
        trainer = self.package.trainers.BpeTrainer(
            vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False
        )
        self.around(self.package.models.BPE()).train_from_iterator([text], trainer)


def compare_all(text: str, files: tuple[Path, Path], vocab_size: int, repeats: int) -> Iterator[Table]:
    """Check that all give the same ids for `text`, and time them."""
    rounds = repeats + 1  # one of them to warm up
    ours = BPETokenizer.from_files(*files)
    fresh = [BPETokenizer(ours.tokens, ours.merges, ours.special_tokens) for _ in range(rounds)]
    ids = ours.encode(text)
    cold = {"ours": one_after_the_other(fresh, lambda tokenizer: tokenizer.encode(text))}
    warm = {"ours": lambda: ours.encode(text)}
    training = {"ours": lambda: BPETokenizer.train(text, vocab_size, progress=False)}

    warm["tiktoken"] = cold["tiktoken"] = None
    if encode := tiktoken_encode(ours):
        if encode(text) != ids:
            raise ValueError("tiktoken gives other ids than ours; this is a mistake in one of them")
        # tiktoken keeps nothing between calls: its warm and cold runs are the same.
        warm["tiktoken"] = cold["tiktoken"] = lambda: encode(text)

    warm["tokenizers"] = cold["tokenizers"] = training["tokenizers"] = None
    try:
        theirs = Tokenizers()
    except ImportError:
        pass
    else:
        known = theirs.load(files)
        if known.encode(text).ids != ids:
            raise ValueError("tokenizers gives other ids than ours; this is a mistake in one of them")
        fresh_theirs = [theirs.load(files) for _ in range(rounds)]
        warm["tokenizers"] = lambda: known.encode(text)
        cold["tokenizers"] = one_after_the_other(fresh_theirs, lambda tokenizer: tokenizer.encode(text))
        training["tokenizers"] = lambda: theirs.train(text, vocab_size)

    size = dict(work=len(text.encode()) / 1e6, unit="MB")
    yield Table("BPE: encode, warm", compare(warm, repeats=repeats), "ours", **size, goals={"tiktoken": 1.0})
    yield Table("BPE: encode, cold", compare(cold, repeats=repeats), "ours", **size, goals={"tiktoken": 0.5})
    trained = compare(training, repeats=min(repeats, 3))
    yield Table(f"BPE: train {vocab_size:,} tokens", trained, "ours", **size, goals={"tokenizers": 0.25})


def measure(quick: bool = False, repeats: int = 7, vocab: Path | None = None) -> Iterator[Table]:
    """Three tables, on 6 MB of text; `quick`: on a fiftieth of it."""
    repeats, size, vocab_size = (1, 120_000, 512) if quick else (repeats, 6_000_000, 8192)
    text, sizes = mixed_text(size)
    print(
        f"text: {len(text.encode()) / 1e6:.2f} MB ({sizes}),\n"
        f"      {len(text):,} characters, {len(set(split_text(text))):,} distinct pre-tokens"
    )
    with vocabulary(vocab, quick, text, vocab_size) as files:
        yield from compare_all(text, files, vocab_size, repeats)
