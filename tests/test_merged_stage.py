"""A merged stage trains the student as it will leave, from what the stage before it left."""

import pytest
import tiny_folder
import torch
from safetensors.torch import load_file

from limbeck import arm, assembly, fitting, loading, run, showing
from limbeck.errors import LimbeckError, RecipeError
from limbeck.training import parallel

pytestmark = pytest.mark.usefixtures("handlers")
STUDENTS = {
    "clone": {"low_rank_clone": {"width": 16}},
    "adapters": {"adapters": {"rank": 2, "alpha": 4}},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    found = tmp_path_factory.mktemp("merged")
    tiny_folder.tree(found)
    return found


def stages(place, **second):
    first = tiny_folder.stage(place, budget="3 steps", objective=["cross_entropy"])
    return [first, first | {"name": "tune", "budget": "4 steps", "merged": True, **second}]


def asked(place, name, kind="clone", **changes):
    plain = {
        "teacher": {"live": {"model": str(place / "teacher")}},
        "student": STUDENTS[kind],
        "stages": stages(place),
    }
    return tiny_folder.short(place, name, **plain | changes)


def held(folder, step, stage="2-tune"):
    return load_file(tiny_folder.final(folder, step, stage) / "rank-0000.safetensors")


def arms(recipe):
    base, folder = assembly.ground(recipe), tiny_folder.folder(recipe)
    return run.arms(base, parallel.start(base.device), folder, lambda: False)


@pytest.mark.parametrize("kind", STUDENTS)
def test_it_begins_with_what_the_stage_before_it_would_export(place, kind):
    recipe = asked(place, f"begins-{kind}", kind)
    alone = asked(place, f"alone-{kind}", kind, stages=stages(place)[:1])
    tiny_folder.trained(alone)
    wanted, _ = arm.trained_student(arms(alone)[0])
    tiny_folder.trained(recipe)
    found = arm._student(arms(recipe)[0], 1)
    mine, theirs = found.state_dict(), wanted.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert all(one.requires_grad for one in found.parameters())


@pytest.mark.parametrize("kind", STUDENTS)
def test_its_checkpoints_hold_the_whole_plain_student_and_the_export_is_that(place, kind):
    recipe = asked(place, f"whole-{kind}", kind, stages=stages(place, train=["*mlp*"]))
    folder = tiny_folder.trained(recipe)
    last = {name: one for name, one in held(folder, 4).items() if ":" not in name}
    student, tokens = arm.trained_student(arms(recipe)[0])
    named = {f"student.{name}": one for name, one in student.named_parameters()}
    assert last.keys() == named.keys()
    assert all(torch.equal(last[name], named[name]) for name in last)
    assert tokens == 7 * tiny_folder.ROWS * tiny_folder.LENGTH
    begun = {f"student.{n}": p for n, p in arm._student(arms(recipe)[0], 1).named_parameters()}
    changed = {name for name in last if not torch.equal(last[name], begun[name])}
    assert changed
    assert all(".mlp." in name for name in changed)


@pytest.mark.parametrize("kind", STUDENTS)
def test_a_resumed_one_equals_an_uninterrupted_one(place, kind):
    straight = held(tiny_folder.trained(asked(place, f"straight-{kind}", kind)), 4)
    recipe, polls = asked(place, f"stopped-{kind}", kind), []
    with pytest.raises(LimbeckError, match="Stopped at step 3 of 4 of stage tune"):
        tiny_folder.trained(recipe, stop=lambda: polls.append(1) or len(polls) > 6)
    stopped = held(tiny_folder.trained(recipe), 4)
    assert straight.keys() == stopped.keys()
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)


def test_a_whole_run_of_it_exports_and_is_judged(place):
    recipe = asked(place, "exported", control=True)
    run.carry_out(recipe)
    folder = tiny_folder.folder(recipe)
    assert (folder.export / "model.safetensors").is_file()
    assert (folder.control.export / "model.safetensors").is_file()


def test_the_plan_counts_what_it_trains(place, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    recipe = asked(place, "planned")
    showing.show(recipe)
    said = " ".join(capsys.readouterr().out.split())
    plain = assembly.student_on_meta(recipe, recipe.stages[1])
    count = sum(one.numel() for one in plain.parameters())
    assert f"trained / frozen │ {count:,} / 0" in said


def test_terms_at_what_is_merged_are_refused(place):
    inner = "layers.*.mlp.gate_proj.inner"
    term = {
        "feature_mse": {"at": {"student": inner, "teacher": "layers.*.post_attention_layernorm"}}
    }
    with pytest.raises(RecipeError, match=r"stage tune, feature_mse.*no module"):
        run.begun(asked(place, "inside", stages=stages(place, objective=[term])))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"student": {"pruned": {"layers": 2}}}, "'pruned' has nothing to merge"),
        ({"later": True}, r"stages\[2\]\.merged: false found behind a merged stage"),
    ],
)
def test_what_cannot_be_merged_is_told_at_once(place, changes, told):
    each = stages(place)
    if changes.pop("later", False):
        each.append(each[0] | {"name": "third"})
    with pytest.raises(RecipeError, match=told):
        asked(place, "refused", stages=each, **changes)
    assert fitting.check(loading.build(tiny_folder.tree(place)))
