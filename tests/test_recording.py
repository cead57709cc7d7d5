"""Recording ends with the same bytes, however often it was killed and by however many it was done."""

import contextlib
import os
import random
import shutil
import signal
import time
from dataclasses import replace

import pytest
import tiny
import tiny_cache
import torch

from limbeck.cache.format import SHARDS, shard_name
from limbeck.cache.kinds import estimate_row
from limbeck.cache.read import CacheReader
from limbeck.errors import CacheMismatch, Interrupted, LimbeckError, ModelError, NonFinite
from limbeck.recording import RecordCounts, check_space, record
from limbeck.selection.likeliest import likeliest
from limbeck.types import Signal

TEXT = tiny_cache.Text(20)


class Said:
    """A teacher that says the same signal, whatever it is asked."""

    def __init__(self, **parts):
        self.parts = parts

    def signal(self, batch, wanted):
        return Signal(**self.parts)


def run(path, *, teacher=None, positions=range(20), text=TEXT, about=None, **options):
    chosen = {"rows_per_shard": 4, "micro_rows": 3, "chunk": 5} | options
    return record(
        teacher or tiny_cache.Whole(),
        text,
        positions,
        path,
        about or tiny_cache.about(),
        **chosen,
    )


def test_what_is_recorded_is_what_the_teacher_says(tmp_path):
    teacher = tiny_cache.Whole()
    run(tmp_path, teacher=teacher, about=tiny_cache.about(values="float64"))
    batch = TEXT.batch([7, 3])
    found = tiny_cache.read(CacheReader(tmp_path), batch.addresses)
    wanted = likeliest(teacher.signal(batch, None).logits, 5)
    assert torch.equal(found.ids, wanted.ids)
    torch.testing.assert_close(found.logprobs, wanted.logprobs, atol=1e-12, rtol=0)
    torch.testing.assert_close(found.rest, wanted.rest, atol=1e-12, rtol=0)


def test_counts_tell_rows_and_bytes(tmp_path):
    done = run(tmp_path)
    sizes = [len(raw) for name, raw in tiny_cache.contents(tmp_path).items() if "/" in name]
    assert done == RecordCounts(20, 0, sum(sizes))
    assert run(tmp_path) == RecordCounts(0, 20, 0)


def test_rows_that_are_there_are_not_computed_again(tmp_path):
    run(tmp_path, positions=range(12))
    before = tiny_cache.contents(tmp_path)
    teacher = tiny_cache.Whole()
    run(tmp_path, teacher=teacher)
    assert teacher.asked == 8
    after = tiny_cache.contents(tmp_path)
    assert {name: after[name] for name in before} == before


def test_added_text_in_a_half_filled_group_becomes_one_more_shard(tmp_path):
    run(tmp_path, positions=range(10))
    done = run(tmp_path)
    assert (done.recorded, done.already_there) == (10, 10)
    assert len(list((tmp_path / SHARDS).iterdir())) == 6
    assert len(CacheReader(tmp_path, tiny_cache.about())) == 20


def test_several_epochs_and_another_order_add_nothing(tmp_path):
    run(tmp_path)
    before = tiny_cache.contents(tmp_path)
    assert run(tmp_path, positions=range(60)).recorded == 0
    assert run(tmp_path, positions=list(range(20))[::-1]).recorded == 0
    assert tiny_cache.contents(tmp_path) == before


def test_a_row_that_stands_twice_is_recorded_once(tmp_path):
    teacher = tiny_cache.Whole()
    done = run(tmp_path, teacher=teacher, positions=[3, 4, 3, 23, 4, 5])
    assert (done.recorded, teacher.asked) == (3, 3)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_the_number_of_ranks_does_not_change_a_byte(tmp_path, world):
    run(tmp_path / "one")
    counts = [run(tmp_path / "many", rank=rank, world=world) for rank in range(world)]
    assert sum(count.recorded for count in counts) == 20
    assert tiny_cache.contents(tmp_path / "many") == tiny_cache.contents(tmp_path / "one")


def test_the_size_of_a_chunk_changes_no_id_and_no_logprob(tmp_path):
    about = tiny_cache.about(values="float64")
    run(tmp_path / "small", about=about, chunk=1)
    run(tmp_path / "large", about=about, chunk=1000)
    addresses = TEXT.batch(range(20)).addresses
    small = tiny_cache.read(CacheReader(tmp_path / "small"), addresses)
    large = tiny_cache.read(CacheReader(tmp_path / "large"), addresses)
    assert torch.equal(small.ids, large.ids)
    torch.testing.assert_close(small.logprobs, large.logprobs, atol=1e-12, rtol=0)


def test_a_stopped_recording_leaves_whole_shards_and_goes_on(tmp_path):
    run(tmp_path / "whole")
    for calls in range(12):  # one look at the positions, two micro-batches in each of five shards
        place = tmp_path / f"stopped-{calls}"
        asked = iter([False] * calls)
        interrupted = pytest.raises(Interrupted, match=place.name)
        with interrupted if calls < 11 else contextlib.nullcontext():
            run(place, stop=lambda asked=asked: next(asked, True))
        CacheReader(place)
        assert not list(place.rglob(".partial-*"))
        run(place)
        assert tiny_cache.contents(place) == tiny_cache.contents(tmp_path / "whole")


def shards(path):
    """The shards that are there, whole."""
    return list((path / SHARDS).glob("[!.]*"))


def killed(path, seconds, *, behind_a_shard):
    """Records in a forked process and kills it after this time; whether the kill came before the end.

    behind_a_shard: the time counts from when the next shard is there. From the start, a busy machine would have nearly
    every kill come before the first.
    """
    before, child = len(shards(path)), os.fork()
    if child == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            run(path)
            code = 0
        finally:
            os._exit(code)
    ended, status = 0, 0
    while behind_a_shard and not ended and len(shards(path)) == before:
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.001)
    if not ended:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_recording_killed_at_any_moment_ends_with_the_same_bytes(tmp_path):
    begun = time.perf_counter()
    run(tmp_path / "whole")
    seconds = time.perf_counter() - begun
    whole = tiny_cache.contents(tmp_path / "whole")
    moments = random.Random(0)
    kills = between = 0
    for attempt in range(60):
        place = tmp_path / f"killed-{attempt}"
        for behind in (True, False) if attempt % 2 else (False, True):
            longest = 0.5 if behind else 1.2
            kills += killed(place, moments.uniform(0, longest) * seconds, behind_a_shard=behind)
            between += 0 < len(shards(place)) < 5
        run(place)
        assert tiny_cache.contents(place) == whole
        shutil.rmtree(place)
        if kills >= 40 and between >= 10:
            break
    assert kills >= 20
    assert between >= 5


def test_a_damaged_shard_is_recorded_again_after_it_is_deleted(tmp_path):
    run(tmp_path)
    before = tiny_cache.contents(tmp_path)
    shard = tmp_path / SHARDS / shard_name(TEXT.batch(range(4)).addresses)
    (shard / "planes.safetensors").write_bytes(b"")
    with pytest.raises(LimbeckError, match="Delete this shard"):
        run(tmp_path)
    shutil.rmtree(shard)
    assert run(tmp_path).recorded == 4
    assert tiny_cache.contents(tmp_path) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"k": 6},
        {"values": "float16"},
        {"vocab": 30},
    ],
    ids=str,
)
def test_nothing_is_added_to_a_cache_of_other_settings(tmp_path, changes):
    run(tmp_path, positions=range(4))
    before = tiny_cache.contents(tmp_path)
    with pytest.raises(CacheMismatch, match=str(next(iter(changes.values())))):
        run(tmp_path, about=tiny_cache.about(**changes))
    assert tiny_cache.contents(tmp_path) == before


def test_nothing_is_added_to_a_cache_of_another_teacher(tmp_path):
    run(tmp_path, positions=range(4))
    with pytest.raises(CacheMismatch, match="c" * 64):
        run(tmp_path, about=replace(tiny_cache.about(), teacher="c" * 64))


def test_a_source_of_other_length_is_refused_with_both(tmp_path):
    with pytest.raises(CacheMismatch, match="8 tokens, the cache rows of 6"):
        run(tmp_path, text=tiny_cache.Text(4, 8))


def test_a_text_that_changes_while_it_is_recorded_is_noticed(tmp_path):
    class Unsteady:
        rows, length = TEXT.rows, TEXT.length
        calls = 0

        def batch(self, positions):
            self.calls += 1
            batch = TEXT.batch(positions)
            return batch if self.calls == 1 else replace(batch, addresses=batch.addresses[::-1])

    with pytest.raises(CacheMismatch, match="text changed"):
        run(tmp_path, text=Unsteady())


def test_padded_logits_are_refused_with_both_numbers(tmp_path):
    with pytest.raises(ModelError, match="29 ids, the tokenizer has 27"):
        run(tmp_path, about=tiny_cache.about(vocab=27))


def test_a_teacher_without_distribution_cannot_be_recorded(tmp_path):
    with pytest.raises(ModelError, match="no distribution"):
        run(tmp_path, teacher=Said())


def test_a_recorded_teacher_can_be_recorded_again(tmp_path):
    top = likeliest(tiny.randn(18, 29, dtype=torch.float32), 5)
    run(tmp_path, teacher=Said(topk=top), positions=range(3))
    found = tiny_cache.read(CacheReader(tmp_path), TEXT.batch([0, 1, 2]).addresses)
    assert torch.equal(found.logprobs, top.logprobs)


def test_a_nan_is_refused_and_leaves_nothing(tmp_path):
    logits = tiny.randn(18, 29)
    logits[11, 3] = float("nan")
    with pytest.raises(NonFinite, match=r"rows at 0 to 2: token 1 of 5 has a logit that is NaN"):
        run(tmp_path, teacher=Said(logits=logits), positions=range(3))
    assert list((tmp_path / SHARDS).iterdir()) == []


def test_a_disk_too_small_is_told_before_anything_is_computed(tmp_path):
    with pytest.raises(LimbeckError, match=r"needs 1,000,000,000,000,000,000 bytes, the disk has"):
        check_space(tmp_path, 10**18)
    teacher = tiny_cache.Whole()
    text = tiny_cache.Text(1, 1)
    huge = tiny_cache.about(length=1, vocab=10**17, k=10**17)
    with pytest.raises(LimbeckError, match="disk"):
        run(tmp_path, teacher=teacher, text=text, positions=[0], about=huge)
    assert teacher.asked == 0


def test_the_estimate_of_bytes_is_near_and_not_below(tmp_path):
    about = tiny_cache.about(length=64)
    done = run(
        tmp_path, text=tiny_cache.Text(64, 64), positions=range(64), about=about, rows_per_shard=64
    )
    assert done.bytes <= 64 * (estimate_row(about) + 512) <= 1.3 * done.bytes


def test_an_error_in_writing_stops_the_recording_with_that_error(tmp_path):
    teacher = tiny_cache.Whole()
    addresses = TEXT.batch(range(4, 8)).addresses
    (tmp_path / SHARDS).mkdir(parents=True)

    class Blocking(tiny_cache.Whole):
        """Puts a file where the second shard will be, after the plan was made."""

        def signal(self, batch, wanted):
            (tmp_path / SHARDS / shard_name(addresses)).touch()
            return teacher.signal(batch, wanted)

    with pytest.raises((LimbeckError, OSError), match=shard_name(addresses)):
        run(tmp_path, teacher=Blocking())
    assert teacher.asked < 20
