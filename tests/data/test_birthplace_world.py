"""The synthetic world of the birthplace study: what its files promise, and that the generator keeps the promises."""

import importlib.util
import math
import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict

import pytest
from conftest import REPOSITORY

FOLDER = REPOSITORY / "data" / "birthplace_world"
COUNTS = {"people": 120, "train": 70, "dev": 40, "control": 40, "views": 5}  # the generator's defaults
FILES = {
    "wiki.txt": COUNTS["people"] * COUNTS["views"],
    "birth_places_train.tsv": COUNTS["train"],
    "birth_dev.tsv": COUNTS["dev"],
    "birth_control.tsv": COUNTS["control"],
    "birth_test_inputs.tsv": COUNTS["people"] - COUNTS["train"] - COUNTS["dev"],
}  # name -> lines
VISIBLE = 112  # characters of a document that CharCorruptionDataset can show at block size 128


def load_generator():
    """The generator as a module, without putting its folder on sys.path."""
    spec = importlib.util.spec_from_file_location("birthplace_world", FOLDER / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


world = load_generator()


def read(name):
    """The lines of a committed file, split at LF alone."""
    return (FOLDER / name).read_bytes().decode("utf-8").split("\n")[:-1]


def pairs(name):
    """(person's name, place) of every line of a committed file of questions with answers."""
    return [re.fullmatch(r"Where was (.+) born\?\t(.+)", line).groups() for line in read(name)]


def documents():
    """Name -> that person's documents, from the committed wiki.txt."""
    found = defaultdict(list)
    for line in read("wiki.txt"):
        found[line.split(". ")[0]].append(line)
    return found


def cities_in(text):
    """The cities that a text mentions, in order."""
    return re.findall(r"\b(" + "|".join(world.PLACES) + r")\b", text)


def everyone(seed=0):
    """All the people of the default world, or of another seed's."""
    return [person for group in world.draw_people(seed, **COUNTS).values() for person in group]


# ---- the committed files ----


def test_committed_files_are_what_the_generator_writes():
    files = world.generate()
    assert sorted(files) == sorted(FILES)
    for name, text in files.items():
        assert (FOLDER / name).read_bytes() == text.encode("utf-8"), f"{name} is stale: run generate.py again"


def test_counts_and_size():
    assert {name: len(read(name)) for name in FILES} == FILES
    assert sum((FOLDER / name).stat().st_size for name in FILES) < 150_000


@pytest.mark.parametrize("name", FILES)
def test_lines_are_clean(name):
    data = (FOLDER / name).read_bytes()
    assert data.endswith(b"\n") and b"\r" not in data
    lines = read(name)
    assert all(line and line == line.strip() for line in lines)
    assert len(set(lines)) == len(lines)


def test_readme_states_the_counts_and_the_range_of_lengths():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name, count in FILES.items():
        assert f"| `{name}` | {count} |" in readme
    lengths = [len(line) for line in read("wiki.txt")]
    assert f"{min(lengths)} to {max(lengths)} characters" in readme
    assert f"{len(world.TEMPLATES)} wordings" in readme and f"{len(world.PLACES)} cities" in readme
    assert f"{round(sum((FOLDER / name).stat().st_size for name in FILES) / 1000)} KB together" in readme


def test_the_sets_of_people_are_disjoint_and_only_control_is_unread():
    train, dev, control = (
        [name for name, _ in pairs(file)] for file in ("birth_places_train.tsv", "birth_dev.tsv", "birth_control.tsv")
    )
    test = [re.fullmatch(r"Where was (.+) born\?", line)[1] for line in read("birth_test_inputs.tsv")]
    everybody = train + dev + test + control
    assert len(set(everybody)) == len(everybody) == COUNTS["people"] + COUNTS["control"]
    assert set(documents()) == set(train + dev + test)


def test_control_people_are_in_no_document_but_their_name_parts_are():
    text = "\n".join(read("wiki.txt"))
    words = set(re.findall(r"\w+", text))
    for name, _ in pairs("birth_control.tsv"):
        assert name not in text
        assert set(name.split()) <= words


def test_every_document_of_a_person_gives_the_same_visible_birthplace():
    found = documents()
    for person in everyone():
        if person.name in found:
            assert len(found[person.name]) == COUNTS["views"]
            for line in found[person.name]:
                assert person.place in cities_in(line[:VISIBLE])
                assert set(cities_in(line)) <= {person.place, person.other}
    for name, place in pairs("birth_places_train.tsv") + pairs("birth_dev.tsv"):
        assert all(place in cities_in(line[:VISIBLE]) for line in found[name])


def test_the_other_facts_of_a_person_agree_too():
    for lines in documents().values():
        text = " ".join(lines)
        assert len(set(re.findall(r"\d+ [A-Z][a-z]+ \d{4}", text))) <= 1
        assert len(set(re.findall(r"\d{4}", text))) <= 2  # birth and death
        assert len(set(re.findall(r"\b(" + "|".join(world.PROFESSIONS) + r")\b", text))) <= 1
        assert len(set(re.findall(r"\b(he|she)\b", text))) <= 1


def test_documents_of_one_person_are_apart_and_worded_differently():
    last = {}
    for number, line in enumerate(read("wiki.txt")):
        name = line.split(". ")[0]
        assert number - last.get(name, -1000) >= COUNTS["people"]
        last[name] = number
    assert all(len(set(person.templates)) == COUNTS["views"] for person in everyone())


def test_a_minority_of_documents_has_a_second_city_and_it_sometimes_comes_first():
    places = {person.name: person.place for person in everyone()}
    mentioned = [(places[line.split(". ")[0]], cities_in(line)) for line in read("wiki.txt")]
    assert all(len(cities) in (1, 2) for _, cities in mentioned)
    assert 0.15 < sum(len(cities) == 2 for _, cities in mentioned) / len(mentioned) < 0.35
    assert 0.05 < sum(cities[0] != place for place, cities in mentioned) / len(mentioned) < 0.20


def test_places_are_unequal_and_those_asked_for_later_occur_in_train():
    asked = {place for _, place in pairs("birth_places_train.tsv")}
    for name in ("birth_places_train.tsv", "birth_dev.tsv", "birth_control.tsv"):
        counts = Counter(place for _, place in pairs(name))
        assert set(counts) <= asked
        assert len(counts) >= 20
        [(place, most)] = counts.most_common(1)
        assert place == "London" and 0.10 < most / sum(counts.values()) < 0.20


def test_names_outside_ascii_are_in_every_set():
    for name in ("birth_places_train.tsv", "birth_dev.tsv", "birth_control.tsv"):
        assert any(not person.isascii() for person, _ in pairs(name))
    assert any(not place.isascii() for _, place in pairs("birth_places_train.tsv"))


def test_a_vocabulary_made_of_the_documents_spells_every_question_and_answer():
    vocabulary = set("".join(read("wiki.txt")))
    for name in FILES:
        assert set("".join(read(name))) - {"\t"} <= vocabulary
    assert len(vocabulary) < 90


# ---- the place depends on nothing ----


def mutual_information(left, right):
    """I(left; right) in nats, of two equally long lists, from their joint frequencies."""
    n = len(left)
    p_left, p_right = Counter(left), Counter(right)
    return sum(
        count / n * math.log(count * n / (p_left[a] * p_right[b]))
        for (a, b), count in Counter(zip(left, right)).items()
    )


def test_mutual_information_sees_dependence():
    """So that the next test can fail: ln 2 for a copied coin, 0 for every combination once."""
    assert mutual_information([0, 1], [0, 1]) == pytest.approx(math.log(2))
    assert mutual_information([0, 0, 1, 1], [0, 1, 0, 1]) == pytest.approx(0)


@pytest.mark.parametrize("attribute", ["given", "surname", "initial", "job", "decade", "template"])
def test_place_is_independent_of_everything_else(attribute):
    """No more mutual information than shuffled places have (it is never 0 for few samples of many values)."""
    value = {
        "given": lambda p: p.given,
        "surname": lambda p: p.surname,
        "initial": lambda p: p.surname[0],
        "job": lambda p: p.job,
        "decade": lambda p: p.birth // 10,
        "template": lambda p: p.templates[0],
    }[attribute]
    people = everyone()
    values, places = [value(person) for person in people], [person.place for person in people]
    observed = mutual_information(values, places)
    rng = random.Random(0)
    shuffled = []
    for _ in range(100):
        rng.shuffle(places)
        shuffled.append(mutual_information(values, places))
    mean = sum(shuffled) / len(shuffled)
    spread = math.sqrt(sum((x - mean) ** 2 for x in shuffled) / len(shuffled))
    assert abs(observed - mean) < 3.5 * spread


@pytest.mark.parametrize("part", ["given", "surname"])
def test_a_name_part_predicts_no_better_than_the_majority(part):
    """The commonest place in train of people with the same given name (or surname), over 20 worlds."""
    right, majority, asked = 0, 0, 0
    for seed in range(20):
        people = world.draw_people(seed, **COUNTS)
        seen = defaultdict(Counter)
        for person in people["train"]:
            seen[getattr(person, part)][person.place] += 1
        for person in people["dev"]:
            known = seen.get(getattr(person, part), Counter(["London"]))
            right += known.most_common(1)[0][0] == person.place
            majority += person.place == "London"
            asked += 1
    assert 0.10 < majority / asked < 0.20
    assert right < majority + 0.02 * asked


# ---- the wordings and the lists ----


def test_templates_are_varied_and_every_one_is_used():
    assert len(world.TEMPLATES) >= 25 and len(set(world.TEMPLATES)) == len(world.TEMPLATES)
    assert all(template.count("{place}") == 1 for template in world.TEMPLATES)
    used = {
        index
        for group, people in world.draw_people(0, **COUNTS).items()
        if group != "control"
        for person in people
        for index in person.templates
    }
    assert used == set(range(len(world.TEMPLATES)))


def test_the_longest_words_leave_every_birthplace_visible():
    """The worst case of every template, whatever the seed."""
    longest = {
        key: max(values, key=len)
        for key, values in {
            "given": world.WOMEN,
            "surname": world.SURNAMES,
            "place": world.PLACES,
            "other": world.PLACES,
            "job": world.PROFESSIONS,
        }.items()
    }
    person = world.Person(
        **longest, date="28 September 1930", birth=1930, death=2015, templates=tuple(range(len(world.TEMPLATES)))
    )
    for line in person.documents:
        assert line.rindex(person.place) + len(person.place) <= VISIBLE


def test_a_document_is_the_title_and_the_filled_in_template():
    person = world.Person("Zoë", "Peña", "Zürich", "Oslo", "actor", "3 May 1921", 1921, 1990, (0, 1, 24, 29, 33))
    assert person.documents == [
        "Zoë Peña. Zoë Peña was an actor, born in Zürich on 3 May 1921.",
        "Zoë Peña. Zoë Peña (born 3 May 1921 in Zürich; died 1990) was an actor.",
        "Zoë Peña. She was born on 3 May 1921 in Zürich and died in 1990.",
        "Zoë Peña. Zoë Peña (3 May 1921, Zürich - 1990, Oslo) was an actor.",
        "Zoë Peña. Peña died in Oslo in 1990, far from Zürich, where she was born.",
    ]
    assert person.question == "Where was Zoë Peña born?"


def test_lists_have_no_repeats_and_no_surname_begins_another():
    """A surname that began another would make one full name part of another person's."""
    for words in (world.WOMEN + world.MEN, world.SURNAMES, world.PLACES, world.PROFESSIONS):
        assert len(set(words)) == len(words)
    assert len(world.WOMEN + world.MEN) == 120 and len(world.SURNAMES) == 200 and len(world.PLACES) == 40
    assert not [(a, b) for a in world.SURNAMES for b in world.SURNAMES if a != b and b.startswith(a)]


# ---- the generator ----


def test_the_seed_decides_everything_and_the_hash_order_nothing():
    code = (
        f"import hashlib, sys; sys.path.insert(0, {str(FOLDER)!r}); sys.dont_write_bytecode = True;"
        "import generate; print(hashlib.sha256(repr(generate.generate(seed=7)).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1
    assert world.generate(seed=7) == world.generate(seed=7) != world.generate(seed=8)


@pytest.mark.parametrize(
    "counts",
    [
        {
            "people": 40,
            "train": 20,
            "dev": 20,
            "control": 10,
            "views": 5,
        },  # dev as large as train, nobody left for test
        {"people": 40, "train": 5, "dev": 30, "control": 30, "views": 8},  # fewer places in train than dev has people
        {"people": 2000, "train": 500, "dev": 100, "control": 500, "views": 1},
    ],
)
def test_other_counts_keep_the_promises(counts):
    files = world.generate(seed=3, **counts)
    sizes = {name: len(text.splitlines()) for name, text in files.items()}
    assert sizes == {
        "wiki.txt": counts["people"] * counts["views"],
        "birth_places_train.tsv": counts["train"],
        "birth_dev.tsv": counts["dev"],
        "birth_control.tsv": counts["control"],
        "birth_test_inputs.tsv": counts["people"] - counts["train"] - counts["dev"],
    }
    places = {name: {line.split("\t")[1] for line in files[name].splitlines()} for name in world.ANSWERED}
    assert places["birth_dev.tsv"] | places["birth_control.tsv"] <= places["birth_places_train.tsv"]
    for line in files["birth_control.tsv"].splitlines():
        assert line.removeprefix("Where was ").split(" born?")[0] not in files["wiki.txt"]


def test_places_are_shared_out_by_largest_remainder():
    places = world.draw_places(random.Random(0), 5, ["London", "Vienna"])  # shares 50000 : 33333, so 3.00 and 2.00
    assert Counter(places) == {"London": 3, "Vienna": 2}
    assert world.draw_places(random.Random(0), 0, ["London"]) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"seed": -1}, "seed = -1: must be 0 or more (random.Random takes -1 for 1)"),
        ({"train": 0}, "train = 0: must be at least 1"),
        ({"dev": -5}, "dev = -5: must be at least 1"),
        ({"control": 0}, "control = 0: must be at least 1"),
        ({"views": 0}, "views = 0: must be at least 1"),
        ({"views": 37}, "views = 37: there are only 36 wordings, and nobody gets one twice"),
        (
            {"people": 300, "train": 250, "dev": 100},
            "train + dev = 350: more than the 300 people read about; raise people",
        ),
        ({"people": 24001}, "people = 24001: there are only 24000 names; ask for fewer people"),
        (
            {"people": 2, "train": 1, "dev": 1, "control": 9},
            "control = 9: the names of the 2 people read about leave only 2 new combinations; ask for fewer",
        ),
        (
            {"people": 2, "train": 1, "dev": 1, "control": 1, "views": 1},
            "no document has '?W', which the questions have; raise people or views, or take another seed",
        ),
    ],
)
def test_bad_arguments_are_one_line_errors(arguments, message, capsys, tmp_path):
    with pytest.raises(ValueError) as error:
        world.generate(**arguments)
    assert str(error.value) == message

    flags = [f"--{name}={value}" for name, value in arguments.items()]
    with pytest.raises(SystemExit) as leaving:
        world.main(flags + ["--out", str(tmp_path)])
    assert leaving.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"error: {message}")
    assert list(tmp_path.iterdir()) == []


def test_command_line_writes_the_files_and_says_so(tmp_path, capsys):
    world.main(["--people", "50", "--train", "20", "--dev", "10", "--control", "5", "--out", str(tmp_path / "new")])
    files = world.generate(people=50, train=20, dev=10, control=5)
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").glob("*.t*")} == {
        name: text.encode("utf-8") for name, text in files.items()
    }
    said = capsys.readouterr().out.splitlines()
    (tmp_path / "wiki.txt").write_text("the assignment's own")
    for _ in range(2):  # what the first call wrote may be replaced by the second
        world.main(["--people", "50", "--train", "20", "--dev", "10", "--control", "5", "--out", str(tmp_path)])
    assert [path.read_text() for path in tmp_path.glob("*.kept*")] == ["the assignment's own"]
    assert said[0] == f"wiki.txt: 250 lines, {len(files['wiki.txt'].encode('utf-8'))} bytes" and len(said) == 5


def test_an_output_folder_that_is_a_file_is_a_clean_error(tmp_path, capsys):
    (tmp_path / "taken").write_text("kept")
    with pytest.raises(SystemExit):
        world.main(["--out", str(tmp_path / "taken")])
    assert "taken" in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / "taken").read_text() == "kept"


def test_a_write_that_fails_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    world.write(tmp_path, {"wiki.txt": "old\n"})

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(world.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        world.write(tmp_path, {"wiki.txt": "new\n"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"wiki.txt": "old\n"}
