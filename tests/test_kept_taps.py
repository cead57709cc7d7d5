"""What of a tap was kept is served to rows that count less, and never as another tap."""

from dataclasses import replace

import pytest
import tiny_folder
import torch

from limbeck import assembly, recorded, run
from limbeck.errors import CacheMismatch
from limbeck.teachers.cached import cached
from limbeck.types import Wanted

NORM = Wanted(distribution=False, features=("norm",))


def kept(place, steps=2, **cache):
    """A recorded teacher with the last norm's features, and the first row."""
    objective = [{"relation_gram": {"at": ["norm", "layers.1.mlp"]}}]
    stages = [tiny_folder.stage(place, budget=f"{steps} steps", objective=objective)]
    teacher = tiny_folder.cached(place, **cache)
    recipe = tiny_folder.short(place, "kept", teacher=teacher, stages=stages)
    run.record(recipe, rank=0, world=1)
    source = assembly.stage_source(assembly.ground(recipe), recipe.stages[0])
    return recipe, source.batch([0])


def test_a_row_that_counts_less_takes_what_is_left_of_its_share(tmp_path):
    recipe, batch = kept(tmp_path, feature_share=0.5)
    teacher = cached(**recorded.options(recipe))
    whole = teacher.signal(batch, NORM)
    places = batch.counted[whole.held]
    weights = torch.zeros_like(batch.weights).view(-1)
    weights[places[:2]] = 1.0
    weights[[n for n in range(16) if n not in places.tolist()][:3]] = 1.0
    fewer = replace(batch, weights=weights.clone().view_as(batch.weights))
    said = teacher.signal(fewer, NORM)
    assert torch.equal(fewer.counted[said.held], places[:2])
    torch.testing.assert_close(said.features["norm"], whole.features["norm"][:2], atol=0, rtol=0)
    weights[places[:2]] = 0.0
    none = replace(batch, weights=weights.view_as(batch.weights))
    with pytest.raises(CacheMismatch, match="of 0 of them features were recorded"):
        teacher.signal(none, NORM)


def test_a_tap_in_anothers_folder_is_refused(tmp_path):
    recipe, batch = kept(tmp_path)
    features = tmp_path / "cache" / "features"
    (features / "norm").rename(features / "aside")
    (features / "layers.1.mlp").rename(features / "norm")
    with pytest.raises(CacheMismatch, match=r"tap layers\.1\.mlp, this recipe has tap norm"):
        cached(**recorded.options(recipe)).signal(batch, NORM)


def test_a_second_epoch_reads_what_the_first_recorded(tmp_path):
    recipe, _ = kept(tmp_path, steps=1000)
    source = assembly.stage_source(assembly.ground(recipe), recipe.stages[0])
    assert recipe.stages[0].rows_per_step * 1000 > 2 * source.rows
    first, again = (
        source.batch(range(source.rows)),
        source.batch(range(source.rows, 2 * source.rows)),
    )
    assert first.addresses != again.addresses
    assert sorted(first.addresses) == sorted(again.addresses)
    teacher = cached(**recorded.options(recipe))
    said = [teacher.signal(batch, NORM).features["norm"] for batch in (first, again)]
    found = [
        dict(zip(batch.addresses, each.split((batch.weights != 0).sum(-1).tolist()), strict=True))
        for batch, each in zip((first, again), said, strict=True)
    ]
    assert all(torch.equal(found[0][address], found[1][address]) for address in found[0])
