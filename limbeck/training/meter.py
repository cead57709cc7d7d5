"""What a run says of itself while it works: one JSON line a logged step, and one a look at held-out rows."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from typing_extensions import TypedDict

from limbeck import checked, files, pages

_MEND = "Bring back the file as it was, or remove it: nothing but its curves is lost then."


def forget_peak(device: torch.device) -> None:
    """Begins to measure the peak of memory anew, so that one arm does not report what another used."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        pages.forget_peak()


def peak_gigabytes(device: torch.device) -> float:
    """The most memory used so far: on the device, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 1e9 if sys.platform == "darwin" else used * 1024 / 1e9


class Log:
    """The lines of log.jsonl. After a resume, lines beyond the resumed step are dropped first."""

    def __init__(
        self,
        path: Path,
        *,
        resumed_at: int,
        stage: str,
        writes: bool = True,
        tell: Callable[[dict[str, Any]], None] | None = None,
        fastest: float | None = None,
    ) -> None:
        """tell: who else is given each line. fastest: tokens per second at the devices' peak, where that is known."""
        self.path = path
        self.stage = stage
        self._tell, self._fastest = tell, fastest
        self._since = time.perf_counter()
        self._tokens = 0
        if not writes:
            return
        kept = [line for line in read(path) if line["stage"] != stage or line["step"] <= resumed_at]
        files.write_bytes(path, b"".join(_line(entry) for entry in kept))

    def count(self, tokens: int) -> None:
        """Adds tokens to the rate of the next line."""
        self._tokens += tokens

    def write(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Adds a line, with tokens per second since the last one."""
        now = time.perf_counter()
        rate = self._tokens / max(now - self._since, 1e-9)
        whole = {"stage": self.stage, **entry, "tokens_per_second": round(rate, 1)}
        if self._fastest is not None:
            whole["model_flops_utilisation"] = round(rate / self._fastest, 5)
        self._append(whole)
        self._since, self._tokens = now, 0
        return whole

    def held_out(self, entry: dict[str, Any], seconds: float) -> None:
        """Adds a line of a look at held-out rows; the seconds that it took slow no training down."""
        self._append({"stage": self.stage, **entry})
        self._since += seconds

    def _append(self, whole: dict[str, Any]) -> None:
        with self.path.open("ab") as stream:
            stream.write(_line(whole))
            stream.flush()
            os.fsync(stream.fileno())  # a checkpoint must not outlive the lines that led to it
        if self._tell is not None:
            self._tell(whole)


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, allow_nan=False).encode() + b"\n"


class _Logged(TypedDict):
    """What every line has."""

    stage: str
    step: checked.Whole


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line that a kill cut short is passed over, another that is none of ours is refused."""
    return [dict(line) for line in checked.lines(path, _Logged, _MEND)]
