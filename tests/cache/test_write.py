"""A shard is fit to be read, or it is not written."""

import pytest
import tiny
import tiny_cache
import torch

from limbeck import files
from limbeck.cache.format import SHARDS, shard_name
from limbeck.cache.read import CacheReader
from limbeck.cache.write import create_or_check, write_shard
from limbeck.errors import CacheMismatch, LimbeckError, NonFinite
from limbeck.recording import likeliest
from limbeck.types import TopK

ROWS = ("first", "second")
TOKENS = ("0" * 32, "1" * 32)


def kept(about, *, rows=2, seed=0):
    logits = tiny.randn(rows * about.length, about.vocab, seed=seed)
    return likeliest(logits, about.k)


def write(path, about, top, addresses=ROWS, tokens=TOKENS):
    create_or_check(path, about)
    return write_shard(path, addresses, top, about, tokens=tokens)


@pytest.mark.parametrize(
    ("vocab", "logprobs", "tolerance"),
    [(29, "float64", 0.0), (29, "float32", 1e-6), (29, "float16", 1e-2), (70_000, "float64", 0.0)],
)
def test_what_is_written_is_read(tmp_path, vocab, logprobs, tolerance):
    about = tiny_cache.about(vocab=vocab, logprobs=logprobs)
    top = kept(about)
    folder = write(tmp_path, about, top)
    assert folder.name == shard_name(ROWS)
    found = CacheReader(tmp_path, about).rows(ROWS)
    assert found.ids.dtype == torch.int64
    assert torch.equal(found.ids, top.ids)
    assert found.logprobs.dtype == about.floats
    torch.testing.assert_close(found.logprobs.double(), top.logprobs, atol=tolerance, rtol=0)
    torch.testing.assert_close(found.rest.double(), top.rest, atol=tolerance, rtol=0)


def test_beginning_twice_changes_nothing(tmp_path):
    create_or_check(tmp_path, tiny_cache.about())
    before = tiny_cache.contents(tmp_path)
    create_or_check(tmp_path, tiny_cache.about(libraries={"torch": "other"}))
    assert tiny_cache.contents(tmp_path) == before


def test_another_teacher_may_not_add_to_a_cache(tmp_path):
    create_or_check(tmp_path, tiny_cache.about())
    with pytest.raises(CacheMismatch) as caught:
        create_or_check(tmp_path, tiny_cache.about(teacher="c" * 64))
    assert "a" * 64 in str(caught.value)
    assert "c" * 64 in str(caught.value)


def test_shards_of_unknown_origin_are_not_adopted(tmp_path):
    about = tiny_cache.about()
    write(tmp_path, about, kept(about))
    (tmp_path / "cache.json").unlink()
    with pytest.raises(CacheMismatch, match="unknown"):
        create_or_check(tmp_path, about)


@pytest.mark.parametrize("wrong", [29, 65_536, 70_000, -1])
def test_an_id_out_of_range_is_an_error_and_writes_nothing(tmp_path, wrong):
    about = tiny_cache.about()
    top = kept(about)
    top.ids[3, 2] = wrong
    with pytest.raises(CacheMismatch, match=f"{wrong:,}"):
        write(tmp_path, about, top)
    assert list((tmp_path / SHARDS).iterdir()) == []


def test_an_id_that_two_bytes_would_wrap_is_an_error(tmp_path):
    about = tiny_cache.about(vocab=65_536)
    top = kept(about)
    top.ids[0, 0] = 70_000
    with pytest.raises(CacheMismatch, match="70,000"):
        write(tmp_path, about, top)


def test_an_id_twice_in_a_token_is_an_error(tmp_path):
    about = tiny_cache.about()
    top = kept(about)
    top.ids[3, 2] = top.ids[3, 4]
    with pytest.raises(CacheMismatch, match="twice"):
        write(tmp_path, about, top)


@pytest.mark.parametrize("where", ["logprobs", "rest"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 0.5])
def test_what_is_no_probability_is_an_error(tmp_path, where, wrong):
    about = tiny_cache.about()
    top = kept(about)
    getattr(top, where).flatten()[1] = wrong
    with pytest.raises(NonFinite, match=where):
        write(tmp_path, about, top)


def test_an_impossible_token_is_no_error(tmp_path):
    about = tiny_cache.about(logprobs="float64")
    logits = torch.full((2 * about.length, about.vocab), -torch.inf, dtype=torch.float64)
    logits[:, 3] = 1.0
    write(tmp_path, about, likeliest(logits, about.k))
    found = CacheReader(tmp_path, about).rows(ROWS)
    assert found.logprobs[0].tolist() == [0.0] + [-torch.inf] * 4
    assert found.rest[0] == -torch.inf


def test_shapes_that_do_not_fit_are_told(tmp_path):
    about = tiny_cache.about()
    with pytest.raises(CacheMismatch, match=r"\(18, 5\).*\(12, 5\)"):
        write(tmp_path, about, kept(about, rows=3))


def test_an_unknown_rest_is_an_error(tmp_path):
    about = tiny_cache.about()
    top = kept(about)
    with pytest.raises(CacheMismatch, match="outside"):
        write(tmp_path, about, TopK(top.ids, top.logprobs))


def test_an_address_twice_in_a_shard_is_an_error(tmp_path):
    about = tiny_cache.about()
    with pytest.raises(CacheMismatch, match="2 rows, 1 different"):
        write(tmp_path, about, kept(about), addresses=("one", "one"))


def test_a_shard_is_never_written_over(tmp_path):
    about = tiny_cache.about()
    folder = write(tmp_path, about, kept(about))
    before = tiny_cache.contents(folder)
    with pytest.raises(LimbeckError, match="never written over"):
        write(tmp_path, about, kept(about, seed=1))
    assert tiny_cache.contents(folder) == before
    files.verify(folder)
