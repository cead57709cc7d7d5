"""What the comparison of runs has to say, made of their files key by key: the table, the page's charts, the file for programs."""

import math
from dataclasses import dataclass

import numpy as np
import tiny_own
import tiny_own_charts
import tiny_report
import tiny_traced

from limbeck import files
from limbeck.intervals import Resampled

ROWS = 24
BITS, KL = ("bits_per_byte", "bits_per_byte"), ("agreement", "kl_to_teacher")
AXES = ("size", "speed", "training")


def folder(place, name, *, seed, objective, whose):
    """A finished run with sums of rows and figures made of them. whose: draws its student apart from others."""
    recipe = (
        f"name: {name}\nseed: {seed}\nteacher: {{live: {{model: big}}}}\nstudent: {{pruned: {{layers: 2}}}}\n"
        f"stages: [{{name: only, objective: [{objective}]}}]\n"
    )
    run, draw = tiny_report.folder(place, name=name, recipe=recipe), np.random.default_rng(whose)
    sums = {"bits_per_byte": {}, "agreement": {}}
    for model, rate in (("teacher", 0.5), ("student", 0.8), ("control", 1.0)):
        hard = np.random.default_rng(99).uniform(40, 90, ROWS)
        nats = rate * hard * draw.uniform(0.9, 1.1, ROWS)
        counts = {"tokens": np.full(ROWS, 32.0), "right": np.ones(ROWS)}
        sums["bits_per_byte"][model] = {"nats": nats, "bytes": draw.integers(80, 99, ROWS)} | counts
        apart = 0.0 if model == "teacher" else draw.uniform(10, 30, ROWS)
        sums["agreement"][model] = {"kl": np.zeros(ROWS) + apart, "tokens": counts["tokens"]}
    for measure, key in (BITS, KL):
        path = run / f"evaluation/{measure}.json"
        told = files.read_json(path)
        for model, each in sums[measure].items():
            told["models"][model][key] = float(_figure(measure, {k: v.sum() for k, v in each.items()}))  # fmt: skip
        told["row_sums"] = {m: {k: v.tolist() for k, v in each.items()} for m, each in sums[measure].items()}  # fmt: skip
        told |= {"rows_of": [f"row-{number}" for number in range(ROWS)]}
        told |= {"gap_recovered": {key: float(draw.uniform(0.1, 0.9))}}
        files.write_json(path, told)
    for measure, key in (("models", "parameters"), ("speed", "tokens_per_second")):
        path = run / f"evaluation/{measure}.json"
        told = files.read_json(path)
        told["models"] = {m: {key: float(draw.integers(1_000, 9_000_000))} for m in told["models"]}
        files.write_json(path, told)
    return run


def _figure(measure, sums):
    """A figure of sums over rows, be they numbers or draws."""
    if measure == "bits_per_byte":
        return sums["nats"] / sums["bytes"] / math.log(2)
    return sums["kl"] / sums["tokens"]


@dataclass
class Own:
    """An entry as it has to be: its title, its model, its runs."""

    title: str
    model: str
    runs: list

    def each(self, measure, key):
        return [tiny_traced.Held(run).get(measure, "models", self.model, key) for run in self.runs]

    def mean(self, measure, key):
        found = self.each(measure, key)
        return sum(found) / len(found)

    @property
    def trained(self):
        lines = tiny_traced.Held(self.runs[0]).logs.get(self.model)
        return lines[-1]["tokens"] if lines else None

    def drawn(self, measure):
        """The figure in all and in each draw of rows, of the mean over runs of each row's sums."""
        every = [tiny_traced.Held(run).get(measure, "row_sums", self.model) for run in self.runs]
        draws = Resampled(ROWS)
        means = {key: np.mean([one[key] for one in every], axis=0) for key in every[0]}
        return draws, _figure(measure, {key: draws.sums(values) for key, values in means.items()})

    def interval(self, measure):
        draws, found = self.drawn(measure)
        return draws.interval(found).plain()

    def beside(self, measure, other):
        draws, found = self.drawn(measure)
        return draws.interval(found - other.drawn(measure)[1]).plain()


def table(entries):
    """The table, with its headings; spaces that no line is broken at are spaces."""
    first = entries[0].title
    heads = [
        "run",
        "seeds",
        "parameters",
        "trained on",
        "tokens/s",
        "bits per byte",
        f"beside {first}",
    ]
    rows = [[*heads, "KL to the teacher", f"KL beside {first}", "gap recovered"]]
    for one in entries:
        gaps = [tiny_traced.Held(run).get("bits_per_byte", "gap_recovered", BITS[1]) for run in one.runs]  # fmt: skip
        rows.append([
            one.title, str(len(one.runs)), f"{one.mean('models', 'parameters'):,.0f}", "–" if one.trained is None else f"{one.trained:,}",
            f"{one.mean('speed', 'tokens_per_second'):,.0f}", _sure(one, BITS), _beside(one, BITS, entries[0]),
            _sure(one, KL), _beside(one, KL, entries[0]), f"{sum(gaps) / len(gaps):.1%}" if one.model == "student" else "–",
        ])  # fmt: skip
    return rows


def _sure(one, figure):
    each = [f"{value:.4f}" for value in sorted(one.each(*figure))]
    told = f"{one.mean(*figure):.4f}{tiny_own.within(one.interval(figure[0]), '{:.4f}')}"
    return told if each[0] == each[-1] else f"{told}, seeds {each[0]} to {each[-1]}"


def _beside(one, figure, first):
    if one is first:
        return "–"
    value, low, high = one.beside(figure[0], first)
    told = f"{value:+.4f} ({low:+.4f} to {high:+.4f})"
    return told if low > 0 or high < 0 else f"{told}, may be none"


def check(text, entries):
    """Raises AssertionError where a figure of the page is another than that of the runs' own files."""
    page = tiny_traced.page(text)
    assert list(page.tables) == [""]
    assert [[cell.replace("\u00a0", " ") for cell in row] for row in page.tables[""]] == table(entries)  # fmt: skip
    drawn = tiny_traced.figures(page)
    assert len(drawn) == len(page.labels) == len(AXES)
    for said, axis, chart in zip(page.labels, AXES, drawn, strict=True):
        assert said == f"Bits per byte against {axis}; lower is better, the line joins what nobody beats"  # fmt: skip
        for trace, own in zip(chart["data"], _traces(axis, entries), strict=True):
            tiny_own_charts.compare(trace, own, said)
    assert page.texts("", "h1") == [f"{len(entries)} models beside each other"]
    commands = {tiny_traced.Held(run).get("models", "command") for one in entries for run in one.runs}  # fmt: skip
    assert page.texts("Made of", "li") == sorted(commands)
    others = [text for heading, tag, text in page.blocks if tag not in ("h1", "title", "li")]
    assert [number for text in others for number in tiny_traced.numbers(text)] == []


def _traces(axis, entries):
    values = {
        "size": lambda one: one.mean("models", "parameters"),
        "speed": lambda one: one.mean("speed", "tokens_per_second"),
        "training": lambda one: one.trained,
    }
    worse = -1 if axis == "speed" else 1
    points = [(one, values[axis](one), one.mean(*BITS)) for one in entries]
    points = [(one, x, y) for one, x, y in points if x is not None]
    best = sorted(
        (x, y)
        for _, x, y in points
        if not any(worse * u <= worse * x and v <= y and (u, v) != (x, y) for _, u, v in points)
    )
    found = [{"name": "beaten by nobody", "x": [x for x, _ in best], "y": [y for _, y in best]}]
    for one, x, y in points:
        _, low, high = one.interval("bits_per_byte")
        found.append({"name": one.title, "x": [x], "y": [y], "array": [high - y], "arrayminus": [y - low]})  # fmt: skip
    return [trace | {"made": True} for trace in found]


def plain(entries):
    """The figures of the file for programs."""
    return [
        {
            "run": one.title,
            "model": one.model,
            "runs": [run.name for run in one.runs],
            "parameters": one.mean("models", "parameters"),
            "trained_tokens": one.trained,
            "tokens_per_second": one.mean("speed", "tokens_per_second"),
            "figures": {key: one.each(measure, key) for measure, key in (BITS, KL)},
            "intervals": {key: one.interval(measure) for measure, key in (BITS, KL)},
            "difference_from_first": {key: one.beside(measure, entries[0]) for measure, key in (BITS, KL)} if one is not entries[0] else {},
        }
        for one in entries
    ]  # fmt: skip
