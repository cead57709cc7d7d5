"""Recipes in which nothing is wrong pass, with their models loaded; what is checked leaves nothing behind."""

import importlib.util
from pathlib import Path

import pytest
import tiny_clones
import tiny_folder
from tiny_doctor import bad, command, examined, live, sound, stage

HERE = Path(__file__).parents[2]
BOTH = {"student": "layers.*.mamba", "teacher": "layers.*.self_attn"}


def cached(place):
    return {}


def sampled(place):
    teacher = {"model": str(place / "teacher"), "path": str(place / "cache")}
    return {"teacher": {"cached": teacher}}


def talk(place):
    evaluate = {"source": tiny_folder.talk(place, split="held_out"), "rows": 8}
    stages = [stage(place, source=tiny_folder.talk(place), alpha=0.5)]
    return {"teacher": live(place), "stages": stages, "evaluate": evaluate}


def hybrid(place):
    forced = {"forward": "layer_forced", "train": ["*.mamba.*"], "budget": "4 steps"}
    first = stage(place, name="align", objective=[{"feature_norm": {"at": BOTH}}], **forced)
    whole = stage(place, name="whole", freeze=["mlp", "kept_layers"])
    student = {"hybrid": {"mixer": "mamba2", "keep_attention": [1], "start": "attention"}}
    return {"teacher": live(place), "student": student, "stages": [first, whole]}


def clone(place):
    terms = ["cross_entropy", "forward_kl", *map(tiny_clones.spelled, tiny_clones.TERMS)]
    student = {"low_rank_clone": {"width": 16, "attention": "shared"}}
    stages = [stage(place, objective=terms, budget="8 steps")]
    return {"teacher": live(place), "student": student, "stages": stages}


def watched(place):
    looks = {"every": "8 steps", "rows": 8, "best": "kl_to_teacher", "patience": 2}
    return {"teacher": live(place), "watch": looks, "track": []}


def several(place):
    students = [{"pruned": {"layers": 2}}, {"pruned": {"layers": [0, 3]}}]
    return {"teacher": live(place), "student": None, "students": students}


def adapted(place):
    if importlib.util.find_spec("peft") is None:
        pytest.skip("peft is not installed")
    return {"teacher": live(place), "student": {"adapters": {"rank": 2}}}


GOOD = (cached, sampled, talk, hybrid, clone, watched, several, adapted)


@pytest.mark.parametrize("make", GOOD)
def test_a_good_recipe_passes(tmp_path, make):
    place = sound(tmp_path)
    found = examined(place, weights=True, **make(place))
    assert not bad(found)
    assert not [one for one in bad(found, "warning") if one.check != "packages"]
    assert not bad(found, "left out")
    measured = [one.found for one in found if one.check == "weights"]
    assert any("uniform guessing 5." in text for text in measured)
    assert any(text.startswith("as it begins, ") for text in measured)


def test_nothing_is_written_but_prepared_text(tmp_path):
    place = sound(tmp_path)
    changes = cached(place)
    before = set(tiny_folder.contents(place)) | {"recipe.yaml"}
    examined(place, weights=True, **changes)
    after = set(tiny_folder.contents(place))
    assert {path.split("/")[0] for path in after - before} == {"prepared"}


def test_the_quickstart_passes_where_its_teacher_and_text_are(monkeypatch):
    monkeypatch.chdir(HERE)
    for needed in ("models/SmolLM2-135M-Instruct", "corpora/python-docs"):
        if not Path(needed).is_dir():
            pytest.skip(f"{needed} is not there; 'make quickstart' brings it")
    assert not bad(command.examined(Path("recipes/quickstart.yaml"), weights=False))
