"""What is checked about a submission's code, property by property, and the points for each.

Every check looks at raw answers only (characters, indices, logits that `probe.py` brought back) and compares them with
the specification, which is written in the docstrings of `dataset.py`. The documents, the questions and the draws are
made up anew from a seed, so that nothing can be prepared for them; what is random is judged over thousands of draws,
with margins that a right submission oversteps less than once in a million gradings.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

PAD, MASK = "\u25a1", "\u2047"
BLOCK_SIZE = 128
SHORTEST, LONGEST = 4, BLOCK_SIZE * 7 // 8  # characters of a truncated document
EPOCHS, SHORT_EPOCHS = 600, 40  # draws of each long and each short document
LONG = (113, 130, 200, 300)  # characters of the documents that every length can be drawn from
SHORT = (1, 3, 4, 5, 9, 40, 111)


@dataclass(frozen=True)
class Line:
    """A property in the table: what it is worth, what it got, and why. `points` is None if it cannot be marked here."""

    group: str
    name: str
    of: float
    points: float | None
    reason: str = ""


def full_or_nothing(group: str, name: str, of: float, problem: str | None) -> Line:
    """All points, or none and the reason."""
    return Line(group, name, of, 0.0 if problem else of, problem or "")


# ----------------------------------------------------------------------------------------------------------------------
# The exam


@dataclass(frozen=True)
class Exam:
    """What the code is asked, all of it drawn from a seed."""

    seed: int
    documents: list[str]  # no character stands in two places of them, but for the last: a piece tells where it is from
    text: str  # the corpus: the documents with empty lines among them
    draws: list[tuple[int, int]]  # (epoch, index of the document)
    pairs: list[tuple[str, str]]  # question and answer
    rows: list[list[int]]  # prompts for a model of V characters; of rows 2i and 2i+1 the first cuts[i] are the same
    cuts: list[int]

    V = 40
    MODELS, ASKED = 4, 8  # models that `predict` gets, and questions to each

    @classmethod
    def from_seed(cls, seed: int) -> "Exam":
        rng = random.Random(f"exam {seed}")
        characters = rng.sample([chr(i) for i in range(0x4E00, 0x9000)], sum(LONG + SHORT))
        documents = ["".join(characters.pop() for _ in range(length)) for length in LONG + SHORT]
        text = "\n".join(documents[:5]) + "\n\n" + "\n\n\n".join(documents[5:]) + "\n"
        documents.append("Where was Zoë Łęcki, Jr. born?")  # the characters of the questions
        text += documents[-1] + "\n"
        epochs = sorted(rng.sample(range(10**6), EPOCHS))
        draws = [
            (epoch, i)
            for n, epoch in enumerate(epochs)
            for i in range(len(documents))
            if i < len(LONG) or n < SHORT_EPOCHS
        ]
        letters = "abcehiknorswWJZŁęë,. "
        pairs = [
            (
                f"Where was {''.join(rng.choices(letters, k=rng.randint(1, 60)))} born?",
                "".join(rng.choices(letters, k=rng.randint(1, 30))).strip() or "a",
            )
            for _ in range(20)
        ]
        rows, cuts = [], []
        for _ in range(12):
            cut, row = rng.randint(1, 22), [rng.randrange(2, cls.V) for _ in range(24)]
            other = row[:cut] + [rng.choice([t for t in range(2, cls.V) if t != row[k]]) for k in range(cut, 24)]
            rows, cuts = rows + [row, other], cuts + [cut]
        return cls(seed, documents, text, draws, pairs, rows, cuts)

    @property
    def characters(self) -> str:
        """A vocabulary for the questions."""
        return PAD + MASK + "".join(sorted(set("".join(question for question, _ in self.pairs))))

    @property
    def asked(self) -> list[str]:
        """The questions that `predict` gets."""
        return [question for question, _ in self.pairs[: self.ASKED]]

    @property
    def seeds(self) -> list[int]:
        """What decides the parameters of the models that it gets."""
        return [self.seed + i for i in range(self.MODELS)]

    @property
    def pairs_text(self) -> str:
        """The questions as the text of a TSV file, without a newline at its end."""
        return "\n".join(f"{question}\t{answer}" for question, answer in self.pairs)

    @property
    def training_text(self) -> str:
        """The questions that the commands train on: as the pairs, but one answer is commoner than all others."""
        return "".join(
            f"{question}\t{self.commonest if i % 3 == 1 else answer}\n"
            for i, (question, answer) in enumerate(self.pairs)
        )

    @property
    def commonest(self) -> str:
        """That answer: neither the first nor the last in the alphabet."""
        return sorted(answer for _, answer in self.pairs)[len(self.pairs) // 2]

    def gold(self, said: list[str] | None) -> list[str]:
        """What counts as right of the commands' answers: some London, some the commonest, and some what `evaluate`
        should
        say, where the solution tells that."""
        london, common = 1 + self.seed % 5, 6 + self.seed // 5 % 4
        others = [answer.strip() or "Atlantis" for answer in said or [""] * len(self.pairs)]
        return ["London"] * london + [self.commonest] * common + others[london + common :]

    @property
    def epochs(self) -> int:
        """How long the commands are told to train."""
        return 2 + self.seed % 3

    def gold_text(self, said: list[str] | None) -> str:
        """The questions with these answers, as the text of a TSV file."""
        return "".join(f"{question}\t{answer}\n" for (question, _), answer in zip(self.pairs, self.gold(said)))

    @property
    def letters(self) -> str:
        """A corpus of the questions' characters, for a model that says various things."""
        return " ".join(self.pairs_text.split())


# ----------------------------------------------------------------------------------------------------------------------
# Raw answers, made safe to look at


class Malformed(ValueError):
    """An answer that is not of the form that was asked for."""


@dataclass(frozen=True)
class Example:
    """One x and y, as indices, with the names of their dtypes."""

    x: list[int]
    y: list[int]
    dtypes: list[str]


def read_examples(raw, V: int, count: int) -> tuple[list[Example], list[str]]:
    """The examples of an answer, and the errors that stand in the place of some."""
    if not isinstance(raw, dict) or not isinstance(raw.get("examples"), list) or len(raw["examples"]) != count:
        raise Malformed(f"not {count} examples")
    examples, errors = [], []
    for item in raw["examples"]:
        if isinstance(item, dict) and isinstance(item.get("error"), str):
            errors.append(item["error"])
        elif (
            isinstance(item, dict)
            and isinstance(item.get("dtypes"), list)
            and all(are_indices(item.get(name), V) for name in ("x", "y"))
        ):
            examples.append(Example(item["x"], item["y"], [str(name) for name in item["dtypes"]]))
        else:
            raise Malformed("an example is not two rows of indices of the vocabulary")
    return examples, errors


def are_indices(value, V: int) -> bool:
    """Whether a value is a row of at most a thousand indices of a vocabulary."""
    return isinstance(value, list) and len(value) <= 1000 and all(type(i) is int and 0 <= i < V for i in value)


def read_logits(raw, B: int, T: int, V: int) -> list[list[list[float]]]:
    """Logits, (B, T, V), all of them finite."""

    def rows(value, *shape):
        if not isinstance(value, list) or len(value) != shape[0]:
            raise Malformed(f"not logits of shape ({B}, {T}, {V})")
        for item in value:
            if shape[1:]:
                rows(item, *shape[1:])
            elif type(item) is not float or not math.isfinite(item):
                raise Malformed("a logit is not a finite number")

    rows(raw, B, T, V)
    return raw


# ----------------------------------------------------------------------------------------------------------------------
# Span corruption


@dataclass(frozen=True)
class Draw:
    """A corrupted document, taken apart again."""

    source: str  # the document that it is from
    prefix: str
    suffix: str
    masked: str
    rest: str  # what follows the last mark

    @property
    def whole(self) -> str:
        """The truncated document, put together again."""
        return self.prefix + self.masked + self.suffix


def take_apart(string: str, owner: dict[str, str]) -> Draw | None:
    """The pieces of `prefix MASK suffix MASK masked MASK rest`, or None if more than the last mark is missing.

    A missing last mark is judged elsewhere.

    owner: character -> the document that it stands in.
    """
    parts = string.split(MASK, 3)
    if len(parts) == 3:
        parts[2:] = parts[2].rstrip(PAD), ""
    if len(parts) < 4:
        return None
    prefix, suffix, masked, rest = parts
    return Draw(owner.get((prefix + masked + suffix)[:1], ""), prefix, suffix, masked, rest)


def a_mark_is_missing(strings: list[str]) -> str | None:
    for string in strings:
        if string.count(MASK) < 3:
            return f"{string.count(MASK)} marks instead of 3 in {shown(string)}"


def padding_is_wrong(examples: list[Example], draws: list[Draw]) -> str | None:
    for example in examples:
        for name, row in (("x", example.x), ("y", example.y)):
            if len(row) != BLOCK_SIZE - 1:
                return f"{name} has {len(row)} elements, not {BLOCK_SIZE - 1}"
    for draw in draws:
        if draw.rest.strip(PAD) or PAD in draw.whole:
            return f"after the last mark comes {shown(draw.rest)}, not padding alone, or padding stands before it"


def it_is_not_a_beginning(draws: list[Draw]) -> str | None:
    for draw in draws:
        if not draw.source.startswith(draw.whole):
            return f"{shown(draw.whole)} is no beginning of {shown(draw.source)}"


def it_is_too_long(draws: list[Draw]) -> str | None:
    for draw in draws:
        if len(draw.whole) > min(LONGEST, len(draw.source)):
            return (
                f"{len(draw.whole)} characters of a document of {len(draw.source)}; at most {LONGEST}, and never "
                "more than there are"
            )


def a_length_is_never_drawn(draws: list[Draw]) -> str | None:
    drawn = {len(draw.whole) for draw in draws if len(draw.source) > LONGEST}
    if short := sorted(length for length in drawn if length < SHORTEST):
        return f"a long document was cut to {short[0]}; the shortest is {SHORTEST}"
    if missing := sorted(set(range(SHORTEST, LONGEST + 1)) - drawn):
        return f"never in {sum(len(d.source) > LONGEST for d in draws):,} draws: {ranges(missing)}"


def nothing_is_masked(draws: list[Draw]) -> str | None:
    empty = sum(not draw.masked for draw in draws)
    if empty:
        return f"in {empty} of {len(draws):,} draws"


def the_share_is_wrong(draws: list[Draw]) -> str | None:
    """A quarter on average, give or take four standard errors and 0.02, what rounding to whole characters may bring."""
    shares = [len(draw.masked) / len(draw.whole) for draw in draws if len(draw.source) > LONGEST]
    mean = sum(shares) / len(shares)
    error = math.sqrt(sum((share - mean) ** 2 for share in shares) / len(shares) ** 2)
    if abs(mean - 0.25) > 0.02 + 4 * error:
        return f"{mean:.3f} ± {error:.3f} of the truncated length is masked on average, not 0.25"


def the_share_is_fixed(draws: list[Draw]) -> str | None:
    shares = [len(draw.masked) / len(draw.whole) for draw in draws if len(draw.whole) >= 40]
    mean = sum(shares) / len(shares)
    if math.sqrt(sum((share - mean) ** 2 for share in shares) / len(shares)) < 0.03:
        return f"always {mean:.2f} of the truncated length; the masked length is random"


def the_gap_is_in_one_place(draws: list[Draw]) -> str | None:
    """Uniform places have a mean of 1/2; a law that prefers some place is fine as long as it reaches all of them."""
    places = [
        len(draw.prefix) / (len(draw.prefix) + len(draw.suffix))
        for draw in draws
        if len(draw.source) > LONGEST and len(draw.prefix) + len(draw.suffix) >= 20
    ]
    if min(places) > 0.1 or max(places) < 0.9 or not 0.3 < sum(places) / len(places) < 0.7:
        return (
            f"the gap begins between {100 * min(places):.0f} and {100 * max(places):.0f} % of the way, at "
            f"{100 * sum(places) / len(places):.0f} % on average; it can be anywhere"
        )


SPANS = "span corruption"
# Name, points, and a function of the draws that names the first problem.
PROPERTIES: tuple[tuple[str, float, Callable[[list[Draw]], str | None]], ...] = (
    ("reassembled, it is a beginning of the document", 5, it_is_not_a_beginning),
    (f"never longer than {LONGEST}, or than the document", 4, it_is_too_long),
    (f"every length from {SHORTEST} to {LONGEST} is drawn", 4, a_length_is_never_drawn),
    ("something is always masked", 4, nothing_is_masked),
    ("a quarter is masked on average", 4, the_share_is_wrong),
    ("the masked length is random", 3, the_share_is_fixed),
    ("the gap can be anywhere", 3, the_gap_is_in_one_place),
)
ALL_OF_SPANS = (
    ("vocabulary: PAD, MASK, the sorted characters", 3),
    ("a document a line, no empty ones", 3),
    ("y is x moved by one", 3),
    ("three marks: prefix ⁇ suffix ⁇ masked ⁇", 3),
    ("padded at the end, and only there", 2),
    *((name, of) for name, of, _ in PROPERTIES),
)


def mark_spans(exam: Exam, characters, raw) -> tuple[list[Line], list[str]]:
    """The lines of span corruption, and the dtypes that occur. Raises Malformed where nothing can be judged.

    Each property is judged by itself, on the draws that have what it takes: a draw without its marks costs the points
    for marks, and the other properties look at the others.
    """
    names = dict(ALL_OF_SPANS)
    right = PAD + MASK + "".join(sorted(set(exam.text)))
    if not isinstance(characters, str) or sorted(characters) != sorted(right):
        raise Malformed("the vocabulary is not made of PAD, MASK and the characters of the corpus")
    examples, errors = read_examples(raw, len(characters), len(exam.draws))
    strings = ["".join(characters[i] for i in example.x) for example in examples]
    owner = {character: document for document in exam.documents for character in document}
    draws = [draw for string in strings if (draw := take_apart(string, owner))]
    empty = sum(not draw.whole for draw in draws)
    draws = [draw for draw in draws if draw.whole]

    problem = None
    if raw.get("documents") != len(exam.documents):
        problem = f"{raw.get('documents')} documents, not {len(exam.documents)}: empty lines are none"
    elif errors or empty:
        problem = f"{len(errors) + empty} draws failed: {errors[0] if errors else 'the document is empty'}"
    problems = [
        first_difference(characters, right),
        problem,
        next(
            (
                f"x[1:] is not y[:-1] in {shown(string)}"
                for string, example in zip(strings, examples)
                if example.x[1:] != example.y[:-1] or len(example.x) != len(example.y)
            ),
            None,
        ),
        a_mark_is_missing(strings),
        padding_is_wrong(examples, draws),
    ]
    enough = len(draws) >= 0.8 * sum(i < len(LONG) for _, i in exam.draws)
    problems += [check(draws) if enough else "too few draws have the form to be judged" for _, _, check in PROPERTIES]
    lines = [full_or_nothing(SPANS, name, of, problem) for (name, of), problem in zip(names.items(), problems)]
    return lines, [dtype for example in examples for dtype in example.dtypes]


def first_difference(characters: str, right: str) -> str | None:
    """Where two vocabularies begin to differ."""
    for i, (found, expected) in enumerate(zip(characters, right)):
        if found != expected:
            return f"index {i} is U+{ord(found):04X}, not U+{ord(expected):04X}"


# ----------------------------------------------------------------------------------------------------------------------
# Questions


QUESTIONS = "questions"
ALL_OF_QUESTIONS = (("x: question ⁇ answer ⁇, padded", 4), ("y: padding up to the answer, then the answer ⁇", 4))


def mark_questions(exam: Exam, characters, raw) -> tuple[list[Line], list[str]]:
    """The lines of NameDataset, and the dtypes that occur. Raises Malformed where nothing can be judged."""
    if not isinstance(characters, str):
        raise Malformed("there is no vocabulary")
    examples, errors = read_examples(raw, len(characters), len(exam.pairs))
    if errors:
        raise Malformed(errors[0])
    problems: dict[str, str | None] = {"x": None, "y": None}
    for example, (question, answer) in zip(examples, exam.pairs):
        expected = {"x": question + MASK + answer + MASK, "y": PAD * len(question) + answer + MASK}
        for name, indices in (("x", example.x), ("y", example.y)):
            string, right = "".join(characters[i] for i in indices), expected[name].ljust(BLOCK_SIZE - 1, PAD)
            if string != right and not problems[name]:
                problems[name] = f"{shown(string)} instead of {shown(right)}"
    return [
        full_or_nothing(QUESTIONS, name, of, problem)
        for (name, of), problem in zip(ALL_OF_QUESTIONS, problems.values())
    ], [dtype for example in examples for dtype in example.dtypes]


def mark_dtypes(dtypes: list[str]) -> Line:
    """One line for both datasets."""
    wrong = next((dtype for dtype in dtypes if dtype != "torch.int64"), None if dtypes else "nothing")
    return full_or_nothing(QUESTIONS, *DTYPES, f"{wrong}, not torch.int64" if wrong else None)


DTYPES = ("x and y are int64, here and in span corruption", 2)


# ----------------------------------------------------------------------------------------------------------------------
# Commands


COMMANDS = "commands"
ALL_OF_COMMANDS = (
    ("pretrain and finetune: train as long as they are told, and write parameters", 3),
    ("evaluate: what predict says, a line each, and how many are right", 2),
    ("london: what London and the commonest answer score", 1),
)


def mark_commands(exam: Exam, raw, said: list[str] | None) -> list[Line]:
    """The lines of the assignment's commands. Raises Malformed where nothing can be judged.

    said: what `evaluate` should answer, if the solution is there to tell.
    """
    gold = exam.gold(said)
    parts = {"errors": dict, "printed": dict}
    if not isinstance(raw, dict) or not all(isinstance(raw.get(name), kind) for name, kind in parts.items()):
        raise Malformed("no account of the commands")

    def failed(*commands: str) -> str | None:
        return next((f"{name}: {raw['errors'][name]}" for name in commands if name in raw["errors"]), None)

    def prints_marks(command: str, *said: list[str]) -> str | None:
        for answers in said:
            right, n = sum(a == b for a, b in zip(answers, gold)), len(gold)
            line = f"Correct: {right} out of {n}: {100 * right / n:.1f}%"
            if line not in str(raw["printed"].get(command)):
                return f"{command} does not print {line!r}"

    documents = round(len(exam.pairs) / 3)  # of the quick recipe, a quarter of what is finetuned on
    steps = {
        "pretrain": exam.epochs * math.ceil(len(exam.documents) / 16),
        "finetune": exam.epochs * math.ceil((len(exam.pairs) + documents) / 16),
        "scratch": exam.epochs * math.ceil(len(exam.pairs) / 16),
    }
    trained = next(
        (
            f"{name} took {raw.get(f'{name} steps')} steps for {exam.epochs} epochs, not {n}"
            for name, n in steps.items()
            if raw.get(f"{name} steps") != n
        ),
        None,
    )
    if not trained and not (type(raw.get("moved")) is float and raw["moved"] < 1e-5):
        trained = "finetune at a rate of almost 0 does not end with the parameters that it reads"
    if not trained and not (type(raw.get("learned")) is float and raw["learned"] > 1e-4):
        trained = "pretrain writes a model that has learned nothing"
    predictions, n = str(raw.get("predictions", "")).split("\n"), len(exam.pairs)
    predictions = predictions if predictions[-1] else predictions[:-1]
    if len(predictions) != n:
        written = f"{len(predictions)} predictions for {n} questions"
    elif said and sum(a != b for a, b in zip(predictions, said)) > 2:  # two characters may be equally likely
        written = "the predictions are not what the parameters answer"
    else:
        written = prints_marks("evaluate", predictions)
    problems = (
        failed("pretrain", "finetune", "scratch") or trained,
        failed("evaluate") or written,
        failed("london") or prints_marks("london", ["London"] * n, [exam.commonest] * n),
    )
    return [full_or_nothing(COMMANDS, name, of, problem) for (name, of), problem in zip(ALL_OF_COMMANDS, problems)]


# ----------------------------------------------------------------------------------------------------------------------
# Causality


def sees_the_future(exam: Exam, raw) -> str | None:
    """Whether a token changes logits before it, or none after it. Raises Malformed."""
    logits, told = read_logits(raw, len(exam.rows), len(exam.rows[0]), exam.V), 0.0
    for pair, cut in enumerate(exam.cuts):
        one, other = logits[2 * pair], logits[2 * pair + 1]
        change = [largest_difference(a, b) for a, b in zip(one, other)]
        if (most := max(change[:cut])) > 1e-4:
            place = next(t for t in range(cut) if change[t] > 1e-4)
            return f"tokens from position {cut} on change the logits at position {place} (by up to {most:.2g})"
        told = max(told, change[cut])
    if told < 1e-2:
        return "the logits at a position do not depend on the token there"


def largest_difference(a: list[float], b: list[float]) -> float:
    """The largest absolute difference between two rows of numbers."""
    return max(abs(x - y) for x, y in zip(a, b))


# ----------------------------------------------------------------------------------------------------------------------


def shown(text: str, longest: int = 30) -> str:
    """A string of a submission, quoted and cut."""
    return repr(text if len(text) <= longest else text[:longest] + "...")


def ranges(numbers: list[int]) -> str:
    """Sorted numbers in short: "4 to 9, 12"."""
    parts, start = [], numbers[0]
    for number, following in zip(numbers, [*numbers[1:], None]):
        if following != number + 1:
            parts.append(f"{start}" if start == number else f"{start} to {number}")
            start = following
    return ", ".join(parts)
