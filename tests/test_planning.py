"""What is recorded is planned once, over all places where a row stands, and only what is missing."""

import tiny_cache
import tiny_weights

from limbeck.cache.format import SHARDS
from limbeck.cache.read import CacheReader
from limbeck.planning import Several
from limbeck.recording import record

TEXT = tiny_weights.TWENTY


def run(path, *, teacher=None, positions=range(20), text=TEXT, about=None, **options):
    chosen = {"rows_per_shard": 4, "micro_rows": 3, "chunk": 5} | options
    kept = about or tiny_cache.about()
    return record(teacher or tiny_cache.Whole(), text, positions, path, kept, **chosen)


def test_what_counts_in_any_place_of_a_row_is_recorded_in_one_go(tmp_path):
    one, other = tiny_weights.uneven(1), tiny_weights.uneven(2)
    teacher = tiny_weights.Counting()
    text = Several([(tiny_weights.Weighted(one), 20), (tiny_weights.Weighted(other), 20)])
    done = run(tmp_path, teacher=teacher, text=text, positions=range(40))
    assert (done.recorded, teacher.asked) == (20, 20)
    assert teacher.tokens == int(one.maximum(other).sum())


def test_rows_of_which_more_counts_now_are_recorded_anew(tmp_path):
    few, more = tiny_weights.uneven(), tiny_weights.uneven()
    more[4:6] = 1.0
    run(tmp_path, text=tiny_weights.Weighted(few))
    before = tiny_cache.contents(tmp_path)
    teacher = tiny_weights.Counting()
    assert run(tmp_path, teacher=teacher, text=tiny_weights.Weighted(more)).recorded == 2
    assert teacher.tokens == 12
    after = tiny_cache.contents(tmp_path)
    assert {name: after[name] for name in before} == before
    assert run(tmp_path, text=tiny_weights.Weighted(more)).recorded == 0
    assert run(tmp_path, text=tiny_weights.Weighted(few)).recorded == 0


def test_a_whole_group_of_which_more_counts_is_recorded_beside_the_old_one(tmp_path):
    run(tmp_path, text=tiny_weights.Weighted(tiny_weights.uneven()), positions=range(4))
    assert run(tmp_path, positions=range(4)).recorded == 4
    assert len(list((tmp_path / SHARDS).iterdir())) == 2
    addresses = TEXT.batch(range(4)).addresses
    assert tiny_cache.read(CacheReader(tmp_path), addresses).ids.shape[0] == 4 * TEXT.length
