"""What a byte of a cache buys: students trained on each kind of target, and how near they come to the teacher.

The teacher's last hidden states are computed once and kept; each arm makes its targets of them, through the bytes
that a cache would hold, so what is counted is what is learned from. Arms share start, order and number of steps;
a seed changes order and draws. Every finished arm is written down, and the same command goes on with the others.

The share is that of the gain of the full distribution over cross-entropy: (KL_ce - KL_arm) / (KL_ce - KL_full), where
KL is that of the teacher to the student on held-out text, over all ids.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from quality_targets import Ground, Sizes, Target, ground
from side_by_side import RESULTS, save

from limbeck import files
from limbeck.models import layout
from limbeck.names import find
from limbeck.objectives.forward_kl import forward_kl
from limbeck.recipe import Stage
from limbeck.students.pruned import pruned
from limbeck.training import loop, optim, parallel
from limbeck.training.meter import Log
from limbeck.training.step import Step
from limbeck.types import Materials, Signal

# Each arm: the settings of its cache (None: none), and the options of forward_kl (None: cross-entropy instead).
ARMS: dict[str, tuple[dict[str, Any] | None, dict[str, Any] | None]] = {
    "cross-entropy": (None, None),
    "full": (None, {}),
    "threshold 1/50": ({"kind": "sample", "threshold": 1 / 50}, {}),
    "threshold 1/22": ({"kind": "sample", "threshold": 1 / 22}, {}),
    "rs 50": ({"kind": "rs", "samples": 50}, {}),
    "top 16, renormalised": ({"kind": "topk+rest", "k": 16}, {"tail": "renorm_teacher"}),
    "top 64, renormalised": ({"kind": "topk+rest", "k": 64}, {"tail": "renorm_teacher"}),
    "top 64 and rest": ({"kind": "topk+rest", "k": 64}, {"tail": "bucket"}),
}


def stage(sizes: Sizes, options: dict[str, Any] | None) -> Stage:
    objective = ["cross_entropy"] if options is None else [{"forward_kl": options}]
    return Stage.model_validate(
        {
            "name": "quality",
            "source": "text",
            "objective": objective,
            "budget": f"{sizes.steps} steps",
            "rows_per_step": sizes.rows,
            "micro_rows": sizes.rows,
            "optimizer": {"learning_rate": sizes.rate, "warmup_ratio": 0.05},
        }
    )


def trained(base: Ground, arm: str, seed: int, folder: Path) -> dict[str, Any]:
    """A student of one arm and one seed: its KL on held-out text and the bytes it learned from."""
    settings, options = ARMS[arm]
    world = parallel.start(torch.device("cpu"))
    materials = Materials(teacher=lambda: base.teacher, load=lambda *_: None)
    student = pruned(materials, layers=base.sizes.layers).to(torch.float32).requires_grad_(True)
    step = Step(student, vocab=base.vocab)
    parallel.shard(step, layout.layers(student), world, base.teacher.dtype)
    asked = stage(base.sizes, options)
    teacher = None if options is None else Target(base, settings, seed)
    job = loop.Loop(
        step_module=step,
        adam=optim.adamw(step, asked.optimizer),
        source=base.source(seed),
        stage=asked,
        functions=[find("objectives", term.name) for term in asked.terms],
        teacher=teacher,
        world=world,
        seed=seed,
        save=lambda *_: None,
        log=Log(folder / "log.jsonl", resumed_at=0, stage=asked.name),
        stop=lambda: False,
        checkpoint_every=base.sizes.steps + 1,
        log_every=50,
        title=f"{arm}, seed {seed}",
    )
    loop.run([job])
    counted = teacher is not None and teacher.tokens > 0
    return {
        "arm": arm,
        "seed": seed,
        "kl": apart(base, step),
        "bytes": teacher.bytes / teacher.tokens if counted else None,
        "ids": teacher.ids / teacher.tokens if counted else None,
    }


@torch.no_grad()
def apart(base: Ground, step: Step) -> float:
    """The mean KL(teacher || student) over held-out tokens, of whole distributions."""
    step.eval()
    total, tokens = 0.0, 0.0
    rows = base.sizes.heldout_rows
    for start in range(0, rows, 4):
        batch = base.heldout.batch(range(start, min(start + 4, rows)))
        signal = Signal(hidden=base.states(batch), head=base.head)
        _, sums = step(batch, signal, [forward_kl], [1.0])
        total += float(sums[0])
        tokens += float(batch.weights.sum())
    parallel.give_back(step)
    return total / tokens


def table(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row an arm: means over seeds, and the least and largest share."""
    value = {(run["arm"], run["seed"]): run["kl"] for run in runs}
    rows = []
    for arm in ARMS:
        mine = [run for run in runs if run["arm"] == arm]
        if not mine:
            continue
        row: dict[str, Any] = {"arm": arm, "seeds": len(mine)}
        row["KL"] = statistics.mean(run["kl"] for run in mine)
        for name, key in (("bytes/token", "bytes"), ("ids/token", "ids")):
            row[name] = "" if mine[0][key] is None else statistics.mean(run[key] for run in mine)
        shares = [
            100
            * (value["cross-entropy", seed] - run["kl"])
            / (value["cross-entropy", seed] - value["full", seed])
            for run in mine
            if {("cross-entropy", seed := run["seed"]), ("full", seed)} <= set(value)
        ]
        if shares:
            row |= {
                "share %": statistics.mean(shares),
                "least %": min(shares),
                "most %": max(shares),
            }
        rows.append(row)
    return rows


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="a tiny random model, to see that it runs"
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=512, help="of a step")
    parser.add_argument("--length", type=int, default=256, help="of a row")
    parser.add_argument("--layers", type=int, default=5, help="of the student")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--held-tokens", type=int, default=8192)
    parser.add_argument("--rate", type=float, default=5e-4, help="the learning rate")
    parser.add_argument("--text", default="../shared/data/wikitext2/valid.raw.txt")
    parser.add_argument("--heldout", default="../shared/data/wikitext2/test.raw.txt")
    parser.add_argument(
        "--only", default="", help="arms whose name holds this, and the two of the share"
    )
    parser.add_argument("--work", default="caches/quality", help="where hidden states are kept")
    parser.add_argument("--threads", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    options = asked()
    if options.threads:
        torch.set_num_threads(options.threads)
    quick = options.quick
    sizes = Sizes(
        4 if quick else options.steps,
        64 if quick else options.tokens,
        32 if quick else options.length,
        2 if quick else options.layers,
        128 if quick else options.held_tokens,
        options.rate,
    )
    settings = f"{sizes} {options.text} {options.heldout}"
    store = RESULTS / "quality-runs.json"
    known = files.read_json(store) if store.is_file() and not quick else {}
    runs = known.get(settings, [])
    base = ground(options, sizes)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1 if quick else options.seeds):
            for arm in ARMS:
                chosen = options.only in arm or arm in ("cross-entropy", "full")
                if not chosen or any((run["arm"], run["seed"]) == (arm, seed) for run in runs):
                    continue
                runs.append(trained(base, arm, seed, Path(folder)))
                gc.collect()
                base.keep()
                if not quick:
                    RESULTS.mkdir(exist_ok=True)
                    files.write_json(store, known | {settings: runs})
    save("quality", table(runs), note=settings, quick=quick)


if __name__ == "__main__":
    main()
