import inspect
import typing

import golden
import pytest
import tiny
import torch
from pydantic import TypeAdapter

from limbeck import names
from limbeck.errors import RecipeError
from limbeck.objectives._kept import divergence, mixture, over_kept
from limbeck.objectives.forward_kl import forward_kl
from limbeck.types import TopK

everywhere = pytest.mark.parametrize("name", golden.DIVERGENCES)
each_tail = pytest.mark.parametrize("tail", golden.TAILS)


@everywhere
@pytest.mark.parametrize("shift", [0.0, 3.7])
def test_equal_distributions_give_zero_and_no_gradient(name, shift):
    teacher = tiny.randn(5, 11)
    student = (teacher + shift).requires_grad_()
    found = golden.DIVERGENCES[name](student, teacher, tiny.rows(5))
    found.sum().backward()
    assert found.abs().max() < 1e-12
    # |p - q| has a corner at 0, where rounding decides the side.
    assert name == "total_variation" or student.grad.abs().max() < 1e-12


@everywhere
@each_tail
@pytest.mark.parametrize("temperature", [0.7, 1.0, 3.0])
def test_keeping_every_token_gives_the_dense_value(name, tail, temperature):
    teacher, student = tiny.randn(2, 6, 9)
    options = {"temperature": temperature, "tail": tail}
    for kept in (golden.topk(teacher, 9), golden.topk(teacher, 9, rest=False)):
        sparse = golden.DIVERGENCES[name](student, kept, tiny.rows(6), **options)
        dense = golden.DIVERGENCES[name](student, teacher, tiny.rows(6), **options)
        torch.testing.assert_close(sparse, dense, atol=1e-10, rtol=0)


# Not adaptive_kl: its weights are detached, so differences see more than the gradient.
@pytest.mark.parametrize("name", sorted(set(golden.DIVERGENCES) - {"adaptive_kl"}))
@each_tail
@pytest.mark.parametrize("dense", [True, False])
def test_gradient_equals_finite_differences(name, tail, dense):
    teacher, student = tiny.randn(2, 3, 7, seed=3)
    side = teacher if dense else golden.topk(teacher, 3)

    def loss(logits):
        return golden.DIVERGENCES[name](logits, side, tiny.rows(3), temperature=1.5, tail=tail)

    assert torch.autograd.gradcheck(loss, student.clone().requires_grad_(), atol=1e-7)


@everywhere
def test_teacher_gets_no_gradient(name):
    teacher, student = tiny.randn(2, 4, 7)
    teacher = teacher.clone().requires_grad_()
    golden.DIVERGENCES[name](
        student.clone().requires_grad_(), teacher, tiny.rows(4)
    ).sum().backward()
    assert teacher.grad is None


@everywhere
def test_ids_that_both_sides_rule_out_cost_nothing(name):
    teacher, student = tiny.randn(2, 4, 9)
    plain = golden.DIVERGENCES[name](student[:, :6], teacher[:, :6], tiny.rows(4))
    teacher[:, 6:], student[:, 6:] = -torch.inf, -torch.inf
    student = student.clone().requires_grad_()
    found = golden.DIVERGENCES[name](student, teacher, tiny.rows(4), temperature=1.0)
    found.sum().backward()
    torch.testing.assert_close(found, plain, atol=1e-12, rtol=0)
    assert torch.equal(student.grad[:, 6:], torch.zeros(4, 3, dtype=torch.float64))
    assert torch.isfinite(student.grad).all()


@everywhere
@each_tail
def test_student_without_any_token_outside_is_finite_if_the_teacher_agrees(name, tail):
    teacher, student = tiny.randn(2, 4, 9)
    teacher[:, 3:], student[:, 3:] = -torch.inf, -torch.inf
    student = student.clone().requires_grad_()
    found = golden.DIVERGENCES[name](student, golden.topk(teacher, 3), tiny.rows(4), tail=tail)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(student.grad).all()


def test_student_that_rules_out_a_likely_token_is_infinite_and_not_nan():
    student = torch.tensor([[0.0, -torch.inf, 0.0]])
    assert golden.value(forward_kl, torch.zeros(1, 3), student) == torch.inf


@everywhere
@each_tail
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name, tail, dtype):
    teacher, student = tiny.randn(2, 5, 11).to(dtype)
    kept = golden.topk(teacher.float(), 4)
    for side in (teacher, kept):
        upcast = side.float() if side is teacher else side
        found = golden.DIVERGENCES[name](student, side, tiny.rows(5), tail=tail)
        wanted = golden.DIVERGENCES[name](student.float(), upcast, tiny.rows(5), tail=tail)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


@everywhere
@each_tail
def test_order_of_kept_ids_does_not_matter(name, tail):
    teacher, student = tiny.randn(2, 5, 11)
    kept = golden.topk(teacher, 4)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = TopK(kept.ids[:, order], kept.logprobs[:, order], kept.rest)
    first = golden.DIVERGENCES[name](student, kept, tiny.rows(5), tail=tail)
    second = golden.DIVERGENCES[name](student, shuffled, tiny.rows(5), tail=tail)
    torch.testing.assert_close(first, second, atol=1e-12, rtol=0)


@everywhere
def test_temperature_squared_can_be_left_out(name):
    teacher, student = tiny.randn(2, 5, 11)
    scaled = golden.DIVERGENCES[name](student, teacher, tiny.rows(5), temperature=3.0)
    raw = golden.DIVERGENCES[name](student, teacher, tiny.rows(5), temperature=3.0, scale_t2=False)
    torch.testing.assert_close(scaled, 9 * raw, atol=1e-12, rtol=0)


@everywhere
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_divergences_of_the_bucket_are_never_negative(name, temperature):
    source = tiny.generator(5)
    for k in (1, 3, 8):
        teacher, student = 4 * torch.randn(2, 200, 11, generator=source, dtype=torch.float64)
        found = golden.DIVERGENCES[name](
            student, golden.topk(teacher, k), tiny.rows(200), temperature=temperature
        )
        assert found.min() > -1e-12


def test_both_sides_of_the_bucket_are_distributions():
    teacher, student = tiny.randn(2, 5, 11)
    log_p, log_q = over_kept(golden.topk(teacher, 4), student, 2.0)
    assert log_p.shape == log_q.shape == (5, 5)
    for side in (log_p, log_q):
        torch.testing.assert_close(side.logsumexp(-1), torch.zeros(5).double(), atol=1e-12, rtol=0)


def test_unknown_tail_is_refused():
    with pytest.raises(RecipeError, match="renorm_teacher"):
        over_kept(golden.topk(golden.TEACHER, 2), golden.STUDENT, 1.0, "ghost")


def test_divergence_and_mixture_take_nothing_times_nothing_as_nothing():
    log_a = torch.tensor([[0.0, -torch.inf]], dtype=torch.float64, requires_grad=True)
    log_b = torch.tensor([[-0.5, -torch.inf]], dtype=torch.float64, requires_grad=True)
    value = divergence(log_a, mixture(log_a, log_b, 0.3))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(log_a.grad).all()
    assert torch.isfinite(log_b.grad).all()


@pytest.mark.parametrize("name", [*golden.DIVERGENCES, "cross_entropy"])
def test_options_can_be_read_from_a_recipe(name):
    objective = names.find("objectives", name)
    kinds = typing.get_type_hints(objective)
    for option, parameter in names.options(objective).items():
        assert TypeAdapter(kinds[option]).validate_python(parameter.default) == parameter.default
    assert list(inspect.signature(objective).parameters)[:3] == ["student", "teacher", "rows"]
