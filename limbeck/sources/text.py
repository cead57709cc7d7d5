"""Plain text, packed into rows: files, folders, patterns of .txt, .jsonl, .parquet, or a dataset."""

from __future__ import annotations

from typing import Any, Literal

from limbeck.data.fit import fitted
from limbeck.data.loader import PackedSource
from limbeck.data.pack import Stream
from limbeck.data.prepare import Reading, prepare
from limbeck.data.tokenize import separator_id
from limbeck.errors import DataError
from limbeck.progress import say


def text(
    tokenizer: Any,
    workers: int = 1,
    *,
    path: str,
    length: int,
    field: str = "text",
    split_at: str | None = None,
    separator: str = "eos",
    packing: Literal["stream", "best_fit"] = "stream",
    overlap_one: bool = False,
    hostile: Literal["stop", "quarantine"] = "stop",
    split: str = "train",
    max_documents: int | None = None,
    seed: int = 0,
    shuffled: bool = True,
    prepared: str = "prepared",
) -> PackedSource:
    """Batches of (batch, length) from text; tokenised once into `prepared`, and found there again.

    separator: the token that ends a document, by its spelling. 'eos' is the tokenizer's own, which of an
    instruct model ends a turn: SmolLM2-Instruct's is <|im_end|>, but the text that it was trained on was
    separated by <|endoftext|>. Where teacher and student learn from plain text, name the second.

    packing: `stream` cuts the documents, one after the other, into rows that are full; `best_fit` puts whole
    documents into rows, cuts only those longer than a row, and pads what is left with weight 0.

    overlap_one: rows share one token, so that every token after the first is a label once; otherwise the
    first token of each row is none. path: 'corpora/x' with train.jsonl in it gives the split's files only.

    workers: processes that prepare it, where it is not prepared; no option, since it changes nothing of what comes out.
    """
    if length < 1:
        raise DataError(f"text: length {length} is no length of a row. Wanted: 1 or more.")
    if max_documents is not None and max_documents < 1:
        raise DataError(f"text: max_documents {max_documents} leaves no text. Wanted: 1 or more.")
    if overlap_one and packing == "best_fit":
        raise DataError(
            "text: rows of 'best_fit' share no token. Leave 'overlap_one' or 'packing' out."
        )
    mark = separator_id(tokenizer, separator)
    reading = Reading(field, split, split_at, hostile, max_documents)
    found = prepare(tokenizer, path, prepared, reading=reading, workers=workers)
    stream = Stream(found.ids, found.byte_lengths, found.starts, mark)
    if hostile == "quarantine":
        counts = found.about["counts"]
        say(
            f"text {path}: {counts['kept']:,} documents kept, {counts['quarantined']:,} set aside; "
            f"which and why is in {found.folder}."
        )
    return PackedSource(
        stream,
        length,
        seed=seed,
        shuffled=shuffled,
        overlap_one=overlap_one,
        identity=found.folder.name + ("" if packing == "stream" else f" {packing}"),
        fitted=fitted(stream, length) if packing == "best_fit" else None,
        prepared=found,
    )
