"""Attention transfer: against the plain matrices, in float64, with other head counts and packed documents."""

import math

import pytest
import tiny
import torch

from limbeck.errors import RecipeError
from limbeck.objectives import _attention
from limbeck.objectives.attention_transfer import attention_transfer
from limbeck.types import Heads


def heads(*, queries=4, keys=2, width=6, edges=(0, 5, 9), seed=0, dtype=torch.float64, scale=0.3):
    tokens = edges[-1]
    parts = [
        tiny.randn(tokens, count, width, seed=seed + number, dtype=dtype)
        for number, count in enumerate((queries, keys, keys))
    ]
    return Heads(*parts, torch.tensor(edges, dtype=torch.int32), scale)


def slow(student, teacher, names, relation_heads):
    """Row by row, head by head, in plain softmaxes over the tokens before."""
    values = []
    for begin, end in zip(student.edges[:-1].tolist(), student.edges[1:].tolist(), strict=True):
        for row in range(begin, end):
            total = 0.0
            for name in names:
                sides = []
                for side in (student, teacher):
                    vectors = getattr(side, name).reshape(
                        -1,
                        relation_heads,
                        math.prod(getattr(side, name).shape[1:]) // relation_heads,
                    )
                    products = torch.einsum("hw,thw->ht", vectors[row], vectors[begin : row + 1])
                    sides.append((products / math.sqrt(vectors.shape[-1])).log_softmax(-1))
                log_q, log_p = sides
                total = total + (log_p.exp() * (log_p - log_q)).sum(-1).mean()
            values.append(total)
    return torch.stack(values)


def slow_scores(student, teacher):
    values = []
    for begin, end in zip(student.edges[:-1].tolist(), student.edges[1:].tolist(), strict=True):
        for row in range(begin, end):
            sides = []
            for side in (student, teacher):
                each = side.queries.shape[1] // side.keys.shape[1]
                keys = side.keys[begin : row + 1].repeat_interleave(each, 1)
                sides.append(torch.einsum("hw,thw->ht", side.queries[row], keys) * side.scale)
            values.append((sides[0] - sides[1]).square().mean())
    return torch.stack(values)


@pytest.mark.parametrize("of", [("queries",), ("keys", "values"), ("queries", "keys", "values")])
def test_relations_are_those_of_the_plain_matrices(of):
    student, teacher = heads(seed=1), heads(queries=8, keys=4, width=5, seed=7)
    found = attention_transfer(student, teacher, tiny.rows(9), of=of)
    torch.testing.assert_close(found, slow(student, teacher, of, 2), atol=1e-12, rtol=0)


def test_relation_heads_can_be_chosen():
    student, teacher = heads(seed=1), heads(queries=8, keys=4, width=6, seed=7)
    names = ("queries", "keys", "values")
    found = attention_transfer(student, teacher, tiny.rows(9), relation_heads=3)
    torch.testing.assert_close(found, slow(student, teacher, names, 3), atol=1e-12, rtol=0)
    with pytest.raises(RecipeError, match="relation_heads 5"):
        attention_transfer(student, teacher, tiny.rows(9), relation_heads=5)


def test_scores_are_those_of_the_plain_matrices():
    student, teacher = heads(seed=1), heads(keys=4, width=5, seed=7, scale=0.2)
    found = attention_transfer(student, teacher, tiny.rows(9), compare="scores")
    torch.testing.assert_close(found, slow_scores(student, teacher), atol=1e-12, rtol=0)
    with pytest.raises(RecipeError, match="relations"):
        attention_transfer(heads(queries=2), teacher, tiny.rows(9), compare="scores")


@pytest.mark.parametrize("compare", ["relations", "scores"])
def test_parts_of_rows_change_nothing(monkeypatch, compare):
    def both():
        student = heads(seed=1)
        for part in (student.queries, student.keys, student.values):
            part.requires_grad_()
        values = attention_transfer(student, heads(seed=5), tiny.rows(9), compare=compare)
        values.square().sum().backward()
        slopes = [part.grad for part in (student.queries, student.keys, student.values)]
        return [values.detach(), *[s for s in slopes if s is not None]]

    whole = both()
    monkeypatch.setattr(_attention, "_ENTRIES", 50)
    for mine, theirs in zip(both(), whole, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("compare", ["relations", "scores"])
def test_equal_sides_are_zero_and_later_tokens_are_not_looked_at(compare):
    student = heads(seed=1)
    same = attention_transfer(student, heads(seed=1), tiny.rows(9), compare=compare)
    torch.testing.assert_close(same, torch.zeros(9, dtype=torch.float64), atol=1e-14, rtol=0)
    teacher = heads(seed=5)
    before = attention_transfer(student, teacher, tiny.rows(9), compare=compare)
    student.queries[3] += 1
    student.keys[3] += 1
    student.values[3] += 1
    after = attention_transfer(student, teacher, tiny.rows(9), compare=compare)
    assert torch.equal(before[:3], after[:3])
    assert torch.equal(before[5:], after[5:])
    assert not torch.equal(before[3:5], after[3:5])


@pytest.mark.parametrize("compare", ["relations", "scores"])
def test_numbers_are_float32_and_the_slope_is_finite(compare):
    student = heads(seed=1, dtype=torch.bfloat16)
    student.queries.requires_grad_()
    values = attention_transfer(
        student, heads(seed=5, dtype=torch.bfloat16), tiny.rows(9), compare=compare
    )
    assert values.dtype == torch.float32
    values.sum().backward()
    assert student.queries.grad.isfinite().all()
