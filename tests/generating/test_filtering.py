"""Filters in a generation: what they leave out is listed with its reason, and another choice of them asks nobody again."""

import json
import re

import pytest
import tiny_generation as tiny
import tiny_server

from limbeck import files
from limbeck.generating.filtering import filtered

pytestmark = pytest.mark.usefixtures("handlers")


def odd(rows):
    """A filter of a user's own: no odd numbers."""
    return ["odd" if int(row["prompt"].split()[-1].rstrip("?")) % 2 else "" for row in rows]


def manifest(place):
    return files.verify(place / "out").about


def test_what_filters_leave_out_is_listed_and_another_choice_asks_nobody(tmp_path):
    with tiny_server.serving() as teacher:
        told = {"filters": [{"length": {"least": 10}}, "test_filtering.odd", "refusal"]}
        path = tiny.written(tmp_path, teacher.url, **told)
        said = tiny.run(path)
        assert "12 answered, 0 failed" in said
        assert "6 left out by filters (filtered.jsonl)" in said
        kept = sorted(int(row["prompt"][8:-1]) for row in tiny.answers(tmp_path))
        assert kept == [0, 2, 4, 6, 8, 10]
        left_out = tiny.rows(tmp_path, "filtered")
        assert [(row["filter"], row["reason"]) for row in left_out] == [
            ("test_filtering.odd", "odd")
        ] * 6
        assert manifest(tmp_path)["filtered"] == {
            "length": 0,
            "test_filtering.odd": 6,
            "refusal": 0,
        }
        assert manifest(tmp_path)["rows"]["train"] == len(tiny.rows(tmp_path, "train"))
        tiny.run(path, "filters=[]")
        assert len(tiny.answers(tmp_path)) == 12
        assert tiny.rows(tmp_path, "filtered") == []
        assert sum(teacher.asked.values()) == 12


def test_every_answer_may_be_left_out(tmp_path):
    with tiny_server.serving() as teacher:
        path = tiny.written(tmp_path, teacher.url, filters=[{"length": {"least": 1000}}])
        assert "0 rows to train on, 0 held out, 12 left out" in tiny.run(path)


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["lenght"], r"filters\[0\]: No 'lenght' in limbeck.filters. Did you mean 'length'"),
        ([{"length": {"leest": 1}}], r"filters\[0\]: 'length' has no option 'leest'. Did you mean 'least'"),
        (["length", {"language": {"wanted": ["english"]}}], r"filters\[1\]: filter 'language': english unknown"),
        ([{"decontamination": {"against": ["nowhere.jsonl"]}}], r"filters\[0\]: .*nowhere.jsonl"),
        ([{"refusal": {"within": -1}}], r"filters\[0\].refusal.within: "),
    ],
)  # fmt: skip
def test_a_filter_that_cannot_work_is_refused_before_anybody_is_asked(tmp_path, filters, found):
    with tiny_server.serving() as teacher:
        said = tiny.refused(tiny.written(tmp_path, teacher.url, filters=filters))
    assert re.search(found, said), said
    assert not teacher.bodies


def test_a_filter_sees_what_those_before_it_left():
    seen = []

    def note(rows):
        seen.append([row["id"] for row in rows])
        return ["" for _ in rows]

    rows = [{"id": str(n), "prompt": f"What is {n}?", "response": "x"} for n in range(4)]
    left, out, counts = filtered(rows, [("note", note), ("odd", odd), ("note", note)])
    assert seen == [["0", "1", "2", "3"], ["0", "2"]]
    assert [row["id"] for row in left] == ["0", "2"]
    assert json.loads(json.dumps(out))[0] == rows[1] | {"filter": "odd", "reason": "odd"}
    assert counts == {"note": 0, "odd": 2}
