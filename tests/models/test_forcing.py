"""Blocks that are fed what a teacher's blocks are fed: each by itself, only then, and without what nobody looks at."""

import pytest
import tiny
import tiny_hybrid
import torch
from tiny_hybrid import made, teacher

from limbeck.models import forcing, layout, taps
from limbeck.types import Wanted

BATCH = tiny.batch(2, 11, documents=(4, 7))
SHAPE = (2, 11, 16)


def entering(origin, batch=BATCH):
    """What each of the teacher's blocks is given, and gives: {number: (batch, time, width)} twice."""
    names = [forcing.entering(number) for number in range(3)]
    outputs = [f"layers.{number}" for number in range(3)]
    with torch.no_grad():
        _, found, _ = taps.signal(origin, batch, Wanted(features=(*names, *outputs)))
    return (
        {number: found[name].view(SHAPE) for number, name in enumerate(names)},
        {number: found[name].view(SHAPE) for number, name in enumerate(outputs)},
    )


def shown(model, *names):
    _, found, _ = taps.signal(model, BATCH, Wanted(features=names))
    return [found[name].view(SHAPE) for name in names]


def test_what_enters_a_block_is_what_the_one_before_gave_and_not_its_norm():
    origin = teacher()
    given, gave = entering(origin)
    assert torch.equal(given[1], gave[0])
    assert torch.equal(given[2], gave[1])
    with torch.no_grad():
        (normed,) = shown(origin, "layers.1.input_layernorm")
    assert (normed - given[1]).abs().max() > 1e-2
    assert torch.equal(given[0], origin.model.embed_tokens(BATCH.input_ids))


@pytest.mark.parametrize("mixer", tiny_hybrid.MIXERS)
def test_each_block_gets_what_is_given_and_runs_freely_again(mixer):
    origin, student = teacher(), made(teacher(seed=3), mixer, "all")
    given, _ = entering(origin)
    names = [forcing.entering(number) for number in range(3)]
    before = shown(student, *names)
    force = forcing.Forcing(student, mixers_alone=False)
    assert all(torch.equal(a, b) for a, b in zip(shown(student, *names), before, strict=True))
    force.give(given)
    for number, found in enumerate(shown(student, *(f"layers.{n}" for n in range(3)))):
        alone = made(teacher(seed=3), mixer, "all")
        forcing.Forcing(alone, mixers_alone=False).give({number: given[number]})
        assert torch.equal(found, shown(alone, f"layers.{number}")[0])
    force.give(None)
    assert all(torch.equal(a, b) for a, b in zip(shown(student, *names), before, strict=True))


def test_no_gradient_of_a_block_reaches_another():
    student = made(teacher(seed=3), "discrete_mamba2", [1])
    given, _ = entering(teacher())
    force = forcing.Forcing(student, mixers_alone=False)
    for number in range(3):
        force.give(given)
        (found,) = shown(student, f"layers.{number}")
        student.zero_grad()
        found.sum().backward()
        reached = {n.split(".")[2] for n, p in student.named_parameters() if p.grad is not None}
        assert reached == {str(number)}
    force.give(None)
    (found,) = shown(student, "layers.2")
    found.sum().backward()
    assert student.model.embed_tokens.weight.grad is not None


@pytest.mark.parametrize("alone", [True, False])
def test_mlps_run_only_where_somebody_looks_behind_mixers(alone):
    student = made(teacher(seed=3), "discrete_mamba2", [1])
    given, calls = entering(teacher())[0], []
    for layer in layout.layers(student):
        layer.feed_forward.gate_proj.register_forward_hook(lambda *_: calls.append(1))
    force = forcing.Forcing(student, mixers_alone=alone)
    force.give(given)
    mixed = shown(student, "layers.0.mamba")[0]
    assert len(calls) == (0 if alone else 3)
    force.give(None)
    calls.clear()
    shown(student, "layers.0")
    assert len(calls) == 3
    other = made(teacher(seed=3), "discrete_mamba2", [1])
    forcing.Forcing(other, mixers_alone=not alone).give(given)
    assert torch.equal(shown(other, "layers.0.mamba")[0], mixed)


def test_what_is_given_comes_in_the_numbers_that_the_student_computes_with():
    student = made(teacher(seed=3, dtype=torch.float64), "discrete_mamba2", [1])
    force = forcing.Forcing(student, mixers_alone=False)
    given, _ = entering(teacher())
    force.give({number: one.bfloat16() for number, one in given.items()})
    (found,) = shown(student, forcing.entering(1))
    assert found.dtype == torch.float64
    assert torch.equal(found, given[1].bfloat16().double())
