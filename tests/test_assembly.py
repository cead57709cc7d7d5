"""A recipe's live parts fit one another, or an error says why they do not."""

import pytest
import tiny
import tiny_folder
import tiny_text

from limbeck import assembly, run
from limbeck.errors import ModelError
from limbeck.models import layout


def with_tokenizer(folder, ids):
    """A student of its own sizes and tokenizer."""
    tiny.llama(vocab=ids, width=32, layers=2, seed=5).save_pretrained(folder)
    tiny_text.tokenizer(ids).save_pretrained(folder)
    return {"pretrained": {"model": str(folder)}}


def alone(place, students):
    """A recipe in which several students learn from the text only, so that no teacher's tokenizer is the measure."""
    stage = tiny_folder.stage(place, budget="2 steps", objective=["cross_entropy"])
    changes = {"teacher": None, "student": None, "students": students, "evaluate": None}
    return tiny_folder.short(place, "beside", stages=[stage], **changes)


def test_students_of_different_tokenizers_do_not_learn_side_by_side(tmp_path):
    tiny_folder.tree(tmp_path)
    first = {"pretrained": {"model": str(tmp_path / "teacher")}}
    other = with_tokenizer(tmp_path / "other", 300)
    for students in ([first, other], [other, first]):
        with pytest.raises(ModelError, match=r"students: 2-pretrained has a tokenizer of 3.0 ids"):
            run.carry_out(alone(tmp_path, students))
    assert not (tmp_path / "runs").exists()


def test_students_of_one_tokenizer_share_the_texts_that_are_open(tmp_path):
    tiny_folder.tree(tmp_path)
    first = {"pretrained": {"model": str(tmp_path / "teacher")}}
    asked = alone(tmp_path, [first, with_tokenizer(tmp_path / "same", tiny_folder.VOCAB)])
    base = assembly.ground(asked)
    found = [assembly.beside(base, one) for one in asked.each]
    assert all(one.sources is base.sources for one in found)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_a_teachers_blocks_are_compiled_where_no_stage_looks_inside(tmp_path, compiled, inside):
    stages = [tiny_folder.stage(tmp_path, name="text", budget="2 steps")]
    if inside:
        term = {"feature_mse": {"at": {"student": "layers.0", "teacher": "layers.1"}}}
        stages.append(tiny_folder.stage(tmp_path, name="in", budget="2 steps", objective=[term]))
    compute = {"device": "cpu", "dtype": "float32", "compile": compiled}
    teacher = {"live": {"model": str(tmp_path / "teacher")}}
    tiny_folder.tree(tmp_path)
    asked = tiny_folder.short(tmp_path, "sealed", stages=stages, compute=compute, teacher=teacher)
    found = assembly.teacher(assembly.ground(asked))
    sealed = [layer._compiled_call_impl is not None for layer in layout.layers(found.model)]
    assert sealed == [compiled and not inside] * len(sealed)


def test_a_drawn_student_of_too_few_ids_is_refused_before_anything_is_prepared(tmp_path, capsys):
    sizes = {"model_type": "llama", "vocab_size": 200, "hidden_size": 16, "num_hidden_layers": 1}
    sizes |= {"intermediate_size": 32, "num_attention_heads": 2}
    tiny_folder.tree(tmp_path)
    asked = tiny_folder.short(tmp_path, "few", student={"scratch": {"config": sizes}})
    with pytest.raises(
        ModelError, match=r"student.scratch.config has 200 ids, the tokenizer of .* has 320"
    ):
        run.carry_out(asked)
    assert not (tmp_path / "prepared").exists()
    sizes["vocab_size"] = tiny_folder.VOCAB
    asked = tiny_folder.short(tmp_path, "enough", student={"scratch": {"config": sizes}})
    assert assembly.ground(asked).vocab == tiny_folder.VOCAB
    assert "note" not in capsys.readouterr().err
    sizes["vocab_size"] = tiny_folder.VOCAB + 64
    asked = tiny_folder.short(tmp_path, "padded", student={"scratch": {"config": sizes}})
    assert assembly.ground(asked).vocab == tiny_folder.VOCAB
    assert (
        f"64 ids that no text trains; vocab_size: {tiny_folder.VOCAB} leaves"
        in capsys.readouterr().err
    )
