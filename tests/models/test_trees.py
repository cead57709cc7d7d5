"""A tree holds what sequences share once, and a model says how much of one it can read."""

import numpy as np
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_families import build

from limbeck.models.trees import longest_input, tree


def test_the_model_says_how_long_a_text_may_be():
    assert longest_input(tiny.llama()) == 128
    assert longest_input(build("gpt2")) == 64


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=8), max_size=12))
def test_a_tree_holds_every_sequence_and_no_prefix_twice(sequences):
    found, nodes = tree([np.array(one, dtype=np.int64) for one in sequences])
    for one, path in zip(sequences, nodes, strict=True):
        assert found.tokens[path].tolist() == one
        assert found.depths[path].tolist() == list(range(len(one)))
        for place, node in enumerate(path):  # what stands above a node is its sequence so far
            above = [a for a in range(node + 1) if node < found.ends[a]]
            assert above == path[: place + 1].tolist()
    prefixes = {tuple(one[: end + 1]) for one in sequences for end in range(len(one))}
    assert len(found.tokens) == len(prefixes)
