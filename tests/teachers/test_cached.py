"""A recorded teacher says what the live one said, and nothing about anything else."""

from dataclasses import replace

import pytest
import tiny
import tiny_cache
import torch

from limbeck.cache.head import head_digest, write_head
from limbeck.cache.read import CacheReader
from limbeck.cache.write import create_or_check, write_shard
from limbeck.errors import CacheMismatch, Damaged, RecipeError
from limbeck.models import layout
from limbeck.objectives.forward_kl import forward_kl
from limbeck.objectives.reverse_kl import reverse_kl
from limbeck.teachers.cached import Cached, cached
from limbeck.teachers.live import Live
from limbeck.types import Wanted

TEXT = tiny_cache.Text(8)


EXACT = {"kind": "topk+rest", "k": 5, "values": "float32"}


def recorded(path, **changes):
    tiny_cache.recorded_into(path, TEXT, tiny_cache.about(**changes), rows_per_shard=3)
    return path


@pytest.fixture
def place(tmp_path):
    return recorded(tmp_path / "cache")


def counting(positions):
    """Rows whose last token does not count."""
    batch = TEXT.batch(positions)
    weights = batch.weights.clone()
    weights[:, -1] = 0
    return replace(batch, weights=weights)


def anything(path, kind, **changes):
    """A cache of random records of the rows of the text, and those of each row's tokens that count."""
    about = tiny_cache.about(kind=kind, **changes)
    batch = counting(range(8))
    which = batch.weights > 0
    kept = tiny_cache.record(about, int(which.sum()))
    create_or_check(path, about)
    write_shard(path, batch.addresses, kept, about, tokens=batch.addresses, recorded=which)
    return kept


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("objective", [forward_kl, reverse_kl])
def test_cached_with_every_token_equals_live(tmp_path, objective, temperature):
    live = Live(tiny.llama(dtype=torch.float64), vocab=tiny.VOCAB)
    place = recorded(tmp_path, k=tiny.VOCAB, values="float64")
    batch = TEXT.batch([5, 0, 2])
    student = tiny.randn(batch.counted.numel(), tiny.VOCAB)
    everything = slice(None)
    said = live.signal(batch, Wanted()).distribution(everything)
    read = Cached(CacheReader(place)).signal(batch, Wanted()).distribution(everything)
    expected = objective(student, said, batch.rows, temperature=temperature)
    found = objective(student, read, batch.rows, temperature=temperature)
    assert expected.min() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def test_cached_with_some_tokens_bounds_the_divergence_from_below(place):
    batch = TEXT.batch([1, 6])
    student = tiny.randn(batch.counted.numel(), tiny.VOCAB)
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


def test_what_was_not_recorded_inside_is_refused_by_name(place):
    with pytest.raises(CacheMismatch, match=r"layers\.0.*limbeck record"):
        Cached(CacheReader(place)).signal(TEXT.batch([0]), Wanted(features=("layers.0",)))
    with pytest.raises(RecipeError, match=r"layers\.0.*teacher\.live"):
        Cached(CacheReader(place)).signal(TEXT.batch([0]), Wanted(heads=("layers.0",)))


def test_the_recipe_part_opens_what_was_recorded(place):
    teacher = cached(path=str(place), **EXACT)
    assert teacher.signal(TEXT.batch([0]), Wanted()).topk.ids.shape == (tiny_cache.LENGTH, 5)


def test_more_kept_tokens_than_ids_means_all_of_them(tmp_path):
    place = recorded(tmp_path, k=tiny.VOCAB)
    assert len(cached(path=str(place), **EXACT | {"k": 64}, vocab=tiny.VOCAB).reader) == 8


@pytest.mark.parametrize(
    ("options", "found", "wanted"),
    [
        ({"k": 4}, "k 5", "k 4"),
        ({"values": "code8"}, "values float32", "values code8"),
        ({"kind": "rs", "k": 64, "values": "code8"}, "kind topk+rest", "kind rs"),
        ({"vocab": 31}, "vocab 29", "vocab 31"),
        ({"tokenizer": "c" * 64}, "tokenizer " + "b" * 64, "tokenizer " + "c" * 64),
    ],
    ids=["k", "values", "kind", "vocab", "tokenizer"],
)
def test_the_recipe_part_refuses_a_cache_recorded_otherwise(place, options, found, wanted):
    with pytest.raises(CacheMismatch) as caught:
        cached(path=str(place), **EXACT | options)
    assert found in str(caught.value)
    assert wanted in str(caught.value)


def test_the_recipe_part_refuses_another_teachers_cache(place, tmp_path):
    tiny.llama().save_pretrained(tmp_path / "model")
    with pytest.raises(CacheMismatch, match=r"recorded with teacher a{64}"):
        cached(path=str(place), **EXACT, model=str(tmp_path / "model"))


def test_an_option_that_the_kind_does_not_use_is_refused_by_its_key(place):
    with pytest.raises(CacheMismatch, match=r"teacher\.cached\.k 5 found; kind 'sample' does not"):
        cached(path=str(place), k=5)


def test_samples_are_those_of_the_tokens_that_count(tmp_path):
    kept = anything(tmp_path, "sample", draws=1)
    signal = cached(path=str(tmp_path), threshold=0.05).signal(counting(range(8)), Wanted())
    assert torch.equal(signal.sampled.starts.diff(), kept.heads + kept.tails[0])
    assert signal.topk is None
    fewer = replace(counting([2]), weights=torch.tensor([[0.0, 2.0, 0.0, 0.5, 0.0, 0.0]]))
    assert Cached(CacheReader(tmp_path)).signal(fewer, Wanted()).sampled.entropy.shape == (2,)


def test_each_epoch_takes_its_own_draw_and_the_first_comes_again(tmp_path):
    kept = anything(tmp_path, "sample", draws=3)
    teacher = Cached(CacheReader(tmp_path))
    batch = counting([0, 1])

    def tails(*epochs):
        said = teacher.signal(replace(batch, epochs=epochs), Wanted()).sampled
        return (said.starts.diff() - kept.heads[:10]).tolist()

    assert tails() == tails(0, 0) == tails(3, 6) == kept.tails[0, :10].tolist()
    assert tails(1, 2) == [*kept.tails[1, :5].tolist(), *kept.tails[2, 5:10].tolist()]


def test_resampled_ids_and_mean_rows_are_served(tmp_path):
    kept = anything(tmp_path / "rs", "rs")
    said = Cached(CacheReader(tmp_path / "rs")).signal(counting(range(8)), Wanted()).sampled
    assert torch.equal(said.ids, kept.ids)
    kept = anything(tmp_path / "mean", "kl-vector", values="float32")
    said = Cached(CacheReader(tmp_path / "mean")).signal(counting(range(8)), Wanted()).mean
    assert torch.equal(said.rows, kept.rows)


def test_hidden_states_are_served_with_the_head_beside_them(tmp_path):
    model = tiny.llama()
    head = layout.head(model)
    about = {"width": 16, "head": head_digest(head)}
    kept = anything(tmp_path, "hidden8", **about)
    assert write_head(tmp_path, head) == about["head"]
    teacher = cached(path=str(tmp_path), kind="hidden8")
    signal = teacher.signal(counting(range(8)), Wanted())
    found = signal.distribution(slice(None))
    torch.testing.assert_close(found, head(kept), atol=0.2, rtol=0)
    assert torch.equal(signal.head.weight, head.weight)


def test_hidden_states_without_their_head_are_refused(tmp_path):
    anything(tmp_path, "hidden8")
    with pytest.raises(Damaged, match="head"):
        cached(path=str(tmp_path), kind="hidden8")


def test_tokens_that_count_now_and_did_not_then_are_refused(tmp_path):
    anything(tmp_path, "rs")
    batch = counting([0])
    more = replace(batch, weights=torch.ones_like(batch.weights))
    with pytest.raises(CacheMismatch, match=r"counts 6 tokens.*\(5 were\)"):
        Cached(CacheReader(tmp_path)).signal(more, Wanted())
