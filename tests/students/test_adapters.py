"""LoRA starts as the identity, trains itself alone, and is merged into plain weights."""

import pytest
import tiny
import torch

from limbeck.errors import RecipeError
from limbeck.models import layout
from limbeck.students.adapters import adapters, finish
from limbeck.types import Materials


def made(*, tied=False, **options):
    model = tiny.llama(dtype=torch.float32, tied=tied)
    torch.manual_seed(0)  # one side of an adapter starts at random
    return adapters(Materials(teacher=lambda: model, load=lambda n, r: model), rank=2, **options)


def test_it_starts_as_the_identity():
    ids = tiny.batch(2, 12).input_ids
    torch.testing.assert_close(made()(ids).logits, tiny.llama()(ids).logits, atol=1e-6, rtol=0)


def test_only_the_adapters_train():
    names = {name for name, p in made().named_parameters() if p.requires_grad}
    assert names
    assert all("lora_" in name for name in names)
    assert not any("lm_head" in name for name in names)


def test_head_and_hidden_states_are_reached_through_it():
    student, batch = made(), tiny.batch(2, 12)
    found = layout.head(student)(layout.hidden(student, batch))
    wanted = student(batch.input_ids).logits.flatten(0, 1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_merged_weights_are_plain_and_give_the_same_logits():
    student, ids = made(), tiny.batch(2, 12).input_ids
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=tiny.generator(1))
    trained = student(ids).logits
    plain = finish(student)
    assert not any("lora" in name for name in plain.state_dict())
    torch.testing.assert_close(plain(ids).logits, trained, atol=1e-4, rtol=0)
    assert (trained - tiny.llama()(ids).logits).abs().max() > 1e-2


def test_a_target_that_is_not_there_is_refused():
    with pytest.raises(RecipeError, match="peft cannot place adapters"):
        made(targets=["nowhere"])


def test_adapters_on_a_table_that_is_the_head_as_well_are_refused():
    with pytest.raises(RecipeError, match=r"are its head as well \(tied\)"):
        made(tied=True, targets=["embed_tokens", "q_proj"])
    assert made(tied=True, targets=["q_proj"]) is not None


def test_adapters_on_a_table_of_its_own_are_merged_to_the_same_logits():
    student, ids = made(targets=["embed_tokens", "q_proj"]), tiny.batch(2, 12).input_ids
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "lora_" in name:
                parameter.normal_(generator=tiny.generator(1), std=0.1)
    trained = student(ids).logits
    torch.testing.assert_close(finish(student)(ids).logits, trained, atol=1e-4, rtol=0)
