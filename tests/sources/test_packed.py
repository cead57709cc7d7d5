"""Rows that are ready made are served in the order of seed and epoch."""

import numpy as np
import pytest
import tiny_text
import torch

from limbeck.data.rows import Row, write_rows
from limbeck.data.tokenize import tokenizer_fingerprint
from limbeck.errors import DataError
from limbeck.sources.packed import packed


def folder(path, *, rows=5, mark=None):
    made = [
        Row(np.full(4, row), np.ones(3, np.float32), np.zeros(3, np.int64), np.ones(3, np.int64))
        for row in range(rows)
    ]
    about = {"tokenizer": mark or tokenizer_fingerprint(tiny_text.tokenizer())}
    write_rows(path, made, length=3, vocab=320, about=about)
    return str(path)


def test_an_epoch_has_each_row_once_and_the_next_in_another_order(tmp_path):
    source = packed(tiny_text.tokenizer(), path=folder(tmp_path / "x"), seed=1)
    orders = [source.batch(range(5 * e, 5 * e + 5)).input_ids[:, 0].tolist() for e in range(3)]
    assert all(sorted(order) == list(range(5)) for order in orders)
    assert orders[0] != orders[1]


def test_epochs_are_told_for_each_row(tmp_path):
    source = packed(tiny_text.tokenizer(), path=folder(tmp_path / "x"), shuffled=False)
    batch = source.batch([4, 5, 13])
    assert batch.epochs == (0, 1, 2)
    assert batch.input_ids[:, 0].tolist() == [4, 0, 3]


def test_the_size_of_a_batch_does_not_matter(tmp_path):
    source = packed(tiny_text.tokenizer(), path=folder(tmp_path / "x"))
    one = torch.cat([source.batch([position]).labels for position in range(12)])
    assert torch.equal(one, source.batch(range(12)).labels)


def test_rows_of_another_tokenizer_are_refused_with_both(tmp_path):
    place = folder(tmp_path / "x", mark="b" * 64)
    with pytest.raises(DataError, match="b" * 64) as caught:
        packed(tiny_text.tokenizer(), path=place)
    assert tokenizer_fingerprint(tiny_text.tokenizer()) in str(caught.value)


def test_a_folder_that_is_not_there_or_holds_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match="limbeck convert"):
        packed(tiny_text.tokenizer(), path=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="no row"):
        packed(tiny_text.tokenizer(), path=folder(tmp_path / "empty", rows=0))
