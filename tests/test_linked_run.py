"""Whole runs with terms between taps: resumed, staged, of several students, and refused before a model is loaded."""

import shutil

import pytest
import tiny_folder
import torch
from safetensors.torch import load_file
from tiny_linked import EVERYTHING, asked

from limbeck import assembly, fitting, linking, run
from limbeck.arm import trained_student
from limbeck.errors import LimbeckError, RecipeError
from limbeck.models import load
from limbeck.training import parallel
from limbeck.training.optim import PROJECTORS

pytestmark = pytest.mark.usefixtures("handlers")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    found = tmp_path_factory.mktemp("linked")
    tiny_folder.tree(found)
    return found


def tensors(folder, step, stage="1-distil"):
    return load_file(tiny_folder.final(folder, step, stage) / "rank-0000.safetensors")


def same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_every_term_learns_and_a_resumed_run_equals_an_uninterrupted_one(place):
    straight = tiny_folder.trained(asked(place, "straight", EVERYTHING))
    recipe = asked(place, "stopped", EVERYTHING)
    polls = []
    with pytest.raises(LimbeckError, match="Stopped at step 3"):
        tiny_folder.trained(recipe, stop=lambda: polls.append(1) or len(polls) > 3)
    stopped = tiny_folder.trained(recipe)
    same(tensors(straight, 4), tensors(stopped, 4))
    first, last = tensors(straight, 2), tensors(straight, 4)
    maps = [name for name in last if name.startswith(PROJECTORS)]
    assert len(maps) == 4
    assert not any(torch.equal(first[name], last[name]) for name in maps)
    assert all(f"exp_avg:{name}" in last for name in maps)


def test_projectors_are_not_exported(place):
    recipe = asked(place, "exported", EVERYTHING)
    folder = tiny_folder.trained(recipe)
    base = assembly.ground(recipe)
    arm = run.arms(base, parallel.World(0, 1, torch.device("cpu")), folder, lambda: False)[0]
    student, _ = trained_student(arm)
    student.save_pretrained(place / "plain")
    assert not any("projector" in name for name in load_file(place / "plain" / "model.safetensors"))
    assert load.load_model(str(place / "plain")).num_parameters() == student.num_parameters()
    shutil.rmtree(place / "plain")


def test_projectors_stand_in_groups_of_their_own(place):
    from limbeck.training import optim

    names = [
        ("student.a.weight", 2),
        ("student.a.bias", 1),
        (f"{PROJECTORS}x.weight", 2),
        (f"{PROJECTORS}x.bias", 1),
    ]
    named = [(name, torch.zeros([2] * size, requires_grad=True)) for name, size in names]
    found = optim.groups(named, 0.1)
    assert [len(group["params"]) for group in found] == [1, 1, 1, 1]
    assert [group["weight_decay"] for group in found] == [0.1, 0.0, 0.1, 0.0]
    assert found[2]["params"][0] is named[2][1]


def test_blocks_that_no_term_reaches_stay_as_they_are(place):
    objective = [
        {
            "feature_mse": {
                "at": {"student": "layers.0", "teacher": "layers.1"},
                "projector": "linear",
            }
        }
    ]
    straight = tiny_folder.trained(asked(place, "low", objective))
    recipe = asked(place, "low-stopped", objective)
    polls = []
    with pytest.raises(LimbeckError, match="Stopped"):
        tiny_folder.trained(recipe, stop=lambda: polls.append(1) or len(polls) > 2)
    same(tensors(straight, 4), tensors(tiny_folder.trained(recipe), 4))
    first, last = tensors(straight, 2), tensors(straight, 4)
    high = [name for name in first if "layers.1." in name and ":" not in name]
    assert high
    assert all(torch.equal(first[name], last[name]) for name in high)
    assert not any(f"exp_avg:{name}" in last for name in high)


def test_a_term_that_begins_late_is_resumed_with_its_own_count(place):
    """What a ramp from 0 reaches later was updated less often than the rest."""
    ramp = {"from": 0.0, "to": 1.0}
    objective = [
        {
            "feature_mse": {
                "at": {"student": "layers.0", "teacher": "layers.1"},
                "projector": "linear",
            }
        },
        {"cross_entropy": {"weight": ramp}},
    ]
    straight = tiny_folder.trained(asked(place, "late", objective))
    recipe = asked(place, "late-stopped", objective)
    polls = []
    with pytest.raises(LimbeckError, match="Stopped"):
        tiny_folder.trained(recipe, stop=lambda: polls.append(1) or len(polls) > 3)
    same(tensors(straight, 4), tensors(tiny_folder.trained(recipe), 4))


def test_the_same_pair_goes_on_in_the_next_stage(place):
    pair = {"at": {"student": "layers.0", "teacher": "layers.1"}, "projector": "linear"}
    other = {"at": {"student": "layers.1", "teacher": "layers.3"}, "projector": "linear"}
    still = {"learning_rate": 1e-30, "schedule": "constant", "weight_decay": 0.0}
    stages = [
        tiny_folder.stage(place, budget="2 steps", objective=[{"feature_mse": pair}]),
        tiny_folder.stage(
            place,
            name="second",
            budget="1 steps",
            objective=[{"feature_mse": {**pair, "at": [pair["at"], other["at"]]}}],
            optimizer=still,
        ),
        tiny_folder.stage(place, name="third", budget="1 steps", objective=["cross_entropy"]),
    ]
    folder = tiny_folder.trained(asked(place, "staged", None, stages=stages))
    first, second = tensors(folder, 2), tensors(folder, 1, "2-second")
    name = next(n for n in first if n.startswith(PROJECTORS))
    torch.testing.assert_close(first[name], second[name])
    assert len([n for n in second if n.startswith(PROJECTORS)]) == 2
    third = tensors(folder, 1, "3-third")
    assert not any(n.startswith(PROJECTORS) for n in third)


def test_students_of_other_depths_learn_beside_each_other(place):
    students = [{"pruned": {"layers": 1}}, {"pruned": {"layers": 2}}]
    objective = ["forward_kl", {"feature_mse": {"at": "all"}}]
    several = asked(place, "several", objective, student=None, students=students)
    assert linking.teacher_taps(several) == {"layers.3": 32, "layers.1": 32}
    run.carry_out(several)
    for one, student in zip(several.each, students, strict=True):
        alone = asked(place, "alone", objective, student=student, runs=str(place / "alone"))
        found = tiny_folder.trained(alone)
        same(tensors(found, 4), tensors(tiny_folder.folder(one), 4))
        shutil.rmtree(found.path)


def test_computing_activations_twice_changes_no_weight(place):
    plain = tiny_folder.trained(asked(place, "kept", EVERYTHING))
    compute = {"device": "cpu", "dtype": "float32", "threads": 1, "chunk": 24}
    twice = asked(place, "twice", EVERYTHING, compute=compute | {"activation_checkpointing": True})
    found, wanted = tensors(tiny_folder.trained(twice), 4), tensors(plain, 4)
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5)


def test_terms_work_through_adapters(place):
    student = {"adapters": {"rank": 2, "targets": ["q_proj", "up_proj"]}}
    objective = [
        {"feature_mse": {"at": "layers.*.mlp", "weight": 3}},
        {"attention_transfer": {"at": "layers.2"}},
        {"relation_angle": {"at": "norm"}},
    ]
    recipe = asked(place, "adapted", objective, student=student)
    first = tensors(tiny_folder.trained(recipe), 2)
    last = tensors(tiny_folder.folder(recipe), 4)
    assert all("lora_" in name for name in last)
    moved = [name for name in last if not torch.equal(first[name], last[name])]
    assert moved


def test_a_term_that_reaches_nothing_trained_is_refused(place):
    pair = {"at": {"student": "layers.0", "teacher": "layers.1"}}
    stages = [tiny_folder.stage(place, objective=[{"relation_gram": pair}], train=["lm_head*"])]
    with pytest.raises(RecipeError, match="no term reaches what 'train' names"):
        tiny_folder.trained(asked(place, "deaf", None, stages=stages))


def test_a_frozen_trunk_learns_its_projector_from_a_ramp(place):
    ramp = {"from": 0.0, "to": 1.0}
    pair = {"at": {"student": "layers.0", "teacher": "layers.1"}, "projector": "linear"}
    stage = tiny_folder.stage(
        place,
        budget="4 steps",
        objective=[{"feature_mse": {**pair, "weight": ramp}}],
        train=["lm_head*"],
    )
    found = tiny_folder.trained(asked(place, "ramped", None, stages=[stage]))
    assert any(name.startswith(f"exp_avg:{PROJECTORS}") for name in tensors(found, 4))


def test_show_tells_what_is_compared(place, capsys, monkeypatch):
    from limbeck import showing

    monkeypatch.setenv("COLUMNS", "200")

    showing.show(asked(place, "shown", EVERYTHING))
    told = " ".join(capsys.readouterr().out.split())
    assert "layers.0 (16) = layers.1 (32) through a projector of 512" in told
    assert "layers.1 = layers.3" in told


def test_a_recipe_comes_back_as_it_was_written(place):
    from limbeck import loading
    from limbeck.strict import parse_yaml

    recipe = asked(place, "written", EVERYTHING)
    again = fitting.check(loading.build(parse_yaml(loading.dump(recipe), "x")))
    assert again == recipe
    assert loading.dump(again) == loading.dump(recipe)
