"""Tokenizers, vocabularies, ends and templates that do not fit are found, and shown token by token."""

import ast
import json

import pytest
import tiny_chat
import tiny_folder
import tiny_text
from tiny_doctor import assert_found, bad, config, examined, live, of, sound, stage, teacher
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

PLANTS = {}
SCRATCH = {
    "model_type": "llama",
    "vocab_size": tiny_folder.VOCAB,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
}


def swapped():
    """As many words, two of which have each other's ids."""
    whole = tiny_text.tokenizer(tiny_folder.VOCAB)
    told = json.loads(whole.backend_tokenizer.to_str())
    vocab = told["model"]["vocab"]
    vocab["h"], vocab["e"] = vocab["e"], vocab["h"]
    backend = Tokenizer.from_str(json.dumps(told))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>"
    )


def talking(place, *, student=None, **changes):
    """A recipe of conversations beside a live teacher."""
    evaluate = {"source": tiny_folder.talk(place, split="held_out"), "rows": 8}
    plain = {
        "teacher": live(place),
        "student": student or {"pruned": {"layers": 2}},
        "stages": [stage(place, source=tiny_folder.talk(place, **changes))],
    }
    return plain | {"evaluate": evaluate | {"measures": ["bits_per_byte"]}}


@of(PLANTS, "tokenizers", r"2 of \d+ ids are other words.*> +\d+ ", follows=("ends",))
def student_of_other_words(place, _):
    teacher(place / "student", tokenizer=swapped())
    return {"student": {"pretrained": {"model": str(place / "student")}}}


@of(PLANTS, "vocabulary", r"320 ids, the tokenizer \d+: what stands beyond cannot be read")
def tokenizer_of_more_ids_than_the_model(place, _):
    more = tiny_text.tokenizer(tiny_folder.VOCAB)
    more.add_tokens([f"<|extra_{number}|>" for number in range(40)])
    more.save_pretrained(place / "teacher")
    return {}


@of(PLANTS, "vocabulary", "64 ids, the tokenizer", weights=True)
def student_of_too_small_a_vocabulary(place, _):
    return {"student": {"scratch": {"config": SCRATCH | {"vocab_size": 64}}}}


@of(PLANTS, "ends", "stops at id 5,000, and there are 320: it never does")
def end_that_is_no_id(place, _):
    config(place / "teacher", "generation_config.json", eos_token_id=5000)
    return {}


@of(PLANTS, "ends", "eos_token_id holds 'x', which is no id")
def end_that_is_a_word(place, _):
    config(place / "teacher", "generation_config.json", eos_token_id="x")
    return {}


@of(PLANTS, "ends", "eos_token_id holds -1, which is no id")
def end_below_nothing(place, _):
    config(place / "teacher", "generation_config.json", eos_token_id=[2, -1])
    return {}


@of(PLANTS, "ends", "the tokenizer's eos is 2 '<.im_end.>'", severity="warning")
def end_that_is_not_the_tokenizers(place, _):
    config(place / "teacher", "generation_config.json", eos_token_id=0)
    return {}


@of(PLANTS, "ends", "end with 2 .*stops at 0 .*never stop there.*include 2")
def student_that_would_never_stop(place, _):
    teacher(place / "student")
    config(place / "student", "generation_config.json", eos_token_id=0)
    return talking(place, student={"pretrained": {"model": str(place / "student")}})


@of(PLANTS, "templates", r"otherwise than the template of teacher.*> +\d+ ", severity="warning")
def template_that_the_teacher_does_not_know(place, _):
    own = tiny_text.tokenizer(tiny_folder.VOCAB)
    own.chat_template = tiny_chat.CHATML.replace("{{ m.role }}\n", "{{ m.role }}: ")
    own.save_pretrained(place / "teacher")
    return talking(place)


def templated(place, text):
    (place / "own.jinja").write_text(text)
    rows = [{"messages": tiny_chat.messages("What is kept?", "It is light.", "Why?", "Fire.")}] * 40
    changes = talking(place, template=str(place / "own.jinja"))
    for split in ("train", "held_out"):
        lines = [json.dumps(row | {"weight": 1.0}) + "\n" for row in rows]
        (place / "talk" / f"{split}.jsonl").write_text("".join(lines))
    return changes | {"evaluate": None}


@of(PLANTS, "text", "drops or rewrites the text of turn 1")
def template_without_answers(place, _):
    drop = "{% if m.role == 'user' %}<|im_start|>{{ m.content }}<|im_end|>{% endif %}"
    return templated(place, "{% for m in messages %}" + drop + "{% endfor %}")


@of(PLANTS, "text", "nothing that the template writes ends turn 1")
def template_without_an_end(place, _):
    return templated(place, "{% for m in messages %}{{ m.role }}\n{{ m.content }}\n{% endfor %}")


@of(PLANTS, "text", "no template that jinja can read")
def template_that_is_none(place, _):
    return templated(place, "{% for m in messages %}{{ m.role ")


@of(PLANTS, "text", "has no chat template")
def no_template_at_all(place, _):
    return talking(place, template=None)


@pytest.mark.parametrize("name", PLANTS)
def test_planted_words_are_found(tmp_path, monkeypatch, name):
    assert_found(tmp_path, PLANTS[name], monkeypatch)


def test_two_readings_of_a_text_stand_side_by_side(tmp_path):
    place = sound(tmp_path)
    teacher(place / "student", tokenizer=swapped())
    found = examined(place, student={"pretrained": {"model": str(place / "student")}})
    (one,) = [each for each in bad(found) if each.check == "tokenizers"]
    text, names, *rows = one.lines
    assert text.startswith("text '")
    assert names.split() == ["token", str(place / "student"), str(place / "teacher")]
    first = next(row for row in rows if row.startswith(">")).split()
    ids = [
        AutoTokenizer.from_pretrained(place / which)(ast.literal_eval(text.removeprefix("text ")))[
            "input_ids"
        ]
        for which in ("student", "teacher")
    ]
    at = int(first[1])
    assert ids[0][:at] == ids[1][:at]
    assert ids[0][at] != ids[1][at]
    assert first[2] == str(ids[0][at])


def test_ids_of_a_drawn_student_that_no_text_trains_are_warned_of(tmp_path):
    place = sound(tmp_path)
    student = {"scratch": {"config": SCRATCH | {"vocab_size": 384}}}
    found = examined(place, student=student)
    assert not bad(found)
    (one,) = [one for one in bad(found, "warning") if "no text trains the last" in one.found]
    assert one.where == "student"
    assert "Give vocab_size: " in one.cure
    assert not any("no text trains" in one.found for one in examined(place))
