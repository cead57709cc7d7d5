"""Llamba as it was published: its config and tensors become our model, and what is not Llamba is refused."""

import json

import pytest
import tiny_hybrid
import torch
from safetensors.torch import save_file
from transformers import BambaConfig, BambaForCausalLM, LlamaConfig

from limbeck.errors import ModelError, RecipeError
from limbeck.models import hybrid, load, openings, published
from limbeck.models.llamba_config import LimbeckLlambaConfig

SIZES = {"d_model": 32, "n_layer": 2, "vocab_size": 61}
MIXER = {"n_v_heads": 4, "n_qk_heads": 4, "d_state": 8, "chunk_size": 16, "activation": "identity"}


def values(**changes):
    """A published config of a tiny model."""
    plain = {**SIZES, "tie_embeddings": False, "ssm_cfg": MIXER}
    return plain | {"mlp_cfg": {"intermediate_size": 48}} | changes


def folder(place, told, *, without=""):
    """A folder as the authors' code saves it: names of theirs, and a vocabulary padded to a multiple of 8."""
    torch.manual_seed(0)
    model = hybrid.LimbeckLlambaForCausalLM(published.config(told, "here"))
    back = {
        "model.embed_tokens.": "backbone.embedding.",
        "model.final_layernorm.": "backbone.final_layernorm.",
        "model.layers.": "backbone.layers.",
        ".mamba.": ".mixer.",
        ".pre_ff_layernorm.": ".post_attention_layernorm.",
        ".feed_forward.": ".mlp.",
    }
    state = {}
    for name, tensor in model.state_dict().items():
        if told["tie_embeddings"] and name == "lm_head.weight":
            continue
        for ours, theirs in back.items():
            name = name.replace(ours, theirs)
        if name != without:
            state[name] = tensor.contiguous().clone()
    place.mkdir()
    save_file(state, place / "model.safetensors")
    (place / "config.json").write_text(json.dumps(told))
    return model.eval()


@pytest.mark.parametrize("tied", [False, True])
def test_a_published_folder_becomes_our_model(tmp_path, tied):
    wanted = folder(tmp_path / "llamba", values(tie_embeddings=tied))
    found = load.load_model(str(tmp_path / "llamba"))
    assert isinstance(found.config, LimbeckLlambaConfig)
    assert found.config.vocab_size == 64
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        torch.testing.assert_close(found(ids).logits, wanted(ids).logits, rtol=0, atol=0)
    assert (found.lm_head.weight is found.model.embed_tokens.weight) == tied


def test_a_tensor_that_is_missing_is_named(tmp_path):
    folder(tmp_path / "llamba", values(), without="backbone.layers.1.mixer.D")
    with pytest.raises(ModelError, match=r"layers\.1\.mamba\.D"):
        load.load_model(str(tmp_path / "llamba"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ssm_cfg": MIXER | {"activation": "silu"}}, "activation"),
        ({"ssm_cfg": MIXER | {"expand": 2}}, "expand"),
        ({"lm_head_bias": True}, "lm_head_bias"),
        ({"mlp_cfg": {}}, "intermediate_size"),
    ],
)
def test_what_our_model_has_not_is_refused(tmp_path, changes, told):
    (tmp_path / "config.json").write_text(json.dumps(values(**changes)))
    with pytest.raises(ModelError, match=told):
        load.load_config(str(tmp_path))


def test_mixers_of_another_hybrid_are_taken_as_they_are(tmp_path):
    donor = folder(tmp_path / "llamba", values())
    student = hybrid.LimbeckLlambaForCausalLM(donor.config)
    openings.of_another(student, load.load_model(str(tmp_path / "llamba")))
    theirs = hybrid.mixers(donor)
    for number, mixer in hybrid.mixers(student).items():
        for name, tensor in mixer.state_dict().items():
            assert torch.equal(tensor, theirs[number].state_dict()[name])
    wide = donor.config.hidden_size
    known = {"num_hidden_layers": 2, "hidden_size": wide, "num_attention_heads": 4}
    like = LlamaConfig(**known)
    assert openings.sizes(donor, "discrete_mamba2", like, []) == {"heads": 4, "state": 8}
    for changes, told in (
        ({"num_hidden_layers": 3}, "num_hidden_layers 2 found; wanted num_hidden_layers 3"),
        ({"hidden_size": 2 * wide}, f"hidden_size {wide} found; wanted hidden_size {2 * wide}"),
    ):
        with pytest.raises(RecipeError, match=told):
            openings.sizes(donor, "discrete_mamba2", LlamaConfig(**known | changes), [])


def test_mixers_of_a_bamba_of_another_kind_are_refused_by_their_config():
    sizes = tiny_hybrid.SIZES | {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1}
    config = BambaConfig(**sizes, mamba_d_state=4, mamba_expand=2, attn_layer_indices=[1])
    with torch.device("meta"):
        donor = BambaForCausalLM(config)
    like = tiny_hybrid.teacher().config
    told = "mamba_n_groups 1, mamba_expand 2 found; wanted mamba_n_groups 4, mamba_expand 1: a hybrid with mixers mamba2"
    with pytest.raises(RecipeError, match=told):
        openings.sizes(donor, "mamba2", like, [1])
    other = tiny_hybrid.made(tiny_hybrid.teacher(), "mamba2", [1])
    assert openings.sizes(other, "mamba2", like, [1, 2]) == {"heads": 4, "state": 4}
    with pytest.raises(RecipeError, match="block 1 has attention there"):
        openings.sizes(other, "mamba2", like, [2])


def test_mixers_from_elsewhere_are_told_no_sizes_of_their_own():
    with pytest.raises(RecipeError, match="start, heads and mixers_of are given"):
        tiny_hybrid.made(
            tiny_hybrid.teacher(), "discrete_mamba2", mixers_of="x", heads=2, start="identity"
        )
