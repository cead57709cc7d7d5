"""Numbers in few bytes come back as near as is promised."""

import math

import numpy as np
import pytest
import tiny
import torch

from limbeck.cache import codec


def kl(exact, coded):
    """KL in nats of distributions over the last axis; a probability of 0 adds nothing."""
    terms = torch.where(exact.isneginf(), 0.0, exact.exp() * (exact - coded))
    return terms.sum(-1)


def test_a_code_of_a_log_is_near_it():
    logs = torch.linspace(-43, 0, 9_999, dtype=torch.float64)
    found = codec.logs_of(torch.from_numpy(codec.log_codes(logs.numpy()))).double()
    wrong = (found - logs).abs()
    assert wrong[logs > -12].max() <= 1 / 32 + 1e-12
    assert wrong.max() <= 1 / 4 + 1e-12


def test_a_code_grows_as_its_log_falls_and_each_is_used():
    logs = np.linspace(-45, 0.0005, 99_999)[::-1]
    codes = codec.log_codes(logs).astype(int)
    assert (np.diff(codes) >= 0).all()
    assert set(codes) == set(range(255))


def test_a_probability_of_nothing_has_a_code_of_its_own():
    codes = codec.log_codes(np.array([-np.inf, -1e30, -44.0, 1e-4, 0.0]))
    assert codes.tolist() == [255, 254, 254, 0, 0]
    logs = codec.logs_of(torch.from_numpy(codes))
    assert logs.tolist() == [-torch.inf, -43.0, -43.0, 0.0, 0.0]


@pytest.mark.parametrize("width", [0.5, 1.0, 3.0, 6.0])
def test_coded_distributions_lose_less_than_two_ten_thousandths_of_a_nat(width):
    whole = (width * tiny.randn(4_000, 65)).log_softmax(-1)
    codes = torch.from_numpy(codec.log_codes(whole.numpy()))
    logs, rest = codec.normalised(codes[:, :64], codes[:, 64])
    coded = torch.cat([logs, rest[:, None]], 1).double()
    torch.testing.assert_close(coded.exp().sum(-1), torch.ones(4_000).double(), atol=1e-5, rtol=0)
    assert kl(whole, coded).mean() < 2e-4
    assert kl(whole, coded).max() < 1e-3


def test_decoding_in_blocks_is_decoding_one_by_one():
    codes = torch.randint(0, 256, (9_000, 3), generator=tiny.generator(), dtype=torch.uint8)
    rest = torch.randint(0, 256, (9_000,), generator=tiny.generator(1), dtype=torch.uint8)
    codes[:, 0] = 20  # something is always likely
    logs, rests = codec.normalised(codes, rest)
    for token in (0, 4_095, 4_096, 8_999):
        both = [*codes[token].tolist(), int(rest[token])]
        plain = [
            -math.inf if c == 255 else -c / 16 if c < 192 else -12 - (c - 192) / 2 for c in both
        ]
        whole = math.log(sum(map(math.exp, plain)))
        expected = torch.tensor([log - whole for log in plain])
        found = torch.cat([logs[token], rests[token, None]])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("threshold", [1 / 22, 1 / 50, 0.004])
def test_head_probabilities_are_wrong_by_half_a_step_at_most(threshold):
    exact = np.linspace(threshold, 1, 10_001)
    found = codec.head_table(threshold)[codec.head_codes(np.log(exact), threshold)]
    step = math.exp(-math.log(threshold) / 255 / 2) - 1
    assert np.abs(found / exact - 1).max() <= step + 1e-5
    assert threshold < 0.02 or step < 0.008


@pytest.mark.parametrize("vocab", [1, 29, 49_152])
def test_entropies_are_wrong_by_half_a_step_at_most_and_by_nothing_on_average(vocab):
    most = math.log(max(vocab, 2))
    exact = np.linspace(0, most, 10_001)
    found = codec.entropies(codec.entropy_codes(exact, vocab), vocab).double().numpy()
    assert np.abs(found - exact).max() <= most / 510 + 1e-5
    assert abs((found - exact).mean()) < 1e-4


@pytest.mark.parametrize("vocab", [65_536, 65_537, 128_256, 262_144, 1_000_000])
def test_ids_of_any_size_come_back_from_any_place(vocab):
    bits = max(0, (vocab - 1).bit_length() - 16)
    ids = torch.randint(0, vocab, (203,), generator=tiny.generator()).numpy()
    ids[:4] = [0, vocab - 1, min(65_535, vocab - 1), min(65_536, vocab - 1)]
    planes = codec.id_planes("ids", ids, bits)
    assert sum(plane.nbytes for plane in planes.values()) == 2 * 203 + bits * 26
    for begin, end in ((0, 203), (0, 8), (3, 4), (7, 9), (13, 100), (200, 203), (50, 50)):
        found = codec.wide(codec.ids_of(planes, "ids", begin, end))
        assert found.dtype == torch.int64
        assert found.tolist() == ids[begin:end].tolist()


@pytest.mark.parametrize("width", [1, 63, 64, 65, 576])
def test_vectors_in_groups_are_wrong_by_half_a_step_at_most(width):
    vectors = tiny.randn(700, width).float()
    vectors[5] *= 1_000
    vectors[6] = 0
    codes, scales = codec.group_codes(vectors.numpy())
    assert codes.shape == (700, width)
    assert scales.shape == (700, -(-width // 64))
    found = codec.vectors_of(codes, scales)
    steps = torch.from_numpy(scales).float().repeat_interleave(64, 1)[:, :width]
    # Half a step, and the rounding of the step itself at the ends of the range.
    assert ((found - vectors).abs() <= steps * (0.5 + 127 / 2_048)).all()
    assert (found[6] == 0).all()


def test_a_group_too_small_for_half_precision_is_nothing():
    codes, scales = codec.group_codes(np.full((1, 64), 1e-9, np.float32))
    assert (codec.vectors_of(codes, scales) == 0).all()


@pytest.mark.parametrize("width", [1, 64, 70])
def test_vectors_of_no_token_are_coded_and_come_back(width):
    codes, scales = codec.group_codes(np.zeros((0, width), np.float32))
    assert codes.shape == (0, width)
    assert scales.shape == (0, codec.groups(width))
    assert codec.vectors_of(codes, scales).shape == (0, width)
