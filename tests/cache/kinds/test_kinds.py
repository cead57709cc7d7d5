"""Every kind that a recipe may name has a module, and what it says of its size is true."""

import pytest
import tiny_cache

from limbeck.cache import kinds
from limbeck.cache.format import USES

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
