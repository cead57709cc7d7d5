"""Runs beside each other: pairs on the same rows, seeds as one, controls and teachers that are the same as one."""

import json

import numpy as np
import pytest
import tiny_report
from typer.testing import CliRunner

from limbeck import cli, files
from limbeck.contrasting import contrast
from limbeck.errors import LimbeckError
from limbeck.report.entries import unbeaten

ROWS = 32
RECIPE = "name: {name}\nseed: {seed}\nteacher:\n  live:\n    model: big\nstudent: {student}\nstages:\n  - name: only\n    objective: [{objective}]\n"


def run(place, name, *, rate, student="half", seed=0, rows="row", objective="forward_kl"):
    """A finished run whose student has `rate` nats a byte."""
    recipe = RECIPE.format(name=name, seed=seed, student=student, objective=objective)
    folder = tiny_report.folder(place, name=name, recipe=recipe)
    hard = np.random.default_rng(1).uniform(0.5, 1.5, ROWS)
    noise = np.random.default_rng(100 + seed).normal(0, 0.01, ROWS)
    models = {"teacher": 0.5 * hard, "student": rate * hard + noise, "control": 1.0 * hard}
    sums = {
        model: {"nats": nats, "bytes": np.ones(ROWS), "tokens": np.ones(ROWS), "right": nats}
        for model, nats in models.items()
    }
    path = folder / "evaluation/bits_per_byte.json"
    found = files.read_json(path)
    for model, each in sums.items():
        found["models"][model]["bits_per_byte"] = float(each["nats"].mean() / np.log(2))
    found["row_sums"] = {m: {k: v.tolist() for k, v in each.items()} for m, each in sums.items()}
    found["rows_of"] = [f"{rows}-{number}" for number in range(ROWS)]
    files.write_json(path, found)
    return folder


def test_differences_are_paired_on_the_same_rows(tmp_path):
    first = run(tmp_path, "plain", rate=0.8)
    other = run(tmp_path, "better", rate=0.78, objective="reverse_kl")
    base, better, control, teacher = contrast([first, other])
    assert [e.title for e in (base, better, control, teacher)] == [
        *("plain", "better", "control of plain", "teacher"),
    ]
    found = better.against["bits_per_byte"]
    assert found.value == pytest.approx(-0.02 / np.log(2), abs=1e-3)
    assert found.high < 0
    own = better.intervals["bits_per_byte"]
    assert found.high - found.low < 0.1 * (own.high - own.low)
    assert control.against["bits_per_byte"].low > 0
    assert "bits_per_byte" not in base.against
    assert len(control.runs) == len(teacher.runs) == 2  # of one kind in both runs, so one row


def test_seeds_are_one_entry_and_their_spread_is_told(tmp_path):
    folders = [run(tmp_path, f"kl-{seed}", rate=0.8, seed=seed) for seed in range(3)]
    (entry, *_) = contrast(folders)
    assert entry.title == "kl"
    assert [one.seed for one in entry.runs] == [0, 1, 2]
    each = entry.each("bits_per_byte", "bits_per_byte")
    assert min(each) < entry.value("bits_per_byte", "bits_per_byte") < max(each)
    # Rows of the mean over seeds: its value is the mean of theirs.
    assert entry.intervals["bits_per_byte"].value == pytest.approx(np.mean(each))


def test_other_rows_are_not_paired(tmp_path):
    first, other = run(tmp_path, "a", rate=0.8), run(tmp_path, "b", rate=0.8, student="x", rows="z")
    _, entry, *_ = contrast([first, other])
    assert not entry.paired
    assert not entry.against["bits_per_byte"].certain
    wide = entry.against["bits_per_byte"]
    own = entry.intervals["bits_per_byte"]
    assert wide.high - wide.low > 1.2 * (own.high - own.low)


def test_what_cannot_be_compared_is_told(tmp_path):
    first = run(tmp_path, "a", rate=0.8)
    with pytest.raises(LimbeckError, match="named twice"):
        contrast([first, first])
    (tmp_path / "empty").mkdir()
    with pytest.raises(LimbeckError, match=r"empty is no run"):
        contrast([first, tmp_path / "empty"])
    (tmp_path / "empty/recipe.yaml").write_text("name: empty\n")
    with pytest.raises(LimbeckError, match="has no figures"):
        contrast([first, tmp_path / "empty"])


def test_the_command_prints_a_table_and_writes_page_and_file(tmp_path):
    first = run(tmp_path, "plain", rate=0.8)
    other = run(tmp_path, "better[0]", rate=0.7, student="third")
    page, file = tmp_path / "page.html", tmp_path / "all.json"
    told = CliRunner(env={"COLUMNS": "400"}).invoke(
        cli.app,
        ["compare", str(first), str(other), "--html", str(page), "--json", str(file)],
    )
    assert told.exit_code == 0, told.output
    for text in ("plain", "better[0]", "control of plain", "teacher", "95 %"):
        assert text in told.output, text
    rows = json.loads(file.read_text())
    assert [row["run"] for row in rows][:2] == ["plain", "better[0]"]
    assert rows[1]["difference_from_first"]["bits_per_byte"][2] < 0
    written = page.read_text()
    assert written.count('class="chart"') == 3
    assert "http://" not in written.split("<script>")[0]


def test_whoever_is_worse_in_both_is_beaten():
    assert unbeaten([(1, 5), (2, 4), (2, 5), (3, 1), (3, 1)]) == [0, 1, 3, 4]
