"""Duplicates: answers that are, word for word or nearly, another row's; the first one stays."""

import re
from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import Field

from limbeck.errors import LimbeckError
from limbeck.filters._rows import Row

_WORD = re.compile(r"\w+")
_SEED = 1


def duplicates(
    rows: Sequence[Row],
    *,
    near: Annotated[float, Field(gt=0, le=1)] | None = 0.8,
    words: Annotated[int, Field(gt=0)] = 5,
    permutations: Annotated[int, Field(ge=16, le=1024)] = 128,
) -> list[str]:
    """A reason for each row whose answer has the same words as an earlier one, in order, or nearly.

    near: from which Jaccard similarity of their runs of `words` words on, estimated by MinHash with so many `permutations` (Broder, 1997);
    null for equal ones alone. Case, punctuation and space do not count. Needs limbeck[filters] (datasketch) where near is given.
    """
    known = dict[tuple[str, ...], str]()
    near_to = _near(near, permutations) if near is not None else None
    reasons = []
    for row in rows:
        spoken = tuple(_WORD.findall(row["response"].lower()))
        if spoken in known:
            reasons.append(f"the words of {known[spoken]}")
            continue
        other = near_to(row["id"], _runs(spoken, words)) if near_to else ""
        if not other:
            known[spoken] = row["id"]
        reasons.append(f"nearly the words of {other}" if other else "")
    return reasons


def _runs(spoken: tuple[str, ...], words: int) -> set[str]:
    last = max(1, len(spoken) - words + 1)
    return {" ".join(spoken[at : at + words]) for at in range(last)}


def _near(least: float, permutations: int) -> Callable[[str, set[str]], str]:
    """Which earlier row has nearly the same runs, or ''; a row that has none is kept to be compared with."""
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError as reason:
        raise LimbeckError(
            "filter 'duplicates': wanted: pip install 'limbeck[filters]', or near: null."
        ) from reason
    index = MinHashLSH(threshold=least, num_perm=permutations)
    prints = dict[str, tuple[int, MinHash]]()

    def near_to(name: str, runs: set[str]) -> str:
        print_ = MinHash(num_perm=permutations, seed=_SEED)
        print_.update_batch([run.encode() for run in sorted(runs)])
        for other in sorted(index.query(print_), key=lambda one: prints[one][0]):
            if print_.jaccard(prints[other][1]) >= least:
                return str(other)
        prints[name] = (len(prints), print_)
        index.insert(name, print_, check_duplication=False)
        return ""

    return near_to
