"""Rows that are ready made, in a committed folder: ids, weights and documents of a fixed length, memory-mapped.

ids.bin (rows, length + 1), uint16 or uint32; weights.bin float32, documents.bin uint16 and bytes.bin uint16, each
(rows, length). Labels are the ids one further.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck import files
from limbeck.data.pack import address
from limbeck.errors import Damaged
from limbeck.types import Batch

FORMAT = 1
_PLANES = {"weights": "<f4", "documents": "<u2", "bytes": "<u2"}


@dataclass(frozen=True)
class Row:
    """ids: (length + 1,). weights, documents, sizes: (length,), of the label at each place; see Batch."""

    ids: NDArray[np.int64]
    weights: NDArray[np.float32]
    documents: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @property
    def positions(self) -> NDArray[np.int64]:
        """Places of tokens in their documents: int64 (length,)."""
        found: NDArray[np.int64] = positions_of(self.documents[None])[0]
        return found

    @property
    def address(self) -> str:
        """The content hash of the row, by which a cache is read."""
        return address(self.ids[:-1], self.positions)


@dataclass(frozen=True)
class Rows:
    """Rows that were written: planes as in the module's head; about: what they are of."""

    planes: dict[str, NDArray[Any]]
    length: int
    about: dict[str, Any]
    identity: str

    def __len__(self) -> int:
        return len(self.planes["ids"])

    def batch(self, rows: Sequence[int], epochs: tuple[int, ...]) -> Batch:
        """These rows as one Batch: each plane (rows, length)."""
        wanted = np.asarray(rows, dtype=np.int64)
        ids = self.planes["ids"][wanted].astype(np.int64)
        documents = self.planes["documents"][wanted].astype(np.int64)
        positions = positions_of(documents)
        seen = zip(ids[:, :-1], positions, strict=True)
        return Batch(
            input_ids=torch.from_numpy(ids[:, :-1].copy()),
            labels=torch.from_numpy(ids[:, 1:].copy()),
            position_ids=torch.from_numpy(positions),
            document_ids=torch.from_numpy(documents),
            weights=torch.from_numpy(self.planes["weights"][wanted].astype(np.float32)),
            label_bytes=torch.from_numpy(self.planes["bytes"][wanted].astype(np.int64)),
            addresses=tuple(address(*one) for one in seen),
            epochs=epochs,
        )


def positions_of(documents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of tokens in their documents, which begin again in each row: (rows, length)."""
    places = np.arange(documents.shape[1])
    begins = np.ones(documents.shape, dtype=bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    first = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
    return np.asarray(places - first, dtype=np.int64)


def write_rows(
    folder: Path, rows: Iterable[Row], *, length: int, vocab: int, about: dict[str, Any]
) -> int:
    """Commits a folder of rows and returns how many they are."""
    width, count = ("<u2" if vocab <= 1 << 16 else "<u4"), 0
    with files.committed(folder, {"format": FORMAT} | about) as partial:
        with ExitStack() as stack:
            streams = {
                name: stack.enter_context((partial / f"{name}.bin").open("wb"))
                for name in ("ids", *_PLANES)
            }
            for row in rows:
                streams["ids"].write(row.ids.astype(width).tobytes())
                streams["weights"].write(row.weights.astype("<f4").tobytes())
                streams["documents"].write(row.documents.astype("<u2").tobytes())
                streams["bytes"].write(np.minimum(row.sizes, 65_535).astype("<u2").tobytes())
                count += 1
        size = {"rows": count, "length": length, "width": width}
        files.write_bytes(partial / "size.json", files.canonical(size))
    return count


def open_rows(folder: Path) -> Rows:
    """Checks every byte of a folder of rows against its manifest, and maps the planes."""
    manifest = files.verify(folder)
    if manifest.about.get("format") != FORMAT:
        raise Damaged(f"{folder}: format {manifest.about.get('format')} found; wanted {FORMAT}.")
    size = files.read_json(folder / "size.json")
    count, length = size["rows"], size["length"]
    shapes = {"ids": (size["width"], length + 1)} | {n: (d, length) for n, d in _PLANES.items()}
    planes = {
        name: np.asarray(np.memmap(folder / f"{name}.bin", dtype, "r", shape=(count, width)))
        if count
        else np.zeros((0, width), dtype)  # an empty file cannot be mapped
        for name, (dtype, width) in shapes.items()
    }
    identity = files.digest(files.canonical(manifest.files))
    return Rows(planes, length, manifest.about, identity)
