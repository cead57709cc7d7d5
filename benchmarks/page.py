"""Writes docs/benchmarks.md from results/*.json: what was measured last, with versions and machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs/benchmarks.md"

# What each table is called, and what it says in one sentence.
TITLES = {
    "head": "B1. The head with a dense teacher",
    "head_memory": "B1. Its memory",
    "head_amx": "B1. The same on a processor that multiplies tiles (AMX)",
    "head_memory_amx": "B1. Its memory there",
    "device_ceilings": "On a GPU: what it gives at most",
    "device_head": "B1 on a GPU. The head with a dense teacher",
    "device_kinds": "B2 on a GPU. Other targets",
    "device_recording": "B4 on a GPU. Recording a teacher",
    "device_steps": "B6 and B7 on a GPU. Whole optimizer steps",
    "head_kinds": "B2 and B3. Other targets and divergences",
    "recording": "B4. Recording a teacher",
    "recording-memory": "B4. Its memory",
    "recording_amx": "B4. Recording on a processor with AMX, also with compiled blocks",
    "codec": "B5. Bytes and back",
    "attention": "B6. Attention inside documents",
    "packing": "B6. Whole steps on documents of many lengths",
    "step": "B6 and B7. Whole optimizer steps",
    "step_amx": "B6 and B7. The same on a processor with AMX",
    "step_kept": "B6 and B7. The same with freed memory kept",
    "step_6": "B6 and B7. The same with a smaller student",
    "quality": "B8. Quality for a byte",
    "sampling": "B8. Bias and variance of what is kept",
    "near_and_far": "B8. The same, near and far from the teacher",
    "caches": "B8. Bytes of a cache, and how fast it is read",
    "terms": "What each term adds",
    "tokenise": "B9. Text to ids",
    "prepare": "B9. Text to a prepared folder, on every core",
    "pack": "B9. Documents to rows",
    "evaluation": "B10. Multiple choice with shared prefixes",
    "startup": "B11. Until a command answers",
    "decode": "Reading and writing, attention beside a hybrid",
    "clone": "A low-rank clone beside other students of its size",
    "clone_terms": "The same clone without each of its terms",
    "clone_step": "A clone's step beside a plain one",
    "hybrid": "Hybrids: mixers, kept attentions, stages",
    "answers": "Students of a teacher's own answers",
    "mohawk_step": "A step of each MOHAWK stage",
}
HEAD = """# Benchmarks

*Written by `make bench`, which measures all of it again; do not edit. How each is measured stands in
[benchmarks/README.md](../benchmarks/README.md).*

Ours and theirs run in one process on the same tensors, turn by turn; a ratio is the median over rounds of CPU seconds, on a GPU of wall seconds
(whole steps there run one loop after the other, since each fills the memory: ratios of medians).
Absolute figures are those of the machine named under each table. {gpu}
"""
GPU = "`make bench-gpu` measures on a CUDA device, and runs at tiny sizes where there is none. {state}"
ON_GPU = ("device_head", "device_kinds", "device_recording", "device_steps")


def page(results: Path = RESULTS) -> str:
    """The whole page."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    found = {
        name: one for name, one in found.items() if "rows" in one
    }  # not the runs behind a table
    missing = [TITLES[name].partition(" on")[0] for name in ON_GPU if name not in found]
    state = f"**No GPU figure exists yet of {' and '.join(missing)}.**" if missing else ""
    lines = [HEAD.format(gpu=GPU.format(state=state).strip())]
    for name in [*TITLES, *(name for name in found if name not in TITLES)]:
        if name in found:
            lines += section(TITLES.get(name, name), found[name])
    return "\n".join(lines)


def section(title: str, result: dict[str, Any]) -> list[str]:
    """Heading, note, table, machine."""
    rows, machine = result["rows"], result["machine"]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [f"## {title}", ""]
    if result["note"]:
        lines += [f"{result['note'][:1].upper()}{result['note'][1:]}.".replace("..", "."), ""]
    lines += [f"| {' | '.join(keys)} |", f"|{'---|' * len(keys)}"]
    lines += [f"| {' | '.join(shown(row.get(key, '')) for key in keys)} |" for row in rows]
    native = " and ".join(machine["bfloat16"]) or "no instructions for bfloat16"
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return [
        *lines,
        "",
        f"{machine['device']}, {machine['threads']} threads, {native}; {versions}.",
        "",
    ]


def shown(value: Any) -> str:
    """A cell: four digits of a fraction."""
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"{PAGE} is written.")
