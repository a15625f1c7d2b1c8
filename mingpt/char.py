"""A tokenizer whose tokens are single characters."""

import operator
from collections.abc import Iterable, Sequence

from mingpt.support.files import short


class CharTokenizer:
    """Characters to indices and back.

    characters: the vocabulary in order; index i is characters[i].
    """

    def __init__(self, characters: Sequence[str]):
        if isinstance(characters, bytes) or not isinstance(characters, Sequence):
            raise ValueError(
                f"the characters are a {type(characters).__name__}; give a string, or a list of characters"
            )
        for character in characters:
            if not isinstance(character, str) or len(character) != 1:
                raise ValueError(f"{short(character)} is not a single character")
        if len(set(characters)) != len(characters):
            twice = next(c for i, c in enumerate(characters) if c in characters[:i])
            raise ValueError(f"the character {twice!r} stands twice in the vocabulary")
        if not characters:
            raise ValueError("the vocabulary is empty")
        self.characters = "".join(characters)
        self.index = {character: i for i, character in enumerate(self.characters)}

    @classmethod
    def from_text(cls, text: str, special: str = "") -> "CharTokenizer":
        """The vocabulary of a text: the `special` characters first, then the text's own, sorted by code point."""
        _check_text(text)
        clash = next((c for c in special if c in text), None)
        if clash is not None:
            raise ValueError(f"the text contains {clash!r} (U+{ord(clash):04X}), which is reserved; remove it")
        return cls(special + "".join(sorted(set(text))))

    @property
    def vocab_size(self) -> int:
        """Number of characters."""
        return len(self.characters)

    def encode(self, text: str) -> list[int]:
        """Indices of the text's characters. ValueError names the first one that is not in the vocabulary."""
        _check_text(text)
        try:
            return [self.index[character] for character in text]
        except KeyError as error:
            character = error.args[0]
            raise ValueError(
                f"the character {character!r} (U+{ord(character):04X}) at place {text.index(character)} "
                f"is not in the vocabulary of {self.vocab_size}"
            ) from None

    def decode(self, indices: Iterable[int]) -> str:
        """The text of a sequence of indices (a list, or a 1-D array or tensor). ValueError for one out of range."""
        indices = token_ids(indices)
        outside = next((i for i in indices if not 0 <= i < self.vocab_size), None)
        if outside is not None:
            raise ValueError(f"index {short(outside)} is outside the vocabulary of {self.vocab_size}")
        return "".join(map(self.characters.__getitem__, indices))


def token_ids(ids: Iterable[int]) -> list[int]:
    """A sequence of token ids (a list, or a 1-D array or tensor of integers) as a list.

    Raises ValueError for what holds something else than whole numbers, and for a batch of sequences.
    """
    plain = ids.tolist() if hasattr(ids, "tolist") else ids  # arrays and tensors, on any device
    if isinstance(plain, (str, bytes)) or not isinstance(plain, Iterable):
        raise ValueError(f"ids have to be a sequence of integers, not {short(plain)} of type {type(ids).__name__!r}")
    plain = list(plain)
    if set(map(type, plain)) <= {int}:
        return plain
    for id in plain:
        if isinstance(id, (list, tuple)) or getattr(id, "ndim", 0) and len(id) != 1:
            raise ValueError(
                f"ids have to be a sequence of integers, not a batch of {len(plain)} such; decode one at a time: "
                "[tokenizer.decode(row) for row in batch]"
            )
        if isinstance(id, bool):
            raise ValueError(f"ids have to be a sequence of integers: 'bool' ({id}) is none")
    try:
        return list(map(operator.index, plain))
    except TypeError as error:
        raise ValueError(f"ids have to be a sequence of integers: {error}") from None


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise ValueError(f"text is a {type(text).__name__}; it has to be a string")
