"""Prompts: each once, made or read, with ids that say what was asked and not where."""

import json
import re

import pytest
import tiny_generation as tiny

from limbeck.errors import RecipeError
from limbeck.generating import loaded
from limbeck.generating.prompts import plan
from limbeck.generating.results import held_out, said
from limbeck.sampling.answers import Answer

SLOTS = {"kind": ["a test", "a loop"], "language": ["Python", "C", "Go"]}


def made(place, url="http://localhost:1/v1", **changes):
    return plan(loaded.build(tiny.tree(place, url, **changes)))


def template(**changes):
    return {"template": {"text": "Write {kind} in {language}. {{}}", "slots": SLOTS} | changes}


def test_a_template_gives_each_combination_once(tmp_path):
    found = made(tmp_path, whole_prompts=template())
    texts = [one.prompt.text for one in found.wanted]
    assert len(set(texts)) == len(texts) == 6
    assert "Write a loop in Go. {}" in texts
    some = made(tmp_path, whole_prompts=template(count=4))
    assert len(some.wanted) == 4
    assert set(some.wanted[0].prompt.beside) == {"kind", "language"}
    assert made(tmp_path, whole_prompts=template(count=4)) == some


def test_texts_by_category_are_combined_with_the_slots_that_stand_in_them(tmp_path):
    text = {"write": "Write {kind} in {language}.", "explain": "Explain {kind}."}
    found = made(tmp_path, whole_prompts=template(text=text))
    texts = [one.prompt.text for one in found.wanted]
    assert len(set(texts)) == len(texts) == 6 + len(SLOTS["kind"])
    for one in found.wanted:
        wrote = one.prompt.text.startswith("Write")
        assert one.prompt.beside["category"] == ("write" if wrote else "explain")
        assert ("language" in one.prompt.beside) == wrote
    some = made(tmp_path, whole_prompts=template(text=text, count=5))
    assert {one.prompt.text for one in some.wanted} < set(texts)


MANY = " ".join(f"{{s{number}}}" for number in range(64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": {"one": "{kind}", "two": "{langage}"}}, "Did you mean 'language'?"),
        ({"text": {"one": "{kind}"}}, "'language' has no value, does not stand in the text"),
        ({"text": {}}, "at least 1 item"),
        ({"count": 7}, "the slots have 6 combinations"),
        (
            {"text": MANY, "slots": dict.fromkeys(re.findall(r"\w+", MANY), ("a", "b"))},
            "2e+19 combinations",
        ),
        ({"text": "{kind} {langage} {language}"}, "Did you mean 'language'?"),
        ({"text": "{kind}"}, "'language' has no value, does not stand in the text"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(tmp_path, changes, message):
    with pytest.raises(RecipeError) as found:
        made(tmp_path, whole_prompts=template(**changes))
    assert message in str(found.value)


def test_ids_change_with_what_is_asked_and_not_with_where(tmp_path):
    def ids(*args, **changes):
        return {one.asked.id for one in made(tmp_path, *args, **changes).wanted}

    first = ids()
    assert first == ids("http://localhost:2/v1", limits={"concurrency": 9}, output="elsewhere")
    assert first < ids(sampling={"n": 2})
    for change in ({"max_tokens": 6}, {"temperature": 0.7}, {"top_p": None}):
        assert not first & ids(sampling=change)
    assert not first & ids(seed=1)


def test_prompts_that_stand_twice_are_asked_once_and_old_answers_are_left_out(tmp_path):
    path = tmp_path / "double.jsonl"
    rows = [{"prompt": "a", "response": "old", "category": "x", "messages": []}, {"prompt": "a"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = made(tmp_path, whole_prompts={"file": str(path)})
    assert (found.prompts, found.double) == (1, 1)
    assert found.wanted[0].prompt.beside == {"category": "x"}
    path.write_text('{"prompt": ""}\n')
    with pytest.raises(RecipeError, match=r"double\.jsonl:1: no prompt"):
        made(tmp_path, whole_prompts={"file": str(path)})


def test_an_instruction_and_its_input_are_a_prompt(tmp_path):
    path = tmp_path / "instructions.jsonl"
    rows = [
        {"instruction": "Correct it.", "input": "freind", "output": "friend", "kind": "x"},
        {"instruction": "Say no.", "input": "", "output": "No."},
        {"prompt": "Go on.", "input": "beside"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [one.prompt for one in made(tmp_path, whole_prompts={"file": str(path)}).wanted]
    assert [one.text for one in found] == ["Correct it.\nfreind", "Say no.", "Go on."]
    assert [one.beside for one in found] == [{"kind": "x"}, {}, {"input": "beside"}]
    path.write_text('{"instruction": "Correct it.", "input": ["freind"]}\n')
    with pytest.raises(RecipeError, match=r"instructions\.jsonl:1: no prompt"):
        made(tmp_path, whole_prompts={"file": str(path)})


def test_documents_are_shown_up_to_the_end_of_a_word(tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text(json.dumps({"text": "The alembic stands over the fire."}) + "\n")
    found = made(tmp_path, whole_prompts={"documents": {"path": str(path), "tokens": 4}})
    assert found.wanted[0].prompt.text.endswith("same style.\n\nThe alembic")


def test_a_share_of_the_prompts_is_held_out_whatever_stands_around_them():
    texts = [f"prompt {number}" for number in range(2000)]
    share = sum(held_out(text, 0.2) for text in texts) / len(texts)
    assert abs(share - 0.2) < 0.04
    assert all(held_out(text, 0.2) == held_out(f" {text}\n", 0.2) for text in texts[:50])
    assert not any(held_out(text, 0.0) for text in texts)


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("<think>Hm.</think>\n\nYes.", "Yes."),
        ("Hm.</think>Yes.", "Yes."),
        ("<think>without an end", ""),
        ("A tag <think> in the text </think> stays.", "A tag <think> in the text </think> stays."),
        ("Yes.", "Yes."),
    ],
)
def test_thoughts_before_an_answer_are_taken_out(text, stripped):
    assert said(Answer(text), "strip") == stripped
    assert said(Answer(text), "keep") == text
