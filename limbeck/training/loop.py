"""The loop: gather the micro-batches of a step, count what counts, divide once, check, update."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from limbeck.data.loader import positions_for
from limbeck.errors import Interrupted, LimbeckError, NonFinite, RecipeError
from limbeck.progress import progress, say
from limbeck.recipe import Stage
from limbeck.training import links, optim, parallel
from limbeck.training.ahead import Ahead
from limbeck.training.meter import Log, forget_peak, peak_gigabytes
from limbeck.training.step import Asked, Step, terms_at
from limbeck.training.watch import Watch
from limbeck.types import Source, Teacher

Save = Callable[[int, int], None]
"""Makes the work of (step, tokens) safe."""


@dataclass
class Loop:
    """What one stage trains with. step and tokens say how far it is; a resume sets them."""

    step_module: Step
    adam: optim.PieceAdamW
    source: Source
    stage: Stage
    functions: Sequence[Asked]
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
    watch: Watch | None = None
    ahead: Ahead = field(init=False)

    def __post_init__(self) -> None:
        self.ahead = Ahead(
            self.source, self.teacher, self.world.device, links.wanted([self.functions])
        )

    @property
    def steps(self) -> int:
        """Optimizer steps of the stage."""
        return self.stage.budget.steps(self.stage.rows_per_step * self.source.length)

    @property
    def done(self) -> bool:
        """Whether the budget is used, or the stage has ended early."""
        return self.step >= self.steps or (self.watch is not None and self.watch.ended)

    def share(self, step: int) -> float:
        """How much of the stage is done at a step: 0 at its first, 1 at its last."""
        return step / max(1, self.steps - 1)


def check_split(stage: Stage, world: parallel.World) -> None:
    """Raises where the rows of a step cannot be split evenly over ranks and micro-batches."""
    share = world.size * stage.micro_rows
    if stage.rows_per_step % share:
        raise LimbeckError(
            f"stage {stage.name}: {stage.rows_per_step} rows per step cannot be split over {world.size} "
            f"ranks x {stage.micro_rows} micro_rows; make rows_per_step a multiple of {share}."
        )


def _seeded(loop: Loop, step: int, micro_batch: int) -> None:
    """Dropout draws from a generator that is a pure function of where the run is, whoever learns beside."""
    place = f"{loop.seed}/{loop.stage.name}/{step}/{loop.world.rank}/{micro_batch}"
    data = hashlib.sha256(place.encode()).digest()
    torch.manual_seed(int.from_bytes(data[:8], "little") >> 1)


def micro_positions(loop: Loop, step: int) -> list[range]:
    """The global positions of this rank's micro-batches of a step, in order."""
    mine = positions_for(step, loop.stage.rows_per_step, loop.world.rank, loop.world.size)
    size = loop.stage.micro_rows
    return [mine[start : start + size] for start in range(0, len(mine), size)]


def gradients(loops: Sequence[Loop], step: int) -> tuple[list[Tensor], Tensor]:
    """Fills the gradients of a step of students that learn side by side: the teacher speaks once for all.

    Returns (sums per term of each, weight of the step), over all ranks.
    """
    loop, places = loops[0], micro_positions(loops[0], step)
    following = micro_positions(loop, step + 1)[0] if step + 1 < loop.steps else None
    device = loop.world.device
    precise = torch.float64 if device.type == "cpu" else torch.float32
    weight = sum(
        (loop.ahead.batch(part).weights.sum(dtype=precise) for part in places),
        torch.zeros((), dtype=precise),
    )
    weight = parallel.total(weight.to(device, non_blocking=True))
    told = [terms_at(one.functions, one.stage.terms, one.share(step), step) for one in loops]
    sums = [torch.zeros(len(terms), dtype=precise, device=device) for terms, _ in told]
    # FSDP averages gradients over ranks; the loss is a sum over them, hence the world's size.
    # Where nothing counts it is the zero gradients over 1: any tiny number would make 0 times infinity of them.
    scale = loop.world.size / torch.where(weight > 0, weight, 1.0)
    for number, part in enumerate(places, start=1):
        last = number == len(places)
        batch, signal = loop.ahead.take(part, following if last else places[number])
        for one, total, (terms, coefficients) in zip(loops, sums, told, strict=True):
            parallel.hold(one.step_module, one.world, last=last)
            _seeded(one, step, number)
            value, parts = one.step_module(batch, signal, terms, coefficients)
            (value * scale.to(value.dtype)).backward()
            total += parts.to(precise)
        loop.ahead.proceed()
    return [parallel.total(total) for total in sums], weight


def check_finite(loop: Loop, step: int, means: Sequence[float], norm: float) -> None:
    """Stops before weights change where a term or the gradient is NaN or infinite."""
    wrong = [
        f"{term.title} is {mean}"
        for term, mean in zip(loop.stage.terms, means, strict=True)
        if not math.isfinite(mean)
    ]
    if not wrong and not math.isfinite(norm):
        wrong = [f"the gradient's norm is {norm}"]
    if wrong:
        last = f"checkpoint {loop.saved_at}" if loop.saved_at >= 0 else "the start"
        raise NonFinite(
            f"stage {loop.stage.name}, step {step}: {'; '.join(wrong)}. No weight was changed by it; "
            f"{last} is the last that is safe. Lower the learning rate, or look at the data of this step."
        )


def one_step(loops: Sequence[Loop]) -> list[dict[str, Any]]:
    """Gradients, checks and one update of students that stand at the same step. Returns what each logs."""
    loop = loops[0]
    for one in loops:
        one.adam.zero_grad(set_to_none=True)
    sums, weight = gradients(loops, loop.step)
    return [_updated(one, found, weight) for one, found in zip(loops, sums, strict=True)]


def _updated(loop: Loop, sums: Tensor, weight: Tensor) -> dict[str, Any]:
    """One update from gradients that are there, unless something is not finite. weight: the step's, a scalar.

    Numbers are read once, after the update is on its way: where one is not finite, the update changes nothing.
    """
    optimizer = loop.stage.optimizer
    rate = optimizer.learning_rate * optim.ratio(loop.step, loop.steps, optimizer)
    _, weights = terms_at(loop.functions, loop.stage.terms, loop.share(loop.step), loop.step)
    if any(weights) and all(p.grad is None for p in loop.step_module.parameters()):
        raise RecipeError(
            f"stage {loop.stage.name}: no term reaches what 'train' names ({', '.join(loop.stage.train)}), so nothing would "
            "learn. Train what comes before the taps, or add a term on what the student says."
        )
    norm = optim.clip(loop.step_module.parameters(), optimizer.max_grad_norm, loop.world)
    told = torch.stack([weight, norm.to(weight.dtype), *sums])
    loop.adam.found_inf = (~told.isfinite().all() | (weight == 0)).float()
    optim.set_learning_rate(loop.adam, rate)
    loop.adam.step()
    counted, length, *values = told.tolist()
    means = [value / counted if counted else 0.0 for value in values]
    check_finite(loop, loop.step, means, length)
    loop.step += 1
    loop.tokens += loop.stage.rows_per_step * loop.source.length
    named = {term.title: mean for term, mean in zip(loop.stage.terms, means, strict=True)}
    return {
        "step": loop.step,
        "tokens": loop.tokens,
        "epoch": round(loop.step * loop.stage.rows_per_step / loop.source.rows, 6),
        "loss": sum(w * mean for w, mean in zip(weights, means, strict=True)),
        "terms": named,
        "grad_norm": length,
        "learning_rate": rate,
    }


def run(loops: Sequence[Loop]) -> None:
    """Steps until the budget is used, saving on the way and at the end. Raises Interrupted when asked to stop.

    loops: one, or those of several students with one teacher and one source. Whoever was saved at an earlier step
    catches up first.
    """
    first = loops[0]
    first.ahead.wanted = links.wanted([one.functions for one in loops])
    for one in loops:
        one.step_module.train()
        one.ahead = first.ahead
    forget_peak(first.world.device)
    shown = f"{' and '.join(one.title or one.stage.name for one in loops)} (steps)"
    with progress(shown, first.steps, done=min(one.step for one in loops)) as bar:
        while left := [one for one in loops if not one.done]:
            step = min(one.step for one in left)
            if parallel.anywhere(first.stop(), first.world.device):
                raise _stopped(loops, step)
            abreast = [one for one in left if one.step == step]
            try:
                entries = one_step(abreast)
            except Interrupted as reason:  # a teacher was waited for, and no weight was changed
                raise _stopped(loops, step) from reason
            for one, entry in zip(abreast, entries, strict=True):
                _told(one, entry)
            bar.note = "; ".join(one.watch.line for one in loops if one.watch and one.watch.line)
            bar.advance(1)


def _stopped(loops: Sequence[Loop], step: int) -> Interrupted:
    """Saves, and says where it was."""
    for one in loops:
        _save(one)
    return Interrupted(
        f"Stopped at step {step} of {loops[0].steps} of stage {loops[0].stage.name}, and saved. "
        "The same command goes on from there."
    )


def _told(loop: Loop, entry: dict[str, Any]) -> None:
    """Logs a step, looks at held-out rows and saves where it is time to."""
    loop.log.count(loop.stage.rows_per_step * loop.source.length)
    if loop.world.first and (loop.step % loop.log_every == 0 or loop.step == loop.steps):
        loop.log.write({**entry, "peak_gigabytes": peak_gigabytes(loop.world.device)})
    if loop.watch is not None and loop.watch.due(loop.step, loop.steps):
        _look(loop, loop.watch)
    if loop.step % loop.checkpoint_every == 0 or loop.done:
        _save(loop)


def _look(loop: Loop, watch: Watch) -> None:
    """Looks at held-out rows, and logs what is seen. The line comes before the checkpoint that it judges."""
    loop.ahead.rest()
    found = watch.look(
        loop.step_module,
        loop.functions,
        loop.stage.terms,
        step=loop.step,
        share=loop.share(loop.step - 1),
    )
    entry = {"step": loop.step, "tokens": loop.tokens, "held_out": found}
    if watch.ended and loop.step < loop.steps:
        entry["ended_early"] = {"of": loop.steps, "why": watch.why}
        say(
            f"{loop.title or loop.stage.name}: ends early at step {loop.step} of {loop.steps}: {watch.why}."
        )
    if loop.world.first:
        loop.log.held_out(entry, found["seconds"])


def _save(loop: Loop) -> None:
    if loop.saved_at != loop.step:
        loop.save(loop.step, loop.tokens)
        loop.saved_at = loop.step
