"""What a recipe leaves to the probe is asked once, written down, and stands in the run's own recipe."""

import json

import pytest
import tiny_folder
import torch

from limbeck import assembly, choosing, loading
from limbeck.errors import RecipeError
from limbeck.models import probe
from limbeck.strict import parse_yaml
from limbeck.training import parallel

ALONE = parallel.World(0, 1, torch.device("cpu"))


@pytest.fixture
def ground(tmp_path, monkeypatch):
    """A hybrid that keeps two attentions by the probe; what the probe says, and how often it was asked."""
    monkeypatch.chdir(tmp_path)
    asked = []

    def ranked(model, tokenizer, *, prompts, pairs, seed):
        asked.append((prompts, pairs, seed))
        return [2, 0, 3, 1]

    monkeypatch.setattr(probe, "rank_layers_by_heads", ranked)
    monkeypatch.setattr(probe, "rank_layers", lambda *a, **k: [1, 2, 3, 0])
    recipe = tiny_folder.short(
        tmp_path,
        "kept",
        teacher={"live": {"model": str(tmp_path / "teacher")}},
        student={"hybrid": {"keep_attention": {"auto": 2, "prompts": 7}}},
    )
    return assembly.ground(recipe), asked


def kept(recipe):
    return recipe.student.options["keep_attention"]


def test_the_most_needed_blocks_stand_in_the_recipe_in_order(ground):
    base, asked = ground
    found = choosing.chosen(base, ALONE).recipe
    assert kept(found) == [0, 2]
    assert asked == [(7, 10, 0)]
    again = loading.build(parse_yaml(loading.dump(found), "recipe.yaml"))
    assert kept(again) == [0, 2]


def test_it_is_asked_once_for_every_run_with_this_teacher(ground):
    base, asked = ground
    first, second = (choosing.chosen(base, ALONE).recipe for _ in range(2))
    assert first == second
    assert len(asked) == 1
    (file,) = choosing.PROBES.iterdir()
    assert json.loads(file.read_text())["ranked"] == [2, 0, 3, 1]
    assert kept(choosing.known(base.recipe)) == [0, 2]


def test_before_it_was_asked_a_plan_spreads_them_evenly(ground):
    base, _ = ground
    assert choosing.known(base.recipe) == base.recipe
    assert assembly.student_on_meta(base.recipe).config.attn_layer_indices == [1, 3]


def test_whole_layers_are_another_question(ground):
    base, asked = ground
    student = {"hybrid": {"keep_attention": {"auto": 1, "by": "layers"}}}
    part = type(base.recipe.student).model_validate(student)
    other = assembly.with_recipe(base, base.recipe.model_copy(update={"student": part}))
    assert kept(choosing.chosen(other, ALONE).recipe) == [1]
    assert not asked


def test_numbers_that_are_given_ask_nobody(ground):
    base, asked = ground
    part = type(base.recipe.student).model_validate({"hybrid": {"keep_attention": [1]}})
    told = assembly.with_recipe(base, base.recipe.model_copy(update={"student": part}))
    assert choosing.chosen(told, ALONE).recipe == told.recipe
    assert not asked


def test_more_than_there_are_is_refused_before_anything_is_loaded(tmp_path):
    recipe = tiny_folder.short(
        tmp_path,
        "many",
        teacher={"live": {"model": str(tmp_path / "teacher")}},
        student={"hybrid": {"keep_attention": {"auto": 9}}},
    )
    with pytest.raises(RecipeError, match="9 attentions"):
        assembly.student_on_meta(recipe)
