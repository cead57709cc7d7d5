"""Recording a teacher: how near to the speed of its trunk alone, and what memory beside; the plain way with logits too.

Whole recordings are timed, with selection, encoding and committed shards. The plain way is what a script does: the
model's own forward with all logits, log_softmax in float32, torch.topk; it writes nothing.
"""

from __future__ import annotations

import argparse
import copy
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from side_by_side import peak, race, ratio, save, seconds
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from limbeck.cache.format import CacheAbout
from limbeck.data.loader import PackedSource
from limbeck.data.pack import Stream
from limbeck.models import layout, load, place
from limbeck.objectives._buffers import rows_at_once
from limbeck.recording import record
from limbeck.sources.text import text
from limbeck.teachers.live import Live

TEACHER = "models/SmolLM2-135M-Instruct"
KINDS: dict[str, dict[str, Any]] = {
    "sample": {"kind": "sample"},
    "topk+rest": {"kind": "topk+rest", "k": 64},
}


def materials(options: argparse.Namespace) -> tuple[PreTrainedModel, dict[int, PackedSource]]:
    """The teacher, and packed rows of text of each length; small random ones of both where it must be quick."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.quick:
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        config = LlamaConfig(vocab_size=300, num_attention_heads=2, num_key_value_heads=2, **shape)
        ids = np.random.default_rng(0).integers(0, 299, 3000)
        stream = Stream(ids, np.ones_like(ids), np.arange(0, 3001, 500), 299)
        model = LlamaForCausalLM(config).eval().to(device)
        return model, {length: PackedSource(stream, length) for length in options.lengths}
    model = load.load_model(TEACHER, dtype=place.dtype_of("auto", device)).to(device)
    tokenizer = load.load_tokenizer(TEACHER)
    separator = "<|endoftext|>"
    rows = {
        length: text(tokenizer, path=options.text, length=length, separator=separator)
        for length in options.lengths
    }
    return model, rows


def trunk(model: PreTrainedModel, source: PackedSource, rows: int, micro: int) -> None:
    """Hidden states of every row, and nothing made of them."""
    with torch.no_grad():
        for start in range(0, rows, micro):
            layout.hidden(model, source.batch(range(start, start + micro)).to(model.device))


def floor(
    model: PreTrainedModel, source: PackedSource, rows: int, micro: int, raw: torch.Tensor
) -> None:
    """The trunk and the head's bare products, of which nothing is kept: no recording by these products is faster."""
    own = layout.head(model)
    weight = own.weight[: own.vocab]
    with torch.no_grad():
        for start in range(0, rows, micro):
            batch = source.batch(range(start, start + micro)).to(model.device)
            hidden = batch.pick(layout.hidden(model, batch))
            for some in hidden.split(raw.shape[0]):
                torch.mm(some, weight.T, out=raw[: some.shape[0]])


def plainly(model: PreTrainedModel, source: PackedSource, rows: int, micro: int) -> None:
    """The 64 likeliest of each token the way that a script takes."""
    with torch.no_grad():
        for start in range(0, rows, micro):
            batch = source.batch(range(start, start + micro)).to(model.device)
            logits = model(batch.input_ids, position_ids=batch.position_ids, use_cache=False).logits
            found = logits.float().log_softmax(-1).topk(64)
            _ = found.indices.cpu(), found.values.cpu()


def ours(
    model: PreTrainedModel, source: PackedSource, rows: int, micro: int | None, kind: str
) -> int:
    """A whole recording into a folder that is then removed; its bytes."""
    vocab = model.config.vocab_size
    folder = Path(tempfile.mkdtemp(prefix="limbeck-bench-"))
    try:
        about = CacheAbout("0" * 64, "0" * 64, vocab, source.length, **KINDS[kind])
        done = record(
            Live(model, vocab=vocab),
            source,
            range(rows),
            folder,
            about,
            micro_rows=micro,
            rows_per_shard=4,
            device=model.device,
        )
        return done.bytes
    finally:
        shutil.rmtree(folder)


def sealed(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same weights whose blocks are compiled in their first forward."""
    twin = copy.deepcopy(model)
    Live(twin).compile()
    return twin


def speed(
    model: PreTrainedModel, source: PackedSource, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Tokens a second, and shares of the trunk's speed: a row in one forward."""
    rows, micro, twin = options.tokens // source.length, 1, sealed(model)
    size = dict.fromkeys(KINDS, 0)

    def recorded(kind: str) -> None:
        size[kind] = ours(model, source, rows, micro, kind)

    weight = layout.head(model).weight
    raw = weight.new_empty(rows_at_once(model.device), weight.shape[0])
    runners: dict[str, Callable[[], Any]] = {
        "trunk": lambda: trunk(model, source, rows, micro),
        "trunk and bare head": lambda: floor(model, source, rows, micro, raw),
        **{kind: (lambda kind=kind: recorded(kind)) for kind in KINDS},
        "trunk, compiled blocks": lambda: trunk(twin, source, rows, micro),
        "sample, compiled blocks": lambda: ours(twin, source, rows, micro, "sample"),
        "plain": lambda: plainly(model, source, rows, micro),
    }
    once = tuple(label for label in runners if label == "plain" or "compiled" in label)
    times = race(runners, rounds=options.rounds, once=once)
    tokens = rows * source.length
    counted = sum(float(source.batch([row]).weights.sum()) for row in range(rows))
    return [
        {
            "what": label,
            "tokens/s": tokens / seconds(times, label),
            "of trunk": ratio(times, "trunk", label),
            "of trunk and bare head": ratio(times, "trunk and bare head", label),
            "bytes/token": size[label] / counted if label in size else "",
        }
        for label in runners
    ]


def memory(
    model: PreTrainedModel, source: PackedSource, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Megabytes above what is resident, at several numbers of rows in one forward."""
    found = []
    for micro in (1, 4):
        rows = micro
        row: dict[str, Any] = {"rows of a forward": micro, "tokens": micro * source.length}
        runners: dict[str, Callable[[], Any]] = {
            "trunk": lambda rows=rows, micro=micro: trunk(model, source, rows, micro),
            **{
                kind: (
                    lambda rows=rows, micro=micro, kind=kind: ours(model, source, rows, micro, kind)
                )
                for kind in KINDS
            },
            "plain": lambda rows=rows, micro=micro: plainly(model, source, rows, micro),
        }
        for label, runner in runners.items():
            if label == "plain" and micro > options.plain_rows:
                continue
            if micro == 1:  # warms up for all
                runner()
            row[f"{label} MB"] = peak(runner)
        found.append(row)
    return found


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="a tiny random model, to see that it runs"
    )
    parser.add_argument("--tokens", type=int, default=2048, help="of a recording")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 1024], help="of its rows")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--plain-rows", type=int, default=2, help="most rows of a forward with all logits"
    )
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--text", default="../shared/data/wikitext2/valid.raw.txt")
    return parser.parse_args()


def main() -> None:
    options = asked()
    torch.set_num_threads(options.threads)
    if options.quick:
        options.tokens, options.lengths, options.rounds, options.plain_rows = 256, [128, 64], 1, 1
    model, sources = materials(options)
    rows = []
    for length, source in sources.items():
        rows += [{"rows of": length} | row for row in speed(model, source, options)]
    note = f"{options.tokens:,} tokens, a row in one forward"
    save("recording", rows, note=note, quick=options.quick)
    if not options.no_memory:
        length = min(options.lengths)
        found = memory(model, sources[length], options)
        note = f"rows of {length:,} tokens"
        save("recording-memory", found, note=note, quick=options.quick)


if __name__ == "__main__":
    main()
