"""A tokenizer whose tokens are single characters."""

from collections.abc import Sequence

import numpy as np


class CharTokenizer:
    """Characters to indices and back.

    characters: the vocabulary in order; index i is characters[i].
    """

    def __init__(self, characters: Sequence[str]):
        for character in characters:
            if len(character) != 1:
                raise ValueError(f"{character!r} is not a single character")
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
        try:
            return [self.index[character] for character in text]
        except KeyError as error:
            character = error.args[0]
            raise ValueError(f"the character {character!r} (U+{ord(character):04X}) at place {text.index(character)} "
                             f"is not in the vocabulary of {self.vocab_size}") from None

    def decode(self, indices: Sequence[int]) -> str:
        """The text of a sequence of indices (a list, an array or a tensor). ValueError for one out of range."""
        indices = np.asarray(indices)
        if indices.size and indices.dtype.kind not in "iu":
            raise ValueError(f"indices are whole numbers, not {indices.dtype}")
        indices = indices.astype(np.int64)
        outside = indices[(indices < 0) | (indices >= self.vocab_size)]
        if len(outside):
            raise ValueError(f"index {outside[0]} is outside the vocabulary of {self.vocab_size}")
        return "".join([self.characters[i] for i in indices])
