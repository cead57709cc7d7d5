"""Projectors begin as they are told, at the same numbers each time, and draw nothing from anybody else."""

import pytest
import tiny
import torch

from limbeck.objectives.feature_mse import feature_mse
from limbeck.recipe import Linked
from limbeck.training import projectors
from limbeck.training.links import Joint, Tied


def term(start, widths=(6, 9), *, bias=False, seed=3, name="map"):
    linked = Linked(at=["x"], projector={"start": start, "bias": bias})
    return Tied(feature_mse, "features", (Joint("a", "b", widths, name),), linked, seed)


def made(*terms, seen=None):
    return projectors.made(terms, torch.float64, lambda taps: dict.fromkeys(taps, seen))


def test_equal_taps_through_the_identity_are_zero():
    vectors = tiny.randn(5, 6)
    found = made(term("identity", (6, 6)))["map"](vectors)
    torch.testing.assert_close(found, vectors, atol=0, rtol=0)
    assert not feature_mse(found, vectors, tiny.rows(5)).any()


@pytest.mark.parametrize("widths", [(6, 9), (9, 6)])
def test_orthogonal_keeps_lengths_or_rows(widths):
    weight = made(term("orthogonal", widths))["map"].weight.detach()
    assert weight.shape == (widths[1], widths[0])
    small = weight.T @ weight if widths[0] < widths[1] else weight @ weight.T
    torch.testing.assert_close(small, torch.eye(6, dtype=torch.float64), atol=1e-12, rtol=0)


def test_the_main_directions_are_the_best_that_so_many_columns_can_do():
    hidden, mixing = tiny.randn(200, 4, seed=1), tiny.randn(4, 9, seed=2)
    seen = hidden @ mixing + 3.0
    layer = made(term("pca", (6, 9), bias=True), seen=seen)["map"]
    weight, mean = layer.weight.detach(), layer.bias.detach()
    torch.testing.assert_close(mean, seen.mean(0), atol=1e-12, rtol=0)
    torch.testing.assert_close(
        weight.T @ weight, torch.eye(6, dtype=torch.float64), atol=1e-10, rtol=0
    )
    apart = seen - mean
    torch.testing.assert_close(apart @ weight @ weight.T, apart, atol=1e-9, rtol=0)
    wide = made(term("pca", (12, 9)), seen=seen)["map"].weight
    assert wide.shape == (9, 12)
    assert not wide[:, 9:].any()


def test_the_same_seed_and_name_give_the_same_numbers_and_nobody_else_is_disturbed():
    torch.manual_seed(5)
    first = made(term("random"), term("orthogonal", name="other", bias=True))
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), after)
    again = made(term("orthogonal", name="other", bias=True), term("random"))
    for name in ("map", "other"):
        assert torch.equal(first[name].weight, again[name].weight)
    assert not torch.equal(first["map"].weight, made(term("random", seed=4))["map"].weight)
    assert not first["other"].bias.any()
    assert first["map"].bias is None


def test_random_starts_keep_the_size_of_features():
    weight = made(term("random", (256, 512)))["map"].weight.detach()
    assert float((tiny.randn(64, 256) @ weight.T).std()) == pytest.approx(1, abs=0.05)


def test_the_teacher_is_looked_at_only_where_a_start_asks():
    def never(taps):
        raise AssertionError(taps)

    projectors.made([term("random"), term("identity", name="b")], torch.float32, never)
