"""What is left of the answers once each filter has said which it leaves out, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from limbeck import loading
from limbeck.errors import LimbeckError, RecipeError
from limbeck.filters._rows import Row
from limbeck.generating.settings import Generation
from limbeck.progress import say

Filter = Callable[[Sequence[Row]], list[str]]
"""Of some rows: for each a reason to leave it out, or ''."""


def ready(asked: Generation, where: str = "recipe") -> list[tuple[str, Filter]]:
    """The filters of a recipe by name, in order, each with its options and tried on no rows.

    Raises RecipeError for one that there is not; what a filter needs and lacks is told by itself, before anybody is asked.
    """
    found = list[tuple[str, Filter]]()
    for number, part in enumerate(asked.filters):
        place = f"{where}: filters[{number}]"
        function, options = loading.checked(part, "filters", place)
        one = partial(function, **options)
        try:
            one([])
        except LimbeckError as reason:
            raise RecipeError(f"{place}: {reason}") from reason
        found.append((part.name, one))
    return found


def filtered(
    rows: Sequence[Row], filters: Sequence[tuple[str, Filter]]
) -> tuple[list[Row], list[dict[str, Any]], dict[str, int]]:
    """The rows that are left, those that are not with `filter` and `reason`, and how many each filter left out.

    A filter sees what those before it have left.
    """
    left, out = list(rows), list[dict[str, Any]]()
    counts = dict[str, int]()
    for name, one in filters:
        reasons = one(left)
        if len(reasons) != len(left):
            raise LimbeckError(
                f"filter '{name}' said {len(reasons):,} reasons of {len(left):,} rows; wanted one for each, '' for none."
            )
        pairs = list(zip(left, reasons, strict=True))
        out += [row | {"filter": name, "reason": reason} for row, reason in pairs if reason]
        left = [row for row, reason in pairs if not reason]
        gone = len(pairs) - len(left)
        counts[name] = counts.get(name, 0) + gone
        if gone:
            say(f"filter {name}: {gone:,} of {len(pairs):,} rows left out.")
    return left, out, counts
