"""Hidden states are read within half a step of their group."""

import pytest
import tiny
import tiny_cache
import torch

from limbeck.cache.read import CacheReader
from limbeck.errors import CacheMismatch, NonFinite


def test_hidden_states_come_back_near_and_in_order(tmp_path):
    about = tiny_cache.about(kind="hidden8")
    addresses, record, which = tiny_cache.written(tmp_path, about)
    reader = CacheReader(tmp_path)
    found = reader.read(addresses, which, [0] * 3)
    torch.testing.assert_close(found, record, atol=record.abs().max().item() / 200, rtol=0)
    some = tiny_cache.some(which)
    assert torch.equal(reader.read(addresses, some, [0] * 3), found[some[which]])


def test_the_distribution_changes_little(tmp_path):
    about = tiny_cache.about(kind="hidden8")
    addresses, record, which = tiny_cache.written(tmp_path, about, rows=40)
    found = CacheReader(tmp_path).read(addresses, which, [0] * 40)
    head = tiny.randn(about.vocab, about.width, seed=3).float() / 4
    exact, coded = ((hidden @ head.T).log_softmax(-1) for hidden in (record, found))
    # The width of a small model: 1.8e-3 was measured at 576 with a real one.
    assert (exact.exp() * (exact - coded)).sum(-1).mean() < 5e-3


@pytest.mark.parametrize(
    ("value", "said"), [(torch.nan, "hidden"), (torch.inf, "hidden"), (1e9, "half")]
)
def test_what_a_scale_cannot_hold_is_refused(tmp_path, value, said):
    about = tiny_cache.about(kind="hidden8")
    record = tiny_cache.record(about, 12)
    record[3, 4] = value
    with pytest.raises(NonFinite, match=said):
        tiny_cache.write_all(tmp_path, about, record)


def test_another_width_is_refused(tmp_path):
    about = tiny_cache.about(kind="hidden8")
    with pytest.raises(CacheMismatch, match=r"\(12, 71\) found; wanted \(12, 70\)"):
        tiny_cache.write_all(tmp_path, about, torch.zeros(12, 71))
