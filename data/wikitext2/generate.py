"""An invented encyclopedia in the form of WikiText-2, for machines where the real one cannot be downloaded.

    python data/wikitext2/generate.py --out DIR     writes wiki.train.raw, wiki.valid.raw and wiki.test.raw

Every article is about a person, a town or a ship that does not exist. Its names are built from syllables and occur in
no other article, but again and again in their own: a reader who has seen a name's first syllables once in the article
knows the rest. Memory does not help there, and copying does, which is what makes the text fit for studying it. The
sentences themselves are few and learned soon, so losses are far lower than on real text and not to be compared with
any.
"""

import argparse
import random
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # this checkout's mingpt, installed or not

from mingpt.support.command import one_line_errors  # noqa: E402
from mingpt.support.files import own_folder, write_text  # noqa: E402

STARTS = """
Bal Bren Cor Dal Dor El Fen Gal Hal Ist Jor Kel Lor Mal Mor Nar Ol Per Quin Ral Sar Tam Tor Ul Var Wen Yel Zor
""".split()
MIDDLES = """
a ae an ar e en er i il in o on or u un y ba de do fa go la li lo ma me mi na no ra re ri sa so ta te va ve
""".split()
ENDS = """
bar bury by dan den dine ford gan gar holm ian ick ide la land lin mar mond more nach nor ra ric rin ris rod sa sk
stad tan ter thal ton tov va van vik well wyn za
""".split()
TRADES = "architect astronomer botanist cartographer composer engineer historian novelist painter surgeon".split()
GOODS = "coal copper flax glass grain linen paper salt slate timber wool wine".split()

# What an article of each kind says. {a} is its subject, {b} to {e} are other names that recur in it.
SENTENCES = {
    "person": (
        "{a} was a {trade} who lived in {b} for most of the period .",
        "{a} was born near {b} in {year} and studied under {c} .",
        "In {year} , {a} left {b} and travelled to {d} with {c} .",
        "The letters of {a} to {c} are kept in {d} .",
        "{c} later wrote that {a} had been happiest in {b} .",
        "{a} and {c} founded a school in {d} , which closed in {year} .",
        "After the death of {c} , {a} returned to {b} .",
        "A street in {d} is named after {a} , and another after {c} .",
        "The first work of {a} was dedicated to {e} , who had paid for the journey to {d} .",
        "{e} and {c} disagreed about the work , but {a} kept the friendship of both .",
        "In {b} , {a} met {e} , who was then a young {trade} .",
        "Critics in {d} compared {a} with {e} and found little in common .",
    ),
    "town": (
        "{a} is a town on the river {b} , {number} kilometres north of {c} .",
        "{a} had {number} inhabitants in {year} , fewer than {c} .",
        "The road from {a} to {c} follows the {b} and crosses it twice .",
        "In {year} , the people of {a} built a bridge over the {b} .",
        "The trade in {goods} made {a} richer than {c} , until {d} opened its harbour .",
        "{d} , a family of merchants , owned most of the land between {a} and {c} .",
        "The {b} flooded {a} in {year} and spared {c} .",
        "{e} is the most famous person to have been born in {a} .",
        "A statue of {e} stands by the {b} , opposite the house of {d} .",
        "The mills of {a} once sent {goods} down the {b} to {c} .",
        "Under {d} , {a} was given the right to hold a market .",
        "{e} described the walls of {a} and the fields along the {b} .",
    ),
    "ship": (
        "{a} was a ship built for {b} in {year} .",
        "{a} carried {goods} from {c} to {d} .",
        "Captain {e} commanded {a} on {number} voyages .",
        "In {year} , {a} was damaged in a storm off {c} and repaired in {d} .",
        "{b} sold {a} to a company in {d} .",
        "On the last voyage , {e} took {a} past {c} without a pilot .",
        "{e} was blamed for the loss of {a} , but {b} spoke in defence of the captain .",
        "The wreck of {a} lies near {c} at a depth of {number} metres .",
        "The bell of {a} was found by divers from {d} in {year} .",
        "A model of {a} is shown in {d} , together with the log of {e} .",
        "{a} was the fastest ship between {c} and {d} in its time .",
        "{b} had ordered {number} ships of the kind , of which {a} was the first .",
    ),
}
HEADINGS = ("History", "Early years", "Later years", "Description", "Legacy")


def make_name(rng: random.Random, used: set[str]) -> str:
    """A name that is not in `used`, which it joins."""
    while True:
        name = rng.choice(STARTS) + "".join(rng.choice(MIDDLES) for _ in range(rng.randint(1, 2))) + rng.choice(ENDS)
        if name not in used:
            used.add(name)
            return name


def make_article(rng: random.Random, used: set[str]) -> str:
    """An article of two to four sections, with WikiText's headings, spaces and blank lines."""
    kind = rng.choice(list(SENTENCES))
    names = {letter: make_name(rng, used) for letter in "abcde"}
    lines = [f" = {names['a']} = "]
    for section in range(rng.randint(2, 4)):
        if section:
            lines.append(f" = = {rng.choice(HEADINGS)} = = ")
        for _ in range(rng.randint(1, 2)):
            said = rng.sample(SENTENCES[kind], rng.randint(4, 7))
            said = [
                sentence.format(
                    **names,
                    year=rng.randint(1701, 1949),
                    number=rng.randint(3, 90),
                    trade=rng.choice(TRADES),
                    goods=rng.choice(GOODS),
                )
                for sentence in said
            ]
            lines.append(f" {' '.join(said)} ")
    return "".join(f" \n{line}\n" for line in lines)


def generate(seed: int = 0, train: int = 1000, valid: int = 100, test: int = 100) -> dict[str, str]:
    """The text of each split, "train", "valid" and "test", with as many articles. The same arguments, the same text.

    No name occurs in two articles. Raises ValueError for counts below 1, or above 100,000 in all.
    """
    counts = {"train": train, "valid": valid, "test": test}
    for split, count in counts.items():
        if count < 1:
            raise ValueError(f"{split} is {count} articles; it must be at least 1")
    if sum(counts.values()) > 100_000:  # there are 1.6 million names, and an article takes five
        raise ValueError(f"{sum(counts.values()):,} articles; there are names for 100,000")
    rng, used = random.Random(seed), set()
    return {split: "".join(make_article(rng, used) for _ in range(count)) for split, count in counts.items()}


def main():
    parser = argparse.ArgumentParser(
        description="Write an invented encyclopedia in the form of WikiText-2.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--train", type=int, default=1000, help="articles to train on")
    args = parser.parse_args()
    with one_line_errors():
        texts = generate(args.seed, args.train)
        with own_folder(args.out):  # the real WikiText-2 has files of these names
            for split, text in texts.items():
                path = args.out / f"wiki.{split}.raw"
                write_text(path, text)
                print(f"{path}: {len(text.splitlines())} lines, {len(text.encode('utf-8'))} bytes")


if __name__ == "__main__":
    main()
