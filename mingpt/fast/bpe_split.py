"""From text to pre-tokens: GPT-2's splitting pattern, exactly, with the standard library's `re`."""

import functools
import re
import unicodedata
from collections.abc import Iterator, Sequence

# White space as Unicode defines it. The standard library's \s also takes in the separators 0x1c to 0x1f, which
# GPT-2's pattern treats as punctuation.
SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

# No pre-token has white space after a visible character, so one always starts here.
BOUNDARY = re.compile(f"(?<=[^{SPACE}])[{SPACE}]")


@functools.lru_cache(maxsize=None)
def pre_token_pattern() -> re.Pattern:
    """GPT-2's splitting pattern for the standard `re`, made at first use.

    As GPT-2 writes it, with \\p{L} for letters and \\p{N} for numbers, it tries in this order

        's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+

    so a run of letters, of numbers or of other visible characters takes one space in front, and longer white space
    leaves its last character to what follows. `re` has no \\p{L} or \\p{N}, and its \\w and \\d differ from them on
    thousands of characters: the classes come from `unicodedata`. Two rewritings make the pattern fast. Runs with and
    without a space are separate alternatives, which `re` can rule out by their first character. And since `re` looks
    characters up to U+FFFF up in a table but walks through a list of ranges for those above, a run starts with the low
    part of its class, and only a high character makes it go on with the whole class.

    Source: Radford et al. 2019, and encoder.py of its release.
    """
    # Above U+3FFFF there are only tags, variation selectors and private use, none of them letters or numbers.
    categories = "".join(unicodedata.category(chr(code))[0] for code in range(0x40000))

    def ranges(major: str, end: int) -> str:
        return "".join(f"{chr(run.start())}-{chr(run.end() - 1)}" for run in re.finditer(major + "+", categories[:end]))

    letters, numbers, high = ranges("L", 0x40000), ranges("N", 0x40000), "\U00010000-\U0010ffff"
    low_letters, low_numbers = ranges("L", 0x10000), ranges("N", 0x10000)
    wholes = [f"[{letters}]", f"[{numbers}]", f"[^{SPACE}{letters}{numbers}]"]
    lows = [f"[{low_letters}]", f"[{low_numbers}]", f"[^{SPACE}{low_letters}{low_numbers}{high}]"]
    runs = [f"{low}+(?:[{high}](?<={whole}){whole}*|)" for low, whole in zip(lows, wholes)]
    word, number, other = (f" {run}|{run}" for run in runs)
    high_run = f" ?[{high}](?:" + "|".join(f"(?<={whole}){whole}*" for whole in wholes) + ")"
    return re.compile(
        f"{word}|'(?:[sdmt]|ll|ve|re)|{other}|{number}|{high_run}|[{SPACE}]+(?![^{SPACE}])|[{SPACE}]+"
    )


def split_text(text: str) -> list[str]:
    """The pre-tokens of `text`; joined together they give `text` back."""
    return pre_token_pattern().findall(text)


def blocks(text: str, size: int = 1 << 18) -> Iterator[str]:
    """Cut a long text into pieces of `size` characters or more, between pre-tokens, to keep working memory small."""
    start = 0
    while match := BOUNDARY.search(text, start + size):
        yield text[start : match.start()]
        start = match.start()
    yield text[start:]


def checked_text(text: str | bytes) -> str:
    """`text` as a string that UTF-8 can write; raises ValueError for other bytes, lone surrogates and non-text."""
    if not isinstance(text, (str, bytes)):
        raise ValueError(f"text is a {type(text).__name__}; it has to be a string, or bytes in UTF-8")
    try:
        if isinstance(text, bytes):
            return text.decode("utf-8")
        text.encode("utf-8")
        return text
    except UnicodeDecodeError as error:
        raise ValueError(f"text is not UTF-8: byte 0x{text[error.start]:02x} at offset {error.start}") from None
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text has a lone surrogate {text[error.start]!r} at index {error.start}, which UTF-8 cannot write; "
            "text.encode('utf-8', 'replace').decode('utf-8') puts '?' in its place"
        ) from None


def split_at(text: str, names: Sequence[str]) -> list[str]:
    """Cut `text` at `names`, the longest that fits: ordinary text at even places of the result, names at odd ones."""
    if not names:
        return [text]
    return re.split("(" + "|".join(map(re.escape, sorted(names, key=len, reverse=True))) + ")", text)
