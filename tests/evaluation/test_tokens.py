"""A paragraph's tokens: their text adds up, and every figure is that of a plain pass."""

import pytest
import tiny
import tiny_run
import tiny_text
import torch

from limbeck.evaluation._tokens import FIRST, _pieces, disagreement


def test_figures_are_those_of_a_plain_pass_of_each_model():
    models = {
        "teacher": tiny.llama(vocab=320, seed=2), "student": tiny.llama(vocab=320, seed=1), "control": tiny.llama(vocab=320, seed=5)
    }  # fmt: skip
    tokenizer, batch = tiny_text.tokenizer(), tiny_run.Ragged().batch([1])
    found = disagreement(models, tokenizer, batch, vocab=300, most=9)
    assert len(found) == min(9, batch.labels.shape[1])
    with torch.no_grad():
        said = {n: m(batch.input_ids).logits[0, :, :300].log_softmax(-1) for n, m in models.items()}
    for at, token in enumerate(found):
        label = batch.labels[0, at]
        apart = (said["teacher"][at].exp() * (said["teacher"][at] - said["student"][at])).sum()
        assert token["kl"]["student"] == pytest.approx(float(apart), abs=1e-5)
        assert set(token["kl"]) == {"student", "control"}
        assert token["said"]["student"] == pytest.approx(
            float(said["student"][at, label].exp()), rel=1e-4
        )
        likeliest = token["likeliest"]["teacher"]
        assert len(likeliest) == FIRST
        wanted = said["teacher"][at].topk(FIRST)
        assert [p for _, p in likeliest] == pytest.approx(wanted.values.exp().tolist(), abs=1e-4)
        assert likeliest[0][0] == tokenizer.decode([int(wanted.indices[0])])
        assert token["counted"] == bool(batch.weights[0, at])


def test_the_pieces_of_a_text_add_up_to_it():
    tokenizer = tiny_text.tokenizer()
    text = "A wine: déjà vu, 漢字 and 🍷.\n\tEnd"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    pieces = _pieces(tokenizer, ids[:1], ids[1:])
    assert tokenizer.decode(ids[:1]) + "".join(pieces) == tokenizer.decode(ids)
    assert len(pieces) == len(ids) - 1
