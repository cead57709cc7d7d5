"""A pruned student is the teacher's own layers, in order, and nothing shared with it."""

import pytest
import tiny
import tiny_run
import torch
from transformers import AutoModelForCausalLM, SmolLM3Config

from limbeck.errors import RecipeError
from limbeck.models import layout
from limbeck.models.likeness import block_importance
from limbeck.students.pruned import evenly, pruned
from limbeck.types import Materials


def materials(model, text=None):
    return Materials(teacher=lambda: model, load=lambda name, revision: model, text=text)


@pytest.mark.parametrize(
    ("count", "depth", "wanted"),
    [(1, 4, [0]), (2, 4, [0, 3]), (3, 5, [0, 2, 4]), (4, 4, [0, 1, 2, 3]), (15, 30, None)],
)
def test_even_layers_hold_first_and_last(count, depth, wanted):
    found = evenly(count, depth)
    assert wanted is None or found == wanted
    assert len(set(found)) == count
    assert count == 1 or (found[0], found[-1]) == (0, depth - 1)


@pytest.mark.parametrize("tied", [True, False])
def test_kept_layers_are_bit_equal_and_share_no_storage(tied):
    teacher = tiny.llama(layers=4, tied=tied)
    student = pruned(materials(teacher), layers=[0, 2, 3])
    for new, old in enumerate([0, 2, 3]):
        mine, theirs = layout.layers(student)[new], layout.layers(teacher)[old]
        for left, right in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(left, right)
            assert left.data_ptr() != right.data_ptr()
    assert torch.equal(student.model.embed_tokens.weight, teacher.model.embed_tokens.weight)
    assert (student.lm_head.weight is student.model.embed_tokens.weight) == tied


def test_keeping_all_layers_keeps_the_logits():
    teacher = tiny.llama(layers=4)
    ids = tiny.batch(2, 12).input_ids
    assert torch.equal(pruned(materials(teacher), layers=4)(ids).logits, teacher(ids).logits)


def test_lists_of_one_entry_a_layer_follow_the_kept_layers():
    config = SmolLM3Config(
        vocab_size=29, hidden_size=16, intermediate_size=32, num_hidden_layers=8,
        num_attention_heads=4, num_key_value_heads=2, no_rope_layers=[1, 1, 1, 0, 1, 1, 1, 0],
        pad_token_id=None, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    student = pruned(materials(AutoModelForCausalLM.from_config(config)), layers=[0, 1, 3, 7])
    assert student.config.no_rope_layers == [1, 1, 0, 0]
    assert len(student.config.layer_types) == 4


def test_a_layer_that_does_nothing_has_no_importance_and_goes():
    teacher = tiny.llama(layers=4)
    with torch.no_grad():
        teacher.model.layers[1].self_attn.o_proj.weight.zero_()
        teacher.model.layers[1].mlp.down_proj.weight.zero_()
    scores = block_importance(teacher, tiny.batch(2, 12))
    assert scores[1] == pytest.approx(0.0, abs=1e-6)
    assert all(scores[layer] > 1e-3 for layer in (0, 2, 3))
    student = pruned(materials(teacher, tiny_run.Ragged()), layers=3, choose="importance")
    for new, old in enumerate([0, 2, 3]):
        left = student.model.layers[new].mlp.up_proj.weight
        assert torch.equal(left, teacher.model.layers[old].mlp.up_proj.weight)


@pytest.mark.parametrize("layers", [0, 5, [], [1, 1], [2, 1], [0, 4], [-1]])
def test_layers_that_are_not_there_are_refused(layers):
    with pytest.raises(RecipeError, match=r"student\.pruned\.layers"):
        pruned(materials(tiny.llama(layers=4)), layers=layers)


def test_importance_without_text_is_refused():
    with pytest.raises(RecipeError, match="needs a stage with text"):
        pruned(materials(tiny.llama(layers=4)), layers=2, choose="importance")


def test_without_a_teacher_there_is_nothing_to_prune():
    with pytest.raises(RecipeError, match="give 'model'"):
        pruned(materials(None), layers=2)
