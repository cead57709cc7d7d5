"""A small mixer's inputs, and the same arithmetic as slow obvious loops, for the tests of the scan."""

import tiny
import torch
from torch.nn import functional as F

from limbeck.models.scan import step
from limbeck.objectives._mixing import matrix as mixing_matrix

TIME = 11
# Lengths of packed documents: borders at tokens 1, 5, 6, so within, at and beside those of chunks of 1, 3 and 5.
LENGTHS = (1, 4, 1, 5)


def given(*, batch=2, time=TIME, heads=4, groups=2, head_dim=3, state=5, dtype=torch.float64):
    """Values, write, read and log decay, each a leaf that takes a gradient."""
    values = tiny.randn(batch, time, heads, head_dim, seed=1)
    write = tiny.randn(batch, time, groups, state, seed=2)
    read = tiny.randn(batch, time, groups, state, seed=3)
    log_decay = F.logsigmoid(tiny.randn(batch, time, heads, seed=4))
    return tuple(one.to(dtype).requires_grad_() for one in (values, write, read, log_decay))


def packed(lengths=LENGTHS, batch=2):
    """True where a document begins: (batch, time)."""
    begins = torch.zeros(batch, sum(lengths), dtype=torch.bool)
    begins[:, torch.tensor((0, *lengths[:-1])).cumsum(0)] = True
    return begins


def slow(values, write, read, log_decay, *, begins=None, state=None):
    """The recurrence, a number at a time as it is written in the paper, in float64."""
    batch, time, heads, head_dim = values.shape
    shared, width = heads // write.shape[2], write.shape[3]
    last = torch.zeros(batch, heads, head_dim, width, dtype=torch.float64)
    if state is not None:
        last = state.double().clone()
    out = torch.zeros(batch, time, heads, head_dim, dtype=torch.float64)
    for row in range(batch):
        for head in range(heads):
            held = last[row, head]
            for now in range(time):
                if begins is not None and begins[row, now]:
                    held = torch.zeros_like(held)
                added = torch.outer(
                    values[row, now, head].double(), write[row, now, head // shared].double()
                )
                held = log_decay[row, now, head].double().exp() * held + added
                out[row, now, head] = held @ read[row, now, head // shared].double()
            last[row, head] = held
    return out, last


def by_steps(values, write, read, log_decay, state=None):
    """Every token by itself, the state handed on."""
    if state is None:
        state = values.new_zeros(values.shape[0], *values.shape[2:], write.shape[3])
    outputs = []
    for now in range(values.shape[1]):
        parts = (values[:, now], write[:, now], read[:, now], log_decay[:, now])
        out, state = step(state, *parts)
        outputs.append(out)
    return torch.stack(outputs, 1), state


def by_matrix(values, write, read, log_decay, **options):
    return torch.einsum("bhts,bshp->bthp", mixing_matrix(write, read, log_decay, **options), values)


def gradients(outputs, inputs):
    """Of a sum with random coefficients, so that no output counts as another does."""
    total = sum((tiny.randn(*one.shape, seed=9) * one).sum() for one in outputs)
    return torch.autograd.grad(total, inputs)


def same(found, wanted, tolerance):
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=0)
