"""Whole documents in rows: every token once, nothing leaks, and rows as full as plain best fit leaves them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.data.fit import best_fit, fitted
from limbeck.data.pack import Stream, stacked

SEPARATOR = 0


def stream_of(*documents):
    ids = np.array([token for one in documents for token in one], dtype=np.uint16)
    starts = np.cumsum([0, *map(len, documents)])
    return Stream(ids, (ids % 7).astype(np.uint16), starts, SEPARATOR)


def plain_best_fit(sizes, room):
    """The room left in each row, one piece after the other."""
    left = []
    for size in sorted(sizes, reverse=True):
        fits = [number for number, free in enumerate(left) if free >= size]
        if fits:
            left[min(fits, key=left.__getitem__)] -= size
        else:
            left.append(room - size)
    return left


@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(1, 12))
def test_rows_are_as_full_as_plain_best_fit_leaves_them(data, room):
    sizes = data.draw(st.lists(st.integers(1, room), max_size=60))
    found = best_fit(np.array(sizes, dtype=np.int64), room)
    rows = int(found.max()) + 1 if sizes else 0
    left = room - np.bincount(found, weights=sizes, minlength=rows)
    assert (left >= 0).all()
    assert sorted(left.tolist()) == sorted(plain_best_fit(sizes, room))


documents = st.lists(st.lists(st.integers(1, 9), max_size=12), min_size=1, max_size=12)


@settings(max_examples=300, deadline=None)
@given(documents=documents, length=st.integers(1, 9))
def test_every_token_is_read_once_and_said_once(documents, length):
    found = fitted(stream_of(*documents), length)
    read, said = [], []
    for number in range(found.rows):
        row = found.row(number)
        real = int(row["weights"].sum())
        assert row["weights"].tolist() == [1.0] * real + [0.0] * (length - real)
        assert set(row["input_ids"][real:]) | set(row["labels"][real:]) <= {SEPARATOR}
        assert not row["label_bytes"][real:].any()
        edges = np.flatnonzero(np.diff(row["document_ids"])) + 1
        for places in np.split(np.arange(length), edges):
            assert row["position_ids"][places].tolist() == list(range(len(places)))
        for places in np.split(np.arange(real), edges[edges < real]):
            read.append(row["input_ids"][places].tolist())
            said.append(row["labels"][places].tolist())
            sizes = [label % 7 for label in said[-1]]
            assert row["label_bytes"][places].tolist() == sizes
    whole = [
        one[begin : begin + length] for one in documents for begin in range(0, len(one), length)
    ]
    follow = [
        [*one, SEPARATOR][begin + 1 : begin + length + 1]
        for one in documents
        for begin in range(0, len(one), length)
    ]
    pairs = zip(whole, follow, strict=True)
    assert sorted(zip(read, said, strict=True)) == sorted(pairs) or not whole


def test_a_row_of_two_documents_and_padding_is_golden():
    found = fitted(stream_of([1, 2, 3], [4, 5]), 7)
    (row,) = (found.row(number) for number in range(found.rows))
    assert row["input_ids"].tolist() == [1, 2, 3, 4, 5, 0, 0]
    assert row["labels"].tolist() == [2, 3, 0, 5, 0, 0, 0]
    assert row["position_ids"].tolist() == [0, 1, 2, 0, 1, 0, 1]
    assert row["document_ids"].tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert row["weights"].tolist() == [1, 1, 1, 1, 1, 0, 0]
    assert row["label_bytes"].tolist() == [2, 3, 0, 5, 0, 0, 0]
    assert found.fill == pytest.approx(5 / 7)


def test_the_same_documents_are_packed_the_same_way():
    sizes = np.random.default_rng(0).integers(1, 65, 5000)
    np.testing.assert_array_equal(best_fit(sizes, 64), best_fit(sizes, 64))


def test_many_documents_leave_almost_no_padding():
    sizes = np.exp(np.random.default_rng(0).normal(5.3, 1.0, 20_000)).astype(np.int64).clip(1, 1024)
    rows = int(best_fit(sizes, 1024).max()) + 1
    assert sizes.sum() / (rows * 1024) > 0.999


def test_rows_are_batches_like_any_other():
    found = fitted(stream_of([1, 2, 3], [4, 5], [6]), 3)
    batch = stacked([found.row(number) for number in range(found.rows)], 3, epochs=(0, 0))
    assert batch.input_ids.shape == (2, 3)
    assert batch.epochs == (0, 0)
    assert len(set(batch.addresses)) == 2


def test_no_documents_make_no_rows():
    assert fitted(stream_of([], []), 4).rows == 0


weighed = st.lists(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from([0, 0, 1, 2])), min_size=1, max_size=12),
    min_size=1,
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(documents=weighed, length=st.integers(1, 9))
def test_a_token_with_a_weight_is_a_label_once_and_no_row_counts_nothing(documents, length):
    plain = stream_of(*([token for token, _ in one] for one in documents))
    weights = np.array([weight for one in documents for _, weight in one], dtype=np.float32)
    stream = Stream(plain.ids, plain.byte_lengths, plain.starts, SEPARATOR, weights)
    found = fitted(stream, length)
    said = []
    for number in range(found.rows):
        row = found.row(number)
        counted = row["weights"] > 0
        assert counted.any()
        assert SEPARATOR not in row["labels"][counted]
        said += zip(row["labels"][counted].tolist(), row["weights"][counted].tolist(), strict=True)
    # The first token of a document is nobody's label.
    assert sorted(said) == sorted(pair for one in documents for pair in one[1:] if pair[1])
