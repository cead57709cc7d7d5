"""The work of a token is what a counter of matrix products counts, and the peak of well-known devices is known."""

import pytest
import tiny
import tiny_run
import torch
from torch.utils.flop_counter import FlopCounterMode

from limbeck.recipe import Recipe
from limbeck.training import flops
from limbeck.training.step import Step

LENGTH = 16


def counted(model, *, trains):
    """What PyTorch's counter finds for one row of LENGTH tokens, a token."""
    ids = torch.randint(0, tiny.VOCAB, (1, LENGTH), generator=tiny.generator())
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(trains):
        logits = model(ids, use_cache=False).logits
        if trains:
            logits.sum().backward()
    return counter.get_total_flops() / LENGTH


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("trains", [False, True])
def test_the_work_of_a_token_is_what_a_counter_counts(tied, trains):
    model = tiny.llama(width=64, layers=3, tied=tied)
    model.set_attn_implementation("eager")
    # The first block's inputs need a slope, since the embedding learns; rotary angles are the rest.
    told = flops.per_token(model, length=LENGTH, trains=trains)
    assert told == pytest.approx(counted(model, trains=trains), rel=0.01)


def test_what_is_frozen_has_no_slope_of_its_own():
    model = tiny.llama()
    whole = flops.per_token(model, length=LENGTH, trains=True)
    frozen = model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    assert flops.per_token(model, length=LENGTH, trains=True) == whole - 2 * frozen.numel()


def test_a_live_teacher_is_work_beside():
    student, teacher = tiny.llama(), tiny.llama(layers=4)
    told = {
        "name": "a",
        "student": "s",
        "stages": [
            {"name": "o", "source": "text", "objective": ["forward_kl"], "budget": "1 steps"}
        ],
    }
    told |= {"teacher": "live", "telemetry": {"peak_teraflops": 2.0}}
    given = {"length": LENGTH, "dtype": torch.float32, "plain": True}
    step, world = Step(student, vocab=tiny.VOCAB), tiny_run.world()
    found = flops.fastest(Recipe(**told), step, tiny_run.Alive(teacher), world, **given)
    work = flops.per_token(student, length=LENGTH, trains=True)
    work += flops.per_token(teacher, length=LENGTH, trains=False)
    assert found == pytest.approx(2e12 / work)
    assert flops.fastest(Recipe(**told), step, None, world, **given | {"plain": False}) is None
    unknown = Recipe(**told | {"telemetry": {}})
    assert flops.fastest(unknown, step, None, world, **given) is None


@pytest.mark.parametrize(
    ("device", "peak"),
    [("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA A100-SXM4-80GB", 312),
     ("NVIDIA A10G", 70), ("NVIDIA L40S", 362), ("NVIDIA L4", 121), ("Some GPU", None)],
)  # fmt: skip
def test_a_device_is_known_by_its_name(device, peak):
    assert flops.known_peak(device) == peak
