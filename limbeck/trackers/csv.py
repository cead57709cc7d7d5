"""log.csv beside log.jsonl, a column for each metric; always written."""

from __future__ import annotations

import csv as package
from collections.abc import Mapping
from pathlib import Path

from limbeck.trackers._shape import Tracked, Tracker


def csv(run: Tracked) -> Tracker:
    """Writes log.csv anew from the log's first line, and the final figures to figures.csv."""
    return _Table(run.log.with_suffix(".csv"))


class _Table:
    """A table that gets wider where a line brings a column that no line before it had."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: list[str] = []
        self._stream = path.open("w", newline="", encoding="utf-8")

    @property
    def last(self) -> int:
        """Nothing: every line is told again, and the table written anew."""
        return 0

    def line(self, step: int, values: Mapping[str, float]) -> None:  # noqa: ARG002
        """Adds a row."""
        new = [name for name in values if name not in self._columns]
        if new:
            self._widen(new)
        package.writer(self._stream).writerow([values.get(name, "") for name in self._columns])
        self._stream.flush()

    def _widen(self, new: list[str]) -> None:
        """Writes the table again with more columns, which earlier rows leave empty."""
        self._stream.close()
        self._columns += new
        wider = self._path.with_suffix(".csv.partial")
        with (
            self._path.open(newline="", encoding="utf-8") as old,
            wider.open("w", newline="", encoding="utf-8") as stream,
        ):
            writer = package.DictWriter(stream, self._columns, restval="")
            writer.writeheader()
            for row in package.DictReader(old):
                writer.writerow(row)
        wider.replace(self._path)
        self._stream = self._path.open("a", newline="", encoding="utf-8")

    def figures(self, step: int, values: Mapping[str, float]) -> None:  # noqa: ARG002
        """Writes figures.csv: model, figure, value."""
        with self._path.with_name("figures.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = package.writer(stream)
            writer.writerow(("model", "figure", "value"))
            for name, value in values.items():
                writer.writerow((*name.split("/")[1:], value))

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()
