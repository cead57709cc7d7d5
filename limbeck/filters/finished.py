"""Finished: answers that a limit on tokens cut off, of which a student would learn never to end."""

from collections.abc import Sequence

from limbeck.filters._rows import Row

# What servers call an end of the model's own; an empty word is none at all.
_ENDS = ("", "stop", "end_turn", "stop_sequence", "eos", "eos_token", "complete", "completed")


def finished(rows: Sequence[Row]) -> list[str]:
    """A reason for each row whose `finish` is no end of the teacher's own, '' elsewhere."""
    ends = [str(row.get("finish") or "") for row in rows]
    return ["" if end.lower() in _ENDS else f"it ended with '{end}'" for end in ends]
