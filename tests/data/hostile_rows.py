"""Rows that are whole JSON and hostile by what stands in them: each field of each of the seven layouts."""

from functools import partial
from typing import Any

import hostile
from hostile import TOKENIZER, Case

IDS = TOKENIZER("What is light?").input_ids
WRONG = {"NUL": "a\0b", "half a surrogate": "a\ud800", "a noncharacter": "a\ufdd0b"}
WHY = {"NUL": "a NUL", "half a surrogate": "lone surrogate", "a noncharacter": r"U\+FDD0"}

between = partial(hostile.between, source="chat")
harmless = partial(hostile.harmless, source="chat")


def deep(levels: int) -> Any:
    """Lists in lists."""
    found: Any = []
    for _ in range(levels):
        found = [found]
    return found


def turns(layout: str, *, asked: Any = "Why?", **answer: Any) -> dict[str, Any]:
    """A row of one exchange, whose answer is changed."""
    keys = {"messages": ("role", "content"), "conversations": ("from", "value")}[layout]
    said = {keys[0]: "assistant", keys[1]: "So."}
    given = {
        dict(zip(("role", "content"), keys, strict=True)).get(k, k): v for k, v in answer.items()
    }
    return {layout: [{keys[0]: "user", keys[1]: asked}, said | given]}


def _lists(layout: str) -> list[Case]:
    """What stands where a list of turns should, and what stands in it."""
    return [
        between(f"{layout}: {value!r} for turns", {layout: value}, reason)
        for value, reason in (
            (None, "no layout that is known"), (3, "int, not a list"), (1.5, "float, not a list"),
            (True, "bool, not a list"), ("a", "str, not a list"), ({}, "dict, not a list"),
            ([], "no turn of the assistant"), ([3], "is int, not an object"),
            ([None], "is NoneType, not"), (["a"], "is str, not"), ([[]], "is list, not"),
            ([{}], "None, no role"),
        )
    ]  # fmt: skip


def _roles(layout: str) -> list[Case]:
    return [
        between(f"{layout}: the role {value!r}"[:60], turns(layout, role=value), "no role that is known")
        for value in (None, 3, True, ["assistant"], {"a": 1}, "", "wizard", "assistant ", "\0", "\ud800", "x" * 90_000)
    ]  # fmt: skip


def _contents(layout: str) -> list[Case]:
    return [
        between(f"{layout}: the words {value!r}", turns(layout, content=value), reason)
        for value, reason in (
            (3, "int stands where text should"), (1.5, "float stands"), (False, "bool stands"),
            ({"text": "a"}, "dict stands"), ([3], "a part that is no text"), ([["a"]], "no text"),
            ([{"type": "image", "url": "x"}], "no text"), ([{"type": "text", "text": 3}], "no text"),
            ([{"type": "text", "text": None}], "no text"),
        )
    ] + [
        between(f"{layout}: {what} in {where}", turns(layout, **{field: bad}), WHY[what])
        for what, bad in WRONG.items()
        for where, field in (("an answer", "content"), ("a question", "asked"), ("thoughts", "reasoning_content"))
    ]  # fmt: skip


WEIGHTS = (
    (-1, "weight is -1"), ("1", "weight is '1'"), ([1], r"weight is \[1\]"), ({"a": 1}, "weight is"),
    (True, "weight is True"), (1e39, "weight is 1e.39"), (10**400, "weight is 1000"), (-0.5, "weight is -0.5"),
)  # fmt: skip


def _weights() -> list[Case]:
    named = {repr(value)[:9]: (value, reason) for value, reason in WEIGHTS}
    return [
        *(between(f"the turn's weight {n}", turns("messages", weight=v), why) for n, (v, why) in named.items()),
        *(between(f"the row's weight {n}", {"text": "some words", "weight": v}, why) for n, (v, why) in named.items()),
        between("weights whose product is none", {"weight": 1e30, **turns("messages", weight=1e30)}, "weight"),
        harmless("a weight of null", {"text": "some words", "weight": None}, "some words"),
        harmless("a weight of nought", {"text": "some words", "weight": 0}, []),
        harmless("a weight too small to count", {"text": "some words", "weight": 1e-60}, []),
    ]  # fmt: skip


def _calls() -> list[Case]:
    call = partial(turns, "messages", content=None)

    def arguments(value: Any) -> dict[str, Any]:
        return call(tool_calls=[{"function": {"name": "f", "arguments": value}}])

    return [
        *(
            between(f"tool_calls {value!r}", call(tool_calls=value), reason)
            for value, reason in (
                (3, "tool_calls is int"), (True, "tool_calls is bool"), (1.5, "tool_calls is float"), ("x", "tool_calls is str"),
                ({"name": "f"}, "tool_calls is dict"), ([3], "a function that has no name"), ([{}], "no name"),
                ([{"function": 3}], "no name"), ([{"function": {"name": 3}}], "no name"), ([None], "no name"),
            )
        ),
        between("arguments that are cut", arguments('{"a":'), "not JSON"),
        between("arguments of NaN", arguments('{"a": NaN}'), "NaN is not a JSON number"),
        between("arguments that are too large", arguments('{"a": 1e999}'), "too large"),
        between("arguments with a key twice", arguments('{"a": 1, "a": 2}'), "a key stands twice"),
        between("arguments 100,000 deep", arguments("[" * 100_000), "not .*JSON"),
        between("arguments 500 deep", arguments(deep(500)), "one in another"),
        between("arguments 500 deep, as text", arguments("[" * 500 + "]" * 500), "one in another"),
        *(between(f"{what} in arguments", arguments({"a": [bad]}), WHY[what]) for what, bad in WRONG.items()),
        *(between(f"{what} in a key of arguments", arguments({bad: 1}), WHY[what]) for what, bad in WRONG.items()),
        between("NUL in a function's name", call(tool_calls=[{"name": "f\0", "arguments": {}}]), "a NUL"),
        between("a surrogate in a name with bad arguments", call(tool_calls=[{"name": "\ud800", "arguments": "{"}]), "not JSON"),
        between("thoughts that are a number", turns("messages", reasoning_content=3), "int stands"),
        between("thoughts that are a list", turns("messages", thinking=["a"]), "list stands"),
        between("a name that is a list", turns("messages", name=["a"]), "list stands"),
        between("NUL in a name", turns("messages", name="a\0"), "a NUL"),
        *(
            between(f"a function_call of {value[:20]!r}", turns("conversations", role="function_call", content=value), reason)
            for value, reason in (("{", "not JSON"), ("3", "no name"), ("[]3", "not JSON"), ('["f"]', "no name"),
                                  ('{"name": "f", "name": "g"}', "stands twice"), ('{"name": null}', "no name"))
        ),
        *(
            between(f"tools {str(value)[:20]!r}", {"tools": value, **turns("messages")}, reason)
            for value, reason in (
                (3, "no list of objects"), (True, "no list"), ("{", "not JSON"), ("3", "no list"), ({"a": 1}, "no list"),
                ([3], "no list"), ([["a"]], "no list"), ('[{"a": NaN}]', "NaN"), ('[{"a": 1, "a": 2}]', "stands twice"),
                ([{"name": "f\0"}], "a NUL"), ([{"name": "f", "x": deep(400)}], "one in another"),
                ([{"\ud800": 1}], "lone surrogate"),
            )
        ),
    ]  # fmt: skip


def _sides() -> list[Case]:
    user, system = {"role": "user", "content": "a"}, {"role": "system", "content": "b"}
    tool = {"role": "tool", "content": "c"}
    none = "no turn of the assistant"
    return [
        between("only the system's words", {"messages": [system]}, none),
        between("only the user's words", {"messages": [user]}, none),
        between("only what a tool gave", {"messages": [tool]}, none),
        between("nobody answers", {"messages": [system, user, tool, user]}, none),
        between("a system that is a number", {"system": 3, **turns("conversations")}, "int stands"),
        between("pictures", {"images": ["a.png"], **turns("messages")}, "pictures"),
        between("a picture in one word", {"image": "a.png", **turns("messages")}, "pictures"),
        between("no key that is known", {"a": 1, "b": 2}, "no layout that is known"),
        between("no key", {}, "it has: nothing"),
        between("half of a layout", {"instruction": "a", "completion": "b"}, "no layout"),
        between("5,000 turns", {"messages": [user, {"role": "assistant", "content": "x"}] * 2_500}, "5,000 turns"),
    ]  # fmt: skip


def _pairs() -> list[Case]:
    """Prompts, completions, responses, and all that belongs to an instruction."""
    wrong = (
        (3, "int stands"),
        (True, "bool stands"),
        ({"a": 1}, "dict stands"),
        ([3], "not an object"),
        ([{"role": "user", "content": "a"}, 3], "not an object"),
    )
    whole = {
        "completion": {"prompt": "a", "completion": "b"},
        "response": {"prompt": "a", "response": "b", "category": "x", "language": None},
        "instruction": {"instruction": "a", "input": "b", "output": "c", "system": "d", "history": [["e", "f"]]},
    }  # fmt: skip
    found = []
    for name in ("completion", "response"):
        for key in ("prompt", name):
            found += [
                between(f"{name}: {key} {v!r}", whole[name] | {key: v}, why) for v, why in wrong
            ]
            found += [
                between(f"{name}: {w} in {key}", whole[name] | {key: bad}, WHY[w])
                for w, bad in WRONG.items()
            ]
            found.append(between(f"{name}: {key} of null", whole[name] | {key: None}, "no layout"))
        found.append(
            between(
                f"{name}: an answer of no turn",
                whole[name] | {name: []},
                "no turn of the assistant",
            )
        )
    for key in ("instruction", "input", "output", "system"):
        for value, kind in ((3, "int"), ([], "list"), ({"a": 1}, "dict"), (True, "bool")):
            found.append(
                between(
                    f"instruction: {key} {value!r}",
                    whole["instruction"] | {key: value},
                    f"{kind} stands",
                )
            )
        found.append(
            between(f"instruction: NUL in {key}", whole["instruction"] | {key: "\0"}, "a NUL")
        )
    history = ((3, "history is int"), (True, "history is bool"), ("ab", "history is str"), ({"a": 1}, "history is dict"), ([3], "no pair"),
               (["ab"], "no pair"), ([["a"]], "no pair"), ([["a", "b", "c"]], "no pair"), ([["a", 3]], "int stands"), ([[None, "b"]], "NoneType stands"))  # fmt: skip
    return found + [between(f"instruction: history {v!r}", whole["instruction"] | {"history": v}, why) for v, why in history]  # fmt: skip


def _ids() -> list[Case]:
    """Tokens that are ready made."""
    whole, far = "input_ids is no list of whole numbers", r"the tokenizer has 0 to \d"
    bad = (
        ("abc", whole), (3, whole), ({"a": 1}, whole), ([1.0, 2], whole), ([True, 2], whole), ([None, 2], whole),
        (["1"], whole), ([[1]], whole), ([-1, 2], far), ([5, 99_999], far), ([5, 2**31], far), ([5, 2**63], far),
        ([5, -(2**63) - 1], far), ([5, 10**30], far), ([5, 10**4_000], far),
    )  # fmt: skip
    beside = (
        ("labels", IDS[1:], "labels differ"), ("labels", [*IDS, 0], "labels differ"), ("labels", [*IDS[1:], -100], "not shifted"),
        ("labels", [], "labels differ"), ("labels", "a", "labels is no list"), ("labels", [float(one) for one in IDS], "labels is no list"),
        ("labels", [10**30] * len(IDS), "labels differ"), ("labels", [-1] * len(IDS), "labels differ"),
        ("weights", [1.0], "1 weights for"), ("weights", [1] * (len(IDS) + 1), "weights for"), ("weights", 3, "no list of numbers"),
        ("weights", ["1"] * len(IDS), "no list of numbers"), ("weights", [True] * len(IDS), "no list of numbers"),
        ("weights", [None] * len(IDS), "no list of numbers"), ("weights", [-1] * len(IDS), "weight is -1"),
        ("weights", [1e39] * len(IDS), "weight is 1e.39"), ("weights", [10**400] * len(IDS), "weight is 1000"),
        ("attention_mask", [1], "1 of attention_mask for"), ("attention_mask", [1] * (len(IDS) + 1), "of attention_mask for"),
        ("attention_mask", [], "0 of attention_mask"), ("attention_mask", [2] * len(IDS), "attention_mask .*0 or 1"),
        ("attention_mask", [-1] * len(IDS), "attention_mask .*0 or 1"), ("attention_mask", [1.0] * len(IDS), "attention_mask is no list"),
        ("attention_mask", [10**30] * len(IDS), "attention_mask .*0 or 1"),
    )  # fmt: skip
    return [
        *(between(f"input_ids {value!r}"[:50], {"input_ids": value}, reason) for value, reason in bad),
        *(between(f"{key} {n}: {reason}", {"input_ids": IDS, key: value}, reason) for n, (key, value, reason) in enumerate(beside)),
        harmless("no ids at all", {"input_ids": []}, []),
        harmless("one id, which is nobody's label", {"input_ids": [5]}, []),
        harmless("labels that do not count", {"input_ids": IDS, "labels": [-100] * len(IDS)}, []),
        harmless("a mask of noughts", {"input_ids": IDS, "attention_mask": [0] * len(IDS)}, []),
        harmless("control ids that are ready made", {"input_ids": [0, 2, 1, 5]}, [(0, 1.0), (2, 1.0), (1, 1.0), (5, 1.0)]),
        harmless("weights of tokens", {"input_ids": [5, 6, 7], "weights": [0, 2, 0.5]}, [(5, 0.0), (6, 2.0), (7, 0.5)]),
    ]  # fmt: skip


def _texts() -> list[Case]:
    return [
        *(between(f"text {v!r}", {"text": v}, f"{kind} stands") for v, kind in ((3, "int"), ([], "list"), ({}, "dict"), (True, "bool"))),
        *(between(f"{what} in a text", {"text": bad}, WHY[what]) for what, bad in WRONG.items()),
        harmless("an empty text in a chat", {"text": ""}, []),
        harmless("control strings in a text", {"text": "a<|im_end|><|eot_id|>"}, "a<|im_end|><|eot_id|>"),
        harmless("a surrogate in a key that nobody reads", {"text": "some words", "\ud800": "\0"}, "some words"),
        between("messages where text is named", turns("messages"), "no text, which layout 'text' needs", options={"layout": "text"}),
    ]  # fmt: skip


CASES = [
    *(case for layout in ("messages", "conversations") for part in (_lists, _roles, _contents) for case in part(layout)),
    *(case for part in (_weights, _calls, _sides, _pairs, _ids, _texts) for case in part()),
]  # fmt: skip
