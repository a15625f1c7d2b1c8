"""A small invented world for the birthplace study: short biographies, and questions about where people were born.

    python data/birthplace_world/generate.py                            # rewrites the committed files
    python data/birthplace_world/generate.py --people 600 --out other   # a larger world somewhere else

The files have the format of CS224n's assignment 5. Every person is invented; only the cities are real. Nothing but
the biographies tells where someone was born: names, professions, dates and wordings are drawn without looking at
the place. So a model that answers questions about people it was never *asked* about must have *read* about them.
"""

import argparse
import contextlib
import inspect
import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout's mingpt, installed or not

from mingpt.support.command import describe  # noqa: E402
from mingpt.support.files import own_folder, write_text  # noqa: E402

# No given name and surname below make a full name that is part of another one: surnames are not prefixes of each
# other, so "this person is in no document" can be checked by searching for the name.
WOMEN = """
Agnes Alma Amina Anneli Beatriz Bettina Carla Cecilia Clara Daphne Delia Dorothea Edith Eleni Elspeth Esther Fatima
Flora Freya Gisela Greta Hanna Harriet Helga Ingrid Irma Ivana Jelena Judith Kamala Katarina Keiko Leonora Lidia
Lucinda Mabel Magda Margot Mei Miriam Nadia Nora Olga Paloma Petra Philippa Priya Renée Rosalind Ruth Sabine Saskia
Selma Tamara Ursula Vera Wilma Yuki Zainab Zoë
""".split()

MEN = """
Adrian Ahmed Alonzo Anders Anton Arjun Basil Bernard Björn Boris Bruno Casper Cedric Chidi Conrad Cyril Dario Desmond
Dmitri Edgar Emil Enzo Ernest Felix Gerald Gustav Hamid Harold Hector Henrik Hiroshi Hugo Igor Isaac Ivor Jasper
Jonas José Julius Kofi Kwame Lars Leopold Łukasz Marco Matthias Nikolai Oscar Otto Pavel Quentin Rafael Rupert Samir
Stefan Søren Tobias Viktor Walter Yusuf
""".split()

SURNAMES = """
Abara Achterberg Adeyemi Aguilar Aldridge Almeida Amsel Anand Appleyard Arslan Ashdown Babic Bakker Banerjee Barlow
Beaupré Belov Benitez Bianchi Birch Blomqvist Boateng Bonnet Bradwell Brandt Brody Caldwell Carmona Castell Chandra
Chaudhry Chen Cordell Corrigan Costa Crane Czerny Dahl Danso Delgado Demir Desai Dobrev Donnelly Drummond Duarte
Eberhart Eklund Ellwood Engel Erdmann Escobedo Fairley Farkas Fenwick Ferreira Fiala Fontaine Fraser Fujita Furlan
Galloway Ganguly Garland Gerber Goto Granger Grimaldi Gruber Haddad Halloran Hansen Harada Hartley Hashimi Hedlund
Hewitt Hobson Hofer Horvat Huang Ibarra Ikeda Imran Iversen Iyer Jarvis Jelinek Jensen Joubert Juhasz Kamau Kaplan
Kariuki Keller Khalil Kimura Köhler Kovac Kruger Laine Lambert Larkin Lauer Lindgren Lombardi Lund Macleod Maduro
Maldonado Malmqvist Marchetti Matsuda Mbeki Melnik Mendoza Mishra Moreau Müller Munro Mwangi Nakata Navarro Nesbitt
Nielsen Novak Nwosu Obando Ochoa Odell Okafor Oliveira Orlov Osei Ostrowski Palmgren Pappas Patel Peña Pereira
Petrov Pinto Pollard Popescu Prentice Quigley Quiroga Radley Rahimi Rasmussen Renner Ribeiro Rinaldi Rostami Rovere
Rowley Ruusu Sakamoto Salazar Sandoval Sato Saunders Schmid Sequeira Shapiro Sinclair Sørby Soto Stroud Sundaram
Suzuki Szabo Takeda Tanner Tellez Thorne Tolland Tomic Tran Turunen Uchida Urbina Valdez Varga Vasquez Verhoeven
Vesely Vogel Walsh Waring Weiss Wexler Whitlock Yamada Yardley Yilmaz Zapata Zeman Ziegler Zoric
""".split()

# The commonest first: the share of the city of rank r is proportional to 1 / (r + 1), Zipf's law with a flattened
# head, which gives the first of 40 cities 15 %. Whole numbers, so that no platform rounds differently.
PLACES = (
    """
London, Vienna, Chicago, Lisbon, Kyoto, Toronto, Prague, Boston, Mumbai, Glasgow, Warsaw, Cairo, Naples, Sydney,
Hamburg, New York, Lagos, Dublin, Havana, Oslo, Seville, Athens, Montreal, Nairobi, Budapest, Zürich, Santiago,
Antwerp, Manila, Buenos Aires, Helsinki, Istanbul, Leeds, Porto, Riga, Philadelphia, Accra, Hanoi, Bergen, Perth
""".replace("\n", " ")
    .strip()
    .split(", ")
)
WEIGHTS = {place: 100_000 // (rank + 1) for rank, place in enumerate(PLACES, start=1)}

PROFESSIONS = (
    """
actor, architect, astronomer, banker, botanist, chemist, composer, diplomat, economist, educator, engineer, explorer,
geologist, historian, inventor, journalist, lawyer, linguist, novelist, painter, physician, pianist, poet, printer,
sculptor, surgeon, surveyor, translator, violinist, zoologist
""".replace("\n", " ")
    .strip()
    .split(", ")
)

MONTHS = "January February March April May June July August September October November December".split()

# What may follow "Full Name. " in a document. Those with {other} mention a second city, before or after the
# birthplace, so that neither "the only city" nor "the first city" is always right. Some have a question mark because
# the questions have one, and a vocabulary made of the documents must know it.
TEMPLATES = (
    "{name} was {a_job}, born in {place} on {date}.",
    "{name} (born {date} in {place}; died {death}) was {a_job}.",
    "{name} ({birth} - {death}) was {a_job} from {place}.",
    "{name} ({date}, {place} - {death}) was {a_job}.",
    "{name}, born {date}, {place}, was {a_job}.",
    "{name} - {a_job}, born in {place} in {birth}, died in {death}.",
    "The {job} {name} was born in {place} in {birth}.",
    "A native of {place}, {name} ({birth} - {death}) worked as {a_job}.",
    "Born in {place} in {birth}, {surname} became {a_job}.",
    "Born in {place}, {surname} worked as {a_job} until {death}.",
    "Born on {date} in {place}, {surname} was the youngest of five children.",
    "Best known as {a_job}, {surname} was born in {place} on {date}.",
    "A child of {place}, {surname} was born in {birth} and trained as {a_job}.",
    "Raised and schooled in {place}, {his} birthplace, {surname} became {a_job}.",
    "In {birth} {surname} was born into a family of weavers in {place}.",
    "{surname}, a native of {place}, was known as {a_job}.",
    "{surname}, {a_job}, was born and raised in {place}.",
    "{surname}, the {place}-born {job}, died in {death}.",
    "{surname} was {a_job}. {He} was born in {place} in {birth}.",
    "{surname} grew up in {place}, where {he} was born on {date}.",
    "{surname} came into the world in {place} on {date} and became {a_job}.",
    "{surname} left {place}, the city of {his} birth, to become {a_job}.",
    "{surname} hailed from {place} and made {his} name as {a_job}.",
    "{surname}'s parents lived in {place} when {he} was born, on {date}.",
    "{He} was born on {date} in {place} and died in {death}.",
    "{place} was the birthplace of {surname}, {a_job} who lived from {birth} to {death}.",
    '{surname}\'s memoirs, "What Now?", open in {place}, where {he} was born in {birth}.',
    '"Why leave {place}?" asked {surname}, {a_job} born there in {birth}.',
    "{surname}, {a_job}, was born in {place} and died in {other} in {death}.",
    "{name} ({date}, {place} - {death}, {other}) was {a_job}.",
    "{surname} worked as {a_job} in {other} but was born in {place}.",
    "Although born in {place}, {surname} spent most of {his} life in {other}.",
    "{surname} moved to {other} from {place}, {his} birthplace, to work as {a_job}.",
    "{surname} died in {other} in {death}, far from {place}, where {he} was born.",
    "{surname} ({birth} - {death}), {a_job} in {other}, came from {place}.",
    "Born in {birth} in {place}, {surname} was {a_job} in {other}.",
)


# The files of questions with answers, and the set of people each is about.
ANSWERED = {"birth_places_train.tsv": "train", "birth_dev.tsv": "dev", "birth_control.tsv": "control"}

OPTIONS = {
    "seed": "of everything random",
    "people": "people with biographies in wiki.txt",
    "train": "people asked about in birth_places_train.tsv",
    "dev": "people read about, but asked about in birth_dev.tsv only",
    "control": "people never read about, asked about in birth_control.tsv",
    "views": "documents for each person, each in another wording",
}


@dataclass(frozen=True)
class Person:
    """One invented person. `place` is the birthplace; `templates` index TEMPLATES, one for each document."""

    given: str
    surname: str
    place: str
    other: str  # the city where they worked and died, never the birthplace
    job: str
    date: str  # of birth, such as "3 May 1921"
    birth: int  # the years
    death: int
    templates: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.given} {self.surname}"

    @property
    def question(self) -> str:
        return f"Where was {self.name} born?"

    @property
    def documents(self) -> list[str]:
        """The biographies, one line each: "Full Name. " and a filled-in template."""
        he, his = ("she", "her") if self.given in WOMEN else ("he", "his")
        article = "an" if self.job[0] in "aeiou" else "a"
        words = dict(vars(self), name=self.name, he=he, his=his, He=he.capitalize(), a_job=f"{article} {self.job}")
        return [f"{self.name}. {TEMPLATES[index].format(**words)}" for index in self.templates]


def draw_names(rng: random.Random, read: int, unread: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Distinct (given, surname) pairs: `read` of them at random, then `unread` new pairs of names among the first.

    A model has thus seen every part of an unread person's name, only not the two together.
    """
    pairs = [(given, surname) for given in WOMEN + MEN for surname in SURNAMES]
    if read > len(pairs):
        raise ValueError(f"people = {read}: there are only {len(pairs)} names; ask for fewer people")
    taken = rng.sample(pairs, read)
    pairs_taken, givens, surnames = set(taken), {given for given, _ in taken}, {surname for _, surname in taken}
    free = [pair for pair in pairs if pair[0] in givens and pair[1] in surnames and pair not in pairs_taken]
    if unread > len(free):
        raise ValueError(
            f"control = {unread}: the names of the {read} people read about leave only {len(free)} "
            "new combinations; ask for fewer"
        )
    return taken, rng.sample(free, unread)


def draw_places(rng: random.Random, count: int, among: list[str]) -> list[str]:
    """`count` places in random order, each as often as its weight says.

    Largest remainders rather than independent draws: the share of the commonest place, which is what a guess scores,
    is then the same in every set and for every seed, and differences between sets are not luck.
    """
    total = sum(WEIGHTS[place] for place in among)
    whole, rest = zip(*(divmod(count * WEIGHTS[place], total) for place in among))
    rounded_up = sorted(range(len(among)), key=lambda index: (-rest[index], index))[: count - sum(whole)]
    places = [place for index, place in enumerate(among) for _ in range(whole[index] + (index in rounded_up))]
    rng.shuffle(places)
    return places


def draw_person(rng: random.Random, given: str, surname: str, place: str, views: int) -> Person:
    """The rest of someone's life, drawn without looking at the name or (but for `other` != `place`) the place."""
    elsewhere = [city for city in PLACES if city != place]
    birth = rng.randrange(1840, 1931)
    return Person(
        given,
        surname,
        place,
        other=rng.choices(elsewhere, [WEIGHTS[city] for city in elsewhere])[0],
        job=rng.choice(PROFESSIONS),
        date=f"{rng.randrange(1, 29)} {rng.choice(MONTHS)} {birth}",
        birth=birth,
        death=birth + rng.randrange(30, 86),
        templates=tuple(rng.sample(range(len(TEMPLATES)), views)),
    )


def draw_people(seed: int, people: int, train: int, dev: int, control: int, views: int) -> dict[str, list[Person]]:
    """The people of one world, by set: "train", "dev", "test" (the rest of `people`) and "control".

    Every place has its share of each set; those outside train were all born in places that occur in train.
    Raises ValueError for counts that do not fit together.
    """
    if seed < 0:
        raise ValueError(f"seed = {seed}: must be 0 or more (random.Random takes -1 for 1)")
    for option, value in [("train", train), ("dev", dev), ("control", control), ("views", views)]:
        if value < 1:
            raise ValueError(f"{option} = {value}: must be at least 1")
    if views > len(TEMPLATES):
        raise ValueError(f"views = {views}: there are only {len(TEMPLATES)} wordings, and nobody gets one twice")
    if train + dev > people:
        raise ValueError(f"train + dev = {train + dev}: more than the {people} people read about; raise people")

    rng = random.Random(seed)
    read, unread = draw_names(rng, people, control)
    names = {"train": read[:train], "dev": read[train : train + dev], "test": read[train + dev :], "control": unread}
    sets: dict[str, list[Person]] = {}
    for group, members in names.items():
        asked = {person.place for person in sets.get("train", [])}
        places = draw_places(rng, len(members), [place for place in PLACES if place in asked or group == "train"])
        sets[group] = [draw_person(rng, *name, place, views) for name, place in zip(members, places)]
    return sets


def generate(
    seed: int = 0, people: int = 120, train: int = 70, dev: int = 40, control: int = 40, views: int = 5
) -> dict[str, str]:
    """The text of every file of one world, by file name. The same arguments give the same bytes everywhere.

    Args:
        seed: of everything random, 0 or more.
        people: read about, that is, with biographies in wiki.txt.
        train: how many of them have a question and an answer in birth_places_train.tsv.
        dev: how many others have one in birth_dev.tsv; the rest are in birth_test_inputs.tsv, without answers.
        control: people in birth_control.tsv, about whom wiki.txt says nothing.
        views: documents for each person read about, each in another wording.

    Raises ValueError for counts that do not fit together.
    """
    sets = draw_people(seed, people, train, dev, control, views)
    order = sets["train"] + sets["dev"] + sets["test"]
    random.Random(f"order of documents {seed}").shuffle(order)  # not Random(seed): it drew the names
    # Everyone's first document, then everyone's second in the same order: `people` lines between two of one person.
    documents = [person.documents[view] for view in range(views) for person in order]
    lines = {"wiki.txt": documents, "birth_test_inputs.tsv": [person.question for person in sets["test"]]}
    for name, group in ANSWERED.items():
        lines[name] = [f"{person.question}\t{person.place}" for person in sets[group]]
    unknown = set("Where was born?") - set("".join(documents))
    if unknown:
        raise ValueError(
            f"no document has {''.join(sorted(unknown))!r}, which the questions have; "
            "raise people or views, or take another seed"
        )
    return {name: "".join(line + "\n" for line in text) for name, text in lines.items()}


def write(folder: str | os.PathLike, files: dict[str, str]) -> None:
    """Write `files` (name -> text) into `folder`, made if need be: UTF-8, LF, each file whole or not at all."""
    for name, text in files.items():
        write_text(Path(folder) / name, text)


def main(arguments: list[str] | None = None) -> None:
    """The command line: one option for each argument of `generate`, and the folder to write to."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(
        description="Write a world of invented people and where they were born.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    defaults = inspect.signature(generate).parameters
    for option, meaning in OPTIONS.items():
        parser.add_argument(f"--{option}", type=int, default=defaults[option].default, help=meaning)
    parser.add_argument("--out", type=Path, default=here, help="folder to write to")
    options = vars(parser.parse_args(arguments))
    folder = options.pop("out")
    try:
        files = generate(**options)
        # The committed files may be replaced; elsewhere, files of these names may be the assignment's own.
        with contextlib.nullcontext() if folder.resolve() == here else own_folder(folder):
            write(folder, files)
    except (ValueError, OSError) as error:
        parser.error(describe(error))
    for name, text in files.items():
        print(f"{name}: {len(text.splitlines())} lines, {len(text.encode('utf-8'))} bytes")


if __name__ == "__main__":
    main()
