"""A head that stands beside a cache is the one that hidden states were recorded with."""

import shutil
from dataclasses import replace

import pytest
import tiny
import torch
from safetensors.torch import save_file

from limbeck import files
from limbeck.cache.head import head_digest, read_head, write_head
from limbeck.errors import Damaged
from limbeck.models.layout import Head

HEAD = Head(tiny.randn(31, 8).bfloat16(), tiny.randn(31, seed=1).float(), 0.5, 30.0, 29)


def test_a_head_is_read_as_written_without_its_padded_ids(tmp_path):
    found = read_head(tmp_path, write_head(tmp_path, HEAD))
    assert torch.equal(found.weight, HEAD.weight[:29])
    assert torch.equal(found.bias, HEAD.bias[:29])
    assert (found.scale, found.softcap, found.vocab) == (0.5, 30.0, 29)


def test_writing_the_same_head_again_changes_nothing(tmp_path):
    assert write_head(tmp_path, HEAD) == write_head(tmp_path, HEAD) == head_digest(HEAD)


DIFFERENT = {
    "weight": {"weight": HEAD.weight + 1},
    "dtype": {"weight": HEAD.weight.float()},
    "bias": {"bias": None},
    "scale": {"scale": 1.0},
    "softcap": {"softcap": None},
    "vocab": {"vocab": 28},
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_another_head_has_another_digest_and_does_not_replace_it(tmp_path, name):
    other = replace(HEAD, **DIFFERENT[name])
    assert head_digest(other) != head_digest(HEAD)
    write_head(tmp_path, HEAD)
    with pytest.raises(Damaged, match=head_digest(other)):
        write_head(tmp_path, other)


def test_padded_ids_and_live_parameters_do_not_change_the_digest():
    padded = replace(HEAD, weight=torch.cat([HEAD.weight[:29], HEAD.weight[:5] * 3]))
    live = replace(HEAD, weight=HEAD.weight.clone().requires_grad_())
    assert head_digest(padded) == head_digest(live) == head_digest(HEAD)


def test_each_flipped_byte_is_refused(tmp_path):
    digest = write_head(tmp_path, HEAD)
    for path in (tmp_path / "head").iterdir():
        whole = path.read_bytes()
        for index in range(len(whole)):
            changed = bytearray(whole)
            changed[index] ^= 1 << (index % 8)
            path.write_bytes(changed)
            with pytest.raises(Damaged, match=path.name):
                read_head(tmp_path, digest)
        path.write_bytes(whole)


WRONG = {
    "rows": ({"weight": HEAD.weight[:28].contiguous()}, {}, r"weight \(28, 8\)"),
    "bias": ({"weight": HEAD.weight[:29].contiguous(), "bias": torch.zeros(3)}, {}, r"bias \(3,\)"),
    "nothing": ({}, {}, "weight None"),
    "word": ({"weight": HEAD.weight[:29].contiguous()}, {"colour": 1}, "colour"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_head_of_other_shapes_is_refused_in_words(tmp_path, name):
    tensors, more, told = WRONG[name]
    digest = "a" * 64
    with files.committed(tmp_path / "head", {"head": digest}) as partial:
        save_file(tensors, partial / "head.safetensors")
        said = {"scale": 1.0, "softcap": None, "vocab": 29} | more
        files.write_bytes(partial / "head.json", files.canonical(said))
    with pytest.raises(Damaged, match=told):
        read_head(tmp_path, digest)


def test_a_recorder_that_comes_second_takes_the_head_that_stands(tmp_path, monkeypatch):
    """The folder comes to exist between the look and the writing."""
    write_head(tmp_path / "first", HEAD)
    real = files.committed

    def late(folder, about):
        shutil.copytree(tmp_path / "first" / "head", tmp_path / "head", dirs_exist_ok=True)
        return real(folder, about)

    monkeypatch.setattr(files, "committed", late)
    assert write_head(tmp_path, HEAD) == head_digest(HEAD)
