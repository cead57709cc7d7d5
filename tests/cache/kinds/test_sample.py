"""Threshold samples are read as a slow look at each token finds them."""

from dataclasses import replace

import pytest
import tiny_cache
import torch

from limbeck.cache.read import CacheReader
from limbeck.errors import CacheMismatch, NonFinite


def slowly(record, draw, about):
    """{id: weight} of each token, one by one."""
    found = []
    for token in range(record.heads.shape[0]):
        begin = int(record.heads[:token].sum())
        end = begin + int(record.heads[token])
        exact = zip(record.head_ids[begin:end], record.head_logprobs[begin:end], strict=True)
        begin = int(record.tails[:draw].sum()) + int(record.tails[draw, :token].sum())
        drawn = record.tail_ids[begin : begin + int(record.tails[draw, token])]
        weights = {int(one): float(log.exp()) for one, log in exact}
        found.append(weights | {int(one): about.threshold for one in drawn})
    return found


@pytest.mark.parametrize("vocab", [29, 128_256, 262_144])
def test_every_draw_of_every_row_is_read_as_it_was_written(tmp_path, vocab):
    about = tiny_cache.about(kind="sample", vocab=vocab, draws=3)
    addresses, record, which = tiny_cache.written(tmp_path, about, rows=4)
    reader = CacheReader(tmp_path)
    expected = [slowly(record, draw, about) for draw in range(3)]
    places = which.flatten().cumsum(0).view(which.shape) - 1  # of each recorded token in the record
    draws, order = [1, 0, 2, 1], [2, 0, 3, 1]
    counted = tiny_cache.some(which)
    for chosen in (which, counted):
        found = reader.read([addresses[row] for row in order], chosen[order], draws)
        token = 0
        for row, draw in zip(order, draws, strict=True):
            for place in places[row][chosen[row]].tolist():
                kept = slice(int(found.starts[token]), int(found.starts[token + 1]))
                ids, weights = found.ids[kept].tolist(), found.weights[kept].tolist()
                assert dict(zip(ids, weights, strict=True)) == pytest.approx(
                    expected[draw][place], rel=about.threshold
                )
                assert (found.tokens[kept] == token).all()
                assert abs(float(found.entropy[token] - record.entropy[place])) < 0.025
                token += 1
        assert token == int(chosen.sum()) == found.starts.shape[0] - 1
        assert found.ids.dtype == torch.int64
        assert found.weights.dtype == torch.float32


def broken(record, **changes):
    return replace(record, **changes)


WRONG = {
    "an id beyond the vocabulary": (lambda r: {"tail_ids": r.tail_ids + 29}, "wanted 0 to 28"),
    "an id twice": (lambda r: {"head_ids": torch.zeros_like(r.head_ids)}, "twice"),
    "heads that do not sum": (lambda r: {"heads": r.heads + 1}, "heads sum to"),
    "tails that do not sum": (lambda r: {"tails": r.tails * 0}, "tails sum to 0"),
    "draws that are missing": (lambda r: {"tails": r.tails[:1]}, r"tails \(1, 12\) found; wanted \(2, 12\)"),
    "logs below the threshold": (lambda r: {"head_logprobs": r.head_logprobs - 3}, "another threshold"),
    "no entropy": (lambda r: {"entropy": None}, "not known"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_sample_is_refused(tmp_path, name):
    about = tiny_cache.about(kind="sample")
    record = tiny_cache.record(about, 12)
    change, said = WRONG[name]
    with pytest.raises(CacheMismatch, match=said):
        tiny_cache.write_all(tmp_path, about, broken(record, **change(record)))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -1.0])
def test_what_is_no_number_is_refused(tmp_path, value):
    about = tiny_cache.about(kind="sample")
    record = tiny_cache.record(about, 12)
    with pytest.raises(NonFinite, match="entropy"):
        tiny_cache.write_all(tmp_path, about, broken(record, entropy=record.entropy + value * 9))


def test_a_token_may_have_no_head_or_no_tail(tmp_path):
    about = tiny_cache.about(kind="sample", draws=1, length=2)
    record = tiny_cache.record(about, 2)
    one = broken(
        record,
        heads=torch.tensor([0, 1]),
        head_ids=torch.tensor([7]),
        head_logprobs=torch.zeros(1),
        tails=torch.tensor([[2, 0]]),
        tail_ids=torch.tensor([3, 4]),
    )
    (address,) = tiny_cache.write_all(tmp_path, about, one)
    found = tiny_cache.read(CacheReader(tmp_path), [address])
    assert found.ids.tolist() == [3, 4, 7]
    assert found.weights.tolist() == pytest.approx([0.05, 0.05, 1.0])
