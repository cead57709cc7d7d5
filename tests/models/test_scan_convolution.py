"""The convolution before a scan: a sum over taps that reaches into no other document."""

import pytest
import tiny
import torch
from tiny_scan import LENGTHS, TIME, gradients, packed, same

from limbeck.models.scan import convolve


def slow_convolution(inputs, weight, bias, *, begins=None, before=None):
    """A sum over taps, back until the document's first token."""
    batch, time, _ = inputs.shape
    kernel = weight.shape[1]
    out = torch.zeros_like(inputs)
    for row in range(batch):
        for now in range(time):
            out[row, now] = bias
            for back in range(kernel):
                if now - back >= 0:
                    out[row, now] += weight[:, kernel - 1 - back] * inputs[row, now - back]
                elif before is not None:
                    out[row, now] += weight[:, kernel - 1 - back] * before[row, now - back]
                if begins is not None and now - back >= 0 and begins[row, now - back]:
                    break
    return out


@pytest.mark.parametrize("kernel", [1, 2, 4])
@pytest.mark.parametrize("begins", [None, packed()], ids=["whole", "packed"])
def test_convolution_equals_a_sum_over_taps(begins, kernel):
    inputs, weight, bias = (
        tiny.randn(2, TIME, 6),
        tiny.randn(6, kernel, seed=1),
        tiny.randn(6, seed=2),
    )
    found = convolve(inputs, weight, bias, begins=begins)
    same([found], [slow_convolution(inputs, weight, bias, begins=begins)], 1e-12)
    same([convolve(inputs, weight, begins=begins)], [found - bias], 1e-12)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_convolution_with_what_came_before_equals_the_whole(length):
    inputs, weight, bias = tiny.randn(2, TIME, 6), tiny.randn(6, 4, seed=1), tiny.randn(6, seed=2)
    whole = convolve(inputs, weight, bias)
    before = inputs[:, 1:4]
    found = convolve(inputs[:, 4 : 4 + length], weight, bias, before=before)
    same([found], [whole[:, 4 : 4 + length]], 1e-12)
    begins = torch.zeros(2, length, dtype=torch.bool)
    begins[1, min(1, length - 1)] = True
    found = convolve(inputs[:, 4 : 4 + length], weight, bias, before=before, begins=begins)
    wanted = slow_convolution(inputs[:, 4 : 4 + length], weight, bias, before=before, begins=begins)
    same([found], [wanted], 1e-12)


def test_a_convolution_whose_last_tap_is_one_returns_its_input():
    inputs = tiny.randn(2, TIME, 6, dtype=torch.bfloat16)
    weight = torch.tensor([0.0, 0.0, 0.0, 1.0]).repeat(6, 1)
    found = convolve(inputs, weight, torch.zeros(6))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, inputs)


def test_packed_documents_are_convolved_as_if_each_were_alone():
    inputs = tiny.randn(2, TIME, 6).requires_grad_()
    weight = tiny.randn(6, 4, seed=1).requires_grad_()
    found = convolve(inputs, weight, begins=packed())
    apart = torch.cat([convolve(part, weight) for part in inputs.split(LENGTHS, 1)], 1)
    same([found], [apart], 1e-12)
    same(gradients([found], (inputs, weight)), gradients([apart], (inputs, weight)), 1e-11)


def test_infinite_inputs_of_another_document_do_not_enter_a_convolution():
    inputs = tiny.randn(1, 4, 2)
    inputs[:, 1] = torch.inf
    begins = torch.tensor([[True, False, True, False]])
    assert convolve(inputs, tiny.randn(2, 4, seed=1), begins=begins)[:, 2:].isfinite().all()
