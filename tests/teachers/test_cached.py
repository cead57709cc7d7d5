"""A recorded teacher says what the live one said, and nothing about anything else."""

from dataclasses import replace

import pytest
import tiny
import tiny_cache
import torch

from limbeck.cache.read import CacheReader
from limbeck.errors import CacheMismatch, RecipeError
from limbeck.objectives.forward_kl import forward_kl
from limbeck.objectives.reverse_kl import reverse_kl
from limbeck.recording import record
from limbeck.teachers.cached import Cached, cached
from limbeck.teachers.live import Live
from limbeck.types import Wanted

TEXT = tiny_cache.Text(8)


def recorded(path, teacher=None, **changes):
    about = tiny_cache.about(**changes)
    record(teacher or tiny_cache.Whole(), TEXT, range(8), path, about, rows_per_shard=3)
    return path


@pytest.fixture
def place(tmp_path):
    return recorded(tmp_path / "cache")


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("objective", [forward_kl, reverse_kl])
def test_cached_with_every_token_equals_live(tmp_path, objective, temperature):
    live = Live(tiny.llama(dtype=torch.float64), vocab=tiny.VOCAB)
    place = recorded(tmp_path, live, k=tiny.VOCAB, logprobs="float64")
    batch = TEXT.batch([5, 0, 2])
    student = tiny.randn(batch.input_ids.numel(), tiny.VOCAB)
    everything = slice(None)
    said = live.signal(batch, Wanted()).distribution(everything)
    read = Cached(CacheReader(place)).signal(batch, Wanted()).distribution(everything)
    expected = objective(student, said, batch.rows, temperature=temperature)
    found = objective(student, read, batch.rows, temperature=temperature)
    assert expected.min() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def test_cached_with_some_tokens_bounds_the_divergence_from_below(place):
    batch = TEXT.batch([1, 6])
    student = tiny.randn(batch.input_ids.numel(), tiny.VOCAB)
    said = tiny_cache.Whole().signal(batch, Wanted()).logits
    read = Cached(CacheReader(place)).signal(batch, Wanted()).topk
    coarse = forward_kl(student, read, batch.rows)
    fine = forward_kl(student, said, batch.rows)
    assert (coarse <= fine + 1e-6).all()
    assert (coarse < fine - 1e-3).any()


def test_order_batch_size_and_epoch_do_not_matter(place):
    teacher = Cached(CacheReader(place))
    length = tiny_cache.LENGTH
    whole = teacher.signal(TEXT.batch(range(8)), Wanted()).topk
    for positions in ([3], [7, 3], [3 + 8, 1], [2, 5, 3 + 80]):
        topk = teacher.signal(TEXT.batch(positions), Wanted()).topk
        for row, position in enumerate(positions):
            here = slice(row * length, (row + 1) * length)
            there = slice((position % 8) * length, (position % 8 + 1) * length)
            assert torch.equal(topk.ids[here], whole.ids[there])
            assert torch.equal(topk.logprobs[here], whole.logprobs[there])


def test_weights_and_labels_may_change(place):
    batch = TEXT.batch([0, 1])
    changed = replace(batch, weights=batch.weights * 0.5, labels=batch.labels.flip(1))
    teacher = Cached(CacheReader(place))
    one, two = teacher.signal(batch, Wanted()).topk, teacher.signal(changed, Wanted()).topk
    assert torch.equal(one.logprobs, two.logprobs)


@pytest.mark.parametrize("changed", ["input_ids", "position_ids"])
def test_changed_tokens_under_the_same_address_are_refused_with_both_digests(place, changed):
    batch = TEXT.batch([0, 1])
    tensor = getattr(batch, changed).clone()
    tensor[1, 3] = (tensor[1, 3] + 1) % tiny.VOCAB
    wrong = replace(batch, **{changed: tensor})
    reader = CacheReader(place)
    with pytest.raises(CacheMismatch, match=r"recorded, [0-9a-f]{32} here") as caught:
        Cached(reader).signal(wrong, Wanted())
    assert batch.addresses[1] in str(caught.value)
    assert reader.tokens(batch.addresses[1]) in str(caught.value)


def test_swapped_rows_are_refused(place):
    batch = TEXT.batch([0, 1])
    wrong = replace(batch, addresses=batch.addresses[::-1])
    with pytest.raises(CacheMismatch, match="other tokens"):
        Cached(CacheReader(place)).signal(wrong, Wanted())


def test_unrecorded_rows_are_refused_with_counts(place):
    with pytest.raises(CacheMismatch, match=r"3 of the 3 rows .* holds 8"):
        Cached(CacheReader(place)).signal(tiny_cache.Text(3, seed=5).batch([0, 1, 2]), Wanted())


def test_rows_of_another_length_are_refused_with_both(place):
    batch = tiny_cache.Text(2, 9).batch([0, 1])
    with pytest.raises(CacheMismatch, match=r"length 6, this batch has length 9"):
        Cached(CacheReader(place)).signal(batch, Wanted())


def test_features_are_refused_by_name(place):
    with pytest.raises(RecipeError, match=r"layers\.0.*teacher\.live"):
        Cached(CacheReader(place)).signal(TEXT.batch([0]), Wanted(features=("layers.0",)))


def test_the_recipe_part_opens_what_was_recorded(place):
    teacher = cached(path=str(place), k=5)
    assert teacher.signal(TEXT.batch([0]), Wanted()).topk.ids.shape == (tiny_cache.LENGTH, 5)


def test_more_kept_tokens_than_ids_means_all_of_them(tmp_path):
    place = recorded(tmp_path, k=tiny.VOCAB)
    assert len(cached(path=str(place), k=64, vocab=tiny.VOCAB).reader) == 8


@pytest.mark.parametrize(
    ("options", "found", "wanted"),
    [
        ({"k": 4}, "k 5", "k 4"),
        ({"logprobs": "float16"}, "logprobs float32", "logprobs float16"),
        ({"vocab": 31}, "vocab 29", "vocab 31"),
        ({"tokenizer": "c" * 64}, "tokenizer " + "b" * 64, "tokenizer " + "c" * 64),
    ],
    ids=["k", "logprobs", "vocab", "tokenizer"],
)
def test_the_recipe_part_refuses_a_cache_recorded_otherwise(place, options, found, wanted):
    with pytest.raises(CacheMismatch) as caught:
        cached(path=str(place), **{"k": 5} | options)
    assert found in str(caught.value)
    assert wanted in str(caught.value)


def test_the_recipe_part_refuses_another_teachers_cache(place, tmp_path):
    tiny.llama().save_pretrained(tmp_path / "model")
    with pytest.raises(CacheMismatch, match=r"recorded with teacher a{64}"):
        cached(path=str(place), k=5, model=str(tmp_path / "model"))
