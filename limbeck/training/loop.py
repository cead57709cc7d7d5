"""The loop: gather the micro-batches of a step, count what counts, divide once, check, update."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from limbeck.data.loader import positions_for
from limbeck.errors import Interrupted, LimbeckError, NonFinite
from limbeck.progress import progress
from limbeck.recipe import Stage
from limbeck.training import optim, parallel
from limbeck.training.meter import Log, forget_peak, peak_gigabytes
from limbeck.training.step import terms_at
from limbeck.types import Batch, Objective, Source, Teacher, Wanted

Save = Callable[[int, int], None]
"""Makes the work of (step, tokens) safe."""


@dataclass
class Loop:
    """What one stage trains with. step and tokens say how far it is; a resume sets them."""

    step_module: nn.Module
    adam: torch.optim.Optimizer
    source: Source
    stage: Stage
    functions: Sequence[Objective]
    teacher: Teacher | None
    world: parallel.World
    seed: int
    save: Save
    log: Log
    stop: Callable[[], bool]
    checkpoint_every: int
    log_every: int = 1
    step: int = 0
    tokens: int = 0
    title: str = ""
    saved_at: int = field(default=-1)

    @property
    def steps(self) -> int:
        """Optimizer steps of the stage."""
        return self.stage.budget.steps(self.stage.rows_per_step * self.source.length)


def check_split(stage: Stage, world: parallel.World) -> None:
    """Raises where the rows of a step cannot be split evenly over ranks and micro-batches."""
    share = world.size * stage.micro_rows
    if stage.rows_per_step % share:
        raise LimbeckError(
            f"stage {stage.name}: {stage.rows_per_step} rows per step cannot be split over {world.size} "
            f"ranks x {stage.micro_rows} micro_rows; make rows_per_step a multiple of {share}."
        )


def _seeded(seed: int, stage: str, step: int, rank: int) -> None:
    """Dropout draws from a generator that is a pure function of where the run is."""
    data = hashlib.sha256(f"{seed}/{stage}/{step}/{rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(data[:8], "little") >> 1)


def micro_batches(loop: Loop, step: int) -> list[Batch]:
    """The batches of this rank for a step, in the order of their global positions."""
    mine = positions_for(step, loop.stage.rows_per_step, loop.world.rank, loop.world.size)
    size = loop.stage.micro_rows
    return [loop.source.batch(mine[start : start + size]) for start in range(0, len(mine), size)]


def gradients(loop: Loop, step: int) -> tuple[Tensor, Tensor]:
    """Fills the gradients of a step. Returns (sums per term, weight of the step), over all ranks."""
    batches = micro_batches(loop, step)
    device = loop.world.device
    precise = torch.float64 if device.type == "cpu" else torch.float32
    weight = sum(
        (batch.weights.sum(dtype=precise) for batch in batches), torch.zeros((), dtype=precise)
    )
    weight = parallel.total(weight.to(device))
    terms, coefficients = terms_at(loop.functions, loop.stage.terms, step / max(1, loop.steps - 1))
    sums = torch.zeros(len(terms), dtype=precise, device=device)
    # FSDP averages gradients over ranks; the loss is a sum over them, hence the world's size.
    scale = loop.world.size / weight.clamp(min=torch.finfo(precise).tiny)
    for number, batch in enumerate(batches, start=1):
        parallel.hold(loop.step_module, loop.world, last=number == len(batches))
        here = batch.to(device)
        signal = loop.teacher.signal(here, Wanted()) if loop.teacher else None
        value, parts = loop.step_module(here, signal, terms, coefficients)
        (value * scale.to(value.dtype)).backward()
        sums += parts.to(precise)
    return parallel.total(sums), weight


def check_finite(loop: Loop, step: int, means: Sequence[float], norm: float) -> None:
    """Stops before weights change where a term or the gradient is NaN or infinite."""
    wrong = [
        f"{term.name} is {mean}"
        for term, mean in zip(loop.stage.terms, means, strict=True)
        if not torch.isfinite(torch.tensor(mean))
    ]
    if not wrong and not torch.isfinite(torch.tensor(norm)):
        wrong = [f"the gradient's norm is {norm}"]
    if wrong:
        last = f"checkpoint {loop.saved_at}" if loop.saved_at >= 0 else "the start"
        raise NonFinite(
            f"stage {loop.stage.name}, step {step}: {'; '.join(wrong)}. No weight was changed by it; "
            f"{last} is the last that is safe. Lower the learning rate, or look at the data of this step."
        )


def one_step(loop: Loop) -> dict[str, Any]:
    """Gradients, checks and one update. Returns what is logged."""
    optimizer = loop.stage.optimizer
    _seeded(loop.seed, loop.stage.name, loop.step, loop.world.rank)
    loop.adam.zero_grad(set_to_none=True)
    sums, weight = gradients(loop, loop.step)
    counted = float(weight)
    means = [float(value) / counted if counted else 0.0 for value in sums]
    rate = optimizer.learning_rate * optim.ratio(loop.step, loop.steps, optimizer)
    norm = _clipped(loop, optimizer.max_grad_norm)
    check_finite(loop, loop.step, means, norm)
    optim.set_learning_rate(loop.adam, rate)
    if counted:
        loop.adam.step()
    loop.step += 1
    loop.tokens += loop.stage.rows_per_step * loop.source.length
    _, weights = terms_at(
        loop.functions, loop.stage.terms, (loop.step - 1) / max(1, loop.steps - 1)
    )
    named = {f"{term.name}": mean for term, mean in zip(loop.stage.terms, means, strict=True)}
    return {
        "step": loop.step,
        "tokens": loop.tokens,
        "loss": sum(w * mean for w, mean in zip(weights, means, strict=True)),
        "terms": named,
        "grad_norm": norm,
        "learning_rate": rate,
    }


def _clipped(loop: Loop, limit: float | None) -> float:
    parameters = [p for p in loop.step_module.parameters() if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit if limit else float("inf"))
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def run(loop: Loop) -> None:
    """Steps until the budget is used, saving on the way and at the end. Raises Interrupted when asked to stop."""
    loop.step_module.train()
    forget_peak(loop.world.device)
    shown = f"{loop.title or loop.stage.name} (steps)"
    with progress(shown, loop.steps, done=loop.step) as bar:
        while loop.step < loop.steps:
            if parallel.anywhere(loop.stop(), loop.world.device):
                _save(loop)
                raise Interrupted(
                    f"Stopped at step {loop.step} of {loop.steps} of stage {loop.stage.name}, and saved. "
                    "The same command goes on from there."
                )
            entry = one_step(loop)
            loop.log.count(loop.stage.rows_per_step * loop.source.length)
            if loop.world.first and (loop.step % loop.log_every == 0 or loop.step == loop.steps):
                loop.log.write({**entry, "peak_gigabytes": peak_gigabytes(loop.world.device)})
            bar.advance(1)
            if loop.step % loop.checkpoint_every == 0 or loop.step == loop.steps:
                _save(loop)


def _save(loop: Loop) -> None:
    if loop.saved_at != loop.step:
        loop.save(loop.step, loop.tokens)
        loop.saved_at = loop.step
