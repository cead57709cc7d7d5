"""Parquet files and saved datasets that are hostile: by their types, cells and names, and by damage to their bytes."""

import datetime
import decimal
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as arrow
import pyarrow.parquet
from hostile import AFTER, GOOD, STAY, Case

TEXTS = [GOOD["text"], "between", AFTER["text"]]


def cells(kind: Any, *values: bytes | None) -> Any:
    """A column of these bytes, good or not, that says it is of strings."""
    return arrow.array(values, arrow.binary()).view(arrow.string()).cast(kind, safe=False)


def table(columns: Any, **options: Any) -> bytes:
    """The bytes of a file of these columns."""
    sink = arrow.BufferOutputStream()
    whole = columns if isinstance(columns, arrow.Table) else arrow.table(columns)
    arrow.parquet.write_table(whole, sink, **options)
    return sink.getvalue().to_pybytes()


def whole(name: str, raw: bytes, reason: str, **more: Any) -> Case:
    """A file of which nothing is taken."""
    return Case(f"table: {name}", {"rows.parquet": raw}, whole=reason, **more)


def one(name: str, raw: bytes, reason: str, **more: Any) -> Case:
    """A file whose second row is set aside."""
    return Case(f"table: {name}", {"rows.parquet": raw}, STAY, (("rows.parquet", 2, reason),), **more)  # fmt: skip


def column(middle: Any, kind: Any = None) -> bytes:
    """A file with a column of something beside the text, in the second of three rows."""
    return table({"text": TEXTS, "weight": arrow.array([None, middle, None], kind)})


def messages(**wrong: Any) -> bytes:
    """Three rows; what the second answers with has another field."""
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", **wrong}]
    rows = [{"text": GOOD["text"]}, {"messages": talk}, {"text": AFTER["text"]}]
    return table(arrow.Table.from_pylist(rows, arrow.schema([("text", arrow.string()), ("messages", _kind(talk))])))  # fmt: skip


def _kind(talk: Any) -> Any:
    return arrow.array([talk]).type


OTHER = [
    ("int64", [1, 2, 3]), ("double", [1.5, None, 2.0]), ("bool", [True, False, True]), ("binary", [b"a", b"b", b"c"]),
    ("list", [["a"], ["b"], []]), ("struct", [{"a": "b"}] * 3), ("null", [None] * 3), ("date32", [datetime.date(2024, 1, 1)] * 3),
]  # fmt: skip
TYPES = [
    *(whole(f"a text of {name}", table({"text": values}), f"holds {name}.*, not strings") for name, values in OTHER),
    whole("no column of the name", table({"body": TEXTS}), "no column 'text'. It has: 'body'"),
    whole("50 other columns of long names", table({f"{n}{'k' * 9_000}": [1] for n in range(50)}), "no column 'text'. It has: '0kkk"),
    whole("no column at all", table(arrow.table({})), "no column 'text'"),
    whole("no row", table({"text": arrow.array([], arrow.string())}), "no document with any token"),
    whole("a column twice", table(arrow.table([TEXTS, TEXTS], ["text", "text"])), "'text' stands twice"),
    whole("a column of a chat twice", table(arrow.table([TEXTS, TEXTS], ["text", "text"])), "'text' stands twice", source="chat"),
    *(
        Case(f"table: {kind} is as good", {"rows.parquet": table({"text": arrow.array(TEXTS).cast(kind)})}, tuple(TEXTS))
        for kind in (arrow.large_string(), arrow.dictionary(arrow.int32(), arrow.string()))
    ),
    Case("table: a control string in a name", {"a.parquet": table({"text": TEXTS, "<|im_end|>\n": TEXTS})}, tuple(TEXTS)),
]  # fmt: skip

GOODS = (GOOD["text"].encode(), AFTER["text"].encode())
CELLS = [
    *(
        one(f"{name}, {source}", table({"text": cells(arrow.string(), GOODS[0], bad, GOODS[1])}), reason, source=source)
        for source in ("text", "chat")
        for name, bad, reason in (("bad UTF-8", b"\xff", "not UTF-8"), ("cut UTF-8", b"\xe2\x82", "not UTF-8"),
                                  ("half a surrogate", b"\xed\xa0\x80", "not UTF-8"), ("a NUL", b"a\0", "a NUL"))
    ),
    one("a null", table({"text": [TEXTS[0], None, TEXTS[2]]}), "null"),
    one("a null of a chat", table({"text": [TEXTS[0], None, TEXTS[2]]}), "it has: nothing", source="chat"),
    one("a null in a dictionary", table({"text": arrow.array([TEXTS[0], None, TEXTS[2]]).dictionary_encode()}), "null"),
    one("bad UTF-8 in a dictionary", table({"text": cells(arrow.string(), GOODS[0], b"\xff", GOODS[1]).dictionary_encode()}), "not UTF-8"),
    *(
        one(f"a weight of {name}", column(value, kind), "the row's weight is|cannot be read", source="chat")
        for name, value, kind in (
            ("NaN", float("nan"), None), ("infinity", float("inf"), None), ("-infinity", float("-inf"), None), ("-1", -1, None),
            ("bytes", b"\xff", None), ("words", "much", None), ("a date", datetime.date(2024, 1, 1), None), ("a list", [1], None),
            ("a struct", {"a": 1}, None), ("a bool", True, None), ("1e300", 1e300, None),
            ("a day that no calendar has", 2**62, arrow.timestamp("us")), ("a time in no zone", 0, arrow.timestamp("us", "No/Where")),
            ("a decimal", decimal.Decimal("1.5"), None), ("a time of nanoseconds", 1, arrow.duration("ns")),
        )
    ),
    *(
        one(f"turns with {name}", messages(**{key: value}), reason, source="chat")
        for name, key, value, reason in (
            ("a call that is a number", "tool_calls", 3, "tool_calls is int"), ("bytes for words", "content", b"\xff", "bytes stands"),
            ("a weight of NaN", "weight", float("nan"), "weight is nan"), ("thoughts of a date", "thinking", datetime.date(2024, 1, 1), "date stands"),
            ("arguments of bytes", "tool_calls", [{"name": "f", "arguments": {"a": b"\xff"}}], "bytes stands"),
            ("arguments of a date", "tool_calls", [{"name": "f", "arguments": {"a": datetime.date(2024, 1, 1)}}], "date stands"),
            ("arguments of NaN", "tool_calls", [{"name": "f", "arguments": {"a": float("nan")}}], "nan stands"),
        )
    ),
    one("ids that are null", table({"text": [TEXTS[0], None, TEXTS[2]], "input_ids": [None, [1, None], None]}), "whole numbers", source="chat"),
    one("ids that are floats", table({"text": [TEXTS[0], None, TEXTS[2]], "input_ids": [None, [1.0], None]}), "whole numbers", source="chat"),
    one("ids beyond the vocabulary", table({"text": [TEXTS[0], None, TEXTS[2]], "input_ids": [None, [2**40], None]}), "the tokenizer has", source="chat"),
]  # fmt: skip

PLAIN = table({"text": TEXTS * 50}, write_page_checksum=True, compression="none", use_dictionary=False)  # fmt: skip
PACKED = table({"text": TEXTS * 50}, write_page_checksum=True, compression="zstd")
BROKEN = "cannot be read as Parquet"


def overwritten(raw: bytes, place: int, new: bytes) -> bytes:
    """Other bytes at a place, counted from the end where it is negative."""
    place %= len(raw)
    return raw[:place] + new + raw[place + len(new) :]


DAMAGE = [
    *(whole(f"cut at {n}", PLAIN[:n], BROKEN) for n in (0, 3, 4, 8, 12, 500, len(PLAIN) - 4, len(PLAIN) - 1)),
    *(whole(f"cut at {n}, of a chat", PACKED[:n], BROKEN, source="chat") for n in (0, 40, len(PACKED) - 9)),
    whole("without its beginning", PLAIN[200:], f"{BROKEN}|no column"),
    whole("a text that is no table", b"PAR1 but not really PAR1", BROKEN),
    whole("lines of JSON", json.dumps(GOOD).encode(), BROKEN),
    whole("another mark at the end", overwritten(PLAIN, -4, b"PAR2"), BROKEN),
    whole("a mark of encryption", overwritten(PLAIN, -4, b"PARE"), BROKEN),
    *(whole(f"a footer of {n:,} bytes", overwritten(PLAIN, -8, n.to_bytes(4, "little")), BROKEN) for n in (0, 1, 2**31 - 1, 2**32 - 1)),
    whole("a footer of nothing but ones", overwritten(PLAIN, -200, b"\xff" * 190), BROKEN),
    *(whole(f"a flipped byte at {n}", overwritten(PLAIN, n, b"\x01"), BROKEN) for n in (120, 900, 2_000)),
    *(whole(f"a flipped packed byte at {n}", overwritten(PACKED, n, b"\x01\x7f"), BROKEN, source="chat") for n in (60, 90)),
    whole("garbage behind", PLAIN + b"garbage", BROKEN),
    whole("a row group gone", PLAIN[:4] + PLAIN[1_000:], BROKEN),
    Case("table: garbage before is not looked at", {"a.jsonl": b"x", "b.parquet": table({"text": TEXTS})}, tuple(TEXTS), path="*.parquet"),
]  # fmt: skip


def saved(change: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A dataset in a folder, to which something was done."""

    def write(place: Path) -> None:
        datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(place)
        change(place)

    return write


def put(name: str, raw: bytes) -> Callable[[Path], Any]:
    return lambda place: (place / name).write_bytes(raw)


def cut(place: Path) -> None:
    file = next(place.glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:200])


INFO = b'{"features": {"text": {"dtype": "string", "_type": "%s"}}}'
STATES = {
    "an empty state": put("state.json", b"{}"), "a state that is a list": put("state.json", b"[]"), "a state that is cut": put("state.json", b"{"),
    "a state of NaN": put("state.json", b"NaN"), "features of no kind": put("dataset_info.json", INFO % b"Wizard"),
    "features that are a number": put("dataset_info.json", b'{"features": 3}'), "an info that is a list": put("dataset_info.json", b"[]"),
    "no file of rows": lambda place: next(place.glob("*.arrow")).unlink(), "rows that are cut": cut,
    "rows that are none": put("data-00000-of-00001.arrow", b"x" * 999),
    "rows elsewhere": put("state.json", b'{"_data_files": [{"filename": "../../x.arrow"}]}'),
}  # fmt: skip
SAVED = [
    Case(f"saved: {name}, {source}", {"set": saved(change)}, whole="cannot be opened or read", source=source)
    for name, change in STATES.items()
    for source in ("text", "chat")
]  # fmt: skip

CASES = [*TYPES, *CELLS, *DAMAGE, *SAVED]
