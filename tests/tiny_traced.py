"""Reads a report as a person does, and a run's files as a program does, to find for each figure shown the file that holds it."""

import json
import re
from html.parser import HTMLParser

import yaml

NUMBER = re.compile(r"(?<![\w.])[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?\s?%?(?![\w])")
# Sentences of the page itself that hold a number and no figure of a run.
OWN = (
    "95 %", "top-1", "darkest at 4 and above", "The first held-out row", "(control − student) / (control − teacher)", "1 is the same",
    "more than two errors", "one standard error", "in the last 20",
)  # fmt: skip
_VERBATIM = ("pre", "blockquote", "code", "script", "style")


class _Page(HTMLParser):
    """Text by where it stands: tables by cells, what scripts draw, what a reader is told, everything else."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.told, self.tables, self.verbatim = [], [], [], [], []
        self.tokens, self.scripts = [], []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("meta", "link", "br", "hr", "input"):
            return
        self.open.append((tag, given))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td"):
            self.tables[-1][-1].append("")
        if tag in _VERBATIM:
            self.verbatim.append("")
        if "aria-label" in given:
            self.text.append(given["aria-label"])
        if "data-told" in given:
            self.told.append(given["data-told"])

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        tags = [tag for tag, _ in self.open]
        if any("data-told" in given for _, given in self.open):
            self.tokens.append(data)
        elif "script" in tags:
            self.scripts.append(data)
        elif any(tag in _VERBATIM for tag in tags):
            self.verbatim[-1] += data
        elif "td" in tags or "th" in tags:
            self.tables[-1][-1][-1] += data
        else:
            self.text.append(data)


def page(text):
    """The page, read."""
    found = _Page()
    found.feed(text)
    return found


def figures(found):
    """What the charts are drawn from: a list of plotly figures."""
    for script in found.scripts:
        start = script.find('[{"data"')
        if start >= 0:
            return json.JSONDecoder().raw_decode(script[start:].replace("<\\/", "</"))[0]
    return []


def numbers(text):
    """The figures in a text, as they are written."""
    for phrase in OWN:
        text = text.replace(phrase, " ")
    return [match.strip() for match in NUMBER.findall(text)]


def leaves(run):
    """{file:keys: value} of every number that the files of a run hold."""
    found = {}
    for path in [*sorted((run / "evaluation").rglob("*.json")), run / "provenance.json"]:
        if path.is_file():
            _walk(json.loads(path.read_text()), f"{path.relative_to(run)}:", found)
    for path in (run / "log.jsonl", run / "control/log.jsonl", run / "telemetry.jsonl"):
        if path.is_file():
            for number, line in enumerate(path.read_text().splitlines()):
                _walk(json.loads(line), f"{path.relative_to(run)}:{number}.", found)
    _walk(yaml.safe_load((run / "recipe.yaml").read_text()), "recipe.yaml:", found)
    return found


def _walk(value, where, found):
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("row_sums", "rows_of", "values"):  # rows' own sums are shown nowhere
                _walk(inner, f"{where}{key}.", found)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _walk(inner, f"{where}{number}.", found)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found[where.removesuffix(".")] = value


def spellings(value):
    """Every way in which the report may write a number that a file holds."""
    plain = {
        f"{value:,.0f}",
        f"{value:.4f}",
        f"{value:,.4g}",
        f"{value:.4g}",
        f"{value:.2f}",
        f"{value:,.1f}",
        str(value),
    }
    share = {f"{value:.1%}", f"{value:.2%}", f"{value:.0%}", f"{100 * value:,.1f}"}
    signed = {f"{value:+.4f}", f"{abs(value):.4f}"}
    return plain | share | signed


def index(found):
    """{spelling: the places that it may come from}."""
    places = {}
    for where, value in found.items():
        for spelled in spellings(value):
            places.setdefault(spelled, set()).add(where)
    return places
