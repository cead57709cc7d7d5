"""The numbers of a scan: decays of 0 and of 1, long rows, and what bfloat16 keeps."""

import pytest
import tiny
import torch
from tiny_scan import TIME, by_matrix, by_steps, given, gradients, same, slow
from torch.nn import functional as F

from limbeck.models.scan import convolve, scan, step
from limbeck.objectives._mixing import matrix as mixing_matrix


def test_a_raw_decay_of_zero_halves_the_state():
    state = torch.ones(1, 1, 2, 2)
    nothing = torch.zeros(1, 1, 2)
    _, new = step(state, nothing, nothing, nothing, F.logsigmoid(torch.zeros(1, 1)))
    torch.testing.assert_close(new, state / 2, atol=1e-7, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("raw", [50.0, -50.0, 1e4, -1e4, torch.inf])
def test_extreme_decays_give_true_outputs_and_finite_gradients(raw, dtype):
    """Every other token has the extreme one, so that a sum over them stands beside ordinary ones."""
    values, write, read, _ = given(dtype=dtype)
    raws = tiny.randn(2, TIME, 4, seed=4).to(dtype)
    raws[:, ::2] = raw
    log_decay = F.logsigmoid(-raws).requires_grad_()
    inputs = (values, write, read, log_decay)
    wanted, _ = slow(*inputs)
    tolerance = 2e-6 if dtype == torch.float32 else 1e-12
    for outputs in (scan(*inputs, chunk=4)[0], by_matrix(*inputs), by_steps(*inputs)[0]):
        same([outputs.double()], [wanted], tolerance)
        assert all(one.isfinite().all() for one in gradients([outputs], inputs))


def test_a_decay_of_nearly_one_keeps_all_that_was_written():
    """The kernel form, which divides by softplus(a_raw), has 0 / 0 here."""
    values, write, read, _ = (one.detach() for one in given(dtype=torch.float32))
    log_decay = F.logsigmoid(torch.full((2, TIME, 4), 120.0))
    written = torch.einsum("bthp,bthn->bthpn", values, write.repeat_interleave(2, 2)).cumsum(1)
    wanted = torch.einsum("bthpn,bthn->bthp", written, read.repeat_interleave(2, 2))
    same([scan(values, write, read, log_decay, chunk=4)[0]], [wanted], 1e-5)


def test_one_strong_decay_costs_the_others_no_digit():
    """Differences of running sums have lost all digits of the later decays once a sum has passed -1e8."""
    inputs = [one.detach() for one in given(batch=1, time=40, dtype=torch.float32)]
    inputs[3][:, 3] = -1e8
    wanted, _ = slow(*inputs)
    for found in (scan(*inputs)[0], by_matrix(*inputs)):
        torch.testing.assert_close(found.double(), wanted, atol=3e-6, rtol=0)


def test_a_long_row_of_slow_decays_stays_exact_in_float32():
    inputs = [
        one.detach() for one in given(batch=1, time=700, heads=1, groups=1, dtype=torch.float32)
    ]
    inputs[3].mul_(0.01)
    wanted, _ = slow(*inputs)
    for found in (scan(*inputs)[0], by_matrix(*inputs)):
        error = (found.double() - wanted).norm() / wanted.norm()
        assert error < 2e-6


def test_bfloat16_is_lifted_once_and_rounded_once():
    low = tuple(one.detach().bfloat16() for one in given(time=70))
    high = tuple(one.float() for one in low)
    outputs, state = scan(*low)
    wanted, held = scan(*high)
    assert outputs.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert torch.equal(outputs, wanted.bfloat16())
    assert torch.equal(state, held)
    assert torch.equal(mixing_matrix(*low[1:]), mixing_matrix(*high[1:]))
    found, new = step(state, *(one[:, 0] for one in low))
    wanted, kept = step(state, *(one[:, 0] for one in high))
    assert torch.equal(found, wanted.bfloat16())
    assert torch.equal(new, kept)
    weight = tiny.randn(12, 4, dtype=torch.bfloat16)
    found = convolve(low[0].flatten(2), weight)
    assert torch.equal(found, convolve(high[0].flatten(2), weight.float()).bfloat16())
