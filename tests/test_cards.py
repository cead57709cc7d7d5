"""Whom a card names: the teacher behind a server or a cache as well, and the model whose weights a student began with."""

import pytest

from limbeck import assembly, cards, loading
from limbeck.cache.format import CacheAbout, write_about
from limbeck.folder import Folder


def recipe(teacher, student=None):
    return loading.build(
        {
            "name": "tiny",
            "teacher": teacher,
            "student": student or {"pretrained": {"model": "a/student"}},
            "stages": [{"name": "one", "source": {"text": {"path": "x"}}, "objective": ["cross_entropy"], "budget": "1 steps"}],
        },
        "recipe.yaml",
    )  # fmt: skip


@pytest.mark.parametrize(
    "teacher",
    [
        {"remote": {"server": {"url": "http://127.0.0.1:1", "model": "meta/Llama-3.1"}}},
        {"cached": {"server": {"url": "http://127.0.0.1:1", "model": "meta/Llama-3.1"}, "path": "y"}},
    ],
)  # fmt: skip
def test_a_served_teacher_is_named(teacher):
    found = cards._served(recipe(teacher))
    assert (found.role, found.name, found.licence) == ("teacher", "meta/Llama-3.1", None)


def test_a_cache_that_others_recorded_names_its_teacher(tmp_path):
    told = CacheAbout(teacher="f" * 64, tokenizer="t", vocab=8, length=4, teacher_name="b/teacher")
    write_about(tmp_path / "cache", told)
    assert cards._served(recipe({"cached": {"path": str(tmp_path / "cache")}})).name == "b/teacher"
    away = cards._served(recipe({"cached": {"path": str(tmp_path / "none")}}))
    assert away.name == f"the teacher of {tmp_path / 'none'}"
    assert cards._served(recipe(None)) is None


@pytest.mark.parametrize(
    ("student", "begins"),
    [
        ({"pretrained": {"model": "a/student"}}, "a/student"),
        ({"pruned": {"layers": 2}}, "a/teacher"),
        ({"adapters": {"model": "c/base"}}, "c/base"),
        ({"scratch": {"config": {}}}, None),
    ],
)
def test_whose_weights_a_student_began_with(student, begins):
    found = assembly.began(recipe({"live": {"model": "a/teacher"}}, student))
    assert (found.name if found else None) == begins


def test_one_of_several_students_has_the_name_of_the_run_as_well(tmp_path):
    assert cards._name(Folder(tmp_path / "big/students/1-pruned")) == "big, 1-pruned"
    assert cards._name(Folder(tmp_path / "big")) == "big"
