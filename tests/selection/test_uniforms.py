"""A token's uniform numbers are its own, and uniform."""

import hashlib

import pytest
import torch

from limbeck.errors import LimbeckError
from limbeck.selection.uniforms import uniforms

ADDRESSES = [hashlib.sha256(bytes([row])).hexdigest()[:32] for row in range(40)]


def test_neither_batch_nor_order_nor_number_of_draws_changes_a_number():
    whole = uniforms(ADDRESSES, 12, 3).view(3, 40, 12)
    for row in (0, 17, 39):
        alone = uniforms([ADDRESSES[row]], 12, 2).view(2, 12)
        assert torch.equal(alone, whole[:2, row])
    turned = uniforms(ADDRESSES[::-1], 12, 3).view(3, 40, 12)
    assert torch.equal(turned.flip(1), whole)


def test_a_longer_row_begins_with_the_same_numbers():
    assert torch.equal(uniforms(ADDRESSES[:1], 5, 1), uniforms(ADDRESSES[:1], 9, 1)[:, :5])


def test_these_are_the_numbers():
    # Written down, because a cache that is recorded again must come out the same.
    found = uniforms(["000102030405060708090a0b0c0d0e0f"], 2, 2)
    assert found.tolist() == [
        [0.4099640877335121, 0.267894662496747],
        [0.270846840720096, 0.424826721919755],
    ]


def test_numbers_fill_the_unit_interval_evenly():
    found = uniforms(ADDRESSES, 500, 2).flatten()  # 40,000
    assert float(found.min()) >= 0
    assert float(found.max()) < 1
    bins = torch.histc(found, 20, 0, 1)
    chi_square = float(((bins - 2000).square() / 2000).sum())
    assert chi_square < 43.8  # 19 degrees of freedom, 0.1 %


def test_draws_and_rows_are_not_alike():
    found = uniforms(ADDRESSES[:2], 2000, 2).view(4, 2000)
    correlation = torch.corrcoef(found) - torch.eye(4)
    assert float(correlation.abs().max()) < 4 / 2000**0.5


@pytest.mark.parametrize("address", ["row-7", "", "-1", "f" * 33])
def test_an_address_that_is_no_key_is_refused(address):
    with pytest.raises(LimbeckError, match="32 hexadecimal digits"):
        uniforms([address], 3, 1)
