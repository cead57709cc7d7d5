"""Relations among units: golden numbers, the obvious loops, and what must not change them."""

import itertools
import math

import pytest
import tiny
import torch

from limbeck.objectives import _relations
from limbeck.objectives.relation_angle import relation_angle
from limbeck.objectives.relation_distance import relation_distance
from limbeck.objectives.relation_gram import relation_gram

ALL = [relation_distance, relation_angle, relation_gram]
TEACHER = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
STUDENT = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)


def mean(function, student, teacher):
    return function(student, teacher, tiny.rows(student.shape[0])).mean()


def huber(gap):
    return gap**2 / 2 if abs(gap) <= 1 else abs(gap) - 0.5


def slow_distance(student, teacher):
    """Over distinct pairs, one after the other."""
    pairs = list(itertools.permutations(range(len(student)), 2))

    def each(units):
        found = {(i, j): math.dist(units[i].tolist(), units[j].tolist()) for i, j in pairs}
        above = [value for value in found.values() if value > 0]
        return {pair: value / (sum(above) / len(above)) for pair, value in found.items()}

    mine, theirs = each(student), each(teacher)
    return sum(huber(mine[p] - theirs[p]) for p in pairs) / len(pairs)


def slow_angle(student, teacher):
    """Over distinct ordered triplets, one after the other."""

    def cos(units, i, j, k):
        one, other = units[i] - units[j], units[k] - units[j]
        return float(one @ other / (one.norm() * other.norm()))

    triplets = list(itertools.permutations(range(len(student)), 3))
    gaps = [cos(student, *each) - cos(teacher, *each) for each in triplets]
    return sum(map(huber, gaps)) / len(gaps)


def test_golden_distances_and_cosines():
    found = _relations.distances(TEACHER)
    torch.testing.assert_close(
        found, torch.tensor([[0.75, 1.0], [0.75, 1.25], [1.0, 1.25]], dtype=torch.float64)
    )
    cosines = _relations.angles(TEACHER, slice(0, 3))
    assert [
        float(cosines[v, i, k]) for v, i, k in [(0, 1, 2), (1, 0, 2), (2, 0, 1)]
    ] == pytest.approx([0, 0.6, 0.8])


def test_golden_losses():
    distance, angle = (
        mean(relation_distance, STUDENT, TEACHER),
        mean(relation_angle, STUDENT, TEACHER),
    )
    assert float(distance) == pytest.approx(0.0052218732, abs=1e-10)
    assert float(distance) * 6 / 9 == pytest.approx(0.0034812488, abs=1e-10)
    assert float(angle) == pytest.approx(0.0033501688, abs=1e-10)
    assert float(angle) * 6 / 27 == pytest.approx(0.0007444820, abs=1e-10)


def test_the_gram_identity_equals_the_loops():
    student, teacher = 3 + tiny.randn(7, 5, seed=1), 40 + tiny.randn(7, 9, seed=2)
    assert float(mean(relation_distance, student, teacher)) == pytest.approx(
        slow_distance(student, teacher), abs=1e-10
    )
    assert float(mean(relation_angle, student, teacher)) == pytest.approx(
        slow_angle(student, teacher), abs=1e-10
    )


def test_the_gram_of_cosines_equals_the_loop():
    student, teacher = tiny.randn(6, 5, seed=1), tiny.randn(6, 9, seed=2)
    cosine = torch.nn.functional.cosine_similarity
    gaps = [
        float((cosine(student[i], student[j], 0) - cosine(teacher[i], teacher[j], 0)) ** 2)
        for i, j in itertools.permutations(range(6), 2)
    ]
    assert float(mean(relation_gram, student, teacher)) == pytest.approx(
        sum(gaps) / len(gaps), abs=1e-10
    )


@pytest.mark.parametrize("function", [relation_distance, relation_angle])
def test_moving_turning_and_scaling_change_nothing(function):
    teacher = tiny.randn(8, 6, seed=3)
    turn, _ = torch.linalg.qr(tiny.randn(6, 6, seed=4))
    moved = 7 * teacher @ turn + 5 * tiny.randn(6, seed=5)
    assert float(mean(function, moved, teacher)) == pytest.approx(0, abs=1e-12)
    assert float(mean(function, tiny.randn(8, 6, seed=6), teacher)) > 1e-3


def test_the_gram_of_cosines_sees_a_move():
    teacher = tiny.randn(8, 6, seed=3)
    assert float(mean(relation_gram, 7 * teacher, teacher)) == pytest.approx(0, abs=1e-12)
    assert float(mean(relation_gram, teacher + 5, teacher)) > 1e-3


@pytest.mark.parametrize("function", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_duplicates_and_few_units_are_finite(function, dtype):
    twice = tiny.randn(4, 6, seed=1)[[0, 0, 1, 2, 1]]
    for units in (twice, torch.zeros(3, 6, dtype=torch.float64), twice[:1], twice[:2], twice[:0]):
        student = units.to(dtype).requires_grad_()
        values = function(
            student, tiny.randn(*units.shape, seed=2).to(dtype), tiny.rows(len(units))
        )
        assert values.shape == (len(units),)
        values.sum().backward()
        assert values.isfinite().all()
        assert student.grad.isfinite().all()
        if len(units) < 2 or (len(units) < 3 and function is relation_angle):
            assert not values.any()


@pytest.mark.parametrize("function", ALL)
def test_the_gradient_is_that_of_finite_differences(function):
    teacher = tiny.randn(5, 4, seed=2)
    student = tiny.randn(5, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: function(x, teacher, tiny.rows(5)), student)


def test_chunks_of_vertices_change_nothing(monkeypatch):
    student, teacher = tiny.randn(9, 5, seed=1).requires_grad_(), tiny.randn(9, 4, seed=2)
    whole = relation_angle(student, teacher, tiny.rows(9))
    (slope,) = torch.autograd.grad(whole.sum(), student)
    monkeypatch.setattr(_relations, "_ENTRIES", 2 * 81)
    parts = relation_angle(student, teacher, tiny.rows(9))
    torch.testing.assert_close(parts, whole, atol=1e-14, rtol=0)
    torch.testing.assert_close(
        torch.autograd.grad(parts.sum(), student)[0], slope, atol=1e-14, rtol=0
    )


def test_memory_of_angles_grows_with_the_square(monkeypatch):
    """The largest tensor that autograd keeps, of twice as many units: four times, not eight."""
    monkeypatch.setattr(_relations, "_ENTRIES", 1)

    def kept(count):
        sizes = []

        def pack(tensor):
            sizes.append(tensor.numel())
            return tensor

        student = tiny.randn(count, 64, seed=1).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            values = relation_angle(student, tiny.randn(count, 64, seed=2), tiny.rows(count))
        values.sum().backward()
        return sum(sizes)

    assert kept(32) < 5 * kept(16)


@pytest.mark.parametrize("function", [relation_distance, relation_angle])
def test_one_huge_unit_does_not_swallow_the_others(function):
    student, teacher = tiny.randn(16, 32, seed=1), tiny.randn(16, 32, seed=2)
    student[0] *= 1e4
    teacher[0] *= 1e4
    precise = mean(function, student, teacher)
    single = mean(function, student.float(), teacher.float())
    assert single.dtype == torch.float32
    assert float(single) == pytest.approx(float(precise), rel=1e-4)
