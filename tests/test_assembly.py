"""A recipe's cached teacher is recorded by the kind that it names, and served again."""

import pytest
import tiny_folder

from limbeck import run
from limbeck.cache.read import CacheReader
from limbeck.errors import RecipeError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    found = tmp_path_factory.mktemp("kinds")
    tiny_folder.tree(found)
    return found


def recipe(place, kind, *, options=None, **changes):
    teacher = {"model": str(place / "teacher"), "path": str(place / f"cache-{kind}"), "kind": kind}
    stage = tiny_folder.stage(place, budget="4 steps", **changes)
    cached = {"cached": teacher | (options or {})}
    return tiny_folder.short(place, kind, teacher=cached, stages=[stage])


@pytest.mark.parametrize("kind", ["sample", "rs", "hidden8"])
def test_a_run_records_by_the_kind_it_names_and_learns_from_it(place, kind):
    asked = recipe(place, kind)
    folder = tiny_folder.trained(asked)
    reader = CacheReader(place / f"cache-{kind}")
    assert reader.about.kind == kind
    assert len(reader) == 16
    assert tiny_folder.final(folder, 4).is_dir()
    before = tiny_folder.contents(place / f"cache-{kind}")
    run.record(asked, rank=0, world=1)
    assert tiny_folder.contents(place / f"cache-{kind}") == before


def test_mean_rows_are_those_of_the_students_head_which_stays_frozen(place):
    asked = recipe(place, "kl-vector", train=["*layers*"])
    run.record(asked, rank=0, world=1)
    reader = CacheReader(place / "cache-kl-vector")
    assert (reader.about.width, len(reader)) == (32, 16)
    folder = tiny_folder.trained(asked)
    assert len(list((place / "cache-kl-vector/shards").iterdir())) == 1
    assert "student.lm_head.weight" not in tiny_folder.weights(folder, 4)


def test_mean_rows_for_a_head_that_is_trained_are_refused(place):
    asked = recipe(place, "kl-vector", options={"path": str(place / "never")})
    with pytest.raises(RecipeError, match=r"stage distil trains lm_head\.weight"):
        run.record(asked, rank=0, world=1)


def test_stages_that_read_the_same_rows_have_them_recorded_once(place, capsys):
    teacher = {"model": str(place / "teacher"), "path": str(place / "cache-shared")}
    stages = [
        tiny_folder.stage(place, budget="4 steps"),
        tiny_folder.stage(place, budget="6 steps", name="again"),
    ]
    asked = tiny_folder.short(place, "shared", teacher={"cached": teacher}, stages=stages)
    for rank in range(2):
        run.record(asked, rank=rank, world=2)
    assert len(CacheReader(place / "cache-shared")) == 24
    said = capsys.readouterr().err
    assert "recorded 24 rows, 0 were there already" in said
