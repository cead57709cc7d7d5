"""Files of weights that are cut short or map nothing are found, also where no weight is read."""

import os

import pytest
from tiny_doctor import assert_found, config, of

PLANTS = {}


@of(PLANTS, "files", r"model\.safetensors: 2,000 bytes, .*invalid header length")
def weights_that_end_within_their_header(place, _):
    os.truncate(place / "teacher/model.safetensors", 2000)
    return {}


@of(
    PLANTS,
    "files",
    r"100,000 bytes, .*incomplete metadata.*bring it again",
    follows=("weights",),
    weights=True,
)
def weights_that_were_cut_short(place, _):
    os.truncate(place / "teacher/model.safetensors", 100_000)
    return {}


@of(PLANTS, "files", "maps no tensors to files.*weight_map")
def index_that_maps_nothing(place, _):
    (place / "teacher/model.safetensors").rename(place / "teacher/a.safetensors")
    config(place / "teacher", "model.safetensors.index.json", weight_map=[])
    return {}


@of(PLANTS, "files", "maps no tensors to files.*weight_map")
def index_without_a_map(place, _):
    (place / "teacher/model.safetensors").rename(place / "teacher/a.safetensors")
    config(place / "teacher", "model.safetensors.index.json", weight_map=None)
    return {}


@of(PLANTS, "files", r"17 bytes, .*invalid JSON in header")
def weights_of_another_kind(place, _):
    (place / "teacher/model.safetensors").write_bytes((9).to_bytes(8, "little") + b"[1, 2, 3]")
    return {}


@pytest.mark.parametrize("name", PLANTS)
def test_planted_files_are_found(tmp_path, monkeypatch, name):
    assert_found(tmp_path, PLANTS[name], monkeypatch)
