"""Objectives at taps, against what they say in words, in float64."""

import pytest
import tiny
import torch

from limbeck.errors import RecipeError
from limbeck.objectives.feature_cosine import feature_cosine
from limbeck.objectives.feature_mse import feature_mse
from limbeck.objectives.feature_norm import feature_norm

ROWS = tiny.rows(5)
ALL = [
    feature_mse,
    feature_cosine,
    feature_norm,
    lambda s, t, r: feature_mse(s, t, r, smooth_l1=0.5),
    lambda s, t, r: feature_mse(s, t, r, normalised=True),
    lambda s, t, r: feature_norm(s, t, r, normalised=True),
]


def pair():
    return tiny.randn(5, 7, seed=1).requires_grad_(), tiny.randn(5, 7, seed=2)


def test_mse_is_the_mean_over_channels():
    student, teacher = pair()
    wanted = [
        sum((s - t) ** 2 for s, t in zip(a, b, strict=True)) / 7
        for a, b in zip(student, teacher, strict=True)
    ]
    torch.testing.assert_close(
        feature_mse(student, teacher, ROWS), torch.stack(wanted), atol=1e-12, rtol=0
    )


def test_smooth_l1_is_a_square_near_and_a_line_afar():
    student, teacher = torch.tensor([[0.1, 3.0]]), torch.zeros(1, 2)
    found = feature_mse(student, teacher, tiny.rows(1), smooth_l1=0.5)
    assert float(found) == pytest.approx((0.1**2 / 2 / 0.5 + 3.0 - 0.25) / 2, abs=1e-6)


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan")])
def test_a_beta_that_is_none_is_refused(beta):
    with pytest.raises(RecipeError, match="smooth_l1"):
        feature_mse(*pair(), ROWS, smooth_l1=beta)


def test_cosine_and_norm():
    student, teacher = pair()
    cosine = torch.nn.functional.cosine_similarity(student, teacher, dim=-1)
    torch.testing.assert_close(
        feature_cosine(student, teacher, ROWS), 1 - cosine, atol=1e-7, rtol=0
    )
    distance = torch.linalg.vector_norm(student - teacher, dim=-1)
    torch.testing.assert_close(feature_norm(student, teacher, ROWS), distance, atol=2e-6, rtol=0)


def test_normalised_does_not_see_the_length_of_vectors():
    student, teacher = pair()
    for function in (feature_mse, feature_norm):
        plain = function(student, teacher, ROWS, normalised=True)
        scaled = function(3 * student, 0.2 * teacher, ROWS, normalised=True)
        torch.testing.assert_close(plain, scaled, atol=1e-9, rtol=0)


@pytest.mark.parametrize("function", ALL)
def test_equal_sides_are_zero_with_a_finite_gradient(function):
    student = tiny.randn(5, 7, seed=1).requires_grad_()
    values = function(student, student.detach().clone(), ROWS)
    torch.testing.assert_close(values, torch.zeros(5, dtype=values.dtype), atol=1e-9, rtol=0)
    values.sum().backward()
    assert student.grad.isfinite().all()
    nothing = torch.zeros(5, 7, dtype=torch.float64, requires_grad=True)
    function(nothing, torch.zeros(5, 7, dtype=torch.float64), ROWS).sum().backward()
    assert nothing.grad.isfinite().all()


@pytest.mark.parametrize("function", ALL)
def test_numbers_are_float32_whatever_comes_in(function):
    student, teacher = pair()
    narrow = function(student.bfloat16(), teacher.bfloat16(), ROWS)
    wide = function(student.bfloat16().float(), teacher.bfloat16().float(), ROWS)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, wide, atol=1e-6, rtol=0)


@pytest.mark.parametrize("function", ALL)
def test_other_widths_are_refused(function):
    with pytest.raises(RecipeError, match="projector"):
        function(tiny.randn(5, 6), tiny.randn(5, 7), ROWS)
