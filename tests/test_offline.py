"""Cached features: what was recorded trains as the live teacher does, whoever reads it, and is recorded once."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import tiny_folder
import torch
from safetensors.torch import load_file

from limbeck import recorded, run
from limbeck.cache.read import CacheReader
from limbeck.errors import CacheMismatch, RecipeError
from limbeck.featuring import folder
from limbeck.folder import Folder
from limbeck.selection.share import size
from limbeck.teachers.cached import cached
from limbeck.teachers.live import Live
from limbeck.types import Wanted

pytestmark = pytest.mark.usefixtures("handlers")

OBJECTIVE = [
    "forward_kl",
    {"feature_mse": {"at": "all"}},
    {
        "feature_cosine": {
            "at": {"student": "layers.0", "teacher": "layers.1"},
            "projector": {"bias": True},
        }
    },
    {"relation_distance": {"at": {"student": "norm", "teacher": "norm"}, "max_units": 8}},
    {"relation_angle": {"at": {"student": "layers.0", "teacher": "layers.1"}, "units": "rows"}},
]
TAPS = ["layers.1", "layers.3", "norm"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    found = tmp_path_factory.mktemp("offline")
    tiny_folder.tree(found)
    return found


def asked(place, name, *, cache=None, objective=None, teacher=None, **changes):
    """A recipe of 4 steps from a cache of every id, or of another teacher."""
    whole = {
        "k": tiny_folder.VOCAB,
        "feature_numbers": "float32",
        "path": str(place / name / "cache"),
    }
    stages = [
        tiny_folder.stage(place, budget="4 steps", objective=objective or OBJECTIVE, micro_rows=4)
    ]
    plain = {
        "teacher": teacher or tiny_folder.cached(place, **whole | (cache or {})),
        "stages": stages,
    }
    return tiny_folder.short(place, name, **plain | changes)


def online(place):
    return {"live": {"model": str(place / "teacher")}}


def losses(run_folder: Folder):
    lines = [json.loads(line) for line in (run_folder.path / "log.jsonl").read_text().splitlines()]
    return [line["terms"] for line in lines if "terms" in line]


def compare(mine, theirs, tolerance):
    assert len(mine) == len(theirs) == 4
    for one, other in zip(mine, theirs, strict=True):
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance / 10)


@pytest.fixture(scope="module")
def live_losses(place):
    return losses(tiny_folder.trained(asked(place, "live", teacher=online(place))))


@pytest.fixture(scope="module")
def fewer_losses(place):
    """Without what depends on the rows of a micro-batch."""
    recipe = asked(place, "fewer", objective=OBJECTIVE[:4], teacher=online(place))
    return losses(tiny_folder.trained(recipe))


@pytest.mark.parametrize(("numbers", "tolerance"), [("float32", 2e-6), ("bfloat16", 2e-2)])
def test_offline_has_the_losses_of_online(place, live_losses, numbers, tolerance):
    recipe = asked(place, f"offline-{numbers}", cache={"feature_numbers": numbers})
    run.record(recipe, rank=0, world=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Live, "signal", None)  # the live teacher is not asked again
        compare(losses(tiny_folder.trained(recipe)), live_losses, tolerance)


def test_epochs_and_batch_sizes_read_the_same_cache(place, fewer_losses):
    first = asked(place, "shared")
    run.record(first, rank=0, world=1)
    cache = place / "shared" / "cache"
    before = tiny_folder.contents(cache)
    path = {"path": str(cache)}
    ones = tiny_folder.stage(place, budget="4 steps", objective=OBJECTIVE[:4], micro_rows=1)
    small = tiny_folder.trained(asked(place, "small", cache=path, stages=[ones]))
    compare(losses(small), fewer_losses, 1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Live, "signal", None)
        tiny_folder.trained(
            asked(
                place,
                "many-steps",
                cache=path,
                stages=[
                    tiny_folder.stage(
                        place, budget="8 steps", objective=OBJECTIVE[:4], rows_per_step=2
                    )
                ],
            )
        )
    assert tiny_folder.contents(cache) == before


@pytest.mark.parametrize("kind", ["cached", "live"])
def test_two_ranks_have_the_losses_of_one(place, fewer_losses, kind):
    cache = place / "ranked" / "cache"
    if kind == "cached":
        run.record(asked(place, "ranked"), rank=0, world=1)
    before = tiny_folder.contents(cache)
    stage = tiny_folder.stage(place, budget="4 steps", objective=OBJECTIVE[:4], micro_rows=1)
    whole = {"k": tiny_folder.VOCAB, "feature_numbers": "float32", "path": str(cache)}
    teacher = tiny_folder.cached(place, **whole) if kind == "cached" else online(place)
    changes = {"name": f"two-{kind}", "teacher": teacher, "stages": [stage]}
    path = tiny_folder.written(place, **changes, control=False, evaluate=None)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0",
         "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "-m", "limbeck", "train", path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert tiny_folder.contents(cache) == before
    compare(losses(Folder(place / "runs" / changes["name"])), fewer_losses, 1e-5)


def test_a_tap_that_comes_later_is_recorded_alone(place):
    recipe = asked(place, "later", objective=OBJECTIVE[:2])
    run.record(recipe, rank=0, world=1)
    cache = place / "later" / "cache"
    before = tiny_folder.contents(cache)
    wanted = []
    with pytest.MonkeyPatch.context() as patch:
        plain = Live.signal
        patch.setattr(
            Live,
            "signal",
            lambda self, batch, asked: wanted.append(asked) or plain(self, batch, asked),
        )
        run.record(asked(place, "later"), rank=0, world=1)
    assert set(wanted) == {Wanted(distribution=False, features=("norm",))}
    after = tiny_folder.contents(cache)
    assert before.items() <= after.items()
    assert sorted(path.name for path in (cache / "features").iterdir()) == TAPS
    again = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Live, "signal", lambda *_: again.append(1))
        run.record(asked(place, "later"), rank=0, world=1)
    assert not again


def test_each_row_is_recorded_once_at_every_tap(place):
    recipe = asked(place, "once")
    run.record(recipe, rank=0, world=3)
    run.record(recipe, rank=1, world=3)
    run.record(recipe, rank=2, world=3)
    cache = place / "once" / "cache"
    for path in (cache, *(folder(cache, tap) for tap in TAPS)):
        reader = CacheReader(path)
        assert len(reader) == 16
        assert all(len(places) == 1 for places in reader._places.values())


def test_a_share_keeps_so_many_tokens_of_each_row_and_trains(place):
    recipe = asked(place, "shared-out", cache={"feature_share": 0.3})
    found = tiny_folder.trained(recipe)
    cache = place / "shared-out" / "cache"
    main, tap = CacheReader(cache), CacheReader(folder(cache, "norm"))
    for address in main._places:
        counted, kept = main.recorded(address), tap.recorded(address)
        assert int(kept.sum()) == size(0.3, int(counted.sum()))
        assert not (kept & ~counted).any()
    assert all(each["feature_mse"] > 0 for each in losses(found))


def test_int8_is_near_and_a_projection_keeps_distances(place):
    exact, coarse = asked(place, "exact"), asked(place, "coarse", cache={"feature_numbers": "int8"})
    narrow = asked(
        place,
        "narrow",
        cache={"feature_width": 24},
        objective=[
            "forward_kl",
            {"relation_distance": {"at": "norm"}},
            {"feature_mse": {"at": "norm", "projector": "linear"}},
        ],
    )
    for recipe in (exact, coarse, narrow):
        run.record(recipe, rank=0, world=1)
    paths = {name: folder(place / name / "cache", "norm") for name in ("exact", "coarse", "narrow")}
    readers = {name: CacheReader(path) for name, path in paths.items()}
    addresses = sorted(readers["exact"]._places)
    masks = torch.stack([readers["exact"].recorded(address) for address in addresses])
    said = {
        name: reader.read(addresses, masks, [0] * len(addresses))
        for name, reader in readers.items()
    }
    error = (said["coarse"] - said["exact"]).abs().amax(-1) / said["exact"].abs().amax(-1)
    assert 0 < float(error.max()) < 1 / 200
    wide, slim = torch.pdist(said["exact"][:40]), torch.pdist(said["narrow"][:40])
    assert float((slim / wide).mean()) == pytest.approx(1, abs=0.1)
    assert said["narrow"].shape[1] == 24
    tiny_folder.trained(narrow)


def test_other_settings_and_missing_taps_are_refused(place):
    recipe = asked(place, "refusing")
    run.record(recipe, rank=0, world=1)
    options = recorded.options(recipe)
    source = tiny_folder.assembly.stage_source(
        tiny_folder.assembly.ground(recipe), recipe.stages[0]
    )
    batch = source.batch([0])
    with pytest.raises(CacheMismatch, match=r"share 1\.0, this recipe has share 0\.5"):
        cached(**options | {"feature_share": 0.5}).signal(batch, Wanted(features=("norm",)))
    with pytest.raises(CacheMismatch, match=r"nothing was recorded at layers\.2.*limbeck record"):
        cached(**options).signal(batch, Wanted(features=("layers.2",)))
    with pytest.raises(RecipeError, match="no cache keeps"):
        cached(**options).signal(batch, Wanted(heads=("layers.2",)))
    with pytest.raises(CacheMismatch, match="feature_width"):
        run.record(
            asked(
                place,
                "refusing-wide",
                cache={"feature_width": 64},
                objective=[{"relation_gram": {"at": "norm"}}],
            ),
            rank=0,
            world=1,
        )


def test_a_damaged_feature_is_refused_by_name(place):
    run.record(asked(place, "whole"), rank=0, world=1)
    shutil.copytree(place / "whole" / "cache", place / "hurt")
    shard = next((folder(place / "hurt", "norm") / "shards").iterdir()) / "planes.safetensors"
    bytes_ = bytearray(shard.read_bytes())
    bytes_[-1] ^= 1
    shard.write_bytes(bytes_)
    recipe = asked(place, "hurt-run", cache={"path": str(place / "hurt")})
    with pytest.raises(Exception, match=r"planes\.safetensors"):
        tiny_folder.trained(recipe)
    load_file(shard)  # another reader would not have seen it


def test_several_students_find_all_their_taps_recorded(place):
    students = [{"pruned": {"layers": 1}}, {"pruned": {"layers": 2}}]
    objective = ["forward_kl", {"feature_mse": {"at": "all"}}]
    recipe = asked(place, "several", objective=objective, student=None, students=students)
    run.carry_out(recipe)
    taps = place / "several" / "cache" / "features"
    assert sorted(path.name for path in taps.iterdir()) == ["layers.1", "layers.3"]


def test_a_row_that_counts_less_takes_what_is_left_of_its_share(place):
    recipe = asked(place, "less", cache={"feature_share": 0.5})
    run.record(recipe, rank=0, world=1)
    teacher = cached(**recorded.options(recipe))
    source = tiny_folder.assembly.stage_source(
        tiny_folder.assembly.ground(recipe), recipe.stages[0]
    )
    batch = source.batch([0])
    whole = teacher.signal(batch, Wanted(features=("norm",)))
    kept = batch.counted[whole.held]
    weights = torch.zeros_like(batch.weights).view(-1)
    weights[kept[:2]] = 1.0
    weights[[n for n in range(16) if n not in kept.tolist()][:3]] = 1.0
    fewer = replace(batch, weights=weights.view_as(batch.weights))
    said = teacher.signal(fewer, Wanted(distribution=False, features=("norm",)))
    assert torch.equal(fewer.counted[said.held], kept[:2])
    torch.testing.assert_close(said.features["norm"], whole.features["norm"][:2], atol=0, rtol=0)
    weights[kept[:2]] = 0.0
    none = replace(batch, weights=weights.view_as(batch.weights))
    with pytest.raises(CacheMismatch, match="of 0 of them features were recorded"):
        teacher.signal(none, Wanted(distribution=False, features=("norm",)))
