"""The table of benchmarks says what was measured, its error, and nothing that was not."""

from limbeck import files
from limbeck.report import benchmarks


def kept(measure, **changes):
    plain = {
        "measure": measure, "command": "limbeck evaluate runs/x", "questions": 1140, "few_shot": 0,
        "higher_is_better": {"acc": True},
        "models": {"teacher": {"acc": 0.65, "acc_stderr": 0.05}, "student": {"acc": 0.5}},
        "student_against_control": {}, "gap_recovered": {},
    }  # fmt: skip
    return plain | changes


def test_a_line_a_figure_with_its_error():
    headings, rows = benchmarks.table([kept("piqa")])
    assert headings == ["benchmark", "figure", "questions", "teacher", "student"]
    assert rows == [["piqa", "acc", "1,140", "0.6500 ± 0.0500", "0.5000"]]


def test_examples_direction_comparison_and_gap_are_told_where_they_are_known():
    whole = kept(
        "gsm8k",
        few_shot=5,
        higher_is_better={"acc": True, "word_perplexity": False},
        models={"student": {"acc": 0.5}, "control": {"acc": 0.25, "word_perplexity": 9.0}},
        student_against_control={"acc": {"difference": 0.25, "stderr": 0.125}},
        gap_recovered={"acc": 0.5},
    )
    headings, rows = benchmarks.table([kept("piqa"), whole])
    assert headings[3:] == ["teacher", "student", "control", "student − control", "gap recovered"]
    assert rows[1][0] == "gsm8k, 5-shot"
    assert rows[1][3:] == ["–", "0.5000", "0.2500", "+0.2500 ± 0.1250", "50.0%"]
    assert rows[2][1] == "word_perplexity ↓"
    assert rows[2][3:] == ["–", "–", "9.0000", "–", "–"]
    assert rows[0][-2:] == ["–", "–"]


def test_averages_stand_last(tmp_path):
    for name, changes in (("lrc9", {"of": {"piqa": "acc"}}), ("piqa", {}), ("wikitext", {})):
        files.write_json(tmp_path / f"{name}.json", kept(name, **changes))
    assert [each["measure"] for each in benchmarks.read(tmp_path)] == ["piqa", "wikitext", "lrc9"]
    assert benchmarks.read(tmp_path / "nowhere") == []
