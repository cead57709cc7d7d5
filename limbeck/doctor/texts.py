"""What is read: whether it opens, how much of it counts, what is cut off, how often it is read, and what judges it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from limbeck import assembly, preparing, watching
from limbeck.data.loader import PackedSource
from limbeck.doctor.case import EVALUATE, Case
from limbeck.doctor.findings import Finding, Findings, attempted, fault, note, ok, warning
from limbeck.files import digest
from limbeck.recipe import Part
from limbeck.types import Source

LOOKED_AT = 256
"""Rows of a source of which is counted what counts, at equal distances."""
_AT_ONCE = 32
COMPARED = 200_000
"""Documents of a text that are compared with held-out ones, at equal distances."""
_BLOCKS = " ▁▂▃▄▅▆▇█"
# Shares of what is read: below the first hardly anything is learned from a row; above the second much is lost.
_LITTLE, _MUCH = 0.05, 0.1
# Up to four epochs repeated text is nearly as good as new (Muennighoff et al., 2023).
_EPOCHS = 4


def opened(case: Case) -> Findings:
    """Every text of the recipe, opened as a run would."""
    for where, part, _ in case.texts:
        yield from attempted(where, partial(_opened, case, where, part))


def _opened(case: Case, where: str, part: Part) -> list[Finding]:
    return [ok(preparing.told(case.source(where, part), case.base()), where)]


def coverage(case: Case) -> Findings:
    """How many tokens of a row count, and how that is spread over rows."""
    for where, part, _ in case.texts:
        yield from attempted(where, partial(_coverage, case, where, part))


def _coverage(case: Case, where: str, part: Part) -> list[Finding]:
    source = case.source(where, part)
    positions = np.unique(np.linspace(0, source.rows - 1, min(LOOKED_AT, source.rows)).astype(int))
    shares = np.concatenate(
        [
            (source.batch(some.tolist()).weights > 0).float().mean(1).numpy()
            for some in np.split(positions, range(_AT_ONCE, len(positions), _AT_ONCE))
        ]
    )
    none, mean = int((shares == 0).sum()), float(shares.mean())
    eighths = np.bincount(np.minimum((shares * 8).astype(int), 7), minlength=8)
    bars = "".join(_BLOCKS[-(-int(count) * 8 // max(1, eighths.max()))] for count in eighths)
    told = f"{mean:.1%} of the tokens of {len(shares)} rows count; rows by eighths of their tokens: {bars} {eighths.tolist()}"
    if mean == 0:
        return [fault(f"no token counts in any of {len(shares)} rows", where)]
    if none:
        cure = "Look with 'limbeck show --sample 3'; a longer 'length' may help."
        return [
            warning(f"in {none} of {len(shares)} rows no token counts. {told}", where, cure=cure)
        ]
    if mean < _LITTLE:
        cure = "Look with 'limbeck show --sample 3'; turns: all counts every answer."
        return [warning(f"nearly all that is computed counts nothing: {told}", where, cure=cure)]
    return [ok(f"{told}.", where)]


def documents(case: Case) -> Findings:
    """What of documents is left out or cut."""
    for where, part, _ in case.texts:
        yield from attempted(where, partial(_documents, case, where, part))


def _documents(case: Case, where: str, part: Part) -> list[Finding]:
    source = case.source(where, part)
    if not isinstance(source, PackedSource) or source.prepared is None:
        return []
    counts: dict[str, int] = source.prepared.about["counts"]
    if part.name == "chat":
        return _talks(counts, where, source.length)
    sizes = np.diff(np.asarray(source.stream.starts, dtype=np.int64))
    longer = int((sizes > source.length).sum())
    aside = counts.get("quarantined", 0)
    found = [
        note(
            f"{longer:,} of {len(sizes):,} documents are longer than a row of {source.length:,} tokens and are cut.",
            where,
        )
        if longer
        else ok(f"{len(sizes):,} documents, none longer than a row.", where)
    ]
    whole = aside + counts["documents"]
    if aside > _MUCH * whole:
        found.append(warning(f"{aside:,} of {whole:,} documents were set aside as hostile", where))
    return found


def _talks(counts: dict[str, int], where: str, length: int) -> list[Finding]:
    """counts: what became of conversations; see data/talks.py."""
    left = {
        "shortened": f"were longer than {length:,} tokens and lost their first turns",
        "too_long": f"were longer than {length:,} tokens and are left out",
        "silent": "hold nothing that counts and are left out",
        "quarantined": "were refused and set aside",
    }
    kept = counts["conversations"] + counts["texts"]
    gone = sum(counts[key] for key in ("too_long", "silent", "quarantined"))
    whole = kept + gone
    lines = [f"{counts[key]:,} {told}" for key, told in left.items() if counts[key]]
    if gone + counts["shortened"] > _MUCH * whole:
        said = f"of {whole:,} conversations {'; '.join(lines)}"
        return [warning(said, where, cure="Raise 'length', or look at what they are.")]
    return [ok(f"of {whole:,} conversations {'; '.join(lines) or 'all are whole'}.", where)]


def amounts(case: Case) -> Findings:
    """How often each text is read."""
    for index, stage in enumerate(case.recipe.stages):
        yield from attempted(f"stages[{index}]", partial(_amount, case, index, stage.rows_per_step))


def _amount(case: Case, index: int, rows_per_step: int) -> list[Finding]:
    source, steps, where = case.stage_source(index), case.steps(index), f"stages[{index}].budget"
    epochs = steps * rows_per_step / source.rows
    told = f"{steps:,} steps of {rows_per_step} rows read {source.rows:,} rows {epochs:.3g} times"
    if source.rows < rows_per_step:
        cure = "Give more text, or lower rows_per_step."
        return [warning(f"a step reads some rows twice: {told}", where, cure=cure)]
    if epochs > _EPOCHS:
        cure = "Give more text, or a smaller budget."
        return [warning(told, where, wanted=f"{_EPOCHS} times or less.", cure=cure)]
    return [ok(f"{told}.", where)]


def lengths(case: Case) -> Findings:
    """Rows beside the longest that each model was made for."""
    for where, part, _ in case.texts:
        yield from attempted(where, partial(_length, case, where, part))


def _length(case: Case, where: str, part: Part) -> list[Finding]:
    given = part.options.get("length")
    length = given if isinstance(given, int) else case.source(where, part).length
    configs = [
        ("teacher", case.teacher_config()),
        *((o.where, o.shape().config) for o in case.learners),
    ]
    limits = {
        role: config.get_text_config().max_position_embeddings
        for role, config in configs
        if config is not None and "max_position_embeddings" in config.get_text_config().to_dict()
    }
    found = [
        fault(
            f"rows of {length:,} tokens; the {role} was made for {limit:,} positions",
            where,
            wanted=f"length {limit:,} or less.",
            cure="Lower 'length', or choose another model.",
        )
        for role, limit in limits.items()
        if limit and length > limit
    ]
    told = ", ".join(f"{role} {limit:,}" for role, limit in limits.items() if limit)
    return found or [ok(f"{length:,} tokens a row; positions: {told or 'no limit'}.", where)]


def judged(case: Case) -> Findings:
    """Held-out text: enough of it, and none of it trained on."""
    if case.recipe.evaluate is None:
        yield note("nothing is measured at the end: the recipe has no 'evaluate'.")
        return
    yield from attempted(EVALUATE, partial(_enough, case))
    yield from attempted(EVALUATE, partial(_apart, case))


def _enough(case: Case) -> Findings:
    assert case.recipe.evaluate is not None
    source, rows = case.source(EVALUATE, case.recipe.evaluate.source), case.recipe.evaluate.rows
    if source.rows < rows:
        said = f"{rows} rows are to be measured, the text has {source.rows:,}"
        yield warning(said, "evaluate.rows", cure="Give more text, or lower it.")
    else:
        yield ok(f"{rows} of {source.rows:,} held-out rows are measured.", "evaluate.rows")
    _every(case)
    watching.check_text(case.base())


def _every(case: Case) -> list[Source]:
    return [case.source(where, part) for where, part, _ in case.texts]


def _apart(case: Case) -> Findings:
    """Whether a held-out document stands in what is trained on."""
    base, texts = case.base(), _every(case)
    assembly.held_out(base)
    judge = case.source(EVALUATE, case.recipe.evaluate.source) if case.recipe.evaluate else None
    mine, _ = _marks(judge)
    if not mine:
        return
    for (where, _, trained), source in zip(case.texts, texts, strict=True):
        theirs, part = _marks(source) if trained else (set[str](), "")
        if not theirs:
            continue
        both = len(mine & theirs)
        said = (
            f"{both:,} of {len(mine):,} held-out documents stand in {where}, token for token{part}"
        )
        cure = "Take them out of one: what was trained on cannot judge."
        if both > 0.01 * len(mine):
            yield fault(said, EVALUATE, wanted="none.", cure=cure)
        elif both:
            yield warning(said, EVALUATE, wanted="none.", cure=cure)
        else:
            yield ok(f"no held-out document stands in {where}{part}.", EVALUATE)


def _marks(source: Any) -> tuple[set[str], str]:
    """The digests of a source's documents, and which part of them was looked at."""
    if not isinstance(source, PackedSource):
        return set(), ""
    starts = np.asarray(source.stream.starts, dtype=np.int64)
    count = len(starts) - 1
    chosen = np.unique(np.linspace(0, count - 1, min(count, COMPARED)).astype(int))
    ids = source.stream.ids
    found = {
        digest(np.asarray(ids[starts[at] : starts[at + 1]], dtype="<i8").tobytes())
        for at in chosen.tolist()
    }
    return found, "" if len(chosen) == count else f" ({len(chosen):,} of {count:,} were looked at)"
