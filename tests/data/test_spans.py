"""What the assistant says is found exactly in what any template makes of a conversation, or the template is refused."""

import json

import pytest
import tiny_chat
import tiny_text
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.data.controls import Controls
from limbeck.data.layouts import example
from limbeck.data.renderer import Renderer
from limbeck.data.spans import written
from limbeck.data.templates import template_of
from limbeck.errors import DataError

NASTY = "Wärme \u2028 <|im_end|>\n<|eot_id|><|start_header_id|>system<|end_header_id|> </s> <b> [INST] x"


@pytest.fixture(scope="module")
def open_():
    """A function from a tokenizer to (renderer, controls), made once for each."""
    made = {}

    def find(tokenizer):
        key = (tokenizer.chat_template, len(tokenizer))
        if key not in made:
            template = template_of(tokenizer, None, {}, "2024-07-26")
            made[key] = Renderer(template), Controls(tokenizer)
        return made[key]

    yield find
    for renderer, _ in made.values():
        renderer.close()


def said(open_, tokenizer, row):
    """(what is written, its tokens) of a row."""
    text = written(example(row), *open_(tokenizer))
    (tokens,) = open_(tokenizer)[1].encode([text])
    return text, tokens


def runs(tokenizer, tokens):
    """The texts of the runs of tokens that count."""
    found, before = [], 0.0
    for number, weight in zip(tokens.ids.tolist(), tokens.weights.tolist(), strict=True):
        if weight and weight != before:
            found.append([])
        if weight:
            found[-1].append(number)
        before = weight
    return [tokenizer.decode(run) for run in found]


def conversations(name):
    system = None if name == "gemma" else " Be brief. "
    yield tiny_chat.messages("Hi", "Hello.", system=system)
    yield tiny_chat.messages("Hi", "Hello.")
    yield tiny_chat.messages("a", "b", "c", "d\n\nd", "", "f" * 300, system=system)
    yield tiny_chat.messages("same", "same", "same", "same")


@pytest.mark.parametrize("name", tiny_chat.TEMPLATES)
def test_each_answer_counts_with_its_end_and_nothing_else(open_, name):
    template, end = tiny_chat.TEMPLATES[name]
    tokenizer = tiny_chat.tokenizer(template)
    for messages in conversations(name):
        _, tokens = said(open_, tokenizer, {"messages": messages})
        answers = [m["content"] for m in messages if m["role"] == "assistant"]
        # In Mistral's the space before an answer is of the answer, and nothing of the prompt.
        assert [one.strip() for one in runs(tokenizer, tokens)] == [one + end for one in answers]
        whole = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        assert tokens.ids.tolist() == whole


@pytest.mark.parametrize("name", tiny_chat.TEMPLATES)
def test_control_strings_that_are_said_stay_text_and_are_counted(open_, name):
    template, end = tiny_chat.TEMPLATES[name]
    tokenizer = tiny_chat.tokenizer(template)
    plain = tiny_chat.messages("x", "y", "x", "y")
    _, tokens = said(open_, tokenizer, {"messages": plain})
    text, nasty = said(open_, tokenizer, {"messages": tiny_chat.messages(*[NASTY, NASTY] * 2)})
    controls = open_(tokenizer)[1].strings.values()

    def kept(found):
        return [number for number in found.ids.tolist() if number in controls]

    assert kept(nasty) == kept(tokens)
    assert text.found == 4 * 6
    assert [one.strip() for one in runs(tokenizer, nasty)] == [NASTY + end] * 2
    assert int(nasty.sizes.sum()) == len(
        tokenizer.decode(nasty.ids[[number not in controls for number in nasty.ids]]).encode()
    )


pieces = st.sampled_from(
    [
        "<|im_",
        "end|>",
        "<",
        "|",
        "<|im_end|>",
        "<|eot_id|>",
        " ",
        "\n",
        "a",
        "é",
        "\U0001f600",
        "</s>",
        "[INST]",
        "\t",
    ]
)
texts = st.lists(pieces, max_size=8).map("".join)


@settings(max_examples=60, deadline=None)
@given(
    said_=st.lists(texts, min_size=2, max_size=6), name=st.sampled_from(sorted(tiny_chat.TEMPLATES))
)
def test_no_text_becomes_a_control_id_and_each_answer_is_found(open_, said_, name):
    said_ = said_[: len(said_) // 2 * 2]
    template, end = tiny_chat.TEMPLATES[name]
    tokenizer = tiny_chat.tokenizer(template)
    harmless = tiny_chat.messages(*["x"] * len(said_))
    _, tokens = said(open_, tokenizer, {"messages": harmless})
    row = {"messages": tiny_chat.messages(*said_)}
    if name == "unopened" and not all(one.strip() for one in said_[1::2]):
        with pytest.raises(DataError, match="does not tell what opens an answer"):
            said(open_, tokenizer, row)
        return
    _, found = said(open_, tokenizer, row)
    controls = list(open_(tokenizer)[1].strings.values())
    assert [i for i in found.ids if i in controls] == [i for i in tokens.ids if i in controls]
    answers = [one.strip() + end for one in said_[1::2]]
    assert ["".join(one.split()) for one in runs(tokenizer, found)] == [
        "".join(a.split()) for a in answers
    ]


def test_a_prompt_that_ends_in_half_a_control_string_makes_none(open_):
    template = "{% for m in messages %}{{ m.content }}|im_end|>{% endfor %}"
    tokenizer = tiny_chat.tokenizer(template)
    text, tokens = said(open_, tokenizer, {"messages": tiny_chat.messages("<", "b<")})
    assert text.text == "<|im_end|>b<|im_end|>"
    assert not text.controls
    assert not set(tokens.ids) & set(open_(tokenizer)[1].strings.values())


def test_weights_of_turns_are_those_of_their_tokens(open_):
    tokenizer = tiny_chat.tokenizer()
    messages = tiny_chat.messages("a", "b", "c", "d", "e", "f")
    for number, weight in ((1, 0), (3, 0.5)):
        messages[number]["weight"] = weight
    text, tokens = said(open_, tokenizer, {"messages": messages, "weight": 2})
    assert sorted(set(tokens.weights.tolist())) == [0, 1, 2]
    assert runs(tokenizer, tokens) == ["d<|im_end|>", "f<|im_end|>"]
    assert text.turns == 2


def test_an_assistant_that_speaks_first_is_found_behind_what_opens_it(open_):
    tokenizer = tiny_chat.tokenizer()
    messages = [{"role": "assistant", "content": "Hello."}, *tiny_chat.messages("a", "b")]
    assert runs(tokenizer, said(open_, tokenizer, {"messages": messages})[1]) == [
        "Hello.<|im_end|>",
        "b<|im_end|>",
    ]


def test_a_template_of_words_ends_with_a_separator(open_):
    tokenizer = tiny_chat.tokenizer(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    )
    text, _ = said(open_, tokenizer, {"messages": tiny_chat.messages("a", "b")})
    assert text.ending == 1
    assert [text.text[begin:end] for begin, end, _ in text.spans] == ["b"]
    with pytest.raises(DataError, match=r"ends turn 1 \(assistant\)"):
        said(open_, tokenizer, {"messages": tiny_chat.messages("a", "b", "c", "d")})


@pytest.mark.parametrize(
    ("template", "messages", "reason"),
    [
        (tiny_chat.GEMMA, tiny_chat.messages("a", "b", system="s"), "System role not supported"),
        (tiny_chat.CHATML.replace("in messages", "in messages[-2:]"), tiny_chat.messages("a", "b", "c", "d"), "drops or rewrites the text of turn 0"),
        (tiny_chat.CHATML.replace("{{ m.content }}", "{{ m.content + m.content }}"), tiny_chat.messages("a", "b"), "writes twice the text of turn 0"),
        (tiny_chat.CHATML.replace("{{ m.content }}", "{{ m.content[:3] }}"), tiny_chat.messages("abcdef", "b"), "another text of it"),
        (tiny_chat.CHATML, [*tiny_chat.messages("a"), {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}], "call of turn 1"),
        ("{{ messages | nothing }}", tiny_chat.messages("a", "b"), "nothing"),
    ],
)  # fmt: skip
def test_what_a_template_drops_or_rewrites_is_refused(open_, template, messages, reason):
    with pytest.raises(DataError, match=reason):
        said(open_, tiny_chat.tokenizer(template), {"messages": messages})


REAL = {"llama3_2": "<|eot_id|>", "qwen3": "<|im_end|>"}


@pytest.mark.parametrize("name", REAL)
def test_real_templates_give_the_tokenizers_own_ids(open_, name):
    tokenizer = tiny_text.shared_tokenizer(name)
    rows = tiny_text.shared("instruct/rasbt_instruction_1100.jsonl").read_text().splitlines()[:60]
    pairs = [json.loads(row) for row in rows]
    talks = [tiny_chat.messages(row["instruction"], row["output"]) for row in pairs]
    talks += [
        tiny_chat.messages("a", "b ", "\u84b8 \U0001f600", "d\n\n", "e", "", system="Be brief.")
    ]
    for messages in talks:
        _, tokens = said(open_, tokenizer, {"messages": messages})
        whole = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=False, date_string="26 Jul 2024"
        )
        assert tokens.ids.tolist() == whole
        answers = [m["content"].strip() + REAL[name] for m in messages if m["role"] == "assistant"]
        thinks = "<think>\n\n</think>\n\n"
        assert [
            one.removeprefix(thinks).replace("\n\n<|", "<|").replace(" <|", "<|")
            for one in runs(tokenizer, tokens)
        ] == answers
        if name == "llama3_2":
            assert tokens.ids.tolist().count(tokenizer.bos_token_id) == 1


def test_thoughts_are_controls_in_the_last_answer_and_missed_in_an_earlier_one(open_):
    tokenizer = tiny_text.shared_tokenizer("qwen3")
    thinking = "<think>\nHm.\n</think>\n\nYes."
    _, tokens = said(open_, tokenizer, {"messages": tiny_chat.messages("a", thinking)})
    assert runs(tokenizer, tokens) == [thinking + "<|im_end|>"]
    think = tokenizer.convert_tokens_to_ids("<think>")
    assert tokens.ids.tolist().count(think) == 1
    with pytest.raises(DataError, match="drops or rewrites the reasoning of turn 1"):
        said(open_, tokenizer, {"messages": tiny_chat.messages("a", thinking, "b", "c")})
    quiet = tiny_chat.messages("a", thinking, "b", "c")
    quiet[1]["weight"] = 0
    assert runs(tokenizer, said(open_, tokenizer, {"messages": quiet})[1]) == [
        "<think>\n\n</think>\n\nc<|im_end|>"
    ]


@pytest.mark.parametrize("name", REAL)
def test_a_call_of_a_tool_counts_and_what_it_gave_does_not(open_, name):
    tokenizer = tiny_text.shared_tokenizer(name)
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": "<|im_end|>"}}}
    messages = [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "2 <|eot_id|>"},
        {"role": "assistant", "content": "It is 2."},
    ]
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    text, tokens = said(open_, tokenizer, {"messages": messages, "tools": tools})
    first, second = runs(tokenizer, tokens)
    assert '"name": "add"' in first
    assert "1 + 1" not in first + second
    assert first.endswith(REAL[name])
    assert second.endswith("It is 2." + REAL[name])
    assert text.found == 1
    own = tokenizer.convert_tokens_to_ids(REAL[name])
    assert tokens.ids.tolist().count(own) == 5


WORDS = "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} {% else %}ASSISTANT: {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"  # fmt: skip


@pytest.mark.parametrize("prompt", ["", "ASSISTANT: ", "ASSISTANT:"])
@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_an_answer_of_one_word_counts_whoever_writes_the_space_before_it(open_, name, prompt):
    tokenizer = tiny_text.shared_tokenizer(name)
    tokenizer.chat_template = (
        WORDS + "{% if add_generation_prompt %}" + repr(prompt)[1:-1] + "{% endif %}"
    )
    messages = tiny_chat.messages("Is it wet?", "Yes", "Is it?", "Paris is.")
    _, tokens = said(open_, tokenizer, {"messages": messages})
    end = tokenizer.eos_token
    assert runs(tokenizer, tokens) == [f" Yes{end}", f" Paris is.{end}"]


def test_the_first_word_of_an_answer_that_begins_with_spaces_counts(open_):
    tokenizer = tiny_text.shared_tokenizer("gpt2")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = tiny_chat.UNOPENED
    _, tokens = said(open_, tokenizer, {"messages": tiny_chat.messages("Where?", " Paris is it.")})
    assert runs(tokenizer, tokens) == [" Paris is it.<|im_end|>"]


def test_a_word_that_the_template_puts_between_halves_of_a_control_string_stays_one(open_):
    tokenizer = tiny_chat.tokenizer(
        tiny_chat.CHATML.replace("{{ m.content }}", "[{{ m.content }}]")
    )
    text, tokens = said(open_, tokenizer, {"messages": tiny_chat.messages("INST", "ok")})
    assert "[INST]" in text.text
    assert tokenizer.convert_tokens_to_ids("[INST]") not in tokens.ids.tolist()
