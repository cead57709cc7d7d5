"""Blocks that run again on what entered them give what the whole model gives."""

import pytest
import tiny
import torch
from tiny_families import BAMBA, FAMILIES, build

from limbeck.errors import ModelError
from limbeck.models import layout, onward

IDS = torch.randint(0, tiny.VOCAB, (2, 9), generator=tiny.generator())
PLACES = torch.arange(9).expand(2, 9)


@pytest.mark.parametrize("family", [*FAMILIES, "bamba"])
def test_from_each_block_on_the_rest_is_as_before(family):
    model = build(family, **(BAMBA if family == "bamba" else {}))
    with torch.no_grad():
        entered = onward.enter(model, IDS, PLACES, None)
        onward.check(model, entered)
        for block in range(len(layout.layers(model))):
            again = onward.onward(model, entered, block)
            torch.testing.assert_close(again, entered.last, atol=1e-6, rtol=0)


def test_a_family_that_does_more_than_run_its_blocks_is_refused():
    model = build("llama")
    with torch.no_grad():
        entered = onward.enter(model, IDS, PLACES, None)
        entered.last = entered.last * 1.01
        with pytest.raises(ModelError, match=r"LlamaForCausalLM: its blocks, run one after"):
            onward.check(model, entered)
        entered.states.pop()
        with pytest.raises(ModelError, match=r"Choose such a model"):
            onward.check(model, entered)
