"""The gap that a student recovers is told only where there is one, and in the right direction."""

import pytest

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


def test_the_verdict_does_not_claim_what_was_not_measured():
    assert verdict(Facts("run", "", {}, [], {})) == "This run has not been evaluated yet."
    alone = facts(1.5, 2.0)
    for rows in alone.figures.values():
        del rows["control"]
    assert "no control arm" in verdict(alone)
