"""Every kind that a recipe may name has a module, and what it says of its size is true."""

import numpy as np
import pytest
import tiny_cache

from limbeck import files
from limbeck.cache import format as form
from limbeck.cache import kinds, planes
from limbeck.cache.format import USES
from limbeck.cache.read import CacheReader
from limbeck.errors import Damaged

EXACT = ["topk+rest", "hidden8", "kl-vector"]


def test_each_kind_of_a_recipe_is_one_of_these():
    assert set(kinds.KINDS) == set(USES) == set(tiny_cache.KINDS)


def test_sizes_said_are_those_written(tmp_path):
    for index, kind in enumerate(EXACT):
        about = tiny_cache.about(kind=kind, length=100, vocab=70_000)
        place = tmp_path / str(index)
        _, _, which = tiny_cache.written(place, about, rows=20)
        (shard,) = (place / "shards").iterdir()
        planes = (shard / "planes.safetensors").stat().st_size
        said = kinds.estimate(about) * int(which.sum())
        assert said <= planes <= said + 500  # the header


@pytest.mark.parametrize(
    ("kind", "changes", "least", "most"),
    [
        # Measured: 42 to 48 bytes at 1/50, 25 to 26 at 1/22, 16 ids of 50 draws.
        ("sample", {"threshold": 1 / 50, "draws": 1}, 42, 52),
        ("sample", {"threshold": 1 / 22, "draws": 1}, 18, 30),
        ("rs", {"samples": 50}, 45, 55),
        ("topk+rest", {"k": 64, "values": "code8"}, 193, 193),
        ("topk+rest", {"k": 64, "values": "float32"}, 388, 388),
        ("hidden8", {"width": 576}, 594, 594),
        ("kl-vector", {"width": 576}, 598, 598),
    ],
)
def test_bytes_a_token_for_planning(kind, changes, least, most):
    about = tiny_cache.about(kind=kind, vocab=49_152, **changes)
    assert least <= kinds.estimate(about) <= most
    assert kinds.estimate_row(about) >= about.length * kinds.estimate(about)


def rewritten(place, change, *, name=form.PLANES):
    """The shard of a cache, its planes changed and sealed again, under the name that its rows make."""
    (shard,) = (place / form.SHARDS).iterdir()
    found = {key: plane.copy() for key, plane in planes.mapped(shard / name).items()}
    planes.write(shard / name, change(found) or found)
    about = files.read_manifest(shard).about
    (shard / files.MANIFEST).unlink()
    files.seal(shard, about)
    return shard


def put(name, value, place=0):
    """A number of a plane is another."""

    def change(found):
        found[name].reshape(-1)[place] = value

    return change


def without(name):
    """A plane is missing."""
    return lambda found: {key: plane for key, plane in found.items() if key != name}


def cut(name, *part):
    """A plane is smaller."""
    return lambda found: found | {name: found[name][part]}


def same_twice(found):
    found["ids"][0, 1] = found["ids"][0, 0]


FLOAT = {"values": "float32"}
WRONG = {
    "an id beyond the vocabulary, topk": ("topk+rest", {}, put("ids", 29), "ids up to 29 found; wanted 28"),
    "an id beyond it by a high bit": ("topk+rest", {"vocab": 70_000}, put("ids_high", 255), "up to"),
    "an id beyond the vocabulary, heads": ("sample", {}, put("head_ids", 60_000), "head_ids up to 60000"),
    "an id beyond the vocabulary, tails": ("sample", {}, put("tail_ids", 29), "tail_ids up to 29"),
    "an id beyond the vocabulary, rs": ("rs", {}, put("ids", 29), "ids up to 29"),
    "an id twice in a token": ("topk+rest", {}, same_twice, "twice in one token"),
    "no number": ("topk+rest", {}, put("logprobs", np.nan, 7), "logprobs up to nan"),
    "a probability above 1": ("topk+rest", {}, put("logprobs", 3.0), "logprobs up to 3"),
    "a rest above 1": ("topk+rest", {}, put("rest", 0.5), "rest up to 0.5"),
    "ids of another k": ("topk+rest", {}, cut("ids", slice(None), slice(4)), "ids .*4.* found; wanted .*5"),
    "codes and no floats": ("topk+rest", {}, lambda f: f | {"rest": f["rest"].astype("u1")}, "of uint8"),
    "no high bits": ("topk+rest", {"vocab": 70_000}, without("ids_high"), "wanted ids, ids_high"),
    "one head more": ("sample", {}, put("heads", 200), "heads sums to"),
    "one tail less": ("sample", {}, put("tails", 200), "tails sums to"),
    "heads that begin elsewhere": ("sample", {}, put("head_starts", 2**64 - 1, 1), "head_starts says"),
    "tails that begin elsewhere": ("sample", {}, put("tail_starts", 10**9, 1), "tail_starts says"),
    "no entropy": ("sample", {}, without("entropy"), "planes .* found; wanted entropy, head"),
    "no ids": ("sample", {}, without("head_ids"), "wanted entropy, head"),
    "more times than draws": ("rs", {}, put("times", 21), "times up to 21 found; wanted 20"),
    "rows of rs that begin elsewhere": ("rs", {}, put("starts", 3, 1), "starts says"),
    "one id more": ("rs", {}, put("counts", 200), "counts sums to"),
    "a vector too few": ("hidden8", {}, cut("codes", slice(-1)), "codes .*70.* found; wanted"),
    "too few groups": ("hidden8", {}, cut("scales", slice(None), slice(1)), "scales .*1.* wanted .*2"),
    "an endless scale": ("hidden8", {}, put("scales", np.inf), "scales has"),
    "an endless mean": ("kl-vector", FLOAT, put("rows", -np.inf), "rows has"),
    "a mean of too many": ("kl-vector", FLOAT, cut("rows", slice(-1)), "rows .* found; wanted"),
    "an entropy that is no number": ("kl-vector", {}, put("entropy", np.nan), "entropy has"),
}  # fmt: skip


@pytest.mark.parametrize("lazily", [False, True])
@pytest.mark.parametrize("name", WRONG)
def test_planes_that_say_what_no_record_says_are_refused_by_name(tmp_path, name, lazily):
    kind, changes, change, said = WRONG[name]
    addresses, _, which = tiny_cache.written(tmp_path, tiny_cache.about(kind=kind, **changes))
    shard = rewritten(tmp_path, change)
    with pytest.raises(Damaged, match=f"{shard.name}.*{said}.*Delete this shard's folder"):
        CacheReader(tmp_path, lazily=lazily).read(addresses, which, [0] * 3)


@pytest.mark.parametrize("name", ["addresses", "tokens", "recorded"])
@pytest.mark.parametrize("change", [without, lambda name: cut(name, slice(None), slice(0))])
def test_lists_of_rows_of_another_layout_are_refused(tmp_path, name, change):
    tiny_cache.written(tmp_path, tiny_cache.about())
    rewritten(tmp_path, change(name), name=form.ROWS)
    with pytest.raises(Damaged, match=rf"rows\.safetensors: plane.*{name}"):
        CacheReader(tmp_path)


def test_bits_of_tokens_beyond_the_length_are_refused(tmp_path):
    addresses, _, _ = tiny_cache.written(tmp_path, tiny_cache.about(length=6))
    shard = rewritten(tmp_path, put("recorded", 0b11111111), name=form.ROWS)
    bits = planes.mapped(shard / form.ROWS)["recorded"].tobytes()
    shard.rename(shard.with_name(form.shard_name(addresses, bits)))
    with pytest.raises(Damaged, match=r"recorded has bits of tokens beyond the row's length"):
        CacheReader(tmp_path)


def test_planes_are_checked_once_though_shards_are_closed(tmp_path, monkeypatch):
    asked = []
    fit = kinds.topk_rest.fit
    monkeypatch.setattr(kinds.topk_rest, "fit", lambda *given: asked.append(fit(*given)))
    monkeypatch.setattr("limbeck.cache.read._OPEN", 1)
    text = tiny_cache.Text(4)
    tiny_cache.recorded_into(tmp_path, text, tiny_cache.about(), rows_per_shard=1)
    reader = CacheReader(tmp_path)
    for _ in range(3):
        tiny_cache.read(reader, text.batch(range(4)).addresses)
    assert len(asked) == 4
