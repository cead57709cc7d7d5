"""What a run took: hours of training, hours of the machine, energy of its GPUs, money. Reads files only, needs no torch."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from limbeck.report.collect import Curves, Facts

Line = dict[str, Any]
# Between two samples of one command there are seconds, as many as the recipe says; between two commands there may be days.
_PAUSE = 60.0
_SAMPLES = 5


@dataclass(frozen=True)
class Cost:
    """hours: of the machine while commands of the run worked on it. kilowatt_hours: of its GPUs, where they tell."""

    training: dict[str, float]
    hours: float | None
    gpus: int
    kilowatt_hours: float | None
    money: float | None
    text: float | None
    currency: str

    def trained(self) -> list[tuple[str, str]]:
        """What the training of each arm took."""
        return [
            (f"training of the {title}", duration(seconds))
            for title, seconds in self.training.items()
        ]

    def rows(self) -> list[tuple[str, str]]:
        """All of it, names and values for people; no row of what was not measured."""
        found = self.trained()
        if self.hours is not None:
            gpus = f", with {self.gpus} GPU{'s' * (self.gpus > 1)}" if self.gpus else ""
            found.append(("the machine, in all", f"{duration(3600 * self.hours)}{gpus}"))
        if self.kilowatt_hours is not None:
            found.append(("energy of the GPUs", f"{self.kilowatt_hours:,.3g} kWh"))
        if self.money is not None:
            found.append(("price of the machine", f"{self.money:,.2f} {self.currency}"))
        if self.text is not None:
            found.append(("price of the text that teachers wrote", f"{self.text:,.2f}"))
        return found


def duration(seconds: float) -> str:
    """'48 s', '12 min 5 s', '3 h 7 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def of_run(found: Facts) -> Cost:
    """What a run took, as far as its folder tells."""
    settings = found.settings.get("telemetry") or {}
    every = settings.get("every_seconds") or 0.0
    hours, watt_hours, gpus = _machine(found.telemetry, max(_PAUSE, _SAMPLES * every))
    price = settings.get("price_per_hour")
    texts = [one["spent"] for one in found.provenance.get("text_spent", ())]
    return Cost(
        training={arm.title: training_seconds(arm) for arm in found.curves},
        hours=hours,
        gpus=gpus,
        kilowatt_hours=None if watt_hours is None else watt_hours / 1000,
        money=None if price is None or hours is None else price * hours,
        text=sum(texts) if texts else None,
        currency=str(settings.get("currency", "USD")),
    )


def training_seconds(arm: Curves) -> float:
    """Seconds in which an arm was trained, of the lines of its log: without looks, checkpoints and what a kill undid."""
    seconds, before, stage = 0.0, 0, None
    for line in arm.lines:
        if "tokens_per_second" not in line:
            continue
        if line["stage"] != stage:
            before, stage = 0, line["stage"]
        if line["tokens_per_second"] > 0:
            seconds += (line["tokens"] - before) / line["tokens_per_second"]
        before = line["tokens"]
    return seconds


def _machine(lines: list[Line], pause: float) -> tuple[float | None, float | None, int]:
    """Hours, watt-hours of the GPUs and their number, of samples by time; pauses between commands are not counted.

    From a sample to the next one, whoever wrote it: what two commands sampled at once is one moment of the machine.
    """
    if len(lines) < 2:
        return None, None, 0
    seconds, joules, measured = 0.0, 0.0, False
    for here, after in itertools.pairwise(lines):
        gap = after["time"] - here["time"]
        if gap > pause:
            continue
        seconds += gap
        watts = [gpu["watts"] for gpu in here.get("gpus", ()) if "watts" in gpu]
        measured = measured or bool(watts)
        joules += gap * sum(watts)
    gpus = max(len(line.get("gpus", ())) for line in lines)
    return seconds / 3600, joules / 3600 if measured else None, gpus
