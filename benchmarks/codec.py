"""What a token of a cache takes, how fast it is read, and what its few bytes cost: ours and other layouts.

Distributions are a real teacher's on real text (--model, --text); without them, random ones as heavy in the tail.
One thread reads; every reader ends with tensors that a loss can take: ids int64, numbers float32.
"""

from __future__ import annotations

import argparse
import io
import math
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from codec_records import K, Said, random, real, records, repeated
from side_by_side import race, ratio, save

from limbeck.cache.format import CacheAbout
from limbeck.cache.kinds import Record
from limbeck.cache.read import CacheReader
from limbeck.cache.write import create_or_check, write_shard
from limbeck.types import TopK

LENGTH, ROWS_READ = 1024, 4
OURS = "topk+rest code8"


@dataclass(frozen=True)
class Layout:
    """A way to keep tokens. size: bytes a token. read: decodes all. error: nats lost, on average."""

    name: str
    size: float
    read: Callable[[], Any]
    error: float


def lost(exact: TopK, coded: TopK) -> float:
    """KL in nats between the kept ids with their rest, before and after."""
    assert exact.rest is not None
    assert coded.rest is not None
    assert torch.equal(exact.ids, coded.ids[: len(exact.ids)])
    before = torch.cat([exact.logprobs, exact.rest[:, None]], 1).double()
    after = torch.cat([coded.logprobs, coded.rest[:, None]], 1).double()[: len(before)]
    return float((before.exp() * (before - after)).sum(1).mean())


def error(said: Said, kind: str, exact: Any, coded: Any) -> float:
    """Nats that the bytes cost: KL, or of kl-vector the mean error of the loss of a student that is the teacher."""
    if kind == "topk+rest":
        return lost(exact, coded)
    if kind == "sample":
        # Exact ids stand first in each token.
        first = torch.repeat_interleave(coded.starts[: len(exact.heads)], exact.heads)
        inside = torch.arange(len(first)) - torch.repeat_interleave(
            exact.heads.cumsum(0) - exact.heads, exact.heads
        )
        heads, weights = exact.head_logprobs.double().exp(), coded.weights[first + inside].double()
        # Generalised: what of the weights does not sum to the same is an error too.
        return float((heads * (heads / weights).log() - heads + weights).sum()) / len(exact.heads)
    if kind == "rs":
        return (
            0.0 if torch.allclose(exact.weights, coded.weights[: len(exact.weights)]) else math.nan
        )
    if kind == "hidden8":
        pairs = zip(said.chunks(), coded[: len(exact)].split(512), strict=True)
        both = [(said.logprobs(a), said.logprobs(b)) for a, b in pairs]
        return float(torch.cat([(a.exp() * (a - b)).sum(-1) for a, b in both]).mean())
    return float((said.hidden * (exact.rows - coded.rows[: len(exact.rows)])).sum(-1).abs().mean())


def ours(place: Path, said: Said, kind: str, record: Record, times: int, **settings: Any) -> Layout:
    """A kind of our cache, written and read as a run does: a few rows at a time."""
    about = CacheAbout(
        teacher="0" * 64, tokenizer="0" * 64, vocab=len(said.head), length=LENGTH, kind=kind, **settings
    )  # fmt: skip
    tokens = times * len(said.hidden) // LENGTH * LENGTH
    addresses = [f"{row:032x}" for row in range(tokens // LENGTH)]
    path = place / f"{kind}{about.values}"
    create_or_check(path, about)
    every = torch.ones(len(addresses), LENGTH, dtype=torch.bool)
    write_shard(path, addresses, repeated(record, times), about, tokens=addresses, recorded=every)
    reader = CacheReader(path, about)

    def read() -> None:
        for start in range(0, len(addresses), ROWS_READ):
            part = addresses[start : start + ROWS_READ]
            reader.read(part, every[: len(part)], [0] * len(part))

    once = len(said.hidden) // LENGTH
    whole = reader.read(addresses[:once], every[:once], [0] * once)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / tokens
    name = f"{kind} {about.values}" if "values" in settings else kind
    return Layout(name, size, read, error(said, kind, record, whole))


def megatron_like(record: TopK, times: int) -> Layout:
    """Values in half precision and ids in 16 or 32 bits, saved by torch and compressed by zstd, a row at a time."""
    narrow = torch.uint16 if int(record.ids.max()) < 1 << 16 else torch.int32
    zstd, pieces = pyarrow.Codec("zstd"), []
    whole = repeated(record, times)
    for start in range(0, len(whole.ids), LENGTH):
        part, stream = whole[start : start + LENGTH], io.BytesIO()
        torch.save((part.ids.to(narrow), part.logprobs.half(), part.rest.half()), stream)
        raw = stream.getvalue()
        pieces.append((len(raw), zstd.compress(raw, asbytes=True)))

    def read() -> Any:
        found = []
        for size, piece in pieces:
            stream = io.BytesIO(zstd.decompress(piece, size, asbytes=True))
            ids, logprobs, rest = torch.load(stream, weights_only=True)
            found.append(TopK(ids.to(torch.int64), logprobs.float(), rest.float()))
        return found

    size = sum(len(piece) for _, piece in pieces) / len(whole.ids)
    joined = [torch.cat([getattr(p, n) for p in read()]) for n in ("ids", "logprobs", "rest")]
    return Layout("torch.save fp16 + zstd", size, read, lost(record, TopK(*joined)))


def parquet(place: Path, record: TopK, times: int, *, lists: bool) -> Layout:
    """Lists of ids and of values a token, as data sets keep them; read as Python lists, or flat."""
    path, whole = place / "lists.parquet", repeated(record, times)
    columns = {
        "ids": pyarrow.array(list(whole.ids.int().numpy())),
        "logprobs": pyarrow.array(list(whole.logprobs.numpy())),
        "rest": pyarrow.array(whole.rest.numpy()),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path, compression="zstd")

    def read_lists() -> Any:
        table = pyarrow.parquet.read_table(path, use_threads=False)
        ids, logprobs, rest = (torch.tensor(table.column(n).to_pylist()) for n in columns)
        return TopK(ids, logprobs, rest)

    def read_flat() -> Any:
        table = pyarrow.parquet.read_table(path, use_threads=False)
        flat = {n: table.column(n).combine_chunks() for n in columns}
        ids = flat["ids"].flatten().to_numpy().reshape(-1, K).astype(np.int64)
        logprobs = flat["logprobs"].flatten().to_numpy().reshape(-1, K).copy()
        return TopK(*map(torch.from_numpy, (ids, logprobs, flat["rest"].to_numpy().copy())))

    read = read_lists if lists else read_flat
    name = "parquet, Python lists" if lists else "parquet, flat"
    return Layout(name, path.stat().st_size / len(whole.ids), read, lost(record, read()))


def layouts(place: Path, said: Said, times: int) -> list[Layout]:
    """Every layout, with the same tokens in it."""
    kept = records(said)
    top, width = kept["topk+rest"], said.hidden.shape[1]
    assert isinstance(top, TopK)
    digest = {"width": width, "head": "0" * 64}
    plain = [("code8", {}), ("float16", {}), ("float32", {})]
    found = [ours(place, said, "sample", kept["sample"], times, threshold=0.02)]
    found.append(ours(place, said, "rs", kept["rs"], times, samples=50))
    found += [ours(place, said, "topk+rest", top, times, k=K, values=name) for name, _ in plain]
    found.append(ours(place, said, "hidden8", said.hidden, times, **digest))
    found.append(ours(place, said, "kl-vector", kept["kl-vector"], times, **digest, values="code8"))
    found.append(megatron_like(top, times))
    return found + [parquet(place, top, times, lists=lists) for lists in (False, True)]


def measured(said: Said, tokens: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each layout."""
    times = max(1, tokens // len(said.hidden))
    total = times * len(said.hidden)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        found = layouts(Path(folder), said, times)
        torch.set_num_threads(1)  # to read
        slow = [one.name for one in found if one.name.startswith("parquet")]
        seconds = race({one.name: one.read for one in found}, rounds=rounds, once=slow)
        return [
            {
                "layout": one.name,
                "bytes/token": one.size,
                "M tokens/s": total / 1e6 / statistics.median(r.cpu for r in seconds[one.name]),
                "CPU time / ours, top k": ratio(seconds, one.name, OURS),
                "error, nats": one.error,
            }
            for one in found
        ]


def main(given: list[str] | None = None) -> None:
    """Reads the options, measures, and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/SmolLM2-135M-Instruct"))
    parser.add_argument("--text", type=Path, default=Path("../shared/data/wikitext2/valid.raw.txt"))
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small random distributions")
    options = parser.parse_args(given)
    if options.quick:
        rows = measured(random(LENGTH, 300, 64), 2 * LENGTH, 1)
        save("codec", rows, note="random distributions of 300 ids", quick=True)
        return
    if options.model.is_dir() and options.text.is_file():
        said, of = (
            real(options.model, options.text, 4 * LENGTH),
            f"{options.model.name} on {options.text.name}",
        )
    else:
        said, of = random(8 * LENGTH, 49_152, 576), "random distributions"
    rows = measured(said, options.tokens, options.rounds)
    note = (
        f"{of}: {len(said.hidden):,} tokens, repeated to {options.tokens:,}; one thread, top {K}. "
    )
    note += "DistillKit's own decoder is not on PyPI."
    save("codec", rows, note=note)


if __name__ == "__main__":
    main()
