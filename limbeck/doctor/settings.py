"""What a recipe says by itself: parts, options, what does not go together, and schedules that hardly do what was meant."""

from __future__ import annotations

from functools import partial

from limbeck import fitting, showing
from limbeck.doctor.case import Case
from limbeck.doctor.findings import Finding, Findings, attempted, fault, note, ok, warning
from limbeck.recipe import Optimizer

# AdamW moves a parameter by about the learning rate a step: one of a usual size, 0.02, by half of it.
_HIGH = 1e-2
# Of the sum over a stage: a hundredth of a parameter of that size.
_STILL = 2e-4


def recipe(case: Case) -> Findings:
    """Parts, options, and what of them does not go together."""
    found = [fault(str(reason)) for reason in fitting.clashes(case.asked)]
    yield from found or [ok("every part and option is known, and they go together.")]
    for told in showing.of_recipe(case.recipe):
        yield note(told)


def schedule(case: Case) -> Findings:
    """Learning rates, warm-ups and falls of every stage."""
    for index in range(len(case.recipe.stages)):
        yield from attempted(f"stages[{index}]", partial(_of_stage, case, index))


def _of_stage(case: Case, index: int) -> list[Finding]:
    given, steps = case.recipe.stages[index].optimizer, case.steps(index)
    where = f"stages[{index}].optimizer"
    return _odd(given, steps, where) or [ok(_told(given, steps), where)]


def _told(given: Optimizer, steps: int) -> str:
    rising = round(given.warmup_ratio * steps)
    return (
        f"peak {given.learning_rate:g}, {given.schedule}, {rising:,} of {steps:,} steps of warm-up."
    )


def _odd(given: Optimizer, steps: int, where: str) -> list[Finding]:
    found = []
    if given.learning_rate > _HIGH:
        found.append(
            warning(
                f"a peak of {given.learning_rate:g} moves every parameter by about as much at each step",
                f"{where}.learning_rate",
                wanted=f"{_HIGH:g} or less for all but tiny models.",
                cure="Lower it.",
            )
        )
    elif given.learning_rate * steps < _STILL:
        found.append(
            warning(
                f"{steps:,} steps of at most {given.learning_rate:g} move no parameter by more than about "
                f"{given.learning_rate * steps:.1g}: nothing is learned",
                f"{where}.learning_rate",
                cure="Raise it, or give the stage more steps.",
            )
        )
    return found + _oddly_shaped(given, steps, where)


def _oddly_shaped(given: Optimizer, steps: int, where: str) -> list[Finding]:
    found = []
    rising = round(given.warmup_ratio * steps)
    if given.warmup_ratio >= 0.5:
        found.append(
            warning(
                f"the learning rate rises for {rising:,} of {steps:,} steps",
                f"{where}.warmup_ratio",
                wanted="a share below one half, such as 0.05.",
            )
        )
    elif given.warmup_ratio and not rising and steps > 1:
        found.append(
            note(f"{given.warmup_ratio:g} of {steps:,} steps is less than one: no warm-up.", where)
        )
    falling = round(given.decay_ratio * steps)
    if given.schedule == "wsd" and not falling:
        found.append(
            warning(
                f"wsd falls in {given.decay_ratio:g} of {steps:,} steps, which is none: it never does",
                f"{where}.decay_ratio",
                cure="Raise it, give the stage more steps, or say schedule: constant.",
            )
        )
    if given.schedule != "constant" and given.minimum_ratio == 1:
        found.append(
            warning(
                f"{given.schedule} falls to minimum_ratio 1, which is the peak: it never falls",
                f"{where}.minimum_ratio",
                cure="Lower it, or say schedule: constant.",
            )
        )
    return found
