"""Every figure in a report stands in a file of the run: each number shown, each cell of the table, each point of a chart."""

import itertools
import json
import random
from pathlib import Path

import pytest
import tiny_report
import tiny_traced

from limbeck import files
from limbeck.report import charts, collect, render

QUICKSTART = Path(__file__).parents[2] / "runs/quickstart"
CELLS = {
    "parameters": ("evaluation/models.json:models.{}.parameters", "{:,.0f}"),
    "bits per byte": ("evaluation/bits_per_byte.json:models.{}.bits_per_byte", "{:.4f}"),
    "nats per token": ("evaluation/bits_per_byte.json:models.{}.nats_per_token", "{:.4f}"),
    "KL to the teacher": ("evaluation/agreement.json:models.{}.kl_to_teacher", "{:.4f}"),
    "top-1 agreement": ("evaluation/agreement.json:models.{}.top_1_agreement", "{:.2%}"),
    "top-k overlap": ("evaluation/agreement.json:models.{}.top_k_overlap", "{:.2%}"),
    "tokens/s": ("evaluation/speed.json:models.{}.tokens_per_second", "{:,.0f}"),
}
MODELS = ("teacher", "student", "control")


def scattered(value, draw):
    """The same tree, every number that is no whole one another, so that none can stand for one that it is not."""
    if isinstance(value, dict):
        return {key: scattered(inner, draw) for key, inner in value.items()}
    if isinstance(value, list):
        return [scattered(inner, draw) for inner in value]
    return draw(value) if isinstance(value, float) else value


@pytest.fixture
def run(tmp_path):
    """A run that has everything a report can show, of numbers of which no two are alike."""
    place, source = tiny_report.folder(tmp_path), random.Random(0)
    taken = set()

    def draw(value):
        low, high = (0.05, 0.95) if 0 <= value <= 1 else (2, 90)
        while (found := round(source.uniform(low, high), 6)) and round(found, 4) in taken:
            pass
        taken.add(round(found, 4))
        return found

    sure = {
        "agreement": ("kl_to_teacher", "top_1_agreement"),
        "bits_per_byte": ("bits_per_byte", "nats_per_token"),
    }
    for measure, keys in sure.items():
        told = files.read_json(place / f"evaluation/{measure}.json")
        ends = {key: [0.1, 0.2, 0.3] for key in keys}
        told |= {
            "intervals": dict.fromkeys(MODELS, ends),
            "differences": {"student - control": ends},
        }
        told |= {"gap_intervals": {keys[0]: [0.1, 0.2, 0.3]}, "gap_recovered": {keys[0]: 0.5}}
        files.write_json(place / f"evaluation/{measure}.json", told)
    asked = {
        "measure": "piqa", "few_shot": 0, "questions": 20, "command": "limbeck evaluate tiny --tasks piqa",
        "higher_is_better": {"acc": True}, "models": {name: {"acc": 0.5, "acc_stderr": 0.1} for name in MODELS},
        "student_against_control": {"acc": {"difference": 0.1, "stderr": 0.2}}, "gap_recovered": {"acc": 0.5},
    }  # fmt: skip
    files.write_json(place / "evaluation/benchmarks/piqa.json", asked)
    for path in (place / "evaluation").rglob("*.json"):
        files.write_json(path, scattered(files.read_json(path), draw))
    for path in (place / "log.jsonl", place / "control/log.jsonl"):
        lines = [scattered(json.loads(line), draw) for line in path.read_text().splitlines()]
        look = {"stage": "only", "step": 20, "tokens": 2000}
        seen = {
            "cross_entropy": 1.5,
            "loss": 1.5,
            "terms": {},
            "measures": {"agreement": {"kl_to_teacher": 1.5}},
        }
        lines.append(look | {"held_out": scattered(seen, draw)})
        files.write_bytes(path, b"".join(files.canonical(line) for line in lines))
    lines = [
        {"time": 60.0 * minute, **scattered({"cpu": 0.5, "memory_gigabytes": 2.0, "machine_memory_gigabytes": 3.0}, draw)}
        for minute in range(3)
    ]  # fmt: skip
    files.write_bytes(place / "telemetry.jsonl", b"".join(files.canonical(line) for line in lines))
    return place


def derived(run):
    """Figures that are made of two or more of a file, each named: what they are made of is in the files."""
    found = collect.facts(run)
    bits, kl = found.figures["bits_per_byte"], found.figures["agreement"]
    gains = [
        bits["control"]["bits_per_byte"] - bits["student"]["bits_per_byte"],
        kl["control"]["kl_to_teacher"] - kl["student"]["kl_to_teacher"],
    ]
    means = []
    for key, times in (("cpu", 100), ("memory_gigabytes", 1), ("machine_memory_gigabytes", 1)):
        values = [times * line[key] for line in found.telemetry]
        means += [sum(values) / len(values)] if values else []
    # What a verdict says of the student against the control, the files say of control against student.
    turned = [
        f"{-end:.4f}"
        for measure in found.sure.values()
        for ends in measure.get("differences", {}).get("student - control", {}).values()
        for end in ends
    ]
    return {f"{abs(gain):.4f}" for gain in gains} | {f"{mean:,.1f}" for mean in means} | {*turned}


def untraced(run):
    """The figures of a report that no file of its run holds."""
    page = tiny_traced.page(render.html(collect.facts(run)))
    places = tiny_traced.index(tiny_traced.leaves(run))
    known = set(places) | derived(run)
    cells = [cell for table in page.tables for row in table for cell in row]
    texts = [*page.text, *page.told, *_shown(cells, run)]
    found = list(itertools.chain.from_iterable(map(tiny_traced.numbers, texts)))
    assert len(found) > 30
    spelled = {number: number.replace("−", "-").replace("+", "") for number in found}
    return [n for n, plain in spelled.items() if n not in known and plain not in known]


def _shown(cells, run):
    """Cells but those that say what a file says word for word: provenance; and durations, which test_cost.py holds."""
    told = (run / "provenance.json").read_text()
    return [
        cell
        for cell in cells
        if not (cell in told or all(part in told for part in cell.split(", ")))
        and not cell.endswith((" s", " min"))
    ]


def test_every_number_is_in_a_file(run):
    assert untraced(run) == []


def test_a_number_of_no_file_would_be_seen(run, monkeypatch):
    monkeypatch.setattr(
        collect, "COLUMNS", (("bits_per_byte", "bits_per_byte", "bits", "{:.6f}1"),)
    )
    assert len(untraced(run)) >= 3


def test_every_cell_of_the_table_is_its_own_figure(run):
    page = tiny_traced.page(render.html(collect.facts(run)))
    (heads, *rows), held = page.tables[0], tiny_traced.leaves(run)
    assert [row[0] for row in rows] == list(MODELS)
    checked = 0
    for row in rows:
        for heading, cell in zip(heads[1:], row[1:], strict=True):
            if cell == "–":
                assert CELLS[heading][0].format(row[0]) not in held
                continue
            place, form = CELLS[heading]
            value = form.format(held[place.format(row[0])])
            assert cell == value or cell.startswith(f"{value} ("), (row[0], heading)
            checked += 1
    assert checked >= 15


def test_every_point_of_a_chart_is_in_a_file(run):
    drawn = tiny_traced.figures(tiny_traced.page(render.html(collect.facts(run))))
    held = tiny_traced.leaves(run)
    values = set(held.values()) | {100 * v for where, v in held.items() if where.endswith(".cpu")}
    points = 0
    for chart in drawn:
        exact = []
        for trace in chart["data"]:
            ys = list(trace["y"])
            if exact and ys == pytest.approx(charts.smooth(exact)) and ys != exact:
                continue  # the mean of the thin line before it
            exact = ys
            assert not [y for y in ys if y not in values], (
                chart["layout"]["title"],
                trace.get("name"),
            )
            points += len(ys)
    assert points > 200


def test_words_that_are_quoted_are_those_of_the_files(run):
    page = tiny_traced.page(render.html(collect.facts(run)))
    tokens = files.read_json(run / "evaluation/tokens.json")["tokens"]
    assert page.tokens == [one["text"] for one in tokens]
    samples = files.read_json(run / "evaluation/samples.json")["models"].values()
    assert set(samples) <= set(page.verbatim)
    assert (run / "recipe.yaml").read_text() in page.verbatim


@pytest.mark.skipif(
    not (QUICKSTART / "evaluation/models.json").is_file(), reason="make quickstart was not run here"
)
def test_every_number_of_the_main_jobs_report_is_in_a_file():
    assert untraced(QUICKSTART) == []
