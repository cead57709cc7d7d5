"""A cache says what it was recorded from, and notices when that is not what is wanted."""

from dataclasses import fields

import pytest
import tiny_cache
import torch

from limbeck import files
from limbeck.cache import format as form
from limbeck.errors import CacheMismatch, Damaged, LimbeckError


def test_what_is_written_is_read(tmp_path):
    about = tiny_cache.about(teacher_name="some/teacher", logprobs="float16")
    form.write_about(tmp_path, about)
    assert form.read_about(tmp_path) == about


def test_each_flipped_bit_of_the_description_is_refused_by_name(tmp_path):
    form.write_about(tmp_path, tiny_cache.about(libraries={"torch": "2"}))
    path = tmp_path / form.ABOUT
    whole = path.read_bytes()
    for index in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[index] ^= 1 << bit
            path.write_bytes(changed)
            with pytest.raises(Damaged, match=r"cache\.json"):
                form.read_about(tmp_path)


def test_a_truncated_description_is_refused(tmp_path):
    form.write_about(tmp_path, tiny_cache.about())
    path = tmp_path / form.ABOUT
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(Damaged, match=r"cache\.json"):
            form.read_about(tmp_path)


def test_a_folder_without_description_is_no_cache(tmp_path):
    with pytest.raises(CacheMismatch, match="limbeck record"):
        form.read_about(tmp_path)


def test_another_version_is_refused_with_both_values(tmp_path):
    form.write_about(tmp_path, tiny_cache.about(version=9))
    with pytest.raises(CacheMismatch, match="version 9, this program reads 1"):
        form.read_about(tmp_path)


def test_an_unknown_key_is_refused(tmp_path):
    body = {"version": 1, "surprise": 2}
    (tmp_path / form.ABOUT).write_bytes(files.sealed(body))
    with pytest.raises(Damaged, match="surprise"):
        form.read_about(tmp_path)


DIFFERENT = {
    "teacher": "c" * 64,
    "tokenizer": "d" * 64,
    "vocab": 31,
    "k": 4,
    "length": 7,
    "logprobs": "float64",
    "version": 2,
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_each_difference_is_refused_with_both_values(tmp_path, name):
    found, wanted = tiny_cache.about(), tiny_cache.about(**{name: DIFFERENT[name]})
    with pytest.raises(CacheMismatch) as caught:
        form.check_same(tmp_path, found, wanted)
    for part in (name, str(getattr(found, name)), str(DIFFERENT[name]), str(tmp_path)):
        assert part in str(caught.value)
    assert found.identity != wanted.identity


def test_every_field_is_compared_or_said_to_be_information():
    compared = set(DIFFERENT) | {"teacher_name", "libraries"}
    assert compared == {item.name for item in fields(form.CacheAbout)}


def test_names_and_versions_for_people_are_not_compared(tmp_path):
    found = tiny_cache.about()
    wanted = tiny_cache.about(teacher_name="moved/elsewhere", libraries={"torch": "9"})
    form.check_same(tmp_path, found, wanted)
    assert found.identity == wanted.identity


@pytest.mark.parametrize(
    "wrong", [{"k": 0}, {"k": 30}, {"length": 0}, {"logprobs": "bfloat16"}], ids=str
)
def test_impossible_settings_are_refused_at_once(wrong):
    with pytest.raises(LimbeckError, match=str(next(iter(wrong.values())))):
        tiny_cache.about(**wrong)


def test_ids_take_two_bytes_only_where_every_id_fits():
    assert tiny_cache.about(vocab=65_536).ids == torch.uint16
    assert tiny_cache.about(vocab=65_537).ids == torch.int32


def test_the_name_of_a_shard_depends_on_its_rows_and_their_order():
    assert form.shard_name(["a", "b"]) == form.shard_name(("a", "b"))
    assert form.shard_name(["a", "b"]) != form.shard_name(["b", "a"])
    assert form.shard_name(["ab"]) != form.shard_name(["a", "b"])


def test_the_digest_of_a_row_depends_on_tokens_and_document_bounds():
    ids, positions = torch.tensor([3, 4, 5]), torch.tensor([0, 1, 2])
    same = form.tokens_digest(ids, positions)
    assert same == form.tokens_digest(ids.clone().to(torch.int32), positions)
    assert same != form.tokens_digest(torch.tensor([3, 5, 4]), positions)
    assert same != form.tokens_digest(ids, torch.tensor([0, 1, 0]))
