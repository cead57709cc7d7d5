"""What the projections of a clone begin as: random numbers, or one basis of the teacher's stream that all of them share.

With a basis Q (wide, narrow) of orthonormal columns the narrow stream begins as the wide one seen through Q. The gains
of the teacher's norms, which no rotation leaves alone, are folded into what reads the stream (as Ashkboos et al., 2024,
do), and each norm of the student begins as the number that undoes the change of length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from limbeck.errors import ModelError
from limbeck.models import layout
from limbeck.models.narrowing import (
    BEFORE_ATTENTION,
    BEFORE_MLP,
    DOWN,
    GATE,
    KEY,
    OUT,
    QUERY,
    UP,
    VALUE,
    ends,
)
from limbeck.types import Batch

SPREAD = 0.02
"""The standard deviation that the paper draws projections with."""


@torch.no_grad()
def gaussian(student: PreTrainedModel) -> None:
    """Fills every projection with independent small numbers from torch's global generator (the paper's start)."""
    for name, parameter in student.named_parameters():
        if name.endswith("projection"):
            nn.init.normal_(parameter, std=SPREAD)


@dataclass(frozen=True)
class Lengths:
    """How long the stream is where a norm reads it. each: of every norm in order, (norms,). last: (narrow,) or None.

    A number is the root mean square of the narrow stream, of wide tokens whose own is 1. last: the gains of the last
    norm that come nearest to the teacher's, channel by channel, where the head cannot take these up.
    """

    each: Tensor
    last: Tensor | None = None


@torch.no_grad()
def rotated(student: PreTrainedModel, teacher: nn.Module, basis: Tensor, lengths: Lengths) -> None:
    """Fills every projection from one basis (wide, narrow), and the student's norms from the lengths."""
    blocks = zip(layout.layers(student), layout.layers(teacher), strict=True)
    for number, (mine, theirs) in enumerate(blocks):
        for norm, readers, writer, length in (
            (BEFORE_ATTENTION, (QUERY, KEY, VALUE), OUT, lengths.each[2 * number]),
            (BEFORE_MLP, (GATE, UP), DOWN, lengths.each[2 * number + 1]),
        ):
            gain = _gain(theirs.get_submodule(norm))
            for name in readers:
                _fill(mine.get_submodule(name), gain.unsqueeze(1) * basis)
            _fill(mine.get_submodule(writer), basis.T)
            _gain(mine.get_submodule(norm)).fill_(float(length))
    first, last = ends(student)
    _fill(first, basis)
    final = _gain(layout.final_norm(student))
    if last.projection is first.projection:
        assert lengths.last is not None
        final.copy_(lengths.last)
    else:
        _fill(last, _gain(layout.final_norm(teacher)).unsqueeze(1) * basis)
        final.fill_(float(lengths.each[-1]))


def _gain(norm: nn.Module) -> Tensor:
    found = norm.weight
    assert isinstance(found, Tensor)
    return found


def _fill(module: nn.Module, values: Tensor) -> None:
    assert isinstance(module.projection, Tensor)
    module.projection.copy_(values)


@torch.no_grad()
def random_basis(teacher: nn.Module, width: int) -> tuple[Tensor, Lengths]:
    """Orthonormal columns from torch's global generator: (wide, width). No direction is better than another."""
    gain = _gain(layout.final_norm(teacher))
    basis = nn.init.orthogonal_(torch.empty(gain.shape[0], width, dtype=torch.float64))
    basis = basis.to(gain)
    each = torch.ones(2 * len(layout.layers(teacher)) + 1)
    return basis, Lengths(each, (basis.square() * gain.unsqueeze(1)).sum(0))


@torch.no_grad()
def principal_basis(teacher: nn.Module, width: int, batch: Batch) -> tuple[Tensor, Lengths]:
    """The directions in which the teacher's normalised stream is largest, on tokens that count: (wide, width).

    All inputs of norms are pooled, each token divided by its root mean square, so that no layer or token counts more
    than another. Not centred: a norm reads the stream itself. The text is read twice.
    """
    gain = _gain(layout.final_norm(teacher))
    whole = torch.zeros(gain.shape[0], gain.shape[0], dtype=torch.float64, device=gain.device)

    def add(_: int, tokens: Tensor) -> None:
        whole.addmm_(tokens.T, tokens)

    if _over_norms(teacher, batch, add) < 1:
        raise ModelError(
            "start 'pca' found no token that counts in the first rows of the text. Say 'start: orthogonal'."
        )
    _, vectors = torch.linalg.eigh(whole)  # rising
    basis = vectors.flip(-1)[:, :width].contiguous()
    count = 2 * len(layout.layers(teacher)) + 1
    each, last = torch.ones(count, dtype=torch.float64), torch.ones(width, dtype=torch.float64)

    def measure(number: int, tokens: Tensor) -> None:
        seen = tokens @ basis  # (tokens, narrow)
        length = seen.square().mean(-1, keepdim=True).sqrt()
        each[number] = length.mean().cpu()
        if number == count - 1:
            mine, wanted = seen / length, (tokens * gain.double()) @ basis
            last.copy_((mine * wanted).sum(0) / mine.square().sum(0))

    _over_norms(teacher, batch, measure)
    return basis.to(gain), Lengths(each, last)


def _over_norms(model: nn.Module, batch: Batch, see: Callable[[int, Tensor], None]) -> int:
    """Shows what each norm of the stream reads, in order, in float64 and of root mean square 1: (counted, wide).

    Returns how many tokens count.
    """
    norms: list[nn.Module] = []
    for block in layout.layers(model):
        norms += [block.get_submodule(name) for name in (BEFORE_ATTENTION, BEFORE_MLP)]
    norms.append(layout.final_norm(model))
    streams: dict[int, Tensor] = {}

    def watch(number: int) -> Callable[[nn.Module, Sequence[Tensor]], None]:
        def keep(_: nn.Module, inputs: Sequence[Tensor]) -> None:
            streams[number] = inputs[0]

        return keep

    hooks = [one.register_forward_pre_hook(watch(number)) for number, one in enumerate(norms)]
    try:
        _, flat = layout.forward(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    for number in sorted(streams):
        tokens = batch.pick(flat(streams.pop(number))).double()
        see(number, tokens / tokens.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12))
    return int(batch.counted.numel())
