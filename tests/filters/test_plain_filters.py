"""Filters that look at one answer: what each leaves out, what it lets stand, and that nothing makes one fall."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import LimbeckError
from limbeck.filters.code import blocks, code
from limbeck.filters.finished import finished
from limbeck.filters.language import language
from limbeck.filters.length import length
from limbeck.filters.refusal import refusal
from limbeck.filters.repetition import repetition

POEM = "\n".join(f"The {thing} goes its way and leaves nothing behind." for thing in (
    "river", "wind", "winter", "night train", "last guest", "swallow",
))  # fmt: skip


def row(text, **beside):
    return {"id": "0", "prompt": "Say something.", "response": text} | beside


def reason(function, text, *, beside=None, **options):
    (found,) = function([row(text, **(beside or {}))], **options)
    return found


@pytest.mark.parametrize(
    ("text", "found"),
    [("x" * 9, "9 characters, fewer than 10"), ("x" * 10, ""), ("x" * 20, ""), ("x" * 21, "21 characters, more than 20")],
)  # fmt: skip
def test_length_counts_characters_without_the_space_around_them(text, found):
    assert reason(length, f"\n  {text} \n", least=10, most=20) == found


@pytest.mark.parametrize("end", ["length", "max_tokens", "content_filter", "refusal", "tool_use"])
def test_an_answer_that_something_else_ended_is_not_finished(end):
    assert reason(finished, "and then", beside={"finish": end}) == f"it ended with '{end}'"


@pytest.mark.parametrize("end", ["stop", "end_turn", "STOP", "", None])
def test_an_answer_that_ended_by_itself_is_finished(end):
    assert reason(finished, "The end.", beside={"finish": end}) == ""
    assert reason(finished, "The end.") == ""


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\N{RIGHT SINGLE QUOTATION MARK}m  sorry, I cannot do it.",
        "As an AI language model, I have no opinion.",
        "Thank you for the question. I cannot answer it.",
        "UNFORTUNATELY, I am not able to say.",
    ],
)
def test_a_refusal_at_the_beginning_is_one(text):
    assert reason(refusal, text).startswith("a refusal: ")


@pytest.mark.parametrize(
    "text",
    [
        "The knight bowed before the queen and the whole court and said: I am sorry.",
        "Cantilevers carry a load beyond their support.",
        "",
    ],
)
def test_what_is_told_further_on_is_no_refusal(text):
    assert reason(refusal, text) == ""


def test_phrases_of_a_refusal_may_be_ones_own():
    assert reason(refusal, "Das geht leider nicht.", phrases=("das geht leider",)) != ""
    assert reason(refusal, "I cannot say.", phrases=("das geht leider",)) == ""


GOOD = "Here:\n```python\ndef double(x):\n    return 2 * x\n```\nThat is all."
SESSION = "```python\n>>> for x in (1, 2):\n...     print(x)\n1\n2\n```"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (GOOD, ""),
        (SESSION, ""),
        ("- so:\n\n  ```python\n  x = 1\n  ```", ""),
        ("No code at all.", ""),
        ("```rust\nfn main( {\n```", ""),
        ("````md\n```python\nnot python (\n```\n````", ""),
        ("~~~py\nx = 1\n~~~", ""),
        ('```python\nprint("\\d")\n```', ""),
        ("Use ```this``` word.", ""),
        ("```python\nx = 1\n", "a code fence that is never closed"),
        ("```python\nx = 1\n``", "a code fence that is never closed"),
        ("```python\ndef f(:\n```", "Python that does not parse: invalid syntax (line 1)"),
        ("```Python\n  x = 1\n y = 2\n```", "Python that does not parse: unexpected indent (line 1)"),
        ("```python\nx = 'a\0b'\n```", "Python that does not parse: "),
        ("```python\n" + "(" * 5000 + "\n```", "Python that does not parse: "),
        ("```python\nx = " + "-" * 100_000 + "1\n```", "Python that does not parse: "),
        ("```python\n" + "a." * 99_000 + "a\n```", "Python that does not parse: "),
    ],
)  # fmt: skip
def test_fences_are_closed_and_python_parses(text, found):
    assert reason(code, text).startswith(found)
    assert bool(reason(code, text)) == bool(found)


def test_code_is_required_but_of_what_needs_none():
    told = {"required": True, "unless": {"category": ("explanation",)}}
    assert reason(code, "In words.", **told) == "no code"
    assert reason(code, "```python\n\n```", **told) == "no code"
    assert reason(code, "In words.", beside={"category": "explanation"}, **told) == ""
    assert reason(code, GOOD, beside={"category": "algorithm"}, **told) == ""


def test_blocks_have_their_languages_and_bodies():
    found, open_ = blocks("a\n``` {.python} extra\n x\n```\n~~~\n```\n~~~~\n```")
    assert found == [("python", " x"), ("", "```")]
    assert open_


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (POEM, ""),
        ("Yes.", ""),
        ("", ""),
        (POEM + "\n" + POEM, "50% of its lines"),
        ("the cat sat on the mat and looked at me " * 12, "of its runs of 8 words"),
        ("\N{CJK UNIFIED IDEOGRAPH-4E00}\N{CJK UNIFIED IDEOGRAPH-4E8C}\N{CJK UNIFIED IDEOGRAPH-4E09}" * 30, "of its runs"),
        ("ha " * 40, "of its runs"),
        ("- a\n- b\n- a\n- a\n- a", ""),
    ],
)  # fmt: skip
def test_going_round_in_circles_is_seen(text, found):
    assert found in reason(repetition, text)
    assert bool(reason(repetition, text)) == bool(found)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The river goes its way and leaves nothing behind but stones.", ""),
        ("Der Fluss geht seinen Weg und lässt nichts zurück als Steine am Ufer.", "in 'de'"),
        ("Le fleuve suit son chemin et ne laisse rien derrière lui que des pierres.", "in 'fr'"),
        ("Oui.", ""),
        ("```\nDer Fluss geht seinen Weg und lässt nichts zurück als Steine am Ufer.\n```\nThat was it.", ""),
    ],
)  # fmt: skip
def test_another_language_is_told_where_it_is_certain(text, found):
    assert reason(language, text, wanted=("en",)) == found


def test_an_unknown_language_is_refused():
    with pytest.raises(LimbeckError, match=r"english unknown\. Wanted ISO 639-1"):
        language([], wanted=("english",))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(max_size=400), max_size=4))
def test_whatever_stands_in_an_answer_each_row_gets_a_reason_or_none(texts):
    rows = [row(text) for text in texts]
    for one in (length, finished, refusal, code, repetition):
        found = one(rows)
        assert len(found) == len(rows)
        assert all(isinstance(said, str) for said in found)
