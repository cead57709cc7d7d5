"""Chat templates of the kinds that models have, in short, and a tiny tokenizer with their control strings."""

import json
from pathlib import Path

import tiny_text
from tokenizers import AddedToken

CHATML = """{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system
Be kind.<|im_end|>
{% endif %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
UNOPENED = CHATML.partition("{% if add_generation_prompt %}")[0]
LLAMA3 = """{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>

{{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""
GEMMA = """{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}<start_of_turn>{{ role }}
{{ m.content | trim }}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""
# The system's words move into the last turn of the user, and nothing opens an answer.
MISTRAL = """{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}
{%- else %}{% set rest = messages %}{% endif %}{{ bos_token }}{% for m in rest %}{% if m.role == 'user' %}
{%- if loop.last or (system is defined and loop.index0 + 2 >= rest | length) %}[INST] {{ system + '\n\n' if system is defined else '' }}{{ m.content }}[/INST]
{%- else %}[INST] {{ m.content }}[/INST]{% endif %}{% else %} {{ m.content | trim }}</s>{% endif %}{% endfor %}"""
PHI = """{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"""
MARKED = """{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant
{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>
{% else %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
TEMPLATES = {
    "chatml": (CHATML, "<|im_end|>"),
    "unopened": (UNOPENED, "<|im_end|>"),
    "llama3": (LLAMA3, "<|eot_id|>"),
    "gemma": (GEMMA, "<end_of_turn>"),
    "mistral": (MISTRAL, "</s>"),
    "marked": (MARKED, "<|im_end|>"),
}
"""{name: (template, what ends a turn)}"""
STRINGS = (
    *(
        "<|begin_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "</s>",
        "[INST]",
    ),
    *("[/INST]", "<start_of_turn>", "<end_of_turn>", "<|end|>", "<|user|>", "<|assistant|>"),
    *("<|system|>", "<think>", "</think>", "<tool_call>"),
)


def tokenizer(template=CHATML):
    """tiny_text's tokenizer with more control strings, of which '<think>' is not flagged as special, and a template."""
    made = tiny_text.tokenizer()
    made.add_tokens(
        [AddedToken(one, special="think" not in one, normalized=False) for one in STRINGS]
    )
    made.bos_token = "<|begin_of_text|>"
    made.chat_template = template
    return made


def messages(*said, system=None):
    """Turns of user and assistant, one after the other."""
    turns = [
        {"role": ("user", "assistant")[number % 2], "content": text}
        for number, text in enumerate(said)
    ]
    return [{"role": "system", "content": system}, *turns] if system is not None else turns


def written(path: Path, *rows) -> str:
    """Rows as JSONL; a list stands for the messages of a conversation."""
    given = [{"messages": row} if isinstance(row, list) else row for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return str(path)
