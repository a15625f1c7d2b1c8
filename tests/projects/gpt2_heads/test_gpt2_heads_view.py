"""The page that `run.py view` writes: its structure, and what it does in a browser where there is one."""

import base64
import json
import re
import shutil
import subprocess
import sys
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from mingpt.conv_attention import AttentionAttentionNet, ConvAttentionConfig
from mingpt.model import GPT, GPTConfig
from projects.gpt2_heads import small
from projects.gpt2_heads.page import patterns_of, write_page
from projects.gpt2_heads.run import main

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
NASTY = [
    "</script><script>document.title='broken'</script>",
    "&lt;",
    "<!--",
    '"',
    "'",
    "\\",
    "\u2028",
    "{{title}}",
    "·ok",
]


def random_patterns(layers: int, heads: int, T: int) -> dict:
    mask = torch.ones(T, T).triu(1).bool()
    return {
        f"layer {l}": (3 * torch.randn(heads, T, T)).masked_fill(mask, -torch.inf).softmax(-1) for l in range(layers)
    }


class Page(HTMLParser):
    """The elements of a page, the ids, and the text of its title and of its data."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.ids, self.links, self.text, self._inside = [], [], [], {}, ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes[name] for name in ("src", "href") if name in attributes]
        self._inside = attributes.get("id", tag)

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        self.text[self._inside] = self.text.get(self._inside, "") + data


def read_page(path) -> tuple[Page, dict]:
    page = Page(path.read_text(encoding="utf-8"))
    return page, json.loads(page.text["data"])


def unpack(text: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)


def test_the_page_holds_the_patterns_and_needs_nothing_else(tmp_path):
    T, patterns = 60, random_patterns(2, 3, 60)
    scores = {"induction": [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]}
    size = write_page(
        tmp_path / "p.html",
        "A title",
        "below it",
        [f"t{i}" for i in range(T)],
        patterns,
        scores,
        "a note",
        layer=1,
        head=2,
    )
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    page, data = read_page(tmp_path / "p.html")
    assert size == len(text.encode()) and page.text["title"] == page.text["h1"] == "A title"
    assert not page.links and not re.findall(r"https?:|//\w+\.|@import|url\(", text), "nothing is fetched"
    assert page.tags.count("script") == 2 and len(page.ids) == len(set(page.ids))
    assert set(re.findall(r'at\("([\w-]+)"\)', text)) <= set(page.ids), "the script finds what it looks for"
    assert (data["layer"], data["head"], data["scores"], len(data["tokens"])) == (1, 2, scores, T)
    rows, columns = np.tril_indices(T)
    for entry, (name, pattern) in zip(data["layers"], patterns.items()):
        assert entry["name"] == name and entry["heads"] == 3
        stored = unpack(entry["weights"]).reshape(3, -1) / 255
        assert np.abs(stored - pattern.numpy()[:, rows, columns]).max() <= 0.5 / 255 + 1e-6
    thumbs = unpack(data["thumbs"]).reshape(2, 3, 48, 48)
    assert thumbs[1, 2].max() == round(255 * float(patterns["layer 1"][2].max())), (
        "a small pattern keeps the largest weights"
    )


def test_tokens_of_any_text_are_only_text(tmp_path):
    T = len(NASTY)
    write_page(tmp_path / "p.html", "<b>&", "</p>", NASTY, random_patterns(1, 2, T))
    page, data = read_page(tmp_path / "p.html")
    assert (
        data["tokens"] == NASTY
        and page.tags.count("script") == 2
        and page.text["h1"] == "<b>&"
        and "b" not in page.tags
    )


def test_shapes_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"pattern of layer 0 is \(2, 5, 5\); with 4 tokens it must be \(heads, 4, 4\)"
    ):
        write_page(tmp_path / "p.html", "", "", list("abcd"), random_patterns(1, 2, 5))
    assert not list(tmp_path.iterdir())


def test_a_thousand_tokens_and_heads_of_sharp_attention_stay_small(tmp_path):
    """12 heads of one layer at 1,000 tokens are 6 million bytes; GPT-2 has twelve such layers."""
    T = 1000
    pattern = torch.zeros(12, T, T)
    pattern.diagonal(-1, 1, 2).fill_(0.7)
    pattern[:, :, 0] += 0.3
    pattern[:, 0, 0] = 1
    assert write_page(tmp_path / "p.html", "", "", ["x"] * T, {"layer 0": pattern}) < 300_000


def test_patterns_of_any_model_of_the_core():
    idx = list(range(10))
    for model, names in (
        (GPT(GPTConfig(vocab_size=50, block_size=32, n_layer=2, n_head=3, n_embd=24)), ["layer 0", "layer 1"]),
        (AttentionAttentionNet(ConvAttentionConfig(vocab_size=50, block_size=16, n_embd=16)), None),
    ):
        patterns = patterns_of(model, idx)
        assert len(patterns) == 2 and (names is None or list(patterns) == names)
        for pattern in patterns.values():
            assert pattern.shape[1:] == (10, 10)
            torch.testing.assert_close(pattern.sum(dim=-1), torch.ones(pattern.shape[:2]))
    with pytest.raises(ValueError, match="Linear has no hook point called pattern"):
        patterns_of(torch.nn.Linear(2, 2), idx)


def test_a_page_replaces_a_page_and_no_other_file(tmp_path, monkeypatch, error_line):
    notes, page = tmp_path / "notes.html", tmp_path / "page.html"
    notes.write_text("<!doctype html>\n<p>mine")
    words = ("view", "--quick", "--out", tmp_path / "out", "--html")

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["run.py", *map(str, words)])
        main()

    assert "notes.html: this file is there, and is not a page that this program wrote" in error_line(run, *words, notes)
    assert notes.read_text() == "<!doctype html>\n<p>mine"
    assert "is a folder; give the path of a file" in error_line(run, *words, tmp_path)
    for _ in range(2):
        run(*words, page)
    assert read_page(page)


def test_view_writes_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys,
        "argv",
        ["run.py", "view", "--model", "small", "--quick", "--out", str(tmp_path), "--text", "fox lake fox lake"],
    )
    main()
    page, data = read_page(tmp_path / "view.html")
    assert data["tokens"] == ["fox", "lake", "fox", "lake"] and set(data["scores"]) == {
        "induction",
        "previous token",
        "duplicate token",
    }
    assert len(data["layers"]) == small.QUICK.model.n_layer and "Open it in a browser" in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------------------------------
# In a browser


@pytest.fixture
def browse(tmp_path):
    """A function that opens a page, runs a script in it, and returns what the script leaves in the element #report."""
    if BROWSER is None:
        pytest.skip("there is no chromium to open the page in")

    def open_page(path, script, address=""):
        probe = """<script>
            const key = (element, name) =>
              element.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
            const pause = () => new Promise(resolve => setTimeout(resolve, 50));
            const wait = async () => { while (document.documentElement.dataset.ready !== "yes") await pause(); };
            wait().then(async () => { SCRIPT }).then(found => {
              const report = document.createElement("pre");
              report.id = "report";
              report.textContent = JSON.stringify(found);
              document.body.append(report);
            });
        </script>""".replace("SCRIPT", script)
        probed = path.with_name("probed.html")
        probed.write_text(path.read_text(encoding="utf-8").replace("</body>", probe + "</body>"), encoding="utf-8")
        command = [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=10000",
            "--dump-dom",
            probed.as_uri() + address,
        ]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, encoding="utf-8")
        page = Page(shown.stdout)
        assert "report" in page.text, shown.stderr[-500:]
        return json.loads(page.text["report"])

    return open_page


def test_the_page_shows_what_the_chosen_head_looks_at(browse, tmp_path):
    patterns = random_patterns(2, 3, 12)
    tokens = NASTY + ["a", "b", "c"]
    write_page(tmp_path / "p.html", "T", "", tokens, patterns, {"induction": [[0.1, 0.2, 0.3]] * 2})
    found = browse(
        tmp_path / "p.html",
        """
        return { chips: chips.map(chip => chip.textContent),
                 shades: chips.map(chip => +chip.style.getPropertyValue("--w")),
                 title: at("looks-title").textContent, lines: at("looks").tBodies[0].rows.length,
                 trouble: at("trouble").textContent,
                 best: at("looks").tBodies[0].rows[2].lastChild.firstChild.textContent, page: document.title };""",
        "#layer=1&head=2&token=9",
    )
    row = patterns["layer 1"][2, 9].numpy()
    assert found["chips"] == tokens and found["lines"] == 3 and found["trouble"] == "" and found["page"] == "T"
    assert found["title"] == "From a (9), the heads of layer 1 look at"
    np.testing.assert_allclose(np.array(found["shades"]) ** 2, row, atol=0.5 / 255 + 2e-3)
    assert found["best"] == f"{tokens[row.argmax()]} ({row.argmax()}) {round(round(255 * row.max()) / 2.55)} %"


def test_the_page_is_worked_by_keyboard(browse, tmp_path):
    write_page(tmp_path / "p.html", "T", "", list("abcdefgh"), random_patterns(3, 4, 8))
    found = browse(
        tmp_path / "p.html",
        """
        const steps = [];
        const note = () => steps.push([state.layer, state.head, state.query, state.held]);
        const stops = () => ["chip", "cell"].map(name => document.querySelectorAll(`.${name}[tabindex='0']`).length);
        chips[7].focus(); note();
        key(document.activeElement, "ArrowLeft"); note();
        key(document.activeElement, "Home"); note();
        key(document.activeElement, "ArrowRight"); key(document.activeElement, "Enter"); note();
        chips[5].dispatchEvent(new PointerEvent("pointerover", { bubbles: true })); note();
        key(document.activeElement, "Escape"); note();
        chips[5].dispatchEvent(new PointerEvent("pointerover", { bubbles: true })); note();
        document.querySelector(".cell[tabindex='0']").focus();
        for (const name of ["Down", "Right", "Right", "Right", "Right"]) key(document.activeElement, `Arrow${name}`);
        note();
        key(document.activeElement, "Enter"); await pause(); note();
        const before = getComputedStyle(document.body).backgroundColor;
        at("theme").click();
        return { steps, stops: stops(), label: document.activeElement.getAttribute("aria-label"),
                 selected: document.querySelector(".cell[aria-selected=true]").dataset,
                 turned: before !== getComputedStyle(document.body).backgroundColor };""",
    )
    assert found["steps"] == [
        [0, 0, 7, False],
        [0, 0, 6, False],
        [0, 0, 0, False],
        [0, 0, 1, True],
        [0, 0, 1, True],
        [0, 0, 1, False],
        [0, 0, 5, False],
        [0, 0, 5, False],
        [1, 3, 5, False],
    ]
    assert found["stops"] == [1, 1], "Tab stops once in each group"
    assert found["label"] == "layer 1, head 3" and found["selected"] == {"layer": "1", "head": "3"} and found["turned"]


def test_the_page_works_at_a_thousand_tokens(browse, tmp_path):
    write_page(tmp_path / "p.html", "T", "", [f"t{i}" for i in range(1000)], random_patterns(2, 4, 1000))
    found = browse(
        tmp_path / "p.html",
        """
        const start = performance.now();
        for (let i = 0; i < 20; i++) look(900 + i, false);
        return { chips: chips.length, milliseconds: (performance.now() - start) / 20,
                 trouble: at("trouble").textContent };""",
    )
    assert found["chips"] == 1000 and found["trouble"] == "" and found["milliseconds"] < 500
