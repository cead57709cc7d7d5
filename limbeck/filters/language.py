"""Language: answers in another language than was wanted."""

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from limbeck.errors import LimbeckError
from limbeck.filters._rows import Row

_CODE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
_LONGEST = 5000


def language(
    rows: Sequence[Row],
    *,
    wanted: Annotated[tuple[str, ...], Field(min_length=1)],
    certain: Annotated[float, Field(ge=0, le=1)] = 0.8,
    least: Annotated[int, Field(ge=0)] = 40,
) -> list[str]:
    """A reason for each row whose answer is in none of the languages, by its ISO 639-1 codes, and is known to be for `certain`.

    Code fences are left out; of what has fewer than `least` letters nothing can be said. Needs limbeck[filters] (py3langid).
    Raises LimbeckError where it is missing, or where a language is unknown.
    """
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as reason:
        raise LimbeckError("filter 'language': wanted: pip install 'limbeck[filters]'.") from reason
    known = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    if strange := sorted(set(wanted) - set(known.labels)):
        raise LimbeckError(
            f"filter 'language': {', '.join(strange)} unknown. Wanted ISO 639-1 codes, of: {', '.join(sorted(known.labels))}."
        )

    def reason_of(text: str) -> str:
        prose = _CODE.sub("", text)[:_LONGEST]
        if sum(sign.isalpha() for sign in prose) < least:
            return ""
        found, sure = known.classify(prose)
        return f"in '{found}'" if found not in wanted and sure >= certain else ""

    return [reason_of(row["response"]) for row in rows]
