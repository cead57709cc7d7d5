"""Golden rows of algorithms.md 4.4, and every token of the stream used as often as promised."""

import hashlib
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.data.pack import Stream, address, batch, row, row_count

SEPARATOR = 0


def stream_of(*documents):
    ids = np.array([token for one in documents for token in one], dtype=np.uint16)
    starts = np.cumsum([0, *map(len, documents)])
    return Stream(ids, (ids % 7).astype(np.uint16), starts, SEPARATOR)


GOLDEN = stream_of([1, 2, 3], [4, 5])


def chunk(one):
    return [*one["input_ids"].tolist(), int(one["labels"][-1])]


def test_disjoint_chunks_are_golden():
    assert GOLDEN.length == 7
    assert row_count(7, 3) == 1
    assert chunk(row(GOLDEN, 0, 3)) == [1, 2, 3, 0]


def test_overlapping_chunks_are_golden():
    assert row_count(7, 3, overlap_one=True) == 2
    found = batch(GOLDEN, [0, 1], 3, overlap_one=True)
    assert found.input_ids.tolist() == [[1, 2, 3], [0, 4, 5]]
    assert found.labels.tolist() == [[2, 3, 0], [4, 5, 0]]


def test_a_row_over_two_documents_is_golden():
    found = batch(stream_of([1, 2, 3], [4, 5], [6]), [0], 7)
    assert found.input_ids.tolist() == [[1, 2, 3, 0, 4, 5, 0]]
    assert found.labels.tolist() == [[2, 3, 0, 4, 5, 0, 6]]
    assert found.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert found.document_ids.tolist() == [[0, 0, 0, 0, 1, 1, 1]]
    assert found.weights.tolist() == [[1, 1, 1, 0, 1, 1, 0]]
    assert found.label_bytes.tolist() == [[2, 3, 0, 4, 5, 0, 6]]


def test_positions_restart_at_a_rows_start_in_the_middle_of_a_document():
    found = row(stream_of([1, 2, 3, 4, 5, 6, 7]), 4, 3)
    assert found["input_ids"].tolist() == [5, 6, 7]
    assert found["position_ids"].tolist() == [0, 1, 2]
    assert found["document_ids"].tolist() == [0, 0, 0]


def test_planes_have_the_types_of_a_batch():
    found = batch(GOLDEN, [0, 0], 3)
    for name in ("input_ids", "labels", "position_ids", "document_ids", "label_bytes"):
        plane = getattr(found, name)
        assert plane.dtype == torch.int64
        assert plane.shape == (2, 3)
    assert found.weights.dtype == torch.float32


documents = st.lists(st.lists(st.integers(1, 9), max_size=8), min_size=1, max_size=8)


@settings(max_examples=300, deadline=None)
@given(documents=documents, length=st.integers(1, 9), overlap=st.booleans())
def test_rows_are_the_stream_cut_in_order(documents, length, overlap):
    stream = stream_of(*documents)
    whole, owner, inside, sizes = [], [], [], []
    for number, one in enumerate(documents):
        whole += [*one, SEPARATOR]
        owner += [number] * (len(one) + 1)
        inside += range(len(one) + 1)
        sizes += [*(token % 7 for token in one), 0]
    rows = row_count(stream.length, length, overlap_one=overlap)
    n = len(whole)
    assert stream.length == n
    assert rows == ((n - 1) // length if overlap else n // (length + 1))
    stride = length if overlap else length + 1
    for number in range(rows):
        begin = number * stride
        found = row(stream, begin, length)
        at = slice(begin, begin + length)
        after = slice(begin + 1, begin + length + 1)
        assert found["input_ids"].tolist() == whole[at]
        assert found["labels"].tolist() == whole[after]
        assert found["label_bytes"].tolist() == sizes[after]
        assert found["document_ids"].tolist() == [o - owner[begin] for o in owner[at]]
        expected = [float(a == b) for a, b in zip(owner[at], owner[after], strict=True)]
        assert found["weights"].tolist() == expected
        starts = inside[begin]
        positions = [
            i - starts if o == owner[begin] else i
            for i, o in zip(inside[at], owner[at], strict=True)
        ]
        assert found["position_ids"].tolist() == positions


@pytest.mark.parametrize("length", [1, 2, 3, 6])
def test_overlapping_rows_train_every_transition_once(length):
    stream = stream_of([1, 2, 3], [4, 5], [6, 7, 8, 9])
    seen = []
    for number in range(row_count(stream.length, length, overlap_one=True)):
        found = row(stream, number * length, length)
        seen += zip(found["input_ids"].tolist(), found["labels"].tolist(), strict=True)
    whole = [1, 2, 3, 0, 4, 5, 0, 6, 7, 8, 9, 0]
    assert seen == list(itertools.pairwise(whole))[: len(seen)]
    assert len(seen) == (len(whole) - 1) // length * length


def test_an_address_is_the_hash_of_ids_and_positions():
    ids, positions = np.array([5, 6, 7]), np.array([0, 1, 0])
    whole = hashlib.sha256(ids.astype("<i8").tobytes() + positions.astype("<i8").tobytes())
    assert address(ids, positions) == whole.hexdigest()[:32]
    assert address(ids.astype(np.int32), positions) == address(ids, positions)
    assert address(ids, np.array([0, 1, 2])) != address(ids, positions)
    assert address(np.array([5, 6, 8]), positions) != address(ids, positions)


def test_an_address_does_not_depend_on_where_the_row_stands():
    one, two = stream_of([1, 2, 3], [4, 5]), stream_of([9, 9, 9], [1, 2, 3], [4, 5])
    assert batch(one, [0], 3).addresses == batch(two, [1], 3).addresses
    assert batch(one, [0], 3).addresses != batch(two, [0], 3).addresses


def test_documents_without_tokens_are_only_separators():
    found = row(stream_of([], [1], [], []), 0, 4)
    assert found["input_ids"].tolist() == [0, 1, 0, 0]
    assert found["weights"].tolist() == [0, 1, 0, 0]
    assert found["position_ids"].tolist() == [0, 0, 1, 0]


def test_weights_of_tokens_are_those_of_labels_and_a_separator_has_none():
    plain = stream_of([1, 2, 3], [4, 5], [6])
    weights = np.array([9, 0, 0.5, 9, 2, 9], dtype=np.float32)
    own = Stream(plain.ids, plain.byte_lengths, plain.starts, SEPARATOR, weights)
    found = batch(own, [0], 7)
    assert found.weights.tolist() == [[0, 0.5, 0, 0, 2, 0, 0]]
    assert found.addresses == batch(plain, [0], 7).addresses
