"""The small words of a recipe, each with its own spelling in YAML: part, term and its links, ramp, budget."""

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
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
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


class Link(Frozen):
    """A tap of the student and the tap of the teacher that it is compared with."""

    student: str
    teacher: str

    @model_validator(mode="before")
    @classmethod
    def _spelled(cls, data: Any) -> Any:
        if not isinstance(data, str):
            return data
        place = "layers.*" if data == "all" else data
        return {"student": place, "teacher": place}

    @model_serializer
    def _written(self) -> Any:
        if self.student == self.teacher:
            return self.student
        return {"student": self.student, "teacher": self.teacher}


class Projector(Frozen):
    """A linear map from the student's width to the teacher's, trained with the student and not exported."""

    bias: bool = Field(default=False, description="whether it adds a vector, too")
    start: Literal["orthogonal", "random", "identity", "pca"] = Field(
        default="orthogonal",
        description="what it begins as; `pca`: the teacher's main directions on the first rows of the stage",
    )

    @model_validator(mode="before")
    @classmethod
    def _spelled(cls, data: Any) -> Any:
        return {} if data == "linear" else data


class Linked(Frozen):
    """What an objective between taps is told besides its own options. Only where `at` is given."""

    at: tuple[Link, ...] = Field(
        min_length=1,
        description="the taps: `all`, a name or pattern such as `layers.*.mlp` for both sides, {student: ..., teacher: ...}, or a list; their values are added",
    )
    projector: Projector | None = Field(
        default=None, description="`linear`, or {bias: ..., start: ...}; for taps of other widths"
    )
    teacher_projected: bool = Field(
        default=False,
        description="the teacher's features go through the student's own projection at its tap, which learns from both sides; for a low-rank clone",
    )
    token_share: float = Field(
        default=1.0, gt=0, le=1, description="share of each row's tokens, drawn anew at each step"
    )
    units: Literal["tokens", "rows"] = Field(
        default="tokens",
        description="what relations are among: tokens of a row, or the rows of a micro-batch, each the mean of its tokens",
    )
    max_units: int = Field(
        default=64, ge=3, description="how many of them at most; angles cost their cube"
    )

    @model_validator(mode="before")
    @classmethod
    def _spelled(cls, data: Any) -> Any:
        if isinstance(data, dict) and "at" in data and not isinstance(data["at"], list | tuple):
            return data | {"at": [data["at"]]}
        return data

    @model_serializer
    def _written(self) -> Any:
        links = [link.model_dump() for link in self.at]
        found: dict[str, Any] = {"at": links[0] if len(links) == 1 else links}
        if self.projector is not None:
            found["projector"] = self.projector.model_dump(exclude_defaults=True) or "linear"
        for name in ("teacher_projected", "token_share", "units", "max_units"):
            value = getattr(self, name)
            if value != Linked.model_fields[name].default:
                found[name] = value
        return found


class Term(Frozen):
    """One weighted objective. `weight` and any numeric option may be a ramp `{from, to, shape}`.

    `forward_kl as mild: ...` gives it a label, which the log and `ban` know it by; one objective may then stand twice.
    """

    name: str
    label: str = ""
    weight: Scheduled = 1.0
    options: dict[str, Any] = Field(default_factory=dict)
    linked: Linked | None = None
    weighed: bool = Field(default=False, exclude=True)

    @property
    def title(self) -> str:
        """What the term is called among those of its stage: its label, or else its name."""
        return self.label or self.name

    @model_validator(mode="before")
    @classmethod
    def _spelled(cls, data: Any) -> Any:
        if isinstance(data, dict) and "name" in data:
            return {"weighed": "weight" in data, **data}
        part = Part.model_validate(data)
        name, labelled, label = part.name.partition(" as ")
        if labelled and not _LABEL.fullmatch(label):
            raise ValueError(
                f"found the label '{label}' of {name}; wanted letters, digits, '-' and '_', such as mlp-gate."
            )
        options = dict(part.options)
        weighed = "weight" in options
        weight = options.pop("weight", 1.0)
        linked = None
        if "at" in options:
            mine = [key for key in Linked.model_fields if key in options]
            linked = Linked.model_validate({key: options.pop(key) for key in mine})
        for key, value in options.items():
            if isinstance(value, dict) and set(value) <= {"from", "to", "shape"}:
                options[key] = Ramp.model_validate(value)
        return {
            "name": name,
            "label": label,
            "weight": weight,
            "options": options,
            "linked": linked,
            "weighed": weighed,
        }

    @model_serializer
    def _written(self) -> Any:
        given = {"weight": self.weight, **self.options} if self.weighed else self.options
        given = {**given, **(self.linked.model_dump() if self.linked else {})}
        plain = {
            key: value.model_dump(by_alias=True) if isinstance(value, Ramp) else value
            for key, value in given.items()
        }
        name = f"{self.name} as {self.label}" if self.label else self.name
        return {name: plain} if plain else name


def check_titles(titles: list[str], banned: tuple[str, ...]) -> None:
    """Refuses two terms of one title in a stage, and a ban of none or of all."""
    if len(set(titles)) != len(titles):
        raise ValueError(
            f"an objective stands twice in {titles}; give one weight instead, or labels: 'feature_mse as mine'."
        )
    for one in banned:
        if one not in titles:
            raise ValueError(f"ban: no term '{one}'.{suggestion(one, titles)}")
    if set(titles) <= set(banned):
        raise ValueError(f"ban: {list(banned)} leaves no term; keep one of them.")


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
