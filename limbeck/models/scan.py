"""The arithmetic of a state-space mixer (SSD; Dao and Gu, 2024): a causal convolution, and a state that decays.

A head holds a state S (head_dim, state). Each token lets it decay, writes a product into it, and reads it:

    S_t = a_t S_{t-1} + x_t B_t^T        y_t = S_t C_t

x are the values, B what writes, C what reads, a in [0, 1] the decay, given by its logarithm. The same outputs are M x with
M[t, s] = (C_t . B_s) a_{s+1} ... a_t. `scan` does all tokens in chunks, `step` one; objectives/_mixing.py writes M down.

Nothing divides by a product of decays, and no exponential of a positive number is taken: a decay of 0 is as good as any.
Numbers are float32 whatever comes in, or float64 where float64 comes in. On a GPU the kernels of mamba_ssm and causal_conv1d
do the same where they are installed (models/fused.py).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.models import fused
from limbeck.objectives._mixing import decays, faded, grouped, precise_of, seen

CHUNK = 64
"""Tokens that are mixed as one matrix. Forward and backward of a row were quickest so, of 32, 64 and 128 on a CPU."""


def convolve(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    begins: Tensor | None = None,
    before: Tensor | None = None,
) -> Tensor:
    """Each channel mixed with its own last tokens of the same document: (batch, time, channels), in the inputs' dtype.

    inputs: (batch, time, channels). weight: (channels, kernel), the last tap on the token itself. bias: (channels,).
    begins: bool (batch, time), true at a document's first token, which sees nothing of what is before it.
    before: the inputs before the first token, (batch, kernel - 1, channels), of the same document as long as no token
    begins one; zeros where it is left out.
    """
    if (kernel := fused.convolving(inputs, before)) is not None:
        return fused.convolve(kernel, inputs, weight, bias, begins)
    precise, (time, reach) = precise_of(inputs), (inputs.shape[1], weight.shape[1] - 1)
    if before is None:
        padded = F.pad(inputs, (0, 0, reach, 0))
    else:
        assert before.shape[1] == reach, (before.shape, weight.shape)
        padded = torch.cat([before.to(inputs), inputs], 1)  # (batch, reach + time, channels)
    taps = weight.to(precise)
    out = taps[:, reach] * inputs
    if bias is not None:
        out = out + bias
    documents = None if begins is None else F.pad(begins.long().cumsum(1), (reach, 0))
    for tap in range(reach):
        seen = padded[:, tap : tap + time]
        if documents is not None:
            same = documents[:, tap : tap + time] == documents[:, reach:]
            # Not a product with the mask: what an earlier document holds may be infinite.
            seen = seen.where(same.unsqueeze(-1), 0.0)
        out = out + taps[:, tap] * seen
    return out.to(inputs.dtype)


def scan(
    values: Tensor,
    write: Tensor,
    read: Tensor,
    log_decay: Tensor,
    *,
    begins: Tensor | None = None,
    state: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """All tokens of a row: outputs (batch, time, heads, head_dim), the last state (batch, heads, head_dim, state).

    values: (batch, time, heads, head_dim). write, read: (batch, time, groups, state), of which group g serves heads
    g * r ... g * r + r - 1. log_decay: (batch, time, heads), at most 0; -inf is allowed. begins: bool (batch, time), true
    where a document begins: before such a token the state is empty, whatever `state` is. state: what is held before
    the first token, of the shape of the last, or None for nothing.
    Outputs have the values' dtype; the last state is float32 (or float64), to go on from.
    """
    if (kernel := fused.scanning(values, begins, state)) is not None:
        known = {"begins": begins, "state": state}
        return fused.scan(kernel, values, write, read, log_decay, **known)
    groups, precise = write.shape[2], precise_of(values)
    x = grouped(values.to(precise), groups).permute(0, 2, 3, 1, 4)
    log_a = grouped(log_decay.to(precise), groups).permute(0, 2, 3, 1)
    b, c = (side.to(precise).transpose(1, 2) for side in (write, read))
    if state is None:
        held = x.new_zeros(*x.shape[:3], x.shape[4], b.shape[3])
    else:
        held = grouped(state.to(precise), groups, 1)
    sides = [torch.split(side, chunk, -2) for side in (x, b, c)] + [torch.split(log_a, chunk, -1)]
    borders = [None] * len(sides[0]) if begins is None else torch.split(begins, chunk, 1)
    outputs = []
    for part, border in zip(zip(*sides, strict=True), borders, strict=True):
        found, held = _through(held, part, border)
        outputs.append(found.permute(0, 3, 1, 2, 4))
    return torch.cat(outputs, 1).flatten(2, 3).to(values.dtype), held.flatten(1, 2)


def _through(
    held: Tensor, part: tuple[Tensor, ...], begins: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One chunk: its outputs, shaped as x, and the state after it, shaped as held.

    held: (batch, groups, shared, head_dim, state). part: x (batch, groups, shared, time, head_dim), b and c (batch, groups,
    time, state), log a (batch, groups, shared, time). begins: bool (batch, time). shared: the heads that a group serves.
    """
    x, b, c, log_a = part
    decay = decays(log_a, seen(log_a, begins))  # (batch, groups, shared, time, time)
    since = log_a.cumsum(-1)
    if begins is not None:
        first = begins.long().cumsum(1) == 0  # of the document that the state is of
        since = since.masked_fill(~first[:, None, None], -torch.inf)
    left = faded(since)  # (batch, groups, shared, time), what is left of the state that came in
    mixed = ((c @ b.mT).unsqueeze(2) * decay) @ x
    recalled = torch.einsum("bgtn,bgrpn->bgrtp", c, held) * left.unsqueeze(-1)
    written = torch.einsum("bgrtp,bgtn->bgrpn", x * decay[..., -1, :, None], b)
    return mixed + recalled, left[..., -1, None, None] * held + written


def step(
    state: Tensor, values: Tensor, write: Tensor, read: Tensor, log_decay: Tensor
) -> tuple[Tensor, Tensor]:
    """One token: its outputs (batch, heads, head_dim) in the values' dtype, and the new state.

    state: (batch, heads, head_dim, state). values: (batch, heads, head_dim). write, read: (batch, groups, state).
    log_decay: (batch, heads). The state is not changed in place.
    """
    groups, precise = write.shape[1], precise_of(values)
    held, x, log_a = (grouped(one.to(precise), groups, 1) for one in (state, values, log_decay))
    b, c = (side.to(precise)[:, :, None, None] for side in (write, read))
    new = held * log_a.exp()[..., None, None] + x.unsqueeze(-1) * b
    return (new * c).sum(-1).flatten(1, 2).to(values.dtype), new.flatten(1, 2)
