"""Sums over tokens whose slopes are made in the forward pass: compiled = eager = the plain way in float64."""

import functools

import pytest
import tiny
import torch

from limbeck.objectives import _compiled
from limbeck.objectives.feature_cosine import feature_cosine
from limbeck.objectives.feature_mse import feature_mse
from limbeck.objectives.feature_norm import feature_norm
from limbeck.training import at_once
from limbeck.training.at_once import summed

OBJECTIVES = {
    "squares": functools.partial(feature_mse),
    "normalised": functools.partial(feature_mse, normalised=True),
    "smooth": functools.partial(feature_mse, smooth_l1=0.5),
    "cosine": functools.partial(feature_cosine),
    "norm": functools.partial(feature_norm, normalised=True),
}
TOKENS, WIDTH = 70, 24
needs_compiler = pytest.mark.skipif(not _compiled.able("cpu"), reason="no C++ compiler is here")


def sides(dtype=torch.float32, *, tokens=TOKENS, width=WIDTH):
    made = [tiny.randn(tokens, width, seed=seed).to(dtype) for seed in (1, 2)]
    weights = torch.linspace(0, 2, tokens) if tokens else torch.zeros(0)
    return *made, tiny.rows(tokens), weights


# What a stage's coefficient may be: 0.2 over the tokens of a step. In bfloat16 it would be a third of a percent more.
COEFFICIENT = 0.2 / 49_153


def slopes(function, told, learning=(True, True)):
    """The sum and the gradients of it times the coefficient."""
    mine, theirs, *others = told
    leaves = [
        one.clone().requires_grad_(wants)
        for one, wants in zip((mine, theirs), learning, strict=True)
    ]
    total = summed(function, *leaves, *others)
    if any(learning):
        (COEFFICIENT * total).backward()
    return [total.detach(), *(one.grad for one in leaves)]


def plainly(function, told):
    """The same by autograd alone, in float64."""
    mine, theirs, rows, weights = told
    leaves = [one.double().requires_grad_() for one in (mine, theirs)]
    total = (function(*leaves, rows) * weights.double()).sum()
    (COEFFICIENT * total).backward()
    return [total.detach(), *(one.grad for one in leaves)]


def asked_for():
    """How often something compiled was asked for."""
    told = at_once._compiled.cache_info()
    return told.hits + told.misses


def close(found, wanted, tolerance):
    for one, other in zip(found, wanted, strict=True):
        if one is not None:
            scale = float(other.abs().max())
            torch.testing.assert_close(
                one.double(), other.double(), atol=tolerance * scale, rtol=tolerance
            )


@needs_compiler
@pytest.mark.parametrize("learning", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_compiled_equals_eager_and_the_plain_way(name, learning, monkeypatch):
    function = OBJECTIVES[name]
    monkeypatch.setattr(at_once, "WIDE", 1)
    before = asked_for()
    compiled = slopes(function, sides(), learning)
    assert asked_for() == before + 1
    monkeypatch.setattr(at_once, "able", lambda device: False)
    eager = slopes(function, sides(), learning)
    assert asked_for() == before + 1
    for found in (compiled, eager):
        assert [one is not None for one in found[1:]] == list(learning)
        close(found, plainly(function, sides()), 2e-6)
    close(compiled, eager, 2e-6)


@needs_compiler
def test_one_compilation_serves_every_width_and_any_number_of_tokens(monkeypatch):
    monkeypatch.setattr(at_once, "WIDE", 1)
    function = functools.partial(feature_mse, normalised=True, smooth_l1=0.25)
    slopes(function, sides())
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    for tokens, width in ((5, 8), (33, 96), (64, 31)):
        told = sides(tokens=tokens, width=width)
        close(slopes(function, told), plainly(function, told), 2e-6)
    assert graphs["unique_graphs"] == before


@needs_compiler
def test_slopes_in_bfloat16_are_those_of_float64_rounded_once(monkeypatch):
    monkeypatch.setattr(at_once, "WIDE", 1)
    for function in OBJECTIVES.values():
        told = sides(torch.bfloat16)
        found, wanted = slopes(function, told), plainly(function, told)
        assert found[1].dtype == torch.bfloat16
        assert float(found[0] / wanted[0]) == pytest.approx(1, abs=1e-5)
        # Once when the slope is kept, once when it is multiplied by what comes from above.
        close(found[1:], wanted[1:], 2.0**-8)
        # Roundings fall on both sides: over all channels next to nothing is left of them.
        for one, other in zip(found[1:], wanted[1:], strict=True):
            assert float((one.double() * other).sum() / other.square().sum()) == pytest.approx(
                1, abs=5e-4
            )


@pytest.mark.parametrize("wide", [1, 1 << 40])
def test_a_token_that_does_not_count_cannot_spoil_the_sum(wide, monkeypatch):
    monkeypatch.setattr(at_once, "WIDE", wide)
    told = sides()
    told[0][0] = float("inf")  # its weight is 0
    found = slopes(OBJECTIVES["squares"], told)
    assert found[0].isfinite()
    assert found[1][1:].isfinite().all()


@pytest.mark.parametrize("wide", [1, 1 << 40])
def test_no_tokens_are_a_sum_of_nothing(wide, monkeypatch):
    monkeypatch.setattr(at_once, "WIDE", wide)
    found = slopes(OBJECTIVES["normalised"], sides(tokens=0))
    assert float(found[0]) == 0
    assert found[1].shape == (0, WIDTH)


def test_what_others_wrote_runs_as_they_wrote_it(monkeypatch):
    monkeypatch.setattr(at_once, "WIDE", 1)
    before = asked_for()

    def rough(student, teacher, rows):
        assert len(student) == len(rows.labels)
        return (student - teacher).abs().amax(-1) * (1 + rows.labels % 2)

    close(slopes(rough, sides()), plainly(rough, sides()), 2e-6)
    assert asked_for() == before


def test_where_nothing_learns_only_the_sum_is_made(monkeypatch):
    monkeypatch.setattr(at_once, "WIDE", 1)
    found = slopes(OBJECTIVES["cosine"], sides(), (False, False))
    with torch.no_grad():
        mine, theirs, *others = sides()
        before = asked_for()
        watched = summed(OBJECTIVES["cosine"], mine.requires_grad_(), theirs, *others)
        assert (asked_for(), watched.requires_grad) == (before, False)
    close(found[:1], plainly(OBJECTIVES["cosine"], sides())[:1], 2e-6)
    assert found[1:] == [None, None]
