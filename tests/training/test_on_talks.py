"""On conversations the loss is what transformers computes of each answer alone, however rows, ranks and padding lie."""

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import tiny_chat
import tiny_run
import tiny_talks
import torch
from safetensors.torch import load_file
from torch.nn import functional

from limbeck.models import layout
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.forward_kl import forward_kl
from limbeck.training.step import Step, terms_at
from limbeck.types import Rows, Signal

HERE = Path(__file__).parent
VOCAB = tiny_talks.VOCAB


def models():
    return (tiny.llama(vocab=VOCAB, dtype=torch.float64, seed=seed) for seed in (1, 2))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_talks.source(tmp_path_factory.mktemp("talks"))


@pytest.fixture(scope="module")
def batch(data):
    found = data.batch(range(4))
    assert len(set((found.weights > 0).sum(1).tolist())) == 4, "rows must count unevenly"
    assert (found.document_ids.max(1).values > 0).all(), "a row must hold more than one document"
    return found


def alone(batch):
    """(ids, labels, weights) of each document of a batch, cut out of its row."""
    for row in range(len(batch.input_ids)):
        for document in batch.document_ids[row].unique():
            here = batch.document_ids[row] == document
            yield tuple(
                plane[row][here] for plane in (batch.input_ids, batch.labels, batch.weights)
            )


def plain_gradients(batch, ce=0.5, temperature=2.0):
    """Of the mean over all that counts; each conversation is read alone, by transformers, in the plainest way."""
    student, teacher = models()
    total, count = 0.0, 0.0
    for ids, labels, weights in alone(batch):
        log_q = student(ids[None]).logits[0]
        with torch.no_grad():
            p = teacher(ids[None]).logits[0]
        hard = functional.cross_entropy(log_q, labels, reduction="none")
        soft = functional.kl_div(
            (log_q / temperature).log_softmax(-1), (p / temperature).log_softmax(-1), log_target=True, reduction="none"
        ).sum(-1) * temperature**2  # fmt: skip
        total = total + ((ce * hard + soft) * weights).sum()
        count += float(weights.sum())
    (total / count).backward()
    return {f"student.{name}": one.grad for name, one in student.named_parameters()}


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-9, rtol=0)


@pytest.mark.parametrize("micro_rows", [1, 2, 4])
def test_no_split_of_a_step_changes_a_gradient_of_talks(tmp_path, data, batch, micro_rows):
    """Invariant 24, and that conversations in one row do not see one another."""
    same(
        tiny_run.gradients(tiny_talks.job(tmp_path, micro_rows=micro_rows)), plain_gradients(batch)
    )


@pytest.mark.slow
def test_two_ranks_give_the_gradients_of_one_on_talks(tmp_path, batch):
    """Invariant 25."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0",
         "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", HERE / "two_ranks.py", "talks", tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    same(load_file(tmp_path / "gradients.safetensors"), plain_gradients(batch))


def test_the_copy_of_the_next_token_of_an_answer_costs_nothing(batch):
    """Invariant 21."""
    following = 50 * functional.one_hot(batch.rows.labels, VOCAB).double()
    same_token = 50 * functional.one_hot(batch.pick(batch.input_ids.flatten()), VOCAB).double()
    assert cross_entropy(following, None, batch.rows).max() < 1e-12
    assert cross_entropy(same_token, None, batch.rows).mean() > 10


def taken(batch, alpha=0.3, changed=0.0):
    """Loss over what counts and the gradient of a block; what does not count has its states changed by so much."""
    student, teacher = models()
    student.model.norm.register_forward_hook(
        lambda _module, _given, out: out + changed * (batch.weights == 0).double()[..., None]
    )
    terms = tiny_run.stage(objective=["forward_kl"], alpha=alpha).terms
    named = {"forward_kl": forward_kl, "cross_entropy": cross_entropy}
    bound, weights = terms_at([named[term.name] for term in terms], terms, 0.0)
    with torch.no_grad():
        signal = Signal(hidden=batch.pick(layout.hidden(teacher, batch)), head=layout.head(teacher))
    total, _ = Step(student, vocab=VOCAB, chunk=7)(batch, signal, bound, weights)
    loss = total / batch.weights.sum().clamp(min=1)
    loss.backward()
    return loss.detach(), student.model.layers[0].self_attn.q_proj.weight.grad


def test_what_the_user_says_changes_neither_loss_nor_gradient(batch):
    """Invariant 22: logits, and labels, where nothing counts."""
    wanted = taken(batch)
    other = replace(
        batch, labels=torch.where(batch.weights == 0, batch.labels.flip(1), batch.labels)
    )
    for found in (taken(batch, changed=3.0), taken(other)):
        for one, two in zip(found, wanted, strict=True):
            assert torch.equal(one, two)
    felt = replace(batch, weights=torch.ones_like(batch.weights))
    assert not torch.equal(taken(felt)[0], wanted[0])


def test_talks_in_which_nothing_counts_are_nothing(batch):
    """Invariant 23."""
    loss, gradient = taken(replace(batch, weights=torch.zeros_like(batch.weights)))
    assert float(loss) == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_the_rows_of_an_epoch_of_talks_come_once_and_none_is_in_the_next(tmp_path):
    """Invariant 26: a step may hold the end of one epoch and the begin of another; no row is twice in one."""
    work = tiny_talks.job(tmp_path, budget="9 steps")
    rows = work.source.rows
    assert rows % 4, "the last step of an epoch must be a part"
    seen = []
    for step in range(rows):
        for part in tiny_run.loop.micro_positions(work, step):
            seen += work.source.batch(part).addresses
    epochs = [seen[begin : begin + rows] for begin in range(0, len(seen), rows)]
    assert len(epochs) == 4
    assert all(len(set(epoch)) == rows for epoch in epochs)


@pytest.mark.parametrize("alpha", [0.25, 0.7])
def test_alpha_mixes_an_answers_own_loss_with_the_teachers(batch, alpha):
    """Invariant 27: at 1 it is transformers' own loss, at 0 the words do not matter, between it is linear."""
    student, _ = models()
    total = sum(
        float(student(ids[None], labels=ids[None], shift_labels=torch.where(weights > 0, labels, -100)[None],
                      num_items_in_batch=1).loss.detach()) if (weights > 0).any() else 0.0
        for ids, labels, weights in alone(batch)
    )  # fmt: skip
    one, zero = taken(batch, 1.0), taken(batch, 0.0)
    assert float(one[0]) == pytest.approx(total / float(batch.weights.sum()), abs=1e-5)
    other = replace(batch, labels=batch.labels.roll(1, 1))
    assert all(torch.equal(a, b) for a, b in zip(taken(other, 0.0), zero, strict=True))
    for found, left, right in zip(taken(batch, alpha), one, zero, strict=True):
        torch.testing.assert_close(found, alpha * left + (1 - alpha) * right, atol=1e-7, rtol=0)


def test_the_side_of_padding_changes_no_tokens_kl(batch):
    """Invariant 28: each row rolled by its padding, so that it stands on the left."""
    student, teacher = models()

    def each(given):
        rows = Rows(
            *(
                plane.flatten()
                for plane in (given.labels, given.weights, given.position_ids, given.document_ids)
            )
        )
        with torch.no_grad():
            q, p = (
                layout.hidden(model, given) @ model.lm_head.weight.T for model in (student, teacher)
            )
            return forward_kl(q.reshape(-1, VOCAB), p.reshape(-1, VOCAB), rows).view(given.weights.shape)  # fmt: skip

    one = data_row(batch, 0)
    padding = int((one.document_ids[0] == one.document_ids[0, -1]).sum())
    planes = ("input_ids", "labels", "position_ids", "document_ids", "weights", "label_bytes")
    rolled = replace(one, **{name: getattr(one, name).roll(padding, 1) for name in planes})
    right, left = each(one)[one.weights > 0], each(rolled)[rolled.weights > 0]
    assert len(right) > 5
    assert not torch.equal(one.input_ids, rolled.input_ids)
    torch.testing.assert_close(left, right, atol=1e-12, rtol=0)


def data_row(batch, row):
    """One row of a batch."""
    planes = ("input_ids", "labels", "position_ids", "document_ids", "weights", "label_bytes")
    return replace(batch, **{name: getattr(batch, name)[row : row + 1] for name in planes}, addresses=batch.addresses[row : row + 1])  # fmt: skip


def test_answers_of_talks_are_what_counts(data):
    """That the rows above are conversations: what counts in them is what the assistant says."""
    assert tiny_chat.answers(data) == tiny_chat.said(tiny_talks.talks())
    assert len(list(itertools.chain(*tiny_talks.talks()))) > 40
