"""Likeness: nothing else is looked at than tokens that count."""

import pytest
import tiny
import torch
from tiny_families import build

from limbeck.models import layout, likeness


def alone(model, ids):
    """1 - cos(input, output) of each block for one document in a forward of its own: (layers, time)."""
    turns = []

    def watch(_, given, out):
        after = out[0] if isinstance(out, tuple) else out
        turns.append(1 - torch.cosine_similarity(given[0].double(), after.double(), dim=-1)[0])

    hooks = [block.register_forward_hook(watch) for block in layout.layers(model)]
    with torch.no_grad():
        layout.trunk(model)(ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return torch.stack(turns)


@pytest.mark.parametrize(("family", "changes"), [("llama", {}), ("bloom", {"n_layer": 2})])
def test_importance_of_packed_documents_is_that_of_each_alone(family, changes):
    """A family whose documents are run one a row pads them; padding does not count, nor do separators."""
    model, lengths = build(family, **changes, n_head=4), (3, 1, 9)
    packed = tiny.batch(1, 13, documents=lengths)
    # The last label of each document does not count.
    each = [alone(model, ids)[:, :-1] for ids in packed.input_ids.split(lengths, 1)]
    found = likeness.block_importance(model, packed)
    torch.testing.assert_close(found, torch.cat(each, 1).mean(1), rtol=1e-5, atol=1e-9)
