"""A conversation through a chat template -> one string, and exactly what in it the assistant says.

A turn of the assistant begins where the template, given the turns before it and asked for the next, has written to; it
ends with the control string that follows. What cannot be found exactly is refused, with the reason alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from limbeck.data.controls import Controls, Span, Written
from limbeck.data.marks import Found, Messages, found, marked_messages, plain_messages, thought
from limbeck.data.renderer import Asked, Rendered, Renderer
from limbeck.data.turns import Conversation, check, texts
from limbeck.errors import DataError

_ADVICE = "Give another template with 'template'"


@dataclass(frozen=True)
class _Whole:
    """A conversation as rendered: text, and places in it. leaves: {(turn, what): place}."""

    given: Conversation
    text: str
    blocks: tuple[Span, ...]
    leaves: dict[tuple[int, str], Span]
    controls: list[Span]

    def of(self, turn: int) -> list[Span]:
        """What was said in a turn, where it stands."""
        return [span for (number, _), span in self.leaves.items() if number == turn]

    def after(self, turn: int) -> int:
        """Where something that was said later begins."""
        later = [span[0] for (number, _), span in self.leaves.items() if number > turn]
        return min(later, default=len(self.text))


@dataclass(frozen=True)
class _Part:
    """The turns before one of the assistant's, rendered with what opens it and without, and the turns up to it."""

    opened: Rendered
    closed: Rendered
    upto: Found
    upto_failed: str


def written(given: Conversation, renderer: Renderer, controls: Controls) -> Written:
    """The rendered conversation, with every turn that counts found in it."""
    counted = [
        number
        for number, turn in enumerate(given.turns)
        if turn.role == "assistant" and turn.weight > 0
    ]
    whole = _whole(given, renderer, controls)
    parts = _parts(whole.given, counted, renderer, controls)
    header = _header(parts, renderer)
    spans, ending, before = list[tuple[int, int, float]](), 0.0, 0
    blocks = _blocks(whole)
    for number, part in zip(counted, parts, strict=True):
        weight = given.turns[number].weight
        if number in blocks:
            begin, end = blocks[number]
        else:
            begin = _begin(whole, number, part, header, before)
            end = _end(whole, number, part, begin, controls)
        if end < 0:
            end, ending = max([begin, *(last for _, last in whole.of(number))]), weight
        spans.append((begin, end, weight))
        before = end
    said = sum(len(controls.pattern.findall(text)) for text in texts(given))
    return Written(
        whole.text, tuple(whole.controls), tuple(spans), ending, len(counted), found=said
    )


def _whole(given: Conversation, renderer: Renderer, controls: Controls) -> _Whole:
    """Renders all of it unmarked and marked, and refuses what a template drops, rewrites or doubles."""
    plainly = plain_messages(given)
    apart = thought(given)
    forms = [given] if apart == given else [given, apart]
    marked = [marked_messages(form, controls) for form in forms]
    answers = renderer.render([_asked(one) for one in (plainly, *marked)])
    text = _text(answers[0])
    for form, messages, answer in zip(forms, marked, answers[1:], strict=True):
        here = found(answer.text)
        if not answer.error and here.text == text:
            leaves = _leaves(form, messages, here)
            return _Whole(form, text, answers[0].blocks, leaves, here.written(controls))
    raise DataError(
        "the template makes another text of it once what was said is marked, so it looks into what is said or "
        f"changes it, and what it wrote itself cannot be told. {_ADVICE}"
    )


def _asked(messages: Messages, *, prompt: bool = False) -> Asked:
    return Asked(messages.messages, messages.tools, prompt)


def _text(answer: Rendered) -> str:
    if answer.error:
        raise DataError(f"the template refuses it ({answer.error[:300]})")
    try:
        check(answer.text)
    except DataError as reason:
        raise DataError(f"the template writes {reason}") from reason
    return answer.text


def _leaves(given: Conversation, messages: Messages, here: Found) -> dict[tuple[int, str], Span]:
    """Where each thing that was said stands; each must, once, but for thoughts that do not count."""
    leaves = {}
    for number, (turn, what) in enumerate(messages.leaves):
        if number in here.leaves and number not in here.twice:
            leaves[turn, f"{what} {number}"] = here.leaves[number]
            continue
        if what == "reasoning" and not given.turns[turn].weight:
            continue
        whose = "a tool" if turn < 0 else f"turn {turn} ({given.turns[turn].role})"
        does = "writes twice" if number in here.twice else "drops or rewrites"
        cure = "set turns: last, or " if what == "reasoning" else ""
        raise DataError(f"the template {does} the {what} of {whose}; {cure}{_ADVICE.lower()}")
    return leaves


def _parts(
    given: Conversation, counted: Sequence[int], renderer: Renderer, controls: Controls
) -> list[_Part]:
    asked = []
    for number in counted:
        before = plain_messages(replace(given, turns=given.turns[:number]))
        upto = marked_messages(replace(given, turns=given.turns[: number + 1]), controls)
        asked += [_asked(before, prompt=True), _asked(before), _asked(upto)]
    answers = renderer.render(asked)
    return [
        _Part(opened, closed, found(upto.text), upto.error)
        for opened, closed, upto in zip(answers[::3], answers[1::3], answers[2::3], strict=True)
    ]


def _header(parts: Sequence[_Part], renderer: Renderer) -> str:
    """What the template writes to open a turn of the assistant; '' where it writes nothing for that."""
    pairs = [(part.opened, part.closed) for part in parts]
    if not any(_opens(*pair) for pair in pairs):
        hello = [{"role": "user", "content": "a"}]
        opened, closed = renderer.render([Asked(hello, [], prompt=True), Asked(hello, [])])
        pairs.append((opened, closed))
    return next((pair[0].text[len(pair[1].text) :] for pair in pairs if _opens(*pair)), "")


def _opens(opened: Rendered, closed: Rendered) -> bool:
    whole = not opened.error and not closed.error
    return whole and opened.text != closed.text and opened.text.startswith(closed.text)


def _blocks(whole: _Whole) -> dict[int, Span]:
    """What the template itself calls generated, by turn; with the control string that ends a turn in any case."""
    answers = [n for n, turn in enumerate(whole.given.turns) if turn.role == "assistant"]
    if len(whole.blocks) != len(answers):
        return {}
    blocks = {}
    for number, (begin, end) in zip(answers, whole.blocks, strict=True):
        said = max([begin, *(last for _, last in whole.of(number))])
        if not any(said <= first and last <= end for first, last in whole.controls):
            after = [last for first, last in whole.controls if not whole.text[end:first].strip()]
            end = next((last for last in after if last > end), end)
        blocks[number] = (begin, end)
    return blocks


def _begin(whole: _Whole, number: int, part: _Part, header: str, before: int) -> int:
    """Where a turn of the assistant begins: after what opens it."""
    first = min((begin for begin, _ in whole.of(number)), default=-1)
    opened = "" if part.opened.error else part.opened.text
    if opened and whole.text.startswith(opened):
        opens = bool(part.closed.error) or part.closed.text != opened
        rest = whole.text[len(opened) : first] if first >= 0 else _words(whole, len(opened), part)
        if (first < 0 or len(opened) <= first) and (opens or not rest.strip()):
            return len(opened)
    if first < 0:
        raise DataError(
            f"turn {number} (assistant) is empty, and the template does not tell what opens an answer, or writes the "
            f"turns before it otherwise once it is there, so that its place cannot be found. {_ADVICE}"
        )
    if not header:
        # Spaces behind a control string are the answer's: its first token may begin with them.
        behind = max((last for _, last in whole.controls if last <= first), default=first)
        return first if whole.text[behind:first].strip() else behind
    place = whole.text.rfind(header, before, first)
    if place < 0:
        raise DataError(
            f"turn {number} (assistant) is not opened by {ascii(header)[:80]}, as the template opens an answer, so "
            f"that its beginning cannot be found. {_ADVICE}"
        )
    return place + len(header)


def _words(whole: _Whole, begin: int, part: _Part) -> str:
    """What the template writes in an empty turn beside the one control string that ends it."""
    end = len(part.upto.text)
    inside = [span for span in whole.controls if begin <= span[0] and span[1] <= end]
    if len(inside) != 1 or not whole.text.startswith(part.upto.text):
        return "more"
    return whole.text[begin : inside[0][0]] + whole.text[inside[0][1] : end]


def _end(whole: _Whole, number: int, part: _Part, begin: int, controls: Controls) -> int:
    """Where it ends, its control string included; -1 where it is the last and nothing ends it."""
    floor = max([begin, *(last for _, last in whole.of(number))])
    upto = part.upto.text
    if not part.upto_failed and whole.text.startswith(upto):
        tail = whole.text[floor : len(upto)]
        ends = [last for first, last in whole.controls if floor <= first and last <= len(upto)]
        if ends and not whole.text[ends[-1] : len(upto)].strip():
            return ends[-1]
        if tail.strip():  # words of the template's own
            return floor + len(tail.rstrip())
        if number == len(whole.given.turns) - 1:
            return -1
    elif not part.upto_failed:
        # What ends the whole text, as Phi 3's end of text does, stands behind what ends the turn.
        shared = _shared(whole.text, upto, floor)
        ends = [last for first, last in whole.controls if floor <= first and last <= shared]
        if ends:
            return ends[-1]
        closing = part.upto.written(controls)
        if closing and not upto[closing[-1][1] :].strip():
            wanted = upto[slice(*closing[-1])]
            for first, last in whole.controls:
                if (
                    floor <= first
                    and whole.text[first:last] == wanted
                    and last <= whole.after(number)
                ):
                    return last
    raise DataError(
        f"nothing that the template writes ends turn {number} (assistant), so a student would not learn to stop "
        f"there. {_ADVICE}"
    )


def _shared(text: str, other: str, begin: int) -> int:
    """How far two texts are one, if they are so up to a place; else 0."""
    if text[:begin] != other[:begin]:
        return 0
    same = zip(text[begin:], other[begin:], strict=False)
    return begin + sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], same))
