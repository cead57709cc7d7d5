"""Text into ids and documents into rows: tokens per CPU second, and how full the rows are, against what others use."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from side_by_side import race, ratio, save
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl import pack_dataset

from limbeck.data.fit import best_fit, fitted
from limbeck.data.pack import Stream
from limbeck.data.tokenize import encoder, plain

DATA = Path(__file__).parents[2] / "shared/data"
TEXTS = ("text/shakespeare.txt", "text/state_union.txt", "code/python_stdlib_train.jsonl")


def documents() -> list[str]:
    """Two long texts, and every fourth file of Python's library: 5 MB."""
    found = []
    for name in TEXTS:
        text = (DATA / name).read_text(encoding="utf-8")
        lines = text.splitlines() if name.endswith(".jsonl") else []
        found += [json.loads(line)["text"] for line in lines[::4]] or [text]
    return [text for text in found if text]


def tiny() -> PreTrainedTokenizerFast:
    """A tokenizer of bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({sign: number for number, sign in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=alphabet[0])


def tokenised(tokenizer: Any, texts: list[str], rounds: int) -> dict[str, Any]:
    """Ids of all texts as one array, in four ways; ours also counts the bytes of each."""
    encode, backend = encoder(tokenizer), plain(tokenizer)
    rows = datasets.Dataset.from_dict({"text": texts})

    def ours() -> Any:
        return encode(texts).ids.astype(np.uint16)

    def with_places() -> Any:
        found = backend.encode_batch(texts, add_special_tokens=False)
        for one in found:
            np.array(one.offsets)
        return np.concatenate([np.array(one.ids, np.uint16) for one in found])

    def mapped() -> Any:
        found = rows.map(
            lambda some: {"ids": tokenizer(some["text"], add_special_tokens=False)["input_ids"]},
            batched=True,
            remove_columns=["text"],
            keep_in_memory=True,
            load_from_cache_file=False,
        )
        column = found.data.column("ids").combine_chunks()
        return column.flatten().to_numpy(zero_copy_only=False).astype(np.uint16)

    def one_by_one() -> Any:
        found = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        return np.concatenate([np.array(ids, np.uint16) for ids in found])

    runners = {
        "ours": ours,
        "encode_batch": with_places,
        "datasets.map": mapped,
        "AutoTokenizer loop": one_by_one,
    }
    wanted = with_places()
    for label, function in runners.items():
        if not np.array_equal(function(), wanted):
            raise SystemExit(f"{label}: other ids than encode_batch gives; nothing is compared.")
    times = race(runners, rounds=rounds, warm=True)
    return {
        "work": f"{sum(map(len, texts)) / 1e6:,.1f} MB, {len(texts):,} texts, {len(wanted):,} tokens",
        **{
            f"{label} Mtok/CPU s": len(wanted) * rounds / sum(one.cpu for one in found) / 1e6
            for label, found in times.items()
        },
        **{f"{label} / ours": ratio(times, label, "ours") for label in list(runners)[1:]},
    }


def packed(number: int, length: int, rounds: int) -> dict[str, Any]:
    """Lognormal documents into rows, the ids of each row gathered, as TRL does it and as we do."""
    source = np.random.default_rng(0)
    sizes = np.exp(source.normal(5.3, 1.0, number)).astype(np.int64).clip(1, 2 * length)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    ids = source.integers(1, 1 << 16, int(starts[-1])).astype(np.uint16)
    stream = Stream(ids, np.ones_like(ids), starts, 0)
    lists = datasets.Dataset.from_dict({"input_ids": np.split(ids, starts[1:-1])})
    rows: dict[str, int] = {}

    def ours() -> Any:
        found = fitted(stream, length)
        rows["ours"] = found.rows
        first = np.cumsum(found.sizes) - found.sizes
        return ids[np.arange(len(ids)) + np.repeat(found.begins - first, found.sizes)]

    def planes() -> None:
        found = fitted(stream, length)
        for row in range(found.rows):
            found.row(row)

    def trl() -> None:
        kept = {"load_from_cache_file": False, "keep_in_memory": True}
        rows["trl"] = len(pack_dataset(lists, length, "bfd_split", kept))

    pieces = np.minimum(sizes, length)
    times = race(
        {
            "ours": ours,
            "trl": trl,
            "all planes": planes,
            "rows only": lambda: best_fit(pieces, length),
        },
        rounds=rounds,
    )
    return {
        "work": f"{number:,} documents, {len(ids):,} tokens, rows of {length:,}",
        "our fill": len(ids) / (rows["ours"] * length),
        "trl's fill": len(ids) / (rows["trl"] * length),
        "ours Mtok/CPU s": len(ids) * rounds / sum(one.cpu for one in times["ours"]) / 1e6,
        "trl Mtok/CPU s": len(ids) * rounds / sum(one.cpu for one in times["trl"]) / 1e6,
        "our six planes Mtok/CPU s": len(ids)
        * rounds
        / sum(one.cpu for one in times["all planes"])
        / 1e6,
        "rows only, documents/CPU s": number * rounds / sum(one.cpu for one in times["rows only"]),
        "trl / ours": ratio(times, "trl", "ours"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, nothing written")
    quick = parser.parse_args().quick
    datasets.disable_progress_bars()
    if quick:
        tokenizer, texts = tiny(), ["drop by drop, what is light is kept " * 300] * 3
    elif not all((DATA / name).exists() for name in (*TEXTS, "tokenizers/gpt2")):
        raise SystemExit(
            f"Wanted texts and a tokenizer in {DATA}; nothing is measured. --quick needs none."
        )
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(DATA / "tokenizers/gpt2")
        texts = documents()
    rounds = 1 if quick else 2
    note = "GPT-2's tokenizer; whole texts; every way gives the same ids"
    save("tokenise", [tokenised(tokenizer, texts, rounds)], quick=quick, note=note)
    note = "lognormal lengths, half below 200; TRL by bfd_split, which like ours keeps every token"
    save("pack", [packed(200 if quick else 50_000, 2048, rounds)], quick=quick, note=note)


if __name__ == "__main__":
    main()
