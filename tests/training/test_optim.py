"""Schedules hit their golden numbers; norms and biases do not decay."""

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from limbeck.recipe import Optimizer
from limbeck.training.optim import adamw, groups, ratio

WSD = Optimizer(schedule="wsd", warmup_ratio=0.1, decay_ratio=0.1, minimum_ratio=1e-3)


@pytest.mark.parametrize(
    ("step", "wanted"),
    [(0, 0.1), (9, 1.0), (89, 1.0), (90, 0.684088), (95, 0.226178), (98, 0.052265), (99, 0.001)],
)
def test_wsd_has_its_golden_values(step, wanted):
    assert ratio(step, 100, WSD) == pytest.approx(wanted, abs=1e-6)


@given(
    steps=st.integers(1, 400),
    schedule=st.sampled_from(["cosine", "linear", "constant", "wsd"]),
    warmup=st.floats(0, 0.9),
    decay=st.floats(0, 1),
    floor=st.floats(1e-4, 1),
)
def test_no_schedule_is_ever_below_its_floor_or_above_the_peak(
    steps, schedule, warmup, decay, floor
):
    both = {"warmup_ratio": warmup, "decay_ratio": min(decay, 1 - warmup)}
    asked = Optimizer(schedule=schedule, minimum_ratio=floor, **both)
    found = [ratio(step, steps, asked) for step in range(steps)]
    assert min(found) >= floor - 1e-12
    assert max(found) <= 1 + 1e-12


def test_wsd_does_not_fall_before_it_has_risen():
    with pytest.raises(ValidationError, match=r"1\.1 together; wanted 1 at most"):
        Optimizer(schedule="wsd", warmup_ratio=0.6, decay_ratio=0.5)
    assert Optimizer(schedule="wsd", warmup_ratio=0.3, decay_ratio=0.7)
    assert Optimizer(schedule="cosine", warmup_ratio=0.6, decay_ratio=0.5)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_cosine_and_linear_start_at_the_peak_and_fall(schedule):
    asked = Optimizer(schedule=schedule, warmup_ratio=0.1, minimum_ratio=0.0)
    found = [ratio(step, 100, asked) for step in range(100)]
    assert found[9] == found[10] == 1.0
    assert found[10:] == sorted(set(found[10:]), reverse=True)
    assert 0 < found[-1] < 0.02


def test_a_second_stage_starts_at_its_own_peak_and_not_where_the_first_ended():
    first = [ratio(step, 50, WSD) for step in range(50)]
    second = Optimizer(schedule="constant", warmup_ratio=0.0)
    assert first[-1] == pytest.approx(1e-3)
    assert ratio(0, 20, second) == 1.0


def test_norms_and_biases_do_not_decay():
    model = tiny.llama()
    model.model.layers[0].self_attn.q_proj.bias = torch.nn.Parameter(torch.zeros(16))
    named = dict(model.named_parameters())
    decayed, plain = groups(named.items(), 0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    without = {name for name, tensor in named.items() if any(tensor is p for p in plain["params"])}
    assert all("norm" in name or name.endswith("bias") for name in without)
    assert "model.layers.0.self_attn.q_proj.bias" in without
    assert sum(map(len, (decayed["params"], plain["params"]))) == len(named)


def test_a_frozen_parameter_is_in_no_group():
    model = tiny.llama()
    model.model.embed_tokens.weight.requires_grad_(False)
    found = [p for group in adamw(model, Optimizer()).param_groups for p in group["params"]]
    assert not any(p is model.model.embed_tokens.weight for p in found)
