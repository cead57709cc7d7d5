"""AdamW without decay on norms and biases, and learning-rate schedules as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.recipe import Optimizer
from limbeck.training.parallel import World, local, total


def ratio(step: int, steps: int, optimizer: Optimizer) -> float:
    """The share of the peak learning rate at a step (0 to steps - 1). Never below the floor.

    wsd is the corrected form: warm-up (s + 1) / W, stable, then floor + (1 - floor)(1 - sqrt(progress)),
    which reaches the floor exactly on the last step (Haegele et al., 2024, for the shape).
    """
    floor = optimizer.minimum_ratio
    warmup = round(optimizer.warmup_ratio * steps)
    if step < warmup:
        return max((step + 1) / warmup, floor)
    if optimizer.schedule == "constant":
        return 1.0
    if optimizer.schedule == "wsd":
        decay = round(optimizer.decay_ratio * steps)
        done = step + 1 - (steps - decay)
        return 1.0 if done <= 0 else floor + (1 - floor) * (1 - math.sqrt(done / decay))
    progress = (step - warmup) / max(1, steps - warmup)
    falling = (
        1 - progress if optimizer.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    )
    return floor + (1 - floor) * falling


PROJECTORS = "projectors."
"""What the names of a Step's projectors begin with."""


def groups(named: Iterable[tuple[str, Tensor]], weight_decay: float) -> list[dict[str, object]]:
    """Parameter groups: matrices decay; norms, biases and scalars do not. Projectors stand in groups of their own."""
    found: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            is_matrix = parameter.ndim >= 2 and not name.endswith("bias")
            found.setdefault((name.startswith(PROJECTORS), not is_matrix), []).append(parameter)
    return [
        {"params": found[key], "weight_decay": 0.0 if key[1] else weight_decay}
        for key in sorted(found)
    ]


class PieceAdamW(torch.optim.AdamW):
    """AdamW on the pieces of sharded tensors that lie on this rank.

    Each operation on a sharded tensor costs Python time that a fast device waits for, and an update needs no other
    rank. found_inf: a scalar; where it is 1 a step changes nothing, and nobody has to wait for it.
    """

    found_inf: Tensor | None = None

    def _init_group(self, group: dict[str, Any], *planes: list[Tensor]) -> bool:
        found = super()._init_group(group, *planes)  # type: ignore[no-untyped-call]
        for plane in planes:
            plane[:] = [local(tensor) for tensor in plane]
        return bool(found)


def adamw(module: nn.Module, optimizer: Optimizer) -> PieceAdamW:
    """AdamW (Loshchilov and Hutter, 2019) over the trainable parameters of a module."""
    return PieceAdamW(
        groups(module.named_parameters(), optimizer.weight_decay),
        lr=optimizer.learning_rate,
        betas=optimizer.betas,
        eps=optimizer.eps,
        fused=True,
    )


@torch.no_grad()
def clip(parameters: Iterable[Tensor], limit: float | None, world: World) -> Tensor:
    """Scales the gradients of all ranks' pieces down to a norm of `limit`; the norm before, a scalar nobody waited for."""
    pieces = [local(one.grad) for one in parameters if one.grad is not None]
    norm = torch.nn.utils.get_total_norm(pieces).to(world.device)
    if world.size > 1:
        norm = total(norm.square()).sqrt()
    if limit and pieces:
        factor = (limit / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(pieces, factor)
    return norm


def set_learning_rate(adam: torch.optim.Optimizer, value: float) -> None:
    """The learning rate of every group, for the coming step."""
    for group in adam.param_groups:
        group["lr"] = value
