"""Speed is measured of what generation does, and what is kept is counted to the byte."""

import pytest
import tiny
import torch
from tiny_families import BAMBA, build
from transformers import MambaConfig, MambaForCausalLM

from limbeck.errors import ModelError, RecipeError
from limbeck.evaluation import _speed
from limbeck.evaluation._speed import measure_speed, state_bytes

IDS = torch.randint(3, tiny.VOCAB, (2, 11), generator=tiny.generator())
MAMBA = {**BAMBA, "mamba_expand": 2}  # 4 heads of 8


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "bamba"])
def test_what_is_written_from_the_cache_is_what_the_whole_model_finds(family):
    model = build(family, **(MAMBA if family == "bamba" else {}))
    with torch.no_grad():
        first, state = _speed._prefill(model, IDS)
        written = torch.cat([first, _speed._decode(model, first, state, 5)], -1)
        whole = IDS
        for _ in range(6):
            whole = torch.cat([whole, model(whole).logits[:, -1:].argmax(-1)], -1)
    assert torch.equal(written, whole[:, 11:])


def test_keys_and_values_are_counted_to_the_byte():
    with torch.no_grad():
        _, state = _speed._prefill(build("qwen3"), IDS)
    layers, both, rows, heads, time, width, size = 2, 2, 2, 2, 11, 4, 8
    assert state_bytes(state) == layers * both * rows * heads * time * width * size


def test_states_of_a_hybrid_are_counted_to_the_byte():
    model = build("bamba", **MAMBA)
    with torch.no_grad():
        _, state = _speed._prefill(model, IDS)
    attention = 2 * 2 * 2 * 11 * 4 * 8  # both, rows, heads, time, width, float64
    mixer = model.model.layers[0].mamba
    inner = mixer.conv_dim * mixer.conv_kernel_size
    recurrent = 4 * 8 * 4
    held = vars(state.layers[0])["recurrent_states"][0]
    assert held.numel() == 2 * recurrent
    kept = 2 * (inner * 8 + recurrent * held.element_size())
    assert state_bytes(state) == attention + kept


@pytest.mark.slow
def test_a_hybrid_keeps_less_the_longer_the_prompt():
    models = {"teacher": build("llama"), "student": build("bamba", **MAMBA)}
    found = measure_speed(models, lengths=[8, 32], new_tokens=2, rounds=1)
    kept = {(one["model"], one["length"]): one["state_bytes"] for one in found}
    assert kept["teacher", 32] == 4 * kept["teacher", 8]
    assert (
        kept["student", 32] - kept["student", 8] == (kept["teacher", 32] - kept["teacher", 8]) / 2
    )


@pytest.mark.slow
def test_each_size_has_a_row_a_model_with_medians_of_its_rounds(capsys):
    models = {"one": build("llama"), "other": build("qwen3")}
    found = measure_speed(models, lengths=[4], batch=[1, 3], new_tokens=3, rounds=3)
    sizes = [(one["length"], one["batch"], one["model"]) for one in found]
    wanted = [(n, b, name) for n in (4,) for b in (1, 3) for name in models]
    assert sizes == wanted
    for one in found:
        read, wrote = sorted(one["prefill_seconds"])[1], sorted(one["decode_seconds"])[1]
        assert one["first_token_seconds"] == read
        assert one["prefill_tokens_per_second"] == one["batch"] * one["length"] / read
        assert one["decode_tokens_per_second"] == one["batch"] * 3 / wrote
        assert len(one["prefill_cpu_seconds"]) == len(one["decode_cpu_seconds"]) == 3
        assert one["peak_bytes"] is None or one["peak_bytes"] >= 0
    assert found[0]["parameters"] == sum(p.numel() for p in models["one"].parameters())
    assert "measure speed (turns): 16 of 16" in capsys.readouterr().err


def test_models_take_turns(monkeypatch):
    turns, plain = [], _speed._turn

    def noted(model, ids, found):
        turns.append(found.model)
        plain(model, ids, found)

    monkeypatch.setattr(_speed, "_turn", noted)
    models = {"one": build("llama"), "other": build("qwen3")}
    measure_speed(models, lengths=[4], new_tokens=1, rounds=2)
    assert turns == ["one", "other", "one", "other"]


def test_memory_that_is_needed_for_a_moment_is_seen():
    with _speed._peak(torch.device("cpu")) as above:
        torch.ones(2**23).sum()  # 32 MiB
    if not above:
        pytest.skip("this system does not tell")
    assert 30 * 2**20 < above[0] < 64 * 2**20


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(RecipeError, match="wanted a model or more, and numbers from 1"):
        measure_speed({}, lengths=[4])
    with pytest.raises(RecipeError, match="of 0 or more found"):
        measure_speed({"one": build("llama")}, lengths=[4], rounds=0)
    config = MambaConfig(vocab_size=32, hidden_size=8, num_hidden_layers=1, state_size=4)
    with pytest.raises(ModelError, match="MambaForCausalLM: its past_key_values behind a prompt"):
        measure_speed({"one": MambaForCausalLM(config)}, lengths=[4])
