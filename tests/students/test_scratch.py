"""A model from sizes: strict about its keys, and the same for the same seed."""

import json
from pathlib import Path

import pytest
import tiny
import torch

from limbeck.errors import RecipeError
from limbeck.students.scratch import scratch
from limbeck.types import Materials

SIZES = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 29,
}
CONFIGS = Path(__file__).parents[2] / "recipes/configs"
NOTHING = Materials(teacher=lambda: None, load=lambda name, revision: None)


def test_the_same_seed_gives_the_same_weights():
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(scratch(NOTHING, config=SIZES).state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert any(not torch.equal(models[0][name], models[2][name]) for name in models[0])


def test_sizes_may_stand_in_a_file(tmp_path):
    (tmp_path / "sizes.json").write_text(json.dumps(SIZES))
    assert scratch(NOTHING, config=str(tmp_path / "sizes.json")).config.hidden_size == 16


def test_vocabulary_and_special_ids_come_from_the_teacher():
    sizes = {key: value for key, value in SIZES.items() if key != "vocab_size"}
    made = scratch(
        Materials(teacher=lambda: None, load=lambda n, r: None, config=tiny.llama().config),
        config=sizes,
    )
    assert (made.config.vocab_size, made.config.eos_token_id) == (tiny.VOCAB, 2)


def test_a_published_config_is_read_with_its_rotary_positions():
    published = json.loads((CONFIGS / "meta-llama--Llama-3.2-1B-Instruct.json").read_text())
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 8}
    sizes = published | small | {"num_attention_heads": 2, "num_key_value_heads": 2}
    found = scratch(NOTHING, config=sizes | {"vocab_size": 29}).config.rope_parameters
    assert found["rope_theta"] == 500_000
    assert (found["rope_type"], found["factor"]) == ("llama3", 32.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_sise": 3}, "has no size 'hidden_sise'. Did you mean 'hidden_size'"),
        ({"model_type": None}, "'model_type' is not given"),
        ({"model_type": "lama"}, "transformers has no 'lama'"),
        ({"vocab_size": None}, "'vocab_size' is not given"),
    ],
)
def test_strange_sizes_are_refused(change, message):
    sizes = {key: value for key, value in (SIZES | change).items() if value is not None}
    with pytest.raises(RecipeError, match=message):
        scratch(NOTHING, config=sizes)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(RecipeError, match=r"there is no file nowhere\.json"):
        scratch(NOTHING, config="nowhere.json")


def test_a_file_of_no_sizes_is_named(tmp_path):
    (tmp_path / "sizes.json").write_text("[1]")
    with pytest.raises(RecipeError, match=r"sizes\.json holds list; wanted one object of sizes"):
        scratch(NOTHING, config=str(tmp_path / "sizes.json"))
