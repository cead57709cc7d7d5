"""Prints examples of what a recipe trains on, as the student will read them: which tokens count, and which do not."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from limbeck import assembly
from limbeck.recipe import Recipe
from limbeck.types import Batch, Source

COUNTED = "bold green"
CONTROL = "cyan"
# What a terminal would obey, were it in somebody's text.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Example:
    """One document of a row. ids, weights: of each token what it is, and what it counts as a label."""

    ids: list[int]
    weights: list[float]

    def runs(self, special: set[int]) -> Iterator[tuple[list[int], float, bool]]:
        """Tokens that are alike, one after the other: (ids, weight, whether they are control ids)."""
        begin = 0
        kinds = [(w, i in special) for i, w in zip(self.ids, self.weights, strict=True)]
        for place in range(1, len(self.ids) + 1):
            if place == len(self.ids) or kinds[place] != kinds[begin]:
                yield self.ids[begin:place], *kinds[begin]
                begin = place


def show(recipe: Recipe, number: int) -> None:
    """Opens the source of each stage, which prepares it where it is not prepared, and prints examples of it."""
    console = Console()
    base = assembly.ground(recipe)
    shown = set[str]()
    for stage in recipe.stages:
        source = assembly.stage_source(base, stage)
        if source.identity not in shown:
            shown.add(source.identity)
            _tell(console, stage.name, source, base.tokenizer, number)


def _tell(console: Console, stage: str, source: Source, tokenizer: Any, number: int) -> None:
    marks = "in bold green" if console.is_terminal else "between \u27e6 and \u27e7"
    console.print(
        f"stage {stage}: {source.rows:,} rows of {source.length:,} tokens; {marks}: what counts",
        highlight=False,
    )
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    for place, one in enumerate(examples(source, number), 1):
        counted = sum(weight > 0 for weight in one.weights)
        console.rule(f"{place}: {counted:,} of {len(one.ids):,} tokens count")
        console.print(
            drawn(one, tokenizer, special, marked=not console.is_terminal), soft_wrap=True
        )


def examples(source: Source, number: int) -> Iterator[Example]:
    """The first documents of a source, in the order of its first epoch, in which something counts."""
    left = number
    for position in range(source.rows):
        for one in documents(source.batch([position])):
            if not left:
                return
            left -= 1
            yield one


def documents(batch: Batch) -> Iterator[Example]:
    """The documents of the one row of a batch, less those in which nothing counts, such as padding."""
    edges = batch.edges.tolist()
    for begin, end in itertools.pairwise(edges):
        weights = batch.weights[0, begin:end].tolist()
        if not any(weights):
            continue
        # A token counts where it is a label; of the last place only the label does.
        last = weights[-1] > 0
        ids = batch.input_ids[0, begin:end].tolist()
        ids += batch.labels[0, end - 1 : end].tolist() if last else []
        yield Example(ids, [0.0, *weights] if last else [0.0, *weights[:-1]])


def drawn(one: Example, tokenizer: Any, special: set[int], *, marked: bool) -> Text:
    """The text of an example. marked: brackets around what counts, where there is no colour."""
    text, before = Text(), 0.0
    for ids, weight, control in one.runs(special):
        if marked and weight != before:
            text.append("\u27e7" if before else "")
            text.append(f"\u27e6{_weight(weight)}" if weight else "")
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        seen = _UNSEEN.sub(lambda found: f"\\x{ord(found[0]):02x}", decoded)
        text.append(seen, style=" ".join([COUNTED] * (weight > 0) + [CONTROL] * control) or None)
        before = weight
    return text.append("\u27e7" if marked and before else "")


def _weight(weight: float) -> str:
    return "" if weight == 1 else f"\u00d7{weight:g} "
