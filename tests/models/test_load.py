import json
import os
import shutil
from pathlib import Path

import pytest
import tiny
import tiny_families
import torch
from safetensors.torch import load_file, save_file

from limbeck.errors import ModelError
from limbeck.models import load

SHARED = Path(__file__).parents[3] / "shared"

SIZES = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
}


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "model"
    tiny.llama(tied=True).save_pretrained(place)
    return place


def change(folder, file="config.json", **values):
    path = folder / file
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | values))


@pytest.mark.parametrize("name", SIZES)
def test_known_models_have_their_published_number_of_parameters(name):
    model = load.build_on_meta(load.load_config(name))
    assert sum(parameter.numel() for parameter in model.parameters()) == SIZES[name]
    assert next(model.parameters()).is_meta


def test_model_comes_back_as_it_was_saved(folder):
    model, batch = tiny.llama(tied=True), tiny.batch()
    loaded = load.load_model(str(folder))
    assert not loaded.training
    assert torch.equal(loaded(batch.input_ids).logits, model(batch.input_ids).logits)
    half = load.load_model(str(folder), dtype=torch.bfloat16, attention="eager")
    assert half.dtype == torch.bfloat16
    assert half.config._attn_implementation == "eager"


@pytest.mark.parametrize("family", ["gemma2", "gptj", "gpt_oss", "bloom", "qwen3"])
def test_a_family_without_sdpa_is_loaded_with_the_attention_that_it_has(tmp_path, family):
    model = tiny_families.build(family).float()
    model.save_pretrained(tmp_path)
    loaded = load.load_model(str(tmp_path))
    wanted = "eager" if family in tiny_families.EAGER else "sdpa"
    assert loaded.config._attn_implementation == wanted
    ids = tiny.batch().input_ids
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, "auto_map"),
        ({"text_config": {"auto_map": {"AutoModel": "evil.Model"}}}, "text_config: 'auto_map'"),
        ({"attn_implementation": "some/kernel"}, "some/kernel"),
        ({"_attn_implementation_internal": "some/kernel"}, "some/kernel"),
        ({"attn_implementation": {"text_config": "some/kernel"}}, "some/kernel"),
        ({"experts_implementation": "some/kernel"}, "some/kernel"),
        ({"layers": [{"deep": {"trust_remote_code": True}}]}, "trust_remote_code"),
    ],
)
def test_config_that_asks_for_code_is_refused_before_transformers_sees_it(folder, values, message):
    change(folder, **values)
    for door in (load.load_model, load.load_config, load.load_tokenizer):
        with pytest.raises(ModelError, match=message):
            door(str(folder))


def test_attention_from_a_repository_is_refused(folder):
    with pytest.raises(ModelError, match="some/kernel"):
        load.load_model(str(folder), attention="some/kernel")


def test_harmless_config_passes_unchanged():
    values = {"trust_remote_code": False, "attn_implementation": "sdpa", "a": [{"b": 1}]}
    assert load.sanitised(values, "here") == values


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin, which are pickles"):
        load.load_model(str(folder))


def test_folder_without_a_parameter_is_refused_by_its_name(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"missing keys.*layers\.1\.mlp\.up_proj"):
        load.load_model(str(folder))


def test_weights_of_another_size_are_refused(folder):
    change(folder, intermediate_size=40)
    with pytest.raises(ModelError, match="mismatch"):
        load.load_model(str(folder))


def test_unknown_type_is_refused_by_name(folder):
    change(folder, model_type="llamma")
    with pytest.raises(ModelError, match="llamma"):
        load.load_config(str(folder))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "no-such-org/no-such-model"])
def test_what_cannot_be_reached_is_named(name):
    for door in (load.load_model, load.load_config, load.load_tokenizer, load.fingerprint):
        with pytest.raises(ModelError, match=name.replace(".", r"\.")):
            door(name)


def test_folder_has_no_revision(folder):
    with pytest.raises(ModelError, match="no revision 'main'"):
        load.load_model(str(folder), revision="main")


def test_fingerprint_changes_with_one_weight_and_with_the_config(folder, tmp_path):
    first = load.fingerprint(str(folder))
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert load.fingerprint(str(copy)) == first
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert load.fingerprint(str(copy)) != first
    change(folder, rms_norm_eps=1e-3)
    assert load.fingerprint(str(folder)) != first


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/tokenizers")
@pytest.mark.parametrize("name", ["gpt2", "llama3_2", "qwen3"])
def test_tokenizer_gives_text_back(name):
    tokenizer = load.load_tokenizer(str(SHARED / "data" / "tokenizers" / name))
    text = "Ein Satz, 12 Zahlen — und 漢字."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("size", [0, 5, 1000, 9000])
def test_weights_that_are_cut_short_are_refused_in_words(folder, size):
    os.truncate(folder / "model.safetensors", size)
    with pytest.raises(ModelError, match=r"cut short or damaged .*wanted whole safetensors files"):
        load.load_model(str(folder))


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_size": "x"},
        {"hidden_size": -4},
        {"num_attention_heads": 0},
        {"num_key_value_heads": 0},
        {"vocab_size": None},
        {"vocab_size": 0},
        {"hidden_act": "nope"},
        {"rope_scaling": {"type": "nope"}},
        {"model_type": [1]},
    ],
    ids=str,
)
def test_config_of_the_wrong_kind_is_refused_in_words(folder, values):
    change(folder, **values)
    with pytest.raises(ModelError, match=r"llama|model_type is|vocab_size is 0"):
        load.build_on_meta(load.load_config(str(folder)))


@pytest.mark.parametrize("wrong", ["x", -1, [2, None, 2.5], True])
def test_an_end_that_is_no_id_is_refused_by_its_file(folder, wrong):
    change(folder, "generation_config.json", eos_token_id=wrong)
    with pytest.raises(ModelError, match=r"generation_config\.json: eos_token_id holds"):
        load.stops(str(folder))


def test_a_folder_without_a_tokenizer_says_what_to_copy(folder):
    with pytest.raises(ModelError, match=r"model: it lacks tokenizer\.json\. Copy it there"):
        load.load_tokenizer(str(folder))
