"""Configuration: flags, JSON and defaults from one dataclass."""

from dataclasses import dataclass
from typing import Annotated

import pytest

from mingpt.model import GPTConfig
from mingpt.support.config import Parser, config_from_args, config_from_dict, config_to_dict


@dataclass(frozen=True)
class Example:
    batch_size: Annotated[int, "sequences in a step"] = 64
    learning_rate: Annotated[float, "peak rate"] = 1e-3
    compile: bool = False
    name: str = "run"


def parse(*words, **defaults):
    parser = Parser(prog="run.py")
    parser.add_config(Example)
    parser.add_argument("--max_epochs", type=int)
    return config_from_args(Example, parser.parse_args(list(words)), **defaults)


def test_flags_override_defaults_and_dashes_are_underscores():
    assert parse() == Example()
    assert parse("--batch_size", "8", "--learning-rate=0.5") == Example(batch_size=8, learning_rate=0.5)
    assert parse("--batch-size", "8", batch_size=9, name="x") == Example(batch_size=8, name="x")


def test_a_boolean_flag_alone_means_true():
    assert parse("--compile").compile is True and parse("--compile", "--name", "x").compile is True


@pytest.mark.parametrize("word, value", [("true", True), ("yes", True), ("1", True), ("False", False), ("no", False)])
def test_booleans_are_words(word, value):
    assert parse("--compile", word).compile is value


@pytest.mark.parametrize(
    "words, message",
    [
        (["--batchsize", "8"], "unknown argument --batchsize; did you mean --batch_size?"),
        (["--learning-rat", "8"], "did you mean --learning_rate?"),
        (["--lr", "1"], "unknown argument --lr; did you mean --learning_rate?"),
        (["--me", "1"], "unknown argument --me; did you mean --max_epochs?"),
        (["--hel"], "unknown argument --hel; see run.py --help"),
        (["--" + "q" * 5000], "qqq; see run.py --help"),
        (["--batch_size", "99999999999999999999"], "--batch_size: '99999999999999999999' is out of range"),
        (["--max_epochs", "-99999999999999999999"], "--max_epochs: '-99999999999999999999' is out of range"),
        (["--batch_size", "9" * 5000], "is no whole number of at most 64 bits"),
        (["--learning_rate", "nan"], "--learning_rate: 'nan' is not finite"),
        (["--learning_rate", "1e999"], "--learning_rate: '1e999' is not finite"),
        (["--learning_rate", "fast"], "invalid float value: 'fast'"),
        (["--zzzzzz"], "unknown argument --zzzzzz; see run.py --help"),
        (["--batch_size", "many"], "invalid int value: 'many'"),
        (["--compile", "maybe"], "'maybe' is neither true nor false"),
    ],
)
def test_a_wrong_flag_names_its_nearest(words, message, capsys):
    with pytest.raises(SystemExit):
        parse(*words)
    shown = capsys.readouterr().err
    assert message in shown and len(shown) < 800


def test_help_names_every_field_and_its_default(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    shown = capsys.readouterr().out
    assert (
        "--batch_size INT" in shown and "sequences in a step (default 64)" in shown and "--learning_rate FLOAT" in shown
    )


def test_round_trip_through_plain_values():
    config = Example(batch_size=3, compile=True)
    assert config_from_dict(Example, config_to_dict(config)) == config
    assert config_from_dict(Example, {"learning_rate": 1}) == Example(learning_rate=1)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"batchsize": 3}, "config.json: Example has no 'batchsize'; did you mean 'batch_size'?"),
        ({"zzz": 3}, "Example has no 'zzz'; there are batch_size, learning_rate"),
        ({"batch_size": "3"}, "batch_size is '3', which is not of type int"),
        ({"batch_size": 2**63}, "batch_size is 9223372036854775808, which is out of range"),
        ({"learning_rate": float("nan")}, "learning_rate is nan, which is not finite"),
        ({"learning_rate": 10**400}, "learning_rate is 1000.* which is not finite"),
        ({"learning_rate": "x" * 9999}, "which is not of type float"),
        ({"q" * 9999: 1}, "has no 'qqq"),
        ([1, 2], "config.json: is a list, not a Example"),
        (None, "is a NoneType, not a Example"),
        ({"batch_size": True}, "batch_size is True, which is not of type int"),
    ],
)
def test_wrong_values_are_named(values, message):
    with pytest.raises(ValueError, match=message) as error:
        config_from_dict(Example, values, "config.json")
    assert len(str(error.value)) < 400


def test_fields_of_earlier_versions_that_changed_no_result_are_passed_over():
    saved = {**config_to_dict(GPTConfig(n_layer=2)), "attention": "auto"}
    assert config_from_dict(GPTConfig, saved) == GPTConfig(n_layer=2)
    with pytest.raises(ValueError, match="GPTConfig has no 'attention'"):  # no value that it ever had
        config_from_dict(GPTConfig, {**saved, "attention": "flash"})


def test_words_that_begin_with_dashes_can_be_values():
    parser = Parser(prog="run.py")
    parser.add_argument("--prompt")
    parser.add_argument("rest", nargs="*")
    assert parser.parse_args(["--prompt", "-- and then"]).prompt == "-- and then"
    assert parser.parse_args(["--", "--weird"]).rest == ["--weird"]
