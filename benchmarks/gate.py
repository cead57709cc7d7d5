"""Two cheap rows that must not get worse: the head's time and memory against plain PyTorch in the same process.

The limits have slack for a busy machine, and a row that misses is measured again, twice at most. Exit status 1 if it
still misses.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import peers
import side_by_side as sbs
import torch
from peers import Case

from limbeck.objectives._buffers import Room

TOKENS, VOCAB, WIDTH = 512, 49_152, 576
# Found on 2 quiet cores: 1.08 and 4.8.
LIMITS = {"time, plain over limbeck": 0.8, "memory, plain over limbeck": 3.5}
TRIES = 3


def time_ratio(case: Case) -> float:
    """CPU seconds of plain PyTorch over ours."""
    race = {"plain": peers.plain(case), "limbeck": peers.limbeck(case, room=Room())}
    return sbs.ratio(sbs.race(race, rounds=3), "plain", "limbeck")


def memory_ratio(case: Case) -> float:
    """Peak beyond the weight's gradient, plain PyTorch over ours."""
    weight = case.weight.numel() * case.weight.element_size() / 1e6
    found = []
    for runner in (peers.plain(case), peers.limbeck(case)):
        runner()
        case.clear()
        found.append(sbs.peak(runner) - weight)
        case.clear()
    return found[0] / found[1]


def main() -> None:
    """Measures both rows and ends with status 1 where one misses its limit three times."""
    case = Case(TOKENS, VOCAB, WIDTH, torch.float32)
    measures: tuple[Callable[[Case], float], ...] = (time_ratio, memory_ratio)
    missed = False
    for (name, limit), measure in zip(LIMITS.items(), measures, strict=True):
        for attempt in range(1, TRIES + 1):
            found = measure(case)
            print(f"{name}: {found:.2f}, wanted at least {limit} (try {attempt})", flush=True)
            if found >= limit:
                break
        else:
            missed = True
    sys.exit(missed)


if __name__ == "__main__":
    main()
