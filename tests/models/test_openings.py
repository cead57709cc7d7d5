"""What mixers begin as: the attention that they replace, without its softmax and positions, or a gate and a convolution
that do nothing.
"""

import math

import pytest
import tiny
import tiny_hybrid
import torch
from tiny_hybrid import made, teacher
from torch.nn import functional
from transformers.models.llama.modeling_llama import repeat_kv

from limbeck.errors import RecipeError
from limbeck.models import hybrid, mixers, openings
from limbeck.models.mixers import GATE_OPEN
from limbeck.objectives._mixing import matrix

TIME = 9


def hidden(*, dtype=torch.float64, seed=1):
    return tiny.randn(2, TIME, 16, seed=seed).to(dtype)


def without_decay(mixer):
    """Every decay 1: the rows that it is made of are 0, but for a channel that is made to count -1e4."""
    decay = slice(mixer.channels + mixer.inner, None)
    with torch.no_grad():
        mixer.in_proj.weight[decay] = 0
        mixer.in_proj.weight[decay, 0] = -1e4
    return mixer


def linear_attention(attention, inputs):
    """(Q K^T / sqrt(width) where the key is not later) V, of each head, through the output's weights."""
    batch, time, _ = inputs.shape
    query, key, value = (
        layer(inputs).view(batch, time, -1, attention.head_dim).transpose(1, 2)
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    shared = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, shared), repeat_kv(value, shared)
    products = (query @ key.mT / math.sqrt(attention.head_dim)).tril()
    found = (products @ value).transpose(1, 2).flatten(2)
    return functional.linear(found, attention.o_proj.weight)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_with_decays_of_one_a_mixer_begins_as_causal_linear_attention(kind, kv_heads):
    origin = teacher(kind, dtype=torch.float64, num_key_value_heads=kv_heads)
    student = made(origin, "discrete_mamba2", [1], start="attention")
    inputs = hidden()
    inputs[..., 0] = 1
    for number, mixer in hybrid.mixers(student).items():
        found = without_decay(mixer)(inputs)
        wanted = linear_attention(origin.model.layers[number].self_attn, inputs)
        torch.testing.assert_close(found, wanted, atol=1e-10, rtol=1e-10)
    assert sorted(hybrid.mixers(student)) == [0, 2]


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_a_bamba_takes_the_same_rows_behind_its_gate(kv_heads):
    origin = teacher("qwen2", dtype=torch.float64, num_key_value_heads=kv_heads)
    inputs = hidden()
    for number, mixer in hybrid.mixers(made(origin, "mamba2")).items():
        attention = origin.model.layers[number].self_attn
        told = []
        with mixers.watched(mixer, told.append):
            mixer(inputs)
        for found, layer, scale in (
            (told[0].values, attention.v_proj, 1.0),
            (told[0].write, attention.k_proj, 1.0),
            (told[0].read, attention.q_proj, 0.5),
        ):
            wanted = layer(inputs).view(2, TIME, -1, 4).transpose(1, 2)
            wanted = repeat_kv(wanted, 4 // wanted.shape[1]).transpose(1, 2) * scale
            torch.testing.assert_close(found, functional.silu(wanted), atol=1e-10, rtol=0)
        assert torch.equal(mixer.out_proj.weight, attention.o_proj.weight)
        assert not mixer.D.any()


def test_a_bambas_decays_begin_as_mamba_2s():
    """Time steps between a thousandth and a tenth, rates between 1 and 16, and no two heads alike."""
    origin = teacher(num_attention_heads=8, num_key_value_heads=4)
    mixer = hybrid.mixers(made(origin, "mamba2"))[0]
    steps, rates = functional.softplus(mixer.dt_bias), mixer.A_log.exp()
    torch.testing.assert_close(steps.aminmax(), (torch.tensor(0.001), torch.tensor(0.1)))
    torch.testing.assert_close(rates.aminmax(), (torch.tensor(1.0), torch.tensor(16.0)))
    assert len(set((steps * rates).tolist())) == 8


def test_an_identity_mixer_is_its_output_of_its_matrix_times_its_values():
    student = made(teacher(dtype=torch.float64), "discrete_mamba2", [1], start="identity")
    inputs = hidden()
    for mixer in hybrid.mixers(student).values():
        told = []
        with mixers.watched(mixer, told.append):
            found = mixer(inputs)
        projected = mixer.in_proj(inputs)
        values = projected[..., : mixer.inner].unflatten(-1, (4, 4))
        torch.testing.assert_close(told[0].values, values, atol=0, rtol=0)
        flow = told[0]
        whole = matrix(flow.write, flow.read, flow.log_decay, skip=flow.skip)
        mixed = torch.einsum("bhts,bshp->bthp", whole, values).flatten(2)
        torch.testing.assert_close(found, mixer.out_proj(mixed), atol=1e-9, rtol=0)
        assert bool((mixer.D == 1).all())
        assert bool((mixer.z_bias == GATE_OPEN).all())
        assert not mixer.in_proj.weight[mixer.channels : mixer.channels + mixer.inner].any()


def test_an_identity_convolution_returns_what_it_is_given():
    mixer = hybrid.mixers(made(teacher(), "discrete_mamba2", start="identity"))[0]
    inputs = tiny.randn(1, mixer.channels, TIME).float()
    assert torch.equal(mixer.conv1d(inputs)[..., :TIME], inputs)


def test_sizes_that_an_attention_has_not_are_refused_as_a_start():
    for sizes in ({"heads": 2}, {"state": 8}):
        with pytest.raises(
            RecipeError, match="'attention' needs the attention's own 4 heads and a"
        ):
            made(teacher(), "discrete_mamba2", start="attention", **sizes)
        made(teacher(), "discrete_mamba2", start="identity", **sizes)


def test_a_bamba_cannot_begin_as_an_identity():
    with pytest.raises(RecipeError, match="'identity' found; the mixer mamba2 has a norm"):
        made(teacher(), "mamba2", start="identity")


@pytest.mark.parametrize("mixer", tiny_hybrid.MIXERS)
def test_what_a_start_leaves_to_chance_is_the_seeds(mixer):
    one, same = (made(teacher(), mixer).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert all(tensor.isfinite().all() for tensor in one.values())


def test_a_start_touches_no_teacher():
    origin = teacher()
    before = {name: tensor.clone() for name, tensor in origin.state_dict().items()}
    openings.from_attention(made(origin, "discrete_mamba2"), origin)
    assert all(torch.equal(before[name], tensor) for name, tensor in origin.state_dict().items())
