"""Conversations through a chat template, packed whole into rows; only what the assistant says counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from limbeck.data.chat import Rows, prepare_chat
from limbeck.data.dataset_info import FILE, Entry, entry
from limbeck.data.fit import fitted
from limbeck.data.inputs import ROWS, inputs
from limbeck.data.loader import PackedSource
from limbeck.data.pack import Stream
from limbeck.data.planes import Prepared
from limbeck.data.talks import Reading
from limbeck.data.templates import template_of
from limbeck.data.tokenize import separator_id
from limbeck.errors import DataError
from limbeck.progress import say

Layout = Literal[
    "auto",
    "messages",
    "conversations",
    "input_ids",
    "prompt-completion",
    "prompt-response",
    "instruction",
    "text",
]


def chat(
    tokenizer: Any,
    workers: int = 1,
    *,
    path: str,
    length: int,
    layout: Layout = "auto",
    dataset: str | None = None,
    template: str | None = None,
    template_options: dict[str, Any] | None = None,
    date: str = "2024-07-26",
    turns: Literal["all", "last"] = "all",
    too_long: Literal["left", "drop", "error"] = "left",
    separator: str = "eos",
    hostile: Literal["stop", "quarantine"] = "stop",
    split: str = "train",
    max_documents: int | None = None,
    seed: int = 0,
    shuffled: bool = True,
    prepared: str = "prepared",
) -> PackedSource:
    """Batches of (batch, length) of whole conversations; rendered once into `prepared`, and found there again.

    path: JSONL, JSON or Parquet, a folder or pattern of those, a dataset; or LLaMA-Factory's dataset_info.json, of which
    `dataset` names one. template: a jinja file, or `chatml` or `plain`, in place of the tokenizer's own; it is given
    template_options, such as {enable_thinking: false}, and `date` for today, so that tomorrow's tokens are the same.

    turns: whether all of the assistant's count, or the last. too_long: a conversation of more than `length` tokens loses
    its first exchanges (`left`), is left out (`drop`), both counted, or is refused (`error`).

    separator: what fills a row, and ends a text, and a conversation whose template ends it with nothing.

    workers: processes that prepare it, where it is not prepared; no option, since it changes nothing of what comes out.
    """
    _check(length, max_documents)
    mark = separator_id(tokenizer, separator)
    listed, form = listed_entry(path, dataset), str(layout)
    if listed is not None:
        path, split = listed.path, listed.split or split
        form = listed.layout if form == "auto" else form
        max_documents = min(filter(None, (listed.most, max_documents)), default=None)
    found = prepare_chat(
        tokenizer,
        Rows(path, inputs(path, split, kinds=ROWS), listed),
        prepared,
        template=template_of(tokenizer, template, template_options or {}, date),
        reading=Reading(length, mark, form, turns, too_long, hostile, split, max_documents),
        workers=workers,
    )
    say(f"chat {path}: {told(found)}")
    stream = Stream(found.ids, found.byte_lengths, found.starts, mark, found.weights)
    return PackedSource(
        stream,
        length,
        seed=seed,
        shuffled=shuffled,
        identity=f"{found.folder.name} best_fit",
        fitted=fitted(stream, length),
        prepared=found,
    )


def _check(length: int, max_documents: int | None) -> None:
    if length < 2:
        raise DataError(f"chat: length {length} has no room for an answer. Wanted: 2 or more.")
    if max_documents is not None and max_documents < 1:
        raise DataError(f"chat: max_documents {max_documents} leaves no row. Wanted: 1 or more.")


def listed_entry(path: str, dataset: str | None) -> Entry | None:
    """What a list of data sets says of the one that is named; None where a path is no such list."""
    place = Path(path).expanduser()
    file = place / FILE if place.is_dir() else place
    if dataset is None:
        if place.name == FILE and place.is_file():
            raise DataError(f"chat: {path} lists data sets. Name one of them with 'dataset'.")
        return None
    if file.name != FILE or not file.is_file():
        raise DataError(
            f"chat: 'dataset' names an entry of {FILE}, and {path} is none. Correct 'path', or leave 'dataset' out."
        )
    return entry(file, dataset)


def told(found: Prepared) -> str:
    """What became of the rows, in one line."""
    counts = found.about["counts"]
    texts = f" and {counts['texts']:,} texts" if counts["texts"] else ""
    line = (
        f"{counts['conversations']:,} conversations{texts}, {counts['turns']:,} turns that count; "
        f"{counts['counted']:,} of {counts['tokens']:,} tokens count ({counts['counted'] / counts['tokens']:.1%})"
    )
    beside = {
        "found": "control strings in what was said, kept as text",
        "shortened": "shortened from the left",
        "too_long": "too long and left out",
        "silent": "in which nothing counts, left out",
        "quarantined": f"set aside, listed in {found.folder}",
    }
    return "; ".join(
        [line, *(f"{counts[key]:,} {what}" for key, what in beside.items() if counts[key])]
    )
