"""The mixing matrix is a Frobenius norm over heads and rows, document by document: explicit loops say the same."""

from dataclasses import replace

import pytest
import tiny
import torch
from torch.nn import functional

from limbeck.errors import ModelError
from limbeck.objectives import _mixing
from limbeck.objectives.mixing_matrix import mixing_matrix
from limbeck.types import Heads, Mixing

TIME, HEADS, STATE = 9, 4, 3
EDGES = torch.tensor([0, 1, 5, 9], dtype=torch.int32)


def mixer(*, groups=2, scaled=False, edges=EDGES, dtype=torch.float64, heads=HEADS):
    """Factors of a mixer's matrix; each is a leaf that takes a gradient."""
    each = [
        tiny.randn(TIME, groups, STATE, seed=1),
        tiny.randn(TIME, groups, STATE, seed=2),
        functional.logsigmoid(tiny.randn(TIME, heads, seed=3)),
        tiny.randn(TIME, heads, seed=4).abs() if scaled else None,
        tiny.randn(heads, seed=5),
    ]
    return Mixing(*(e if e is None else e.to(dtype).requires_grad_() for e in each), edges)


def attention(*, kv_heads=2, edges=EDGES, dtype=torch.float64, heads=HEADS):
    queries, keys, values = (
        tiny.randn(TIME, count, 5, seed=seed).to(dtype)
        for seed, count in ((6, heads), (7, kv_heads), (8, kv_heads))
    )
    return Heads(queries, keys, values, edges, 0.7)


def rows(*uncounted, weight=1.0):
    found = tiny.rows(TIME)
    found.weights.fill_(weight)
    found.weights[list(uncounted)] = 0.0
    return found


def document_of(edges, token):
    return int(torch.searchsorted(edges, torch.tensor(token), right=True))


def slow(student, teacher, counted):
    """mean over heads of sqrt(sum over counted queries and seen tokens of (M - A)^2), entry by entry."""
    norms = []
    heads = student.log_decay.shape[1]
    for head in range(heads):
        group = head // (heads // student.write.shape[1])
        served = head // (heads // teacher.keys.shape[1])
        total = torch.zeros((), dtype=torch.float64)
        for t in range(TIME):
            if not counted[t]:
                continue
            mine = [
                s
                for s in range(t + 1)
                if document_of(student.edges, s) == document_of(student.edges, t)
            ]
            scores = torch.stack(
                [teacher.scale * teacher.queries[t, head] @ teacher.keys[s, served] for s in mine]
            )
            wanted = scores.softmax(0)
            for s, looked in zip(mine, wanted, strict=True):
                entry = student.read[t, group] @ student.write[s, group]
                for between in range(s + 1, t + 1):
                    entry = entry * student.log_decay[between, head].exp()
                if student.scale is not None:
                    entry = entry * student.scale[s, head]
                if s == t:
                    entry = entry + student.skip[head]
                total = total + (entry - looked) ** 2
        norms.append(total.sqrt())
    return torch.stack(norms).mean()


def leaves(found):
    return [
        e
        for e in (found.write, found.read, found.log_decay, found.scale, found.skip)
        if e is not None
    ]


@pytest.mark.parametrize("edges", [EDGES, EDGES[[0, -1]]], ids=["documents", "one document"])
@pytest.mark.parametrize(("groups", "kv_heads"), [(4, 1), (2, 2), (1, 4)])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("uncounted", [(), (0, 3, 8)])
def test_value_and_gradient_are_those_of_explicit_loops(edges, groups, kv_heads, scaled, uncounted):
    student = mixer(groups=groups, scaled=scaled, edges=edges)
    teacher, given = attention(kv_heads=kv_heads, edges=edges), rows(*uncounted)
    found = mixing_matrix(student, teacher, given)
    wanted = slow(student, teacher, given.weights != 0)
    assert found.shape == (TIME,)
    assert not found[list(uncounted)].any()
    mean = (found * given.weights).sum() / given.weights.sum()
    # A trillionth stands under each root.
    torch.testing.assert_close(mean, wanted, atol=1e-9, rtol=0)
    mine, theirs = (torch.autograd.grad(v, leaves(student)) for v in (mean, wanted))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


def test_the_weight_of_a_row_scales_it_and_its_norm_stays():
    whole = mixing_matrix(mixer(), attention(), rows())
    half = mixing_matrix(mixer(), attention(), rows(weight=0.5))
    torch.testing.assert_close(half, whole, atol=0, rtol=0)


def itself(student):
    """Factors whose matrix is the attention's of one document: one token sees itself alone, and A is 1."""
    return replace(student, edges=torch.arange(TIME + 1, dtype=torch.int32))


def test_equal_matrices_differ_by_nothing_and_their_gradient_is_finite():
    """Documents of one token: A is 1, and so is M where the mixer writes nothing and keeps all."""
    student = itself(mixer())
    with torch.no_grad():
        student.write.zero_()
        student.skip.fill_(1)
    teacher = replace(attention(), edges=student.edges)
    found = mixing_matrix(student, teacher, rows())
    assert not found.any()
    slopes = torch.autograd.grad(found.sum(), leaves(student))
    assert all(slope.isfinite().all() for slope in slopes)
    with torch.no_grad():
        student.skip.fill_(1.001)
    apart = float(mixing_matrix(student, teacher, rows()).mean().detach())
    assert apart == pytest.approx(0.001 * TIME**0.5, rel=1e-6)


def test_no_counted_token_gives_nothing_and_finite_gradients():
    student = mixer()
    found = mixing_matrix(student, attention(), rows(*range(TIME)))
    assert not found.any()
    assert all(s.isfinite().all() for s in torch.autograd.grad(found.sum(), leaves(student)))


def test_matrices_in_parts_of_heads_are_the_whole(monkeypatch):
    student = mixer()
    whole = mixing_matrix(student, attention(), rows(2))
    slopes = torch.autograd.grad(whole.sum(), leaves(student))
    monkeypatch.setattr(
        _mixing, "_ENTRIES", 20
    )  # of the longest documents one head, of the first several
    parts = mixing_matrix(student, attention(), rows(2))
    torch.testing.assert_close(parts, whole, atol=1e-12, rtol=0)
    for one, other in zip(torch.autograd.grad(parts.sum(), leaves(student)), slopes, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_bfloat16_is_lifted_before_anything_is_multiplied():
    low = mixer(dtype=torch.bfloat16), attention(dtype=torch.bfloat16)
    high = (
        Mixing(*(e if e is None else e.detach().float() for e in (
            low[0].write, low[0].read, low[0].log_decay, low[0].scale, low[0].skip)), EDGES),
        Heads(*(e.float() for e in (low[1].queries, low[1].keys, low[1].values)), EDGES, 0.7),
    )  # fmt: skip
    found = mixing_matrix(*low, rows())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, mixing_matrix(*high, rows()), atol=1e-6, rtol=0)


def test_extreme_decays_have_finite_gradients():
    student = mixer()
    with torch.no_grad():
        student.log_decay[2] = -1e4
        student.log_decay[6] = -torch.inf
        student.log_decay[7] = 0
    found = mixing_matrix(student, attention(), rows())
    assert found.isfinite().all()
    assert all(s.isfinite().all() for s in torch.autograd.grad(found.sum(), leaves(student)))


def test_other_numbers_of_heads_are_refused():
    with pytest.raises(
        ModelError, match="the student's mixer has 2 heads, the teacher's attention 4"
    ):
        mixing_matrix(mixer(heads=2), attention(), rows())


def test_no_gradient_reaches_the_teacher():
    teacher = attention()
    for part in (teacher.queries, teacher.keys):
        part.requires_grad_()
    mixing_matrix(mixer(), teacher, rows()).sum().backward()
    assert teacher.queries.grad is None
    assert teacher.keys.grad is None
