"""Each kind keeps what it says of the tokens that count, whatever batch or chunk they came in."""

from dataclasses import replace

import pytest
import tiny
import tiny_cache
import tiny_weights
import torch

from limbeck.cache.head import head_digest, read_head
from limbeck.cache.read import CacheReader
from limbeck.errors import CacheMismatch
from limbeck.keeping import Keeper
from limbeck.models import layout
from limbeck.models.layout import Head
from limbeck.recording import record
from limbeck.teachers.live import Live
from limbeck.types import Signal, Wanted

TEXT = tiny_weights.TWENTY


def run(path, *, teacher=None, positions=range(20), text=TEXT, about=None, **options):
    chosen = {"rows_per_shard": 4, "micro_rows": 3, "chunk": 5} | options
    kept = about or tiny_cache.about()
    return record(teacher or tiny_cache.Whole(), text, positions, path, kept, **chosen)


def test_hidden_states_are_recorded_with_the_head_that_reads_them(tmp_path):
    model = tiny.llama(dtype=torch.float64)
    about = replace(tiny_cache.about(kind="hidden8"), width=0, head="")
    asked = []

    def head():
        asked.append(1)
        return layout.head(model)

    run(tmp_path, teacher=Live(model), about=about, positions=range(8), head=head)
    known = CacheReader(tmp_path).about
    assert (known.width, known.head) == (16, head_digest(layout.head(model)))
    assert torch.equal(read_head(tmp_path, known.head).weight, model.lm_head.weight)
    run(tmp_path, teacher=Live(model), about=known, head=head)
    assert len(asked) == 1  # nobody has to give what stands there
    hidden = tiny_cache.read(CacheReader(tmp_path), TEXT.batch(range(20)).addresses)
    wanted = layout.hidden(model, TEXT.batch(range(20)))
    # int8 in groups of at most 64: half a step of 1/127 of the largest.
    torch.testing.assert_close(
        hidden.double(), wanted, atol=float(wanted.abs().max()) / 200, rtol=0
    )


def test_the_mean_row_of_a_students_head_is_recorded(tmp_path):
    head = layout.head(tiny.llama(seed=5, dtype=torch.float64))
    about = replace(tiny_cache.about(kind="kl-vector"), width=0, head="", values="float64")
    teacher = tiny_cache.Whole()
    run(tmp_path, teacher=teacher, about=about, head=lambda: head)
    batch = TEXT.batch(range(20))
    found = tiny_cache.read(CacheReader(tmp_path), batch.addresses)
    p = teacher.signal(batch, None).logits.softmax(-1)
    torch.testing.assert_close(found.rows, p @ head.weight, atol=1e-12, rtol=0)


def test_a_head_whose_logits_are_no_product_is_refused_for_mean_rows(tmp_path):
    head = replace(layout.head(tiny.llama()), softcap=30.0)
    about = replace(tiny_cache.about(kind="kl-vector"), width=0, head="")
    with pytest.raises(CacheMismatch, match="soft-cap"):
        run(tmp_path, about=about, head=lambda: head)


@pytest.mark.parametrize("kind", ["hidden8", "kl-vector"])
def test_a_kind_that_needs_a_head_says_so(tmp_path, kind):
    about = replace(tiny_cache.about(kind=kind), width=0, head="")
    with pytest.raises(CacheMismatch, match="a head, and none was given"):
        run(tmp_path, about=about)


def test_memory_does_not_grow_with_the_rows_of_a_micro_batch(tmp_path):
    keeper = Keeper(tiny_cache.about(), chunk=5)
    live = Live(tiny.llama())
    sizes = []
    for rows in (1, 20):
        batch = TEXT.batch(range(rows))
        keeper.keep(live.signal(batch, Wanted()), batch)
        sizes.append(keeper._buffer.shape)
    assert sizes == [(5, 64), (5, 64)]


def test_large_narrow_logits_are_recorded_as_they_are_not_as_they_round():
    """bfloat16 rounds a logit of 40 by an eighth; of its log-probability that would be an eighth of a nat."""
    batch = TEXT.batch(range(20))
    count = int(batch.counted.shape[0])
    hidden, weight = tiny.randn(count, 16).bfloat16(), tiny.randn(tiny.VOCAB, 16).bfloat16()
    hidden[:, 0], weight[:, 0] = 8.0, 5.0
    signal = Signal(hidden=hidden, head=Head(weight, None, 1.0, None, tiny.VOCAB))
    kept = Keeper(tiny_cache.about(k=4), chunk=5).keep(signal, batch)
    exact = (hidden.double() @ weight.double().T).log_softmax(-1).topk(4).values
    apart = (kept.logprobs.double() - exact)[exact > -3]
    assert float(apart.abs().mean()) < 0.01  # 0.044 without a zero of its own


@pytest.mark.parametrize("kind", ["sample", "rs"])
@pytest.mark.parametrize(
    "options", [{"micro_rows": 1, "chunk": 1}, {"rows_per_shard": 20}], ids=str
)
def test_neither_batch_nor_chunk_nor_shard_changes_what_is_drawn(tmp_path, kind, options):
    about = tiny_cache.about(kind=kind)
    run(tmp_path / "one", about=about)
    run(tmp_path / "other", about=about, **options)
    addresses = TEXT.batch(range(20)).addresses
    one = tiny_cache.read(CacheReader(tmp_path / "one"), addresses)
    other = tiny_cache.read(CacheReader(tmp_path / "other"), addresses)
    assert torch.equal(one.ids, other.ids)
    assert torch.equal(one.weights, other.weights)


@pytest.mark.parametrize("kind", ["sample", "rs", "topk+rest"])
def test_only_tokens_that_count_are_recorded(tmp_path, kind):
    teacher, weights = tiny_weights.Counting(), tiny_weights.uneven()
    weights[3] = 0.0  # a row of which nothing counts
    about = tiny_cache.about(kind=kind)
    run(tmp_path / "some", teacher=teacher, text=tiny_weights.Weighted(weights), about=about)
    run(tmp_path / "all", about=about)
    assert teacher.tokens == int(weights.sum())
    addresses, counted = TEXT.batch(range(20)).addresses, weights != 0
    some = CacheReader(tmp_path / "some").read(addresses, counted, [0] * 20)
    whole = CacheReader(tmp_path / "all").read(addresses, counted, [0] * 20)
    assert torch.equal(some.ids, whole.ids)


def test_a_chunk_larger_than_a_batch_takes_no_memory_for_what_is_never_there(tmp_path):
    """Of a head whose product goes into a buffer, which such a chunk would make of a petabyte."""
    teacher = Live(tiny.llama(), vocab=tiny.VOCAB)
    assert run(tmp_path, teacher=teacher, chunk=10**12).recorded == 20
