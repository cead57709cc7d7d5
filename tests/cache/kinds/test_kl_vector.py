"""Mean rows are read exactly, or within half a step of their group."""

import pytest
import tiny_cache
import torch

from limbeck.cache.read import CacheReader
from limbeck.errors import NonFinite
from limbeck.types import HeadMean

TOLERANCE = {"code8": 0.02, "float16": 2e-3, "float32": 0.0, "float64": 0.0}


@pytest.mark.parametrize("values", TOLERANCE)
def test_what_is_written_is_read(tmp_path, values):
    about = tiny_cache.about(kind="kl-vector", values=values)
    addresses, record, which = tiny_cache.written(tmp_path, about)
    reader = CacheReader(tmp_path)
    found = reader.read(addresses, which, [0] * 3)
    read = found.rows.to(record.rows.dtype)
    torch.testing.assert_close(read, record.rows, atol=TOLERANCE[values], rtol=0)
    torch.testing.assert_close(found.entropy.float(), record.entropy, atol=0, rtol=0)
    some = tiny_cache.some(which)
    half = reader.read(addresses, some, [0] * 3)
    assert torch.equal(half.rows, found.rows[some[which]])
    assert torch.equal(half.entropy, found.entropy[some[which]])


@pytest.mark.parametrize(
    ("values", "wrong"), [("float32", torch.nan), ("float16", 1e6), ("code8", 1e9)]
)
def test_what_the_bytes_cannot_hold_is_refused(tmp_path, values, wrong):
    about = tiny_cache.about(kind="kl-vector", values=values)
    record = tiny_cache.record(about, 12)
    rows = record.rows.clone()
    rows[1, 2] = wrong
    with pytest.raises(NonFinite, match="rows"):
        tiny_cache.write_all(tmp_path, about, HeadMean(rows, record.entropy))
