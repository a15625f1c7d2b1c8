"""What a finetuned model knows, and whether it knows that it knows.

    python projects/birthplace/run.py analyze vanilla wiki.txt --reading_params_path vanilla.finetune.params \\
        --finetune_corpus_path birth_places_train.tsv --eval_corpus_path birth_dev.tsv

Asks every question, and the same of people who do not exist, and sorts the answers: by where in the biography the place
stands, by how many people share the given name, by how often the place was an answer in training, by whether the answer
is a place of training at all, by whether it stays the same when the question is put in other words, and by how sure the
model was. Writes VARIANT.analysis.png and VARIANT.analysis.json beside the parameters.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mingpt.support.checkpoints import fingerprint, load_torch
from mingpt.support.command import one_line_errors
from mingpt.support.config import Parser
from mingpt.support.devices import pick_device
from mingpt.support.files import own_folder, read_text, write_json
from mingpt.support.plotting import COLORS, figure
from projects.birthplace.dataset import documents_of, make_tokenizer, name_of, read_pairs
from projects.birthplace.evaluate import confidences, marks_of_paraphrases, predict, predict_with_paraphrases
from projects.birthplace.files import PARAPHRASES, Questions, person, read_questions, strangers
from projects.birthplace.recipes import BLOCK_SIZE, get_recipe
from projects.birthplace.steps import Settings, model_from
from projects.birthplace.variants import VARIANTS

PARAPHRASED = f"different answers to {len(PARAPHRASES)} ways of asking"
READABLE = int(BLOCK_SIZE * 7 / 8)  # characters of a document that the assignment's random gaps can reach


@dataclass(frozen=True)
class Answer:
    """One question, what the model said, and what may explain it."""

    question: str
    truth: str
    said: str
    confidence: float  # probability of `said` as a whole
    place_ends: int | None  # characters up to the end of the place in the biography; None if it is not there
    documents: int  # biographies of that name
    namesakes: int  # biographies of others with the same given name
    asked_in_training: int  # training questions with the true answer
    distinct: int  # how many different answers the PARAPHRASES get

    @property
    def right(self) -> bool:
        """Equal to the letter."""
        return self.said == self.truth


def describe_answers(
    questions: Questions,
    said: list[str],
    sure: list[float],
    to_paraphrases: list[list[str]],
    corpus: str,
    training: Counter,
) -> list[Answer]:
    """Look up what may explain each answer. A biography is a document that begins with the name."""
    biographies: dict[str, list[str]] = {}
    for document in corpus.split("\n"):
        biographies.setdefault(name_of(document), []).append(document)
    given_names = Counter(name.split(" ")[0] for name in biographies)
    answers = []
    for question, truth, words, confidence, paraphrased in zip(
        questions.questions, questions.answers, said, sure, to_paraphrases
    ):
        name = person(question)
        found = [text.find(truth, len(name)) for text in biographies.get(name, [])]
        ends = min((place + len(truth) for place in found if place >= 0), default=None)
        given = name.split(" ")[0]
        answers.append(
            Answer(
                question,
                truth,
                words,
                confidence,
                ends,
                len(found),
                given_names[given] - (name in biographies),
                training[truth],
                len(set(paraphrased)),
            )
        )
    return answers


def grouped(answers: list[Answer], group) -> dict[str, list[bool]]:
    """group(answer) -> whether each of its answers was right, in order of the groups' (order, label)."""
    found: dict[tuple[int, str], list[bool]] = {}
    for answer in answers:
        found.setdefault(group(answer), []).append(answer.right)
    return {label: found[order, label] for order, label in sorted(found)}


def bin_of(value: int, edges: list[int], unit: str = "") -> tuple[int, str]:
    """The bin of a whole number: (its place, its name). The last bin is open."""
    for i, (low, high) in enumerate(zip(edges, edges[1:])):
        if low <= value < high:
            return i, (f"{low}" if high == low + 1 else f"{low}–{high - 1}") + unit
    return len(edges), f"{edges[-1]} or more{unit}"


def by_position(answer: Answer) -> tuple[int, str]:
    """Where the place ends in the biography, whether the assignment's random gaps get that far, and after all bins why
    that is
    not known."""
    if not answer.documents:
        return 100, "no biography"
    if answer.place_ends is None:
        return 99, "nowhere"
    if answer.place_ends > READABLE:
        return 98, f"> {READABLE}"
    return bin_of(answer.place_ends, [0, 40, 55, 70, 85, READABLE + 1])


def by_name(answer: Answer) -> tuple[int, str]:
    """How many others have the same given name."""
    return bin_of(answer.namesakes, [0, 1, 3, 10, 30])


def by_place(answer: Answer) -> tuple[int, str]:
    """How often the true place was an answer in training."""
    return bin_of(answer.asked_in_training, [0, 1, 3, 10, 30])


def wilson(right: list[bool], z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share, in percent (Wilson 1927)."""
    n, share = len(right), sum(right) / len(right)
    centre, half = share + z * z / (2 * n), z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return 100 * max(0.0, (centre - half) / (1 + z * z / n)), 100 * min(1.0, (centre + half) / (1 + z * z / n))


def calibration(answers: list[Answer], bins: int = 8) -> tuple[list[tuple[float, float, int]], float]:
    """(mean confidence, share right, count) in bins of equal count, and the expected calibration error.

    The error is the mean distance of the two, weighted by count (Naeini et al. 2015; there in bins of equal width).
    """
    ordered = sorted(answers, key=lambda answer: answer.confidence)
    parts = [ordered[i * len(ordered) // bins : (i + 1) * len(ordered) // bins] for i in range(bins)]
    points = [
        (float(np.mean([a.confidence for a in part])), float(np.mean([a.right for a in part])), len(part))
        for part in parts
        if part
    ]
    return points, sum(abs(sure - right) * n for sure, right, n in points) / len(answers)


def plot(path: Path, answers: list[Answer], prior: Counter, said_of_strangers: list[str], about: str) -> None:
    """Four looks at the answers in one figure. `about` says which model and questions."""
    with figure(path, width=11, height=7.6, rows=2, columns=2) as ((sure, where), (names, guesses)):
        sure.figure.suptitle(f"What {about} knows")
        points, error = calibration(answers)
        sure.plot([0, 1], [0, 1], color=COLORS["grey"], lw=1, ls="--", label="perfectly calibrated")
        sure.plot(
            [p[0] for p in points],
            [p[1] for p in points],
            "o-",
            color=COLORS["blue"],
            label=f"the model; {100 * error:.0f} points from the diagonal on average",
        )
        sure.set(
            title="Is it right when it is sure?",
            xlabel="probability that the model gives its answer",
            ylabel="right answers, as a share",
            xlim=(0, 1),
            ylim=(0, 1),
        )
        sure.legend(loc="upper left")
        for axes, group, title, label in (
            (where, by_position, "Where in the biography does the place stand?", "last character of the place there"),
            (names, by_place, "How often was the place an answer in training?", "training questions with that answer"),
        ):
            groups = grouped(answers, group)
            shares = [100 * np.mean(right) for right in groups.values()]
            low, high = zip(*(wilson(right) for right in groups.values()))
            beyond = [np.maximum(0, np.subtract(shares, low)), np.maximum(0, np.subtract(high, shares))]
            axes.bar(range(len(groups)), shares, 0.6, color=COLORS["sky"], yerr=beyond, ecolor="black", capsize=3)
            axes.set_xticks(range(len(groups)), [f"{name}\n({len(right)})" for name, right in groups.items()])
            axes.set(
                title=title,
                xlabel=label + "  (number of questions)",
                ylabel="right answers (%), 95 % interval",
                ylim=(0, 100),
            )
            axes.grid(axis="x", visible=False)
        said, total = Counter(said_of_strangers), sum(prior.values())
        places = [place for place, _ in (said + Counter()).most_common(10)]
        height = np.arange(len(places))
        guesses.barh(
            height - 0.2,
            [100 * said[p] / len(said_of_strangers) for p in places],
            0.38,
            color=COLORS["orange"],
            label="the model's answers",
        )
        guesses.barh(
            height + 0.2,
            [100 * prior[p] / total for p in places],
            0.38,
            color=COLORS["grey"],
            label="answers of the training questions",
        )
        guesses.set_yticks(height, [p or "(nothing)" for p in places])
        guesses.invert_yaxis()
        guesses.grid(axis="y", visible=False)
        guesses.set(title="What does it say of people who do not exist?", xlabel="share of answers (%)")
        guesses.legend(loc="lower right")


def analyze(
    answers: list[Answer], prior: Counter, said_of_strangers: list[str], sure_of_strangers: list[float]
) -> dict:
    """Everything as numbers; printed too."""

    def shares(groups):
        return {
            name: {
                "questions": len(right),
                "percent": round(100 * float(np.mean(right)), 1),
                "interval": [round(edge, 1) for edge in wilson(right)],
            }
            for name, right in groups.items()
        }

    points, error = calibration(answers)
    results = {
        "right": shares({"all": [a.right for a in answers]})["all"],
        "position of the place": shares(grouped(answers, by_position)),
        "others with the given name": shares(grouped(answers, by_name)),
        "training questions with the true place": shares(grouped(answers, by_place)),
        "answer is": shares(
            grouped(answers, lambda a: (0, "a place of training") if a.said in prior else (1, "another word"))
        ),
        PARAPHRASED: shares(grouped(answers, lambda a: (a.distinct, str(a.distinct)))),
        "calibration": {"expected_error": error, "points": points},
        "mean confidence": {
            "when right": mean([a.confidence for a in answers if a.right]),
            "when wrong": mean([a.confidence for a in answers if not a.right]),
            "of strangers": mean(sure_of_strangers),
        },
        "strangers": {
            "answers that are places of training": mean([s in prior for s in said_of_strangers]),
            "commonest": Counter(said_of_strangers).most_common(10),
        },
    }
    for name in (
        "position of the place",
        "others with the given name",
        "training questions with the true place",
        "answer is",
        PARAPHRASED,
    ):
        print(f"\n{name:45}{'questions':>10}{'right':>9}   95 % interval")
        for label, cell in results[name].items():
            low, high = cell["interval"]
            print(f"    {label:41}{cell['questions']:>10}{cell['percent']:>7.1f} %   {low:.0f}–{high:.0f}")
    print(
        f"\nMean confidence: {results['mean confidence']['when right']:.2f} when right, "
        f"{results['mean confidence']['when wrong']:.2f} when wrong, "
        f"{results['mean confidence']['of strangers']:.2f} about "
        f"people who do not exist. Confidence and accuracy are {100 * error:.0f} points apart on average."
    )
    return results


def mean(values: list) -> float:
    """The mean, or 0 of nothing."""
    return float(np.mean(values)) if values else 0.0


def read_model(path: str, variant: str, corpus: str, corpus_path: str, tokenizer):
    """The model of a file of parameters.

    ValueError if it has read other documents than the corpus, even of the same characters.
    """
    saved = load_torch(path)
    model = model_from(saved, path, Settings(variant, get_recipe("salient")), tokenizer)
    if saved.get("corpus") not in (None, "", fingerprint(documents_of(corpus))):
        raise ValueError(
            f"{corpus_path}: not the corpus that the model of {path} has read, though of the same characters; "
            "give that one"
        )
    return model


def main(words: list[str] | None = None) -> None:
    """Read the command line, ask, sort, draw."""
    parser = Parser(prog="run.py analyze", description=__doc__)
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("corpus", help="the corpus that was pretrained on")
    for name in ("reading_params_path", "finetune_corpus_path", "eval_corpus_path"):
        parser.add_argument(f"--{name}", metavar="PATH", required=True)
    parser.add_argument("--out", metavar="DIR", help="that of --reading_params_path, unless given")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(words)
    with one_line_errors():
        corpus, out = read_text(args.corpus), Path(args.out or Path(args.reading_params_path).parent)
        tokenizer = make_tokenizer(corpus, args.corpus)
        model = read_model(args.reading_params_path, args.variant, corpus, args.corpus, tokenizer).to(
            pick_device(args.device)
        )
        questions = read_questions(args.eval_corpus_path)
        if not questions.answered:
            raise ValueError(f"{args.eval_corpus_path}: no answers; the analysis needs them")
        questions.check(tokenizer, BLOCK_SIZE)
        prior = Counter(
            answer
            for _, _, answer in read_pairs(
                read_text(args.finetune_corpus_path), args.finetune_corpus_path, answers=True
            )
        )
        nobody = strangers(questions, corpus).questions
        with own_folder(out):
            together, each = predict_with_paraphrases(model, tokenizer, questions.questions)
            said = [answers[0] for answers in each]  # to the question itself
            answers = describe_answers(
                questions, said, confidences(model, tokenizer, questions.questions, said), each, corpus, prior
            )
            said_of_strangers = predict(model, tokenizer, nobody)
            results = analyze(
                answers, prior, said_of_strangers, confidences(model, tokenizer, nobody, said_of_strangers)
            )
            paraphrases = marks_of_paraphrases(together, each, questions.answers)
            print(
                "Right in %, by the way of asking: "
                + "; ".join(f"{form} {percent:.1f}" for form, percent in paraphrases.items())
            )
            write_json(
                out / f"{args.variant}.analysis.json",
                {"variant": args.variant, **results, "ways of asking": paraphrases},
            )
            plot(
                out / f"{args.variant}.analysis.png",
                answers,
                prior,
                said_of_strangers,
                f"{args.variant} on {Path(args.corpus).resolve().parent.name}",
            )
        print(f"Written to {out}: {args.variant}.analysis.json, {args.variant}.analysis.png")
