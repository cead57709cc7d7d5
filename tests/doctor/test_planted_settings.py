"""Faults of a recipe, of what it makes and of its schedules are found, each by its name and none behind another."""

import pytest
import tiny_doctor
import tiny_folder
from tiny_doctor import assert_found, bad, examined, live, of, said, stage

PLANTS = {}


def optimized(place, **changes):
    return {"stages": [stage(place, optimizer={"learning_rate": 2e-3} | changes)]}


@of(PLANTS, "recipe", r"'forward_kl' has no option 'temprature'. Did you mean 'temperature'\?")
def misspelled_option(place, _):
    return {"stages": [stage(place, objective=[{"forward_kl": {"temprature": 2.0}}])]}


@of(PLANTS, "recipe", "No 'forward_lk' in limbeck.objectives")
def unknown_objective(place, _):
    return {"stages": [stage(place, objective=["forward_lk"])]}


@of(PLANTS, "recipe", "forward_kl needs a teacher")
def no_teacher(place, _):
    student = {"pretrained": {"model": str(place / "teacher")}}
    evaluate = {"source": tiny_folder.source(place, split="held_out"), "rows": 8}
    measures = {"measures": ["bits_per_byte"]}
    return {"teacher": None, "student": student, "evaluate": evaluate | measures}


@of(PLANTS, "recipe", "cannot learn from teacher.cached.kind 'sample', which keeps too little")
def kind_that_cannot_tell(place, _):
    teacher = {"model": str(place / "teacher"), "path": str(place / "cache")}
    return {"teacher": {"cached": teacher}, "stages": [stage(place, objective=["reverse_kl"])]}


@of(PLANTS, "recipe", "student: 'pruned' needs layers")
def option_that_is_missing(place, _):
    return {"student": "pruned"}


@of(PLANTS, "recipe", "temperature 0.0 found")
def temperature_of_zero(place, _):
    return {"stages": [stage(place, objective=[{"forward_kl": {"temperature": 0.0}}])]}


@of(PLANTS, "models", "found 9; wanted 1 to 4")
def more_layers_than_there_are(place, _):
    return {"student": {"pruned": {"layers": 9}}}


@of(PLANTS, "stages", "freeze 'layers.9.*': .* matches no parameter")
def frozen_pattern_that_matches_nothing(place, _):
    return {"stages": [stage(place, freeze=["layers.9.*"])]}


@of(PLANTS, "stages", "'\\*.atn.\\*' matches no parameter", severity="warning")
def trained_pattern_that_matches_nothing(place, _):
    return {"stages": [stage(place, train=["*.mlp.*", "*.atn.*"])]}


@of(PLANTS, "stages", "layers.9")
def tap_that_is_not_there(place, _):
    objective = ["forward_kl", {"feature_mse": {"at": "layers.9"}}]
    return {"teacher": live(place), "stages": [stage(place, objective=objective)]}


@of(PLANTS, "recipe", "beta 1.0 found")
def beta_of_one(place, _):
    return optimized(place, betas=[0.9, 1.0])


@of(PLANTS, "schedule", "moves every parameter", severity="warning")
def learning_rate_of_one(place, _):
    return optimized(place, learning_rate=1.0)


@of(PLANTS, "schedule", "nothing is learned", severity="warning")
def learning_rate_of_nearly_nothing(place, _):
    return optimized(place, learning_rate=1e-9)


@of(PLANTS, "schedule", "rises for 19 of 24 steps", severity="warning")
def warm_up_of_most_steps(place, _):
    return optimized(place, warmup_ratio=0.8)


@of(PLANTS, "schedule", "it never does", severity="warning")
def fall_of_less_than_a_step(place, _):
    return optimized(place, schedule="wsd", decay_ratio=0.01)


@of(PLANTS, "schedule", "it never falls", severity="warning")
def floor_at_the_peak(place, _):
    return optimized(place, schedule="cosine", minimum_ratio=1.0)


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_setting_is_found(tmp_path, monkeypatch, name):
    assert_found(tmp_path, PLANTS[name], monkeypatch)


def test_no_fault_hides_another(tmp_path):
    place = tiny_doctor.sound(tmp_path)
    objective = [{"forward_kl": {"temprature": 2.0}}, {"reverse_kl": {"temperature": -1.0}}]
    found = examined(
        place,
        student={"pruned": {"layers": 9}},
        stages=[stage(place, objective=objective, optimizer={"betas": [1.0, 0.9]})],
        compute={"device": "elsewhere"},
        evaluate={"source": tiny_folder.source(place, split="nowhere"), "rows": 8},
        runs=str(place / "recipe.yaml/runs"),
    )
    told = " ".join(map(said, bad(found)))
    for word in ("temprature", "-1.0", "found 9", "beta 1.0", "elsewhere", "nowhere", "cannot be"):
        assert word in told
    texts = [each.found for each in bad(found)]
    assert len(texts) == len(set(texts))


@pytest.mark.parametrize(
    ("text", "told"),
    [("name: [", "recipe.yaml"), ("nmae: tiny\n", "no key 'nmae' here. Did you mean 'name'")],
)
def test_a_recipe_that_cannot_be_read_is_one_fault_beside_the_packages(tmp_path, text, told):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    found = tiny_doctor.command.examined(path)
    assert [each.check for each in bad(found)] == ["recipe"]
    assert told in bad(found)[0].found
    assert any(each.check == "packages" for each in found)
