"""Whether teacher and student read the same ids, how many of them there are, and which of them begin, end and fill."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from limbeck import assembly
from limbeck.assembly import Model
from limbeck.data.tokenize import PROBES, separator_id, tokenizer_fingerprint
from limbeck.doctor.case import Case, Learner
from limbeck.doctor.findings import Finding, Findings, attempted, fault, note, ok, warning
from limbeck.doctor.tokens import beside, parted, told
from limbeck.models import load
from limbeck.types import Source

LOOKED_AT = 64
"""Rows of a source that are looked at for how answers end."""


def tokenizers(case: Case) -> Findings:
    """Tokenizers that must be one, by what they do."""
    base, whose = case.base(), assembly.origin(case.recipe)
    yield ok(
        f"the run's tokenizer is that of {whose.name}: {base.vocab:,} ids, {base.tokenizer_print[:12]}."
    )
    for role, model in case.models:
        if model != whose:
            yield from attempted(role, partial(_compared, case, role, model, whose))


def _compared(case: Case, role: str, model: Model, whose: Model) -> list[Finding]:
    wanted = case.base().tokenizer
    mine = load.load_tokenizer(model.name, revision=model.revision)
    if tokenizer_fingerprint(mine, roles=False) == tokenizer_fingerprint(wanted, roles=False):
        return [ok(f"{model.name} gives the same ids as {whose.name} for the same text.", role)]
    return [
        fault(
            f"{model.name} gives other ids than {whose.name}: {_differing_words(mine, wanted)}",
            role,
            wanted="one tokenizer: token by token they are compared.",
            cure="Choose models of one family, or correct 'tokenizer'.",
            lines=_differing_text((model.name, whose.name), mine, wanted),
        )
    ]


def _differing_words(mine: Any, wanted: Any) -> str:
    """How far two vocabularies are the same."""
    here, there = ({i: t for t, i in one.get_vocab().items()} for one in (mine, wanted))
    other = sorted(i for i in here.keys() | there.keys() if here.get(i) != there.get(i))
    if not other:
        return "the same words at the same ids, put together otherwise"
    first = other[0]
    return (
        f"{len(other):,} of {len(here.keys() | there.keys()):,} ids are other words, such as {first}: "
        f"{here.get(first)!r} and {there.get(first)!r}"
    )


def _differing_text(names: tuple[str, str], mine: Any, wanted: Any) -> list[str]:
    """The first of the probes that becomes other ids, as both read it."""
    added = [token.content for token in wanted.added_tokens_decoder.values()]
    for text in (*PROBES, *(f"a{token} {token}\n b" for token in added)):
        ids = [list(one(text, add_special_tokens=False)["input_ids"]) for one in (mine, wanted)]
        if parted(*ids) is not None:
            head = f"text {text[:60]!a}"
            return [head, *beside(names, (ids[0], ids[1]), (mine, wanted))]
    return []


def padding(case: Case) -> Findings:
    """Ids of the models beside those of the tokenizer."""

    def room(role: str, config: Any, *, drawn: bool = False) -> list[Finding]:
        rows, ids = config.get_text_config().vocab_size, case.base().vocab
        if rows < ids:
            return [
                fault(
                    f"its vocabulary has {rows:,} ids, the tokenizer {ids:,}: what stands beyond cannot be read",
                    role,
                    wanted=f"{ids:,} or more.",
                    cure="Correct vocab_size or 'tokenizer', or choose another model.",
                )
            ]
        if rows > ids and drawn:
            return [
                warning(
                    f"{rows:,} ids, of which no text trains the last {rows - ids:,}: what is exported may say them",
                    role,
                    cure=f"Give vocab_size: {ids} in student.scratch.config.",
                )
            ]
        if rows > ids:
            more = f"{rows:,} ids, of which the last {rows - ids:,} are padding without words: they are left out."
            return [note(more, role)]
        return [ok(f"{rows:,} ids, as many as the tokenizer has.", role)]

    if case.teacher is not None:
        yield from attempted("teacher", lambda: room("teacher", case.teacher_config()))
    for one in case.learners:
        yield from attempted(one.where, partial(_room_of, room, one))


def _room_of(room: Any, one: Learner) -> list[Finding]:
    drawn = one.recipe.student.name == assembly.DRAWN
    found: list[Finding] = room(one.where, one.shape().config, drawn=drawn)
    return found


def ends(case: Case) -> Findings:
    """Begin, end and padding: what the text teaches to end with, and where generation stops."""
    tokenizer = case.base().tokenizer
    yield from _roles(tokenizer)
    if case.teacher is not None:
        yield from attempted("teacher", partial(_told_ends, case, "teacher", case.teacher))
    for one in case.learners:
        yield from attempted(one.where, partial(_stops, case, one))


def _roles(tokenizer: Any) -> Findings:
    named = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    said = [
        f"{name} {told(number, tokenizer) if number is not None else 'none'}"
        for name, number in named.items()
    ]
    yield ok("; ".join(said) + ".", "tokenizer")
    if named["pad"] is not None and named["pad"] == named["eos"]:
        yield note(
            "pad and eos are one id. Here weights say what counts, so an end counts; a trainer that leaves padding out of "
            "its loss would leave the end out, too.",
            "tokenizer",
        )
    with_its_own, bare = (
        list(tokenizer("a", add_special_tokens=whole)["input_ids"]) for whole in (True, False)
    )
    first = with_its_own[:1]
    if first == [named["bos"]] and first != bare[:1]:
        yield note(
            f"it writes {told(first[0], tokenizer)} before a text by itself; rows of a text source have none before their "
            "documents. What the teacher says of the text, below, tells whether it minds.",
            "tokenizer",
        )


def _told_ends(case: Case, role: str, model: Model) -> list[Finding]:
    """Where a model's generation stops."""
    base, config = case.base(), load.load_config(model.name, revision=model.revision)
    room, found = (
        config.get_text_config().vocab_size,
        load.stops(model.name, revision=model.revision),
    )
    where = f"{role} {model.name}"
    beyond = [one for one in found if one >= room]
    if beyond:
        return [
            fault(
                f"generation stops at id {beyond[0]:,}, and there are {room:,}: it never does",
                where,
                cure="Correct eos_token_id in its generation_config.json or config.json.",
            )
        ]
    own = base.tokenizer.eos_token_id
    if own is not None and own not in found:
        names = ", ".join(told(one, base.tokenizer) for one in found) or "nothing"
        return [
            warning(
                f"generation stops at {names}; the tokenizer's eos is {told(own, base.tokenizer)}",
                where,
                cure="Correct eos_token_id of one of them, unless both are meant.",
            )
        ]
    return []


def _stops(case: Case, one: Learner) -> Findings:
    """Whether the student will stop at what its text ends with."""
    begun = one.begins_as
    if begun is not None:
        if begun != case.teacher:
            yield from _told_ends(case, one.where, begun)
        stops = load.stops(begun.name, revision=begun.revision)
    else:
        given = one.shape().config.get_text_config().eos_token_id
        stops = given if isinstance(given, list) else [given] if given is not None else []
        if wrong := [found for found in stops if type(found) is not int or found < 0]:
            more = f"its config's eos_token_id holds {wrong[0]!r}, which is no id"
            yield fault(more, one.where, cure="Correct eos_token_id of the student's config.")
            return
    tokenizer = case.base().tokenizer
    for where, part, trained in case.texts:
        if not trained:
            continue
        if part.name == "chat":
            yield from attempted(where, partial(_taught, case, one, stops, where))
            continue
        mark = separator_id(tokenizer, part.options.get("separator", "eos"))
        if mark not in stops:
            yield note(
                f"documents end with {told(mark, tokenizer)}, generation of the student with "
                f"{', '.join(told(s, tokenizer) for s in stops) or 'nothing'}: of plain text it learns no end that stops it.",
                where,
            )


def _taught(case: Case, one: Learner, stops: list[int], where: str) -> list[Finding]:
    """Of conversations: the ids with which what counts ends, beside those at which the student stops."""
    tokenizer = case.base().tokenizer
    part = next(part for place, part, _ in case.texts if place == where)
    last = last_counted(case.source(where, part))
    if not last:
        return []
    mark, number = last.most_common(1)[0]
    share = sum(count for found, count in last.items() if found in stops) / sum(last.values())
    if share > 0.5:
        return [ok(f"answers end with {told(mark, tokenizer)}, at which {one.where} stops.", where)]
    return [
        fault(
            f"{number:,} of {sum(last.values()):,} answers end with {told(mark, tokenizer)}; generation of {one.where} stops at "
            f"{', '.join(told(s, tokenizer) for s in stops) or 'nothing'}: it would learn an end and never stop there",
            where,
            wanted="one end on both sides.",
            cure=f"Set eos_token_id of the student's generation_config.json to include {mark}, or take another template.",
        )
    ]


def last_counted(source: Source) -> Counter[int]:
    """The last token of every run of labels that count, and how often it is that."""
    found = Counter[int]()
    batch = source.batch(range(min(LOOKED_AT, source.rows)))
    weights = batch.weights > 0
    after = weights.new_zeros(weights.shape)
    after[:, :-1] = weights[:, 1:]
    found.update(batch.labels[weights & ~after].tolist())
    return found
