"""What a run is made of is compared before anything is made of it again: a clone's checkpoints lack the teacher's tensors."""

import shutil

import pytest
import tiny_folder
import torch
from safetensors.torch import load_file, save_file

from limbeck import again, run
from limbeck.errors import LimbeckError

pytestmark = pytest.mark.usefixtures("handlers")
CLONE = {"low_rank_clone": {"width": 16}}


@pytest.fixture
def place(tmp_path):
    tiny_folder.tree(tmp_path)
    return tmp_path


def asked(place, name, *, teacher="teacher", student=CLONE, steps=2, **changes):
    stages = [tiny_folder.stage(place, budget=f"{steps} steps", objective=["forward_kl"])]
    told = {"teacher": {"live": {"model": str(place / teacher)}}, "student": student}
    return tiny_folder.short(place, name, **told | {"stages": stages} | changes)


def disturb(folder):
    path = folder / "model.safetensors"
    found = {name: tensor + 0.01 for name, tensor in load_file(path).items()}
    save_file(found, path, metadata={"format": "pt"})


def test_an_export_is_not_made_of_another_teacher_than_was_trained_with(place):
    recipe = asked(place, "swapped")
    run.carry_out(recipe)
    folder = tiny_folder.folder(recipe)
    before = load_file(folder.export / "model.safetensors")
    shutil.rmtree(folder.export)
    again.export_again(folder.path)
    after = load_file(folder.export / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    shutil.rmtree(folder.export)
    disturb(place / "teacher")
    for door in (again.export_again, again.evaluate_again):
        with pytest.raises(LimbeckError, match=r"was begun with teacher .* Bring back what was"):
            door(folder.path)
    assert not folder.export.exists()


@pytest.mark.parametrize("other", ["teacher", "eps"])
def test_a_clones_checkpoint_is_not_resumed_by_a_clone_made_otherwise(place, other):
    first = asked(place, "first")
    told = str(tiny_folder.final(tiny_folder.trained(first), 2))
    tiny_folder.trained(asked(place, "same", steps=3, resume=told))
    shutil.copytree(place / "teacher", place / "second")
    disturb(place / "second")
    changes = {
        "teacher": {"teacher": "second"},
        "eps": {"student": {"low_rank_clone": {"width": 16, "rms_norm_eps": 0.1}}},
    }[other]
    with pytest.raises(LimbeckError, match="is of a student with another"):
        tiny_folder.trained(asked(place, "other", resume=told, **changes))


def test_a_checkpoint_that_holds_the_whole_student_is_resumed_whatever_it_was_made_of(place):
    pruned = {"pruned": {"layers": 2}}
    told = str(tiny_folder.final(tiny_folder.trained(asked(place, "first", student=pruned)), 2))
    shutil.copytree(place / "teacher", place / "second")
    disturb(place / "second")
    tiny_folder.trained(asked(place, "other", student=pruned, teacher="second", resume=told))


@pytest.mark.parametrize("text", ["[1]", "{}", '{"prints": 3}', '{"prints": {}}'])
def test_a_run_whose_provenance_is_another_is_not_gone_on_with(place, text):
    recipe = asked(place, "changed")
    run.carry_out(recipe)
    folder = tiny_folder.folder(recipe)
    (folder.path / "provenance.json").write_text(text)
    with pytest.raises(LimbeckError, match=r"provenance\.json has|was begun with"):
        again.evaluate_again(folder.path)
