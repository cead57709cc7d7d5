"""Charts show what was logged, one line an arm, and nothing where nothing was."""

import pytest
import tiny_report

from limbeck import files
from limbeck.report import charts, collect


def test_smoothing_keeps_a_constant_and_forgets_the_start():
    assert charts.smooth([2.0] * 5) == pytest.approx([2.0] * 5)
    assert charts.smooth([0.0] + [1.0] * 60)[-1] == pytest.approx(1.0, abs=0.01)
    assert charts.smooth([3.0]) == [3.0]


def test_a_long_noisy_curve_becomes_steady_and_a_short_one_stays():
    noisy = [float(step % 2) for step in range(400)]
    assert charts.smooth(noisy)[-1] == pytest.approx(0.5, abs=0.05)
    assert charts.smooth(noisy[:20]) == noisy[:20]


def test_every_chart_has_the_data_of_its_arms(tmp_path):
    drawn = dict(charts.all_charts(collect.facts(tiny_report.folder(tmp_path))))
    bits = drawn["Bits per byte of teacher, student and control on held-out text; lower is better"]
    assert list(bits.data[0].y) == [1.0, 1.5, 2.0]
    norm = drawn["Gradient norm over tokens"]
    assert [line.name for line in norm.data] == ["student", "control"]
    kl = drawn["Training: forward KL over tokens"]
    assert {line.name for line in kl.data if line.name} == {"student"}


def test_what_nobody_logged_has_no_chart(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: x")
    assert charts.all_charts(collect.facts(tmp_path)) == []


def test_only_what_is_in_nats_is_called_so():
    told = {
        term: charts._unit(term)
        for term in (
            "cross_entropy",
            "skew_reverse_kl",
            "jensen_shannon",
            "feature_mse",
            "total_variation",
        )
    }
    assert [unit.split()[0] for unit in told.values()] == ["nats", "nats", "nats", "mean", "mean"]


def test_blocks_are_drawn_beside_those_that_they_are_paired_with(tmp_path):
    figure = charts.layers(collect.facts(tiny_report.folder(tmp_path)))
    (line,) = figure.data
    assert (line.name, list(line.x), list(line.y)) == ("student", [0, 1], [0.9, 0.75])
    assert line.text[1] == "teacher's block 3"


def test_looks_at_held_out_rows_are_drawn_apart_from_training(tmp_path):
    run = tiny_report.folder(tmp_path)
    lines = [
        {
            "stage": "only", "step": step, "tokens": 100 * step,
            "held_out": {
                "loss": 2.0, "cross_entropy": 3.0 / step, "terms": {"forward_kl": 1.0 / step},
                "measures": {"bits_per_byte": {"bits_per_byte": 2.0 / step, "bytes": 9.0}, "agreement": {"kl_to_teacher": None, "teacher_nll": 1.0}},
            },
        }
        for step in (10, 20)
    ]  # fmt: skip
    with (run / "log.jsonl").open("ab") as stream:
        stream.write(b"".join(files.canonical(line) for line in lines))
    drawn = dict(charts.all_charts(collect.facts(run)))
    held_out = [said for said in drawn if said.startswith("Held out")]
    assert held_out == [
        f"Held out: {name} over tokens" for name in ("cross entropy", "bits per byte", "forward KL")
    ]
    (line,) = drawn["Held out: bits per byte over tokens"].data
    assert (list(line.x), list(line.y), line.mode) == ([1000, 2000], [0.2, 0.1], "lines+markers")
    training = drawn["Training: forward KL over tokens"].data[-1]
    assert len(training.y) == 20
    found = {charts._unit(name) for name in ("top_1_agreement", "top_k_overlap", "accuracy")}
    assert found == {"share of tokens"}
    assert charts._unit("student_mass_on_teacher_top_k") == "probability"
