"""Text that is missing, broken, too long, too little or trained on twice is found before a model is loaded."""

import json
import shutil

import pytest
import tiny_folder
import tiny_text
from tiny_doctor import assert_found, live, of, stage

PLANTS = {}


def read(place, **changes):
    return {"stages": [stage(place, source=tiny_folder.source(place, **changes))]}


def judged(place, **changes):
    rows = {"rows": 8, "measures": ["bits_per_byte"]}
    return {"evaluate": {"source": tiny_folder.source(place, split="held_out")} | rows | changes}


@of(PLANTS, "text", "nowhere")
def text_that_is_not_there(place, _):
    return read(place, path=str(place / "nowhere"))


@of(PLANTS, "text", r"train\.jsonl")
def line_that_is_no_json(place, _):
    with (place / "text/train.jsonl").open("a") as stream:
        stream.write('{"text": "half a li\n')
    return {}


@of(PLANTS, "text", "'body'")
def field_that_is_not_there(place, _):
    return read(place, field="body")


@of(PLANTS, "text", "fewer than one row")
def less_text_than_a_row(place, _):
    return read(place, max_documents=1, length=120)


@of(PLANTS, "lengths", "rows of 256 tokens; the teacher was made for 128 positions")
def rows_beyond_the_positions(place, _):
    return read(place, length=256)


@of(PLANTS, "lengths", "the student was made for 8 positions")
def rows_beyond_the_students_positions(place, _):
    config = {
        "model_type": "llama",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 8,
    }
    return {"student": {"scratch": {"config": config}}}


@of(PLANTS, "amounts", "a step reads some rows twice", severity="warning")
def fewer_rows_than_a_step(place, _):
    return read(place, max_documents=1, length=32)


@of(PLANTS, "amounts", r"10,000 steps of 4 rows read \d+ rows \d+ times", severity="warning")
def hundreds_of_epochs(place, _):
    return {"stages": [stage(place, budget="10000 steps")]}


@of(PLANTS, "held out", "held-out documents stand in stages.0..source, token for token")
def held_out_text_that_is_trained_on(place, _):
    text = (place / "text/train.jsonl").read_text()
    (place / "text/held_out.jsonl").write_text(text + json.dumps({"text": "A new one."}) + "\n")
    return {}


@of(PLANTS, "held out", "is the text that stage distil trains on")
def the_same_text_to_judge_by(place, _):
    return judged(place, source=tiny_folder.source(place))


@of(PLANTS, "held out", "watch.rows: 500 rows behind the 8 of evaluate.rows")
def too_little_held_out_text_to_watch(place, _):
    return judged(place) | {"watch": {"rows": 500, "measures": ["bits_per_byte"]}}


@of(PLANTS, "held out", r"400 rows are to be measured, the text has \d+", severity="warning")
def too_little_held_out_text_to_measure(place, _):
    return judged(place, rows=400)


def talk(place, rows, **changes):
    """Conversations to train on, of one's own."""
    source = tiny_folder.talk(place, **changes)
    lines = [json.dumps({"prompt": a, "response": b}) + "\n" for a, b in rows]
    (place / "talk/train.jsonl").write_text("".join(lines))
    shutil.copy(place / "text/held_out.jsonl", place / "talk/held_out.jsonl")
    return {"teacher": live(place), "stages": [stage(place, source=source)]} | judged(place)


@of(PLANTS, "coverage", r"counts nothing: \d\.\d% of the tokens", severity="warning")
def hardly_a_token_that_counts(place, _):
    prompt = " ".join(tiny_text.PROSE.split()[:16])
    return talk(place, [(f"{number} {prompt}", ".") for number in range(40)], length=128)


@of(PLANTS, "documents", "30 were longer than 48 tokens and are left out", severity="warning")
def conversations_that_are_too_long(place, _):
    long = " ".join(tiny_text.PROSE.split())
    rows = [(f"Question {number}?", long if number % 4 else "Yes.") for number in range(40)]
    return talk(place, rows, length=48, too_long="drop")


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_text_is_found(tmp_path, monkeypatch, name):
    assert_found(tmp_path, PLANTS[name], monkeypatch)
