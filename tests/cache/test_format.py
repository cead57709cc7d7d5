"""A cache says what it was recorded from, and notices when that is not what is wanted."""

from dataclasses import fields, replace

import pytest
import tiny_cache
import torch

from limbeck import files
from limbeck.cache import format as form
from limbeck.errors import CacheMismatch, Damaged, LimbeckError


def test_what_is_written_is_read(tmp_path):
    about = tiny_cache.about(teacher_name="some/teacher", values="float16")
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
    with pytest.raises(CacheMismatch, match="version 9, this program reads 2"):
        form.read_about(tmp_path)


def test_a_cache_of_version_1_is_refused_with_the_command_that_converts_it(tmp_path):
    (tmp_path / form.ABOUT).write_bytes(files.sealed({"version": 1, "k": 4}))
    with pytest.raises(CacheMismatch, match=f"version 1.*limbeck convert {tmp_path} NEW"):
        form.read_about(tmp_path)


def test_an_unknown_key_is_refused(tmp_path):
    body = {"version": 2, "surprise": 2}
    (tmp_path / form.ABOUT).write_bytes(files.sealed(body))
    with pytest.raises(Damaged, match="surprise"):
        form.read_about(tmp_path)


WRONG_TYPES = {
    "vocab": "x",
    "length": 6.5,
    "kind": ["sample"],
    "threshold": None,
    "draws": 1.5,
    "k": True,
    "head": 5,
    "teacher": None,
    "version": 2.0,
    "libraries": 3,
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_a_description_of_other_types_is_refused_by_name(tmp_path, name):
    form.write_about(tmp_path, tiny_cache.about(kind="sample"))
    body = files.read_json(tmp_path / form.ABOUT) | {name: WRONG_TYPES[name]}
    del body["sha256"]
    (tmp_path / form.ABOUT).write_bytes(files.sealed(body))
    with pytest.raises(Damaged, match=r"cache\.json: .* found; wanted") as caught:
        form.read_about(tmp_path)
    assert f"{name} {WRONG_TYPES[name]!r} found" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("topk+rest", "k", 7.0),
        ("topk+rest", "k", "7"),
        ("sample", "draws", True),
        ("sample", "threshold", "0.02"),
        ("sample", "threshold", 1),
        ("rs", "samples", 50.0),
    ],
)
def test_settings_of_another_type_are_refused_with_what_was_wanted(kind, name, value):
    said = rf"{name} {value!r} found; wanted a .*number.*teacher\.cached\.{name}"
    with pytest.raises(CacheMismatch, match=said):
        tiny_cache.about(**{"kind": kind, name: value})
    with pytest.raises(CacheMismatch, match=said):
        tiny_cache.about(**form.chosen({"kind": kind, name: value}, vocab=29))


def test_a_kind_that_is_no_word_is_refused():
    with pytest.raises(CacheMismatch, match=r"kind \['rs'\] found; wanted text"):
        form.chosen({"kind": ["rs"]}, vocab=29)


def test_a_number_with_a_point_is_another_number(tmp_path):
    found, wanted = tiny_cache.about(k=7), tiny_cache.about(k=7)
    object.__setattr__(wanted, "k", 7.0)
    assert found.identity != wanted.identity
    with pytest.raises(CacheMismatch, match=r"recorded with k 7, this recipe has k 7\.0"):
        form.check_same(tmp_path, found, wanted)


DIFFERENT = {
    "teacher": ("topk+rest", "c" * 64),
    "tokenizer": ("topk+rest", "d" * 64),
    "vocab": ("topk+rest", 31),
    "length": ("topk+rest", 7),
    "kind": ("topk+rest", "sample"),
    "threshold": ("sample", 0.1),
    "draws": ("sample", 3),
    "samples": ("rs", 50),
    "k": ("topk+rest", 4),
    "values": ("topk+rest", "float64"),
    "width": ("hidden8", 64),
    "head": ("hidden8", "d" * 64),
    "tap": ("feature", "layers.2"),
    "share": ("feature", 0.5),
    "numbers": ("feature", "bfloat16"),
    "channels": ("feature", 80),
    "version": ("topk+rest", 9),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_each_difference_is_refused_with_both_values(tmp_path, name):
    kind, value = DIFFERENT[name]
    found = tiny_cache.about(kind=kind)
    wanted = tiny_cache.about(**{"kind": kind, name: value})
    with pytest.raises(CacheMismatch) as caught:
        form.check_same(tmp_path, found, wanted)
    for part in (name, str(getattr(found, name)), str(value), str(tmp_path)):
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
    ("kind", "name", "value"),
    [
        ("topk+rest", "k", 0),
        ("topk+rest", "k", 30),
        ("topk+rest", "values", "bfloat16"),
        ("sample", "threshold", 0.001),
        ("sample", "threshold", 0.9),
        ("sample", "draws", 0),
        ("rs", "samples", 256),
        ("hidden8", "width", -1),
        ("hidden8", "head", "abc"),
        ("kl-vector", "values", "int4"),
    ],
)
def test_impossible_settings_are_refused_by_the_recipes_key(kind, name, value):
    with pytest.raises(LimbeckError, match=rf"{name} {value} found.*teacher\.cached\.{name}"):
        tiny_cache.about(**{"kind": kind, name: value})


@pytest.mark.parametrize(
    ("name", "value", "cure"),
    [
        ("share", 0.0, "feature_share"),
        ("share", 1.5, "feature_share"),
        ("numbers", "int4", "feature_numbers"),
        ("channels", 69, "feature_width"),
    ],
)
def test_impossible_settings_of_features_are_refused(name, value, cure):
    with pytest.raises(LimbeckError, match=rf"{name} {value} found.*teacher\.cached\.{cure}"):
        tiny_cache.about(**{"kind": "feature", name: value})


def test_other_kinds_say_nothing_of_features(tmp_path):
    form.write_about(tmp_path, tiny_cache.about())
    assert not {"tap", "share", "numbers", "channels"} & set(files.read_json(tmp_path / form.ABOUT))


@pytest.mark.parametrize("wrong", [{"length": 0}, {"vocab": 0}, {"kind": "hidden4"}], ids=str)
def test_what_no_cache_can_be_is_refused(wrong):
    with pytest.raises(LimbeckError, match=str(next(iter(wrong.values())))):
        replace(tiny_cache.about(), **wrong)


@pytest.mark.parametrize(
    ("kind", "name", "value", "having"),
    [
        ("sample", "k", 32, r"topk\+rest"),
        ("sample", "values", "float32", r"topk\+rest, kl-vector"),
        ("rs", "draws", 2, "sample"),
        ("topk+rest", "threshold", 0.1, "sample"),
        ("topk+rest", "head", "c" * 64, "hidden8, kl-vector"),
    ],
)
def test_a_setting_that_the_kind_does_not_use_is_refused(kind, name, value, having):
    with pytest.raises(CacheMismatch, match=f"{name} .* does not use it.*: {having}"):
        tiny_cache.about(**{"kind": kind, name: value})


def test_ids_take_more_than_two_bytes_only_where_they_must():
    bits = {65_536: 0, 65_537: 1, 128_256: 1, 131_072: 1, 131_073: 2, 262_144: 2}
    assert {vocab: tiny_cache.about(vocab=vocab).high_bits for vocab in bits} == bits


def test_more_kept_tokens_than_ids_means_all_of_them():
    assert form.chosen({"kind": "topk+rest"}, vocab=29)["k"] == 29
    assert form.chosen({"kind": "topk+rest", "k": 4}, vocab=29)["k"] == 4


def test_width_and_head_come_from_a_cache_of_the_same_kind():
    found = tiny_cache.about(kind="hidden8")
    same, other = (form.chosen({"kind": k}, found, vocab=29) for k in ("hidden8", "kl-vector"))
    assert (same["width"], same["head"]) == (70, "c" * 64)
    assert (other["width"], other["head"]) == (0, "")


def test_the_name_of_a_shard_depends_on_its_rows_and_their_order():
    assert form.shard_name(["a", "b"]) == form.shard_name(("a", "b"))
    assert form.shard_name(["a", "b"]) != form.shard_name(["b", "a"])
    assert form.shard_name(["ab"]) != form.shard_name(["a", "b"])


def test_the_name_of_a_shard_depends_on_which_tokens_are_recorded():
    assert form.shard_name(["a"], b"\x03") != form.shard_name(["a"], b"\x01")


def test_the_digest_of_a_row_depends_on_tokens_and_document_bounds():
    ids, positions = torch.tensor([3, 4, 5]), torch.tensor([0, 1, 2])
    same = form.tokens_digest(ids, positions)
    assert same == form.tokens_digest(ids.clone().to(torch.int32), positions)
    assert same != form.tokens_digest(torch.tensor([3, 5, 4]), positions)
    assert same != form.tokens_digest(ids, torch.tensor([0, 1, 0]))
