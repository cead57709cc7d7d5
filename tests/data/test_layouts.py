"""Every layout is brought into one form, and a row that is none of them is refused with what it has."""

import json

import pytest
import tiny_text

from limbeck.data.layouts import example
from limbeck.data.turns import Text, Tokens
from limbeck.errors import DataError

FENCED = "Sure:\n\n```python\nprint('蒸留 \u2028')\n```\n"


def said(row, layout="auto"):
    return [(turn.role, turn.text) for turn in example(row, layout).turns]


PAIR = [("user", "Why?"), ("assistant", FENCED)]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": r, "content": c} for r, c in PAIR], "prompt": "Why?"},
        {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": FENCED}]},
        {"conversations": [{"role": r, "content": c} for r, c in PAIR]},
        {"messages": [{"role": r, "content": [{"type": "text", "text": c}]} for r, c in PAIR]},
        {"prompt": "Why?", "completion": FENCED},
        {
            "prompt": [{"role": "user", "content": "Why?"}],
            "completion": [{"role": "assistant", "content": FENCED}],
        },
        {"prompt": "Why?", "response": FENCED, "category": "explanation", "language": "Python"},
        {"instruction": "Why?", "input": "", "output": FENCED},
        {"instruction": "Why?", "output": FENCED, "text": "whole", "input": None},
        {
            "messages": [{"role": r, "content": c} for r, c in [*PAIR, ("user", "Thanks")]],
            "tools": "[]",
        },
    ],
    ids=lambda row: "+".join(row),
)
def test_one_exchange_is_the_same_in_every_layout(row):
    assert said(row) == PAIR
    assert said(json.loads(json.dumps(row))) == PAIR


def test_what_stands_beside_an_instruction_belongs_to_it():
    row = {
        "instruction": "Add.",
        "input": "1 and 2",
        "output": "3",
        "system": "Be short.",
        "history": [["Hi", "Hello"]],
    }
    assert said(row) == [
        ("system", "Be short."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Add.\n1 and 2"),
        ("assistant", "3"),
    ]


def test_text_and_tokens_are_taken_as_they_are():
    assert example({"text": "a"}) == Text("a")
    assert example({"input_ids": [5, 6, 7]}) == Tokens((5, 6, 7), (1, 1, 1))
    masked = {"input_ids": [5, 6, 7, 0], "labels": [-100, 6, 7, -100]}
    assert example(masked | {"attention_mask": [1, 1, 1, 0]}) == Tokens((5, 6, 7), (0, 1, 1))
    assert example({"input_ids": [5, 6], "weights": [0, 0.5], "weight": 2}) == Tokens(
        (5, 6), (0, 1)
    )


def test_weights_of_turns_and_of_rows_are_multiplied():
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "weight": 0},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d", "weight": 0.5},
    ]
    assert [turn.weight for turn in example({"messages": turns, "weight": 4}).turns][1::2] == [0, 2]


def test_a_function_call_and_what_it_gave_are_turns():
    tool = {"name": "add", "parameters": {}}
    call = json.dumps({"name": "add", "arguments": {"a": 1}})
    rows = [("human", "1?"), ("function_call", call), ("observation", "2"), ("gpt", "It is 2.")]
    found = example(
        {"conversations": [{"from": r, "value": v} for r, v in rows], "tools": json.dumps([tool])}
    )
    assert [turn.role for turn in found.turns] == ["user", "assistant", "tool", "assistant"]
    assert found.turns[1].calls == ({"name": "add", "arguments": {"a": 1}},)
    assert found.turns[1].text == ""
    assert found.tools == ({"type": "function", "function": tool},)
    asked = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    openai = [
        {"role": "user", "content": "1?"},
        {"role": "assistant", "content": None, "tool_calls": [asked]},
    ]
    assert example({"messages": openai}).turns[1] == found.turns[1]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "no layout that is known"),
        ({"body": "a"}, "it has: 'body'"),
        ({"prompt": "a"}, "prompt and completion"),
        ({"messages": []}, "no turn of the assistant"),
        ({"messages": "a"}, "not a list"),
        ({"messages": [{"role": "user", "content": "a"}]}, "nothing to learn"),
        ({"messages": ["a"]}, r"messages\[0\] is str"),
        ({"messages": [{"role": "wizard", "content": "a"}]}, "'wizard', no role"),
        ({"messages": [{"content": "a"}]}, "None, no role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "no text"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "text": "b"}]},
            r"messages\[1\] says nothing",
        ),
        ({"messages": [{"role": "assistant", "content": None}]}, "says nothing: no content"),
        ({"conversations": [{"from": "human"}, {"from": "gpt", "value": "b"}]}, "says nothing"),
        ({"messages": [{"role": "user", "content": 3}]}, "int stands where text should"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "no name"),
        ({"conversations": [{"from": "function_call", "value": "{"}]}, "not JSON"),
        ({"prompt": 3, "response": "a"}, "int stands"),
        ({"prompt": "a", "response": "b\0"}, "NUL"),
        ({"prompt": "a", "response": "\ud800"}, "lone surrogate"),
        ({"prompt": "\ufdd0", "response": "a"}, "U.FDD0"),
        ({"prompt": "a", "response": "b", "images": ["x.png"]}, "pictures"),
        ({"prompt": "a", "response": "b", "weight": -1}, "weight is -1"),
        ({"prompt": "a", "response": "b", "weight": "much"}, "weight is 'much'"),
        ({"prompt": "a", "response": "b", "weight": float("nan")}, "weight is nan"),
        ({"instruction": "a", "output": "b", "history": ["x"]}, "no pair"),
        ({"prompt": "a", "completion": "b", "tools": "x"}, "tools is not JSON"),
        ({"input_ids": [1, 2], "labels": [2, 3]}, "not shifted"),
        ({"input_ids": [1, 2], "labels": [1]}, "labels differ"),
        ({"input_ids": [1, True]}, "whole numbers"),
        ({"input_ids": [1, 2], "weights": [1]}, "1 weights for 2"),
    ],
    ids=str,
)
def test_a_row_that_cannot_be_understood_is_refused_with_the_reason(row, reason):
    with pytest.raises(DataError, match=reason) as caught:
        example(row)
    assert len(str(caught.value)) < 600


def test_what_is_null_in_a_turn_is_not_there_as_in_tables_of_both_forms():
    null = dict.fromkeys(("role", "content", "name", "tool_calls", "weight"))
    row = {
        "conversations": [
            null | {"from": "human", "value": "a"},
            null | {"from": "gpt", "value": "b"},
        ]
    }
    assert example(row) == example({"prompt": "a", "response": "b"})


def test_a_layout_that_is_named_is_the_one_that_is_read():
    row = {"text": "a", "prompt": "b", "response": "c"}
    assert example(row, "text") == Text("a")
    with pytest.raises(DataError, match="no completion, which layout 'prompt-completion' needs"):
        example(row, "prompt-completion")


@pytest.mark.parametrize(
    ("name", "count"), [("dolly_hhrlhf_small", 1000), ("rasbt_instruction_1100", 1100)]
)
def test_real_instructions_come_back_to_the_byte(name, count):
    path = tiny_text.shared(f"instruct/{name}.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    answers = [row.get("response", row.get("output")) for row in rows]
    assert [example(row).turns[-1].text for row in rows] == answers
    assert len(rows) == count
