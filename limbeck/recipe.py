"""A recipe: one frozen tree that says everything about a run. Reads no model and needs no torch."""

from __future__ import annotations

import math
import re
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    model_serializer,
    model_validator,
)

from limbeck.names import suggestion

_SIZES = {"": 1, "k": 1_000, "M": 1_000_000, "B": 1_000_000_000, "T": 1_000_000_000_000}
_BUDGET = re.compile(r"\s*(\d+(?:[._]\d+)*)\s*([kKMBT]?)\s+(tokens|steps)\s*")


class Frozen(BaseModel):
    """A node of the recipe: cannot be changed, and knows no key besides its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            names = [item.alias or name for name, item in cls.model_fields.items()]
            for key in data:
                if key not in names and key not in cls.model_fields:
                    raise ValueError(f"no key '{key}' here.{suggestion(str(key), names)}")
        return data


class Ramp(Frozen):
    """A number that moves from one value to another over a stage's budget."""

    start: float = Field(alias="from")
    end: float = Field(alias="to")
    shape: Literal["linear", "cosine"] = "linear"

    def at(self, share: float) -> float:
        """The value when this share (0 to 1) of the stage is done."""
        if self.shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.start + (self.end - self.start) * share


Scheduled = float | Ramp


def value_at(value: Any, share: float) -> Any:
    """A Ramp's value at this share of the stage; anything else as it is."""
    return value.at(share) if isinstance(value, Ramp) else value


class Part(Frozen):
    """A named part and its options: `forward_kl`, or `{forward_kl: {temperature: 2}}`."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _spelled(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"name": data}
        if isinstance(data, dict) and "name" in data and set(data) <= {"name", "options"}:
            return data
        if isinstance(data, dict) and len(data) == 1:
            ((name, options),) = data.items()
            if isinstance(options, dict) or options is None:
                return {"name": name, "options": options or {}}
        raise ValueError(
            f"found {data!r}; wanted a name, or one name with a mapping of its options."
        )

    @model_serializer
    def _written(self) -> Any:
        return {self.name: dict(self.options)} if self.options else self.name


class Term(Frozen):
    """One weighted objective. `weight` and any numeric option may be a ramp `{from, to, shape}`."""

    name: str
    weight: Scheduled = 1.0
    options: dict[str, Any] = Field(default_factory=dict)
    weighed: bool = Field(default=False, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _spelled(cls, data: Any) -> Any:
        if isinstance(data, dict) and "name" in data:
            return data
        part = Part.model_validate(data)
        options = dict(part.options)
        weighed = "weight" in options
        weight = options.pop("weight", 1.0)
        for key, value in options.items():
            if isinstance(value, dict) and set(value) <= {"from", "to", "shape"}:
                options[key] = Ramp.model_validate(value)
        return {"name": part.name, "weight": weight, "options": options, "weighed": weighed}

    @model_serializer
    def _written(self) -> Any:
        given = {"weight": self.weight, **self.options} if self.weighed else self.options
        plain = {
            key: value.model_dump(by_alias=True) if isinstance(value, Ramp) else value
            for key, value in given.items()
        }
        return {self.name: plain} if plain else self.name


class Budget(Frozen):
    """How long a stage lasts: tokens or optimizer steps."""

    amount: int = Field(gt=0)
    unit: Literal["tokens", "steps"]

    @model_validator(mode="before")
    @classmethod
    def _spelled(cls, data: Any) -> Any:
        if not isinstance(data, str):
            return data
        found = _BUDGET.fullmatch(data)
        if not found:
            raise ValueError(f"found '{data}'; wanted such as '200k tokens' or '300 steps'.")
        number, size, unit = found.groups()
        amount = float(number.replace("_", "")) * _SIZES[size.replace("K", "k")]
        if amount != int(amount):
            raise ValueError(f"'{data}' is not a whole number of {unit}.")
        return {"amount": int(amount), "unit": unit}

    def steps(self, tokens_per_step: int) -> int:
        """Optimizer steps: a budget of tokens is met by the first step that reaches it."""
        return self.amount if self.unit == "steps" else -(-self.amount // tokens_per_step)

    @model_serializer
    def _written(self) -> str:
        return f"{self.amount} {self.unit}"


class Optimizer(Frozen):
    """AdamW and its schedule. Ratios are shares of the stage's steps or of the learning rate."""

    learning_rate: float = Field(default=3e-4, gt=0)
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    decay_ratio: float = Field(default=0.1, ge=0, le=1)
    minimum_ratio: float = Field(default=0.001, ge=0, le=1)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    max_grad_norm: float | None = Field(default=1.0, gt=0)


class Stage(Frozen):
    """One part of the training: what is read, what is trained, on which objective, for how long."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    source: Part
    objective: tuple[Term, ...] = Field(min_length=1)
    budget: Budget
    train: tuple[str, ...] = ("*",)
    rows_per_step: int = Field(default=8, gt=0)
    micro_rows: int = Field(default=1, gt=0)
    optimizer: Optimizer = Optimizer()
    alpha: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _sound(self) -> Stage:
        if self.rows_per_step % self.micro_rows:
            raise ValueError(
                f"rows_per_step {self.rows_per_step} is no multiple of micro_rows {self.micro_rows}."
            )
        names = [term.name for term in self.objective]
        if len(set(names)) != len(names):
            raise ValueError(f"an objective stands twice in {names}; give one weight instead.")
        given = "cross_entropy" in names or any(term.weighed for term in self.objective)
        if self.alpha is not None and given:
            raise ValueError("give alpha, or cross_entropy and weights; not both.")
        return self

    @property
    def terms(self) -> tuple[Term, ...]:
        """The objective with `alpha` spelled out: alpha x cross_entropy + (1 - alpha) x the rest."""
        if self.alpha is None:
            return self.objective
        kept = [term.model_copy(update={"weight": 1 - self.alpha}) for term in self.objective]
        return (Term(name="cross_entropy", weight=self.alpha), *kept)


class Checkpoints(Frozen):
    """When work is made safe. The newest verified checkpoint is never removed."""

    every: int = Field(default=50, gt=0, description="optimizer steps")
    keep_last: int = Field(default=2, gt=0)
    keep_best: int = Field(default=0, ge=0)
    held_out_rows: int = Field(default=16, gt=0, description="rows that judge which one is best")


class Compute(Frozen):
    """Where and how it is computed. `auto`: CUDA if there is one; bfloat16 where it is fast."""

    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    activation_checkpointing: bool = False
    chunk: int = Field(default=256, gt=0, description="tokens that hold logits at one time")
    threads: int | None = Field(default=None, gt=0)


class Export(Frozen):
    """How the student leaves the house."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    max_difference: float = Field(default=1e-4, gt=0)


class Evaluate(Frozen):
    """What is measured at the end, on text that nobody was trained on."""

    source: Part
    rows: int = Field(default=64, gt=0)
    measures: tuple[Part, ...] = (Part(name="bits_per_byte"), Part(name="agreement"))
    prompt: str | None = None
    sample_tokens: int = Field(default=48, gt=0)


class Recipe(Frozen):
    """A whole run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(default=0, ge=0)
    teacher: Part | None = None
    student: Part
    tokenizer: str | None = None
    stages: tuple[Stage, ...] = Field(min_length=1)
    control: bool = False
    compute: Compute = Compute()
    checkpoints: Checkpoints = Checkpoints()
    export: Export = Export()
    evaluate: Evaluate | None = None
    log_every: int = Field(default=1, gt=0)
    resume: str = "auto"
    runs: str = "runs"

    @model_validator(mode="after")
    def _sound(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stages: a name stands twice in {names}.")
        if self.checkpoints.keep_best and self.evaluate is None:
            raise ValueError("checkpoints.keep_best needs evaluate.source, to judge which is best.")
        return self
