"""What 'limbeck convert' does: chooses who reads the old cache, and tells what a recipe must say of the new one."""

from __future__ import annotations

from pathlib import Path

from limbeck import names
from limbeck.converting import foreign
from limbeck.converting.version1 import version1
from limbeck.errors import RecipeError
from limbeck.models.load import load_tokenizer


def convert(
    old: Path,
    new: Path,
    *,
    origin: str | None = None,
    tokenizer: str | None = None,
    teacher: str | None = None,
    values: str | None = None,
) -> str:
    """Converts, and returns the lines that a user reads. origin: the other tool, or None for our own version 1."""
    if origin is None:
        about = version1(old, new, values=values)
        return (
            f"{new} holds what {old} held. In the recipe: teacher.cached with path: {new}, kind: topk+rest, "
            f"k: {about.k}, values: {about.values}."
        )
    if origin not in foreign.TOOLS:
        known = names.suggestion(origin, list(foreign.TOOLS))
        raise RecipeError(f"convert --from: no reader for the caches of '{origin}'.{known}")
    if tokenizer is None or teacher is None:
        raise RecipeError(
            f"convert --from {origin}: give --tokenizer, the folder or hub name of the tokenizer that its ids are "
            "of, and --teacher, the name of the teacher; neither is written in these caches."
        )
    kept = values or "float32"
    done = foreign.foreign(
        origin, old, new, tokenizer=load_tokenizer(tokenizer), teacher=teacher, values=kept
    )
    return (
        f"{done.rows:,} rows and {done.tokens:,} tokens are in {new}"
        f" ({done.twice:,} samples stood there twice, {done.lost:,} places made no sense and do not count, "
        f"{done.passed_over:,} samples of fewer than two tokens or of no known place were passed over).\n"
        f"In the recipe: source: {{packed: {{path: {new / foreign.ROWS}}}}} and teacher: {{cached: {{path: "
        f"{new / foreign.CACHE}, kind: topk+rest, k: {done.k}, values: {kept}}}}}."
    )
