"""The log holds one whole line a step, also after kills and resumes."""

import pytest

from limbeck.errors import Damaged
from limbeck.training.meter import Log, read


def test_a_resume_drops_lines_beyond_the_checkpoint_and_keeps_other_stages(tmp_path):
    path = tmp_path / "log.jsonl"
    first = Log(path, resumed_at=0, stage="one")
    first.write({"step": 1})
    second = Log(path, resumed_at=0, stage="two")
    for step in (1, 2, 3):
        second.write({"step": step})
    Log(path, resumed_at=2, stage="two")
    assert [(line["stage"], line["step"]) for line in read(path)] == [
        ("one", 1),
        ("two", 1),
        ("two", 2),
    ]


def test_a_line_that_a_kill_cut_short_is_passed_over(tmp_path):
    path = tmp_path / "log.jsonl"
    Log(path, resumed_at=0, stage="one").write({"step": 1})
    with path.open("ab") as stream:
        stream.write(b'{"stage": "one", "st')
    assert [line["step"] for line in read(path)] == [1]
    Log(path, resumed_at=1, stage="one").write({"step": 2})
    assert [line["step"] for line in read(path)] == [1, 2]


def test_a_number_that_is_none_is_never_logged(tmp_path):
    log = Log(tmp_path / "log.jsonl", resumed_at=0, stage="one")
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.write({"step": 1, "loss": float("nan")})


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": NaN}\n{"step": 1}\n')
    with pytest.raises(Damaged, match=r"log\.jsonl"):
        read(path)


@pytest.mark.parametrize(
    "line", ["{}", "[1]", '{"stage": "one", "step": "3"}', '{"stage": 1, "step": 3}']
)
def test_a_line_that_is_none_of_ours_is_named(tmp_path, line):
    path = tmp_path / "log.jsonl"
    text = f'{{"stage": "one", "step": 1}}\n{line}\n{{"stage": "one", "step": 3}}\n'
    path.write_text(text)
    with pytest.raises(Damaged, match=r"log\.jsonl, line 2, has .*Bring back the file"):
        Log(path, resumed_at=1, stage="one")
    assert path.read_text() == text


def test_looks_go_with_the_step_that_they_are_of_and_slow_nothing_down(tmp_path):
    path = tmp_path / "log.jsonl"
    log = Log(path, resumed_at=0, stage="one")
    for step in (1, 2):
        log.write({"step": step})
        log.held_out({"step": step, "held_out": {"loss": 1.0}}, 1000.0)
        log.count(10)
    assert log.write({"step": 3})["tokens_per_second"] > 1e6, "the look's seconds were counted"
    Log(path, resumed_at=1, stage="one")
    assert [(line["step"], "held_out" in line) for line in read(path)] == [(1, False), (1, True)]
