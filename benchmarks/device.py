"""B1, B2, B4, B6 and B7 on a CUDA device, with random weights at the sizes of well-known models; tiny where there is none.

Two ceilings are measured in the same command: a bfloat16 product of 8,192 cubed and a copy. `of ceiling` is the share
of the first that the head's own products would need at least.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import head
import peers
import recording
import side_by_side as sbs
import step_ground
import torch
from peers import Case

from limbeck.objectives._buffers import Room
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.forward_kl import forward_kl
from limbeck.objectives.jensen_shannon import jensen_shannon
from limbeck.objectives.reverse_kl import reverse_kl
from limbeck.teachers.cached import Cached
from limbeck.teachers.live import Live

STUDENT, TEACHER = "meta-llama--Llama-3.2-1B-Instruct", "meta-llama--Llama-3.2-3B-Instruct"
# Ids, width of student and teacher, tokens: an 1B student of an 8B teacher, and Qwen's 1.5B of its 7B.
HEADS = ((128_256, 2048, 4096, 8192), (151_936, 1536, 3584, 8192))
TINY = ((5_003, 16, 24, 70),)
LENGTH, ROWS = 4096, 2
# Steps of a loop at most, and before its time is taken where blocks are compiled: rows with one document, with several,
# and with another number of them are compiled apart.
STEPS, WARM = 16, 5
ON_DEVICE = torch.cuda.is_available()

OURS = {"forward KL": forward_kl, "reverse KL": reverse_kl, "Jensen-Shannon": jensen_shannon}
BETAS = {"forward KL": 0.0, "reverse KL": 1.0, "Jensen-Shannon": 0.5}
Runners = dict[str, Callable[[], Any]]


def ceilings() -> list[dict[str, Any]]:
    """What the device gives at most: TFLOP/s of a product, TB/s of a copy (read and written)."""
    size, many = (8192, 2**31) if ON_DEVICE else (128, 2**20)
    where = step_ground.device()
    left, right = (torch.randn(size, size, device=where, dtype=torch.bfloat16) for _ in range(2))
    out, source = torch.empty_like(left), torch.empty(many, device=where, dtype=torch.uint8)
    target = torch.empty_like(source)
    runners: Runners = {
        "product": lambda: torch.mm(left, right, out=out),
        "copy": lambda: target.copy_(source),
    }
    times = sbs.race(runners, rounds=10 if ON_DEVICE else 2)
    return [
        {
            "what": "bfloat16 product, TFLOP/s",
            "at most": 2 * size**3 / sbs.seconds(times, "product") / 1e12,
        },
        {"what": "copy, TB/s", "at most": 2 * many / sbs.seconds(times, "copy") / 1e12},
    ]


def dense(case: Case) -> dict[str, Runners]:
    """Divergences with a dense teacher: ours, and every peer that is here, at its default and at its best."""
    room = Room()
    found: dict[str, Runners] = {}
    for name, term in OURS.items():
        beta = BETAS[name]
        race: Runners = {"limbeck": peers.limbeck(case, terms=(term,), room=room)}
        if peers.installed("liger_kernel"):
            race["liger 1024 compiled (default)"] = peers.liger(
                case, 1024, compiled=True, beta=beta
            )
            race["liger 4096 compiled"] = peers.liger(case, 4096, compiled=True, beta=beta)
            if ON_DEVICE:
                race["liger triton"] = peers.liger_triton(case, beta=beta)
        if peers.installed("trl"):
            race["trl kernel"] = peers.trl_kernel(case, beta=beta)
        found[name] = race
    forward = found["forward KL"]
    forward["products"] = peers.products(case, 2048, kept=True)
    forward["plain"] = peers.plain(case)
    if peers.installed("trl"):
        forward["trl gkd"] = peers.trl_gkd(case)
    return found


def head_rows(case: Case, rounds: int, most: float) -> list[dict[str, Any]]:
    """B1: time, memory beyond the weight's gradient, and for forward KL the error against float64."""
    weight = case.weight.numel() * case.weight.element_size() / 1e6
    flops = case.tokens * case.vocab * (6 * case.width + 2 * (case.teacher_width or case.width))
    true, rows = head.exact(case), []
    for divergence, race in dense(case).items():
        working = {label: runner for label, runner in race.items() if _runs(label, runner)}
        times = sbs.race(working, rounds=rounds)
        for label, runner in working.items():
            case.clear()
            row: dict[str, Any] = {"case": case.name, "tokens": case.tokens, "what": divergence}
            row |= {"who": label, "milliseconds": 1e3 * sbs.seconds(times, label)}
            row |= {"over limbeck": sbs.ratio(times, label, "limbeck")}
            row |= {"of ceiling": flops / sbs.seconds(times, label) / 1e12 / most}
            # Ours without what it keeps between calls, so that this counts.
            lean = peers.limbeck(case, terms=(OURS[divergence],)) if label == "limbeck" else runner
            if label != "products":  # theirs lie in memory that stays
                row |= {"MB": sbs.peak(lean) - weight}
            if divergence == "forward KL" and label != "products":
                off = head.error(case, runner, true)
                row |= {"error hidden": off[0], "error weight": off[1]}
                row |= {"void": "yes"} if max(off) > head.GATE[case.dtype] else {}
            rows.append(row)
            case.clear()
    return rows


def _runs(label: str, runner: Callable[[], Any]) -> bool:
    """Whether it does at all: a peer that fails here is named, and the others are measured."""
    try:
        runner()
    except (
        ArithmeticError,
        AttributeError,
        ImportError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as reason:
        if label == "limbeck":
            raise
        print(f"{label} does not run here: {type(reason).__name__}: {str(reason)[:300]}")
        return False
    return True


def sparse_rows(case: Case, rounds: int, most: float) -> list[dict[str, Any]]:
    """B2: what was kept of a teacher, beside heads that have none."""
    limbeck = partial(peers.limbeck, case, room=Room())
    race: Runners = {
        "16 sampled ids": limbeck(teacher=head.kept(case, "sampled")),
        "16 sampled ids + labels": limbeck(
            teacher=head.kept(case, "sampled"), terms=(forward_kl, cross_entropy)
        ),
        "top 16 with rest": limbeck(teacher=head.kept(case, "topk")),
        "labels alone": limbeck(terms=(cross_entropy,)),
        "labels alone, plain": partial(head._labels, case),
    }
    if ON_DEVICE and peers.installed("liger_kernel"):
        race["labels alone, liger triton"] = peers.liger_labels(case)
    race = {label: runner for label, runner in race.items() if _runs(label, runner)}
    times, flops = sbs.race(race, rounds=rounds), 6 * case.tokens * case.vocab * case.width
    rows = []
    for label in race:
        rows.append(
            {
                "case": case.name,
                "what": label,
                "milliseconds": 1e3 * sbs.seconds(times, label),
                "over labels alone": sbs.ratio(times, label, "labels alone"),
                "of ceiling": flops / sbs.seconds(times, label) / 1e12 / most,
            }
        )
    return rows


def step_rows(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """B6 and B7: whole optimizer steps of a 1B student, from a cache and beside a 3B teacher."""
    length = LENGTH if ON_DEVICE else 32
    masters, teacher = (
        step_ground.sized(STUDENT, torch.float32),
        step_ground.sized(TEACHER, torch.bfloat16),
    )
    rows = step_ground.drawn(masters.config.vocab_size, length, STEPS * ROWS)
    base = step_ground.Ground(masters, teacher, rows, ROWS, STEPS)
    base.every = 1
    live, cached = Live(base.teacher), base.cached(folder / "cache")
    found = []
    for compiled in (False, True):
        for label, make in loops(base, (live, cached), folder, compiled=compiled).items():
            runner = make()
            if not _runs(label if not label.startswith("limbeck") else "limbeck", runner):
                continue
            for _ in range(WARM if compiled else 0):
                runner()
            times = sbs.race({label: runner}, rounds=rounds)
            seconds, students = sbs.seconds(times, label), 2 if "two" in label else 1
            row: dict[str, Any] = {"loop": label, "blocks": "compiled" if compiled else "plain"}
            row |= {"seconds": seconds, "tokens/s": students * base.tokens / seconds}
            row |= {"peak GB": sbs.peak(runner) / 1e3}
            found.append(row)
            del runner
            if ON_DEVICE:
                torch.cuda.empty_cache()
    return [row | _beside(found, row) for row in found]


def loops(
    base: step_ground.Ground, teachers: tuple[Live, Cached], folder: Path, *, compiled: bool
) -> dict[str, Callable[[], Callable[[], Any]]]:
    """What makes each loop, to be made one after the other: each holds a student, its masters and moments."""
    live, cached = teachers
    ours = partial(base.ours, folder=folder, compiled=compiled)
    theirs = partial(base.theirs, compiled=compiled)
    found: dict[str, Callable[[], Callable[[], Any]]] = {
        "limbeck from cache": lambda: ours(cached),
        "limbeck online": lambda: ours(live),
        "transformers cross-entropy, autocast": lambda: theirs("ce", autocast=True),
        "transformers cross-entropy, bfloat16": lambda: theirs("ce", autocast=False),
    }
    if not compiled:
        found["limbeck online, two students"] = lambda: ours(live, students=2)
        found["limbeck cross-entropy"] = lambda: ours(None)
    if peers.installed("trl"):
        found["trl gkd, autocast"] = lambda: theirs("gkd", autocast=True)
        found["trl gkd, bfloat16"] = lambda: theirs("gkd", autocast=False)
    return found


def _beside(rows: Sequence[Mapping[str, Any]], mine: Mapping[str, Any]) -> dict[str, float]:
    """How many times as fast ours are, whose blocks are as compiled."""
    names = {"from cache over": "limbeck from cache", "online over": "limbeck online"}
    alike = {row["loop"]: row["tokens/s"] for row in rows if row["blocks"] == mine["blocks"]}
    return {key: alike[name] / mine["tokens/s"] for key, name in names.items()}


def recording_rows(rounds: int) -> list[dict[str, Any]]:
    """B4: a 1B teacher recorded, beside its trunk alone."""
    teacher = step_ground.sized(STUDENT, torch.bfloat16).eval()
    length, rows, micro = (LENGTH, 32, 4) if ON_DEVICE else (32, 4, 2)
    source = step_ground.drawn(teacher.config.vocab_size, length, rows)
    twin = recording.sealed(teacher)
    race: Runners = {
        "trunk": lambda: recording.trunk(teacher, source, rows, micro),
        "sample": lambda: recording.ours(teacher, source, rows, micro, "sample"),
        "topk+rest": lambda: recording.ours(teacher, source, rows, micro, "topk+rest"),
        "trunk, compiled blocks": lambda: recording.trunk(twin, source, rows, micro),
        "sample, compiled blocks": lambda: recording.ours(twin, source, rows, micro, "sample"),
        "plain": lambda: recording.plainly(teacher, source, rows, 1),
    }
    times = sbs.race(race, rounds=rounds)
    return [
        {
            "what": label,
            "tokens/s": rows * length / sbs.seconds(times, label),
            "of trunk": sbs.ratio(times, "trunk", label),
            "peak GB": sbs.peak(runner) / 1e3,
        }
        for label, runner in race.items()
    ]


def main() -> None:
    reads = argparse.ArgumentParser(description=__doc__)
    reads.add_argument("--quick", action="store_true", help="one round, nothing written")
    reads.add_argument("--rounds", type=int, default=5)
    reads.add_argument("--only", nargs="*", default=["recording", "head", "steps"])
    asked = reads.parse_args()
    quick = asked.quick or not ON_DEVICE
    rounds = 1 if quick else asked.rounds
    if not ON_DEVICE:
        print("There is no CUDA device here: tiny sizes on the CPU. No GPU figure comes of this.")
    most = ceilings()
    sbs.save("device_ceilings", most, quick=quick)
    peak = float(most[0]["at most"])
    if "recording" in asked.only:
        found = recording_rows(min(rounds, 3))
        sbs.save("device_recording", found, note="a 1B teacher, rows of 4,096 tokens", quick=quick)
    if "head" in asked.only:
        dense_found: list[dict[str, Any]] = []
        sparse_found: list[dict[str, Any]] = []
        for vocab, width, theirs, tokens in HEADS if ON_DEVICE else TINY:
            case = Case(tokens, vocab, width, torch.bfloat16, teacher_width=theirs)
            sparse_found += sparse_rows(case, rounds, peak)
            sbs.save("device_kinds", sparse_found, note="all gradients", quick=quick)
            dense_found += head_rows(case, rounds, peak)
            sbs.save("device_head", dense_found, note="all gradients", quick=quick)
    if "steps" in asked.only:
        with tempfile.TemporaryDirectory() as folder:
            found = step_rows(Path(folder), rounds)
        note = f"Llama-3.2 sizes, random weights: 3B teacher, 1B student, {ROWS * LENGTH} tokens a step"
        sbs.save("device_steps", found, note=note, quick=quick)


if __name__ == "__main__":
    main()
