"""What kernels are given, and that they give what plain PyTorch gives."""

import math

import pytest
import torch
from transformers.models.bamba.modeling_bamba import mamba2_chunk_scan

from limbeck.models import fused, scan

BATCH, TIME, HEADS, GROUPS, WIDE, STATE = 2, 21, 4, 2, 5, 3


def made(device="cpu", seed=0):
    draw = torch.Generator().manual_seed(seed)

    def some(*shape):
        return torch.randn(*shape, generator=draw).to(device).requires_grad_()

    given = (some(BATCH, TIME, HEADS, WIDE), some(BATCH, TIME, GROUPS, STATE))
    given += (some(BATCH, TIME, GROUPS, STATE), some(BATCH, TIME, HEADS))
    return given


def decays(raw):
    return torch.nn.functional.logsigmoid(raw * 3)


def reference(hidden, dt, rate, write, read, *, seq_idx, **options):
    """Transformers' own version of the kernel in plain PyTorch, which knows no documents."""
    assert seq_idx is None
    return mamba2_chunk_scan(hidden, dt, rate, write, read, **options)


@pytest.mark.parametrize("begun", [False, True])
def test_a_kernel_that_multiplies_by_time_steps_gives_the_scan(begun):
    values, write, read, raw = made()
    state = torch.randn(BATCH, HEADS, WIDE, STATE) if begun else None
    wanted = scan.scan(values, write, read, decays(raw), state=state)
    found = fused.scan(reference, values, write, read, decays(raw), begins=None, state=state)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    slopes = [
        torch.autograd.grad(both[0].square().sum(), (values, write, read, raw))
        for both in (found, wanted)
    ]
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3)


def test_a_token_that_does_not_decay_is_no_division_by_nothing():
    values, write, read, _ = made()
    still = torch.zeros(BATCH, TIME, HEADS)
    found, _ = fused.scan(reference, values, write, read, still, begins=None, state=None)
    wanted, _ = scan.scan(values, write, read, still)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_documents_are_numbered_in_their_row():
    begins = torch.tensor([[True, False, True], [False, False, True]])
    assert fused.numbered(begins).tolist() == [[1, 1, 2], [0, 0, 1]]
    assert fused.numbered(None) is None


def test_nothing_is_fused_on_a_cpu():
    values = made()[0]
    assert fused.scanning(values, None, None) is None
    assert fused.convolving(values, None) is None


@pytest.mark.skipif(
    not torch.cuda.is_available()
    or fused._kernel("causal_conv1d", "causal_conv1d_fn") is None
    or fused._kernel("mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined") is None,
    reason="needs a GPU, mamba_ssm and causal_conv1d",
)
def test_kernels_and_plain_pytorch_give_the_same_on_a_gpu():
    draw = torch.Generator().manual_seed(1)
    size = (2, 300, 8, 64)

    def some(*shape):
        return torch.randn(*shape, generator=draw).cuda().requires_grad_()

    values, write, read, raw = (
        some(*size),
        some(2, 300, 8, 64),
        some(2, 300, 8, 64),
        some(2, 300, 8),
    )
    begins = torch.zeros(2, 300, dtype=torch.bool, device="cuda")
    begins[:, [0, 77, 200]] = True
    kernel = fused.scanning(values, begins, None)
    assert kernel is not None
    scaled = write / math.sqrt(64)
    found, _ = fused.scan(kernel, values, scaled, read, decays(raw), begins=begins, state=None)
    wanted, _ = scan.scan(
        values.double(), scaled.double(), read.double(), decays(raw).double(), begins=begins
    )
    torch.testing.assert_close(found.double(), wanted, rtol=1e-2, atol=1e-2)
    weight, bias, inputs = some(64, 4), some(64), some(2, 300, 64)
    convolution = fused.convolving(inputs, None)
    assert convolution is not None
    found = fused.convolve(convolution, inputs, weight, bias, begins)
    wanted = scan.convolve(inputs.double(), weight.double(), bias.double(), begins=begins)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-3, atol=1e-3)
