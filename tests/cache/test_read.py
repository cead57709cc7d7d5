"""A cache is read whole and only with what it was recorded for; else it says why not."""

import shutil

import pytest
import tiny_cache
import torch

from limbeck.cache import format as form
from limbeck.cache.read import CacheReader
from limbeck.errors import CacheMismatch, Damaged, LimbeckError
from limbeck.recording import record

TEXT = tiny_cache.Text(10)
ADDRESSES = TEXT.batch(range(10)).addresses


@pytest.fixture
def place(tmp_path):
    """A cache of ten rows in three shards."""
    record_into(tmp_path / "cache")
    return tmp_path / "cache"


def record_into(path, *, text=TEXT, **changes):
    positions = range(text.rows)
    about = tiny_cache.about(**changes)
    record(tiny_cache.Whole(), text, positions, path, about, rows_per_shard=4)


def shards(place):
    return sorted((place / form.SHARDS).iterdir())


def test_rows_come_in_the_order_asked_for(place):
    reader = CacheReader(place)
    assert len(reader) == 10
    forward, backward = reader.rows(ADDRESSES), reader.rows(ADDRESSES[::-1])
    length = tiny_cache.LENGTH
    assert torch.equal(forward.ids[:length], backward.ids[-length:])
    assert torch.equal(forward.logprobs[-length:], backward.logprobs[:length])
    assert not torch.equal(forward.logprobs, backward.logprobs)


def test_the_size_of_a_batch_does_not_matter(place):
    reader = CacheReader(place)
    whole = reader.rows(ADDRESSES)
    singles = [reader.rows([address]) for address in ADDRESSES]
    assert torch.equal(whole.rest, torch.cat([single.rest for single in singles]))
    assert torch.equal(whole.ids, torch.cat([single.ids for single in singles]))


def test_a_moved_cache_reads_the_same(place, tmp_path):
    before = CacheReader(place).rows(ADDRESSES)
    moved = tmp_path / "other" / "name"
    moved.parent.mkdir()
    place.rename(moved)
    after = CacheReader(moved, tiny_cache.about()).rows(ADDRESSES)
    assert torch.equal(before.logprobs, after.logprobs)


def test_an_unfinished_shard_beside_the_others_is_ignored(place):
    (place / form.SHARDS / ".partial-1-00000000-abc").mkdir()
    assert len(CacheReader(place)) == 10


def test_each_flipped_byte_of_each_file_is_refused_by_name(tmp_path):
    place = tmp_path / "cache"
    record_into(place, text=tiny_cache.Text(2), k=2)
    for name, whole in tiny_cache.contents(place).items():
        for index in range(len(whole)):
            changed = bytearray(whole)
            changed[index] ^= 1 << (index % 8)
            (place / name).write_bytes(changed)
            for lazily in (False, True):
                with pytest.raises(Damaged) as caught:
                    CacheReader(place, lazily=lazily).rows(ADDRESSES[:1])
                assert name.rpartition("/")[2] in str(caught.value)
        (place / name).write_bytes(whole)
    CacheReader(place)


def test_a_lazy_reader_refuses_a_damaged_shard_when_it_is_touched(place):
    damaged = next(shard for shard in shards(place) if shard.name == form.shard_name(ADDRESSES[:4]))
    raw = bytearray((damaged / form.TENSORS).read_bytes())
    raw[-1] ^= 1
    (damaged / form.TENSORS).write_bytes(raw)
    reader = CacheReader(place, lazily=True)
    reader.rows(ADDRESSES[4:])
    with pytest.raises(Damaged, match=damaged.name):
        reader.rows(ADDRESSES[3:])


def test_damage_tells_what_to_delete_and_do(place):
    (shards(place)[1] / form.TENSORS).unlink()
    with pytest.raises(Damaged, match=r"is missing.*Delete this shard's folder.*limbeck record"):
        CacheReader(place)


def test_a_deleted_shard_is_missed_with_counts(place):
    shutil.rmtree(place / form.SHARDS / form.shard_name(ADDRESSES[4:8]))
    with pytest.raises(CacheMismatch, match=r"4 of the 10 rows .* holds 6") as caught:
        CacheReader(place).rows(ADDRESSES)
    assert ADDRESSES[4] in str(caught.value)


def test_swapped_shards_are_refused(place):
    first, second, _ = shards(place)
    first.rename(place / "aside")
    second.rename(first)
    (place / "aside").rename(second)
    with pytest.raises(Damaged, match="renamed or swapped"):
        CacheReader(place)


def test_swapped_tensors_are_refused(place):
    first, second, _ = (shard / form.TENSORS for shard in shards(place))
    mine, theirs = first.read_bytes(), second.read_bytes()
    first.write_bytes(theirs)
    second.write_bytes(mine)
    with pytest.raises(Damaged, match=r"rows\.safetensors"):
        CacheReader(place)


@pytest.mark.parametrize("lazily", [False, True])
def test_the_shard_of_another_teachers_cache_is_refused(place, tmp_path, lazily):
    record_into(tmp_path / "older", teacher="c" * 64)
    shutil.rmtree(shards(place)[0])
    foreign = shards(tmp_path / "older")[0]
    shutil.copytree(foreign, place / form.SHARDS / foreign.name)
    with pytest.raises(CacheMismatch, match="another cache") as caught:
        CacheReader(place, lazily=lazily)
    assert tiny_cache.about().identity in str(caught.value)
    assert tiny_cache.about(teacher="c" * 64).identity in str(caught.value)


def test_what_is_no_shard_is_refused_by_name(place):
    (place / form.SHARDS / "notes.txt").write_text("mine")
    with pytest.raises(Damaged, match=r"notes\.txt"):
        CacheReader(place)


def test_a_replaced_description_does_not_open_the_shards(place):
    form.write_about(place, tiny_cache.about(teacher="c" * 64))
    with pytest.raises(CacheMismatch, match="another cache"):
        CacheReader(place, tiny_cache.about(teacher="c" * 64))


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher": "a" * 63 + "b"},
        {"tokenizer": "b" * 63 + "c"},
        {"vocab": 30},
        {"k": 6},
        {"logprobs": "float16"},
        {"length": 12},
    ],
    ids=str,
)
def test_a_cache_recorded_otherwise_is_refused_with_both_values(place, changes):
    wanted = tiny_cache.about(**changes)
    ((name, value),) = changes.items()
    with pytest.raises(CacheMismatch) as caught:
        CacheReader(place, wanted)
    assert f"{name} {value}" in str(caught.value)
    assert f"{name} {getattr(tiny_cache.about(), name)}" in str(caught.value)


def test_a_row_of_other_text_was_never_recorded(place):
    other = tiny_cache.Text(3, seed=1).batch([1]).addresses
    with pytest.raises(CacheMismatch, match=r"1 of the 2 rows") as caught:
        CacheReader(place).rows([ADDRESSES[0], *other])
    assert other[0] in str(caught.value)


def test_every_refusal_is_one_that_users_can_catch(place):
    with pytest.raises(LimbeckError):
        CacheReader(place / "nowhere")
