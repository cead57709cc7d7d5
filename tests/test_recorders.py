"""Recorders that do not wait for one another, and texts of which little counts, end with whole caches too."""

from dataclasses import replace

import pytest
import tiny
import tiny_cache
import torch

from limbeck import files
from limbeck.cache.format import SHARDS
from limbeck.cache.read import CacheReader
from limbeck.errors import LimbeckError
from limbeck.models import layout
from limbeck.recording import RecordCounts, record
from limbeck.types import Signal

TEXT = tiny_cache.Text(20)


def run(path, *, teacher=None, text=TEXT, about=None, **options):
    chosen = {"rows_per_shard": 4, "micro_rows": 3} | options
    given = (teacher or tiny_cache.Whole(), text, range(text.rows))
    return record(*given, path, about or tiny_cache.about(), **chosen)


@pytest.mark.parametrize("kind", ["hidden8", "kl-vector"])
def test_rows_of_which_no_token_counts_are_recorded(tmp_path, kind):
    model = tiny.llama()

    class Hidden:
        """A teacher that gives hidden states and its head."""

        def signal(self, batch, wanted):
            hidden = batch.pick(layout.hidden(model, batch)).detach()
            return Signal(hidden=hidden, head=layout.head(model))

    class Late(tiny_cache.Text):
        """Nothing counts after the first shard."""

        def batch(self, positions):
            found = super().batch(positions)
            late = torch.tensor(positions) >= 4
            return replace(found, weights=found.weights.masked_fill(late[:, None], 0))

    about = tiny_cache.about(kind=kind, width=0, head="")
    head = layout.head(model)
    done = run(tmp_path, teacher=Hidden(), text=Late(8), about=about, head=lambda: head)
    assert done.recorded == 8
    reader = CacheReader(tmp_path)
    assert len(reader) == 8
    assert reader.covers(Late(8).batch([7]).addresses[0], torch.zeros(tiny_cache.LENGTH) > 0)


class Overtaken(tiny_cache.Whole):
    """A teacher that has another recorder do all of its work when it is first asked."""

    def __init__(self, other):
        super().__init__()
        self.other = other

    def signal(self, batch, wanted):
        other, self.other = self.other, lambda: None
        other()
        return super().signal(batch, wanted)


def test_the_slower_of_two_recorders_takes_the_fasters_shards_for_done(tmp_path):
    run(tmp_path / "alone")
    done = run(tmp_path / "both", teacher=Overtaken(lambda: run(tmp_path / "both")))
    assert done == RecordCounts(20, 0, 0)
    assert tiny_cache.contents(tmp_path / "both") == tiny_cache.contents(tmp_path / "alone")


def damage(path):
    """Another recorder's shard of another byte."""
    run(path)
    for shard in (path / SHARDS).iterdir():
        plane = shard / "planes.safetensors"
        plane.write_bytes(plane.read_bytes()[:-1] + b"x")


def reseal(path):
    """Shards of the same rows that belong to another cache."""
    run(path)
    for shard in (path / SHARDS).iterdir():
        (shard / files.MANIFEST).unlink()
        files.seal(shard, {"cache": "c" * 64})


@pytest.mark.parametrize("left", [damage, reseal])
def test_a_shard_that_is_not_the_same_stops_the_slower_recorder(tmp_path, left):
    with pytest.raises(LimbeckError, match="exists already"):
        run(tmp_path, teacher=Overtaken(lambda: left(tmp_path)))
