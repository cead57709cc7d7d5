"""The published Llambas as recipes: planned without a network, to the last parameter."""

from pathlib import Path

import pytest

from limbeck import assembly, fitting, linking, loading
from limbeck.training.links import Tied
from limbeck.training.trained import counts, trainable

RECIPES = Path(__file__).parents[1] / "recipes/llamba"
# Bick et al., 2025: parameters, blocks, and the tokens of the whole run in billions.
SIZES = {
    "1b": (1_405_159_936, 16, 8.0),
    "3b": (3_656_994_688, 28, 10.0),
    "8b": (8_841_204_736, 32, 12.0),
}


def asked(name, *changes):
    return fitting.check(loading.load(RECIPES / f"{name}.yaml", changes))


@pytest.mark.parametrize("name", SIZES)
def test_a_published_size_is_planned_to_the_last_parameter(name):
    parameters, depth, billions = SIZES[name]
    recipe = asked(name)
    student = assembly.student_on_meta(recipe)
    assert sum(one.numel() for one in student.parameters()) == parameters
    assert sum(stage.budget.amount for stage in recipe.stages) / 1e9 == pytest.approx(billions)
    for stage in recipe.stages:
        terms = [one for one in linking.functions(recipe, stage) if isinstance(one, Tied)]
        assert [len(term.joints) for term in terms] == [depth] * len(terms)
        assert all(term.forced == (stage.forward == "layer_forced") for term in terms)


@pytest.mark.parametrize("name", SIZES)
def test_only_mixers_learn_before_the_last_stages(name):
    recipe = asked(name)
    student = assembly.student_on_meta(recipe)
    for stage in recipe.stages:
        names = trainable(student, stage)
        learns, every = counts(student, names)
        if stage.forward == "layer_forced":
            assert all(".mamba." in one for one in names)
            assert learns == sum(p.numel() for n, p in student.named_parameters() if ".mamba." in n)
        else:
            assert learns == every


def test_the_last_stage_freezes_every_mlp_also_of_blocks_that_were_put_back():
    recipe = asked("last-stage")
    student = assembly.student_on_meta(recipe)
    kept = [
        n for n, kind in enumerate(student.config.layers_block_type) if kind == "full_attention"
    ]
    assert kept == [10, 14, 17, 30]
    names = trainable(student, recipe.stages[0])
    frozen = {n for n, _ in student.named_parameters()} - names
    assert len(frozen) == 32 * 3
    assert all(".feed_forward." in one for one in frozen)
    assert any("layers.14.self_attn" in one for one in names)
    for stage in recipe.stages:
        assert stage.optimizer.minimum_ratio * stage.optimizer.learning_rate == pytest.approx(1e-8)


def test_the_recipe_that_runs_here_leaves_its_attentions_to_the_probe():
    # Its teacher's config stands beside the recipes, under the name that the hub has for it.
    recipe = asked("smollm2", "teacher.live.model=HuggingFaceTB/SmolLM2-135M-Instruct")
    student = assembly.student_on_meta(recipe)
    assert student.config.layers_block_type.count("full_attention") == 4
    assert [stage.name for stage in recipe.stages] == [
        "orient-matrices",
        "align-hidden-states",
        "whole-model",
    ]
    assert recipe.control
