"""What the small builders promise to the other tests."""

import tiny
import torch


def test_packed_batch_restarts_positions_and_leaves_last_labels_out():
    batch = tiny.batch(2, 5, documents=(3, 2))
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1]] * 2
    assert batch.document_ids.tolist() == [[0, 0, 0, 1, 1]] * 2
    assert batch.weights.tolist() == [[1, 1, 0, 1, 0]] * 2
    assert torch.equal(batch.labels[:, :-1], batch.input_ids[:, 1:])


def test_same_seed_builds_the_same_llama():
    batch = tiny.batch()
    first, second = (tiny.llama()(batch.input_ids).logits for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, tiny.llama(seed=1)(batch.input_ids).logits)
