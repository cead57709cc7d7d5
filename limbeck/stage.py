"""A stage of a recipe: what is read, what is trained, on which objective, for how long, and with which optimizer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from limbeck.spelling import Budget, Frozen, Part, Term, check_titles


class Optimizer(Frozen):
    """AdamW and its schedule. Ratios are shares of the stage's steps or of the learning rate."""

    learning_rate: float = Field(default=3e-4, gt=0, description="the peak")
    schedule: Literal["cosine", "linear", "constant", "wsd"] = Field(
        default="cosine", description="how the learning rate falls after the warm-up"
    )
    warmup_ratio: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="share of the steps in which the learning rate rises from 0",
    )
    decay_ratio: float = Field(
        default=0.1, ge=0, le=1, description="share of the steps in which `wsd` falls, at the end"
    )
    minimum_ratio: float = Field(
        default=0.001, ge=0, le=1, description="share of the peak at which the learning rate ends"
    )
    betas: tuple[float, float] = Field(default=(0.9, 0.95), description="AdamW's averages")
    eps: float = Field(default=1e-8, gt=0, description="AdamW's epsilon")
    weight_decay: float = Field(
        default=0.1, ge=0, description="on matrices; norms, biases and scalars have none"
    )
    max_grad_norm: float | None = Field(
        default=1.0, gt=0, description="gradients are clipped to this norm; null for no clipping"
    )

    @model_validator(mode="after")
    def _one_after_the_other(self) -> Optimizer:
        whole = self.warmup_ratio + self.decay_ratio
        if self.schedule == "wsd" and whole > 1 + 1e-9:
            raise ValueError(
                f"warmup_ratio and decay_ratio are {whole:g} together; wanted 1 at most, or wsd falls before it has risen."
            )
        return self


class Stage(Frozen):
    """One part of the training: what is read, what is trained, on which objective, for how long."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="names its folder; must not stand twice",
    )
    source: Part = Field(description="what is read")
    objective: tuple[Term, ...] = Field(min_length=1, description="the weighted terms of the loss")
    budget: Budget = Field(description="how long: `200k tokens`, `1.5B tokens` or `300 steps`")
    forward: Literal["free", "layer_forced"] = Field(
        default="free",
        description="`layer_forced` feeds each block of the student what the teacher's block is fed, so that blocks learn one by one",
    )
    train: tuple[str, ...] = Field(
        default=("*",), description="patterns of the parameters that are trained, as in a shell"
    )
    freeze: tuple[str, ...] = Field(
        default=(),
        description="what of these stays as it is: patterns, or `mlp`, `mixers`, `attention`, `kept_layers`, `norms`, `embeddings`, `head`",
    )
    merged: bool = Field(
        default=False,
        description="trains the student as it will leave, merged; stages after it do, too",
    )
    rows_per_step: int = Field(
        default=8, gt=0, description="rows of one optimizer step, over all ranks"
    )
    micro_rows: int = Field(
        default=1,
        gt=0,
        description="rows of one forward on one rank; the loss does not depend on it",
    )
    optimizer: Optimizer = Field(default=Optimizer(), description="AdamW and its schedule")
    alpha: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="short for weights: alpha x cross_entropy + (1 - alpha) x the objective",
    )

    ban: tuple[str, ...] = Field(
        default=(), description="terms that are left out, by label or name: an ablation in one key"
    )

    @model_validator(mode="after")
    def _sound(self) -> Stage:
        if self.rows_per_step % self.micro_rows:
            raise ValueError(
                f"rows_per_step {self.rows_per_step} is no multiple of micro_rows {self.micro_rows}."
            )
        check_titles([term.title for term in self.objective], self.ban)
        given = any(term.name == "cross_entropy" for term in self.objective) or any(
            term.weighed for term in self.objective
        )
        if self.alpha is not None and given:
            raise ValueError("give alpha, or cross_entropy and weights; not both.")
        return self

    @property
    def terms(self) -> tuple[Term, ...]:
        """What is computed: without `ban`, and alpha x cross_entropy + (1 - alpha) x the rest spelled out."""
        left = tuple(term for term in self.objective if term.title not in self.ban)
        if self.alpha is None:
            return left
        kept = [term.model_copy(update={"weight": 1 - self.alpha}) for term in left]
        return (Term(name="cross_entropy", weight=self.alpha), *kept)

    @property
    def looks_inside(self) -> bool:
        """Whether any term looks at taps, which compiled blocks do not show."""
        return any(term.linked is not None for term in self.terms)
