"""Every figure in a report is that of its own key: each cell, each sentence, each point of a chart, in page and plain text."""

from pathlib import Path

import pytest
import tiny_checks
import tiny_own
import tiny_own_charts
import tiny_traced
import tiny_whole

from limbeck.report import collect, render

QUICKSTART = Path(__file__).parents[2] / "runs/quickstart"


@pytest.fixture
def run(tmp_path):
    return tiny_whole.folder(tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_every_figure_is_that_of_its_own_key(tmp_path, seed):
    tiny_checks.both(tiny_whole.folder(tmp_path, seed=seed))


def test_there_is_much_to_check(run):
    """So that an empty report does not pass."""
    held = tiny_traced.Held(run)
    for table, rows in ((tiny_own.figures, 4), (tiny_own.benchmarks, 3), (tiny_own.speed, 7), (tiny_own.cost, 6), (tiny_own.gaps, 2)):  # fmt: skip
        assert len(table(held)) == rows
    assert len(tiny_own.ended(held)) == 2
    assert held.telemetry[0]["gpus"]
    drawn = tiny_own_charts.charts(held)
    assert len(drawn) == 17
    assert sum(len(line["y"]) for lines in drawn.values() for line in lines) > 500


def test_a_number_in_another_sentence_is_seen(run, monkeypatch):
    held = tiny_traced.Held(run)
    page = tiny_traced.page(render.html(collect.facts(run)))
    tiny_checks.nothing_else(page, held)
    for told in ("It took 3.5 hours.", "Of 41 rows.", "In 12% of them."):
        page.blocks.append(("Cost", "p", told))
        with pytest.raises(AssertionError):
            tiny_checks.nothing_else(page, held)
        page.blocks.pop()
    plain = render.markdown(collect.facts(run))
    with pytest.raises(AssertionError):
        tiny_checks.markdown(plain.replace("## Cost\n", "## Cost\n\nAbout 12 s.\n"), held)


@pytest.mark.skipif(
    not (QUICKSTART / "evaluation/models.json").is_file(), reason="make quickstart was not run here"
)
def test_every_figure_of_the_main_jobs_report_is_that_of_its_own_key():
    tiny_checks.both(QUICKSTART)
