"""What a run's folder tells: all of it, in order, and no more than was measured."""

import pytest
import tiny_report

from limbeck import files
from limbeck.errors import Damaged, LimbeckError
from limbeck.report import collect


def test_everything_is_read(tmp_path):
    found = collect.facts(tiny_report.folder(tmp_path))
    assert [curves.title for curves in found.curves] == ["student", "control"]
    assert found.curves[0].points("terms", "forward_kl")[0][-1] == 2000
    assert found.figures["agreement"]["student"]["kl_to_teacher"] == 0.5
    assert found.gaps == {"bits_per_byte": 0.5}
    assert found.samples["prompt"] == "Once"
    headings, rows = collect.table(found)
    assert [row[0] for row in rows] == ["teacher", "student", "control"]
    assert rows[1][headings.index("bits per byte")] == "1.5000"


def test_tokens_count_on_through_stages(tmp_path):
    run = tiny_report.folder(tmp_path)
    lines = [
        {"stage": stage, "step": step, "tokens": 10 * step}
        for stage in ("one", "two")
        for step in (1, 2)
    ]
    files.write_bytes(run / "log.jsonl", b"".join(files.canonical(line) for line in lines))
    found = collect.facts(run).curves[0]
    assert [line["tokens_in_all"] for line in found.lines] == [10, 20, 30, 40]


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(LimbeckError, match="is no run"):
        collect.facts(tmp_path)


def test_a_run_without_evaluation_says_so(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: x")
    assert collect.verdict(collect.facts(tmp_path)) == "This run has not been evaluated yet."


def test_a_damaged_figure_is_named(tmp_path):
    run = tiny_report.folder(tmp_path)
    (run / "evaluation/speed.json").write_text('{"models": NaN}')
    with pytest.raises(Damaged, match=r"speed\.json"):
        collect.facts(run)
