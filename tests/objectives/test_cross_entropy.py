import tiny
import torch
from torch.nn import functional

from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.forward_kl import forward_kl


def test_value_equals_torch():
    rows, student = tiny.rows(7, vocab=11), tiny.randn(7, 11)
    torch_value = functional.cross_entropy(student, rows.labels, reduction="none")
    torch.testing.assert_close(cross_entropy(student, None, rows), torch_value, atol=1e-12, rtol=0)


def test_a_copy_of_the_next_token_is_near_zero_and_of_the_same_token_is_not():
    batch = tiny.batch(2, 9)
    following = 50 * functional.one_hot(batch.rows.labels, tiny.VOCAB).double()
    same = 50 * functional.one_hot(batch.pick(batch.input_ids.flatten()), tiny.VOCAB).double()
    assert cross_entropy(following, None, batch.rows).max() < 1e-12
    assert cross_entropy(same, None, batch.rows).mean() > 10


def test_mean_equals_the_loss_of_the_model_itself():
    """All weight on cross-entropy is what transformers computes from labels; its shift drops the last token."""
    model, batch = tiny.llama(dtype=torch.float64), tiny.batch(2, 9)
    ours = cross_entropy(batch.pick(model(batch.input_ids).logits.flatten(0, 1)), None, batch.rows)
    ours = ours.mean()  # the last token of a row does not count
    theirs = model(batch.input_ids, labels=batch.input_ids).loss
    torch.testing.assert_close(ours, theirs.double(), atol=1e-6, rtol=0)


def test_a_sum_of_terms_is_linear_in_their_share():
    teacher, student = tiny.randn(2, 5, 11)
    rows = tiny.rows(5, vocab=11)

    def gradient(alpha):
        leaf = student.clone().requires_grad_()
        text = cross_entropy(leaf, teacher, rows)
        mixed = alpha * text + (1 - alpha) * forward_kl(leaf, teacher, rows)
        mixed.sum().backward()
        return leaf.grad

    half = 0.5 * gradient(1.0) + 0.5 * gradient(0.0)
    torch.testing.assert_close(gradient(0.5), half, atol=1e-12, rtol=0)
    leaf = student.clone().requires_grad_()
    forward_kl(leaf, teacher, rows).sum().backward()
    torch.testing.assert_close(gradient(0.0), leaf.grad, atol=1e-12, rtol=0)
