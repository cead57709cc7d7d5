"""A device and a dtype are what the recipe names, or what this machine does best."""

import pytest
import tiny
import torch

from limbeck.errors import ModelError
from limbeck.models.place import cast, device_of, dtype_of

CPU = torch.device("cpu")
no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")


def test_a_named_device_is_that_device():
    assert device_of("cpu") == CPU
    assert device_of("meta") == torch.device("meta")


def test_auto_is_cuda_where_there_is_one():
    assert device_of("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@no_cuda
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_a_device_that_is_not_here_is_refused(name):
    with pytest.raises(ModelError, match=rf"found '{name}', but no CUDA device is here"):
        device_of(name)


def test_a_device_that_is_none_is_refused():
    with pytest.raises(ModelError, match="'cqu' is none that torch knows"):
        device_of("cqu")


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
def test_a_named_dtype_is_that_dtype(name):
    assert dtype_of(name, CPU) == getattr(torch, name)


def test_auto_is_bfloat16_only_where_the_processor_multiplies_it():
    able = torch.cpu.get_capabilities()
    native = any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "arm_bf16"))
    assert dtype_of("auto", CPU) == (torch.bfloat16 if native else torch.float32)


def test_a_cast_model_has_its_rotary_frequencies_in_full_numbers():
    model = tiny.llama(tied=True)
    frequencies = model.model.rotary_emb.inv_freq.clone()
    assert cast(model, torch.bfloat16) is model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.equal(model.model.rotary_emb.inv_freq, frequencies)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert tiny.llama().to(torch.bfloat16).model.rotary_emb.inv_freq.dtype == torch.bfloat16
