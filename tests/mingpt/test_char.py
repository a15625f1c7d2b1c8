"""The character tokenizer."""

import numpy as np
import pytest
import torch

from mingpt.char import CharTokenizer


def test_vocabulary_is_the_special_characters_then_the_sorted_text():
    tokenizer = CharTokenizer.from_text("hello,\nZoë", special="□⁇")
    assert tokenizer.characters == "□⁇" + "".join(sorted("helo,\nZë"))
    assert tokenizer.vocab_size == 10


@pytest.mark.parametrize("container", [list, np.array, torch.tensor])
def test_round_trip(container):
    text = "Łukasz was born in Zürich.\n"
    tokenizer = CharTokenizer.from_text(text)
    assert tokenizer.decode(container(tokenizer.encode(text))) == text
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""


def test_mistakes_are_named():
    tokenizer = CharTokenizer("abc")
    with pytest.raises(ValueError, match=r"the character 'é' \(U\+00E9\) at place 2 is not in the vocabulary of 3"):
        tokenizer.encode("abé")
    with pytest.raises(ValueError, match="index 3 is outside the vocabulary of 3"):
        tokenizer.decode([0, 3])
    with pytest.raises(ValueError, match="index -1 is outside"):
        tokenizer.decode([-1])
    with pytest.raises(ValueError, match="ids have to be a sequence of integers: 'float'"):
        tokenizer.decode([1.9, 0.2])
    with pytest.raises(ValueError, match="'a' stands twice"):
        CharTokenizer("abca")
    with pytest.raises(ValueError, match="the vocabulary is empty"):
        CharTokenizer("")
    with pytest.raises(ValueError, match="'ab' is not a single character"):
        CharTokenizer(["ab"])
    for wrong, message in (
        (None, "the characters are a NoneType"),
        (5, "the characters are a int"),
        (b"ab", "are a bytes"),
        ([1], "1 is not a single"),
        ({"a": 1}, "are a dict"),
        (["x" * 10**5], "xxx' is not a single"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            CharTokenizer(wrong)
        assert len(str(error.value)) < 200
    for wrong in (None, 5, b"ab", ["a"]):
        for call in (tokenizer.encode, CharTokenizer.from_text):
            with pytest.raises(ValueError, match=f"text is a {type(wrong).__name__}; it has to be a string"):
                call(wrong)
    with pytest.raises(ValueError, match=r"the text contains '□' \(U\+25A1\), which is reserved"):
        CharTokenizer.from_text("a □", special="□")
