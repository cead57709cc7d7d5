"""A cache is read whole and only with what it was recorded for; else it says why not."""

import shutil

import pytest
import tiny_cache
import torch

from limbeck.cache import format as form
from limbeck.cache.read import CacheReader
from limbeck.cache.write import create_or_check, write_shard
from limbeck.errors import CacheMismatch, Damaged, LimbeckError

TEXT = tiny_cache.Text(10)
ADDRESSES = TEXT.batch(range(10)).addresses


@pytest.fixture
def place(tmp_path):
    """A cache of ten rows in three shards."""
    record_into(tmp_path / "cache")
    return tmp_path / "cache"


def record_into(path, *, text=TEXT, **changes):
    tiny_cache.recorded_into(path, text, tiny_cache.about(**changes), rows_per_shard=4)


def touch(place, address, *, lazily):
    """Opens the shard of a row and reads nothing of it."""
    CacheReader(place, lazily=lazily).read([address], torch.zeros(1, 2, dtype=torch.bool), [0])


def shards(place):
    return sorted((place / form.SHARDS).iterdir())


def test_rows_come_in_the_order_asked_for(place):
    reader = CacheReader(place)
    assert len(reader) == 10
    forward, backward = tiny_cache.read(reader, ADDRESSES), tiny_cache.read(reader, ADDRESSES[::-1])
    length = tiny_cache.LENGTH
    assert torch.equal(forward.ids[:length], backward.ids[-length:])
    assert torch.equal(forward.logprobs[-length:], backward.logprobs[:length])
    assert not torch.equal(forward.logprobs, backward.logprobs)


def test_the_size_of_a_batch_does_not_matter(place):
    reader = CacheReader(place)
    whole = tiny_cache.read(reader, ADDRESSES)
    singles = [tiny_cache.read(reader, [address]) for address in ADDRESSES]
    assert torch.equal(whole.rest, torch.cat([single.rest for single in singles]))
    assert torch.equal(whole.ids, torch.cat([single.ids for single in singles]))


def test_a_moved_cache_reads_the_same(place, tmp_path):
    before = tiny_cache.read(CacheReader(place), ADDRESSES)
    moved = tmp_path / "other" / "name"
    moved.parent.mkdir()
    place.rename(moved)
    after = tiny_cache.read(CacheReader(moved, tiny_cache.about()), ADDRESSES)
    assert torch.equal(before.logprobs, after.logprobs)


def test_an_unfinished_shard_beside_the_others_is_ignored(place):
    (place / form.SHARDS / ".partial-1-00000000-abc").mkdir()
    assert len(CacheReader(place)) == 10


@pytest.mark.parametrize("kind", tiny_cache.KINDS)
def test_each_flipped_byte_of_each_file_is_refused_by_name(tmp_path, kind):
    place = tmp_path / "cache"
    addresses, _, _ = tiny_cache.written(place, tiny_cache.about(kind=kind, length=2), rows=2)
    for name, whole in tiny_cache.contents(place).items():
        for index in range(len(whole)):
            changed = bytearray(whole)
            changed[index] ^= 1 << (index % 8)
            (place / name).write_bytes(changed)
            for lazily in (False, True):
                with pytest.raises(Damaged) as caught:
                    touch(place, addresses[0], lazily=lazily)
                assert name.rpartition("/")[2] in str(caught.value)
        (place / name).write_bytes(whole)
    CacheReader(place)


def test_a_lazy_reader_refuses_a_damaged_shard_when_it_is_touched(place):
    damaged = next(shard for shard in shards(place) if shard.name == form.shard_name(ADDRESSES[:4]))
    raw = bytearray((damaged / form.PLANES).read_bytes())
    raw[-1] ^= 1
    (damaged / form.PLANES).write_bytes(raw)
    reader = CacheReader(place, lazily=True)
    tiny_cache.read(reader, ADDRESSES[4:])
    with pytest.raises(Damaged, match=damaged.name):
        tiny_cache.read(reader, ADDRESSES[3:])


def test_damage_tells_what_to_delete_and_do(place):
    (shards(place)[1] / form.PLANES).unlink()
    with pytest.raises(Damaged, match=r"is missing.*Delete this shard's folder.*limbeck record"):
        CacheReader(place)


def test_a_deleted_shard_is_missed_with_counts(place):
    shutil.rmtree(place / form.SHARDS / form.shard_name(ADDRESSES[4:8]))
    with pytest.raises(CacheMismatch, match=r"4 of the 10 rows .* holds 6") as caught:
        tiny_cache.read(CacheReader(place), ADDRESSES)
    assert ADDRESSES[4] in str(caught.value)


def test_swapped_shards_are_refused(place):
    first, second, _ = shards(place)
    first.rename(place / "aside")
    second.rename(first)
    (place / "aside").rename(second)
    with pytest.raises(Damaged, match="renamed or swapped"):
        CacheReader(place)


def test_swapped_tensors_are_refused(place):
    first, second, _ = (shard / form.PLANES for shard in shards(place))
    mine, theirs = first.read_bytes(), second.read_bytes()
    first.write_bytes(theirs)
    second.write_bytes(mine)
    with pytest.raises(Damaged, match=r"planes\.safetensors"):
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
        {"kind": "sample"},
        {"values": "float16"},
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
        tiny_cache.read(CacheReader(place), [ADDRESSES[0], *other])
    assert other[0] in str(caught.value)


def test_every_refusal_is_one_that_users_can_catch(place):
    with pytest.raises(LimbeckError):
        CacheReader(place / "nowhere")


def test_a_row_that_stands_twice_is_read_where_most_of_it_is(tmp_path):
    about = tiny_cache.about(length=4)
    create_or_check(tmp_path, about)
    address = "a" * 32
    some, more = (
        torch.tensor([[True, True, False, False]]),
        torch.tensor([[True, True, True, False]]),
    )
    for which, seed in ((some, 1), (more, 2)):
        kept = tiny_cache.record(about, int(which.sum()), seed=seed)
        write_shard(tmp_path, [address], kept, about, tokens=[address], recorded=which)
    reader = CacheReader(tmp_path)
    assert len(reader) == 1
    expected = tiny_cache.record(about, 3, seed=2)
    assert torch.equal(reader.read([address], some, [0]).ids, expected.ids[:2])
    assert torch.equal(reader.read([address], more, [0]).ids, expected.ids)


def test_a_row_whose_halves_stand_apart_is_read_half_by_half_and_not_whole(tmp_path):
    about = tiny_cache.about(length=4)
    create_or_check(tmp_path, about)
    address = "a" * 32
    left = torch.tensor([[True, True, False, False]])
    for which in (left, ~left):
        kept = tiny_cache.record(about, 2)
        write_shard(tmp_path, [address], kept, about, tokens=[address], recorded=which)
    reader = CacheReader(tmp_path)
    for which in (left, ~left):
        assert reader.covers(address, which[0])
        assert reader.read([address], which, [0]).ids.shape == (2, 5)
    assert not reader.covers(address, torch.ones(4, dtype=torch.bool))
    with pytest.raises(
        CacheMismatch, match=rf"{address} counts 4 tokens.*\(2 were\).*limbeck record"
    ):
        tiny_cache.read(reader, [address])


def test_tokens_that_count_and_were_not_recorded_are_refused_by_row(tmp_path):
    addresses, _, which = tiny_cache.written(tmp_path, tiny_cache.about())
    reader = CacheReader(tmp_path)
    assert reader.covers(addresses[1], which[1])
    wrong = which.clone()
    wrong[1, int((~which[1]).nonzero()[0])] = True
    assert not reader.covers(addresses[1], wrong[1])
    with pytest.raises(CacheMismatch, match=addresses[1]):
        reader.read(addresses, wrong, [0, 0, 0])


def test_an_unknown_row_is_not_covered(place):
    assert not CacheReader(place).covers("f" * 32, torch.zeros(tiny_cache.LENGTH, dtype=torch.bool))


def test_no_token_of_a_row_may_be_wanted(place):
    nothing = torch.zeros(2, tiny_cache.LENGTH, dtype=torch.bool)
    assert CacheReader(place).read(ADDRESSES[:2], nothing, [0, 0]).ids.shape == (0, 5)


def test_a_draw_that_was_not_recorded_is_refused(tmp_path):
    addresses, _, which = tiny_cache.written(tmp_path, tiny_cache.about(kind="sample"))
    with pytest.raises(CacheMismatch, match=r"draw 2 .* 2 were recorded"):
        CacheReader(tmp_path).read(addresses, which, [0, 1, 2])


def test_rows_of_another_length_are_refused(place):
    wrong = torch.ones(1, tiny_cache.LENGTH + 1, dtype=torch.bool)
    with pytest.raises(CacheMismatch, match=r"\(1, 7\); wanted \(1, 6\)"):
        CacheReader(place).read(ADDRESSES[:1], wrong, [0])


def test_more_shards_than_stay_open_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("limbeck.cache.read._OPEN", 2)
    tiny_cache.recorded_into(tmp_path, TEXT, tiny_cache.about(), rows_per_shard=1)
    for lazily in (False, True):
        reader = CacheReader(tmp_path, lazily=lazily)
        forward = tiny_cache.read(reader, ADDRESSES)
        backward = tiny_cache.read(reader, ADDRESSES[::-1])
        assert torch.equal(forward.rest.view(10, -1), backward.rest.view(10, -1).flip(0))
