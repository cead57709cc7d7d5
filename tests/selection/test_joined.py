"""Records of parts of some tokens, joined, are the record of all of them."""

import dataclasses
import itertools

import pytest
import tiny
import torch
from torch import Tensor

from limbeck.selection.joined import joined
from limbeck.selection.likeliest import likeliest
from limbeck.selection.mean import head_mean
from limbeck.selection.resampled import resampled
from limbeck.selection.threshold import threshold

LOGITS = tiny.randn(40, 100) * 3
UNIFORMS = torch.rand(3, 40, generator=tiny.generator(1), dtype=torch.float64)
WEIGHT = tiny.randn(100, 7, seed=2)
MAKERS = {
    "drawn": lambda part: threshold(LOGITS[part], UNIFORMS[:, part]),
    "sampled": lambda part: resampled(LOGITS[part], UNIFORMS[:, part]),
    "topk": lambda part: likeliest(LOGITS[part], 5),
    "mean": lambda part: head_mean(LOGITS[part], WEIGHT),
    "hidden": lambda part: LOGITS[part],
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("cuts", [[0, 40], [0, 13, 13, 39, 40]])
def test_joined_parts_are_the_whole(kind, cuts):
    make = MAKERS[kind]
    parts = [slice(a, b) for a, b in itertools.pairwise(cuts)]
    found, whole = joined([make(part) for part in parts]), make(slice(None))
    if isinstance(whole, Tensor):
        assert torch.equal(found, whole)
        return
    for item in dataclasses.fields(whole):
        one, other = getattr(found, item.name), getattr(whole, item.name)
        exact = not one.is_floating_point()
        torch.testing.assert_close(one, other, atol=0 if exact else 1e-13, rtol=0)
