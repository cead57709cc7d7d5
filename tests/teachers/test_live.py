"""A live teacher says what its model says, alone or sharded over ranks."""

import os
from datetime import timedelta

import pytest
import tiny
import tiny_cache
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from limbeck.cache.read import CacheReader
from limbeck.errors import ModelError
from limbeck.recording import record
from limbeck.teachers.live import Live, live
from limbeck.types import Wanted

EVERYTHING = slice(None)


@pytest.mark.parametrize("tied", [False, True])
def test_a_live_teacher_gives_the_logits_of_its_model(tied):
    model = tiny.llama(tied=tied, dtype=torch.float64)
    batch = tiny.batch()
    said = Live(model).signal(batch, Wanted())
    assert said.hidden.shape == (24, 16)
    with torch.no_grad():
        whole = model(batch.input_ids, use_cache=False).logits.flatten(0, 1)
    torch.testing.assert_close(said.distribution(EVERYTHING), whole, atol=1e-12, rtol=0)


def test_packed_documents_do_not_see_one_another():
    model = tiny.llama(dtype=torch.float64)
    packed = tiny.batch(1, 12, documents=(5, 7))
    said = Live(model).signal(packed, Wanted()).distribution(EVERYTHING)
    with torch.no_grad():
        alone = model(packed.input_ids[:, 5:], use_cache=False).logits[0]
    torch.testing.assert_close(said[5:], alone, atol=1e-12, rtol=0)


def test_padded_ids_are_cut():
    said = Live(tiny.llama(), vocab=27).signal(tiny.batch(vocab=27), Wanted())
    assert said.distribution(EVERYTHING).shape == (24, 27)


def test_more_ids_than_the_head_has_are_refused_at_once():
    with pytest.raises(ModelError, match="31"):
        Live(tiny.llama(), vocab=31)


def test_a_teacher_is_frozen_and_gives_no_gradient():
    model = tiny.llama().train()
    teacher = Live(model)
    said = teacher.signal(tiny.batch(), Wanted())
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not said.hidden.requires_grad
    assert not said.distribution(EVERYTHING).requires_grad


def test_features_are_refused_by_name():
    with pytest.raises(ModelError, match=r"layers\.0"):
        Live(tiny.llama()).signal(tiny.batch(), Wanted(features=("layers.0",)))


def test_a_teacher_of_which_nothing_is_wanted_computes_nothing():
    said = Live(tiny.llama()).signal(tiny.batch(), Wanted(distribution=False))
    assert said.distribution(EVERYTHING) is None


def test_the_recipe_part_loads_by_name(tmp_path):
    model = tiny.llama(dtype=torch.float64)
    model.save_pretrained(tmp_path)
    teacher = live(model=str(tmp_path), dtype="float64", device="cpu", vocab=29)
    assert teacher.name == str(tmp_path)
    assert teacher.model.dtype == torch.float64
    expected = Live(model).signal(tiny.batch(), Wanted()).hidden
    found = teacher.signal(tiny.batch(), Wanted()).hidden
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def on_two_ranks(folder, work):
    """Runs work(rank) in two forked processes joined by gloo; an exception there fails here."""
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                store = dist.FileStore(str(folder / "store"), 2)
                wait = timedelta(seconds=60)
                dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=wait)
                work(rank)
                code = 0
            except BaseException as reason:
                (folder / f"error-{rank}").write_text(repr(reason))
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitpid(child, 0)[1] for child in children]
    errors = [path.read_text() for path in folder.glob("error-*")]
    assert codes == [0, 0], errors


@pytest.mark.parametrize("tied", [False, True])
def test_two_ranks_say_what_one_says(tmp_path, tied):
    def batch(rank):
        return tiny.batch(1 + rank, 12, documents=(5, 7), seed=rank)

    def work(rank):
        teacher = Live(tiny.llama(tied=tied, dtype=torch.float64), vocab=28)
        sharded = [p for p in teacher.model.parameters() if isinstance(p, DTensor)]
        assert len(sharded) >= 2 * 9
        for _ in range(2):
            said = teacher.signal(batch(rank), Wanted())
        torch.save((said.hidden, said.distribution(EVERYTHING)), tmp_path / f"said-{rank}")

    on_two_ranks(tmp_path, work)
    alone = Live(tiny.llama(tied=tied, dtype=torch.float64), vocab=28)
    for rank in range(2):
        hidden, logits = torch.load(tmp_path / f"said-{rank}", weights_only=True)
        expected = alone.signal(batch(rank), Wanted())
        torch.testing.assert_close(hidden, expected.hidden, atol=1e-12, rtol=0)
        torch.testing.assert_close(logits, expected.distribution(EVERYTHING), atol=1e-12, rtol=0)


def test_two_ranks_with_unequal_shares_record_what_one_records(tmp_path):
    text = tiny_cache.Text(7)
    about = tiny_cache.about(logprobs="float64")

    def into(path, **options):
        teacher = Live(tiny.llama(dtype=torch.float64), vocab=tiny.VOCAB)
        record(teacher, text, range(7), path, about, rows_per_shard=3, micro_rows=2, **options)

    on_two_ranks(tmp_path, lambda rank: into(tmp_path / "two", rank=rank, world=2))
    into(tmp_path / "one")
    addresses = text.batch(range(7)).addresses
    one, two = (CacheReader(tmp_path / name).rows(addresses) for name in ("one", "two"))
    assert torch.equal(one.ids, two.ids)
    torch.testing.assert_close(one.logprobs, two.logprobs, atol=1e-12, rtol=0)
