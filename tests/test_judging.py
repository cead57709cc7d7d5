"""The gap that a student recovers is told only where there is one, and in the right direction."""

import math
from dataclasses import replace

import numpy as np
import pytest

from limbeck.confidence import told
from limbeck.evaluation import bits_per_byte
from limbeck.judging import gap_recovered
from limbeck.report.collect import Facts, verdict


def figures(measure, key, teacher, student, control):
    rows = {"teacher": teacher, "student": student, "control": control}
    return {measure: {name: {key: value} for name, value in rows.items()}}


@pytest.mark.parametrize(
    ("key", "teacher", "student", "control", "wanted"),
    [
        ("bits_per_byte", 1.0, 1.5, 2.0, 0.5),
        ("bits_per_byte", 1.0, 2.0, 2.0, 0.0),
        ("bits_per_byte", 1.0, 2.5, 2.0, -0.5),
        ("bits_per_byte", 1.0, 1.0, 2.0, 1.0),
        ("bits_per_byte", 4.28, 4.23, 3.40, None),
        ("bits_per_byte", 2.0, 1.0, 2.0, None),
        ("top_1_agreement", 1.0, 0.5, 0.25, 1 / 3),
        ("top_1_agreement", 0.2, 0.5, 0.25, None),
    ],
)
def test_the_gap_is_the_share_of_the_way_from_control_to_teacher(
    key, teacher, student, control, wanted
):
    found = gap_recovered(figures("m", key, teacher, student, control), "m", key)
    assert found == (None if wanted is None else pytest.approx(wanted))


def test_without_a_control_there_is_no_gap():
    found = figures("m", "bits_per_byte", 1.0, 2.0, 3.0)
    del found["m"]["control"]
    assert gap_recovered(found, "m", "bits_per_byte") is None


def facts(student, control):
    bits = figures("bits_per_byte", "bits_per_byte", 1.0, student, control)
    kl = figures("agreement", "kl_to_teacher", 0.0, student, control)
    return Facts("run", "", {}, [], bits | kl)


def test_the_verdict_says_better_worse_or_equal():
    assert "better by 0.5000 bits per byte" in verdict(facts(1.5, 2.0))
    assert "worse by 0.5000 bits per byte" in verdict(facts(2.5, 2.0))
    assert "equal in bits per byte" in verdict(facts(2.0, 2.0))


def test_the_verdict_says_how_sure_it_is():
    def sure(low, high):
        found = facts(1.5, 1.6)
        ends = {"student - control": {"bits_per_byte": [-0.1, low, high]}}
        return verdict(replace(found, sure={"bits_per_byte": {"differences": ends}}))

    assert "better by 0.1000 bits per byte of held-out text (95 %: 0.0500 to 0.1500);" in sure(
        -0.15, -0.05
    )
    assert "(95 %: -0.0500 to 0.2500), which these rows do not tell from no" in sure(-0.25, 0.05)


def test_rows_tell_how_sure_differences_and_gaps_are():
    rng = np.random.default_rng(0)
    size = rng.uniform(100, 200, 40)
    nats = {"teacher": 0.5, "student": 0.8, "control": 1.0}
    rows = {
        model: {
            "nats": (rate * size * rng.normal(1, 0.05, 40)).tolist(),
            "bytes": size.tolist(),
            "tokens": size.tolist(),
            "right": size.tolist(),
        }
        for model, rate in nats.items()
    }
    found = told(rows, bits_per_byte.finish, ["bits_per_byte"])
    value, low, high = found["gap_intervals"]["bits_per_byte"]
    assert low < value < high
    assert value == pytest.approx(0.4, abs=0.1)
    value, low, high = found["differences"]["student - control"]["bits_per_byte"]
    assert low < value < high < 0
    assert value == pytest.approx(-0.2 / math.log(2), abs=0.05)
    assert set(found["intervals"]) == {"teacher", "student", "control"}
    few = {m: {name: v[:7] for name, v in sums.items()} for m, sums in rows.items()}
    assert told(few, bits_per_byte.finish, ["bits_per_byte"]) == {}


def test_the_verdict_does_not_claim_what_was_not_measured():
    assert verdict(Facts("run", "", {}, [], {})) == "This run has not been evaluated yet."
    alone = facts(1.5, 2.0)
    for rows in alone.figures.values():
        del rows["control"]
    assert "no control arm" in verdict(alone)
