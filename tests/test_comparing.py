"""`limbeck show --layers` tells what likeness.py finds on the first stage's text, of whoever is named."""

import json

import pytest
import tiny_folder
import torch

from limbeck import assembly, comparing
from limbeck.errors import RecipeError
from limbeck.models import likeness

pytestmark = pytest.mark.usefixtures("handlers")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    found = tmp_path_factory.mktemp("compared")
    tiny_folder.tree(found)
    return found


def shown(place, capsys, monkeypatch, **changes):
    """What is printed in 100 columns, and what is written."""
    monkeypatch.setenv("COLUMNS", "100")
    asked = tiny_folder.short(place, "shown", **changes)
    comparing.show(asked, place / "layers.json")
    return capsys.readouterr().out, json.loads((place / "layers.json").read_text())


def test_a_pruned_student_is_most_like_the_blocks_that_it_keeps(place, capsys, monkeypatch):
    student = {"pruned": {"layers": [0, 1, 3]}}
    said, found = shown(place, capsys, monkeypatch, student=student)
    (mine,) = found["students"]
    cka = torch.tensor(mine["cka"], dtype=torch.float64)
    assert cka.shape == (3, 4)
    # The first two blocks run as the teacher's do; the third stands on another.
    torch.testing.assert_close(cka.diagonal()[:2], torch.ones(2, dtype=torch.float64))
    assert cka[2, 3] < 1
    assert mine["paired"] == [0, 2, 3]
    assert mine["importance"][:2] == pytest.approx(found["teacher"]["importance"][:2])
    assert "8 rows of 16 tokens of stage distil's text" in " ".join(said.split())
    lines = [line for line in said.splitlines() if line.startswith("│ layers.1 ")]
    assert "layers.1 1.000" in lines[-1]
    assert f"layers.2 │ {cka[1, 2]:.3f}" in lines[-1]
    assert max(map(len, said.splitlines())) <= 100


def test_what_is_told_is_of_the_text_that_the_first_stage_reads(place, capsys, monkeypatch):
    held_out = tiny_folder.source(place, split="held_out")
    stages = [tiny_folder.stage(place, budget="1 steps", source=held_out)]
    stages.append(tiny_folder.stage(place, name="second", budget="1 steps"))
    _, found = shown(place, capsys, monkeypatch, stages=stages)
    base = assembly.ground(tiny_folder.short(place, "shown", stages=stages))
    source = assembly.stage_source(base, base.recipe.stages[0])
    batch = source.batch(range(8))
    wanted = likeness.block_importance(assembly.load_teacher(base), batch)
    assert found["teacher"]["importance"] == pytest.approx(wanted.tolist())
    assert found["tokens"] == batch.counted.numel()


def test_long_rows_give_so_many_tokens_evenly(place, monkeypatch):
    base = assembly.ground(tiny_folder.short(place, "shown"))
    source = assembly.stage_source(base, base.recipe.stages[0])
    whole = comparing.look(assembly.load_teacher(base), source, 2)
    monkeypatch.setattr(comparing, "_MOST", 5)
    some = comparing.look(assembly.load_teacher(base), source, 2)
    assert torch.equal(some.importance, whole.importance)
    counts = [source.batch([row]).counted.numel() for row in range(2)]
    places = [
        start + k * n // 5
        for start, n in zip((0, counts[0]), counts, strict=True)
        for k in range(5)
    ]
    assert all(
        torch.equal(few, all_[places])
        for few, all_ in zip(some.outputs, whole.outputs, strict=True)
    )


def test_rotary_positions_are_not_rounded_with_the_weights(place, capsys, monkeypatch):
    seen, plain = [], comparing.look

    def look(model, source, rows):
        frequencies = model.model.rotary_emb.inv_freq
        seen.append((next(model.parameters()).dtype, frequencies.dtype))
        return plain(model, source, rows)

    monkeypatch.setattr(comparing, "look", look)
    shown(place, capsys, monkeypatch, compute={"device": "cpu", "dtype": "bfloat16", "threads": 1})
    assert seen == [(torch.bfloat16, torch.float32)] * 2


def test_every_student_of_a_recipe_is_compared_with_one_teacher(place, capsys, monkeypatch):
    students = [{"pruned": {"layers": 1}}, {"pruned": {"layers": 4}}]
    said, found = shown(place, capsys, monkeypatch, student=None, students=students)
    assert [len(one["cka"]) for one in found["students"]] == [1, 4]
    same = torch.tensor(found["students"][1]["cka"], dtype=torch.float64)
    torch.testing.assert_close(same, same.T)
    assert " ".join(said.split()).count("block importance") == 1  # a long path breaks the line


def test_a_teacher_that_names_no_model_is_refused(place):
    nameless = {"cached": {"path": str(place / "cache"), "kind": "topk+rest"}}
    student = {"pretrained": {"model": str(place / "teacher")}}
    asked = tiny_folder.short(place, "nameless", teacher=nameless, student=student, evaluate=None)
    with pytest.raises(RecipeError, match=r"no teacher model is named.*Give the teacher's 'model'"):
        comparing.show(asked)
