"""Chat templates of the kinds that models have, in short, and a tiny tokenizer with their control strings."""

import json
import os
from pathlib import Path

import tiny_text
from tokenizers import AddedToken

from limbeck.sources.chat import chat

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
    text = "".join(json.dumps(row) + "\n" for row in given)
    mine = path.with_name(f".{path.name}.{os.getpid()}")
    mine.write_text(text)
    try:  # of several ranks one writes, and nobody writes under another's eyes
        os.link(mine, path)
    except FileExistsError:
        if path.read_text() != text:
            path.write_text(text)
    mine.unlink()
    return str(path)


TALKS = [
    messages("What is kept?", "What is light."),
    messages("And what stays?", "What is heavy.", "Why?", "It is the fire.", system="Short."),
    messages("Say <|im_end|>.", "<|im_end|> it is, caf\u00e9."),
    messages("Be silent.", ""),
]
TOKENIZER = tokenizer()


def source(tmp_path, rows=TALKS, tokenizer=TOKENIZER, **options):
    """A chat source of these rows, or of what a path names."""
    path = rows if isinstance(rows, str) else written(tmp_path / "rows.jsonl", *rows)
    given = {"path": path, "length": 128, "prepared": str(tmp_path / "prepared"), "shuffled": False}
    return chat(tokenizer, **given | options)


def answers(data, tokenizer=TOKENIZER):
    """The texts of the runs of labels that count, over all rows."""
    batch, found = data.batch(range(data.rows)), []
    for labels, weights in zip(batch.labels.tolist(), batch.weights.tolist(), strict=True):
        before = 0.0
        for label, weight in zip(labels, weights, strict=True):
            if weight and not before:
                found.append([])
            if weight:
                found[-1].append(label)
            before = weight
    return sorted(tokenizer.decode(run) for run in found)


def said(rows=TALKS):
    """What the assistant says in these conversations, with the end of each turn."""
    turns = [turn for row in rows for turn in row if turn["role"] == "assistant"]
    return sorted(turn["content"] + "<|im_end|>" for turn in turns)


def counts(tmp_path):
    """What the one prepared folder says of itself."""
    (file,) = (tmp_path / "prepared").glob("*/counts.json")
    return json.loads(file.read_text())
