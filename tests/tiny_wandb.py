"""Reads the file of an offline run of Weights & Biases: protobuf records in LevelDB's log format."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEAD, BLOCK = 7, 32_768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Any]:
    """Every record, in order; raises where the file is cut short or no such file."""
    from wandb.proto import wandb_internal_pb2

    raw = path.read_bytes()
    assert raw.startswith(b":W&B")
    place, whole = HEAD, b""
    while place < len(raw):
        if BLOCK - place % BLOCK < HEAD:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", raw, place)
        assert kind in (FULL, FIRST, MIDDLE, LAST)
        piece = raw[place + HEAD : place + HEAD + length]
        assert len(piece) == length
        whole = piece if kind in (FULL, FIRST) else whole + piece
        place += HEAD + length
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record


def values(items: Any) -> dict[str, Any]:
    """The figures of a history or summary record, without those of the package's own."""
    told = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
    return {name: value for name, value in told.items() if not name.startswith("_")}
