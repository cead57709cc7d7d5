"""Reads a report as a person does, and a run's files as a program does, to find for each figure shown the file that holds it."""

import json
import re
from html.parser import HTMLParser

import yaml

NUMBER = re.compile(r"(?<![\w.])[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?\s?%?(?![\w])")
# Sentences of the page itself that hold a number and no figure of a run.
OWN = (
    "95 %", "darkest at 4 and above", "The first held-out row", "1 is the same", "more than two errors", "one standard error",
    "below 0 is better", "holds 0 the rows",
)  # fmt: skip
_BLOCKS = (
    "title", "h1", "h2", "h3", "p", "li", "th", "td", "summary", "pre", "blockquote", "script", "style",
)  # fmt: skip
_AS_IT_STANDS = ("pre", "blockquote", "script", "style")


class _Page(HTMLParser):
    """What stands under which heading. tables: {heading: rows of cells}; blocks: (heading, tag, text) of all else that is read.

    labels: what charts say to a screen reader. tokens: (text, shade, told). scripts: the programs.
    """

    def __init__(self):
        super().__init__()
        self.heading, self.open = "", []
        self.tables, self.blocks, self.labels, self.tokens, self.scripts = {}, [], [], [], []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in _BLOCKS:
            self.open.append([tag, ""])
        if tag == "table":
            assert self.heading not in self.tables, f"two tables under {self.heading}"
            self.tables[self.heading] = []
        if tag == "tr":
            self.tables[self.heading].append([])
        if given.get("role") == "img":
            self.labels.append(given["aria-label"])
        if "data-told" in given:
            self.tokens.append(["", given["style"].removeprefix("--shade: "), given["data-told"]])

    def handle_data(self, data):
        if self.open:
            self.open[-1][1] += data
        if self.open and self.open[-1][0] == "p" and self.get_starttag_text().startswith("<span"):
            self.tokens[-1][0] += data

    def handle_endtag(self, tag):
        if tag not in _BLOCKS:
            return
        name, text = self.open.pop()
        assert name == tag
        text = text if tag in _AS_IT_STANDS else " ".join(text.split())
        if tag in ("th", "td"):
            self.tables[self.heading][-1].append(text)
        elif tag == "script":
            self.scripts.append(text)
        elif tag != "style":
            self.heading = text if tag == "h2" else self.heading
            self.blocks.append((self.heading, tag, text))

    def texts(self, heading, tag):
        """The texts of one kind under a heading, in their order."""
        return [text for under, kind, text in self.blocks if (under, kind) == (heading, tag)]


def page(text):
    """The page, read."""
    found = _Page()
    found.feed(text)
    return found


def figures(found):
    """What the charts are drawn from: a list of plotly figures."""
    (script,) = (text for text in found.scripts if "const figures = " in text)
    return json.JSONDecoder().raw_decode(script[script.index("const figures = ") + 16 :])[0]


def numbers(text):
    """The figures in a text, as they are written."""
    for phrase in OWN:
        text = text.replace(phrase, " ")
    return [match.strip() for match in NUMBER.findall(text)]


class Held:
    """What the files of a run hold, read by themselves: evaluation, benchmarks, logs by arm, telemetry, provenance, recipe."""

    def __init__(self, run):
        self.run = run
        self.evaluation = {path.stem: _json(path) for path in sorted((run / "evaluation").glob("*.json"))}  # fmt: skip
        self.benchmarks = [_json(path) for path in sorted((run / "evaluation/benchmarks").glob("*.json"))]  # fmt: skip
        self.logs = {"student": _lines(run / "log.jsonl"), "control": _lines(run / "control/log.jsonl")}  # fmt: skip
        self.telemetry = _lines(run / "telemetry.jsonl")
        self.provenance = _json(run / "provenance.json")
        self.recipe_text = (run / "recipe.yaml").read_text()
        self.recipe = yaml.safe_load(self.recipe_text)

    @property
    def tables(self):
        """The files with figures by model, by name."""
        return {name: told for name, told in self.evaluation.items() if "measure" in told}

    def get(self, name, *keys):
        """The value at these keys of an evaluation's file, or None."""
        here = self.evaluation.get(name)
        for key in keys:
            here = here.get(key) if isinstance(here, dict) else None
        return here


def _json(path):
    return json.loads(path.read_text())


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def leaves(held):
    """{where: value} of the few numbers that a page may show outside of what is checked against its own keys."""
    found = {}
    for name, told in held.evaluation.items():
        found |= {f"{name}.{key}": told[key] for key in ("rows", "length") if key in told}
    return found


def strangers(text, held):
    """Numbers of a text that is checked nowhere else, spelled as no file of the run holds them."""
    known = {str(value) for value in leaves(held).values()}
    return [number for number in numbers(text) if number not in known]
