"""Metrics have SLM's names beside ours; a look at held-out rows is of its step; columns that come later are no matter."""

import contextlib
import csv
import math

from limbeck import files, tracking
from limbeck.trackers import _names
from limbeck.trackers._shape import Tracked
from limbeck.trackers.csv import csv as table

# What SLM logs, under its names.
SLM = {
    f"train/{k}"
    for k in ("loss", "ce_loss", "kl_loss", "learning_rate", "grad_norm", "epoch", "step")
}
SLM |= {f"eval/{k}" for k in ("loss", "ce_loss", "kl_loss", "min_loss", "epoch", "step")}


def step(number, stage="one"):
    return {
        "stage": stage, "step": number, "tokens": 64 * number, "epoch": number / 8, "loss": 3.0 / number,
        "terms": {"cross_entropy": 4.0 / number, "forward_kl": 2.0 / number}, "grad_norm": 1.0, "learning_rate": 0.1,
        "peak_gigabytes": 0.5, "tokens_per_second": 90.0,
    }  # fmt: skip


def look(number, loss, stage="one"):
    terms = {"cross_entropy": loss + 1, "forward_kl": loss - 1}
    measures = {"agreement": {"top_1_agreement": 0.5, "kl_to_teacher": None}}
    held = {"loss": loss, "cross_entropy": loss + 1, "terms": terms, "measures": measures}
    return {"stage": stage, "step": number, "tokens": 64 * number, "held_out": held | {"rows": 4}}


LINES = [step(1), step(2), look(2, 2.0), step(3), step(4), look(4, 2.5), step(1, "two")]


def told(folder, lines, later=()):
    """The rows of log.csv after a log of these lines was opened at its last, and more lines were told."""
    log = folder / "log.jsonl"
    follows = tracking.Tracking(Tracked("run", "run", log, {}), {"csv": table})
    with contextlib.closing(follows):
        for n in range(len(lines), len(lines) + len(later) + 1):
            files.write_bytes(log, b"".join(map(files.canonical, [*lines, *later][:n])))
            follows.line([*lines, *later][n - 1])
    with log.with_suffix(".csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_all_that_slm_logs_is_there_under_its_names(tmp_path):
    rows = told(tmp_path, LINES[:6])
    assert set(rows[0]) >= SLM
    assert {name: float(rows[3][name]) for name in SLM} == {
        "train/loss": 0.75, "train/ce_loss": 1.0, "train/kl_loss": 0.5, "train/learning_rate": 0.1,
        "train/grad_norm": 1.0, "train/epoch": 0.5, "train/step": 4, "eval/loss": 2.5, "eval/ce_loss": 3.5,
        "eval/kl_loss": 1.5, "eval/min_loss": 2.0, "eval/epoch": 0.5, "eval/step": 4,
    }  # fmt: skip
    assert float(rows[3]["eval/perplexity"]) == math.exp(3.5)
    assert float(rows[3]["eval/top_1_agreement"]) == 0.5
    assert "eval/kl_to_teacher" not in rows[3]  # it was no number


def test_a_look_stands_in_the_row_of_its_step_and_leaves_others_empty(tmp_path):
    rows = told(tmp_path, LINES)
    assert [int(row["train/step"]) for row in rows] == [1, 2, 3, 4, 5]
    assert [row["eval/loss"] for row in rows] == ["", "2.0", "", "2.5", ""]
    assert [int(row["train/tokens"]) for row in rows] == [64, 128, 192, 256, 320]


def test_lines_told_one_by_one_are_those_of_the_whole_log(tmp_path):
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = told(tmp_path / "whole", LINES)
    assert told(tmp_path / "parts", LINES[:1], LINES[1:]) == whole


def test_another_divergence_is_the_kl_loss_where_there_is_no_forward_one():
    line = step(1) | {"terms": {"skew_kl": 0.5, "reverse_kl": 0.25}}
    found = _names.Walk().named(line)
    assert found["train/kl_loss"] == found["train/skew_kl"] == 0.5
    assert "train/ce_loss" not in found


def test_final_figures_are_named_by_model():
    figures = {
        "bits_per_byte": {"student": {"bits_per_byte": 1.5}, "teacher": {"bits_per_byte": 1.0}}
    }
    assert _names.of_figures(figures) == {
        "final/student/bits_per_byte": 1.5,
        "final/teacher/bits_per_byte": 1.0,
    }
