"""What the teacher says is the same, whether it is asked in time or one batch early."""

import pytest
import tiny
import tiny_run
import torch

from limbeck.training.ahead import Ahead

CPU = torch.device("cpu")
PLACES = [range(2), range(2, 4), range(4, 6)]


class Counted(tiny_run.Alive):
    """Notes which rows it was asked about."""

    def __init__(self):
        super().__init__(tiny.llama(dtype=torch.float64, seed=2))
        self.asked = []

    def signal(self, batch, wanted):
        self.asked.append(batch.addresses)
        return super().signal(batch, wanted)


def served(early):
    teacher = Counted()
    ahead = Ahead(tiny_run.Ragged(), teacher, CPU, early=early)
    found = []
    for place, following in zip(PLACES, [*PLACES[1:], None], strict=True):
        found.append(ahead.take(place, following))
        ahead.proceed()
    return teacher, found


def test_early_and_late_give_the_same_batches_and_signals():
    (early, ahead), (late, behind) = served(True), served(False)
    assert early.asked == late.asked == [batch.addresses for batch, _ in behind]
    for (batch, signal), (other, told) in zip(ahead, behind, strict=True):
        assert batch.addresses == other.addresses
        assert torch.equal(signal.hidden, told.hidden)


def test_early_the_teacher_is_one_batch_ahead_and_never_past_the_end():
    teacher = Counted()
    ahead = Ahead(tiny_run.Ragged(), teacher, CPU, early=True)
    ahead.take(PLACES[0], PLACES[1])
    assert len(teacher.asked) == 1  # the student's work is sent first
    ahead.proceed()
    assert len(teacher.asked) == 2
    ahead.proceed()
    ahead.take(PLACES[1], None)
    ahead.proceed()
    assert len(teacher.asked) == 2


def test_another_batch_than_was_foreseen_is_made_anew():
    ahead = Ahead(tiny_run.Ragged(), Counted(), CPU, early=True)
    ahead.take(PLACES[0], PLACES[1])
    ahead.proceed()
    batch, _ = ahead.take(PLACES[2], None)
    assert batch.addresses == ("4", "5")


@pytest.mark.parametrize("early", [False, True])
def test_a_batch_is_read_once_and_none_is_kept_after_it_was_taken(early):
    class Once(tiny_run.Ragged):
        def batch(self, positions):
            assert positions not in seen
            seen.append(positions)
            return super().batch(positions)

    seen = []
    ahead = Ahead(Once(), Counted(), CPU, early=early)
    for place, following in zip(PLACES, [*PLACES[1:], None], strict=True):
        weights = ahead.batch(
            place
        ).weights  # as the loop does, also of a batch that is there early
        batch, _ = ahead.take(place, following)
        assert torch.equal(batch.weights, weights)
        ahead.proceed()
    assert not ahead._read


@pytest.mark.parametrize("early", [False, True])
def test_what_was_asked_already_is_kept_while_somebody_else_asks(early):
    teacher = Counted()
    teacher.elsewhere = True
    ahead = Ahead(tiny_run.Ragged(), teacher, CPU, early=early)
    ahead.take(PLACES[0], PLACES[1])
    ahead.rest()
    asked = len(teacher.asked)
    assert asked == 2, "the answer was not waited for"
    ahead.take(PLACES[1], None)
    assert len(teacher.asked) == asked
