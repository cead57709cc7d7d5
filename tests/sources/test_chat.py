"""The chat source: conversations in whole rows, of which only answers count, and nothing lost without a word."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tiny_chat
from tiny_chat import TALKS, TOKENIZER, answers, counts, said, source

from limbeck.errors import Damaged, DataError
from limbeck.sources.text import text


def test_only_answers_count_with_the_end_of_their_turn(tmp_path):
    data = source(tmp_path)
    assert answers(data) == said()
    batch = data.batch(range(data.rows))
    bytes_ = int(batch.label_bytes[batch.weights > 0].sum())
    assert bytes_ == sum(len(one.removesuffix("<|im_end|>").encode()) for one in said())
    assert batch.weights.dtype.is_floating_point


def test_rows_hold_whole_conversations_that_do_not_see_each_other(tmp_path):
    data = source(tmp_path, TALKS * 3)
    batch = data.batch(range(data.rows))
    wholes = {
        tuple(TOKENIZER.apply_chat_template(row, tokenize=True, return_dict=False))
        for row in (TALKS[0], TALKS[1], TALKS[3])
    }
    seen = []
    for ids, places, documents in zip(
        batch.input_ids.tolist(),
        batch.position_ids.tolist(),
        batch.document_ids.tolist(),
        strict=True,
    ):
        for number in set(documents):
            here = [i for i, one in enumerate(documents) if one == number]
            assert [places[i] for i in here] == list(range(len(here)))
            seen.append(tuple(ids[i] for i in here))
    assert wholes <= set(seen)


def test_what_was_counted_is_told(tmp_path, capsys):
    source(tmp_path)
    found = counts(tmp_path)
    assert found["conversations"] == found["documents"] == 4
    assert found["turns"] == 5
    assert found["found"] == 2
    assert "4 conversations, 5 turns that count" in capsys.readouterr().err


def test_the_second_time_nothing_is_rendered(tmp_path, monkeypatch):
    first = source(tmp_path).batch([0]).addresses
    monkeypatch.setattr("limbeck.data.talks.Renderer", None)
    assert source(tmp_path).batch([0]).addresses == first


def test_everything_that_changes_tokens_or_weights_changes_the_key(tmp_path):
    changes = [{}, {"length": 96}, {"turns": "last"}, {"too_long": "drop"}, {"date": "2025-01-01"}]
    changes += [{"template": "plain"}, {"template_options": {"enable_thinking": False}}]
    names = {source(tmp_path, **change).identity for change in changes}
    assert len(names) == len(changes)
    other = tiny_chat.tokenizer(tiny_chat.LLAMA3)
    assert source(tmp_path, tokenizer=other).identity not in names


def test_one_changed_byte_is_refused(tmp_path):
    source(tmp_path)
    (file,) = (tmp_path / "prepared").glob("*/weights.bin")
    raw = bytearray(file.read_bytes())
    raw[3] ^= 1
    file.write_bytes(raw)
    with pytest.raises(Damaged, match=r"weights\.bin"):
        source(tmp_path)


def test_order_is_of_seed_and_epoch_alone(tmp_path):
    rows = [tiny_chat.messages(f"Ask {n}", f"Answer {n}") for n in range(60)]
    first, second = (source(tmp_path, rows, shuffled=True, seed=4) for _ in range(2))
    places = [0, first.rows - 1, first.rows, 3 * first.rows]
    assert first.batch(places).addresses == second.batch(places).addresses
    other = source(tmp_path, rows, shuffled=True, seed=5)
    assert other.batch(range(other.rows)).addresses != first.batch(range(first.rows)).addresses


def test_the_same_rows_in_every_kind_of_file_are_the_same_tokens(tmp_path):
    rows = [{"prompt": "a", "response": "b", "category": "x", "language": None}] * 3
    (tmp_path / "a.json").write_text(json.dumps(rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    tiny_chat.written(tmp_path / "a.jsonl", *rows)
    found = [source(tmp_path, str(tmp_path / f"a.{kind}")) for kind in ("json", "parquet", "jsonl")]
    assert len({one.batch([0]).addresses for one in found}) == 1


def test_a_data_set_of_llama_factory_is_read_by_its_name(tmp_path):
    info = {"mine": {"file_name": "mine.json", "formatting": "sharegpt"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    (tmp_path / "mine.json").write_text(json.dumps([{"conversations": turns}]))
    for path in (tmp_path, tmp_path / "dataset_info.json"):
        assert answers(source(tmp_path, str(path), dataset="mine")) == ["b<|im_end|>"]
    with pytest.raises(DataError, match="Name one of them with 'dataset'"):
        source(tmp_path, str(tmp_path / "dataset_info.json"))
    with pytest.raises(DataError, match="no data set 'yours'"):
        source(tmp_path, str(tmp_path), dataset="yours")


def test_only_the_last_answer_counts_where_that_is_asked_for(tmp_path):
    assert answers(source(tmp_path, TALKS[1:2], turns="last")) == ["It is the fire.<|im_end|>"]


def test_weights_reach_the_batch_and_what_counts_nothing_is_in_no_row(tmp_path):
    rows = [
        {"messages": TALKS[0], "weight": 0.5},
        {"messages": TALKS[1], "weight": 0},
    ]
    data = source(tmp_path, rows)
    batch = data.batch(range(data.rows))
    assert sorted(set(batch.weights.flatten().tolist())) == [0, 0.5]
    assert answers(data) == ["What is light.<|im_end|>"]
    assert counts(tmp_path)["silent"] == 1
    with pytest.raises(DataError, match="no conversation in which anything counts"):
        source(tmp_path, rows[1:])


def test_tokens_that_are_ready_made_and_texts_stand_beside_conversations(tmp_path):
    ids = TOKENIZER("one two three").input_ids
    masked = [-100] * 3 + ids[3:]
    data = source(
        tmp_path, [TALKS[0], {"input_ids": ids, "labels": masked}, {"text": "Some text."}]
    )
    first = TOKENIZER.decode(TOKENIZER("Some text.").input_ids[:1])
    expected = [TOKENIZER.decode(ids[3:]), "Some text.<|im_end|>".removeprefix(first)]
    assert answers(data) == sorted([*expected, "What is light.<|im_end|>"])
    with pytest.raises(DataError, match=r"the tokenizer has 0 to \d+"):
        source(tmp_path, [{"input_ids": [1, 99_999]}])


def test_no_row_of_long_tokens_counts_nothing(tmp_path):
    ids = TOKENIZER("word " * 300).input_ids
    weights = [0.0] * (len(ids) - 5) + [1.0] * 5
    data = source(tmp_path, [{"input_ids": ids, "weights": weights}])
    batch = data.batch(range(data.rows))
    assert float(batch.weights.sum()) == 5
    assert (batch.weights.sum(1) > 0).all()


@pytest.mark.parametrize("options", [{"length": 1}, {"max_documents": 0}, {"date": "today"}])
def test_senseless_options_are_refused(tmp_path, options):
    with pytest.raises(DataError):
        source(tmp_path, **options)


def test_rows_can_be_limited(tmp_path):
    assert answers(source(tmp_path, max_documents=1)) == ["What is light.<|im_end|>"]


def test_held_out_conversations_are_not_training_ones(tmp_path):
    for split, row in (("train", TALKS[0]), ("held_out", TALKS[3])):
        tiny_chat.written(tmp_path / f"{split}.jsonl", row)
    assert answers(source(tmp_path, str(tmp_path), split="held_out")) == ["<|im_end|>"]


def test_a_text_source_reads_the_same_file_as_text(tmp_path):
    """Beside one another: what is text to one is text to the other."""
    path = tiny_chat.written(tmp_path / "rows.jsonl", {"text": "Some text, of a few words."})
    plain = text(
        TOKENIZER,
        path=path,
        length=8,
        packing="best_fit",
        prepared=str(tmp_path / "p"),
        shuffled=False,
    )
    data = source(tmp_path, path, length=8)
    np.testing.assert_array_equal(plain.batch([0]).input_ids, data.batch([0]).input_ids)
