"""Threshold sampling keeps what it says, is right on average, and varies as little as is derived."""

import plainly
import pytest
import tiny
import torch

from limbeck.errors import LimbeckError
from limbeck.selection.resampled import resampled
from limbeck.selection.threshold import threshold


def uniforms(draws, tokens, *, seed=0):
    return torch.rand(draws, tokens, generator=tiny.generator(seed), dtype=torch.float64)


def zipf(vocab, *, power=1.1):
    """Logits (vocab,) of a distribution with a few likely ids and a long tail, shuffled."""
    order = torch.randperm(vocab, generator=tiny.generator(3))
    return -power * (order + 1.0).double().log()


def by_token(drawn):
    """Per draw and token the ids: heads, tails (draws of lists)."""
    heads = drawn.head_ids.split(drawn.heads.tolist())
    tails = drawn.tail_ids.split(drawn.tails.flatten().tolist())
    tokens = drawn.heads.shape[0]
    return [h.tolist() for h in heads], [
        [t.tolist() for t in tails[first : first + tokens]]
        for first in range(0, len(tails), tokens)
    ]


@pytest.mark.parametrize("limit", [0.02, 1 / 22, 0.3, 1.0])
@pytest.mark.parametrize(("vocab", "spread"), [(29, 1.0), (64, 3.0), (1000, 0.3), (333, 6.0)])
def test_ids_are_those_of_walking_along_the_distribution(vocab, spread, limit):
    logits = tiny.randn(60, vocab, seed=vocab) * spread
    shifts = uniforms(3, 60)
    found = threshold(logits, shifts, threshold=limit)
    heads, tails = by_token(found)
    for token in range(60):
        for draw in range(3):
            wanted = plainly.threshold(logits[token], float(shifts[draw, token]), limit)
            assert (heads[token], tails[draw][token]) == wanted
    exact = logits.log_softmax(-1)
    wanted = torch.cat([exact[token, ids] for token, ids in enumerate(heads)])
    torch.testing.assert_close(found.head_logprobs, wanted, atol=1e-12, rtol=0)
    entropy = torch.tensor([plainly.entropy(row) for row in logits])
    torch.testing.assert_close(found.entropy, entropy, atol=1e-11, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_differs_only_where_a_tooth_lies_on_a_border(dtype):
    logits = (tiny.randn(300, 5000) * 2.5).to(dtype)
    shifts = uniforms(1, 300)
    heads, tails = by_token(threshold(logits, shifts))
    wanted = [
        plainly.threshold(row, float(shifts[0, token]), 0.02)
        for token, row in enumerate(logits.double())
    ]
    assert heads == [each for each, _ in wanted]
    apart = [found != each for found, (_, each) in zip(tails[0], wanted, strict=True)]
    # About 45 teeth a token, each within 1e-6 of a border between ids of about 2e-4.
    assert sum(apart) <= 0.15 * 300
    lengths = [len(each) for each in tails[0]]
    assert max(abs(n - len(each)) for n, (_, each) in zip(lengths, wanted, strict=True)) <= 1


def test_no_id_stands_twice_and_none_without_probability_at_all():
    logits = tiny.randn(200, 300, dtype=torch.float32) * 0.05  # 300 ids just below the threshold
    logits[:, 47:211] = -torch.inf
    found = threshold(logits, uniforms(4, 200), threshold=1 / 130)
    heads, tails = by_token(found)
    for draw in tails:
        for kept, drawn in zip(heads, draw, strict=True):
            both = kept + drawn
            assert len(set(both)) == len(both)
            assert not any(47 <= number < 211 for number in both)


def test_heads_and_tails_weigh_one_to_within_one_tooth():
    logits = tiny.randn(100, 500) * 3
    found = threshold(logits, uniforms(2, 100))
    exact = torch.zeros(100, dtype=torch.float64)
    rows = torch.arange(100).repeat_interleave(found.heads)
    exact.index_add_(0, rows, found.head_logprobs.exp())
    weight = exact + 0.02 * found.tails
    assert float((weight - 1).abs().max()) < 0.02


def test_a_tail_too_small_for_one_minus_the_heads_is_still_drawn_from():
    logits = torch.full((1, 128), -20.0)
    logits[0, 5] = 5.0  # 1 - p rounds: the tail has 1.8e-9
    found = threshold(logits, torch.tensor([[0.0]], dtype=torch.float64))
    assert found.head_ids.tolist() == [5]
    assert found.tail_ids.tolist() == [0]
    assert threshold(logits, torch.tensor([[1e-6]]).double()).tail_ids.tolist() == []


def test_ids_below_a_threshold_of_one_are_all_drawn_and_a_certain_one_is_exact():
    certain = torch.full((1, 64), -torch.inf)
    certain[0, 9] = 0.0
    found = threshold(certain, uniforms(1, 1), threshold=1.0)
    assert (found.head_ids.tolist(), found.tails.tolist()) == ([9], [[0]])


def test_tokens_of_a_batch_do_not_touch_one_another():
    logits, shifts = tiny.randn(70, 400, dtype=torch.float32) * 3, uniforms(2, 70)
    heads, tails = by_token(threshold(logits, shifts))
    for token in (0, 31, 32, 69):
        alone = by_token(threshold(logits[token : token + 1], shifts[:, token : token + 1]))
        assert alone == ([heads[token]], [[draw[token]] for draw in tails])


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.5])
def test_a_threshold_that_is_none_is_refused(limit):
    with pytest.raises(LimbeckError, match=r"teacher\.cached\.threshold"):
        threshold(tiny.randn(1, 64), uniforms(1, 1), threshold=limit)


TOKENS, DRAWS, ROUNDS, VOCAB, LIMIT = 20, 500, 4, 300, 0.02
NUMBER = TOKENS * DRAWS * ROUNDS


def taken(logits):
    """How often each id was drawn in NUMBER draws, and how many ids a draw took on average."""
    rows = logits.expand(TOKENS, -1).contiguous()
    counts, ids = torch.zeros(VOCAB, dtype=torch.float64), 0
    for turn in range(ROUNDS):
        found = threshold(rows, uniforms(DRAWS, TOKENS, seed=turn), threshold=LIMIT)
        counts += torch.bincount(found.tail_ids, minlength=VOCAB)
        ids += found.tail_ids.shape[0]
    return counts, ids / NUMBER


def test_every_id_weighs_its_probability_on_average_and_varies_as_derived():
    logits = zipf(VOCAB)
    p = logits.softmax(-1)
    tail = p < LIMIT
    counts, _ = taken(logits)
    assert float(counts[~tail].sum()) == 0  # they are exact
    mean = counts[tail] / NUMBER * LIMIT
    variance = p[tail] * (LIMIT - p[tail])
    error = (mean - p[tail]) / (variance / NUMBER).sqrt()
    assert float(error.abs().max()) < 4
    assert float(error.square().mean()) < 1.5  # about 1 where the variance is the derived one


def test_at_equal_bytes_it_varies_less_than_drawing_with_replacement():
    logits = zipf(VOCAB)
    p = logits.softmax(-1)
    heads = int((p >= LIMIT).sum())
    counts, drawn = taken(logits)
    share = counts / NUMBER
    ours = (share * (1 - share)).sum() * LIMIT**2
    room = 2 + 2 * (heads + drawn) + heads + 1
    samples = 8
    theirs, bytes_ = torch.inf, 0.0
    while bytes_ < room:  # the first number of samples that takes as many bytes or more
        samples += 1
        rows = logits.expand(2000, -1).contiguous()
        found = resampled(rows, uniforms(samples, 2000, seed=samples))
        bytes_ = 1 + 3 * found.ids.shape[0] / 2000 + 1
        weights = torch.zeros(2000, VOCAB, dtype=torch.float64)
        weights[found.tokens, found.ids] = found.weights
        theirs = (weights - p).square().mean(0).sum()
    assert float(ours) < 0.5 * float(theirs)
