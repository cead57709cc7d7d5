"""Length: answers that say next to nothing, or too much."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from limbeck.filters._rows import Row


def length(
    rows: Sequence[Row],
    *,
    least: Annotated[int, Field(ge=0)] = 50,
    most: Annotated[int, Field(gt=0)] | None = None,
) -> list[str]:
    """A reason for each row, '' where there is none. least, most: characters of the answer, without the space around it."""
    return [_reason(len(row["response"].strip()), least, most) for row in rows]


def _reason(found: int, least: int, most: int | None) -> str:
    if found < least:
        return f"{found:,} characters, fewer than {least:,}"
    return f"{found:,} characters, more than {most:,}" if most is not None and found > most else ""
