"""The text source: real text through a tokenizer into rows, and back to the same bytes."""

import json

import pytest
import tiny_text

from limbeck.errors import DataError
from limbeck.sources.text import text


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text(tiny_text.PROSE * 5)
    return path


def source(corpus, **options):
    given = {"path": str(corpus), "length": 16, "prepared": str(corpus.parent / "prepared")}
    return text(tiny_text.tokenizer(), **given | options)


def test_rows_hold_the_text_in_order_when_not_shuffled(corpus):
    data = source(corpus, shuffled=False, overlap_one=True)
    batch = data.batch(range(data.rows))
    first = tiny_text.tokenizer().decode(batch.input_ids[0, :1])
    rest = tiny_text.tokenizer().decode(batch.labels.flatten())
    assert (tiny_text.PROSE * 5).startswith(first + rest)


def test_label_bytes_count_the_text(corpus):
    data = source(corpus, shuffled=False, overlap_one=True, length=1)
    batch = data.batch(range(data.rows))
    first = len(tiny_text.tokenizer().decode(batch.input_ids[0, :1]))
    assert int(batch.label_bytes.sum()) == len(tiny_text.PROSE * 5) - first


def test_the_separator_is_the_one_named(corpus):
    cut = {"split_at": "^The", "shuffled": False, "overlap_one": True, "length": 1}
    for name, token in (("eos", 2), ("<|endoftext|>", 0)):
        data = source(corpus, separator=name, **cut)
        labels = data.batch(range(data.rows)).labels.flatten()
        assert int((labels == token).sum()) == 5
        assert int((labels <= 2).sum()) == 5


def test_best_fit_rows_hold_whole_documents(corpus):
    data = source(
        corpus, split_at="^The", length=100, packing="best_fit", separator="<|endoftext|>"
    )
    batch = data.batch(range(data.rows))
    counted = batch.weights > 0
    ids = tiny_text.tokenizer()(tiny_text.PROSE).input_ids
    assert int(counted.sum()) == 5 * len(ids)
    assert int((batch.labels[counted] == 0).sum()) == 5
    assert int(batch.label_bytes.sum()) == 5 * (
        len(tiny_text.PROSE) - len(tiny_text.tokenizer().decode(ids[:1]))
    )
    assert data.identity != source(corpus, split_at="^The").identity


def test_best_fit_rows_share_no_token(corpus):
    with pytest.raises(DataError, match="share no token"):
        source(corpus, packing="best_fit", overlap_one=True)


def test_the_separator_can_change_without_preparing_again(corpus):
    source(corpus)
    source(corpus, separator="<|endoftext|>", length=8, overlap_one=True, seed=3)
    assert len(list((corpus.parent / "prepared").iterdir())) == 1


def test_too_little_text_is_refused_with_both_numbers(corpus):
    with pytest.raises(DataError, match=r"fewer than one row of 5,000 \+ 1"):
        source(corpus, length=5000)


@pytest.mark.parametrize("options", [{"length": 0}, {"max_documents": 0}])
def test_senseless_numbers_are_refused(corpus, options):
    with pytest.raises(DataError, match="Wanted: 1 or more"):
        source(corpus, **options)


def test_held_out_text_of_a_folder_is_not_training_text(tmp_path):
    for split in ("train", "held_out"):
        row = {"text": f"{split} " * 40}
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    tokenizer = tiny_text.tokenizer()
    for split in ("train", "held_out"):
        data = text(
            tokenizer, path=str(tmp_path), length=8, split=split, prepared=str(tmp_path / "out")
        )
        assert split in tokenizer.decode(data.batch(range(3)).input_ids.flatten())


def test_a_new_process_would_give_the_same_batches(corpus):
    first, second = source(corpus, seed=4), source(corpus, seed=4)
    assert first.batch([0, 7, 100]).addresses == second.batch([0, 7, 100]).addresses
    assert source(corpus, seed=5).batch([0, 7, 100]).addresses != first.batch([0, 7, 100]).addresses


def test_real_articles_come_back_to_the_byte(tmp_path):
    path = tiny_text.shared("wikitext2/test.raw.txt")
    tokenizer = tiny_text.shared_tokenizer("gpt2")
    data = text(
        tokenizer,
        path=str(path),
        length=256,
        split_at="^ = [^=]+ = $",
        shuffled=False,
        overlap_one=True,
        prepared=str(tmp_path),
    )
    batch = data.batch(range(data.rows))
    assert data.rows > 1000
    text_seen = tokenizer.decode(batch.labels.flatten()).replace("<|endoftext|>", "")
    whole = path.read_text()
    assert whole[1:].startswith(text_seen)
    assert int(batch.label_bytes.sum()) == len(text_seen.encode())
    # A separator is a label but never has to guess what comes after it.
    separators = batch.input_ids == tokenizer.eos_token_id
    assert float(batch.weights[separators].sum()) == 0
    assert float(batch.weights.sum()) == batch.weights.numel() - int(separators.sum())
