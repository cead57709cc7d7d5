import math

import golden
import pytest
import tiny
import torch

from limbeck.errors import RecipeError
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.forward_kl import forward_kl
from limbeck.types import TopK


@pytest.mark.parametrize(
    ("temperature", "scale_t2", "known"),
    [
        (1.0, True, 1.1504207652),
        (2.0, False, 0.3201566678),
        (2.0, True, 1.2806266713),
        (4.0, True, 1.3196299122),
        (40.0, True, 1.3331944632),
    ],
)
def test_known_values_at_each_temperature(temperature, scale_t2, known):
    teacher, student = torch.tensor([[[2.0, 1.0, 0.0]], [[0.0, 1.0, 2.0]]], dtype=torch.float64)
    found = golden.value(forward_kl, teacher, student, temperature=temperature, scale_t2=scale_t2)
    assert found == pytest.approx(known, abs=5e-11)


def test_known_value_changes_when_the_sides_are_swapped():
    assert golden.value(forward_kl, golden.TEACHER, golden.STUDENT) == pytest.approx(
        0.8744830587, abs=5e-11
    )
    assert golden.value(forward_kl, golden.STUDENT, golden.TEACHER) == pytest.approx(
        0.9795541252, abs=5e-11
    )


def test_great_temperature_gives_half_the_variance_of_the_gap():
    found = golden.value(forward_kl, golden.TEACHER, golden.STUDENT, temperature=1000.0)
    assert found == pytest.approx(0.90896046, abs=5e-9)
    half = 0.5 * (golden.TEACHER - golden.STUDENT).var(correction=0).item()
    assert half == pytest.approx(0.9084375, abs=1e-12)
    assert found == pytest.approx(half, abs=1e-3)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_gradient_is_temperature_times_the_gap_of_probabilities(temperature):
    teacher, student = tiny.randn(2, 5, 11)
    student = student.clone().requires_grad_()
    forward_kl(student, teacher, tiny.rows(5), temperature=temperature).mean().backward()
    gap = (student / temperature).softmax(-1) - (teacher / temperature).softmax(-1)
    torch.testing.assert_close(student.grad, temperature * gap / 5, atol=1e-12, rtol=0)
    assert student.grad.sum(-1).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("k", "tail", "known"),
    [
        (2, "bucket", 0.2950640694),
        (2, "renorm_teacher", 0.9729237441),
        (2, "none", 0.5139312538),
        (2, "renorm_both", 0.0566330123),
        (3, "bucket", 0.3000979478),
    ],
)
@pytest.mark.parametrize("rest", [True, False])
def test_known_values_of_each_tail(k, tail, known, rest):
    teacher = golden.topk(golden.P.log(), k, rest=rest)
    found = golden.value(forward_kl, teacher, golden.Q.log(), tail=tail)
    assert found == pytest.approx(known, abs=5e-11)


def test_known_dense_value():
    found = golden.value(forward_kl, golden.P.log(), golden.Q.log())
    assert found == pytest.approx(0.3000979478, abs=5e-11)


def test_without_a_tail_the_value_can_be_negative():
    logprobs = torch.full((1, 2), 0.1, dtype=torch.float64).log()
    teacher = TopK(torch.tensor([[0, 1]]), logprobs)
    student = torch.tensor([[0.3, 0.3] + [0.05] * 8], dtype=torch.float64).log()
    assert golden.value(forward_kl, teacher, student, tail="none") == pytest.approx(
        -0.2197224577, abs=5e-11
    )


def test_renorm_both_is_blind_to_mass_outside_and_bucket_is_not():
    student = torch.tensor([[0.02, 0.01, 0.485, 0.485]], dtype=torch.float64).log()
    teacher = golden.topk(golden.P.log(), 2)
    dense = golden.value(forward_kl, golden.P.log(), student)
    assert dense == pytest.approx(2.0802319586, abs=5e-11)
    assert abs(golden.value(forward_kl, teacher, student, tail="renorm_both")) < 1e-12
    assert golden.value(forward_kl, teacher, student) > 1


def test_bucket_never_exceeds_the_dense_value():
    source = tiny.generator(7)
    for _ in range(1000):
        vocab = int(torch.randint(3, 12, (1,), generator=source))
        k = int(torch.randint(1, vocab, (1,), generator=source))
        pair = 3 * torch.randn(2, 1, vocab, generator=source, dtype=torch.float64)
        kept = golden.value(forward_kl, golden.topk(pair[0], k), pair[1])
        assert -1e-12 < kept <= golden.value(forward_kl, pair[0], pair[1]) + 1e-12


def test_bucket_with_one_missing_token_is_dense_at_every_temperature():
    teacher, student = tiny.randn(2, 6, 9)
    for temperature in (0.5, 1.0, 4.0):
        kept = forward_kl(student, golden.topk(teacher, 8), tiny.rows(6), temperature=temperature)
        dense = forward_kl(student, teacher, tiny.rows(6), temperature=temperature)
        torch.testing.assert_close(kept, dense, atol=1e-10, rtol=0)


def test_even_tails_give_the_dense_value_at_every_temperature():
    """The teacher's rest is taken as spread evenly; where both tails are, nothing is lost."""
    teacher, student = tiny.randn(2, 6, 9)
    teacher[:, 4:], student[:, 4:] = -3.0, -2.0
    ids = torch.arange(4).expand(6, 4)
    logprobs = teacher.log_softmax(-1)
    kept = TopK(ids, logprobs[:, :4], logprobs[:, 4:].logsumexp(-1))
    for temperature in (0.5, 2.0, 40.0):
        sparse = forward_kl(student, kept, tiny.rows(6), temperature=temperature)
        dense = forward_kl(student, teacher, tiny.rows(6), temperature=temperature)
        torch.testing.assert_close(sparse, dense, atol=1e-10, rtol=0)


def test_a_teacher_certain_of_the_label_gives_cross_entropy():
    rows = tiny.rows(5, vocab=11)
    student = tiny.randn(5, 11)
    certain = TopK(rows.labels.unsqueeze(-1), torch.zeros(5, 1, dtype=torch.float64))
    for rest in (None, torch.full((5,), -torch.inf, dtype=torch.float64)):
        found = forward_kl(student, TopK(certain.ids, certain.logprobs, rest), rows)
        torch.testing.assert_close(found, cross_entropy(student, None, rows), atol=1e-12, rtol=0)


def test_student_certain_of_no_kept_token_keeps_its_digits():
    """1 - (mass on the kept ids) is 0 in float32 here; the exact tail still tells 30 nats from 40."""
    student = torch.tensor([[0.0, -30.0, -40.0]])
    teacher = TopK(torch.tensor([[0]]), torch.tensor([[math.log(0.5)]]))
    found = golden.value(forward_kl, teacher, student)
    assert found == pytest.approx(0.5 * math.log(0.5) + 0.5 * (math.log(0.5) + 30), abs=1e-4)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_temperature_that_is_no_positive_number_is_refused(temperature):
    with pytest.raises(RecipeError, match="temperature"):
        forward_kl(golden.STUDENT, golden.TEACHER, tiny.rows(1), temperature=temperature)


def test_unlike_vocabularies_are_refused():
    with pytest.raises(RecipeError, match="translated"):
        forward_kl(golden.STUDENT, golden.TEACHER[:, :3], tiny.rows(1))
