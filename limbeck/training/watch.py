"""A stage is watched while it trains: looks at held-out rows, which of them was the best, and when to end early."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from limbeck.spelling import Term
from limbeck.training import heldout
from limbeck.training.heldout import HeldOut
from limbeck.training.step import Asked, Step, terms_at


@dataclass(frozen=True)
class Best:
    """The figure that chooses. measure: whose it is, or '' for one that every look has."""

    figure: str
    measure: str = ""
    better: Literal["lower", "higher"] = "lower"

    def of(self, found: Mapping[str, Any]) -> float | None:
        """Its value in a look; None where that is no number."""
        table = found["measures"].get(self.measure, {}) if self.measure else found
        value = table.get(self.figure)
        return value if value is not None and math.isfinite(value) else None

    def score(self, value: float | None) -> float | None:
        """The value turned so that lower is better."""
        return value if value is None or self.better == "lower" else -value


@dataclass
class Watch:
    """The looks of one student through one stage.

    every: optimizer steps between looks; there is one at the end, and at every step of `checkpoints` where those are
    judged. patience: so many looks one after the other without a better figure end the stage; None: none do. The best
    value so far, its step and the looks since then go into every checkpoint, so that a resumed stage ends where an
    undisturbed one does.
    """

    held: HeldOut
    every: int
    best: Best
    patience: int | None = None
    judged_every: int | None = None
    value: float | None = None
    step: int = 0
    since: int = 0
    newest: dict[str, Any] = field(default_factory=dict)
    looked_at: int = -1

    def due(self, step: int, steps: int) -> bool:
        """Whether it is time to look when this step is done."""
        judged = self.judged_every is not None and step % self.judged_every == 0
        return step % self.every == 0 or step == steps or judged

    @property
    def ended(self) -> bool:
        """Whether the figure has not become better for so long that the stage ends."""
        return self.patience is not None and self.since >= self.patience

    def look(
        self,
        module: Step,
        functions: Sequence[Asked],
        terms: Sequence[Term],
        *,
        step: int,
        share: float,
    ) -> dict[str, Any]:
        """Looks, and keeps what was found: a line for the log, with the seconds that it took.

        Which tokens a term draws is the same at every look; its weight and options are those of the step just done.
        """
        begun = time.perf_counter()
        bound, weights = terms_at(functions, terms, share)
        titles = [term.title for term in terms]
        found = heldout.figures(module, self.held, bound, titles)
        means = found["terms"]
        if len(means) == len(terms):
            pairs = zip(weights, means.values(), strict=True)
            found = {"loss": sum(weight * mean for weight, mean in pairs if weight), **found}
        self._judge(found, step)
        self.newest, self.looked_at = _told(found), step
        return {
            **self.newest,
            "rows": len(self.held.rows),
            "seconds": round(time.perf_counter() - begun, 3),
        }

    def _judge(self, found: Mapping[str, Any], step: int) -> None:
        value = self.best.of(found)
        score, before = self.best.score(value), self.best.score(self.value)
        if score is not None and (before is None or score < before):
            self.value, self.step, self.since = value, step, 0
        else:
            self.since += 1

    def score(self, step: int) -> float | None:
        """By what a checkpoint of this step is judged, lower is better; None where nobody looked then."""
        return self.best.score(self.best.of(self.newest)) if self.looked_at == step else None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {
            "figure": self.best.figure,
            "value": self.value,
            "step": self.step,
            "since": self.since,
        }

    def resume(self, state: Mapping[str, Any] | None) -> None:
        """Goes on from what a checkpoint kept; of another figure there is nothing to go on from."""
        if state is not None and state["figure"] == self.best.figure:
            self.value, self.step, self.since = state["value"], state["step"], state["since"]

    @property
    def line(self) -> str:
        """The newest value of the figure that chooses, for people; nothing before the first look."""
        value = self.best.of(self.newest) if self.newest else None
        return "" if value is None else f"held-out {self.best.figure} {value:.4f}"

    @property
    def why(self) -> str:
        """Why the stage ended early."""
        best = (
            "none was a number" if self.value is None else f"{self.value:.6g} at step {self.step}"
        )
        return f"{self.since} looks brought no better {self.best.figure} (best: {best})"


def _told(found: Any) -> Any:
    """The same with null in the place of what is no number, which JSON cannot say."""
    if isinstance(found, dict):
        return {key: _told(value) for key, value in found.items()}
    return None if isinstance(found, float) and not math.isfinite(found) else found
