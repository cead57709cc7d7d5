"""Of an evaluation's folder only what is ours and whole is read; of what is ours and lacks something the file is named."""

import shutil

import pytest
import tiny_report
from rich.console import Console

from limbeck import files, judging
from limbeck.errors import Damaged
from limbeck.folder import Folder
from limbeck.report import benchmarks, collect, render, tables

HALF = ".partial-123-abcdef01-"


def changed(run, name, change):
    path = run / f"evaluation/{name}.json"
    told = files.read_json(path)
    change(told)
    files.write_json(path, told)


def test_what_a_killed_process_left_half_written_is_passed_over(tmp_path):
    run = tiny_report.folder(tmp_path)
    plain = collect.facts(run)
    (run / f"evaluation/{HALF}agreement.json").write_text('{"measure": "agree')
    shutil.copy(run / "evaluation/tokens.json", run / f"evaluation/{HALF}tokens.json")
    shutil.copy(run / "evaluation/speed.json", run / f"evaluation/{HALF}speed.json")
    (run / "evaluation/benchmarks").mkdir()
    (run / f"evaluation/benchmarks/{HALF}piqa.json").write_text('{"a')
    assert collect.facts(run) == plain
    assert judging.read(Folder(run)) == plain.figures
    assert benchmarks.read(run / "evaluation/benchmarks") == []


@pytest.mark.parametrize("text", ["{}", "[]", '{"models": {"me": 1}}', "3"])
def test_what_somebody_else_put_there_is_passed_over(tmp_path, text):
    run = tiny_report.folder(tmp_path)
    plain = collect.facts(run)
    (run / "evaluation/benchmarks").mkdir()
    for place in ("notes.json", "benchmarks/notes.json"):
        (run / "evaluation" / place).write_text(text)
    assert collect.facts(run) == plain
    assert judging.read(Folder(run)) == plain.figures
    assert render.write(run).is_file()


@pytest.mark.parametrize(
    ("name", "key"),
    [("bits_per_byte", "models"), ("agreement", "rows"), ("samples", "prompt"), ("layers", "students"), ("tokens", "tokens")],
)  # fmt: skip
def test_a_file_of_ours_that_lacks_something_is_named(tmp_path, name, key):
    run = tiny_report.folder(tmp_path)
    changed(run, name, lambda told: told.pop(key))
    with pytest.raises(Damaged, match=rf"{name}\.json has no '{key}'.*evaluate"):
        collect.facts(run)


def test_a_benchmark_that_lacks_something_is_named(tmp_path):
    (tmp_path / "piqa.json").write_text('{"measure": "piqa", "models": {}}')
    with pytest.raises(Damaged, match=r"piqa\.json has no 'command'"):
        benchmarks.read(tmp_path)


def test_a_model_that_one_file_lacks_keeps_its_other_columns(tmp_path):
    run = tiny_report.folder(tmp_path)
    changed(run, "agreement", lambda told: [told["models"].pop(name) for name in ("teacher", "control")])  # fmt: skip
    headings, rows = collect.table(collect.facts(run))
    assert [row[0] for row in rows] == ["teacher", "student", "control"]
    bits, kl = headings.index("bits per byte"), headings.index("KL to the teacher")
    assert [row[bits] for row in rows] == ["1.0000", "1.5000", "2.0000"]
    assert [row[kl] for row in rows] == ["–", "0.5000", "–"]
    Console().print(judging._table(judging.read(Folder(run))))
    changed(run, "agreement", lambda told: told["models"].update(control=told["models"].pop("student")))  # fmt: skip
    assert collect.verdict(collect.facts(run)).endswith("bits per byte of held-out text.")


def test_without_sizes_the_models_are_those_of_all_files_as_they_come():
    found = {"agreement": {"student": {}}, "bits_per_byte": {"teacher": {}, "student": {}}}
    assert tables.models(found) == ["student", "teacher"]
    assert tables.models(found | {"models": {"control": {}}}) == ["control", "student", "teacher"]
    assert tables.models({}) == []
