"""Compiled and eager row functions give the same; run at a vocabulary wide enough to be compiled."""

import os
import subprocess
import sys

import pytest
import tiny
import torch

from limbeck.models.layout import Head
from limbeck.objectives import _compiled
from limbeck.objectives._chunks import chunked, whole
from limbeck.objectives._compiled import WIDE, rowwise
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.forward_kl import forward_kl
from limbeck.objectives.jensen_shannon import jensen_shannon
from limbeck.types import Sampled, Signal, TopK

TOKENS, WIDTH, VOCAB = 45, 8, WIDE + 100


def sides():
    logits = 3 * tiny.randn(TOKENS, VOCAB, seed=5)
    logprobs, ids = logits.log_softmax(-1).topk(9)
    rest = torch.log1p(-logprobs.exp().sum(-1))
    picked = Sampled.of(
        ids.flatten(), torch.full((9 * TOKENS,), 1 / 9), torch.full((TOKENS,), 9), None
    )
    return {
        "dense": (Signal(logits=logits), [forward_kl, jensen_shannon, cross_entropy]),
        "topk": (Signal(topk=TopK(ids, logprobs, rest)), [forward_kl, cross_entropy]),
        "sampled": (Signal(sampled=picked), [forward_kl, cross_entropy]),
    }


def run(way, side, terms, dtype):
    states = tiny.randn(TOKENS, WIDTH, seed=2).to(dtype).requires_grad_()
    weight = tiny.randn(VOCAB, WIDTH, seed=3).to(dtype).requires_grad_()
    top = Head(weight, None, 1.0, None, VOCAB)
    coefficients = [1.0, 0.5, 0.3][: len(terms)]
    rows = tiny.rows(TOKENS, vocab=VOCAB)
    total, sums = way(states, top, side, rows, terms, coefficients, chunk=37)
    total.backward()
    return [total.detach(), sums, states.grad, weight.grad]


@pytest.mark.skipif(not _compiled.able("cpu"), reason="no C++ compiler is here")
@pytest.mark.parametrize("kind", ["dense", "topk", "sampled"])
def test_compiled_equals_eager_and_both_the_slow_way_in_float64(kind, monkeypatch):
    side, terms = sides()[kind]
    compiled = run(chunked, side, terms, torch.float32)
    exact = run(whole, side, terms, torch.float64)
    monkeypatch.setattr(_compiled, "able", lambda device: False)
    eager = run(chunked, side, terms, torch.float32)
    for one, other, true in zip(compiled, eager, exact, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one.double(), true, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not _compiled.able("cpu"), reason="no C++ compiler is here")
def test_one_compilation_serves_any_number_of_rows():
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]

    @rowwise
    def doubled(rows):
        return rows * 2

    for count in (32, 7, 21):
        assert torch.equal(doubled(torch.ones(count, WIDE)), torch.full((count, WIDE), 2.0))
    assert graphs["unique_graphs"] == before + 1
    doubled(torch.ones(5, WIDE - 1))
    assert graphs["unique_graphs"] == before + 1


BROKEN = """
import torch
from limbeck.objectives._compiled import WIDE, rowwise

@rowwise
def halved(rows):
    rows.copy_(rows / 2)
    return rows.sum(-1)

rows = torch.ones(4, WIDE)
for times in (1, 2):
    print(torch.equal(halved(rows), torch.full((4,), WIDE / 2**times)))
"""


def test_a_compiler_that_fails_is_warned_of_once_and_everything_runs_eagerly(tmp_path):
    broken = tmp_path / "cxx"
    broken.write_text("#!/bin/sh\necho no such header >&2\nexit 1\n")
    broken.chmod(0o755)
    known = {"CXX": str(broken), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    env = {name: value for name, value in os.environ.items() if name != "LIMBECK_EAGER"}
    done = subprocess.run(
        [sys.executable, "-c", BROKEN], env=env | known, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "True"]
    assert done.stderr.count("halved could not be compiled") == 1


@pytest.mark.skipif(not _compiled.able("cpu"), reason="no C++ compiler is here")
def test_many_functions_of_one_definition_are_all_compiled():
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]

    def times(factor):
        return rowwise(lambda rows: rows * factor)

    for factor in range(10):
        assert times(factor)(torch.ones(2, WIDE)).sum() == 2 * factor * WIDE
    assert graphs["unique_graphs"] == before + 10
