"""One distillation step's head: hidden states to loss and gradients, in chunks against whole logits.

Time is CPU seconds of interleaved rounds in this process; memory is the peak resident size above the inputs, of each
variant in a process of its own. A variant whose gradients are not those of the other is not timed at all.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from limbeck.models import layout
from limbeck.models.layout import Head
from limbeck.objectives._chunks import chunked, whole
from limbeck.objectives.forward_kl import forward_kl
from limbeck.training.step import Step
from limbeck.types import Batch, Rows, Signal, TopK

TOLERANCE = 1e-4
"""The largest relative difference between the gradients of the two variants, in norm."""
VARIANTS = ("chunked", "whole")
Work = Callable[[], list[Tensor]]
"""Does one step and returns its gradients: of the hidden states and the head, or of every parameter."""


@dataclass(frozen=True)
class Case:
    """What is measured. teacher: 'hidden' (states and a head) or 'top64'. layers: 0 for the head alone."""

    name: str
    vocab: int
    width: int
    tokens: int
    teacher: str
    layers: int = 0
    chunk: int = 256


CASES = (
    Case("head, 49k, dense", 49_152, 576, 2_048, "hidden"),
    Case("head, 49k, top 64", 49_152, 576, 2_048, "top64"),
    Case("head, 128k, dense", 128_256, 1_024, 1_024, "hidden"),
    Case("head, 128k, top 64", 128_256, 1_024, 1_024, "top64"),
    Case("step, 49k, dense", 49_152, 576, 1_024, "hidden", layers=4),
    Case("step, 49k, top 64", 49_152, 576, 1_024, "top64", layers=4),
)
TINY = (
    Case("head, tiny, dense", 4_001, 32, 1_024, "hidden"),
    Case("head, tiny, top 64", 4_001, 32, 1_024, "top64"),
    Case("step, tiny, dense", 4_001, 32, 1_024, "hidden", layers=2),
)


def work(case: Case, variant: str) -> Work:
    """The step of a case, its inputs made."""
    generator = torch.Generator().manual_seed(0)
    signal = teacher(case, generator)
    return whole_step(case, variant, signal) if case.layers else head(case, variant, signal)


def matrix(rows: int, width: int, generator: torch.Generator, spread: float) -> Tensor:
    return torch.randn(rows, width, generator=generator) * spread


def made_head(vocab: int, width: int, generator: torch.Generator) -> Head:
    """A head whose logits spread by about 3, as a trained one's do."""
    weight = matrix(vocab, width, generator, 3 / width**0.5)
    return Head(weight, None, 1.0, None, vocab)


def teacher(case: Case, generator: torch.Generator) -> Signal:
    made = made_head(case.vocab, case.width, generator)
    hidden = matrix(case.tokens, case.width, generator, 1.0)
    if case.teacher == "hidden":
        return Signal(hidden=hidden, head=made)
    kept = []
    for start in range(0, case.tokens, 64):
        logprobs, ids = made(hidden[start : start + 64]).log_softmax(-1).topk(64)
        kept.append((ids, logprobs, (1 - logprobs.exp().sum(-1)).clamp(min=1e-9).log()))
    return Signal(topk=TopK(*(torch.cat(each) for each in zip(*kept, strict=True))))


def head(case: Case, variant: str, signal: Signal) -> Work:
    generator = torch.Generator().manual_seed(1)
    student = made_head(case.vocab, case.width, generator)
    student.weight.requires_grad_(True)
    hidden = matrix(case.tokens, case.width, generator, 1.0).requires_grad_(True)
    each = torch.arange(case.tokens)
    rows = Rows(each % case.vocab, torch.ones(case.tokens), each, torch.zeros_like(each))
    function = chunked if variant == "chunked" else whole

    def once() -> list[Tensor]:
        hidden.grad = student.weight.grad = None
        total, _ = function(hidden, student, signal, rows, [forward_kl], [1.0], chunk=case.chunk)
        (total / case.tokens).backward()
        return [found for found in (hidden.grad, student.weight.grad) if found is not None]

    return once


def whole_step(case: Case, variant: str, signal: Signal) -> Work:
    """Trunk, head, objective and their gradients; the teacher's own pass is not in it."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=case.vocab,
        hidden_size=case.width,
        intermediate_size=case.width * 8 // 3,
        num_hidden_layers=case.layers,
        num_attention_heads=max(1, case.width // 64),
        num_key_value_heads=max(1, case.width // 192),
        tie_word_embeddings=True,
    )
    step = Step(LlamaForCausalLM(config), vocab=case.vocab, chunk=case.chunk)
    batch = rows_of(case)
    signal_ = signal

    def plain() -> tuple[Tensor, Tensor]:
        hidden = layout.hidden(step.student, batch)
        made = layout.head(step.student, vocab=case.vocab)
        return whole(hidden, made, signal_, batch.rows, [forward_kl], [1.0])

    def once() -> list[Tensor]:
        step.zero_grad(set_to_none=True)
        own = variant == "chunked"
        total, _ = step(batch, signal_, [forward_kl], [1.0]) if own else plain()
        (total / case.tokens).backward()
        return [p.grad for p in step.parameters() if p.grad is not None]

    return once


def rows_of(case: Case) -> Batch:
    """Four rows of random tokens, one document each, (4, tokens / 4)."""
    shape = (4, case.tokens // 4)
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, case.vocab, shape, generator=generator)
    positions = torch.arange(shape[1]).repeat(4, 1)
    nothing = torch.zeros(shape, dtype=torch.int64)
    return Batch(ids, ids, positions, nothing, torch.ones(shape), nothing, ("",) * 4)


def apart(case: Case) -> float:
    """The relative difference, in norm, between the gradients of the two variants."""
    one, other = (work(case, variant)() for variant in VARIANTS)
    difference = sum(
        float((a - b).double().square().sum()) for a, b in zip(one, other, strict=True)
    )
    return (difference / sum(float(b.double().square().sum()) for b in other)) ** 0.5


def rounds(case: Case, number: int) -> dict[str, list[float]]:
    """CPU seconds of each variant in interleaved rounds, each variant first in every other one."""
    jobs = {variant: work(case, variant) for variant in VARIANTS}
    for job in jobs.values():
        job()
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for turn in range(number):
        for variant in VARIANTS if turn % 2 == 0 else reversed(VARIANTS):
            gc.collect()
            begun = time.process_time()
            jobs[variant]()
            seconds[variant].append(time.process_time() - begun)
    return seconds


def resident(line: str) -> float:
    """Megabytes that /proc says of this process: VmRSS (now) or VmHWM (the peak)."""
    text = Path("/proc/self/status").read_text()
    return float(next(row.split()[1] for row in text.splitlines() if row.startswith(line))) / 1024


def peak(case: Case, variant: str) -> float:
    """Megabytes of the peak above what the inputs take, in this process, which should be a fresh one."""
    # What libraries load at their first call is not the step's.
    work(Case("warm-up", 97, 16, 40, "hidden", layers=1), variant)()
    job = work(case, variant)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    found = job()
    above = resident("VmHWM") - before
    assert found  # the gradients live until here: they are part of what a step needs
    return above


def peak_apart(case: Case, variant: str, threads: int) -> float:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--threads", str(threads)]
    command += ["--peak", json.dumps([asdict(case), variant])]
    # Freed blocks go back to the system at once, so that the peak is what lives and not what malloc keeps.
    settings = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=settings)
    return float(done.stdout)


def measured(case: Case, number: int, threads: int) -> dict[str, Any]:
    """One line of the table. Ratios are chunked over whole: below 1, chunks are better."""
    difference = apart(case)
    if not difference <= TOLERANCE:
        sys.exit(f"{case.name}: gradients differ by {difference:.2e}; {TOLERANCE} is allowed.")
    seconds = rounds(case, number) if number else {}
    memory = {variant: peak_apart(case, variant, threads) for variant in VARIANTS}
    pairs = zip(*(seconds.get(variant, []) for variant in VARIANTS), strict=True)
    ratios = [one / other for one, other in pairs]
    return {
        **asdict(case),
        "difference": difference,
        "megabytes": memory,
        "memory_ratio": memory["chunked"] / memory["whole"],
        "seconds": {variant: statistics.median(each) for variant, each in seconds.items()},
        "time_ratio": statistics.median(ratios) if ratios else None,
        "rounds": seconds,
    }


def told(found: dict[str, Any]) -> str:
    memory, seconds = found["megabytes"], found["seconds"]
    times = [seconds.get("chunked"), seconds.get("whole"), found["time_ratio"]]
    cells = [
        *(found["name"], f"{found['vocab']:,}", f"{found['tokens']:,}", f"{found['chunk']:,}"),
        *(f"{memory[variant]:,.0f}" for variant in VARIANTS),
        f"{found['memory_ratio']:.2f}",
        *("-" if each is None else f"{each:.2f}" for each in times),
    ]
    return f"| {' | '.join(cells)} |"


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="0: memory only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, help="another number of tokens")
    parser.add_argument(
        "--chunk", type=int, default=256, help="tokens that hold logits at one time"
    )
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--json", type=Path, help="a file to write everything to")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = asked()
    torch.set_num_threads(options.threads)
    if options.peak:
        case, variant = json.loads(options.peak)
        print(peak(Case(**case), variant))
        return
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    say = functools.partial(print, flush=True)
    say(f"forward KL, float32, {options.threads} thread(s), {options.rounds} rounds, {versions}\n")
    say(
        "| case | ids | tokens | chunk | chunked MB | whole MB | ratio | chunked s | whole s | ratio |"
    )
    say("|---" * 10 + "|")
    found = []
    for case in TINY if options.tiny else CASES:
        if options.only in case.name:
            case = replace(case, tokens=options.tokens or case.tokens, chunk=options.chunk)
            found.append(measured(case, options.rounds, options.threads))
            say(told(found[-1]))
    if options.json:
        whole_answer = {"versions": versions, "threads": options.threads, "cases": found}
        options.json.write_text(json.dumps(whole_answer, indent=2) + "\n")


if __name__ == "__main__":
    main()
