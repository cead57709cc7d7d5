"""The recipes of recipes/kd70 are planned without a network, and carried out as they stand by tiny models."""

import json
from pathlib import Path

import pytest
import tiny
import tiny_folder
import tiny_text

from limbeck import fitting, linking, loading, run, showing
from limbeck.cache.read import CacheReader
from limbeck.featuring import folder
from limbeck.models import load
from limbeck.selection.share import size

pytestmark = pytest.mark.usefixtures("handlers")

RECIPES = {path.stem: path for path in Path(__file__).parents[1].glob("recipes/kd70/*.yaml")}
TAPS = {
    "response": [],
    "feature": ["layers.22"],
    "relation": ["norm"],
    "all": ["layers.22", "norm"],
}
# Of rank 16 in 28 blocks: queries and outputs, keys and values, the three of the MLP.
LORA = 28 * 16 * (2 * (3072 + 3072) + 2 * (3072 + 1024) + 3 * (3072 + 8192))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A teacher of 24 blocks and a student of 12 that is narrower: both have the taps that the recipes name."""
    found = tmp_path_factory.mktemp("kd70")
    tiny_folder.teacher(found / "teacher", layers=24)
    student = tiny.llama(vocab=tiny_folder.VOCAB, width=16, layers=12, seed=1)
    student.save_pretrained(found / "student")
    tiny_text.tokenizer(tiny_folder.VOCAB).save_pretrained(found / "student")
    tiny_folder.corpus(found / "text")
    return found


def tinily(place, name):
    """A recipe as it stands, but for models, text, sizes and place."""
    source = {
        "path": place / "text",
        "length": 16,
        "separator": "eos",
        "prepared": place / "prepared",
    }
    changes = {
        "teacher.cached.model": place / "teacher",
        "teacher.cached.path": place / name / "cache",
        "student.adapters.model": place / "student",
        **{f"stages.0.source.text.{key}": value for key, value in source.items()},
        **{f"evaluate.source.text.{key}": value for key, value in source.items()},
        "evaluate.rows": 4,
        "stages.0.budget": "4 steps",
        "compute.device": "cpu",
        "compute.dtype": "float32",
        "compute.threads": 1,
        "control": "false",
        "runs": place / name,
    }
    overrides = [f"{key}={value}" for key, value in changes.items()]
    return fitting.check(loading.load(RECIPES[name], overrides))


def test_there_is_a_recipe_for_each_kind_and_one_of_all():
    assert set(RECIPES) == set(TAPS)
    terms = {name: loading.load(path).stages[0].terms for name, path in RECIPES.items()}
    assert terms["all"] == terms["response"] + terms["feature"] + terms["relation"]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", TAPS)
def test_each_is_planned_without_a_network(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    recipe = fitting.check(loading.load(RECIPES[name]))
    showing.show(recipe)
    said = capsys.readouterr().out
    assert "meta-llama/Llama-3.1-70B-Instruct: 70,553,706,496 parameters" in said
    assert f"{LORA:,} / 3,212,749,824 parameters" in said
    assert "note: tokenizer and models were not compared" in said
    assert list(linking.teacher_taps(recipe)) == TAPS[name]
    for tap in TAPS[name]:
        # 16,384,000 tokens, a quarter of which has 8,192 channels of 2 bytes.
        assert f"cache at {tap} " in said
        assert "about 67.11 GB, 4,096 bytes/token: 8,192 channels of 25% of the tokens" in said
    maps = f", and {3072 * 8192 + 8192:,} of projectors" in said
    assert maps == ("layers.22" in TAPS[name])


@pytest.mark.parametrize("name", TAPS)
def test_each_is_carried_out_by_tiny_models(name, place):
    recipe = tinily(place, name)
    assert recipe.stages[0].objective == loading.load(RECIPES[name]).stages[0].objective
    if name == "all":
        run.carry_out(recipe)
        student = load.load_model(str(tiny_folder.folder(recipe).export))
        assert student.num_parameters() == load.load_model(str(place / "student")).num_parameters()
    else:
        tiny_folder.trained(recipe)
    log = (tiny_folder.folder(recipe).path / "log.jsonl").read_text().splitlines()
    terms = [line["terms"] for line in map(json.loads, log) if "terms" in line]
    assert len(terms) == 4
    wanted = {term.name for term in recipe.stages[0].terms}
    assert all(set(each) == wanted and min(each.values()) > 0 for each in terms)
    cache = place / name / "cache"
    main = CacheReader(cache)
    for tap in TAPS[name]:
        kept = CacheReader(folder(cache, tap))
        assert kept.about.numbers == "bfloat16"
        for address in main._places:
            counted, held = main.recorded(address), kept.recorded(address)
            assert int(held.sum()) == size(0.25, int(counted.sum()))
