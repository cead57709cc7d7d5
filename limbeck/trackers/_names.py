"""The names under which trackers show what log.jsonl holds: the one place where they are decided.

Ours are `train/` and the key of the line or the title of the term. Beside them stand the names that users of other tools
look for: `train/ce_loss`, `train/kl_loss`, `eval/ce_loss`, `eval/kl_loss`.
"""

from __future__ import annotations

import math
from typing import Any

_KEYS = (
    "loss", "grad_norm", "learning_rate", "epoch", "tokens_per_second", "peak_gigabytes", "model_flops_utilisation",
)  # fmt: skip
# Of several divergences the first in this order is `kl_loss`.
_DIVERGENCES = ("forward_kl", "adaptive_kl", "skew_kl", "reverse_kl", "skew_reverse_kl")


def _terms(room: str, terms: dict[str, float]) -> dict[str, float]:
    found = {f"{room}/{title}": value for title, value in terms.items()}
    if "cross_entropy" in terms:
        found[f"{room}/ce_loss"] = terms["cross_entropy"]
    divergence = next((name for name in _DIVERGENCES if name in terms), None)
    if divergence is not None:
        found[f"{room}/kl_loss"] = terms[divergence]
    return found


class Walk:
    """Names the lines of a log from its beginning: steps and tokens are counted through all stages."""

    def __init__(self) -> None:
        self._before: dict[
            str, tuple[int, int]
        ] = {}  # of each stage: steps and tokens of those before it
        self._last = (0, 0)
        self._least = math.inf
        self._epoch: float | None = None

    def step(self, line: dict[str, Any]) -> int:
        """The step of a line, counted through all stages."""
        return self._before.setdefault(line["stage"], self._last)[0] + int(line["step"])

    def named(self, line: dict[str, Any]) -> dict[str, float]:
        """The figures of the next line: those of a step, or of a look at held-out rows after it."""
        step = self.step(line)
        tokens = self._before[line["stage"]][1] + int(line["tokens"])
        self._last = (step, tokens)
        found: dict[str, float] = {"train/step": step, "train/tokens": tokens}
        found["train/stage"] = list(self._before).index(line["stage"]) + 1
        self._epoch = line.get("epoch", self._epoch)
        found |= {f"train/{key}": line[key] for key in _KEYS if key in line}
        found |= _terms("train", line.get("terms", {}))
        return found | self._held_out(line, step)

    def _held_out(self, line: dict[str, Any], step: int) -> dict[str, float]:
        told = line.get("held_out")
        if told is None:
            return {}
        terms = {"cross_entropy": told["cross_entropy"]} | told.get("terms", {})
        measures = list(told.get("measures", {}).values())
        found = {f"eval/{name}": value for row in measures for name, value in row.items()}
        found |= _terms("eval", terms) | {"eval/step": step}
        if self._epoch is not None:
            found["eval/epoch"] = self._epoch
        found = {name: value for name, value in found.items() if value is not None}  # none: NaN
        if "eval/ce_loss" in found:
            found["eval/perplexity"] = math.exp(min(700.0, found["eval/ce_loss"]))
        if (loss := told.get("loss")) is not None:
            self._least = min(self._least, loss)
            found |= {"eval/loss": loss, "eval/min_loss": self._least}
        return found


def of_figures(figures: dict[str, dict[str, dict[str, float]]]) -> dict[str, float]:
    """The final figures, `final/student/bits_per_byte`, of {measure: {model: {name: value}}}."""
    return {
        f"final/{model}/{name}": value
        for models in figures.values()
        for model, row in models.items()
        for name, value in row.items()
    }
