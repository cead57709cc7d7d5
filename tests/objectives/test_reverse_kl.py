import golden
import pytest
import tiny
import torch

from limbeck.objectives.forward_kl import forward_kl
from limbeck.objectives.reverse_kl import reverse_kl
from limbeck.types import TopK


def test_known_values():
    teacher, student = torch.tensor([[[2.0, 1.0, 0.0]], [[0.0, 1.0, 2.0]]], dtype=torch.float64)
    assert golden.value(reverse_kl, teacher, student) == pytest.approx(1.1504207652, abs=5e-11)
    found = golden.value(reverse_kl, golden.TEACHER, golden.STUDENT)
    assert found == pytest.approx(0.9795541252, abs=5e-11)


def test_it_is_forward_kl_with_the_sides_swapped():
    teacher, student = tiny.randn(2, 5, 11)
    found = reverse_kl(student, teacher, tiny.rows(5), temperature=2.0)
    swapped = forward_kl(teacher, student, tiny.rows(5), temperature=2.0)
    torch.testing.assert_close(found, swapped, atol=1e-12, rtol=0)


def test_rest_rounded_to_nothing_gives_a_finite_value_and_gradient():
    student = tiny.randn(3, 8).requires_grad_()
    certain = TopK(torch.zeros(3, 1, dtype=torch.int64), torch.zeros(3, 1, dtype=torch.float64))
    found = reverse_kl(student, certain, tiny.rows(3))
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(student.grad).all()
    assert (student.grad[:, 0] < 0).all()


def test_mass_where_the_teacher_has_none_is_infinite_and_not_nan():
    teacher = torch.tensor([[0.0, 0.0, -torch.inf]])
    assert golden.value(reverse_kl, teacher, torch.zeros(1, 3)) == torch.inf
