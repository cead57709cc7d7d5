"""Which runs stand as one in a comparison: by what they really begin with, each under a name of its own."""

import pytest
import tiny_report

from limbeck import files
from limbeck.contrasting import contrast

STAGES = (
    "stages: [{name: d, source: {text: {path: t}}, objective: [forward_kl], budget: 4 steps}]\n"
)


def begun(
    place, name, *, teacher="{live: {model: A}}", student="{pruned: {layers: 2}}", prints=None
):
    """A finished run of such a teacher and student."""
    recipe = f"name: {name}\nteacher: {teacher}\nstudent: {student}\n{STAGES}"
    folder = tiny_report.folder(place, name=name, recipe=recipe)
    if prints is not None:
        told = files.read_json(folder / "provenance.json")
        files.write_json(folder / "provenance.json", told | {"prints": prints})
    return folder


def kinds(runs):
    """{model: how many runs stand in each of its entries}."""
    found = {}
    for entry in contrast(runs):
        found.setdefault(entry.first.model, []).append(len(entry.runs))
    return found


@pytest.mark.parametrize("student", [
    "{pruned: {layers: 2}}", "{hybrid: {keep_attention: 1}}", "{low_rank_clone: {width: 8}}", "{adapters: {rank: 2}}", "adapters",
])  # fmt: skip
def test_controls_that_began_as_parts_of_two_teachers_are_two(tmp_path, student):
    runs = [
        begun(tmp_path, name, teacher=f"{{live: {{model: {name}}}}}", student=student)
        for name in ("a", "b")
    ]
    assert kinds(runs) == {"student": [1, 1], "control": [1, 1], "teacher": [1, 1]}


def test_what_a_run_was_made_of_counts_for_more_than_names(tmp_path):
    one = {"teacher": "1", "student": None, "tokenizer": "t"}
    cached = "{cached: {model: elsewhere/A, path: c}}"
    same = [
        begun(tmp_path, "live", prints=one),
        begun(tmp_path, "kept", teacher=cached, prints=one),
    ]
    assert kinds(same) == {"student": [1, 1], "control": [2], "teacher": [2]}
    changed = begun(tmp_path, "later", prints=one | {"teacher": "2"})
    assert kinds([same[0], changed])["control"] == [1, 1]


def test_a_control_with_a_model_or_weights_of_its_own_has_no_teacher(tmp_path):
    for student, own in (("{pretrained: {model: B}}", "b"), ("{scratch: {config: c}}", None)):
        place = tmp_path / str(own)
        prints = [{"teacher": mark, "student": own, "tokenizer": "t"} for mark in ("1", "2")]
        runs = [
            begun(place, f"r{n}", student=student, prints=told) for n, told in enumerate(prints)
        ]
        assert kinds(runs)["control"] == [2]
        runs[1] = begun(place, "r2", student=student, prints=prints[1] | {"tokenizer": "u"})
        assert kinds(runs)["control"] == [1, 1]


def test_two_revisions_of_a_teacher_are_two(tmp_path):
    runs = [
        begun(tmp_path, mark, teacher=f"{{live: {{model: A, revision: {mark}}}}}") for mark in "xy"
    ]
    assert kinds(runs)["teacher"] == [1, 1]
    titles = [entry.title for entry in contrast(runs)]
    assert titles[-2:] == ["teacher of x", "teacher of y"]


def test_runs_of_one_name_are_told_apart_by_the_folders_above(tmp_path):
    places = [("x/in", "{pruned: {layers: 2}}"), ("y/in", "{pruned: {layers: 3}}"), ("y", "{pruned: {layers: 1}}")]  # fmt: skip
    runs = [begun(tmp_path / place, "tiny", student=student) for place, student in places]
    runs.append(begun(tmp_path, "other", student="{scratch: {}}"))
    titles = [entry.title for entry in contrast(runs) if entry.first.model != "teacher"]
    names = ["x/in/tiny", "y/in/tiny", "y/tiny", "other"]
    assert titles == [*names, *(f"control of {name}" for name in names)]
