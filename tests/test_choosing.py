"""What a recipe leaves to the probe is asked once, written down, and stands in the run's own recipe."""

import json
from pathlib import Path

import pytest
import tiny_folder
import tiny_planted
import torch

from limbeck import assembly, choosing, linking, loading, run
from limbeck.errors import Damaged, LimbeckError, RecipeError
from limbeck.models import load
from limbeck.recipe import Part
from limbeck.strict import parse_yaml
from limbeck.training import parallel

ALONE = parallel.World(0, 1, torch.device("cpu"))
AUTO = {"auto": 2, "prompts": 20}


def asked(place, keep, *, teacher="teacher"):
    """The recipe of a hybrid that keeps attentions as told."""
    student = {"hybrid": {"keep_attention": keep}}
    model = {"live": {"model": str(place / teacher)}}
    return tiny_folder.short(place, "kept", teacher=model, student=student)


@pytest.fixture
def ground(tmp_path, monkeypatch):
    """A ground whose teacher looks values up in blocks 1 and 3, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    tiny_planted.model(layers=7).save_pretrained(tmp_path / "planted")  # evenly it would be 1 and 5
    tiny_planted.tokenizer().save_pretrained(tmp_path / "planted")
    return assembly.ground(asked(tmp_path, AUTO, teacher="planted"))


def kept(recipe):
    return recipe.student.options["keep_attention"]


def told(base, keep):
    """The same ground, another wish."""
    part = Part.model_validate({"hybrid": {"keep_attention": keep}})
    return assembly.with_recipe(base, base.recipe.model_copy(update={"student": part}))


@pytest.mark.parametrize("by", ["heads", "layers"])
def test_the_blocks_that_look_values_up_stand_in_the_recipe_in_order(ground, by):
    found = choosing.chosen(told(ground, AUTO | {"by": by}), ALONE).recipe
    assert kept(found) == [1, 3]
    again = loading.build(parse_yaml(loading.dump(found), "recipe.yaml"))
    assert kept(again) == [1, 3]
    assert choosing.chosen(assembly.with_recipe(ground, again), ALONE).recipe == again


def test_it_is_asked_once_for_every_run_with_this_teacher(ground):
    assert choosing.known(ground.recipe) == ground.recipe
    first = choosing.chosen(ground, ALONE).recipe
    (file,) = choosing.PROBES.iterdir()
    assert choosing.known(ground.recipe) == first
    answer = json.loads(file.read_text())
    assert sorted(answer["ranked"][:2]) == kept(first)
    # Another answer in its place is believed: nobody asks again.
    file.write_text(json.dumps(answer | {"ranked": [4, 0, 1, 2, 3]}))
    assert kept(choosing.chosen(ground, ALONE).recipe) == [0, 4]
    other = choosing.chosen(told(ground, AUTO | {"seed": 1}), ALONE)
    assert kept(other.recipe) == [1, 3]
    assert len(list(choosing.PROBES.iterdir())) == 2


@pytest.mark.parametrize("text", ["{}", "[1]", '{"ranked": ["1"]}'])
def test_an_answer_of_another_shape_is_named(ground, text):
    choosing.chosen(ground, ALONE)
    (file,) = choosing.PROBES.iterdir()
    file.write_text(text)
    for ask in (lambda: choosing.known(ground.recipe), lambda: choosing.chosen(ground, ALONE)):
        with pytest.raises(Damaged, match=rf"{file.name} has .* Remove the file: the probe runs"):
            ask()


def test_before_it_was_asked_a_plan_spreads_them_evenly(tmp_path):
    student = assembly.student_on_meta(asked(tmp_path, AUTO))
    assert student.config.attn_layer_indices == [1, 3]
    student = assembly.student_on_meta(asked(tmp_path, {"auto": 1}))
    assert student.config.attn_layer_indices == [2]


def test_numbers_that_are_given_ask_nobody(ground):
    base = told(ground, [1])
    assert choosing.chosen(base, ALONE).recipe == base.recipe
    assert not choosing.PROBES.exists()


def test_more_than_there_are_is_refused_before_anything_is_loaded(tmp_path):
    recipe = asked(tmp_path, {"auto": 9})
    with pytest.raises(RecipeError, match="9 attentions"):
        assembly.student_on_meta(recipe)


BEFORE = {
    "more than there are": ({"keep_attention": {"auto": 9}}, {}, "9 attentions are to be kept"),
    "a start": ({"keep_attention": AUTO, "start": "identity"}, {}, "'identity' found; the mixer"),
    "a word": ({"keep_attention": AUTO}, {"freeze": ["mixer"]}, "Did you mean 'mixers'"),
    "a tap": ({"keep_attention": AUTO}, {"objective": [{"feature_mse": {"at": "layers.*.mamb"}}]}, "no module 'layers"),
    "a family": ({"keep_attention": AUTO}, {}, "its family is smollm3"),
}  # fmt: skip


@pytest.mark.parametrize("why", BEFORE)
def test_what_the_probe_cannot_mend_is_refused_before_it_is_asked(why, ground, monkeypatch):
    options, changes, told = BEFORE[why]
    place = Path(ground.recipe.runs).parent
    teacher = "planted" if why == "a family" else "teacher"
    recipe = tiny_folder.short(
        place, "late", teacher={"live": {"model": str(place / teacher)}},
        student={"hybrid": options}, stages=[tiny_folder.stage(place, **changes)],
    )  # fmt: skip

    def never(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr(load, "load_model", never)
    with pytest.raises(LimbeckError, match=told):
        run.carry_out(recipe)
    assert not Path(recipe.runs).exists()


def test_a_block_that_is_told_by_its_number_waits_for_the_answer(tmp_path):
    """Evenly, blocks 1 and 3 keep their attentions; the probe may find others."""
    at = {"student": "layers.1.mamba", "teacher": "layers.1.self_attn"}
    only = tiny_folder.stage(tmp_path, objective=[{"feature_norm": {"at": at}}])
    recipe = tiny_folder.short(
        tmp_path, "told", teacher={"live": {"model": str(tmp_path / "teacher")}},
        student={"hybrid": {"keep_attention": AUTO}}, stages=[only],
    )  # fmt: skip
    choosing.check(recipe)
    with pytest.raises(RecipeError, match=r"no module 'layers\.1\.mamba'"):
        linking.check(recipe)
