"""B1 to B3: head, divergence and their gradients, against the bare products and against others' kernels.

Time at 1,024 tokens (256 at 128k ids), memory at 4,096. A row is void where a gradient is farther from float64 than
2e-2 (bfloat16) or 1e-5 (float32) of its norm.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import peers
import side_by_side as sbs
import torch
from peers import Case
from torch import Tensor

from limbeck.objectives._buffers import Room
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.forward_kl import forward_kl
from limbeck.objectives.jensen_shannon import jensen_shannon
from limbeck.objectives.reverse_kl import reverse_kl
from limbeck.types import Sampled, Signal, TopK

SIZES = ((49_152, 576, 1024), (128_256, 1024, 256))
TINY = ((5_003, 16, 70),)
# Whose memory is measured (TRL's kernel takes long, and more than its GKD loss), and in what order.
SPARING = (
    "limbeck, chunks of 128",
    "limbeck",
    "liger 256 compiled",
    "liger 1024 compiled (default)",
    "liger 256",
    "trl gkd",
    "plain",
)
# Rounds of the dense race at each size: where it is close, a round of it moves by a twentieth.
ROUNDS = {torch.bfloat16: (6, 4), torch.float32: (3, 2)}
GATE = {torch.bfloat16: 2e-2, torch.float32: 1e-5}


def exact(case: Case) -> tuple[Tensor, Tensor]:
    """The gradients in float64, by the plain way over whole logits, a few rows at a time."""
    weight = case.weight.detach().double()
    by_hidden = torch.empty_like(case.hidden, dtype=torch.float64)
    by_weight = torch.zeros_like(weight)
    many = 512 if case.hidden.is_cuda else 64
    for start in range(0, case.tokens, many):
        part = slice(start, start + many)
        mine = case.hidden.detach()[part].double()
        p = (case.teacher_hidden[part].double() @ case.teacher_weight.double().T).softmax(-1)
        slope = ((mine @ weight.T).softmax(-1) - p) / case.tokens
        by_hidden[part] = slope @ weight
        by_weight += slope.T @ mine
    return by_hidden, by_weight


def error(case: Case, runner: Callable[[], Any], true: tuple[Tensor, Tensor]) -> list[float]:
    """How far its gradients of hidden states and head are from float64, each over the norm of the true one."""
    runner()
    pairs = zip(case.gradients(), true, strict=True)
    return [float((found.double() - wanted).norm() / wanted.norm()) for found, wanted in pairs]


def runners(case: Case, room: Room | None) -> dict[str, Callable[[], Any]]:
    """Ours and every peer that is installed, at its default and at its best setting. room: ours between calls."""
    found: dict[str, Callable[[], Any]] = {
        "limbeck": peers.limbeck(case, room=room),
        "limbeck, chunks of 128": peers.limbeck(case, room=room and Room(), chunk=128),
        "products": peers.products(case, 256),
        "products, nothing made anew": peers.products(case, 256, kept=True),
        "plain": peers.plain(case),
    }
    if peers.installed("liger_kernel"):
        found["liger 256"] = peers.liger(case, 256, compiled=False)
        found["liger 256 compiled"] = peers.liger(case, 256, compiled=True)
        found["liger 1024 compiled (default)"] = peers.liger(case, 1024, compiled=True)
    if peers.installed("trl"):
        found["trl kernel"] = peers.trl_kernel(case)
        found["trl gkd"] = peers.trl_gkd(case)
    return found


def dense(case: Case, rounds: int) -> list[dict[str, Any]]:
    """B1: forward KL with a dense teacher."""
    race, true = runners(case, Room()), exact(case)
    errors = {
        label: error(case, runner, true)
        for label, runner in race.items()
        if not label.startswith("products")
    }
    # Asked for their errors, they are warm; what is far behind runs in one round.
    race["products"](), race["products, nothing made anew"]()
    once = ("limbeck, chunks of 128", "plain", "liger 256", "trl kernel")
    times = sbs.race(race, rounds=rounds, warm=True, once=once)
    rows = []
    for label in race:
        off = errors.get(label)
        void = off is not None and max(off) > GATE[case.dtype]
        row = {"case": case.name, "tokens": case.tokens, "what": label}
        row |= {
            "seconds": sbs.seconds(times, label),
            "over limbeck": sbs.ratio(times, label, "limbeck"),
        }
        row |= {"limbeck over": sbs.ratio(times, "limbeck", label)}
        if off is not None:
            row |= {"error hidden": off[0], "error weight": off[1]}
        rows.append(row | ({"void": "yes"} if void else {}))
    return rows


def memory(case: Case) -> list[dict[str, Any]]:
    """Peak beyond the weight's gradient.

    What needs least comes first: what a process did before changes what the same call shows.
    """
    weight = case.weight.numel() * case.weight.element_size() / 1e6
    race, rows = runners(case, None), []
    for label in SPARING:
        if label not in race:
            continue
        runner = race[label]
        if "limbeck" in label or "compiled" in label:
            runner()  # to be compiled before
            case.clear()
        rows.append(
            {
                "case": case.name,
                "tokens": case.tokens,
                "what": label,
                "MB": sbs.peak(runner) - weight,
            }
        )
        case.clear()
    by = {row["what"]: row["MB"] for row in rows}
    return [
        row
        | {"over limbeck": row["MB"] / by["limbeck"]}
        | {"over chunks of 128": row["MB"] / by["limbeck, chunks of 128"]}
        for row in rows
    ]


def kept(case: Case, kind: str) -> Signal:
    """A teacher of about 16 ids a token: sampled, or likeliest with the rest."""
    with torch.no_grad():
        some = case.teacher_hidden.float().split(1024)
        each = [(part @ case.teacher_weight.float().T).log_softmax(-1).topk(16) for part in some]
        logprobs, ids = (torch.cat(parts) for parts in zip(*each, strict=True))
    if kind == "topk":
        return Signal(
            topk=TopK(ids, logprobs, torch.log1p(-logprobs.exp().sum(-1).clamp(max=0.999)))
        )
    counts = torch.full((case.tokens,), 16)
    flat = Sampled.of(ids.flatten().cpu(), logprobs.exp().flatten().cpu(), counts)
    return Signal(sampled=flat.to(case.hidden.device))


def sparse(case: Case, rounds: int) -> list[dict[str, Any]]:
    """B2: teachers of kept ids, and other divergences, against ours with a dense teacher and forward KL."""
    limbeck = partial(peers.limbeck, room=Room())
    race = {
        "dense, forward KL": limbeck(case),
        "dense, forward KL + labels": limbeck(case, terms=(forward_kl, cross_entropy)),
        "dense, reverse KL": limbeck(case, terms=(reverse_kl,)),
        "dense, Jensen-Shannon": limbeck(case, terms=(jensen_shannon,)),
        "16 sampled ids": limbeck(case, teacher=kept(case, "sampled")),
        "16 sampled ids + labels": peers.limbeck(
            case, teacher=kept(case, "sampled"), terms=(forward_kl, cross_entropy)
        ),
        "top 16 with rest": limbeck(case, teacher=kept(case, "topk")),
        "labels alone": limbeck(case, terms=(cross_entropy,)),
        "labels alone, plain": partial(_labels, case),
    }
    times = sbs.race(race, rounds=rounds)
    return [
        {
            "case": case.name,
            "what": label,
            "seconds": sbs.seconds(times, label),
            "over dense": sbs.ratio(times, label, "dense, forward KL"),
        }
        for label in race
    ]


def _labels(case: Case) -> None:
    """Plain cross-entropy on whole logits, as transformers has it."""
    case.clear()
    logits = (case.hidden @ case.weight.T).float()
    torch.nn.functional.cross_entropy(logits, case.labels).backward()


def main() -> None:
    """Runs all three, writing results/head.json, head_memory.json and head_kinds.json as far as they have come."""
    reads = argparse.ArgumentParser(description=__doc__)
    reads.add_argument(
        "--quick", action="store_true", help="tiny sizes, one round, nothing written"
    )
    reads.add_argument("--rounds", type=int, default=2, help="of other targets and divergences")
    asked = reads.parse_args()
    sizes, rounds = (TINY, 1) if asked.quick else (SIZES, asked.rounds)
    notes = {
        "head": "forward KL, dense teacher, with all gradients",
        "head_memory": "MB beyond the weight's gradient",
        "head_kinds": "targets and divergences",
    }
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in notes}

    def add(name: str, rows: list[dict[str, Any]]) -> None:
        found[name] += rows
        sbs.save(name, found[name], note=notes[name], quick=asked.quick)

    vocab, width, _ = sizes[0]
    add("head_memory", memory(Case(100 if asked.quick else 4096, vocab, width, torch.bfloat16)))
    add("head_kinds", sparse(Case(sizes[0][2] // 2, vocab, width, torch.bfloat16), rounds))
    for dtype in (torch.bfloat16, torch.float32):
        for (vocab, width, tokens), many in zip(sizes, ROUNDS[dtype], strict=False):
            some = tokens // 2 if dtype == torch.float32 else tokens  # twice as slow
            add("head", dense(Case(some, vocab, width, dtype), 1 if asked.quick else many))


if __name__ == "__main__":
    main()
