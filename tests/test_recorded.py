"""A recipe's cached teacher is recorded by the kind that it names, and served again."""

import shutil

import pytest
import tiny_folder
import torch
from safetensors.torch import load_file, save_file

from limbeck import assembly, recorded, run
from limbeck.cache.read import CacheReader
from limbeck.errors import CacheMismatch, RecipeError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    found = tmp_path_factory.mktemp("kinds")
    tiny_folder.tree(found)
    return found


def recipe(place, kind, *, options=None, **changes):
    teacher = {"model": str(place / "teacher"), "path": str(place / f"cache-{kind}"), "kind": kind}
    stage = tiny_folder.stage(place, budget="4 steps", **changes)
    cached = {"cached": teacher | (options or {})}
    return tiny_folder.short(place, kind.replace("+", "-"), teacher=cached, stages=[stage])


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


@pytest.mark.parametrize(
    ("kind", "name", "spelled", "wanted"),
    [
        ("topk+rest", "k", 7.0, 7),
        ("topk+rest", "k", "7", 7),
        ("sample", "draws", "2", 2),
        ("sample", "draws", True, 1),
        ("sample", "threshold", "0.02", 0.02),
    ],
)
def test_a_cache_is_recorded_with_options_of_their_own_type(tmp_path, kind, name, spelled, wanted):
    tiny_folder.tree(tmp_path)
    asked = recipe(tmp_path, kind, options={name: spelled})
    run.record(asked, rank=0, world=1)
    found = getattr(CacheReader(tmp_path / f"cache-{kind}").about, name)
    assert (found, type(found)) == (wanted, type(wanted))
    assert len(assembly.teacher(assembly.ground(asked)).reader) == 16


@pytest.mark.parametrize(("name", "other"), [("vocab", 10), ("tokenizer", "0123")])
def test_nothing_is_recorded_for_another_vocabulary_than_the_runs(place, name, other):
    asked = recipe(place, "rs", options={name: other, "path": str(place / "none")})
    with pytest.raises(
        CacheMismatch, match=rf"teacher\.cached\.{name} {other} found; this run's is"
    ):
        run.record(asked, rank=0, world=1)
    assert not (place / "none").exists()
    base = assembly.ground(asked)
    own = {"vocab": base.vocab, "tokenizer": base.tokenizer_print}
    same = recipe(place, "rs", options=own)
    assert recorded.cache_about(assembly.ground(same), 16).vocab == base.vocab


def test_mean_rows_are_those_of_the_students_head_which_stays_frozen(place):
    asked = recipe(place, "kl-vector", train=["*layers*"])
    run.record(asked, rank=0, world=1)
    reader = CacheReader(place / "cache-kl-vector")
    assert (reader.about.width, len(reader)) == (32, 16)
    folder = tiny_folder.trained(asked)
    assert len(list((place / "cache-kl-vector/shards").iterdir())) == 1
    assert "student.lm_head.weight" not in tiny_folder.weights(folder, 4)
    base = assembly.ground(asked)
    teacher, learner = assembly.teacher(base), assembly.student(base)
    recorded.check_head(base, teacher, learner)
    with torch.no_grad():
        learner.get_output_embeddings().weight[3, 0] += 1
    with pytest.raises(CacheMismatch, match="another output head"):
        recorded.check_head(base, teacher, learner)


def test_a_head_that_every_stage_freezes_is_frozen_enough_for_mean_rows(place):
    asked = recipe(place, "kl-vector", freeze=["head"])
    folder = tiny_folder.trained(asked)
    assert "student.lm_head.weight" not in tiny_folder.weights(folder, 4)
    with pytest.raises(RecipeError, match=r"trains lm_head\.weight\. Put 'head' into its 'freeze'"):
        run.record(
            recipe(place, "kl-vector", options={"path": str(place / "not")}), rank=0, world=1
        )


def test_mean_rows_of_students_with_other_heads_are_refused_before_any_is_recorded(tmp_path):
    tiny_folder.tree(tmp_path)
    tiny_folder.teacher(tmp_path / "other", seed=5)
    kind = {"model": str(tmp_path / "teacher"), "path": str(tmp_path / "cache")}
    kind = {"cached": kind | {"kind": "kl-vector"}}
    stages = [tiny_folder.stage(tmp_path, budget="4 steps", freeze=["head"])]

    def recorded_for(*students):
        told = {"student": None, "students": list(students)}
        asked = tiny_folder.short(tmp_path, "both", teacher=kind, stages=stages, **told)
        run.record(asked, rank=0, world=1)

    mine, other = (
        {"pruned": {"layers": 1}},
        {"pruned": {"layers": 2, "model": str(tmp_path / "other")}},
    )
    with pytest.raises(
        RecipeError, match=r"students\[1\] has another output head than students\[0\]"
    ):
        recorded_for(mine, other)
    assert not (tmp_path / "cache").exists()
    recorded_for(mine, {"pruned": {"layers": 2}})
    assert len(CacheReader(tmp_path / "cache")) == 16


def test_a_cache_without_a_teacher_serves_mean_rows_to_no_other_head(place):
    run.record(recipe(place, "kl-vector", train=["*layers*"]), rank=0, world=1)
    teacher = {"path": str(place / "cache-kl-vector"), "kind": "kl-vector"}
    other = {"pruned": {"model": str(place / "other"), "layers": 1}}
    shutil.copytree(place / "teacher", place / "other")
    path = place / "other/model.safetensors"
    weights = load_file(path)
    name = next(one for one in ("lm_head.weight", "model.embed_tokens.weight") if one in weights)
    weights[name][3, 0] += 1
    save_file(weights, path, metadata={"format": "pt"})
    stage = tiny_folder.stage(place, budget="4 steps", train=["*layers*"])
    asked = tiny_folder.short(
        place, "other", teacher={"cached": teacher}, student=other, stages=[stage], evaluate=None
    )
    with pytest.raises(CacheMismatch, match="another output head"):
        tiny_folder.trained(asked)


def test_mean_rows_for_a_head_that_is_trained_are_refused(place):
    asked = recipe(place, "kl-vector", options={"path": str(place / "never")})
    with pytest.raises(RecipeError, match=r"stage distil trains lm_head\.weight"):
        run.record(asked, rank=0, world=1)


def served(place, name, stages, **changes):
    """A run that mean rows of a frozen head teach, from a cache that names no teacher."""
    run.record(recipe(place, "kl-vector", train=["*layers*"]), rank=0, world=1)
    teacher = {"path": str(place / "cache-kl-vector"), "kind": "kl-vector"}
    student = {"pruned": {"model": str(place / "teacher"), "layers": 2}}
    plain = {"teacher": {"cached": teacher}, "student": student, "evaluate": None}
    return tiny_folder.short(place, name, stages=stages, **plain | changes)


def test_mean_rows_serve_no_head_that_an_earlier_stage_moves(place):
    first = tiny_folder.stage(place, name="a", budget="2 steps", objective=["cross_entropy"])
    second = tiny_folder.stage(place, name="b", budget="2 steps", train=["*layers*"])
    with pytest.raises(RecipeError, match=r"stage a trains lm_head\.weight"):
        tiny_folder.trained(served(place, "moved", [first, second]))


def test_mean_rows_serve_no_head_that_a_checkpoint_of_another_run_brings(place):
    every = tiny_folder.stage(place, budget="4 steps", objective=["cross_entropy"])
    other = tiny_folder.trained(served(place, "whole", [every]))
    frozen = tiny_folder.stage(place, budget="4 steps", train=["*layers*"])
    told = str(tiny_folder.final(other, 2))
    with pytest.raises(CacheMismatch, match="another output head"):
        tiny_folder.trained(served(place, "brought", [frozen], resume=told))


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
