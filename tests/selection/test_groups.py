"""One pass over groups of ids tells the same as whole rows do, compiled or not."""

import pytest
import tiny
import torch

from limbeck.errors import NonFinite
from limbeck.selection._groups import GROUP, grouped

# float32 sums of 5,000 ids.
CLOSE = {"atol": 2e-6, "rtol": 2e-5}


@pytest.mark.parametrize("vocab", [1, 63, 64, 65, 200, 640])
def test_mass_peak_and_entropy_are_those_of_the_whole_distribution(vocab):
    logits = tiny.randn(37, vocab) * 4
    found = grouped(logits)
    logprobs = logits.log_softmax(-1)
    padded = torch.nn.functional.pad(logprobs.exp(), (0, -vocab % GROUP))
    mass = padded.unflatten(-1, (-1, GROUP)).sum(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    torch.testing.assert_close(found.mass, mass, atol=1e-13, rtol=0)
    torch.testing.assert_close(found.entropy, entropy, atol=1e-12, rtol=0)
    torch.testing.assert_close(
        found.peak + found.log_total, logits.logsumexp(-1), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [5, 32, 77])
def test_the_compiled_pass_tells_what_the_eager_one_does_in_float64(dtype, tokens):
    logits = (tiny.randn(tokens, 5056) * 4).to(dtype)
    logits[2, 70:300] = -torch.inf
    fast, slow = grouped(logits), grouped(logits.double())
    for name in ("mass", "peak", "log_total", "entropy"):
        found, wanted = getattr(fast, name), getattr(slow, name)
        torch.testing.assert_close(found.double(), wanted, **CLOSE)


def test_logits_of_minus_infinity_have_no_mass_and_change_no_other():
    logits = tiny.randn(3, 192)
    holes = logits.clone()
    holes[:, 64:128] = -torch.inf
    found = grouped(holes)
    assert torch.equal(found.mass[:, 1], torch.zeros(3, dtype=torch.float64))
    without = torch.cat([logits[:, :64], logits[:, 128:]], -1)
    torch.testing.assert_close(found.entropy, grouped(without).entropy, atol=1e-13, rtol=0)


def test_a_certain_token_has_no_entropy():
    logits = torch.full((2, 128), -torch.inf)
    logits[:, 77] = 3.0
    assert torch.equal(grouped(logits).entropy, torch.zeros(2))


@pytest.mark.parametrize("vocab", [64, 4160])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_refused_with_its_token(vocab, wrong):
    logits = tiny.randn(40, vocab, dtype=torch.float32)
    logits[33, 7] = wrong
    with pytest.raises(NonFinite, match="token 33 of 40"):
        grouped(logits)


def test_a_row_without_any_id_is_refused():
    with pytest.raises(NonFinite, match="token 0 of 1"):
        grouped(torch.full((1, 64), -torch.inf))


@pytest.mark.parametrize("vocab", [128, 4096])  # 4,096 are compiled
def test_a_token_has_the_same_bits_whatever_is_beside_it(vocab):
    logits = tiny.randn(33, vocab)
    every = grouped(logits)
    for tokens in (1, 2, 31):
        some = grouped(logits[:tokens])
        for name in ("top", "mass", "log_total", "entropy"):
            assert torch.equal(getattr(some, name), getattr(every, name)[:tokens]), (tokens, name)
