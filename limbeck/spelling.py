"""The small words of a recipe, each with its own spelling in YAML: part, term, ramp, budget."""

from __future__ import annotations

import math
import re
from decimal import Decimal
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

    start: float = Field(alias="from", description="the value at the stage's first step")
    end: float = Field(alias="to", description="the value at its last step")
    shape: Literal["linear", "cosine"] = Field(default="linear", description="the way between them")

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
        # Keys only: a value may be a secret that was given in the wrong place.
        found = f"keys {', '.join(map(str, data))}" if isinstance(data, dict) else repr(data)
        raise ValueError(
            f"found {found}; wanted a name, or one name with a mapping of its options."
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
            return {"weighed": "weight" in data, **data}
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
        amount = Decimal(number.replace("_", "")) * _SIZES[size.replace("K", "k")]
        if amount != int(amount):
            raise ValueError(f"'{data}' is not a whole number of {unit}.")
        return {"amount": int(amount), "unit": unit}

    def steps(self, tokens_per_step: int) -> int:
        """Optimizer steps: a budget of tokens is met by the first step that reaches it."""
        return self.amount if self.unit == "steps" else -(-self.amount // tokens_per_step)

    @model_serializer
    def _written(self) -> str:
        return f"{self.amount} {self.unit}"
