"""The likeliest ids are read as they were written, exactly or within what a byte promises."""

from dataclasses import replace

import pytest
import tiny_cache
import torch

from limbeck.cache.read import CacheReader
from limbeck.errors import CacheMismatch, NonFinite
from limbeck.types import TopK

TOLERANCE = {"float64": 0.0, "float32": 1e-6, "float16": 1e-2}


@pytest.mark.parametrize("vocab", [29, 128_256, 262_144])
@pytest.mark.parametrize("values", TOLERANCE)
def test_floats_are_read_as_they_were_written(tmp_path, vocab, values):
    about = tiny_cache.about(vocab=vocab, values=values)
    addresses, record, which = tiny_cache.written(tmp_path, about)
    found = CacheReader(tmp_path).read(addresses, which, [0] * 3)
    assert torch.equal(found.ids, record.ids)
    assert found.logprobs.dtype == about.floats
    for name in ("logprobs", "rest"):
        read, expected = getattr(found, name).double(), getattr(record, name)
        torch.testing.assert_close(read, expected, atol=TOLERANCE[values], rtol=0)


@pytest.mark.parametrize("k", [1, 5, 29])
def test_codes_are_near_and_hold_all_probability(tmp_path, k):
    about = tiny_cache.about(values="code8", k=k)
    addresses, record, which = tiny_cache.written(tmp_path, about, rows=40)
    found = CacheReader(tmp_path).read(addresses, which, [0] * 40)
    assert torch.equal(found.ids, record.ids)
    exact = torch.cat([record.logprobs, record.rest[:, None]], 1)
    coded = torch.cat([found.logprobs, found.rest[:, None]], 1).double()
    assert torch.equal(exact.isneginf(), coded.isneginf())
    torch.testing.assert_close(
        coded.exp().sum(1), torch.ones(len(coded)).double(), atol=1e-5, rtol=0
    )
    lost = torch.where(exact.isneginf(), 0.0, exact.exp() * (exact - coded)).sum(1)
    assert lost.mean() < 2e-4
    assert lost.max() < 1e-3


@pytest.mark.parametrize("vocab", [29, 128_256])
def test_some_tokens_are_those_of_all_that_count(tmp_path, vocab):
    about = tiny_cache.about(values="float64", vocab=vocab)
    addresses, record, which = tiny_cache.written(tmp_path, about)
    some = tiny_cache.some(which)
    found = CacheReader(tmp_path).read(addresses, some, [0] * 3)
    places = some[which].nonzero().flatten()
    assert torch.equal(found.ids, record.ids[places])
    assert torch.equal(found.rest, record.rest[places])


@pytest.mark.parametrize("values", ["code8", "float64"])
def test_an_impossible_token_is_no_error(tmp_path, values):
    about = tiny_cache.about(values=values, length=2)
    logits = torch.full((2, about.vocab), -torch.inf, dtype=torch.float64)
    logits[:, 3] = 1.0
    (address,) = tiny_cache.write_all(tmp_path, about, tiny_cache.top(logits, about.k))
    found = tiny_cache.read(CacheReader(tmp_path), [address])
    assert found.logprobs[0].tolist() == [0.0] + [-torch.inf] * 4
    assert found.rest[0] == -torch.inf


@pytest.mark.parametrize("where", ["logprobs", "rest"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 0.5])
def test_what_is_no_probability_is_an_error(tmp_path, where, wrong):
    about = tiny_cache.about()
    record = tiny_cache.record(about, 12)
    getattr(record, where).flatten()[1] = wrong
    with pytest.raises(NonFinite, match=where):
        tiny_cache.write_all(tmp_path, about, record)


@pytest.mark.parametrize("wrong", [29, 65_536, 70_000, -1])
def test_an_id_out_of_range_is_an_error(tmp_path, wrong):
    about = tiny_cache.about()
    record = tiny_cache.record(about, 12)
    record.ids[3, 2] = wrong
    with pytest.raises(CacheMismatch, match=f"{wrong:,}"):
        tiny_cache.write_all(tmp_path, about, record)


def test_an_id_that_two_bytes_would_wrap_is_an_error(tmp_path):
    about = tiny_cache.about(vocab=65_536)
    record = tiny_cache.record(about, 12)
    record.ids[0, 0] = 70_000
    with pytest.raises(CacheMismatch, match="70,000"):
        tiny_cache.write_all(tmp_path, about, record)


def test_an_id_twice_in_a_token_is_an_error(tmp_path):
    about = tiny_cache.about()
    record = tiny_cache.record(about, 12)
    record.ids[3, 2] = record.ids[3, 4]
    with pytest.raises(CacheMismatch, match="twice"):
        tiny_cache.write_all(tmp_path, about, record)


def test_an_unknown_rest_is_an_error(tmp_path):
    about = tiny_cache.about()
    record = tiny_cache.record(about, 12)
    with pytest.raises(CacheMismatch, match="outside"):
        tiny_cache.write_all(tmp_path, about, TopK(record.ids, record.logprobs))


def test_shapes_that_do_not_fit_are_told(tmp_path):
    about = tiny_cache.about()
    record = tiny_cache.record(about, 12)
    with pytest.raises(CacheMismatch, match=r"rest \(11,\) found; wanted \(12,\)"):
        tiny_cache.write_all(tmp_path, about, replace(record, rest=record.rest[:11]))
