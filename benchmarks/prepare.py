"""Text into a prepared folder by a process for each core, beside the bare tokenizer on all cores; and its peak of memory.

Bare is encode_batch_fast of the same texts, which are in memory already, with a thread for each core. Ours is all that
`limbeck prepare` does to a text once its tokenizer is loaded: it takes digests, cuts, starts processes, reads,
encodes, commits parts, joins and verifies them.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from side_by_side import Round, save, timed
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from limbeck.data.tokenize import plain
from limbeck.preparing import cores

DATA = Path(__file__).parents[2] / "shared/data"
TEXTS = ("genesis", "movie_reviews", "shakespeare", "state_union")
BATCH = 2000
# A process of its own, whose workers have nothing of this script to import.
OURS = """
import json, resource, sys, time
from transformers import PreTrainedTokenizerFast
from limbeck.data import parts
from limbeck.data.prepare import prepare
tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[1])
parts.SMALLEST = int(sys.argv[4])
def cpu():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
before, began = cpu(), time.perf_counter()
found = prepare(tokenizer, sys.argv[2], sys.argv[3], workers=int(sys.argv[5]))
print(json.dumps([cpu() - before, time.perf_counter() - began, len(found.ids)]))
"""


@dataclass
class Ours:
    """One preparing in a process of its own. peak, worker: MB resident of all its processes, and of its largest worker."""

    round: Round
    tokens: int
    peak: float
    worker: float


def documents(size: int, *, quick: bool) -> Iterator[str]:
    """Stretches of plain texts, each with another beginning, of so many characters together."""
    if quick:
        lines = ["drop by drop, what is light is kept\n"] * 100
    else:
        texts = [(DATA / f"text/{name}.txt").read_text(encoding="utf-8") for name in TEXTS]
        lines = "".join(texts).splitlines(keepends=True)
    draw, taken = random.Random(0), 0
    while taken < size:
        begin = draw.randrange(len(lines) - 60)
        text = f"{taken}: " + "".join(lines[begin : begin + draw.randrange(5, 60)])
        taken += len(text)
        yield text


def ours(folder: Path, path: Path, smallest: int) -> Ours:
    """Prepares a text anew."""
    into = folder / "prepared"
    shutil.rmtree(into, ignore_errors=True)
    words = [folder / "tokenizer", path, into, smallest, cores()]
    with subprocess.Popen(
        [sys.executable, "-c", OURS, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        peak = worker = 0
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            inner = [resident(one) for one in watched.children(recursive=True)]
            peak = max(peak, resident(watched) + sum(inner))
            worker = max([worker, *inner])
            time.sleep(0.05)
        assert process.stdout
        said = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"Preparing {path} ended with status {process.returncode}.")
    cpu, wall, tokens = json.loads(said)
    return Ours(Round(cpu, wall), tokens, peak / 1e6, worker / 1e6)


def resident(process: psutil.Process) -> int:
    """Bytes that it has in memory, none where it is gone."""
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def measured(folder: Path, size: int, rounds: int, *, quick: bool) -> dict[str, Any]:
    """Both ways, turn by turn, on a text of a size."""
    texts = list(documents(size, quick=quick))
    path = folder / f"{size}.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    backend = plain(PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer"))
    seen: list[int] = []

    def bare() -> None:
        some = (texts[begin : begin + BATCH] for begin in range(0, len(texts), BATCH))
        seen.append(
            sum(len(one) for texts in some for one in backend.encode_batch_fast(texts, add_special_tokens=False))
        )  # fmt: skip

    backend.encode_batch_fast(texts[:BATCH], add_special_tokens=False)
    turns = [
        (timed(bare), ours(folder, path, 20_000 if quick else 4_000_000)) for _ in range(rounds)
    ]
    if {one.tokens for _, one in turns} != set(seen):
        raise SystemExit("Ours and the bare tokenizer give other tokens; nothing is compared.")
    tokens = seen[0]
    return {
        "text": f"{path.stat().st_size / 1e6:,.1f} MB, {len(texts):,} documents, {tokens:,} tokens",
        "processes": cores(),
        "ours tokens/s": tokens / statistics.median(one.round.wall for _, one in turns),
        "bare tokens/s": tokens / statistics.median(one.wall for one, _ in turns),
        "ours / bare, by the clock": statistics.median(a.wall / b.round.wall for a, b in turns),
        "ours / bare, by CPU seconds": statistics.median(a.cpu / b.round.cpu for a, b in turns),
        "cores that ours kept busy": statistics.median(
            one.round.cpu / one.round.wall for _, one in turns
        ),
        "cores that bare kept busy": statistics.median(one.cpu / one.wall for one, _ in turns),
        "peak MB, all processes": max(one.peak for _, one in turns),
        "peak MB, largest worker": max(one.worker for _, one in turns),
    }


def tokenizer(folder: Path, *, quick: bool) -> None:
    """GPT-2's tokenizer, or one of bytes, into a folder."""
    if quick:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        backend = Tokenizer(models.BPE({sign: number for number, sign in enumerate(alphabet)}, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)
    else:
        PreTrainedTokenizerFast.from_pretrained(DATA / "tokenizers/gpt2").save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, nothing written")
    parser.add_argument("--megabytes", type=float, nargs="+", default=[8, 32, 128])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beside", default="nothing else", help="what else ran, for the note")
    options = parser.parse_args()
    if not options.quick and not (DATA / "text").exists():
        raise SystemExit(f"Wanted texts and a tokenizer in {DATA}; --quick needs none.")
    sizes, rounds = ([0.1], 1) if options.quick else (options.megabytes, options.rounds)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        tokenizer(folder / "tokenizer", quick=options.quick)
        rows = [measured(folder, int(n * 1e6), rounds, quick=options.quick) for n in sizes]
    note = f"GPT-2's tokenizer, a process for each core; beside it on the machine: {options.beside}"
    save("prepare", rows, note=note, quick=options.quick)


if __name__ == "__main__":
    main()
