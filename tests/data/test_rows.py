"""Rows that are ready made come back as they were written."""

import numpy as np
import pytest
import torch

from limbeck.data.rows import Row, open_rows, positions_of, write_rows
from limbeck.errors import Damaged

LENGTH = 6


def row(seed, vocab=90_000):
    source = np.random.default_rng(seed)
    return Row(
        ids=source.integers(0, vocab, LENGTH + 1),
        weights=source.random(LENGTH).astype(np.float32),
        documents=np.array([0, 0, 1, 1, 1, 2]),
        sizes=source.integers(0, 9, LENGTH),
    )


@pytest.mark.parametrize("vocab", [320, 65_536, 90_000])
def test_rows_are_read_as_they_were_written_in_any_order(tmp_path, vocab):
    made = [row(seed, vocab) for seed in range(4)]
    assert write_rows(tmp_path / "x", made, length=LENGTH, vocab=vocab, about={"a": 1}) == 4
    found = open_rows(tmp_path / "x")
    assert (len(found), found.length, found.about["a"]) == (4, LENGTH, 1)
    batch = found.batch([2, 0], (1, 3))
    assert batch.epochs == (1, 3)
    for place, number in enumerate((2, 0)):
        one = made[number]
        assert batch.input_ids[place].tolist() == one.ids[:-1].tolist()
        assert batch.labels[place].tolist() == one.ids[1:].tolist()
        assert batch.weights[place].tolist() == one.weights.tolist()
        assert batch.document_ids[place].tolist() == one.documents.tolist()
        assert batch.label_bytes[place].tolist() == one.sizes.tolist()
        assert batch.position_ids[place].tolist() == [0, 1, 0, 1, 2, 0]
        assert batch.addresses[place] == one.address
    assert batch.input_ids.dtype == torch.int64


def test_positions_begin_again_in_each_row_and_document():
    assert positions_of(np.array([[5, 5, 5], [5, 6, 6]])).tolist() == [[0, 1, 2], [0, 0, 1]]


def test_each_flipped_byte_is_refused(tmp_path):
    write_rows(tmp_path / "x", [row(0)], length=LENGTH, vocab=320, about={})
    for path in (tmp_path / "x").iterdir():
        whole = path.read_bytes()
        for index in range(len(whole)):
            changed = bytearray(whole)
            changed[index] ^= 1
            path.write_bytes(changed)
            with pytest.raises(Damaged):
                open_rows(tmp_path / "x")
        path.write_bytes(whole)


def test_other_rows_have_another_identity(tmp_path):
    for seed in (0, 1):
        write_rows(tmp_path / str(seed), [row(seed)], length=LENGTH, vocab=320, about={})
    assert open_rows(tmp_path / "0").identity != open_rows(tmp_path / "1").identity
