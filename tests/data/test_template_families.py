"""Invariant 70 for each family: one BOS where the template has one, an answer and its end are labels, no prompt is."""

from pathlib import Path

import pytest
import tiny_chat
import tiny_text
from transformers import PreTrainedTokenizerFast

SMOLLM2 = Path(__file__).parents[2] / "models/SmolLM2-135M-Instruct"
# As Qwen2.5 has it, but for tools.
QWEN25 = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
FAMILIES = {
    "llama3": ("<|eot_id|>", "", "", 1),
    "qwen2.5": ("<|im_end|>", "", "", 0),
    "qwen3": ("<|im_end|>", "", "<think>\n\n</think>\n\n", 0),
    "smollm2": ("<|im_end|>", "", "", 0),
    "gemma": ("<end_of_turn>", "", "", 1),
    "mistral": ("</s>", "", "", 1),
    # The text as a whole has an end of its own, behind that of its last turn.
    "phi": ("<|end|>", "\n<|im_end|>", "", 0),
}
"""{family: (what ends an answer, what ends the last one beside, what the last one begins with, how many BOS)}."""


def tokenizer_of(family):
    """The family's own tokenizer where one is at hand, or the tiny one with the template in short."""
    if family == "smollm2":
        if not SMOLLM2.is_dir():
            pytest.skip("SmolLM2 is not in models/")
        return PreTrainedTokenizerFast.from_pretrained(SMOLLM2)
    if family in ("llama3", "qwen3"):
        return tiny_text.shared_tokenizer({"llama3": "llama3_2"}.get(family, family))
    if family == "qwen2.5":
        found = tiny_text.shared_tokenizer("qwen3")
        found.chat_template = QWEN25
        return found
    short = {"gemma": tiny_chat.GEMMA, "mistral": tiny_chat.MISTRAL, "phi": tiny_chat.PHI}
    return tiny_chat.tokenizer(short[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_one_bos_and_answers_with_their_ends_are_the_labels(tmp_path, family):
    tokenizer = tokenizer_of(family)
    end, last, begin, bos = FAMILIES[family]
    said = ["Wie w\u00e4rmt man <|im_end|> es?", "So: `a\n\nb`.", "And then?", "Wait, \U0001f600."]
    talk = tiny_chat.messages(*said, system=None if family == "gemma" else "Be brief.")
    data = tiny_chat.source(tmp_path, [talk], tokenizer, length=192)
    found = [one.strip() for one in tiny_chat.answers(data, tokenizer)]
    assert found == sorted([said[1] + end, begin + said[3] + end + last])
    batch = data.batch([0])
    whole = batch.input_ids[0][batch.document_ids[0] == 0].tolist()
    if bos:
        assert whole[0] == tokenizer.bos_token_id
        assert whole.count(tokenizer.bos_token_id) == bos
    elif family != "smollm2":  # whose BOS is what opens each turn
        assert tokenizer.bos_token_id not in whole
    else:
        assert whole.count(tokenizer.bos_token_id) == len(talk)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_control_strings_in_it_a_talk_has_the_tokenizers_own_ids(tmp_path, family):
    tokenizer = tokenizer_of(family)
    talk = tiny_chat.messages("Why?", "So.", "And then?", "Wait.")
    data = tiny_chat.source(tmp_path, [talk], tokenizer, length=192)
    batch = data.batch([0])
    wanted = tokenizer.apply_chat_template(
        talk, tokenize=True, return_dict=False, date_string="26 Jul 2024"
    )
    assert batch.input_ids[0][: len(wanted)].tolist() == wanted
