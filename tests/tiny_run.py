"""A tiny training job: a source of random rows with uneven weights, a live teacher, and a Loop around them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tiny
import torch

from limbeck.evaluation.agreement import agreement
from limbeck.evaluation.bits_per_byte import bits_per_byte
from limbeck.models import layout
from limbeck.names import find
from limbeck.recipe import Stage
from limbeck.training import checkpoint, heldout, loop, optim, parallel
from limbeck.training.meter import Log
from limbeck.training.step import Step, terms_at
from limbeck.types import Batch, Signal, Wanted


@dataclass
class Ragged:
    """Rows of random tokens, each with its own number of tokens that count."""

    rows: int = 24
    length: int = 12

    def batch(self, positions: Sequence[int]) -> Batch:
        found = [tiny.batch(1, self.length, seed=position % self.rows) for position in positions]
        for batch, position in zip(found, positions, strict=True):
            batch.weights[:, (position * 5) % self.length + 1 :] = 0.0
            if position % 3 == 0:
                batch.weights.mul_(0.5)
        tensors = {
            name: torch.cat([getattr(batch, name) for batch in found])
            for name in (
                "input_ids",
                "labels",
                "position_ids",
                "document_ids",
                "weights",
                "label_bytes",
            )
        }
        return replace(found[0], **tensors, addresses=tuple(str(p % self.rows) for p in positions))


class Alive:
    """A live teacher of a model that is at hand."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    @torch.no_grad()
    def signal(self, batch: Batch, wanted: Wanted) -> Signal:
        return Signal(
            hidden=batch.pick(layout.hidden(self.model, batch)), head=layout.head(self.model)
        )


def stage(**changes: object) -> Stage:
    """A stage of 6 steps of 8 rows."""
    plain = {
        "name": "only",
        "source": "text",
        "objective": [{"cross_entropy": {"weight": 0.5}}, {"forward_kl": {"temperature": 2.0}}],
        "budget": "6 steps",
        "rows_per_step": 8,
        "micro_rows": 2,
        "optimizer": {"learning_rate": 1e-2},
    }
    return Stage.model_validate(plain | changes)


def world() -> parallel.World:
    """The ranks that torchrun started, or one."""
    return parallel.start(torch.device("cpu"))


def job(
    folder: Path,
    *,
    dtype: torch.dtype = torch.float64,
    stage_: Stage | None = None,
    student: torch.nn.Module | None = None,
    teacher: object = None,
    source: object = None,
    vocab: int = tiny.VOCAB,
    every: int = 2,
    sharded: bool = True,
) -> loop.Loop:
    """A Loop that trains a 2-layer Llama on Ragged rows and saves below `folder`; it goes on where one stopped."""
    asked, ranks = stage_ or stage(), world()
    made = student if student is not None else tiny.llama(vocab=vocab, dtype=dtype, seed=1)
    step = Step(made, vocab=vocab, chunk=5)
    if sharded:
        parallel.shard(step, layout.layers(made), ranks, dtype)
    adam = optim.adamw(step, asked.optimizer)
    kept = [name for name, parameter in step.named_parameters() if parameter.requires_grad]
    last, _ = checkpoint.newest(folder / "checkpoints")
    at = checkpoint.load(last, step, adam, world=ranks) if last else {"step": 0, "tokens": 0}

    def save(number: int, tokens: int) -> None:
        state = {"step": number, "tokens": tokens, "stage": asked.name, "score": None}
        target = folder / "checkpoints" / f"{number:06d}"
        checkpoint.save(target, step, adam, state, kept=kept, world=ranks)

    return loop.Loop(
        step_module=step,
        adam=adam,
        source=source or Ragged(),
        stage=asked,
        functions=[find("objectives", term.name) for term in asked.terms],
        teacher=teacher or Alive(tiny.llama(vocab=vocab, dtype=dtype, seed=2)),
        world=ranks,
        seed=7,
        save=save,
        log=Log(folder / "log.jsonl", resumed_at=at["step"], stage=asked.name, writes=ranks.first),
        stop=lambda: False,
        checkpoint_every=every,
        step=at["step"],
        tokens=at["tokens"],
    )


def gradients(work: loop.Loop) -> dict[str, torch.Tensor]:
    """The gradients of the first step, whole, by name."""
    loop.gradients([work], 0)
    found = {}
    for name, parameter in work.step_module.named_parameters():
        grad = parameter.grad
        found[name] = grad.full_tensor() if isinstance(grad, parallel.DTensor) else grad
    return found


def held_out(work: loop.Loop, **changes: object) -> heldout.HeldOut:
    """Rows 10 to 14 of Ragged rows, two at a time, with both measures."""
    measures = (heldout.Measure(bits_per_byte), heldout.Measure(agreement, {"k": 3}))
    plain = heldout.HeldOut(Ragged(), range(10, 15), measures, work.teacher, work.world, 2)
    return replace(plain, **changes)


def looked(work: loop.Loop, **changes: object) -> dict:
    """What a look sees of the student as it is now."""
    bound, _ = terms_at(work.functions, work.stage.terms, 0.0)
    titles = [term.title for term in work.stage.terms]
    return heldout.figures(work.step_module, held_out(work, **changes), bound, titles)
