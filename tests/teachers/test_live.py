"""A live teacher says what its model says, alone or sharded over ranks."""

import subprocess
import sys
from pathlib import Path

import live_ranks
import pytest
import tiny
import tiny_cache
import torch
from safetensors.torch import load_file

from limbeck.cache.read import CacheReader
from limbeck.errors import Interrupted, ModelError
from limbeck.objectives import _compiled
from limbeck.recording import record
from limbeck.teachers.live import Live, live
from limbeck.types import Wanted

EVERYTHING = slice(None)


@pytest.mark.parametrize("tied", [False, True])
def test_a_live_teacher_gives_the_logits_of_its_model(tied):
    model = tiny.llama(tied=tied, dtype=torch.float64)
    batch = tiny.batch()
    said = Live(model).signal(batch, Wanted())
    assert said.hidden.shape == (22, 16)
    with torch.no_grad():
        whole = model(batch.input_ids, use_cache=False).logits.flatten(0, 1)
    wanted = batch.pick(whole)  # the last label of each row does not count
    torch.testing.assert_close(said.distribution(EVERYTHING), wanted, atol=1e-12, rtol=0)


@pytest.mark.skipif(not _compiled.able("cpu"), reason="no C++ compiler is here")
def test_compiled_blocks_say_what_plain_ones_say():
    plain, sealed = (Live(tiny.llama(dtype=torch.float32)) for _ in range(2))
    sealed.compile()
    batch = tiny.batch(1, 12, documents=(5, 7))
    found, wanted = (one.signal(batch, Wanted()).hidden for one in (sealed, plain))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_packed_documents_do_not_see_one_another():
    model = tiny.llama(dtype=torch.float64)
    packed = tiny.batch(1, 12, documents=(5, 7))
    said = Live(model).signal(packed, Wanted()).distribution(EVERYTHING)
    with torch.no_grad():
        alone = model(packed.input_ids[:, 5:], use_cache=False).logits[0]
    torch.testing.assert_close(said[4:], alone[:-1], atol=1e-12, rtol=0)


def test_padded_ids_are_cut():
    said = Live(tiny.llama(), vocab=27).signal(tiny.batch(vocab=27), Wanted())
    assert said.distribution(EVERYTHING).shape == (22, 27)


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


def test_features_alone_come_without_hidden_states():
    batch = tiny.batch(2, 12, documents=(7, 5))
    said = Live(tiny.llama()).signal(batch, Wanted(distribution=False, features=("layers.0",)))
    assert said.distribution(EVERYTHING) is None
    assert said.features["layers.0"].shape == (batch.counted.numel(), 16)
    assert not said.features["layers.0"].requires_grad


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


def on_two_ranks(what, folder):
    command = [sys.executable, str(Path(__file__).with_name("live_ranks.py")), what, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("what", ["said", "tied"])
def test_two_ranks_say_what_one_says(tmp_path, what):
    on_two_ranks(what, tmp_path)
    alone = Live(tiny.llama(tied=what == "tied", dtype=torch.float64), vocab=28)
    for rank in range(2):
        found = load_file(tmp_path / f"said-{rank}")
        expected = alone.signal(live_ranks.batch(rank), Wanted())
        torch.testing.assert_close(found["hidden"], expected.hidden, atol=1e-12, rtol=0)
        logits = expected.distribution(EVERYTHING)
        torch.testing.assert_close(found["logits"], logits, atol=1e-12, rtol=0)


def test_two_ranks_with_unequal_shares_record_what_one_records(tmp_path):
    on_two_ranks("record", tmp_path)
    live_ranks.into(tmp_path / "one")
    addresses = tiny_cache.Text(7).batch(range(7)).addresses
    readers = [CacheReader(tmp_path / name) for name in ("one", "two")]
    one, two = (tiny_cache.read(reader, addresses) for reader in readers)
    assert torch.equal(one.ids, two.ids)
    torch.testing.assert_close(one.logprobs, two.logprobs, atol=1e-12, rtol=0)


@pytest.mark.slow
@pytest.mark.skipif(not _compiled.able("cpu"), reason="no C++ compiler is here")
def test_with_compiled_blocks_a_stopped_recording_ends_with_the_same_bytes(tmp_path):
    text = tiny_cache.Text(22)
    about = tiny_cache.about(kind="topk+rest", values="float32", vocab=tiny.VOCAB)
    sizes = {
        "rows_per_shard": 7,
        "micro_rows": 3,
    }  # micro-batches of 3, 3, 1 and one row at the end
    found = []
    for calls in (None, 2, 3, 5, 8):
        teacher = Live(tiny.llama(dtype=torch.float32))
        teacher.compile()
        path = tmp_path / f"cache-{calls}"
        if calls is not None:
            asked = iter([False] * calls)
            with pytest.raises(Interrupted):
                record(
                    teacher,
                    text,
                    range(22),
                    path,
                    about,
                    stop=lambda of=asked: next(of, True),
                    **sizes,
                )
            torch._dynamo.reset()  # as a process that begins anew
        record(teacher, text, range(22), path, about, **sizes)
        torch._dynamo.reset()
        found.append(tiny_cache.contents(path))
    assert all(one == found[0] for one in found)
