"""A shard is fit to be read, or it is not written."""

from dataclasses import replace

import pytest
import tiny
import tiny_cache
import torch

from limbeck import files
from limbeck.cache.format import SHARDS, shard_name
from limbeck.cache.read import CacheReader
from limbeck.cache.write import create_or_check, write_shard
from limbeck.errors import CacheMismatch, LimbeckError

ROWS = ("a" * 32, "b" * 32)
TOKENS = ("0" * 32, "1" * 32)


def write(path, about, record, *, addresses=ROWS, tokens=TOKENS, recorded=None):
    create_or_check(path, about)
    every = torch.ones(len(addresses), about.length, dtype=torch.bool)
    which = every if recorded is None else recorded
    return write_shard(path, addresses, record, about, tokens=tokens, recorded=which)


def record(about, tokens=2 * tiny_cache.LENGTH, seed=0):
    return tiny_cache.record(about, tokens, seed=seed)


@pytest.mark.parametrize("kind", tiny_cache.KINDS)
def test_a_written_shard_is_whole_and_named_by_its_rows(tmp_path, kind):
    about = tiny_cache.about(kind=kind)
    folder = write(tmp_path, about, record(about))
    assert folder.name == shard_name(ROWS)
    assert set(files.verify(folder).files) == {"rows.safetensors", "planes.safetensors"}
    reader = CacheReader(tmp_path, about)
    assert [reader.tokens(row) for row in ROWS] == list(TOKENS)


def test_beginning_twice_changes_nothing(tmp_path):
    create_or_check(tmp_path, tiny_cache.about())
    before = tiny_cache.contents(tmp_path)
    create_or_check(tmp_path, tiny_cache.about(libraries={"torch": "other"}))
    assert tiny_cache.contents(tmp_path) == before


@pytest.mark.parametrize(
    ("kind", "missing"),
    [("hidden8", {"head": ""}), ("hidden8", {"width": 0}), ("kl-vector", {"head": ""})],
)
def test_a_cache_whose_head_is_not_known_is_not_begun(tmp_path, kind, missing):
    with pytest.raises(CacheMismatch, match="digest of its head"):
        create_or_check(tmp_path, tiny_cache.about(kind=kind, **missing))
    assert not list(tmp_path.iterdir())


def test_another_teacher_may_not_add_to_a_cache(tmp_path):
    create_or_check(tmp_path, tiny_cache.about())
    with pytest.raises(CacheMismatch) as caught:
        create_or_check(tmp_path, tiny_cache.about(teacher="c" * 64))
    assert "a" * 64 in str(caught.value)
    assert "c" * 64 in str(caught.value)


def test_shards_of_unknown_origin_are_not_adopted(tmp_path):
    about = tiny_cache.about()
    write(tmp_path, about, record(about))
    (tmp_path / "cache.json").unlink()
    with pytest.raises(CacheMismatch, match="unknown"):
        create_or_check(tmp_path, about)


@pytest.mark.parametrize("wrong", [29, 65_536, 70_000, -1])
def test_a_record_that_is_not_fit_writes_nothing_and_names_the_shard(tmp_path, wrong):
    about = tiny_cache.about()
    kept = record(about)
    kept.ids[3, 2] = wrong
    with pytest.raises(CacheMismatch, match=f"{shard_name(ROWS)}.*{wrong:,}"):
        write(tmp_path, about, kept)
    assert list((tmp_path / SHARDS).iterdir()) == []


def test_a_record_of_another_kind_is_refused_with_both(tmp_path):
    sampled = record(tiny_cache.about(kind="rs"))
    with pytest.raises(CacheMismatch, match=r"a Sampled was given; kind 'topk\+rest' keeps TopK"):
        write(tmp_path, tiny_cache.about(), sampled)


def test_an_address_twice_in_a_shard_is_an_error(tmp_path):
    about = tiny_cache.about()
    with pytest.raises(CacheMismatch, match="2 rows, 1 different"):
        write(tmp_path, about, record(about), addresses=("a" * 32, "a" * 32))


def test_an_address_that_is_no_digest_is_an_error(tmp_path):
    about = tiny_cache.about()
    with pytest.raises(CacheMismatch, match="'row-1' found; wanted 32 hexadecimal digits"):
        write(tmp_path, about, record(about), addresses=("a" * 32, "row-1"))


def test_a_list_of_recorded_tokens_of_another_shape_is_an_error(tmp_path):
    about = tiny_cache.about()
    with pytest.raises(CacheMismatch, match=r"recorded \(2, 5\); wanted \(2, 6\)"):
        write(tmp_path, about, record(about), recorded=torch.ones(2, 5, dtype=torch.bool))


def test_a_record_of_more_tokens_than_are_recorded_is_an_error(tmp_path):
    about = tiny_cache.about()
    with pytest.raises(CacheMismatch, match=r"\(18, 5\) found; wanted \(12, 5\)"):
        write(tmp_path, about, record(about, 18))


def test_a_shard_is_never_written_over(tmp_path):
    about = tiny_cache.about()
    folder = write(tmp_path, about, record(about))
    before = tiny_cache.contents(folder)
    with pytest.raises(LimbeckError, match="never written over"):
        write(tmp_path, about, record(about, seed=1))
    assert tiny_cache.contents(folder) == before
    files.verify(folder)


def test_the_same_rows_with_more_tokens_are_another_shard(tmp_path):
    about = tiny_cache.about()
    which = torch.ones(2, about.length, dtype=torch.bool)
    which[0, 0] = False
    some = write(tmp_path, about, record(about, 11), recorded=which)
    assert write(tmp_path, about, record(about)) != some
    assert len(CacheReader(tmp_path, about)) == 2


def test_a_record_on_another_device_dtype_or_layout_is_written_the_same(tmp_path):
    about = tiny_cache.about(kind="hidden8")
    hidden = record(about)
    one = write(tmp_path / "one", about, hidden)
    turned = hidden.T.contiguous().T.double().requires_grad_()
    two = write(tmp_path / "two", about, turned)
    assert tiny_cache.contents(one) == tiny_cache.contents(two)


def test_half_precision_records_are_written(tmp_path):
    about = tiny_cache.about(kind="kl-vector")
    kept = record(about)
    half = replace(kept, rows=kept.rows.bfloat16(), entropy=kept.entropy.bfloat16())
    write(tmp_path, about, half)
    found = tiny_cache.read(CacheReader(tmp_path), ROWS)
    torch.testing.assert_close(found.rows, half.rows.float(), atol=0.02, rtol=0)


def test_writing_needs_no_gradient_and_leaves_the_record_alone(tmp_path):
    about = tiny_cache.about(values="code8")
    logprobs = tiny.randn(12, about.vocab).log_softmax(-1).requires_grad_()
    kept = tiny_cache.top(logprobs, about.k)
    before = kept.logprobs.detach().clone()
    write(tmp_path, about, kept)
    assert torch.equal(kept.logprobs, before)
