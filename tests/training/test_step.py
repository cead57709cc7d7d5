"""The Step gives transformers' own loss for alpha 1, is linear in alpha, and does not see where padding stands."""

import itertools
from dataclasses import replace

import pytest
import tiny
import tiny_run
import torch

from limbeck.models import layout
from limbeck.names import find
from limbeck.recipe import Stage
from limbeck.training.step import Step, terms_at
from limbeck.types import Batch, Signal


def parts():
    return tiny.llama(dtype=torch.float64, seed=1), tiny.llama(dtype=torch.float64, seed=2)


def stage(alpha: float) -> Stage:
    plain = {"name": "a", "source": "text", "budget": "1 steps"}
    return Stage.model_validate(plain | {"objective": ["forward_kl"], "alpha": alpha})


def loss_and_gradient(alpha: float, batch: Batch):
    """Mean loss over counted tokens, and the gradient of the first block's q projection."""
    student, teacher = parts()
    terms = stage(alpha).terms
    bound, weights = terms_at([find("objectives", term.name) for term in terms], terms, 0.0)
    with torch.no_grad():
        signal = Signal(hidden=batch.pick(layout.hidden(teacher, batch)), head=layout.head(teacher))
    total, _ = Step(student, vocab=tiny.VOCAB, chunk=7)(batch, signal, bound, weights)
    loss = total / batch.weights.sum()
    loss.backward()
    return loss.detach(), student.model.layers[0].self_attn.q_proj.weight.grad


def test_alpha_one_is_the_loss_of_transformers():
    batch = tiny.batch(2, 12)
    batch.weights.fill_(1.0)
    student, _ = parts()
    tokens = torch.cat([batch.input_ids, batch.labels[:, -1:]], 1)
    wanted = student(tokens, labels=tokens).loss
    found, _ = loss_and_gradient(1.0, batch)
    # Transformers takes its loss in float32.
    torch.testing.assert_close(found.float(), wanted.detach(), atol=1e-6, rtol=0)


def test_alpha_zero_leaves_nothing_of_cross_entropy():
    batch = tiny.batch(2, 12)
    other = replace(batch, labels=batch.labels.roll(1, 1))
    left, right = loss_and_gradient(0.0, batch), loss_and_gradient(0.0, other)
    assert torch.equal(left[0], right[0])
    assert torch.equal(left[1], right[1])
    assert not torch.equal(loss_and_gradient(0.5, batch)[1], loss_and_gradient(0.5, other)[1])


@pytest.mark.parametrize("alpha", [0.25, 0.7])
def test_loss_and_gradient_are_linear_in_alpha(alpha):
    batch = tiny.batch(2, 12)
    pairs = zip(loss_and_gradient(1.0, batch), loss_and_gradient(0.0, batch), strict=True)
    for found, (one, zero) in zip(loss_and_gradient(alpha, batch), pairs, strict=True):
        # Llama's norms round to float32 on the way back.
        torch.testing.assert_close(found, alpha * one + (1 - alpha) * zero, atol=1e-7, rtol=0)


def padded(batch: Batch, *, left: int, right: int) -> Batch:
    """The same rows between tokens that do not count and are documents of their own."""
    rows = batch.input_ids.shape[0]

    def around(plane, before, after):
        first = torch.full((rows, left), before, dtype=plane.dtype)
        last = torch.full((rows, right), after, dtype=plane.dtype)
        return torch.cat([first, plane, last], 1)

    ends = torch.arange(right).repeat(rows, 1)
    positions = torch.cat([torch.arange(left).repeat(rows, 1), batch.position_ids, ends], 1)
    return Batch(
        input_ids=around(batch.input_ids, 3, 3),
        labels=around(batch.labels, 3, 3),
        position_ids=positions,
        document_ids=around(batch.document_ids + 1, 0, 9),
        weights=around(batch.weights, 0.0, 0.0),
        label_bytes=around(batch.label_bytes, 0, 0),
        addresses=batch.addresses,
    )


def test_the_side_of_padding_changes_nothing():
    batch = tiny.batch(2, 12)
    wanted = loss_and_gradient(0.3, batch)
    for left, right in itertools.product((0, 5), (0, 4)):
        found = loss_and_gradient(0.3, padded(batch, left=left, right=right))
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, atol=1e-10, rtol=0)


def test_the_last_rows_of_an_epoch_are_in_a_full_step_and_none_is_lost(tmp_path):
    work = tiny_run.job(tmp_path, stage_=tiny_run.stage(budget="9 steps", rows_per_step=8))
    work.source = tiny_run.Ragged(rows=18)
    seen = []
    for step in range(9):
        batches = [work.source.batch(part) for part in tiny_run.loop.micro_positions(work, step)]
        rows = [address for batch in batches for address in batch.addresses]
        assert len(rows) == 8
        seen += rows
    assert sorted(map(int, seen)) == sorted(list(range(18)) * 4)
