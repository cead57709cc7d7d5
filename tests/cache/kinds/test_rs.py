"""Resampled ids are read with the weights they were written with."""

from dataclasses import replace

import pytest
import tiny_cache
import torch

from limbeck.cache.read import CacheReader
from limbeck.errors import CacheMismatch


@pytest.mark.parametrize("vocab", [29, 128_256, 262_144])
def test_what_is_written_is_read(tmp_path, vocab):
    about = tiny_cache.about(kind="rs", vocab=vocab)
    addresses, record, which = tiny_cache.written(tmp_path, about)
    found = CacheReader(tmp_path).read(addresses, which, [0] * 3)
    assert torch.equal(found.ids, record.ids)
    assert torch.equal(found.tokens, record.tokens)
    assert torch.equal(found.starts, record.starts)
    torch.testing.assert_close(found.weights, record.weights, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.entropy, record.entropy, atol=0.025, rtol=0)


def test_some_tokens_are_read_as_a_slow_look_finds_them(tmp_path):
    about = tiny_cache.about(kind="rs")
    addresses, record, which = tiny_cache.written(tmp_path, about)
    some = tiny_cache.some(which)
    found = CacheReader(tmp_path).read(addresses, some, [0] * 3)
    expected = [
        (token, int(one), float(weight))
        for token, place in enumerate(some[which].nonzero().flatten().tolist())
        for one, weight in zip(record[place : place + 1].ids, record[place : place + 1].weights, strict=True)
    ]  # fmt: skip
    read = zip(found.tokens.tolist(), found.ids.tolist(), found.weights.tolist(), strict=True)
    assert [row for each in read for row in each] == pytest.approx(
        [row for each in expected for row in each]
    )


WRONG = {
    "weights of other samples": (lambda r: {"weights": r.weights * 0.7}, "teacher.cached.samples"),
    "a weight of nothing": (lambda r: {"weights": r.weights * 0}, "1 to 20 times"),
    "an id beyond the vocabulary": (lambda r: {"ids": r.ids + 29}, "wanted 0 to 28"),
    "an id twice": (lambda r: {"ids": r.ids * 0}, "twice"),
    "no entropy": (lambda r: {"entropy": None}, "not known"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_was_not_resampled_is_refused(tmp_path, name):
    about = tiny_cache.about(kind="rs")
    record = tiny_cache.record(about, 12)
    change, said = WRONG[name]
    with pytest.raises(CacheMismatch, match=said):
        tiny_cache.write_all(tmp_path, about, replace(record, **change(record)))
