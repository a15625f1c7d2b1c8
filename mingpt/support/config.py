"""Configuration: a frozen dataclass is the one source of the command line, the JSON file and the defaults.

@dataclass(frozen=True)
class TrainConfig:
    batch_size: Annotated[int, "sequences in a step"] = 64

parser = Parser(description="...")
parser.add_config(TrainConfig)
args = parser.parse_args()                        # --batch_size 32 or --batch-size 32
config = config_from_args(TrainConfig, args)
"""

import argparse
import dataclasses
import difflib
import sys
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from mingpt.support.command import printable
from mingpt.support.files import short, short_name

Config = TypeVar("Config")

# Fields that configs had in earlier versions, and that changed no result: files with them are read as if they had none.
FORMER_FIELDS = {"attention": ("auto", "explicit", "batched", "fused")}


class Parser(argparse.ArgumentParser):
    """An argument parser that names the nearest flag when one is unknown, and takes dashes for underscores."""

    def __init__(self, **options):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options, allow_abbrev=False)
        self.register("type", int, read_int)
        self.register("type", float, read_float)

    def add_config(self, config_class: type, title: str | None = None) -> None:
        """One flag for each field of a dataclass. The help is the string in the field's `Annotated`."""
        group = self.add_argument_group(title or config_class.__name__)
        for name, (kind, help_text, default) in _fields(config_class).items():
            shown = f" (default {default})" if default not in ("", dataclasses.MISSING) else ""
            flag = dict(nargs="?", const=True) if kind is bool else {}  # --resume is short for --resume true
            group.add_argument(
                f"--{name}",
                type=_reader(kind),
                default=argparse.SUPPRESS,
                metavar=kind.__name__.upper(),
                help=help_text + shown,
                **flag,
            )

    def error(self, message: str):
        """End with one line. argparse shows all flags in front of it, as many lines as a terminal has."""
        self.exit(2, f"error: {printable(message)}; see {self.prog} --help\n")

    def parse_args(self, args=None, namespace=None):
        """As argparse's, but `--batch-size` means `--batch_size`, and an unknown flag gets a suggestion."""
        words = list(sys.argv[1:] if args is None else args)
        flags = {flag for action in self._actions for flag in action.option_strings}
        for i, word in enumerate(words):
            flag, equals, value = word.partition("=")
            if flag == "--":  # what follows are no flags
                break
            if not flag.startswith("--") or flag in flags or " " in flag:  # a blank: the words of a --prompt
                continue
            underscored = "--" + flag[2:].replace("-", "_")
            if underscored not in flags:
                near = nearest_flags(underscored, flags - {"--help", "-h"})
                self.error(
                    f"unknown argument {short_name(flag)}; "
                    + (f"did you mean {' or '.join(near)}?" if near else f"see {self.prog} --help")
                )
            words[i] = underscored + equals + value
        return super().parse_args(words, namespace)


def nearest_flags(flag: str, flags: Iterable[str]) -> list[str]:
    """The flags of which `flag` is the initials, as --lr is of --learning_rate, or else the one most like it."""
    names = {known.lstrip("-"): known for known in sorted(flags)}
    name = flag.lstrip("-")
    meant = [known for known in names if "_" in known and "".join(word[:1] for word in known.split("_")) == name]
    meant = meant or difflib.get_close_matches(name, names, 1, 0.5)
    return [names[known] for known in meant]


def read_int(word: str) -> int:
    """The whole number that a word of a command line is.

    One of more than 64 bits fits into nothing that counts here.
    """
    try:
        value = int(word)
    except ValueError:
        if len(word) < 100:
            raise
        raise argparse.ArgumentTypeError(f"{short(word)} is no whole number of at most 64 bits") from None
    if problem := number_problem(int, value):
        raise argparse.ArgumentTypeError(f"{short(word)} {problem}")
    return value


def read_float(word: str) -> float:
    """The finite number that a word of a command line is."""
    value = float(word)
    if problem := number_problem(float, value):
        raise argparse.ArgumentTypeError(f"{short(word)} {problem}")
    return value


def number_problem(kind: type, value) -> str:
    """What is wrong with a number as the value of a field of that kind; "" if nothing is."""
    if kind is int and not -(2**63) <= value < 2**63:
        return "is out of range; whole numbers go from -2**63 to 2**63 - 1"
    if kind is float and not (abs(value) <= sys.float_info.max):
        return "is not finite; give a number"
    return ""


def config_from_args(config_class: type[Config], args: argparse.Namespace, **defaults) -> Config:
    """The dataclass filled from the flags that were given; the others keep `defaults`, or the class's own."""
    given = {name: value for name, value in vars(args).items() if name in _fields(config_class)}
    return config_class(**{**defaults, **given})


def config_to_dict(config) -> dict[str, Any]:
    """The dataclass as plain values for JSON."""
    return dataclasses.asdict(config)


def config_from_dict(config_class: type[Config], values: dict[str, Any], source: str = "the configuration") -> Config:
    """The dataclass from plain values. ValueError on a name it does not have, or a value of another type or size."""
    fields = _fields(config_class)
    if not isinstance(values, Mapping):
        raise ValueError(
            f"{source}: is a {type(values).__name__}, not a {config_class.__name__}: names and their values"
        )
    values = without_former_fields(values, fields)
    for name, value in values.items():
        if name not in fields:
            near = difflib.get_close_matches(str(name)[:100], fields, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(fields)}"
            raise ValueError(f"{source}: {config_class.__name__} has no {short(name)}; {hint}")
        kind = fields[name][0]
        if (
            not isinstance(value, kind)
            and not (kind is float and isinstance(value, int))
            or isinstance(value, bool)
            and kind is not bool
        ):
            raise ValueError(f"{source}: {name} is {short(value)}, which is not of type {kind.__name__}")
        if kind in (int, float) and (problem := number_problem(kind, value)):
            raise ValueError(f"{source}: {name} is {short(value)}, which {problem}")
    return config_class(**values)


def without_former_fields(values, fields: Iterable[str] = ()):
    """A config from a file, without FORMER_FIELDS unless they are among today's `fields`; anything else as it is."""
    if not isinstance(values, Mapping):
        return values
    return {
        name: value
        for name, value in values.items()
        if name in fields or name not in FORMER_FIELDS or not isinstance(value, str) or value not in FORMER_FIELDS[name]
    }


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In what two dictionaries of settings differ, in words: ["seeds was 3 and is 2"].

    None stands for what one of them lacks.
    """
    return [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]


def _fields(config_class: type) -> dict[str, tuple[type, str, Any]]:
    """name -> (type, help, default) for each field of a dataclass."""
    hints = typing.get_type_hints(config_class, include_extras=True)
    fields = {}
    for field in dataclasses.fields(config_class):
        kind, help_text = hints[field.name], ""
        if typing.get_origin(kind) is typing.Annotated:
            kind, help_text = typing.get_args(kind)[:2]
        if kind not in (bool, int, float, str):
            raise TypeError(f"{config_class.__name__}.{field.name}: a field is a bool, an int, a float or a str")
        fields[field.name] = (kind, help_text, field.default)
    return fields


def _reader(kind: type):
    return _read_bool if kind is bool else kind


def _read_bool(word: str) -> bool:
    if word.lower() in ("true", "yes", "1"):
        return True
    if word.lower() in ("false", "no", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false")
