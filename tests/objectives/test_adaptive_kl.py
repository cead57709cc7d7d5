import golden
import pytest
import tiny
import torch

from limbeck.objectives.adaptive_kl import adaptive_kl
from limbeck.objectives.forward_kl import forward_kl
from limbeck.objectives.reverse_kl import reverse_kl
from limbeck.types import TopK


def slow(p, q, head_mass):
    """Adaptive KL of two lists of probabilities, one token at a time."""
    order = sorted(range(len(p)), key=lambda v: -p[v])
    head, mass = set(), 0.0
    for v in order:
        if mass >= head_mass:
            break
        head.add(v)
        mass += p[v]
    gap = [abs(a - b) for a, b in zip(p, q, strict=True)]
    share = sum(gap[v] for v in head) / sum(gap)
    p, q = torch.tensor(p).double(), torch.tensor(q).double()
    forward, reverse = (p * (p / q).log()).sum(), (q * (q / p).log()).sum()
    return (share * forward + (1 - share) * reverse).item()


@pytest.mark.parametrize("head_mass", [0.3, 0.5, 0.8, 1.0])
def test_value_equals_a_slow_loop(head_mass):
    pairs = tiny.randn(20, 2, 9).softmax(-1)
    for p, q in pairs:
        found = golden.value(adaptive_kl, p.log()[None], q.log()[None], head_mass=head_mass)
        assert found == pytest.approx(slow(p.tolist(), q.tolist(), head_mass), abs=1e-6)


def test_head_is_complete_as_soon_as_its_mass_reaches_one_half():
    """p begins with exactly one half, so the head is one token: its gap weighs .3 of .7."""
    found = golden.value(adaptive_kl, golden.P.log(), golden.Q.log())
    forward = golden.value(forward_kl, golden.P.log(), golden.Q.log())
    reverse = golden.value(reverse_kl, golden.P.log(), golden.Q.log())
    assert found == pytest.approx((0.3 * forward + 0.4 * reverse) / 0.7, abs=1e-9)


def test_bucket_is_never_head_however_heavy():
    teacher = TopK(torch.tensor([[0, 1]]), torch.tensor([[0.1, 0.05]], dtype=torch.float64).log())
    student = torch.tensor([[0.1, 0.05, 0.85]], dtype=torch.float64).log() + tiny.randn(1, 3)
    q = student.softmax(-1)[0]
    gaps = (torch.tensor([0.1, 0.05, 0.85]) - q).abs()
    share = gaps[:2].sum() / gaps.sum()
    forward = golden.value(forward_kl, teacher, student)
    reverse = golden.value(reverse_kl, teacher, student)
    found = golden.value(adaptive_kl, teacher, student)
    assert found == pytest.approx((share * forward + (1 - share) * reverse).item(), abs=1e-6)


def test_weights_carry_no_gradient():
    teacher, student = tiny.randn(2, 1, 7)
    student = student.clone().requires_grad_()
    found = adaptive_kl(student, teacher, tiny.rows(1))
    forward = forward_kl(student, teacher, tiny.rows(1))
    reverse = reverse_kl(student, teacher, tiny.rows(1))
    share = ((found - reverse) / (forward - reverse)).item()
    (whole,) = torch.autograd.grad(found.sum(), student)
    (one,) = torch.autograd.grad(forward.sum(), student)
    (other,) = torch.autograd.grad(reverse.sum(), student)
    torch.testing.assert_close(whole, share * one + (1 - share) * other, atol=1e-9, rtol=0)
