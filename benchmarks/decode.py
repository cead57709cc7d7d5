"""A teacher and hybrids of it read prompts and write behind them: rates, time to the first token, memory."""

from __future__ import annotations

import argparse
import os
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from side_by_side import Round, ratio, save
from transformers import BambaForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from limbeck.evaluation._speed import measure_speed
from limbeck.models import hybrid, load, place

# SmolLM2-135M's, and a tiny model's.
SIZES: dict[str, Any] = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
TINY = {**dict.fromkeys(SIZES, 32), "num_attention_heads": 4, "num_key_value_heads": 2}
TINY |= {"num_hidden_layers": 5, "vocab_size": 64}
ATTENTION = 4
"""Layers of the hybrid that stay attention, evenly apart."""


def teacher(sizes: dict[str, Any], longest: int) -> LlamaForCausalLM:
    """Attention in every layer."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(**sizes, max_position_embeddings=longest, tie_word_embeddings=True)
    )


def hybrids(origin: PreTrainedModel) -> dict[str, PreTrainedModel]:
    """Mixers in all but four layers, with the teacher's heads: as many, as wide, and states as wide."""
    config = origin.config
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    kept = tuple((2 * n + 1) * layers // (2 * ATTENTION) for n in range(ATTENTION))
    width = config.hidden_size // heads
    found = {
        kind: hybrid.transferred(origin, hybrid.Shape(kind, kept, heads, width, width))
        for kind in ("mamba2", "discrete_mamba2")
    }
    plain = BambaForCausalLM(found["mamba2"].config)
    return {"mamba2 of transformers alone": plain, **found}


def rounds_of(found: dict[str, Any], work: str) -> list[Round]:
    """What each round took: `prefill` or `decode`."""
    pairs = zip(found[f"{work}_cpu_seconds"], found[f"{work}_seconds"], strict=True)
    return [Round(cpu, wall) for cpu, wall in pairs]


def row(teacher: dict[str, Any], student: dict[str, Any]) -> dict[str, Any]:
    """A hybrid beside the teacher at one size."""
    both = {"teacher": teacher, "hybrid": student}
    shown: dict[str, Any] = {
        "work": f"{student['length']:,} tokens, batch {student['batch']}",
        "hybrid": student["model"],
    }
    for work, name in (("prefill", "read"), ("decode", "write")):
        times = {label: rounds_of(found, work) for label, found in both.items()}
        for label, found in both.items():
            shown[f"{label} {name}s tokens/s"] = found[f"{work}_tokens_per_second"]
        shown[f"{name}: teacher / hybrid"] = ratio(times, "teacher", "hybrid")
    for label, found in both.items():
        shown[f"{label} keeps MB"] = found["state_bytes"] / 1e6
    for label, found in both.items():
        peak = found["peak_bytes"]
        shown[f"{label} peak MB"] = "" if peak is None else peak / 1e6
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny models and short prompts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    options = parser.parse_args()
    quick = options.quick
    load.bar_kernels()
    device = place.device_of("auto")
    dtype = torch.float32 if quick else place.dtype_of("auto", device)
    lengths, new = ([24, 48], 4) if quick else ([512, 2048, 8192], 32)
    sizes, longest = TINY if quick else SIZES, max(lengths) + new
    origin = teacher(sizes, longest)
    models: dict[str, PreTrainedModel] = {"teacher": origin, **hybrids(origin)}
    found = measure_speed(
        {name: model.to(dtype) for name, model in models.items()},
        lengths=lengths,
        batch=options.batch,
        new_tokens=new,
        rounds=1 if quick else options.rounds,
        device=device,
    )
    each = len(models)
    rows = [
        row(found[first], one)
        for first in range(0, len(found), each)
        for one in found[first + 1 : first + each]
    ]
    counts = [f"{one['model']} {one['parameters'] / 1e6:,.1f} M" for one in found[:each]]
    note = f"random weights, parameters: {', '.join(counts)}; {ATTENTION} layers of a hybrid are attention; "
    note += f"{str(dtype).removeprefix('torch.')}; {new} tokens written"
    save("decode", rows, quick=quick, note=note)


if __name__ == "__main__":
    main()
