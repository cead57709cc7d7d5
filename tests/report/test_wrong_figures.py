"""A report that tells a figure of the run, but a wrong one, is seen: each way by which one could get there."""

from dataclasses import replace

import pytest
import tiny_checks
import tiny_whole

from limbeck.report import benchmarks, charts, collect, cost, render, speeds

TABLE, BEHIND, RANGE = collect.table, collect._behind, render._range
BARS, ADDED, LAYERS, MARKDOWN, SPEED = charts.bars, charts._added, charts.layers, render.markdown, speeds.table  # fmt: skip
ANSWERS, COST = benchmarks.table, cost.of_run


def of_the_last_model(found):
    sure = {}
    for measure, told in found.sure.items():
        each = told.get("intervals", {})
        sure[measure] = told | {"intervals": dict.fromkeys(each, next(reversed(each.values()), {}))}
    return TABLE(replace(found, sure=sure))


def one_end_twice(*given):
    ends = BEHIND(*given)
    return ends and (ends[0], ends[0])


def low_to_low(found, key):
    low = RANGE(found, key).partition(" (")[2].partition(" to ")[0]
    return f" ({low} to {low})"


def whiskers_swapped(*given):
    figure = BARS(*given)
    whisker = figure.data[0].error_y
    whisker.array, whisker.arrayminus = whisker.arrayminus, whisker.array
    return figure


def rows_and_length_swapped(found):
    about = found.about | {"rows": found.about["length"], "length": found.about["rows"]}
    return MARKDOWN(replace(found, about=about))


def reading_of_writing(kept):
    sizes = [one | {"prefill_tokens_per_second": 10 * one["decode_tokens_per_second"]} for one in kept["sizes"]]  # fmt: skip
    return SPEED(kept | {"sizes": sizes})


def arms_swapped(figure, curves, keys, *, smoothed):
    other = {"student": "control", "control": "student"}[curves.title]
    return ADDED(figure, replace(curves, title=other), keys, smoothed=smoothed)


def tokens_of_the_stage(figure, curves, keys, *, smoothed):
    lines = [line | {"tokens_in_all": line["tokens"]} for line in curves.lines]
    return ADDED(figure, replace(curves, lines=lines), keys, smoothed=smoothed)


def the_next_block(found):
    students = [one | {"paired": one["paired"][::-1]} for one in found.layers]
    return LAYERS(replace(found, layers=students))


def another_row(kept):
    headings, rows = ANSWERS(kept)
    return headings, [[*first[:5], *last[5:]] for first, last in zip(rows, rows[::-1], strict=True)]


def twice_the_hours(found):
    took = COST(found)
    return replace(took, hours=2 * took.hours)


WRONG = {
    "the last model's interval in every row": (collect, "table", of_the_last_model),
    "one end of a verdict's interval twice": (collect, "_behind", one_end_twice),
    "one end of a gap's interval twice": (render, "_range", low_to_low),
    "whiskers the other way round": (charts, "bars", whiskers_swapped),
    "rows and length swapped in plain text": (render, "markdown", rows_and_length_swapped),
    "a rate of reading that is of writing": (speeds, "table", reading_of_writing),
    "a curve under the other arm's name": (charts, "_added", arms_swapped),
    "tokens counted anew in each stage": (charts, "_added", tokens_of_the_stage),
    "blocks beside another pair": (charts, "layers", the_next_block),
    "answers of another benchmark": (benchmarks, "table", another_row),
    "twice the hours of the machine": (cost, "of_run", twice_the_hours),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_whole.folder(tmp_path_factory.mktemp("wrong"))


def test_what_is_right_passes(run):
    tiny_checks.both(run)


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_figure_is_seen(run, monkeypatch, wrong):
    monkeypatch.setattr(*wrong)
    with pytest.raises(AssertionError):
        tiny_checks.both(run)
